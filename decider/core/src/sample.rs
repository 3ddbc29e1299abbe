//! What was measured, as the collector observed it: raw values, nothing smoothed.

use serde::{Deserialize, Serialize};

/// Largest value taken for a measurement; beyond it a sample is malformed. Keeps arithmetic finite.
const LARGEST: f64 = 1e15;

/// How far a sample can be trusted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Quality {
    /// Fresh and fine enough for the targets.
    Good,
    /// Fresh, but the buckets are coarser than a target.
    Coarse,
    /// Fresh series, traffic below the minimum for long enough: nothing to protect right now.
    Idle,
    /// The newest data is too old.
    Stale,
    /// No series, or too few requests to say anything.
    #[default]
    NoData,
    /// The query failed.
    Failed,
}

impl Quality {
    /// The word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Good => "GOOD",
            Self::Coarse => "COARSE",
            Self::Idle => "IDLE",
            Self::Stale => "STALE",
            Self::NoData => "NO_DATA",
            Self::Failed => "FAILED",
        }
    }

    /// Whether the values measure something ([`Self::Good`], [`Self::Coarse`]).
    #[must_use]
    pub const fn is_measured(self) -> bool {
        matches!(self, Self::Good | Self::Coarse)
    }
}

/// One observation of one critical workload. Unset means unknown; NaN and infinity make it malformed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sample {
    /// The wire id `<namespace>_<name>`.
    pub workload: String,
    /// Rises with each sample of the workload, also across restarts of the collector; gaps are fine.
    pub sequence: u64,
    /// Start of the measured window, Unix milliseconds.
    pub window_start_ms: i64,
    /// End of the measured window, Unix milliseconds.
    pub window_end_ms: i64,
    /// When the collector asked, Unix milliseconds.
    pub observed_at_ms: i64,
    /// How far to trust the values.
    pub quality: Quality,
    /// 25th percentile of request latency in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p25_ms: Option<f64>,
    /// Median request latency in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p50_ms: Option<f64>,
    /// 75th percentile of request latency in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p75_ms: Option<f64>,
    /// 95th percentile of request latency in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p95_ms: Option<f64>,
    /// 99th percentile of request latency in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p99_ms: Option<f64>,
    /// Mean request latency in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean_ms: Option<f64>,
    /// Interquartile range of request latency in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jitter_ms: Option<f64>,
    /// The least `p95_ms` that the histogram's buckets can prove, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p95_low_ms: Option<f64>,
    /// The most `p95_ms` that the histogram's buckets can prove, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p95_high_ms: Option<f64>,
    /// The least jitter that the histogram's buckets can prove, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jitter_low_ms: Option<f64>,
    /// The most jitter that the histogram's buckets can prove, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jitter_high_ms: Option<f64>,
    /// Requests in the window; fractional where the source extrapolates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<f64>,
    /// Requests per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_rate: Option<f64>,
    /// Dropped packets per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drop_rate: Option<f64>,
    /// Flows per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flow_rate: Option<f64>,
    /// What best-effort really sends, per class.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub usage: Vec<Usage>,
}

/// What the pods of one class send.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// Name of the class in the policy.
    pub class: String,
    /// All pods of the class together, bits per second.
    pub total_bps: f64,
    /// Pods of the class that were measured.
    pub pods: u64,
    /// The pod that sends most, bits per second.
    pub top_pod_bps: f64,
    /// When the oldest counter used was scraped, Unix milliseconds. Unset: taken for the sample's own window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window_start_ms: Option<i64>,
    /// When the newest counter used was scraped, Unix milliseconds. Unset: taken for the sample's own window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window_end_ms: Option<i64>,
}

impl Sample {
    /// Whether every value can be what it claims to be: finite, not negative, bounds and window in order.
    ///
    /// A sample that is not is ignored by every law, its sequence too.
    #[must_use]
    pub fn is_well_formed(&self) -> bool {
        let values = [
            self.p25_ms,
            self.p50_ms,
            self.p75_ms,
            self.p95_ms,
            self.p99_ms,
            self.mean_ms,
            self.jitter_ms,
            self.p95_low_ms,
            self.p95_high_ms,
            self.jitter_low_ms,
            self.jitter_high_ms,
            self.count,
            self.request_rate,
            self.drop_rate,
            self.flow_rate,
        ];
        let usage = self
            .usage
            .iter()
            .flat_map(|usage| [usage.total_bps, usage.top_pod_bps]);
        !self.workload.is_empty()
            && self.window_start_ms <= self.window_end_ms
            && values
                .into_iter()
                .flatten()
                .chain(usage)
                .all(|value| (0.0..=LARGEST).contains(&value))
            && in_order(self.p95_low_ms, self.p95_high_ms)
            && in_order(self.jitter_low_ms, self.jitter_high_ms)
    }
}

fn in_order(low: Option<f64>, high: Option<f64>) -> bool {
    low.zip(high).is_none_or(|(low, high)| low <= high)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Sample {
        Sample {
            workload: "factory_robot".into(),
            p95_ms: Some(8.7),
            ..Sample::default()
        }
    }

    #[test]
    fn values_that_no_measurement_has_make_a_sample_malformed() {
        assert!(sample().is_well_formed());
        let bad: [fn(&mut Sample); 9] = [
            |s| s.workload.clear(),
            |s| s.window_start_ms = s.window_end_ms + 1,
            |s| s.p95_ms = Some(f64::NAN),
            |s| s.jitter_ms = Some(f64::INFINITY),
            |s| s.drop_rate = Some(-1.0),
            |s| s.count = Some(f64::MAX),
            |s| (s.p95_low_ms, s.p95_high_ms) = (Some(10.0), Some(5.0)),
            |s| (s.jitter_low_ms, s.jitter_high_ms) = (Some(1.0), Some(0.0)),
            |s| {
                s.usage = vec![Usage {
                    top_pod_bps: f64::NAN,
                    ..Usage::default()
                }];
            },
        ];
        for (number, make_bad) in bad.iter().enumerate() {
            let mut sample = sample();
            make_bad(&mut sample);
            assert!(!sample.is_well_formed(), "case {number}");
        }
    }

    #[test]
    fn unset_values_stay_unset_through_json() {
        let json = serde_json::to_string(&sample()).unwrap();
        assert!(!json.contains("jitter_ms"), "{json}");
        assert_eq!(serde_json::from_str::<Sample>(&json).unwrap(), sample());
    }
}
