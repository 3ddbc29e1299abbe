//! The critical client: an open loop, whose latency counts from the moment a request was meant to be sent.
//!
//! A closed loop would send less while the network is slow and so hide the very delay it should measure. Here a
//! clock of its own decides when each request is due; slow answers only make more of them wait at once.

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use axum::body::{Body, Bytes};
use clap::Args;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, timeout};

use crate::raw::{self, Outcome};

/// Idle connections kept open; enough that a burst of slow answers rarely needs a new handshake.
const WARM_CONNECTIONS: usize = 64;
/// Requests that are due but not taken up yet.
const TICKS: usize = 1024;
/// Measurements waiting to be written.
const RECORDS: usize = 4096;

// No doc comment here: it would replace the command's own description.
#[allow(missing_docs)]
#[derive(Debug, Clone, Args)]
pub struct ClientArgs {
    /// Address of the critical service.
    #[arg(long)]
    pub target: SocketAddr,
    /// Requests per second.
    #[arg(long, default_value_t = 200.0)]
    pub rate: f64,
    /// Length of each request's body in bytes.
    #[arg(long, default_value_t = 512)]
    pub request_bytes: usize,
    /// How long an answer may take before the request counts as failed, such as 10s.
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
    pub timeout: Duration,
    /// Requests that may wait for an answer at once; one more counts as failed (overrun).
    #[arg(long, default_value_t = 4096)]
    pub max_in_flight: usize,
}

/// One request to send.
#[derive(Debug, Clone, Copy)]
struct Due {
    /// When it was meant to be sent.
    at: Instant,
    /// The same as nanoseconds since the Unix epoch.
    unix_ns: u64,
}

/// Sends until SIGTERM, then waits for the answers still due; writes one line per request to standard output.
///
/// # Errors
/// When the service cannot be reached at the start, or standard output closes.
pub async fn run(args: ClientArgs) -> anyhow::Result<()> {
    anyhow::ensure!(
        args.rate.is_finite() && args.rate > 0.0,
        "the rate must be above 0 requests per second"
    );
    let connections = Connections::open(args.target).await?;
    let (record, mut records) = mpsc::channel(RECORDS);
    let (tick, mut ticks) = mpsc::channel(TICKS);
    let stop = Arc::new(AtomicBool::new(false));
    let pacer = {
        let stop = Arc::clone(&stop);
        let interval = Duration::from_secs_f64(args.rate.recip());
        std::thread::spawn(move || pace(interval, &tick, &stop))
    };
    let mut terminate = signal(SignalKind::terminate())?;
    let writer = tokio::spawn(async move {
        let mut output = std::io::stdout();
        while let Some(request) = records.recv().await {
            writeln!(output, "{}", raw::Row::line(&request))?;
        }
        output.flush()
    });

    let shared = Arc::new(Shared {
        connections,
        slots: Semaphore::new(args.max_in_flight),
        body: Bytes::from(vec![b'x'; args.request_bytes]),
        timeout: args.timeout,
    });
    loop {
        tokio::select! {
            due = ticks.recv() => match due {
                Some(due) => {
                    let (shared, record) = (Arc::clone(&shared), record.clone());
                    tokio::spawn(async move {
                        let measured = shared.measure(due).await;
                        // The writer is gone only when standard output is; then the client ends below.
                        let _ = record.send(measured).await;
                    });
                }
                None => break,
            },
            _ = terminate.recv() => stop.store(true, Ordering::Relaxed),
            () = record.closed() => anyhow::bail!("nobody reads the measurements any more"),
        }
    }
    drop(record);
    pacer.join().ok().context("the pacing thread panicked")?;
    // Ends when the last answer has come or timed out, for each task holds a sender.
    Ok(writer.await??)
}

/// Decides when requests are due. A thread of its own, because tokio's timer rounds to whole milliseconds, and that
/// would be part of every latency.
#[expect(
    clippy::disallowed_methods,
    reason = "this thread is not one of the runtime's"
)]
fn pace(interval: Duration, tick: &mpsc::Sender<Due>, stop: &AtomicBool) {
    let (start, start_unix) = (Instant::now(), unix_now());
    for number in 0_u32.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let after = interval * number;
        let at = start + after;
        std::thread::sleep(at.saturating_duration_since(Instant::now()));
        let due = Due {
            at,
            unix_ns: nanos(start_unix + after),
        };
        // Waits when the runtime is behind: the lateness is in the latency, because it counts from `at`.
        if tick.blocking_send(due).is_err() {
            return;
        }
    }
}

struct Shared {
    connections: Connections,
    slots: Semaphore,
    body: Bytes,
    timeout: Duration,
}

impl Shared {
    async fn measure(&self, due: Due) -> raw::Request {
        let mut measured = raw::Request {
            intended_ns: due.unix_ns,
            latency_us: 0,
            wire_us: 0,
            outcome: Outcome::Overrun,
        };
        if let Ok(_slot) = self.slots.try_acquire() {
            let answered = timeout(self.timeout, self.exchange()).await;
            (measured.wire_us, measured.outcome) = match answered {
                Ok(Ok((wire, status))) => (micros(wire), Outcome::Status(status)),
                Ok(Err(_)) => (0, Outcome::Error),
                Err(_) => (0, Outcome::Timeout),
            };
        }
        measured.latency_us = micros(due.at.elapsed());
        measured
    }

    /// One request and its answer; returns the time from sending to the response's headers, and the status.
    async fn exchange(&self) -> anyhow::Result<(Duration, u16)> {
        let mut connection = self.connections.take().await?;
        let request = Request::post("/")
            .header(header::HOST, "robot-factory")
            .body(Body::from(self.body.clone()))?;
        let sent = Instant::now();
        let response = connection.send_request(request).await?;
        let wire = sent.elapsed();
        let status = response.status().as_u16();
        axum::body::to_bytes(Body::new(response.into_body()), usize::MAX).await?;
        self.connections.give_back(connection);
        Ok((wire, status))
    }
}

/// Open connections that carry no request now.
struct Connections {
    target: SocketAddr,
    idle: Mutex<Vec<SendRequest<Body>>>,
}

impl Connections {
    /// Opens the first ones; waits a little for a service that is just starting.
    async fn open(target: SocketAddr) -> anyhow::Result<Self> {
        let connections = Self {
            target,
            idle: Mutex::new(Vec::new()),
        };
        let patience = Instant::now() + Duration::from_secs(10);
        for _ in 0..WARM_CONNECTIONS {
            let connection = loop {
                match connections.connect().await {
                    Ok(connection) => break connection,
                    Err(error) if Instant::now() > patience => {
                        return Err(error.context(format!("cannot reach {target}")));
                    }
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            };
            connections.give_back(connection);
        }
        Ok(connections)
    }

    async fn take(&self) -> anyhow::Result<SendRequest<Body>> {
        loop {
            let idle = self.idle.lock().ok().and_then(|mut idle| idle.pop());
            match idle {
                // A connection that the service closed meanwhile is left out.
                Some(mut connection) => {
                    if connection.ready().await.is_ok() {
                        return Ok(connection);
                    }
                }
                None => return self.connect().await,
            }
        }
    }

    fn give_back(&self, connection: SendRequest<Body>) {
        if let Ok(mut idle) = self.idle.lock() {
            idle.push(connection);
        }
    }

    async fn connect(&self) -> anyhow::Result<SendRequest<Body>> {
        let stream = TcpStream::connect(self.target).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // Its errors reach the request that is under way.
        tokio::spawn(connection);
        Ok(sender)
    }
}

fn unix_now() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_due_at_even_distances_whatever_the_receiver_does() {
        let (tick, mut ticks) = mpsc::channel(1);
        let stop = Arc::new(AtomicBool::new(false));
        let pacer = {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || pace(Duration::from_millis(2), &tick, &stop))
        };
        let mut due = Vec::new();
        for _ in 0..5 {
            due.push(ticks.blocking_recv().unwrap());
        }
        stop.store(true, Ordering::Relaxed);
        drop(ticks);
        pacer.join().unwrap();
        for pair in due.windows(2) {
            assert_eq!(pair[1].unix_ns - pair[0].unix_ns, 2_000_000);
            assert_eq!(pair[1].at - pair[0].at, Duration::from_millis(2));
        }
    }

    #[tokio::test]
    async fn latency_counts_from_the_intended_moment_and_an_overrun_is_counted() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = listener.local_addr().unwrap();
        let service = axum::Router::new().fallback(|| async { "ok" });
        tokio::spawn(async move { axum::serve(listener, service).await });
        let mut shared = Shared {
            connections: Connections::open(target).await.unwrap(),
            slots: Semaphore::new(1),
            body: Bytes::from_static(b"hello"),
            timeout: Duration::from_secs(10),
        };
        let due = Due {
            at: Instant::now() - Duration::from_millis(500),
            unix_ns: 7,
        };
        let measured = shared.measure(due).await;
        assert_eq!(measured.outcome, Outcome::Status(200));
        assert_eq!(measured.intended_ns, 7);
        assert!(measured.latency_us >= 500_000 + measured.wire_us);

        shared.slots = Semaphore::new(0);
        assert_eq!(shared.measure(due).await.outcome, Outcome::Overrun);
    }
}
