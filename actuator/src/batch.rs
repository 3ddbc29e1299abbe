//! What became of the pods that one cause touches: the account behind an Outcome.

use std::collections::HashSet;

use laneguard_proto::v1::{NotCovered, Outcome};
use tokio::time::Instant;
use tracing::Span;

use crate::plan::Refusal;
use crate::pods::{Key, Pod};
use crate::policies::Slot;

/// Pods that cannot be limited are named up to this many.
const MOST_NOT_COVERED: usize = 20;

/// Why the actuator acts on a class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    /// A command, or the policy's bounds changed under one.
    Command,
    /// Nobody renewed the limits.
    Expired,
    /// The policy stopped enforcing, was deleted, or lost the class.
    PolicyEnded,
    /// An operator released the policy.
    Released,
}

impl Trigger {
    /// The word in outcomes.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Command => "COMMAND",
            Self::Expired => "EXPIRED",
            Self::PolicyEnded => "POLICY_ENDED",
            Self::Released => "RELEASED",
        }
    }
}

/// What became of one pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// Its annotations were written.
    Changed,
    /// Nothing had to be written.
    Unchanged,
    /// It could not be written, and is tried again later.
    Failed,
    /// It is gone.
    Gone,
}

/// The pods that one cause touches.
#[derive(Debug)]
pub struct Batch {
    /// The class.
    pub slot: Slot,
    /// Why.
    pub trigger: Trigger,
    /// Term and sequence of the command it is about; zeros for none.
    pub number: (u64, u64),
    /// When the cause arrived.
    pub since: Instant,
    /// The span of the cause.
    pub span: Span,
    /// The first write that counts for it: earlier ones were planned before the cause was known.
    pub first_write: u64,
    outstanding: HashSet<Key>,
    /// Outstanding pods that were written and are looked at once more.
    written: HashSet<Key>,
    not_covered: Vec<NotCovered>,
    matched: u32,
    changed: u32,
    unchanged: u32,
    failed: u32,
}

impl Batch {
    /// Touches no pods yet.
    pub fn new(
        slot: Slot,
        trigger: Trigger,
        number: (u64, u64),
        since: Instant,
        span: Span,
        first_write: u64,
    ) -> Self {
        Self {
            first_write,
            written: HashSet::new(),
            slot,
            trigger,
            number,
            since,
            span,
            outstanding: HashSet::new(),
            not_covered: Vec::new(),
            matched: 0,
            changed: 0,
            unchanged: 0,
            failed: 0,
        }
    }

    /// A pod to be looked at.
    pub fn add(&mut self, key: Key) {
        if self.outstanding.insert(key) {
            self.matched += 1;
        }
    }

    /// A pod in the selector that cannot be limited.
    pub fn leave_out(&mut self, pod: &Pod, reason: Refusal) {
        if self.not_covered.len() < MOST_NOT_COVERED {
            self.not_covered.push(NotCovered {
                pod: pod.key.to_string(),
                node: pod.node.as_deref().unwrap_or_default().to_owned(),
                reason: reason.as_str().to_owned(),
            });
        }
    }

    /// Whether the pod is still to be looked at.
    pub fn awaits(&self, key: &Key) -> bool {
        self.outstanding.contains(key)
    }

    /// The pods still to be looked at.
    pub fn outstanding(&self) -> impl Iterator<Item = &Key> {
        self.outstanding.iter()
    }

    /// A pod was written, and is looked at once more before it is settled.
    pub fn note_written(&mut self, key: &Key, write: u64) {
        if write >= self.first_write && self.outstanding.contains(key) {
            self.written.insert(key.clone());
        }
    }

    /// What became of a pod. Others are ignored.
    pub fn settle(&mut self, key: &Key, settled: Settled) {
        if self.outstanding.remove(key) {
            let was_written = self.written.remove(key);
            match settled {
                Settled::Unchanged if was_written => self.changed += 1,
                Settled::Changed => self.changed += 1,
                Settled::Unchanged => self.unchanged += 1,
                Settled::Failed => self.failed += 1,
                Settled::Gone => self.matched -= 1,
            }
        }
    }

    /// Whether every pod is settled.
    pub fn is_done(&self) -> bool {
        self.outstanding.is_empty()
    }

    /// Pods written so far.
    pub fn changed(&self) -> u32 {
        self.changed
    }

    /// Pods that could not be written.
    pub fn failed(&self) -> u32 {
        self.failed
    }

    /// The message, but for cluster and time.
    pub fn outcome(&self, highest_term: u64, now: Instant) -> Outcome {
        Outcome {
            policy: self.slot.policy.to_string(),
            class: self.slot.class.to_string(),
            term: self.number.0,
            sequence: self.number.1,
            matched: self.matched,
            changed: self.changed,
            unchanged: self.unchanged,
            failed: self.failed,
            highest_term,
            not_covered: self.not_covered.clone(),
            took_ms: Some((now - self.since).as_secs_f64() * 1e3),
            trigger: self.trigger.as_str().to_owned(),
            ..Outcome::default()
        }
    }
}
