//! What a cluster's control plane does beside the API server.

use tokio::sync::watch;

use crate::cluster::Cluster;

/// Runs until `stopped`.
pub(crate) async fn run(_cluster: Cluster, mut stopped: watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stopped| *stopped).await;
    std::future::pending().await
}
