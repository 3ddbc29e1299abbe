//! `Threshold`: the predecessor's law.

use serde::{Deserialize, Serialize};

use crate::policy::{PolicyError, duration, positive, weight};

/// Parameters of the law; unset ones take the predecessor's defaults.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Parameters {
    /// Weight of the new value in the moving averages, above 0 and at most 1 (1: no smoothing). Default 0.7.
    pub alpha: f64,
    /// Least time between two changes of limits, either way, in milliseconds, at most a day. Default 30 000.
    pub cooldown_ms: u64,
    /// Step down when jitter is above target, bits per second. Default 50e6.
    pub aggressive_decrease_bps: f64,
    /// Step down when only latency is above target, bits per second; never more than `aggressive_decrease_bps`, which is used
    /// where this is greater. Default 20e6.
    pub gentle_decrease_bps: f64,
    /// Step up when all is within target, bits per second. Default 15e6.
    pub increase_step_bps: f64,
    /// A sample observed longer ago than this is no data, in milliseconds, at most a day. Default 60 000.
    pub max_sample_age_ms: u64,
}

impl Default for Parameters {
    fn default() -> Self {
        Self {
            alpha: 0.7,
            cooldown_ms: 30_000,
            aggressive_decrease_bps: 50e6,
            gentle_decrease_bps: 20e6,
            increase_step_bps: 15e6,
            max_sample_age_ms: 60_000,
        }
    }
}

impl Parameters {
    pub(crate) fn validate(&self) -> Result<(), PolicyError> {
        weight("law.alpha", self.alpha)?;
        duration("law.cooldown_ms", self.cooldown_ms)?;
        positive("law.aggressive_decrease_bps", self.aggressive_decrease_bps)?;
        positive("law.gentle_decrease_bps", self.gentle_decrease_bps)?;
        positive("law.increase_step_bps", self.increase_step_bps)?;
        duration("law.max_sample_age_ms", self.max_sample_age_ms)
    }
}
