mod shadows;

use super::*;
use laneguard_proto::MOST_SEQUENCE;
use laneguard_proto::codec::{self, Encoding};
use laneguard_proto::duration::from_wire;
use laneguard_proto::placement::ClassPlacement;
use laneguard_proto::policy::Entry;
use serde_json::json;

const EPOCH_MS: i64 = 1_764_000_000_000;

fn spec(mode: &str) -> serde_json::Value {
    json!({
        "mode": mode,
        "critical": [{"workload": "robot", "targets": [{"metric": "P95", "below": "10ms"}, {"metric": "Jitter", "below": "5ms"}]}],
        "bestEffort": [{"class": "bulk", "selector": {"matchLabels": {"a": "b"}}, "bandwidth": {"min": "10M", "max": "1G"}}],
        "control": {"law": "Threshold", "threshold": {"cooldown": "0s"}, "alpha": 1.0},
    })
}

fn plan_of(uid: &str, generation: u64, spec: serde_json::Value) -> Arc<Plan> {
    let entry = json!({"origin": "lanectl", "namespace": "ns", "name": "p", "uid": uid, "generation": generation, "spec": spec});
    let entry: Entry = serde_json::from_value(entry).unwrap();
    Arc::new(Plan::from_entry(&entry).unwrap())
}

fn placed(found: &[(&str, Option<f64>)]) -> Option<Arc<Placement>> {
    Some(Arc::new(Placement {
        classes: found
            .iter()
            .map(|(class, found_bps)| ClassPlacement {
                class: (*class).into(),
                found_bps: *found_bps,
                ..Default::default()
            })
            .collect(),
        ..Default::default()
    }))
}

/// An engine with a clock of its own, whose commits and publications succeed unless a test does them by hand.
struct Bench {
    engine: Engine,
    begin: Instant,
    at: Duration,
    sequence: u64,
    stream_sequence: u64,
    decisions: Vec<v1::Decision>,
    commands: Vec<v1::Command>,
}

impl Bench {
    fn new(plan: Arc<Plan>) -> Self {
        Self::with(plan, placed(&[("bulk", Some(100e6))]), Found::default())
    }

    fn with(plan: Arc<Plan>, placement: Option<Arc<Placement>>, found: Found) -> Self {
        let begin = Instant::now();
        let name = Name {
            cluster: "default".into(),
            policy: "ns_p".into(),
        };
        let wanted = Wanted {
            plan,
            placement,
            over: None,
        };
        let engine = Engine::take_over(name, "me", wanted, &found, begin, EPOCH_MS);
        Self {
            engine,
            begin,
            at: Duration::ZERO,
            sequence: 0,
            stream_sequence: 0,
            decisions: Vec::new(),
            commands: Vec::new(),
        }
    }

    fn now(&self) -> Instant {
        self.begin + self.at
    }

    fn now_ms(&self) -> i64 {
        EPOCH_MS + self.at.as_millis() as i64
    }

    fn pass(&mut self, seconds: f64) {
        self.at += Duration::from_secs_f64(seconds);
    }

    fn message(
        &mut self,
        workload: &str,
        p95: f64,
        jitter: f64,
        quality: v1::sample::Quality,
    ) -> v1::Sample {
        self.sequence += 1;
        let at = |ms| Some(timestamp_from_ms(ms));
        v1::Sample {
            cluster: "default".into(),
            policy: "ns_p".into(),
            workload: workload.into(),
            sequence: self.sequence,
            window_start: at(self.now_ms() - 2000),
            window_end: at(self.now_ms() - 500),
            observed_at: at(self.now_ms()),
            quality: quality.into(),
            raw: Some(v1::Signals {
                p95_ms: Some(p95),
                jitter_ms: Some(jitter),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn hear(&mut self, workload: &str, p95: f64, jitter: f64, quality: v1::sample::Quality) {
        let message = self.message(workload, p95, jitter, quality);
        self.hear_message(&message);
    }

    /// A message that is stored now.
    fn hear_message(&mut self, message: &v1::Sample) -> Hearing {
        self.stream_sequence += 1;
        let now = self.now();
        self.engine
            .hear(message.clone(), self.stream_sequence, now, now)
    }

    /// Steps, commits and publishes.
    fn settle(&mut self) {
        if let Step::Commit(proposal) = self.engine.step(self.now(), self.now_ms()) {
            if let Some(decision) = proposal.decision.clone() {
                assert_eq!(
                    decide::differences(&decision).unwrap(),
                    Vec::<String>::new(),
                    "every decision can be evaluated again"
                );
                self.decisions.push(decision);
            }
            self.engine.settle(*proposal, self.now());
        }
        self.publish();
    }

    fn publish(&mut self) {
        for command in self.engine.due(self.now(), self.now_ms()) {
            self.engine.sent(&command, self.now());
            self.commands.push(command);
        }
    }

    /// A second passes and a good, healthy or congested sample comes.
    fn healthy(&mut self) {
        self.pass(1.0);
        self.hear("ns_robot", 4.0, 1.0, v1::sample::Quality::Good);
        self.settle();
    }

    fn congested(&mut self) {
        self.pass(1.0);
        self.hear("ns_robot", 40.0, 20.0, v1::sample::Quality::Good);
        self.settle();
    }

    fn blind(&mut self) {
        self.pass(1.0);
        self.hear("ns_robot", 0.0, 0.0, v1::sample::Quality::NoData);
        self.settle();
    }

    fn last_decision(&self) -> &v1::Decision {
        self.decisions.last().unwrap()
    }

    fn last_command(&self) -> &v1::Command {
        self.commands.last().unwrap()
    }
}

#[test]
fn begins_at_the_limit_found_and_every_change_is_decided_then_commanded() {
    let mut bench = Bench::new(plan_of("u", 1, spec("Enforce")));
    bench.congested();
    let decision = bench.last_decision().clone();
    assert_eq!(decision.action, "CONGESTION_THROTTLE");
    assert_eq!(decision.sequence, 1);
    assert_eq!(decision.term, EPOCH_MS as u64);
    assert_eq!(decision.mode, "Enforce");
    assert_eq!(decision.samples.len(), 1);
    assert_eq!(
        (decision.limits[0].before_bps, decision.limits[0].after_bps),
        (Some(100e6), Some(50e6))
    );
    assert!(
        decision.reason.starts_with("Begins at the limits found"),
        "{}",
        decision.reason
    );
    let command = bench.last_command();
    assert_eq!(command.limit_bps, Some(50e6));
    assert_eq!(
        (command.term, command.sequence, command.renewal),
        (decision.term, 1, 0)
    );
    assert_eq!(
        from_wire(command.valid_for.as_ref().unwrap()),
        Some(Duration::from_secs(15))
    );
}

#[test]
fn a_limit_found_outside_the_bounds_is_brought_inside() {
    for (found, limit) in [(Some(1e6), 10e6), (Some(5e9), 1e9), (None, 1e9)] {
        let bench = Bench::with(
            plan_of("u", 1, spec("Enforce")),
            placed(&[("bulk", found)]),
            Found::default(),
        );
        let class = &bench.engine.plan.law.as_ref().unwrap().classes[0];
        assert_eq!(bench.engine.start_bps(class), Some(limit));
    }
}

#[test]
fn an_unchanged_decision_is_published_every_ten_seconds_with_a_count() {
    let mut bench = Bench::new(plan_of("u", 1, spec("Enforce")));
    for _ in 0..25 {
        bench.blind();
    }
    let repeats: Vec<u64> = bench.decisions.iter().map(|d| d.repeats).collect();
    assert_eq!(repeats, [0, 9, 9]);
    let sequences: Vec<u64> = bench.decisions.iter().map(|d| d.sequence).collect();
    assert_eq!(sequences, [1, 2, 3]);
}

#[test]
fn a_changed_action_or_limit_is_published_at_once() {
    let mut bench = Bench::new(plan_of("u", 1, spec("Enforce")));
    bench.healthy();
    bench.blind();
    bench.blind();
    bench.healthy();
    bench.healthy();
    let actions: Vec<&str> = bench.decisions.iter().map(|d| d.action.as_str()).collect();
    assert_eq!(actions, ["INCREASE", "HOLD", "INCREASE", "INCREASE"]);
    assert_eq!(bench.decisions[2].repeats, 1, "one HOLD was not published");
}

#[test]
fn what_was_evaluated_without_being_published_is_still_in_the_next_decisions_state() {
    let mut spec = spec("Enforce");
    spec["control"]["alpha"] = json!(0.5);
    spec["control"]["threshold"]["cooldown"] = json!("1h");
    let mut bench = Bench::new(plan_of("u", 1, spec));
    for _ in 0..12 {
        bench.congested();
    }
    assert_eq!(bench.decisions.len(), 3, "throttle, hold, hold again");
    let inputs = Inputs::of_record(bench.last_decision()).unwrap();
    assert_eq!(
        inputs.state.workload("ns_robot").unwrap().last_sequence,
        Some(11)
    );
}

#[test]
fn a_command_is_renewed_every_third_of_its_validity_while_samples_are_usable() {
    let mut bench = Bench::new(plan_of("u", 1, spec("Enforce")));
    bench.congested();
    bench.congested(); // at the minimum from here on
    assert_eq!(bench.last_command().limit_bps, Some(10e6));
    bench.commands.clear();
    for _ in 0..15 {
        bench.congested();
    }
    let renewals: Vec<u64> = bench.commands.iter().map(|c| c.renewal).collect();
    assert_eq!(renewals, [1, 2, 3]);
    let first = bench.commands[0].clone();
    for command in &bench.commands {
        assert_eq!(
            (command.term, command.sequence, command.limit_bps),
            (first.term, first.sequence, first.limit_bps)
        );
    }
}

#[test]
fn renewal_stops_without_usable_samples_and_idle_counts_as_usable() {
    for (quality, renewed) in [
        (v1::sample::Quality::Good, true),
        (v1::sample::Quality::Coarse, true),
        (v1::sample::Quality::Idle, true),
        (v1::sample::Quality::NoData, false),
        (v1::sample::Quality::Stale, false),
        (v1::sample::Quality::Failed, false),
        (v1::sample::Quality::Unspecified, false),
    ] {
        let mut bench = Bench::new(plan_of("u", 1, spec("Enforce")));
        bench.congested();
        bench.congested();
        bench.commands.clear();
        for _ in 0..12 {
            bench.pass(1.0);
            bench.hear("ns_robot", 40.0, 20.0, quality);
            bench.settle();
        }
        assert_eq!(!bench.commands.is_empty(), renewed, "{quality:?}");
    }
}

#[test]
fn no_sample_at_all_renews_nothing() {
    let mut bench = Bench::new(plan_of("u", 1, spec("Enforce")));
    bench.congested();
    bench.commands.clear();
    bench.pass(16.0);
    bench.settle();
    assert!(bench.commands.is_empty());
}

#[test]
fn a_sample_that_was_stored_long_ago_or_whose_window_is_old_renews_nothing() {
    let mut bench = Bench::new(plan_of("u", 1, spec("Enforce")));
    let message = bench.message("ns_robot", 4.0, 1.0, v1::sample::Quality::Good);
    bench.pass(16.0);
    let (stored, now) = (bench.begin, bench.now());
    bench.engine.hear(message, 1, stored, now);
    bench.settle();
    assert_eq!(bench.commands, [], "stored 16 s before it was replayed");

    let mut message = bench.message("ns_robot", 4.0, 1.0, v1::sample::Quality::Good);
    message.window_end = Some(timestamp_from_ms(bench.now_ms() - 61_000));
    message.window_start = None;
    bench.hear_message(&message);
    bench.settle();
    assert_eq!(bench.commands, [], "its window ended 61 s before");
    bench.healthy();
    assert_eq!(bench.commands.len(), 1);
}

#[test]
fn a_command_that_could_not_be_published_is_due_until_it_is() {
    let mut bench = Bench::new(plan_of("u", 1, spec("Enforce")));
    bench.pass(1.0);
    bench.hear("ns_robot", 40.0, 20.0, v1::sample::Quality::Good);
    let Step::Commit(proposal) = bench.engine.step(bench.now(), bench.now_ms()) else {
        panic!("a decision")
    };
    bench.engine.settle(*proposal, bench.now());
    let due = bench.engine.due(bench.now(), bench.now_ms());
    assert_eq!(bench.engine.due(bench.now(), bench.now_ms()), due);
    bench.engine.sent(&due[0], bench.now());
    assert_eq!(bench.engine.due(bench.now(), bench.now_ms()), []);
}

#[test]
fn a_decision_that_could_not_be_committed_never_happened() {
    let mut bench = Bench::new(plan_of("u", 1, spec("Enforce")));
    bench.congested();
    let before = bench.engine.memory().clone();
    bench.pass(1.0);
    bench.hear("ns_robot", 40.0, 20.0, v1::sample::Quality::Good);
    let Step::Commit(proposal) = bench.engine.step(bench.now(), bench.now_ms()) else {
        panic!("a decision")
    };
    bench.engine.abandon(&proposal);
    assert_eq!(*bench.engine.memory(), before);
    bench.congested();
    assert_eq!(bench.last_decision().sequence, 2);
    assert_eq!(bench.last_decision().samples[0].sequence, 3);
}

#[test]
fn a_repeated_or_older_sample_is_not_evaluated_again() {
    let mut bench = Bench::new(plan_of("u", 1, spec("Enforce")));
    let first = bench.message("ns_robot", 40.0, 20.0, v1::sample::Quality::Good);
    let second = bench.message("ns_robot", 40.0, 20.0, v1::sample::Quality::Good);
    bench.hear_message(&second);
    bench.settle();
    assert_eq!(bench.hear_message(&second), Hearing::Ignored);
    assert_eq!(bench.hear_message(&first), Hearing::Older);
    assert_eq!(bench.engine.deadline(bench.now()), None);
}

fn two_workloads() -> serde_json::Value {
    let mut spec = spec("Enforce");
    spec["critical"].as_array_mut().unwrap().push(
        json!({"workload": "arm", "targets": [{"metric": "P95", "below": "10ms"}, {"metric": "Jitter", "below": "5ms"}]}),
    );
    spec
}

#[test]
fn several_workloads_are_evaluated_together_once_all_have_news() {
    let mut bench = Bench::new(plan_of("u", 1, two_workloads()));
    bench.hear("ns_robot", 4.0, 1.0, v1::sample::Quality::Good);
    bench.settle();
    assert_eq!(bench.decisions, [], "the arm's sample is still to come");
    assert_eq!(
        bench.engine.deadline(bench.now()),
        Some(bench.now() + ROUND)
    );
    bench.pass(0.2);
    bench.hear("ns_arm", 40.0, 20.0, v1::sample::Quality::Good);
    assert_eq!(bench.engine.deadline(bench.now()), Some(bench.now()));
    bench.settle();
    assert_eq!(bench.decisions.len(), 1);
    assert_eq!(bench.last_decision().samples.len(), 2);
    assert_eq!(
        bench.last_decision().action,
        "CONGESTION_THROTTLE",
        "the worst governs"
    );
}

#[test]
fn a_workload_that_is_late_is_left_out_and_its_blindness_renews_nothing() {
    let mut bench = Bench::new(plan_of("u", 1, two_workloads()));
    bench.hear("ns_robot", 4.0, 1.0, v1::sample::Quality::Good);
    bench.pass(0.5);
    bench.settle();
    assert_eq!(bench.last_decision().samples.len(), 1);
    assert_eq!(bench.last_decision().action, "HOLD");
    assert_eq!(bench.commands, []);
    bench.hear("ns_arm", 4.0, 1.0, v1::sample::Quality::Good);
    bench.pass(0.5);
    bench.settle();
    assert_eq!(bench.commands.len(), 1);
}

#[test]
fn a_sample_of_a_workload_that_the_policy_does_not_name_is_ignored() {
    let mut bench = Bench::new(plan_of("u", 1, spec("Enforce")));
    bench.hear("ns_stranger", 40.0, 20.0, v1::sample::Quality::Good);
    assert_eq!(bench.engine.deadline(bench.now()), None);
}

#[test]
fn without_placement_it_holds_says_so_and_commands_nothing() {
    let mut bench = Bench::with(plan_of("u", 1, spec("Enforce")), None, Found::default());
    bench.congested();
    assert_eq!(bench.last_decision().action, "HOLD");
    assert!(
        bench
            .last_decision()
            .reason
            .contains("placement of class bulk")
    );
    assert_eq!(bench.last_decision().limits, []);
    assert_eq!(bench.commands, []);
    bench.engine.set_placement(placed(&[("bulk", Some(300e6))]));
    bench.settle();
    bench.congested();
    assert_eq!(bench.last_command().limit_bps, Some(250e6));
}

#[test]
fn observe_decides_and_never_commands() {
    let mut bench = Bench::new(plan_of("u", 1, spec("Observe")));
    for _ in 0..20 {
        bench.congested();
    }
    assert_eq!(bench.decisions[0].mode, "Observe");
    assert_eq!(bench.decisions[0].limits[0].after_bps, Some(50e6));
    assert_eq!(bench.commands, []);
    assert!(!bench.engine.memory().in_force);
}

#[test]
fn off_decides_nothing() {
    let mut bench = Bench::new(plan_of("u", 1, spec("Off")));
    for _ in 0..3 {
        bench.congested();
    }
    assert_eq!((bench.decisions.len(), bench.commands.len()), (0, 0));
}

#[test]
fn enforcement_after_observing_or_off_begins_at_what_is_found_not_at_what_was_imagined() {
    for other in ["Observe", "Off"] {
        let mut bench = Bench::new(plan_of("u", 1, spec("Enforce")));
        bench.congested();
        bench.congested();
        bench.engine.set_plan(plan_of("u", 2, spec(other)));
        bench.settle();
        assert!(!bench.engine.memory().in_force, "{other}");
        bench.commands.clear();
        bench.congested();
        assert_eq!(bench.commands, [], "{other}");
        bench.engine.set_placement(placed(&[("bulk", Some(700e6))]));
        bench.engine.set_plan(plan_of("u", 3, spec("Enforce")));
        bench.settle();
        bench.congested();
        assert_eq!(bench.last_command().limit_bps, Some(650e6), "{other}");
        let mut sequences: Vec<u64> = bench.decisions.iter().map(|d| d.sequence).collect();
        sequences.dedup();
        assert_eq!(sequences.len(), bench.decisions.len());
    }
}

#[test]
fn leaving_enforce_and_coming_back_within_one_step_still_begins_at_what_is_found() {
    let mut bench = Bench::new(plan_of("u", 1, spec("Enforce")));
    bench.congested();
    bench.engine.set_plan(plan_of("u", 2, spec("Off")));
    bench.engine.set_plan(plan_of("u", 3, spec("Enforce")));
    bench.settle();
    assert_eq!(bench.last_decision().limits[0].before_bps, Some(100e6));
}

#[test]
fn a_changed_bound_moves_the_limit_at_once_with_a_new_command() {
    let mut bench = Bench::new(plan_of("u", 1, spec("Enforce")));
    bench.congested();
    let mut changed = spec("Enforce");
    changed["bestEffort"][0]["bandwidth"]["min"] = json!("80M");
    bench.engine.set_plan(plan_of("u", 2, changed));
    assert_eq!(bench.engine.deadline(bench.now()), Some(bench.now()));
    bench.settle();
    assert_eq!(bench.last_decision().policy_generation, 2);
    assert_eq!(bench.last_decision().limits[0].after_bps, Some(80e6));
    assert_eq!(bench.last_command().limit_bps, Some(80e6));
    assert_eq!(bench.last_command().sequence, 2);
}

#[test]
fn a_changed_staleness_is_commanded_anew_at_the_same_limit() {
    let mut bench = Bench::new(plan_of("u", 1, spec("Enforce")));
    bench.congested();
    let limit = bench.last_command().limit_bps;
    let mut changed = spec("Enforce");
    changed["onStale"] = json!({"action": "Protect", "after": "30s"});
    bench.engine.set_plan(plan_of("u", 2, changed));
    bench.settle();
    let command = bench.last_command();
    assert_eq!(
        (command.limit_bps, command.sequence, command.renewal),
        (limit, 2, 0)
    );
    assert_eq!(command.on_stale(), v1::command::OnStale::Protect);
    assert_eq!(
        from_wire(command.valid_for.as_ref().unwrap()),
        Some(Duration::from_secs(30))
    );
}

#[test]
fn a_class_that_is_added_waits_for_its_placement_while_the_others_stay_commanded() {
    let mut bench = Bench::new(plan_of("u", 1, spec("Enforce")));
    bench.congested();
    let mut changed = spec("Enforce");
    changed["bestEffort"].as_array_mut().unwrap().push(
        json!({"class": "new", "selector": {"matchLabels": {"a": "c"}}, "bandwidth": {"max": "200M"}}),
    );
    bench.engine.set_plan(plan_of("u", 2, changed));
    bench.settle();
    assert!(
        bench
            .last_decision()
            .reason
            .contains("placement of class new")
    );
    bench.commands.clear();
    for _ in 0..6 {
        bench.congested();
    }
    assert!(!bench.commands.is_empty() && bench.commands.iter().all(|c| c.class == "bulk"));
    bench
        .engine
        .set_placement(placed(&[("bulk", Some(50e6)), ("new", None)]));
    bench.settle();
    let new = bench.commands.iter().find(|c| c.class == "new").unwrap();
    assert_eq!(new.limit_bps, Some(200e6));
}

#[test]
fn a_class_without_ceiling_is_restored_at_the_top() {
    let mut spec = spec("Enforce");
    spec["bestEffort"][0]["bandwidth"] = json!({"min": "10M"});
    let mut bench = Bench::with(
        plan_of("u", 1, spec),
        placed(&[("bulk", Some(990e6))]),
        Found::default(),
    );
    bench.healthy();
    assert!(bench.last_command().restore);
    assert_eq!(bench.last_command().limit_bps, Some(1e9));
    bench.congested();
    bench.congested();
    assert!(!bench.last_command().restore);
    assert_eq!(bench.last_command().limit_bps, Some(950e6));
}

#[test]
fn released_holds_without_commands_and_resumes_from_what_is_found() {
    let mut bench = Bench::new(plan_of("u", 1, spec("Enforce")));
    bench.congested();
    let released = Override::Release {
        by: "kim".into(),
        since_ms: 0,
    };
    bench.engine.set_override(Some(released));
    bench.commands.clear();
    bench.settle();
    assert_eq!(bench.last_decision().action, "HOLD");
    assert!(
        bench
            .last_decision()
            .reason
            .starts_with("Released by operator (kim)")
    );
    assert!(!bench.engine.memory().in_force);
    for _ in 0..10 {
        bench.congested();
    }
    assert_eq!(bench.commands, []);
    bench.engine.set_placement(placed(&[("bulk", None)]));
    bench.engine.set_override(None);
    bench.settle();
    bench.congested();
    assert_eq!(bench.last_command().limit_bps, Some(950e6));
}

#[test]
fn frozen_keeps_the_limit_and_renews_it() {
    let mut bench = Bench::new(plan_of("u", 1, spec("Enforce")));
    bench.congested();
    bench.engine.set_override(Some(Override::Freeze {
        by: String::new(),
        since_ms: 0,
        until_ms: None,
    }));
    bench.commands.clear();
    for _ in 0..6 {
        bench.congested();
    }
    assert!(
        bench
            .last_decision()
            .reason
            .starts_with("Frozen by operator")
    );
    assert_eq!(bench.last_command().limit_bps, Some(50e6));
    assert!(bench.last_command().renewal > 0);
    for _ in 0..6 {
        bench.blind();
    }
    let renewed = bench.commands.len();
    bench.pass(6.0);
    bench.blind();
    assert_eq!(bench.commands.len(), renewed, "frozen is not blind");
}

fn found_after(bench: &Bench) -> Found {
    Found {
        memory: Some(bench.engine.memory().clone()),
        commands: bench.commands.last().cloned().into_iter().collect(),
        decision: bench.decisions.last().cloned(),
        highest_term: 0,
        shadows: bench.engine.shadow_memory(),
    }
}

#[test]
fn a_takeover_raises_the_term_and_keeps_limit_and_sequence() {
    let mut bench = Bench::new(plan_of("u", 1, spec("Enforce")));
    bench.congested();
    bench.congested();
    let mut found = found_after(&bench);
    found.highest_term = EPOCH_MS as u64 + 5_000;
    let mut next = Bench::with(plan_of("u", 1, spec("Enforce")), None, found);
    next.sequence = bench.sequence;
    assert_eq!(next.engine.memory().term, EPOCH_MS as u64 + 5_001);
    assert_eq!(
        next.engine.due(next.now(), next.now_ms()),
        [],
        "nothing before usable samples"
    );
    next.congested();
    assert_eq!(next.decisions.len(), 1);
    let command = next.last_command();
    assert_eq!(command.limit_bps, bench.last_command().limit_bps, "no jump");
    assert_eq!(command.term, EPOCH_MS as u64 + 5_001);
    assert_eq!(
        next.last_decision().sequence,
        bench.last_decision().sequence + 1
    );
}

#[test]
fn a_takeover_does_not_evaluate_the_same_samples_again() {
    let mut bench = Bench::new(plan_of("u", 1, spec("Enforce")));
    let message = bench.message("ns_robot", 40.0, 20.0, v1::sample::Quality::Good);
    bench.hear_message(&message);
    bench.settle();
    let mut next = Bench::with(plan_of("u", 1, spec("Enforce")), None, found_after(&bench));
    next.hear_message(&message);
    next.settle();
    assert_eq!(next.decisions, []);
}

#[test]
fn an_unchanged_decision_stays_unpublished_after_a_takeover() {
    let mut bench = Bench::new(plan_of("u", 1, spec("Enforce")));
    bench.blind();
    let mut next = Bench::with(
        plan_of("u", 1, spec("Enforce")),
        placed(&[("bulk", None)]),
        found_after(&bench),
    );
    next.sequence = bench.sequence;
    next.blind();
    assert_eq!(next.decisions, []);
}

#[test]
fn a_wiped_store_is_made_anew_from_the_commands() {
    let mut bench = Bench::new(plan_of("u", 1, spec("Enforce")));
    bench.congested();
    let found = Found {
        memory: None,
        ..found_after(&bench)
    };
    let mut next = Bench::with(plan_of("u", 1, spec("Enforce")), None, found);
    assert!(next.engine.memory().term > bench.engine.memory().term);
    next.sequence = bench.sequence;
    next.pass(1.0);
    next.hear("ns_robot", 0.0, 0.0, v1::sample::Quality::Idle);
    next.settle();
    assert_eq!(next.last_decision().limits[0].before_bps, Some(50e6));
    assert_eq!(next.last_decision().sequence, 2);
}

#[test]
fn a_newer_command_of_somebody_else_is_where_it_goes_on() {
    let mut bench = Bench::new(plan_of("u", 1, spec("Enforce")));
    bench.congested();
    let mut found = found_after(&bench);
    found.commands[0].term += 10;
    found.commands[0].limit_bps = Some(333e6);
    let next = Bench::with(plan_of("u", 1, spec("Enforce")), None, found);
    assert_eq!(next.engine.memory().law.limit_bps("bulk"), Some(333e6));
}

#[test]
fn another_object_of_the_same_name_begins_anew_above_the_former_term() {
    let mut bench = Bench::new(plan_of("u", 1, spec("Enforce")));
    bench.congested();
    let found = found_after(&bench);
    let mut next = Bench::with(
        plan_of("other", 1, spec("Enforce")),
        placed(&[("bulk", Some(400e6))]),
        found,
    );
    next.congested();
    assert_eq!(next.last_decision().limits[0].before_bps, Some(400e6));
    assert!(next.engine.memory().term > bench.engine.memory().term);
    assert_eq!(next.last_decision().sequence, 2);

    bench.engine.set_placement(placed(&[("bulk", Some(400e6))]));
    bench.engine.set_plan(plan_of("other", 1, spec("Enforce")));
    bench.congested();
    assert_eq!(
        bench.last_decision().limits[0].before_bps,
        Some(400e6),
        "also live"
    );
}

#[test]
fn a_decision_committed_but_not_published_is_found_by_the_next_owner() {
    let mut bench = Bench::new(plan_of("u", 1, spec("Enforce")));
    bench.pass(1.0);
    bench.hear("ns_robot", 40.0, 20.0, v1::sample::Quality::Good);
    let Step::Commit(mut proposal) = bench.engine.step(bench.now(), bench.now_ms()) else {
        panic!("a decision")
    };
    let decision = proposal.decision.clone().unwrap();
    proposal.memory.keep(&decision).unwrap();
    let mut found = Found {
        memory: Some(proposal.memory),
        ..Found::default()
    };
    let next = Bench::with(plan_of("u", 1, spec("Enforce")), None, found.clone());
    assert_eq!(next.engine.unpublished(&found), Some(decision.clone()));
    found.decision = Some(decision);
    assert_eq!(next.engine.unpublished(&found), None, "it was published");
}

#[test]
fn an_owner_that_is_outranked_goes_above_and_asserts_the_same_limit() {
    let mut bench = Bench::new(plan_of("u", 1, spec("Enforce")));
    bench.congested();
    let term = bench.engine.memory().term;
    let seen = |highest_term| Seen {
        highest_term,
        refused: None,
    };
    bench.engine.saw(seen(term));
    assert_eq!(bench.engine.outranked(bench.now_ms()), None);
    bench.engine.saw(seen(term + 1000));
    bench.engine.saw(seen(term));
    assert!(bench.engine.outranked(bench.now_ms()).is_some());
    let memory = bench.engine.outranked(bench.now_ms()).unwrap();
    assert!(memory.term > term + 1000);
    bench.engine.reign(memory.clone());
    let limit = bench.last_command().limit_bps;
    bench.publish();
    let command = bench.last_command();
    assert_eq!(
        (command.term, command.limit_bps, command.renewal),
        (memory.term, limit, 0)
    );
    assert_eq!(bench.engine.outranked(bench.now_ms()), None);
}

#[test]
fn an_owner_whose_command_in_force_is_refused_goes_above_its_own_term() {
    let mut bench = Bench::new(plan_of("u", 1, spec("Enforce")));
    bench.congested();
    bench.congested();
    let refused = |command: &v1::Command, reason: &str| {
        Seen::of(&v1::Outcome {
            term: command.term,
            sequence: command.sequence,
            refused: true,
            refused_reason: reason.into(),
            highest_term: command.term,
            ..Default::default()
        })
    };
    let (first, last) = (&bench.commands[0], &bench.commands[1]);
    bench.engine.saw(refused(first, "older_sequence"));
    assert_eq!(
        bench.engine.outranked(bench.now_ms()),
        None,
        "a replay of our own older command"
    );
    bench.engine.saw(refused(last, "not_enforcing"));
    assert_eq!(bench.engine.outranked(bench.now_ms()), None);
    bench.engine.saw(refused(last, "older_sequence"));
    let memory = bench.engine.outranked(bench.now_ms()).unwrap();
    assert!(memory.term > last.term);
}

#[test]
fn sequences_begin_again_under_a_greater_term_before_they_run_out() {
    let mut bench = Bench::new(plan_of("u", 1, spec("Enforce")));
    bench.congested();
    let mut found = found_after(&bench);
    found.commands[0].sequence = MOST_SEQUENCE;
    found.commands[0].term += 1;
    let mut next = Bench::with(plan_of("u", 1, spec("Enforce")), None, found);
    next.sequence = bench.sequence;
    next.congested();
    assert_eq!(next.last_decision().sequence, 2);
    assert!(next.last_decision().term > bench.last_decision().term + 1);
    assert!(next.last_command().sequence <= 2);
}

#[test]
fn numbers_that_nothing_could_come_after_are_no_memory() {
    let mut bench = Bench::new(plan_of("u", 1, spec("Enforce")));
    bench.congested();
    type Break = fn(&mut Memory);
    let breaks: [Break; 2] = [|m| m.term = u64::MAX, |m| m.sequence = u64::MAX];
    for break_it in breaks {
        let mut found = found_after(&bench);
        break_it(found.memory.as_mut().unwrap());
        let next = Bench::with(plan_of("u", 1, spec("Enforce")), None, found);
        let memory = next.engine.memory();
        assert_eq!(memory.term, bench.engine.memory().term + 1);
        assert_eq!(memory.sequence, 1);
        assert_eq!(memory.law.limit_bps("bulk"), Some(50e6), "no jump");
    }
}

#[test]
fn commands_only_rise_and_never_say_two_limits_for_one_order() {
    let mut bench = Bench::new(plan_of("u", 1, spec("Enforce")));
    for second in 0..120 {
        match (second / 20) % 3 {
            0 => bench.congested(),
            1 => bench.healthy(),
            _ => bench.blind(),
        }
    }
    let keys: Vec<(u64, u64, u64)> = bench
        .commands
        .iter()
        .map(|c| (c.term, c.sequence, c.renewal))
        .collect();
    assert!(keys.is_sorted() && keys.windows(2).all(|w| w[0] != w[1]));
    let mut limits = BTreeMap::new();
    for command in &bench.commands {
        let limit = *limits.entry(order(command)).or_insert(command.limit_bps);
        assert_eq!(limit, command.limit_bps);
        assert!((10e6..=1e9).contains(&limit.unwrap()));
    }
}

#[test]
fn going_on_from_an_earlier_commit_does_not_count_renewals_from_the_start() {
    let mut bench = Bench::new(plan_of("u", 1, spec("Enforce")));
    bench.congested();
    bench.congested(); // at the minimum from here on
    for _ in 0..6 {
        bench.congested();
    }
    let renewed = bench.last_command().renewal;
    assert!(renewed > 0);
    let earlier = bench.engine.memory().clone();
    bench.engine.reign(earlier);
    for _ in 0..6 {
        bench.congested();
    }
    assert_eq!(bench.last_command().renewal, renewed + 1);
}

#[test]
fn a_collector_that_counts_from_lower_is_believed_after_three_samples() {
    let mut bench = Bench::new(plan_of("u", 1, spec("Enforce")));
    bench.sequence = 1 << 50;
    bench.congested();
    bench.sequence = 100;
    for expected in [Hearing::Older, Hearing::Older, Hearing::Restarted] {
        bench.pass(1.0);
        let message = bench.message("ns_robot", 40.0, 20.0, v1::sample::Quality::Good);
        assert_eq!(bench.hear_message(&message), expected);
        let (now, stored) = (bench.now(), bench.stream_sequence);
        let again = bench.engine.hear(message, stored, now, now);
        assert_eq!(again, Hearing::Ignored, "a replay counts once");
    }
    bench.settle();
    assert_eq!(bench.last_decision().samples[0].sequence, 103);
    bench.congested();
    assert_eq!(bench.last_decision().samples[0].sequence, 104);
}

#[test]
fn a_late_sample_among_newer_ones_starts_nothing_anew() {
    let mut bench = Bench::new(plan_of("u", 1, spec("Enforce")));
    let late = bench.message("ns_robot", 40.0, 20.0, v1::sample::Quality::Good);
    for _ in 0..5 {
        bench.congested();
        assert_eq!(bench.hear_message(&late), Hearing::Older);
    }
}

#[test]
fn age_is_told_by_the_stream_and_not_by_the_collectors_clock() {
    for off_ms in [-3_600_000, 3_600_000] {
        let mut bench = Bench::new(plan_of("u", 1, spec("Enforce")));
        let shifted = |bench: &mut Bench| {
            let mut message = bench.message("ns_robot", 40.0, 20.0, v1::sample::Quality::Good);
            let at = Some(timestamp_from_ms(bench.now_ms() + off_ms));
            message.window_start = at;
            message.window_end = at;
            message.observed_at = at;
            message
        };
        let old = shifted(&mut bench);
        let stored = bench.now();
        bench.pass(61.0);
        bench.engine.hear(old, 1, stored, bench.now());
        bench.settle();
        assert_eq!(bench.last_decision().action, "HOLD", "{off_ms}");
        bench.pass(1.0);
        let new = shifted(&mut bench);
        bench.hear_message(&new);
        bench.settle();
        assert_eq!(
            bench.last_decision().action,
            "CONGESTION_THROTTLE",
            "{off_ms}"
        );
        assert_eq!(bench.commands.len(), 1);
    }
}

#[test]
fn a_decision_about_many_workloads_fits_into_a_message_and_can_be_evaluated_again() {
    let mut wide = spec("Enforce");
    wide["critical"] = (0..256)
        .map(|n| json!({"workload": format!("{}-{n}", "r".repeat(60)), "targets": [{"metric": "P95", "below": "10ms"}, {"metric": "Jitter", "below": "5ms"}]}))
        .collect();
    wide["bestEffort"] = (0..64)
        .map(|n| json!({"class": format!("{}-{n}", "c".repeat(50)), "selector": {"matchLabels": {"a": "b"}}, "bandwidth": {"min": "10M", "max": "1G"}}))
        .collect();
    let plan = plan_of("u", 1, wide);
    let policy = plan.law.clone().unwrap();
    let placement = Placement {
        classes: policy
            .classes
            .iter()
            .map(|class| ClassPlacement {
                class: class.name.clone(),
                ..Default::default()
            })
            .collect(),
        ..Default::default()
    };
    let mut bench = Bench::with(plan, Some(Arc::new(placement)), Found::default());
    for critical in &policy.critical {
        let mut message = bench.message(&critical.workload, 40.0, 20.0, v1::sample::Quality::Good);
        message.reason = "ä".repeat(2000);
        message.usage = (0..5000)
            .map(|n| v1::Usage {
                class: format!("other-{n}"),
                total_bps: Some(1.0),
                top_pod_bps: Some(1.0),
                ..Default::default()
            })
            .collect();
        bench.hear_message(&message);
    }
    bench.settle(); // evaluates it again
    let decision = bench.last_decision();
    assert_eq!(decision.samples.len(), 256);
    assert_eq!(laneguard_proto::Validate::validate(decision), Ok(()));
    for encoding in [Encoding::Protobuf, Encoding::Json] {
        let size = codec::encode(decision, encoding).unwrap().len();
        assert!(size < 1 << 20, "{size} bytes as {encoding:?}");
    }
}

#[test]
fn a_freeze_lapses_at_its_end_although_nobody_deletes_it() {
    let mut bench = Bench::new(plan_of("u", 1, spec("Enforce")));
    bench.congested();
    bench.engine.set_override(Some(Override::Freeze {
        by: String::new(),
        since_ms: bench.now_ms(),
        until_ms: Some(bench.now_ms() + 5_000),
    }));
    for _ in 0..4 {
        bench.congested();
        assert_eq!(bench.last_decision().limits[0].after_bps, Some(50e6));
    }
    bench.congested();
    assert_eq!(bench.last_decision().limits[0].after_bps, Some(10e6));
}

#[test]
fn a_decision_without_samples_says_what_called_for_it() {
    let mut bench = Bench::with(plan_of("u", 1, spec("Enforce")), None, Found::default());
    bench.congested();
    bench.engine.set_placement(placed(&[("bulk", Some(300e6))]));
    bench.settle();
    bench.engine.set_override(Some(Override::Release {
        by: String::new(),
        since_ms: 0,
    }));
    bench.settle();
    bench.engine.set_override(None);
    bench.settle();
    let mut changed = spec("Enforce");
    changed["bestEffort"][0]["bandwidth"]["max"] = json!("200M");
    bench.engine.set_plan(plan_of("u", 2, changed));
    bench.settle();
    let causes: Vec<&str> = bench.decisions.iter().map(|d| d.cause.as_str()).collect();
    assert_eq!(
        causes,
        ["samples", "placement", "override", "override", "policy"]
    );
    for decision in &bench.decisions {
        assert_eq!(decision.samples.is_empty(), decision.cause != "samples");
    }
}
