//! What happened after a decision, collected as the stream goes on.

use laneguard_decider_core::policy::Policy;
use laneguard_proto::v1::{Decision, Outcome, Sample};
use serde::Serialize;

use crate::explain::seen;
use crate::words::{decided_ms, is_change, plain};

/// Decisions told one by one.
const MOST_TOLD: usize = 6;
/// What lies farther ahead is another story, milliseconds.
const HORIZON_MS: i64 = 10 * 60_000;
/// Outcomes kept; there are as many as classes and repetitions.
const MOST_OUTCOMES: usize = 64;

/// What happened next.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct After {
    /// The next decisions that changed a limit or found something, at most six.
    pub(super) decisions: Vec<Next>,
    /// More of them within ten minutes that are not told.
    pub(super) more: u64,
    /// Evaluations that changed nothing since the last that is told.
    pub(super) held: u64,
    /// Why the first of all that followed changed nothing. Unset: it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) held_because: Option<String>,
    /// How long after the decision every critical workload in one sample set was inside all its targets. Unset: not seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) within_targets_after_ms: Option<i64>,
    /// How long after that a target was missed again, from the decision on. Unset: not seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) missed_again_after_ms: Option<i64>,
    /// How far the recording goes on after the decision.
    pub(super) followed_for_ms: i64,
    /// What the actuator reported about it.
    pub(super) outcomes: Vec<Done>,
}

/// A decision that followed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Next {
    /// How long after the decision that is explained.
    pub(super) after_ms: i64,
    /// When, Unix milliseconds.
    #[serde(skip)]
    pub(super) at_ms: i64,
    /// Its sequence.
    pub(super) sequence: u64,
    /// The law's word.
    pub(super) action: String,
    /// Evaluations before it that changed nothing, since the last that is told.
    pub(super) held: u64,
    /// Class, limit before and after in bits per second, of those that changed.
    pub(super) changes: Vec<(String, f64, f64)>,
    /// Why.
    pub(super) reason: String,
}

/// What the actuator did for a class.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Done {
    /// The class.
    pub(super) class: String,
    /// Pods whose annotation was written.
    pub(super) changed: u32,
    /// Pods that had it already.
    pub(super) unchanged: u32,
    /// Pods that could not be written.
    pub(super) failed: u32,
    /// Why it was not carried out. Unset: it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) refused: Option<String>,
    /// Pods that no annotation can limit.
    pub(super) not_covered: usize,
    /// From receipt to the last answer, milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) took_ms: Option<f64>,
}

impl After {
    /// Takes a decision of the same policy that followed one made `at_ms` under `policy` (unknown for laws of others).
    pub(super) fn take(&mut self, at_ms: i64, policy: Option<&Policy>, next: &Decision) {
        let next_ms = decided_ms(next);
        let after_ms = next_ms.saturating_sub(at_ms);
        if after_ms > HORIZON_MS {
            return;
        }
        let is_first = self.followed_for_ms == 0;
        self.followed_for_ms = after_ms;
        if let Some(policy) = policy
            && let Some(all_within) = within(policy, &next.samples)
        {
            match (all_within, self.within_targets_after_ms) {
                (true, None) => self.within_targets_after_ms = Some(after_ms),
                (false, Some(_)) if self.missed_again_after_ms.is_none() => {
                    self.missed_again_after_ms = Some(after_ms);
                }
                _ => {}
            }
        }
        self.held += next.repeats;
        if next.action == "HOLD" && !is_change(next) {
            self.held += 1;
            if is_first {
                self.held_because = Some(plain(&next.reason));
            }
            return;
        }
        let held = std::mem::take(&mut self.held);
        if self.decisions.len() >= MOST_TOLD {
            self.more += 1;
            return;
        }
        let changes = if is_change(next) {
            let changed = next.limits.iter().filter(|l| l.before_bps != l.after_bps);
            let known =
                changed.filter_map(|l| Some((plain(&l.class), l.before_bps?, l.after_bps?)));
            known.collect()
        } else {
            Vec::new()
        };
        self.decisions.push(Next {
            after_ms,
            at_ms: next_ms,
            sequence: next.sequence,
            action: plain(&next.action),
            held,
            changes,
            reason: plain(&next.reason),
        });
    }

    /// Takes a report about the decision's command.
    pub(super) fn report(&mut self, outcome: &Outcome) {
        if self.outcomes.len() >= MOST_OUTCOMES {
            return;
        }
        self.outcomes.push(Done {
            class: plain(&outcome.class),
            changed: outcome.changed,
            unchanged: outcome.unchanged,
            failed: outcome.failed,
            refused: outcome.refused.then(|| plain(&outcome.refused_reason)),
            not_covered: outcome.not_covered.len(),
            took_ms: outcome.took_ms,
        });
    }
}

/// Whether every measured signal is inside its target. `None`: nothing was measured.
fn within(policy: &Policy, samples: &[Sample]) -> Option<bool> {
    let mut signals = samples
        .iter()
        .flat_map(|sample| seen::signals(policy, sample))
        .filter_map(|signal| signal.is_missed)
        .peekable();
    signals.peek()?;
    Some(signals.all(|missed| !missed))
}
