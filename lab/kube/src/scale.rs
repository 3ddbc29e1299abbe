//! The scale subresource: an `autoscaling/v1` view of a workload's replicas. Pure.

use serde_json::{Value, json};

/// The scale of a workload.
pub(crate) fn of(workload: &Value) -> Value {
    let metadata = &workload["metadata"];
    let labels = workload["spec"]["selector"]["matchLabels"].as_object();
    let selector: Vec<String> = labels
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    json!({
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {
            "name": metadata["name"], "namespace": metadata["namespace"], "uid": metadata["uid"],
            "resourceVersion": metadata["resourceVersion"], "creationTimestamp": metadata["creationTimestamp"],
        },
        "spec": {"replicas": workload["spec"]["replicas"]},
        "status": {
            "replicas": workload["status"]["replicas"].as_i64().unwrap_or(0),
            "selector": selector.join(","),
        },
    })
}

/// Puts a changed scale back into its workload, with the version the caller named.
pub(crate) fn put(workload: &mut Value, scale: &Value) {
    workload["spec"]["replicas"] = json!(scale["spec"]["replicas"].as_i64().unwrap_or(0));
    workload["metadata"]["resourceVersion"] = scale["metadata"]["resourceVersion"].clone();
}
