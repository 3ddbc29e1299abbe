use std::fs;

use super::*;
use crate::event::Happened;
use crate::raw::{Outcome, PhaseStart, PodEvent, Request, Traffic};
use crate::scenario::ScenarioArgs;

const S: u64 = SECOND_NS;

fn scenario(name: Name, line: &[&str]) -> Scenario {
    #[derive(clap::Parser)]
    struct Command {
        #[command(flatten)]
        args: ScenarioArgs,
    }
    let line = ["lab"].iter().chain(line);
    Scenario::new(name, &<Command as clap::Parser>::parse_from(line).args)
}

/// A run of 200 s under load from second 10 on, whose requests are late in the seconds from .. to of `late`; events happen when they are planned.
fn raw(scenario: &Scenario, late: &[(u64, u64)]) -> Raw {
    let phase = |second: u64, kind| PhaseStart {
        unix_ns: second * S,
        kind,
    };
    let request = |ms: u64| {
        let is_late = late
            .iter()
            .any(|(from, to)| (*from..*to).contains(&(ms / 1000)));
        Request {
            intended_ns: ms * 1_000_000,
            latency_us: if is_late { 60_000 } else { 1_000 },
            wire_us: 0,
            outcome: Outcome::Status(200),
        }
    };
    Raw {
        requests: (0..2000).map(|number| request(number * 100)).collect(),
        phases: vec![
            phase(0, PhaseKind::Idle),
            phase(10, PhaseKind::Load),
            phase(200, PhaseKind::End),
        ],
        events: scenario
            .events
            .iter()
            .map(|event| Happened {
                unix_ns: event.at_s * S,
                action: event.action,
            })
            .collect(),
        ..Raw::default()
    }
}

fn decided(second: u64, action: &str, sample: u64) -> Decided {
    Decided {
        unix_ns: second * S,
        action: action.to_owned(),
        sample: Some(sample),
    }
}

fn pod(second: u64, endpoint: &str, action: PodAction) -> PodEvent {
    PodEvent {
        unix_ns: second * S,
        endpoint: endpoint.to_owned(),
        pod: "p".to_owned(),
        uid: "u".to_owned(),
        action,
        annotation: "-".to_owned(),
    }
}

#[test]
fn a_slow_service_is_recognised_by_the_samples_that_came_since() {
    let scenario = scenario(Name::SlowServer, &[]);
    let raw = raw(&scenario, &[]);
    let decisions = [
        decided(36, "HOLD", 100), // four samples before the slow-down at 40 are not told
        decided(42, "CONGESTION_THROTTLE", 106),
        decided(52, "NOT_BANDWIDTH", 116),
        decided(60, "CONGESTION_THROTTLE", 124),
    ];
    let found = findings(&scenario, &raw, &decisions);
    assert_eq!(found[0].seen, "12 samples (12 s) after the slow-down");
    assert_eq!(found[0].kept, Some(true));
    assert_eq!(found[1].seen, "2, of these 1 after it was said");
    let never = findings(&scenario, &raw, &decisions[..2]);
    assert_eq!(
        (never[0].seen.as_str(), never[0].kept),
        ("never", Some(false))
    );
}

#[test]
fn limits_have_climbed_when_the_last_pod_is_at_the_top_and_stays_there() {
    let scenario = scenario(Name::LightLoad, &["--pods", "2"]);
    let mut raw = raw(&scenario, &[]);
    let (first, second) = ("telemetry-upload-0", "erp-dashboard-0");
    raw.pods = vec![
        pod(1, first, PodAction::Limited(20_000_000)),
        pod(1, second, PodAction::Limited(20_000_000)),
        pod(20, first, PodAction::Limited(TOP_BPS)),
        pod(25, first, PodAction::Limited(50_000_000)),
        pod(30, second, PodAction::Unlimited),
    ];
    let found = findings(&scenario, &raw, &[]);
    assert_eq!((found[0].kept, found[1].kept), (Some(false), Some(false)));
    raw.pods
        .push(pod(35, first, PodAction::Limited(60_000_000))); // what each of two pods wants
    raw.pods.push(pod(40, first, PodAction::Limited(TOP_BPS)));
    let found = findings(&scenario, &raw, &[]);
    assert_eq!(
        (found[0].seen.as_str(), found[1].seen.as_str()),
        ("after 35 s", "after 40 s")
    );
}

#[test]
fn workloads_that_moved_are_adapted_to_within_a_minute_or_not() {
    let scenario = scenario(Name::Failover, &[]);
    let soon = findings(&scenario, &raw(&scenario, &[(80, 83)]), &[]);
    assert_eq!(soon[0].seen, "after 3 s, 3 violating windows from then on");
    assert_eq!(soon[0].kept, Some(true));
    let late = findings(&scenario, &raw(&scenario, &[(80, 145)]), &[]);
    assert_eq!(late[0].kept, Some(false));
}

#[test]
fn only_throttles_after_policy_drops_rose_count() {
    let scenario = scenario(Name::PolicyDrops, &[]);
    let raw = raw(&scenario, &[]);
    let early = [
        decided(40, "CONGESTION_THROTTLE", 1),
        decided(60, "HOLD", 2),
    ];
    assert_eq!(findings(&scenario, &raw, &early)[0].kept, Some(true));
    let late = [decided(60, "LATENCY_GENTLE_THROTTLE", 1)];
    assert_eq!(findings(&scenario, &raw, &late)[0].kept, Some(false));
}

#[test]
fn each_burst_has_its_violating_windows_with_those_just_after() {
    let scenario = scenario(Name::BurstForeign, &[]);
    let raw = raw(&scenario, &[(30, 33), (60, 61), (71, 73), (190, 200)]);
    let found = findings(&scenario, &raw, &[]);
    assert_eq!(found[0].seen, "3, 3, 0, 0, 0, 5");
}

#[test]
fn goodput_around_a_missing_burst_stands_beside_that_of_the_pause_before() {
    let scenario = scenario(Name::BurstMissing, &[]);
    let mut raw = raw(&scenario, &[]);
    let counters = |second: u64| {
        // 12.5 MB/s of the link's 25, and nothing from 175 to 185
        let sent = second + 175 - second.clamp(175, 185);
        let row = |endpoint: &str, bytes: u64| Traffic {
            unix_ns: second * S,
            endpoint: endpoint.to_owned(),
            tx_bytes: bytes,
            rx_bytes: bytes,
        };
        let mut rows = vec![row("robot-control", 0), row("sink-foreign", 0)];
        for sender in scenario.senders() {
            rows.push(row(&sender.sink, sent * 12_500_000 / 3));
        }
        rows
    };
    raw.traffic = (0..=200).flat_map(counters).collect();
    let found = findings(&scenario, &raw, &[]);
    assert_eq!(found[1].seen, "25.0 %, in the pause before 50.0 %");
}

#[test]
fn the_deciders_death_and_return_are_told_with_what_followed() {
    let flags = ["--kill-decider-at", "60", "--restore-decider-at", "100"];
    let scenario = scenario(Name::Congestion, &flags);
    let mut raw = raw(&scenario, &[]);
    let endpoint = "erp-dashboard-0";
    raw.pods = vec![
        pod(50, endpoint, PodAction::Limited(60_000_000)),
        pod(75, endpoint, PodAction::Limited(10_000_000)),
        pod(104, endpoint, PodAction::Limited(12_000_000)),
    ];
    let found = findings(&scenario, &raw, &[decided(102, "INCREASE", 1)]);
    assert_eq!(found[1].seen, "15.0 s later (10.0 Mbit/s)");
    let back = "100.0 s after the start; first decision 2.0 s later, first limit 4.0 s later";
    assert_eq!(found[2].seen, back);
    raw.pods.truncate(1);
    let silent = findings(&scenario, &raw, &[]);
    assert_eq!((silent[1].kept, silent[2].kept), (Some(false), Some(false)));
}

#[test]
fn decisions_are_read_from_the_stream_without_those_in_shadow() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(decisions(folder.path()).unwrap(), []);
    let lines = r#"{"decidedAt":"1970-01-01T00:00:07.500Z","action":"HOLD","samples":[{"sequence":"4"},{"sequence":"9"}]}
{"decidedAt":"1970-01-01T00:00:08Z","action":"INCREASE","shadow":true}
"#;
    fs::write(folder.path().join(decisions::FILE), lines).unwrap();
    let expected = Decided {
        unix_ns: 7_500_000_000,
        action: "HOLD".to_owned(),
        sample: Some(9),
    };
    assert_eq!(decisions(folder.path()).unwrap(), [expected]);
    fs::write(folder.path().join(decisions::FILE), "{").unwrap();
    assert!(decisions(folder.path()).is_err());
}
