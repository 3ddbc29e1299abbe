//! A decision and all that belongs to it, put together for text and JSON.

use laneguard_decider::decide::{self, Gate, Inputs};
use laneguard_decider_core::adaptive::{self, Memory, Phase};
use laneguard_decider_core::policy::{Law, Policy};
use laneguard_decider_core::state::State;
use laneguard_decider_core::{Action, Evaluation};
use laneguard_proto::subject::ENVIRONMENT_POLICY;
use laneguard_proto::v1::Decision;
use serde::Serialize;

use super::after::After;
use super::learned::{self, Fact};
use super::seen::{self, Seen};
use crate::name;
use crate::words::{decided_ms, mbit, ms, number, plain, timestamp};

/// All that is told about a decision.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Story {
    /// `namespace/name`, or `default`.
    pub(super) policy: String,
    /// Why this decision is the one that is explained.
    pub(super) chosen: String,
    /// What it comes to, in one sentence.
    pub(super) headline: String,
    /// The law's name.
    pub(super) law: String,
    /// Observe, Enforce.
    pub(super) mode: String,
    /// Ownership of the policy.
    pub(super) term: u64,
    /// The decision's number.
    pub(super) sequence: u64,
    /// When it was made, RFC 3339.
    pub(super) decided_at: String,
    /// The same, Unix milliseconds.
    #[serde(skip)]
    pub(super) decided_ms: i64,
    /// The law's word.
    pub(super) action: String,
    /// The law's own sentence.
    pub(super) reason: String,
    /// Unchanged evaluations before it.
    pub(super) repeats: u64,
    /// The samples.
    pub(super) seen: Vec<Seen>,
    /// What that means, in plain sentences.
    pub(super) meaning: Vec<String>,
    /// Every class.
    pub(super) limits: Vec<Limit>,
    /// What the law knows after it.
    pub(super) learned: Vec<Fact>,
    /// When limits would rise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) next_raise: Option<String>,
    /// What followed.
    pub(super) after: After,
    /// What the operator can do.
    pub(super) options: Vec<String>,
}

/// The limit of a class before and after.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Limit {
    /// The class.
    pub(super) class: String,
    /// Per pod, bits per second.
    pub(super) before_bps: Option<f64>,
    /// Per pod, bits per second.
    pub(super) after_bps: Option<f64>,
    /// Never less, bits per second per pod.
    pub(super) min_bps: Option<f64>,
    /// Never more, bits per second per pod.
    pub(super) max_bps: Option<f64>,
    /// Pods whose counters were seen. Unset: unknown.
    pub(super) pods: Option<u32>,
}

impl Limit {
    /// Whether it is another one afterwards.
    pub(super) fn is_changed(&self) -> bool {
        self.before_bps != self.after_bps
    }
}

/// Tells the story of a decision.
pub(super) fn tell(decision: &Decision, chosen: String, after: After) -> Story {
    let at_ms = decided_ms(decision);
    let inputs = Inputs::of_record(decision).ok();
    let outcome = inputs.as_ref().map(Inputs::decide);
    let judged = inputs
        .as_ref()
        .map(|inputs| adaptive::in_force(&inputs.policy, &inputs.state));
    let policy = judged.as_deref();
    let seen: Vec<Seen> = decision
        .samples
        .iter()
        .map(|sample| seen::seen(policy, sample, at_ms))
        .collect();
    let limits = limits(decision, policy, &seen);
    let state = outcome.as_ref().map(|evaluation| &evaluation.state);
    let context = Context {
        decision,
        inputs: inputs.as_ref(),
        outcome: outcome.as_ref(),
        seen: &seen,
        limits: &limits,
    };
    Story {
        policy: name::shown(&plain(&decision.policy)),
        chosen,
        headline: context.headline(),
        law: plain(&decision.law),
        mode: plain(&decision.mode),
        term: decision.term,
        sequence: decision.sequence,
        decided_at: timestamp(at_ms),
        decided_ms: at_ms,
        action: plain(&decision.action),
        reason: plain(&decision.reason),
        repeats: decision.repeats,
        meaning: context.meaning(),
        options: context.options(),
        learned: match (policy, state) {
            (Some(policy), Some(state)) => learned::facts(policy, state, at_ms),
            _ => Vec::new(),
        },
        next_raise: policy
            .zip(state)
            .and_then(|(policy, state)| learned::next_raise(policy, state, at_ms)),
        seen,
        limits,
        after,
    }
}

fn limits(decision: &Decision, policy: Option<&Policy>, seen: &[Seen]) -> Vec<Limit> {
    let of_class = |class: &str| policy?.classes.iter().find(|c| c.name == class);
    decision
        .limits
        .iter()
        .map(|limit| Limit {
            class: plain(&limit.class),
            before_bps: limit.before_bps,
            after_bps: limit.after_bps,
            min_bps: of_class(&limit.class).map(|class| class.min_bps),
            max_bps: of_class(&limit.class).map(|class| class.max_bps),
            pods: seen
                .iter()
                .flat_map(|seen| &seen.sent)
                .filter(|sent| sent.class == limit.class)
                .map(|sent| sent.pods)
                .max(),
        })
        .collect()
}

struct Context<'a> {
    decision: &'a Decision,
    /// Unset for a law that is not ours.
    inputs: Option<&'a Inputs>,
    outcome: Option<&'a Evaluation>,
    seen: &'a [Seen],
    limits: &'a [Limit],
}

impl Context<'_> {
    fn action(&self) -> Option<Action> {
        self.decision.action.parse().ok()
    }

    fn is_observing(&self) -> bool {
        self.decision.mode == "Observe" || self.decision.shadow
    }

    fn memory(&self) -> Option<&Memory> {
        self.outcome?.state.adaptive.as_deref()
    }

    fn law(&self) -> Option<&Law> {
        Some(&self.inputs?.policy.law)
    }

    fn state_before(&self) -> Option<&State> {
        Some(&self.inputs?.state)
    }

    /// The workload and signal farthest above its target, as a phrase.
    fn worst(&self) -> Option<String> {
        let all = self
            .seen
            .iter()
            .flat_map(|seen| seen.signals.iter().map(move |signal| (seen, signal)));
        let judged = all
            .filter_map(|(seen, signal)| Some((seen, signal, signal.value_ms?, signal.target_ms?)));
        let (seen, signal, value, target) = judged
            .filter(|(_, _, value, target)| value > target)
            .max_by(|a, b| (a.2 / a.3).total_cmp(&(b.2 / b.3)))?;
        Some(format!(
            "{} of {} was {}, target {}",
            signal.metric,
            seen.workload,
            ms(value),
            ms(target)
        ))
    }

    /// The limits that changed, or all, as a phrase.
    fn change_text(&self) -> String {
        let changed: Vec<&Limit> = self
            .limits
            .iter()
            .filter(|limit| limit.is_changed())
            .collect();
        let of = |limit: &Limit| {
            let bps =
                |bps: Option<f64>| bps.map_or_else(|| "?".to_owned(), |bps| number(bps / 1e6));
            if limit.is_changed() {
                format!(
                    "class {} from {} to {} Mbit/s per pod",
                    limit.class,
                    bps(limit.before_bps),
                    bps(limit.after_bps)
                )
            } else {
                format!(
                    "class {} at {} Mbit/s per pod",
                    limit.class,
                    bps(limit.after_bps)
                )
            }
        };
        let shown: Vec<&Limit> = if changed.is_empty() {
            self.limits.iter().collect()
        } else {
            changed
        };
        let mut texts: Vec<String> = shown.iter().take(4).map(|limit| of(limit)).collect();
        if shown.len() > 4 {
            texts.push(format!("{} more classes", shown.len() - 4));
        }
        texts.join(", ")
    }

    fn headline(&self) -> String {
        let is_changed = self.limits.iter().any(Limit::is_changed);
        let change = self.change_text();
        let verb = |done: &str, would: &str| {
            if self.is_observing() {
                would.to_owned()
            } else {
                done.to_owned()
            }
        };
        let because = self
            .worst()
            .map_or_else(String::new, |worst| format!(", because {worst}"));
        match self.action() {
            Some(Action::CongestionThrottle | Action::LatencyGentleThrottle) => {
                format!(
                    "Best-effort {}: {change}{because}.",
                    verb("was cut", "would have been cut")
                )
            }
            Some(Action::Increase) => format!(
                "Best-effort {} more: {change}.",
                verb("got", "would have got")
            ),
            Some(Action::Guard) => format!(
                "Limits that nobody used {} to what is safe: {change}.",
                verb("were lowered", "would have been lowered")
            ),
            Some(Action::ForecastThrottle) => format!(
                "Best-effort {} ahead of load that is expected: {change}.",
                verb("was cut", "would have been cut")
            ),
            Some(Action::NotBandwidth) => {
                let back = if is_changed {
                    format!(" What was taken goes back: {change}.")
                } else {
                    String::new()
                };
                format!("Targets are missed, but best-effort is not the cause.{back}")
            }
            Some(Action::CannotBeMet) => {
                let back = if is_changed {
                    format!(" What was taken goes back: {change}.")
                } else {
                    String::new()
                };
                format!("The targets cannot be met, whatever best-effort does.{back}")
            }
            Some(Action::Hold) if !is_changed => {
                let despite = self
                    .worst()
                    .map_or_else(String::new, |worst| format!(", although {worst}"));
                format!("Nothing was changed{despite}: {change}.")
            }
            _ => format!("{}: {change}.", plain(&self.decision.action)),
        }
    }

    fn meaning(&self) -> Vec<String> {
        let mut told = Vec::new();
        match self.inputs.and_then(|inputs| inputs.gate.as_ref()) {
            Some(Gate::Released { .. }) => {
                told.push("An operator released the policy: the law was not asked, and pods keep what they had before Laneguard.".to_owned());
                return told;
            }
            Some(Gate::Frozen { .. }) => {
                told.push("An operator froze the limits: the law was not asked.".to_owned());
                return told;
            }
            Some(Gate::Unplaced { .. }) => {
                told.push("The actuator has not said yet which pods there are and what limits they have, so there was nothing to begin with.".to_owned());
                return told;
            }
            None => {}
        }
        if self.law().is_none() {
            told.push(format!(
                "The law {} is not Laneguard's own: only its decider knows more than the sentence below.",
                plain(&self.decision.law)
            ));
            return told;
        }
        let unusable: Vec<&Seen> = self
            .seen
            .iter()
            .filter(|seen| !matches!(seen.quality, "GOOD" | "COARSE" | "IDLE"))
            .collect();
        if self
            .outcome
            .is_some_and(|now| decide::limits(now) != self.decision.limits)
        {
            told.push("Another version of the law decided this: this one, asked again, gives other limits, so what it is said to know below is only about right.".to_owned());
        }
        if let Some(seen) = unusable.first() {
            told.push(format!("There is no usable measurement of {}: no data is not good data, so nothing is raised.", seen.workload));
        }
        match (self.law(), self.action()) {
            (Some(Law::Adaptive(_)), Some(action)) => told.extend(self.adaptive_meaning(action)),
            (Some(Law::Threshold(parameters)), Some(action)) => told.extend(match action {
                Action::CongestionThrottle => Some(format!(
                    "Smoothed jitter is above its target, which this law takes for congestion: every limit goes down by {}.",
                    mbit(parameters.aggressive_decrease_bps)
                )),
                Action::LatencyGentleThrottle => Some(format!(
                    "Smoothed latency is above its target while jitter is fine, which this law takes for distance rather than congestion: every limit goes down by {}.",
                    mbit(parameters.gentle_decrease_bps.min(parameters.aggressive_decrease_bps))
                )),
                Action::Increase => Some(format!(
                    "Every smoothed signal is within its target: every limit goes up by {}.",
                    mbit(parameters.increase_step_bps)
                )),
                _ => None,
            }),
            (Some(Law::DropRate(parameters)), Some(action)) => told.extend(match action {
                Action::CongestionThrottle => Some(format!(
                    "More packets are dropped than policy alone explains: every limit goes down by {}.",
                    mbit(parameters.aggressive_decrease_bps)
                )),
                Action::Increase => Some(format!(
                    "Drops are at their usual rate: every limit goes up by {}.",
                    mbit(parameters.increase_step_bps)
                )),
                _ => None,
            }),
            _ => {}
        }
        told
    }

    fn adaptive_meaning(&self, action: Action) -> Vec<String> {
        let mut told = Vec::new();
        let Some(memory) = self.memory() else {
            return told;
        };
        let before = self
            .state_before()
            .and_then(|state| state.adaptive.as_deref());
        let is_learned = memory.capacity.is_some()
            && memory.capacity != before.and_then(|before| before.capacity);
        match action {
            Action::CongestionThrottle => {
                let raised_ms = before
                    .and_then(|before| before.change)
                    .filter(|change| change.up)
                    .map(|change| self.inputs.map_or(0, |inputs| inputs.now_ms) - change.at_ms)
                    .filter(|since_ms| (0..10_000).contains(since_ms));
                told.push(match raised_ms {
                    Some(since_ms) => format!(
                        "The network was congested: limits had been raised {} before, and that was too much.",
                        crate::words::duration(since_ms)
                    ),
                    None => "The network was congested: critical requests waited behind best-effort in a queue.".to_owned(),
                });
                if let (true, Some(capacity)) = (is_learned, memory.capacity) {
                    told.push(format!(
                        "From what best-effort really sent and how fast the queue grew, the link carries about {} of best-effort beside the critical traffic.",
                        mbit(capacity.low_bps)
                    ));
                }
                if let Phase::Episode(episode) = memory.phase
                    && episode.settle > 1.0
                {
                    told.push("The cut goes below that on purpose, and for a moment only: the queue has to empty first.".to_owned());
                }
            }
            Action::LatencyGentleThrottle => told.push(
                "No target is missed, but a queue begins to build: a small step back now spares a cut later.".to_owned(),
            ),
            Action::Increase => told.push(match before.map(|before| before.phase) {
                Some(Phase::Episode(_)) => "The queue is gone, so limits rise from the cut to just under what the link carries.".to_owned(),
                _ if memory.testing => "Limits had stayed just under what hurt for long enough: a small step finds out whether that still holds.".to_owned(),
                _ => "Every target is met and best-effort wants more, so it gets more.".to_owned(),
            }),
            Action::Guard => told.push(
                "Were all pods to start at once at these limits, they would fill the link, so limits wait at what was safe for all.".to_owned(),
            ),
            Action::NotBandwidth => told.push(
                "Cutting best-effort did not help, or it sent next to nothing: something else makes critical requests slow, so best-effort is left alone.".to_owned(),
            ),
            Action::CannotBeMet => told.push(
                "The workload never met its targets, not even with best-effort out of the way: they are below what it does alone.".to_owned(),
            ),
            Action::ForecastThrottle => told.push(
                "Load that comes back with a period is expected next: best-effort makes room before it comes, so that nobody has to wait.".to_owned(),
            ),
            Action::Hold => {}
        }
        told
    }

    fn options(&self) -> Vec<String> {
        let shown = name::shown(&plain(&self.decision.policy));
        let is_environment = self.decision.policy == ENVIRONMENT_POLICY;
        let mut told = Vec::new();
        match self.action() {
            Some(Action::NotBandwidth) => told.push(
                "Look at the workload itself: processor time, memory, its own dependencies, packet loss. Best-effort bandwidth is not it.".to_owned(),
            ),
            Some(Action::CannotBeMet) => told.push(
                "Set targets above what the workload shows alone (see above), or make the workload faster.".to_owned(),
            ),
            _ => {}
        }
        if self
            .seen
            .iter()
            .any(|seen| !matches!(seen.quality, "GOOD" | "COARSE" | "IDLE"))
        {
            told.push("Find out why there is no usable measurement: the sentence beside the workload above says what the collector found.".to_owned());
        }
        if self.is_observing() {
            told.push("The policy only observes: no pod was touched. `mode: Enforce` in the policy makes it act.".to_owned());
        } else {
            told.push(format!(
                "Give best-effort back what it had before Laneguard, at once: `lanectl release {shown}`; `lanectl resume {shown}` ends that."
            ));
        }
        let at_min = self
            .limits
            .iter()
            .any(|limit| limit.after_bps.is_some() && limit.after_bps == limit.min_bps);
        let settings = if is_environment {
            [
                "the targets: TARGET_LATENCY_MS and TARGET_JITTER_MS",
                "what best-effort keeps in any case: MIN_BANDWIDTH_MBPS",
            ]
        } else {
            [
                "the targets: spec.critical[].targets",
                "what best-effort keeps in any case: spec.bestEffort[].bandwidth.min",
            ]
        };
        let [targets, min] = settings;
        let stuck = if at_min {
            " (limits are there now)"
        } else {
            ""
        };
        let whose = if is_environment {
            "the environment's policy"
        } else {
            "the policy"
        };
        told.push(format!("Change in {whose} {targets}; {min}{stuck}."));
        told.push(format!("Watch what it does next: `lanectl watch {shown}`."));
        told
    }
}
