//! What the workload controllers share: the pods of an owner, pods from a template, counts, status.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::{
    cluster::Cluster,
    object::Object,
    path::{Part, Target},
    random,
    resource::Table,
    status::ApiResult,
    write::{DeleteOptions, Origin, Propagation, WriteOptions, now},
};

/// The live pods that `owner` controls: neither finished nor being deleted.
pub(super) fn active(cluster: &Cluster, owner: &Object) -> Vec<Arc<Object>> {
    owned(cluster, Table::Pods, owner)
        .into_iter()
        .filter(|pod| !pod.is_deleting() && !matches!(pod.phase(), "Succeeded" | "Failed"))
        .collect()
}

/// All objects of a table that `owner` controls.
pub(super) fn owned(cluster: &Cluster, table: Table, owner: &Object) -> Vec<Arc<Object>> {
    let store = cluster.store();
    store
        .dependents(owner.uid())
        .filter(|(owned, _)| *owned == table)
        .filter_map(|(table, key)| store.get(*table, key))
        .filter(|object| {
            object
                .controller()
                .is_some_and(|controller| controller.uid == owner.uid())
        })
        .collect()
}

/// An owner reference that makes `owner` the controller.
pub(super) fn owner_reference(table: Table, owner: &Object) -> Value {
    let kind = table.kind();
    json!({"apiVersion": kind.api_version(), "kind": kind.kind, "name": owner.name(), "uid": owner.uid(),
        "controller": true, "blockOwnerDeletion": true})
}

/// A pod of a workload's template, without name.
pub(super) fn from_template(workload: &Value, table: Table, owner: &Object) -> Value {
    let template = &workload["spec"]["template"];
    let mut metadata = json!({"ownerReferences": [owner_reference(table, owner)]});
    for field in ["labels", "annotations", "finalizers"] {
        if !template["metadata"][field].is_null() {
            metadata[field] = template["metadata"][field].clone();
        }
    }
    json!({"metadata": metadata, "spec": template["spec"]})
}

/// Creates an object in the owner's namespace.
pub(super) fn create(
    cluster: &Cluster,
    table: Table,
    owner: &Object,
    value: Value,
) -> ApiResult<Arc<Object>> {
    let target = Target::collection(table, Some(owner.namespace()));
    cluster.create(&target, value, &WriteOptions::default())
}

/// Deletes exactly this object, not one that took its name.
pub(super) fn delete(cluster: &Cluster, table: Table, object: &Object) -> ApiResult<()> {
    let options = DeleteOptions {
        uid: Some(object.uid().to_owned()),
        propagation: Some(Propagation::Background),
        ..DeleteOptions::default()
    };
    cluster
        .delete(
            &Target::object(table, object.key()),
            object.name(),
            &options,
        )
        .map(drop)
}

/// Replaces an object's status; writes nothing when it is the same.
pub(super) fn set_status(
    cluster: &Cluster,
    table: Table,
    object: &Object,
    status: &Value,
) -> ApiResult<()> {
    let mut target = Target::object(table, object.key());
    target.part = Part::Status;
    cluster
        .update(
            &target,
            Origin::Internal,
            &WriteOptions::default(),
            |mut value, _| {
                value["status"] = status.clone();
                Ok(value)
            },
        )
        .map(drop)
}

/// How many of `pods` are ready.
pub(super) fn ready(pods: &[Arc<Object>]) -> i64 {
    count(pods.iter().filter(|pod| pod.is_ready()).count())
}

/// A count as the API has it.
pub(super) fn count(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// A name part that stands for a template.
pub(super) fn template_hash(template: &Value) -> String {
    let mut template = template.clone();
    if let Some(Value::Object(labels)) = template.pointer_mut("/metadata/labels") {
        labels.remove("pod-template-hash");
    }
    // FNV-1a: stable over processes and releases, unlike the standard library's hashers.
    let hash = template
        .to_string()
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    random::encode(hash, 10)
}

/// A condition that keeps its time of transition while its status stays.
pub(super) fn condition(
    old_status: &Value,
    type_: &str,
    status: bool,
    reason: &str,
    message: &str,
) -> Value {
    let status = if status { "True" } else { "False" };
    let old = old_status["conditions"].as_array().and_then(|conditions| {
        conditions
            .iter()
            .find(|condition| condition["type"] == type_)
    });
    match old {
        Some(old) if old["status"] == status && old["reason"] == reason => old.clone(),
        old => {
            let since = old
                .filter(|old| old["status"] == status)
                .map_or_else(|| json!(now()), |old| old["lastTransitionTime"].clone());
            json!({"type": type_, "status": status, "reason": reason, "message": message,
                "lastTransitionTime": since, "lastUpdateTime": now()})
        }
    }
}
