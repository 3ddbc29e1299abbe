use std::collections::BTreeSet;

use futures::StreamExt as _;
use laneguard_proto::v1::Decision;
use laneguard_tests::exporter::Condition;
use laneguard_tests::kubernetes::{View, Where};
use laneguard_tests::otlp::Sink;
use laneguard_tests::record::{check_commands, check_decisions, waited_for};
use laneguard_tests::wait::{soon, until};
use laneguard_tests::world::{World, mbps};
use serde_json::{Value, json};

/// The predecessor's variables, with a cooldown that fits a test.
const PREDECESSORS: &[(&str, &str)] = &[
    ("TARGET_JITTER_MS", "5"),
    ("TARGET_LATENCY_MS", "10"),
    ("MIN_BANDWIDTH_MBPS", "10"),
    ("MAX_BANDWIDTH_MBPS", "200"),
    ("EWMA_ALPHA", "0.7"),
    ("COOLDOWN_PERIOD_SEC", "1"),
    ("AGGRESSIVE_DECREASE_MBPS", "50"),
    ("INCREASE_STEP_MBPS", "15"),
];

/// As the predecessor's telemetry calls it.
const WORKLOAD: &str = "robot-factory-deployment";

fn best_effort(world: &World) -> Value {
    json!({"priority": "best-effort", "world": world.kubernetes.namespace})
}

/// Pods that a Deployment is scaled up by.
const LATER: i32 = 20;

/// The step that a decision took, Mbit/s.
fn step(decision: &Decision) -> f64 {
    let limit = &decision.limits[0];
    (limit.after_bps.unwrap() - limit.before_bps.unwrap()) / 1e6
}

fn uids(pods: &[View]) -> BTreeSet<String> {
    pods.iter().map(|pod| pod.uid.clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_predecessors_variables_alone_make_a_loop_that_throttles_raises_explains_itself_and_gives_back()
 {
    the_loop(Where::StandIn).await.unwrap();
}

pub(crate) async fn the_loop(place: Where) -> anyhow::Result<()> {
    let mut world = World::start(&place, PREDECESSORS).await?;
    let sink = Sink::start().await?;
    world.setting("OTEL_EXPORTER_OTLP_ENDPOINT", &sink.endpoint());
    world.setting("OTEL_BSP_SCHEDULE_DELAY", "500");
    world.setting("MESSAGE_ENCODING", "json");
    if matches!(place, Where::Real(_)) {
        // the environment's policy acts in all namespaces: here only this test's pods are its business
        let own = format!("priority=best-effort,world={}", world.kubernetes.namespace);
        world.setting("BEST_EFFORT_SELECTOR", &own);
    }

    // a plain client, as an operator's script would be: no JetStream, no schema
    let plain = async_nats::connect(world.nats_url()).await?;
    let mut script = plain.subscribe("laneguard.v1.decision.>").await?;

    let labels = best_effort(&world);
    let critical = json!({"priority": "critical"});
    world
        .kubernetes
        .deployment("robot-factory", 1, critical, json!({}))
        .await?;
    let found = json!({"kubernetes.io/egress-bandwidth": "200M"});
    world
        .kubernetes
        .deployment("telemetry-upload", 2, labels.clone(), found)
        .await?;
    world
        .kubernetes
        .stateful_set("erp-dashboard", 1, labels.clone(), json!({}))
        .await?;
    let unlabelled = json!({"priority": "none"});
    world
        .kubernetes
        .deployment("bystander", 1, unlabelled, json!({}))
        .await?;
    let pods_before = world.kubernetes.all_pods().await;
    world.telemetry.set(WORKLOAD, Condition::Healthy);
    world.add_all().await?;

    let entry = until(
        "the environment's policy",
        async || world.entry("default").await,
        Option::is_some,
    )
    .await;
    assert!(entry.unwrap().spec.mode.as_str() == "Enforce");

    // all is well and every pod is at the top: it stays there
    let healthy = |d: &Option<Decision>| d.as_ref().is_some_and(|d| !d.samples.is_empty());
    until(
        "a decision from samples",
        async || world.decision("default").await,
        healthy,
    )
    .await;
    for app in ["telemetry-upload", "erp-dashboard"] {
        world.limited(app, Some("200M")).await;
    }

    // congestion: steps of 50 down to the floor
    world.telemetry.set(WORKLOAD, Condition::Congested);
    for app in ["telemetry-upload", "erp-dashboard"] {
        world.limited(app, Some("10M")).await;
    }
    let cuts: Vec<Decision> = decisions(&world, "CONGESTION_THROTTLE");
    let (last, full) = cuts.split_last().expect("there were cuts");
    assert!(full.len() >= 3, "{full:?}");
    for cut in full.iter().filter(|cut| step(cut) != 0.0) {
        // the step that reaches the floor is shorter; at the floor there is none
        let at_floor = cut.limits[0].after_bps == Some(10e6);
        assert!(
            step(cut) == -50.0 || at_floor,
            "the documented step: {}",
            cut.reason
        );
    }
    assert_eq!(last.limits[0].after_bps, Some(10e6));
    for cut in cuts.iter().filter(|cut| step(cut) != 0.0) {
        assert!(
            cut.reason.contains("jitter")
                && cut.reason.contains("5 ms")
                && cut.reason.contains("Mbit/s"),
            "a decision explains itself with its numbers: {}",
            cut.reason
        );
    }

    // pods that appear later get the limit in force
    let seen = world.record.limits().len();
    world
        .kubernetes
        .scale_deployment("telemetry-upload", 2 + LATER)
        .await?;
    let scaled = until(
        "the later pods' limits",
        async || world.kubernetes.pods("telemetry-upload").await,
        |pods| {
            pods.len() == 2 + LATER as usize
                && pods.iter().all(|pod| pod.limit.as_deref() == Some("10M"))
        },
    )
    .await;
    let ours = |pod: &View| {
        pod.record
            .as_ref()
            .is_some_and(|record| record["policy"] == "default")
    };
    assert!(scaled.iter().all(ours));
    let waited = until(
        "the record of it",
        async || waited_for("10M", &world.record.limits(), seen),
        |waited| waited.len() == LATER as usize,
    )
    .await;
    println!(
        "{LATER} later pods had the limit in force after {:?} at the median, {:?} at most",
        waited[waited.len() / 2],
        waited[waited.len() - 1]
    );

    // recovery: steps of 15 up
    world.telemetry.set(WORKLOAD, Condition::Healthy);
    let raised = |limit: Option<&str>| mbps(limit).is_some_and(|limit| limit >= 55.0);
    for app in ["telemetry-upload", "erp-dashboard"] {
        world.limits_fit("a raised limit", app, raised).await;
    }
    let raises = decisions(&world, "INCREASE");
    let steps: BTreeSet<String> = raises
        .iter()
        .map(step)
        .filter(|s| *s != 0.0)
        .map(|s| s.to_string())
        .collect();
    assert_eq!(steps, ["15".to_owned()].into(), "the documented step");

    // only latency is high: distance, not congestion; the gentle step
    world.telemetry.set(WORKLOAD, Condition::Distant);
    until(
        "a gentle step",
        async || {
            decisions(&world, "LATENCY_GENTLE_THROTTLE")
                .iter()
                .any(|d| step(d) == -20.0)
        },
        |seen| *seen,
    )
    .await;

    // nothing was replaced, and nobody else was touched
    let pods_after = world.kubernetes.all_pods().await;
    assert!(
        uids(&pods_before).is_subset(&uids(&pods_after)),
        "no pod was replaced"
    );
    assert_eq!(pods_after.len(), pods_before.len() + LATER as usize);
    for pod in &pods_after {
        let ours = ["telemetry-upload", "erp-dashboard"].contains(&pod.labels["app"].as_str());
        assert_eq!(pod.record.is_some(), ours, "{pod:?}");
        assert_eq!(pod.limit.is_some(), ours, "{pod:?}");
    }

    // every decision can be read by a plain client, and evaluated again
    let message = soon("a message for the script", script.next())
        .await
        .unwrap();
    let headers = message.headers.unwrap();
    assert_eq!(
        headers.get("Content-Type").unwrap().as_str(),
        "application/json"
    );
    let read: Value = serde_json::from_slice(&message.payload)?;
    assert_eq!(read["policy"], "default");
    assert!(read["decidedAt"].as_str().unwrap().ends_with('Z'), "{read}");
    // 64-bit integers are strings in canonical proto3 JSON
    assert!(
        read["sequence"].is_string() && read["term"].is_string(),
        "{read}"
    );
    assert!(
        read["reason"]
            .as_str()
            .is_some_and(|reason| !reason.is_empty()),
        "{read}"
    );
    let verified = world.lanectl(&["verify", "--stream"]).await;
    let counts = verified.output();
    let stored = world.record.decisions().len();
    assert!(counts.contains(" 0 different, 0 by laws"), "{counts}");
    let identical: usize = counts.split(' ').next().unwrap().parse()?;
    assert!(identical >= stored && stored > 5, "{identical} of {stored}");

    one_trace(&sink).await;

    // the policy's end: what was found is back
    world
        .lanectl(&["policy", "delete", "default"])
        .await
        .output();
    world.limited("telemetry-upload", Some("200M")).await;
    world.limited("erp-dashboard", None).await;
    until(
        "the records' end",
        async || world.kubernetes.all_pods().await,
        |pods| pods.iter().all(|pod| pod.record.is_none()),
    )
    .await;

    check_decisions(&world.record.decisions());
    check_commands(&world.record.commands());
    let decided: BTreeSet<String> = world
        .record
        .decisions()
        .iter()
        .flat_map(|d| &d.limits)
        .filter_map(|limit| limit.after_bps)
        .map(|bps| format!("{}M", bps / 1e6))
        .collect();
    for seen in world.record.limits() {
        if let Some(limit) = seen.limit {
            assert!(
                decided.contains(&limit),
                "{} had {limit}, which nobody decided",
                seen.pod
            );
        }
    }
    world.all_run();
    world.finish().await;
    Ok(())
}

fn decisions(world: &World, action: &str) -> Vec<Decision> {
    let all = world.record.decisions().into_iter();
    all.filter(|decision| decision.action == action).collect()
}

/// One trace leads from the collector's poll over the decision to the actuator's write.
async fn one_trace(sink: &Sink) {
    until(
        "a trace through all three services",
        async || {
            let spans = sink.spans();
            let by = |service: &str| -> BTreeSet<Vec<u8>> {
                let of = spans.iter().filter(|span| span.service == service);
                of.map(|span| span.trace.clone()).collect()
            };
            let (collector, decider) = (by("collector"), by("decider"));
            let through = by("actuator").into_iter();
            let through: Vec<Vec<u8>> = through
                .filter(|trace| collector.contains(trace) && decider.contains(trace))
                .collect();
            // in each, whoever is not the collector was called by somebody of the same trace
            let unbroken = through.into_iter().find(|trace| {
                let own: Vec<_> = spans.iter().filter(|span| span.trace == *trace).collect();
                let ids: BTreeSet<_> = own.iter().map(|span| &span.id).collect();
                own.iter()
                    .all(|span| span.service == "collector" || ids.contains(&span.parent))
            });
            let names: BTreeSet<String> = spans
                .iter()
                .map(|s| format!("{}: {}", s.service, s.name))
                .collect();
            unbroken.ok_or(names)
        },
        Result::is_ok,
    )
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_variable_no_policy_and_a_policy_of_somebody_else_keeps_the_environments_away() {
    let mut world = World::start(&Where::StandIn, &[]).await.unwrap();
    world.add("actuator").await.unwrap();
    world
        .counted("actuator", "laneguard_actuator_leader", &[], 1.0)
        .await;
    // once the actuator has looked, a command for `default` is answered: there is no such policy
    crate::hostile::send(&world, "default", "best-effort", 1, 1, 1e8).await;
    refused(&world, 1).await;
    assert!(world.entry("default").await.is_none());

    let token = world.apply("mine", crate::spec("Observe", "none")).await;
    let first = world.replicas("actuator")[0].clone();
    world.remove(&first).await;
    world.setting("TARGET_JITTER_MS", "5");
    world.add("actuator").await.unwrap();
    let leader = "laneguard_actuator_leader";
    world.counted("actuator", leader, &[], 1.0).await;
    crate::hostile::send(&world, "default", "best-effort", 1, 2, 1e8).await;
    refused(&world, 2).await;
    assert!(world.entry("default").await.is_none() && world.entry(&token).await.is_some());
}

/// Waits until a command is refused, as there is no such policy.
async fn refused(world: &World, sequence: u64) {
    until(
        "the refusal",
        async || world.record.outcomes(),
        |outcomes| {
            let unknown = outcomes
                .iter()
                .filter(|o| o.refused_reason == "unknown_policy");
            unknown.into_iter().any(|o| o.sequence == sequence)
        },
    )
    .await;
}
