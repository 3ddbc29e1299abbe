//! The comparison of laws in shadow: hand-made rounds with one link of 200 Mbit/s, and properties.

#![allow(clippy::unwrap_used)] // a test's helpers fail as the test does

use laneguard_decider_core::{
    LimitChange, evaluate,
    policy::Policy,
    sample::{Quality, Sample, Usage},
    shadow::{Governing, LONGEST_STEP_MS, Ledger},
    state::State,
};
use proptest::prelude::*;
use serde_json::json;

const T0: i64 = 1_764_000_000_000;
const MBIT: f64 = 1e6;

/// A law that cuts by 100 Mbit/s per violating sample and raises by 1, in [10, 1000] Mbit/s.
fn policy(step_bps: f64) -> Policy {
    serde_json::from_value(json!({
        "law": {"name": "Threshold", "alpha": 1.0, "cooldown_ms": 0, "aggressive_decrease_bps": step_bps,
            "gentle_decrease_bps": step_bps, "increase_step_bps": 1e6},
        "critical": [{"workload": "factory_robot", "targets": {"p95_ms": 10.0}}],
        "classes": [{"name": "bulk", "min_bps": 10e6, "max_bps": 1e9}],
    }))
    .unwrap()
}

/// A window of one second that ends as the sample is observed: P95 and what two pods send together.
fn sample(at_ms: i64, p95_ms: f64, sent_bps: f64) -> Sample {
    Sample {
        workload: "factory_robot".into(),
        sequence: u64::try_from(at_ms - T0).unwrap() + 1,
        window_start_ms: at_ms - 1000,
        window_end_ms: at_ms,
        observed_at_ms: at_ms,
        quality: Quality::Good,
        p95_ms: Some(p95_ms),
        usage: vec![Usage {
            class: "bulk".into(),
            total_bps: sent_bps,
            pods: 2,
            top_pod_bps: sent_bps / 2.0,
            ..Usage::default()
        }],
        ..Sample::default()
    }
}

fn limit(bps: f64) -> [LimitChange; 1] {
    [LimitChange {
        class: "bulk".into(),
        before_bps: bps,
        after_bps: bps,
    }]
}

/// Rounds a second apart under a law in force that keeps its limit; one shadow, named `s`.
struct Bench {
    ledger: Ledger,
    shadows: Vec<(String, Policy)>,
    at_ms: i64,
}

impl Bench {
    fn new() -> Self {
        Self {
            ledger: Ledger::default(),
            shadows: vec![("s".into(), policy(100e6))],
            at_ms: T0,
        }
    }

    fn round(&mut self, p95_ms: f64, sent_bps: f64, limit_bps: f64, applied: bool) {
        self.at_ms += 1000;
        let samples = [sample(self.at_ms, p95_ms, sent_bps)];
        let limits = limit(limit_bps);
        let governing = Governing {
            limits: &limits,
            applied,
        };
        let verdicts = self.ledger.round(
            self.at_ms,
            &policy(50e6),
            &self.shadows,
            governing,
            &samples,
        );
        assert_eq!(verdicts.len(), self.shadows.len());
        for verdict in verdicts {
            let (_, policy) = &self.shadows[verdict.index];
            let again = evaluate(self.at_ms, policy, &verdict.state, &samples);
            assert_eq!(
                again, verdict.evaluation,
                "the shadow's own record is complete"
            );
        }
    }
}

#[test]
fn in_observe_mode_a_window_is_avoided_once_the_shadow_was_below_what_the_link_carried() {
    let mut bench = Bench::new();
    // a queue stands at 180 Mbit/s of best-effort; the shadow goes 300 -> 200 -> 100 -> 10 Mbit/s for each of two pods
    for _ in 0..3 {
        bench.round(40.0, 180e6, 300e6, false);
    }
    let nothing = &bench.ledger.nothing.account;
    assert_eq!(
        (nothing.windows, nothing.violating, nothing.supposed),
        (3, 3, 0)
    );
    let shadow = &bench.ledger.shadows[0].account;
    assert_eq!(
        (shadow.windows, shadow.violating),
        (3, 3),
        "twice 100 Mbit/s drains no queue"
    );
    bench.round(40.0, 180e6, 300e6, false);
    let ledger = &bench.ledger;
    assert_eq!(
        ledger.shadows[0].account.violating, 3,
        "the fourth is avoided"
    );
    assert_eq!(ledger.nothing.account.violating, 4);
    assert_eq!(
        ledger.in_force.account.violating, 4,
        "300M for each of two pods stops nobody"
    );
}

#[test]
fn a_limit_that_was_low_before_the_onset_avoids_the_second_congestion_from_its_first_window() {
    let mut bench = Bench::new();
    for _ in 0..6 {
        bench.round(40.0, 180e6, 300e6, false);
    }
    // best-effort goes silent; the shadow keeps about 10 Mbit/s
    for _ in 0..3 {
        bench.round(5.0, 0.0, 300e6, false);
    }
    let before = bench.ledger.shadows[0].account.violating;
    bench.round(40.0, 180e6, 300e6, false);
    assert_eq!(bench.ledger.shadows[0].account.violating, before);
    assert_eq!(bench.ledger.nothing.account.violating, 7);
}

#[test]
fn goodput_lost_is_what_was_sent_above_the_limits_and_allowed_is_limit_times_pods() {
    let mut bench = Bench::new();
    for _ in 0..5 {
        bench.round(40.0, 180e6, 300e6, false);
    }
    let shadow = &bench.ledger.shadows[0].account;
    // of four seconds: 200 and 100 Mbit/s per pod stop nobody, then twice 10 Mbit/s: 160 lost; the first round accounts for no time
    assert_eq!(shadow.seconds, 4.0);
    assert_eq!(shadow.cut_seconds, 2.0);
    assert!(
        (shadow.lost_bits - 2.0 * 160.0 * MBIT).abs() < 1.0,
        "{shadow:?}"
    );
    let allowed = 2.0 * (200.0 + 100.0 + 10.0 + 10.0) * MBIT;
    assert!((shadow.allowed_bits - allowed).abs() < 1.0, "{shadow:?}");
    assert_eq!((shadow.evaluations, shadow.cuts, shadow.raises), (5, 3, 0));
    assert_eq!(bench.ledger.in_force.account.lost_bits, 0.0);
}

#[test]
fn in_enforce_mode_what_was_sent_unheld_tells_what_the_limits_cost_and_what_more_would_have_done() {
    let mut bench = Bench::new();
    // without limits that bind: a queue at 180 Mbit/s
    bench.round(40.0, 180e6, 300e6, true);
    // the law in force holds both pods at 60 Mbit/s, and latency is fine
    for _ in 0..10 {
        bench.round(5.0, 120e6, 60e6, true);
    }
    let ledger = &bench.ledger;
    let in_force = &ledger.in_force.account;
    assert_eq!(
        (in_force.windows, in_force.violating),
        (11, 1),
        "as observed"
    );
    assert!(
        (in_force.lost_bits - 10.0 * 60.0 * MBIT).abs() < 1.0,
        "{in_force:?}"
    );
    let nothing = &ledger.nothing.account;
    assert_eq!((nothing.violating, nothing.supposed), (11, 10));
    // the shadow was cut to 200 Mbit/s per pod once and rises from there: it lets everything through
    let shadow = &ledger.shadows[0].account;
    assert_eq!((shadow.violating, shadow.supposed), (11, 10));
    assert_eq!(shadow.lost_bits, 0.0);
}

#[test]
fn without_usage_time_and_avoidance_are_unknown_and_windows_still_count() {
    let mut bench = Bench::new();
    for _ in 0..3 {
        bench.at_ms += 1000;
        let mut samples = [sample(bench.at_ms, 40.0, 180e6)];
        samples[0].usage.clear();
        let limits = limit(300e6);
        let governing = Governing {
            limits: &limits,
            applied: false,
        };
        bench.ledger.round(
            bench.at_ms,
            &policy(50e6),
            &bench.shadows,
            governing,
            &samples,
        );
    }
    let shadow = &bench.ledger.shadows[0];
    assert_eq!((shadow.account.violating, shadow.account.seconds), (3, 0.0));
    assert_eq!(shadow.allowed_bps, None);
}

#[test]
fn a_window_that_several_samples_show_counts_once_and_a_gap_counts_for_nobody() {
    let mut bench = Bench::new();
    bench.round(40.0, 180e6, 300e6, false);
    let mut again = sample(bench.at_ms, 40.0, 180e6);
    again.sequence += 1;
    bench.at_ms += LONGEST_STEP_MS + 1;
    let limits = limit(300e6);
    let governing = Governing {
        limits: &limits,
        applied: false,
    };
    bench.ledger.round(
        bench.at_ms,
        &policy(50e6),
        &bench.shadows,
        governing,
        &[again],
    );
    let nothing = &bench.ledger.nothing.account;
    assert_eq!((nothing.windows, nothing.seconds), (1, 0.0));
}

#[test]
fn totals_begin_anew_with_another_set_of_laws_and_a_shadow_keeps_what_it_learned() {
    let mut bench = Bench::new();
    for _ in 0..4 {
        bench.round(40.0, 180e6, 300e6, false);
    }
    let (since, state) = (bench.ledger.since_ms, bench.ledger.shadows[0].state.clone());
    bench.shadows.insert(0, ("other".into(), policy(1e6)));
    bench.round(40.0, 180e6, 250e6, false);
    let ledger = &bench.ledger;
    assert!(ledger.since_ms > since);
    assert_eq!(ledger.nothing.account.windows, 1);
    let limit = |seat: usize| ledger.shadows[seat].state.as_ref().unwrap().limits[0].limit_bps;
    assert_eq!(
        limit(0),
        249e6,
        "a new one begins where the law in force is"
    );
    assert_eq!(
        limit(1),
        state.unwrap().limits[0].limit_bps,
        "at its minimum already"
    );
}

#[test]
fn a_ledger_goes_through_json_unchanged() {
    let mut bench = Bench::new();
    for _ in 0..3 {
        bench.round(40.0, 180e6, 300e6, true);
    }
    let json = serde_json::to_string(&bench.ledger).unwrap();
    assert_eq!(serde_json::from_str::<Ledger>(&json).unwrap(), bench.ledger);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    /// Whatever comes in: totals are finite and never fall, no law loses more than was wanted, none violates more than no control would, and
    /// the shadow's state is what its law alone would have come to.
    #[test]
    fn totals_only_rise_and_no_law_is_worse_than_none(
        rounds in prop::collection::vec((0.0..50.0_f64, 0.0..400e6_f64, 10e6..1e9_f64, any::<bool>(), 0..15_000_i64), 1..60)
    ) {
        let mut ledger = Ledger::default();
        let shadows = vec![("s".to_owned(), policy(100e6))];
        let mut at_ms = T0;
        let mut alone: Option<State> = None;
        let mut before = ledger.clone();
        for (p95, sent, limit_bps, applied, step) in rounds {
            at_ms += step + 1;
            let samples = [sample(at_ms, p95, sent)];
            let limits = limit(limit_bps);
            let state = alone.unwrap_or_else(|| State::new([("bulk", limit_bps)]));
            alone = Some(evaluate(at_ms, &shadows[0].1, &state, &samples).state);
            let governing = Governing { limits: &limits, applied };
            ledger.round(at_ms, &policy(50e6), &shadows, governing, &samples);
            prop_assert_eq!(&ledger.shadows[0].state, &alone);
            for (seat, former) in [(&ledger.in_force, &before.in_force), (&ledger.nothing, &before.nothing)]
                .into_iter().chain(ledger.shadows.iter().zip(&before.shadows))
            {
                let step = seat.account.since(&former.account);
                prop_assert!(step.seconds >= 0.0 && step.lost_bits >= 0.0 && step.cut_seconds >= 0.0);
                prop_assert!(step.allowed_bits >= 0.0 && step.allowed_bits.is_finite());
                prop_assert!(seat.account.violating <= ledger.nothing.account.violating);
                prop_assert!(seat.account.supposed <= seat.account.violating);
                prop_assert!(seat.account.violating <= seat.account.windows);
                prop_assert!(seat.account.cut_seconds <= seat.account.seconds);
            }
            before = ledger.clone();
        }
    }
}
