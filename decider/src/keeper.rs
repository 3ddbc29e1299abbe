//! One policy's task: waits to own it, takes it over, then commits and publishes what its engine says until ownership ends.
//!
//! The order is fixed: one compare-and-set on the memory is the commit; the decision is published after it, again and again until it is
//! stored; the commands follow with the samples that justify them. A process that dies in between leaves a decision in the memory's
//! outbox, which the next owner publishes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use laneguard_decider_core::state::Limit;
use laneguard_proto::subject::{self, Kind};
use laneguard_proto::{storage, v1};
use laneguard_runtime::backoff::Backoff;
use laneguard_runtime::bus::{Bucket, Bus, Publish, PublishError, Received, StoreError};
use laneguard_runtime::clock::unix_ms;
use laneguard_runtime::lease::Shards;
use laneguard_runtime::shutdown::Shutdown;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tracing::Instrument;

use crate::contest::{self, Answer, Verdict};
use crate::engine::{Engine, Found, Hearing, Name, Proposal, REPEAT, Step, Wanted};
use crate::inbox::Inbox;
use crate::memory::Memory;
use crate::metrics::Metrics;
use crate::shadow;
use crate::shadow_metrics::Shown;

/// So long may the publication of shadow decisions keep a policy's task from its next samples.
const MOST_FOR_SHADOWS: Duration = Duration::from_millis(500);
/// The most that is kept of the shadows, bytes: half of what NATS stores at most.
const MOST_KEPT_OF_SHADOWS: usize = 512 * 1024;

/// What a task is to do about its policy.
#[derive(Debug, Clone)]
pub(crate) enum Want {
    /// Decide.
    Decide(Wanted),
    /// Somebody else decides: leave everything as it is.
    Leave,
    /// The policy was deleted.
    Deleted,
}

/// What all tasks share.
#[derive(Debug, Clone)]
pub(crate) struct Shared {
    pub(crate) bus: Bus,
    pub(crate) state: Bucket,
    pub(crate) metrics: Metrics,
    pub(crate) shards: Shards,
    pub(crate) shutdown: Shutdown,
    /// This process, in memories.
    pub(crate) owner: Arc<str>,
    /// Bounds how many policies are taken over at once.
    pub(crate) takeovers: Arc<Semaphore>,
}

/// One policy's task.
pub(crate) struct Keeper {
    shared: Shared,
    name: Name,
    shard: u32,
    inbox: Arc<Inbox>,
    want: watch::Receiver<Want>,
    /// Of the last time we owned it, for when the store has lost everything.
    remembered: Option<Memory>,
}

/// Why keeping a policy ended.
enum End {
    /// The lease is gone, the process is stopping, or the policy is no longer ours to decide for.
    Dismissed,
    /// Another owner wrote first.
    Lost,
    /// NATS did not answer.
    Unavailable,
}

/// What the server has of an owned policy.
struct Stored {
    /// Revision of the memory. `None`: it has none.
    revision: Option<u64>,
    /// Stream sequence of the last decision.
    decision: u64,
    /// Stream sequence of the last command of each class.
    commands: BTreeMap<String, u64>,
    /// Laws whose comparison is shown in metrics.
    compared: Vec<Shown>,
    /// When the shadows were last kept for the next owner.
    shadows_kept: Option<Instant>,
}

/// How a commit went.
enum Commit {
    /// It is stored.
    Done,
    /// An earlier attempt of ours is stored instead.
    Earlier(Box<Memory>),
}

impl Keeper {
    pub(crate) fn new(
        shared: Shared,
        policy: &str,
        inbox: Arc<Inbox>,
        want: watch::Receiver<Want>,
    ) -> Self {
        let cluster = shared.bus.cluster().as_str();
        Self {
            shard: storage::shard_of(cluster, policy),
            name: Name {
                cluster: cluster.to_owned(),
                policy: policy.to_owned(),
            },
            shared,
            inbox,
            want,
            remembered: None,
        }
    }

    /// Runs until the policy is no longer ours to decide for, or the process is stopping.
    pub(crate) async fn run(mut self) {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(3));
        let mut owned = self.shared.shards.changes();
        loop {
            let (shard, shutdown) = (self.shard, self.shared.shutdown.clone());
            tokio::select! {
                () = shutdown.cancelled() => return,
                changed = self.want.wait_for(|want| !matches!(want, Want::Decide(_))) => {
                    // without a sender there is no router, and the process is ending
                    drop(changed);
                    return;
                }
                found = owned.wait_for(|shards| shards.contains(&shard)) => {
                    if found.is_err() {
                        return;
                    }
                }
            }
            let began = Instant::now();
            self.shared.metrics.owned.inc();
            let end = self.keep().await;
            self.shared.metrics.owned.dec();
            let policy = self.name.policy.as_str();
            match end {
                End::Dismissed => tracing::debug!(policy, "no longer deciding"),
                End::Lost => {
                    self.shared.metrics.lost.inc();
                    tracing::warn!(policy, "another decider wrote first, giving way");
                }
                End::Unavailable => tracing::debug!(policy, "cannot decide, NATS is unavailable"),
            }
            if began.elapsed() > Duration::from_secs(10) {
                backoff.reset();
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(backoff.delay()) => {}
            }
        }
    }

    /// Whether this process may act for the policy now.
    fn owns(&self) -> bool {
        self.shared.shards.owns(self.shard) && !self.shared.shutdown.is_cancelled()
    }

    /// Takes the policy over and decides for it.
    async fn keep(&mut self) -> End {
        let (mut engine, mut stored) = match Box::pin(self.take_over()).await {
            Ok(taken) => taken,
            Err(end) => return end,
        };
        let end = self.govern(&mut engine, &mut stored).await;
        self.forget_limits(&engine.memory().law.limits);
        self.shared.metrics.shadows.forget(&stored.compared);
        let deleted = matches!(*self.want.borrow(), Want::Deleted);
        if deleted && self.owns() {
            // best effort: another object of this name is told apart by its uid as well
            let tombstone = engine.memory().tombstone();
            let _ = Box::pin(self.commit(&tombstone, &mut stored.revision)).await;
            let shadows = shadow::key(&self.name.cluster, &self.name.policy);
            if engine.shadow_memory().is_some() {
                let _ = self.shared.state.delete(&shadows).await;
            }
            self.remembered = None;
        } else {
            self.remembered = Some(engine.memory().clone());
        }
        end
    }

    async fn take_over(&mut self) -> Result<(Engine, Stored), End> {
        let permits = Arc::clone(&self.shared.takeovers);
        // the semaphore is never closed
        let _permit = permits.acquire().await.map_err(|_| End::Dismissed)?;
        if !self.owns() {
            return Err(End::Dismissed);
        }
        let Want::Decide(wanted) = self.want.borrow_and_update().clone() else {
            return Err(End::Dismissed);
        };
        let (found, mut stored) = self.look(&wanted).await?;
        let mut engine = Engine::take_over(
            self.name.clone(),
            &self.shared.owner,
            wanted,
            &found,
            Instant::now(),
            unix_ms(),
        );
        let memory = engine.memory().clone();
        if let Commit::Earlier(memory) = self.commit(&memory, &mut stored.revision).await? {
            engine.reign(*memory);
        }
        self.shared.metrics.takeovers.inc();
        let (policy, term) = (self.name.policy.as_str(), engine.memory().term);
        tracing::info!(policy, term, "deciding");
        if let Some(decision) = engine.unpublished(&found) {
            tracing::info!(policy, "publishing a decision that was committed before");
            self.announce(&decision, &mut stored.decision).await?;
        }
        engine.published();
        self.show_limits(&engine);
        Ok((engine, stored))
    }

    /// What the server knows about the policy.
    async fn look(&self, wanted: &Wanted) -> Result<(Found, Stored), End> {
        let (cluster, policy) = (self.name.cluster.as_str(), self.name.policy.as_str());
        let bus = &self.shared.bus;
        let unavailable = |_: PublishError| End::Unavailable;
        let value = self.shared.state.get(&key(&self.name)).await;
        let value = value.map_err(|_| End::Unavailable)?;
        let mut found = Found {
            memory: value.as_ref().and_then(|v| Memory::from_json(&v.bytes)),
            ..Found::default()
        };
        let mut stored = Stored {
            revision: value.map(|value| value.revision),
            decision: 0,
            commands: BTreeMap::new(),
            compared: Vec::new(),
            shadows_kept: None,
        };
        if !wanted.plan.shadows.is_empty() {
            let value = self.shared.state.get(&shadow::key(cluster, policy)).await;
            let value = value.map_err(|_| End::Unavailable)?;
            // garbage is as good as nothing: the comparison begins anew
            found.shadows = value.and_then(|v| serde_json::from_slice(&v.bytes).ok());
        }
        for class in wanted.plan.law.iter().flat_map(|policy| &policy.classes) {
            let subject = subject::command(cluster, policy, &class.name);
            let last = bus
                .last::<v1::Command>(Kind::Command, &subject)
                .await
                .map_err(unavailable)?;
            stored
                .commands
                .insert(class.name.clone(), last.stream_sequence);
            found.commands.extend(last.message);
            let subject = subject::outcome(cluster, policy, &class.name);
            let last = bus
                .last::<v1::Outcome>(Kind::Outcome, &subject)
                .await
                .map_err(unavailable)?;
            let term = |outcome: &v1::Outcome| outcome.term.max(outcome.highest_term);
            found.highest_term = found
                .highest_term
                .max(last.message.as_ref().map_or(0, term));
        }
        let subject = subject::decision(cluster, policy);
        let last = bus
            .last::<v1::Decision>(Kind::Decision, &subject)
            .await
            .map_err(unavailable)?;
        stored.decision = last.stream_sequence;
        // a shadow decision has the number of the decision in force that was published before it
        found.decision = last.message;
        if found.memory.is_none() && found.commands.is_empty() {
            // nothing is left of a policy that we had: the store was wiped
            found.memory.clone_from(&self.remembered);
        }
        Ok((found, stored))
    }

    /// Decides until ownership ends.
    async fn govern(&mut self, engine: &mut Engine, stored: &mut Stored) -> End {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(3));
        let mut owned = self.shared.shards.changes();
        owned.mark_unchanged();
        loop {
            if !self.owns() {
                return End::Dismissed;
            }
            if self.want.has_changed().unwrap_or(true) {
                let Want::Decide(wanted) = self.want.borrow_and_update().clone() else {
                    return End::Dismissed;
                };
                engine.set_placement(wanted.placement);
                engine.set_override(wanted.over);
                engine.set_plan(wanted.plan);
            }
            let mut waiting = self.inbox.take();
            let now = Instant::now();
            for (workload, received) in &mut waiting.samples {
                let stored_at = received.received.checked_sub(received.age).unwrap_or(now);
                let message = std::mem::take(&mut received.message);
                let sequence = message.sequence;
                let hearing = engine.hear(message, received.stream_sequence, stored_at, now);
                self.note_older(hearing, workload, sequence);
            }
            let cause = waiting
                .samples
                .into_values()
                .max_by_key(|sample| sample.received);
            let span = self.span(cause.as_deref());
            engine.saw(waiting.seen);
            let acted = self.act(engine, stored, cause).instrument(span).await;
            match acted {
                Ok(()) => backoff.reset(),
                Err(End::Unavailable) => {
                    let shutdown = self.shared.shutdown.clone();
                    tokio::select! {
                        () = shutdown.cancelled() => {}
                        () = tokio::time::sleep(backoff.delay()) => {}
                    }
                    continue;
                }
                Err(end) => return end,
            }

            let deadline = engine.deadline(Instant::now());
            let wait = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            let shutdown = self.shared.shutdown.clone();
            tokio::select! {
                () = self.inbox.arrived() => {}
                changed = self.want.changed() => match changed {
                    // seen here, looked at above
                    Ok(()) => self.want.mark_changed(),
                    // the router is gone, and the process with it
                    Err(_) => return End::Dismissed,
                },
                () = wait => {}
                changed = owned.changed() => if changed.is_err() { return End::Dismissed },
                () = shutdown.cancelled() => return End::Dismissed,
            }
        }
    }

    /// Samples that are not evaluated because newer ones were, or were said to be, are seen by an operator.
    fn note_older(&self, hearing: Hearing, workload: &str, sequence: u64) {
        let policy = self.name.policy.as_str();
        match hearing {
            Hearing::Taken | Hearing::Ignored => {}
            Hearing::Older => {
                self.shared.metrics.older.inc();
                tracing::warn!(
                    policy,
                    workload,
                    sequence,
                    "sample ignored, its sequence is below one that was used"
                );
            }
            Hearing::Restarted => tracing::warn!(
                policy,
                workload,
                sequence,
                "samples are counted from lower now, going on with them"
            ),
        }
    }

    /// A child of the span that the newest sample was published in.
    fn span(&self, cause: Option<&Received<v1::Sample>>) -> tracing::Span {
        let Some(cause) = cause else {
            return tracing::Span::none();
        };
        let span = tracing::debug_span!(
            "process laneguard.v1.sample",
            otel.kind = "consumer",
            policy = self.name.policy.as_str()
        );
        if !span.is_disabled() {
            cause.set_parent(&span);
        }
        span
    }

    /// Lets the engine take its steps, and commits and publishes what follows from them.
    ///
    /// Most samples are followed by nothing, and most of a thousand policies wait most of the time: what commits and publishes is boxed, so
    /// that neither of them pays for it.
    async fn act(
        &self,
        engine: &mut Engine,
        stored: &mut Stored,
        cause: Option<Box<Received<v1::Sample>>>,
    ) -> Result<(), End> {
        if let Some(memory) = engine.outranked(unix_ms()) {
            Box::pin(self.rise(engine, stored, memory)).await?;
        }
        if let Some(proposal) = self.step(engine, stored) {
            Box::pin(self.decide(engine, stored, proposal, cause)).await?;
        }
        let due = engine.due(Instant::now(), unix_ms());
        if !due.is_empty() {
            Box::pin(self.command(engine, stored, due)).await?;
        }
        let due = engine.shadow_decisions();
        if !due.is_empty() && self.owns() {
            Box::pin(self.shadow(engine, stored, due)).await;
        }
        Ok(())
    }

    /// Commits a term above what the actuator has seen.
    async fn rise(
        &self,
        engine: &mut Engine,
        stored: &mut Stored,
        memory: Memory,
    ) -> Result<(), End> {
        let (policy, term) = (self.name.policy.as_str(), memory.term);
        tracing::warn!(
            policy,
            term,
            "the actuator has seen something newer than our command, going above it"
        );
        match self.commit(&memory, &mut stored.revision).await? {
            Commit::Done => engine.reign(memory),
            Commit::Earlier(memory) => engine.reign(*memory),
        }
        Ok(())
    }

    /// Publishes what the laws in shadow said, after everything that counts, and only as long as that may wait. What fails is left out.
    async fn shadow(&self, engine: &Engine, stored: &mut Stored, due: Vec<v1::Decision>) {
        let policy = self.name.policy.as_str();
        let subject = subject::decision(&self.name.cluster, policy);
        let now = Instant::now();
        let all = async {
            for decision in &due {
                let how = Publish {
                    // a former owner does not get in between the decisions of the present one
                    expect_last: Some(stored.decision),
                    shadow: Some(&decision.shadow_name),
                };
                match self.shared.bus.publish(&subject, decision, how).await {
                    Ok(published) => stored.decision = published.stream_sequence,
                    Err(error) => {
                        let name = decision.shadow_name.as_str();
                        tracing::debug!(policy, name, %error, "shadow decision not published");
                        return;
                    }
                }
            }
            let is_time = stored
                .shadows_kept
                .is_none_or(|at| now.saturating_duration_since(at) >= REPEAT);
            if is_time {
                stored.shadows_kept = Some(now);
                self.keep_shadows(engine).await;
            }
        };
        if tokio::time::timeout(MOST_FOR_SHADOWS, all).await.is_err() {
            tracing::debug!(policy, "shadow decisions took too long to publish");
        }
    }

    /// Keeps the shadows for the next owner. Whoever owns the policy writes, and losing a race loses seconds of a comparison.
    async fn keep_shadows(&self, engine: &Engine) {
        let Some(kept) = engine.shadow_memory() else {
            return;
        };
        let policy = self.name.policy.as_str();
        let bytes = match serde_json::to_vec(&kept) {
            Ok(bytes) if bytes.len() <= MOST_KEPT_OF_SHADOWS => bytes,
            Ok(bytes) => {
                let bytes = bytes.len();
                tracing::warn!(
                    policy,
                    bytes,
                    "what the shadows know is too large to be kept for the next owner"
                );
                return;
            }
            Err(error) => {
                tracing::warn!(policy, %error, "what the shadows know cannot be written");
                return;
            }
        };
        let key = shadow::key(&self.name.cluster, policy);
        if let Err(error) = self.shared.state.put(&key, bytes).await {
            tracing::debug!(policy, %error, "what the shadows know was not kept");
        }
    }

    /// Lets the engine evaluate what came. `None`: there is nothing to commit.
    fn step(&self, engine: &mut Engine, stored: &mut Stored) -> Option<Box<Proposal>> {
        let metrics = &self.shared.metrics;
        let began = Instant::now();
        if engine
            .deadline(began)
            .is_none_or(|deadline| deadline > began)
        {
            return None;
        }
        let step = engine.step(began, unix_ms());
        metrics.evaluations.inc();
        let counted = engine.counted();
        if !counted.is_empty() {
            metrics
                .shadows
                .count(&self.name.policy, &counted, &mut stored.compared);
        }
        metrics
            .evaluation_seconds
            .observe(began.elapsed().as_secs_f64());
        match step {
            Step::Quiet => None,
            Step::Commit(proposal) => Some(proposal),
        }
    }

    /// Commits a decision, then publishes it.
    async fn decide(
        &self,
        engine: &mut Engine,
        stored: &mut Stored,
        mut proposal: Box<Proposal>,
        cause: Option<Box<Received<v1::Sample>>>,
    ) -> Result<(), End> {
        let metrics = &self.shared.metrics;
        if let Some(decision) = &proposal.decision
            && let Err(error) = proposal.memory.keep(decision)
        {
            let policy = self.name.policy.as_str();
            tracing::error!(policy, %error, "the decision cannot be kept for the next owner");
        }
        match self.commit(&proposal.memory, &mut stored.revision).await {
            Ok(Commit::Done) => {}
            Ok(Commit::Earlier(memory)) => {
                engine.abandon(&proposal);
                let decision = memory.decision();
                engine.reign(*memory);
                return match decision {
                    Some(decision) => self.announce(&decision, &mut stored.decision).await,
                    None => Ok(()),
                };
            }
            Err(end) => {
                engine.abandon(&proposal);
                return Err(end);
            }
        }
        let before = engine.memory().law.limits.clone();
        if let Some(decision) = engine.settle(*proposal, Instant::now()) {
            self.announce(&decision, &mut stored.decision).await?;
            engine.published();
            self.log(&decision);
            metrics.decided(&decision.action);
            if let Some(cause) = cause {
                metrics
                    .decision_seconds
                    .observe(cause.received.elapsed().as_secs_f64());
            }
            self.forget_limits(&before);
            self.show_limits(engine);
        }
        Ok(())
    }

    /// Writes the memory if nobody else did.
    async fn commit(&self, memory: &Memory, revision: &mut Option<u64>) -> Result<Commit, End> {
        let metrics = &self.shared.metrics;
        let key = key(&self.name);
        let bytes = match memory.to_json() {
            Ok(bytes) => bytes,
            Err(error) => {
                let policy = self.name.policy.as_str();
                tracing::error!(policy, %error, "the memory cannot be written");
                return Err(End::Unavailable);
            }
        };
        // more than one refusal in a row means that somebody else writes as well
        for _ in 0..4 {
            if !self.owns() {
                return Err(End::Dismissed);
            }
            let written = match *revision {
                Some(revision) => {
                    self.shared
                        .state
                        .update(&key, bytes.clone(), revision)
                        .await
                }
                None => self.shared.state.create(&key, bytes.clone()).await,
            };
            match written {
                Ok(new) => {
                    metrics.committed("committed");
                    *revision = Some(new);
                    return Ok(Commit::Done);
                }
                Err(StoreError::Unavailable(_)) => {
                    metrics.committed("unavailable");
                    return Err(End::Unavailable);
                }
                Err(StoreError::Conflict) => metrics.committed("conflict"),
            }
            let found = self.shared.state.get(&key).await;
            let found = found.map_err(|_| End::Unavailable)?;
            let found = found.as_ref().map(|v| (v.bytes.as_ref(), v.revision));
            match contest::commit(memory, &bytes, found, unix_ms()) {
                Verdict::Write(at) => *revision = at,
                Verdict::Stored(at) => {
                    *revision = Some(at);
                    return Ok(Commit::Done);
                }
                Verdict::Ours(memory, at) => {
                    *revision = Some(at);
                    return Ok(Commit::Earlier(memory));
                }
                Verdict::Lost => return Err(End::Lost),
            }
        }
        Err(End::Lost)
    }

    /// Publishes a committed decision, however long it takes; whoever owns the policy next does it if we no longer do.
    async fn announce(&self, decision: &v1::Decision, last: &mut u64) -> Result<(), End> {
        let subject = subject::decision(&self.name.cluster, &self.name.policy);
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(3));
        loop {
            if !self.owns() {
                return Err(End::Dismissed);
            }
            let how = Publish {
                expect_last: Some(*last),
                shadow: None,
            };
            match self.shared.bus.publish(&subject, decision, how).await {
                Ok(published) => {
                    *last = published.stream_sequence;
                    return Ok(());
                }
                Err(PublishError::Refused(reason)) => {
                    tracing::error!(subject, reason, "decision not published");
                    return Ok(());
                }
                Err(PublishError::Unavailable(_)) => tokio::time::sleep(backoff.delay()).await,
                Err(PublishError::WrongLastSequence) => {
                    let found = self
                        .shared
                        .bus
                        .last::<v1::Decision>(Kind::Decision, &subject)
                        .await;
                    let Ok(found) = found else {
                        tokio::time::sleep(backoff.delay()).await;
                        continue;
                    };
                    *last = found.stream_sequence;
                    match contest::decision(decision, found.message.as_ref()) {
                        Answer::Publish => {}
                        Answer::Stored => return Ok(()),
                        Answer::Lost => return Err(End::Lost),
                    }
                }
            }
        }
    }

    /// Publishes the commands that are due. Those that cannot be are due again with the next usable samples.
    async fn command(
        &self,
        engine: &mut Engine,
        stored: &mut Stored,
        due: Vec<v1::Command>,
    ) -> Result<(), End> {
        let metrics = &self.shared.metrics;
        for mut command in due {
            if !self.owns() {
                return Err(End::Dismissed);
            }
            match self.publish(&mut command, stored).await {
                Ok(()) => {
                    engine.sent(&command, Instant::now());
                    metrics.commanded("stored");
                    if command.renewal > 0 {
                        metrics.renewals.inc();
                    }
                }
                Err(Some(end)) => {
                    metrics.commanded("wrong_last_sequence");
                    return Err(end);
                }
                Err(None) => metrics.commanded("unavailable"),
            }
        }
        Ok(())
    }

    /// Publishes a command as the successor of the last one we know. One that is there already extends no validity, so it is
    /// renewed beyond what is there. `Err(None)`: it could not be now.
    async fn publish(
        &self,
        command: &mut v1::Command,
        stored: &mut Stored,
    ) -> Result<(), Option<End>> {
        let subject = subject::command(&command.cluster, &command.policy, &command.class);
        for _ in 0..4 {
            if let Some(expected) = stored.commands.get(&command.class) {
                let how = Publish {
                    expect_last: Some(*expected),
                    shadow: None,
                };
                match self.shared.bus.publish(&subject, &*command, how).await {
                    Ok(published) if published.duplicate => {
                        self.shared.metrics.commanded("duplicate");
                        command.renewal = command.renewal.saturating_add(1);
                    }
                    Ok(published) => {
                        stored
                            .commands
                            .insert(command.class.clone(), published.stream_sequence);
                        return Ok(());
                    }
                    Err(PublishError::WrongLastSequence) => {}
                    Err(PublishError::Unavailable(_)) => return Err(None),
                    Err(PublishError::Refused(reason)) => {
                        tracing::error!(subject, reason, "command not published");
                        return Err(None);
                    }
                }
            }
            let last = self
                .shared
                .bus
                .last::<v1::Command>(Kind::Command, &subject)
                .await
                .map_err(|_| None)?;
            stored
                .commands
                .insert(command.class.clone(), last.stream_sequence);
            match contest::command(command, last.message.as_ref()) {
                Answer::Publish => {}
                Answer::Stored => {
                    let there = last.message.map_or(0, |last| last.renewal);
                    command.renewal = there.saturating_add(1);
                }
                Answer::Lost => return Err(Some(End::Lost)),
            }
        }
        Err(None)
    }

    /// Changed limits are news for an operator; what stays as it is, is not.
    fn log(&self, decision: &v1::Decision) {
        let (policy, action) = (self.name.policy.as_str(), decision.action.as_str());
        let reason = decision.reason.as_str();
        if decision.limits.iter().any(|l| l.before_bps != l.after_bps) {
            tracing::info!(policy, action, reason, "limits changed");
        } else {
            tracing::debug!(policy, action, reason, "decided");
        }
    }

    fn show_limits(&self, engine: &Engine) {
        for limit in &engine.memory().law.limits {
            self.shared
                .metrics
                .limit(&self.name.policy, &limit.class, limit.limit_bps);
        }
    }

    fn forget_limits(&self, limits: &[Limit]) {
        for limit in limits {
            self.shared
                .metrics
                .forget_limit(&self.name.policy, &limit.class);
        }
    }
}

/// The key of a policy's memory.
fn key(name: &Name) -> String {
    format!("decider.{}.{}", name.cluster, name.policy)
}
