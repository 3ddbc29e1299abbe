//! Cooldown, agreement, bounds and changing policies, seen through `Threshold` without smoothing.

use laneguard_decider_core::{
    Action::{CongestionThrottle, Hold, Increase},
    state::Direction,
};

use crate::fixture::{Loop, ROBOT, SCANNER, class, critical, latency, unsmoothed};

const OK: (f64, f64) = (1.0, 5.0);
const JITTERY: (f64, f64) = (9.0, 5.0);

fn robot(
    control: &mut Loop,
    seconds: f64,
    signals: (f64, f64),
) -> (laneguard_decider_core::Action, f64) {
    control.robot(seconds, signals.0, signals.1)
}

#[test]
fn the_cooldown_ends_to_the_millisecond_and_covers_the_same_direction_too() {
    let mut control = Loop::new(unsmoothed(&[ROBOT]), 500.0);
    assert_eq!(
        robot(&mut control, 0.0, JITTERY),
        (CongestionThrottle, 450.0)
    );
    assert_eq!(robot(&mut control, 29.999, JITTERY), (Hold, 450.0));
    assert_eq!(
        robot(&mut control, 30.0, JITTERY),
        (CongestionThrottle, 400.0)
    );
}

#[test]
fn a_clamped_wish_changes_nothing_and_starts_no_cooldown() {
    let mut control = Loop::new(unsmoothed(&[ROBOT]), 990.0);
    assert_eq!(robot(&mut control, 0.0, OK), (Increase, 1000.0));
    let held = control.evaluate(40.0, &[latency(ROBOT, 41, 40.0, 1.0, 5.0)]);
    assert_eq!(held.action, Hold);
    assert_eq!(
        held.reason,
        "factory_robot: P95 latency 5 ms is within its target of 10 ms, and every class is already at its maximum: there is \
         nothing more to give back. No limit changes: bulk stays at 1000 Mbit/s."
    );
    assert_eq!(control.state.last_change_ms, Some(0));
    // So only the agreement stands between this and a cut, not 30 s from t = 40.
    assert_eq!(robot(&mut control, 41.0, JITTERY), (Hold, 1000.0));
    assert_eq!(
        robot(&mut control, 42.0, JITTERY),
        (CongestionThrottle, 950.0)
    );
}

#[test]
fn at_the_minimum_the_law_holds_and_says_that_there_is_nothing_more_to_take() {
    let mut control = Loop::new(unsmoothed(&[ROBOT]), 40.0);
    assert_eq!(
        robot(&mut control, 0.0, JITTERY),
        (CongestionThrottle, 10.0)
    );
    let held = control.evaluate(30.0, &[latency(ROBOT, 31, 30.0, 9.0, 5.0)]);
    assert_eq!(held.action, Hold);
    assert!(
        held.reason.contains("already at its minimum"),
        "{}",
        held.reason
    );
}

#[test]
fn a_turn_needs_two_agreeing_evaluations_in_a_row_and_those_in_the_cooldown_count() {
    let mut control = Loop::new(unsmoothed(&[ROBOT]), 500.0);
    assert_eq!(
        robot(&mut control, 0.0, JITTERY),
        (CongestionThrottle, 450.0)
    );
    assert_eq!(robot(&mut control, 30.0, OK), (Hold, 450.0)); // first
    assert_eq!(
        robot(&mut control, 31.0, JITTERY),
        (CongestionThrottle, 400.0)
    ); // back at once: no turn
    assert_eq!(robot(&mut control, 61.0, OK), (Hold, 400.0)); // first again
    assert_eq!(robot(&mut control, 62.0, OK), (Increase, 415.0));
    assert_eq!(robot(&mut control, 63.0, JITTERY), (Hold, 415.0)); // first
    assert_eq!(robot(&mut control, 64.0, JITTERY), (Hold, 415.0)); // second, but 28 s left
    assert_eq!(
        robot(&mut control, 92.0, JITTERY),
        (CongestionThrottle, 365.0)
    );
    // A lone disagreement between them starts the count anew.
    assert_eq!(robot(&mut control, 93.0, OK), (Hold, 365.0));
    assert_eq!(robot(&mut control, 94.0, JITTERY), (Hold, 365.0));
    assert_eq!(robot(&mut control, 122.0, OK), (Hold, 365.0));
    assert_eq!(robot(&mut control, 123.0, OK), (Increase, 380.0));
}

#[test]
fn samples_that_arrive_one_by_one_are_judged_once_all_have_come() {
    let mut control = Loop::new(unsmoothed(&[ROBOT, SCANNER]), 500.0);
    let robot = |sequence, seconds, jitter_ms| latency(ROBOT, sequence, seconds, jitter_ms, 5.0);
    let scanner = |sequence, seconds| latency(SCANNER, sequence, seconds, 1.0, 5.0);
    assert_eq!(
        control.step(0.0, &[robot(1, 0.0, 9.0)]),
        (CongestionThrottle, 450.0)
    );
    assert_eq!(
        control.step(0.1, &[robot(1, 0.0, 9.0), scanner(1, 0.0)]),
        (Hold, 450.0)
    );
    // Healthy again: each round of both counts once, however it is cut.
    assert_eq!(
        control.step(30.0, &[robot(2, 30.0, 1.0), scanner(1, 0.0)]),
        (Hold, 450.0)
    ); // with scanner 1: first
    assert_eq!(
        control.step(30.1, &[robot(2, 30.0, 1.0), scanner(2, 30.0)]),
        (Hold, 450.0)
    ); // robot not anew
    assert_eq!(
        control.step(31.0, &[robot(3, 31.0, 1.0), scanner(2, 30.0)]),
        (Increase, 465.0)
    );
}

#[test]
fn a_raise_needs_a_new_sample_of_every_workload_each_time() {
    let mut control = Loop::new(unsmoothed(&[ROBOT, SCANNER]), 500.0);
    let both = [
        latency(ROBOT, 1, 0.0, 1.0, 5.0),
        latency(SCANNER, 1, 0.0, 1.0, 5.0),
    ];
    assert_eq!(control.step(0.0, &both), (Increase, 515.0));
    let held = control.evaluate(30.0, &[latency(ROBOT, 2, 30.0, 1.0, 5.0)]);
    assert_eq!(held.action, Hold);
    assert!(
        held.reason
            .starts_with("factory_scanner: no sample came since it was last judged"),
        "{}",
        held.reason
    );
}

#[test]
fn every_class_takes_the_same_step_inside_its_own_bounds() {
    let mut policy = unsmoothed(&[ROBOT]);
    policy.classes = vec![
        class("bulk", 10.0, 1000.0),
        class("scavenger", 1.0, 20.0),
        class("fixed", 30.0, 30.0),
    ];
    let mut control = Loop::new(policy, 100.0);
    let evaluation = control.evaluate(0.0, &[latency(ROBOT, 1, 0.0, 9.0, 5.0)]);
    let limits: Vec<_> = evaluation
        .limits
        .iter()
        .map(|limit| {
            (
                limit.class.as_str(),
                limit.before_bps / 1e6,
                limit.after_bps / 1e6,
            )
        })
        .collect();
    assert_eq!(
        limits,
        [
            ("bulk", 100.0, 50.0),
            ("scavenger", 20.0, 1.0),
            ("fixed", 30.0, 30.0)
        ]
    );
    assert_eq!(
        evaluation.reason,
        "factory_robot: jitter 9 ms is above its target of 5 ms, a sign of congestion: limits go down by 50 Mbit/s, within \
         each class's bounds (bulk 100 to 50 Mbit/s, scavenger 20 to 1 Mbit/s, fixed stays at 30 Mbit/s). The next change \
         can come in 30 s."
    );
}

#[test]
fn reasons_tell_the_cooldown_left_and_what_a_turn_waits_for() {
    let mut control = Loop::new(unsmoothed(&[ROBOT]), 500.0);
    robot(&mut control, 0.0, OK);
    let held = control.evaluate(12.0, &[latency(ROBOT, 13, 12.0, 7.25, 5.0)]);
    assert_eq!(
        held.reason,
        "factory_robot: jitter 7.25 ms is above its target of 5 ms, a sign of congestion, which calls for \
         CONGESTION_THROTTLE; but limits changed 12 s ago and 18 s of the cooldown of 30 s are left. No limit changes: bulk \
         stays at 515 Mbit/s."
    );
    robot(&mut control, 30.0, OK);
    let held = control.evaluate(60.0, &[latency(ROBOT, 61, 60.0, 7.25, 5.0)]);
    assert_eq!(
        held.reason,
        "factory_robot: jitter 7.25 ms is above its target of 5 ms, a sign of congestion, which calls for \
         CONGESTION_THROTTLE; but the last change went up and a turn needs 2 evaluations in a row that agree: this is \
         number 1. No limit changes: bulk stays at 530 Mbit/s."
    );
}

#[test]
fn new_bounds_move_limits_at_once_even_without_data_and_start_no_cooldown() {
    let mut control = Loop::new(unsmoothed(&[ROBOT]), 500.0);
    robot(&mut control, 0.0, OK);
    control.policy.classes[0] = class("bulk", 10.0, 200.0);
    let held = control.evaluate(1.0, &[]);
    assert_eq!(held.action, Hold);
    assert_eq!(
        (held.limits[0].before_bps, held.limits[0].after_bps),
        (515e6, 200e6)
    );
    assert_eq!(
        held.reason,
        "No sample came since the last evaluation. Only the policy's bounds move limits: bulk 515 to 200 Mbit/s."
    );
    assert_eq!(control.state.last_change_ms, Some(0));
    control.policy.classes[0] = class("bulk", 300.0, 400.0);
    assert_eq!(control.step(2.0, &[]), (Hold, 300.0));
}

#[test]
fn classes_and_workloads_come_and_go() {
    let mut control = Loop::new(unsmoothed(&[ROBOT]), 500.0);
    robot(&mut control, 0.0, OK);
    control.policy.classes.insert(0, class("new", 5.0, 50.0));
    control.policy.critical = vec![critical(SCANNER)];
    let evaluation = control.evaluate(30.0, &[latency(SCANNER, 1, 30.0, 9.0, 5.0)]);
    // A new class starts at its maximum; the turn still needs two.
    assert_eq!(evaluation.action, Hold);
    assert_eq!(evaluation.limits[0].class, "new");
    assert_eq!(evaluation.limits[0].after_bps, 50e6);
    assert_eq!(evaluation.limits[1].after_bps, 515e6);
    assert!(control.state.workload(ROBOT).is_none());
    let evaluation = control.evaluate(31.0, &[latency(SCANNER, 2, 31.0, 9.0, 5.0)]);
    assert_eq!(evaluation.action, CongestionThrottle);
    assert_eq!(evaluation.limits[0].after_bps, 5e6);
    assert_eq!(evaluation.limits[1].after_bps, 465e6);
    control.policy.classes.remove(1);
    assert_eq!(control.evaluate(32.0, &[]).limits.len(), 1);
    assert_eq!(control.state.limit_bps("bulk"), None);
}

#[test]
fn a_clock_set_back_costs_at_most_one_cooldown() {
    let mut control = Loop::new(unsmoothed(&[ROBOT]), 500.0);
    assert_eq!(
        robot(&mut control, 7200.0, JITTERY),
        (CongestionThrottle, 450.0)
    );
    let at = |sequence, seconds| [latency(ROBOT, sequence, seconds, 9.0, 5.0)];
    assert_eq!(control.step(3600.0, &at(10_000, 3600.0)), (Hold, 450.0));
    assert_eq!(
        control.step(3630.0, &at(10_001, 3630.0)),
        (CongestionThrottle, 400.0)
    );
    assert_eq!(control.state.last_direction, Some(Direction::Down));
}

#[test]
fn a_limit_that_is_no_number_counts_as_unknown_and_never_travels() {
    for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let mut control = Loop::new(unsmoothed(&[ROBOT]), bad);
        let evaluation = control.evaluate(0.0, &[]);
        let limit = &evaluation.limits[0];
        assert_eq!((limit.before_bps, limit.after_bps), (1e9, 1e9), "{bad}");
    }
}
