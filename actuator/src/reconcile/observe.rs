//! What is seen of pods and namespaces.

use std::collections::{BTreeMap, HashMap, HashSet};

use laneguard_proto::subject::Token;
use tokio::time::Instant;

use super::{Reconciler, Source};
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
        if let Some(former) = former {
            if source == Source::Watch && pod.is_older_than(former) {
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
            if source == Source::Watch && relevant {
                self.notice_drift(&key, &pod, now);
            }
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
        if relevant {
            self.enqueue(key, urgent);
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

    /// Counts a limit of ours that somebody else changed: it was as wanted, and is not any more.
    pub(super) fn notice_drift(&self, key: &Key, pod: &Pod, now: Instant) {
        let Some(former) = self.pods.get(key) else {
            return;
        };
        let world = self.world(now);
        let touched =
            (&former.egress, &former.ownership) != (&pod.egress, &pod.ownership) || pod.recalled;
        if touched
            && self.leading()
            && former.ownership != Ownership::Foreign
            && !self.in_flight.contains_key(key)
            && world.plan(former) == Plan::Leave
            && matches!(world.plan(pod), Plan::Set(_))
        {
            self.metrics.drift.inc();
            let found = pod.egress.as_deref().unwrap_or("none");
            tracing::warn!(pod = %key, found, "somebody else changed a limit of ours, setting it again");
        }
    }
}
