//! `DropRate`: traces computed by hand.

use laneguard_decider_core::{
    Action::{self, CongestionThrottle, Hold, Increase},
    policy::Law,
    sample::{Quality, Sample},
};

use crate::fixture::{Loop, ROBOT, SCANNER, at, by_drops, drops, of_quality};

#[test]
fn a_trace_computed_by_hand_is_followed_step_by_step() {
    struct Row {
        seconds: f64,
        raw: f64,
        smoothed: f64,
        baseline: f64,
        expected: (Action, f64),
    }
    let row = |seconds, raw, smoothed, baseline, expected| Row {
        seconds,
        raw,
        smoothed,
        baseline,
        expected,
    };
    // alpha 0.7, threshold = 1.5 * baseline + 10, baseline learns 0.002 upwards and 0.05 downwards from 30 drops/s.
    #[rustfmt::skip]
    let trace = [
        // 30 <= 1.5*30 + 10 = 55; first change: 100 + 15.
        row(0.0, 30.0, 30.0, 30.0, (Increase, 115.0)),
        // 0.7*40 + 0.3*30 = 37 <= 55; the baseline rises by 0.002*(40 - 30).
        row(30.0, 40.0, 37.0, 30.02, (Increase, 130.0)),
        // 0.7*300 + 0.3*37 = 221.1 > 1.5*30.02 + 10 = 55.03: first of two; nothing learned.
        row(60.0, 300.0, 221.1, 30.02, (Hold, 130.0)),
        // 0.7*300 + 0.3*221.1 = 276.33: second, 130 - 50.
        row(61.0, 300.0, 276.33, 30.02, (CongestionThrottle, 80.0)),
        // 0.7*30 + 0.3*276.33 = 103.899: still above; 80 - 50. The raw value is fine, but nothing is learned yet.
        row(91.0, 30.0, 103.899, 30.02, (CongestionThrottle, 30.0)),
        // 0.7*30 + 0.3*103.899 = 52.1697 <= 55.03: first of two; the baseline falls by 0.05*0.02.
        row(121.0, 30.0, 52.1697, 30.019, (Hold, 30.0)),
        // 0.7*30 + 0.3*52.1697 = 36.65091: second, 30 + 15; 30.019 - 0.05*0.019 = 30.01805.
        row(122.0, 30.0, 36.650_91, 30.018_05, (Increase, 45.0)),
    ];
    let mut control = Loop::new(by_drops(&[ROBOT]), 100.0);
    for (sequence, row) in (1..).zip(trace) {
        let sample = drops(ROBOT, sequence, row.seconds, row.raw);
        let actual = control.step(row.seconds, &[sample]);
        assert_eq!(actual, row.expected, "at {} s", row.seconds);
        let memory = &control.state.workloads[0];
        for (actual, expected) in [
            (memory.smoothed.drop_rate, row.smoothed),
            (memory.drop_baseline, row.baseline),
        ] {
            let difference = (actual.unwrap() - expected).abs();
            assert!(
                difference < 1e-9,
                "at {} s: {actual:?} is not {expected}",
                row.seconds
            );
        }
    }
}

#[test]
fn the_reason_gives_drops_threshold_and_baseline() {
    let mut control = Loop::new(by_drops(&[ROBOT]), 100.0);
    let evaluation = control.evaluate(0.0, &[drops(ROBOT, 1, 0.0, 120.0)]);
    assert_eq!(
        evaluation.reason,
        "factory_robot: 120 drops/s are above the 55 drops/s allowed over a baseline of 30, a sign of congestion: limits go \
         down by 50 Mbit/s, within each class's bounds (bulk 100 to 50 Mbit/s). The next change can come in 30 s."
    );
}

#[test]
fn an_hour_of_policy_drops_around_thirty_never_throttles_even_after_a_silent_start() {
    let mut control = Loop::new(by_drops(&[ROBOT]), 100.0);
    // A fixed walk over 0 (start), then 15 to 45 drops/s.
    for second in 0..3600_u32 {
        let rate = if second < 300 {
            0.0
        } else {
            15.0 + f64::from(second * 7919 % 31)
        };
        let seconds = f64::from(second);
        let sample = drops(ROBOT, u64::from(second) + 1, seconds, rate);
        let (action, _) = control.step(seconds, &[sample]);
        assert!(matches!(action, Increase | Hold), "at {second} s");
    }
    assert_eq!(control.state.limit_bps("bulk"), Some(1e9));
}

#[test]
fn congestion_is_never_learned_however_long_it_lasts() {
    let mut control = Loop::new(by_drops(&[ROBOT]), 500.0);
    control.step(0.0, &[drops(ROBOT, 1, 0.0, 30.0)]);
    let baseline = control.state.workloads[0].drop_baseline;
    for second in 1..2000_u32 {
        let seconds = f64::from(second);
        control.step(
            seconds,
            &[drops(ROBOT, u64::from(second) + 1, seconds, 90.0)],
        );
    }
    assert_eq!(control.state.workloads[0].drop_baseline, baseline);
    assert_eq!(control.state.limit_bps("bulk"), Some(10e6));
}

#[test]
fn a_baseline_above_the_floor_is_learned_slowly_and_unlearned_quickly() {
    let mut control = Loop::new(by_drops(&[ROBOT]), 500.0);
    let mut sequence = 0_u32;
    let mut run = |rate: f64, samples: u32| {
        for _ in 0..samples {
            sequence += 1;
            control.step(
                f64::from(sequence),
                &[drops(ROBOT, u64::from(sequence), f64::from(sequence), rate)],
            );
        }
        control.state.workloads[0].drop_baseline.unwrap()
    };
    // 50 - 20 * 0.998^1000 = 50 - 20 * 0.13506 = 47.2987
    let learned = run(50.0, 1000);
    assert!((learned - 47.298_7).abs() < 1e-3, "{learned}");
    // 30 + 17.2987 * 0.95^50 = 30 + 17.2987 * 0.076945 = 31.3310
    let unlearned = run(30.0, 50);
    assert!((unlearned - 31.331).abs() < 1e-3, "{unlearned}");
}

#[test]
fn missing_drop_rates_never_raise_and_teach_nothing() {
    let mut control = Loop::new(by_drops(&[ROBOT]), 100.0);
    control.step(0.0, &[drops(ROBOT, 1, 0.0, 40.0)]);
    let before = control.state.workloads[0].clone();
    let missing = [
        at(ROBOT, 2, 40.0),
        Sample {
            quality: Quality::Failed,
            ..drops(ROBOT, 3, 41.0, 0.0)
        },
        Sample {
            quality: Quality::Stale,
            ..drops(ROBOT, 4, 42.0, 900.0)
        },
        Sample {
            quality: Quality::NoData,
            ..drops(ROBOT, 5, 43.0, 900.0)
        },
    ];
    for sample in missing {
        assert_eq!(control.step(44.0, &[sample]), (Hold, 115.0));
    }
    let after = &control.state.workloads[0];
    assert_eq!(after.smoothed, before.smoothed);
    assert_eq!(after.drop_baseline, before.drop_baseline);
    let idle = of_quality(ROBOT, 6, 45.0, Quality::Idle);
    assert_eq!(control.step(45.0, &[idle]), (Increase, 130.0));
}

#[test]
fn the_worst_of_several_workloads_governs() {
    let mut control = Loop::new(by_drops(&[ROBOT, SCANNER]), 100.0);
    let samples = [drops(ROBOT, 1, 0.0, 10.0), drops(SCANNER, 1, 0.0, 56.0)];
    assert_eq!(control.step(0.0, &samples), (CongestionThrottle, 50.0));
}

#[test]
fn a_higher_floor_takes_effect_on_what_was_learned() {
    let mut control = Loop::new(by_drops(&[ROBOT]), 500.0);
    assert_eq!(
        control.step(0.0, &[drops(ROBOT, 1, 0.0, 200.0)]),
        (CongestionThrottle, 450.0)
    );
    if let Law::DropRate(parameters) = &mut control.policy.law {
        parameters.baseline_floor = 200.0;
    }
    assert_eq!(
        control.step(30.0, &[drops(ROBOT, 2, 30.0, 200.0)]),
        (Hold, 450.0)
    );
    assert_eq!(
        control.step(31.0, &[drops(ROBOT, 3, 31.0, 200.0)]),
        (Increase, 465.0)
    );
}

#[test]
fn exactly_at_the_threshold_is_healthy() {
    let step = |rate| Loop::new(by_drops(&[ROBOT]), 100.0).step(0.0, &[drops(ROBOT, 1, 0.0, rate)]);
    assert_eq!(step(55.0), (Increase, 115.0));
    assert_eq!(step(55.000_1), (CongestionThrottle, 50.0));
}

#[test]
fn the_baseline_starts_at_its_floor_stays_above_it_and_learns_from_no_single_spike() {
    let mut control = Loop::new(by_drops(&[ROBOT]), 100.0);
    let mut baseline_after = |sequence, rate| {
        control.step(0.0, &[drops(ROBOT, sequence, 0.0, rate)]);
        control.state.workloads[0].drop_baseline
    };
    assert_eq!(baseline_after(1, 500.0), Some(30.0));
    for sequence in 2..20 {
        assert_eq!(baseline_after(sequence, 0.0), Some(30.0));
    }
    // Smoothed about 0.7 * 70 = 49 is below 55, raw 70 is not.
    assert_eq!(baseline_after(20, 70.0), Some(30.0));
}

#[test]
fn samples_that_arrive_one_by_one_are_judged_by_what_is_remembered() {
    let mut control = Loop::new(by_drops(&[ROBOT, SCANNER]), 100.0);
    assert_eq!(
        control.step(0.0, &[drops(ROBOT, 1, 0.0, 30.0)]),
        (Hold, 100.0)
    );
    assert_eq!(
        control.step(1.0, &[drops(SCANNER, 1, 1.0, 30.0)]),
        (Increase, 115.0)
    );
}

#[test]
fn after_a_change_of_law_a_workload_is_unknown_until_its_first_sample() {
    let mut control = Loop::new(crate::fixture::policy(&[ROBOT, SCANNER]), 100.0);
    let robot = crate::fixture::latency(ROBOT, 1, 0.0, 1.0, 5.0);
    assert_eq!(control.step(0.0, &[robot]), (Hold, 100.0));
    control.policy = by_drops(&[ROBOT, SCANNER]);
    let held = control.evaluate(1.0, &[drops(SCANNER, 1, 1.0, 30.0)]);
    assert_eq!(held.action, Hold);
    assert!(
        held.reason
            .starts_with("factory_robot: its drop rate is not known yet"),
        "{}",
        held.reason
    );
}
