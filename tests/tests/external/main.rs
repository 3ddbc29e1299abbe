//! The decider of `examples/python-decider` with the real services: somebody else's law drives the pipeline, and nothing it does or
//! fails to do gets out of hand.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use laneguard_lab::process::{self, Process};
use laneguard_lab::tools;
use laneguard_proto::duration::to_wire;
use laneguard_proto::policy::Mode;
use laneguard_proto::storage::{OVERRIDES, STREAMS};
use laneguard_proto::subject;
use laneguard_proto::v1::{Command, Decision, command::OnStale};
use laneguard_runtime::bus::Publish;
use laneguard_runtime::clock::unix_ms;
use laneguard_tests::binary;
use laneguard_tests::exporter::Condition;
use laneguard_tests::kubernetes::Where;
use laneguard_tests::record::{check_commands, check_decisions};
use laneguard_tests::wait::{soon, until};
use laneguard_tests::world::{World, mbps};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

const LAW: &str = "PythonProportional";
const BULK: &str = "bulk";

/// The example's folder.
fn example() -> PathBuf {
    binary::repository().join("examples/python-decider")
}

/// `python3` with the example's packages, in its folder.
fn python(arguments: &[&str]) -> tokio::process::Command {
    let tool = tools::find("python3").expect("python3 is there");
    let mut command = process::command(&tool, None).expect("setpriv is there");
    command
        .args(arguments)
        .current_dir(example())
        .env("PYTHONDONTWRITEBYTECODE", "1");
    if let Some(tools) = std::env::var_os(tools::TOOLS_ENV) {
        command.env("PYTHONPATH", PathBuf::from(tools).join("python"));
    }
    command
}

/// A running example. Killed when dropped; a failing test prints its log.
struct Decider {
    process: Process,
    log: PathBuf,
    _folder: TempDir,
}

impl Decider {
    fn start(world: &World, encoding: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let log = folder.path().join("decider.log");
        let mut command = python(&["decider.py"]);
        command
            .env("NATS_URL", world.nats_url())
            .env("MESSAGE_ENCODING", encoding);
        let process = Process::start("python-decider", command, &log).expect("python3 runs");
        Self {
            process,
            log,
            _folder: folder,
        }
    }

    fn log(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits for a line in its log.
    async fn says(&self, text: &str) {
        let log = async || self.log();
        until(&format!("`{text}`"), log, |log| log.contains(text)).await;
    }

    async fn terminate(&mut self) -> Option<i32> {
        self.process.signal(Signal::SIGTERM);
        let end = soon("the decider's end", self.process.wait()).await;
        end.expect("a child can be waited for").code()
    }
}

impl Drop for Decider {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- the log of the decider in Python\n{}", self.log());
        }
    }
}

fn spec() -> Value {
    json!({
        "mode": "Enforce",
        "critical": [{"workload": "robot", "targets": [{"metric": "P95", "below": "10ms"}, {"metric": "Jitter", "below": "5ms"}]}],
        "bestEffort": [{"class": BULK, "selector": {"matchLabels": {"app": BULK}}, "bandwidth": {"min": "10M", "max": "200M"}}],
        "control": {"law": "External"},
        "onStale": {"action": "Protect", "after": "6s"},
    })
}

/// Two pods that send 80 Mbit/s each and may send 200, and a policy for somebody else's law. Our own decider runs as well.
async fn world() -> (World, String) {
    let started = World::start(&Where::StandIn, &[]).await;
    let mut world = started.expect("the servers start");
    let found = json!({"kubernetes.io/egress-bandwidth": "200M"});
    let made = world.kubernetes.deployment(BULK, 2, json!({}), found).await;
    made.expect("the deployment is made");
    world.telemetry.set("robot", Condition::Healthy);
    for pod in world.kubernetes.pods(BULK).await {
        let namespace = &world.kubernetes.namespace;
        world.telemetry.sends(namespace, &pod.name, 80e6);
    }
    let token = world.apply("floor", spec()).await;
    world.add_all().await.expect("the services start");
    (world, token)
}

/// Waits for a command with a term above this one.
async fn command_above(world: &World, token: &str, term: u64) -> Command {
    let what = format!("a command with a term above {term}");
    let command = until(
        &what,
        async || world.command(token, BULK).await,
        |command| command.as_ref().is_some_and(|c| c.term > term),
    );
    command.await.expect("it was waited for")
}

/// Waits for a decision that fits.
async fn decided(world: &World, token: &str, fits: impl Fn(&Decision) -> bool) {
    until(
        "the decision",
        async || world.decision(token).await,
        |decision| decision.as_ref().is_some_and(&fits),
    )
    .await;
}

/// Publishes a command without regard for what is there.
async fn shout(world: &World, token: &str, term: u64) {
    let command = Command {
        cluster: "default".into(),
        policy: token.into(),
        class: BULK.into(),
        limit_bps: Some(150e6),
        term,
        sequence: 1,
        valid_for: Some(to_wire(Duration::from_secs(3600))),
        ..Command::default()
    };
    let subject = subject::command("default", token, BULK);
    let published = world.bus().publish(&subject, &command, Publish::default());
    published.await.expect("NATS is there");
}

fn with_action(world: &World, action: &str) -> Vec<Decision> {
    let all = world.record.decisions().into_iter();
    all.filter(|decision| decision.action == action).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decider_in_python_protects_and_gives_back_its_death_leads_to_on_stale_and_its_successor_takes_over()
 {
    let (mut world, token) = world().await;
    let mut first = Decider::start(&world, "protobuf");
    let command = command_above(&world, &token, 0).await;
    assert_eq!(
        command.limit_bps,
        Some(200e6),
        "it begins with what is found"
    );
    assert_eq!(command.on_stale(), OnStale::Protect);

    world.telemetry.set("robot", Condition::Congested);
    let low = |limit: Option<&str>| mbps(limit).is_some_and(|limit| limit <= 40.0);
    world.limits_fit("a low limit", BULK, low).await;
    for cut in with_action(&world, "THROTTLE") {
        let limit = &cut.limits[0];
        assert!(limit.after_bps < limit.before_bps, "{cut:?}");
        assert!(cut.reason.contains("target"), "it says why: {}", cut.reason);
    }
    // what it was told of the pods, which is what it cuts from, is in the log as well
    let sent = async || {
        let decisions = world.record.decisions();
        let usage = decisions
            .iter()
            .flat_map(|d| &d.samples)
            .flat_map(|s| &s.usage);
        usage
            .filter_map(|usage| usage.top_pod_bps)
            .fold(0.0, f64::max)
    };
    until("what a pod sends", sent, |bps| (60e6..100e6).contains(bps)).await;

    // commands are renewed, and what was cut is given back
    world.telemetry.set("robot", Condition::Healthy);
    let raised = async || !with_action(&world, "INCREASE").is_empty();
    until("a raise", raised, |raised| *raised).await;
    let above_the_floor = |limit: Option<&str>| mbps(limit).is_some_and(|limit| limit > 10.5);
    let what = "a limit above the floor";
    world.limits_fit(what, BULK, above_the_floor).await;
    let renewed = async || world.record.commands().iter().any(|c| c.renewal > 0);
    until("a renewal", renewed, |renewed| *renewed).await;

    // blind: it lives, says so and lets its commands run out
    world.telemetry.set("robot", Condition::Gone);
    world.limited(BULK, Some("10M")).await;
    decided(&world, &token, |d| d.reason.ends_with("not renewed.")).await;
    world.telemetry.set("robot", Condition::Healthy);
    world.limits_fit(what, BULK, above_the_floor).await;

    // nobody renews any more
    first.process.kill().await;
    world.limited(BULK, Some("10M")).await;
    let expired = async || {
        let outcomes = world.record.outcomes().into_iter();
        outcomes.filter(|o| o.trigger == "EXPIRED").count()
    };
    until("both outcomes of expiry", expired, |expired| *expired >= 2).await;
    let dead = world.command(&token, BULK).await.unwrap();

    // the successor speaks JSON, begins where the pods are and raises them from there
    let mut second = Decider::start(&world, "json");
    let command = command_above(&world, &token, dead.term).await;
    assert!(
        command.sequence > dead.sequence,
        "{command:?} after {dead:?}"
    );
    world.limits_fit(what, BULK, above_the_floor).await;
    assert_eq!(second.terminate().await, Some(0), "it ends as asked");

    // the audit log is complete, and all of it is the example's
    let decisions = world.record.decisions();
    let mut terms: Vec<u64> = decisions.iter().map(|decision| decision.term).collect();
    terms.dedup();
    assert!(terms.is_sorted(), "{terms:?}");
    for term in terms {
        let of_term = decisions.iter().filter(|decision| decision.term == term);
        check_decisions(&of_term.cloned().collect::<Vec<_>>());
    }
    for decision in &decisions {
        let told = decision.state.is_some() && decision.parameters.is_some();
        assert!(told && !decision.samples.is_empty(), "{decision:?}");
        assert_eq!(
            (decision.law.as_str(), decision.mode.as_str()),
            (LAW, Mode::Enforce.as_str())
        );
    }
    check_commands(&world.record.commands());
    for seen in world.record.limits() {
        let limit = mbps(seen.limit.as_deref());
        assert!(
            limit.is_none_or(|l| (10.0..=200.0).contains(&l)),
            "{seen:?}"
        );
    }
    let refused = world.record.outcomes().iter().any(|o| o.refused);
    assert!(!refused, "{:?}", world.record.outcomes());
    let verified = world.lanectl(&["verify", "--stream"]).await;
    assert!(verified.output().contains(" 0 different"));
    world.all_run();
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_deciders_the_later_one_decides_and_the_other_takes_over_when_that_one_is_silent() {
    let (mut world, token) = world().await;
    let first = Decider::start(&world, "protobuf");
    let term = command_above(&world, &token, 0).await.term;
    let mut second = Decider::start(&world, "protobuf");
    let later = command_above(&world, &token, term).await.term;
    first.says("standing by").await;
    // the one that lost stays silent while the other renews
    let renewed = async || world.command(&token, BULK).await;
    let by_second = |command: &Option<Command>| {
        let fits = |c: &Command| c.term == later && c.renewal >= 2;
        command.as_ref().is_some_and(fits)
    };
    until("renewals of the second", renewed, by_second).await;

    second.process.kill().await;
    command_above(&world, &token, later).await;
    let commands = world.record.commands();
    check_commands(&commands);
    let terms = commands.iter().map(|command| command.term);
    assert!(terms.is_sorted(), "no owner writes over a later one");
    world.all_run();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decider_that_is_refused_goes_above_the_greatest_term_and_obeys_operators() {
    let (mut world, token) = world().await;
    // somebody with a clock far ahead decided once, and the streams were lost since: only the actuator remembers
    let far = u64::try_from(unix_ms()).unwrap() + 3_600_000;
    shout(&world, &token, far).await;
    world.limited(BULK, Some("150M")).await;
    let raw = async_nats::connect(world.nats_url()).await.unwrap();
    let raw = async_nats::jetstream::new(raw);
    for stream in STREAMS {
        raw.get_stream(stream.name)
            .await
            .unwrap()
            .purge()
            .await
            .unwrap();
    }

    let decider = Decider::start(&world, "protobuf");
    decider.says("command refused, older_term").await;
    command_above(&world, &token, far).await;
    let begun = async || {
        let decisions = world.record.decisions().into_iter();
        decisions.flat_map(|d| d.limits).next()
    };
    let begun = until("a limit to begin with", begun, Option::is_some).await;
    let found = begun.and_then(|limit| limit.before_bps);
    assert_eq!(found, Some(150e6), "it begins with what is found");
    // a term that nothing could come after is garbage to everybody: it is written over
    shout(&world, &token, u64::MAX).await;
    command_above(&world, &token, far).await;
    world.telemetry.set("robot", Condition::Congested);
    let low = |limit: Option<&str>| mbps(limit).is_some_and(|limit| limit <= 40.0);
    world.limits_fit("a low limit", BULK, low).await;

    // the hand brake works against any decider
    let named = format!("{}/floor", world.kubernetes.namespace);
    world.lanectl(&["release", &named]).await.output();
    world.limited(BULK, Some("200M")).await;
    world.lanectl(&["resume", &named]).await.output();
    world.limits_fit("a low limit", BULK, low).await;

    // a server that lost everything is written to again
    world.crash_nats(true).await.unwrap();
    let command = command_above(&world, &token, 0).await;
    assert!(command.limit_bps.is_some_and(|bps| bps <= 40e6));

    // frozen: renewed, not changed
    let overrides = world.bus().bucket(OVERRIDES);
    let freeze = json!({"action": "freeze", "by": "a test"}).to_string();
    let key = format!("default.{token}");
    overrides.put(&key, freeze.into_bytes()).await.unwrap();
    decided(&world, &token, |d| d.reason == "Frozen by a test.").await;
    overrides.delete(&key).await.unwrap();

    // in Observe it decides and commands nothing
    let mut observed = spec();
    observed["mode"] = json!("Observe");
    world.apply("floor", observed).await;
    world.limited(BULK, Some("200M")).await;
    decided(&world, &token, |d| {
        d.mode == "Observe" && d.action != "HOLD"
    })
    .await;
    world.limited(BULK, Some("200M")).await;
    let refused = world.record.outcomes().into_iter().filter(|o| o.refused);
    let reasons: BTreeSet<String> = refused.map(|o| o.refused_reason).collect();
    assert!(!reasons.contains("not_enforcing"), "{reasons:?}");
    world.all_run();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_examples_own_tests_pass_and_its_generated_types_are_those_of_the_schema() {
    let output = python(&["-m", "unittest", "--verbose"]).output();
    let output = soon("the end of the example's tests", output)
        .await
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    assert!(
        text.contains("test_the_generated_types_are_those_of_the_schema"),
        "{text}"
    );
}
