//! What to measure: policies and placement, as they stand in their buckets.
//!
//! An entry that is invalid is refused and the last good one stays. Only a deletion marker removes: an entry that is merely gone
//! may have been lost with its bucket.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use laneguard_proto::placement::Placement;
use laneguard_proto::policy::{Entry, Mode, PolicyError, Target};
use laneguard_proto::storage::{POLICIES, STATE, shard_of};
use laneguard_proto::subject::Token;
use laneguard_runtime::Process;
use laneguard_runtime::bus::{Bus, Change};
use laneguard_runtime::readiness::Latch;
use tokio::sync::watch;

use crate::metrics::Metrics;
use crate::query::Selector;

/// What the collector needs to know of a policy.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// Its token.
    pub token: Token,
    /// The shard it hashes to.
    pub shard: u32,
    /// Weight of a new value in the moving average, over 0 to 1.
    pub alpha: f64,
    /// After how long without traffic a workload is idle.
    pub idle_after: Duration,
    /// Its critical workloads.
    pub workloads: Vec<Workload>,
}

/// A critical workload of a policy.
#[derive(Debug, Clone, PartialEq)]
pub struct Workload {
    /// Its token.
    pub token: Token,
    /// What telemetry calls it.
    pub selector: Selector,
    /// What must hold.
    pub targets: Vec<Target>,
}

/// By token.
pub type Policies = Arc<BTreeMap<Token, Arc<Policy>>>;
/// By the policy's token.
pub type Placements = Arc<BTreeMap<Token, Arc<Placement>>>;

/// What is known, as it changes.
#[derive(Debug, Clone)]
pub struct Known {
    /// Policies that are not Off.
    pub policies: watch::Receiver<Policies>,
    /// Where their pods are.
    pub placements: watch::Receiver<Placements>,
    /// Shards that some policy hashes to.
    pub shards: watch::Receiver<BTreeSet<u32>>,
}

/// Reads a policy. `None`: it is Off.
fn policy(cluster: &str, key: &Token, bytes: &[u8]) -> Result<Option<Policy>, PolicyError> {
    let entry = Entry::from_json(bytes)?;
    let token = entry.token()?;
    if token != *key {
        return Err(PolicyError {
            field: "metadata.name".into(),
            problem: format!("makes the key `{token}`, but the entry is under `{key}`"),
        });
    }
    if entry.spec.mode == Mode::Off {
        return Ok(None);
    }
    let workloads = entry
        .spec
        .critical
        .iter()
        .map(|critical| {
            Ok(Workload {
                token: critical.token(&entry.namespace)?,
                selector: Selector::new(
                    critical.namespace_in(&entry.namespace),
                    &critical.workload,
                ),
                targets: critical.targets.clone(),
            })
        })
        .collect::<Result<_, PolicyError>>()?;
    Ok(Some(Policy {
        shard: shard_of(cluster, token.as_str()),
        token,
        alpha: entry.spec.control.alpha,
        idle_after: entry.spec.idle_after,
        workloads,
    }))
}

/// Starts watching both buckets. The latch opens when the policies are known.
pub fn watch(process: &Process, bus: &Bus, latch: Latch, metrics: &Metrics) -> Known {
    let (policies_out, policies) = watch::channel(Policies::default());
    let (shards_out, shards) = watch::channel(BTreeSet::new());
    let (placements_out, placements) = watch::channel(Placements::default());
    let follow_policies = {
        let cluster = bus.cluster().clone();
        let metrics = metrics.clone();
        let publish = move |all: &BTreeMap<Token, Arc<Policy>>| {
            metrics
                .policies
                .set(i64::try_from(all.len()).unwrap_or(i64::MAX));
            let shards: BTreeSet<u32> = all.values().map(|policy| policy.shard).collect();
            // shards are contended for when they change, not with each edit
            shards_out.send_if_modified(|old| {
                let changed = *old != shards;
                *old = shards;
                changed
            });
            policies_out.send_replace(Arc::new(all.clone()));
        };
        let read = move |key: &Token, bytes: &[u8]| {
            policy(cluster.as_str(), key, bytes).map_err(|e| (e.field, e.problem))
        };
        Follow {
            kind: "policy",
            read,
            publish,
        }
    };
    let follow_placements = Follow {
        kind: "placement",
        read: |_: &Token, bytes: &[u8]| {
            serde_json::from_slice::<Placement>(bytes)
                .map(Some)
                .map_err(|e| ("entry".to_owned(), format!("is not a placement: {e}")))
        },
        publish: move |all: &BTreeMap<Token, Arc<Placement>>| {
            placements_out.send_replace(Arc::new(all.clone()));
        },
    };
    let prefix = format!("{}.", bus.cluster());
    let task = follow_policies.run(
        bus.bucket(POLICIES).watch(&format!("{prefix}*")),
        prefix,
        Some(latch),
        metrics.clone(),
        process.shutdown(),
    );
    process.spawn("policies", task);
    let prefix = format!("placement.{}.", bus.cluster());
    let task = follow_placements.run(
        bus.bucket(STATE).watch(&format!("{prefix}*")),
        prefix,
        None,
        metrics.clone(),
        process.shutdown(),
    );
    process.spawn("placements", task);
    Known {
        policies,
        placements,
        shards,
    }
}

/// Keeps the valid entries of one kind.
struct Follow<R, P> {
    kind: &'static str,
    /// The entry under a key; `None` when it asks for nothing; else the field and what is wrong with it.
    read: R,
    publish: P,
}

impl<R, P> Follow<R, P> {
    async fn run<T>(
        self,
        mut watch: laneguard_runtime::bus::Watch,
        prefix: String,
        latch: Option<Latch>,
        metrics: Metrics,
        shutdown: laneguard_runtime::shutdown::Shutdown,
    ) -> anyhow::Result<()>
    where
        R: Fn(&Token, &[u8]) -> Result<Option<T>, (String, String)>,
        P: Fn(&BTreeMap<Token, Arc<T>>),
    {
        let mut all: BTreeMap<Token, Arc<T>> = BTreeMap::new();
        // the revision that was refused, so that a re-list does not log it again
        let mut refused: BTreeMap<String, u64> = BTreeMap::new();
        // before everything stored is known the result would only flicker
        let mut synced = false;
        loop {
            let change = tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                change = watch.next() => change,
            };
            match change {
                None => bail!("the watch on {} entries ended", self.kind),
                Some(Change::Synced { .. }) => {
                    synced = true;
                    if let Some(latch) = &latch {
                        latch.ready();
                    }
                }
                Some(Change::Deleted { key }) => {
                    refused.remove(&key);
                    let Some(token) = token(&prefix, &key) else {
                        continue;
                    };
                    if all.remove(&token).is_some() {
                        tracing::info!(kind = self.kind, key, "entry deleted");
                    }
                }
                Some(Change::Put {
                    key,
                    bytes,
                    revision,
                }) => {
                    let Some(token) = token(&prefix, &key) else {
                        continue;
                    };
                    match (self.read)(&token, &bytes) {
                        Ok(Some(entry)) => {
                            refused.remove(&key);
                            all.insert(token, Arc::new(entry));
                            tracing::debug!(kind = self.kind, key, revision, "entry read");
                        }
                        Ok(None) => {
                            refused.remove(&key);
                            all.remove(&token);
                        }
                        Err((field, problem)) => {
                            if refused.insert(key.clone(), revision) != Some(revision) {
                                metrics.refuse(self.kind);
                                let kept = all.contains_key(&token);
                                tracing::error!(
                                    kind = self.kind,
                                    key,
                                    revision,
                                    field,
                                    problem,
                                    kept,
                                    "entry refused"
                                );
                            }
                            continue;
                        }
                    }
                }
            }
            if synced {
                (self.publish)(&all);
            }
        }
    }
}

fn token(prefix: &str, key: &str) -> Option<Token> {
    key.strip_prefix(prefix)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(mode: &str) -> serde_json::Value {
        serde_json::json!({
            "origin": "lanectl", "namespace": "factory", "name": "floor", "generation": 3,
            "spec": {
                "mode": mode,
                "critical": [
                    {"workload": "robot-factory", "targets": [{"metric": "P95", "below": "10ms"}]},
                    {"workload": "scanner", "namespace": "safety", "targets": [{"metric": "Jitter", "below": "5ms"}]}],
                "bestEffort": [{"class": "bulk", "selector": {"matchLabels": {"priority": "best-effort"}}}],
                "control": {"alpha": 0.5}
            }
        })
    }

    fn read(key: &str, entry: &serde_json::Value) -> Result<Option<Policy>, PolicyError> {
        policy(
            "default",
            &key.parse().unwrap(),
            entry.to_string().as_bytes(),
        )
    }

    #[test]
    fn what_to_measure_is_read_from_the_entry() {
        let policy = read("factory_floor", &entry("Observe")).unwrap().unwrap();
        assert_eq!(policy.shard, shard_of("default", "factory_floor"));
        assert_eq!(policy.alpha, 0.5);
        let names: Vec<_> = policy
            .workloads
            .iter()
            .map(|w| {
                (
                    w.token.as_str(),
                    w.selector.namespace.as_str(),
                    w.selector.workload.as_str(),
                )
            })
            .collect();
        assert_eq!(
            names,
            [
                ("factory_robot-factory", "factory", "robot-factory"),
                ("safety_scanner", "safety", "scanner")
            ]
        );
    }

    #[test]
    fn a_policy_that_is_off_is_not_measured() {
        assert_eq!(read("factory_floor", &entry("Off")), Ok(None));
    }

    #[test]
    fn an_entry_under_the_wrong_key_is_refused_with_the_field() {
        let error = read("factory_other", &entry("Observe")).unwrap_err();
        assert_eq!(error.field, "metadata.name");
        assert!(read("factory_floor", &serde_json::json!({"spec": 1})).is_err());
    }
}
