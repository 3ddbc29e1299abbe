//! Keeps one pod of a daemon set on every fitting node.

use std::collections::BTreeMap;

use serde_json::json;

use super::{Outcome, pods, scheduler};
use crate::{cluster::Cluster, resource::Table, status::ApiResult};

const REVISION: &str = "controller-revision-hash";

pub(super) fn reconcile(cluster: &Cluster, key: &str) -> ApiResult<Outcome> {
    let Some(set) = cluster.get(Table::DaemonSets, key) else {
        return Ok(Outcome::Done);
    };
    let value = set.value();
    let revision = pods::template_hash(&value["spec"]["template"]);
    let nodes = scheduler::fitting(cluster, &value["spec"]["template"]["spec"], false);
    // Pods being deleted still hold their node.
    let all = pods::owned(cluster, Table::Pods, &set);
    let mut by_node: BTreeMap<&str, Vec<_>> = BTreeMap::new();
    for pod in &all {
        by_node.entry(pod.node_name()).or_default().push(pod);
    }
    if !set.is_deleting() {
        let mut disturbed = false;
        for node in &nodes {
            match by_node.get(node.name()).and_then(|pods| pods.first()) {
                None => {
                    let mut pod = pods::from_template(&value, Table::DaemonSets, &set);
                    pod["metadata"]["generateName"] = json!(format!("{}-", set.name()));
                    pod["metadata"]["labels"][REVISION] = json!(revision);
                    // A real controller pins it by affinity and leaves the binding to the scheduler.
                    pod["spec"]["nodeName"] = json!(node.name());
                    pods::create(cluster, Table::Pods, &set, pod)?;
                    disturbed = true;
                }
                Some(pod) if matches!(pod.phase(), "Succeeded" | "Failed") => {
                    pods::delete(cluster, Table::Pods, pod)?;
                }
                Some(pod) => disturbed |= pod.is_deleting() || !pod.is_ready(),
            }
        }
        for pod in all.iter().filter(|pod| !pod.is_deleting()) {
            let misplaced = nodes.iter().all(|node| node.name() != pod.node_name());
            let outdated = pod.label(REVISION) != Some(revision.as_str())
                && value["spec"]["updateStrategy"]["type"] != "OnDelete";
            // One at a time, except that a pod which does not serve anyway may always be replaced.
            if misplaced || outdated && (!disturbed || !pod.is_ready()) {
                pods::delete(cluster, Table::Pods, pod)?;
                disturbed = true;
            }
        }
    }
    let active = pods::active(cluster, &set);
    let ready = pods::ready(&active);
    let updated = active
        .iter()
        .filter(|pod| pod.label(REVISION) == Some(revision.as_str()))
        .count();
    let mut status = json!({
        "observedGeneration": value["metadata"]["generation"],
        "currentNumberScheduled": active.len(),
        "desiredNumberScheduled": nodes.len(),
        "numberMisscheduled": 0,
        "numberReady": ready,
    });
    for (field, number) in [
        ("updatedNumberScheduled", pods::count(updated)),
        ("numberAvailable", ready),
        (
            "numberUnavailable",
            (pods::count(nodes.len()) - ready).max(0),
        ),
    ] {
        if number > 0 {
            status[field] = json!(number);
        }
    }
    pods::set_status(cluster, Table::DaemonSets, &set, &status)?;
    Ok(Outcome::Done)
}
