//! Both ends of the critical traffic as processes in their pods, and the way out of their measurements.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use nix::sys::signal::Signal;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::ChildStdout;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::event::Action;
use crate::exporter::hubble;
use crate::net::Network;
use crate::process::{self, Process};
use crate::raw::{Request, Row as _, Writer};
use crate::scenario::{CRITICAL_CLIENT, CRITICAL_SERVICE, Scenario};
use crate::score::{self, Latency};

/// How long after the last request's timeout the client may take to end.
const DRAIN: Duration = Duration::from_secs(5);
/// How long a critical request may take before it counts as failed.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Requests remembered for the display.
const RECENT: usize = 20_000;
const PORT: u16 = 8080;

/// The critical service, the client that measures it, and who listens to the client.
#[derive(Debug)]
pub struct Critical {
    server: Process,
    client: Process,
    measuring: JoinHandle<anyhow::Result<()>>,
    recent: Recent,
}

impl Critical {
    /// Starts the service and the client; every measurement goes into the raw log and into `metrics`.
    ///
    /// # Errors
    /// When one cannot be started.
    pub async fn start(
        network: &Network,
        scenario: &Scenario,
        metrics: hubble::Metrics,
        folder: &Path,
    ) -> anyhow::Result<Self> {
        let logs = folder.join("logs");
        let server = start_server(network, scenario, &logs).await?;
        let (client, output) = start_client(network, scenario, &logs).await?;
        let log = Writer::create::<Request>(folder)?;
        let recent = Recent::default();
        let measuring = tokio::spawn(measure(output, log, metrics, recent.clone()));
        Ok(Self {
            server,
            client,
            measuring,
            recent,
        })
    }

    /// Finds out whether both still run and are listened to.
    ///
    /// # Errors
    /// When one has ended.
    pub async fn check(&mut self) -> anyhow::Result<()> {
        self.server.check()?;
        self.client.check()?;
        if self.measuring.is_finished() {
            (&mut self.measuring).await??;
            anyhow::bail!("the client closed its output");
        }
        Ok(())
    }

    /// Latency of the requests that ended in the second before `now_ns` (Unix time), and the failures so far.
    #[must_use]
    pub fn last_second(&self, now_ns: u64) -> (Option<Latency>, usize) {
        self.recent.last_second(now_ns)
    }

    /// Makes the service slow by itself, or as fast as it was.
    pub fn set_slow(&self, slow: bool) {
        self.server.signal(if slow {
            Signal::SIGUSR1
        } else {
            Signal::SIGUSR2
        });
    }

    /// Lets the client send no more, and waits until every request is in the log.
    ///
    /// # Errors
    /// When the client does not end well.
    pub async fn finish(mut self) -> anyhow::Result<()> {
        self.client.signal(Signal::SIGTERM);
        let status = timeout(REQUEST_TIMEOUT + DRAIN, self.client.wait())
            .await
            .context("the client does not end")??;
        anyhow::ensure!(
            status.success(),
            "the client failed ({status}); see {}",
            self.client.log().display()
        );
        self.measuring.await??;
        self.server.kill().await;
        Ok(())
    }
}

/// The newest requests, for the display.
#[derive(Debug, Clone, Default)]
struct Recent(Arc<Mutex<(VecDeque<Request>, usize)>>);

impl Recent {
    fn push(&self, request: Request) {
        let mut guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (requests, failed) = &mut *guard;
        *failed += usize::from(!request.outcome.is_success());
        requests.push_back(request);
        if requests.len() > RECENT {
            requests.pop_front();
        }
    }

    /// Latency of what was answered or failed in the last second, and the failures of the whole run.
    fn last_second(&self, now: u64) -> (Option<Latency>, usize) {
        let mut guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (requests, failed) = &mut *guard;
        let ended = |request: &Request| request.intended_ns + request.latency_us * 1000;
        while requests
            .front()
            .is_some_and(|request| ended(request) + 1_000_000_000 < now)
        {
            requests.pop_front();
        }
        (score::window_latency(&*requests), *failed)
    }
}

/// Reads the client's measurements, which come through a pipe and so never touch the measured network.
async fn measure(
    output: ChildStdout,
    mut log: Writer,
    metrics: hubble::Metrics,
    recent: Recent,
) -> anyhow::Result<()> {
    let mut lines = BufReader::new(output).lines();
    while let Some(line) = lines.next_line().await? {
        let request = Request::parse(&line)
            .with_context(|| format!("the client wrote {line:?} instead of a measurement"))?;
        log.write([&request])?;
        metrics.observe(&request);
        recent.push(request);
    }
    Ok(())
}

async fn start_server(
    network: &Network,
    scenario: &Scenario,
    logs: &Path,
) -> anyhow::Result<Process> {
    let mut command = process::real_time(Some(network.namespace(CRITICAL_SERVICE)?)).await?;
    command
        .args(["server", "--listen", &format!("0.0.0.0:{PORT}")])
        .args(["--response-bytes", &scenario.response_bytes.to_string()]);
    let slow = scenario.events.iter().find_map(|event| match event.action {
        Action::ServiceTime(microseconds) => Some(microseconds),
        _ => None,
    });
    if let Some(microseconds) = slow {
        command.args(["--slow-us", &microseconds.to_string()]);
    }
    let name = "the critical service";
    Ok(Process::start(name, command, &logs.join("server.log"))?)
}

async fn start_client(
    network: &Network,
    scenario: &Scenario,
    logs: &Path,
) -> anyhow::Result<(Process, ChildStdout)> {
    let service = network.address(CRITICAL_SERVICE)?;
    let mut command = process::real_time(Some(network.namespace(CRITICAL_CLIENT)?)).await?;
    command
        .args(["client", "--target", &format!("{service}:{PORT}")])
        .args(["--rate", &scenario.requests_per_second.to_string()])
        .args(["--request-bytes", &scenario.request_bytes.to_string()])
        .args(["--timeout", &format!("{}s", REQUEST_TIMEOUT.as_secs())]);
    let name = "the critical client";
    Ok(Process::start_piped(
        name,
        command,
        &logs.join("client.log"),
    )?)
}
