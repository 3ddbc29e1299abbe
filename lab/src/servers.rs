//! Real servers for the lab and for tests: each gets a free port and a folder, is waited for, and dies with its guard.

pub mod nats;
pub mod prometheus;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::process::{Exited, Process, StartError};

/// How long a server may take to become ready.
const PATIENCE: Duration = Duration::from_secs(20);

/// A server did not come up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its program is missing or cannot be run.
    #[error(transparent)]
    Start(#[from] StartError),
    /// It ended before it was ready.
    #[error(transparent)]
    Exited(#[from] Exited),
    /// It runs, but did not say that it is ready.
    #[error("{name} was not ready within {}s; its log is {log}", PATIENCE.as_secs())]
    NotReady {
        /// The server's name.
        name: String,
        /// Where its log is.
        log: String,
    },
    /// Its folder or configuration cannot be written, or no port is free.
    #[error("cannot prepare {what}")]
    Prepare {
        /// What was being made.
        what: &'static str,
        /// The system's answer.
        source: io::Error,
    },
}

/// A free port on loopback. Another process may take it before it is used, so prefer port 0 where a server has it.
///
/// # Errors
/// When the system has none.
pub fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind(("127.0.0.1", 0))?.local_addr()
}

/// Waits until `url` answers with success.
///
/// # Errors
/// When the process ends first, or nothing answers in time.
pub async fn wait_ready(process: &mut Process, url: &str) -> Result<(), Error> {
    let client = http_client().map_err(|error| Error::Prepare {
        what: "an HTTP client",
        source: io::Error::other(error),
    })?;
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        process.check()?;
        let answer = client.get(url).send().await;
        if answer.is_ok_and(|response| response.status().is_success()) {
            return Ok(());
        }
        sleep(Duration::from_millis(20)).await;
    }
    Err(Error::NotReady {
        name: process.name().to_owned(),
        log: process.log().display().to_string(),
    })
}

/// An HTTP client for servers on loopback, which needs no certificates.
///
/// # Errors
/// When it cannot be built, which does not depend on the surroundings.
pub fn http_client() -> reqwest::Result<reqwest::Client> {
    // Somebody may have installed it already; either way there is one afterwards.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .tls_certs_only([])
        .no_proxy()
        .timeout(Duration::from_secs(2))
        .build()
}
