//! Deletes what nobody owns any more, and serves the finalizers of foreground and orphaning deletion.

use serde_json::{Value, json};

use super::{BURST, Outcome, is_served, pods};
use crate::{
    cluster::Cluster,
    object::Object,
    path::Target,
    resource::Table,
    status::ApiResult,
    store::Reference,
    write::{Origin, WriteOptions},
};

/// Deletes an object all of whose owners are gone.
pub(super) fn check_owners(cluster: &Cluster, table: Table, key: &str) -> ApiResult<Outcome> {
    let Some(object) = cluster.get(table, key) else {
        return Ok(Outcome::Done);
    };
    let abandoned = {
        let store = cluster.store();
        object
            .owners()
            .iter()
            .all(|owner| is_served(&owner.kind) && store.by_uid(&owner.uid).is_none())
    };
    if abandoned && !object.owners().is_empty() && !object.is_deleting() {
        pods::delete(cluster, table, &object)?;
    }
    Ok(Outcome::Done)
}

/// Deals with the dependents of an owner that is gone: they go too, unless someone else owns them as well.
pub(super) fn collect(cluster: &Cluster, uid: &str) -> ApiResult<Outcome> {
    if cluster.store().by_uid(uid).is_some() {
        return Ok(Outcome::Done);
    }
    let dependents = dependents(cluster, uid);
    for (table, key) in dependents.iter().take(BURST) {
        let Some(object) = cluster.get(*table, key) else {
            continue;
        };
        let others = {
            let store = cluster.store();
            object
                .owners()
                .iter()
                .any(|owner| owner.uid != uid && store.by_uid(&owner.uid).is_some())
        };
        if others {
            disown(cluster, *table, &object, uid)?;
        } else {
            pods::delete(cluster, *table, &object)?;
        }
    }
    Ok(if dependents.len() > BURST {
        Outcome::Again
    } else {
        Outcome::Done
    })
}

/// The dependents that are not on their way out already.
fn dependents(cluster: &Cluster, uid: &str) -> Vec<Reference> {
    let store = cluster.store();
    store
        .dependents(uid)
        .filter(|(table, key)| {
            store
                .get(*table, key)
                .is_some_and(|object| !object.is_deleting())
        })
        .cloned()
        .collect()
}

/// Removes `uid` from an object's owners.
fn disown(cluster: &Cluster, table: Table, object: &Object, uid: &str) -> ApiResult<()> {
    cluster
        .update(
            &Target::object(table, object.key()),
            Origin::Internal,
            &WriteOptions::default(),
            |mut value, _| {
                if let Some(Value::Array(owners)) = value.pointer_mut("/metadata/ownerReferences") {
                    owners.retain(|owner| owner["uid"] != uid);
                }
                Ok(value)
            },
        )
        .map(drop)
}

/// Serves `foregroundDeletion` (dependents first) and `orphan` (dependents stay).
pub(super) fn finalize(cluster: &Cluster, table: Table, key: &str) -> ApiResult<Outcome> {
    let Some(object) = cluster.get(table, key) else {
        return Ok(Outcome::Done);
    };
    let value = object.value();
    let has = |name: &str| {
        value["metadata"]["finalizers"]
            .as_array()
            .is_some_and(|finalizers| finalizers.contains(&json!(name)))
    };
    if !object.is_deleting() {
        return Ok(Outcome::Done);
    }
    if has("orphan") {
        for (table, key) in dependents(cluster, object.uid()) {
            if let Some(dependent) = cluster.get(table, &key) {
                disown(cluster, table, &dependent, object.uid())?;
            }
        }
        return remove_finalizer(cluster, table, key, "orphan");
    }
    if has("foregroundDeletion") {
        let waiting = dependents(cluster, object.uid());
        for (table, key) in waiting.iter().take(BURST) {
            if let Some(dependent) = cluster.get(*table, key) {
                pods::delete(cluster, *table, &dependent)?;
            }
        }
        if waiting.len() > BURST {
            return Ok(Outcome::Again);
        }
        let left = cluster.store().dependents(object.uid()).next().is_some();
        if !left {
            return remove_finalizer(cluster, table, key, "foregroundDeletion");
        }
    }
    Ok(Outcome::Done)
}

fn remove_finalizer(
    cluster: &Cluster,
    table: Table,
    key: &str,
    finalizer: &str,
) -> ApiResult<Outcome> {
    cluster.update(
        &Target::object(table, key),
        Origin::Internal,
        &WriteOptions::default(),
        |mut value, _| {
            if let Some(Value::Array(finalizers)) = value.pointer_mut("/metadata/finalizers") {
                finalizers.retain(|known| known != finalizer);
            }
            Ok(value)
        },
    )?;
    Ok(Outcome::Done)
}
