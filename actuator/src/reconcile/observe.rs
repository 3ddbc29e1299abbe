//! What is seen of pods and namespaces.

use std::collections::{BTreeMap, HashMap, HashSet};

use laneguard_proto::subject::Token;
use tokio::time::Instant;

use super::work::{backoff, edit_of};
use super::{CALM, Contest, Reconciler, Source};
use crate::batch::Settled;
use crate::plan::Plan;
use crate::pods::{Key, Ownership, Pod};
use crate::policies::{Scope, Slot, class};

impl Reconciler {
    /// A complete list begins.
    pub fn list_begins(&mut self) {
        self.listing = Some(HashSet::new());
    }

    /// The list is complete: what was not in it is gone.
    pub fn list_ends(&mut self, now: Instant) {
        if let Some(seen) = self.listing.take() {
            let gone: Vec<Key> = self
                .pods
                .keys()
                .filter(|k| !seen.contains(*k))
                .cloned()
                .collect();
            for key in &gone {
                self.pod_gone(key, None, now);
            }
        }
        self.listed = true;
        self.touch_placement(now);
    }

    /// A pod as it is now.
    pub fn pod(&mut self, mut pod: Pod, source: Source, now: Instant) {
        let key = pod.key.clone();
        if let Some(seen) = &mut self.listing
            && source != Source::Own
        {
            seen.insert(key.clone());
        }
        let former = self.pods.get(&key);
        let mut relevant = true;
        let mut placed = true;
        let mut drifted = false;
        if let Some(former) = former {
            // a watch may have been faster than the answer to a write
            if source != Source::List && pod.is_older_than(former) {
                return;
            }
            pod.remember(former);
            let mut as_before = former.clone();
            as_before.resource_version = pod.resource_version.clone();
            relevant = as_before != pod;
            placed = (
                &former.labels,
                &former.node,
                &former.egress,
                former.ended,
                former.ignored,
            ) != (&pod.labels, &pod.node, &pod.egress, pod.ended, pod.ignored)
                || former.uid != pod.uid;
            as_before.egress = pod.egress.clone();
            as_before.ownership = pod.ownership.clone();
            as_before.recalled = pod.recalled;
            drifted = source == Source::Watch
                && relevant
                && as_before == pod
                && self.is_drift(former, &pod, now);
        }
        let urgent = self.listed && former.is_none_or(|former| former.uid != pod.uid);
        if former.is_none_or(|f| f.ownership != pod.ownership) {
            match &pod.ownership {
                Ownership::Unreadable => {
                    self.metrics.records_unreadable.inc();
                    tracing::warn!(pod = %key, "our record on this pod cannot be read: its limit counts as ours, and nothing as found before it");
                }
                Ownership::Ours(_) | Ownership::Foreign => {}
            }
        }
        if relevant && let Some((slot, number)) = self.trusted_number(&pod) {
            self.commands.raise(&slot, number.0, number.1);
        }
        self.count(Some(&pod), 1);
        let before = self.pods.insert(key.clone(), pod);
        self.count(before.as_ref(), -1);
        if placed {
            self.touch_placement(now);
        }
        match drifted.then(|| self.contest(&key, now)).flatten() {
            Some(later) => self.wakes.add(&key, later),
            None if relevant => self.enqueue(key, urgent),
            None => {}
        }
    }

    /// A pod is gone. With `uid`, only if it is that one.
    pub fn pod_gone(&mut self, key: &Key, uid: Option<&str>, now: Instant) {
        let known = self.pods.get(key);
        if known.is_none_or(|pod| uid.is_some_and(|uid| uid != &*pod.uid)) {
            return;
        }
        let pod = self.pods.remove(key);
        self.count(pod.as_ref(), -1);
        self.attempts.remove(key);
        self.contests.remove(key);
        self.touch_placement(now);
        self.settle(key, Settled::Gone, now);
    }

    /// Labels of every namespace.
    pub fn set_namespaces(
        &mut self,
        namespaces: HashMap<String, BTreeMap<String, String>>,
        now: Instant,
    ) {
        self.namespaces = Some(namespaces);
        self.namespaces_changed(now);
    }

    /// Labels of one namespace; `None`: it is gone.
    pub fn set_namespace(
        &mut self,
        name: String,
        labels: Option<BTreeMap<String, String>>,
        now: Instant,
    ) {
        let Some(all) = &mut self.namespaces else {
            return;
        };
        let changed = match labels {
            Some(labels) => {
                all.get(&name) != Some(&labels) && {
                    all.insert(name, labels);
                    true
                }
            }
            None => all.remove(&name).is_some(),
        };
        if changed {
            self.namespaces_changed(now);
        }
    }

    pub(super) fn namespaces_changed(&mut self, now: Instant) {
        if self.policies.needs_namespaces() {
            self.learn_numbers(None);
            self.enqueue_all();
            self.touch_placement(now);
        }
    }

    /// The number in a pod's record, if the class that it names selects the pod: whoever may annotate any pod must not stop the commands of
    /// every policy.
    fn trusted_number(&self, pod: &Pod) -> Option<(Slot, (u64, u64))> {
        let record = pod.record()?;
        let entry = self.policies.entry(&record.policy)?;
        let selected = class(entry, &record.class)?.selector.matches(&pod.labels);
        let scope = self
            .policies
            .scope(entry, &pod.key.namespace, &self.namespaces);
        let slot = Slot {
            policy: record.policy.clone(),
            class: record.class.clone(),
        };
        (selected && scope == Scope::Inside).then_some((slot, (record.term, record.sequence)))
    }

    /// Takes in the numbers of records on pods: of one policy, or of all. Returns their classes.
    pub(super) fn learn_numbers(&mut self, policy: Option<&Token>) -> HashSet<Slot> {
        let numbers: Vec<_> = self
            .pods
            .values()
            .filter(|pod| {
                pod.record()
                    .is_some_and(|r| policy.is_none_or(|policy| r.policy == *policy))
            })
            .filter_map(|pod| self.trusted_number(pod))
            .collect();
        for (slot, number) in &numbers {
            self.commands.raise(slot, number.0, number.1);
        }
        numbers.into_iter().map(|(slot, _)| slot).collect()
    }

    pub(super) fn count(&mut self, pod: Option<&Pod>, by: i64) {
        let Some(pod) = pod else { return };
        self.metrics.pods.inc_by(by);
        if pod.ownership != Ownership::Foreign {
            self.limited += by;
            self.metrics.limited.set(self.limited);
        }
    }

    /// Whether somebody else changed a limit of ours: it was as wanted, or is waited with, and is not as wanted now.
    fn is_drift(&self, former: &Pod, pod: &Pod, now: Instant) -> bool {
        let world = self.world(now);
        let waits = self
            .contests
            .get(&pod.key)
            .is_some_and(|contest| now < contest.until);
        self.leading()
            && !self.in_flight.contains_key(&pod.key)
            && (waits || world.plan(former) == Plan::Leave)
            && edit_of(&world.plan(pod)).is_some()
    }

    /// Counts that somebody else changed a limit of ours. The first time it is set again at once, then at growing intervals: returns when.
    pub(super) fn contest(&mut self, key: &Key, now: Instant) -> Option<Instant> {
        self.metrics.drift.inc();
        let contest = self.contests.entry(key.clone()).or_insert(Contest {
            changes: 0,
            last: now,
            until: now,
        });
        if now < contest.until {
            return Some(contest.until);
        }
        if now - contest.last >= CALM {
            contest.changes = 0;
        }
        contest.changes = contest.changes.saturating_add(1);
        contest.last = now;
        contest.until = match contest.changes {
            1 => now,
            again => now + backoff(again - 1),
        };
        let (changes, until) = (contest.changes, contest.until);
        if changes <= 2 && self.may_log(if changes == 1 { "drift" } else { "contest" }, now) {
            let what = match changes {
                1 => "somebody else changed a limit of ours, setting it again",
                _ => {
                    "somebody else keeps changing a limit of ours, setting it again at growing intervals"
                }
            };
            tracing::warn!(pod = %key, "{what}");
        }
        (until > now).then_some(until)
    }
}
