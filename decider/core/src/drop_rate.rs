//! `DropRate`: the predecessor's older law for clusters without latency metrics.

use serde::{Deserialize, Serialize};

use crate::policy::{PolicyError, duration, not_negative, positive, weight};

/// Parameters of the law. Unset ones take the defaults.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Parameters {
    /// Weight of the new value in the moving average of the drop rate, above 0 and at most 1 (1: no smoothing). Default 0.7.
    pub alpha: f64,
    /// Least time between two changes of limits, either way, in milliseconds, at most a day. Default 30 000.
    pub cooldown_ms: u64,
    /// Step down when drops are above the threshold, bits per second. Default 50e6.
    pub aggressive_decrease_bps: f64,
    /// Step up when they are not, bits per second. Default 15e6.
    pub increase_step_bps: f64,
    /// A sample observed longer ago than this is no data, in milliseconds, at most a day. Default 60 000.
    pub max_sample_age_ms: u64,
    /// Margin above the baseline as a share of it. Default 0.5.
    pub margin_ratio: f64,
    /// Margin above the baseline besides, packets per second. Default 10.
    pub margin_drops: f64,
    /// Where the baseline starts and what it never falls below, packets per second. Default 30, the predecessor's policy drops.
    pub baseline_floor: f64,
    /// Weight of a new value below the baseline, above 0 and at most 1. Default 0.05.
    pub baseline_fall: f64,
    /// Weight of a new value above the baseline, above 0 and at most 1. Default 0.002, so that it takes minutes to learn.
    pub baseline_rise: f64,
}

impl Default for Parameters {
    fn default() -> Self {
        Self {
            alpha: 0.7,
            cooldown_ms: 30_000,
            aggressive_decrease_bps: 50e6,
            increase_step_bps: 15e6,
            max_sample_age_ms: 60_000,
            margin_ratio: 0.5,
            margin_drops: 10.0,
            baseline_floor: 30.0,
            baseline_fall: 0.05,
            baseline_rise: 0.002,
        }
    }
}

impl Parameters {
    pub(crate) fn validate(&self) -> Result<(), PolicyError> {
        weight("law.alpha", self.alpha)?;
        duration("law.cooldown_ms", self.cooldown_ms)?;
        positive("law.aggressive_decrease_bps", self.aggressive_decrease_bps)?;
        positive("law.increase_step_bps", self.increase_step_bps)?;
        duration("law.max_sample_age_ms", self.max_sample_age_ms)?;
        not_negative("law.margin_ratio", self.margin_ratio)?;
        not_negative("law.margin_drops", self.margin_drops)?;
        not_negative("law.baseline_floor", self.baseline_floor)?;
        weight("law.baseline_fall", self.baseline_fall)?;
        weight("law.baseline_rise", self.baseline_rise)
    }
}
