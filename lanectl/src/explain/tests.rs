use std::path::Path;

use laneguard_decider::decide::{self, Gate};
use laneguard_decider_core::adaptive::{self, Baseline, Elsewhere, Memory, Phase, Streak, Usual};
use laneguard_decider_core::policy::{Law, Targets};
use laneguard_decider_core::state::State;
use laneguard_proto::duration::timestamp_from_ms;
use laneguard_proto::v1::{Sample, Signals, sample::Quality};

use super::*;
use crate::recording;

const NOW_MS: i64 = 1_764_000_000_000;

/// The decision stream of a run on the kernel network.
fn recorded() -> impl Iterator<Item = Box<Decision>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../measurements/2026-11-24/congestion-adaptive/decisions.jsonl");
    let mut reader = recording::open(&path).unwrap();
    std::iter::from_fn(move || match reader.next().unwrap()?.unwrap() {
        Line::Decision(decision) => Some(decision),
        other => panic!("{other:?}"),
    })
}

fn find(wanted: Wanted, decisions: impl Iterator<Item = Box<Decision>>) -> Option<story::Story> {
    let mut search = Search {
        wanted,
        chosen: None,
    };
    decisions.for_each(|decision| search.take(decision));
    let chosen = search.chosen?;
    Some(story::tell(&chosen.decision, String::new(), chosen.after))
}

fn read(story: &story::Story) -> String {
    let layout = text::Layout {
        width: 1000,
        is_bold: false,
    };
    text::render(story, layout)
}

#[test]
fn the_decision_is_found_by_number_by_time_and_as_the_last_change() {
    let at = parse_at("2026-11-24T15:38:00Z").unwrap();
    for (wanted, sequence) in [
        (Wanted::Sequence(3), 3),
        (Wanted::At(at), 20),
        (Wanted::LastChange, 35),
    ] {
        assert_eq!(find(wanted, recorded()).unwrap().sequence, sequence);
    }
    assert!(find(Wanted::Sequence(1000), recorded()).is_none());
    let holds = recorded().filter(|decision| !is_change(decision));
    assert_eq!(find(Wanted::LastChange, holds).unwrap().sequence, 38);
    let shadows = recorded().map(|mut decision| {
        decision.shadow = true;
        decision
    });
    assert!(find(Wanted::LastChange, shadows).is_none());
}

#[test]
fn the_first_throttle_of_a_real_run_is_told_from_cause_to_effect() {
    let story = find(Wanted::Sequence(3), recorded()).unwrap();
    let text = read(&story);
    for said in [
        "Best-effort was cut: class best-effort from 1000 to 48.19 Mbit/s per pod, because P95 latency of factory/robot-factory was 97.98 ms, target 10 ms.",
        "202 requests from 15:37:15.4 to 15:37:16.4 (1 s), 107 ms old when it was decided",
        "target 10 ms   MISSED, 9.8 times the target   (proven: 50 to 100 ms)",
        "target 5 ms   probably MISSED",
        "3 pods sent 198.4 Mbit/s in all",
        "1000 -> 48.19 Mbit/s per pod (-95 %); in all 3000 -> 144.6 Mbit/s for 3 pods. Allowed: 10 to 1000 Mbit/s.",
        "the link: It carries ",
        "next raise: As soon as one window that began after the cut",
        "Every target was met 2 s after this decision",
        "15:37:18.5, 2 s later: best-effort 48.19 -> 63.66 Mbit/s (INCREASE, after 1 evaluation without a change)",
        "`lanectl release default`",
        "TARGET_LATENCY_MS",
    ] {
        assert!(text.contains(said), "{said}\n\n{text}");
    }
    let json = serde_json::to_value(&story).unwrap();
    assert_eq!(json["limits"][0]["afterBps"], 48_192_000.0);
    assert_eq!(json["after"]["decisions"][0]["sequence"], 5);
}

fn policy(law: Law) -> Policy {
    let policy = serde_json::json!({
        "law": law,
        "critical": [{"workload": "factory_robot", "targets": {"p95_ms": 10.0}}],
        "classes": [{"name": "bulk", "min_bps": 10e6, "max_bps": 1e9}],
    });
    serde_json::from_value(policy).unwrap()
}

fn slow() -> Sample {
    Sample {
        workload: "factory_robot".into(),
        sequence: 7,
        window_start: Some(timestamp_from_ms(NOW_MS - 1_100)),
        window_end: Some(timestamp_from_ms(NOW_MS - 100)),
        observed_at: Some(timestamp_from_ms(NOW_MS)),
        quality: Quality::Good.into(),
        raw: Some(Signals {
            p95_ms: Some(40.0),
            mean_ms: Some(30.0),
            ..Signals::default()
        }),
        ..Sample::default()
    }
}

fn decided(inputs: &Inputs, samples: Vec<Sample>) -> Box<Decision> {
    let evaluation = inputs.decide();
    Box::new(Decision {
        cluster: "default".into(),
        policy: "factory_floor".into(),
        law: inputs.policy.law.name().into(),
        mode: "Enforce".into(),
        term: 1,
        sequence: 1,
        decided_at: Some(timestamp_from_ms(inputs.now_ms)),
        action: evaluation.action.to_string(),
        reason: evaluation.reason.clone(),
        limits: decide::limits(&evaluation),
        samples,
        state: inputs.recorded_state(),
        parameters: inputs.parameters(),
        ..Decision::default()
    })
}

fn inputs(law: Law, state: State, samples: &[Sample]) -> Inputs {
    Inputs {
        now_ms: NOW_MS,
        policy: policy(law),
        state,
        samples: samples
            .iter()
            .map(laneguard_decider::wire::sample)
            .collect(),
        gate: None,
        note: None,
    }
}

fn told(decision: Box<Decision>) -> String {
    read(&find(Wanted::LastChange, std::iter::once(decision)).unwrap())
}

#[test]
fn a_threshold_throttle_names_its_step_and_its_cooldown() {
    let law = Law::Threshold(laneguard_decider_core::threshold::Parameters::default());
    let samples = vec![slow()];
    let inputs = inputs(law, State::new([("bulk", 100e6)]), &samples);
    let text = told(decided(&inputs, samples));
    for said in [
        "class bulk from 100 to 80 Mbit/s per pod",
        "every limit goes down by 20 Mbit/s",
        "no limit changes again, either way, before 16:00:30.0 (30 s after this decision)",
        "next raise: By 15 Mbit/s per pod",
        "spec.critical[].targets",
    ] {
        assert!(text.contains(said), "{said}\n\n{text}");
    }
}

/// What is told of a workload that shows 4 ms, with so many windows seen; with the word Auto and adopted targets, or listed ones.
fn told_of_targets(windows: u32, auto: bool, adopted: Option<Targets>) -> String {
    let shown = Usual {
        mean_ms: Some(4.0),
        deviation_ms: 0.5,
        high_ms: 5.0,
    };
    let mut state = State::new([("bulk", 100e6)]);
    state.adaptive = Some(Box::new(Memory {
        baselines: vec![Baseline {
            workload: "factory_robot".into(),
            windows,
            p95: shown,
            adopted,
            ..Baseline::default()
        }],
        ..Memory::default()
    }));
    let samples = vec![slow()];
    let mut inputs = inputs(
        Law::Adaptive(adaptive::Parameters::default()),
        state,
        &samples,
    );
    if auto {
        inputs.policy.critical[0].targets = Targets::default();
        inputs.policy.critical[0].auto = true;
    }
    told(decided(&inputs, samples))
}

#[test]
fn targets_that_could_be_kept_are_told_and_whether_they_are_in_force() {
    let adopted = Targets {
        p95_ms: Some(9.0),
        ..Targets::default()
    };
    for (text, said) in [
        (
            told_of_targets(12, false, None),
            "12 windows with best-effort low were seen, 30 are needed to propose any",
        ),
        (
            told_of_targets(30, false, None),
            "P95 12 ms, from 30 windows with best-effort low. Proposed only: `targets: Auto` would put them in force",
        ),
        (
            told_of_targets(12, true, None),
            "learning: 12 of 30 windows with best-effort low were seen. Until then limits hold",
        ),
        (
            told_of_targets(40, true, Some(adopted)),
            "learned, and in force as long as the policy says Auto: P95 9 ms. Learned now they would be P95 12 ms",
        ),
    ] {
        assert!(text.contains(said), "{said}\n\n{text}");
    }
    assert!(!told_of_targets(0, false, None).contains("targets it could keep"));
}

#[test]
fn findings_say_that_best_effort_is_not_the_cause_and_where_to_look() {
    let mut state = State::new([("bulk", 100e6)]);
    state.adaptive = Some(Box::new(Memory {
        last_calm_ms: Some(NOW_MS - 60_000),
        streak: Streak {
            violating: 5,
            ..Streak::default()
        },
        phase: Phase::Elsewhere(Elsewhere {
            excess_ms: 100.0,
            retry_ms: NOW_MS + 50_000,
            give_back: 1.0,
            ..Elsewhere::default()
        }),
        ..Memory::default()
    }));
    let law = Law::Adaptive(adaptive::Parameters::default());
    let samples = vec![slow()];
    let mut given = inputs(law, state, &samples);
    let text = told(decided(&given, samples.clone()));
    for said in [
        "Targets are missed, but best-effort is not the cause.",
        "Look at the workload itself",
        "Cutting is tried again at 16:00:50.0 (50 s after this decision)",
    ] {
        assert!(text.contains(said), "{said}\n\n{text}");
    }
    if let Some(memory) = &mut given.state.adaptive {
        memory.last_calm_ms = None;
    }
    let text = told(decided(&given, samples));
    assert!(
        text.contains("The targets cannot be met, whatever best-effort does."),
        "{text}"
    );
    assert!(text.contains("Set targets above"), "{text}");
}

#[test]
fn a_decision_without_data_by_an_operator_or_by_another_law_says_so() {
    let law = Law::Adaptive(adaptive::Parameters::default());
    let failed = Sample {
        quality: Quality::Failed.into(),
        reason: "Prometheus answered 503".into(),
        raw: None,
        ..slow()
    };
    let samples = vec![failed];
    let mut given = inputs(law, State::new([("bulk", 100e6)]), &samples);
    let text = told(decided(&given, samples.clone()));
    assert!(
        text.contains("Nothing was changed: class bulk at 100 Mbit/s per pod."),
        "{text}"
    );
    assert!(
        text.contains("Quality FAILED: Prometheus answered 503."),
        "{text}"
    );
    assert!(text.contains("no data is not good data"), "{text}");

    given.gate = Some(Gate::Released { by: "eve".into() });
    let text = told(decided(&given, samples));
    assert!(text.contains("An operator released the policy"), "{text}");

    let mut foreign = *decided(&given, Vec::new());
    foreign.law = "Oracle".into();
    (foreign.state, foreign.parameters) = (None, None);
    foreign.reason = "the stars\u{1b}[31m".into();
    let text = told(Box::new(foreign));
    assert!(
        text.contains("The law Oracle is not Laneguard's own"),
        "{text}"
    );
    assert!(!text.contains('\u{1b}'), "{text}");
}

#[test]
fn a_time_is_given_in_rfc_3339_or_as_how_long_ago() {
    assert_eq!(parse_at("2025-11-24T16:00:00Z").unwrap(), NOW_MS);
    // In this order: the clock goes on between the two.
    let then = parse_at("10m").unwrap();
    let ago = clock::unix_ms() - then;
    assert!((600_000..700_000).contains(&ago), "{ago}");
    assert!(parse_at("three").unwrap_err().contains("10m"));
}
