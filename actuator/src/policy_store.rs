//! Policies and overrides in their buckets: read, re-asserted when the bucket was lost, and the environment's policy written.
//!
//! Only the leader writes. What a bucket no longer has without a delete marker was lost, not deleted, and is written again.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use laneguard_proto::overrides::Override;
use laneguard_proto::policy::{Entry, Origin};
use laneguard_proto::storage;
use laneguard_proto::subject::{ENVIRONMENT_POLICY, Token};
use laneguard_runtime::bus::{Bucket, Bus, Change, StoreError};
use laneguard_runtime::shutdown::Shutdown;
use tokio::sync::{mpsc, watch};

use crate::drive::Input;
use crate::leader::Leadership;
use crate::metrics::Metrics;

/// The values of a bucket as far as they are known, and which of them the bucket has lost.
#[derive(Debug, Default)]
struct Known {
    /// Keys whose value is not ours to write again: unusable, or with another source.
    others: BTreeSet<String>,
    values: BTreeMap<String, (Bytes, u64)>,
    missing: BTreeSet<String>,
    synced: bool,
}

impl Known {
    fn put(&mut self, key: &str, bytes: &Bytes, revision: u64) {
        self.deleted(key);
        self.values
            .insert(key.to_owned(), (bytes.clone(), revision));
    }

    fn put_other(&mut self, key: &str) {
        self.deleted(key);
        self.others.insert(key.to_owned());
    }

    fn deleted(&mut self, key: &str) {
        self.others.remove(key);
        self.missing.remove(key);
        self.values.remove(key);
    }

    fn synced(&mut self, keys: &BTreeSet<String>) {
        self.synced = true;
        self.others.retain(|key| keys.contains(key));
        self.missing = self
            .values
            .keys()
            .filter(|key| !keys.contains(*key))
            .cloned()
            .collect();
    }

    /// Writes again what the bucket lost. What cannot be written stays missing and is tried again.
    async fn reassert(&mut self, bucket: &Bucket, metrics: &Metrics) {
        for key in self.missing.clone() {
            let Some((bytes, _)) = self.values.get(&key) else {
                continue;
            };
            // revision 0: only where there is nothing, not even a delete marker that is still on its way to us
            match bucket.update(&key, bytes.clone(), 0).await {
                Ok(_) => {
                    metrics.reasserted.inc();
                    tracing::warn!(
                        key,
                        "the bucket had lost this key without a deletion, written again"
                    );
                }
                // somebody else wrote it: the watch will show
                Err(StoreError::Conflict) => {}
                Err(StoreError::Unavailable(_)) => return,
            }
            self.missing.remove(&key);
        }
    }
}

/// The policy of a key `<cluster>.<policy>`.
fn policy_of(key: &str, cluster: &Token) -> Option<Token> {
    key.strip_prefix(cluster.as_str())?
        .strip_prefix('.')?
        .parse()
        .ok()
}

/// What to do about the environment's policy.
#[derive(Debug, PartialEq)]
enum Due {
    Nothing,
    Create(Box<Entry>),
    Update(Box<Entry>, u64),
}

/// What to do about the environment's policy: it is written where no policy is, and kept equal to the variables once it is there. It does not
/// go by itself, neither with the variables nor when other policies come: `lanectl policy delete` deletes it, until the next start.
fn environment_due(wanted: &Entry, known: &Known, key: &str) -> Due {
    let Some((bytes, revision)) = known.values.get(key) else {
        return if known.values.is_empty() && known.others.is_empty() {
            Due::Create(Box::new(wanted.clone()))
        } else {
            Due::Nothing
        };
    };
    match Entry::from_json(bytes) {
        Ok(stored) if stored.origin == Origin::Environment && stored.spec != wanted.spec => {
            let generation = stored.generation.saturating_add(1);
            Due::Update(
                Box::new(Entry {
                    generation,
                    ..wanted.clone()
                }),
                *revision,
            )
        }
        _ => Due::Nothing,
    }
}

/// Follows the policies until the process stops. The environment's policy is written once the cluster was listed in full.
///
/// # Errors
/// Never.
pub async fn policies(
    bus: Bus,
    environment: Option<Entry>,
    mut leadership: Leadership,
    mut listed: watch::Receiver<bool>,
    to: mpsc::Sender<Input>,
    metrics: Metrics,
    stop: Shutdown,
) -> anyhow::Result<()> {
    let cluster = bus.cluster().clone();
    let bucket = bus.bucket(storage::POLICIES);
    let mut changes = bucket.watch(&format!("{cluster}.*"));
    let mut known = Known::default();
    // a deletion that we saw happen stands until the next start
    let mut environment = environment;
    let mut was_there = false;
    let environment_key = format!("{cluster}.{ENVIRONMENT_POLICY}");
    loop {
        let change = tokio::select! {
            change = changes.next() => match change {
                Some(change) => Some(change),
                None => return Ok(()),
            },
            () = leadership.changed() => None,
            _ = listed.changed(), if !*listed.borrow() => None,
            () = stop.cancelled() => return Ok(()),
        };
        match change {
            Some(Change::Put {
                key,
                bytes,
                revision,
            }) => {
                let Some(token) = policy_of(&key, &cluster) else {
                    continue;
                };
                match read_policy(&bytes, &token) {
                    Ok(entry) => {
                        was_there |= key == environment_key;
                        // the resource is there to mirror again, and only it may
                        if entry.origin == Origin::Kubernetes {
                            known.put_other(&key);
                        } else {
                            known.put(&key, &bytes, revision);
                        }
                        send(&to, Input::Policy(token, Box::new(entry))).await;
                    }
                    Err(reason) => {
                        if !known.values.contains_key(&key) {
                            known.put_other(&key);
                        }
                        metrics.policies_invalid.inc();
                        tracing::warn!(
                            key,
                            revision,
                            reason,
                            "a policy cannot be used, what was known of it before stays in force"
                        );
                    }
                }
            }
            Some(Change::Deleted { key }) => {
                known.deleted(&key);
                if key == environment_key && was_there {
                    environment = None;
                }
                if let Some(token) = policy_of(&key, &cluster) {
                    send(&to, Input::PolicyDeleted(token)).await;
                }
            }
            Some(Change::Synced { keys }) => {
                known.synced(&keys);
                send(&to, Input::PoliciesSynced).await;
            }
            None => {}
        }
        if !known.synced || !leadership.is_leader() {
            continue;
        }
        known.reassert(&bucket, &metrics).await;
        if let Some(wanted) = &environment
            && *listed.borrow()
        {
            write_environment(&bucket, wanted, &known, &environment_key).await;
        }
    }
}

fn read_policy(bytes: &[u8], token: &Token) -> Result<Entry, String> {
    let entry = Entry::from_json(bytes).map_err(|e| e.to_string())?;
    match entry.token() {
        Ok(own) if own == *token => Ok(entry),
        Ok(own) => Err(format!("it is policy {own}, under another key")),
        Err(error) => Err(error.to_string()),
    }
}

async fn write_environment(bucket: &Bucket, wanted: &Entry, known: &Known, key: &str) {
    let (entry, written) = match environment_due(wanted, known, key) {
        Due::Nothing => return,
        Due::Create(entry) => match serde_json::to_vec(&entry) {
            Ok(bytes) => (entry, bucket.create(key, bytes).await),
            Err(error) => {
                return tracing::error!(%error, "the environment's policy cannot be written");
            }
        },
        Due::Update(entry, revision) => match serde_json::to_vec(&entry) {
            Ok(bytes) => (entry, bucket.update(key, bytes, revision).await),
            Err(error) => {
                return tracing::error!(%error, "the environment's policy cannot be written");
            }
        },
    };
    match written {
        Ok(revision) => tracing::info!(
            key,
            revision,
            generation = entry.generation,
            "policy of the environment's variables written"
        ),
        // somebody else wrote: the watch shows what, and this is looked at again
        Err(StoreError::Conflict) => {}
        Err(StoreError::Unavailable(reason)) => {
            tracing::warn!(key, reason, "the environment's policy is not written yet")
        }
    }
}

/// Follows the operators' overrides until the process stops. Of these only a release concerns the actuator.
///
/// # Errors
/// Never.
pub async fn overrides(
    bus: Bus,
    mut leadership: Leadership,
    to: mpsc::Sender<Input>,
    metrics: Metrics,
    stop: Shutdown,
) -> anyhow::Result<()> {
    let cluster = bus.cluster().clone();
    let bucket = bus.bucket(storage::OVERRIDES);
    let mut changes = bucket.watch(&format!("{cluster}.*"));
    let mut known = Known::default();
    loop {
        let change = tokio::select! {
            change = changes.next() => match change {
                Some(change) => Some(change),
                None => return Ok(()),
            },
            () = leadership.changed() => None,
            () = stop.cancelled() => return Ok(()),
        };
        match change {
            Some(Change::Put {
                key,
                bytes,
                revision,
            }) => {
                let Some(token) = policy_of(&key, &cluster) else {
                    continue;
                };
                match serde_json::from_slice::<Override>(&bytes) {
                    Ok(Override::Release { .. }) => {
                        known.put(&key, &bytes, revision);
                        send(&to, Input::Released(token, true)).await;
                    }
                    Ok(Override::Freeze { .. }) => {
                        known.deleted(&key);
                        send(&to, Input::Released(token, false)).await;
                    }
                    Err(error) => {
                        tracing::warn!(key, revision, %error, "an override cannot be used, what was known before stays in force")
                    }
                }
            }
            Some(Change::Deleted { key }) => {
                known.deleted(&key);
                if let Some(token) = policy_of(&key, &cluster) {
                    send(&to, Input::Released(token, false)).await;
                }
            }
            Some(Change::Synced { keys }) => {
                known.synced(&keys);
                send(&to, Input::OverridesSynced).await;
            }
            None => {}
        }
        if known.synced && leadership.is_leader() {
            known.reassert(&bucket, &metrics).await;
        }
    }
}

async fn send(to: &mpsc::Sender<Input>, input: Input) {
    // an error means that the process is ending
    let _ = to.send(input).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::environment::{Variables, policy};

    fn wanted(jitter: &str) -> Entry {
        let variables = Variables {
            target_jitter_ms: Some(jitter.into()),
            ..Variables::default()
        };
        policy(&variables).unwrap().unwrap()
    }

    fn stored(entry: &Entry) -> (Bytes, u64) {
        (serde_json::to_vec(entry).unwrap().into(), 7)
    }

    #[test]
    fn the_environments_policy_is_written_only_where_there_is_none_and_kept_equal() {
        let key = "default.default";
        let other = crate::policies::tests::entry("factory", "floor", serde_json::json!({}));
        let one = |key: &str, entry: &Entry| {
            let mut known = Known::default();
            let (bytes, revision) = stored(entry);
            known.put(key, &bytes, revision);
            known
        };
        let due = |known| environment_due(&wanted("5"), &known, key);
        assert_eq!(due(Known::default()), Due::Create(Box::new(wanted("5"))));
        let mut mirrored = Known::default();
        mirrored.put_other("default.factory_floor");
        assert_eq!(
            due(mirrored),
            Due::Nothing,
            "a resource's policy counts as one"
        );
        assert_eq!(due(one("default.factory_floor", &other)), Due::Nothing);
        assert_eq!(due(one(key, &wanted("5"))), Due::Nothing);
        let raised = Entry {
            generation: 2,
            ..wanted("5")
        };
        assert_eq!(
            due(one(key, &wanted("7"))),
            Due::Update(Box::new(raised), 7)
        );
    }

    #[test]
    fn keys_missing_from_a_complete_read_are_lost_until_they_show_up_or_are_deleted() {
        let mut known = Known::default();
        known.put("a.x", &Bytes::new(), 1);
        known.put("a.y", &Bytes::new(), 2);
        known.synced(&BTreeSet::from(["a.x".to_owned()]));
        assert_eq!(known.missing, BTreeSet::from(["a.y".to_owned()]));
        known.deleted("a.y");
        assert!(known.missing.is_empty());
    }

    #[test]
    fn a_policy_under_a_foreign_key_is_refused() {
        let entry = crate::policies::tests::entry("factory", "floor", serde_json::json!({}));
        let bytes = serde_json::to_vec(&entry).unwrap();
        assert!(read_policy(&bytes, &"factory_floor".parse().unwrap()).is_ok());
        assert!(read_policy(&bytes, &"other_floor".parse().unwrap()).is_err());
    }
}
