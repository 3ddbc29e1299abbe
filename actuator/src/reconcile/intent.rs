//! What is wanted: policies, overrides, commands; and what other replicas did about it.

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use laneguard_proto::policy::Entry;
use laneguard_proto::subject::Token;
use laneguard_proto::v1::Outcome;
use tokio::time::Instant;
use tracing::Span;

use super::{MOST_STRANGERS, Reconciler, Report};
use crate::annotation::Limit;
use crate::batch::Trigger;
use crate::commands::{Command, Verdict, Wanted};
use crate::metrics::ResultLabel;
use crate::pods::Pod;
use crate::policies::{Idle, Slot, Standing, class};

/// A command's validity at most: that of a policy can be no longer.
const LONGEST_VALIDITY: Duration = Duration::from_secs(24 * 3600);
/// The same refusal is told again after this: the owner may have missed it.
const REFUSE_AGAIN: Duration = Duration::from_secs(10);

impl Reconciler {
    /// A policy as it is now.
    pub fn policy(&mut self, token: Token, entry: Entry, now: Instant) {
        let before = self.classes(&token);
        let enforced = self.enforcing(&token);
        let on_stale = entry.spec.on_stale;
        if !self.policies.put(token.clone(), entry) {
            return;
        }
        self.commands.obey(&token, &on_stale, now);
        self.policy_moved(&token, before, enforced, now);
    }

    /// A policy was deleted: there is a marker.
    pub fn policy_deleted(&mut self, token: &Token, now: Instant) {
        let before = self.classes(token);
        let enforced = self.enforcing(token);
        if self.policies.delete(token) {
            self.policy_moved(token, before, enforced, now);
        }
    }

    /// An operator released a policy, or took that back.
    pub fn released(&mut self, token: &Token, released: bool, now: Instant) {
        let before = self.classes(token);
        let enforced = self.enforcing(token);
        if self.policies.set_released(token, released) {
            tracing::info!(policy = %token, released, "an operator's release changed");
            self.policy_moved(token, before, enforced, now);
        }
    }

    /// The policies were read in full.
    pub fn policies_synced(&mut self, now: Instant) {
        let before = self.policies.synced();
        self.policies.policies_synced();
        self.synced(before, now);
    }

    /// The overrides were read in full.
    pub fn overrides_synced(&mut self, now: Instant) {
        let before = self.policies.synced();
        self.policies.overrides_synced();
        self.synced(before, now);
    }

    pub(super) fn synced(&mut self, before: bool, now: Instant) {
        if !before && self.policies.synced() {
            for slot in self.learn_numbers(None) {
                self.commands.drop_outdated(&slot);
            }
            self.touch_placement(now);
            self.resume(now);
        }
    }

    /// A command. `age` is how long before `received` it was stored, as far as is known.
    pub fn command(
        &mut self,
        mut command: Command,
        age: Duration,
        received: Instant,
        span: Span,
        now: Instant,
    ) {
        let (slot, number) = (command.slot.clone(), (command.term, command.sequence));
        let wanted: Vec<f64> = std::iter::once(command.wanted)
            .filter_map(|w| match w {
                Wanted::Limit(bps) => Some(bps),
                Wanted::Restore => None,
            })
            .chain(command.nodes.values().copied())
            .collect();
        command.valid_for = command.valid_for.min(LONGEST_VALIDITY);
        if let Some(entry) = self.policies.entry(&slot.policy) {
            command.obey(&entry.spec.on_stale);
        }
        let verdict = self.commands.accept(command, age, received);
        self.prune_if_many();
        if let Verdict::Refused {
            highest_term,
            older_term,
        } = verdict
        {
            let reason = if older_term {
                "older_term"
            } else {
                "older_sequence"
            };
            self.refuse(slot, number, reason, highest_term, span, now);
            return;
        }
        if self.policies.synced()
            && let Some(reason) = self.objection(&slot)
        {
            self.refuse(slot, number, reason, number.0, span, now);
            return;
        }
        self.refused.remove(&slot);
        self.orphaned.remove(&slot);
        let word = match verdict {
            Verdict::Renewed => "renewed",
            _ => "accepted",
        };
        self.count_command(word);
        if verdict == Verdict::Renewed {
            return;
        }
        self.notice_clamp(&slot, &wanted);
        if self.leading() && self.policies.synced() {
            self.pace(&slot, now);
            self.begin(slot, Trigger::Command, number, received, span, now);
        }
    }

    /// An outcome that some replica published.
    pub fn outcome(&mut self, slot: Slot, outcome: &Outcome) {
        self.commands.raise(&slot, outcome.highest_term, 0);
        if !outcome.refused {
            self.commands.raise(&slot, outcome.term, outcome.sequence);
            if outcome.trigger.is_empty() || outcome.trigger == Trigger::Command.as_str() {
                self.reported.insert(slot, (outcome.term, outcome.sequence));
            }
        }
        self.prune_if_many();
    }

    fn prune_if_many(&mut self) {
        if self.commands.len() > self.prune_at {
            self.prune();
        }
    }

    /// Forgets classes that no policy has and no pod names: anybody may send messages about such, without end.
    pub(super) fn prune(&mut self) {
        if !self.policies.synced() || !self.listed {
            return;
        }
        let recorded = self.recorded_slots();
        let known = |slot: &Slot| {
            let entry = self.policies.entry(&slot.policy);
            recorded.contains(slot) || entry.is_some_and(|e| class(e, &slot.class).is_some())
        };
        self.commands.retain(known);
        self.reported.retain(|slot, _| known(slot));
        self.refused.retain(|slot, _| known(slot));
        self.orphaned.retain(known);
        self.ceilings.retain(known);
        self.prune_at = 2 * self.commands.len() + MOST_STRANGERS;
    }

    pub(super) fn count_command(&self, result: &'static str) {
        self.metrics
            .commands
            .get_or_create(&ResultLabel { result })
            .inc();
    }

    pub(super) fn notice_clamp(&self, slot: &Slot, wanted: &[f64]) {
        let Some(entry) = self.policies.entry(&slot.policy) else {
            return;
        };
        let Some(class) = class(entry, &slot.class) else {
            return;
        };
        for bps in wanted {
            let (limit, clamped) = Limit::within(*bps, &class.bandwidth);
            if clamped {
                self.metrics.clamped.inc();
                tracing::warn!(policy = %slot.policy, class = %slot.class, asked_bps = bps, limit = %limit,
                    "a command asks for a limit out of the class's bounds, using the nearest bound");
            }
        }
    }

    /// Why commands for a class are not carried out.
    pub(super) fn objection(&self, slot: &Slot) -> Option<&'static str> {
        let entry = match self.policies.standing(&slot.policy) {
            Standing::Unknown | Standing::Deleted => return Some("unknown_policy"),
            Standing::Idle(_, Idle::RolloutUnsupported) => return Some("rollout_unsupported"),
            Standing::Idle(..) => return Some("not_enforcing"),
            Standing::Enforcing(entry) => entry,
        };
        class(entry, &slot.class)
            .is_none()
            .then_some("unknown_class")
    }

    pub(super) fn refuse(
        &mut self,
        slot: Slot,
        number: (u64, u64),
        reason: &'static str,
        highest_term: u64,
        span: Span,
        now: Instant,
    ) {
        self.count_command(reason);
        let refusal = (number.0, number.1, reason);
        let former = self.refused.get(&slot).copied();
        let known = former.is_some_and(|(former, _)| former == refusal);
        if known && former.is_some_and(|(_, at)| now < at + REFUSE_AGAIN) {
            return;
        }
        self.refused.insert(slot.clone(), (refusal, now));
        if !known {
            tracing::warn!(policy = %slot.policy, class = %slot.class, term = number.0, sequence = number.1, reason, highest_term, "command refused");
        }
        if self.leading() {
            let outcome = Outcome {
                policy: slot.policy.to_string(),
                class: slot.class.to_string(),
                term: number.0,
                sequence: number.1,
                refused: true,
                refused_reason: reason.to_owned(),
                highest_term,
                trigger: Trigger::Command.as_str().to_owned(),
                ..Outcome::default()
            };
            self.reports.push(Report { outcome, span });
        }
    }

    pub(super) fn enforcing(&self, token: &Token) -> bool {
        matches!(self.policies.standing(token), Standing::Enforcing(_))
    }

    pub(super) fn classes(&self, token: &Token) -> BTreeSet<Token> {
        let classes = self.policies.entry(token).map(|e| &e.spec.best_effort);
        classes
            .into_iter()
            .flatten()
            .filter_map(|c| c.class.parse().ok())
            .collect()
    }

    /// A policy changed: its classes are looked at, and all pods, as others may be critical now.
    pub(super) fn policy_moved(
        &mut self,
        token: &Token,
        mut classes: BTreeSet<Token>,
        enforced: bool,
        now: Instant,
    ) {
        let enforcing = self.enforcing(token);
        if !enforcing {
            self.commands.forget(token);
        } else if !enforced {
            self.commands.forget_expired(token, now);
        }
        let standing = match self.policies.standing(token) {
            Standing::Enforcing(_) => "enforcing",
            Standing::Idle(_, Idle::NotEnforcing) => "not enforcing",
            Standing::Idle(_, Idle::Released) => "released",
            Standing::Idle(_, Idle::RolloutUnsupported) => {
                tracing::warn!(policy = %token, "actuation Rollout is not supported: this policy is not enforced");
                "refused"
            }
            Standing::Deleted => "deleted",
            Standing::Unknown => "unknown",
        };
        tracing::info!(policy = %token, standing, "policy changed");
        self.touch_placement(now);
        if self.policies.synced() {
            let learnt = self.learn_numbers(Some(token));
            // while it enforces, its records are ours: what is newer there does not end the command in force
            for slot in learnt.iter().filter(|_| !enforced) {
                self.commands.drop_outdated(slot);
            }
        }
        if !self.leading() || !self.policies.synced() {
            return;
        }
        classes.extend(self.classes(token));
        let recorded = self.recorded_slots();
        classes.extend(
            recorded
                .iter()
                .filter(|s| s.policy == *token)
                .map(|s| s.class.clone()),
        );
        for class in classes {
            let slot = Slot {
                policy: token.clone(),
                class,
            };
            let ours = recorded.contains(&slot);
            self.revisit(slot, ours, true, now);
        }
        self.enqueue_all();
    }

    /// Begins what a class's standing asks for.
    pub(super) fn revisit(&mut self, slot: Slot, ours: bool, even_if_reported: bool, now: Instant) {
        self.pace(&slot, now);
        let number = self
            .commands
            .get(&slot)
            .map(|c| (c.command.term, c.command.sequence));
        match (self.objection(&slot), number) {
            (None, Some(number)) => {
                if even_if_reported || self.reported.get(&slot) != Some(&number) {
                    self.begin(slot, Trigger::Command, number, now, Span::none(), now);
                }
            }
            (None, None) => {}
            (Some(_), _) if !ours || self.policies.standing(&slot.policy) == Standing::Unknown => {}
            (Some(_), _) => {
                let released = matches!(
                    self.policies.standing(&slot.policy),
                    Standing::Idle(_, Idle::Released)
                );
                let trigger = if released {
                    Trigger::Released
                } else {
                    Trigger::PolicyEnded
                };
                self.begin(slot, trigger, (0, 0), now, Span::none(), now);
            }
        }
    }

    pub(super) fn recorded_slots(&self) -> HashSet<Slot> {
        self.pods
            .values()
            .filter_map(Pod::record)
            .map(|r| Slot {
                policy: r.policy.clone(),
                class: r.class.clone(),
            })
            .collect()
    }
}
