//! Reaching the API server.

use std::path::Path;
use std::time::Duration;

use kube::Client;
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use laneguard_runtime::ConfigError;

/// A connection on which nothing is heard this long is given up: longer than a watch request lasts.
const SILENCE: Duration = Duration::from_secs(75);

/// A client by kubeconfig, else by the pod's service account, else by `~/.kube/config`. Does not connect yet.
///
/// # Errors
/// When the configuration cannot be read or used.
pub async fn client(kubeconfig: Option<&Path>) -> Result<Client, ConfigError> {
    let bad = |reason: String| ConfigError::new("KUBECONFIG", reason);
    let mut config = match kubeconfig.filter(|path| !path.as_os_str().is_empty()) {
        Some(paths) => from_files(paths).await.map_err(bad)?,
        None => match Config::incluster() {
            Ok(config) => config,
            Err(in_cluster) => {
                let options = KubeConfigOptions::default();
                Config::from_kubeconfig(&options).await.map_err(|local| {
                    bad(format!("is not set, the pod has no service account ({in_cluster}), and ~/.kube/config does not work: {local}"))
                })?
            }
        },
    };
    bound(&mut config);
    Client::try_from(config).map_err(|e| bad(e.to_string()))
}

/// No request waits for ever, and none is repeated behind our back: every write asks for leadership anew.
fn bound(config: &mut Config) {
    config.default_retry = false;
    config.connect_timeout = Some(Duration::from_secs(5));
    // a list on a connection that died silently would be waited for without end; a quiet watch ends by itself before this
    config.read_timeout = Some(SILENCE);
    config.reset_reader_on_write = true;
}

async fn from_files(paths: &Path) -> Result<Config, String> {
    let mut merged: Option<Kubeconfig> = None;
    for path in std::env::split_paths(paths).filter(|p| !p.as_os_str().is_empty()) {
        let read = Kubeconfig::read_from(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        merged = Some(match merged {
            None => read,
            Some(former) => former
                .merge(read)
                .map_err(|e| format!("{}: {e}", path.display()))?,
        });
    }
    let kubeconfig = merged.ok_or("names no file")?;
    Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .map_err(|e| format!("{}: {e}", paths.display()))
}

/// The policy namespace: as set, else the pod's own, else that of the kubeconfig's context (`default` if it names none).
pub fn policy_namespace(set: Option<&str>, client: &Client) -> String {
    set.filter(|name| !name.is_empty())
        .unwrap_or_else(|| client.default_namespace())
        .to_owned()
}

/// A name for this process that no other has: host, process and start.
pub fn identity() -> String {
    let host = std::fs::read_to_string("/etc/hostname").unwrap_or_default();
    let host = host.trim();
    let host = if host.is_empty() { "unknown" } else { host };
    let start = laneguard_runtime::clock::since_epoch().as_nanos();
    format!("{host}_{}_{start:x}", std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_api_server_that_accepts_and_never_answers_ends_a_request() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", silent.local_addr().unwrap());
        let mut config = Config::new(url.parse().unwrap());
        bound(&mut config);
        let patience = config
            .read_timeout
            .expect("a silent connection is given up");
        let watch = Duration::from_secs(crate::watch::WATCH_SECONDS.into());
        assert!(
            patience > watch,
            "a watch on which nothing happens must not be cut off"
        );
        // the same client, less patient
        config.read_timeout = Some(Duration::from_millis(50));
        let client = Client::try_from(config).unwrap();
        let pods: kube::Api<k8s_openapi::api::core::v1::Pod> = kube::Api::all(client);
        let all = Default::default();
        let listed = tokio::time::timeout(Duration::from_secs(20), pods.list(&all));
        listed.await.expect("the request ends").unwrap_err();
    }
}
