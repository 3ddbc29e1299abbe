use async_nats::jetstream::stream::Config;
use laneguard_proto::codec::Encoding;
use laneguard_proto::storage::{BUCKETS, COMMANDS, STREAMS};
use laneguard_tests::broker::{Broker, nats_args, shell};
use laneguard_tests::wait::{soon, until};

#[tokio::test(flavor = "multi_thread")]
async fn whoever_comes_first_sets_up_everything_bounded() {
    let broker = Broker::start().await.unwrap();
    let shells = [
        broker.shell("collector", Encoding::Protobuf).await.unwrap(),
        broker.shell("decider", Encoding::Protobuf).await.unwrap(),
    ];
    for shell in &shells {
        soon("storage", shell.bus.ready()).await;
    }
    let raw = async_nats::jetstream::new(async_nats::connect(broker.nats.url()).await.unwrap());
    let names = STREAMS.iter().map(|s| s.name.to_owned());
    for name in names.chain(BUCKETS.iter().map(|b| format!("KV_{}", b.name))) {
        let stream = raw.get_stream(&name).await.unwrap();
        let config = &stream.cached_info().config;
        assert!(config.max_bytes > 0, "{name} is bounded");
        assert_eq!(
            config.metadata["laneguard.dev/config-version"], "1",
            "{name}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_somebody_else_is_reported_and_left_alone() {
    let broker = Broker::start().await.unwrap();
    let raw = async_nats::jetstream::new(async_nats::connect(broker.nats.url()).await.unwrap());
    let theirs = Config {
        name: COMMANDS.name.into(),
        subjects: vec!["laneguard.v1.command.>".into()],
        max_messages: 5,
        ..Default::default()
    };
    raw.create_stream(theirs).await.unwrap();
    let mut shell = broker.shell("decider", Encoding::Protobuf).await.unwrap();
    soon("storage", shell.bus.ready()).await;
    let kept = raw.get_stream(COMMANDS.name).await.unwrap();
    assert_eq!(kept.cached_info().config.max_messages, 5);
    let address = shell
        .process
        .serve_admin("127.0.0.1:0".parse().unwrap())
        .await
        .unwrap();
    let client = laneguard_lab::servers::http_client().unwrap();
    let text = client
        .get(format!("http://{address}/metrics"))
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    assert!(
        text.contains("laneguard_bus_foreign_storage{name=\"LANEGUARD_COMMANDS\"} 1"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn without_leave_to_manage_nothing_is_created_and_readiness_says_what_is_missing() {
    let broker = Broker::start().await.unwrap();
    let mut args = nats_args(&broker.nats.url());
    args.nats_manage_streams = false;
    let only_verifies = shell(&args, "decider", Encoding::Protobuf).await.unwrap();
    let missing = until(
        "the reason",
        async || only_verifies.process.readiness.missing(),
        |missing| missing.iter().any(|m| m.contains("NATS_MANAGE_STREAMS")),
    )
    .await;
    assert!(missing[0].contains("LANEGUARD_SAMPLES"), "{missing:?}");
    let managing = broker.shell("collector", Encoding::Protobuf).await.unwrap();
    soon("storage", managing.bus.ready()).await;
    soon("readiness", only_verifies.bus.ready()).await;
}
