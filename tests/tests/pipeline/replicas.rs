use std::collections::BTreeSet;

use laneguard_decider::memory::Memory;
use laneguard_proto::storage::STATE;
use laneguard_tests::exporter::Condition;
use laneguard_tests::kubernetes::Where;
use laneguard_tests::record::{check_commands, check_decisions};
use laneguard_tests::wait::until;
use laneguard_tests::world::{World, mbps};
use serde_json::json;
use tokio::time::Instant;

#[tokio::test(flavor = "multi_thread")]
async fn owners_die_one_after_the_other_and_the_loop_goes_on_without_a_jump() {
    survive(Where::StandIn).await.unwrap();
}

/// Which replica of a service does the work for the only policy.
async fn owner(world: &mut World, service: &str) -> String {
    let metric = match service {
        "actuator" => "laneguard_actuator_leader",
        "decider" => "laneguard_decider_owned_policies",
        _ => "laneguard_collector_owned_workloads",
    };
    let what = format!("one owner among the {service}s");
    let owners = until(
        &what,
        async || {
            let pages = world.metrics(service).await;
            let owners = pages.iter().filter(|(_, page)| page.sum(metric, &[]) > 0.0);
            owners.map(|(name, _)| name.clone()).collect::<Vec<_>>()
        },
        |owners| owners.len() == 1,
    );
    owners.await.remove(0)
}

/// How often the policy's limit changed on a pod so far.
fn changes(world: &World) -> usize {
    world.record.limits().len()
}

/// Waits until the loop has gone all the way from a sample to a pod again, and says how long that took.
async fn goes_on(world: &mut World, after: &str) {
    let began = Instant::now();
    let sampled = world.record.samples().len();
    let decided = world.record.decisions().len();
    let written = changes(world);
    until(
        &format!("the loop's going on after {after}"),
        async || {
            (
                world.record.samples().len(),
                world.record.decisions().len(),
                changes(world),
            )
        },
        // a change that was under way may still come from before: two of them cannot
        |(samples, decisions, changes)| {
            *samples > sampled + 1 && *decisions > decided + 1 && *changes > written + 2
        },
    )
    .await;
    println!(
        "after {after} the loop goes on in {} ms",
        began.elapsed().as_millis()
    );
}

pub(crate) async fn survive(place: Where) -> anyhow::Result<()> {
    let mut world = World::start(&place, &[]).await?;
    let found = json!({"kubernetes.io/egress-bandwidth": "1G"});
    world
        .kubernetes
        .deployment("bulk", 2, json!({}), found)
        .await?;
    // small steps, so that limits keep falling all the time
    let mut spec = crate::spec("Enforce", "bulk");
    spec["bestEffort"][0]["bandwidth"] = json!({"min": "10M", "max": "1G"});
    spec["control"]["threshold"] = json!({"cooldown": "500ms", "aggressiveDecrease": "5M", "gentleDecrease": "2M", "increaseStep": "1M"});
    let token = world.apply("floor", spec).await;
    world.telemetry.set("robot", Condition::Congested);
    for _ in 0..3 {
        for service in ["actuator", "decider", "collector"] {
            world.launch(service).await?;
        }
    }
    goes_on(&mut world, "the start").await;

    // one of each that is not the owner: nobody should notice
    for service in ["collector", "decider", "actuator"] {
        let owner = owner(&mut world, service).await;
        let other = world
            .replicas(service)
            .into_iter()
            .find(|name| *name != owner);
        world.service(&other.unwrap()).kill().await;
        goes_on(
            &mut world,
            &format!("the death of a {service} that owns nothing"),
        )
        .await;
    }
    // then the owners themselves
    for service in ["collector", "decider", "actuator"] {
        let owner = owner(&mut world, service).await;
        world.service(&owner).kill().await;
        goes_on(&mut world, &format!("the death of the owning {service}")).await;
    }
    // all three at once, with fresh ones standing by
    for service in ["actuator", "decider", "collector"] {
        world.add(service).await?;
    }
    for service in ["collector", "decider", "actuator"] {
        let owner = owner(&mut world, service).await;
        world.service(&owner).kill().await;
    }
    goes_on(&mut world, "the death of all three owners at once").await;

    // owners that are only asleep are replaced, and are refused when they wake up
    for service in ["collector", "decider", "actuator"] {
        world.add(service).await?;
        let asleep = owner(&mut world, service).await;
        world.service(&asleep).pause();
        goes_on(&mut world, &format!("the {service} fell asleep")).await;
        world.service(&asleep).resume();
        let now = owner(&mut world, service).await;
        assert_ne!(
            now, asleep,
            "whoever slept does not own what somebody else took over"
        );
        goes_on(&mut world, &format!("the former {service} woke up")).await;
        assert!(
            world.service(&asleep).is_running(),
            "it waits for its next turn"
        );
        let told = world
            .service(&asleep)
            .log()
            .iter()
            .any(|line| line["message"] == "ownership lost" || line["leading"] == false);
        assert!(told, "{asleep} says that it owns nothing any more");
    }

    // what the streams tell
    check_decisions(&world.record.decisions());
    check_commands(&world.record.commands());
    let verified = world.lanectl(&["verify", "--stream"]).await;
    assert!(verified.output().contains(" 0 different"), "{verified:?}");
    let terms: BTreeSet<u64> = world.record.decisions().iter().map(|d| d.term).collect();
    assert!(terms.len() >= 4, "each owner had its term: {terms:?}");
    let state = world.bus().bucket(STATE);
    let memory = state
        .get(&format!("decider.default.{token}"))
        .await?
        .and_then(|v| Memory::from_json(&v.bytes));
    assert_eq!(memory.map(|m| m.term), terms.last().copied());

    // what the pods saw: only what was decided, in that order
    let decided: BTreeSet<String> = world
        .record
        .decisions()
        .iter()
        .flat_map(|d| &d.limits)
        .filter_map(|limit| limit.after_bps)
        .map(|bps| format!("{}M", bps / 1e6))
        .collect();
    let seen = world.record.limits();
    let pods: BTreeSet<&str> = seen.iter().map(|s| s.pod.as_str()).collect();
    assert_eq!(pods.len(), 2, "no pod was replaced: {pods:?}");
    for pod in pods {
        let mut before: Option<f64> = None;
        for limit in seen.iter().filter(|s| s.pod == pod) {
            let text = limit.limit.as_deref();
            if text == Some("1G") {
                continue; // as found
            }
            let own = decided.contains(text.unwrap_or("none"));
            assert!(own, "{pod} had {text:?}, which nobody decided");
            let now = mbps(text);
            // always congested: whoever skips some decisions, because nobody was there to write, still only goes down
            if let (Some(before), Some(now)) = (before, now) {
                assert!(now < before, "{pod} went from {before}M to {now}M");
            }
            before = now;
        }
    }
    world.finish().await;
    Ok(())
}
