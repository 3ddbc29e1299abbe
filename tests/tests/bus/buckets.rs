use std::time::Duration;

use laneguard_proto::codec::Encoding;
use laneguard_proto::storage::{OVERRIDES, POLICIES};
use laneguard_runtime::bus::{Change, StoreError};
use laneguard_tests::broker::Broker;
use laneguard_tests::wait::{soon, until};

#[tokio::test(flavor = "multi_thread")]
async fn compare_and_set_lets_one_writer_win() {
    let broker = Broker::start().await.unwrap();
    let shell = broker.shell("decider", Encoding::Protobuf).await.unwrap();
    soon("storage", shell.bus.ready()).await;
    let bucket = shell.bus.bucket(POLICIES);
    let first = bucket.create("default.a", "1").await.unwrap();
    assert!(matches!(
        bucket.create("default.a", "2").await,
        Err(StoreError::Conflict)
    ));
    let second = bucket.update("default.a", "2", first).await.unwrap();
    assert!(matches!(
        bucket.update("default.a", "3", first).await,
        Err(StoreError::Conflict)
    ));
    let value = bucket.get("default.a").await.unwrap().unwrap();
    assert_eq!((value.bytes.as_ref(), value.revision), (&b"2"[..], second));
    bucket.delete("default.a").await.unwrap();
    assert!(bucket.get("default.a").await.unwrap().is_none());
    bucket.create("default.a", "4").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_tells_a_deletion_from_a_lost_bucket() {
    let broker = Broker::start().await.unwrap();
    let shell = broker.shell("actuator", Encoding::Protobuf).await.unwrap();
    soon("storage", shell.bus.ready()).await;
    let bucket = shell.bus.bucket(POLICIES);
    bucket.put("default.a", "1").await.unwrap();
    bucket.put("default.b", "1").await.unwrap();
    bucket.put("other.c", "1").await.unwrap();
    let mut watch = bucket.watch("default.>");
    let mut changes = Vec::new();
    while !matches!(changes.last(), Some(Change::Synced { .. })) {
        changes.push(soon("a change", watch.next()).await.unwrap());
    }
    let Some(Change::Synced { keys }) = changes.last() else {
        unreachable!()
    };
    assert_eq!(keys.iter().collect::<Vec<_>>(), ["default.a", "default.b"]);

    bucket.delete("default.a").await.unwrap();
    let change = soon("the deletion", watch.next()).await.unwrap();
    assert_eq!(
        change,
        Change::Deleted {
            key: "default.a".into()
        }
    );

    let _broker = broker.crash(true).await.unwrap();
    let change = soon("the new list", watch.next()).await.unwrap();
    let Change::Synced { keys } = change else {
        panic!("a lost bucket is no deletion: {change:?}")
    };
    assert!(keys.is_empty());
    until(
        "a write",
        async || bucket.put("default.b", "2").await.is_ok(),
        |ok| *ok,
    )
    .await;
    soon("the value", async {
        loop {
            if let Some(Change::Put { key, bytes, .. }) = watch.next().await {
                assert_eq!((key.as_str(), bytes.as_ref()), ("default.b", &b"2"[..]));
                return;
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_key_is_reported_as_deleted() {
    let broker = Broker::start().await.unwrap();
    let shell = broker.shell("actuator", Encoding::Protobuf).await.unwrap();
    soon("storage", shell.bus.ready()).await;
    let bucket = shell.bus.bucket(OVERRIDES);
    bucket
        .put_for("default.a", "freeze", Duration::from_secs(1))
        .await
        .unwrap();
    let mut watch = bucket.watch("default.>");
    soon("the expiry", async {
        loop {
            if matches!(watch.next().await, Some(Change::Deleted { key }) if key == "default.a") {
                return;
            }
        }
    })
    .await;
}
