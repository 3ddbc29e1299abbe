//! The one task that owns the reconciler: events in, writes and reports out.

use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use laneguard_proto::duration::timestamp_from_ms;
use laneguard_proto::policy::Entry;
use laneguard_proto::subject::Token;
use laneguard_proto::v1::Outcome;
use laneguard_runtime::clock;
use laneguard_runtime::readiness::Latch;
use laneguard_runtime::shutdown::Shutdown;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::Span;

use crate::apply::{Answer, Job, Writer};
use crate::commands::Command;
use crate::leader::Leadership;
use crate::metrics::Metrics;
use crate::placement::Placements;
use crate::policies::Slot;
use crate::reconcile::{Reconciler, Report, Source};
use crate::watch::Seen;

/// Events taken in before writes are looked at again.
const MOST_AT_ONCE: usize = 256;
/// How long writes under way may take at the end.
const DRAIN: Duration = Duration::from_secs(6);

/// What NATS says.
#[derive(Debug)]
pub enum Input {
    /// A policy as it is now.
    Policy(Token, Box<Entry>),
    /// There is a delete marker for a policy.
    PolicyDeleted(Token),
    /// The policies were read in full.
    PoliciesSynced,
    /// An operator released a policy, or took that back.
    Released(Token, bool),
    /// The overrides were read in full.
    OverridesSynced,
    /// A command.
    Command {
        /// The command.
        command: Command,
        /// How long before receipt it was stored.
        age: Duration,
        /// When it was received.
        received: Instant,
        /// The span it is processed in.
        span: Span,
    },
    /// An outcome that some replica published.
    Outcome(Slot, Box<Outcome>),
}

/// What the task is connected to.
#[derive(Debug)]
pub struct Links {
    /// From the watches.
    pub seen: mpsc::Receiver<Seen>,
    /// From NATS.
    pub inputs: mpsc::Receiver<Input>,
    /// Outcomes to publish.
    pub reports: mpsc::Sender<Report>,
    /// Where pods are.
    pub placements: watch::Sender<Option<Placements>>,
    /// Whether all pods have been listed once.
    pub listed: watch::Sender<bool>,
    /// Whether labels of namespaces are needed.
    pub namespaces: watch::Sender<bool>,
    /// Who leads.
    pub leadership: Leadership,
    /// Ready when the pods are listed.
    pub pods_ready: Latch,
    /// Ready when the policies are read.
    pub policies_ready: Latch,
}

/// Runs until the process stops; then lets the writes under way finish.
///
/// # Errors
/// When a watch or NATS task is gone before that.
pub async fn run(
    mut reconciler: Reconciler,
    writer: Writer,
    mut links: Links,
    metrics: Metrics,
    stop: Shutdown,
) -> anyhow::Result<()> {
    let mut writes = FuturesUnordered::new();
    let write = |job: Job| {
        let writer = writer.clone();
        async move {
            let answer = writer.write(&job).await;
            (job, answer)
        }
    };
    loop {
        let now = Instant::now();
        reconciler.lead(links.leadership.is_leader(), now);
        reconciler.tick(now);
        while let Some(job) = reconciler.next_job(now) {
            writes.push(write(job));
        }
        hand_out(&mut reconciler, &links, &metrics, now);
        let lapse = links.leadership.until();
        let next = reconciler.next_deadline();
        let next = lapse
            .filter(|lapse| *lapse > now)
            .map_or(next, |lapse| next.min(lapse));
        tokio::select! {
            () = stop.cancelled() => break,
            Some((job, answer)) = writes.next(), if !writes.is_empty() => written(&mut reconciler, &job, answer),
            seen = links.seen.recv() => {
                let Some(seen) = seen else {
                    if stop.is_cancelled() { break }
                    anyhow::bail!("the watches ended");
                };
                take_seen(&mut reconciler, &links, seen);
                for _ in 0..MOST_AT_ONCE {
                    match links.seen.try_recv() {
                        Ok(seen) => take_seen(&mut reconciler, &links, seen),
                        Err(_) => break,
                    }
                }
            }
            input = links.inputs.recv() => {
                let Some(input) = input else {
                    if stop.is_cancelled() { break }
                    anyhow::bail!("the readers of NATS ended");
                };
                take_input(&mut reconciler, &links, input);
                for _ in 0..MOST_AT_ONCE {
                    match links.inputs.try_recv() {
                        Ok(input) => take_input(&mut reconciler, &links, input),
                        Err(_) => break,
                    }
                }
            }
            () = links.leadership.changed() => {}
            () = tokio::time::sleep_until(next) => {}
        }
    }
    let drained = async {
        while let Some((job, answer)) = writes.next().await {
            written(&mut reconciler, &job, answer);
        }
    };
    if tokio::time::timeout(DRAIN, drained).await.is_err() {
        tracing::warn!("some writes did not finish in time");
    }
    hand_out(&mut reconciler, &links, &metrics, Instant::now());
    Ok(())
}

fn written(reconciler: &mut Reconciler, job: &Job, answer: Answer) {
    reconciler.written(job, answer, Instant::now());
}

fn take_seen(reconciler: &mut Reconciler, links: &Links, seen: Seen) {
    let now = Instant::now();
    match seen {
        Seen::PodListBegins => reconciler.list_begins(),
        Seen::PodListed(pod) => reconciler.pod(*pod, Source::List, now),
        Seen::PodChanged(pod) => reconciler.pod(*pod, Source::Watch, now),
        Seen::PodGone(key, uid) => reconciler.pod_gone(&key, Some(&uid), now),
        Seen::Namespaces(all) => reconciler.set_namespaces(all, now),
        Seen::Namespace(name, labels) => reconciler.set_namespace(name, labels, now),
        Seen::PodListEnds => {
            reconciler.list_ends(now);
            links.listed.send_replace(true);
            links.pods_ready.ready();
        }
    }
}

fn take_input(reconciler: &mut Reconciler, links: &Links, input: Input) {
    let now = Instant::now();
    match input {
        Input::Policy(token, entry) => {
            reconciler.policy(token, *entry, now);
            let needs = reconciler.needs_namespaces();
            links.namespaces.send_if_modified(|needed| {
                let begins = needs && !*needed;
                *needed |= needs;
                begins
            });
        }
        Input::PolicyDeleted(token) => reconciler.policy_deleted(&token, now),
        Input::PoliciesSynced => {
            reconciler.policies_synced(now);
            links.policies_ready.ready();
        }
        Input::Released(token, released) => reconciler.released(&token, released, now),
        Input::OverridesSynced => reconciler.overrides_synced(now),
        Input::Command {
            command,
            age,
            received,
            span,
        } => reconciler.command(command, age, received, span, now),
        Input::Outcome(slot, outcome) => reconciler.outcome(slot, &outcome),
    }
}

fn hand_out(reconciler: &mut Reconciler, links: &Links, metrics: &Metrics, now: Instant) {
    for mut report in reconciler.take_reports() {
        report.outcome.finished_at = Some(timestamp_from_ms(clock::unix_ms()));
        // full when NATS is away: the annotations are what counts, outcomes are news
        if links.reports.try_send(report).is_err() {
            metrics.outcomes_dropped.inc();
        }
    }
    if let Some(placements) = reconciler.take_placements(now) {
        links.placements.send_replace(Some(placements));
    }
}
