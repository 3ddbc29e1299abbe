use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use laneguard_proto::duration::to_wire;
use laneguard_proto::storage::{BUCKETS, COMMANDS, POLICIES};
use laneguard_proto::subject;
use laneguard_proto::v1::{Command, Outcome, command::OnStale};
use laneguard_runtime::bus::{Publish, Published};
use laneguard_tests::kubernetes::{View, Where};
use laneguard_tests::wait::until;
use laneguard_tests::world::World;
use serde_json::{Value, json};

use crate::external;

const REFUSED: &str = "laneguard_bus_refused_messages_total";
const COMMANDS_TOTAL: &str = "laneguard_actuator_commands_total";

fn command(token: &str, class: &str, term: u64, sequence: u64, bps: f64) -> Command {
    // the server drops a repeated message id, and a renewal counts in it
    static SENT: AtomicU64 = AtomicU64::new(0);
    Command {
        renewal: SENT.fetch_add(1, Ordering::Relaxed),
        cluster: "default".into(),
        policy: token.into(),
        class: class.into(),
        limit_bps: Some(bps),
        term,
        sequence,
        valid_for: Some(to_wire(Duration::from_secs(3600))),
        on_stale: OnStale::Hold.into(),
        ..Default::default()
    }
}

async fn publish(world: &World, command: &Command) -> Published {
    let subject = subject::command("default", &command.policy, &command.class);
    let published = world.bus().publish(&subject, command, Publish::default());
    published.await.expect("NATS is there")
}

/// Publishes a command as a decider would that knows of no other.
pub(crate) async fn send(
    world: &World,
    token: &str,
    class: &str,
    term: u64,
    sequence: u64,
    bps: f64,
) {
    publish(world, &command(token, class, term, sequence, bps)).await;
}

async fn outcome(world: &World, what: &str, fits: impl Fn(&Outcome) -> bool) -> Outcome {
    let found = until(
        what,
        async || world.record.outcomes().into_iter().rev().find(&fits),
        Option::is_some,
    );
    found.await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_that_must_not_be_carried_out_change_no_annotation_for_the_worse_and_are_counted_and_logged()
 {
    guard_rails(Where::StandIn).await.unwrap();
}

pub(crate) async fn guard_rails(place: Where) -> anyhow::Result<()> {
    let mut world = World::start(&place, &[]).await?;
    // the class's selector matches a pod that is critical by its label, one that is the policy's workload by name, and others that are
    // out of bounds
    let kubernetes = &world.kubernetes;
    let bulk = json!({"tier": "bulk"});
    kubernetes
        .deployment("bulk", 2, bulk.clone(), json!({}))
        .await?;
    let critical = json!({"tier": "bulk", "priority": "critical"});
    kubernetes
        .deployment("safety-scanner", 1, critical, json!({}))
        .await?;
    kubernetes
        .deployment("robot", 1, bulk.clone(), json!({}))
        .await?;
    let host = json!({"hostNetwork": true});
    let mut labels = bulk.clone();
    labels["app"] = json!("host");
    kubernetes.pod("host", labels, json!({}), host).await?;
    let mut labels = bulk.clone();
    labels["app"] = json!("ignored");
    let hands_off =
        json!({"laneguard.dev/ignore": "true", "kubernetes.io/egress-bandwidth": "77M"});
    kubernetes
        .pod("ignored", labels, hands_off, json!({}))
        .await?;
    let mut spec = external("bulk", "1h", "Hold");
    spec["bestEffort"][0]["selector"] = json!({"matchLabels": {"tier": "bulk"}});
    let token = world.apply("floor", spec).await;
    world.add("actuator").await?;

    // above the ceiling; the pods have no limit, so this is a cut
    send(&world, &token, "bulk", 10, 1, 1e12).await;
    world.limited("bulk", Some("200M")).await;
    // 1 bit/s: the floor, not "unlimited", which is what Cilium makes of it
    send(&world, &token, "bulk", 10, 2, 1.0).await;
    world.limited("bulk", Some("10M")).await;
    world
        .counted(
            "actuator",
            "laneguard_actuator_commands_clamped_total",
            &[],
            1.0,
        )
        .await;
    assert!(
        !world
            .logged("actuator", "out of the class's bounds")
            .is_empty()
    );
    // from there up only in steps, on its own
    send(&world, &token, "bulk", 10, 3, 50e6).await;
    world.limited("bulk", Some("50M")).await;
    let held_back = "laneguard_actuator_raises_held_back_total";
    world.counted("actuator", held_back, &[], 1.0).await;

    // pods that must not be touched were not, and the outcome says which and why
    let done = outcome(&world, "the outcome", |o| o.sequence == 3 && !o.refused).await;
    assert_eq!((done.matched, done.changed), (2, 2), "{done:?}");
    let reasons: Vec<&str> = done.not_covered.iter().map(|n| n.reason.as_str()).collect();
    for reason in ["critical", "host_network", "ignored"] {
        assert!(reasons.contains(&reason), "{done:?}");
    }
    untouched(&world).await;

    // older in sequence, older in term
    send(&world, &token, "bulk", 10, 2, 190e6).await;
    let refused = outcome(&world, "the refusal", |o| {
        o.refused_reason == "older_sequence"
    })
    .await;
    assert_eq!(
        (refused.term, refused.sequence, refused.highest_term),
        (10, 2, 10)
    );
    send(&world, &token, "bulk", 9, 99, 190e6).await;
    let refused = outcome(&world, "the refusal", |o| o.refused_reason == "older_term").await;
    assert_eq!((refused.term, refused.highest_term), (9, 10));
    for reason in ["older_sequence", "older_term"] {
        let counted: f64 = world
            .metric("actuator", COMMANDS_TOTAL, &[("result", reason)])
            .await;
        assert!(counted >= 1.0, "{reason} is counted");
        let lines = world.logged("actuator", "");
        assert!(
            lines.iter().any(|line| line["reason"] == reason),
            "{reason} is logged"
        );
    }

    // garbage, in every form
    let raw = async_nats::jetstream::new(async_nats::connect(world.nats_url()).await?);
    let on = subject::command("default", &token, "bulk");
    let mut not_a_number = command(&token, "bulk", 11, 1, 50e6);
    not_a_number.limit_bps = Some(f64::NAN);
    let not_a_number = laneguard_proto::codec::encode(&not_a_number, Default::default())?;
    let mut elsewhere = command("somebody_else", "bulk", 11, 1, 190e6);
    elsewhere.valid_for = Some(to_wire(Duration::from_secs(60)));
    let elsewhere = laneguard_proto::codec::encode(&elsewhere, Default::default())?;
    let garbage = [
        b"\xff\xfe garbage".to_vec(),
        Vec::new(),
        vec![0; 600_000],
        not_a_number,
        elsewhere,
    ];
    for (number, bytes) in garbage.into_iter().enumerate() {
        raw.publish(on.clone(), bytes.into()).await?.await?;
        world
            .counted(
                "actuator",
                REFUSED,
                &[("kind", "command")],
                (number + 1) as f64,
            )
            .await;
    }
    let lines = world.logged("actuator", "");
    assert!(
        lines
            .iter()
            .any(|line| line["subject"] == on.as_str() && line["level"] == "WARN"),
        "garbage is logged with its subject"
    );

    // the stream is wiped: what is on the pods stays, older commands still count as older
    raw.get_stream(COMMANDS.name).await?.purge().await?;
    raw.delete_stream(COMMANDS.name).await?;
    until(
        "the stream's return",
        async || raw.get_stream(COMMANDS.name).await.is_ok(),
        |there| *there,
    )
    .await;
    let before = world
        .metric("actuator", COMMANDS_TOTAL, &[("result", "older_term")])
        .await;
    send(&world, &token, "bulk", 9, 100, 190e6).await;
    world
        .counted(
            "actuator",
            COMMANDS_TOTAL,
            &[("result", "older_term")],
            before + 1.0,
        )
        .await;
    world.limited("bulk", Some("50M")).await;

    // the policies are wiped: nothing was deleted, so nothing is restored, and they come back
    let name = format!("KV_{}", POLICIES.name);
    raw.delete_stream(&name).await?;
    until(
        "the policy's return",
        async || world.entry(&token).await.is_some(),
        |there| *there,
    )
    .await;
    world
        .counted("actuator", "laneguard_actuator_reasserted_total", &[], 1.0)
        .await;
    assert!(
        !world
            .logged("actuator", "the bucket had lost this key")
            .is_empty()
    );
    world.limited("bulk", Some("50M")).await;

    let numbers = |pods: Vec<View>| -> Vec<Value> {
        let records = pods.into_iter().filter_map(|pod| pod.record);
        records
            .map(|record| json!([record["term"], record["sequence"]]))
            .collect()
    };
    assert_eq!(
        numbers(world.kubernetes.pods("bulk").await),
        [json!([10, 3]), json!([10, 3])]
    );
    // an actuator that starts only now knows the highest numbers from the pods, whatever the streams lost
    let first = world.replicas("actuator")[0].clone();
    world.remove(&first).await;
    for stream in BUCKETS.iter().filter(|b| b.name != POLICIES.name) {
        raw.delete_stream(format!("KV_{}", stream.name)).await?;
    }
    world.add("actuator").await?;
    send(&world, &token, "bulk", 10, 1, 190e6).await;
    world
        .counted(
            "actuator",
            COMMANDS_TOTAL,
            &[("result", "older_sequence")],
            1.0,
        )
        .await;
    world.limited("bulk", Some("50M")).await;

    // and a good command is carried out after all that
    send(&world, &token, "bulk", 11, 1, 60e6).await;
    world.limited("bulk", Some("60M")).await;
    untouched(&world).await;
    let seen: Vec<Option<String>> = world
        .record
        .limits()
        .into_iter()
        .filter(|seen| seen.pod.starts_with("bulk-"))
        .map(|seen| seen.limit)
        .collect();
    for limit in &seen {
        let expected = ["10M", "20M", "40M", "50M", "60M", "200M"];
        let limit = limit.as_deref();
        assert!(limit.is_none_or(|l| expected.contains(&l)), "{seen:?}");
    }
    world.all_run();
    world.finish().await;
    Ok(())
}

/// The pods that are out of bounds are as they were.
async fn untouched(world: &World) {
    for (app, limit) in [
        ("safety-scanner", None),
        ("robot", None),
        ("host", None),
        ("ignored", Some("77M")),
    ] {
        for pod in world.kubernetes.pods(app).await {
            assert_eq!(
                (pod.limit.as_deref(), &pod.record),
                (limit, &None),
                "{}",
                pod.name
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_command_leads_to_what_the_policy_says_also_after_a_restart_and_a_renewal_writes_to_no_pod()
 {
    expiry(Where::StandIn).await.unwrap();
}

pub(crate) async fn expiry(place: Where) -> anyhow::Result<()> {
    let mut world = World::start(&place, &[]).await?;
    let after = Duration::from_secs(4);
    let actions = [
        ("Hold", OnStale::Hold),
        ("Protect", OnStale::Protect),
        ("Release", OnStale::Release),
    ];
    world.add("actuator").await?;
    for (action, on_stale) in actions {
        let name = action.to_lowercase();
        let found = json!({"kubernetes.io/egress-bandwidth": "150M"});
        world
            .kubernetes
            .deployment(&name, 1, json!({}), found)
            .await?;
        let token = world.apply(&name, external(&name, "4s", action)).await;
        let mut first = command(&token, "bulk", 5, 1, 80e6);
        first.valid_for = Some(to_wire(after));
        first.on_stale = on_stale.into();
        publish(&world, &first).await;
        world.limited(&name, Some("80M")).await;
    }
    let versions = |pods: Vec<View>| -> Vec<_> {
        pods.into_iter().map(|pod| (pod.name, pod.record)).collect()
    };
    let before = versions(world.kubernetes.all_pods().await);
    // renewals keep them in force for longer than one validity, and write to no pod
    let writes = world
        .metric("actuator", "laneguard_actuator_writes_total", &[])
        .await;
    let renewed = tokio::time::Instant::now();
    loop {
        for (action, on_stale) in actions {
            let token = world.token(&action.to_lowercase());
            let mut renewed = command(&token, "bulk", 5, 1, 80e6);
            renewed.valid_for = Some(to_wire(after));
            renewed.on_stale = on_stale.into();
            publish(&world, &renewed).await;
        }
        if renewed.elapsed() > after + Duration::from_secs(1) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert_eq!(versions(world.kubernetes.all_pods().await), before);
    let after_renewals = world
        .metric("actuator", "laneguard_actuator_writes_total", &[])
        .await;
    assert_eq!(writes, after_renewals, "a renewal writes to no pod");

    // nobody renews any more
    world.limited("protect", Some("10M")).await;
    world.limited("release", Some("150M")).await;
    world
        .counted("actuator", "laneguard_actuator_expirations_total", &[], 3.0)
        .await;
    world.limited("hold", Some("80M")).await;
    assert!(
        !world.logged("actuator", "nobody renews").is_empty(),
        "an expiry is logged"
    );

    // a decider that comes back revives them; then the actuator dies, and a new one finds an old command and a limit nobody renews
    for (action, on_stale) in actions {
        let token = world.token(&action.to_lowercase());
        let mut again = command(&token, "bulk", 6, 1, 20e6);
        again.valid_for = Some(to_wire(after));
        again.on_stale = on_stale.into();
        publish(&world, &again).await;
        world.limited(&action.to_lowercase(), Some("20M")).await;
    }
    let first = world.replicas("actuator")[0].clone();
    world.remove(&first).await;
    // the new one reaches only the API server
    world.setting("NATS_URL", "nats://127.0.0.1:9");
    world.launch("actuator").await?;
    world.limited("protect", Some("10M")).await;
    world.limited("release", Some("150M")).await;
    world.limited("hold", Some("20M")).await;
    world.all_run();
    world.finish().await;
    Ok(())
}
