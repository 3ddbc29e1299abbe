//! UDP at a fixed rate, whatever is lost: what has no congestion control, in a pod or beside all pods.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use tokio::time::Instant;

use crate::net::Network;
use crate::process::{self, Process};
use crate::tools::Tool;

/// Discard's port. Nobody listens, and nobody has to: the sink's counters see what arrives.
const PORT: u16 = 9;
/// Payload of a datagram in bytes.
const PAYLOAD: usize = 1400;
/// The same on the wire in bits, with UDP, IP and Ethernet headers.
const WIRE_BITS: f64 = ((PAYLOAD + 8 + 20 + 14) * 8) as f64;
/// How often datagrams are sent.
const STEP: Duration = Duration::from_millis(1);
/// How much lateness is made up for; more is lost, so that a sender that was held up does not send a burst.
const MOST_LATE: Duration = Duration::from_millis(10);

// No doc comment here: it would replace the command's own description.
#[allow(missing_docs)]
#[derive(Debug, Clone, Args)]
pub struct DatagramsArgs {
    /// Where they go.
    #[arg(long)]
    pub target: SocketAddr,
    /// Bits per second on the wire.
    #[arg(long)]
    pub bps: u64,
}

/// Sends until the process is killed. A full socket holds the sender up, as any program's.
///
/// # Errors
/// When the socket cannot be made.
#[expect(
    clippy::disallowed_methods,
    reason = "the process has nothing else to do, and tokio's timer is too coarse"
)]
pub fn send(args: &DatagramsArgs) -> anyhow::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("no UDP socket")?;
    let payload = [0_u8; PAYLOAD];
    let mut pace = Pace::new(args.bps as f64, Instant::now());
    loop {
        for _ in 0..pace.due(Instant::now()) {
            // Whatever goes wrong with one is a loss, and those are not heeded.
            let _ = socket.send_to(&payload, args.target);
        }
        std::thread::sleep(STEP);
    }
}

/// How many datagrams are due.
#[derive(Debug)]
struct Pace {
    per_second: f64,
    last: Instant,
    /// Part of a datagram that was due but not sent.
    rest: f64,
}

impl Pace {
    fn new(bps: f64, now: Instant) -> Self {
        Self {
            per_second: bps / WIRE_BITS,
            last: now,
            rest: 0.0,
        }
    }

    fn due(&mut self, now: Instant) -> u64 {
        let passed = now.saturating_duration_since(self.last).min(MOST_LATE);
        self.last = now;
        let due = self.rest + passed.as_secs_f64() * self.per_second;
        self.rest = due.fract();
        due.floor() as u64
    }
}

/// Starts a sender in an endpoint of the network.
///
/// # Errors
/// When there is no such endpoint, or it cannot be started.
pub fn start(
    network: &Network,
    from: &str,
    sink: &str,
    bps: u64,
    logs: &Path,
) -> anyhow::Result<Process> {
    let program = Tool {
        path: std::env::current_exe().context("this program's own path is unknown")?,
        library_path: None,
    };
    let target = SocketAddr::from((network.address(sink)?, PORT));
    let mut command = process::command(&program, Some(network.namespace(from)?))?;
    command
        .args(["datagrams", "--target", &target.to_string()])
        .args(["--bps", &bps.to_string()]);
    let log = logs.join(format!("datagrams-{from}.log"));
    Ok(Process::start(
        &format!("datagrams in {from}"),
        command,
        &log,
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_kept_over_time_and_a_delay_is_not_made_up_for_in_a_burst() {
        let start = Instant::now();
        let mut pace = Pace::new(WIRE_BITS * 1500.0, start);
        let sent: u64 = (1..=1000).map(|step| pace.due(start + STEP * step)).sum();
        assert!((1499..=1500).contains(&sent), "{sent}");
        assert!(pace.due(start + Duration::from_secs(5)) <= 16);
    }
}
