//! Everything that comes in, brought to the policy's task it concerns.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use laneguard_proto::storage::{self, OVERRIDES, POLICIES, STATE};
use laneguard_proto::subject::{self, Kind};
use laneguard_proto::v1;
use laneguard_runtime::bus::{Change, Received, Start, Subscription};
use laneguard_runtime::readiness::Latch;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::engine::Seen;
use crate::inbox::Inbox;
use crate::keeper::{Keeper, Shared, Want};
use crate::policies::Catalogue;

/// The buckets that are watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Policies,
    Placements,
    Overrides,
}

/// A policy's task, as seen from here.
struct Task {
    inbox: Arc<Inbox>,
    want: watch::Sender<Want>,
    workloads: BTreeSet<String>,
}

/// Routes until shutdown.
pub(crate) struct Router {
    shared: Shared,
    catalogue: Catalogue,
    tasks: HashMap<String, Task>,
    /// How many of them hash to each shard.
    of_shard: BTreeMap<u32, usize>,
    running: JoinSet<()>,
    /// Shards that some policy of ours hashes to.
    interest: watch::Sender<BTreeSet<u32>>,
    /// What is known completely. No task starts before, or it could miss that its policy is released.
    synced: [bool; 3],
    latch: Latch,
    /// Revision of the last refused value of each key, so that a replay does not log it again.
    refused: HashMap<String, u64>,
    /// Policies whose law is not ours.
    external: BTreeSet<String>,
}

impl Router {
    pub(crate) fn new(
        shared: Shared,
        interest: watch::Sender<BTreeSet<u32>>,
        latch: Latch,
    ) -> Self {
        Self {
            shared,
            catalogue: Catalogue::default(),
            tasks: HashMap::new(),
            of_shard: BTreeMap::new(),
            running: JoinSet::new(),
            interest,
            synced: [false; 3],
            latch,
            refused: HashMap::new(),
            external: BTreeSet::new(),
        }
    }

    pub(crate) async fn run(mut self) -> anyhow::Result<()> {
        let bus = self.shared.bus.clone();
        let cluster = bus.cluster().clone();
        let mut policies = bus.bucket(POLICIES).watch(&format!("{cluster}.*"));
        let mut overrides = bus.bucket(OVERRIDES).watch(&format!("{cluster}.*"));
        let mut placements = bus.bucket(STATE).watch(&format!("placement.{cluster}.*"));
        let mut samples: Subscription<v1::Sample> =
            bus.subscribe(Kind::Sample, Start::LastPerSubject);
        let mut outcomes: Subscription<v1::Outcome> =
            bus.subscribe(Kind::Outcome, Start::LastPerSubject);
        let shutdown = self.shared.shutdown.clone();
        let ended = |what: &str| anyhow::anyhow!("the subscription to {what} ended");
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                change = policies.next() =>
                    self.changed(Source::Policies, change.ok_or_else(|| ended("policies"))?),
                change = overrides.next() =>
                    self.changed(Source::Overrides, change.ok_or_else(|| ended("overrides"))?),
                change = placements.next() =>
                    self.changed(Source::Placements, change.ok_or_else(|| ended("placements"))?),
                sample = samples.next() => {
                    let sample = sample.ok_or_else(|| ended("samples"))?;
                    self.sample(sample, &mut samples);
                }
                outcome = outcomes.next() =>
                    self.outcome(&outcome.ok_or_else(|| ended("outcomes"))?.message),
                Some(ended) = self.running.join_next() => if let Err(error) = ended {
                    // its policy would be left to nobody; another process takes over when this one ends
                    return Err(anyhow::Error::new(error).context("a policy's task failed"));
                },
            }
        }
        // tasks see the shutdown themselves and finish what they publish
        let finished = async { while self.running.join_next().await.is_some() {} };
        if tokio::time::timeout(Duration::from_secs(5), finished)
            .await
            .is_err()
        {
            tracing::warn!("some policies did not finish in time");
        }
        bus.flush().await;
        Ok(())
    }

    fn changed(&mut self, source: Source, change: Change) {
        match change {
            Change::Put {
                key,
                bytes,
                revision,
            } => {
                let Some(token) = token(&key) else { return };
                let result = match source {
                    Source::Policies => self
                        .catalogue
                        .put_policy(token, &bytes)
                        .map_err(|e| (e.field, e.problem)),
                    Source::Placements => self
                        .catalogue
                        .put_placement(token, &bytes)
                        .map_err(|e| ("placement".to_owned(), e.to_string())),
                    Source::Overrides => self
                        .catalogue
                        .put_override(token, &bytes)
                        .map_err(|e| ("override".to_owned(), e.to_string())),
                };
                match result {
                    Ok(()) => {
                        self.refused.remove(&key);
                        if source == Source::Policies {
                            self.tell_external(token);
                        }
                    }
                    Err((field, reason)) => {
                        if self.refused.insert(key.clone(), revision) != Some(revision) {
                            self.shared.metrics.refused.inc();
                            tracing::warn!(
                                key,
                                field,
                                reason,
                                "value refused, the last good one stays in force"
                            );
                        }
                    }
                }
                self.bring(token);
            }
            Change::Deleted { key } => {
                let Some(token) = token(&key) else { return };
                match source {
                    Source::Policies => self.catalogue.delete_policy(token),
                    Source::Placements => self.catalogue.delete_placement(token),
                    Source::Overrides => self.catalogue.delete_override(token),
                }
                self.refused.remove(&key);
                self.bring(token);
            }
            Change::Synced { .. } => {
                // keys that are missing are no deletion: the bucket may have been lost
                let was = self.is_synced();
                self.synced[source as usize] = true;
                if self.is_synced() && !was {
                    self.latch.ready();
                    let all: Vec<String> = self.catalogue.ours().cloned().collect();
                    for token in all {
                        self.bring(&token);
                    }
                }
            }
        }
    }

    /// Says once that somebody else is to decide.
    fn tell_external(&mut self, token: &str) {
        let external = self
            .catalogue
            .plan(token)
            .is_some_and(|plan| plan.law.is_none());
        if !external {
            self.external.remove(token);
        } else if self.external.insert(token.to_owned()) {
            tracing::info!(
                policy = token,
                "its law is External: left to somebody else's decider"
            );
        }
    }

    fn is_synced(&self) -> bool {
        self.synced == [true; 3]
    }

    /// Brings a policy's task up to date with what is known, starting or ending it as needed.
    fn bring(&mut self, token: &str) {
        if !self.is_synced() {
            return;
        }
        match self.catalogue.wanted(token) {
            Some(wanted) => {
                let workloads = wanted
                    .plan
                    .law
                    .iter()
                    .flat_map(|policy| &policy.critical)
                    .map(|critical| critical.workload.clone())
                    .collect();
                let want = Want::Decide(wanted);
                if let Some(task) = self.tasks.get_mut(token) {
                    task.workloads = workloads;
                    task.want.send_replace(want);
                } else {
                    self.start(token, want, workloads);
                }
            }
            None => {
                if let Some(task) = self.tasks.remove(token) {
                    let want = match self.catalogue.plan(token) {
                        Some(_) => Want::Leave,
                        None => {
                            tracing::info!(policy = token, "deleted");
                            Want::Deleted
                        }
                    };
                    task.want.send_replace(want);
                    self.count_in_shard(token, |tasks| tasks.saturating_sub(1));
                }
            }
        }
    }

    /// A task began or ended: the shards are of interest that some policy of ours hashes to.
    fn count_in_shard(&mut self, token: &str, count: impl Fn(usize) -> usize) {
        let shard = storage::shard_of(self.shared.bus.cluster().as_str(), token);
        let tasks = self.of_shard.entry(shard).or_default();
        *tasks = count(*tasks);
        let wanted = *tasks > 0;
        self.interest.send_if_modified(|interest| {
            if wanted {
                interest.insert(shard)
            } else {
                interest.remove(&shard)
            }
        });
        self.shared.metrics.policies.set(self.tasks.len() as i64);
    }

    fn start(&mut self, token: &str, want: Want, workloads: BTreeSet<String>) {
        let inbox = Arc::new(Inbox::default());
        let (sender, receiver) = watch::channel(want);
        let keeper = Keeper::new(self.shared.clone(), token, Arc::clone(&inbox), receiver);
        self.running.spawn(keeper.run());
        let task = Task {
            inbox,
            want: sender,
            workloads,
        };
        self.tasks.insert(token.to_owned(), task);
        self.count_in_shard(token, |tasks| tasks + 1);
    }

    fn sample(
        &mut self,
        received: Received<v1::Sample>,
        subscription: &mut Subscription<v1::Sample>,
    ) {
        let message = &received.message;
        let expected = [message.cluster.as_str(), &message.policy, &message.workload];
        if subject::tokens(&received.subject, Kind::Sample).as_deref() != Some(&expected) {
            let reason = format!("it is about {}", expected.join("."));
            subscription.refuse(
                &received.subject,
                received.stream_sequence,
                "misplaced",
                &reason,
            );
            return;
        }
        if let Some(task) = self.tasks.get(&message.policy)
            && task.workloads.contains(&message.workload)
        {
            task.inbox.sample(received);
        }
    }

    fn outcome(&self, outcome: &v1::Outcome) {
        if outcome.highest_term > 0
            && let Some(task) = self.tasks.get(&outcome.policy)
        {
            task.inbox.seen(Seen::of(outcome));
        }
    }
}

/// The policy's token in a key of one of the buckets: its last part.
fn token(key: &str) -> Option<&str> {
    key.rsplit_once('.').map(|(_, token)| token)
}
