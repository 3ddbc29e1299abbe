//! How limits move: one level that all classes have in common, or one factor, inside the classes' bounds.
//!
//! The level is a single number per pod and unit of weight, in bits per second. As it rises, water fills one vessel per class: first the classes
//! with the greatest number of sacrifice, up to their maximum, then the next ones; with equal numbers they fill together:
//!
//! ```text
//! limit = clamp(weight * (level - offset))        offset: what the levels of all classes with a greater number of sacrifice need to be full
//! ```
//!
//! So a limit is a function of the level that never falls, a cut takes from the smallest number first, and a raise gives back in reverse.
//! A factor is one on what all pods together may send, by the pods counted last (one per class before any were counted), found by the level.
//! Where no class has a weight or an order of its own, a factor applies to each limit as it is.

use crate::{
    policy::{Class, Policy},
    state::{Limit, State},
};

use super::observe::Seen;

/// From this share of all that limits allow on, every pod is taken to be at its limit.
const FULL: f64 = 0.9;

/// Limits are whole kilobits per second, as an annotation can write them.
fn whole_kilobits(class: &Class, limit_bps: f64) -> f64 {
    class.clamp((class.clamp(limit_bps) / 1e3).round() * 1e3)
}

/// Whether no class has a weight or an order of its own.
fn is_even(policy: &Policy) -> bool {
    policy.classes.iter().all(|class| {
        class.weight == 1.0 && Some(class.sacrifice) == policy.classes.first().map(|c| c.sacrifice)
    })
}

/// Between which levels a class fills.
struct Vessel<'a> {
    class: &'a Class,
    /// The level from which it does.
    offset_bps: f64,
    /// What the level has to rise until it and its equals are full.
    height_bps: f64,
}

impl Vessel<'_> {
    /// The limit at a level.
    fn limit_bps(&self, level_bps: f64) -> f64 {
        let above = (level_bps - self.offset_bps).min(self.height_bps).max(0.0);
        self.class.clamp(self.class.weight * above)
    }
}

fn vessels(policy: &Policy) -> Vec<Vessel<'_>> {
    let mut heights = std::collections::BTreeMap::<u32, f64>::new();
    for class in &policy.classes {
        let height = heights.entry(class.sacrifice).or_default();
        *height = height.max(class.max_bps / class.weight);
    }
    policy
        .classes
        .iter()
        .map(|class| Vessel {
            class,
            offset_bps: heights
                .range(class.sacrifice..)
                .skip(1)
                .map(|(_, height)| height)
                .sum(),
            height_bps: heights.get(&class.sacrifice).copied().unwrap_or_default(),
        })
        .collect()
}

/// The greatest level up to which `total` stays at or below the budget. The total never falls with the level, so halving finds it: 40 times
/// leave a millionth of a percent.
fn highest(vessels: &[Vessel<'_>], budget_bps: f64, total: impl Fn(f64) -> f64) -> f64 {
    let offset = vessels.iter().map(|v| v.offset_bps).fold(0.0, f64::max);
    let lightest = vessels.iter().map(|v| v.class.weight).fold(1.0, f64::min);
    let (mut low, mut high) = (0.0, offset + budget_bps / lightest);
    for _ in 0..40 {
        let middle = f64::midpoint(low, high);
        if total(middle) <= budget_bps {
            low = middle;
        } else {
            high = middle;
        }
    }
    low
}

/// The level at which all counted pods together may send `budget_bps`, with the classes' bounds heeded; `None` without pods.
pub(super) fn level_for(policy: &Policy, usage: &Seen, budget_bps: f64) -> Option<f64> {
    let vessels = vessels(policy);
    let counted = || {
        vessels
            .iter()
            .zip(&usage.classes)
            .filter(|(_, (pods, _))| *pods > 0.0)
    };
    counted().next()?;
    Some(highest(&vessels, budget_bps, |level_bps| {
        counted()
            .map(|(vessel, (pods, _))| pods * vessel.limit_bps(level_bps))
            .sum()
    }))
}

/// Lowers every limit that is above its share of the level.
pub(super) fn lower_to(policy: &Policy, state: &mut State, level_bps: f64) {
    for (vessel, limit) in vessels(policy).iter().zip(&mut state.limits) {
        let share = whole_kilobits(vessel.class, vessel.limit_bps(level_bps));
        limit.limit_bps = vessel.class.clamp(limit.limit_bps.min(share));
    }
}

/// Raises every limit that is below its class's level, in the policy's order.
pub(super) fn raise_to(policy: &Policy, state: &mut State, levels_bps: &[f64]) {
    for ((class, limit), level_bps) in policy.classes.iter().zip(&mut state.limits).zip(levels_bps)
    {
        limit.limit_bps = class.clamp(limit.limit_bps.max(whole_kilobits(class, *level_bps)));
    }
}

/// Multiplies what all pods together may send.
pub(super) fn scale(policy: &Policy, state: &mut State, factor: f64) {
    let moved = |limit_bps: f64, to_bps: f64| {
        if factor < 1.0 {
            to_bps.min(limit_bps)
        } else {
            to_bps.max(limit_bps)
        }
    };
    if is_even(policy) {
        for (class, limit) in policy.classes.iter().zip(&mut state.limits) {
            let scaled = whole_kilobits(class, limit.limit_bps * factor);
            limit.limit_bps = class.clamp(moved(limit.limit_bps, scaled));
        }
        return;
    }
    let vessels = vessels(policy);
    let pods = pods(policy, state);
    // What the limits will really be: they need not lie at one level, for the policy may have changed.
    let total = |level_bps: f64| -> f64 {
        vessels
            .iter()
            .zip(&state.limits)
            .zip(&pods)
            .map(|((vessel, limit), pods)| {
                pods * moved(limit.limit_bps, vessel.limit_bps(level_bps))
            })
            .sum()
    };
    let level_bps = highest(&vessels, factor * sum(&state.limits, &pods), total);
    for (vessel, limit) in vessels.iter().zip(&mut state.limits) {
        let share = whole_kilobits(vessel.class, vessel.limit_bps(level_bps));
        limit.limit_bps = vessel.class.clamp(moved(limit.limit_bps, share));
    }
}

/// Remembers how many pods each class has, where that matters.
pub(super) fn count_pods(policy: &Policy, state: &mut State, usage: Option<&Seen>) {
    if is_even(policy) {
        state.pods.clear();
    } else if let Some(usage) = usage {
        state.pods = usage.classes.iter().map(|(pods, _)| *pods).collect();
    }
}

/// Pods per class as counted last; one each before any were.
fn pods(policy: &Policy, state: &State) -> Vec<f64> {
    let is_known =
        state.pods.len() == policy.classes.len() && state.pods.iter().any(|pods| *pods > 0.0);
    if is_known {
        state.pods.clone()
    } else {
        vec![1.0; policy.classes.len()]
    }
}

fn sum(limits: &[Limit], pods: &[f64]) -> f64 {
    let all = limits.iter().zip(pods);
    all.map(|(limit, pods)| limit.limit_bps * pods).sum()
}

/// The factor that undoes a change: that of the limit which moved most, or where classes have weights or an order, that of all together.
pub(super) fn undo(policy: &Policy, before: &[Limit], state: &State) -> f64 {
    if !is_even(policy) {
        let pods = pods(policy, state);
        let ratio = sum(before, &pods) / sum(&state.limits, &pods);
        return if ratio.is_finite() { ratio } else { 1.0 };
    }
    before
        .iter()
        .zip(&state.limits)
        .map(|(before, after)| before.limit_bps / after.limit_bps)
        .max_by(|a, b| (a - 1.0).abs().total_cmp(&(b - 1.0).abs()))
        .unwrap_or(1.0)
}

/// By what limits must be multiplied after a cut to a level, to be at another one; from where the cut really went: a bound may have stopped it.
pub(super) fn settling(policy: &Policy, state: &State, cut_to_bps: f64, settle_bps: f64) -> f64 {
    if is_even(policy) {
        let limits = state.limits.iter().map(|limit| limit.limit_bps);
        return settle_bps / limits.fold(f64::MIN_POSITIVE, f64::max);
    }
    if cut_to_bps <= 0.0 {
        return 0.0;
    }
    let pods = pods(policy, state);
    let wanted: f64 = vessels(policy)
        .iter()
        .zip(&pods)
        .map(|(vessel, pods)| pods * vessel.limit_bps(cut_to_bps))
        .sum();
    // Levels of classes in order are no measure of what they allow; the share that was meant is.
    wanted * (settle_bps / cut_to_bps) / sum(&state.limits, &pods).max(f64::MIN_POSITIVE)
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

/// What pods are counted to send in a window cannot be more than limits in force let through: the rest is the error of counters that
/// are not read at even distances, and would pass for a link that carries more than it does. Where it clearly does after a cut, that is
/// not in force yet, and nothing is known better; after a raise what was in force before let through even less.
pub(super) fn bound_by_limits(state: &State, usage: &mut Seen, is_raised: bool) {
    if is_raised || !are_exceeded(state, usage) {
        let allowed = allowed(state, usage);
        // With all pods at their limits the limits are the better measure; else all are taken to share the busiest one's error.
        usage.total_bps = if usage.total_bps >= FULL * allowed {
            usage.total_bps.min(allowed)
        } else {
            usage.total_bps / fullness(state, usage).max(1.0)
        };
    }
}

/// What pods at their limits really send in a calm window, bits per second: what limits let through, from which a reading of the counters
/// differs by a few percent either way, and not by the same for each pod. A raise by such a reading would go beyond what it was meant to
/// go to.
pub(super) fn let_through(state: &State, usage: &Seen, used: f64) -> f64 {
    let allowed = allowed(state, usage);
    let fullness = fullness(state, usage);
    if usage.total_bps >= FULL * allowed {
        allowed
    } else if fullness > used {
        (usage.total_bps / fullness).min(allowed)
    } else {
        usage.total_bps
    }
}

/// What the busiest pod sends as share of its limit.
fn fullness(state: &State, usage: &Seen) -> f64 {
    state
        .limits
        .iter()
        .zip(&usage.classes)
        .filter(|(_, (pods, _))| *pods > 0.0)
        .map(|(limit, (_, top_bps))| top_bps / limit.limit_bps.max(1.0))
        .fold(0.0, f64::max)
}

/// Whether no pod sends more than this many times the minimum of its class.
pub(super) fn is_below_minimum(policy: &Policy, usage: &Seen, times: f64) -> bool {
    policy
        .classes
        .iter()
        .zip(&usage.classes)
        .all(|(class, (pods, top_bps))| *pods == 0.0 || *top_bps <= times * class.min_bps)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Critical, Law, Targets};
    use proptest::prelude::*;

    fn policy(classes: Vec<Class>) -> Policy {
        Policy {
            law: Law::Adaptive(crate::adaptive::Parameters::default()),
            critical: vec![Critical::new("a_b", Targets::default())],
            classes,
        }
    }

    fn class(min_mbit: f64, max_mbit: f64, weight: f64, sacrifice: u32) -> Class {
        Class {
            weight,
            sacrifice,
            ..Class::new("any", min_mbit * 1e6, max_mbit * 1e6)
        }
    }

    fn state(limits_mbit: &[f64]) -> State {
        State::new(limits_mbit.iter().map(|mbit| ("any", mbit * 1e6)))
    }

    fn mbit(state: &State) -> Vec<f64> {
        let limits = state.limits.iter();
        limits
            .map(|l| (l.limit_bps / 1e4).round() / 100.0)
            .collect()
    }

    #[test]
    fn what_limits_let_through_is_what_full_pods_send_and_not_what_counters_say() {
        let state = state(&[100.0]);
        let seen = |total_mbit: f64, top_mbit: f64| Seen {
            start_ms: 0,
            end_ms: 1_000,
            total_bps: total_mbit * 1e6,
            classes: vec![(2.0, top_mbit * 1e6)],
        };
        let sent = |total, top| (let_through(&state, &seen(total, top), 0.9) / 1e6).round();
        // Both pods are full; counters of one are read early, of the other late.
        assert_eq!(sent(206.0, 112.0), 200.0);
        assert_eq!(sent(188.0, 99.0), 200.0);
        // One pod is full and the other nearly idle: the error of the full one is that of the total.
        assert_eq!(sent(121.0, 110.0), 110.0);
        // Nobody is held back.
        assert_eq!(sent(60.0, 50.0), 60.0);
        let mut read = seen(206.0, 112.0);
        bound_by_limits(&state, &mut read, false);
        assert_eq!(read.total_bps, 200e6, "no more than limits allow");
    }

    #[test]
    fn classes_share_by_weight_inside_their_bounds() {
        let policy = policy(vec![
            class(10.0, 1000.0, 1.0, 0),
            class(10.0, 1000.0, 3.0, 0),
            class(50.0, 1000.0, 0.1, 0),
        ]);
        let mut state = state(&[1000.0; 3]);
        lower_to(&policy, &mut state, 100e6);
        assert_eq!(mbit(&state), [100.0, 300.0, 50.0]);
        scale(&policy, &mut state, 0.5);
        assert_eq!(mbit(&state), [43.75, 131.25, 50.0], "half of 450 in all");
    }

    #[test]
    fn the_smallest_number_is_sacrificed_first_and_gets_it_back_last() {
        let policy = policy(vec![
            class(10.0, 100.0, 1.0, 2),
            class(10.0, 100.0, 1.0, 1),
            class(10.0, 100.0, 1.0, 2),
        ]);
        let mut state = state(&[100.0; 3]);
        scale(&policy, &mut state, 0.8);
        assert_eq!(mbit(&state), [100.0, 40.0, 100.0]);
        scale(&policy, &mut state, 0.5);
        assert_eq!(mbit(&state), [55.0, 10.0, 55.0]);
        scale(&policy, &mut state, 2.0);
        assert_eq!(mbit(&state), [100.0, 40.0, 100.0]);
        scale(&policy, &mut state, 2.0);
        assert_eq!(mbit(&state), [100.0, 100.0, 100.0]);
    }

    #[test]
    fn a_factor_is_one_on_what_all_pods_may_send() {
        let policy = policy(vec![class(10.0, 100.0, 1.0, 1), class(10.0, 100.0, 1.0, 0)]);
        let mut state = state(&[100.0; 2]);
        state.pods = vec![1.0, 4.0];
        let before = state.limits.clone();
        scale(&policy, &mut state, 0.6);
        assert_eq!(mbit(&state), [100.0, 50.0], "500 to 300 in all");
        assert!((undo(&policy, &before, &state) - 1.0 / 0.6).abs() < 1e-3);
    }

    #[test]
    fn limits_that_an_edit_left_out_of_order_are_not_thrown_up() {
        let policy = policy(vec![
            class(10.0, 1000.0, 1.0, 1),
            class(10.0, 1000.0, 1.0, 0),
        ]);
        let mut state = state(&[100.0; 2]);
        scale(&policy, &mut state, 1.25);
        assert_eq!(mbit(&state), [150.0, 100.0]);
    }

    fn any_class() -> impl Strategy<Value = Class> {
        let weight = prop_oneof![Just(1.0), 0.01..=100.0_f64];
        (1.0..100.0_f64, 0.0..1000.0_f64, weight, 0..3_u32)
            .prop_map(|(min, room, weight, sacrifice)| class(min, min + room, weight, sacrifice))
    }

    /// Classes with where their limits are, as a share of the room, and their pods.
    fn any_setting() -> impl Strategy<Value = (Policy, State)> {
        prop::collection::vec((any_class(), 0.0..=1.0_f64, 1..9_u32), 1..6).prop_map(|all| {
            let mut state = State::new(all.iter().map(|(class, share, _)| {
                (
                    "any",
                    class.min_bps + share * (class.max_bps - class.min_bps),
                )
            }));
            state.pods = all.iter().map(|(.., pods)| f64::from(*pods)).collect();
            (
                policy(all.into_iter().map(|(class, ..)| class).collect()),
                state,
            )
        })
    }

    fn even(mut policy: Policy) -> Policy {
        for class in &mut policy.classes {
            class.weight = 1.0;
            class.sacrifice = 7;
        }
        policy
    }

    proptest! {
        #[test]
        fn bounds_hold_and_the_sum_is_as_asked((policy, before) in any_setting(), factor in 0.05..4.0_f64) {
            prop_assume!(!is_even(&policy));
            let mut after = before.clone();
            scale(&policy, &mut after, factor);
            let bound = |bps: fn(&Class) -> f64| -> f64 {
                policy.classes.iter().zip(&before.pods).map(|(class, pods)| bps(class) * pods).sum()
            };
            for (class, limit) in policy.classes.iter().zip(&after.limits) {
                prop_assert!((class.min_bps..=class.max_bps).contains(&limit.limit_bps));
            }
            let wanted = (factor * sum(&before.limits, &before.pods))
                .clamp(bound(|class| class.min_bps), bound(|class| class.max_bps));
            let rounding = 1e3 * before.pods.iter().sum::<f64>();
            let found = sum(&after.limits, &before.pods);
            prop_assert!((found - wanted).abs() <= rounding + 1e-6 * wanted, "{found} for {wanted}");
        }

        #[test]
        fn the_order_is_kept((policy, before) in any_setting(), factor in 0.05..4.0_f64) {
            prop_assume!(!is_even(&policy));
            let mut after = before.clone();
            scale(&policy, &mut after, factor);
            let all: Vec<_> = policy.classes.iter().zip(before.limits.iter().zip(&after.limits)).collect();
            // whole kilobits
            let near = |a: f64, b: f64| (a - b).abs() <= 2e3;
            for (class, (old, new)) in &all {
                for (other, (_, others)) in &all {
                    if new.limit_bps < old.limit_bps - 2e3 && other.sacrifice < class.sacrifice {
                        prop_assert!(near(others.limit_bps, other.min_bps), "it gave before its turn");
                    }
                    if new.limit_bps > old.limit_bps + 2e3 && other.sacrifice > class.sacrifice {
                        prop_assert!(near(others.limit_bps, other.max_bps), "it got before its turn");
                    }
                }
            }
        }

        #[test]
        fn less_in_all_is_more_for_nobody((policy, before) in any_setting(), a in 0.05..4.0_f64, b in 0.05..4.0_f64) {
            let (mut less, mut more) = (before.clone(), before);
            scale(&policy, &mut less, a.min(b));
            scale(&policy, &mut more, a.max(b));
            for (less, more) in less.limits.iter().zip(&more.limits) {
                prop_assert!(less.limit_bps <= more.limit_bps + 1e3);
            }
        }

        #[test]
        fn without_weights_and_order_it_is_one_level_and_one_factor((policy, before) in any_setting(), factor in 0.05..4.0_f64, level in 0.0..1e9_f64) {
            let policy = even(policy);
            let (mut scaled, mut lowered) = (before.clone(), before.clone());
            scale(&policy, &mut scaled, factor);
            lower_to(&policy, &mut lowered, level);
            for (n, class) in policy.classes.iter().enumerate() {
                let limit = before.limits[n].limit_bps;
                let rounded = |bps: f64| class.clamp((class.clamp(bps) / 1e3).round() * 1e3);
                let to = rounded(limit * factor);
                prop_assert_eq!(scaled.limits[n].limit_bps, if factor < 1.0 { to.min(limit) } else { to.max(limit) });
                prop_assert_eq!(lowered.limits[n].limit_bps, rounded(level).min(limit));
            }
        }
    }
}
