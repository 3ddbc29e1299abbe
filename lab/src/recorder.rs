//! Four times a second: counters into the raw logs, the state of things to the display.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;
use std::time::Duration;

use tokio::sync::watch;

use crate::decisions::Decisions;
use crate::exporter::hubble;
use crate::live::Live;
use crate::net::{self, Network};
use crate::node::Pods;
use crate::process;
use crate::raw::{self, Footprint, Machine, Queue, Traffic, Writer};
use crate::scenario::{CRITICAL_CLIENT, CRITICAL_SERVICE, Sender};
use crate::services::Services;
use crate::traffic::critical::Critical;

/// What is looked at.
#[derive(Debug, Clone, Copy)]
pub struct Observed<'a> {
    /// Byte counters.
    pub network: &'a Network,
    /// Best-effort pods.
    pub senders: &'a [Sender],
    /// What runs, with its limits.
    pub pods: &'a Pods,
    /// Critical traffic.
    pub critical: &'a Critical,
    /// Gets the real drops.
    pub metrics: &'a hubble::Metrics,
    /// Laneguard, if it runs.
    pub services: Option<&'a Services>,
    /// Its decisions.
    pub decisions: Option<&'a Decisions>,
}

/// Writes counters down and tells the display.
#[derive(Debug)]
pub struct Recorder {
    traffic: Writer,
    queue: Writer,
    footprint: Writer,
    machine: Writer,
    endpoints: Vec<String>,
    sinks: BTreeSet<String>,
    /// Bytes at all sinks, with the time of reading, for the last second.
    arrived: VecDeque<(u64, u64)>,
}

impl Recorder {
    /// Begins the raw logs in the folder of a run. `others`: endpoints whose counters are written down beside those of the senders.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn new(senders: &[Sender], others: &[String], folder: &Path) -> anyhow::Result<Self> {
        // Pods that move have two places and one sink.
        let sinks: BTreeSet<String> = senders.iter().map(|sender| sender.sink.clone()).collect();
        let endpoints = senders
            .iter()
            .map(|sender| sender.endpoint.clone())
            .chain(sinks.clone())
            .chain(others.iter().cloned())
            .chain([CRITICAL_CLIENT.to_owned(), CRITICAL_SERVICE.to_owned()]);
        Ok(Self {
            traffic: Writer::create::<Traffic>(folder)?,
            queue: Writer::create::<Queue>(folder)?,
            footprint: Writer::create::<Footprint>(folder)?,
            machine: Writer::create::<Machine>(folder)?,
            endpoints: endpoints.collect(),
            sinks,
            arrived: VecDeque::new(),
        })
    }

    /// Reads and writes everything once, and tells the display.
    ///
    /// # Errors
    /// When something cannot be read or written.
    pub async fn tick(
        &mut self,
        observed: Observed<'_>,
        live: &watch::Sender<Live>,
    ) -> anyhow::Result<()> {
        let rows = self
            .endpoints
            .iter()
            .map(|endpoint| {
                let counters = observed.network.counters(endpoint)?;
                Ok(Traffic {
                    unix_ns: raw::unix_ns(),
                    endpoint: endpoint.clone(),
                    tx_bytes: counters.tx_bytes,
                    rx_bytes: counters.rx_bytes,
                })
            })
            .collect::<Result<Vec<_>, net::Error>>()?;
        self.traffic.write(&rows)?;
        let bottleneck = net::bottleneck().await?;
        let now = raw::unix_ns();
        self.queue.write([&Queue {
            unix_ns: now,
            sent_bytes: bottleneck.sent_bytes,
            drops: bottleneck.drops,
            backlog_bytes: bottleneck.backlog_bytes,
        }])?;
        observed.metrics.set_queue_drops(bottleneck.drops);
        let (busy, total) = process::machine_time()?;
        self.machine.write([&Machine {
            unix_ns: now,
            busy_ms: millis(busy),
            total_ms: millis(total),
        }])?;
        if let Some(services) = observed.services {
            self.footprint.write(&services.footprints())?;
        }

        let goodput_bps = self.goodput(now, &rows);
        let (latency, failed) = observed.critical.last_second(now);
        let running = observed.pods.running();
        let limits: BTreeMap<String, Option<u64>> = observed
            .senders
            .iter()
            .filter_map(|sender| {
                let pod = running.get(&sender.endpoint)?;
                Some((sender.endpoint.clone(), pod.limit_bps))
            })
            .collect();
        let decision = observed.decisions.and_then(Decisions::last);
        live.send_modify(|live| {
            live.latency = latency;
            live.failed = failed;
            live.goodput_bps = goodput_bps;
            live.backlog_bytes = bottleneck.backlog_bytes;
            live.limits = limits;
            live.decision = decision;
        });
        Ok(())
    }

    fn goodput(&mut self, now: u64, rows: &[Traffic]) -> f64 {
        let total = rows
            .iter()
            .filter(|row| self.sinks.contains(&row.endpoint))
            .map(|row| row.rx_bytes)
            .sum();
        self.arrived.push_back((now, total));
        while self.arrived.len() > 2 && now - self.arrived[1].0 >= 1_000_000_000 {
            self.arrived.pop_front();
        }
        match self.arrived.front() {
            Some((then, before)) if *then < now => {
                (total - before) as f64 * 8e9 / (now - then) as f64
            }
            _ => 0.0,
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
