use std::collections::BTreeSet;

use laneguard_proto::codec::Encoding;
use laneguard_proto::storage::LEASES;
use laneguard_runtime::lease::Shards;
use laneguard_tests::broker::Broker;
use laneguard_tests::wait::{soon, until};
use tokio::sync::watch;

#[tokio::test(flavor = "multi_thread")]
async fn each_shard_has_one_owner_and_a_stopped_owner_gives_back_at_once() {
    let broker = Broker::start().await.unwrap();
    let (interest, interests) = watch::channel(BTreeSet::from([3, 7]));
    let one = broker.shell("decider", Encoding::Protobuf).await.unwrap();
    let first = Shards::start(&one.process, &one.bus, "decider", interests.clone());
    let owned = async |shards: &Shards| [3, 7, 9].map(|shard| shards.owns(shard));
    until(
        "ownership",
        async || owned(&first).await,
        |owned| *owned == [true, true, false],
    )
    .await;

    let two = broker.shell("decider", Encoding::Protobuf).await.unwrap();
    let second = Shards::start(&two.process, &two.bus, "decider", interests);
    interest.send_replace(BTreeSet::from([3, 7, 9]));
    until(
        "ownership of the new shard",
        async || (first.owns(9), second.owns(9)),
        |(a, b)| a ^ b,
    )
    .await;
    for shard in [3, 7] {
        assert!(
            first.owns(shard) && !second.owns(shard),
            "the owner keeps what it renews"
        );
    }
    one.trigger.trigger();
    until(
        "the takeover",
        async || owned(&second).await,
        |owned| *owned == [true, true, true],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_owners_lease_is_taken_over_and_the_dead_owner_stops_acting() {
    let broker = Broker::start().await.unwrap();
    let (_interest, interests) = watch::channel(BTreeSet::from([5]));
    let shell = broker.shell("decider", Encoding::Protobuf).await.unwrap();
    soon("storage", shell.bus.ready()).await;
    // an owner that died: its key stands still
    let bucket = shell.bus.bucket(LEASES);
    bucket.put("decider.default.5", "the dead").await.unwrap();
    let shards = Shards::start(&shell.process, &shell.bus, "decider", interests);
    until("the takeover", async || shards.owns(5), |owns| *owns).await;

    // somebody else writes: ownership is gone, whatever we think
    bucket.put("decider.default.5", "a thief").await.unwrap();
    until("the loss", async || shards.owns(5), |owns| !*owns).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ownership_lapses_without_the_server_and_comes_back_with_it() {
    let mut broker = Broker::start().await.unwrap();
    let (_interest, interests) = watch::channel(BTreeSet::from([5]));
    let shell = broker.shell("collector", Encoding::Protobuf).await.unwrap();
    let shards = Shards::start(&shell.process, &shell.bus, "collector", interests);
    until("ownership", async || shards.owns(5), |owns| *owns).await;
    broker.nats.kill().await;
    until("the lapse", async || shards.owns(5), |owns| !*owns).await;
    let _broker = broker.crash(true).await.unwrap();
    until("the return", async || shards.owns(5), |owns| *owns).await;
}
