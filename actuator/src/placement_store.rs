//! Placement in its bucket: written by the leader when it changed, and again when the bucket lost it.

use std::collections::BTreeMap;
use std::time::Duration;

use laneguard_proto::placement::{self, Placement};
use laneguard_proto::storage;
use laneguard_runtime::bus::{Bus, Change, StoreError};
use laneguard_runtime::clock;
use laneguard_runtime::shutdown::Shutdown;
use tokio::sync::watch;

use crate::leader::Leadership;
use crate::placement::Placements;

/// Before a write that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Keeps the bucket equal to what `wanted` says, until the process stops. `None` in `wanted`: not known yet.
///
/// # Errors
/// Never.
pub async fn keep(
    bus: Bus,
    mut wanted: watch::Receiver<Option<Placements>>,
    leadership: Leadership,
    stop: Shutdown,
) -> anyhow::Result<()> {
    let bucket = bus.bucket(storage::STATE);
    let prefix = placement::key(bus.cluster().as_str(), "");
    let mut changes = bucket.watch(&format!("{prefix}*"));
    let mut stored: BTreeMap<String, Placement> = BTreeMap::new();
    let (mut synced, mut failed) = (false, false);
    loop {
        tokio::select! {
            change = changes.next() => match change {
                Some(Change::Put { key, bytes, .. }) => {
                    // what cannot be read is written over
                    let read = serde_json::from_slice(&bytes).unwrap_or_default();
                    stored.insert(key, without_time(read));
                }
                Some(Change::Deleted { key }) => drop(stored.remove(&key)),
                Some(Change::Synced { keys }) => {
                    stored.retain(|key, _| keys.contains(key));
                    synced = true;
                }
                None => return Ok(()),
            },
            changed = wanted.changed() => if changed.is_err() {
                return Ok(());
            },
            () = tokio::time::sleep(RETRY), if failed => {}
            () = stop.cancelled() => return Ok(()),
        }
        if !synced || !leadership.is_leader() {
            continue;
        }
        let due = due(wanted.borrow_and_update().as_ref(), &stored, &prefix);
        let failed_before = std::mem::take(&mut failed);
        for (key, placement) in due {
            if !bus.is_connected() || !leadership.is_leader() || stop.is_cancelled() {
                failed = true;
                break;
            }
            if placement.as_ref().is_some_and(is_truncated)
                && !stored.get(&key).is_some_and(is_truncated)
            {
                tracing::warn!(
                    key,
                    "a policy governs more pods than its placement can list: the usage of its classes is unknown"
                );
            }
            let written = match &placement {
                Some(placement) => {
                    let timed = Placement {
                        written_ms: clock::unix_ms(),
                        ..placement.clone()
                    };
                    match serde_json::to_vec(&timed) {
                        Ok(bytes) => bucket.put(&key, bytes).await.map(drop),
                        Err(error) => Err(StoreError::Unavailable(error.to_string())),
                    }
                }
                None => bucket.delete(&key).await,
            };
            match written {
                Ok(()) => match placement {
                    Some(placement) => drop(stored.insert(key, placement)),
                    None => drop(stored.remove(&key)),
                },
                // one policy's trouble is no reason to leave the others without
                Err(error) => {
                    if !failed_before && !failed {
                        tracing::warn!(%error, key, "placement is not written yet, trying again");
                    }
                    failed = true;
                }
            }
        }
    }
}

fn is_truncated(placement: &Placement) -> bool {
    placement.classes.iter().any(|class| class.truncated)
}

fn without_time(placement: Placement) -> Placement {
    Placement {
        written_ms: 0,
        ..placement
    }
}

/// What has to be written, and which keys (`None`) belong to no policy any more.
fn due(
    wanted: Option<&Placements>,
    stored: &BTreeMap<String, Placement>,
    prefix: &str,
) -> Vec<(String, Option<Placement>)> {
    let Some(wanted) = wanted else {
        return Vec::new();
    };
    let wanted: BTreeMap<String, &Placement> = wanted
        .iter()
        .map(|(token, p)| (format!("{prefix}{token}"), p))
        .collect();
    let write = wanted
        .iter()
        .filter(|(key, placement)| stored.get(*key) != Some(**placement))
        .map(|(key, placement)| (key.clone(), Some((*placement).clone())));
    let gone = stored
        .keys()
        .filter(|key| !wanted.contains_key(*key))
        .map(|key| (key.clone(), None));
    write.chain(gone).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_written_and_what_belongs_to_nobody_goes() {
        let placement = |node: &str| Placement {
            critical_nodes: vec![node.into()],
            ..Placement::default()
        };
        let wanted = Placements::from([
            ("a".parse().unwrap(), placement("n1")),
            ("b".parse().unwrap(), placement("n2")),
        ]);
        let stored = BTreeMap::from([
            ("p.a".to_owned(), placement("n1")),
            ("p.c".to_owned(), placement("n3")),
        ]);
        let due = due(Some(&wanted), &stored, "p.");
        assert_eq!(
            due,
            [
                ("p.b".to_owned(), Some(placement("n2"))),
                ("p.c".to_owned(), None)
            ]
        );
        assert!(super::due(None, &stored, "p.").is_empty());
    }
}
