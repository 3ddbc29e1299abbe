use std::time::Duration;

use laneguard_tests::exporter::Condition;
use laneguard_tests::kubernetes::Where;
use laneguard_tests::world::World;
use serde_json::json;

/// Far less than the ten seconds that tasks get to finish: nothing has to be waited for.
const QUICKLY: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread")]
async fn a_service_asked_to_end_does_so_with_0_at_work_and_without_anybody_to_talk_to() {
    let mut world = World::start(&Where::StandIn, &[]).await.unwrap();
    world
        .kubernetes
        .deployment("bulk", 1, json!({}), json!({}))
        .await
        .unwrap();
    world.telemetry.set("robot", Condition::Healthy);
    let token = world.apply("floor", crate::spec("Enforce", "bulk")).await;
    world.add_all().await.unwrap();
    world.limited("bulk", Some("200M")).await;
    assert!(world.command(&token, "bulk").await.is_some());
    for service in ["collector", "decider", "actuator"] {
        let name = world.replicas(service)[0].clone();
        let (code, took) = world.service(&name).terminate().await;
        assert_eq!(code, Some(0), "{service}");
        assert!(took < QUICKLY, "{service} took {took:?}");
        println!("{service} ended after {} ms", took.as_millis());
    }
    // an orderly end leaves the limits as they are
    world.limited("bulk", Some("200M")).await;

    // the next replicas need not wait until leases run out: they were given back
    world.add_all().await.unwrap();
    world
        .counted("actuator", "laneguard_actuator_leader", &[], 1.0)
        .await;
    world
        .counted("decider", "laneguard_decider_owned_policies", &[], 1.0)
        .await;

    // nobody to talk to
    world.setting("NATS_URL", "nats://127.0.0.1:9");
    world.setting("PROMETHEUS_URL", "http://127.0.0.1:9");
    world.kubernetes.stand_in().down().await;
    for service in ["collector", "decider", "actuator"] {
        let name = world.launch(service).await.unwrap();
        assert!(world.service(&name).is_running());
        let (code, took) = world.service(&name).terminate().await;
        assert_eq!(code, Some(0), "{service}");
        assert!(took < QUICKLY, "{service} took {took:?}");
    }
}
