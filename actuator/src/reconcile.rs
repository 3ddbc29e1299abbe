//! Keeps annotations equal to what commands and policies want.
//!
//! A state machine without I/O: events come in by method calls, jobs and outcomes are taken out. Level-triggered: an event only says which
//! pods to look at again; each is planned from the newest state right before it is written.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::ops::Bound;
use std::time::Duration;

use laneguard_proto::policy::{Entry, StaleAction};
use laneguard_proto::selector::LabelSelector;
use laneguard_proto::subject::Token;
use laneguard_proto::v1::Outcome;
use tokio::time::Instant;
use tracing::Span;

use crate::annotation::Limit;
use crate::apply::{Answer, Edit, Job, Target};
use crate::batch::{Batch, Settled, Trigger};
use crate::commands::{Command, Commands, Verdict, Wanted};
use crate::metrics::{ActionLabel, Metrics, ResultLabel};
use crate::placement::{self, Placements};
use crate::plan::{Cause, Plan, Refusal, World};
use crate::pods::{Key, Ownership, Pod};
use crate::policies::{Idle, Namespaces, PolicySet, Scope, Slot, Standing, class};

/// Every pod is looked at again this often, whatever was missed.
const FULL_PLAN: Duration = Duration::from_secs(30);
/// Changes of placement are collected this long.
const PLACEMENT_DEBOUNCE: Duration = Duration::from_millis(200);
/// First and longest wait before a pod is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));
/// Conflicts in a row after which a pod waits like after another failure.
const MOST_CONFLICTS: u32 = 5;
/// The same kind of failure is logged once in this time.
const LOG_AGAIN: Duration = Duration::from_secs(60);

/// How it behaves.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Pods that are never annotated.
    pub critical: LabelSelector,
    /// Namespace whose policies may act in others.
    pub policy_namespace: String,
    /// Patches under way at most.
    pub concurrency: usize,
}

/// How a pod's state became known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// From a list.
    List,
    /// From a watch: may be older than what is known.
    Watch,
    /// Read or written by us just now.
    Own,
}

/// A message to publish, in the span it belongs to.
#[derive(Debug)]
pub struct Report {
    /// The outcome, but for cluster and time.
    pub outcome: Outcome,
    /// The span of its cause.
    pub span: Span,
}

/// Pods to be looked at, each once.
#[derive(Debug, Default)]
struct Queue {
    order: VecDeque<Key>,
    members: HashSet<Key>,
}

impl Queue {
    fn push(&mut self, key: Key, urgent: bool) {
        if self.members.insert(key.clone()) {
            if urgent {
                self.order.push_front(key);
            } else {
                self.order.push_back(key);
            }
        }
    }

    fn pop(&mut self) -> Option<Key> {
        let key = self.order.pop_front()?;
        self.members.remove(&key);
        Some(key)
    }

    fn clear(&mut self) {
        self.order.clear();
        self.members.clear();
    }
}

/// Pods to be looked at later, each once, at the earliest time asked for.
#[derive(Debug, Default)]
struct Wakes {
    order: BTreeSet<(Instant, Key)>,
    at: HashMap<Key, Instant>,
}

impl Wakes {
    fn add(&mut self, key: &Key, at: Instant) {
        let earliest = self.at.get(key).map_or(at, |known| at.min(*known));
        if let Some(known) = self.at.insert(key.clone(), earliest) {
            self.order.remove(&(known, key.clone()));
        }
        self.order.insert((earliest, key.clone()));
    }

    fn due(&mut self, now: Instant) -> Option<Key> {
        let (at, _) = self.order.first()?;
        if *at > now {
            return None;
        }
        let (_, key) = self.order.pop_first()?;
        self.at.remove(&key);
        Some(key)
    }

    fn next(&self) -> Option<Instant> {
        self.order.first().map(|(at, _)| *at)
    }
}

/// The state machine.
#[derive(Debug)]
pub struct Reconciler {
    settings: Settings,
    metrics: Metrics,
    pods: BTreeMap<Key, Pod>,
    /// Pods seen in the list that is being read.
    listing: Option<HashSet<Key>>,
    listed: bool,
    namespaces: Namespaces,
    policies: PolicySet,
    commands: Commands,
    /// The last command of each class that an outcome was published about, by any replica.
    reported: HashMap<Slot, (u64, u64)>,
    /// The last refusal of each class, so that a repeated one is only counted.
    refused: HashMap<Slot, (u64, u64, &'static str)>,
    /// Classes without a command whose expiry was reported.
    orphaned: HashSet<Slot>,
    leading_since: Option<Instant>,
    queue: Queue,
    wakes: Wakes,
    /// Pods being written, and whether to look at them again after that.
    in_flight: HashMap<Key, bool>,
    attempts: HashMap<Key, u32>,
    /// Writes begun so far.
    writes: u64,
    batches: HashMap<Slot, Batch>,
    reports: Vec<Report>,
    logged: HashMap<&'static str, Instant>,
    limited: i64,
    next_full: Instant,
    placement_due: Option<Instant>,
}

impl Reconciler {
    /// Knows nothing yet and does not lead.
    pub fn new(settings: Settings, metrics: Metrics, now: Instant) -> Self {
        Self {
            policies: PolicySet::new(&settings.policy_namespace),
            settings,
            metrics,
            pods: BTreeMap::new(),
            listing: None,
            listed: false,
            namespaces: None,
            commands: Commands::default(),
            reported: HashMap::new(),
            refused: HashMap::new(),
            orphaned: HashSet::new(),
            leading_since: None,
            queue: Queue::default(),
            wakes: Wakes::default(),
            in_flight: HashMap::new(),
            attempts: HashMap::new(),
            writes: 0,
            batches: HashMap::new(),
            reports: Vec::new(),
            logged: HashMap::new(),
            limited: 0,
            next_full: now + FULL_PLAN,
            placement_due: None,
        }
    }

    /// Whether every pod has been listed once.
    pub fn listed(&self) -> bool {
        self.listed
    }

    /// Whether some policy's scope depends on labels of namespaces.
    pub fn needs_namespaces(&self) -> bool {
        self.policies.needs_namespaces()
    }

    fn leading(&self) -> bool {
        self.leading_since.is_some()
    }

    fn world(&self, now: Instant) -> World<'_> {
        World {
            policies: &self.policies,
            commands: &self.commands,
            namespaces: &self.namespaces,
            critical: &self.settings.critical,
            responsible_since: self.leading_since.unwrap_or(now),
            now,
        }
    }

    // ---- events: pods and namespaces ----

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
                Ownership::Ours(record) => {
                    let slot = Slot {
                        policy: record.policy.clone(),
                        class: record.class.clone(),
                    };
                    self.commands.raise(&slot, record.term, record.sequence);
                }
                Ownership::Unreadable => {
                    self.metrics.records_unreadable.inc();
                    tracing::warn!(pod = %key, "our record on this pod cannot be read: its limit counts as ours, and nothing as found before it");
                }
                Ownership::Foreign => {}
            }
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

    fn namespaces_changed(&mut self, now: Instant) {
        if self.policies.needs_namespaces() {
            self.enqueue_all();
            self.touch_placement(now);
        }
    }

    fn count(&mut self, pod: Option<&Pod>, by: i64) {
        let Some(pod) = pod else { return };
        self.metrics.pods.inc_by(by);
        if pod.ownership != Ownership::Foreign {
            self.limited += by;
            self.metrics.limited.set(self.limited);
        }
    }

    /// Counts a limit of ours that somebody else changed: it was as wanted, and is not any more.
    fn notice_drift(&self, key: &Key, pod: &Pod, now: Instant) {
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

    // ---- events: policies, overrides, commands, outcomes ----

    /// A policy as it is now.
    pub fn policy(&mut self, token: Token, entry: Entry, now: Instant) {
        let before = self.classes(&token);
        let enforced = self.enforcing(&token);
        if !self.policies.put(token.clone(), entry) {
            return;
        }
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

    fn synced(&mut self, before: bool, now: Instant) {
        if !before && self.policies.synced() {
            self.touch_placement(now);
            self.resume(now);
        }
    }

    /// A command. `age` is how long before `received` it was stored, as far as is known.
    pub fn command(
        &mut self,
        command: Command,
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
        let verdict = self.commands.accept(command, age, received);
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
            self.refuse(slot, number, reason, highest_term, span);
            return;
        }
        if self.policies.synced()
            && let Some(reason) = self.objection(&slot)
        {
            self.refuse(slot, number, reason, number.0, span);
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
    }

    fn count_command(&self, result: &'static str) {
        self.metrics
            .commands
            .get_or_create(&ResultLabel { result })
            .inc();
    }

    fn notice_clamp(&self, slot: &Slot, wanted: &[f64]) {
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
    fn objection(&self, slot: &Slot) -> Option<&'static str> {
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

    fn refuse(
        &mut self,
        slot: Slot,
        number: (u64, u64),
        reason: &'static str,
        highest_term: u64,
        span: Span,
    ) {
        self.count_command(reason);
        let refusal = (number.0, number.1, reason);
        if self.refused.insert(slot.clone(), refusal) == Some(refusal) {
            return;
        }
        tracing::warn!(policy = %slot.policy, class = %slot.class, term = number.0, sequence = number.1, reason, highest_term, "command refused");
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

    fn enforcing(&self, token: &Token) -> bool {
        matches!(self.policies.standing(token), Standing::Enforcing(_))
    }

    fn classes(&self, token: &Token) -> BTreeSet<Token> {
        let classes = self.policies.entry(token).map(|e| &e.spec.best_effort);
        classes
            .into_iter()
            .flatten()
            .filter_map(|c| c.class.parse().ok())
            .collect()
    }

    /// A policy changed: its classes are looked at, and all pods, as others may be critical now.
    fn policy_moved(
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
                "refused: actuation Rollout is not supported"
            }
            Standing::Deleted => "deleted",
            Standing::Unknown => "unknown",
        };
        tracing::info!(policy = %token, standing, "policy changed");
        self.touch_placement(now);
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
    fn revisit(&mut self, slot: Slot, ours: bool, even_if_reported: bool, now: Instant) {
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

    fn recorded_slots(&self) -> HashSet<Slot> {
        self.pods
            .values()
            .filter_map(Pod::record)
            .map(|r| Slot {
                policy: r.policy.clone(),
                class: r.class.clone(),
            })
            .collect()
    }

    // ---- leadership and time ----

    /// Whether this replica may write.
    pub fn lead(&mut self, leading: bool, now: Instant) {
        if leading == self.leading() {
            return;
        }
        self.metrics.leader.set(leading.into());
        tracing::info!(leading, "leadership changed");
        if leading {
            self.leading_since = Some(now);
            self.orphaned.clear();
            self.touch_placement(now);
            self.resume(now);
        } else {
            self.leading_since = None;
            self.queue.clear();
            self.wakes = Wakes::default();
            self.batches.clear();
            self.attempts.clear();
        }
    }

    /// Looks at everything: after becoming responsible, or after the policies became known.
    fn resume(&mut self, now: Instant) {
        if !self.leading() {
            return;
        }
        if self.policies.synced() {
            let recorded = self.recorded_slots();
            let commanded: HashSet<Slot> =
                self.commands.iter().map(|(slot, _)| slot.clone()).collect();
            for slot in recorded.union(&commanded) {
                self.revisit(slot.clone(), recorded.contains(slot), false, now);
            }
        }
        self.enqueue_all();
    }

    /// What is due by `now`.
    pub fn tick(&mut self, now: Instant) {
        for slot in self.commands.expire(now) {
            let Some(current) = self.commands.get(&slot) else {
                continue;
            };
            let number = (current.command.term, current.command.sequence);
            let action = match current.command.on_stale {
                StaleAction::Hold => "hold",
                StaleAction::Protect => "protect",
                StaleAction::Release => "release",
            };
            if self.objection(&slot).is_none() {
                self.metrics
                    .expirations
                    .get_or_create(&ActionLabel { action })
                    .inc();
                tracing::warn!(policy = %slot.policy, class = %slot.class, term = number.0, sequence = number.1, action, "nobody renews the limits of this class");
                if self.leading() {
                    self.begin(slot, Trigger::Expired, number, now, Span::none(), now);
                }
            }
        }
        while let Some(key) = self.wakes.due(now) {
            self.enqueue(key, false);
        }
        if now >= self.next_full {
            self.next_full = now + FULL_PLAN;
            self.enqueue_all();
        }
    }

    /// When [`Reconciler::tick`] or [`Reconciler::take_placements`] has something to do.
    pub fn next_deadline(&self) -> Instant {
        [
            self.commands.next_deadline(),
            self.wakes.next(),
            self.placement_due,
        ]
        .into_iter()
        .flatten()
        .fold(self.next_full, Instant::min)
    }

    fn touch_placement(&mut self, now: Instant) {
        self.placement_due.get_or_insert(now + PLACEMENT_DEBOUNCE);
    }

    /// Where the pods of every policy are, if that may have changed. Only while leading, with everything known.
    pub fn take_placements(&mut self, now: Instant) -> Option<Placements> {
        if self.placement_due.is_none_or(|due| due > now) {
            return None;
        }
        self.placement_due = None;
        (self.leading() && self.listed && self.policies.synced())
            .then(|| placement::compute(&self.world(now), &self.pods))
    }

    // ---- looking at pods and writing them ----

    fn enqueue(&mut self, key: Key, urgent: bool) {
        if !self.leading() {
            return;
        }
        match self.in_flight.get_mut(&key) {
            Some(again) => *again = true,
            None => self.queue.push(key, urgent),
        }
        self.metrics.queue.set(self.queue.order.len() as i64);
    }

    fn enqueue_all(&mut self) {
        let keys: Vec<Key> = self.pods.keys().cloned().collect();
        for key in keys {
            self.enqueue(key, false);
        }
    }

    /// Begins a batch: every pod that the class selects or has a record of. One that is under way for the class ends with what it has.
    fn begin(
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

    fn collect(&self, batch: &mut Batch, now: Instant) {
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
        let from = only.map_or(Bound::Unbounded, |namespace| {
            Bound::Included(Key {
                namespace: namespace.into(),
                name: "".into(),
            })
        });
        for (key, pod) in self.pods.range((from, Bound::Unbounded)) {
            if only.is_some_and(|namespace| namespace != &*key.namespace) {
                break;
            }
            if pod.ended {
                continue;
            }
            let ours = pod
                .record()
                .is_some_and(|r| (&r.policy, &r.class) == (&batch.slot.policy, &batch.slot.class));
            let selected = class.filter(|c| c.selector.matches(&pod.labels));
            let scope = match (entry, selected) {
                (Some(entry), Some(_)) => {
                    self.policies.scope(entry, &key.namespace, &self.namespaces)
                }
                _ => Scope::Outside,
            };
            match (scope, world.untouchable(pod)) {
                (Scope::Inside, Some(reason)) => batch.leave_out(pod, reason),
                (Scope::Denied, _) => batch.leave_out(pod, Refusal::NamespaceDenied),
                _ => {}
            }
            let touchable = scope == Scope::Inside && world.untouchable(pod).is_none();
            if ours || touchable {
                batch.add(key.clone());
            }
        }
    }

    fn settle(&mut self, key: &Key, settled: Settled, now: Instant) {
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

    fn finish(&mut self, batch: Batch, now: Instant) {
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
            self.metrics.queue.set(self.queue.order.len() as i64);
            let Some(pod) = self.pods.get(&key) else {
                self.settle(&key, Settled::Gone, now);
                continue;
            };
            let plan = self.world(now).plan(pod);
            if let Some(slot) = self.unreported_expiry(&plan) {
                self.orphaned.insert(slot.clone());
                tracing::warn!(policy = %slot.policy, class = %slot.class, "limits found on pods have no command, and nobody renews them");
                self.begin(slot, Trigger::Expired, (0, 0), now, Span::none(), now);
                self.enqueue(key, false);
                continue;
            }
            let edit = match plan {
                Plan::Leave => {
                    self.settle(&key, Settled::Unchanged, now);
                    continue;
                }
                Plan::Await(until) => {
                    if let Some(until) = until {
                        self.wakes.add(&key, until);
                    }
                    self.settle(&key, Settled::Unchanged, now);
                    continue;
                }
                Plan::Refuse(reason) => {
                    if reason == Refusal::FoundTooLong && self.may_log(reason.as_str(), now) {
                        tracing::warn!(pod = %key, "the egress annotation found here is too long to be kept for restoring: this pod is not limited");
                    }
                    self.settle(&key, Settled::Unchanged, now);
                    continue;
                }
                Plan::Set(set) => Edit {
                    egress: Some(set.limit.to_string()),
                    record: Some(set.record.to_json()),
                },
                Plan::Restore(restore) => {
                    if restore.slot.is_none() {
                        tracing::warn!(pod = %key, "restoring a pod whose record cannot be read: limit and record go");
                    }
                    Edit {
                        egress: restore.found,
                        record: None,
                    }
                }
            };
            let span = self
                .batches
                .values()
                .find(|b| b.awaits(&key))
                .map_or_else(Span::none, |b| b.span.clone());
            let target = Target {
                key: key.clone(),
                uid: pod.uid.clone(),
                resource_version: pod.resource_version.clone(),
            };
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
    fn unreported_expiry(&self, plan: &Plan) -> Option<Slot> {
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
                self.pod(pod, Source::Own, now);
                // looked at once more: something may have changed while it was written
                self.enqueue(key.clone(), again);
            }
            Answer::Changed(pod) => {
                let attempts = self.attempts.entry(key.clone()).or_default();
                *attempts += 1;
                let tired = *attempts > MOST_CONFLICTS;
                self.pod(pod, Source::Own, now);
                if tired {
                    self.retry_later(key, None, now);
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

    fn retry_later(&mut self, key: &Key, retry_after: Option<Duration>, now: Instant) {
        if !self.leading() {
            return;
        }
        let attempts = self.attempts.entry(key.clone()).or_default();
        *attempts = attempts.saturating_add(1);
        let (first, longest) = RETRY;
        let wait = first.saturating_mul(1 << (*attempts).min(10)).min(longest);
        self.wakes.add(
            key,
            now + retry_after.map_or(wait, |asked| asked.min(longest).max(first)),
        );
        self.settle(key, Settled::Failed, now);
    }

    fn may_log(&mut self, what: &'static str, now: Instant) -> bool {
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

fn trigger_is_command(trigger: Trigger) -> bool {
    matches!(trigger, Trigger::Command | Trigger::Expired)
}

#[cfg(test)]
mod tests;
