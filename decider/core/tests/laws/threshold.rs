//! `Threshold`: traces computed by hand.

use laneguard_decider_core::{
    Action::{self, CongestionThrottle, Hold, Increase, LatencyGentleThrottle},
    policy::{Law, Targets, Tolerance},
    sample::{Quality, Sample},
    state::State,
};

use crate::fixture::{
    Loop, ROBOT, SCANNER, at, latency, milliseconds, of_quality, policy, unsmoothed,
};

#[test]
fn a_trace_computed_by_hand_is_followed_step_by_step() {
    struct Row {
        seconds: f64,
        sequence: u64,
        raw: (f64, f64),
        smoothed: (f64, f64),
        expected: (Action, f64),
    }
    let row = |seconds, sequence, raw, smoothed, expected| Row {
        seconds,
        sequence,
        raw,
        smoothed,
        expected,
    };
    // Targets: jitter 5 ms, P95 10 ms. alpha 0.7, steps +15 -50 -20 Mbit/s, cooldown 30 s. Start: 100 Mbit/s.
    #[rustfmt::skip]
    let trace = [
        // The averages start at the first value; the first change needs no cooldown: 100 + 15.
        row(0.0, 1, (2.0, 8.0), (2.0, 8.0), (Increase, 115.0)),
        // jitter 0.7*6 + 0.3*2 = 4.8, P95 0.7*9 + 0.3*8 = 8.7: healthy, but 20 s of the cooldown are left.
        row(10.0, 2, (6.0, 9.0), (4.8, 8.7), (Hold, 115.0)),
        // 0.7*8 + 0.3*4.8 = 7.04 > 5; 0.7*12 + 0.3*8.7 = 11.01. Cooldown over, but the last change went up: first of two.
        row(30.0, 3, (8.0, 12.0), (7.04, 11.01), (Hold, 115.0)),
        // 0.7*6 + 0.3*7.04 = 6.312 > 5; 0.7*12 + 0.3*11.01 = 11.703. Second: 115 - 50.
        row(31.0, 4, (6.0, 12.0), (6.312, 11.703), (CongestionThrottle, 65.0)),
        // 0.7*1 + 0.3*6.312 = 2.5936; 0.7*20 + 0.3*11.703 = 17.5109 > 10: gentle, but 21 s of the cooldown are left.
        row(40.0, 5, (1.0, 20.0), (2.5936, 17.5109), (Hold, 65.0)),
        // 0.7 + 0.3*2.5936 = 1.47808; 14 + 0.3*17.5109 = 19.25327. Same direction as before: 65 - 20.
        row(61.0, 6, (1.0, 20.0), (1.478_08, 19.253_27), (LatencyGentleThrottle, 45.0)),
        // 0.7 + 0.3*1.47808 = 1.143424; 3.5 + 0.3*19.25327 = 9.275981: healthy, first of two.
        row(91.0, 7, (1.0, 5.0), (1.143_424, 9.275_981), (Hold, 45.0)),
        // The same sample again: nothing new, it does not count as the second.
        row(91.5, 7, (1.0, 5.0), (1.143_424, 9.275_981), (Hold, 45.0)),
        // 0.7 + 0.3*1.143424 = 1.0430272; 3.5 + 0.3*9.275981 = 6.2827943. Second: 45 + 15.
        row(92.0, 8, (1.0, 5.0), (1.043_027_2, 6.282_794_3), (Increase, 60.0)),
    ];
    let mut control = Loop::new(policy(&[ROBOT]), 100.0);
    for row in trace {
        let sample = latency(ROBOT, row.sequence, row.seconds, row.raw.0, row.raw.1);
        let actual = control.step(row.seconds, &[sample]);
        assert_eq!(actual, row.expected, "at {} s", row.seconds);
        let smoothed = control.state.workloads[0].smoothed;
        for (actual, expected) in [
            (smoothed.jitter_ms, row.smoothed.0),
            (smoothed.p95_ms, row.smoothed.1),
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
fn exactly_at_target_is_healthy() {
    assert_eq!(
        Loop::new(unsmoothed(&[ROBOT]), 100.0).robot(0.0, 5.0, 10.0),
        (Increase, 115.0)
    );
    assert_eq!(
        Loop::new(unsmoothed(&[ROBOT]), 100.0).robot(0.0, 5.000_1, 10.0),
        (CongestionThrottle, 50.0)
    );
    assert_eq!(
        Loop::new(unsmoothed(&[ROBOT]), 100.0).robot(0.0, 5.0, 10.000_1),
        (LatencyGentleThrottle, 80.0)
    );
}

#[test]
fn the_loop_starts_from_the_limit_found_else_from_the_maximum() {
    let sample = [latency(ROBOT, 1, 0.0, 9.0, 9.0)];
    let mut control = Loop::new(unsmoothed(&[ROBOT]), 300.0);
    assert_eq!(control.step(0.0, &sample), (CongestionThrottle, 250.0));
    control.state = State::default();
    assert_eq!(control.step(0.0, &sample), (CongestionThrottle, 950.0));
}

#[test]
fn any_latency_target_throttles_gently() {
    let set: [fn(&mut Sample, f64); 3] = [
        |s, v| s.p95_ms = Some(v),
        |s, v| s.p99_ms = Some(v),
        |s, v| s.mean_ms = Some(v),
    ];
    for (number, set) in set.iter().enumerate() {
        for (value, expected) in [
            (6.0, (Increase, 115.0)),
            (8.0, (LatencyGentleThrottle, 80.0)),
        ] {
            let mut policy = unsmoothed(&[ROBOT]);
            policy.critical[0].targets = Targets {
                p95_ms: (number == 0).then_some(7.0),
                p99_ms: (number == 1).then_some(7.0),
                mean_ms: (number == 2).then_some(7.0),
                jitter_ms: None,
            };
            let mut sample = at(ROBOT, 1, 0.0);
            set(&mut sample, value);
            let actual = Loop::new(policy, 100.0).step(0.0, &[sample]);
            assert_eq!(actual, expected, "target {number}, value {value}");
        }
    }
}

#[test]
fn a_gentle_step_is_never_larger_than_the_aggressive_one() {
    let mut policy = unsmoothed(&[ROBOT]);
    if let Law::Threshold(parameters) = &mut policy.law {
        parameters.aggressive_decrease_bps = 5e6;
    }
    assert_eq!(
        Loop::new(policy, 100.0).robot(0.0, 1.0, 11.0),
        (LatencyGentleThrottle, 95.0)
    );
}

#[test]
fn the_worst_of_several_workloads_governs() {
    // (robot, scanner) as (jitter, P95), and what follows from 100 Mbit/s.
    let rows = [
        ((1.0, 5.0), (2.0, 6.0), (Increase, 115.0)),
        ((1.0, 5.0), (2.0, 11.0), (LatencyGentleThrottle, 80.0)),
        ((9.0, 5.0), (2.0, 99.0), (CongestionThrottle, 50.0)),
        ((1.0, 99.0), (6.0, 5.0), (CongestionThrottle, 50.0)),
        ((6.0, 5.0), (7.0, 5.0), (CongestionThrottle, 50.0)),
        // Jitter by a fifth, latency tenfold, of one workload: jitter decides.
        ((6.0, 99.0), (1.0, 5.0), (CongestionThrottle, 50.0)),
    ];
    for (robot, scanner, expected) in rows {
        let samples = [
            latency(ROBOT, 1, 0.0, robot.0, robot.1),
            latency(SCANNER, 1, 0.0, scanner.0, scanner.1),
        ];
        let mut control = Loop::new(unsmoothed(&[ROBOT, SCANNER]), 100.0);
        assert_eq!(
            control.step(0.0, &samples),
            expected,
            "{robot:?} {scanner:?}"
        );
    }
}

#[test]
fn missing_data_never_raises_and_leaves_the_averages_alone() {
    for quality in [Quality::Stale, Quality::NoData, Quality::Failed] {
        let mut control = Loop::new(policy(&[ROBOT]), 100.0);
        control.robot(0.0, 2.0, 8.0);
        let averages = control.state.workloads[0].smoothed;
        // Values that such a sample may carry are not believed, in neither direction.
        for (sequence, jitter_ms) in [(100, 0.0), (101, 900.0)] {
            let sample = Sample {
                quality,
                ..latency(ROBOT, sequence, 40.0, jitter_ms, 1.0)
            };
            assert_eq!(control.step(40.0, &[sample]), (Hold, 115.0), "{quality:?}");
        }
        assert_eq!(control.state.workloads[0].smoothed, averages);
        assert_eq!(control.step(41.0, &[]), (Hold, 115.0));
        // The next good one goes on from there: 0.7*3 + 0.3*2 = 2.7.
        let good = latency(ROBOT, 102, 42.0, 3.0, 8.0);
        assert_eq!(control.step(42.0, &[good]), (Increase, 130.0));
        let jitter_ms = control.state.workloads[0].smoothed.jitter_ms.unwrap();
        assert!((jitter_ms - 2.7).abs() < 1e-9);
    }
}

#[test]
fn one_workload_without_data_stops_the_raise_but_not_the_throttle_for_another() {
    let without = of_quality(SCANNER, 1, 0.0, Quality::NoData);
    for missing in [vec![], vec![without]] {
        let with = |jitter_ms| {
            [
                vec![latency(ROBOT, 1, 0.0, jitter_ms, 5.0)],
                missing.clone(),
            ]
            .concat()
        };
        let mut control = Loop::new(unsmoothed(&[ROBOT, SCANNER]), 100.0);
        assert_eq!(control.step(0.0, &with(1.0)), (Hold, 100.0));
        let mut control = Loop::new(unsmoothed(&[ROBOT, SCANNER]), 100.0);
        assert_eq!(control.step(0.0, &with(6.0)), (CongestionThrottle, 50.0));
    }
}

#[test]
fn a_signal_with_target_that_a_sample_lacks_stops_the_raise_but_not_the_throttle_for_another() {
    let lacking = |sequence, seconds, p95_ms| Sample {
        p95_ms: Some(p95_ms),
        ..at(ROBOT, sequence, seconds)
    };
    let mut control = Loop::new(unsmoothed(&[ROBOT]), 100.0);
    let held = control.evaluate(0.0, &[lacking(1, 0.0, 5.0)]);
    assert_eq!(held.action, Hold);
    assert!(
        held.reason.contains("its sample 1 has no jitter"),
        "{}",
        held.reason
    );
    assert_eq!(
        control.step(1.0, &[lacking(2, 1.0, 11.0)]),
        (LatencyGentleThrottle, 80.0)
    );
    // An old average of the missing signal does not throttle either.
    let mut control = Loop::new(unsmoothed(&[ROBOT]), 100.0);
    assert_eq!(control.robot(0.0, 9.0, 5.0), (CongestionThrottle, 50.0));
    assert_eq!(control.step(60.0, &[lacking(61, 60.0, 5.0)]), (Hold, 50.0));
}

#[test]
fn a_target_set_later_waits_for_a_value_of_its_own() {
    let mut control = Loop::new(unsmoothed(&[ROBOT, SCANNER]), 100.0);
    let sample = |workload, sequence, seconds| Sample {
        p99_ms: Some(50.0),
        ..latency(workload, sequence, seconds, 1.0, 5.0)
    };
    control.step(0.0, &[sample(ROBOT, 1, 0.0), sample(SCANNER, 1, 0.0)]);
    control.step(30.0, &[sample(ROBOT, 2, 30.0)]);
    control.policy.critical[0].targets.p99_ms = Some(20.0);
    assert_eq!(
        control.step(31.0, &[sample(SCANNER, 2, 31.0)]),
        (Hold, 115.0)
    );
    // 50 > 20, but a turn needs two.
    assert_eq!(control.step(32.0, &[sample(ROBOT, 3, 32.0)]), (Hold, 115.0));
    assert_eq!(
        control.step(33.0, &[sample(ROBOT, 4, 33.0)]),
        (LatencyGentleThrottle, 95.0)
    );
}

#[test]
fn a_sample_observed_too_long_ago_is_no_data() {
    let mut control = Loop::new(unsmoothed(&[ROBOT]), 100.0);
    let old = latency(ROBOT, 1, 0.0, 1.0, 5.0);
    let held = control.evaluate(60.001, &[old]);
    assert_eq!(held.action, Hold);
    assert_eq!(
        held.reason,
        "factory_robot: its sample 1 was observed 60.001 s ago, more than the 60 s allowed, and without data no limit is \
         raised. No limit changes: bulk stays at 100 Mbit/s."
    );
    // Sixty seconds to the millisecond, and a collector whose clock is ahead, are fresh.
    assert_eq!(
        control.step(61.0, &[latency(ROBOT, 2, 1.0, 1.0, 5.0)]),
        (Increase, 115.0)
    );
    assert_eq!(
        control.step(91.0, &[latency(ROBOT, 3, 95.0, 1.0, 5.0)]),
        (Increase, 130.0)
    );
}

#[test]
fn idle_returns_bandwidth_one_step_per_cooldown_and_leaves_the_averages_alone() {
    let mut control = Loop::new(policy(&[ROBOT]), 100.0);
    assert_eq!(control.robot(0.0, 9.0, 5.0), (CongestionThrottle, 50.0));
    let averages = control.state.workloads[0].smoothed;
    let mut idle = |seconds: f64, sequence| {
        control.step(
            seconds,
            &[of_quality(ROBOT, sequence, seconds, Quality::Idle)],
        )
    };
    assert_eq!(idle(29.0, 100), (Hold, 50.0)); // cooldown; first of two
    assert_eq!(idle(30.0, 101), (Increase, 65.0)); // second
    assert_eq!(idle(59.999, 102), (Hold, 65.0));
    assert_eq!(idle(60.0, 103), (Increase, 80.0));
    assert_eq!(control.state.workloads[0].smoothed, averages);
}

#[test]
fn samples_out_of_order_and_of_strangers_are_ignored() {
    let mut control = Loop::new(policy(&[ROBOT]), 100.0);
    control.step(0.0, &[latency(ROBOT, 7, 0.0, 2.0, 8.0)]);
    let before = control.state.clone();
    let ignored = [
        latency(ROBOT, 7, 40.0, 90.0, 90.0),
        latency(ROBOT, 6, 40.0, 90.0, 90.0),
        latency("factory_stranger", 9, 40.0, 90.0, 90.0),
        Sample {
            jitter_ms: Some(f64::NAN),
            ..latency(ROBOT, u64::MAX, 40.0, 1.0, 1.0)
        },
    ];
    assert_eq!(control.step(40.0, &ignored), (Hold, 115.0));
    assert_eq!(control.state, before);
}

#[test]
fn several_new_samples_are_taken_in_by_sequence_whatever_their_order() {
    let samples = [
        latency(ROBOT, 2, 1.0, 4.0, 9.0),
        latency(ROBOT, 1, 0.0, 2.0, 8.0),
    ];
    let mut control = Loop::new(policy(&[ROBOT]), 100.0);
    control.step(1.0, &samples);
    // Starts at 2, then 0.7*4 + 0.3*2 = 3.4.
    let jitter_ms = control.state.workloads[0].smoothed.jitter_ms.unwrap();
    assert!((jitter_ms - 3.4).abs() < 1e-9, "{jitter_ms}");
    assert_eq!(control.state.workloads[0].last_sequence, Some(2));
}

#[test]
fn a_target_set_again_does_not_bring_back_an_old_average() {
    let mut control = Loop::new(unsmoothed(&[ROBOT, SCANNER]), 100.0);
    control.policy.critical[0].targets.p99_ms = Some(60.0);
    let sample = |workload, sequence, seconds| Sample {
        p99_ms: Some(50.0),
        ..latency(workload, sequence, seconds, 1.0, 5.0)
    };
    let both = [sample(ROBOT, 1, 0.0), sample(SCANNER, 1, 0.0)];
    assert_eq!(control.step(0.0, &both), (Increase, 115.0));
    control.policy.critical[0].targets.p99_ms = None;
    assert_eq!(control.step(30.0, &[sample(ROBOT, 2, 30.0)]), (Hold, 115.0));
    control.policy.critical[0].targets.p99_ms = Some(60.0);
    let held = control.evaluate(31.0, &[sample(SCANNER, 2, 31.0)]);
    assert_eq!(held.action, Hold);
    assert!(
        held.reason
            .starts_with("factory_robot: its P99 latency is not known yet"),
        "{}",
        held.reason
    );
}

#[test]
fn what_one_workload_showed_too_long_ago_does_not_carry_the_raise_of_another() {
    for first in [
        latency(ROBOT, 1, 0.0, 1.0, 5.0),
        of_quality(ROBOT, 1, 0.0, Quality::Idle),
    ] {
        let mut control = Loop::new(unsmoothed(&[ROBOT, SCANNER]), 100.0);
        assert_eq!(control.step(0.0, &[first]), (Hold, 100.0));
        let late = [latency(SCANNER, 1, 60.001, 1.0, 5.0)];
        assert_eq!(control.step(60.001, &late), (Hold, 100.0));
        // The same a millisecond earlier raises.
        let mut control = Loop::new(unsmoothed(&[ROBOT, SCANNER]), 100.0);
        control.step(0.0, &[latency(ROBOT, 1, 0.0, 1.0, 5.0)]);
        assert_eq!(control.step(60.0, &late), (Increase, 115.0));
    }
}

#[test]
fn coarse_samples_are_judged_as_good_ones() {
    for (jitter_ms, expected) in [(1.0, (Increase, 115.0)), (6.0, (CongestionThrottle, 50.0))] {
        let sample = Sample {
            quality: Quality::Coarse,
            ..latency(ROBOT, 1, 0.0, jitter_ms, 5.0)
        };
        let mut control = Loop::new(unsmoothed(&[ROBOT]), 100.0);
        assert_eq!(control.step(0.0, &[sample]), expected);
    }
}

#[test]
fn after_a_violation_the_reason_names_what_is_wrong_with_the_newest_sample() {
    let mut control = Loop::new(unsmoothed(&[ROBOT]), 100.0);
    control.robot(0.0, 9.0, 5.0);
    let held = control.evaluate(40.0, &[of_quality(ROBOT, 41, 40.0, Quality::NoData)]);
    assert_eq!(
        held.reason,
        "factory_robot: its sample 41 is NO_DATA, and without data no limit is raised. No limit changes: bulk stays at 50 \
         Mbit/s."
    );
    let held = control.evaluate(41.0, &[]);
    assert!(
        held.reason
            .starts_with("factory_robot: its last sample 41 could not be used"),
        "{}",
        held.reason
    );
}

/// The sample of second `scraped`, asked for again `later` seconds after.
fn again(sequence: u64, scraped: f64, later: f64, jitter_ms: f64) -> Sample {
    Sample {
        observed_at_ms: milliseconds(scraped + later),
        ..latency(ROBOT, sequence, scraped, jitter_ms, 4.0)
    }
}

#[test]
fn a_scrape_that_is_asked_for_again_is_smoothed_once() {
    let mut bench = Loop::new(policy(&[ROBOT]), 500.0);
    bench.robot(0.0, 2.0, 4.0);
    bench.step(5.0, &[again(10, 5.0, 0.0, 6.0)]);
    let smoothed = bench.state.workloads[0].smoothed;
    for poll in 1..5_u64 {
        let later = poll as f64;
        bench.step(5.0 + later, &[again(10 + poll, 5.0, later, 6.0)]);
        assert_eq!(bench.state.workloads[0].smoothed, smoothed);
        assert_eq!(bench.state.workloads[0].last_sequence, Some(10 + poll));
        let evidence = bench.state.workloads[0].evidence.unwrap();
        assert_eq!(evidence.observed_at_ms, milliseconds(5.0 + later));
    }
}

#[test]
fn a_scrape_that_is_asked_for_again_does_not_agree_with_itself() {
    let mut bench = Loop::new(unsmoothed(&[ROBOT]), 500.0);
    assert_eq!(bench.robot(0.0, 2.0, 4.0), (Action::Increase, 515.0));
    let first = bench.step(100.0, &[again(200, 100.0, 0.0, 9.0)]);
    assert_eq!(first, (Action::Hold, 515.0), "a turn needs two");
    let same = bench.step(101.0, &[again(201, 100.0, 1.0, 9.0)]);
    assert_eq!(same, (Action::Hold, 515.0));
    let new = bench.step(105.0, &[again(202, 105.0, 0.0, 9.0)]);
    assert_eq!(new, (Action::CongestionThrottle, 465.0));
}

#[test]
fn a_scrape_that_is_known_counts_as_evidence_again_after_a_failed_query() {
    let mut bench = Loop::new(policy(&[ROBOT]), 500.0);
    bench.step(5.0, &[again(1, 5.0, 0.0, 2.0)]);
    let smoothed = bench.state.workloads[0].smoothed;
    bench.step(6.0, &[of_quality(ROBOT, 2, 6.0, Quality::Failed)]);
    assert_eq!(bench.state.workloads[0].evidence, None);
    bench.step(7.0, &[again(3, 5.0, 2.0, 2.0)]);
    assert!(bench.state.workloads[0].evidence.is_some());
    assert_eq!(bench.state.workloads[0].smoothed, smoothed);
}

#[test]
fn a_scrape_that_lacks_a_signal_lacks_it_however_often_it_is_asked_for() {
    let mut bench = Loop::new(policy(&[ROBOT]), 500.0);
    for sequence in 1..4_u64 {
        let sample = Sample {
            jitter_ms: None,
            ..again(sequence, 5.0, sequence as f64, 2.0)
        };
        let (action, limit) = bench.step(5.0 + sequence as f64, &[sample]);
        assert_eq!((action, limit), (Action::Hold, 500.0));
        assert_eq!(bench.state.workloads[0].evidence, None);
    }
}

#[test]
fn windows_that_are_tolerated_neither_throttle_nor_raise() {
    let mut policy = unsmoothed(&[ROBOT]);
    policy.critical[0].tolerate = Some(Tolerance { windows: 2, of: 20 });
    let mut control = Loop::new(policy, 500.0);
    for n in 0..2_u32 {
        let sample = latency(ROBOT, u64::from(n) + 1, f64::from(n), 2.0, 30.0);
        let evaluation = control.evaluate(f64::from(n), &[sample]);
        assert_eq!(evaluation.action, Action::Hold);
        let told = format!("{} of the 2 in 20 windows it tolerates", n + 1);
        assert!(evaluation.reason.contains(&told), "{}", evaluation.reason);
    }
    // the same window again is no third one
    let mut again = latency(ROBOT, 3, 1.0, 2.0, 30.0);
    again.observed_at_ms += 500;
    assert_eq!(control.step(1.5, &[again]).0, Action::Hold);
    assert_eq!(
        control.robot(3.0, 2.0, 30.0).0,
        Action::LatencyGentleThrottle
    );
}
