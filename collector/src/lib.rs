//! Laneguard collector: telemetry in Prometheus to samples on NATS.
//!
//! | question | file |
//! |---|---|
//! | Which PromQL is sent? | [`query`] |
//! | How far back is asked? | [`pace`] |
//! | How do raw series become increases? | [`series`] |
//! | What do buckets prove about a quantile? | [`histogram`] |
//! | When is a sample good, coarse, idle, stale? Which side counts? | [`sample`] |
//! | When does the drop rate say something about now? | [`drops`] |
//! | What do best-effort pods send? | [`usage`] |
//! | How often, how many at once, for how long? | [`poll`] |
//! | When within a scrape interval? | [`phase`] |
//! | Which policies, which pods? | [`policies`], [`entries`] |
//! | Which flag? Which metric? | [`args`], [`metrics`] |
//!
//! Knows no control law and no Kubernetes.

pub mod args;
pub mod drops;
pub mod entries;
pub mod histogram;
pub mod metrics;
pub mod pace;
pub mod phase;
pub mod policies;
pub mod poll;
pub mod prometheus;
pub mod query;
pub mod sample;
pub mod series;
pub mod smooth;
pub mod usage;
pub mod wire;

use laneguard_runtime::bus::{Bus, Producer};
use laneguard_runtime::lease::Shards;
use laneguard_runtime::{ConfigError, Process};

use crate::args::{Args, Config};
use crate::metrics::Metrics;
use crate::poll::Poller;
use crate::prometheus::Prometheus;

/// Sets the service up in its process.
///
/// # Errors
/// When a setting cannot be used.
pub async fn start(args: Args, mut process: Process) -> anyhow::Result<Process> {
    let cluster = args.common.cluster.clone();
    let config = Config::try_from(args)?;
    let setting = if config.prometheus.ca.is_some() {
        "PROMETHEUS_CA"
    } else {
        "PROMETHEUS_URL"
    };
    let prometheus = Prometheus::new(&config.prometheus)
        .map_err(|e| ConfigError::new(setting, format!("{:#}", anyhow::Error::new(e))))?;
    let metrics = Metrics::register(&mut process.registry);
    let producer = Producer {
        service: "collector",
        cluster,
        encoding: config.producer.message_encoding,
    };
    let bus = Bus::connect(&config.nats, producer, &mut process).await?;
    let latch = process.readiness.latch("policies");
    process.serve_admin(config.admin_addr).await?;
    let known = policies::watch(&process, &bus, latch, &metrics, config.poll_interval);
    let shards = Shards::start(&process, &bus, "collector", known.shards.clone());
    let poller = Poller {
        prometheus,
        bus,
        shards,
        known,
        names: config.names,
        interval: config.poll_interval,
        timeout: config.timeout,
        concurrency: config.concurrency,
        metrics,
        shutdown: process.shutdown(),
    };
    process.spawn("poll", poller.run());
    Ok(process)
}
