//! The defaults and server-owned fields of new objects, as far as clients and controllers here look at them. Pure.

use serde_json::{Map, Value, json};

use crate::resource::{Kind, Table};

fn set(map: &mut Value, field: &str, default: Value) {
    if map[field].is_null() {
        map[field] = default;
    }
}

/// Fills in what a real server would; applied on every write, so that a PUT without them changes nothing.
pub(crate) fn apply(kind: &Kind, value: &mut Value) {
    match kind.table {
        Table::Pods => pod_spec(&mut value["spec"]),
        Table::Deployments => {
            let spec = &mut value["spec"];
            set(spec, "replicas", json!(1));
            set(spec, "revisionHistoryLimit", json!(10));
            set(spec, "progressDeadlineSeconds", json!(600));
            set(spec, "strategy", json!({}));
            set(&mut spec["strategy"], "type", json!("RollingUpdate"));
            if spec["strategy"]["type"] == "RollingUpdate" {
                set(&mut spec["strategy"], "rollingUpdate", json!({}));
                let rolling = &mut spec["strategy"]["rollingUpdate"];
                set(rolling, "maxSurge", json!("25%"));
                set(rolling, "maxUnavailable", json!("25%"));
            }
            template(spec);
        }
        Table::ReplicaSets => {
            set(&mut value["spec"], "replicas", json!(1));
            template(&mut value["spec"]);
        }
        Table::StatefulSets => {
            let spec = &mut value["spec"];
            set(spec, "replicas", json!(1));
            set(spec, "revisionHistoryLimit", json!(10));
            set(spec, "podManagementPolicy", json!("OrderedReady"));
            set(
                spec,
                "updateStrategy",
                json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 0}}),
            );
            template(spec);
        }
        Table::DaemonSets => {
            let spec = &mut value["spec"];
            set(spec, "revisionHistoryLimit", json!(10));
            set(
                spec,
                "updateStrategy",
                json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}),
            );
            template(spec);
        }
        Table::Namespaces => {
            set(value, "spec", json!({}));
            set(&mut value["spec"], "finalizers", json!(["kubernetes"]));
        }
        Table::Secrets => set(value, "type", json!("Opaque")),
        Table::Services => set(&mut value["spec"], "type", json!("ClusterIP")),
        _ => {}
    }
}

fn template(spec: &mut Value) {
    if !spec["template"].is_object() {
        spec["template"] = json!({});
    }
    pod_spec(&mut spec["template"]["spec"]);
}

fn pod_spec(spec: &mut Value) {
    if !spec.is_object() {
        return;
    }
    set(spec, "restartPolicy", json!("Always"));
    set(spec, "terminationGracePeriodSeconds", json!(30));
    set(spec, "dnsPolicy", json!("ClusterFirst"));
    set(spec, "schedulerName", json!("default-scheduler"));
}

/// The status of a new object.
pub(crate) fn initial_status(kind: &Kind, value: &mut Value) {
    let status = match kind.table {
        Table::Pods => json!({"phase": "Pending", "qosClass": "BestEffort"}),
        Table::Namespaces => json!({"phase": "Active"}),
        Table::Deployments => json!({}),
        Table::ReplicaSets => json!({"replicas": 0}),
        Table::StatefulSets => json!({"replicas": 0, "availableReplicas": 0}),
        Table::DaemonSets => json!({"currentNumberScheduled": 0, "numberMisscheduled": 0,
            "desiredNumberScheduled": 0, "numberReady": 0}),
        Table::Services => json!({"loadBalancer": {}}),
        // A node may bring its status along.
        Table::Nodes => return,
        _ if kind.status => {
            if let Value::Object(map) = value {
                map.remove("status");
            }
            return;
        }
        _ => return,
    };
    value["status"] = status;
}

/// Removes nulls from metadata and the empty maps a typed server would not keep.
pub(crate) fn tidy_metadata(value: &mut Value) {
    let Some(Value::Object(metadata)) = value.get_mut("metadata") else {
        return;
    };
    metadata.remove("selfLink");
    metadata.retain(|key, field| match field {
        Value::Null => false,
        Value::Object(map) => !(map.is_empty() && matches!(key.as_str(), "labels" | "annotations")),
        Value::Array(items) => {
            !(items.is_empty()
                && matches!(
                    key.as_str(),
                    "finalizers" | "ownerReferences" | "managedFields"
                ))
        }
        Value::String(text) => !text.is_empty(),
        _ => true,
    });
}

/// An empty object map where `value[field]` is not one.
pub(crate) fn ensure_object<'a>(value: &'a mut Value, field: &str) -> &'a mut Map<String, Value> {
    if !value[field].is_object() {
        value[field] = json!({});
    }
    value[field]
        .as_object_mut()
        .expect("the field was just made an object")
}
