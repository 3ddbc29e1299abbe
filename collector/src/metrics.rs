//! The collector's own metrics. Labels are closed sets.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use std::sync::atomic::AtomicU64;

use crate::sample::Quality;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct QueryLabels {
    kind: &'static str,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct QualityLabels {
    quality: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EntryLabels {
    kind: &'static str,
}

type Seconds = Gauge<f64, AtomicU64>;

/// What the collector counts. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    pub(crate) polls: Counter,
    pub(crate) skipped: Counter,
    pub(crate) poll_duration: Histogram,
    queries: Family<QueryLabels, Counter>,
    pub(crate) warnings: Counter,
    samples: Family<QualityLabels, Counter>,
    pub(crate) unpublished: Counter,
    pub(crate) not_resumed: Counter,
    pub(crate) news_age: Histogram,
    pub(crate) policies: Gauge,
    pub(crate) workloads: Gauge,
    refused: Family<EntryLabels, Counter>,
    pub(crate) prometheus_up: Gauge,
    pub(crate) clock_offset: Seconds,
}

impl Metrics {
    /// Registers everything under `laneguard_collector`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            polls: Counter::default(),
            skipped: Counter::default(),
            poll_duration: Histogram::new([
                0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
            ]),
            queries: Family::default(),
            warnings: Counter::default(),
            samples: Family::default(),
            unpublished: Counter::default(),
            not_resumed: Counter::default(),
            news_age: Histogram::new([0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0]),
            policies: Gauge::default(),
            workloads: Gauge::default(),
            refused: Family::default(),
            prometheus_up: Gauge::default(),
            clock_offset: Seconds::default(),
        };
        let registry = registry.sub_registry_with_prefix("laneguard_collector");
        registry.register("polls", "Polls made", metrics.polls.clone());
        registry.register(
            "skipped_polls",
            "Polls left out because the one before took too long",
            metrics.skipped.clone(),
        );
        registry.register_with_unit(
            "poll_duration",
            "From the first query of a poll to its last sample stored",
            Unit::Seconds,
            metrics.poll_duration.clone(),
        );
        registry.register(
            "queries",
            "Queries sent to Prometheus, by kind (latency, usage, cluster) and result (ok, timeout, unreachable, refused, too_large, malformed)",
            metrics.queries.clone(),
        );
        registry.register(
            "query_warnings",
            "Answers of Prometheus that came with a warning, such as a partial answer",
            metrics.warnings.clone(),
        );
        registry.register(
            "samples",
            "Samples made, by quality (good, coarse, idle, stale, no_data, failed)",
            metrics.samples.clone(),
        );
        registry.register(
            "unpublished_samples",
            "Samples that were made but not stored in NATS",
            metrics.unpublished.clone(),
        );
        registry.register(
            "unresumed_samples",
            "Samples left out because the last one's sequence could not be read from NATS after taking over",
            metrics.not_resumed.clone(),
        );
        registry.register_with_unit(
            "news_age",
            "Age of the newest scrape in each good or coarse sample when it was made",
            Unit::Seconds,
            metrics.news_age.clone(),
        );
        registry.register(
            "policies",
            "Policies known that are not Off, owned or not",
            metrics.policies.clone(),
        );
        registry.register(
            "owned_workloads",
            "Critical workloads that this replica samples",
            metrics.workloads.clone(),
        );
        registry.register(
            "refused_entries",
            "Entries in NATS that are invalid and not used, by kind (policy, placement)",
            metrics.refused.clone(),
        );
        registry.register(
            "prometheus_up",
            "1 when any query of the last poll succeeded",
            metrics.prometheus_up.clone(),
        );
        registry.register_with_unit(
            "prometheus_clock_offset",
            "How far Prometheus' clock is ahead of ours",
            Unit::Seconds,
            metrics.clock_offset.clone(),
        );
        metrics
    }

    pub(crate) fn query(&self, kind: &'static str, result: &'static str) {
        self.queries
            .get_or_create(&QueryLabels { kind, result })
            .inc();
    }

    pub(crate) fn sample(&self, quality: Quality) {
        let quality = match quality {
            Quality::Good => "good",
            Quality::Coarse => "coarse",
            Quality::Idle => "idle",
            Quality::Stale => "stale",
            Quality::NoData => "no_data",
            Quality::Failed => "failed",
        };
        self.samples.get_or_create(&QualityLabels { quality }).inc();
    }

    pub(crate) fn refuse(&self, kind: &'static str) {
        self.refused.get_or_create(&EntryLabels { kind }).inc();
    }
}
