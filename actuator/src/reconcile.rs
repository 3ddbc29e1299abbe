//! Keeps annotations equal to what commands and policies want.
//!
//! A state machine without I/O: events come in by method calls, jobs and outcomes are taken out. Level-triggered: an event only says which
//! pods to look at again; each is planned from the newest state right before it is written.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use laneguard_proto::policy::StaleAction;
use laneguard_proto::selector::LabelSelector;
use laneguard_proto::v1::Outcome;
use tokio::time::Instant;
use tracing::Span;

use crate::batch::{Batch, Trigger};
use crate::commands::Commands;
use crate::metrics::{ActionLabel, Metrics};
use crate::placement::{self, Placements};
use crate::plan::World;
use crate::pods::{Key, Pod};
use crate::policies::{Namespaces, PolicySet, Slot};
use crate::rate_of_change::Ceilings;

use self::queue::{Queue, Wakes};

/// Every pod is looked at again this often, whatever was missed.
const FULL_PLAN: Duration = Duration::from_secs(30);
/// Changes of placement are collected this long.
const PLACEMENT_DEBOUNCE: Duration = Duration::from_millis(200);
/// First and longest wait before a pod is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));
/// Conflicts in a row after which a pod waits this long for the next write.
const MOST_CONFLICTS: (u32, Duration) = (5, Duration::from_secs(2));
/// After so long without, somebody else's change of a limit of ours counts as the first.
const CALM: Duration = Duration::from_secs(300);
/// The same kind of failure is logged once in this time.
const LOG_AGAIN: Duration = Duration::from_secs(60);

mod intent;
mod observe;
mod pace;
mod queue;
mod work;

/// Classes that no policy has are kept up to about so many, as their policy may be on its way.
const MOST_STRANGERS: usize = 1024;

/// A refused command's term and sequence, and why.
type Refusal = (u64, u64, &'static str);

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

/// Writes of a pod that did not succeed, in a row.
#[derive(Debug, Default)]
struct Attempts {
    conflicts: u32,
    failures: u32,
}

/// Somebody else changes a limit of ours: we do not write against that without pause.
#[derive(Debug)]
struct Contest {
    changes: u32,
    last: Instant,
    /// Its annotations are left alone until then.
    until: Instant,
}

/// A message to publish, in the span it belongs to.
#[derive(Debug)]
pub struct Report {
    /// The outcome, but for cluster and time.
    pub outcome: Outcome,
    /// The span of its cause.
    pub span: Span,
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
    /// How far limits of somebody else's law may have risen by now. Only kept while leading: whoever leads next begins from the pods.
    ceilings: Ceilings,
    /// The last command of each class that an outcome was published about, by any replica.
    reported: HashMap<Slot, (u64, u64)>,
    /// The last refusal of each class and when it was told, so that a repeated one is only counted.
    refused: HashMap<Slot, (Refusal, Instant)>,
    /// Forget unknown classes when there are more than so many.
    prune_at: usize,
    /// Classes without a command whose expiry was reported.
    orphaned: HashSet<Slot>,
    leading_since: Option<Instant>,
    queue: Queue,
    wakes: Wakes,
    /// Pods being written, and whether to look at them again after that.
    in_flight: HashMap<Key, bool>,
    attempts: HashMap<Key, Attempts>,
    /// Pods whose limit somebody else changes.
    contests: HashMap<Key, Contest>,
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
            ceilings: Ceilings::default(),
            reported: HashMap::new(),
            refused: HashMap::new(),
            prune_at: MOST_STRANGERS,
            orphaned: HashSet::new(),
            leading_since: None,
            queue: Queue::default(),
            wakes: Wakes::default(),
            in_flight: HashMap::new(),
            attempts: HashMap::new(),
            contests: HashMap::new(),
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
            ceilings: &self.ceilings,
            namespaces: &self.namespaces,
            critical: &self.settings.critical,
            responsible_since: self.leading_since.unwrap_or(now),
            now,
        }
    }

    /// Whether this replica may write.
    pub fn lead(&mut self, leading: bool, now: Instant) {
        if leading == self.leading() {
            return;
        }
        self.metrics.leader.set(leading.into());
        self.ceilings.clear();
        tracing::info!(leading, "leadership changed");
        if leading {
            self.leading_since = Some(now);
            self.orphaned.clear();
            // only noted so far: the owner goes above the term it hears of
            self.refused.clear();
            self.touch_placement(now);
            self.resume(now);
        } else {
            self.leading_since = None;
            self.queue.clear();
            self.wakes = Wakes::default();
            self.batches.clear();
            self.attempts.clear();
            self.contests.clear();
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
                    self.pace(&slot, now);
                    self.begin(slot, Trigger::Expired, number, now, Span::none(), now);
                }
            }
        }
        self.take_steps(now);
        while let Some(key) = self.wakes.due(now) {
            self.enqueue(key, false);
        }
        if now >= self.next_full {
            self.next_full = now + FULL_PLAN;
            self.contests.retain(|_, contest| now - contest.last < CALM);
            self.prune();
            self.enqueue_all();
        }
    }

    /// When [`Reconciler::tick`] or [`Reconciler::take_placements`] has something to do.
    pub fn next_deadline(&self) -> Instant {
        [
            self.commands.next_deadline(),
            self.wakes.next(),
            self.ceilings.next_step(),
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
}

#[cfg(test)]
mod tests;
