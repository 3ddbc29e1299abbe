//! What happened, as seen from outside: every message on the streams and every limit on a pod, in the order it was seen.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::Pod;
use kube::api::Api;
use kube::runtime::{WatchStreamExt as _, watcher};
use laneguard_proto::codec::WireMessage;
use laneguard_proto::subject::Kind;
use laneguard_proto::v1::{Command, Decision, Outcome, Sample};
use laneguard_runtime::bus::{Bus, Start, Subscription};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::kubernetes::View;

/// A limit on a pod at one time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The pod's name.
    pub pod: String,
    /// The pod's uid.
    pub uid: String,
    /// The limit.
    pub limit: Option<String>,
    /// When it was seen.
    pub at: Instant,
}

type Shared<T> = Arc<Mutex<Vec<T>>>;

/// Everything seen since it was begun. Ends when dropped.
#[derive(Debug)]
pub struct Record {
    samples: Shared<Sample>,
    decisions: Shared<Decision>,
    commands: Shared<Command>,
    outcomes: Shared<Outcome>,
    limits: Shared<Seen>,
    _tasks: JoinSet<()>,
}

fn keep<M: WireMessage + Clone + Send + 'static>(
    tasks: &mut JoinSet<()>,
    bus: &Bus,
    kind: Kind,
    start: Start,
) -> Shared<M> {
    let kept = Shared::default();
    let into = Arc::clone(&kept);
    let mut messages: Subscription<M> = bus.subscribe(kind, start);
    tasks.spawn(async move {
        while let Some(received) = messages.next().await {
            lock(&into).push(received.message);
        }
    });
    kept
}

fn lock<T>(shared: &Shared<T>) -> std::sync::MutexGuard<'_, Vec<T>> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn copy<T: Clone>(shared: &Shared<T>) -> Vec<T> {
    lock(shared).clone()
}

impl Record {
    /// Begins.
    pub fn begin(bus: &Bus, pods: Api<Pod>) -> Self {
        let mut tasks = JoinSet::new();
        let hour = Start::Ago(Duration::from_secs(3600));
        let limits: Shared<Seen> = Shared::default();
        let into = Arc::clone(&limits);
        tasks.spawn(async move {
            let mut last: BTreeMap<String, Seen> = BTreeMap::new();
            // an API that is away is asked again
            let mut changes = watcher(pods, watcher::Config::default())
                .default_backoff()
                .applied_objects()
                .into_stream()
                .boxed();
            loop {
                let pod = match changes.try_next().await {
                    Ok(Some(pod)) => pod,
                    Ok(None) => return,
                    Err(_) => continue,
                };
                let view = View::of(&pod);
                let seen = Seen {
                    pod: view.name.clone(),
                    uid: view.uid,
                    limit: view.limit,
                    at: Instant::now(),
                };
                let before = last.insert(view.name, seen.clone());
                let same = before
                    .is_some_and(|b| (b.uid, b.limit) == (seen.uid.clone(), seen.limit.clone()));
                if !same {
                    lock(&into).push(seen);
                }
            }
        });
        Self {
            samples: keep(&mut tasks, bus, Kind::Sample, hour),
            decisions: keep(&mut tasks, bus, Kind::Decision, hour),
            commands: keep(&mut tasks, bus, Kind::Command, Start::LastPerSubject),
            outcomes: keep(&mut tasks, bus, Kind::Outcome, hour),
            limits,
            _tasks: tasks,
        }
    }

    /// Samples so far.
    pub fn samples(&self) -> Vec<Sample> {
        copy(&self.samples)
    }

    /// Decisions so far.
    pub fn decisions(&self) -> Vec<Decision> {
        copy(&self.decisions)
    }

    /// Commands so far; of several stored in quick succession only the last may be among them, as the stream keeps no more.
    pub fn commands(&self) -> Vec<Command> {
        copy(&self.commands)
    }

    /// Outcomes so far.
    pub fn outcomes(&self) -> Vec<Outcome> {
        copy(&self.outcomes)
    }

    /// Limits on pods so far, whenever one changed.
    pub fn limits(&self) -> Vec<Seen> {
        copy(&self.limits)
    }
}

/// How long pods that were created after the first `from` changes were there before they had this limit: sorted.
pub fn waited_for(limit: &str, seen: &[Seen], from: usize) -> Vec<Duration> {
    let known: BTreeSet<&str> = seen[..from].iter().map(|s| s.uid.as_str()).collect();
    let later = seen[from..].iter();
    let mut created: BTreeMap<&str, Instant> = BTreeMap::new();
    let mut waited: BTreeMap<&str, Duration> = BTreeMap::new();
    for one in later.filter(|s| !known.contains(s.uid.as_str())) {
        let since = *created.entry(&one.uid).or_insert(one.at);
        if one.limit.as_deref() == Some(limit) {
            waited.entry(&one.uid).or_insert(one.at - since);
        }
    }
    let mut waited: Vec<Duration> = waited.into_values().collect();
    waited.sort_unstable();
    waited
}

/// What must hold of every policy's decisions in force, whoever made them, as long as the store was not wiped. Shadow decisions are none.
///
/// # Panics
/// When it does not.
pub fn check_decisions(decisions: &[Decision]) {
    let mut policies: BTreeMap<&str, Vec<&Decision>> = BTreeMap::new();
    for decision in decisions.iter().filter(|decision| !decision.shadow) {
        policies.entry(&decision.policy).or_default().push(decision);
    }
    for (policy, decisions) in policies {
        let mut sets = BTreeMap::new();
        let mut after: BTreeMap<&str, f64> = BTreeMap::new();
        for pair in decisions.windows(2) {
            let order = |d: &Decision| (d.term, d.sequence);
            assert!(
                order(pair[0]) < order(pair[1]),
                "{policy}: decisions rise: {:?} {:?}",
                order(pair[0]),
                order(pair[1])
            );
        }
        for decision in decisions {
            let set: Vec<(&str, u64)> = decision
                .samples
                .iter()
                .map(|s| (s.workload.as_str(), s.sequence))
                .collect();
            if !set.is_empty() {
                let earlier = sets.insert(set.clone(), decision.sequence);
                assert_eq!(
                    earlier, None,
                    "{policy}: one decision per set of samples {set:?}"
                );
            }
            for limit in &decision.limits {
                if let Some(after) = after.get(limit.class.as_str()) {
                    assert_eq!(
                        limit.before_bps,
                        Some(*after),
                        "{policy}: no limit jumps between decisions: {decision:#?}"
                    );
                }
                if let Some(bps) = limit.after_bps {
                    after.insert(&limit.class, bps);
                }
            }
        }
    }
}

/// One content per (policy, class, term, sequence), and numbers that rise.
///
/// # Panics
/// When it does not hold.
pub fn check_commands(commands: &[Command]) {
    let mut contents = BTreeMap::new();
    let mut highest = BTreeMap::new();
    for command in commands {
        let slot = (command.policy.as_str(), command.class.as_str());
        let number = (command.term, command.sequence);
        let content = format!(
            "{:?} {:?} {}",
            command.limit_bps, command.nodes, command.restore
        );
        let earlier = contents.insert((slot, number), content.clone());
        assert!(
            earlier.as_ref().is_none_or(|earlier| *earlier == content),
            "{slot:?} {number:?} had {earlier:?} and has {content}"
        );
        let before = highest.insert(slot, number);
        assert!(
            before <= Some(number),
            "{slot:?}: {number:?} after {before:?}"
        );
    }
}
