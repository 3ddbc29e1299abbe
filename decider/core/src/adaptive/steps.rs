//! How limits move: one level for all pods, or one factor for all limits, inside the classes' bounds.

use crate::{
    policy::{Class, Policy},
    state::{Limit, State},
};

use super::observe::Seen;

/// Limits are whole kilobits per second, as an annotation can write them.
fn whole_kilobits(class: &Class, limit_bps: f64) -> f64 {
    class.clamp((class.clamp(limit_bps) / 1e3).round() * 1e3)
}

/// The level per pod at which all counted pods together may send `budget_bps`, with the classes' bounds heeded; `None` without pods.
pub(super) fn level_for(policy: &Policy, usage: &Seen, budget_bps: f64) -> Option<f64> {
    let classes = || {
        policy
            .classes
            .iter()
            .zip(&usage.classes)
            .filter(|(_, (pods, _))| *pods > 0.0)
    };
    let total = |level_bps: f64| -> f64 {
        classes()
            .map(|(class, (pods, _))| pods * class.clamp(level_bps))
            .sum()
    };
    classes().next()?;
    let (mut low, mut high) = (0.0, budget_bps);
    // The total rises with the level, so halving the interval finds it: 40 times leave a millionth of a percent.
    for _ in 0..40 {
        let middle = f64::midpoint(low, high);
        if total(middle) <= budget_bps {
            low = middle;
        } else {
            high = middle;
        }
    }
    Some(low)
}

/// Lowers every limit that is above the level.
pub(super) fn lower_to(policy: &Policy, state: &mut State, level_bps: f64) {
    each(policy, state, |class, limit_bps| {
        limit_bps.min(whole_kilobits(class, level_bps))
    });
}

/// Raises every limit that is below its class's level, in the policy's order.
pub(super) fn raise_to(policy: &Policy, state: &mut State, levels_bps: &[f64]) {
    for ((class, limit), level_bps) in policy.classes.iter().zip(&mut state.limits).zip(levels_bps)
    {
        limit.limit_bps = class.clamp(limit.limit_bps.max(whole_kilobits(class, *level_bps)));
    }
}

/// Multiplies every limit.
pub(super) fn scale(policy: &Policy, state: &mut State, factor: f64) {
    each(policy, state, |class, limit_bps| {
        let scaled = whole_kilobits(class, limit_bps * factor);
        if factor < 1.0 {
            scaled.min(limit_bps)
        } else {
            scaled.max(limit_bps)
        }
    });
}

fn each(policy: &Policy, state: &mut State, change: impl Fn(&Class, f64) -> f64) {
    for (class, limit) in policy.classes.iter().zip(&mut state.limits) {
        limit.limit_bps = class.clamp(change(class, limit.limit_bps));
    }
}

/// The greatest ratio of old to new limit: the factor that undoes a change.
pub(super) fn undo(before: &[Limit], after: &[Limit]) -> f64 {
    before
        .iter()
        .zip(after)
        .map(|(before, after)| before.limit_bps / after.limit_bps)
        .max_by(|a, b| (a - 1.0).abs().total_cmp(&(b - 1.0).abs()))
        .unwrap_or(1.0)
}

/// What the limits allow all counted pods together, bits per second.
pub(super) fn allowed(state: &State, usage: &Seen) -> f64 {
    state
        .limits
        .iter()
        .zip(&usage.classes)
        .map(|(limit, (pods, _))| limit.limit_bps * pods)
        .sum()
}

/// Whether the limits hold pods back: some pod sends more than this share of its limit.
pub(super) fn are_used(state: &State, usage: &Seen, share: f64) -> bool {
    state
        .limits
        .iter()
        .zip(&usage.classes)
        .any(|(limit, (pods, top_bps))| *pods > 0.0 && *top_bps > share * limit.limit_bps)
}

/// Whether some pod sends more than its limit allows, by which a cut is seen not to be in force yet.
pub(super) fn are_exceeded(state: &State, usage: &Seen) -> bool {
    state
        .limits
        .iter()
        .zip(&usage.classes)
        .any(|(limit, (_, top_bps))| *top_bps > 1.15 * limit.limit_bps)
}

/// Whether no limit could take anything from best-effort: no pod sends more than its minimum.
pub(super) fn is_out_of_reach(policy: &Policy, usage: &Seen) -> bool {
    policy
        .classes
        .iter()
        .zip(&usage.classes)
        .all(|(class, (pods, top_bps))| *pods == 0.0 || *top_bps <= class.min_bps * 1.05)
}
