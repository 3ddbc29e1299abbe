//! The critical service: answers every request with a body of fixed length.
//!
//! It can become slow by itself, as a service does that waits for a processor or a database: from SIGUSR1 to SIGUSR2 each request goes through
//! one worker, whose service times are exponentially distributed. It sleeps instead of computing, so that nothing else on the machine is late.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::serve::ListenerExt;
use clap::Args;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

/// Requests that wait for the worker.
const WAITING: usize = 4096;

// No doc comment here: it would replace the command's own description.
#[allow(missing_docs)]
#[derive(Debug, Args)]
pub struct ServerArgs {
    /// Address to listen on.
    #[arg(long, default_value = "0.0.0.0:8080")]
    pub listen: SocketAddr,
    /// Length of each response's body in bytes.
    #[arg(long, default_value_t = 512)]
    pub response_bytes: usize,
    /// Mean service time in microseconds while it is slow.
    #[arg(long, default_value_t = 4_000)]
    pub slow_us: u64,
}

#[derive(Debug, Clone)]
struct Service {
    body: Bytes,
    slow: Arc<AtomicBool>,
    worker: mpsc::Sender<oneshot::Sender<()>>,
}

/// Serves until the process is killed.
///
/// # Errors
/// When the address cannot be bound.
pub async fn serve(args: ServerArgs) -> anyhow::Result<()> {
    let (mut begin, mut end) = (
        signal(SignalKind::user_defined1())?,
        signal(SignalKind::user_defined2())?,
    );
    let listener = TcpListener::bind(args.listen).await?.tap_io(|connection| {
        // Only a socket that is closing already refuses.
        let _ = connection.set_nodelay(true);
    });
    let (worker, waiting) = mpsc::channel(WAITING);
    std::thread::spawn(move || work(args.slow_us, waiting));
    let slow = Arc::new(AtomicBool::new(false));
    let service = Service {
        body: Bytes::from(vec![b'x'; args.response_bytes]),
        slow: Arc::clone(&slow),
        worker,
    };
    let serving = axum::serve(listener, Router::new().fallback(answer).with_state(service));
    let mut serving = std::pin::pin!(serving.into_future());
    loop {
        tokio::select! {
            served = &mut serving => return Ok(served?),
            _ = begin.recv() => slow.store(true, Ordering::Relaxed),
            _ = end.recv() => slow.store(false, Ordering::Relaxed),
        }
    }
}

/// Reads the request to its end, as work on its content would, then answers.
async fn answer(State(service): State<Service>, _request: Bytes) -> Bytes {
    if service.slow.load(Ordering::Relaxed) {
        let (done, worked) = oneshot::channel();
        if service.worker.send(done).await.is_ok() {
            // The worker answers everybody.
            let _ = worked.await;
        }
    }
    service.body
}

/// Works on one request after the other. A thread of its own, because tokio's timer rounds to whole milliseconds.
#[expect(
    clippy::disallowed_methods,
    reason = "this thread is not one of the runtime's"
)]
fn work(mean_us: u64, mut waiting: mpsc::Receiver<oneshot::Sender<()>>) {
    let mut times = ServiceTimes {
        mean: Duration::from_micros(mean_us),
        state: 1,
    };
    while let Some(done) = waiting.blocking_recv() {
        std::thread::sleep(times.draw());
        // A client that has given up needs no answer.
        let _ = done.send(());
    }
}

/// Exponentially distributed times from a linear congruential generator (Knuth's MMIX): the same in every run.
#[derive(Debug)]
struct ServiceTimes {
    mean: Duration,
    state: u64,
}

impl ServiceTimes {
    fn draw(&mut self) -> Duration {
        self.state = self
            .state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        // over 0 up to 1, so that the logarithm is finite
        let uniform = ((self.state >> 11) + 1) as f64 / (1_u64 << 53) as f64;
        self.mean.mul_f64(-uniform.ln())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn service_times_have_their_mean_and_spread_like_exponential_ones() {
        let mut times = ServiceTimes {
            mean: Duration::from_millis(4),
            state: 1,
        };
        let drawn: Vec<f64> = (0..20_000).map(|_| times.draw().as_secs_f64()).collect();
        let mean = drawn.iter().sum::<f64>() / 20_000.0;
        assert!((mean - 0.004).abs() < 0.000_2, "{mean}");
        let above = drawn.iter().filter(|time| **time > 0.004).count() as f64;
        assert!((above / 20_000.0 - (-1.0_f64).exp()).abs() < 0.02);
    }
}
