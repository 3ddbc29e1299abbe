//! The guard rails, one by one and at random.

use std::collections::BTreeMap;

use laneguard_proto::quantity::Bandwidth;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::annotation::{EGRESS, IGNORE, RECORD};
use crate::commands::Command;
use crate::policies::tests::entry;

/// A world with policy `factory_p` (class `bulk`, 10M to 1G) in the given spec, and what is changed in it.
struct Fixture {
    policies: PolicySet,
    commands: Commands,
    ceilings: Ceilings,
    namespaces: Namespaces,
    critical: LabelSelector,
    start: Instant,
}

impl Fixture {
    fn new(spec: Value) -> Self {
        let mut policies = PolicySet::new("laneguard");
        policies.put(token("factory_p"), entry("factory", "p", spec));
        policies.policies_synced();
        policies.overrides_synced();
        Self {
            policies,
            commands: Commands::default(),
            ceilings: Ceilings::default(),
            namespaces: None,
            critical: LabelSelector::label("priority", "critical"),
            start: Instant::now(),
        }
    }

    fn commanding(mut self, policy: &str, wanted: Wanted) -> Self {
        let now = self.start;
        self.commands
            .accept(command(policy, wanted), Duration::ZERO, now);
        self
    }

    fn plan_at(&self, pod: &Pod, after: Duration) -> Plan {
        World {
            policies: &self.policies,
            commands: &self.commands,
            ceilings: &self.ceilings,
            namespaces: &self.namespaces,
            critical: &self.critical,
            responsible_since: self.start,
            now: self.start + after,
        }
        .plan(pod)
    }

    fn plan(&self, pod: &Pod) -> Plan {
        self.plan_at(pod, Duration::ZERO)
    }
}

fn token(text: &str) -> laneguard_proto::subject::Token {
    text.parse().unwrap()
}

fn command(policy: &str, wanted: Wanted) -> Command {
    Command {
        slot: Slot {
            policy: token(policy),
            class: token("bulk"),
        },
        term: 5,
        sequence: 3,
        wanted,
        nodes: BTreeMap::from([("slow".to_owned(), 2e7)]),
        valid_for: Duration::from_secs(15),
        on_stale: StaleAction::Hold,
    }
}

/// A best-effort pod in namespace `factory`, changed by merging into metadata and spec.
fn pod(metadata: Value, spec: Value) -> Pod {
    let mut full = json!({"namespace": "factory", "name": "upload-1", "uid": "u", "resourceVersion": "1", "labels": {"priority": "best-effort"}});
    for (key, value) in metadata.as_object().unwrap() {
        full[key] = value.clone();
    }
    crate::pods::tests::pod(json!({"metadata": full, "spec": spec, "status": {"phase": "Running"}}))
}

fn plain() -> Pod {
    pod(json!({}), json!({}))
}

fn record(on_stale: StaleAction, found: Option<&str>) -> Record {
    Record {
        policy: token("factory_p"),
        class: token("bulk"),
        term: 1,
        sequence: 1,
        on_stale: Stale {
            action: on_stale,
            after_ms: 15_000,
        },
        min: Bandwidth::from_bps(1e7).unwrap(),
        max: Some(Bandwidth::from_bps(1e9).unwrap()),
        found: found.map(str::to_owned),
    }
}

fn limited(value: &str, record: &Record) -> Pod {
    pod(
        json!({"annotations": {EGRESS: value, RECORD: record.to_json()}}),
        json!({}),
    )
}

fn limit(plan: Plan) -> String {
    match plan {
        Plan::Set(set) => set.limit.to_string(),
        other => panic!("not set: {other:?}"),
    }
}

fn restored(plan: Plan) -> (Option<String>, Cause) {
    match plan {
        Plan::Restore(restore) => (restore.found, restore.cause),
        other => panic!("not restored: {other:?}"),
    }
}

fn enforcing(bps: f64) -> Fixture {
    Fixture::new(json!({})).commanding("factory_p", Wanted::Limit(bps))
}

#[test]
fn a_selected_pod_gets_the_commanded_limit_and_keeps_what_was_found_in_the_record() {
    let found = pod(json!({"annotations": {EGRESS: "50M"}}), json!({}));
    let Plan::Set(set) = enforcing(115e6).plan(&found) else {
        panic!()
    };
    assert_eq!(set.limit.to_string(), "115M");
    assert_eq!(set.record.found.as_deref(), Some("50M"));
    assert_eq!((set.record.term, set.record.sequence), (5, 3));
    assert!(!set.clamped && !set.stale);
}

#[test]
fn a_pod_that_has_limit_and_record_is_left_even_if_the_number_moved_on() {
    let fixture = enforcing(115e6);
    let older = record(StaleAction::Hold, None);
    assert_eq!(fixture.plan(&limited("115M", &older)), Plan::Leave);
    assert_eq!(
        limit(fixture.plan(&limited("116M", &older))),
        "115M",
        "edited by hand"
    );
    let changed = record(StaleAction::Protect, None);
    assert_eq!(
        limit(fixture.plan(&limited("115M", &changed))),
        "115M",
        "what follows expiry changed"
    );
}

#[test]
fn a_limit_out_of_bounds_is_clamped_whatever_the_command_says() {
    for (bps, text) in [(1.0, "10M"), (0.0, "10M"), (5e9, "1000M")] {
        let Plan::Set(set) = enforcing(bps).plan(&plain()) else {
            panic!()
        };
        assert_eq!((set.limit.to_string().as_str(), set.clamped), (text, true));
    }
    let no_ceiling_needed = Fixture::new(json!({})).commanding("factory_p", Wanted::Restore);
    assert_eq!(
        limit(no_ceiling_needed.plan(&plain())),
        "1000M",
        "a class with a ceiling never goes unlimited"
    );
}

#[test]
fn a_class_without_ceiling_gives_the_limit_back_at_the_top() {
    let open = json!({"bestEffort": [{"class": "bulk", "selector": {"matchLabels": {"priority": "best-effort"}}, "bandwidth": {"min": "10M"}}]});
    let fixture = Fixture::new(open).commanding("factory_p", Wanted::Restore);
    assert_eq!(fixture.plan(&plain()), Plan::Leave);
    let ours = limited("20M", &record(StaleAction::Hold, Some("50M")));
    assert_eq!(
        restored(fixture.plan(&ours)),
        (Some("50M".into()), Cause::Command)
    );
}

#[test]
fn a_node_may_have_another_limit() {
    let there = pod(json!({}), json!({"nodeName": "slow"}));
    assert_eq!(limit(enforcing(115e6).plan(&there)), "20M");
    let elsewhere = pod(json!({}), json!({"nodeName": "fast"}));
    assert_eq!(limit(enforcing(115e6).plan(&elsewhere)), "115M");
}

#[test]
fn critical_host_network_and_ignored_pods_are_never_limited() {
    let fixture = enforcing(2e7);
    let owner = json!([{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "robot-factory-deployment", "uid": "o", "controller": true}]);
    for (pod, why) in [
        (
            pod(json!({"labels": {"priority": "critical"}}), json!({})),
            Refusal::Critical,
        ),
        (
            pod(json!({"ownerReferences": owner}), json!({})),
            Refusal::Critical,
        ),
        (
            pod(json!({"name": "robot-factory"}), json!({})),
            Refusal::Critical,
        ),
        (
            pod(
                json!({"labels": {"priority": "best-effort", "app": "robot-factory"}}),
                json!({}),
            ),
            Refusal::Critical,
        ),
        (
            pod(json!({}), json!({"hostNetwork": true})),
            Refusal::HostNetwork,
        ),
        (
            pod(json!({"annotations": {IGNORE: "true"}}), json!({})),
            Refusal::Ignored,
        ),
    ] {
        assert_eq!(fixture.plan(&pod), Plan::Refuse(why), "{pod:?}");
    }
}

#[test]
fn a_pod_that_became_critical_gets_its_own_value_back_and_an_ignored_one_keeps_ours() {
    let record = record(StaleAction::Hold, Some("50M")).to_json();
    let annotations = json!({EGRESS: "20M", RECORD: record, IGNORE: "x"});
    let ignored = pod(json!({"annotations": annotations}), json!({}));
    assert_eq!(
        enforcing(3e7).plan(&ignored),
        Plan::Refuse(Refusal::Ignored)
    );
    let annotations = json!({EGRESS: "20M", RECORD: record});
    let critical = pod(
        json!({"labels": {"priority": "critical"}, "annotations": annotations}),
        json!({}),
    );
    assert_eq!(
        restored(enforcing(3e7).plan(&critical)),
        (Some("50M".into()), Cause::PolicyEnded)
    );
}

#[test]
fn pods_outside_namespace_or_selector_and_ended_ones_are_left() {
    let fixture = enforcing(2e7);
    assert_eq!(
        fixture.plan(&pod(json!({"namespace": "other"}), json!({}))),
        Plan::Leave
    );
    assert_eq!(
        fixture.plan(&pod(json!({"labels": {"priority": "normal"}}), json!({}))),
        Plan::Leave
    );
    assert_eq!(
        fixture.plan(&pod(
            json!({"deletionTimestamp": "2026-01-01T00:00:00Z"}),
            json!({})
        )),
        Plan::Leave
    );
}

#[test]
fn observe_off_and_rollout_write_nothing() {
    for spec in [
        json!({"mode": "Observe"}),
        json!({"mode": "Off"}),
        json!({"actuation": "Rollout"}),
    ] {
        let fixture = Fixture::new(spec).commanding("factory_p", Wanted::Limit(2e7));
        assert_eq!(fixture.plan(&plain()), Plan::Leave);
        let foreign = pod(json!({"annotations": {EGRESS: "50M"}}), json!({}));
        assert_eq!(
            fixture.plan(&foreign),
            Plan::Leave,
            "and what others set stays"
        );
    }
}

#[test]
fn leaving_enforce_deletion_release_and_a_lost_class_or_label_restore_what_was_found() {
    let ours = limited("20M", &record(StaleAction::Hold, Some("50M")));
    let back = |cause| (Some("50M".to_owned()), cause);
    let observe = Fixture::new(json!({"mode": "Observe"}));
    assert_eq!(restored(observe.plan(&ours)), back(Cause::PolicyEnded));
    let mut deleted = enforcing(2e7);
    deleted.policies.delete(&token("factory_p"));
    assert_eq!(restored(deleted.plan(&ours)), back(Cause::PolicyEnded));
    let mut released = enforcing(2e7);
    released.policies.set_released(&token("factory_p"), true);
    assert_eq!(restored(released.plan(&ours)), back(Cause::Released));
    let lost = json!({"bestEffort": [{"class": "other", "selector": {"matchLabels": {"x": "y"}}}]});
    assert_eq!(
        restored(Fixture::new(lost).plan(&ours)),
        back(Cause::PolicyEnded)
    );
    let mut relabelled = ours.clone();
    relabelled.labels.clear();
    assert_eq!(
        restored(enforcing(2e7).plan(&relabelled)),
        back(Cause::PolicyEnded)
    );
    let nothing_found = limited("20M", &record(StaleAction::Hold, None));
    assert_eq!(
        restored(observe.plan(&nothing_found)),
        (None, Cause::PolicyEnded)
    );
}

#[test]
fn a_policy_that_is_merely_unknown_restores_nothing() {
    let ours = limited("20M", &record(StaleAction::Hold, Some("50M")));
    let mut fixture = enforcing(2e7);
    fixture.policies = PolicySet::new("laneguard");
    assert_eq!(fixture.plan(&ours), Plan::Await(None), "nothing read yet");
    fixture.policies.policies_synced();
    fixture.policies.overrides_synced();
    assert_eq!(
        fixture.plan(&ours),
        Plan::Await(None),
        "the bucket was lost"
    );
}

#[test]
fn without_a_command_the_records_on_stale_decides_when_its_time_has_come() {
    let fixture = Fixture::new(json!({}));
    let soon = Duration::from_secs(14);
    let late = Duration::from_secs(15);
    let due = Some(fixture.start + late);
    let protect = limited("80M", &record(StaleAction::Protect, Some("50M")));
    assert_eq!(fixture.plan_at(&protect, soon), Plan::Await(due));
    let Plan::Set(set) = fixture.plan_at(&protect, late) else {
        panic!()
    };
    assert_eq!((set.limit.to_string().as_str(), set.stale), ("10M", true));
    assert_eq!(set.record.found.as_deref(), Some("50M"));
    let release = limited("80M", &record(StaleAction::Release, Some("50M")));
    assert_eq!(fixture.plan_at(&release, soon), Plan::Await(due));
    assert_eq!(
        restored(fixture.plan_at(&release, late)),
        (Some("50M".into()), Cause::Expired)
    );
    let hold = limited("80M", &record(StaleAction::Hold, None));
    assert_eq!(
        fixture.plan_at(&hold, Duration::from_secs(3600)),
        Plan::Await(None)
    );
}

#[test]
fn the_same_without_any_policy_as_when_only_the_api_server_is_there() {
    let mut fixture = Fixture::new(json!({}));
    fixture.policies = PolicySet::new("laneguard");
    let protect = limited("80M", &record(StaleAction::Protect, None));
    assert_eq!(
        limit(fixture.plan_at(&protect, Duration::from_secs(15))),
        "10M"
    );
}

#[test]
fn an_expired_command_holds_protects_or_releases() {
    let expired = |on_stale| {
        let mut fixture = Fixture::new(json!({}));
        let mut command = command("factory_p", Wanted::Limit(8e7));
        command.on_stale = on_stale;
        fixture
            .commands
            .accept(command, Duration::ZERO, fixture.start);
        fixture
            .commands
            .expire(fixture.start + Duration::from_secs(15));
        fixture
    };
    assert_eq!(
        limit(expired(StaleAction::Hold).plan(&plain())),
        "80M",
        "new pods get the limit that is held"
    );
    assert_eq!(limit(expired(StaleAction::Protect).plan(&plain())), "10M");
    let ours = limited("80M", &record(StaleAction::Release, None));
    assert_eq!(
        restored(expired(StaleAction::Release).plan(&ours)),
        (None, Cause::Expired)
    );
    assert_eq!(expired(StaleAction::Release).plan(&plain()), Plan::Leave);
}

#[test]
fn a_pod_matched_twice_gets_the_lowest_limit_and_changes_owner_only_for_a_lower_one() {
    let mut fixture = enforcing(4e7);
    fixture
        .policies
        .put(token("factory_q"), entry("factory", "q", json!({})));
    fixture.commands.accept(
        command("factory_q", Wanted::Limit(3e7)),
        Duration::ZERO,
        fixture.start,
    );
    let Plan::Set(set) = fixture.plan(&plain()) else {
        panic!()
    };
    assert_eq!(
        (set.limit.to_string().as_str(), set.record.policy.as_str()),
        ("30M", "factory_q")
    );
    let mut equal = Fixture::new(json!({})).commanding("factory_p", Wanted::Limit(4e7));
    equal
        .policies
        .put(token("factory_a"), entry("factory", "a", json!({})));
    equal.commands.accept(
        command("factory_a", Wanted::Limit(4e7)),
        Duration::ZERO,
        equal.start,
    );
    assert_eq!(
        equal.plan(&limited("40M", &record(StaleAction::Hold, None))),
        Plan::Leave
    );
}

#[test]
fn a_limit_whose_command_is_not_known_yet_is_not_raised_by_another_policy() {
    let mut fixture = Fixture::new(json!({}));
    fixture
        .policies
        .put(token("factory_q"), entry("factory", "q", json!({})));
    fixture.commands.accept(
        command("factory_q", Wanted::Limit(9e7)),
        Duration::ZERO,
        fixture.start,
    );
    let ours = limited("20M", &record(StaleAction::Hold, None));
    assert_eq!(fixture.plan(&ours), Plan::Await(None));
}

#[test]
fn an_unreadable_record_counts_as_ours_with_nothing_found() {
    let garbled = pod(
        json!({"annotations": {EGRESS: "20M", RECORD: "{garbage"}}),
        json!({}),
    );
    let Plan::Set(set) = enforcing(3e7).plan(&garbled) else {
        panic!()
    };
    assert_eq!(set.record.found, None);
    assert_eq!(
        restored(Fixture::new(json!({"mode": "Off"})).plan(&garbled)),
        (None, Cause::PolicyEnded)
    );
}

#[test]
fn until_the_first_command_a_pod_with_an_unreadable_record_or_a_renamed_class_keeps_its_limit() {
    let garbled = pod(
        json!({"annotations": {EGRESS: "20M", RECORD: "{garbage"}}),
        json!({}),
    );
    assert_eq!(
        Fixture::new(json!({})).plan(&garbled),
        Plan::Await(None),
        "an enforcing policy selects it"
    );
    let elsewhere = pod(
        json!({"namespace": "other", "annotations": {EGRESS: "20M", RECORD: "{garbage"}}),
        json!({}),
    );
    assert_eq!(
        restored(Fixture::new(json!({})).plan(&elsewhere)),
        (None, Cause::PolicyEnded)
    );
    let ours = limited("20M", &record(StaleAction::Hold, Some("50M")));
    let renamed = json!({"bestEffort": [{"class": "other", "selector": {"matchLabels": {"priority": "best-effort"}}}]});
    let mut fixture = Fixture::new(renamed);
    assert_eq!(fixture.plan(&ours), Plan::Await(None));
    let mut first = command("factory_p", Wanted::Limit(3e7));
    first.slot.class = token("other");
    fixture
        .commands
        .accept(first, Duration::ZERO, fixture.start);
    let Plan::Set(set) = fixture.plan(&ours) else {
        panic!()
    };
    assert_eq!(
        (set.record.class.as_str(), set.record.found.as_deref()),
        ("other", Some("50M"))
    );
}

#[test]
fn the_minimum_after_a_restart_is_the_policys_where_it_is_known() {
    let higher = json!({"bestEffort": [{"class": "bulk", "selector": {"matchLabels": {"priority": "best-effort"}},
        "bandwidth": {"min": "30M", "max": "60M"}}]});
    let ours = limited("80M", &record(StaleAction::Protect, None));
    let Plan::Set(set) = Fixture::new(higher).plan_at(&ours, Duration::from_secs(15)) else {
        panic!()
    };
    assert_eq!(set.limit.to_string(), "30M");
    assert_eq!(set.record.min, Bandwidth::from_bps(3e7).unwrap());
}

#[test]
fn a_limited_pod_that_is_told_to_be_ignored_keeps_limit_and_record_whatever_follows() {
    let record = record(StaleAction::Release, Some("50M")).to_json();
    let ignored = pod(
        json!({"annotations": {EGRESS: "20M", RECORD: record, IGNORE: ""}}),
        json!({}),
    );
    let mut deleted = enforcing(3e7);
    deleted.policies.delete(&token("factory_p"));
    for fixture in [enforcing(3e7), Fixture::new(json!({})), deleted] {
        let plan = fixture.plan_at(&ignored, Duration::from_secs(60));
        assert_eq!(plan, Plan::Refuse(Refusal::Ignored));
    }
}

#[test]
fn a_value_too_long_to_restore_is_left_alone() {
    let long = pod(json!({"annotations": {EGRESS: "9".repeat(300)}}), json!({}));
    assert_eq!(
        enforcing(3e7).plan(&long),
        Plan::Refuse(Refusal::FoundTooLong)
    );
}

#[test]
fn a_namespace_whose_labels_are_unknown_neither_limits_nor_restores() {
    let selector = json!({"namespaceSelector": {"matchLabels": {"team": "a"}}});
    let mut fixture = Fixture::new(json!({}));
    fixture.policies = PolicySet::new("laneguard");
    fixture
        .policies
        .put(token("laneguard_p"), entry("laneguard", "p", selector));
    fixture.policies.policies_synced();
    fixture.policies.overrides_synced();
    let mut theirs = command("laneguard_p", Wanted::Limit(3e7));
    theirs.nodes.clear();
    fixture
        .commands
        .accept(theirs, Duration::ZERO, fixture.start);
    assert_eq!(fixture.plan(&plain()), Plan::Leave);
    let mut record = record(StaleAction::Hold, None);
    record.policy = token("laneguard_p");
    assert_eq!(fixture.plan(&limited("20M", &record)), Plan::Await(None));
    let labels = |team: &str| {
        Some(
            [(
                "factory".to_owned(),
                BTreeMap::from([("team".to_owned(), team.to_owned())]),
            )]
            .into(),
        )
    };
    fixture.namespaces = labels("a");
    assert_eq!(limit(fixture.plan(&plain())), "30M");
    fixture.namespaces = labels("b");
    assert_eq!(fixture.plan(&plain()), Plan::Leave);
}

/// Any pod: labels, owner, network, annotations, phase.
fn any_pod() -> impl Strategy<Value = Pod> {
    let labels = prop::sample::select(vec!["best-effort", "critical", "normal"]);
    let owner = prop::sample::select(vec!["upload", "robot-factory", "robot-factory-deployment"]);
    let egress = prop::option::of(prop::sample::select(vec![
        "50M", "1", "garbage", "-5", "20M", "",
    ]));
    let stale = prop::sample::select(vec![
        StaleAction::Hold,
        StaleAction::Protect,
        StaleAction::Release,
    ]);
    let ownership = prop_oneof![
        Just(None),
        Just(Some("{broken".to_owned())),
        (stale, prop::option::of(Just("50M")))
            .prop_map(|(stale, found)| Some(record(stale, found).to_json())),
    ];
    let namespace = prop::sample::select(vec!["factory", "other"]);
    (labels, owner, egress, ownership, namespace, any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
        |(label, owner, egress, record, namespace, host_network, ignored, ended)| {
            let mut annotations = serde_json::Map::new();
            annotations.extend(egress.map(|v| (EGRESS.to_owned(), v.into())));
            annotations.extend(record.map(|v| (RECORD.to_owned(), v.into())));
            annotations.extend(ignored.then(|| (IGNORE.to_owned(), "".into())));
            let mut metadata = json!({"namespace": namespace, "labels": {"priority": label}, "annotations": annotations,
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": owner, "uid": "o", "controller": true}]});
            if ended {
                metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
            }
            pod(metadata, json!({"hostNetwork": host_network}))
        },
    )
}

proptest! {
    /// Invariants 1, 2, 8 and 10 for any pod, command, mode and moment.
    #[test]
    fn whatever_comes_the_guard_rails_hold(
        pod in any_pod(), bps in prop_oneof![any::<f64>(), 0.0..2e9_f64], restore: bool,
        mode in prop::sample::select(vec!["Enforce", "Observe", "Off"]),
        min in 1_u64..200, span in prop::option::of(0_u64..1000), expired: bool,
        on_stale in prop::sample::select(vec![StaleAction::Hold, StaleAction::Protect, StaleAction::Release]),
        seconds in 0_u64..60,
    ) {
        let mut bandwidth = json!({"min": format!("{min}M")});
        if let Some(span) = span {
            bandwidth["max"] = format!("{}M", min + span).into();
        }
        let classes = json!([{"class": "bulk", "selector": {"matchLabels": {"priority": "best-effort"}}, "bandwidth": bandwidth}]);
        let mut fixture = Fixture::new(json!({"mode": mode, "bestEffort": classes}));
        let mut command = command("factory_p", if restore { Wanted::Restore } else { Wanted::Limit(bps) });
        command.on_stale = on_stale;
        fixture.commands.accept(command, Duration::ZERO, fixture.start);
        if expired {
            fixture.commands.expire(fixture.start + Duration::from_secs(15));
        }
        let critical = pod.labels["priority"] == "critical" || pod.workloads.iter().any(|w| &**w == "robot-factory");
        let untouchable = pod.ended || pod.ignored || pod.host_network;
        match fixture.plan_at(&pod, Duration::from_secs(seconds)) {
            Plan::Set(set) => {
                let written = effective_bps(&set.limit.to_string()).unwrap();
                let min = (min * 1_000_000) as f64;
                let max = span.map_or(1e9_f64.max(min), |s| min + (s * 1_000_000) as f64);
                prop_assert!(written >= min.max(1e6) && written <= max, "{written} of {min} to {max}");
                prop_assert!(!critical && !untouchable);
                prop_assert_eq!(mode, "Enforce");
                prop_assert_eq!(&*pod.key.namespace, "factory");
                prop_assert_eq!(&pod.labels["priority"], "best-effort");
                let found = match &pod.ownership {
                    Ownership::Foreign => pod.egress.as_deref().map(str::to_owned),
                    Ownership::Ours(record) => record.found.clone(),
                    Ownership::Unreadable => None,
                };
                prop_assert_eq!(set.record.found, found);
            }
            Plan::Restore(restore) => {
                prop_assert!(!untouchable);
                prop_assert_ne!(&pod.ownership, &Ownership::Foreign, "only what is ours is taken back");
                prop_assert_eq!(restore.found, pod.record().and_then(|r| r.found.clone()));
            }
            Plan::Leave | Plan::Await(_) | Plan::Refuse(_) => {}
        }
    }

    /// A plan that was carried out leaves nothing to do.
    #[test]
    fn carrying_a_plan_out_settles_the_pod(pod in any_pod(), bps in 1e6..2e9_f64) {
        let fixture = enforcing(bps);
        let mut after = pod.clone();
        match fixture.plan(&pod) {
            Plan::Set(set) => {
                after.egress = Some(set.limit.to_string().into());
                after.ownership = Ownership::Ours(Box::new(set.record.clone()));
            }
            Plan::Restore(restore) => {
                after.egress = restore.found.as_deref().map(Into::into);
                after.ownership = Ownership::Foreign;
            }
            _ => return Ok(()),
        }
        prop_assert!(matches!(fixture.plan(&after), Plan::Leave | Plan::Refuse(_)), "{:?}", fixture.plan(&after));
    }
}
