//! Serving a cluster over HTTP.

use std::{future::Future, net::SocketAddr};

use anyhow::Context;
use axum::{Router, serve::ListenerExt};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

use crate::{
    cluster::Cluster,
    controllers,
    http_api::{self, Api},
};

/// Serves `cluster` on `listener`, with its controllers, until `shutdown` is done. Open watches are ended.
///
/// # Errors
/// When serving fails, or a controller ends by itself.
pub async fn serve(
    listener: TcpListener,
    cluster: Cluster,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<()> {
    let (stop, stopped) = watch::channel(false);
    let api = Api {
        cluster: cluster.clone(),
        stopped: stopped.clone(),
    };
    let router = Router::new().fallback(http_api::handle).with_state(api);
    // Answers are small and clients wait for them: without this each would wait for an acknowledgement.
    let listener = listener.tap_io(|stream| {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
    });
    let signal = async move {
        shutdown.await;
        stop.send_replace(true);
    };
    let server = axum::serve(listener, router).with_graceful_shutdown(signal);
    tokio::select! {
        served = async { server.await } => served.context("serving the API failed"),
        () = controllers::run(cluster, stopped) => anyhow::bail!("the controllers ended"),
    }
}

/// A served cluster, for tests: stops when dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    cluster: Cluster,
    task: JoinHandle<()>,
}

impl Server {
    /// Serves `cluster` on a free port of the loopback interface.
    ///
    /// # Errors
    /// When no port can be bound.
    pub async fn start(cluster: Cluster) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))
            .await
            .context("no free loopback port")?;
        let address = listener.local_addr()?;
        let served = cluster.clone();
        let task = tokio::spawn(async move {
            if let Err(error) = serve(listener, served, std::future::pending()).await {
                tracing::error!(error = format!("{error:#}"), "the stand-in ended");
            }
        });
        Ok(Self {
            address,
            cluster,
            task,
        })
    }

    /// Where it is served: `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The content of a kubeconfig for it.
    #[must_use]
    pub fn kubeconfig(&self) -> String {
        crate::kubeconfig(&self.url())
    }

    /// The cluster served.
    #[must_use]
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Connections are tasks of their own: end what they wait for, too.
        self.cluster.cut_watches();
        self.task.abort();
    }
}
