//! When a wish may become a change: verdict, agreement, cooldown, bounds. One home for what the stepping laws share.
//!
//! 1. **Verdict.** The worst critical workload governs: any violation in a new sample wants less, by the largest step any
//!    of them asks for; a raise needs every workload healthy, each by a usable sample that came since the last verdict.
//!    Without a verdict nothing changes, neither limits nor what is remembered here.
//! 2. **Agreement.** A verdict against the direction of the last change needs [`AGREEMENT`] verdicts in a row. Verdicts
//!    inside the cooldown count.
//! 3. **Cooldown.** From the last *changed* limit, for both directions. The first change needs none.
//! 4. **Bounds.** Each class takes the step on its own and is clamped to its own bounds. Where no class moves, nothing
//!    changed: no cooldown starts, the direction stays.
//!
//! Limits outside the bounds (the policy changed, or an annotation was found there) are brought inside at once, with no
//! regard to 1 to 3: it is the operator's change, not the law's.

use crate::{
    Action, Evaluation, LimitChange,
    policy::Policy,
    reason::{and_more, limits, mbit, seconds},
    state::{Direction, Pending, State},
};

/// Verdicts in a row that a change against the last direction needs.
pub(crate) const AGREEMENT: u8 = 2;

/// The parameters of pace that the laws share.
pub(crate) struct Pace {
    /// Least time between changes.
    pub(crate) cooldown_ms: u64,
    /// Step up.
    pub(crate) increase_step_bps: f64,
}

/// What a law found for one workload.
pub(crate) struct Judgement {
    /// Whether it rests on a sample that this evaluation took in.
    pub(crate) is_new: bool,
    /// What it found.
    pub(crate) standing: Standing,
}

/// How a workload stands against its targets.
pub(crate) enum Standing {
    /// Not known; the text says why, to follow the workload's name and a colon.
    Unknown(String),
    /// Nothing to complain about.
    Healthy(Reading),
    /// Above a target, in a window that is tolerated: no reason to throttle and none to raise.
    Tolerated(Reading),
    /// Best-effort traffic is to get less.
    Violating {
        /// The law's word for it.
        action: Action,
        /// By how much.
        decrease_bps: f64,
        /// What was read.
        reading: Reading,
    },
}

/// A signal against its target.
pub(crate) struct Reading {
    /// Value over target: the greatest of several is the one worth naming.
    pub(crate) ratio: f64,
    /// Value and target in words, to follow the workload's name and a colon.
    pub(crate) text: String,
}

struct Verdict {
    action: Action,
    direction: Direction,
    step_bps: f64,
    why: String,
}

/// Turns the judgements, one per workload in the policy's order, into an evaluation. `state` has the policy's shape.
pub(crate) fn conclude(
    now_ms: i64,
    pace: &Pace,
    policy: &Policy,
    mut state: State,
    judgements: &[Judgement],
) -> Evaluation {
    // A clock that was set back must not stretch the cooldown: it then lasts one full length from now.
    state.last_change_ms = state.last_change_ms.map(|last| last.min(now_ms));

    let verdict = match reach_verdict(&state, judgements, pace) {
        Ok(verdict) => verdict,
        Err(why) => return hold(policy, state, &why),
    };
    for workload in &mut state.workloads {
        workload.advanced = false;
    }
    let agreeing = agree(&mut state, verdict.direction);
    let Verdict { action, why, .. } = &verdict;

    let signed_step_bps = match verdict.direction {
        Direction::Up => verdict.step_bps,
        Direction::Down => -verdict.step_bps,
    };
    let moves = policy
        .classes
        .iter()
        .zip(&state.limits)
        .any(|(class, limit)| {
            let inside_bps = class.clamp(limit.limit_bps);
            class.clamp(inside_bps + signed_step_bps) != inside_bps
        });
    if !moves {
        let bound = match verdict.direction {
            Direction::Up => "already at its maximum: there is nothing more to give back",
            Direction::Down => "already at its minimum: there is nothing more to take",
        };
        return hold(policy, state, &format!("{why}, and every class is {bound}"));
    }
    if let Some((since_ms, left_ms)) = cooldown(now_ms, pace, &state) {
        let text = format!(
            "{why}, which calls for {action}; but limits changed {} ago and {} of the cooldown of {} are left",
            seconds(since_ms),
            seconds(left_ms),
            seconds(pace.cooldown_ms)
        );
        return hold(policy, state, &text);
    }
    if agreeing < AGREEMENT {
        let last = match verdict.direction {
            Direction::Up => "down",
            Direction::Down => "up",
        };
        let text = format!(
            "{why}, which calls for {action}; but the last change went {last} and a turn needs {AGREEMENT} evaluations in a \
             row that agree: this is number {agreeing}"
        );
        return hold(policy, state, &text);
    }

    let changes = apply(policy, &mut state, signed_step_bps);
    state.last_change_ms = Some(now_ms);
    state.last_direction = Some(verdict.direction);
    state.pending = None;
    let way = match verdict.direction {
        Direction::Up => "up",
        Direction::Down => "down",
    };
    let reason = format!(
        "{why}: limits go {way} by {}, within each class's bounds ({}). The next change can come in {}.",
        mbit(verdict.step_bps),
        limits(&changes),
        seconds(pace.cooldown_ms)
    );
    Evaluation {
        action: *action,
        reason,
        limits: changes,
        state,
    }
}

/// The verdict, or why there is none.
fn reach_verdict(state: &State, judgements: &[Judgement], pace: &Pace) -> Result<Verdict, String> {
    let named = || {
        state
            .workloads
            .iter()
            .map(|memory| memory.workload.as_str())
            .zip(judgements)
    };

    // Violations in new samples: the worst governs.
    let mut worst: Option<(&str, Action, f64, &Reading)> = None;
    let mut others = 0;
    for (workload, judgement) in named().filter(|(_, judgement)| judgement.is_new) {
        if let Standing::Violating {
            action,
            decrease_bps,
            reading,
        } = &judgement.standing
        {
            let is_worse = worst.is_none_or(|(_, _, worst_bps, worst_reading)| {
                (*decrease_bps, reading.ratio) > (worst_bps, worst_reading.ratio)
            });
            others += usize::from(worst.is_some());
            if is_worse {
                worst = Some((workload, *action, *decrease_bps, reading));
            }
        }
    }
    if let Some((workload, action, step_bps, reading)) = worst {
        return Ok(Verdict {
            action,
            direction: Direction::Down,
            step_bps,
            why: format!("{workload}: {}{}", reading.text, and_more(others)),
        });
    }

    // What is not known, or not yet judged anew, forbids a raise.
    let mut unknown = named().filter_map(|(workload, judgement)| match &judgement.standing {
        Standing::Unknown(why) => Some((workload, why)),
        _ => None,
    });
    if let Some((workload, why)) = unknown.next() {
        let others = and_more(unknown.count());
        return Err(format!(
            "{workload}: {why}{others}, and without data no limit is raised"
        ));
    }
    if !judgements.iter().any(|judgement| judgement.is_new) {
        return Err("No sample came since the last evaluation".to_owned());
    }
    for (workload, judgement) in named() {
        if let Standing::Violating { reading, .. } = &judgement.standing {
            return Err(format!(
                "{workload}: {}, but that was judged before and no newer sample came",
                reading.text
            ));
        }
    }
    let mut tolerated = named().filter_map(|(workload, judgement)| match &judgement.standing {
        Standing::Tolerated(reading) => Some((workload, reading)),
        _ => None,
    });
    if let Some((workload, reading)) = tolerated.next() {
        return Err(format!("{workload}: {}", reading.text));
    }
    if let Some(memory) = state.workloads.iter().find(|memory| !memory.advanced) {
        return Err(format!(
            "{}: no sample came since it was last judged, and a raise needs a new one of every critical workload",
            memory.workload
        ));
    }

    let healthy = named().filter_map(|(workload, judgement)| match &judgement.standing {
        Standing::Healthy(reading) => Some((workload, reading)),
        _ => None,
    });
    let closest = healthy.max_by(|(_, a), (_, b)| a.ratio.total_cmp(&b.ratio));
    let why = match (closest, judgements.len()) {
        (Some((workload, reading)), 1) => format!("{workload}: {}", reading.text),
        (Some((workload, reading)), count) => format!(
            "All {count} critical workloads are healthy, closest to its limit {workload}: {}",
            reading.text
        ),
        (None, _) => return Err("There is no critical workload".to_owned()),
    };
    Ok(Verdict {
        action: Action::Increase,
        direction: Direction::Up,
        step_bps: pace.increase_step_bps,
        why,
    })
}

/// Counts the verdict and returns how many agree; [`AGREEMENT`] where none is needed.
fn agree(state: &mut State, direction: Direction) -> u8 {
    if state.last_direction.is_none_or(|last| last == direction) {
        state.pending = None;
        return AGREEMENT;
    }
    let before = state
        .pending
        .filter(|pending| pending.direction == direction)
        .map_or(0, |pending| pending.agreeing);
    let agreeing = before.saturating_add(1).min(AGREEMENT);
    state.pending = Some(Pending {
        direction,
        agreeing,
    });
    agreeing
}

/// Time since the last change and left of the cooldown, in milliseconds, while inside it.
fn cooldown(now_ms: i64, pace: &Pace, state: &State) -> Option<(u64, u64)> {
    let since_ms = u64::try_from(now_ms.saturating_sub(state.last_change_ms?)).unwrap_or(0);
    let left_ms = pace.cooldown_ms.saturating_sub(since_ms);
    (left_ms > 0).then_some((since_ms, left_ms))
}

/// Moves every limit by the step, inside the bounds.
fn apply(policy: &Policy, state: &mut State, signed_step_bps: f64) -> Vec<LimitChange> {
    policy
        .classes
        .iter()
        .zip(&mut state.limits)
        .map(|(class, limit)| {
            let before_bps = limit.limit_bps;
            limit.limit_bps = class.clamp(class.clamp(before_bps) + signed_step_bps);
            LimitChange {
                class: class.name.clone(),
                before_bps,
                after_bps: limit.limit_bps,
            }
        })
        .collect()
}

fn hold(policy: &Policy, mut state: State, why: &str) -> Evaluation {
    let changes = apply(policy, &mut state, 0.0);
    let limits = limits(&changes);
    let reason = if changes.iter().any(LimitChange::is_changed) {
        format!("{why}. Only the policy's bounds move limits: {limits}.")
    } else {
        format!("{why}. No limit changes: {limits}.")
    };
    Evaluation {
        action: Action::Hold,
        reason,
        limits: changes,
        state,
    }
}
