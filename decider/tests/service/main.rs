//! The binary against a real nats-server: what is committed and published, and what is left when an owner dies or NATS loses everything.

#![allow(clippy::unwrap_used)] // a test's helpers fail as the test does

mod lasting;
mod loops;
mod owners;
mod shadows;

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use laneguard_decider::decide;
use laneguard_decider::memory::Memory;
use laneguard_proto::codec::Encoding;
use laneguard_proto::duration::timestamp_from_ms;
use laneguard_proto::placement::{self, ClassPlacement, Placement};
use laneguard_proto::storage::{POLICIES, STATE};
use laneguard_proto::subject::{self, Kind};
use laneguard_proto::v1::{self, sample::Quality};
use laneguard_runtime::bus::{Publish, Start};
use laneguard_runtime::clock::unix_ms;
use laneguard_tests::broker::{Broker, Shell};
use laneguard_tests::wait::{soon, until};
use serde_json::{Value, json};

const POLICY: &str = "factory_floor";
const WORKLOAD: &str = "factory_robot";
const CLASS: &str = "bulk";

/// A decider's process, killed when dropped, and with this process.
struct Decider(Child);

impl Drop for Decider {
    fn drop(&mut self) {
        // it may have been killed already
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Decider {
    fn start(url: &str, encoding: &str) -> Self {
        let child = Command::new("setpriv")
            .args([
                "--pdeathsig",
                "KILL",
                env!("CARGO_BIN_EXE_laneguard-decider"),
            ])
            .env("NATS_URL", url)
            .env("MESSAGE_ENCODING", encoding)
            .env("ADMIN_ADDR", "127.0.0.1:0")
            .stdout(Stdio::null())
            .spawn()
            .expect("setpriv starts the decider");
        Self(child)
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.pid()).unwrap());
        nix::sys::signal::kill(pid, signal).unwrap();
    }

    /// Whether a memory was written by this process.
    fn wrote(&self, memory: &Memory) -> bool {
        memory.owner.ends_with(&format!("-{:x}", self.pid()))
    }
}

/// The rest of the world: what the actuator and the collector would write, and what a subscriber sees.
struct World {
    broker: Option<Broker>,
    shell: Shell,
    sequence: u64,
    published: u64,
}

fn spec(mode: &str) -> Value {
    json!({
        "mode": mode,
        "critical": [{"workload": "robot", "targets": [{"metric": "P95", "below": "10ms"}, {"metric": "Jitter", "below": "5ms"}]}],
        "bestEffort": [{"class": CLASS, "selector": {"matchLabels": {"a": "b"}}, "bandwidth": {"min": "10M", "max": "1G"}}],
        "control": {"law": "Threshold", "alpha": 1.0, "threshold": {"cooldown": "1h"}},
    })
}

impl World {
    async fn new() -> Self {
        let broker = Broker::start().await.unwrap();
        let shell = broker.shell("collector", Encoding::Protobuf).await.unwrap();
        soon("storage", shell.bus.ready()).await;
        let world = Self {
            broker: Some(broker),
            shell,
            sequence: 0,
            published: 0,
        };
        world.place(Some(200e6)).await;
        world.policy(1, spec("Enforce")).await;
        world
    }

    fn url(&self) -> String {
        self.broker.as_ref().unwrap().nats.url()
    }

    async fn policy(&self, generation: u64, spec: Value) {
        let entry = json!({"origin": "lanectl", "namespace": "factory", "name": "floor", "uid": "u", "generation": generation, "spec": spec});
        let policies = self.shell.bus.bucket(POLICIES);
        policies
            .put(&format!("default.{POLICY}"), entry.to_string())
            .await
            .unwrap();
    }

    async fn place(&self, found_bps: Option<f64>) {
        let placement = Placement {
            classes: vec![ClassPlacement {
                class: CLASS.into(),
                found_bps,
                ..Default::default()
            }],
            ..Default::default()
        };
        let state = self.shell.bus.bucket(STATE);
        state
            .put(
                &placement::key("default", POLICY),
                serde_json::to_vec(&placement).unwrap(),
            )
            .await
            .unwrap();
    }

    /// Publishes a sample as a collector would each second, here as fast as somebody waits for its consequence.
    async fn sample(&mut self, p95: f64, jitter: f64) {
        self.sequence += 1;
        let now = unix_ms();
        let sample = v1::Sample {
            cluster: "default".into(),
            policy: POLICY.into(),
            workload: WORKLOAD.into(),
            sequence: self.sequence,
            window_start: Some(timestamp_from_ms(now - 2000)),
            window_end: Some(timestamp_from_ms(now - 100)),
            observed_at: Some(timestamp_from_ms(now)),
            quality: Quality::Good.into(),
            raw: Some(v1::Signals {
                p95_ms: Some(p95),
                jitter_ms: Some(jitter),
                ..Default::default()
            }),
            ..Default::default()
        };
        let subject = subject::sample("default", POLICY, WORKLOAD);
        // while NATS is away there are no samples
        if self
            .shell
            .bus
            .publish(&subject, &sample, Publish::default())
            .await
            .is_ok()
        {
            self.published += 1;
        }
    }

    async fn congested(&mut self) {
        self.sample(40.0, 20.0).await;
    }

    async fn command(&self) -> Option<v1::Command> {
        let subject = subject::command("default", POLICY, CLASS);
        let last = self.shell.bus.last(Kind::Command, &subject).await;
        last.ok().and_then(|last| last.message)
    }

    async fn decision(&self) -> Option<v1::Decision> {
        let subject = subject::decision("default", POLICY);
        let last = self.shell.bus.last(Kind::Decision, &subject).await;
        last.ok().and_then(|last| last.message)
    }

    async fn memory(&self) -> Option<Memory> {
        let state = self.shell.bus.bucket(STATE);
        let value = state.get(&format!("decider.default.{POLICY}")).await;
        Memory::from_json(&value.ok().flatten()?.bytes)
    }

    /// Publishes congested samples until the last command fits.
    async fn commanded(&mut self, what: &str, fits: impl Fn(&v1::Command) -> bool) -> v1::Command {
        until(
            what,
            async || {
                self.congested().await;
                tokio::time::sleep(Duration::from_millis(50)).await;
                self.command().await
            },
            |command| command.as_ref().is_some_and(&fits),
        )
        .await
        .unwrap()
    }

    /// All decisions stored so far.
    async fn decisions(&self) -> Vec<v1::Decision> {
        let last = self.decision().await.map(|d| (d.term, d.sequence));
        let mut stream = self
            .shell
            .bus
            .subscribe::<v1::Decision>(Kind::Decision, Start::Ago(Duration::from_secs(600)));
        let mut decisions = Vec::new();
        soon("the decisions", async {
            while last.is_some()
                && decisions
                    .last()
                    .map(|d: &v1::Decision| (d.term, d.sequence))
                    < last
            {
                decisions.push(stream.next().await.unwrap().message);
            }
        })
        .await;
        decisions
    }
}

/// What must hold of any stream of decisions.
fn check(decisions: &[v1::Decision]) {
    let mut sets = BTreeMap::new();
    let mut after: Option<f64> = None;
    for pair in decisions.windows(2) {
        let order = |d: &v1::Decision| (d.term, d.sequence);
        assert!(order(&pair[0]) < order(&pair[1]), "decisions only rise");
        assert_eq!(
            pair[0].sequence + 1,
            pair[1].sequence,
            "no decision is missing"
        );
    }
    for decision in decisions {
        assert_eq!(
            decide::differences(decision).unwrap(),
            Vec::<String>::new(),
            "evaluated again from its own record"
        );
        let set: Vec<(String, u64)> = decision
            .samples
            .iter()
            .map(|s| (s.workload.clone(), s.sequence))
            .collect();
        assert_eq!(decision.cause == "samples", !set.is_empty());
        if !set.is_empty() {
            let former = sets.insert(set, decision.sequence);
            assert_eq!(former, None, "one decision per set of samples");
        }
        for limit in &decision.limits {
            if let Some(after) = after {
                assert_eq!(limit.before_bps, Some(after), "no limit jumps");
            }
            after = limit.after_bps;
        }
    }
}
