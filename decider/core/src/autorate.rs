//! `Autorate`: cake-autorate's law, for comparison.
//!
//! The delay of each sample (its mean latency, where cake-autorate pings reflectors) against a baseline that falls at once and rises
//! slowly; with `delta = delay - baseline` and its mean over the last `window` samples, in milliseconds:
//!
//! ```text
//! baseline = baseline + w * (delay - baseline)              w = 0.001 upwards, 0.9 downwards; starts at the first delay
//! delayed  = delta > delay_ms in at least `needed` of the last `window` samples
//! ```
//!
//! | condition | every limit |
//! |---|---|
//! | delayed, and no cut within `refractory_ms` | times 0.99 to 0.75, linear in the mean delta from `delay_ms` to `worst_ms` |
//! | else some pod sends more than `busy` of its limit | times 1.04 to 1, linear in the mean delta from `best_ms` to `delay_ms` |
//! | else | 1 % per second towards `base_bps` |
//!
//! Source: <https://github.com/lynxthecat/cake-autorate>, `cake-autorate.sh` and `defaults.sh`. There samples come at 20 Hz and rates
//! are adjusted at 5 Hz; here both happen on each sample, so that the law is as fast as its samples.

use serde::{Deserialize, Serialize};

use crate::{
    Action, Evaluation, LimitChange,
    intake::{ewma, take_in},
    policy::{Policy, PolicyError, duration, in_range, positive},
    reason::{limits, number},
    sample::Sample,
    state::State,
};

/// Weights of a new delay in the baseline, upwards and downwards.
const WEIGHTS: (f64, f64) = (0.001, 0.9);
/// Factors of a cut: least and deepest.
const CUT: (f64, f64) = (0.99, 0.75);
/// Greatest factor of a raise.
const RAISE: f64 = 1.04;
/// Share per second by which limits return to the base.
const DECAY: f64 = 0.01;
/// Most samples that may be remembered; bounds the state.
const MOST_SAMPLES: usize = 32;

/// Parameters of the law. Unset ones take cake-autorate's defaults.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Parameters {
    /// A delta above this is a delay, milliseconds. Default 30.
    pub delay_ms: f64,
    /// The delta from which the cut is deepest, milliseconds, above `delay_ms`. Default 60.
    pub worst_ms: f64,
    /// The delta up to which the raise is greatest, milliseconds, below `delay_ms`. Default 10.
    pub best_ms: f64,
    /// Samples that vote, 1 to 32. Default 6.
    pub window: usize,
    /// Votes that make a delay, at most `window`. Default 3.
    pub needed: usize,
    /// Least time between two cuts, milliseconds, at most a day. Default 300.
    pub refractory_ms: u64,
    /// Share of its limit above which a pod is busy, 0 to 1. Default 0.75.
    pub busy: f64,
    /// Where limits return to without load, bits per second. Unset: they stay.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_bps: Option<f64>,
    /// A sample observed longer ago than this is no data, in milliseconds, at most a day. Default 60 000.
    pub max_sample_age_ms: u64,
}

impl Default for Parameters {
    fn default() -> Self {
        Self {
            delay_ms: 30.0,
            worst_ms: 60.0,
            best_ms: 10.0,
            window: 6,
            needed: 3,
            refractory_ms: 300,
            busy: 0.75,
            base_bps: None,
            max_sample_age_ms: 60_000,
        }
    }
}

impl Parameters {
    pub(crate) fn validate(&self) -> Result<(), PolicyError> {
        #[allow(clippy::cast_precision_loss)]
        let (window, needed, most) = (self.window as f64, self.needed as f64, MOST_SAMPLES as f64);
        positive("law.delay_ms", self.delay_ms)?;
        in_range("law.worst_ms", self.worst_ms, self.delay_ms, 1e6)?;
        in_range("law.best_ms", self.best_ms, 0.0, self.delay_ms)?;
        in_range("law.window", window, 1.0, most)?;
        in_range("law.needed", needed, 1.0, window)?;
        duration("law.refractory_ms", self.refractory_ms)?;
        in_range("law.busy", self.busy, 0.0, 1.0)?;
        if let Some(base_bps) = self.base_bps {
            positive("law.base_bps", base_bps)?;
        }
        duration("law.max_sample_age_ms", self.max_sample_age_ms)
    }
}

/// What is remembered of one workload's delay, milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Delay {
    /// Delay without queue.
    pub baseline_ms: f64,
    /// Deltas of the newest samples, oldest first.
    pub deltas_ms: Vec<f64>,
}

impl Delay {
    fn learn(&mut self, parameters: &Parameters, delay_ms: f64) {
        let weight = if delay_ms > self.baseline_ms {
            WEIGHTS.0
        } else {
            WEIGHTS.1
        };
        self.baseline_ms = ewma(Some(self.baseline_ms), delay_ms, weight);
        self.deltas_ms.push(delay_ms - self.baseline_ms);
        let kept = parameters.window.min(MOST_SAMPLES);
        let surplus = self.deltas_ms.len().saturating_sub(kept);
        self.deltas_ms.drain(..surplus);
    }

    fn is_delayed(&self, parameters: &Parameters) -> bool {
        let votes = self
            .deltas_ms
            .iter()
            .filter(|delta| **delta > parameters.delay_ms);
        votes.count() >= parameters.needed
    }

    #[allow(clippy::cast_precision_loss)]
    fn mean_ms(&self) -> f64 {
        self.deltas_ms.iter().sum::<f64>() / self.deltas_ms.len().max(1) as f64
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
    let (mut unknown, mut is_new) = (None, false);
    // The greatest mean delta governs, and any workload that is delayed.
    let mut worst: Option<(bool, f64, String)> = None;
    for memory in &mut state.workloads {
        let max_age_ms = parameters.max_sample_age_ms;
        let news = take_in(now_ms, max_age_ms, memory, samples, |memory, sample| {
            let Some(delay_ms) = sample.mean_ms else {
                return Err(format!(
                    "its sample {} has no mean latency",
                    sample.sequence
                ));
            };
            memory
                .delay
                .get_or_insert_with(|| Delay {
                    baseline_ms: delay_ms,
                    deltas_ms: Vec::new(),
                })
                .learn(parameters, delay_ms);
            Ok(())
        });
        is_new |= news.is_new;
        if let Some(why) = news.unknown {
            unknown.get_or_insert(format!("{}: {why}", memory.workload));
            continue;
        }
        let Some(delay) = &memory.delay else { continue };
        let found = (delay.is_delayed(parameters), delay.mean_ms());
        if worst
            .as_ref()
            .is_none_or(|(is_delayed, mean_ms, _)| found > (*is_delayed, *mean_ms))
        {
            worst = Some((found.0, found.1, memory.workload.clone()));
        }
    }
    let (factor, why) = if !is_new {
        (1.0, "No sample came since the last evaluation".to_owned())
    } else {
        choose(now_ms, parameters, &state, samples, worst, unknown)
    };
    conclude(now_ms, parameters, policy, state, factor, &why)
}

/// The factor on every limit, 0 for a return to the base.
fn choose(
    now_ms: i64,
    parameters: &Parameters,
    state: &State,
    samples: &[Sample],
    worst: Option<(bool, f64, String)>,
    unknown: Option<String>,
) -> (f64, String) {
    let linear = |value: f64, from: f64, to: f64| ((value - from) / (to - from)).clamp(0.0, 1.0);
    if let Some((true, mean_ms, workload)) = &worst {
        let since_ms = state
            .last_change_ms
            .map_or(i64::MAX, |last| now_ms.saturating_sub(last.min(now_ms)));
        let refractory_ms = i64::try_from(parameters.refractory_ms).unwrap_or(i64::MAX);
        let text = format!(
            "{workload}: delay is {} ms above its baseline",
            number(*mean_ms)
        );
        if since_ms < refractory_ms {
            return (1.0, format!("{text}, but the last change is too recent"));
        }
        let depth = linear(*mean_ms, parameters.delay_ms, parameters.worst_ms);
        return (CUT.0 + (CUT.1 - CUT.0) * depth, text);
    }
    if let Some(why) = unknown {
        return (1.0, format!("{why}, and without data no limit is raised"));
    }
    let mean_ms = worst.map_or(0.0, |(_, mean_ms, _)| mean_ms);
    let text = format!("delay is {} ms above its baseline", number(mean_ms));
    let is_busy = samples.iter().any(|sample| {
        sample.is_well_formed()
            && sample.usage.iter().any(|usage| {
                state
                    .limit_bps(&usage.class)
                    .is_some_and(|limit| usage.top_pod_bps > parameters.busy * limit)
            })
    });
    if is_busy {
        let nearness = linear(mean_ms, parameters.best_ms, parameters.delay_ms);
        (
            RAISE + (1.0 - RAISE) * nearness,
            format!("Pods are busy and {text}"),
        )
    } else {
        (0.0, format!("Pods are not busy and {text}"))
    }
}

fn conclude(
    now_ms: i64,
    parameters: &Parameters,
    policy: &Policy,
    mut state: State,
    factor: f64,
    why: &str,
) -> Evaluation {
    let decay = |limit_bps: f64| match parameters.base_bps {
        Some(base_bps) if limit_bps > base_bps => (limit_bps * (1.0 - DECAY)).max(base_bps),
        Some(base_bps) => (limit_bps * (1.0 + DECAY)).min(base_bps),
        None => limit_bps,
    };
    let (mut rises, mut falls) = (false, false);
    let changes: Vec<LimitChange> = policy
        .classes
        .iter()
        .zip(&mut state.limits)
        .map(|(class, limit)| {
            let before_bps = limit.limit_bps;
            let inside_bps = class.clamp(before_bps);
            limit.limit_bps = class.clamp(if factor == 0.0 {
                decay(inside_bps)
            } else {
                inside_bps * factor
            });
            rises |= limit.limit_bps > inside_bps;
            falls |= limit.limit_bps < inside_bps;
            LimitChange {
                class: class.name.clone(),
                before_bps,
                after_bps: limit.limit_bps,
            }
        })
        .collect();
    let action = match (rises, falls) {
        (false, false) => Action::Hold,
        (true, false) => Action::Increase,
        (_, true) => Action::CongestionThrottle,
    };
    if action != Action::Hold {
        state.last_change_ms = Some(now_ms);
    }
    let text = limits(&changes);
    let reason = if action == Action::Hold {
        format!("{why}. No limit changes: {text}.")
    } else {
        format!("{why}: limits {text}.")
    };
    Evaluation {
        action,
        reason,
        limits: changes,
        state,
    }
}
