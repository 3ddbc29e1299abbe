//! Empties a namespace that is being deleted, then removes it.

use super::{BURST, Outcome, pods};
use crate::{
    cluster::Cluster,
    resource::Table,
    status::{ApiError, ApiResult},
};

pub(super) fn empty(cluster: &Cluster, name: &str) -> ApiResult<Outcome> {
    let Some(namespace) = cluster.get(Table::Namespaces, name) else {
        return Ok(Outcome::Done);
    };
    if !namespace.is_deleting() {
        return Ok(Outcome::Done);
    }
    let mut left = false;
    let mut deleted = 0;
    for table in Table::ALL {
        if !table.kind().namespaced {
            continue;
        }
        let objects: Vec<_> = cluster
            .store()
            .list(table, Some(name), None)
            .cloned()
            .collect();
        left |= !objects.is_empty();
        for object in objects {
            if object.is_deleting() {
                continue;
            }
            if deleted == BURST {
                return Ok(Outcome::Again);
            }
            pods::delete(cluster, table, &object)?;
            deleted += 1;
        }
    }
    // What waits for its grace period or finalizers brings this work back when it goes.
    if deleted > 0 {
        return Ok(Outcome::Again);
    }
    if !left && !namespace.has_finalizers() {
        cluster
            .store()
            .remove(Table::Namespaces, name, namespace.rv())
            .map_err(|_| ApiError::modified(Table::Namespaces.kind(), name))?;
    }
    Ok(Outcome::Done)
}
