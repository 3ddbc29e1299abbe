//! Reaching the API server.

use std::path::Path;
use std::time::Duration;

use kube::Client;
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use laneguard_runtime::ConfigError;

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
    // every write asks for leadership anew, so nothing may be repeated behind our back
    config.default_retry = false;
    config.connect_timeout = Some(Duration::from_secs(5));
    Client::try_from(config).map_err(|e| bad(e.to_string()))
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
