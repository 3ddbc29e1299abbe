//! What to measure: policies and placement, as they stand in their buckets.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use laneguard_proto::placement::Placement;
use laneguard_proto::policy::{Entry, Law, Mode, PolicyError, Target};
use laneguard_proto::storage::{POLICIES, STATE, shard_of};
use laneguard_proto::subject::Token;
use laneguard_runtime::Process;
use laneguard_runtime::bus::{Bucket, Bus};
use laneguard_runtime::readiness::Latch;
use laneguard_runtime::shutdown::Shutdown;
use tokio::sync::watch;

use crate::entries::{Applied, Entries, Wrong};
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
    /// How long a limit holds without renewal, which takes samples.
    pub valid_for: Duration,
    /// Its law reads drops and nothing else: they decide whether a sample can be acted on.
    pub by_drops: bool,
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
    /// What must hold; empty where the decider learns it.
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

impl Policy {
    /// Whether samples that come every `poll_interval` are too few to renew its limits in time: renewals are due every third of their validity.
    #[must_use]
    pub fn outpaces(&self, poll_interval: Duration) -> bool {
        poll_interval > self.valid_for / 3
    }
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
                targets: critical.targets.listed().to_vec(),
            })
        })
        .collect::<Result<_, PolicyError>>()?;
    Ok(Some(Policy {
        shard: shard_of(cluster, token.as_str()),
        token,
        alpha: entry.spec.control.in_force.alpha,
        by_drops: entry.spec.control.in_force.law == Law::DropRate,
        idle_after: entry.spec.idle_after,
        valid_for: entry.spec.on_stale.after,
        workloads,
    }))
}

/// Starts watching both buckets. The latch opens when the policies are known. Policies that are not sampled often enough with this
/// `poll_interval` are warned of.
pub fn watch(
    process: &Process,
    bus: &Bus,
    latch: Latch,
    metrics: &Metrics,
    poll_interval: Duration,
) -> Known {
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
        Follow {
            kind: "policy",
            prefix: format!("{}.", bus.cluster()),
            read: move |key: &Token, bytes: &[u8]| {
                let read = policy(cluster.as_str(), key, bytes).map_err(|e| Wrong {
                    field: e.field,
                    problem: e.problem,
                })?;
                if let Some(policy) = read.as_ref().filter(|p| p.outpaces(poll_interval)) {
                    tracing::warn!(
                        policy = %policy.token,
                        ?poll_interval,
                        on_stale_after = ?policy.valid_for,
                        "POLL_INTERVAL is more than a third of the policy's onStale.after: its limits may expire between samples"
                    );
                }
                Ok(read)
            },
            publish,
        }
    };
    let follow_placements = Follow {
        kind: "placement",
        prefix: format!("placement.{}.", bus.cluster()),
        read: |_: &Token, bytes: &[u8]| {
            serde_json::from_slice::<Placement>(bytes)
                .map(Some)
                .map_err(|e| Wrong {
                    field: "entry".into(),
                    problem: format!("is not a placement: {e}"),
                })
        },
        publish: move |all: &BTreeMap<Token, Arc<Placement>>| {
            placements_out.send_replace(Arc::new(all.clone()));
        },
    };
    let (buckets, shutdown) = (
        (bus.bucket(POLICIES), bus.bucket(STATE)),
        process.shutdown(),
    );
    let task = follow_policies.run(buckets.0, Some(latch), metrics.clone(), shutdown.clone());
    process.spawn("policies", task);
    let task = follow_placements.run(buckets.1, None, metrics.clone(), shutdown);
    process.spawn("placements", task);
    Known {
        policies,
        placements,
        shards,
    }
}

/// Keeps the entries of one kind up to date.
struct Follow<R, P> {
    kind: &'static str,
    prefix: String,
    read: R,
    publish: P,
}

impl<R, P> Follow<R, P> {
    async fn run<T>(
        self,
        bucket: Bucket,
        latch: Option<Latch>,
        metrics: Metrics,
        shutdown: Shutdown,
    ) -> anyhow::Result<()>
    where
        R: Fn(&Token, &[u8]) -> Result<Option<T>, Wrong>,
        P: Fn(&BTreeMap<Token, Arc<T>>),
    {
        let kind = self.kind;
        let mut watch = bucket.watch(&format!("{}*", self.prefix));
        let mut entries = Entries::new(self.prefix);
        loop {
            let change = tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                change = watch.next() => change,
            };
            let Some(change) = change else {
                bail!("the watch on {kind} entries ended");
            };
            match entries.apply(change, &self.read) {
                Applied::Unchanged => {}
                Applied::Changed => {
                    if let Some(known) = entries.known() {
                        (self.publish)(known);
                        latch.iter().for_each(Latch::ready);
                    }
                }
                Applied::Refused {
                    key,
                    revision,
                    wrong: Wrong { field, problem },
                    kept,
                } => {
                    metrics.refuse(kind);
                    tracing::error!(kind, key, revision, field, problem, kept, "entry refused");
                }
            }
        }
    }
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
    fn a_poll_interval_over_a_third_of_the_validity_is_told() {
        let mut entry = entry("Enforce");
        entry["spec"]["onStale"] = serde_json::json!({"after": "6s"});
        let policy = read("factory_floor", &entry).unwrap().unwrap();
        assert!(!policy.outpaces(Duration::from_secs(2)));
        assert!(policy.outpaces(Duration::from_millis(2_001)));
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
