//! The lab as a process: it measures, it notices what dies, and it leaves nothing behind.
#![expect(clippy::unwrap_used, reason = "helpers of tests may panic as well")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use laneguard_lab::exporter::{Exporter, hubble};
use laneguard_lab::raw::{self, Outcome, PodAction, PodEvent, Request};
use laneguard_lab::scenario::Buckets;
use laneguard_lab::servers::http_client;
use laneguard_lab::servers::nats::Nats;
use laneguard_lab::servers::prometheus::{Job, Prometheus};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

const PATIENCE: Duration = Duration::from_secs(30);

fn lab() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_laneguard-lab"));
    command.kill_on_drop(true);
    command
}

/// Whether this machine can run the lab. Root must be able to.
async fn possible() -> bool {
    let output = lab().arg("check").output().await.unwrap();
    let reason = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() {
        return true;
    }
    assert!(!geteuid().is_root(), "root cannot run the lab: {reason}");
    eprintln!("skipped: {reason}");
    false
}

fn start(folder: &Path, phases: &str) -> Child {
    lab()
        .args(["run", "--without", "--phases", phases, "--out"])
        .arg(folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what} did not happen");
        sleep(Duration::from_millis(20)).await;
    }
}

fn load_has_begun(folder: &Path) -> bool {
    fs::read_to_string(folder.join("phases.csv")).is_ok_and(|text| text.contains("load"))
}

/// Processes of the lab that writes to `folder`: each has the folder on its command line or as an open file.
fn processes(folder: &Path) -> Vec<(i32, String)> {
    let belongs = |pid: i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        let named = line.contains(&*folder.to_string_lossy());
        let open = fs::read_dir(format!("/proc/{pid}/fd"))
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| fs::read_link(entry.path()).ok())
            .any(|file| file.starts_with(folder));
        (named || open).then_some((pid, line))
    };
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| entry.file_name().to_string_lossy().parse().ok())
        .filter_map(belongs)
        .collect()
}

fn send(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).unwrap();
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test]
async fn an_unprotected_run_violates_and_its_score_follows_from_the_raw_logs_alone() {
    if !possible().await {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let run = start(folder.path(), "idle:1,load:4,idle:1");
    let output = run.wait_with_output().await.unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let summary = folder.path().join("summary.json");
    let shown = fs::read_to_string(&summary).unwrap();
    let score: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert!(
        score["loads"][0]["violating"].as_u64().unwrap() > 0,
        "{shown}"
    );
    assert!(score["goodput_percent"].as_f64().unwrap() > 50.0, "{shown}");

    fs::remove_file(&summary).unwrap();
    let output = lab()
        .arg("score")
        .arg(folder.path())
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(fs::read_to_string(&summary).unwrap(), shown);
}

#[tokio::test]
async fn with_laneguard_fewer_windows_violate_and_every_limit_is_explained_by_a_decision() {
    if !possible().await {
        return;
    }
    for service in ["collector", "decider", "actuator"] {
        let binary = Path::new(env!("CARGO_BIN_EXE_laneguard-lab"))
            .with_file_name(format!("laneguard-{service}"));
        let hint =
            "run the tests with `cargo xtask test`, or `cargo build --workspace --bins` before";
        assert!(
            binary.is_file(),
            "{} is not built; {hint}",
            binary.display()
        );
    }
    let folder = tempfile::tempdir().unwrap();
    let output = lab()
        .args(["demo", "--phases", "idle:4,load:15,idle:1", "--out"])
        .arg(folder.path())
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let summary = fs::read_to_string(folder.path().join("summary.json")).unwrap();
    let summary: serde_json::Value = serde_json::from_str(&summary).unwrap();
    assert_eq!(summary["with"]["pods_restarted"], 0, "{summary}");

    let decisions = fs::read_to_string(folder.path().join("with/decisions.jsonl")).unwrap();
    let decided: BTreeSet<u64> = decisions
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .inspect(|decision| assert!(!decision["reason"].as_str().unwrap().is_empty()))
        .filter_map(|decision| decision["limits"][0]["afterBps"].as_f64())
        .map(|bits| bits as u64)
        .collect();
    let applied: Vec<u64> = raw::read::<PodEvent>(&folder.path().join("with"))
        .unwrap()
        .into_iter()
        .filter_map(|event| match event.action {
            PodAction::Limited(bits) => Some(bits),
            _ => None,
        })
        .collect();
    assert!(!applied.is_empty());
    for limit in applied {
        assert!(decided.contains(&limit), "{limit} is not among {decided:?}");
    }
}

#[tokio::test]
async fn killing_the_lab_leaves_no_process_and_no_namespace() {
    if !possible().await {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut run = start(folder.path(), "load:60");
    until("the load", || load_has_begun(folder.path())).await;
    assert!(processes(folder.path()).len() > 5);
    run.start_kill().unwrap();
    run.wait().await.unwrap();
    until("the end of all processes", || {
        processes(folder.path()).is_empty()
    })
    .await;
    assert!(!Path::new("/run/netns/lab-node-a").exists());
}

#[tokio::test]
async fn an_interrupt_ends_the_run() {
    if !possible().await {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let run = start(folder.path(), "load:60");
    until("the load", || load_has_begun(folder.path())).await;
    send(i32::try_from(run.id().unwrap()).unwrap(), Signal::SIGINT);
    let output = run.wait_with_output().await.unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
    until("the end of all processes", || {
        processes(folder.path()).is_empty()
    })
    .await;
}

#[tokio::test]
async fn a_part_that_dies_ends_the_run_with_its_log() {
    if !possible().await {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let run = start(folder.path(), "load:60");
    let sender = || {
        processes(folder.path())
            .into_iter()
            .find(|(_, line)| line.contains("iperf3 -c"))
    };
    until("a sender", || sender().is_some()).await;
    send(sender().unwrap().0, Signal::SIGKILL);
    let output = run.wait_with_output().await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = stderr(&output);
    assert!(error.contains("ended unexpectedly"), "{error}");
    assert!(error.contains("iperf3-"), "{error}");
}

#[tokio::test]
async fn nats_keeps_address_and_store_over_a_crash() {
    let folder = tempfile::tempdir().unwrap();
    let mut nats = Nats::start(folder.path()).await.unwrap();
    let (url, store) = (nats.url(), nats.store());
    nats.kill().await;
    assert!(nats.process().check().is_err());
    let nats = nats.restart().await.unwrap();
    assert_eq!(nats.url(), url);
    assert!(store.is_dir());
}

#[tokio::test]
async fn prometheus_reads_quantiles_from_the_exporter() {
    let folder = tempfile::tempdir().unwrap();
    let metrics = hubble::Metrics::new(Buckets::Default);
    let page = metrics.clone();
    let exporter = Exporter::start(Arc::new(move || page.page()))
        .await
        .unwrap();
    let jobs = [Job {
        name: "hubble".to_owned(),
        target: exporter.address(),
    }];
    let interval = Duration::from_millis(200);
    let prometheus = Prometheus::start(folder.path(), interval, &jobs)
        .await
        .unwrap();
    let client = http_client().unwrap();
    let query = "histogram_quantile(0.95, sum(rate(hubble_http_request_duration_seconds_bucket{\
        destination_workload=\"robot-factory\",reporter=\"client\"}[2s])) by (le)) > 0.05 < 0.1";
    let deadline = Instant::now() + PATIENCE;
    loop {
        assert!(Instant::now() < deadline, "the quantile never came");
        metrics.observe(&Request {
            intended_ns: 0,
            latency_us: 60_000,
            wire_us: 60_000,
            outcome: Outcome::Status(200),
        });
        let url = format!("{}/api/v1/query", prometheus.url());
        let answer = client.get(url).query(&[("query", query)]).send().await;
        let text = answer.unwrap().text().await.unwrap();
        if text.contains("\"value\"") {
            break;
        }
        sleep(Duration::from_millis(50)).await;
    }
}
