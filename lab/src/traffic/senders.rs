//! Best-effort bulk from the pods to sinks of their own on node B: iperf3, or UDP that heeds nothing.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use tokio::time::{Instant, sleep};

use crate::net::Network;
use crate::process::{self, Exited, Process};
use crate::scenario::{Demand, Sender};
use crate::tools;
use crate::traffic::datagrams;

/// Port of the sinks of the first load phase; each later phase has the next one.
const FIRST_PORT: u16 = 5201;
/// How long a sink may take to listen.
const PATIENCE: Duration = Duration::from_secs(10);

/// The sinks of one load phase, and the senders once it has begun.
#[derive(Debug)]
pub struct Bulk {
    port: u16,
    sinks: Vec<Process>,
    senders: Vec<Process>,
}

impl Bulk {
    /// Starts the sinks of the `index`th load phase, so that senders find them at once when it begins.
    ///
    /// # Errors
    /// When iperf3 is missing or does not listen in time.
    pub async fn prepare(
        network: &Network,
        senders: &[Sender],
        index: u16,
        logs: &Path,
    ) -> anyhow::Result<Self> {
        let port = FIRST_PORT + index;
        let iperf = tools::find("iperf3")?;
        let mut sinks = Vec::new();
        for sender in senders {
            let mut command = process::command(&iperf, Some(network.namespace(&sender.sink)?))?;
            command.args(["-s", "-4", "-1", "-i", "1", "--forceflush", "-p"]);
            command.arg(port.to_string());
            let log = logs.join(format!("iperf3-{}-{index}.log", sender.sink));
            sinks.push(Process::start(
                &format!("iperf3 at {}", sender.sink),
                command,
                &log,
            )?);
        }
        let mut bulk = Self {
            port,
            sinks,
            senders: Vec::new(),
        };
        let deadline = Instant::now() + PATIENCE;
        for (position, sender) in senders.iter().enumerate() {
            let table = network.counters_file(&sender.sink)?.with_file_name("tcp");
            while !is_listening(&table, port)? {
                bulk.sinks[position].check()?;
                anyhow::ensure!(Instant::now() < deadline, "{} does not listen", sender.sink);
                sleep(Duration::from_millis(10)).await;
            }
        }
        Ok(bulk)
    }

    /// Starts all senders at once, for at most `at_most`; TCP is cubic and has so many flows each.
    ///
    /// # Errors
    /// When one cannot be started.
    pub fn begin(
        &mut self,
        network: &Network,
        senders: &[Sender],
        flows: u8,
        demand: Demand,
        at_most: Duration,
        logs: &Path,
    ) -> anyhow::Result<()> {
        let iperf = tools::find("iperf3")?;
        for sender in senders {
            if let Demand::Udp(bps) = demand {
                let process = datagrams::start(network, &sender.endpoint, &sender.sink, bps, logs)?;
                self.senders.push(process);
                continue;
            }
            let sink: Ipv4Addr = network.address(&sender.sink)?;
            let mut command = process::command(&iperf, Some(network.namespace(&sender.endpoint)?))?;
            command
                .args(["-c", &sink.to_string(), "-p", &self.port.to_string()])
                .args(["-P", &flows.to_string(), "-C", "cubic"])
                .args(["-t", &at_most.as_secs().to_string()])
                .args(["-i", "1", "--forceflush"]);
            if let Demand::Paced(bps) = demand {
                // Small writes: iperf3 paces whole ones, and 128 KiB at once would be a burst of its own.
                let each = bps / u64::from(flows.max(1));
                command.args(["-b", &each.to_string(), "-l", "8K"]);
            }
            let log = logs.join(format!(
                "iperf3-{}-{}.log",
                sender.endpoint,
                self.port - FIRST_PORT
            ));
            self.senders.push(Process::start(
                &format!("iperf3 in {}", sender.endpoint),
                command,
                &log,
            )?);
        }
        Ok(())
    }

    /// Ends the phase. The sinks go first: what still waits in the senders' sockets is then refused instead of
    /// flowing on for seconds.
    pub async fn end(mut self) {
        for process in self.sinks.iter_mut().chain(&mut self.senders) {
            process.kill().await;
        }
    }

    /// Finds out whether all of it still runs.
    ///
    /// # Errors
    /// When a sink or sender has ended.
    pub fn check(&mut self) -> Result<(), Exited> {
        self.senders
            .iter_mut()
            .chain(&mut self.sinks)
            .try_for_each(Process::check)
    }
}

fn is_listening(table: &PathBuf, port: u16) -> anyhow::Result<bool> {
    let text =
        fs::read_to_string(table).with_context(|| format!("cannot read {}", table.display()))?;
    Ok(shows_listener(&text, port))
}

/// Whether a table of the form of `/proc/net/tcp` has a socket that listens (state 0A) on the port.
fn shows_listener(table: &str, port: u16) -> bool {
    let suffix = format!(":{port:04X}");
    table.lines().skip(1).any(|line| {
        let mut columns = line.split_whitespace().skip(1);
        let local = columns.next().unwrap_or_default();
        local.ends_with(&suffix) && columns.nth(1) == Some("0A")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_told_from_a_connection_on_the_same_port() {
        let header = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode";
        let listens =
            format!("{header}\n   0: 00000000:1451 00000000:0000 0A 00000000:00000000 00:00000000");
        let connected =
            format!("{header}\n   0: 0A024D0A:1451 0A014D0A:9999 01 00000000:00000000 00:00000000");
        assert!(shows_listener(&listens, 5201));
        assert!(!shows_listener(&listens, 5202));
        assert!(!shows_listener(&connected, 5201));
    }
}
