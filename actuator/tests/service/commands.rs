//! Commands, policies and the environment: what reaches pods and what does not.

use std::time::Duration;

use laneguard_lab_kube::real;
use laneguard_proto::duration::to_wire;
use laneguard_proto::overrides::Override;
use laneguard_proto::placement::{self, Placement};
use laneguard_proto::policy::Entry;
use laneguard_proto::storage;
use laneguard_proto::v1::Command;
use laneguard_proto::v1::command::OnStale;
use laneguard_tests::wait::until;
use serde_json::json;

use crate::world::{EGRESS, NAMESPACE, POLICY, RECORD, World, command, policy_key};

/// A command limits, a later pod too, a renewal writes nothing, and each way of ending restores.
async fn a_life(world: World) {
    world.pod("a", json!({}), json!({})).await;
    world
        .pod("b", json!({"annotations": {EGRESS: "50M"}}), json!({}))
        .await;
    world
        .pod(
            "critical",
            json!({"labels": {"priority": "critical"}}),
            json!({}),
        )
        .await;
    world
        .pod(
            "both",
            json!({"labels": {"priority": "best-effort", "app": "robot-factory"}}),
            json!({}),
        )
        .await;
    world
        .pod("host", json!({}), json!({"hostNetwork": true}))
        .await;
    world
        .pod(
            "hands-off",
            json!({"annotations": {"laneguard.dev/ignore": "true"}}),
            json!({}),
        )
        .await;
    world.policy(json!({})).await;
    let actuator = world.started(&[]).await;

    world.command(1, 1, 80.0).await;
    world.limited("a", Some("80M")).await;
    world.limited("b", Some("80M")).await;
    let outcome = world.outcome("the outcome", |o| o.sequence == 1).await;
    assert_eq!(
        (outcome.matched, outcome.changed, outcome.failed),
        (2, 2, 0)
    );
    let reasons: Vec<_> = outcome
        .not_covered
        .iter()
        .map(|n| (n.pod.as_str(), n.reason.as_str()))
        .collect();
    assert_eq!(
        reasons,
        [
            ("factory/both", "critical"),
            ("factory/hands-off", "ignored"),
            ("factory/host", "host_network")
        ]
    );
    for name in ["critical", "both", "host", "hands-off"] {
        assert_eq!(world.annotation(name, EGRESS).await, None, "{name}");
    }

    world.pod("late", json!({}), json!({})).await;
    world.limited("late", Some("80M")).await;

    let before = world.versions().await;
    world
        .send(Command {
            renewal: 1,
            ..command(80.0)
        })
        .await;
    actuator
        .counted("laneguard_actuator_commands_total{result=\"renewed\"}", 1.0)
        .await;
    assert_eq!(world.versions().await, before, "a renewal writes to no pod");

    // bounds are the actuator's own business
    world.command(1, 2, 1e-6).await;
    world.limited("a", Some("10M")).await;
    actuator
        .counted("laneguard_actuator_commands_clamped_total", 1.0)
        .await;
    world.annotate("a", json!({EGRESS: "900M"})).await;
    world.limited("a", Some("10M")).await;

    let placement = world.shell.bus.bucket(storage::STATE);
    let placed = async || {
        let value = placement
            .get(&placement::key("default", POLICY))
            .await
            .ok()??;
        let placement: Placement = serde_json::from_slice(&value.bytes).ok()?;
        Some((
            placement.classes[0].pods.len(),
            placement.classes[0].found_bps,
        ))
    };
    until("placement", placed, |p| *p == Some((3, Some(1e7)))).await;

    let overrides = world.shell.bus.bucket(storage::OVERRIDES);
    let release = Override::Release {
        by: "test".into(),
        since_ms: 0,
    };
    overrides
        .put(&policy_key(), serde_json::to_vec(&release).unwrap())
        .await
        .unwrap();
    world.limited("a", None).await;
    world.limited("b", Some("50M")).await;
    world
        .outcome("the release", |o| o.trigger == "RELEASED" && o.changed == 3)
        .await;
    overrides.delete(&policy_key()).await.unwrap();
    until(
        "resumption",
        async || actuator.log(),
        |log| log.contains("released=false"),
    )
    .await;
    world.command(1, 3, 70.0).await;
    world.limited("a", Some("70M")).await;

    world.policy(json!({"mode": "Observe"})).await;
    world.limited("b", Some("50M")).await;
    world.limited("a", None).await;
    assert_eq!(world.annotation("a", RECORD).await, None);
    world.command(1, 4, 60.0).await;
    world
        .outcome("the refusal", |o| {
            o.refused && o.refused_reason == "not_enforcing"
        })
        .await;
    assert_eq!(world.annotation("a", EGRESS).await, None);

    world.policy(json!({})).await;
    world.limited("a", Some("60M")).await;
    world
        .shell
        .bus
        .bucket(storage::POLICIES)
        .delete(&policy_key())
        .await
        .unwrap();
    world.limited("a", None).await;
    world.limited("b", Some("50M")).await;
    world
        .outcome("the end", |o| o.trigger == "POLICY_ENDED")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policys_life_from_command_to_restore() {
    a_life(World::new().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_against_a_real_api_server_with_only_the_rights_it_names() {
    let Some(assets) = real::assets() else {
        eprintln!("KUBEBUILDER_ASSETS names no API server: the stand-in has to do");
        return;
    };
    a_life(World::real(&assets).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn old_forged_and_garbled_commands_change_nothing_and_are_counted() {
    let world = World::new().await;
    world.pod("a", json!({}), json!({})).await;
    world.policy(json!({})).await;
    let actuator = world.started(&[]).await;
    world.command(5, 5, 80.0).await;
    world.limited("a", Some("80M")).await;

    world.command(4, 9, 900.0).await;
    world
        .outcome("refusal of an older term", |o| {
            o.refused_reason == "older_term" && o.highest_term == 5
        })
        .await;
    world.command(5, 4, 900.0).await;
    world
        .outcome("refusal of an older sequence", |o| {
            o.refused_reason == "older_sequence"
        })
        .await;
    for (class, policy, reason) in [
        ("nothing", POLICY, "unknown_class"),
        ("bulk", "factory_nobody", "unknown_policy"),
    ] {
        world
            .send(Command {
                class: class.into(),
                policy: policy.into(),
                ..command(900.0)
            })
            .await;
        actuator
            .counted(
                &format!("laneguard_actuator_commands_total{{result=\"{reason}\"}}"),
                1.0,
            )
            .await;
    }
    let nats = async_nats::connect(world.nats_url()).await.unwrap();
    let subject = laneguard_proto::subject::command("default", POLICY, "bulk");
    nats.publish(subject.clone(), "garbage".into())
        .await
        .unwrap();
    until(
        "a line about the garbage",
        async || actuator.log(),
        |log| log.contains("message refused"),
    )
    .await;
    // a message about another class than its subject
    let forged = Command {
        class: "other".into(),
        term: 9,
        ..command(900.0)
    };
    let bytes = laneguard_proto::codec::encode(&forged, Default::default()).unwrap();
    nats.publish(subject, bytes.into()).await.unwrap();
    until(
        "a line about the forgery",
        async || actuator.log(),
        |log| log.contains("another class than its subject"),
    )
    .await;
    assert_eq!(world.annotation("a", EGRESS).await.as_deref(), Some("80M"));

    // after a restart the pod's record still refuses what is older
    drop(actuator);
    let actuator = world.started(&[]).await;
    world.command(4, 10, 900.0).await;
    actuator
        .counted(
            "laneguard_actuator_commands_total{result=\"older_term\"}",
            1.0,
        )
        .await;
    assert_eq!(world.annotation("a", EGRESS).await.as_deref(), Some("80M"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_nobody_renews_expires_into_the_minimum() {
    let world = World::new().await;
    world.pod("a", json!({}), json!({})).await;
    world
        .policy(json!({"onStale": {"action": "Protect", "after": "15s"}}))
        .await;
    let _actuator = world.started(&[]).await;
    let mut brief = command(80.0);
    brief.valid_for = Some(to_wire(Duration::from_secs(2)));
    // the policy's word counts
    brief.set_on_stale(OnStale::Release);
    world.send(brief).await;
    world.limited("a", Some("80M")).await;
    world.limited("a", Some("10M")).await;
    world
        .outcome("expiry", |o| o.trigger == "EXPIRED" && o.changed == 1)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_environments_variables_become_the_default_policy_and_limits() {
    let world = World::new().await;
    world.pod("a", json!({}), json!({})).await;
    let actuator = world
        .started(&[("TARGET_JITTER_MS", "4"), ("MIN_BANDWIDTH_MBPS", "20")])
        .await;
    let bucket = world.shell.bus.bucket(storage::POLICIES);
    let stored = async || {
        let value = bucket.get("default.default").await.ok()??;
        Entry::from_json(&value.bytes).ok()
    };
    let entry = until("the policy", stored, Option::is_some).await.unwrap();
    assert_eq!(entry.spec.best_effort[0].bandwidth.min_bps(), 2e7);
    let everywhere = Command {
        policy: "default".into(),
        class: "best-effort".into(),
        ..command(1.0)
    };
    world.send(everywhere).await;
    world.limited("a", Some("20M")).await;

    // other variables at the next start: the policy follows
    drop(actuator);
    let _actuator = world
        .started(&[("TARGET_JITTER_MS", "4"), ("MIN_BANDWIDTH_MBPS", "30")])
        .await;
    until("the new policy", stored, |e| {
        e.as_ref().is_some_and(|e| e.generation == 2)
    })
    .await;
    world.limited("a", Some("30M")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_setting_ends_it_with_64_and_one_line() {
    let world = World::new().await;
    for (name, value) in [
        ("EWMA_ALPHA", "2"),
        ("CRITICAL_SELECTOR", "a in (b"),
        ("KUBECONFIG", "/nowhere/at/all"),
        ("CONTROL_LAW", "Magic"),
    ] {
        let mut actuator = world.start(&[(name, value)]);
        let status = actuator.child.wait().await.unwrap();
        assert_eq!(status.code(), Some(64), "{name}");
        let log = async || actuator.log();
        let log = until("a line", log, |log| !log.is_empty()).await;
        let named = log.contains(name) || log.contains(&name.to_lowercase().replace('_', "-"));
        assert!(
            named && log.lines().filter(|l| l.contains("error")).count() == 1,
            "{log}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_selector_is_followed_as_labels_change() {
    let world = World::new().await;
    world.pod("a", json!({}), json!({})).await;
    let spec = json!({"mode": "Enforce", "namespaceSelector": {"matchLabels": {"team": "a"}},
        "critical": [{"workload": "robot", "targets": [{"metric": "P95", "below": "10ms"}]}],
        "bestEffort": [{"class": "bulk", "selector": {"matchLabels": {"priority": "best-effort"}}}]});
    let entry = json!({"origin": "lanectl", "namespace": "laneguard", "name": "wide", "generation": 1, "spec": spec});
    let bucket = world.shell.bus.bucket(storage::POLICIES);
    bucket
        .put("default.laneguard_wide", entry.to_string().into_bytes())
        .await
        .unwrap();
    let namespaces: kube::Api<k8s_openapi::api::core::v1::Namespace> =
        kube::Api::all(world.client.clone());
    let label = async |team: &str| {
        let patch = kube::api::Patch::Merge(json!({"metadata": {"labels": {"team": team}}}));
        namespaces
            .patch(NAMESPACE, &Default::default(), &patch)
            .await
            .unwrap();
    };
    label("b").await;
    let _actuator = world.started(&[("POLICY_NAMESPACE", "laneguard")]).await;
    world
        .send(Command {
            policy: "laneguard_wide".into(),
            ..command(80.0)
        })
        .await;
    label("a").await;
    world.limited("a", Some("80M")).await;
    label("b").await;
    world.limited("a", None).await;
}
