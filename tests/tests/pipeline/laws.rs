use laneguard_proto::v1::Decision;
use laneguard_tests::exporter::Condition;
use laneguard_tests::kubernetes::Where;
use laneguard_tests::record::{check_commands, check_decisions};
use laneguard_tests::wait::until;
use laneguard_tests::world::{World, mbps};
use serde_json::json;

use crate::decided;

#[tokio::test(flavor = "multi_thread")]
async fn of_several_workloads_the_worst_governs_every_class_and_drops_govern_where_they_are_the_law()
 {
    let mut world = World::start(&Where::StandIn, &[]).await.unwrap();
    for app in ["bulk", "scavenger", "dropped"] {
        world
            .kubernetes
            .deployment(app, 1, json!({}), json!({}))
            .await
            .unwrap();
    }
    world.telemetry.set("robot", Condition::Healthy);
    world.telemetry.set("scanner", Condition::Healthy);

    let mut two = crate::spec("Enforce", "bulk");
    let targets = two["critical"][0]["targets"].clone();
    two["critical"] = json!([{"workload": "robot", "targets": targets}, {"workload": "scanner", "targets": targets}]);
    let scavenger = json!({"class": "scavenger", "selector": {"matchLabels": {"app": "scavenger"}}, "bandwidth": {"min": "5M", "max": "100M"}});
    two["bestEffort"] = json!([two["bestEffort"][0], scavenger]);
    let floor = world.apply("two", two).await;
    let mut drops = crate::spec("Enforce", "dropped");
    drops["control"] = json!({"law": "DropRate", "alpha": 1.0, "dropRate": {"cooldown": "1s"}});
    let dropped = world.apply("drops", drops).await;
    world.add_all().await.unwrap();
    world.limited("bulk", Some("200M")).await;
    world.limited("scavenger", Some("100M")).await;
    world.limited("dropped", Some("200M")).await;

    // one of two is enough; classes keep their own bounds
    world.telemetry.set("scanner", Condition::Congested);
    world.limited("bulk", Some("10M")).await;
    world.limited("scavenger", Some("5M")).await;
    let of = |token: &str| {
        let token = token.to_owned();
        move |d: &Decision| d.policy == token
    };
    let is_two = of(&floor);
    let cut = decided(&world, "the cut", |d| {
        is_two(d) && d.action == "CONGESTION_THROTTLE"
    })
    .await;
    assert!(
        cut.reason.contains("scanner"),
        "it says who suffers: {}",
        cut.reason
    );
    assert_eq!(cut.samples.len(), 2, "both were looked at");
    assert_eq!(cut.limits.len(), 2);

    // baseline drops are policy, not congestion: latency or not, this policy did nothing so far
    world.limited("dropped", Some("200M")).await;
    world.telemetry.drops(500.0);
    world.limited("dropped", Some("10M")).await;
    let is_dropped = of(&dropped);
    let cut = decided(&world, "the cut", |d| {
        is_dropped(d) && d.action == "CONGESTION_THROTTLE"
    })
    .await;
    assert!(cut.reason.contains("drop"), "{}", cut.reason);
    world.telemetry.drops(30.0);
    let raised = |limit: Option<&str>| mbps(limit).is_some_and(|limit| limit > 30.0);
    world.limits_fit("a raised limit", "dropped", raised).await;

    // when one workload's series go, nothing is raised, whatever the other says
    world.telemetry.set("scanner", Condition::Gone);
    let unknown = |d: &Decision| is_two(d) && d.action == "HOLD" && d.reason.contains("scanner");
    decided(&world, "the missing data", unknown).await;
    let sampled = world.record.samples().len();
    until(
        "more samples",
        async || world.record.samples().len(),
        |n| *n > sampled + 10,
    )
    .await;
    world.limited("bulk", Some("10M")).await;
    check_decisions(&world.record.decisions());
    check_commands(&world.record.commands());
    let verified = world.lanectl(&["verify", "--stream"]).await;
    assert!(verified.output().contains(" 0 different"), "{verified:?}");
    world.all_run();
}
