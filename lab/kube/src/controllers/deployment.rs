//! Makes a replica set per pod template and moves pods from old ones to the current one.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{Outcome, pods};
use crate::{
    cluster::Cluster,
    object::Object,
    path::{Part, Target},
    resource::Table,
    status::ApiResult,
    write::{Origin, WriteOptions},
};

const REVISION: &str = "deployment.kubernetes.io/revision";

/// A replica set with what is looked at.
#[derive(Clone, Debug)]
struct Set {
    object: Arc<Object>,
    replicas: i64,
    available: i64,
    revision: i64,
    template: Value,
}

impl Set {
    fn new(object: Arc<Object>) -> Self {
        let mut value = object.value();
        let mut template = value["spec"]["template"].take();
        without_hash(&mut template);
        Self {
            replicas: value["spec"]["replicas"].as_i64().unwrap_or(0),
            available: value["status"]["availableReplicas"].as_i64().unwrap_or(0),
            revision: revision(&value),
            template,
            object,
        }
    }
}

fn revision(value: &Value) -> i64 {
    value["metadata"]["annotations"][REVISION]
        .as_str()
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}

fn without_hash(template: &mut Value) {
    if let Some(Value::Object(labels)) = template.pointer_mut("/metadata/labels") {
        labels.remove("pod-template-hash");
    }
}

pub(super) fn reconcile(cluster: &Cluster, key: &str) -> ApiResult<Outcome> {
    let Some(deployment) = cluster.get(Table::Deployments, key) else {
        return Ok(Outcome::Done);
    };
    if deployment.is_deleting() {
        return Ok(Outcome::Done);
    }
    let value = deployment.value();
    let mut sets: Vec<Set> = pods::owned(cluster, Table::ReplicaSets, &deployment)
        .into_iter()
        .filter(|set| !set.is_deleting())
        .map(Set::new)
        .collect();
    let paused = value["spec"]["paused"] == true;
    let template = &value["spec"]["template"];
    let current = sets.iter().position(|set| set.template == *template);
    let current = match current {
        Some(index) => Some(sets.swap_remove(index)),
        None if paused => None,
        None => Some(create_set(cluster, &deployment, &value, &sets)?),
    };
    let old = sets;
    if let Some(current) = &current {
        let number = announce_revision(cluster, &deployment, current, &old)?;
        tracing::trace!(key, number, "deployment revision");
        if !paused {
            roll(cluster, &deployment, &value, current, &old)?;
            forget_old(cluster, &value, &old)?;
        }
    }
    report(cluster, &deployment, &value)?;
    Ok(Outcome::Done)
}

fn create_set(
    cluster: &Cluster,
    deployment: &Object,
    value: &Value,
    old: &[Set],
) -> ApiResult<Set> {
    let mut template = value["spec"]["template"].clone();
    let hash = pods::template_hash(&template);
    template["metadata"]["labels"]["pod-template-hash"] = json!(hash);
    let mut selector = value["spec"]["selector"].clone();
    selector["matchLabels"]["pod-template-hash"] = json!(hash);
    let revision = old.iter().map(|set| set.revision).max().unwrap_or(0) + 1;
    let set = json!({
        "metadata": {
            "name": format!("{}-{hash}", deployment.name()),
            "labels": template["metadata"]["labels"],
            "annotations": {REVISION: revision.to_string()},
            "ownerReferences": [pods::owner_reference(Table::Deployments, deployment)],
        },
        "spec": {"replicas": 0, "selector": selector, "template": template},
    });
    pods::create(cluster, Table::ReplicaSets, deployment, set).map(Set::new)
}

/// Writes the current set's revision on it and on the deployment. A set that is used again gets a new one.
fn announce_revision(
    cluster: &Cluster,
    deployment: &Object,
    current: &Set,
    old: &[Set],
) -> ApiResult<i64> {
    let newest = old.iter().map(|set| set.revision).max().unwrap_or(0);
    let number = if current.revision > newest {
        current.revision
    } else {
        newest + 1
    };
    // The deployment's is written with its status: its other annotations count for the generation.
    for (table, part, object) in [
        (Table::ReplicaSets, Part::Main, current.object.as_ref()),
        (Table::Deployments, Part::Status, deployment),
    ] {
        change(cluster, table, part, object, |value| {
            if !value["metadata"]["annotations"].is_object() {
                value["metadata"]["annotations"] = json!({});
            }
            value["metadata"]["annotations"][REVISION] = json!(number.to_string());
        })?;
    }
    Ok(number)
}

fn change(
    cluster: &Cluster,
    table: Table,
    part: Part,
    object: &Object,
    mut mutate: impl FnMut(&mut Value),
) -> ApiResult<()> {
    let mut target = Target::object(table, object.key());
    target.part = part;
    cluster
        .update(
            &target,
            Origin::Internal,
            &WriteOptions::default(),
            |mut value, _| {
                mutate(&mut value);
                Ok(value)
            },
        )
        .map(drop)
}

fn scale(cluster: &Cluster, set: &Set, replicas: i64) -> ApiResult<()> {
    if set.replicas == replicas {
        return Ok(());
    }
    change(
        cluster,
        Table::ReplicaSets,
        Part::Main,
        &set.object,
        |value| {
            value["spec"]["replicas"] = json!(replicas);
        },
    )
}

/// One step of the rollout; the next follows from the change it makes.
fn roll(
    cluster: &Cluster,
    deployment: &Object,
    value: &Value,
    current: &Set,
    old: &[Set],
) -> ApiResult<()> {
    let wanted = value["spec"]["replicas"].as_i64().unwrap_or(1);
    if value["spec"]["strategy"]["type"] == "Recreate" {
        for set in old {
            scale(cluster, set, 0)?;
        }
        let old_pods = old
            .iter()
            .any(|set| !pods::owned(cluster, Table::Pods, &set.object).is_empty());
        if !old_pods {
            scale(cluster, current, wanted)?;
        }
        return Ok(());
    }
    let step = rolling_step(value, wanted, current, old);
    tracing::trace!(key = deployment.key(), ?step, "rolling update");
    scale(cluster, current, step.current)?;
    for (set, replicas) in old.iter().zip(step.old) {
        scale(cluster, set, replicas)?;
    }
    Ok(())
}

#[derive(Debug, PartialEq, Eq)]
struct Step {
    current: i64,
    old: Vec<i64>,
}

/// How many replicas each set may have now, within `maxSurge` and `maxUnavailable`.
fn rolling_step(value: &Value, wanted: i64, current: &Set, old: &[Set]) -> Step {
    let rolling = &value["spec"]["strategy"]["rollingUpdate"];
    let surge = resolve(&rolling["maxSurge"], wanted, true);
    let mut unavailable = resolve(&rolling["maxUnavailable"], wanted, false);
    if surge == 0 && unavailable == 0 {
        unavailable = 1;
    }
    let old_total: i64 = old.iter().map(|set| set.replicas).sum();
    let grown = if old_total == 0 || current.replicas > wanted {
        wanted
    } else {
        let room = (wanted + surge - old_total - current.replicas).max(0);
        wanted.min(current.replicas + room)
    };
    // What must stay available, less what the current set does not deliver yet.
    let least = wanted - unavailable;
    let missing = (current.replicas - current.available).max(0);
    let mut may_go = (old_total + current.replicas - least - missing).max(0);
    let mut left: Vec<i64> = old.iter().map(|set| set.replicas).collect();
    // Pods that are not available cost nothing.
    for (set, replicas) in old.iter().zip(&mut left) {
        let idle = (set.replicas - set.available).clamp(0, may_go);
        *replicas -= idle;
        may_go -= idle;
    }
    let available: i64 = current.available + old.iter().map(|set| set.available).sum::<i64>();
    let mut spare = (available - least).max(0);
    for replicas in &mut left {
        let gone = (*replicas).min(spare).min(may_go);
        *replicas -= gone;
        spare -= gone;
        may_go -= gone;
    }
    Step {
        current: grown,
        old: left,
    }
}

/// An absolute number or a share of `whole`.
fn resolve(setting: &Value, whole: i64, up: bool) -> i64 {
    let percent = setting
        .as_str()
        .and_then(|text| text.strip_suffix('%'))
        .and_then(|text| text.parse::<i64>().ok());
    match (percent, setting.as_i64()) {
        (Some(percent), _) if up => (whole * percent + 99) / 100,
        (Some(percent), _) => whole * percent / 100,
        (None, Some(number)) => number,
        (None, None) => 0,
    }
}

/// Deletes empty sets beyond the history limit, the oldest first.
fn forget_old(cluster: &Cluster, value: &Value, old: &[Set]) -> ApiResult<()> {
    let limit =
        usize::try_from(value["spec"]["revisionHistoryLimit"].as_i64().unwrap_or(10)).unwrap_or(0);
    let mut empty: Vec<&Set> = old
        .iter()
        .filter(|set| {
            set.replicas == 0 && pods::owned(cluster, Table::Pods, &set.object).is_empty()
        })
        .collect();
    empty.sort_by_key(|set| set.revision);
    let surplus = old.len().saturating_sub(limit);
    for set in empty.into_iter().take(surplus) {
        pods::delete(cluster, Table::ReplicaSets, &set.object)?;
    }
    Ok(())
}

fn report(cluster: &Cluster, deployment: &Object, value: &Value) -> ApiResult<()> {
    let wanted = value["spec"]["replicas"].as_i64().unwrap_or(1);
    let (mut replicas, mut updated, mut ready) = (0, 0, 0);
    let mut all_old_gone = true;
    for set in pods::owned(cluster, Table::ReplicaSets, deployment) {
        let set = set.value();
        let status = &set["status"];
        let mut template = set["spec"]["template"].clone();
        without_hash(&mut template);
        let number = |field: &str| status[field].as_i64().unwrap_or(0);
        replicas += number("replicas");
        ready += number("readyReplicas");
        if template == value["spec"]["template"] {
            updated += number("replicas");
        } else if number("replicas") > 0 {
            all_old_gone = false;
        }
    }
    let complete = all_old_gone && updated == wanted && ready == wanted && replicas == wanted;
    let old_status = &value["status"];
    let unavailable = resolve(
        &value["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"],
        wanted,
        false,
    );
    let enough = ready >= wanted - unavailable;
    let mut status = json!({
        "observedGeneration": value["metadata"]["generation"],
        "conditions": [
            if enough {
                pods::condition(old_status, "Available", true, "MinimumReplicasAvailable", "Deployment has minimum availability.")
            } else {
                pods::condition(old_status, "Available", false, "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
            },
            if complete {
                pods::condition(old_status, "Progressing", true, "NewReplicaSetAvailable", "ReplicaSet has successfully progressed.")
            } else {
                pods::condition(old_status, "Progressing", true, "ReplicaSetUpdated", "ReplicaSet is progressing.")
            },
        ],
    });
    for (field, number) in [
        ("replicas", replicas),
        ("updatedReplicas", updated),
        ("readyReplicas", ready),
        ("availableReplicas", ready),
        ("unavailableReplicas", (replicas.max(wanted) - ready).max(0)),
    ] {
        if number > 0 {
            status[field] = json!(number);
        }
    }
    pods::set_status(cluster, Table::Deployments, deployment, &status)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(replicas: i64, available: i64) -> Set {
        let object = json!({"metadata": {"name": "s", "namespace": "n"}});
        Set {
            object: Arc::new(Object::new(Table::ReplicaSets.kind(), &object, 1)),
            replicas,
            available,
            revision: 1,
            template: json!({}),
        }
    }

    fn step(
        surge: Value,
        unavailable: Value,
        wanted: i64,
        current: (i64, i64),
        old: &[(i64, i64)],
    ) -> Step {
        let value = json!({"spec": {"strategy": {"rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}}});
        let old: Vec<Set> = old.iter().map(|(r, a)| set(*r, *a)).collect();
        rolling_step(&value, wanted, &set(current.0, current.1), &old)
    }

    #[test]
    fn a_rollout_surges_first_and_takes_old_pods_only_as_new_ones_serve() {
        let quarter = || json!("25%");
        // 4 wanted: one more may exist, one may be missing.
        assert_eq!(
            step(quarter(), quarter(), 4, (0, 0), &[(4, 4)]),
            Step {
                current: 1,
                old: vec![3]
            }
        );
        assert_eq!(
            step(quarter(), quarter(), 4, (2, 0), &[(3, 3)]),
            Step {
                current: 2,
                old: vec![3]
            }
        );
        assert_eq!(
            step(quarter(), quarter(), 4, (2, 2), &[(3, 3)]),
            Step {
                current: 2,
                old: vec![1]
            }
        );
        assert_eq!(
            step(quarter(), quarter(), 4, (4, 4), &[(0, 0)]),
            Step {
                current: 4,
                old: vec![0]
            }
        );
    }

    #[test]
    fn old_pods_that_never_became_available_do_not_block_a_rollout() {
        assert_eq!(
            step(json!(1), json!(0), 2, (1, 0), &[(2, 1)]),
            Step {
                current: 1,
                old: vec![2]
            }
        );
        assert_eq!(
            step(json!(1), json!(0), 2, (1, 1), &[(2, 1)]),
            Step {
                current: 1,
                old: vec![1]
            }
        );
    }

    #[test]
    fn scaling_without_an_old_set_is_immediate() {
        assert_eq!(
            step(json!(1), json!(0), 7, (2, 2), &[]),
            Step {
                current: 7,
                old: vec![]
            }
        );
        assert_eq!(
            step(json!(1), json!(0), 1, (5, 5), &[]),
            Step {
                current: 1,
                old: vec![]
            }
        );
    }
}
