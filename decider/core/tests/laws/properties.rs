//! What holds whatever comes in.

use laneguard_decider_core::{
    Action, Evaluation, adaptive, autorate, drop_rate, evaluate, headroom,
    policy::{Class, Critical, Law, Policy, Targets, Tolerance},
    sample::{Quality, Sample, Usage},
    state::State,
    threshold, watermark,
};
use proptest::prelude::*;

const WORKLOADS: [&str; 3] = ["factory_robot", "factory_scanner", "factory_stranger"];

/// The predecessor's two, which take steps with a cooldown between.
fn stepping_law() -> impl Strategy<Value = Law> {
    let pace = (
        0.05..=1.0_f64,
        0..60_000_u64,
        1e6..2e8_f64,
        1e6..2e8_f64,
        1e6..2e8_f64,
    );
    let drops = (
        0.0..1.0_f64,
        0.0..20.0_f64,
        0.0..60.0_f64,
        0.001..=1.0_f64,
        0.001..=1.0_f64,
    );
    prop_oneof![
        pace.clone()
            .prop_map(|(alpha, cooldown_ms, aggressive, gentle, step)| {
                Law::Threshold(threshold::Parameters {
                    alpha,
                    cooldown_ms,
                    aggressive_decrease_bps: aggressive,
                    gentle_decrease_bps: gentle,
                    increase_step_bps: step,
                    ..threshold::Parameters::default()
                })
            }),
        (pace, drops).prop_map(|((alpha, cooldown_ms, aggressive, _, step), drops)| {
            Law::DropRate(drop_rate::Parameters {
                alpha,
                cooldown_ms,
                aggressive_decrease_bps: aggressive,
                increase_step_bps: step,
                margin_ratio: drops.0,
                margin_drops: drops.1,
                baseline_floor: drops.2,
                baseline_fall: drops.3,
                baseline_rise: drops.4,
                ..drop_rate::Parameters::default()
            })
        }),
    ]
}

fn any_law() -> impl Strategy<Value = Law> {
    prop_oneof![
        2 => our_law(),
        1 => reference_law(),
    ]
}

/// Those that an operator may enforce.
fn our_law() -> impl Strategy<Value = Law> {
    prop_oneof![
        2 => stepping_law(),
        3 => (0.5..=1.0_f64, 10.0..1e3_f64, 0..60_000_u64, 0..300_000_u64, 1..=10_u8).prop_map(
            |(settle, drain_ms, steady_interval_ms, patience_ms, futile_cuts)| {
                Law::Adaptive(adaptive::Parameters {
                    settle,
                    drain_ms,
                    steady_interval_ms,
                    patience_ms,
                    futile_cuts,
                    ..adaptive::Parameters::default()
                })
            }),
    ]
}

/// Those that are there for comparison.
fn reference_law() -> impl Strategy<Value = Law> {
    prop_oneof![
        1 => (1e7..1e10_f64).prop_map(|link_bps| Law::Watermark(watermark::Parameters {
            link_bps,
            ..watermark::Parameters::default()
        })),
        1 => (1e7..1e10_f64).prop_map(|link_bps| Law::Headroom(headroom::Parameters {
            link_bps,
            ..headroom::Parameters::default()
        })),
        1 => (prop::option::of(1e6..1e9_f64), 1..=6_usize).prop_map(|(base_bps, needed)| {
            Law::Autorate(autorate::Parameters {
                base_bps,
                needed,
                ..autorate::Parameters::default()
            })
        }),
    ]
}

fn any_policy() -> impl Strategy<Value = Policy> {
    policy_of(any_law())
}

fn policy_of(law: impl Strategy<Value = Law>) -> impl Strategy<Value = Policy> {
    let target = || prop::option::of(1.0..20.0_f64);
    let critical = (1.0..20.0_f64, target(), target(), target()).prop_map(
        |(p95_ms, p99_ms, mean_ms, jitter_ms)| Targets {
            p95_ms: Some(p95_ms),
            p99_ms,
            mean_ms,
            jitter_ms,
        },
    );
    let class = (
        1e6..1e8_f64,
        0.0..1e9_f64,
        prop_oneof![Just(1.0), 0.01..=100.0_f64],
        prop_oneof![2 => Just(0), 1 => 0..3_u32],
    );
    let tolerance = prop::option::of((1..=100_u8, 0.0..1.0_f64).prop_map(|(of, share)| {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let windows = (f64::from(of) * share) as u8;
        Tolerance {
            windows: windows.min(of - 1),
            of,
        }
    }));
    (
        law,
        prop::collection::vec((critical, tolerance), 1..=2),
        prop::collection::vec(class, 1..=3),
    )
        .prop_map(|(law, targets, bounds)| Policy {
            law,
            critical: WORKLOADS
                .iter()
                .zip(targets)
                .map(|(workload, (targets, tolerate))| Critical {
                    tolerate,
                    ..Critical::new(*workload, targets)
                })
                .collect(),
            classes: ["bulk", "scavenger", "third"]
                .iter()
                .zip(bounds)
                .map(|(name, (min_bps, room_bps, weight, sacrifice))| Class {
                    weight,
                    sacrifice,
                    ..Class::new(*name, min_bps, min_bps + room_bps)
                })
                .collect(),
        })
}

/// Mostly plausible, sometimes unset, sometimes nonsense.
fn any_value() -> impl Strategy<Value = Option<f64>> {
    prop_oneof![
        12 => (0.0..30.0_f64).prop_map(Some),
        2 => (0.0..500.0_f64).prop_map(Some),
        2 => Just(None),
        1 => prop::num::f64::ANY.prop_map(Some),
    ]
}

fn any_quality() -> impl Strategy<Value = Quality> {
    prop_oneof![
        8 => Just(Quality::Good),
        2 => Just(Quality::Coarse),
        1 => Just(Quality::Idle),
        1 => Just(Quality::Stale),
        1 => Just(Quality::NoData),
        1 => Just(Quality::Failed),
    ]
}

fn any_usage() -> impl Strategy<Value = Usage> {
    (
        prop::sample::select(&["bulk", "scavenger", "third", "stranger"][..]),
        prop_oneof![12 => 0.0..3e9_f64, 1 => prop::num::f64::ANY],
        0..9_u64,
        0.0..1e9_f64,
        prop::option::of((-5_000..5_000_i64, -5_000..5_000_i64)),
    )
        .prop_map(|(class, total_bps, pods, top_pod_bps, window)| Usage {
            class: class.into(),
            total_bps,
            pods,
            top_pod_bps,
            window_start_ms: window.map(|window| window.0),
            window_end_ms: window.map(|window| window.1),
        })
}

/// A sample whose times are relative to the evaluation it belongs to.
fn any_sample() -> impl Strategy<Value = Sample> {
    (
        prop::sample::select(&WORKLOADS[..]),
        0..40_u64,
        prop_oneof![9 => -70_000..1_000_i64, 1 => any::<i64>()],
        any_quality(),
        (
            any_value(),
            any_value(),
            any_value(),
            any_value(),
            any_value(),
        ),
        (
            prop::option::of(0.0..1_000.0_f64),
            prop::collection::vec(any_usage(), 0..3),
            0..5_000_i64,
        ),
    )
        .prop_map(
            |(
                workload,
                sequence,
                observed_at_ms,
                quality,
                values,
                (request_rate, usage, length_ms),
            )| Sample {
                workload: workload.into(),
                sequence,
                observed_at_ms,
                quality,
                p95_ms: values.0,
                p99_ms: values.1,
                mean_ms: values.2,
                jitter_ms: values.3,
                drop_rate: values.4,
                request_rate,
                usage,
                // Turned into the window once the time of the evaluation is known.
                window_start_ms: -length_ms,
                ..Sample::default()
            },
        )
}

/// Evaluations as (milliseconds since the one before, samples).
fn any_trace() -> impl Strategy<Value = Vec<(i64, Vec<Sample>)>> {
    prop::collection::vec(
        (0..40_000_i64, prop::collection::vec(any_sample(), 0..4)),
        1..30,
    )
    .prop_map(|mut trace| {
        let mut now_ms = 0;
        for (index, (step_ms, samples)) in (0..).zip(&mut trace) {
            now_ms += *step_ms;
            for sample in samples {
                // Sequences rise on the whole, with repeats and falls between; times are near the evaluation's.
                sample.sequence += index * 10;
                sample.observed_at_ms = sample.observed_at_ms.saturating_add(now_ms);
                sample.window_start_ms =
                    sample.observed_at_ms.saturating_add(sample.window_start_ms);
                sample.window_end_ms = sample.observed_at_ms;
                for usage in &mut sample.usage {
                    let near = |ms: i64| ms.saturating_add(now_ms);
                    usage.window_start_ms = usage.window_start_ms.map(near);
                    usage.window_end_ms = usage.window_end_ms.map(near);
                }
            }
            *step_ms = now_ms;
        }
        trace
    })
}

fn any_limits() -> impl Strategy<Value = State> {
    prop::collection::vec(
        prop_oneof![9 => 1e6..2e9_f64, 1 => prop::num::f64::ANY],
        0..3,
    )
    .prop_map(|limits| State::new(["bulk", "scavenger", "other"].into_iter().zip(limits)))
}

/// The state a trace leads to.
fn after(policy: &Policy, start: State, trace: &[(i64, Vec<Sample>)]) -> (i64, State) {
    trace
        .iter()
        .fold((0, start), |(_, state), (now_ms, samples)| {
            (*now_ms, evaluate(*now_ms, policy, &state, samples).state)
        })
}

/// Whether the law, not the policy's bounds, raised a limit.
fn raises(policy: &Policy, evaluation: &Evaluation) -> bool {
    policy
        .classes
        .iter()
        .zip(&evaluation.limits)
        .any(|(class, limit)| limit.after_bps > class.clamp(limit.before_bps))
}

fn make_worse(sample: &Sample, by: &[f64; 5]) -> Sample {
    let add = |value: Option<f64>, by: f64| value.map(|value| value + by);
    Sample {
        p95_ms: add(sample.p95_ms, by[0]),
        p99_ms: add(sample.p99_ms, by[1]),
        mean_ms: add(sample.mean_ms, by[2]),
        jitter_ms: add(sample.jitter_ms, by[3]),
        drop_rate: add(sample.drop_rate, by[4]),
        ..sample.clone()
    }
}

proptest! {
    #[test]
    fn generated_policies_are_valid(policy in any_policy()) {
        prop_assert_eq!(policy.validate(), Ok(()));
    }

    #[test]
    fn limits_are_within_bounds_and_a_word_other_than_hold_means_a_change(
        policies in prop::collection::vec(any_policy(), 1..3),
        start in any_limits(),
        trace in any_trace(),
    ) {
        let mut state = start;
        for (index, (now_ms, samples)) in trace.iter().enumerate() {
            // The policy may be another one each time.
            let policy = &policies[index % policies.len()];
            let evaluation = evaluate(*now_ms, policy, &state, samples);
            prop_assert_eq!(evaluation.limits.len(), policy.classes.len());
            for (class, limit) in policy.classes.iter().zip(&evaluation.limits) {
                prop_assert!(limit.before_bps.is_finite());
                prop_assert!((class.min_bps..=class.max_bps).contains(&limit.after_bps), "{limit:?}");
                prop_assert_eq!(evaluation.state.limit_bps(&class.name), Some(limit.after_bps));
                // An even share, or a way back to a base, may lower one class and raise another.
                let is_even = matches!(policy.law, Law::Watermark(_) | Law::Headroom(_) | Law::Autorate(_));
                match evaluation.action {
                    Action::NotBandwidth | Action::CannotBeMet | Action::Increase => prop_assert!(limit.after_bps >= class.clamp(limit.before_bps)),
                    Action::Hold => prop_assert_eq!(limit.after_bps, class.clamp(limit.before_bps)),
                    _ => prop_assert!(is_even || limit.after_bps <= class.clamp(limit.before_bps)),
                }
            }
            if !matches!(evaluation.action, Action::Hold | Action::NotBandwidth | Action::CannotBeMet) {
                prop_assert!(evaluation.limits.iter().any(|limit| limit.is_changed()));
            }
            prop_assert!(evaluation.reason.len() < 1_000 && evaluation.reason.ends_with('.'), "{}", evaluation.reason);
            state = evaluation.state;
        }
    }

    #[test]
    fn a_raise_rests_on_a_usable_sample_of_every_critical_workload(
        policy in policy_of(our_law()), start in any_limits(), trace in any_trace(),
    ) {
        let mut state = start;
        let mut usable_since_raise = vec![false; policy.critical.len()];
        for (now_ms, samples) in &trace {
            let evaluation = evaluate(*now_ms, &policy, &state, samples);
            for (usable, critical) in usable_since_raise.iter_mut().zip(&policy.critical) {
                *usable |= samples.iter().any(|sample| {
                    sample.workload == critical.workload
                        && sample.is_well_formed()
                        && !matches!(sample.quality, Quality::Stale | Quality::NoData | Quality::Failed)
                        && now_ms.saturating_sub(sample.observed_at_ms) <= 60_000
                });
            }
            if raises(&policy, &evaluation) {
                prop_assert!(usable_since_raise.iter().all(|usable| *usable));
                usable_since_raise.fill(false);
            }
            state = evaluation.state;
        }
    }

    #[test]
    fn from_any_state_bad_or_old_data_of_one_workload_raises_nothing(
        policy in any_policy(),
        start in any_limits(),
        trace in any_trace(),
        mut samples in prop::collection::vec(any_sample(), 0..6),
        bad in prop::sample::select(vec![Quality::Stale, Quality::NoData, Quality::Failed]),
    ) {
        let (now_ms, state) = after(&policy, start, &trace);
        let now_ms = now_ms + 100_000;
        for sample in &mut samples {
            sample.sequence += 10_000;
            sample.observed_at_ms = now_ms;
            if sample.workload == WORKLOADS[0] {
                sample.quality = bad;
            }
        }
        let evaluation = evaluate(now_ms, &policy, &state, &samples);
        prop_assert!(!raises(&policy, &evaluation), "{}", evaluation.reason);
    }

    #[test]
    fn at_most_one_change_per_cooldown(policy in policy_of(stepping_law()), start in any_limits(), trace in any_trace()) {
        let cooldown_ms = match &policy.law {
            Law::Threshold(parameters) => parameters.cooldown_ms,
            Law::DropRate(parameters) => parameters.cooldown_ms,
            other => unreachable!("{} takes no steps", other.name()),
        };
        let mut state = start;
        let mut last_ms: Option<i64> = None;
        for (now_ms, samples) in &trace {
            let evaluation = evaluate(*now_ms, &policy, &state, samples);
            if evaluation.action != Action::Hold {
                if let Some(last_ms) = last_ms {
                    prop_assert!(now_ms - last_ms >= i64::try_from(cooldown_ms).unwrap());
                }
                last_ms = Some(*now_ms);
            }
            state = evaluation.state;
        }
    }

    #[test]
    fn state_through_json_changes_nothing_and_the_same_inputs_give_the_same_output(
        policy in any_policy(), start in any_limits(), trace in any_trace(),
    ) {
        let policy_read: Policy = serde_json::from_str(&serde_json::to_string(&policy).unwrap()).unwrap();
        let mut state = evaluate(0, &policy, &start, &[]).state;
        for (now_ms, samples) in &trace {
            let written = serde_json::to_string(&state).unwrap();
            let read: State = serde_json::from_str(&written).unwrap();
            prop_assert_eq!(&read, &state);
            let evaluation = evaluate(*now_ms, &policy, &state, samples);
            prop_assert_eq!(&evaluate(*now_ms, &policy_read, &read, samples), &evaluation);
            state = evaluation.state;
        }
    }

    #[test]
    fn the_order_of_samples_does_not_matter(
        policy in any_policy(), start in any_limits(), trace in any_trace(),
    ) {
        let mut state = start;
        for (now_ms, samples) in &trace {
            // Two samples of one workload with one sequence cannot both be true; keep one.
            let mut samples = samples.clone();
            samples.sort_by(|a, b| (&a.workload, a.sequence).cmp(&(&b.workload, b.sequence)));
            samples.dedup_by(|a, b| (&a.workload, a.sequence) == (&b.workload, b.sequence));
            let forwards = evaluate(*now_ms, &policy, &state, &samples);
            samples.reverse();
            prop_assert_eq!(&evaluate(*now_ms, &policy, &state, &samples), &forwards);
            state = forwards.state;
        }
    }

    #[test]
    fn of_the_stepping_laws_a_worse_signal_never_gives_a_higher_limit(
        policy in policy_of(stepping_law()),
        start in any_limits(),
        trace in any_trace(),
        by in prop::array::uniform5(0.0..50.0_f64),
    ) {
        let (last, before) = trace.split_last().unwrap();
        let (_, state) = after(&policy, start, before);
        let (now_ms, samples) = last;
        let worse: Vec<_> = samples.iter().map(|sample| make_worse(sample, &by)).collect();
        // Worse in value, not turned into nonsense or sense.
        prop_assume!(samples.iter().zip(&worse).all(|(a, b)| a.is_well_formed() == b.is_well_formed()));
        let better = evaluate(*now_ms, &policy, &state, samples);
        let worse = evaluate(*now_ms, &policy, &state, &worse);
        for (better, worse) in better.limits.iter().zip(&worse.limits) {
            prop_assert!(worse.after_bps <= better.after_bps);
        }
    }

    #[test]
    fn the_state_is_bounded_by_the_policy(policy in any_policy(), start in any_limits(), trace in any_trace()) {
        let (_, state) = after(&policy, start, &trace);
        prop_assert_eq!(state.limits.len(), policy.classes.len());
        prop_assert_eq!(state.workloads.len(), policy.critical.len());
        let json = serde_json::to_string(&state).unwrap();
        prop_assert!(json.len() < 2_000 + 1_000 * (state.limits.len() + state.workloads.len()), "{}", json.len());
    }

    #[test]
    fn drops_up_to_fifty_five_a_second_never_throttle_by_default(
        rates in prop::collection::vec(0.0..=55.0_f64, 1..300),
    ) {
        let policy = crate::fixture::by_drops(&["factory_robot"]);
        let mut state = State::new([("bulk", 100e6)]);
        for (second, rate) in (0..).zip(rates) {
            let sample = crate::fixture::drops("factory_robot", second + 1, 0.0, rate);
            let evaluation = evaluate(i64::try_from(second).unwrap() * 100, &policy, &state, &[sample]);
            prop_assert_ne!(evaluation.action, Action::CongestionThrottle);
            state = evaluation.state;
        }
    }
}
