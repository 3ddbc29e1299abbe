//! The reconciler against an API server in memory: what is written, what is reported, and what must never happen.

use laneguard_proto::quantity::Bandwidth;
use proptest::prelude::*;
use serde_json::{Value, json};

use laneguard_proto::policy::StaleAction;
use laneguard_proto::subject::Token;

use super::*;
use crate::annotation::{EGRESS, RECORD, Record, Stale, effective_bps};
use crate::apply::{Answer, Failure, Job};
use crate::commands::{Command, Wanted};
use crate::pods::Ownership;
use crate::policies::tests::entry;

/// Pods as an API server has them.
struct Api {
    objects: BTreeMap<Key, Value>,
    version: u64,
    writes: Vec<(Key, Option<String>)>,
    /// An admission webhook that puts this value into every pod that is written.
    webhook: Option<&'static str>,
}

impl Api {
    fn new() -> Self {
        Self {
            objects: BTreeMap::new(),
            version: 100,
            writes: Vec::new(),
            webhook: None,
        }
    }

    fn put(&mut self, namespace: &str, name: &str, metadata: Value) -> Pod {
        self.version += 1;
        let mut full = json!({"namespace": namespace, "name": name, "uid": format!("uid-{}", self.version),
            "labels": {"priority": "best-effort"}, "annotations": {}});
        for (key, value) in metadata.as_object().unwrap() {
            full[key] = value.clone();
        }
        full["resourceVersion"] = self.version.to_string().into();
        let object = json!({"metadata": full, "spec": {}, "status": {"phase": "Running"}});
        let pod = crate::pods::tests::pod(object.clone());
        self.objects.insert(pod.key.clone(), object);
        pod
    }

    fn pod(&self, key: &Key) -> Option<Pod> {
        self.objects
            .get(key)
            .map(|object| crate::pods::tests::pod(object.clone()))
    }

    /// Changes a pod behind the actuator's back.
    fn edit(&mut self, key: &Key, annotation: &str, value: Value) -> Pod {
        self.version += 1;
        let object = self.objects.get_mut(key).unwrap();
        object["metadata"]["annotations"][annotation] = value;
        object["metadata"]["annotations"]
            .as_object_mut()
            .unwrap()
            .retain(|_, v| !v.is_null());
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.pod(key).unwrap()
    }

    fn patch(&mut self, job: &Job) -> Answer {
        let key = &job.target.key;
        let Some(pod) = self.pod(key) else {
            return Answer::Gone;
        };
        if pod.uid != job.target.uid || pod.resource_version != job.target.resource_version {
            return Answer::Changed(pod);
        }
        self.writes.push((key.clone(), job.edit.egress.clone()));
        let egress = self.webhook.or(job.edit.egress.as_deref());
        self.edit(key, EGRESS, json!(egress));
        Answer::Written(self.edit(key, RECORD, json!(job.edit.record)))
    }

    fn egress(&self, key: &Key) -> Option<String> {
        self.pod(key)?.egress.map(String::from)
    }
}

struct Bench {
    api: Api,
    reconciler: Reconciler,
    now: Instant,
}

impl Bench {
    /// Leads, has listed what is in `api` and read policy `factory_p` with this spec (`None`: no NATS).
    fn new(api: Api, spec: Option<Value>) -> Self {
        let now = Instant::now();
        let settings = Settings {
            critical: LabelSelector::label("priority", "critical"),
            policy_namespace: "laneguard".into(),
            concurrency: 4,
        };
        let mut reconciler = Reconciler::new(settings, Metrics::default(), now);
        reconciler.list_begins();
        for key in api.objects.keys() {
            reconciler.pod(api.pod(key).unwrap(), Source::List, now);
        }
        reconciler.list_ends(now);
        reconciler.lead(true, now);
        let mut bench = Self {
            api,
            reconciler,
            now,
        };
        if let Some(spec) = spec {
            bench.policy(spec);
            bench.reconciler.policies_synced(now);
            bench.reconciler.overrides_synced(now);
        }
        bench
    }

    fn policy(&mut self, spec: Value) {
        self.reconciler
            .policy(token("factory_p"), entry("factory", "p", spec), self.now);
    }

    fn command(&mut self, term: u64, sequence: u64, mbps: f64) {
        self.send(Command {
            term,
            sequence,
            ..command(Wanted::Limit(mbps * 1e6))
        });
    }

    fn send(&mut self, command: Command) {
        self.reconciler
            .command(command, Duration::ZERO, self.now, Span::none(), self.now);
    }

    /// Writes until nothing is left to do now.
    fn settle(&mut self) -> Vec<Outcome> {
        self.reconciler.tick(self.now);
        while let Some(job) = self.reconciler.next_job(self.now) {
            let answer = self.api.patch(&job);
            self.reconciler.written(&job, answer, self.now);
        }
        self.reconciler
            .take_reports()
            .into_iter()
            .map(|r| r.outcome)
            .collect()
    }

    fn pass(&mut self, seconds: u64) -> Vec<Outcome> {
        self.now += Duration::from_secs(seconds);
        self.settle()
    }
}

fn token(text: &str) -> Token {
    text.parse().unwrap()
}

fn command(wanted: Wanted) -> Command {
    Command {
        slot: Slot {
            policy: token("factory_p"),
            class: token("bulk"),
        },
        term: 5,
        sequence: 1,
        wanted,
        nodes: BTreeMap::new(),
        valid_for: Duration::from_secs(15),
        on_stale: StaleAction::Hold,
    }
}

fn key(name: &str) -> Key {
    Key {
        namespace: "factory".into(),
        name: name.into(),
    }
}

fn three_pods() -> Api {
    let mut api = Api::new();
    api.put("factory", "a", json!({}));
    api.put("factory", "b", json!({"annotations": {EGRESS: "50M"}}));
    api.put(
        "factory",
        "c",
        json!({"labels": {"priority": "best-effort", "app": "robot-factory"}}),
    );
    api.put("other", "d", json!({}));
    api
}

fn counts(outcome: &Outcome) -> (u32, u32, u32, u32) {
    (
        outcome.matched,
        outcome.changed,
        outcome.unchanged,
        outcome.failed,
    )
}

#[test]
fn a_command_limits_its_pods_and_no_others_and_says_so_once() {
    let mut bench = Bench::new(three_pods(), Some(json!({})));
    bench.command(5, 1, 80.0);
    let outcomes = bench.settle();
    assert_eq!(outcomes.len(), 1, "{outcomes:?}");
    let outcome = &outcomes[0];
    assert_eq!(
        (outcome.term, outcome.sequence, outcome.trigger.as_str()),
        (5, 1, "COMMAND")
    );
    assert_eq!(counts(outcome), (2, 2, 0, 0));
    assert_eq!(
        (
            outcome.not_covered[0].pod.as_str(),
            outcome.not_covered[0].reason.as_str()
        ),
        ("factory/c", "critical")
    );
    assert_eq!(bench.api.egress(&key("a")).as_deref(), Some("80M"));
    assert_eq!(bench.api.egress(&key("b")).as_deref(), Some("80M"));
    assert_eq!(bench.api.writes.len(), 2);
    assert!(
        bench.pass(40).iter().all(|o| o.trigger == "EXPIRED"),
        "looking again writes nothing"
    );
    assert_eq!(bench.api.writes.len(), 2);
}

#[test]
fn a_renewal_and_a_new_number_with_the_same_limit_write_to_no_pod() {
    let mut bench = Bench::new(three_pods(), Some(json!({})));
    bench.command(5, 1, 80.0);
    bench.settle();
    bench.now += Duration::from_secs(5);
    bench.command(5, 1, 80.0);
    assert!(bench.settle().is_empty());
    bench.command(6, 2, 80.0);
    assert_eq!(counts(&bench.settle()[0]), (2, 0, 2, 0));
    assert_eq!(bench.api.writes.len(), 2);
}

#[test]
fn a_raise_of_somebody_elses_law_is_taken_in_steps_under_one_number_and_a_cut_at_once() {
    let external = json!({"control": {"law": "External"}});
    let mut bench = Bench::new(three_pods(), Some(external.clone()));
    bench.command(5, 1, 10.0);
    bench.settle();
    bench.command(5, 2, 1000.0);
    let first = bench.settle();
    assert_eq!(counts(&first[0]), (2, 2, 0, 0));
    assert_eq!(bench.api.egress(&key("a")).as_deref(), Some("20M"));
    for limit in ["40M", "80M", "160M"] {
        bench.now += Duration::from_secs(4);
        // a renewal: the same content under the same number
        bench.command(5, 2, 1000.0);
        assert!(bench.settle().is_empty(), "neither refused nor a step");
        let due = bench.reconciler.ceilings.next_step().unwrap();
        assert_eq!(due, bench.now + Duration::from_secs(1));
        let stepped = bench.pass(1);
        assert_eq!((stepped.len(), stepped[0].sequence), (1, 2));
        assert_eq!(bench.api.egress(&key("a")).as_deref(), Some(limit));
        assert_eq!(bench.api.egress(&key("b")).as_deref(), Some(limit));
    }
    assert_eq!(bench.reconciler.metrics.held_back.get(), 1, "one episode");

    // whoever leads next goes on from the pods
    let mut bench = Bench::new(bench.api, Some(external));
    bench.command(5, 2, 1000.0);
    bench.settle();
    assert_eq!(bench.api.egress(&key("a")).as_deref(), Some("320M"));
    for limit in ["640M", "1000M"] {
        bench.pass(5);
        assert_eq!(bench.api.egress(&key("a")).as_deref(), Some(limit));
        bench.command(5, 2, 1000.0);
    }
    assert_eq!(bench.reconciler.ceilings.next_step(), None);
    bench.command(5, 3, 10.0);
    bench.settle();
    assert_eq!(bench.api.egress(&key("b")).as_deref(), Some("10M"));
}

#[test]
fn a_raise_that_nobody_renews_stops_and_laws_of_ours_set_their_own_pace() {
    let mut bench = Bench::new(three_pods(), Some(json!({"control": {"law": "External"}})));
    bench.command(5, 1, 10.0);
    bench.settle();
    bench.command(5, 2, 1000.0);
    for _ in 0..20 {
        bench.pass(5);
    }
    let stopped = bench.api.egress(&key("a"));
    assert!(
        stopped.as_deref().is_some_and(|limit| limit != "1000M"),
        "{stopped:?}"
    );
    bench.policy(json!({}));
    bench.command(6, 1, 1000.0);
    bench.settle();
    assert_eq!(bench.api.egress(&key("a")).as_deref(), Some("1000M"));
}

#[test]
fn no_limit_is_given_back_by_somebody_elses_law_when_the_rise_has_come_to_the_top() {
    let unbounded = json!({
        "bestEffort": [{"class": "bulk", "selector": {"matchLabels": {"priority": "best-effort"}}, "bandwidth": {"min": "10M"}}],
        "control": {"law": "External"},
    });
    let mut bench = Bench::new(three_pods(), Some(unbounded));
    bench.command(5, 1, 300.0);
    bench.settle();
    assert_eq!(
        bench.api.egress(&key("a")).as_deref(),
        Some("100M"),
        "twice what was found on one of its pods"
    );
    let restore = Command {
        sequence: 2,
        ..command(Wanted::Restore)
    };
    for limit in [Some("100M"), Some("200M"), Some("400M"), Some("800M"), None] {
        bench.send(restore.clone());
        bench.settle();
        assert_eq!(bench.api.egress(&key("a")).as_deref(), limit);
        bench.pass(5);
    }
    let found = bench.api.egress(&key("b"));
    assert_eq!(found.as_deref(), Some("50M"), "what was there before us");
}

#[test]
fn an_older_command_changes_nothing_and_is_answered_with_the_highest_term() {
    let mut bench = Bench::new(three_pods(), Some(json!({})));
    bench.command(5, 2, 80.0);
    bench.settle();
    for (term, sequence, reason) in [(4, 9, "older_term"), (5, 1, "older_sequence")] {
        bench.command(term, sequence, 900.0);
        bench.command(term, sequence, 900.0);
        let outcomes = bench.settle();
        assert_eq!(outcomes.len(), 1, "a repetition is only counted");
        assert!(outcomes[0].refused);
        assert_eq!(
            (
                outcomes[0].refused_reason.as_str(),
                outcomes[0].highest_term
            ),
            (reason, 5)
        );
    }
    assert_eq!(bench.api.egress(&key("a")).as_deref(), Some("80M"));
}

#[test]
fn what_was_refused_before_this_replica_led_is_answered_when_it_comes_again() {
    let mut bench = Bench::new(three_pods(), Some(json!({})));
    bench.command(5, 2, 80.0);
    bench.settle();
    bench.reconciler.lead(false, bench.now);
    bench.command(4, 9, 900.0);
    assert!(bench.settle().is_empty(), "only the leader answers");
    bench.reconciler.lead(true, bench.now);
    bench.command(4, 9, 900.0);
    let outcomes = bench.settle();
    assert_eq!(outcomes.len(), 1);
    assert_eq!((outcomes[0].refused, outcomes[0].highest_term), (true, 5));
}

#[test]
fn numbers_are_known_again_after_a_restart_from_records_and_outcomes() {
    let mut bench = Bench::new(three_pods(), Some(json!({})));
    bench.command(5, 2, 80.0);
    bench.settle();
    let mut restarted = Bench::new(bench.api, Some(json!({})));
    restarted.command(4, 9, 900.0);
    assert_eq!(restarted.settle()[0].refused_reason, "older_term");
    let slot = command(Wanted::Restore).slot;
    let newer = Outcome {
        term: 7,
        sequence: 1,
        highest_term: 7,
        ..Outcome::default()
    };
    restarted.reconciler.outcome(slot, &newer);
    restarted.command(6, 1, 900.0);
    assert_eq!(restarted.settle()[0].highest_term, 7);
    assert_eq!(restarted.api.egress(&key("a")).as_deref(), Some("80M"));
}

fn recorded(term: u64, sequence: u64) -> Value {
    let record = Record {
        policy: token("factory_p"),
        class: token("bulk"),
        term,
        sequence,
        on_stale: Stale::default(),
        min: Bandwidth::from_bps(1e7).unwrap(),
        max: None,
        found: None,
    };
    json!({EGRESS: "20M", RECORD: record.to_json()})
}

#[test]
fn the_record_of_a_pod_that_the_class_does_not_select_stops_no_command() {
    let mut api = three_pods();
    api.put(
        "other",
        "stranger",
        json!({"annotations": recorded(900, 1)}),
    );
    api.put(
        "factory",
        "unselected",
        json!({"labels": {"x": "y"}, "annotations": recorded(901, 1)}),
    );
    let mut bench = Bench::new(api, Some(json!({})));
    let late = bench
        .api
        .put("other", "late", json!({"annotations": recorded(902, 1)}));
    bench.reconciler.pod(late, Source::Watch, bench.now);
    bench.settle();
    bench.command(5, 1, 80.0);
    assert_eq!(counts(&bench.settle()[0]), (2, 2, 0, 0));
    assert_eq!(bench.api.egress(&key("a")).as_deref(), Some("80M"));
}

#[test]
fn a_number_in_a_record_that_nobody_can_have_given_stops_no_command() {
    for (term, sequence) in [(u64::MAX, 1), (5, u64::MAX)] {
        let mut api = three_pods();
        api.put(
            "factory",
            "spoilt",
            json!({"annotations": recorded(term, sequence)}),
        );
        let mut bench = Bench::new(api, Some(json!({})));
        bench.command(5, 1, 80.0);
        assert_eq!(counts(&bench.settle()[0]), (3, 3, 0, 0));
    }
}

#[test]
fn a_command_replayed_before_the_policies_are_known_yields_to_a_newer_record() {
    let mut api = three_pods();
    api.put("factory", "e", json!({"annotations": recorded(5, 2)}));
    let mut bench = Bench::new(api, None);
    bench.command(5, 1, 900.0);
    bench.settle();
    bench.policy(json!({}));
    bench.reconciler.policies_synced(bench.now);
    bench.reconciler.overrides_synced(bench.now);
    bench.settle();
    assert!(bench.api.writes.is_empty(), "{:?}", bench.api.writes);
    bench.command(5, 1, 900.0);
    assert_eq!(bench.settle()[0].refused_reason, "older_sequence");
}

#[test]
fn a_command_nobody_may_carry_out_is_refused_and_taken_up_when_the_policy_allows() {
    let mut bench = Bench::new(three_pods(), Some(json!({"mode": "Observe"})));
    bench.command(5, 1, 80.0);
    let outcomes = bench.settle();
    assert_eq!(outcomes[0].refused_reason, "not_enforcing");
    assert!(bench.api.writes.is_empty());
    bench.policy(json!({"mode": "Enforce"}));
    assert_eq!(counts(&bench.settle()[0]), (2, 2, 0, 0));
    let mut unknown = command(Wanted::Limit(8e7));
    unknown.slot.policy = token("factory_nobody");
    bench.send(unknown.clone());
    assert_eq!(bench.settle()[0].refused_reason, "unknown_policy");
    unknown.slot = Slot {
        policy: token("factory_p"),
        class: token("nothing"),
    };
    bench.send(unknown);
    assert_eq!(bench.settle()[0].refused_reason, "unknown_class");
    bench.policy(json!({"actuation": "Rollout"}));
    bench.settle();
    bench.command(6, 1, 80.0);
    assert_eq!(bench.settle()[0].refused_reason, "rollout_unsupported");
}

#[test]
fn a_command_may_arrive_before_the_policies() {
    let mut bench = Bench::new(three_pods(), None);
    bench.command(5, 1, 80.0);
    assert!(bench.settle().is_empty() && bench.api.writes.is_empty());
    bench.policy(json!({}));
    bench.reconciler.policies_synced(bench.now);
    assert!(
        bench.settle().is_empty(),
        "a release may be among the overrides"
    );
    bench.reconciler.overrides_synced(bench.now);
    assert_eq!(counts(&bench.settle()[0]), (2, 2, 0, 0));
}

#[test]
fn every_end_of_a_policy_restores_what_was_found() {
    type End = fn(&mut Bench);
    let ends: [(&str, End); 4] = [
        ("POLICY_ENDED", |b| b.policy(json!({"mode": "Observe"}))),
        ("POLICY_ENDED", |b| {
            b.reconciler.policy_deleted(&token("factory_p"), b.now)
        }),
        ("RELEASED", |b| {
            b.reconciler.released(&token("factory_p"), true, b.now)
        }),
        ("POLICY_ENDED", |b| {
            b.policy(json!({"bestEffort": [{"class": "other", "selector": {"matchLabels": {"x": "y"}}}]}))
        }),
    ];
    for (trigger, end) in ends {
        let mut bench = Bench::new(three_pods(), Some(json!({})));
        bench.command(5, 1, 80.0);
        bench.settle();
        end(&mut bench);
        let outcomes = bench.settle();
        assert_eq!(outcomes.len(), 1, "{outcomes:?}");
        assert_eq!(
            (outcomes[0].trigger.as_str(), counts(&outcomes[0])),
            (trigger, (2, 2, 0, 0))
        );
        assert_eq!(bench.api.egress(&key("a")), None);
        assert_eq!(bench.api.egress(&key("b")).as_deref(), Some("50M"));
        assert!(
            bench
                .api
                .objects
                .values()
                .all(|o| o["metadata"]["annotations"].get(RECORD).is_none())
        );
    }
}

#[test]
fn after_a_release_is_taken_back_it_takes_a_new_command() {
    let mut bench = Bench::new(three_pods(), Some(json!({})));
    bench.command(5, 1, 80.0);
    bench.settle();
    bench
        .reconciler
        .released(&token("factory_p"), true, bench.now);
    bench.settle();
    bench
        .reconciler
        .released(&token("factory_p"), false, bench.now);
    assert!(bench.settle().is_empty());
    assert_eq!(bench.api.egress(&key("a")), None);
    bench.command(6, 2, 70.0);
    bench.settle();
    assert_eq!(bench.api.egress(&key("a")).as_deref(), Some("70M"));
}

#[test]
fn a_pod_that_comes_later_is_written_first() {
    let mut api = Api::new();
    for n in 0..20 {
        api.put("factory", &format!("old-{n:02}"), json!({}));
    }
    let mut bench = Bench::new(api, Some(json!({})));
    bench.command(5, 1, 80.0);
    let first = bench.reconciler.next_job(bench.now).unwrap();
    let late = bench.api.put("factory", "zz-late", json!({}));
    bench.reconciler.pod(late, Source::Watch, bench.now);
    let second = bench.reconciler.next_job(bench.now).unwrap();
    assert_eq!(second.target.key, key("zz-late"));
    for job in [first, second] {
        let answer = bench.api.patch(&job);
        bench.reconciler.written(&job, answer, bench.now);
    }
    let outcomes = bench.settle();
    assert_eq!(
        counts(&outcomes[0]),
        (20, 20, 0, 0),
        "the late one is not the command's doing"
    );
    assert_eq!(bench.api.egress(&key("zz-late")).as_deref(), Some("80M"));
}

#[test]
fn a_limit_changed_by_hand_returns_and_is_counted() {
    let mut bench = Bench::new(three_pods(), Some(json!({})));
    bench.command(5, 1, 80.0);
    bench.settle();
    let edited = bench.api.edit(&key("a"), EGRESS, json!("900M"));
    bench.reconciler.pod(edited, Source::Watch, bench.now);
    bench.settle();
    assert_eq!(bench.api.egress(&key("a")).as_deref(), Some("80M"));
    let stripped = bench.api.edit(&key("b"), RECORD, Value::Null);
    bench.reconciler.pod(stripped, Source::Watch, bench.now);
    bench.settle();
    let record = bench.api.pod(&key("b")).unwrap().record().cloned().unwrap();
    assert_eq!(
        record.found.as_deref(),
        Some("50M"),
        "what was found is not forgotten"
    );
    assert_eq!(bench.reconciler.metrics.drift.get(), 2);
}

#[test]
fn a_conflict_is_planned_anew_and_a_failure_tried_again_later() {
    let mut bench = Bench::new(three_pods(), Some(json!({})));
    bench.command(5, 1, 80.0);
    let job = bench.reconciler.next_job(bench.now).unwrap();
    bench.api.edit(&job.target.key, "other", json!("x"));
    let answer = bench.api.patch(&job);
    assert!(matches!(answer, Answer::Changed(_)));
    bench.reconciler.written(&job, answer, bench.now);
    let job = bench.reconciler.next_job(bench.now).unwrap();
    let failed = Answer::Failed {
        reason: Failure::Throttled,
        message: "later".into(),
        retry_after: Some(Duration::from_secs(3)),
    };
    bench.reconciler.written(&job, failed, bench.now);
    assert_eq!(counts(&bench.settle()[0]), (2, 1, 0, 1));
    bench.pass(2);
    assert_eq!(bench.api.egress(&job.target.key), None);
    bench.pass(1);
    assert_eq!(bench.api.egress(&job.target.key).as_deref(), Some("80M"));
}

#[test]
fn a_newer_command_overtakes_a_batch_and_no_pod_keeps_the_older_limit() {
    let mut bench = Bench::new(three_pods(), Some(json!({})));
    bench.command(5, 1, 80.0);
    let under_way = bench.reconciler.next_job(bench.now).unwrap();
    bench.command(5, 2, 60.0);
    let answer = bench.api.patch(&under_way);
    bench.reconciler.written(&under_way, answer, bench.now);
    let outcomes = bench.settle();
    assert_eq!(
        outcomes
            .iter()
            .map(|o| (o.sequence, counts(o)))
            .collect::<Vec<_>>(),
        [(1, (2, 0, 0, 0)), (2, (2, 2, 0, 0))]
    );
    for name in ["a", "b"] {
        assert_eq!(bench.api.egress(&key(name)).as_deref(), Some("60M"));
    }
}

#[test]
fn a_write_that_was_under_way_does_not_count_for_a_newer_command() {
    let mut bench = Bench::new(three_pods(), Some(json!({})));
    bench.command(5, 1, 80.0);
    let under_way = bench.reconciler.next_job(bench.now).unwrap();
    bench.command(5, 2, 60.0);
    let answer = bench.api.patch(&under_way);
    bench.reconciler.written(&under_way, answer, bench.now);
    loop {
        let job = bench.reconciler.next_job(bench.now).unwrap();
        if job.target.key == under_way.target.key {
            let failed = Answer::Failed {
                reason: Failure::Unavailable,
                message: "x".into(),
                retry_after: None,
            };
            bench.reconciler.written(&job, failed, bench.now);
            break;
        }
        let answer = bench.api.patch(&job);
        bench.reconciler.written(&job, answer, bench.now);
    }
    let outcomes = bench.settle();
    assert_eq!(counts(&outcomes[1]), (2, 1, 0, 1), "{outcomes:?}");
}

#[test]
fn expiry_protects_or_releases_and_a_renewal_brings_the_limit_back() {
    let on_stale = |action| json!({"onStale": {"action": action, "after": "15s"}});
    let mut bench = Bench::new(three_pods(), Some(on_stale("Protect")));
    let protect = Command {
        on_stale: StaleAction::Protect,
        ..command(Wanted::Limit(8e7))
    };
    bench.send(protect.clone());
    bench.settle();
    let outcomes = bench.pass(15);
    assert_eq!(
        (outcomes[0].trigger.as_str(), counts(&outcomes[0])),
        ("EXPIRED", (2, 2, 0, 0))
    );
    assert_eq!(bench.api.egress(&key("a")).as_deref(), Some("10M"));
    bench.send(protect);
    bench.settle();
    assert_eq!(bench.api.egress(&key("a")).as_deref(), Some("80M"));
    bench.policy(on_stale("Release"));
    bench.settle();
    let release = Command {
        sequence: 2,
        on_stale: StaleAction::Release,
        ..command(Wanted::Limit(8e7))
    };
    bench.send(release);
    bench.settle();
    bench.pass(15);
    assert_eq!(bench.api.egress(&key("b")).as_deref(), Some("50M"));
    assert_eq!(bench.api.egress(&key("a")), None);
}

#[test]
fn a_restart_with_nothing_but_the_api_server_still_acts_on_expiry() {
    let mut api = Api::new();
    let record = |action| Record {
        policy: token("factory_p"),
        class: token("bulk"),
        term: 3,
        sequence: 3,
        on_stale: Stale {
            action,
            after_ms: 15_000,
        },
        min: Bandwidth::from_bps(1e7).unwrap(),
        max: None,
        found: Some("50M".into()),
    };
    for (name, action) in [
        ("p", StaleAction::Protect),
        ("r", StaleAction::Release),
        ("h", StaleAction::Hold),
    ] {
        api.put(
            "factory",
            name,
            json!({"annotations": {EGRESS: "80M", RECORD: record(action).to_json()}}),
        );
    }
    let mut bench = Bench::new(api, None);
    assert!(bench.pass(14).is_empty() && bench.api.writes.is_empty());
    let outcomes = bench.pass(1);
    assert_eq!(outcomes.len(), 1);
    assert_eq!(
        (outcomes[0].trigger.as_str(), outcomes[0].term),
        ("EXPIRED", 0)
    );
    assert_eq!(bench.api.egress(&key("p")).as_deref(), Some("10M"));
    assert_eq!(bench.api.egress(&key("r")).as_deref(), Some("50M"));
    assert_eq!(bench.api.egress(&key("h")).as_deref(), Some("80M"));
}

#[test]
fn a_pod_missing_from_a_complete_list_is_gone_and_ends_its_batch() {
    let mut bench = Bench::new(three_pods(), Some(json!({})));
    bench.command(5, 1, 80.0);
    bench.api.objects.remove(&key("a"));
    bench.reconciler.list_begins();
    for key in bench.api.objects.keys() {
        bench
            .reconciler
            .pod(bench.api.pod(key).unwrap(), Source::List, bench.now);
    }
    bench.reconciler.list_ends(bench.now);
    assert_eq!(counts(&bench.settle()[0]), (1, 1, 0, 0));
}

#[test]
fn who_does_not_lead_writes_and_says_nothing_and_who_takes_over_finishes_the_work() {
    let mut bench = Bench::new(three_pods(), Some(json!({})));
    bench.reconciler.lead(false, bench.now);
    bench.command(5, 1, 80.0);
    assert!(bench.settle().is_empty() && bench.api.writes.is_empty());
    bench.reconciler.lead(true, bench.now);
    assert_eq!(counts(&bench.settle()[0]), (2, 2, 0, 0));
    bench.reconciler.lead(false, bench.now);
    bench.reconciler.lead(true, bench.now);
    assert!(
        bench.settle().is_empty(),
        "what was reported is not reported again"
    );
}

#[test]
fn placement_lists_the_pods_that_may_be_limited_and_the_lowest_value_found() {
    let mut bench = Bench::new(three_pods(), Some(json!({"mode": "Observe"})));
    assert_eq!(
        bench.reconciler.take_placements(bench.now),
        None,
        "collected first"
    );
    bench.now += PLACEMENT_DEBOUNCE;
    let placements = bench.reconciler.take_placements(bench.now).unwrap();
    let class = &placements[&token("factory_p")].classes[0];
    let names: Vec<_> = class.pods.iter().map(|p| p.name.as_str()).collect();
    assert_eq!((names, class.found_bps), (vec!["a", "b"], Some(5e7)));
    assert_eq!(
        bench.reconciler.take_placements(bench.now),
        None,
        "nothing changed"
    );
}

#[test]
fn the_placement_of_many_pods_with_long_names_fits_into_a_message_and_says_what_is_missing() {
    let mut bench = Bench::new(Api::new(), Some(json!({"mode": "Observe"})));
    for n in 0..4000 {
        let name = format!("{n}-{}", "x".repeat(240));
        let node = format!("node-{n}-{}", "y".repeat(200));
        let pod = crate::pods::tests::pod(
            json!({"metadata": {"namespace": "factory", "name": name, "uid": "u", "resourceVersion": "1",
            "labels": {"priority": "best-effort"}}, "spec": {"nodeName": node}}),
        );
        bench.reconciler.pod(pod, Source::Watch, bench.now);
        let critical = crate::pods::tests::pod(
            json!({"metadata": {"namespace": "factory", "name": format!("c{n}"), "uid": "u",
            "resourceVersion": "1", "labels": {"app": "robot-factory"}}, "spec": {"nodeName": node}}),
        );
        bench.reconciler.pod(critical, Source::Watch, bench.now);
    }
    bench.now += PLACEMENT_DEBOUNCE;
    let placements = bench.reconciler.take_placements(bench.now).unwrap();
    let placement = &placements[&token("factory_p")];
    let size = serde_json::to_vec(placement).unwrap().len();
    assert!(size < 768 * 1024, "{size}");
    assert!(placement.classes[0].truncated);
    assert!(placement.classes[0].pods.len() > 100);
}

#[test]
fn a_webhook_that_undoes_every_write_is_not_written_against_without_pause() {
    let mut api = Api::new();
    api.put("factory", "a", json!({}));
    api.webhook = Some("900M");
    let mut bench = Bench::new(api, Some(json!({})));
    bench.command(5, 1, 80.0);
    for _ in 0..50 {
        if let Some(job) = bench.reconciler.next_job(bench.now) {
            let answer = bench.api.patch(&job);
            bench.reconciler.written(&job, answer, bench.now);
        }
    }
    assert_eq!(bench.api.writes.len(), 2, "once more, then later");
    assert_eq!(counts(&bench.settle()[0]), (1, 0, 0, 1), "and it is said");
    for _ in 0..120 {
        bench.pass(1);
    }
    let tried = bench.api.writes.len();
    assert!((5..15).contains(&tried), "{tried}");
    assert_eq!(bench.reconciler.metrics.drift.get(), tried as u64);
    bench.api.webhook = None;
    bench.pass(61);
    assert_eq!(bench.api.egress(&key("a")).as_deref(), Some("80M"));
}

#[test]
fn a_controller_that_puts_its_own_value_back_is_answered_at_growing_intervals() {
    let mut bench = Bench::new(three_pods(), Some(json!({})));
    bench.command(5, 1, 80.0);
    bench.settle();
    let written = bench.api.writes.len();
    for n in 0..50 {
        let edited = bench
            .api
            .edit(&key("a"), EGRESS, json!(format!("{}M", 900 + n)));
        bench.reconciler.pod(edited, Source::Watch, bench.now);
        bench.settle();
    }
    assert_eq!(bench.api.writes.len(), written + 1, "the first at once");
    bench.pass(1);
    assert_eq!(bench.api.egress(&key("a")).as_deref(), Some("80M"));
    // its labels count at once all the same
    let edited = bench.api.edit(&key("a"), EGRESS, json!("900M"));
    bench.reconciler.pod(edited, Source::Watch, bench.now);
    bench.settle();
    assert_eq!(bench.api.egress(&key("a")).as_deref(), Some("900M"));
    bench.api.objects.get_mut(&key("a")).unwrap()["metadata"]["labels"]["priority"] =
        "critical".into();
    let critical = bench.api.edit(&key("a"), EGRESS, json!("900M"));
    bench.reconciler.pod(critical, Source::Watch, bench.now);
    bench.settle();
    assert_eq!(
        bench.api.pod(&key("a")).unwrap().ownership,
        Ownership::Foreign
    );
}

#[test]
fn what_was_undone_while_the_answer_was_under_way_is_written_again() {
    let mut bench = Bench::new(three_pods(), Some(json!({})));
    bench.command(5, 1, 80.0);
    let job = bench.reconciler.next_job(bench.now).unwrap();
    let answer = bench.api.patch(&job);
    let undone = bench.api.edit(&job.target.key, EGRESS, json!("900M"));
    bench.reconciler.pod(undone, Source::Watch, bench.now);
    bench.reconciler.written(&job, answer, bench.now);
    bench.settle();
    assert_eq!(bench.api.egress(&job.target.key).as_deref(), Some("80M"));
}

#[test]
fn a_pod_that_others_write_all_the_time_is_tried_again_soon_and_a_settled_one_begins_anew() {
    let mut bench = Bench::new(three_pods(), Some(json!({})));
    bench.command(5, 1, 80.0);
    let conflict = |bench: &mut Bench| {
        let Some(job) = bench.reconciler.next_job(bench.now) else {
            return false;
        };
        bench.api.edit(&job.target.key, "other", json!("x"));
        let answer = bench.api.patch(&job);
        bench.reconciler.written(&job, answer, bench.now);
        true
    };
    let conflicts = (0..100).filter(|_| conflict(&mut bench)).count();
    assert_eq!(conflicts, 12, "a few at once for each pod");
    for _ in 0..3 {
        bench.now += Duration::from_secs(2);
        bench.reconciler.tick(bench.now);
        assert!(
            conflict(&mut bench) && conflict(&mut bench),
            "the pause does not grow"
        );
    }
    bench.pass(2);
    assert!(bench.reconciler.attempts.is_empty());
}

#[test]
fn a_commands_expiry_is_the_policys_whatever_the_command_says() {
    let rash = Command {
        on_stale: StaleAction::Release,
        valid_for: Duration::from_millis(1),
        ..command(Wanted::Limit(8e7))
    };
    let mut bench = Bench::new(three_pods(), Some(json!({})));
    bench.send(rash.clone());
    bench.settle();
    bench.pass(60);
    assert_eq!(
        bench.api.egress(&key("a")).as_deref(),
        Some("80M"),
        "the policy holds"
    );
    let endless = Command {
        valid_for: Duration::from_secs(1 << 30),
        ..rash
    };
    let protect = json!({"onStale": {"action": "Protect", "after": "15s"}});
    let mut bench = Bench::new(three_pods(), Some(protect.clone()));
    bench.send(endless.clone());
    bench.settle();
    bench.pass(15);
    assert_eq!(bench.api.egress(&key("a")).as_deref(), Some("10M"));
    let mut bench = Bench::new(three_pods(), None);
    bench.send(endless);
    bench.policy(protect);
    bench.reconciler.policies_synced(bench.now);
    bench.reconciler.overrides_synced(bench.now);
    bench.settle();
    assert_eq!(bench.api.egress(&key("a")).as_deref(), Some("80M"));
    bench.pass(15);
    assert_eq!(
        bench.api.egress(&key("a")).as_deref(),
        Some("10M"),
        "also if the policy came later"
    );
}

#[test]
fn a_refusal_that_goes_on_is_repeated_but_not_each_time() {
    let mut bench = Bench::new(three_pods(), Some(json!({})));
    bench.command(5, 2, 80.0);
    bench.settle();
    let mut told = 0;
    for _ in 0..30 {
        bench.command(4, 9, 900.0);
        told += bench.pass(1).iter().filter(|o| o.refused).count();
    }
    assert_eq!(told, 3);
}

#[test]
fn classes_that_nobody_knows_are_forgotten() {
    let mut bench = Bench::new(three_pods(), Some(json!({})));
    bench.command(5, 1, 80.0);
    bench.settle();
    for n in 0..20_000_u64 {
        let slot = Slot {
            policy: token(&format!("factory_{n}")),
            class: token("bulk"),
        };
        let outcome = Outcome {
            term: 5,
            sequence: n,
            ..Outcome::default()
        };
        bench.reconciler.outcome(slot.clone(), &outcome);
        bench.send(Command {
            slot,
            ..command(Wanted::Limit(8e7))
        });
        bench.reconciler.take_reports();
    }
    let kept = bench.reconciler.commands.len();
    assert!(kept < 3000, "{kept}");
    assert!(bench.reconciler.refused.len() <= kept && bench.reconciler.reported.len() <= kept);
    bench.pass(30);
    assert_eq!(bench.reconciler.commands.len(), 1);
    bench.command(4, 9, 900.0);
    assert_eq!(bench.settle().last().unwrap().refused_reason, "older_term");
}

#[test]
fn a_pod_whose_own_value_is_too_long_is_named_as_not_covered() {
    let mut api = three_pods();
    api.put(
        "factory",
        "long",
        json!({"annotations": {EGRESS: "9".repeat(300)}}),
    );
    let mut bench = Bench::new(api, Some(json!({})));
    bench.command(5, 1, 80.0);
    let outcomes = bench.settle();
    assert_eq!(counts(&outcomes[0]), (2, 2, 0, 0));
    let reasons: Vec<_> = outcomes[0]
        .not_covered
        .iter()
        .map(|n| n.reason.as_str())
        .collect();
    assert_eq!(reasons, ["critical", "found_too_long"]);
}

/// What happens to the reconciler.
#[derive(Debug, Clone)]
enum Happening {
    Command(u64, u64, f64),
    Mode(&'static str),
    Deleted,
    Released(bool),
    Pass(u64),
    Edit(usize, &'static str),
    Recreate(usize),
    Lead(bool),
    Write,
    Fail,
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        4 => (1_u64..5, 1_u64..5, prop_oneof![Just(0.0), 1.0..2000.0_f64]).prop_map(|(t, s, m)| Happening::Command(t, s, m)),
        2 => prop::sample::select(vec!["Enforce", "Observe", "Off"]).prop_map(Happening::Mode),
        1 => Just(Happening::Deleted),
        1 => any::<bool>().prop_map(Happening::Released),
        2 => (1_u64..20).prop_map(Happening::Pass),
        2 => (0_usize..4, prop::sample::select(vec!["900M", "1", "x"])).prop_map(|(n, v)| Happening::Edit(n, v)),
        1 => (0_usize..4).prop_map(Happening::Recreate),
        1 => any::<bool>().prop_map(Happening::Lead),
        6 => Just(Happening::Write),
        1 => Just(Happening::Fail),
    ]
}

proptest! {
    /// Invariants 1, 2, 3, 8 and 10 over any history; and in the end everything is as the last command and policy want it.
    #[test]
    fn over_any_history_nothing_forbidden_is_written_and_the_end_is_right(history in prop::collection::vec(happening(), 1..60)) {
        let mut api = three_pods();
        api.put("factory", "e", json!({"labels": {"priority": "critical"}}));
        let mut bench = Bench::new(api, Some(json!({})));
        let keys: Vec<Key> = ["a", "b", "c", "e"].map(key).to_vec();
        let mut numbers: Vec<((u64, u64), f64)> = Vec::new();
        let mut mode = Some("Enforce");
        let mut released = false;
        for happening in history {
            match happening {
                Happening::Command(term, sequence, mbps) => {
                    // as a decider does: one number has one content
                    let mbps = numbers.iter().find(|(n, _)| *n == (term, sequence)).map_or(mbps, |(_, m)| *m);
                    numbers.push(((term, sequence), mbps));
                    bench.command(term, sequence, mbps);
                }
                Happening::Mode(new) => { mode = Some(new); bench.policy(json!({"mode": new})) }
                Happening::Deleted => { mode = None; bench.reconciler.policy_deleted(&token("factory_p"), bench.now) }
                Happening::Released(on) => { released = on; bench.reconciler.released(&token("factory_p"), on, bench.now) }
                Happening::Pass(seconds) => { bench.now += Duration::from_secs(seconds); bench.reconciler.tick(bench.now) }
                Happening::Edit(n, value) => {
                    let pod = bench.api.edit(&keys[n], EGRESS, json!(value));
                    bench.reconciler.pod(pod, Source::Watch, bench.now);
                }
                Happening::Recreate(n) => {
                    let labels = bench.api.objects[&keys[n]]["metadata"]["labels"].clone();
                    bench.reconciler.pod_gone(&keys[n], None, bench.now);
                    let pod = bench.api.put("factory", &keys[n].name, json!({"labels": labels}));
                    bench.reconciler.pod(pod, Source::Watch, bench.now);
                }
                Happening::Lead(on) => bench.reconciler.lead(on, bench.now),
                Happening::Write => if let Some(job) = bench.reconciler.next_job(bench.now) {
                    let answer = bench.api.patch(&job);
                    bench.reconciler.written(&job, answer, bench.now);
                },
                Happening::Fail => if let Some(job) = bench.reconciler.next_job(bench.now) {
                    let failed = Answer::Failed { reason: Failure::Unavailable, message: "x".into(), retry_after: None };
                    bench.reconciler.written(&job, failed, bench.now);
                },
            }
            prop_assert!(bench.reconciler.in_flight.is_empty());
        }
        bench.reconciler.lead(true, bench.now);
        bench.settle();
        bench.pass(61);
        let fresh = Command { term: 9, sequence: 9, ..command(Wanted::Limit(7.7e7)) };
        bench.send(fresh);
        bench.settle();
        for (written, value) in &bench.api.writes {
            prop_assert!(["a", "b"].contains(&&*written.name) && &*written.namespace == "factory", "{written} was written");
            let ours = value.as_deref().and_then(effective_bps).is_some_and(|bps| (1e7..=1e9).contains(&bps));
            let restored = matches!(value.as_deref(), None | Some("50M" | "900M" | "1" | "x"));
            prop_assert!(ours || restored, "{value:?} was written");
        }
        for name in ["a", "b"] {
            let pod = bench.api.pod(&key(name)).unwrap();
            if mode == Some("Enforce") && !released {
                prop_assert_eq!(pod.egress.as_deref(), Some("77M"));
                prop_assert!(pod.record().is_some());
            } else {
                prop_assert_eq!(pod.ownership, Ownership::Foreign);
            }
        }
    }
}
