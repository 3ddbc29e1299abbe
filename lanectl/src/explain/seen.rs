//! What a decision saw: the samples against the targets.

use laneguard_decider_core::policy::Policy;
use laneguard_proto::duration::timestamp_to_ms;
use laneguard_proto::v1::{Sample, sample::Quality};
use serde::Serialize;

use crate::name;
use crate::words::plain;

/// A sample as the law was given it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Seen {
    /// `namespace/name`.
    pub(super) workload: String,
    /// The word for how far it may be trusted.
    pub(super) quality: &'static str,
    /// The collector's sentence about it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) note: String,
    /// Begin of the window, Unix milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) window_start_ms: Option<i64>,
    /// End of the window, Unix milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) window_end_ms: Option<i64>,
    /// Age of the window's end when it was decided, milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) age_ms: Option<i64>,
    /// Requests in the window.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) requests: Option<f64>,
    /// Requests per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) request_rate: Option<f64>,
    /// Dropped packets per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) drop_rate: Option<f64>,
    /// Its signals; those with a target first.
    pub(super) signals: Vec<Signal>,
    /// What classes of best-effort sent.
    pub(super) sent: Vec<Sent>,
}

/// One signal.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Signal {
    /// Its name.
    pub(super) metric: &'static str,
    /// The value, milliseconds. Unset: not measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) value_ms: Option<f64>,
    /// The target, milliseconds. Unset: not judged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) target_ms: Option<f64>,
    /// Whether the target is missed. Unset: there is none, or no value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) is_missed: Option<bool>,
    /// What the source's buckets can prove: least value, milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) low_ms: Option<f64>,
    /// What the source's buckets can prove: greatest value, milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) high_ms: Option<f64>,
}

/// What a class sent.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Sent {
    /// The class.
    pub(super) class: String,
    /// All pods together, bits per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) total_bps: Option<f64>,
    /// Pods counted.
    pub(super) pods: u32,
    /// The busiest pod, bits per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) top_pod_bps: Option<f64>,
    /// Begin and end of the window of its counters, Unix milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) window_ms: Option<(i64, i64)>,
}

/// A sample's signals: those with a target, then the mean, which best tells small changes.
pub(super) fn signals(policy: &Policy, sample: &Sample) -> Vec<Signal> {
    let critical = policy
        .critical
        .iter()
        .find(|critical| critical.workload == sample.workload);
    let targets = critical
        .map(|critical| critical.targets)
        .unwrap_or_default();
    let is_measured = matches!(sample.quality(), Quality::Good | Quality::Coarse);
    let raw = sample.raw.filter(|_| is_measured).unwrap_or_default();
    let signal = |metric, value_ms: Option<f64>, target_ms: Option<f64>, low_ms, high_ms| Signal {
        metric,
        value_ms,
        target_ms,
        is_missed: value_ms
            .zip(target_ms)
            .map(|(value, target)| value > target),
        low_ms,
        high_ms,
    };
    let mut all = vec![
        signal(
            "P95 latency",
            raw.p95_ms,
            targets.p95_ms,
            raw.p95_low_ms,
            raw.p95_high_ms,
        ),
        signal(
            "P99 latency",
            raw.p99_ms,
            targets.p99_ms,
            raw.p99_low_ms,
            raw.p99_high_ms,
        ),
        signal(
            "jitter",
            raw.jitter_ms,
            targets.jitter_ms,
            raw.jitter_low_ms,
            raw.jitter_high_ms,
        ),
        signal("mean latency", raw.mean_ms, targets.mean_ms, None, None),
    ];
    all.retain(|signal| {
        signal.target_ms.is_some() || (signal.metric == "mean latency" && signal.value_ms.is_some())
    });
    all
}

/// A sample as the decision made at `decided_ms` saw it.
pub(super) fn seen(policy: Option<&Policy>, sample: &Sample, decided_ms: i64) -> Seen {
    let window_end_ms = sample.window_end.as_ref().map(timestamp_to_ms);
    Seen {
        workload: name::shown(&plain(&sample.workload)),
        quality: sample.quality().as_str_name(),
        note: plain(&sample.reason),
        window_start_ms: sample.window_start.as_ref().map(timestamp_to_ms),
        window_end_ms,
        age_ms: window_end_ms.map(|end_ms| decided_ms.saturating_sub(end_ms)),
        requests: sample.count,
        request_rate: sample.request_rate,
        drop_rate: sample.drop_rate,
        signals: policy.map_or_else(Vec::new, |policy| signals(policy, sample)),
        sent: sample
            .usage
            .iter()
            .map(|usage| Sent {
                class: plain(&usage.class),
                total_bps: usage.total_bps,
                pods: usage.pods,
                top_pod_bps: usage.top_pod_bps,
                window_ms: usage
                    .window_start
                    .as_ref()
                    .map(timestamp_to_ms)
                    .zip(usage.window_end.as_ref().map(timestamp_to_ms)),
            })
            .collect(),
    }
}
