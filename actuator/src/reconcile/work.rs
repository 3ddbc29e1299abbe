//! Looking at pods, writing them, and what became of it.

use std::time::Duration;

use tokio::time::Instant;
use tracing::Span;

use super::{LOG_AGAIN, MOST_CONFLICTS, RETRY, Reconciler, Report, Source};
use crate::apply::{Answer, Edit, Job, Target};
use crate::batch::{Batch, Settled, Trigger};
use crate::commands::Wanted;
use crate::metrics::{ActionLabel, ResultLabel};
use crate::plan::{Cause, Plan, Refusal};
use crate::pods::{Key, within};
use crate::policies::{Scope, Slot, class};

impl Reconciler {
    pub(super) fn enqueue(&mut self, key: Key, urgent: bool) {
        if !self.leading() {
            return;
        }
        match self.in_flight.get_mut(&key) {
            Some(again) => *again = true,
            None => self.queue.push(key, urgent),
        }
        self.metrics.queue.set(self.queue.len() as i64);
    }

    pub(super) fn enqueue_all(&mut self) {
        let keys: Vec<Key> = self.pods.keys().cloned().collect();
        for key in keys {
            self.enqueue(key, false);
        }
    }

    /// Begins a batch: every pod that the class selects or has a record of. One that is under way for the class ends with what it has.
    pub(super) fn begin(
        &mut self,
        slot: Slot,
        trigger: Trigger,
        number: (u64, u64),
        since: Instant,
        span: Span,
        now: Instant,
    ) {
        if let Some(superseded) = self.batches.remove(&slot) {
            self.finish(superseded, now);
        }
        let mut batch = Batch::new(slot, trigger, number, since, span, self.writes + 1);
        self.collect(&mut batch, now);
        let keys: Vec<Key> = batch.outstanding().cloned().collect();
        if batch.is_done() {
            self.finish(batch, now);
        } else {
            self.batches.insert(batch.slot.clone(), batch);
        }
        for key in keys {
            self.enqueue(key, false);
        }
    }

    pub(super) fn collect(&self, batch: &mut Batch, now: Instant) {
        let world = self.world(now);
        let entry = self.policies.entry(&batch.slot.policy);
        let class = entry.and_then(|entry| class(entry, &batch.slot.class));
        let only = match (trigger_is_command(batch.trigger), entry) {
            // pods that left its namespace cannot be: a pod never moves
            (true, Some(entry)) if entry.spec.namespace_selector.is_none() => {
                self.policies.only_namespace(entry)
            }
            _ => None,
        };
        for pod in within(&self.pods, only) {
            let ours = pod
                .record()
                .is_some_and(|r| (&r.policy, &r.class) == (&batch.slot.policy, &batch.slot.class));
            let selected = class.filter(|c| c.selector.matches(&pod.labels));
            let scope = match (entry, selected) {
                (Some(entry), Some(_)) => {
                    self.policies
                        .scope(entry, &pod.key.namespace, &self.namespaces)
                }
                _ => Scope::Outside,
            };
            let not_covered = world.not_covered(pod);
            match (scope, not_covered) {
                (Scope::Inside, Some(reason)) => batch.leave_out(pod, reason),
                (Scope::Denied, _) => batch.leave_out(pod, Refusal::NamespaceDenied),
                _ => {}
            }
            let touchable = scope == Scope::Inside && not_covered.is_none();
            if ours || touchable {
                batch.add(pod.key.clone());
            }
        }
    }

    pub(super) fn settle(&mut self, key: &Key, settled: Settled, now: Instant) {
        let mut done = Vec::new();
        for (slot, batch) in &mut self.batches {
            if batch.awaits(key) {
                batch.settle(key, settled);
                if batch.is_done() {
                    done.push(slot.clone());
                }
            }
        }
        for slot in done {
            if let Some(batch) = self.batches.remove(&slot) {
                self.finish(batch, now);
            }
        }
    }

    pub(super) fn finish(&mut self, batch: Batch, now: Instant) {
        let highest_term = self.commands.highest_term(&batch.slot);
        let outcome = batch.outcome(highest_term, now);
        if batch.trigger == Trigger::Command {
            self.metrics
                .command_seconds
                .observe((now - batch.since).as_secs_f64());
            self.reported.insert(batch.slot.clone(), batch.number);
        }
        if batch.changed() > 0 || batch.failed() > 0 {
            let limit = self
                .commands
                .get(&batch.slot)
                .map(|c| match c.wanted(None) {
                    None => "min".to_owned(),
                    Some(Wanted::Restore) => "none".to_owned(),
                    Some(Wanted::Limit(bps)) => format!("{:.3}M", bps / 1e6),
                });
            tracing::info!(policy = %batch.slot.policy, class = %batch.slot.class, trigger = batch.trigger.as_str(),
                limit = limit.as_deref().unwrap_or("none"), pods = outcome.matched, changed = outcome.changed,
                unchanged = outcome.unchanged, failed = outcome.failed, took_ms = outcome.took_ms, "limits written");
        }
        self.reports.push(Report {
            outcome,
            span: batch.span,
        });
    }

    /// Outcomes to publish.
    pub fn take_reports(&mut self) -> Vec<Report> {
        std::mem::take(&mut self.reports)
    }

    /// The next pod to write, while there is room for one more write under way.
    pub fn next_job(&mut self, now: Instant) -> Option<Job> {
        while self.leading() && self.in_flight.len() < self.settings.concurrency {
            let key = self.queue.pop()?;
            self.metrics.queue.set(self.queue.len() as i64);
            let Some(pod) = self.pods.get(&key) else {
                self.settle(&key, Settled::Gone, now);
                continue;
            };
            let plan = self.world(now).plan(pod);
            let target = Target {
                key: key.clone(),
                uid: pod.uid.clone(),
                resource_version: pod.resource_version.clone(),
            };
            if let Some(slot) = self.unreported_expiry(&plan) {
                self.orphaned.insert(slot.clone());
                tracing::warn!(policy = %slot.policy, class = %slot.class, "limits found on pods have no command, and nobody renews them");
                self.begin(slot, Trigger::Expired, (0, 0), now, Span::none(), now);
                self.enqueue(key, false);
                continue;
            }
            match &plan {
                Plan::Await(Some(until)) => self.wakes.add(&key, *until),
                Plan::Refuse(Refusal::FoundTooLong) if self.may_log("found_too_long", now) => {
                    tracing::warn!(pod = %key, "the egress annotation found here is too long to be kept for restoring: this pod is not limited");
                }
                Plan::Restore(restore) if restore.slot.is_none() => {
                    tracing::warn!(pod = %key, "restoring a pod whose record cannot be read: limit and record go");
                }
                _ => {}
            }
            let Some(edit) = edit_of(&plan) else {
                self.attempts.remove(&key);
                self.settle(&key, Settled::Unchanged, now);
                continue;
            };
            let span = self
                .batches
                .values()
                .find(|b| b.awaits(&key))
                .map_or_else(Span::none, |b| b.span.clone());
            self.in_flight.insert(key, false);
            self.writes += 1;
            return Some(Job {
                target,
                edit,
                span,
                number: self.writes,
            });
        }
        None
    }

    /// The class of a plan that follows from an expiry without a command, the first time.
    pub(super) fn unreported_expiry(&self, plan: &Plan) -> Option<Slot> {
        let slot = match plan {
            Plan::Set(set) if set.stale => Slot {
                policy: set.record.policy.clone(),
                class: set.record.class.clone(),
            },
            Plan::Restore(restore) if restore.cause == Cause::Expired => restore.slot.clone()?,
            _ => return None,
        };
        (self.commands.get(&slot).is_none() && !self.orphaned.contains(&slot)).then_some(slot)
    }

    /// What became of a write.
    pub fn written(&mut self, job: &Job, answer: Answer, now: Instant) {
        let key = &job.target.key;
        let again = self.in_flight.remove(key).unwrap_or(false);
        let action = if job.edit.record.is_some() {
            "set"
        } else {
            "restore"
        };
        self.metrics
            .writes
            .get_or_create(&ResultLabel {
                result: answer.word(),
            })
            .inc();
        match answer {
            Answer::Written(pod) => {
                self.metrics
                    .changes
                    .get_or_create(&ActionLabel { action })
                    .inc();
                self.attempts.remove(key);
                let in_batch = self.batches.values().any(|b| b.awaits(key));
                if !in_batch {
                    tracing::info!(pod = %key, action, limit = job.edit.egress.as_deref().unwrap_or("none"), "limit written");
                }
                for batch in self.batches.values_mut() {
                    batch.note_written(key, job.number);
                }
                // what the pod looks like now is judged here, so nobody else may put it into the queue
                self.in_flight.insert(key.clone(), false);
                self.pod(pod, Source::Own, now);
                self.in_flight.remove(key);
                let wanted = self.pods.get(key).map(|pod| self.world(now).plan(pod));
                let undone = wanted.is_some_and(|plan| edit_of(&plan).as_ref() == Some(&job.edit));
                match undone.then(|| self.contest(key, now)).flatten() {
                    Some(later) if self.leading() => {
                        self.wakes.add(key, later);
                        self.settle(key, Settled::Failed, now);
                    }
                    // looked at once more: something may have changed while it was written
                    _ => self.enqueue(key.clone(), again),
                }
            }
            Answer::Changed(pod) => {
                let attempts = self.attempts.entry(key.clone()).or_default();
                attempts.conflicts = attempts.conflicts.saturating_add(1);
                let (most, pause) = MOST_CONFLICTS;
                let tired = attempts.conflicts > most;
                self.pod(pod, Source::Own, now);
                if tired && self.leading() {
                    self.wakes.add(key, now + pause);
                    self.settle(key, Settled::Failed, now);
                } else {
                    self.enqueue(key.clone(), true);
                }
            }
            Answer::Gone => {
                self.pod_gone(key, Some(&job.target.uid), now);
                // a new pod of that name may have come meanwhile
                if self.pods.contains_key(key) {
                    self.enqueue(key.clone(), true);
                }
            }
            Answer::NotLeading => self.enqueue(key.clone(), false),
            Answer::Failed {
                reason,
                message,
                retry_after,
            } => {
                if self.may_log(reason.as_str(), now) {
                    tracing::warn!(pod = %key, reason = reason.as_str(), message, "a limit cannot be written, trying again");
                }
                self.retry_later(key, retry_after, now);
            }
        }
    }

    pub(super) fn retry_later(&mut self, key: &Key, retry_after: Option<Duration>, now: Instant) {
        if !self.leading() {
            return;
        }
        let attempts = self.attempts.entry(key.clone()).or_default();
        attempts.failures = attempts.failures.saturating_add(1);
        let wait = backoff(attempts.failures);
        let (first, longest) = RETRY;
        self.wakes.add(
            key,
            now + retry_after.map_or(wait, |asked| asked.min(longest).max(first)),
        );
        self.settle(key, Settled::Failed, now);
    }

    pub(super) fn may_log(&mut self, what: &'static str, now: Instant) -> bool {
        let due = self
            .logged
            .get(what)
            .is_none_or(|at| now >= *at + LOG_AGAIN);
        if due {
            self.logged.insert(what, now);
        }
        due
    }
}

/// The wait after the given number of failures in a row.
pub(super) fn backoff(failures: u32) -> Duration {
    let (first, longest) = RETRY;
    first.saturating_mul(1 << failures.min(10)).min(longest)
}

/// What a plan writes.
pub(super) fn edit_of(plan: &Plan) -> Option<Edit> {
    match plan {
        Plan::Leave | Plan::Await(_) | Plan::Refuse(_) => None,
        Plan::Set(set) => Some(Edit {
            egress: Some(set.limit.to_string()),
            record: Some(set.record.to_json()),
        }),
        Plan::Restore(restore) => Some(Edit {
            egress: restore.found.clone(),
            record: None,
        }),
    }
}

fn trigger_is_command(trigger: Trigger) -> bool {
    matches!(trigger, Trigger::Command | Trigger::Expired)
}
