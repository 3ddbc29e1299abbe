//! Binds pods to ready nodes, in turn.

use std::sync::Arc;

use serde_json::Value;

use super::{Outcome, pods};
use crate::{
    cluster::Cluster, object::Object, path::Target, resource::Table, status::ApiResult,
    write::set_condition,
};

/// Remembers whose turn it is.
#[derive(Debug, Default)]
pub(super) struct Scheduler {
    turn: usize,
}

/// Ready nodes whose labels fit the pod's `nodeSelector`, in order of name; cordoned ones only if asked for.
pub(super) fn fitting(
    cluster: &Cluster,
    pod_spec: &Value,
    only_schedulable: bool,
) -> Vec<Arc<Object>> {
    let fits = |node: &Object| {
        pod_spec["nodeSelector"]
            .as_object()
            .into_iter()
            .flatten()
            .all(|(key, value)| node.label(key) == value.as_str())
    };
    cluster
        .store()
        .list(Table::Nodes, None, None)
        .filter(|node| node.is_ready() && !node.is_deleting())
        .filter(|node| !only_schedulable || node.field(0) != "true")
        .filter(|node| fits(node))
        .cloned()
        .collect()
}

impl Scheduler {
    pub(super) fn schedule(&mut self, cluster: &Cluster, key: &str) -> ApiResult<Outcome> {
        let Some(pod) = cluster.get(Table::Pods, key) else {
            return Ok(Outcome::Done);
        };
        if !pod.node_name().is_empty() || pod.is_deleting() {
            return Ok(Outcome::Done);
        }
        let value = pod.value();
        if value["spec"]["schedulerName"] != "default-scheduler" {
            return Ok(Outcome::Done);
        }
        let nodes = fitting(cluster, &value["spec"], true);
        if nodes.is_empty() {
            let mut status = value["status"].clone();
            let condition = pods::condition(
                &status,
                "PodScheduled",
                false,
                "Unschedulable",
                "0 nodes are available",
            );
            set_condition(&mut status, condition);
            pods::set_status(cluster, Table::Pods, &pod, &status)?;
            return Ok(Outcome::Done);
        }
        let node = &nodes[self.turn % nodes.len()];
        self.turn = self.turn.wrapping_add(1);
        cluster.bind(&Target::object(Table::Pods, key), node.name())?;
        Ok(Outcome::Done)
    }
}
