use std::time::Duration;

use http::StatusCode;
use laneguard_lab_kube::{Fault, Verb};
use laneguard_tests::exporter::Condition;
use laneguard_tests::kubernetes::Where;
use laneguard_tests::record::check_commands;
use laneguard_tests::wait::until;
use laneguard_tests::world::{World, mbps};
use serde_json::{Value, json};

use crate::spec;

const COMMANDS: &str = "laneguard_actuator_commands_total";

/// One step down, then nothing for an hour: a limit that only an outage could change.
fn one_step(app: &str, action: &str) -> Value {
    let mut spec = spec("Enforce", app);
    spec["control"]["threshold"] =
        json!({"cooldown": "1h", "aggressiveDecrease": "50M", "gentleDecrease": "50M"});
    spec["onStale"] = json!({"action": action, "after": "4s"});
    spec
}

#[tokio::test(flavor = "multi_thread")]
async fn nats_may_crash_and_lose_everything_and_the_loop_goes_on_where_it_was() {
    let mut world = World::start(&Where::StandIn, &[]).await.unwrap();
    world
        .kubernetes
        .deployment("bulk", 2, json!({}), json!({}))
        .await
        .unwrap();
    let mut spec = spec("Enforce", "bulk");
    spec["onStale"] = json!({"action": "Protect", "after": "24h"});
    let token = world.apply("floor", spec).await;
    world.telemetry.set("robot", Condition::Congested);
    world.add_all().await.unwrap();
    world.limited("bulk", Some("10M")).await;

    for lose_disk in [false, true, true] {
        let before = world.decision(&token).await.unwrap();
        world.telemetry.set("robot", Condition::Congested);
        world.crash_nats(lose_disk).await.unwrap();
        let entry = until(
            "the policy",
            async || world.entry(&token).await,
            Option::is_some,
        )
        .await
        .unwrap();
        assert_eq!(entry.name, "floor");
        let after = until(
            "a decision after the crash",
            async || world.decision(&token).await,
            |after| {
                after
                    .as_ref()
                    .is_some_and(|a| (a.term, a.sequence) > (before.term, before.sequence))
            },
        )
        .await
        .unwrap();
        assert_eq!(
            after.limits[0].before_bps, before.limits[0].after_bps,
            "no limit was forgotten: {}",
            after.reason
        );
        // and it acts
        world.telemetry.set("robot", Condition::Healthy);
        let raised = |limit: Option<&str>| mbps(limit).is_some_and(|limit| limit > 30.0);
        world.limits_fit("a raised limit", "bulk", raised).await;
        world.telemetry.set("robot", Condition::Congested);
        world.limited("bulk", Some("10M")).await;
    }

    // everything is lost while no decider is there to remember: the next one begins where the pods are
    let decider = world.replicas("decider")[0].clone();
    world.remove(&decider).await;
    world.crash_nats(true).await.unwrap();
    let seen = world.record.limits().len();
    let accepted = [("result", "accepted")];
    let commands = world.metric("actuator", COMMANDS, &accepted).await;
    world.add("decider").await.unwrap();
    world
        .counted("actuator", COMMANDS, &accepted, commands + 1.0)
        .await;
    world.limited("bulk", Some("10M")).await;
    let limits: Vec<_> = world.record.limits().into_iter().skip(seen).collect();
    assert_eq!(limits, [], "the limit did not move");
    check_commands(&world.record.commands());
    world.all_run();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_prometheus_nothing_is_raised_commands_run_out_as_each_policy_says_and_all_comes_back()
 {
    let mut world = World::start(&Where::StandIn, &[]).await.unwrap();
    let actions = ["Hold", "Protect", "Release"];
    for action in actions {
        let name = action.to_lowercase();
        let found = json!({"kubernetes.io/egress-bandwidth": "180M"});
        world
            .kubernetes
            .deployment(&name, 1, json!({}), found)
            .await
            .unwrap();
        world.apply(&name, one_step(&name, action)).await;
    }
    world.telemetry.set("robot", Condition::Congested);
    world.add_all().await.unwrap();
    for action in actions {
        world.limited(&action.to_lowercase(), Some("130M")).await;
    }
    // what would be raised if somebody took nothing for good news
    world.telemetry.set("robot", Condition::Healthy);
    world.kill_prometheus().await;
    world.limited("protect", Some("10M")).await;
    world.limited("release", Some("180M")).await;
    world.limited("hold", Some("130M")).await;
    world
        .counted("actuator", "laneguard_actuator_expirations_total", &[], 3.0)
        .await;
    world
        .counted(
            "collector",
            "laneguard_collector_samples_total",
            &[("quality", "failed")],
            5.0,
        )
        .await;
    assert!(!world.logged("collector", "Prometheus").is_empty());
    let decision = world.decision(&world.token("hold")).await.unwrap();
    assert_eq!(decision.action, "HOLD");
    let raises = world
        .record
        .decisions()
        .into_iter()
        .filter(|d| d.action == "INCREASE")
        .count();
    assert_eq!(raises, 0, "no data is not good data");

    // back, first with nothing to tell: still nothing is raised
    world.telemetry.set("robot", Condition::Gone);
    world.revive_prometheus().await.unwrap();
    world
        .counted(
            "collector",
            "laneguard_collector_samples_total",
            &[("quality", "no_data")],
            5.0,
        )
        .await;
    world.limited("hold", Some("130M")).await;
    world.limited("protect", Some("10M")).await;
    // then with traffic: limits are again what was decided
    world.telemetry.set("robot", Condition::Congested);
    for action in actions {
        world.limited(&action.to_lowercase(), Some("130M")).await;
    }

    // a few requests are no evidence either
    world.telemetry.set("robot", Condition::Quiet);
    world.limited("protect", Some("10M")).await;
    world.limited("hold", Some("130M")).await;
    // but hardly any for long enough means that there is nobody to protect: limits return slowly
    let mut idle = spec("Enforce", "hold");
    idle["idleAfter"] = json!("3s");
    world.apply("hold", idle).await;
    let raised = |limit: Option<&str>| mbps(limit).is_some_and(|limit| limit > 150.0);
    world.limits_fit("a raised limit", "hold", raised).await;
    world.limited("protect", Some("10M")).await;
    world.all_run();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_server_may_refuse_forget_or_go_away_and_limits_converge() {
    let mut world = World::start(&Where::StandIn, &[]).await.unwrap();
    world
        .kubernetes
        .deployment("bulk", 3, json!({}), json!({}))
        .await
        .unwrap();
    let token = world
        .apply("floor", crate::external("bulk", "1h", "Hold"))
        .await;
    let first = world.add("actuator").await.unwrap();
    let mut sequence = 0;
    let mut command = async |world: &World, mbps: f64| {
        sequence += 1;
        crate::hostile::send(world, &token, "bulk", 1, sequence, mbps * 1e6).await;
    };
    command(&world, 100.0).await;
    world.limited("bulk", Some("100M")).await;

    // ordinary refusals of a write, and a write whose answer is lost
    for (number, status) in [409, 410, 422, 429, 500, 503].into_iter().enumerate() {
        let status = StatusCode::from_u16(status).unwrap();
        let fault = Fault::status(status)
            .on(Verb::Patch)
            .path("/pods/")
            .times(2);
        world.kubernetes.stand_in().cluster.inject(fault);
        let limit = 90.0 - number as f64;
        command(&world, limit).await;
        world.limited("bulk", Some(&format!("{limit}M"))).await;
    }
    let fault = Fault::lost_reply().on(Verb::Patch).path("/pods/").times(2);
    world.kubernetes.stand_in().cluster.inject(fault);
    command(&world, 80.0).await;
    world.limited("bulk", Some("80M")).await;

    // watches end and history is forgotten: a new list, and later pods are seen
    let cluster = world.kubernetes.stand_in().cluster.clone();
    let lists = world
        .metric(
            "actuator",
            "laneguard_actuator_lists_total",
            &[("resource", "pods")],
        )
        .await;
    // the actuator's watch is of all namespaces, the test's own is not
    let refused = Fault::status(StatusCode::SERVICE_UNAVAILABLE).on(Verb::Watch);
    cluster.inject(refused.path("/api/v1/pods").times(100));
    cluster.cut_watches();
    let errors = [("resource", "pods")];
    world
        .counted(
            "actuator",
            "laneguard_actuator_watch_errors_total",
            &errors,
            1.0,
        )
        .await;
    world
        .kubernetes
        .pod("unseen", json!({"app": "unseen"}), json!({}), json!({}))
        .await
        .unwrap();
    cluster.compact();
    cluster.clear_faults();
    world
        .counted(
            "actuator",
            "laneguard_actuator_lists_total",
            &[("resource", "pods")],
            lists + 1.0,
        )
        .await;
    world.kubernetes.scale_deployment("bulk", 4).await.unwrap();
    until(
        "four limited pods",
        async || world.kubernetes.limits("bulk").await,
        |limits| limits.len() == 4 && limits.iter().all(|limit| limit.as_deref() == Some("80M")),
    )
    .await;

    // away, long enough to lose the lease
    world.kubernetes.stand_in().down().await;
    command(&world, 70.0).await;
    until(
        "the loss of leadership",
        async || {
            world
                .service(&first)
                .metrics()
                .await
                .sum("laneguard_actuator_leader", &[])
        },
        |leading| *leading == 0.0,
    )
    .await;
    command(&world, 60.0).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    world.kubernetes.stand_in().up().await;
    world.limited("bulk", Some("60M")).await;

    // a rival that would write later than it led: leadership went to the second while the first slept
    let second = world.add("actuator").await.unwrap();
    world.service(&first).pause();
    until(
        "the second's leadership",
        async || {
            world
                .service(&second)
                .metrics()
                .await
                .sum("laneguard_actuator_leader", &[])
        },
        |leading| *leading == 1.0,
    )
    .await;
    command(&world, 50.0).await;
    world.limited("bulk", Some("50M")).await;
    world.service(&first).resume();
    command(&world, 40.0).await;
    world.limited("bulk", Some("40M")).await;
    let mut before = f64::INFINITY;
    for seen in world.record.limits().iter().filter(|s| s.limit.is_some()) {
        if seen.pod == world.kubernetes.pods("bulk").await[0].name {
            let now = mbps(seen.limit.as_deref()).unwrap();
            assert!(now < before, "{before} then {now}: limits only fell");
            before = now;
        }
    }
    world.all_run();
}
