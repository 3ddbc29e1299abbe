//! What one decider costs that decides for many policies at 1 Hz, and how long its decisions take: the real binary, a real
//! nats-server, `Adaptive` with default parameters in Enforce, one critical workload and one class each. Run by `cargo xtask bench`.
//!
//! A decision's time is from its sample being stored to itself being stored, both by the server's clock, read from the streams
//! afterwards so that nothing but the load runs meanwhile. Its baseline is the least that such a decision needs: an echo that, in the
//! same order, writes a key and then publishes. The generator's own cost and lateness stand beside, for a late generator would make
//! the decider look idle.

mod measure;

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use async_nats::HeaderMap;
use async_nats::jetstream::{
    self, consumer::DeliverPolicy, consumer::pull::OrderedConfig, message::Message,
};
use futures::{StreamExt as _, TryStreamExt as _};
use laneguard_proto::codec::{Encoding, WireMessage as _, decode, encode};
use laneguard_proto::duration::timestamp_from_ms;
use laneguard_proto::header::{self, MessageId as _, cloud_event};
use laneguard_proto::placement::{self, ClassPlacement, Placement};
use laneguard_proto::policy::{Entry, Origin, Spec};
use laneguard_proto::storage::{DECISIONS, POLICIES, SAMPLES, STATE};
use laneguard_proto::subject;
use laneguard_proto::v1::{Decision, Sample, Signals, Usage, sample::Quality};
use laneguard_runtime::bus::Publish;
use laneguard_runtime::clock::{rfc3339, unix_ms};
use laneguard_tests::broker::{Broker, Shell};
use laneguard_tests::service::Service;
use laneguard_tests::wait::soon;
use serde_json::json;

/// Policies at once, one run each.
const SIZES: [usize; 2] = [1_000, 10_000];
/// Rounds before anything is measured.
const WARM_UP: u64 = 10;
/// Rounds that are measured, one a second.
const ROUNDS: u64 = 30;
/// Each round is spread over its second in so many parts.
const PARTS: u32 = 50;
/// Echoes of the baseline.
const ECHOES: u64 = 500;
/// The critical workload of every policy.
const WORKLOAD: &str = "bench_robot";

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    let out = std::env::var_os("LANEGUARD_BENCH_OUT")
        .map_or_else(|| PathBuf::from("bench-results"), PathBuf::from);
    std::fs::create_dir_all(&out)?;
    println!("One decider, Adaptive in Enforce, each policy at 1 Hz for {ROUNDS} s");
    let mut text = String::new();
    for policies in sizes() {
        let lines = load(policies, &out).await?;
        println!("{lines}");
        text.push_str(&lines);
    }
    std::fs::write(out.join("decider-load.txt"), text)?;
    Ok(())
}

/// Numbers given as arguments, else all sizes.
fn sizes() -> Vec<usize> {
    let given: Vec<usize> = std::env::args()
        .filter_map(|argument| argument.parse().ok())
        .collect();
    if given.is_empty() {
        SIZES.to_vec()
    } else {
        given
    }
}

async fn load(policies: usize, out: &Path) -> anyhow::Result<String> {
    let broker = Broker::start().await?;
    let shell = broker.shell("bench", Encoding::Protobuf).await?;
    soon("streams and buckets", shell.bus.ready()).await;
    let client = async_nats::connect(broker.nats.url()).await?;
    let mut echoes = echo(&shell, &client).await?;
    declare(&shell, policies).await?;
    let environment = BTreeMap::from([
        ("NATS_URL".to_owned(), broker.nats.url()),
        ("RUST_LOG".to_owned(), "info".to_owned()),
    ]);
    let decider = Service::start(
        "laneguard-decider",
        "decider",
        &environment,
        broker.folder(),
    )
    .await?;
    decider.ready().await;
    let id = decider.id().context("the decider runs")?;

    let server = broker.nats.id().context("nats-server runs")?;

    let generated = generate(&client, policies, [id, server]).await?;
    let mut taken = latencies(&client, &generated).await?;
    let mut rows = String::from("policy,sequence,stored_to_stored_ms\n");
    for ((policy, sequence), ms) in &taken {
        writeln!(rows, "{policy},{sequence},{ms:.3}")?;
    }
    std::fs::write(out.join(format!("decider-load-{policies}.csv")), rows)?;
    let mut times: Vec<f64> = taken.drain().map(|(_, ms)| ms).collect();
    let count = times.len();
    let [median, p99, worst] = measure::quantiles(&mut times).context("no decision was stored")?;
    let [echo_median, echo_p99, echo_worst] =
        measure::quantiles(&mut echoes).context("no echo was stored")?;
    let Generated {
        decider_percent,
        decider_mib,
        server_percent,
        own_percent,
        latest_ms,
        stored,
        ..
    } = generated;
    let sent = policies as u64 * ROUNDS;
    Ok(format!(
        "{policies} policies: {decider_percent:.1} % of a core, {decider_mib:.1} MiB
  sample stored to decision stored, {count} decisions: median {median:.2} ms, p99 {p99:.2} ms, worst {worst:.1} ms
  baseline, {ECHOES} echoes (write a key, publish), no load: median {echo_median:.2} ms, p99 {echo_p99:.2} ms, worst {echo_worst:.1} ms
  nats-server: {server_percent:.1} % of a core
  generator: {own_percent:.1} % of a core, at most {latest_ms:.0} ms behind, {stored} of {sent} samples stored
"
    ))
}

/// Writes the policies and where their pods are.
async fn declare(shell: &Shell, policies: usize) -> anyhow::Result<()> {
    let spec: Spec = serde_json::from_value(json!({
        "mode": "Enforce",
        "critical": [{"workload": "robot", "targets": [{"metric": "P95", "below": "10ms"}, {"metric": "Jitter", "below": "5ms"}]}],
        "bestEffort": [{"class": "bulk", "selector": {"matchLabels": {"priority": "best-effort"}}, "bandwidth": {"min": "10M", "max": "1G"}}],
        "control": {"law": "Adaptive"}
    }))?;
    let placed = serde_json::to_vec(&Placement {
        classes: vec![ClassPlacement {
            class: "bulk".into(),
            ..ClassPlacement::default()
        }],
        written_ms: unix_ms(),
        ..Placement::default()
    })?;
    let (wanted, state) = (shell.bus.bucket(POLICIES), shell.bus.bucket(STATE));
    let writes = (0..policies).map(|n| {
        let entry = Entry {
            origin: Origin::Lanectl,
            namespace: "bench".into(),
            name: format!("p{n}"),
            uid: String::new(),
            generation: 1,
            spec: spec.clone(),
        };
        let (wanted, state, placed) = (&wanted, &state, placed.clone());
        async move {
            let policy = policy(n);
            state
                .put(&placement::key("default", &policy), placed)
                .await?;
            let key = format!("default.{policy}");
            wanted.put(&key, serde_json::to_vec(&entry)?).await?;
            anyhow::Ok(())
        }
    });
    futures::stream::iter(writes)
        .buffer_unordered(64)
        .try_collect::<Vec<_>>()
        .await?;
    Ok(())
}

fn policy(n: usize) -> String {
    format!("bench_p{n}")
}

/// What the generator did and saw.
struct Generated {
    decider_percent: f64,
    decider_mib: f64,
    server_percent: f64,
    own_percent: f64,
    /// How far a part of a round was behind its time, at worst.
    latest_ms: f64,
    /// Samples of the measured rounds that the server has.
    stored: u64,
    /// Streams' last sequences before the measured rounds.
    samples_before: u64,
    decisions_before: u64,
}

#[expect(clippy::disallowed_methods, reason = "a benchmark measures real time")]
async fn generate(
    client: &async_nats::Client,
    policies: usize,
    [decider, server]: [u32; 2],
) -> anyhow::Result<Generated> {
    let context = jetstream::new(client.clone());
    let first = unix_ms().max(0) as u64;
    let began = Instant::now();
    let mut latest = Duration::ZERO;
    let mut before = None;
    for round in 0..WARM_UP + ROUNDS {
        if round == WARM_UP {
            let sequences = (
                last(&context, SAMPLES.name).await?,
                last(&context, DECISIONS.name).await?,
            );
            let costs = (
                measure::usage(decider)?.0,
                measure::usage(server)?.0,
                measure::usage(std::process::id())?.0,
            );
            before = Some((sequences, costs, Instant::now()));
        }
        for part in 0..PARTS {
            let due = Duration::from_secs(round) + Duration::from_secs(1) * part / PARTS;
            match due.checked_sub(began.elapsed()) {
                Some(early) => tokio::time::sleep(early).await,
                None if round >= WARM_UP => latest = latest.max(began.elapsed() - due),
                None => {}
            }
            for n in (part as usize..policies).step_by(PARTS as usize) {
                send(client, &sample(n, first + round, round)).await?;
            }
        }
    }
    client.flush().await?;
    let ((samples_before, decisions_before), (decider_before, server_before, own_before), since) =
        before.context("the warm-up ended")?;
    // the last part's decisions belong to the rounds
    tokio::time::sleep(Duration::from_secs(1)).await;
    let seconds = since.elapsed().as_secs_f64();
    let (decider_now, decider_mib) = measure::usage(decider)?;
    let server_now = measure::usage(server)?.0;
    let own_now = measure::usage(std::process::id())?.0;
    Ok(Generated {
        decider_percent: (decider_now - decider_before) / seconds * 100.0,
        decider_mib,
        server_percent: (server_now - server_before) / seconds * 100.0,
        own_percent: (own_now - own_before) / seconds * 100.0,
        latest_ms: latest.as_secs_f64() * 1e3,
        stored: last(&context, SAMPLES.name).await? - samples_before,
        samples_before,
        decisions_before,
    })
}

async fn last(context: &jetstream::Context, stream: &str) -> anyhow::Result<u64> {
    Ok(context
        .get_stream(stream)
        .await?
        .cached_info()
        .state
        .last_sequence)
}

/// Publishes as a collector does, but waits for no acknowledgement: the stream tells afterwards what arrived.
async fn send(client: &async_nats::Client, sample: &Sample) -> anyhow::Result<()> {
    let id = sample.message_id();
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, header::PROTOBUF);
    headers.insert(header::MESSAGE_ID, id.as_str());
    headers.insert(cloud_event::SPEC_VERSION, "1.0");
    headers.insert(cloud_event::ID, id.as_str());
    headers.insert(cloud_event::SOURCE, "laneguard/collector/default");
    headers.insert(cloud_event::TYPE, Sample::FULL_NAME);
    headers.insert(cloud_event::TIME, rfc3339().as_str());
    headers.insert(cloud_event::DATA_CONTENT_TYPE, header::PROTOBUF);
    let subject = subject::sample("default", &sample.policy, WORKLOAD);
    let payload = encode(sample, Encoding::Protobuf)?;
    client
        .publish_with_headers(subject, headers, payload.into())
        .await?;
    Ok(())
}

/// One policy in ten is congested for seven seconds, then another.
fn sample(n: usize, sequence: u64, round: u64) -> Sample {
    let is_congested = (n as u64 + round / 7).is_multiple_of(10);
    let jitter_ms = if is_congested { 50.0 } else { 1.0 };
    let used_bps = if is_congested { 190e6 } else { 60e6 };
    let now = unix_ms();
    let (start, end) = (timestamp_from_ms(now - 1_100), timestamp_from_ms(now - 100));
    Sample {
        cluster: "default".into(),
        policy: policy(n),
        workload: WORKLOAD.into(),
        sequence,
        window_start: Some(start),
        window_end: Some(end),
        observed_at: Some(timestamp_from_ms(now)),
        source: "bench".into(),
        quality: Quality::Good.into(),
        raw: Some(Signals {
            p50_ms: Some(1.5),
            ..measure::signals(jitter_ms)
        }),
        count: Some(200.0),
        request_rate: Some(200.0),
        usage: vec![Usage {
            class: "bulk".into(),
            total_bps: Some(used_bps),
            pods: 3,
            top_pod_bps: Some(used_bps / 3.0),
            window_start: Some(start),
            window_end: Some(end),
        }],
        ..Sample::default()
    }
}

/// Milliseconds from sample to decision, by policy and the sample's sequence.
type Taken = HashMap<(String, u64), f64>;

async fn latencies(client: &async_nats::Client, generated: &Generated) -> anyhow::Result<Taken> {
    let context = jetstream::new(client.clone());
    let mut stored: HashMap<(String, u64), i128> = HashMap::new();
    let from = generated.samples_before + 1;
    let mut samples = Reading::of(&context, SAMPLES.name, from, true).await?;
    while let Some(message) = samples.next().await? {
        let id = message.headers.as_ref();
        let id = id.and_then(|headers| headers.get(header::MESSAGE_ID));
        let mut parts = id.map(|id| id.as_str().rsplit('.')).into_iter().flatten();
        let (sequence, _workload, policy) = (parts.next(), parts.next(), parts.next());
        if let (Some(sequence), Some(policy)) = (sequence, policy) {
            stored.insert((policy.to_owned(), sequence.parse()?), published(&message)?);
        }
    }
    let mut taken = Taken::new();
    let from = generated.decisions_before + 1;
    let mut decisions = Reading::of(&context, DECISIONS.name, from, false).await?;
    while let Some(message) = decisions.next().await? {
        let at = published(&message)?;
        let decision: Decision = decode(&message.payload, Some(header::PROTOBUF))?;
        for used in &decision.samples {
            let key = (decision.policy.clone(), used.sequence);
            if let Some(stored) = stored.get(&key) {
                taken.insert(key, (at - stored) as f64 / 1e6);
            }
        }
    }
    Ok(taken)
}

/// Messages of a stream from one sequence to another.
struct Reading {
    messages: jetstream::consumer::pull::Ordered,
    last: u64,
    end: u64,
}

impl Reading {
    /// From a sequence on, to what the stream's last one is now.
    async fn of(
        context: &jetstream::Context,
        stream: &str,
        from: u64,
        headers_only: bool,
    ) -> anyhow::Result<Self> {
        let config = OrderedConfig {
            deliver_policy: DeliverPolicy::ByStartSequence {
                start_sequence: from,
            },
            headers_only,
            ..OrderedConfig::default()
        };
        let stream = context.get_stream(stream).await?;
        let end = stream.cached_info().state.last_sequence;
        let messages = stream.create_consumer(config).await?.messages().await?;
        Ok(Self {
            messages,
            last: from.saturating_sub(1),
            end,
        })
    }

    async fn next(&mut self) -> anyhow::Result<Option<Message>> {
        if self.last >= self.end {
            return Ok(None);
        }
        let message = self.messages.try_next().await?;
        if let Some(message) = &message {
            self.last = info(message)?.stream_sequence;
        }
        Ok(message)
    }
}

fn info(message: &Message) -> anyhow::Result<jetstream::message::Info<'_>> {
    message.info().map_err(anyhow::Error::from_boxed)
}

/// When it was stored, nanoseconds by the server's clock.
fn published(message: &Message) -> anyhow::Result<i128> {
    Ok(info(message)?.published.unix_timestamp_nanos())
}

/// The baseline: milliseconds from a sample being stored to an answer being stored, with a key written in between.
async fn echo(shell: &Shell, client: &async_nats::Client) -> anyhow::Result<Vec<f64>> {
    let context = jetstream::new(client.clone());
    let (samples_before, answers_before) = (
        last(&context, SAMPLES.name).await?,
        last(&context, DECISIONS.name).await?,
    );
    let mut heard = Reading::of(&context, SAMPLES.name, samples_before + 1, false).await?;
    let bucket = shell.bus.bucket(STATE);
    for n in 0..ECHOES {
        send(client, &sample(usize::MAX, n + 1, 0)).await?;
        let message = heard.messages.try_next().await?;
        let message = message.context("the stream ended")?;
        bucket
            .put("decider.default.echo", message.payload.to_vec())
            .await?;
        let answer = Decision {
            cluster: "default".into(),
            policy: "echo".into(),
            law: "Echo".into(),
            sequence: n + 1,
            ..Decision::default()
        };
        let subject = subject::decision("default", "echo");
        shell
            .bus
            .publish(&subject, &answer, Publish::default())
            .await?;
    }
    let mut times = Vec::new();
    let mut samples = Reading::of(&context, SAMPLES.name, samples_before + 1, true).await?;
    let mut answers = Reading::of(&context, DECISIONS.name, answers_before + 1, true).await?;
    for _ in 0..ECHOES {
        let sample = samples.next().await?.context("a sample is missing")?;
        let answer = answers.next().await?.context("an answer is missing")?;
        times.push((published(&answer)? - published(&sample)?) as f64 / 1e6);
    }
    Ok(times)
}
