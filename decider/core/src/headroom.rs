//! `Headroom`: the network loop of Heracles, for comparison.
//!
//! Best-effort gets what the link has beside critical traffic and a reserve:
//!
//! ```text
//! best_effort = link - critical - max(link_share * link, critical_share * critical)
//! ```
//!
//! Source: Lo et al., "Heracles: Improving Resource Efficiency at Scale", ISCA 2015, the network subcontroller (every second, by HTB).
//! It does not look at latency; Heracles' upper loop, which stops best-effort altogether when latency has no slack, is not part of it.
//! Critical bytes are requests times `request_bits`, for a sample counts no bytes. The rate is divided evenly among the pods counted.

use serde::{Deserialize, Serialize};

use crate::{
    Evaluation,
    policy::{Policy, PolicyError, duration, in_range, positive},
    reason::mbit,
    sample::Sample,
    share::{Shared, critical_bps, share_out},
    state::State,
};

/// Parameters of the law. Unset ones take Heracles' values; the link's rate has none that fits everywhere.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Parameters {
    /// Rate of the link in bits per second. Default 1e9.
    pub link_bps: f64,
    /// Least reserve as a share of the link, 0 to 1. Default 0.05.
    pub link_share: f64,
    /// Least reserve as a share of critical traffic, 0 to 1. Default 0.1.
    pub critical_share: f64,
    /// What one critical request sends, in bits. Default 8 000.
    pub request_bits: f64,
    /// A sample observed longer ago than this is no data, in milliseconds, at most a day. Default 60 000.
    pub max_sample_age_ms: u64,
}

impl Default for Parameters {
    fn default() -> Self {
        Self {
            link_bps: 1e9,
            link_share: 0.05,
            critical_share: 0.1,
            request_bits: 8e3,
            max_sample_age_ms: 60_000,
        }
    }
}

impl Parameters {
    pub(crate) fn validate(&self) -> Result<(), PolicyError> {
        positive("law.link_bps", self.link_bps)?;
        in_range("law.link_share", self.link_share, 0.0, 1.0)?;
        in_range("law.critical_share", self.critical_share, 0.0, 1.0)?;
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
        let reserve =
            (parameters.link_share * parameters.link_bps).max(parameters.critical_share * critical);
        Shared {
            total_bps: (parameters.link_bps - critical - reserve).max(0.0),
            why: format!(
                "Of {}, critical traffic sends {} and {} stay in reserve",
                mbit(parameters.link_bps),
                mbit(critical),
                mbit(reserve)
            ),
        }
    });
    share_out(policy, state, samples, shared)
}
