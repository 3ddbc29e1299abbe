//! What breaks and comes back: the API server, NATS, its data.

use std::time::Duration;

use http::StatusCode;
use laneguard_lab_kube::{Fault, Verb};
use laneguard_proto::policy::Entry;
use laneguard_proto::storage;
use laneguard_tests::wait::until;
use serde_json::json;

use crate::world::{EGRESS, RECORD, World, policy_key};

#[tokio::test(flavor = "multi_thread")]
async fn conflicts_throttling_errors_and_lost_replies_end_in_the_right_limits() {
    let world = World::new().await;
    for n in 0..10 {
        world.pod(&format!("p{n}"), json!({}), json!({})).await;
    }
    world.policy(json!({})).await;
    let actuator = world.started(&[]).await;
    let faulty = |status| Fault::status(status).on(Verb::Patch).path("/pods/");
    for fault in [
        faulty(StatusCode::CONFLICT).times(3),
        faulty(StatusCode::TOO_MANY_REQUESTS).retry_after(1),
        faulty(StatusCode::INTERNAL_SERVER_ERROR),
        faulty(StatusCode::UNPROCESSABLE_ENTITY),
        faulty(StatusCode::FORBIDDEN),
        Fault::lost_reply().on(Verb::Patch).path("/pods/"),
    ] {
        world.cluster().inject(fault);
    }
    world.command(1, 1, 80.0).await;
    for n in 0..10 {
        world.limited(&format!("p{n}"), Some("80M")).await;
    }
    assert_eq!(world.cluster().clear_faults(), 0, "every fault was met");
    for result in [
        "conflict",
        "throttled",
        "unavailable",
        "invalid",
        "forbidden",
    ] {
        actuator
            .counted(
                &format!("laneguard_actuator_writes_total{{result=\"{result}\"}}"),
                1.0,
            )
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_that_come_and_go_while_the_watch_is_away_are_found_by_the_next_list() {
    let world = World::new().await;
    world.pod("a", json!({}), json!({})).await;
    world.pod("b", json!({}), json!({})).await;
    world.policy(json!({})).await;
    let actuator = world.started(&[]).await;
    world.command(1, 1, 80.0).await;
    world.limited("a", Some("80M")).await;
    world.limited("b", Some("80M")).await;
    world.cluster().inject(
        Fault::status(StatusCode::SERVICE_UNAVAILABLE)
            .on(Verb::Watch)
            .path("/pods")
            .times(2),
    );
    world.cluster().cut_watches();
    world.delete_pod("b").await;
    world.pod("c", json!({}), json!({})).await;
    world.cluster().compact();
    world.limited("c", Some("80M")).await;
    until(
        "forgetting the pod that went",
        async || actuator.metric("laneguard_actuator_pods").await,
        |n| *n == 2.0,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_recreated_under_the_same_name_is_a_new_pod() {
    let world = World::new().await;
    world
        .pod("a", json!({"annotations": {EGRESS: "50M"}}), json!({}))
        .await;
    world.policy(json!({})).await;
    let _actuator = world.started(&[]).await;
    world.command(1, 1, 80.0).await;
    world.limited("a", Some("80M")).await;
    world.delete_pod("a").await;
    world.pod("a", json!({}), json!({})).await;
    world.limited("a", Some("80M")).await;
    world.policy(json!({"mode": "Observe"})).await;
    world.limited("a", None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_nothing_but_the_api_server_a_restarted_actuator_acts_on_expiry() {
    let mut world = World::new().await;
    let record = |action: &str| {
        json!({"policy": "factory_p", "class": "bulk", "term": 3, "sequence": 1, "on_stale": {"action": action, "after_ms": 500},
            "min": "10M", "found": "50M"})
        .to_string()
    };
    for (name, action) in [
        ("protect", "Protect"),
        ("release", "Release"),
        ("hold", "Hold"),
    ] {
        world
            .pod(
                name,
                json!({"annotations": {EGRESS: "80M", RECORD: record(action)}}),
                json!({}),
            )
            .await;
    }
    if let Some(broker) = &mut world.broker {
        broker.nats.kill().await;
    }
    let _actuator = world.start(&[]);
    world.limited("protect", Some("10M")).await;
    world.limited("release", Some("50M")).await;
    assert_eq!(world.annotation("release", RECORD).await, None);
    assert_eq!(
        world.annotation("hold", EGRESS).await.as_deref(),
        Some("80M")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn losing_all_of_nats_data_restores_nothing_and_the_policy_comes_back() {
    let mut world = World::new().await;
    world
        .pod("a", json!({"annotations": {EGRESS: "50M"}}), json!({}))
        .await;
    world.policy(json!({})).await;
    let actuator = world.started(&[]).await;
    world.command(1, 1, 80.0).await;
    world.limited("a", Some("80M")).await;
    let broker = world.broker.take().unwrap();
    world.broker = Some(broker.crash(true).await.unwrap());
    let bucket = world.shell.bus.bucket(storage::POLICIES);
    let policy = async || {
        let value = bucket.get(&policy_key()).await.ok()??;
        Entry::from_json(&value.bytes).ok()
    };
    until("the policy's return", policy, Option::is_some).await;
    actuator
        .counted("laneguard_actuator_reasserted_total", 1.0)
        .await;
    let placement = laneguard_proto::placement::key("default", "factory_p");
    let state = world.shell.bus.bucket(storage::STATE);
    until(
        "the placement's return",
        async || state.get(&placement).await.ok().flatten(),
        Option::is_some,
    )
    .await;
    assert_eq!(world.annotation("a", EGRESS).await.as_deref(), Some("80M"));
    world.command(1, 2, 70.0).await;
    world.limited("a", Some("70M")).await;
    assert!(
        !actuator.log().contains("POLICY_ENDED"),
        "{}",
        actuator.log()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_command_stream_changes_no_limit() {
    let world = World::new().await;
    world.pod("a", json!({}), json!({})).await;
    world.policy(json!({})).await;
    let _actuator = world.started(&[]).await;
    world.command(1, 1, 80.0).await;
    world.limited("a", Some("80M")).await;
    let nats = async_nats::connect(world.nats_url()).await.unwrap();
    let jetstream = async_nats::jetstream::new(nats);
    jetstream
        .delete_stream(storage::COMMANDS.name)
        .await
        .unwrap();
    let back = async || jetstream.get_stream(storage::COMMANDS.name).await.is_ok();
    until("the stream's return", back, |back| *back).await;
    assert_eq!(world.annotation("a", EGRESS).await.as_deref(), Some("80M"));
    let published = async || {
        let subject = laneguard_proto::subject::command("default", "factory_p", "bulk");
        let command = laneguard_proto::v1::Command {
            term: 1,
            sequence: 2,
            ..crate::world::command(70.0)
        };
        world
            .shell
            .bus
            .publish(&subject, &command, Default::default())
            .await
            .is_ok()
    };
    until("a command after that", published, |done| *done).await;
    world.limited("a", Some("70M")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_is_away_for_a_while_is_caught_up_with() {
    let world = World::new().await;
    world.pod("a", json!({}), json!({})).await;
    world.policy(json!({})).await;
    let _actuator = world.started(&[]).await;
    world.command(1, 1, 80.0).await;
    world.limited("a", Some("80M")).await;
    // everything fails for longer than the lease lasts
    world
        .cluster()
        .inject(Fault::status(StatusCode::SERVICE_UNAVAILABLE).times(usize::MAX));
    world.cluster().cut_watches();
    world.command(1, 2, 60.0).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    world.cluster().clear_faults();
    world.limited("a", Some("60M")).await;
}
