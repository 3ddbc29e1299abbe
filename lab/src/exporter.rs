//! The lab's exporters: what Hubble and cAdvisor would say about its traffic, in their own words.

pub mod cadvisor;
pub mod hubble;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// A page of metrics that is made anew for each scrape.
pub type Page = Arc<dyn Fn() -> String + Send + Sync>;

/// An exporter that serves until it is dropped.
#[derive(Debug)]
pub struct Exporter {
    address: SocketAddr,
    task: JoinHandle<std::io::Result<()>>,
}

impl Exporter {
    /// Serves `page` as `/metrics` on a free port on loopback.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn start(page: Page) -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let answer = move || {
            let body = page();
            async move {
                (
                    [(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
                    body,
                )
            }
        };
        let service = Router::new().route("/metrics", get(answer));
        let task = tokio::spawn(async move { axum::serve(listener, service).await });
        Ok(Self { address, task })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether it still serves.
    #[must_use]
    pub fn is_serving(&self) -> bool {
        !self.task.is_finished()
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        self.task.abort();
    }
}
