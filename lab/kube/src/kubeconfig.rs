//! Kubeconfig files for servers without TLS.

/// A certificate that signs nothing (its key was never kept).
///
/// Without a certificate authority kube's client loads the machine's, even for plain HTTP, and fails where there is none, as in an
/// image built from nothing.
const UNUSED_AUTHORITY: &str = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCk1JSUJyekNDQVZXZ0F3SUJBZ0lVVzhLS0lOZkxwaERBdUlwN045a0JRcDFSaXlzd0NnWUlLb1pJemowRUF3SXcKTERFcU1DZ0dBMVVFQXd3aGJHRnVaV2QxWVhKa0lITjBZVzVrTFdsdUxDQnphV2R1Y3lCdWIzUm9hVzVuTUNBWApEVEkyTVRFeU5ERTBNREF4TTFvWUR6SXhNall4TURNeE1UUXdNREV6V2pBc01Tb3dLQVlEVlFRRERDRnNZVzVsClozVmhjbVFnYzNSaGJtUXRhVzRzSUhOcFoyNXpJRzV2ZEdocGJtY3dXVEFUQmdjcWhrak9QUUlCQmdncWhrak8KUFFNQkJ3TkNBQVJJb2VVN1lIMnFaeEJzWWx4TXFmcTZROC9LYVVtNEpYUkpZQ2FyUU5yTG9xWTVIeG1yNkVKZQpURUhQQTJEU1dTeENZMWV1MGlDeVpkbW1pSDFEZ2RKTG8xTXdVVEFkQmdOVkhRNEVGZ1FVOSs5SFFITXRTK3FpCkgvTDEyWE5NdVZvVlZQRXdId1lEVlIwakJCZ3dGb0FVOSs5SFFITXRTK3FpSC9MMTJYTk11Vm9WVlBFd0R3WUQKVlIwVEFRSC9CQVV3QXdFQi96QUtCZ2dxaGtqT1BRUURBZ05JQURCRkFpQXU5YkwvSHVmbDIxMGs4T0hhVUVjZwpNZzRoYzVRR0JiMFVKMUFtM1hHMnB3SWhBTnh4WUZnSkI0VkZCbFk3VXlDUm5ncE1BN0RBWnRSMjMraUlNNjhBClA0Rk0KLS0tLS1FTkQgQ0VSVElGSUNBVEUtLS0tLQo=";

/// The content of a kubeconfig with one context, for the API at `url` (`http://...`), without credentials.
#[must_use]
pub fn kubeconfig(url: &str) -> String {
    format!(
        "apiVersion: v1
kind: Config
clusters:
- name: stand-in
  cluster:
    server: {url}
    certificate-authority-data: {UNUSED_AUTHORITY}
users:
- name: nobody
  user: {{}}
contexts:
- name: stand-in
  context:
    cluster: stand-in
    user: nobody
    namespace: default
current-context: stand-in
"
    )
}
