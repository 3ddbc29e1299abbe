//! `Adaptive`: the default law. What best-effort really sends while the link is full *is* the capacity left to it.
//!
//! One critical sample and what best-effort sent meanwhile make one observation. With `D` the delay above the floor and `dD` its
//! growth within the window, both in milliseconds, `T` best-effort's total in bits per second, `T0` the same before, `w` the length of
//! the usage window in milliseconds and `o` the share of it that lies inside the congestion:
//!
//! ```text
//! capacity  C = (T - (1 - o) * T0) / (o + dD / w)    for the least and the greatest o that the share of slow requests allows;
//!                                                    dD / w, because what filled the queue was sent and not carried; twice
//!                                                    that for C_low, as flows that overshoot lose up to as much again
//! drain     limits to C_low * (1 - D / drain_ms)     a cut of 5 to 50 %, by which a queue of D is empty after drain_ms
//! settle    limits to C_low * (C_high / C_low)^0.15 * settle     as soon as a window that began after the cut is calm
//! ```
//!
//! If the limits themselves held the pods (some pod sent 97 % of its limit), `T` is no news about the link. After a raise, a queue that grew
//! to `D` in a time `t` was filled at `1 + D / t` times what the link carries: that is the new `C_high`, and limits settle by that below the
//! raise, and if it was a step towards the unknown, no higher than before it; otherwise the step is relative to `T`. Without usage the cut is `1 / sqrt(signal / target)`, within 0.5 and 0.85.
//!
//! | what is seen | what is done | file |
//! |---|---|---|
//! | above target, less than half of the usage window inside the congestion | wait for the next window | `above.rs` |
//! | above target in a window that began before the last cut took effect | nothing: it saw the old queue | `above.rs` |
//! | above target, and less so than in the window before | nothing: the queue drains | `above.rs` |
//! | above target | cut, `CONGESTION_THROTTLE` | `above.rs` |
//! | above target by a short queue (less than 60 ms), at a total that was seen to hold | cut until it has drained, then back: something paused; the second time within 15 s to 3 % less | `above.rs`, `relation.rs` |
//! | the same, after a raise, but deeper than twice the rate that the calm windows since allow, or the step times the time since and 8 ms | not the raise's doing: the same, and nothing is learned of the link; an early sign waits for the next window | `above.rs`, `within.rs` |
//! | an early sign after a raise far below a guess of the capacity | the raise is undone, but nothing is learned of the link the first time | `within.rs` |
//! | above target, and a queue may still have been draining since the last cut | at most another cut; it proves nothing about the cause | `above.rs` |
//! | above target, and cuts to a twentieth or the minimum did not help, or best-effort was idle | give it all back, `NOT_BANDWIDTH`, or `CANNOT_BE_MET` if targets were never met | `elsewhere.rs` |
//! | above target, and best-effort sends no more than its minimum, or cuts to the minimum helped too little | `CANNOT_BE_MET`: a lower minimum is needed | `above.rs` |
//! | above target on and off, with no more best-effort than when that was shown not to matter | `NOT_BANDWIDTH` still | `elsewhere.rs` |
//! | within, mean or signal on the way up, last change was a raise | undo it, `LATENCY_GENTLE_THROTTLE` | `within.rs` |
//! | the same, but clean, no jump, and this total holds with 95 % | nothing: a busier link looks like this | `within.rs`, `relation.rs` |
//! | within, pods at their limits, no limit known to hurt | half as much again | `probe.rs` |
//! | within, pods at their limits, a greater total was seen to hold | go there, 4 % at a time | `probe.rs`, `relation.rs` |
//! | within, pods at their limits, and the capacity is what one congested window said | half the way to that guess, or from it, 2 to 8 %, no farther than targets hold with 80 %, until one step hurts | `probe.rs` |
//! | within, pods at their limits, total below what hurt | half of what is left, slowly when near, no farther than targets hold with 90 % | `probe.rs`, `relation.rs` |
//! | within, at what the link is known to carry | after `patience_ms` half a percent more, then one, doubling only above the old mark | `probe.rs` |
//! | within, windows longer than a second, and a raise hurt not long ago | no raise above what held: it would cost another window | `probe.rs` |
//! | within, but a queue stands at the limits, or what they allow leaves next to no room | 2 % less, each interval | `within.rs` |
//! | within, and load is due that came back with a period so far | lower to what was safe beside it, `FORECAST_THROTTLE`; give it back if it does not come | `foresee.rs` |
//! | within, limits unused | never a raise; back to what is known to be safe for all pods at once, `GUARD` | `within.rs` |
//!
//! Its pace is its own: a change counts as in force `effect_ms` after the decision, which is learned from when pods obey a cut; windows
//! longer than a second stretch what waits. Several workloads: the worst governs, and a raise needs each of them calm, or idle, since the
//! last change. Several classes: one level per pod and unit of weight, and an order in which they give up, inside each one's bounds
//! (`steps.rs`). What is learned is averages and brackets (`memory.rs`), and what each total of best-effort does to latency, with its
//! uncertainty (`relation.rs`): no machine learning.
//!
//! Targets need not be given: with `Auto` they come from what a workload shows while best-effort is low, and until then limits hold
//! (`propose.rs`); the same says what could be met where given targets cannot.
//!
//! What it cannot do: tell a full link from a slow server without the few cuts that prove it; and best-effort that ignores loss (UDP, or many
//! flows in slow start) sends more than the link carries, so that the first capacity is too high and is approached from above.

mod above;
mod decide;
mod elsewhere;
mod foresee;
mod memory;
mod observe;
mod probe;
mod propose;
mod relation;
mod steps;
mod within;

use serde::{Deserialize, Serialize};

use crate::{
    Action, Evaluation, LimitChange,
    policy::{Policy, PolicyError, duration, in_range, positive},
    reason,
    sample::Sample,
    state::State,
};

use decide::{Control, Verdict};
pub use memory::{
    Capacity, Change, Elsewhere, Episode, Expected, Floor, Forecast, Memory, Onset, Phase, Streak,
};
pub use propose::{Baseline, Usual, WINDOWS_NEEDED, Window, in_force};
pub use relation::{Bin, Expectation, Relation};

/// Parameters of the law. An operator sets none of them; they are here so that they can be varied in replay.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Parameters {
    /// A sample observed longer ago than this is no data, in milliseconds, at most a day. Default 30 000.
    pub max_sample_age_ms: u64,
    /// The share of the measured capacity to settle at, 0.5 to 1. Default 0.97.
    pub settle: f64,
    /// In what time a cut is to empty the queue, in milliseconds. Default 300.
    pub drain_ms: f64,
    /// Least time between two raises near the capacity, in milliseconds, at most a day. Default 12 000.
    pub steady_interval_ms: u64,
    /// How long what is above a known capacity is left alone at first, in milliseconds, at most a day; doubles up to 16 times with each
    /// test that fails. Default 60 000.
    pub patience_ms: u64,
    /// Cuts in a row without improvement after which the cause is elsewhere, 1 to 10. Default 4.
    pub futile_cuts: u8,
    /// Whether load that comes again and again is foreseen. Default true.
    pub forecast: bool,
}

impl Default for Parameters {
    fn default() -> Self {
        Self {
            max_sample_age_ms: 30_000,
            settle: 0.97,
            drain_ms: 300.0,
            steady_interval_ms: 12_000,
            patience_ms: 60_000,
            futile_cuts: 4,
            forecast: true,
        }
    }
}

impl Parameters {
    pub(crate) fn validate(&self) -> Result<(), PolicyError> {
        duration("law.max_sample_age_ms", self.max_sample_age_ms)?;
        in_range("law.settle", self.settle, 0.5, 1.0)?;
        positive("law.drain_ms", self.drain_ms)?;
        duration("law.steady_interval_ms", self.steady_interval_ms)?;
        duration("law.patience_ms", self.patience_ms)?;
        in_range("law.futile_cuts", f64::from(self.futile_cuts), 1.0, 10.0)
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
    let mut memory =
        state
            .adaptive
            .take()
            .unwrap_or_default()
            .shaped(now_ms, policy, parameters.patience_ms);
    let resolved = propose::resolved(policy, &memory.baselines);
    let policy = resolved.as_ref();
    let mut seen = observe::observe(
        now_ms,
        parameters.max_sample_age_ms,
        policy,
        &mut state,
        &mut memory.floors,
        samples,
    );
    steps::count_pods(policy, &mut state, seen.usage.as_ref());
    if let Some(usage) = &mut seen.usage
        && let Some(change) = memory.change
        && memory.began_in_force(usage.start_ms)
    {
        steps::bound_by_limits(&state, usage, change.up);
    }
    let before: Vec<f64> = state.limits.iter().map(|limit| limit.limit_bps).collect();
    for (class, limit) in policy.classes.iter().zip(&mut state.limits) {
        limit.limit_bps = class.clamp(limit.limit_bps);
    }
    let inside: Vec<f64> = state.limits.iter().map(|limit| limit.limit_bps).collect();
    let all_advanced = state.workloads.iter().all(|workload| workload.advanced);

    let learning = propose::learn(policy, &state, &mut memory, &seen);

    let Verdict { action, mut why } = Control {
        now_ms,
        parameters,
        policy,
        seen: &seen,
        learning,
        is_known: seen.unknown.is_none() && all_advanced,
        state: &mut state,
        memory: &mut memory,
    }
    .decide();

    if action == Action::CannotBeMet
        && let Some(worst) = seen.findings.first()
        && let Some(instead) = propose::instead(
            &policy.critical[worst.workload],
            &memory.baselines[worst.workload],
        )
    {
        why = format!("{why}; {instead}");
    }

    let is_moved = state
        .limits
        .iter()
        .zip(&inside)
        .any(|(limit, inside)| limit.limit_bps != *inside);
    if is_moved {
        for workload in &mut state.workloads {
            workload.advanced = false;
        }
    }
    state.last_change_ms = if is_moved {
        Some(now_ms)
    } else {
        state.last_change_ms
    };
    let limits: Vec<LimitChange> = policy
        .classes
        .iter()
        .zip(&state.limits)
        .zip(before)
        .map(|((class, limit), before_bps)| LimitChange {
            class: class.name.clone(),
            before_bps,
            after_bps: limit.limit_bps,
        })
        .collect();
    // Where the bounds left nothing to move, a step is none.
    let action = match action {
        Action::NotBandwidth | Action::CannotBeMet => action,
        action if is_moved => action,
        _ => Action::Hold,
    };
    let text = reason::limits(&limits);
    let reason = if limits.iter().any(LimitChange::is_changed) {
        format!("{why}: limits {text}.")
    } else {
        format!("{why}. No limit changes: {text}.")
    };
    state.adaptive = Some(Box::new(memory));
    Evaluation {
        action,
        reason,
        limits,
        state,
    }
}
