//! What is remembered between evaluations. Plain data: bounded by the policy, replaced as a whole, stored by the services.

use serde::{Deserialize, Serialize};

use crate::{adaptive, autorate, policy::Policy};

/// The memory of one policy under one law. Its size is bounded by the policy's workloads and classes.
///
/// A law in shadow has a `State` of its own.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    /// The limit in force of each class.
    pub limits: Vec<Limit>,
    /// Pods of each class in the policy's order as counted last, kept where classes have weights or an order (law `Adaptive`).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pods: Vec<f64>,
    /// What is known of each critical workload.
    pub workloads: Vec<Workload>,
    /// When a law last changed a limit, Unix milliseconds; unset: never. The cooldown counts from here.
    pub last_change_ms: Option<i64>,
    /// Which way that change went.
    pub last_direction: Option<Direction>,
    /// A wish against `last_direction` that waits for agreement.
    pub pending: Option<Pending>,
    /// What the law `Adaptive` learned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adaptive: Option<Box<adaptive::Memory>>,
}

/// The limit in force of one class.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Limit {
    /// Name of the class.
    pub class: String,
    /// Bits per second per pod.
    pub limit_bps: f64,
}

/// What is known of one critical workload.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Workload {
    /// The wire id `<namespace>_<name>`.
    pub workload: String,
    /// Sequence of the newest sample taken in; this one and older ones are ignored from then on.
    pub last_sequence: Option<u64>,
    /// The newest sample, if it could be used; unset: the newest one could not, so nothing is known at present.
    pub evidence: Option<Evidence>,
    /// The newest window that was measured (laws `Threshold`, `DropRate`): it counts once, however many samples show it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<Window>,
    /// How many windows ago each window came that was above a target, the newest last; kept for workloads that tolerate some, bounded by
    /// [`crate::policy::MOST_WINDOWS`] (laws `Threshold`, `Adaptive`).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missed: Vec<u8>,
    /// Whether a usable sample came since the last verdict. A raise needs one of every workload.
    pub advanced: bool,
    /// Moving averages of the signals.
    pub smoothed: Smoothed,
    /// Learned rate of policy drops, packets per second (law `DropRate`).
    pub drop_baseline: Option<f64>,
    /// Requests per second in the newest sample (laws `Watermark`, `Headroom`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_rate: Option<f64>,
    /// Delay without queue and above it (law `Autorate`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay: Option<autorate::Delay>,
}

/// The newest measured window of a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// When it ended, Unix milliseconds by the clock of the source.
    pub end_ms: i64,
    /// Whether every signal that the law reads was in it.
    pub complete: bool,
}

/// The newest usable sample of a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// When it was observed, Unix milliseconds.
    pub observed_at_ms: i64,
    /// Whether it said that the workload is idle.
    pub idle: bool,
}

/// Exponentially weighted moving averages. Unset: no value yet, or not judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Smoothed {
    /// 95th percentile in milliseconds.
    pub p95_ms: Option<f64>,
    /// 99th percentile in milliseconds.
    pub p99_ms: Option<f64>,
    /// Mean in milliseconds.
    pub mean_ms: Option<f64>,
    /// Jitter in milliseconds.
    pub jitter_ms: Option<f64>,
    /// Dropped packets per second.
    pub drop_rate: Option<f64>,
}

/// Which way limits go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Direction {
    /// Limits rise.
    Up,
    /// Limits fall.
    Down,
}

/// A wish against the last direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// Where it wants to go.
    pub direction: Direction,
    /// Evaluations in a row that agreed; counts up to the number needed.
    pub agreeing: u8,
}

impl State {
    /// The state before the first evaluation, from limits found in force (class and bits per second), such as annotations.
    /// A class that is not given starts at its maximum.
    #[must_use]
    pub fn new<N: Into<String>>(initial: impl IntoIterator<Item = (N, f64)>) -> Self {
        Self {
            limits: initial
                .into_iter()
                .map(|(class, limit_bps)| Limit {
                    class: class.into(),
                    limit_bps,
                })
                .collect(),
            ..Self::default()
        }
    }

    /// The limit in force of a class, bits per second per pod.
    #[must_use]
    pub fn limit_bps(&self, class: &str) -> Option<f64> {
        self.limits
            .iter()
            .find(|limit| limit.class == class)
            .map(|limit| limit.limit_bps)
    }

    /// What is known of a workload.
    #[must_use]
    pub fn workload(&self, workload: &str) -> Option<&Workload> {
        self.workloads
            .iter()
            .find(|known| known.workload == workload)
    }

    /// The state in the shape of `policy`: one entry per class and workload in the policy's order, the rest forgotten.
    /// Limits are not clamped here.
    pub(crate) fn shaped(&self, policy: &Policy) -> Self {
        Self {
            limits: policy
                .classes
                .iter()
                .map(|class| Limit {
                    class: class.name.clone(),
                    limit_bps: self
                        .limit_bps(&class.name)
                        .filter(|limit_bps| limit_bps.is_finite())
                        .unwrap_or(class.max_bps),
                })
                .collect(),
            workloads: policy
                .critical
                .iter()
                .map(|critical| {
                    self.workload(&critical.workload)
                        .cloned()
                        .unwrap_or_else(|| Workload {
                            workload: critical.workload.clone(),
                            ..Workload::default()
                        })
                })
                .collect(),
            pods: self.pods.clone(),
            last_change_ms: self.last_change_ms,
            last_direction: self.last_direction,
            pending: self.pending,
            adaptive: self.adaptive.clone(),
        }
    }
}
