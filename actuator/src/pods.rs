//! Pods as far as they matter here: small, so that many thousand fit in memory.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use laneguard_runtime::clock;
use serde::{Deserialize, Deserializer};

use crate::annotation::{EGRESS, IGNORE, RECORD, Record};

/// Namespace and name of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// The pod's namespace.
    pub namespace: Arc<str>,
    /// The pod's name.
    pub name: Arc<str>,
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A pod as the API server sends it, reduced while it is read: what is not needed is never kept.
#[derive(Debug, Clone, Deserialize)]
pub struct Object {
    #[serde(deserialize_with = "slim_metadata")]
    metadata: ObjectMeta,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    node_name: Option<Box<str>>,
    host_network: bool,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Status {
    phase: Option<Box<str>>,
}

/// The fields of the metadata that are kept; managed fields are skipped unread.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct SlimMetadata {
    namespace: Option<String>,
    name: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<BTreeMap<String, String>>,
    owner_references: Option<Vec<OwnerReference>>,
    deletion_timestamp: Option<Time>,
}

fn slim_metadata<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    let slim = SlimMetadata::deserialize(deserializer)?;
    let annotations = slim.annotations.map(|mut all| {
        all.retain(|key, _| [EGRESS, RECORD, IGNORE].contains(&key.as_str()));
        all
    });
    Ok(ObjectMeta {
        namespace: slim.namespace,
        name: slim.name,
        uid: slim.uid,
        resource_version: slim.resource_version,
        labels: slim.labels,
        annotations,
        owner_references: slim.owner_references,
        deletion_timestamp: slim.deletion_timestamp,
        ..ObjectMeta::default()
    })
}

impl kube::Resource for Object {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind((): &()) -> std::borrow::Cow<'_, str> {
        "Pod".into()
    }

    fn group((): &()) -> std::borrow::Cow<'_, str> {
        "".into()
    }

    fn version((): &()) -> std::borrow::Cow<'_, str> {
        "v1".into()
    }

    fn plural((): &()) -> std::borrow::Cow<'_, str> {
        "pods".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// Our record on a pod.
#[derive(Debug, Clone, PartialEq)]
pub enum Ownership {
    /// The limit, if any, is not ours.
    Foreign,
    /// The limit is ours.
    Ours(Box<Record>),
    /// There is a record that cannot be read: the limit is ours, what was found before us is unknown.
    Unreadable,
}

/// A pod as far as it matters here.
#[derive(Debug, Clone, PartialEq)]
pub struct Pod {
    /// Namespace and name.
    pub key: Key,
    /// Tells it from a later pod of the same name.
    pub uid: Box<str>,
    /// The version that was read: a write is fenced with it.
    pub resource_version: Box<str>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The node it is scheduled to.
    pub node: Option<Box<str>>,
    /// It shares the node's network, where no annotation limits it.
    pub host_network: bool,
    /// It carries [`IGNORE`].
    pub ignored: bool,
    /// It has ended, or is being deleted: no write reaches its network any more.
    pub ended: bool,
    /// Names of the workload it may belong to, without a trailing `-deployment`.
    pub workloads: Vec<Box<str>>,
    /// The egress annotation.
    pub egress: Option<Box<str>>,
    /// Our record.
    pub ownership: Ownership,
    /// The record is remembered rather than read: it has to be written again.
    pub recalled: bool,
}

impl Pod {
    /// From the API server's object. `None`: it has no name, namespace, uid or version, which no stored pod lacks.
    pub fn from_object(object: Object) -> Option<Self> {
        let Object {
            metadata,
            spec,
            status,
        } = object;
        let name = metadata.name?;
        let labels = metadata.labels.unwrap_or_default();
        let annotations = metadata.annotations.unwrap_or_default();
        let controller = metadata
            .owner_references
            .iter()
            .flatten()
            .find(|owner| owner.controller == Some(true));
        let finished = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
        Some(Self {
            workloads: workload_names(controller, &name, &labels),
            key: Key {
                namespace: metadata.namespace?.into(),
                name: name.into(),
            },
            uid: metadata.uid?.into(),
            resource_version: metadata.resource_version?.into(),
            labels,
            node: spec.node_name.filter(|node| !node.is_empty()),
            host_network: spec.host_network,
            ignored: annotations.contains_key(IGNORE),
            ended: finished || metadata.deletion_timestamp.is_some(),
            egress: annotations.get(EGRESS).map(|v| v.as_str().into()),
            ownership: match annotations.get(RECORD) {
                None => Ownership::Foreign,
                Some(text) => Record::parse(text).map_or(Ownership::Unreadable, |record| {
                    Ownership::Ours(Box::new(record.with_plausible_number(clock::unix_ms())))
                }),
            },
            recalled: false,
        })
    }

    /// Our record, if it can be read.
    pub fn record(&self) -> Option<&Record> {
        match &self.ownership {
            Ownership::Ours(record) => Some(record),
            Ownership::Foreign | Ownership::Unreadable => None,
        }
    }

    /// Whether the other is the same pod in an older version. Versions are numbers in every API server so far; where they are not, nothing is older.
    pub fn is_older_than(&self, other: &Self) -> bool {
        let number = |pod: &Self| pod.resource_version.parse::<u64>().ok();
        match (number(self), number(other)) {
            (Some(mine), Some(others)) => self.uid == other.uid && mine < others,
            _ => false,
        }
    }

    /// Takes over what only the former state of the same pod knows: a record that somebody removed by hand while our limit stayed
    /// would otherwise make us take our own limit for the one found.
    pub fn remember(&mut self, former: &Self) {
        if let (Ownership::Ours(record), Ownership::Foreign) = (&former.ownership, &self.ownership)
            && former.uid == self.uid
            && self.egress.as_deref() != record.found.as_deref()
        {
            self.ownership = former.ownership.clone();
            self.recalled = true;
        }
    }
}

/// The pods of one namespace, or of all, but for those that have ended.
pub fn within<'a>(
    pods: &'a BTreeMap<Key, Pod>,
    namespace: Option<&'a str>,
) -> impl Iterator<Item = &'a Pod> {
    let from = namespace.map_or(Bound::Unbounded, |namespace| {
        Bound::Included(Key {
            namespace: namespace.into(),
            name: "".into(),
        })
    });
    pods.range((from, Bound::Unbounded))
        .map(|(_, pod)| pod)
        .take_while(move |pod| namespace.is_none_or(|namespace| namespace == &*pod.key.namespace))
        .filter(|pod| !pod.ended)
}

/// A workload's name without the suffix that some manifests give deployments: both names mean the same.
pub fn workload_name(name: &str) -> &str {
    name.strip_suffix("-deployment")
        .filter(|rest| !rest.is_empty())
        .unwrap_or(name)
}

/// Names of the workload that a pod may belong to. Where it cannot be told, more names rather than fewer: a name too many only means that
/// a pod is not throttled.
fn workload_names(
    controller: Option<&OwnerReference>,
    pod: &str,
    labels: &BTreeMap<String, String>,
) -> Vec<Box<str>> {
    let without_last = |name: &str| name.rsplit_once('-').map(|(rest, _)| rest.to_owned());
    let mut names: Vec<String> = match controller {
        Some(owner) if owner.kind == "ReplicaSet" => {
            let hash = ["pod-template-hash", "rollouts-pod-template-hash"]
                .iter()
                .find_map(|label| labels.get(*label));
            let deployment = hash
                .and_then(|hash| owner.name.strip_suffix(hash.as_str())?.strip_suffix('-'))
                .map(str::to_owned);
            match deployment {
                Some(deployment) => vec![deployment],
                None => std::iter::once(owner.name.clone())
                    .chain(without_last(&owner.name))
                    .collect(),
            }
        }
        Some(owner) if owner.kind == "Job" => std::iter::once(owner.name.clone())
            .chain(without_last(&owner.name))
            .collect(),
        // a static pod is owned by its node
        Some(owner) if owner.kind != "Node" => vec![owner.name.clone()],
        _ => std::iter::once(pod.to_owned())
            .chain(
                ["app", "app.kubernetes.io/name"]
                    .iter()
                    .filter_map(|l| labels.get(*l).cloned()),
            )
            .collect(),
    };
    names.dedup();
    names.iter().map(|n| workload_name(n).into()).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::{Value, json};

    pub(crate) fn pod(object: Value) -> Pod {
        Pod::from_object(serde_json::from_value(object).unwrap()).unwrap()
    }

    fn owned(kind: &str, owner: &str, labels: Value) -> Pod {
        pod(
            json!({"metadata": {"namespace": "factory", "name": "p-1", "uid": "u", "resourceVersion": "7", "labels": labels,
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": kind, "name": owner, "uid": "o", "controller": true}]}}),
        )
    }

    #[test]
    fn the_workload_is_read_from_the_owner() {
        let names = |pod: Pod| pod.workloads.join(" ");
        let hash = json!({"pod-template-hash": "5d4f"});
        assert_eq!(
            names(owned("ReplicaSet", "robot-factory-5d4f", hash.clone())),
            "robot-factory"
        );
        assert_eq!(
            names(owned("ReplicaSet", "robot-factory-deployment-5d4f", hash)),
            "robot-factory"
        );
        assert_eq!(
            names(owned("ReplicaSet", "robot-x", json!({}))),
            "robot-x robot"
        );
        assert_eq!(
            names(owned("StatefulSet", "scanner", json!({"app": "other"}))),
            "scanner"
        );
        assert_eq!(names(owned("DaemonSet", "agent", json!({}))), "agent");
        assert_eq!(
            names(owned("Node", "worker-1", json!({"app": "kube-proxy"}))),
            "p-1 kube-proxy"
        );
    }

    #[test]
    fn what_matters_is_kept_and_the_rest_is_not() {
        let pod = pod(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": "a", "name": "b", "uid": "u", "resourceVersion": "12", "managedFields": [{"manager": "x"}],
                "deletionTimestamp": "2026-01-01T00:00:00Z",
                "annotations": {"kubernetes.io/egress-bandwidth": "5M", "other": "x", "laneguard.dev/ignore": ""}},
            "spec": {"nodeName": "n1", "hostNetwork": true, "containers": []}, "status": {"phase": "Running"}}));
        assert!(pod.host_network && pod.ignored && pod.ended);
        assert_eq!(
            (pod.node.as_deref(), pod.egress.as_deref()),
            (Some("n1"), Some("5M"))
        );
        assert_eq!(pod.ownership, Ownership::Foreign);
    }

    #[test]
    fn a_record_removed_by_hand_is_remembered_but_not_after_a_restore() {
        let with = |annotations: Value| {
            pod(
                json!({"metadata": {"namespace": "a", "name": "b", "uid": "u", "resourceVersion": "1", "annotations": annotations}}),
            )
        };
        let record = r#"{"policy":"p","class":"c","found":"50M"}"#;
        let ours = with(json!({EGRESS: "10M", RECORD: record}));
        let mut stripped = with(json!({EGRESS: "10M"}));
        stripped.remember(&ours);
        assert_eq!(
            stripped.record().and_then(|r| r.found.as_deref()),
            Some("50M")
        );
        let mut restored = with(json!({EGRESS: "50M"}));
        restored.remember(&ours);
        assert_eq!(restored.ownership, Ownership::Foreign);
    }
}
