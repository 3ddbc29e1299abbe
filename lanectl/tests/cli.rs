//! The binary against a real nats-server.

#![allow(clippy::unwrap_used)] // a test's helpers fail as the test does

use std::process::{Command, Output, Stdio};

use laneguard_proto::codec::Encoding;
use laneguard_proto::duration::timestamp_from_ms;
use laneguard_proto::overrides::Override;
use laneguard_proto::policy::{Entry, Origin};
use laneguard_proto::storage::{OVERRIDES, POLICIES};
use laneguard_proto::subject;
use laneguard_proto::v1::{Decision, LimitChange};
use laneguard_runtime::bus::Publish;
use laneguard_runtime::clock::unix_ms;
use laneguard_tests::broker::{Broker, Shell};
use laneguard_tests::wait::soon;

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/factory-floor.yaml");
const KEY: &str = "default.factory_factory-floor";

struct Bench {
    broker: Broker,
    shell: Shell,
}

impl Bench {
    async fn new() -> Self {
        let broker = Broker::start().await.unwrap();
        let shell = broker.shell("test", Encoding::Protobuf).await.unwrap();
        soon("storage", shell.bus.ready()).await;
        Self { broker, shell }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lanectl"));
        command.args(args).env("NATS_URL", self.broker.nats.url());
        command
    }

    /// Runs to the end, with this on standard input. Returns exit code, standard output and standard error.
    async fn run(&self, args: &[&str], input: &str) -> (Option<i32>, String, String) {
        let mut command = self.command(args);
        let input = input.to_owned();
        let output: Output = tokio::task::spawn_blocking(move || {
            use std::io::Write as _;
            let mut child = command
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            // a command that refuses its arguments does not read
            let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
            child.wait_with_output().unwrap()
        })
        .await
        .unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (
            output.status.code(),
            text(output.stdout),
            text(output.stderr),
        )
    }

    async fn ok(&self, args: &[&str], input: &str) -> String {
        let (code, out, err) = self.run(args, input).await;
        assert_eq!((code, err.as_str()), (Some(0), ""), "{args:?}");
        out
    }

    async fn refused(&self, args: &[&str], input: &str) -> String {
        let (code, out, err) = self.run(args, input).await;
        assert_eq!((code, out.as_str()), (Some(1), ""), "{args:?}");
        err
    }

    async fn entry(&self) -> Option<Entry> {
        let value = self.shell.bus.bucket(POLICIES).get(KEY).await.unwrap()?;
        Some(Entry::from_json(&value.bytes).unwrap())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_lives_from_apply_to_delete() {
    let bench = Bench::new().await;
    let apply = ["policy", "apply", "-f", EXAMPLE];
    let shown = |word: &str| format!("factory/factory-floor {word}\n");
    assert_eq!(bench.ok(&apply, "").await, shown("created (generation 1)"));
    assert_eq!(
        bench.ok(&apply, "").await,
        shown("unchanged (generation 1)")
    );
    let first = bench.entry().await.unwrap();
    assert_eq!(first.origin, Origin::Lanectl);

    let got = bench
        .ok(&["policy", "get", "factory/factory-floor"], "")
        .await;
    let enforce = got.replace("mode: Observe", "mode: Enforce");
    assert_ne!(enforce, got);
    let piped = ["policy", "apply", "-f", "-"];
    assert_eq!(
        bench.ok(&piped, &enforce).await,
        shown("configured (generation 2)")
    );
    let second = bench.entry().await.unwrap();
    assert_eq!(second.uid, first.uid, "the same object");

    let table = bench.ok(&["policy", "list"], "").await;
    assert!(table.lines().nth(1).unwrap().contains("Enforce"), "{table}");
    let json = bench
        .ok(
            &[
                "policy",
                "get",
                "factory-floor",
                "-n",
                "factory",
                "-o",
                "json",
            ],
            "",
        )
        .await;
    assert_eq!(
        bench.ok(&piped, &json).await,
        shown("unchanged (generation 2)")
    );

    let delete = ["policy", "delete", "factory_factory-floor"];
    assert_eq!(bench.ok(&delete, "").await, shown("deleted"));
    assert!(
        bench
            .refused(&delete, "")
            .await
            .contains("no policy factory/factory-floor")
    );
    assert_eq!(bench.ok(&apply, "").await, shown("created (generation 1)"));
    assert_ne!(
        bench.entry().await.unwrap().uid,
        first.uid,
        "another object"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_kubernetes_owns_is_not_touched() {
    let bench = Bench::new().await;
    bench.ok(&["policy", "apply", "-f", EXAMPLE], "").await;
    let mut entry = bench.entry().await.unwrap();
    entry.origin = Origin::Kubernetes;
    let bucket = bench.shell.bus.bucket(POLICIES);
    bucket
        .put(KEY, serde_json::to_vec(&entry).unwrap())
        .await
        .unwrap();
    for args in [
        ["policy", "apply", "-f", EXAMPLE].as_slice(),
        &["policy", "delete", "factory/factory-floor"],
    ] {
        assert!(bench.refused(args, "").await.contains("Kubernetes"));
    }
    assert_eq!(bench.entry().await, Some(entry));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_with_one_mistake_changes_nothing() {
    let bench = Bench::new().await;
    let example = std::fs::read_to_string(EXAMPLE).unwrap();
    let mistake = example.replace("idleAfter", "idelAfter");
    let both = format!("{example}---\n{mistake}");
    let said = bench.refused(&["policy", "apply", "-f", "-"], &both).await;
    assert!(said.contains("unknown field spec.idelAfter"), "{said}");
    assert_eq!(bench.entry().await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn release_and_resume_write_and_withdraw_the_override() {
    let bench = Bench::new().await;
    assert!(
        bench
            .refused(&["release", "factory/factory-floor"], "")
            .await
            .contains("no policy")
    );
    bench.ok(&["policy", "apply", "-f", EXAMPLE], "").await;
    let out = bench.ok(&["release", "factory/factory-floor"], "").await;
    assert!(out.contains("released"), "{out}");
    let overrides = bench.shell.bus.bucket(OVERRIDES);
    let value = overrides.get(KEY).await.unwrap().unwrap();
    let over: Override = serde_json::from_slice(&value.bytes).unwrap();
    assert!(matches!(over, Override::Release { since_ms, .. } if since_ms > 0));
    bench.ok(&["resume", "factory/factory-floor"], "").await;
    assert_eq!(overrides.get(KEY).await.unwrap(), None);
    assert!(
        bench
            .refused(&["resume", "factory/factory-floor"], "")
            .await
            .contains("not released")
    );
}

fn decision(sequence: u64, law: &str) -> Decision {
    Decision {
        cluster: "default".into(),
        policy: "factory_floor".into(),
        law: law.into(),
        term: 1,
        sequence,
        decided_at: Some(timestamp_from_ms(unix_ms())),
        action: "HOLD".into(),
        reason: "because".into(),
        limits: vec![LimitChange {
            class: "bulk".into(),
            before_bps: Some(1e8),
            after_bps: Some(1e8),
        }],
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn watch_prints_decisions_and_verify_reads_what_it_prints() {
    let bench = Bench::new().await;
    let subject = subject::decision("default", "factory_floor");
    let publish = async |decision: &Decision| {
        let published = bench
            .shell
            .bus
            .publish(&subject, decision, Publish::default());
        published.await.unwrap();
    };
    publish(&decision(1, "Oracle")).await;

    let line = soon("a line of JSON", async {
        use tokio::io::{AsyncBufReadExt, BufReader};
        let mut watch = tokio::process::Command::from(bench.command(&[
            "watch",
            "factory/floor",
            "-o",
            "json",
            "--since",
            "1h",
        ]))
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
        let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
        lines.next_line().await.unwrap().unwrap()
    })
    .await;
    let out = bench.ok(&["verify", "-"], &line).await;
    assert_eq!(
        out,
        "0 identical, 0 different, 1 by laws that are not ours\n"
    );
    let out = bench.ok(&["verify", "--stream"], "").await;
    assert_eq!(
        out,
        "0 identical, 0 different, 1 by laws that are not ours\n"
    );

    // one of ours without its inputs cannot be what it says
    publish(&decision(2, "Threshold")).await;
    let (code, out, err) = bench.run(&["verify", "--stream"], "").await;
    assert_eq!(code, Some(1));
    assert!(
        out.starts_with("different: factory/floor term 1 sequence 2"),
        "{out}"
    );
    assert!(err.contains("not every decision"), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_recorded_is_in_order_and_is_explained_and_replayed() {
    let bench = Bench::new().await;
    bench.ok(&["policy", "apply", "-f", EXAMPLE], "").await;
    let subject = subject::decision("default", "factory_floor");
    let mut gone = decision(1, "Threshold");
    gone.limits[0].before_bps = Some(2e8);
    // sequence 2 and 3 were never stored
    for decision in [&gone, &decision(4, "Threshold")] {
        let published = bench
            .shell
            .bus
            .publish(&subject, decision, Publish::default());
        published.await.unwrap();
    }
    let folder = std::env::temp_dir().join(format!("lanectl-record-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir(&folder).unwrap();
    let file = folder.join("record.jsonl");
    let file = file.to_str().unwrap();
    let record = ["record", "-o", file, "--since", "1h", "--for", "0s"];
    let (code, _, said) = bench.run(&record, "").await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("2 decisions"), "{said}");
    assert!(said.contains("2 messages LOST"), "{said}");

    let text = std::fs::read_to_string(file).unwrap();
    let kinds: Vec<String> = text
        .lines()
        .map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            line["kind"].as_str().unwrap().to_owned()
        })
        .collect();
    let expected = ["header", "policy", "decision", "gap", "decision", "end"];
    assert_eq!(kinds, expected);

    let said = bench.refused(&record, "").await;
    assert!(said.contains("never overwritten"), "{said}");

    let explained = bench.ok(&["explain", "--file", file], "").await;
    assert!(explained.contains("from 200 to 100 Mbit/s"), "{explained}");
    let streamed = bench
        .ok(&["explain", "factory/floor", "-o", "json"], "")
        .await;
    let story: serde_json::Value = serde_json::from_str(&streamed).unwrap();
    assert_eq!(story["sequence"], 1);
    let missing = bench
        .refused(&["explain", "factory/floor", "--sequence", "2"], "")
        .await;
    assert!(missing.contains("no decision with sequence 2"), "{missing}");
    std::fs::remove_dir_all(&folder).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_recording_ends_its_file() {
    let bench = Bench::new().await;
    let subject = subject::decision("default", "factory_floor");
    let published = decision(1, "Threshold");
    let publish = bench
        .shell
        .bus
        .publish(&subject, &published, Publish::default());
    publish.await.unwrap();
    let lines = soon("the end of the record", async {
        use tokio::io::{AsyncBufReadExt, BufReader};
        let mut record =
            tokio::process::Command::from(bench.command(&["record", "-o", "-", "--since", "1h"]))
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .kill_on_drop(true)
                .spawn()
                .unwrap();
        let mut lines = BufReader::new(record.stdout.take().unwrap()).lines();
        let mut read = Vec::new();
        while let Some(line) = lines.next_line().await.unwrap() {
            if line.contains("\"decision\"") {
                let id = record.id().unwrap().to_string();
                assert!(
                    Command::new("kill")
                        .args(["-INT", &id])
                        .status()
                        .unwrap()
                        .success()
                );
            }
            read.push(line);
        }
        assert_eq!(record.wait().await.unwrap().code(), Some(0));
        read
    })
    .await;
    assert!(lines.last().unwrap().contains("\"end\""), "{lines:?}");
}

#[test]
fn a_recorded_run_is_replayed_under_another_law_with_a_page() {
    let recorded = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../measurements/2026-11-24/congestion-adaptive/decisions.jsonl"
    );
    let page = std::env::temp_dir().join(format!("lanectl-replay-{}.html", std::process::id()));
    let output = Command::new(env!("CARGO_BIN_EXE_lanectl"))
        .args(["replay", recorded, "--law", "Threshold"])
        .args(["--set", "cooldown_ms=10s", "--width", "80", "--html"])
        .arg(&page)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    for said in ["Open loop", "cooldown_ms 10000", "changes of limits", "█"] {
        assert!(text.contains(said), "{said}\n{text}");
    }
    assert!(
        text.lines()
            .skip_while(|line| !line.contains('│'))
            .all(|line| line.chars().count() <= 80)
    );
    let html = std::fs::read_to_string(&page).unwrap();
    std::fs::remove_file(&page).unwrap();
    assert!(html.contains("<svg") && !html.contains("http"));
}

#[test]
fn without_a_server_it_says_so_and_gives_up() {
    let output = Command::new(env!("CARGO_BIN_EXE_lanectl"))
        .args(["policy", "list", "--nats-url", "nats://127.0.0.1:1"])
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("nats://127.0.0.1:1"), "{said}");
}

#[test]
fn bad_configuration_is_one_line_and_64() {
    for (args, named) in [
        (["policy", "list", "--cluster=a.b"].as_slice(), "--cluster"),
        (&["policy", "list", "--nats-url=:::"], "NATS_URL"),
        (&["verify"], "--stream"),
        (&["watch", "--since", "1"], "--since"),
        (&["explain"], "POLICY"),
        (&["explain", "a/b", "--at", "noon"], "--at"),
        (&["replay", "-", "--law", "Oracle"], "--law"),
        (
            &["replay", "-", "--law", "Headroom", "--set", "alpha=1"],
            "link_share",
        ),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_lanectl"))
            .args(args)
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(64), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.contains(named), "{said}");
    }
}
