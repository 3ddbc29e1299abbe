//! `Threshold`: the predecessor's law, faithful by the reading in `DESIGN.md` section 3.
//!
//! Each signal that has a target is smoothed by an exponentially weighted moving average that starts at the first value,
//! in milliseconds:
//!
//! ```text
//! smoothed = alpha * raw + (1 - alpha) * smoothed
//! ```
//!
//! | condition (smoothed, strict) | action | every limit |
//! |---|---|---|
//! | jitter > target | `CONGESTION_THROTTLE` | minus `aggressive_decrease_bps` |
//! | else P95, P99 or mean latency > target (distance, not congestion) | `LATENCY_GENTLE_THROTTLE` | minus `gentle_decrease_bps` |
//! | else | `INCREASE` | plus `increase_step_bps` |
//!
//! Of several critical workloads the worst governs. Only samples of quality Good and Coarse are measured; an idle workload
//! is healthy and leaves its averages alone; all else, a signal with a target that a sample lacks included, is missing data:
//! averages stay, nothing is raised, and what other signals and workloads show still throttles. Cooldown, the two
//! agreeing evaluations that a turn needs, and bounds are in `pace.rs`.
//!
//! Where a workload tolerates some windows above target (`tolerance.rs`), these neither throttle nor raise. Every class takes the same step,
//! as with the predecessor: weights and the order of sacrifice are `Adaptive`'s.
//!
//! The law does not ask whether a sample's window began before its last change took effect; the cooldown stands for that.

use serde::{Deserialize, Serialize};

use crate::{
    Action, Evaluation,
    intake::{ewma, take_in_once},
    pace::{Judgement, Pace, Reading, Standing, conclude},
    policy::{Critical, Policy, PolicyError, Targets, duration, positive, weight},
    reason::number,
    sample::Sample,
    state::{Smoothed, State, Workload},
    tolerance::tolerated,
};

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

/// One signal that can have a target. Jitter first: the table above in order.
struct Signal {
    name: &'static str,
    is_congestion: bool,
    target: fn(&Targets) -> Option<f64>,
    raw: fn(&Sample) -> Option<f64>,
    smoothed: fn(&mut Smoothed) -> &mut Option<f64>,
}

const SIGNALS: [Signal; 4] = [
    Signal {
        name: "jitter",
        is_congestion: true,
        target: |targets| targets.jitter_ms,
        raw: |sample| sample.jitter_ms,
        smoothed: |smoothed| &mut smoothed.jitter_ms,
    },
    Signal {
        name: "P95 latency",
        is_congestion: false,
        target: |targets| targets.p95_ms,
        raw: |sample| sample.p95_ms,
        smoothed: |smoothed| &mut smoothed.p95_ms,
    },
    Signal {
        name: "P99 latency",
        is_congestion: false,
        target: |targets| targets.p99_ms,
        raw: |sample| sample.p99_ms,
        smoothed: |smoothed| &mut smoothed.p99_ms,
    },
    Signal {
        name: "mean latency",
        is_congestion: false,
        target: |targets| targets.mean_ms,
        raw: |sample| sample.mean_ms,
        smoothed: |smoothed| &mut smoothed.mean_ms,
    },
];

pub(crate) fn evaluate(
    now_ms: i64,
    parameters: &Parameters,
    policy: &Policy,
    state: &State,
    samples: &[Sample],
) -> Evaluation {
    let mut state = state.shaped(policy);
    let judgements: Vec<Judgement> = policy
        .critical
        .iter()
        .zip(&mut state.workloads)
        .map(|(critical, memory)| judge(now_ms, parameters, critical, memory, samples))
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
    critical: &Critical,
    memory: &mut Workload,
    samples: &[Sample],
) -> Judgement {
    // Which signals the newest measured sample had: an old average must not stand in for a value that is missing now.
    let mut present = [true; SIGNALS.len()];
    let mut tolerance = None;
    let max_age_ms = parameters.max_sample_age_ms;
    let news = take_in_once(now_ms, max_age_ms, memory, samples, |memory, sample| {
        present = smooth(parameters.alpha, &critical.targets, memory, sample);
        let is_above = is_above(&critical.targets, &mut memory.smoothed, present);
        tolerance = tolerated(critical.tolerate, &mut memory.missed, is_above);
        let missing = SIGNALS
            .iter()
            .zip(present)
            .find(|(signal, present)| !present && (signal.target)(&critical.targets).is_some());
        match missing {
            Some((signal, _)) => Err(format!(
                "its sample {} has no {}",
                sample.sequence, signal.name
            )),
            None => Ok(()),
        }
    });

    let is_idle = memory.evidence.is_some_and(|evidence| evidence.idle);
    let standing = if is_idle && news.unknown.is_none() {
        Standing::Healthy(Reading {
            ratio: 0.0,
            text: "it is idle".to_owned(),
        })
    } else {
        stand(
            parameters,
            critical,
            memory,
            present,
            news.is_new,
            news.unknown,
        )
    };
    let standing = match (standing, tolerance) {
        (Standing::Violating { mut reading, .. }, Some(tolerance)) => {
            reading.text = format!("{}, {tolerance}", reading.text);
            Standing::Tolerated(reading)
        }
        (standing, _) => standing,
    };
    Judgement {
        is_new: news.is_new,
        standing,
    }
}

/// Whether an average of a signal that the newest window had is above its target.
fn is_above(targets: &Targets, smoothed: &mut Smoothed, present: [bool; SIGNALS.len()]) -> bool {
    SIGNALS
        .iter()
        .zip(present)
        .filter(|(_, present)| *present)
        .any(|(signal, _)| {
            let average = *(signal.smoothed)(smoothed);
            average
                .zip((signal.target)(targets))
                .is_some_and(|(value, target)| value > target)
        })
}

/// Takes one sample into the averages and says which signals it had. A signal without target is forgotten, so that no old
/// average comes back when it gets one.
fn smooth(
    alpha: f64,
    targets: &Targets,
    memory: &mut Workload,
    sample: &Sample,
) -> [bool; SIGNALS.len()] {
    SIGNALS.map(|signal| {
        let average = (signal.smoothed)(&mut memory.smoothed);
        let raw = (signal.raw)(sample);
        if (signal.target)(targets).is_none() {
            *average = None;
        } else if let Some(raw) = raw {
            *average = Some(ewma(*average, raw, alpha));
        }
        raw.is_some()
    })
}

/// Compares averages with targets.
fn stand(
    parameters: &Parameters,
    critical: &Critical,
    memory: &mut Workload,
    present: [bool; SIGNALS.len()],
    is_new: bool,
    unknown: Option<String>,
) -> Standing {
    let mut unknown = unknown;
    let mut worst: Option<(bool, Reading)> = None;
    let mut closest: Option<Reading> = None;
    for (signal, _) in SIGNALS.iter().zip(present).filter(|(_, present)| *present) {
        let Some(target) = (signal.target)(&critical.targets) else {
            continue;
        };
        let Some(value) = *(signal.smoothed)(&mut memory.smoothed) else {
            // The target is newer than the newest sample.
            unknown.get_or_insert_with(|| format!("its {} is not known yet", signal.name));
            continue;
        };
        let reading = |text| Reading {
            ratio: value / target,
            text,
        };
        let (name, shown, limit) = (signal.name, number(value), number(target));
        if value > target {
            let text = if signal.is_congestion {
                format!("{name} {shown} ms is above its target of {limit} ms, a sign of congestion")
            } else {
                format!("{name} {shown} ms is above its target of {limit} ms")
            };
            let is_worse = worst.as_ref().is_none_or(|(is_congestion, worst)| {
                !is_congestion && value / target > worst.ratio
            });
            if is_worse {
                worst = Some((signal.is_congestion, reading(text)));
            }
        } else if closest
            .as_ref()
            .is_none_or(|closest| value / target > closest.ratio)
        {
            let text = format!("{name} {shown} ms is within its target of {limit} ms");
            closest = Some(reading(text));
        }
    }

    match (worst, closest, unknown) {
        // A violation counts even if other signals are missing, but not one that only an old average shows.
        (Some((is_congestion, reading)), _, unknown) if is_new || unknown.is_none() => {
            if is_congestion {
                Standing::Violating {
                    action: Action::CongestionThrottle,
                    decrease_bps: parameters.aggressive_decrease_bps,
                    reading,
                }
            } else {
                Standing::Violating {
                    action: Action::LatencyGentleThrottle,
                    decrease_bps: parameters
                        .gentle_decrease_bps
                        .min(parameters.aggressive_decrease_bps),
                    reading,
                }
            }
        }
        (_, _, Some(why)) => Standing::Unknown(why),
        (_, Some(reading), None) => Standing::Healthy(reading),
        (_, None, None) => Standing::Unknown("it has no target".to_owned()),
    }
}
