//! `Watermark`: Volcano's law (openEuler's oncn-bwm), for comparison.
//!
//! All best-effort pods share one rate that knows two values, by what critical traffic sends:
//!
//! ```text
//! best_effort = critical >= waterline * link ? low * link : high * link
//! ```
//!
//! Source: `adjust_rate()` in oncn-bwm's `bpf/bwm_tc_common.h`, defaults from Volcano's `docs/design/colocation/Overview.md`. There it
//! runs in the kernel every 10 ms on bytes; here on each sample, and critical bytes are requests times `request_bits`, for a sample
//! counts no bytes. There is no hysteresis and no look at latency, as there. The rate is divided evenly among the pods counted.

use serde::{Deserialize, Serialize};

use crate::{
    Evaluation,
    policy::{Policy, PolicyError, duration, in_range, positive},
    reason::mbit,
    sample::Sample,
    share::{Shared, critical_bps, share_out},
    state::State,
};

/// Parameters of the law. Unset ones take Volcano's defaults; the link's rate has none that fits everywhere.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Parameters {
    /// Rate of the link in bits per second. Default 1e9.
    pub link_bps: f64,
    /// Share of the link from which critical traffic makes best-effort low, 0 to 1. Default 0.8.
    pub waterline: f64,
    /// Best-effort's share of the link below the waterline, 0 to 1. Default 0.4.
    pub high: f64,
    /// Best-effort's share of the link from the waterline on, 0 to 1. Default 0.1.
    pub low: f64,
    /// What one critical request sends, in bits. Default 8 000.
    pub request_bits: f64,
    /// A sample observed longer ago than this is no data, in milliseconds, at most a day. Default 60 000.
    pub max_sample_age_ms: u64,
}

impl Default for Parameters {
    fn default() -> Self {
        Self {
            link_bps: 1e9,
            waterline: 0.8,
            high: 0.4,
            low: 0.1,
            request_bits: 8e3,
            max_sample_age_ms: 60_000,
        }
    }
}

impl Parameters {
    pub(crate) fn validate(&self) -> Result<(), PolicyError> {
        positive("law.link_bps", self.link_bps)?;
        in_range("law.waterline", self.waterline, 0.0, 1.0)?;
        in_range("law.high", self.high, 0.0, 1.0)?;
        in_range("law.low", self.low, 0.0, 1.0)?;
        positive("law.request_bits", self.request_bits)?;
        duration("law.max_sample_age_ms", self.max_sample_age_ms)
    }
}

pub(crate) fn evaluate(
    now_ms: i64,
    parameters: &Parameters,
    policy: &Policy,
    state: &State,
    samples: &[Sample],
) -> Evaluation {
    let mut state = state.shaped(policy);
    let shared = critical_bps(
        now_ms,
        parameters.max_sample_age_ms,
        parameters.request_bits,
        &mut state,
        samples,
    )
    .map(|critical| {
        let is_high = critical >= parameters.waterline * parameters.link_bps;
        let share = if is_high {
            parameters.low
        } else {
            parameters.high
        };
        Shared {
            total_bps: share * parameters.link_bps,
            why: format!(
                "Critical traffic sends {}, {} the waterline of {}",
                mbit(critical),
                if is_high { "at or above" } else { "below" },
                mbit(parameters.waterline * parameters.link_bps)
            ),
        }
    });
    share_out(policy, state, samples, shared)
}
