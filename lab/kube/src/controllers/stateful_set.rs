//! Keeps the numbered pods of a stateful set, one after the other.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Value, json};

use super::{BURST, Outcome, pods};
use crate::{cluster::Cluster, object::Object, resource::Table, status::ApiResult};

const REVISION: &str = "controller-revision-hash";

pub(super) fn reconcile(cluster: &Cluster, key: &str) -> ApiResult<Outcome> {
    let Some(set) = cluster.get(Table::StatefulSets, key) else {
        return Ok(Outcome::Done);
    };
    let value = set.value();
    let revision = format!(
        "{}-{}",
        set.name(),
        pods::template_hash(&value["spec"]["template"])
    );
    let mut outcome = Outcome::Done;
    if !set.is_deleting() {
        outcome = step(cluster, &set, &value, &revision)?;
    }
    report(cluster, &set, &value, &revision)?;
    Ok(outcome)
}

/// The set's pods by number, those being deleted included: their name is taken.
fn numbered(cluster: &Cluster, set: &Object) -> BTreeMap<usize, Arc<Object>> {
    pods::owned(cluster, Table::Pods, set)
        .into_iter()
        .filter_map(|pod| {
            let number = pod.name().strip_prefix(set.name())?.strip_prefix('-')?;
            Some((number.parse().ok()?, pod))
        })
        .collect()
}

fn step(cluster: &Cluster, set: &Object, value: &Value, revision: &str) -> ApiResult<Outcome> {
    let wanted = usize::try_from(value["spec"]["replicas"].as_i64().unwrap_or(1)).unwrap_or(0);
    let ordered = value["spec"]["podManagementPolicy"] != "Parallel";
    let existing = numbered(cluster, set);
    let mut created = 0;
    for number in 0..wanted {
        match existing.get(&number) {
            None => {
                create(cluster, set, value, number, revision)?;
                created += 1;
                if created >= BURST {
                    return Ok(Outcome::Again);
                }
                if ordered {
                    return Ok(Outcome::Done);
                }
            }
            Some(pod) if pod.is_deleting() && ordered => return Ok(Outcome::Done),
            Some(pod) if matches!(pod.phase(), "Failed" | "Succeeded") => {
                pods::delete(cluster, Table::Pods, pod)?;
                return Ok(Outcome::Done);
            }
            Some(pod) if ordered && !pod.is_ready() => {
                // A pod of an old template that never gets ready must not block its own replacement.
                if pod.label(REVISION) == Some(revision) || pod.is_deleting() {
                    return Ok(Outcome::Done);
                }
            }
            Some(_) => {}
        }
    }
    let mut deleted = 0;
    for (number, pod) in existing.iter().rev() {
        if *number < wanted {
            break;
        }
        if !pod.is_deleting() {
            pods::delete(cluster, Table::Pods, pod)?;
            deleted += 1;
        }
        if ordered {
            return Ok(Outcome::Done);
        }
        if deleted >= BURST {
            return Ok(Outcome::Again);
        }
    }
    if created == 0 {
        update(cluster, value, &existing, wanted, revision)?;
    }
    Ok(Outcome::Done)
}

/// Replaces the highest pod of an old template, when all others serve.
fn update(
    cluster: &Cluster,
    value: &Value,
    existing: &BTreeMap<usize, Arc<Object>>,
    wanted: usize,
    revision: &str,
) -> ApiResult<()> {
    let strategy = &value["spec"]["updateStrategy"];
    if strategy["type"] == "OnDelete" {
        return Ok(());
    }
    let partition = strategy["rollingUpdate"]["partition"].as_i64().unwrap_or(0);
    let partition = usize::try_from(partition).unwrap_or(0);
    for (_, pod) in existing.range(partition.min(wanted)..wanted).rev() {
        if pod.label(REVISION) != Some(revision) {
            if !pod.is_deleting() {
                pods::delete(cluster, Table::Pods, pod)?;
            }
            return Ok(());
        }
        if !pod.is_ready() {
            return Ok(());
        }
    }
    Ok(())
}

fn create(
    cluster: &Cluster,
    set: &Object,
    value: &Value,
    number: usize,
    revision: &str,
) -> ApiResult<()> {
    let mut pod = pods::from_template(value, Table::StatefulSets, set);
    let name = format!("{}-{number}", set.name());
    pod["metadata"]["name"] = json!(name);
    pod["metadata"]["labels"]["statefulset.kubernetes.io/pod-name"] = json!(name);
    pod["metadata"]["labels"]["apps.kubernetes.io/pod-index"] = json!(number.to_string());
    pod["metadata"]["labels"][REVISION] = json!(revision);
    pod["spec"]["hostname"] = json!(name);
    if let Some(service) = value["spec"]["serviceName"].as_str() {
        pod["spec"]["subdomain"] = json!(service);
    }
    pods::create(cluster, Table::Pods, set, pod).map(drop)
}

fn report(cluster: &Cluster, set: &Object, value: &Value, revision: &str) -> ApiResult<()> {
    let active = pods::active(cluster, set);
    let ready = pods::ready(&active);
    let updated = pods::count(
        active
            .iter()
            .filter(|pod| pod.label(REVISION) == Some(revision))
            .count(),
    );
    let all = pods::count(active.len());
    let current_revision = if updated == all {
        json!(revision)
    } else {
        value["status"]["currentRevision"].clone()
    };
    let mut status = json!({
        "observedGeneration": value["metadata"]["generation"],
        "replicas": all,
        "availableReplicas": ready,
        "currentRevision": current_revision,
        "updateRevision": revision,
        "collisionCount": 0,
    });
    let current = if updated == all { all } else { all - updated };
    for (field, number) in [
        ("readyReplicas", ready),
        ("updatedReplicas", updated),
        ("currentReplicas", current),
    ] {
        if number > 0 {
            status[field] = json!(number);
        }
    }
    pods::set_status(cluster, Table::StatefulSets, set, &status)
}
