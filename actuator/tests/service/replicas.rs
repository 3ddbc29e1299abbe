//! Several replicas: one writes, another goes on.

use std::net::SocketAddr;

use k8s_openapi::api::coordination::v1::Lease;
use laneguard_tests::wait::until;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::world::{Actuator, World};

async fn holder(world: &World) -> Option<String> {
    let leases: kube::Api<Lease> = kube::Api::namespaced(world.client.clone(), "laneguard");
    let lease = leases.get("laneguard-actuator").await.ok()?;
    lease
        .spec?
        .holder_identity
        .filter(|holder| !holder.is_empty())
}

/// The replica that leads.
async fn leader(actuators: &[Actuator]) -> usize {
    let leading = async || {
        let mut leading = Vec::new();
        for (n, actuator) in actuators.iter().enumerate() {
            if actuator.metric("laneguard_actuator_leader").await == 1.0 {
                leading.push(n);
            }
        }
        leading
    };
    until("one leader", leading, |leading| leading.len() == 1).await[0]
}

fn pid(actuator: &Actuator) -> Pid {
    Pid::from_raw(actuator.child.id().unwrap() as i32)
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_leader_dies_or_stops_another_goes_on_without_a_jump() {
    let world = World::new().await;
    world.pod("a", json!({}), json!({})).await;
    world.policy(json!({})).await;
    let mut actuators = vec![
        world.started(&[]).await,
        world.started(&[]).await,
        world.started(&[]).await,
    ];
    world.command(1, 1, 80.0).await;
    world.limited("a", Some("80M")).await;
    let before = world.versions().await;

    let dead = actuators.remove(leader(&actuators).await);
    kill(pid(&dead), Signal::SIGKILL).unwrap();
    let first = leader(&actuators).await;
    assert_eq!(world.versions().await, before, "taking over writes nothing");
    world.command(1, 2, 70.0).await;
    world.limited("a", Some("70M")).await;
    world
        .outcome("the outcome", |o| o.sequence == 2 && o.changed == 1)
        .await;

    // an orderly end gives the lease up at once
    let held = holder(&world).await.unwrap();
    let mut stopped = actuators.remove(first);
    kill(pid(&stopped), Signal::SIGTERM).unwrap();
    assert!(stopped.child.wait().await.unwrap().success());
    until(
        "release",
        async || stopped.log(),
        |log| log.contains("lease released"),
    )
    .await;
    until(
        "another holder",
        async || holder(&world).await,
        |now| now.as_ref().is_some_and(|n| *n != held),
    )
    .await;
    world.command(1, 3, 60.0).await;
    world.limited("a", Some("60M")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_was_paused_wakes_up_and_writes_nothing_old() {
    let world = World::new().await;
    world.pod("a", json!({}), json!({})).await;
    world.policy(json!({})).await;
    let actuators = vec![world.started(&[]).await, world.started(&[]).await];
    world.command(1, 1, 80.0).await;
    world.limited("a", Some("80M")).await;
    let paused = leader(&actuators).await;
    kill(pid(&actuators[paused]), Signal::SIGSTOP).unwrap();
    let other = &actuators[1 - paused];
    until(
        "take-over",
        async || other.metric("laneguard_actuator_leader").await,
        |leads| *leads == 1.0,
    )
    .await;
    world.command(1, 2, 70.0).await;
    world.limited("a", Some("70M")).await;
    let before = world.versions().await;
    kill(pid(&actuators[paused]), Signal::SIGCONT).unwrap();
    let leads = async || actuators[paused].metric("laneguard_actuator_leader").await;
    until("stepping down", leads, |leads| *leads == 0.0).await;
    assert_eq!(world.versions().await, before);
}

/// A road to NATS that can be cut.
struct Road {
    address: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl Road {
    async fn to(nats: &str) -> Self {
        let target = nats.trim_start_matches("nats://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            // ends with its connections when aborted
            let mut connections = JoinSet::new();
            while let Ok((mut near, _)) = listener.accept().await {
                let target = target.clone();
                connections.spawn(async move {
                    if let Ok(mut far) = TcpStream::connect(target).await {
                        let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                    }
                });
            }
        });
        Self { address, task }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_cut_off_from_nats_leaves_the_lease_to_one_that_hears_commands() {
    let world = World::new().await;
    world.pod("a", json!({}), json!({})).await;
    world.policy(json!({})).await;
    let road = Road::to(&world.nats_url()).await;
    let by_road = format!("nats://{}", road.address);
    let cut_off = world.started(&[("NATS_URL", &by_road)]).await;
    let other = world.started(&[]).await;
    world.command(1, 1, 80.0).await;
    world.limited("a", Some("80M")).await;
    assert_eq!(cut_off.metric("laneguard_actuator_leader").await, 1.0);
    road.task.abort();
    let leads = async || other.metric("laneguard_actuator_leader").await;
    until("take-over", leads, |leads| *leads == 1.0).await;
    world.command(1, 2, 70.0).await;
    world.limited("a", Some("70M")).await;
}
