use laneguard_proto::codec::Encoding;
use laneguard_proto::header;
use laneguard_proto::subject::Kind;
use laneguard_proto::v1::{Command, Sample};
use laneguard_runtime::bus::{Publish, PublishError, Start};
use laneguard_tests::broker::Broker;
use laneguard_tests::wait::{soon, until};

use super::{COMMAND, SAMPLE, command, sample};

#[tokio::test(flavor = "multi_thread")]
async fn a_message_arrives_whole_in_either_encoding_and_a_repetition_is_stored_once() {
    let broker = Broker::start().await.unwrap();
    for (encoding, sequence) in [(Encoding::Protobuf, 1), (Encoding::Json, 2)] {
        let shell = broker.shell("collector", encoding).await.unwrap();
        soon("storage", shell.bus.ready()).await;
        let mut samples = shell
            .bus
            .subscribe::<Sample>(Kind::Sample, Start::LastPerSubject);
        let first = shell
            .bus
            .publish(SAMPLE, &sample(sequence), Publish::default())
            .await
            .unwrap();
        let again = shell
            .bus
            .publish(SAMPLE, &sample(sequence), Publish::default())
            .await
            .unwrap();
        assert!(!first.duplicate && again.duplicate);
        assert_eq!(first.stream_sequence, again.stream_sequence);

        let received = soon("the sample", async {
            loop {
                let received = samples.next().await.unwrap();
                if received.message.sequence == sequence {
                    return received;
                }
            }
        })
        .await;
        assert_eq!(received.message, sample(sequence));
        let headers = received.headers.unwrap();
        let header = |name: &str| headers.get(name).map(|v| v.as_str().to_owned());
        assert_eq!(
            header(header::CONTENT_TYPE).as_deref(),
            Some(encoding.content_type())
        );
        assert_eq!(header("ce-type").as_deref(), Some("laneguard.v1.Sample"));
        assert_eq!(
            header("ce-source").as_deref(),
            Some("laneguard/collector/default")
        );
        assert_eq!(header("ce-id"), header("Nats-Msg-Id"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_loser_of_a_race_for_a_subject_is_told() {
    let broker = Broker::start().await.unwrap();
    let shell = broker.shell("decider", Encoding::Protobuf).await.unwrap();
    soon("storage", shell.bus.ready()).await;
    let expecting = |sequence| Publish {
        expect_last: Some(sequence),
        shadow: None,
    };
    let first = shell
        .bus
        .publish(COMMAND, &command(1), expecting(0))
        .await
        .unwrap();
    let lost = shell.bus.publish(COMMAND, &command(2), expecting(0)).await;
    assert!(
        matches!(lost, Err(PublishError::WrongLastSequence)),
        "{lost:?}"
    );
    shell
        .bus
        .publish(COMMAND, &command(2), expecting(first.stream_sequence))
        .await
        .unwrap();
    let last = shell
        .bus
        .last::<Command>(Kind::Command, COMMAND)
        .await
        .unwrap();
    assert_eq!(last.message.unwrap().sequence, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_is_counted_and_stops_nothing() {
    let broker = Broker::start().await.unwrap();
    let mut shell = broker.shell("actuator", Encoding::Protobuf).await.unwrap();
    soon("storage", shell.bus.ready()).await;
    let raw = async_nats::connect(broker.nats.url()).await.unwrap();
    let raw = async_nats::jetstream::new(raw);
    let mut wrong = command(1);
    wrong.limit_bps = Some(f64::NAN);
    for payload in [b"\xff\xfe garbage".to_vec(), vec![0; 600_000], {
        laneguard_proto::codec::encode(&wrong, Encoding::Protobuf).unwrap()
    }] {
        let ack = raw.publish(COMMAND, payload.into()).await.unwrap();
        ack.await.unwrap();
    }
    // the stream keeps the last message per subject: what is stored now is the last of the three
    let mut commands = shell
        .bus
        .subscribe::<Command>(Kind::Command, Start::LastPerSubject);
    let reader = tokio::spawn(async move { commands.next().await });
    let address = shell
        .process
        .serve_admin("127.0.0.1:0".parse().unwrap())
        .await
        .unwrap();
    let client = laneguard_lab::servers::http_client().unwrap();
    let counted =
        "laneguard_bus_refused_messages_total{kind=\"command\",reason=\"out_of_range\"} 1";
    until(
        "the count",
        async || {
            let page = client.get(format!("http://{address}/metrics"));
            page.send().await.unwrap().text().await.unwrap()
        },
        |text| text.contains(counted),
    )
    .await;
    shell
        .bus
        .publish(COMMAND, &command(7), Publish::default())
        .await
        .unwrap();
    let received = soon("the good command", reader).await.unwrap().unwrap();
    assert_eq!(received.message.sequence, 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_survives_a_server_that_crashed_and_lost_its_disk() {
    let mut broker = Broker::start().await.unwrap();
    let shell = broker.shell("decider", Encoding::Protobuf).await.unwrap();
    soon("storage", shell.bus.ready()).await;
    let mut commands = shell
        .bus
        .subscribe::<Command>(Kind::Command, Start::LastPerSubject);
    for (round, lose_disk) in [(1, false), (2, true), (3, true)] {
        let message = command(round);
        until(
            "a publish",
            async || {
                let published = shell
                    .bus
                    .publish(COMMAND, &message, Publish::default())
                    .await;
                published.map_err(|e| e.to_string())
            },
            Result::is_ok,
        )
        .await
        .unwrap();
        soon("the command", async {
            while commands.next().await.unwrap().message.sequence != round {}
        })
        .await;
        broker = broker.crash(lose_disk).await.unwrap();
    }
}
