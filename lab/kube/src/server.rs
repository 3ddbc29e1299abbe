//! Serving a cluster over HTTP.

use std::{
    future::Future,
    net::{Ipv4Addr, SocketAddr},
};

use anyhow::Context;
use axum::{Router, serve::ListenerExt};
use tokio::{
    net::TcpListener,
    sync::{oneshot, watch},
    task::JoinHandle,
};

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

/// A served cluster, for tests. Dropping it refuses new connections, closes idle ones and ends watches.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    cluster: Cluster,
    // Dropped first: that is the signal to stop.
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Server {
    /// Serves `cluster` on a free port of the loopback interface.
    ///
    /// # Errors
    /// When no port can be bound.
    pub async fn start(cluster: Cluster) -> anyhow::Result<Self> {
        Self::start_on(cluster, SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await
    }

    /// Serves `cluster` on a given address, for instance that of a [`Server`] that was stopped, to end an outage.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn start_on(cluster: Cluster, address: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("cannot listen on {address}"))?;
        let address = listener.local_addr()?;
        let (stop, stopped) = oneshot::channel::<()>();
        let served = cluster.clone();
        let task = tokio::spawn(async move {
            // An error means that the sender was dropped, which is the other way to stop.
            let shutdown = async { drop(stopped.await) };
            if let Err(error) = serve(listener, served, shutdown).await {
                tracing::error!(error = format!("{error:#}"), "the stand-in ended");
            }
        });
        Ok(Self {
            address,
            cluster,
            stop: Some(stop),
            task,
        })
    }

    /// Stops serving and waits until every connection is closed. The cluster keeps its state, without controllers.
    pub async fn stop(mut self) {
        self.stop = None;
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the stand-in panicked");
        }
    }

    /// Where it is served.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The same as a URL: `http://127.0.0.1:PORT`.
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
