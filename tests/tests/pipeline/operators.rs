use std::process::Stdio;

use laneguard_proto::policy::{Entry, Origin};
use laneguard_proto::storage::POLICIES;
use laneguard_proto::v1::Decision;
use laneguard_tests::exporter::Condition;
use laneguard_tests::kubernetes::Where;
use laneguard_tests::run;
use laneguard_tests::wait::{soon, until};
use laneguard_tests::world::World;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::spec;

/// What was on the pods before us.
const FOUND: &str = "150M";

async fn world() -> World {
    let world = World::start(&Where::StandIn, &[]).await.unwrap();
    let found = json!({"kubernetes.io/egress-bandwidth": FOUND});
    let kubernetes = &world.kubernetes;
    kubernetes
        .deployment("bulk", 2, json!({}), found)
        .await
        .unwrap();
    world.telemetry.set("robot", Condition::Congested);
    world
}

/// The pods are as they were before us.
async fn given_back(world: &World, what: &str) {
    until(
        &format!("what was found, {what}"),
        async || world.kubernetes.pods("bulk").await,
        |pods| {
            pods.iter()
                .all(|pod| pod.limit.as_deref() == Some(FOUND) && pod.record.is_none())
        },
    )
    .await;
}

/// Waits for a decision made from now on that fits.
async fn decided(world: &World, what: &str, fits: impl Fn(&Decision) -> bool) -> Decision {
    let so_far = world.record.decisions().len();
    let found = until(
        what,
        async || {
            world
                .record
                .decisions()
                .into_iter()
                .skip(so_far)
                .find(&fits)
        },
        Option::is_some,
    );
    found.await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn observing_writes_nothing_and_whoever_stops_enforcing_gives_back_what_was_found() {
    let mut world = world().await;
    world.add_all().await.unwrap();
    let token = world.apply("floor", spec("Observe", "bulk")).await;
    // it sees what it would do
    let would = decided(&world, "a throttle", |d| d.action == "CONGESTION_THROTTLE").await;
    assert_eq!(would.mode, "Observe");
    let floor = |d: &Decision| d.limits.first().and_then(|l| l.after_bps) == Some(10e6);
    decided(&world, "the floor", floor).await;
    assert_eq!(world.record.commands(), [], "no command in Observe");
    let writes = world
        .metric("actuator", "laneguard_actuator_writes_total", &[])
        .await;
    assert_eq!(writes, 0.0, "Observe never writes");
    given_back(&world, "while observing").await;

    // enforcing, without a restart
    world.apply("floor", spec("Enforce", "bulk")).await;
    world.limited("bulk", Some("10M")).await;
    let record = world.kubernetes.pods("bulk").await[0]
        .record
        .clone()
        .unwrap();
    assert_eq!(
        (&record["found"], &record["policy"]),
        (&json!(FOUND), &json!(token))
    );

    // the hand brake; also for pods that come later
    let policy = format!("{}/floor", world.kubernetes.namespace);
    world.lanectl(&["release", &policy]).await.output();
    given_back(&world, "after a release").await;
    let held = decided(&world, "a decision that says so", |d| {
        d.reason.contains("eleased")
    })
    .await;
    assert_eq!(held.action, "HOLD");
    world.kubernetes.scale_deployment("bulk", 3).await.unwrap();
    until(
        "three pods",
        async || world.kubernetes.pods("bulk").await.len(),
        |n| *n == 3,
    )
    .await;
    decided(&world, "another decision", |d| d.reason.contains("eleased")).await;
    given_back(&world, "while released").await;
    // a release outlives the actuator
    let actuator = world.replicas("actuator")[0].clone();
    world.remove(&actuator).await;
    world.add("actuator").await.unwrap();
    world
        .counted("actuator", "laneguard_actuator_leader", &[], 1.0)
        .await;
    given_back(&world, "after the actuator was replaced").await;
    world.lanectl(&["resume", &policy]).await.output();
    world.limited("bulk", Some("10M")).await;

    // every other way to stop
    for mode in ["Off", "Observe"] {
        world.apply("floor", spec(mode, "bulk")).await;
        given_back(&world, mode).await;
        world.apply("floor", spec("Enforce", "bulk")).await;
        world.limited("bulk", Some("10M")).await;
    }
    // a class that loses its pods
    world
        .apply("floor", spec("Enforce", "something-else"))
        .await;
    given_back(&world, "when the class selects others").await;
    world.apply("floor", spec("Enforce", "bulk")).await;
    world.limited("bulk", Some("10M")).await;

    // somebody else's change of a limit of ours is undone, and a pod that says hands off is let go
    let pods = world.kubernetes.pods("bulk").await;
    let stranger = json!({"kubernetes.io/egress-bandwidth": "999M"});
    world
        .kubernetes
        .annotate(&pods[0].name, stranger)
        .await
        .unwrap();
    world.limited("bulk", Some("10M")).await;
    world
        .counted("actuator", "laneguard_actuator_drift_total", &[], 1.0)
        .await;

    // deleted while no actuator runs: the marker tells the next one
    let actuator = world.replicas("actuator")[0].clone();
    world.remove(&actuator).await;
    world.lanectl(&["policy", "delete", &policy]).await.output();
    world.limited("bulk", Some("10M")).await;
    world.add("actuator").await.unwrap();
    given_back(&world, "after deletion").await;
    assert!(world.entry(&token).await.is_none());
    world.all_run();
}

#[tokio::test(flavor = "multi_thread")]
async fn lanectl_shows_what_there_is_follows_decisions_and_names_what_is_wrong() {
    let mut world = world().await;
    world.add("actuator").await.unwrap();
    let namespace = world.kubernetes.namespace.clone();
    let policy = format!("{namespace}/floor");

    // nothing yet
    for arguments in [
        vec!["policy", "get", &policy],
        vec!["policy", "delete", &policy],
        vec!["release", &policy],
        vec!["resume", &policy],
    ] {
        let refused = world.lanectl(&arguments).await;
        assert!(
            refused.failure(1).contains(&policy),
            "{arguments:?}: {refused:?}"
        );
    }

    // a policy that cannot be: the field is named
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, object: &Value| {
        let file = folder.path().join(name);
        std::fs::write(&file, object.to_string()).unwrap();
        file.display().to_string()
    };
    let mut wrong = spec("Observe", "bulk");
    wrong["onStale"]["after"] = json!("1s");
    let file = write("wrong.yaml", &world.policy_object("floor", &wrong));
    let refused = world.lanectl(&["policy", "apply", "-f", &file]).await;
    assert!(refused.stderr.contains("spec.onStale.after"), "{refused:?}");
    assert!(!refused.status.success());
    let mut wrong = spec("Observe", "bulk");
    wrong["modes"] = json!("Enforce");
    let file = write("typo.yaml", &world.policy_object("floor", &wrong));
    let refused = world.lanectl(&["policy", "apply", "-f", &file]).await;
    assert!(
        !refused.status.success() && refused.stderr.contains("modes"),
        "a typo is named: {refused:?}"
    );
    let refused = world
        .lanectl(&["policy", "apply", "-f", "/nonexistent/p.yaml"])
        .await;
    assert!(
        refused.stderr.contains("/nonexistent/p.yaml"),
        "{refused:?}"
    );
    assert!(world.entry(&world.token("floor")).await.is_none());

    // apply, again, changed
    let object = world.policy_object("floor", &spec("Observe", "bulk"));
    let file = write("floor.yaml", &object);
    let applied = world.lanectl(&["policy", "apply", "-f", &file]).await;
    assert!(applied.output().contains("created"), "{applied:?}");
    let applied = world.lanectl(&["policy", "apply", "-f", &file]).await;
    assert!(applied.output().contains("unchanged"), "{applied:?}");
    world.apply("floor", spec("Enforce", "bulk")).await;
    let entry = world.entry(&world.token("floor")).await.unwrap();
    assert_eq!((entry.generation, entry.origin), (2, Origin::Lanectl));

    // what get prints, apply takes
    let got = world.lanectl(&["policy", "get", &policy]).await;
    let again = folder.path().join("again.yaml");
    std::fs::write(&again, got.output()).unwrap();
    let applied = world
        .lanectl(&["policy", "apply", "-f", again.to_str().unwrap()])
        .await;
    assert!(applied.output().contains("unchanged"), "{applied:?}");
    let got = world
        .lanectl(&["policy", "get", &policy, "-o", "json"])
        .await;
    let got: Value = serde_json::from_str(got.output()).unwrap();
    assert_eq!(
        (&got["kind"], &got["spec"]["mode"]),
        (&json!("QosPolicy"), &json!("Enforce"))
    );
    let list = world.lanectl(&["policy", "list"]).await;
    assert!(
        list.output().contains("floor") && list.output().contains(&namespace),
        "{list:?}"
    );

    // somebody else's
    let mirrored = Entry {
        origin: Origin::Kubernetes,
        name: "mirrored".into(),
        ..entry
    };
    let bucket = world.bus().bucket(POLICIES);
    let bytes = serde_json::to_vec(&mirrored).unwrap();
    bucket
        .put(&format!("default.{}", world.token("mirrored")), bytes)
        .await
        .unwrap();
    let file = write(
        "mirrored.yaml",
        &world.policy_object("mirrored", &spec("Off", "bulk")),
    );
    let name = format!("{namespace}/mirrored");
    for arguments in [
        vec!["policy", "apply", "-f", &file],
        vec!["policy", "delete", &name],
    ] {
        let refused = world.lanectl(&arguments).await;
        assert!(refused.failure(1).contains("Kubernetes"), "{refused:?}");
    }
    let kept = world.entry(&world.token("mirrored")).await.unwrap();
    assert_eq!(kept.spec.mode.as_str(), "Enforce");
    bucket
        .delete(&format!("default.{}", world.token("mirrored")))
        .await
        .unwrap();

    // the stream, as text and as JSON
    let url = world.nats_url();
    let environment = [("NATS_URL", url.as_str())];
    let watch = |output: &str| {
        let mut command = run::command(
            "lanectl",
            &environment,
            &["watch", &policy, "-o", output, "--since", "1h"],
        );
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        (child, lines)
    };
    let (_text, mut text) = watch("text");
    let (_json, mut json_lines) = watch("json");
    world.add("decider").await.unwrap();
    world.add("collector").await.unwrap();
    let line = soon("a line", async {
        loop {
            let line = text.next_line().await.unwrap().unwrap();
            if line.contains("CONGESTION_THROTTLE") {
                return line;
            }
        }
    })
    .await;
    assert!(
        line.contains(&policy) && line.contains("->") && line.contains("jitter"),
        "{line}"
    );
    let mut recorded = String::new();
    soon("three lines of JSON", async {
        for _ in 0..3 {
            let line = json_lines.next_line().await.unwrap().unwrap();
            let decision: Value = serde_json::from_str(&line).unwrap();
            assert_eq!(decision["policy"], json!(world.token("floor")));
            recorded.push_str(&line);
            recorded.push('\n');
        }
    })
    .await;

    // recorded decisions come out the same, and tampering shows
    let file = folder.path().join("recorded.jsonl");
    std::fs::write(&file, &recorded).unwrap();
    let file = file.to_str().unwrap();
    let verified = world.lanectl(&["verify", file]).await;
    assert!(
        verified.output().contains("3 identical, 0 different"),
        "{verified:?}"
    );
    let mut tampered: Value = serde_json::from_str(recorded.lines().last().unwrap()).unwrap();
    tampered["limits"][0]["afterBps"] = json!(190e6 + 1.0);
    std::fs::write(file, tampered.to_string()).unwrap();
    let verified = world.lanectl(&["verify", file]).await;
    assert!(
        verified.code() == Some(1) && verified.stdout.contains("limits"),
        "{verified:?}"
    );

    // no server
    let nobody = [("NATS_URL", "nats://127.0.0.1:9")];
    let refused = run::run("lanectl", &nobody, &["policy", "list"]).await;
    assert!(
        refused.failure(1).contains("nats://127.0.0.1:9"),
        "{refused:?}"
    );
}
