//! `DropRate`: the predecessor's older law, for clusters that have no latency metrics.
//!
//! The signal is the rate of dropped packets of each critical workload, in packets per second. Some are always there:
//! network policy drops what it shall (the predecessor counted about 30/s beside 325 flows/s). So the law learns what is
//! normal and acts on what exceeds it:
//!
//! ```text
//! smoothed  = alpha * raw + (1 - alpha) * smoothed                 starts at the first value
//! threshold = baseline * (1 + margin_ratio) + margin_drops
//! baseline  = max(baseline_floor, baseline + w * (raw - baseline))     starts at baseline_floor
//!             w = baseline_rise above the baseline, baseline_fall below it; only if smoothed <= threshold and raw <= threshold
//! ```
//!
//! | condition (strict) | action | every limit |
//! |---|---|---|
//! | smoothed > threshold | `CONGESTION_THROTTLE` | minus `aggressive_decrease_bps` |
//! | else | `INCREASE` | plus `increase_step_bps` |
//!
//! The baseline rises slowly and falls quickly, and never learns from a value above the threshold: congestion does not
//! become normal. With the defaults, drops that stay at or below 55/s never throttle.
//!
//! What it cannot do: tell policy drops from congestion when the first rise above the threshold is policy (a new default-deny,
//! say). It then throttles down to the minimum and stays there; the remedy is a `baseline_floor` that fits the cluster. And a
//! rise slower than the baseline learns is learned. That is an average, not machine learning.
//!
//! Several workloads, missing data, idle, cooldown, agreement and bounds: as in [`crate::threshold`]. Targets are not read. A sample's
//! quality must speak of its drop rate here: one that is NoData for want of latency is missing data to this law too.

use serde::{Deserialize, Serialize};

use crate::{
    Action, Evaluation,
    intake::{ewma, take_in_once},
    pace::{Judgement, Pace, Reading, Standing, conclude},
    policy::{Policy, PolicyError, duration, not_negative, positive, weight},
    reason::number,
    sample::Sample,
    state::{State, Workload},
};

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
    fn baseline(&self, memory: &Workload) -> f64 {
        memory
            .drop_baseline
            .map_or(self.baseline_floor, |baseline| {
                baseline.max(self.baseline_floor)
            })
    }

    fn threshold(&self, baseline: f64) -> f64 {
        baseline * (1.0 + self.margin_ratio) + self.margin_drops
    }

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

/// The averages a judgement rests on, in packets per second.
struct Drops {
    smoothed: f64,
    baseline: f64,
}

pub(crate) fn evaluate(
    now_ms: i64,
    parameters: &Parameters,
    policy: &Policy,
    state: &State,
    samples: &[Sample],
) -> Evaluation {
    let mut state = state.shaped(policy);
    let judgements: Vec<Judgement> = state
        .workloads
        .iter_mut()
        .map(|memory| judge(now_ms, parameters, memory, samples))
        .collect();
    let pace = Pace {
        cooldown_ms: parameters.cooldown_ms,
        increase_step_bps: parameters.increase_step_bps,
    };
    conclude(now_ms, &pace, policy, state, &judgements)
}

fn judge(
    now_ms: i64,
    parameters: &Parameters,
    memory: &mut Workload,
    samples: &[Sample],
) -> Judgement {
    let mut drops = None;
    let max_age_ms = parameters.max_sample_age_ms;
    let news = take_in_once(now_ms, max_age_ms, memory, samples, |memory, sample| {
        let Some(raw) = sample.drop_rate else {
            return Err(format!("its sample {} has no drop rate", sample.sequence));
        };
        drops = Some(learn(parameters, memory, raw));
        Ok(())
    });
    let standing = if let Some(why) = news.unknown {
        Standing::Unknown(why)
    } else if memory.evidence.is_some_and(|evidence| evidence.idle) {
        Standing::Healthy(Reading {
            ratio: 0.0,
            text: "it is idle".to_owned(),
        })
    } else {
        let remembered = || {
            memory.smoothed.drop_rate.map(|smoothed| Drops {
                smoothed,
                baseline: parameters.baseline(memory),
            })
        };
        match drops.or_else(remembered) {
            Some(drops) => stand(parameters, &drops),
            // The law in force was another one when the newest sample came.
            None => Standing::Unknown("its drop rate is not known yet".to_owned()),
        }
    };
    Judgement {
        is_new: news.is_new,
        standing,
    }
}

/// Takes one drop rate into average and baseline. Returns what to judge: the baseline *before* it learned from this value.
fn learn(parameters: &Parameters, memory: &mut Workload, raw: f64) -> Drops {
    let smoothed = ewma(memory.smoothed.drop_rate, raw, parameters.alpha);
    let baseline = parameters.baseline(memory);
    let threshold = parameters.threshold(baseline);
    memory.smoothed.drop_rate = Some(smoothed);
    memory.drop_baseline = Some(if smoothed <= threshold && raw <= threshold {
        let weight = if raw > baseline {
            parameters.baseline_rise
        } else {
            parameters.baseline_fall
        };
        ewma(Some(baseline), raw, weight).max(parameters.baseline_floor)
    } else {
        baseline
    });
    Drops { smoothed, baseline }
}

fn stand(parameters: &Parameters, drops: &Drops) -> Standing {
    let threshold = parameters.threshold(drops.baseline);
    let (shown, limit, baseline) = (
        number(drops.smoothed),
        number(threshold),
        number(drops.baseline),
    );
    if drops.smoothed > threshold {
        Standing::Violating {
            action: Action::CongestionThrottle,
            decrease_bps: parameters.aggressive_decrease_bps,
            reading: Reading {
                ratio: drops.smoothed / threshold,
                text: format!(
                    "{shown} drops/s are above the {limit} drops/s allowed over a baseline of {baseline}, a sign of congestion"
                ),
            },
        }
    } else {
        Standing::Healthy(Reading {
            // Threshold and drops may both be 0.
            ratio: if drops.smoothed > 0.0 {
                drops.smoothed / threshold
            } else {
                0.0
            },
            text: format!(
                "{shown} drops/s are within the {limit} drops/s allowed over a baseline of {baseline}"
            ),
        })
    }
}
