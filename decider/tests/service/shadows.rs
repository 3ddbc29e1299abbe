//! Laws in shadow: on the stream, marked, and without consequence.

use super::*;
use laneguard_proto::header;

#[tokio::test(flavor = "multi_thread")]
async fn shadow_decisions_are_published_marked_and_no_command_follows_them() {
    let mut world = World::new().await;
    let mut spec = spec("Observe");
    spec["control"]["shadow"] = json!([{"name": "steps", "law": "Threshold", "alpha": 1.0, "threshold": {"aggressiveDecrease": "70M"}}]);
    world.policy(2, spec).await;
    let first = Decider::start(&world.url(), "json");
    let mut stream = world
        .shell
        .bus
        .subscribe::<v1::Decision>(Kind::Decision, Start::Ago(Duration::from_secs(600)));
    let mut in_force = (0, 0);
    let mut next = async |world: &mut World| {
        loop {
            tokio::select! {
                received = stream.next() => {
                    let received = received.unwrap();
                    let decision = received.message;
                    let order = (decision.term, decision.sequence);
                    let marked = received.headers.as_ref().and_then(|h| h.get(header::SHADOW)).map(ToString::to_string);
                    assert_eq!(decide::differences(&decision).unwrap(), Vec::<String>::new());
                    if decision.shadow {
                        assert_eq!(marked.as_deref(), Some("steps"));
                        assert_eq!(order, in_force, "it has the number of the decision before it");
                        return decision;
                    }
                    assert_eq!(marked, None);
                    assert!(order > in_force, "decisions in force rise");
                    in_force = order;
                }
                () = tokio::time::sleep(Duration::from_millis(100)) => world.congested().await,
            }
        }
    };
    let before = soon("a shadow decision", next(&mut world)).await;
    assert_eq!(before.shadow_name, "steps");
    let state = world.shell.bus.bucket(STATE);
    let key = laneguard_decider::shadow::key("default", POLICY);
    let kept = async || state.get(&key).await.ok().flatten();
    until("what the shadow knows", kept, Option::is_some).await;
    drop(first); // SIGKILL
    let _second = Decider::start(&world.url(), "protobuf");
    let after = soon("the next owner's", async {
        loop {
            let decision = next(&mut world).await;
            if decision.term > before.term {
                return decision;
            }
        }
    })
    .await;
    assert_eq!(
        after.limits[0].before_bps, before.limits[0].after_bps,
        "the shadow goes on where it was"
    );
    assert_eq!(world.command().await, None);
}
