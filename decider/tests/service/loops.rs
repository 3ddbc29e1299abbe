use super::*;
use laneguard_proto::overrides::Override;
use laneguard_proto::storage::OVERRIDES;

#[tokio::test(flavor = "multi_thread")]
async fn samples_become_decisions_and_decisions_commands_in_either_encoding() {
    for encoding in ["protobuf", "json"] {
        let mut world = World::new().await;
        let _decider = Decider::start(&world.url(), encoding);
        let command = world
            .commanded("a throttle", |c| c.limit_bps == Some(150e6))
            .await;
        assert_eq!((command.sequence, command.renewal), (1, 0));
        let memory = world.memory().await.unwrap();
        assert_eq!(memory.term, command.term);
        assert!(memory.in_force);
        let decisions = world.decisions().await;
        assert_eq!(decisions[0].action, "CONGESTION_THROTTLE");
        assert_eq!(decisions[0].limits[0].before_bps, Some(200e6));
        check(&decisions);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_changes_live_and_an_invalid_change_leaves_the_last_good_one_in_force() {
    let mut world = World::new().await;
    let _decider = Decider::start(&world.url(), "protobuf");
    world
        .commanded("a throttle", |c| c.limit_bps == Some(150e6))
        .await;

    let mut invalid = spec("Enforce");
    invalid["bestEffort"][0]["bandwidth"]["min"] = json!("1k");
    world.policy(2, invalid).await;
    let mut raised = spec("Enforce");
    raised["bestEffort"][0]["bandwidth"]["min"] = json!("180M");
    world.policy(3, raised).await;
    world
        .commanded("the new minimum", |c| c.limit_bps == Some(180e6))
        .await;

    let observed = spec("Observe");
    world.policy(4, observed).await;
    let stopped = until(
        "a decision in Observe",
        async || world.decision().await,
        |d| d.as_ref().is_some_and(|d| d.mode == "Observe"),
    )
    .await
    .unwrap();
    assert_eq!(stopped.policy_generation, 4);
    let decisions = world.decisions().await;
    let generations: Vec<u64> = decisions.iter().map(|d| d.policy_generation).collect();
    assert!(!generations.contains(&2), "{generations:?}");
    check(&decisions);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_is_decided_at_once_and_resuming_begins_at_what_is_found() {
    let mut world = World::new().await;
    let _decider = Decider::start(&world.url(), "protobuf");
    world
        .commanded("a throttle", |c| c.limit_bps == Some(150e6))
        .await;
    let overrides = world.shell.bus.bucket(OVERRIDES);
    let release = Override::Release {
        by: "kim".into(),
        since_ms: unix_ms(),
    };
    let key = format!("default.{POLICY}");
    overrides
        .put(&key, serde_json::to_vec(&release).unwrap())
        .await
        .unwrap();
    until(
        "a decision about the release",
        async || world.decision().await,
        |d| d.as_ref().is_some_and(|d| d.reason.contains("(kim)")),
    )
    .await;
    world.place(Some(700e6)).await;
    overrides.delete(&key).await.unwrap();
    world
        .commanded("a limit from the one found", |c| c.limit_bps == Some(650e6))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_policy_leaves_a_tombstone_and_its_successor_begins_anew() {
    let mut world = World::new().await;
    let _decider = Decider::start(&world.url(), "protobuf");
    let first = world
        .commanded("a throttle", |c| c.limit_bps == Some(150e6))
        .await;
    let policies = world.shell.bus.bucket(POLICIES);
    policies.delete(&format!("default.{POLICY}")).await.unwrap();
    until(
        "the tombstone",
        async || world.memory().await,
        |m| {
            m.as_ref()
                .is_some_and(|m| !m.in_force && m.law.limits.is_empty())
        },
    )
    .await;
    world.place(Some(400e6)).await;
    world.policy(1, spec("Enforce")).await;
    let second = world
        .commanded("a throttle anew", |c| c.limit_bps == Some(350e6))
        .await;
    assert!((second.term, second.sequence) > (first.term, first.sequence));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_the_actuator_refuses_goes_above_the_term_it_has_seen() {
    let mut world = World::new().await;
    let _decider = Decider::start(&world.url(), "protobuf");
    let refused = world
        .commanded("a throttle", |c| c.limit_bps == Some(150e6))
        .await;
    let highest = refused.term + 1_000_000_000;
    let outcome = v1::Outcome {
        cluster: "default".into(),
        policy: POLICY.into(),
        class: CLASS.into(),
        term: refused.term,
        sequence: refused.sequence,
        refused: true,
        refused_reason: "older_term".into(),
        highest_term: highest,
        ..Default::default()
    };
    let subject = subject::outcome("default", POLICY, CLASS);
    let published = world
        .shell
        .bus
        .publish(&subject, &outcome, Publish::default());
    published.await.unwrap();
    let asserted = world
        .commanded("a greater term", |c| c.term > highest)
        .await;
    assert_eq!(asserted.limit_bps, refused.limit_bps);
}
