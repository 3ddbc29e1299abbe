//! How long the loop takes and what it costs: real services (release builds), a real nats-server, and a real API server where
//! `KUBEBUILDER_ASSETS` or `KUBECONFIG` leads to one. Every number stands beside a baseline of the same run; raw values go to a folder.
//! Run it by `cargo xtask bench`.

mod measure;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, Patch, PatchParams, WatchEvent, WatchParams};
use laneguard_proto::duration::timestamp_from_ms;
use laneguard_proto::subject::{self, Kind};
use laneguard_proto::v1::{Command, Decision, Sample, sample::Quality};
use laneguard_runtime::bus::{Publish, Start};
use laneguard_runtime::clock::unix_ms;
use laneguard_tests::kubernetes::{EGRESS, Real, Where};
use laneguard_tests::world::World;
use serde_json::json;
use tokio::sync::mpsc;

/// Commands whose way is timed.
const COMMANDS: usize = 1000;
/// Pods whose first limit is timed.
const PODS: usize = 300;
/// How long processor time is measured.
const SPAN: Duration = Duration::from_secs(30);

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::disallowed_methods, reason = "a benchmark measures real time")]
async fn main() -> anyhow::Result<()> {
    let out = std::env::var_os("LANEGUARD_BENCH_OUT")
        .map_or_else(|| PathBuf::from("bench-results"), PathBuf::from);
    std::fs::create_dir_all(&out)?;
    let place = match Real::find().await? {
        Some(real) => {
            println!("Kubernetes API: a real server");
            Where::Real(real)
        }
        None => {
            println!("Kubernetes API: the stand-in, in this process");
            Where::StandIn
        }
    };
    let started = Instant::now();
    latency(&place, &out).await?;
    println!(
        "\nraw values: {} ({:.0?})",
        out.display(),
        started.elapsed()
    );
    Ok(())
}

/// From the sample's acknowledgement on, milliseconds.
struct Way {
    decision: f64,
    command: f64,
    annotation: f64,
}

enum Event {
    Decision(f64, Instant),
    Command(f64, Instant),
    Limit(String, Option<String>, Instant),
}

#[expect(clippy::disallowed_methods, reason = "a benchmark measures real time")]
fn follow(world: &World, events: &mpsc::Sender<Event>) {
    let mut decisions = world
        .bus()
        .subscribe::<Decision>(Kind::Decision, Start::New);
    let to = events.clone();
    tokio::spawn(async move {
        while let Some(received) = decisions.next().await {
            let limit = received.message.limits.first().and_then(|l| l.after_bps);
            let event = Event::Decision(limit.unwrap_or(0.0), Instant::now());
            if to.send(event).await.is_err() {
                return;
            }
        }
    });
    let mut commands = world.bus().subscribe::<Command>(Kind::Command, Start::New);
    let to = events.clone();
    tokio::spawn(async move {
        while let Some(received) = commands.next().await {
            let event = Event::Command(received.message.limit_bps.unwrap_or(0.0), Instant::now());
            if to.send(event).await.is_err() {
                return;
            }
        }
    });
    let (pods, to): (Api<Pod>, _) = (world.kubernetes.pods_api(), events.clone());
    tokio::spawn(async move {
        let mut version = "0".to_owned();
        loop {
            let Ok(stream) = pods.watch(&WatchParams::default(), &version).await else {
                continue;
            };
            let mut stream = stream.boxed();
            while let Ok(Some(event)) = stream.try_next().await {
                if let WatchEvent::Added(pod) | WatchEvent::Modified(pod) = event {
                    let at = Instant::now();
                    version = pod.metadata.resource_version.clone().unwrap_or_default();
                    let limit = pod
                        .metadata
                        .annotations
                        .as_ref()
                        .and_then(|a| a.get(EGRESS));
                    let name = pod.metadata.name.clone().unwrap_or_default();
                    let event = Event::Limit(name, limit.cloned(), at);
                    if to.send(event).await.is_err() {
                        return;
                    }
                }
            }
        }
    });
}

fn spec() -> serde_json::Value {
    json!({
        "mode": "Enforce",
        "critical": [{"workload": "robot", "targets": [{"metric": "P95", "below": "10ms"}, {"metric": "Jitter", "below": "5ms"}]}],
        "bestEffort": [{"class": "bulk", "selector": {"matchLabels": {"priority": "best-effort"}}, "bandwidth": {"min": "10M", "max": "2G"}}],
        "control": {"law": "Threshold", "threshold": {"cooldown": "0s", "aggressiveDecrease": "1M", "gentleDecrease": "1M", "increaseStep": "1M"}},
        "onStale": {"action": "Hold", "after": "10m"}
    })
}

fn sample(policy: &str, workload: &str, sequence: u64, jitter_ms: f64) -> Sample {
    let now = unix_ms();
    Sample {
        cluster: "default".into(),
        policy: policy.into(),
        workload: workload.into(),
        sequence,
        window_start: Some(timestamp_from_ms(now - 1000)),
        window_end: Some(timestamp_from_ms(now)),
        observed_at: Some(timestamp_from_ms(now)),
        source: "bench".into(),
        quality: Quality::Good.into(),
        raw: Some(measure::signals(jitter_ms)),
        count: Some(200.0),
        request_rate: Some(200.0),
        ..Sample::default()
    }
}

async fn next(events: &mut mpsc::Receiver<Event>) -> anyhow::Result<Event> {
    tokio::time::timeout(Duration::from_secs(30), events.recv())
        .await
        .context("nothing happened for 30 s")?
        .context("the followers ended")
}

#[expect(clippy::disallowed_methods, reason = "a benchmark measures real time")]
async fn latency(place: &Where, out: &Path) -> anyhow::Result<()> {
    let mut world = World::start(place, &[]).await?;
    let labels = json!({"priority": "best-effort", "app": "bulk"});
    world
        .kubernetes
        .pod("bulk-0", labels.clone(), json!({}), json!({}))
        .await?;
    let actuator = world.add("actuator").await?;
    let decider = world.add("decider").await?;
    let collector = world.add("collector").await?;
    let policy = world.apply("bench", spec()).await;
    // the collector stays out of this policy's way: it would measure that there is nothing
    world.remove(&collector).await;
    let (to, mut events) = mpsc::channel(4096);
    follow(&world, &to);
    let workload = format!("{}_robot", world.kubernetes.namespace);
    let subject = subject::sample("default", &policy, &workload);

    let first = unix_ms().max(0) as u64 + 1_000_000;
    let mut limit = 2000;
    let mut rows = String::from("command,ack_ms,decision_ms,command_ms,annotation_ms\n");
    let mut ways = Vec::with_capacity(COMMANDS);
    let mut acks = Vec::with_capacity(COMMANDS);
    // the first rounds warm up: ownership, placement, connections
    for round in 0..COMMANDS + 20 {
        let sample = sample(&policy, &workload, first + round as u64, 50.0);
        let sent = Instant::now();
        world
            .bus()
            .publish(&subject, &sample, Publish::default())
            .await?;
        let stored = Instant::now();
        let (mut decision, mut command) = (None, None);
        let wanted = f64::from(limit - 1) * 1e6;
        let annotation = loop {
            let event = match tokio::time::timeout(Duration::from_secs(3), next(&mut events)).await
            {
                Ok(event) => event?,
                // before ownership is settled a sample may find no owner
                Err(_) if round < 20 => break None,
                Err(_) => anyhow::bail!("command {round} did not reach the pod"),
            };
            match event {
                Event::Decision(bps, at) if bps == wanted => decision = Some(at),
                Event::Command(bps, at) if bps == wanted => command = Some(at),
                Event::Limit(_, Some(text), at) if text == format!("{}M", limit - 1) => {
                    break Some(at);
                }
                _ => {}
            }
        };
        let Some(annotation) = annotation else {
            continue;
        };
        limit -= 1;
        // the follower of a stream may be a moment behind the pod's watch
        while decision.is_none() || command.is_none() {
            match next(&mut events).await? {
                Event::Decision(bps, at) if bps == wanted => decision = Some(at),
                Event::Command(bps, at) if bps == wanted => command = Some(at),
                _ => {}
            }
        }
        if round < 20 {
            continue;
        }
        let since = |at: Instant| at.saturating_duration_since(stored).as_secs_f64() * 1e3;
        let way = Way {
            decision: decision.map_or(0.0, since),
            command: command.map_or(0.0, since),
            annotation: since(annotation),
        };
        let ack = (stored - sent).as_secs_f64() * 1e3;
        writeln!(
            rows,
            "{},{ack:.3},{:.3},{:.3},{:.3}",
            round - 20,
            way.decision,
            way.command,
            way.annotation
        )?;
        acks.push(ack);
        ways.push(way);
    }
    std::fs::write(out.join("sample-to-annotation.csv"), rows)?;

    println!(
        "\nFrom the sample's acknowledgement by NATS, {} commands, one policy, one pod",
        ways.len()
    );
    println!("{:<52}{:>10}{:>10}{:>10}", "", "median", "p99", "worst");
    row("baseline: publish a sample, acknowledged", acks);
    row(
        "baseline: our own patch of a pod, seen by watch",
        own_patches(&world, &mut events).await?,
    );
    row(
        "decision received",
        ways.iter().map(|w| w.decision).collect(),
    );
    row("command received", ways.iter().map(|w| w.command).collect());
    row(
        "annotation seen by watch",
        ways.iter().map(|w| w.annotation).collect(),
    );

    new_pods(&world, &mut events, &labels, out).await?;

    println!("\nIdle: one policy, no samples, {} s", SPAN.as_secs());
    let names = [actuator, decider, world.add("collector").await?];
    footprint(&mut world, &names).await?;
    world.kubernetes.clean_up().await;
    world.finish().await;
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "a benchmark measures real time")]
async fn own_patches(
    world: &World,
    events: &mut mpsc::Receiver<Event>,
) -> anyhow::Result<Vec<f64>> {
    let pods = world.kubernetes.pods_api();
    world
        .kubernetes
        .pod("baseline", json!({"app": "baseline"}), json!({}), json!({}))
        .await?;
    let mut times = Vec::new();
    for n in 0..200 {
        let value = format!("{}k", 5000 + n);
        let patch = Patch::Merge(json!({"metadata": {"annotations": {EGRESS: value}}}));
        let sent = Instant::now();
        pods.patch("baseline", &PatchParams::default(), &patch)
            .await?;
        loop {
            if let Event::Limit(name, Some(text), at) = next(events).await?
                && name == "baseline"
                && text == value
            {
                times.push(at.saturating_duration_since(sent).as_secs_f64() * 1e3);
                break;
            }
        }
    }
    Ok(times)
}

/// How long a pod that is created later goes without the limit in force.
#[expect(clippy::disallowed_methods, reason = "a benchmark measures real time")]
async fn new_pods(
    world: &World,
    events: &mut mpsc::Receiver<Event>,
    labels: &serde_json::Value,
    out: &Path,
) -> anyhow::Result<()> {
    let mut times = Vec::new();
    let mut rows = String::from("pod,created_to_limited_ms\n");
    for n in 0..PODS {
        let name = format!("late-{n}");
        world
            .kubernetes
            .pod(&name, labels.clone(), json!({}), json!({}))
            .await?;
        let created = Instant::now();
        let took = loop {
            if let Event::Limit(pod, Some(_), at) = next(events).await?
                && pod == name
            {
                break at.saturating_duration_since(created).as_secs_f64() * 1e3;
            }
        };
        writeln!(rows, "{name},{took:.3}")?;
        times.push(took);
    }
    std::fs::write(out.join("new-pod.csv"), rows)?;
    row(&format!("{PODS} new pods: created until limited"), times);
    Ok(())
}

fn row(name: &str, mut values: Vec<f64>) {
    if let Some([median, p99, worst]) = measure::quantiles(&mut values) {
        println!("{name:<52}{median:>7.1} ms{p99:>7.1} ms{worst:>7.1} ms");
    }
}

async fn footprint(world: &mut World, names: &[String]) -> anyhow::Result<()> {
    let ids: Vec<(String, u32)> = names
        .iter()
        .filter_map(|name| Some((name.clone(), world.service(name).id()?)))
        .collect();
    let before: Vec<_> = ids
        .iter()
        .map(|(_, id)| measure::usage(*id))
        .collect::<Result<_, _>>()?;
    tokio::time::sleep(SPAN).await;
    for ((name, id), (seconds, _)) in ids.iter().zip(before) {
        let (now, memory) = measure::usage(*id)?;
        let share = (now - seconds) / SPAN.as_secs_f64() * 100.0;
        println!("{name:<52}{share:>7.2} % of a core{memory:>9.1} MiB");
    }
    Ok(())
}
