use super::*;
use laneguard_decider_core::policy::{Class, Critical, Law, Targets};
use laneguard_decider_core::state::{Direction, Evidence, Pending, Smoothed, Workload};
use laneguard_decider_core::{drop_rate, threshold};
use laneguard_proto::codec::{self, Encoding};
use laneguard_proto::duration::timestamp_from_ms;
use proptest::prelude::*;

const NOW_MS: i64 = 1_764_000_000_000;

fn value() -> impl Strategy<Value = f64> {
    prop_oneof![Just(0.0), Just(-0.0), 0.0..50.0, 1e-9..1e9, Just(1e15)]
}

fn maybe() -> impl Strategy<Value = Option<f64>> {
    proptest::option::of(value())
}

fn sequence() -> impl Strategy<Value = u64> {
    // small ones, ones around 2^53, where a double stops being exact, and any
    prop_oneof![1..10_u64, EXACT - 2..EXACT + 4, 1..=u64::MAX]
}

prop_compose! {
    fn policy()(
        drops in any::<bool>(), alpha in 0.01..=1.0, cooldown_ms in 0..60_000_u64, step in 1e3..1e9,
        p95_ms in 0.1..100.0, jitter_ms in proptest::option::of(0.1..100.0), min_bps in 1e6..1e8, range in 0.0..1e9, classes in 1..4_usize,
    ) -> Policy {
        let law = if drops {
            Law::DropRate(drop_rate::Parameters { alpha, cooldown_ms, increase_step_bps: step, ..Default::default() })
        } else {
            Law::Threshold(threshold::Parameters { alpha, cooldown_ms, increase_step_bps: step, ..Default::default() })
        };
        let critical = |workload: &str| {
            Critical::new(workload, Targets { p95_ms: Some(p95_ms), jitter_ms, ..Targets::default() })
        };
        Policy {
            law,
            critical: vec![critical("a_x"), critical("b_y")],
            classes: (0..classes).map(|n| Class::new(format!("c{n}"), min_bps, min_bps + range)).collect(),
        }
    }
}

prop_compose! {
    fn workload(name: &'static str)(
        last_sequence in proptest::option::of(sequence()), evidence in proptest::option::of((0..100_000_i64, any::<bool>())),
        advanced in any::<bool>(), p95_ms in maybe(), jitter_ms in maybe(), drop_rate in maybe(), drop_baseline in maybe(),
    ) -> Workload {
        Workload {
            workload: name.into(),
            last_sequence,
            evidence: evidence.map(|(age, idle)| Evidence { observed_at_ms: NOW_MS - age, idle }),
            advanced,
            smoothed: Smoothed { p95_ms, jitter_ms, drop_rate, ..Smoothed::default() },
            drop_baseline,
            ..Workload::default()
        }
    }
}

prop_compose! {
    fn state()(
        limits in proptest::collection::vec(1e5..2e9, 0..4), a in workload("a_x"), b in workload("b_y"),
        last_change_ms in proptest::option::of(NOW_MS - 100_000..NOW_MS + 10), up in proptest::option::of(any::<bool>()),
        pending in proptest::option::of((any::<bool>(), 0..3_u8)),
    ) -> State {
        let direction = |up| if up { Direction::Up } else { Direction::Down };
        State {
            workloads: vec![a, b],
            last_change_ms,
            last_direction: up.map(direction),
            pending: pending.map(|(up, agreeing)| Pending { direction: direction(up), agreeing }),
            ..State::new(limits.into_iter().enumerate().map(|(n, bps)| (format!("c{n}"), bps)))
        }
    }
}

prop_compose! {
    fn message()(
        second in any::<bool>(), sequence in sequence(), quality in 0..8_i32, age in -5_000..100_000_i64, window in 0..5_000_i64,
        ended in any::<bool>(), p95_ms in maybe(), jitter_ms in maybe(), drop_rate in maybe(), total_bps in maybe(),
    ) -> v1::Sample {
        let at = |ms| Some(timestamp_from_ms(ms));
        v1::Sample {
            cluster: "default".into(),
            policy: "ns_p".into(),
            workload: if second { "b_y" } else { "a_x" }.into(),
            sequence,
            observed_at: at(NOW_MS - age),
            window_end: at(NOW_MS - age - 100).filter(|_| ended),
            window_start: at(NOW_MS - age - 100 - window),
            quality,
            raw: Some(v1::Signals { p95_ms, jitter_ms, ..Default::default() }),
            smoothed: Some(v1::Signals { p95_ms, ..Default::default() }),
            drop_rate,
            usage: vec![v1::Usage { class: "c0".into(), total_bps, top_pod_bps: total_bps, pods: 3, window_start: at(1), window_end: at(2) }],
            ..Default::default()
        }
    }
}

fn gate() -> impl Strategy<Value = Option<Gate>> {
    proptest::option::weighted(
        0.3,
        prop_oneof![
            ".{0,20}".prop_map(|by| Gate::Released { by }),
            ".{0,20}".prop_map(|by| Gate::Frozen { by }),
            "[a-z]{1,9}".prop_map(|class| Gate::Unplaced { class }),
        ],
    )
}

/// As the engine records it.
fn record(inputs: &Inputs, messages: &[v1::Sample]) -> v1::Decision {
    let evaluation = inputs.decide();
    v1::Decision {
        cluster: "default".into(),
        policy: "ns_p".into(),
        law: inputs.policy.law.name().into(),
        term: 1,
        sequence: 1,
        decided_at: Some(timestamp_from_ms(inputs.now_ms)),
        action: evaluation.action.to_string(),
        reason: evaluation.reason.clone(),
        limits: limits(&evaluation),
        samples: messages
            .iter()
            .map(|message| wire::recorded(message.clone(), &inputs.policy))
            .collect(),
        state: inputs.recorded_state(),
        parameters: inputs.parameters(),
        ..Default::default()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_recorded_decision_comes_out_the_same_after_either_encoding(
        policy in policy(), state in state(), messages in proptest::collection::vec(message(), 0..4), gate in gate(),
        note in proptest::option::of(".{0,20}"),
    ) {
        let inputs = Inputs {
            now_ms: NOW_MS,
            policy,
            state,
            samples: messages.iter().map(wire::sample).collect(),
            gate,
            note,
        };
        let decision = record(&inputs, &messages);
        for encoding in [Encoding::Protobuf, Encoding::Json] {
            let bytes = codec::encode(&decision, encoding).unwrap();
            // samples out of range are refused at the border, so none of them reaches a decision
            let read: v1::Decision = codec::decode(&bytes, Some(encoding.content_type())).unwrap();
            prop_assert_eq!(differences(&read).unwrap(), Vec::<String>::new());
            prop_assert_eq!(reevaluate(&read).unwrap(), inputs.decide());
        }
    }
}

fn inputs() -> Inputs {
    Inputs {
        now_ms: NOW_MS,
        policy: Policy {
            law: Law::Threshold(threshold::Parameters::default()),
            critical: vec![Critical::new(
                "a_x",
                Targets {
                    p95_ms: Some(10.0),
                    ..Targets::default()
                },
            )],
            classes: vec![Class::new("c0", 10e6, 1e9)],
        },
        state: State::new([("c0", 1e8)]),
        samples: Vec::new(),
        gate: None,
        note: None,
    }
}

/// Changes one thing of a record.
type Change = fn(&mut v1::Decision);

#[test]
fn each_part_that_was_changed_is_named() {
    let decision = record(&inputs(), &[]);
    assert_eq!(differences(&decision).unwrap(), Vec::<String>::new());
    let changes: [(&str, Change); 3] = [
        ("action", |d| d.action = "INCREASE".into()),
        ("reason", |d| d.reason.push('!')),
        ("limits", |d| d.limits[0].after_bps = Some(1e8 + 0.1)),
    ];
    for (part, change) in changes {
        let mut changed = decision.clone();
        change(&mut changed);
        let found = differences(&changed).unwrap();
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with(part), "{found:?}");
    }
}

#[test]
fn a_decision_without_its_inputs_says_what_is_missing() {
    let removals: [(&str, Change); 4] = [
        ("state", |d| d.state = None),
        ("parameters", |d| d.parameters = None),
        ("decided_at", |d| d.decided_at = None),
        ("parameters", |d| {
            d.parameters = Some(prost_types::Struct::default());
        }),
    ];
    for (what, remove) in removals {
        let mut decision = record(&inputs(), &[]);
        remove(&mut decision);
        assert!(
            reevaluate(&decision)
                .unwrap_err()
                .to_string()
                .contains(what)
        );
    }
}

#[test]
fn behind_a_gate_nothing_changes_and_unknown_limits_are_absent() {
    let mut inputs = inputs();
    inputs.gate = Some(Gate::Unplaced { class: "c1".into() });
    inputs.policy.classes.push(Class::new("c1", 10e6, 1e9));
    let evaluation = inputs.decide();
    assert_eq!(evaluation.action, Action::Hold);
    assert_eq!(evaluation.state, inputs.state);
    let known: Vec<&str> = evaluation.limits.iter().map(|l| l.class.as_str()).collect();
    assert_eq!(known, ["c0"]);
}
