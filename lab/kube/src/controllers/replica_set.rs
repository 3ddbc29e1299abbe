//! Keeps as many pods as a replica set wants.

use serde_json::json;

use super::{BURST, Outcome, pods};
use crate::{cluster::Cluster, resource::Table, status::ApiResult};

pub(super) fn reconcile(cluster: &Cluster, key: &str) -> ApiResult<Outcome> {
    let Some(set) = cluster.get(Table::ReplicaSets, key) else {
        return Ok(Outcome::Done);
    };
    let value = set.value();
    let mut active = pods::active(cluster, &set);
    let wanted = usize::try_from(value["spec"]["replicas"].as_i64().unwrap_or(1)).unwrap_or(0);
    let mut outcome = Outcome::Done;
    if !set.is_deleting() {
        if active.len() < wanted {
            let missing = wanted - active.len();
            for _ in 0..missing.min(BURST) {
                let mut pod = pods::from_template(&value, Table::ReplicaSets, &set);
                pod["metadata"]["generateName"] = json!(format!("{}-", set.name()));
                active.push(pods::create(cluster, Table::Pods, &set, pod)?);
            }
            if missing > BURST {
                outcome = Outcome::Again;
            }
        } else if active.len() > wanted {
            let surplus = active.len() - wanted;
            // Those that serve least go first: without node, not ready, youngest.
            active.sort_by_key(|pod| {
                (
                    !pod.node_name().is_empty(),
                    pod.is_ready(),
                    std::cmp::Reverse(pod.rv()),
                )
            });
            for pod in active.drain(..surplus.min(BURST)) {
                pods::delete(cluster, Table::Pods, &pod)?;
            }
            if surplus > BURST {
                outcome = Outcome::Again;
            }
        }
    }
    let ready = pods::ready(&active);
    let mut status = json!({
        "replicas": active.len(),
        "observedGeneration": value["metadata"]["generation"],
    });
    for (field, number) in [
        ("fullyLabeledReplicas", pods::count(active.len())),
        ("readyReplicas", ready),
        ("availableReplicas", ready),
    ] {
        if number > 0 {
            status[field] = json!(number);
        }
    }
    pods::set_status(cluster, Table::ReplicaSets, &set, &status)?;
    Ok(outcome)
}
