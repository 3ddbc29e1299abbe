use super::*;

/// Crashes the server, with or without its disk, and comes back with it.
async fn crash(world: &mut World, lose_disk: bool) {
    let broker = world.broker.take().unwrap();
    world.broker = Some(broker.crash(lose_disk).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nats_that_lost_everything_is_given_back_the_same_limit() {
    let mut world = World::new().await;
    let _decider = Decider::start(&world.url(), "protobuf");
    let before = world
        .commanded("a throttle", |c| c.limit_bps == Some(150e6))
        .await;
    crash(&mut world, true).await;
    // neither policy nor placement is written anew: a lost bucket is no deletion
    let after = world
        .commanded("a command in the new store", |_| true)
        .await;
    assert_eq!(after.limit_bps, before.limit_bps);
    assert!((after.term, after.sequence) >= (before.term, before.sequence));
    // a renewal can be the first command in the new store and commits nothing: the memory comes back with the next decision, for which
    // samples go on, as they do from a collector
    let memory = until(
        "the memory",
        async || {
            world.congested().await;
            world.memory().await
        },
        Option::is_some,
    )
    .await
    .unwrap();
    assert_eq!(memory.law.limit_bps(CLASS), before.limit_bps);
    check(&world.decisions().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nats_that_restarted_is_used_again() {
    let mut world = World::new().await;
    let _decider = Decider::start(&world.url(), "protobuf");
    let before = world
        .commanded("a throttle", |c| c.limit_bps == Some(150e6))
        .await;
    crash(&mut world, false).await;
    let order = |c: &v1::Command| (c.term, c.sequence, c.renewal);
    let after = world
        .commanded("a later command", |c| order(c) > order(&before))
        .await;
    assert_eq!(after.limit_bps, before.limit_bps);
    check(&world.decisions().await);
}
