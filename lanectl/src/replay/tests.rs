use std::path::Path;

use laneguard_decider::decide::{self, Inputs};
use laneguard_proto::codec::to_json;
use laneguard_proto::v1::Decision;

use super::*;

/// The decision stream of a run on the kernel network.
const RECORDED: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../measurements/2026-11-24/congestion-adaptive/decisions.jsonl"
);

fn replay(text: &str, law: Option<&str>, settings: &[&str]) -> anyhow::Result<Replayed> {
    let choice = Choice {
        law: law.map(str::to_owned),
        settings: settings
            .iter()
            .map(|s| law::parse_setting(s).unwrap())
            .collect(),
    };
    read(
        Reader::new(text.as_bytes()),
        choice,
        &mut OnePolicy::new(None),
    )
}

fn recorded() -> String {
    std::fs::read_to_string(Path::new(RECORDED)).unwrap()
}

/// The recorded samples under the law as it is now, published as the decider does: in every other stretch of ten evaluations
/// unchanged ones only now and then.
fn made_now() -> String {
    let mut text = String::new();
    let mut state = None;
    let (mut sequence, mut repeats) = (0, 0);
    for (index, line) in recorded().lines().enumerate() {
        let mut decision: Decision =
            laneguard_proto::codec::decode(line.as_bytes(), Some(laneguard_proto::header::JSON))
                .unwrap();
        let mut inputs = Inputs::of_record(&decision).unwrap();
        inputs.state = state.unwrap_or(inputs.state);
        let evaluation = inputs.decide();
        decision.action = evaluation.action.to_string();
        decision.reason.clone_from(&evaluation.reason);
        decision.limits = decide::limits(&evaluation);
        decision.state = inputs.recorded_state();
        state = Some(evaluation.state);
        let may_be_left_out = (index / 10) % 2 == 0;
        if may_be_left_out && !crate::words::is_change(&decision) && repeats < 2 {
            repeats += 1;
            continue;
        }
        sequence += 1;
        (decision.sequence, decision.repeats) = (sequence, std::mem::take(&mut repeats));
        text.push_str(&to_json(&decision).unwrap());
        text.push('\n');
    }
    text
}

#[test]
fn the_recorded_law_replayed_is_the_record() {
    let text = made_now();
    let replayed = replay(&text, None, &[]).unwrap();
    let track = &replayed.track;
    assert!(track.is_same);
    let all = text.lines().count() as u64;
    assert!(all > 10, "{all}");
    assert_eq!((track.decisions, track.identical), (all, all));
    assert!(
        track
            .points
            .iter()
            .all(|point| point.recorded == point.replayed)
    );
    // only unchanged evaluations, which are not published, are bridged by the recorded state
    let bridged = text
        .lines()
        .filter(|line| line.contains("\"repeats\""))
        .count() as u64;
    assert!(
        bridged < all && track.resumed <= bridged,
        "{} of {bridged}",
        track.resumed
    );
    let report = Report::of(&replayed, "default").unwrap().text(80);
    assert!(report.contains("decisions come out identical"), "{report}");
    assert!(report.contains("Open loop"), "{report}");
}

#[test]
fn a_decision_that_was_tampered_with_is_not_identical() {
    let text = made_now();
    let at = text.find("\"afterBps\":").unwrap();
    let tampered = format!("{}{}", &text[..at], text[at..].replacen(":", ":1", 1));
    let track = replay(&tampered, None, &[]).unwrap().track;
    assert_eq!(track.identical + 1, track.decisions);
}

#[test]
fn every_law_runs_over_it_and_parameters_matter() {
    for name in law::NAMES {
        let replayed = replay(&recorded(), Some(name), &[]).unwrap();
        assert_eq!(replayed.track.is_same, name == "Adaptive");
        assert_eq!(replayed.track.replayed_law().unwrap().name(), name);
        Report::of(&replayed, "default").unwrap();
    }
    let limits = |settings: &[&str]| {
        let track = replay(&recorded(), Some("Threshold"), settings)
            .unwrap()
            .track;
        track.points.last().unwrap().replayed[0]
    };
    let (fixed, wide) = (
        limits(&["cooldown_ms=10s"]),
        limits(&["cooldown_ms=10s", "aggressive_decrease_bps=200M"]),
    );
    assert!(wide < fixed, "{wide} < {fixed}");
    let varied = replay(&recorded(), None, &["settle=0.8"]).unwrap().track;
    assert!(!varied.is_same);
    assert!(
        varied
            .points
            .iter()
            .any(|point| point.recorded != point.replayed)
    );
}

#[test]
fn a_parameter_out_of_range_is_refused_by_its_name() {
    let error = replay(&recorded(), Some("Threshold"), &["alpha=7"])
        .err()
        .unwrap();
    assert!(format!("{error:#}").contains("--set alpha"), "{error:#}");
}

/// The record as `lanectl record` writes it, with the samples of unchanged evaluations too.
#[test]
fn samples_of_a_record_fill_what_decisions_leave_out() {
    let mut text = String::new();
    for line in recorded().lines() {
        let decision: Decision =
            laneguard_proto::codec::decode(line.as_bytes(), Some(laneguard_proto::header::JSON))
                .unwrap();
        let at = jiff::Timestamp::from_millisecond(crate::words::decided_ms(&decision)).unwrap();
        for back in (0..=decision.repeats as i64).rev() {
            let Some(sample) = decision.samples.first() else {
                continue;
            };
            let mut sample = sample.clone();
            (sample.cluster, sample.policy) = (decision.cluster.clone(), decision.policy.clone());
            sample.sequence -= back as u64;
            let time = at - jiff::SignedDuration::from_secs(back);
            let message = to_json(&sample).unwrap();
            text.push_str(&format!(
                "{{\"kind\":\"sample\",\"time\":\"{time}\",\"message\":{message}}}\n"
            ));
        }
        text.push_str(&format!(
            "{{\"kind\":\"decision\",\"time\":\"{at}\",\"message\":{line}}}\n"
        ));
    }
    let full = replay(&text, None, &[]).unwrap().track;
    assert_eq!((full.decisions, full.missing), (38, 0));
    let sparse = replay(&recorded(), None, &[]).unwrap().track;
    assert!(full.points.len() > sparse.points.len() + 100);
    assert!(sparse.missing > 100, "{}", sparse.missing);
    let other = replay(&text, Some("Threshold"), &[]).unwrap().track;
    assert_eq!((other.points.len(), other.missing), (full.points.len(), 0));
}

#[test]
fn several_policies_need_a_name_and_nothing_to_replay_is_said() {
    let two = format!(
        "{}{}",
        recorded(),
        recorded()
            .lines()
            .next()
            .unwrap()
            .replace("\"policy\":\"default\"", "\"policy\":\"a_b\"")
    );
    let error = replay(&two, None, &[]).err().unwrap();
    assert!(error.to_string().contains("several policies"), "{error}");
    let empty = replay("", None, &[]).unwrap();
    assert!(
        Report::of(&empty, "default")
            .err()
            .unwrap()
            .to_string()
            .contains("nothing to replay")
    );
}
