use laneguard_proto::v1::Decision;
use laneguard_tests::exporter::Condition;
use laneguard_tests::kubernetes::Where;
use laneguard_tests::record::check_decisions;
use laneguard_tests::world::{World, mbps};
use serde_json::json;

use crate::decided;

/// Lets every pod of `bulk` send so many bits per second.
async fn send(world: &World, bps: f64) {
    for pod in world.kubernetes.pods("bulk").await {
        world
            .telemetry
            .sends(&world.kubernetes.namespace, &pod.name, bps);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn targets_left_to_auto_are_learned_while_best_effort_is_quiet_then_kept_and_survive_a_new_decider()
 {
    let mut world = World::start(&Where::StandIn, &[]).await.unwrap();
    world
        .kubernetes
        .deployment("bulk", 2, json!({}), json!({}))
        .await
        .unwrap();
    world.telemetry.set("robot", Condition::Healthy);
    let mut auto = crate::spec("Enforce", "bulk");
    auto["critical"][0]["targets"] = json!("Auto");
    auto["control"] = json!({"law": "Adaptive"});
    let token = world.apply("auto", auto).await;
    world.add_all().await.unwrap();
    world.limited("bulk", Some("200M")).await;

    // with pods that send a lot there is no telling what the workload shows by itself
    send(&world, 150e6).await;
    let busy = decided(&world, "why nothing is learned", |d| {
        d.policy == token && d.reason.contains("too much to learn beside")
    })
    .await;
    assert!(busy.reason.contains("list targets instead of Auto"));
    assert_eq!(busy.action, "HOLD");

    send(&world, 1e6).await;
    // buckets of 5 ms: P95 is 4.75 ms and jitter 2.5 ms, of which twice is what a target may be at least
    let learned = decided(&world, "targets that were learned", |d| {
        d.policy == token && d.reason.contains("is within its target of 9.5")
    })
    .await;
    assert_eq!(learned.action, "HOLD");
    assert!(!learned.reason.contains("being learned"));

    // a decider that knows nothing but what is stored keeps them
    let first = world.replicas("decider")[0].clone();
    world.remove(&first).await;
    world.add("decider").await.unwrap();
    let after = world.record.decisions().len();

    send(&world, 150e6).await;
    world.telemetry.set("robot", Condition::Congested);
    let cut = |limit: Option<&str>| mbps(limit).is_some_and(|limit| limit < 200.0);
    world.limits_fit("a cut", "bulk", cut).await;
    let decisions = world.record.decisions();
    let throttled = decisions
        .iter()
        .find(|d| d.action == "CONGESTION_THROTTLE")
        .expect("a cut has a decision");
    assert!(
        throttled.reason.contains("above its target"),
        "{}",
        throttled.reason
    );
    let is_learning = |d: &&Decision| d.reason.contains("its targets are being learned");
    assert_eq!(
        decisions[after..].iter().find(is_learning),
        None,
        "learned targets are not learned again"
    );
    check_decisions(&decisions);
    let verified = world.lanectl(&["verify", "--stream"]).await;
    assert!(verified.output().contains(" 0 different"), "{verified:?}");
    world.all_run();
}
