//! What a Kubernetes API server refuses in metadata and, for the parts clients trip over, in specs. Pure.

use serde_json::{Map, Value, json};

use crate::{
    resource::{Kind, Table},
    status::{ApiError, Cause},
};

/// Size that all annotations of an object may have together, keys and values, in bytes.
const ANNOTATIONS_LIMIT: usize = 256 * 1024;

const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const QUALIFIED: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";

fn edges_alphanumeric(text: &str) -> bool {
    let edge = |character: Option<char>| character.is_some_and(|c| c.is_ascii_alphanumeric());
    edge(text.chars().next()) && edge(text.chars().last())
}

fn is_dns_label(text: &str) -> bool {
    text.len() <= 63
        && edges_alphanumeric(text)
        && text
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

fn is_dns_subdomain(text: &str) -> bool {
    text.len() <= 253
        && text.split('.').all(|part| {
            edges_alphanumeric(part)
                && part
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        })
}

fn is_name_part(text: &str) -> bool {
    text.len() <= 63
        && edges_alphanumeric(text)
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

/// A label or annotation key: `[prefix/]name`.
pub(crate) fn is_qualified_name(text: &str) -> bool {
    match text.split_once('/') {
        Some((prefix, name)) => is_dns_subdomain(prefix) && is_name_part(name),
        None => is_name_part(text),
    }
}

/// A label's value.
pub(crate) fn is_label_value(text: &str) -> bool {
    text.is_empty() || is_name_part(text)
}

/// Whether the parts that have a fixed type in every kind have it; a real server fails to decode the object otherwise.
pub(crate) fn shape(kind: &Kind, value: &Value) -> Result<(), String> {
    if !value.is_object() {
        return Err("json: cannot unmarshal value into an object".to_owned());
    }
    let metadata = &value["metadata"];
    if !(metadata.is_null() || metadata.is_object()) {
        return Err(
            "json: cannot unmarshal metadata into Go struct field .metadata of type v1.ObjectMeta"
                .to_owned(),
        );
    }
    for field in ["labels", "annotations"] {
        let strings = match &metadata[field] {
            Value::Null => true,
            Value::Object(map) => map.values().all(Value::is_string),
            _ => false,
        };
        if !strings {
            return Err(format!(
                "json: cannot unmarshal into Go struct field ObjectMeta.metadata.{field} of type string"
            ));
        }
    }
    for field in [
        "name",
        "namespace",
        "uid",
        "resourceVersion",
        "generateName",
    ] {
        if !(metadata[field].is_null() || metadata[field].is_string()) {
            return Err(format!(
                "json: cannot unmarshal into Go struct field ObjectMeta.metadata.{field} of type string"
            ));
        }
    }
    let micro_times: &[&str] = match kind.table {
        Table::Leases => &["/spec/acquireTime", "/spec/renewTime"],
        Table::Events => &["/eventTime", "/series/lastObservedTime"],
        _ => &[],
    };
    for pointer in micro_times {
        let time = value.pointer(pointer).unwrap_or(&Value::Null);
        if !(time.is_null() || time.as_str().is_some_and(is_micro_time)) {
            return Err(format!(
                "parsing time {time} as \"2006-01-02T15:04:05.000000Z07:00\": cannot parse"
            ));
        }
    }
    for field in ["spec", "status", "data"] {
        if !(value[field].is_null() || value[field].is_object()) {
            return Err(format!(
                "json: cannot unmarshal into Go struct field .{field}"
            ));
        }
    }
    Ok(())
}

/// A MicroTime: RFC 3339 with exactly six digits after the second.
fn is_micro_time(text: &str) -> bool {
    let fraction = text.get(19..).and_then(|rest| rest.strip_prefix('.'));
    let digits = fraction.map_or(0, |rest| {
        rest.bytes().take_while(u8::is_ascii_digit).count()
    });
    digits == 6 && text.parse::<jiff::Timestamp>().is_ok()
}

/// Everything wrong with an object that is about to be stored.
pub(crate) fn object(kind: &Kind, value: &Value) -> Result<(), ApiError> {
    let mut causes = Vec::new();
    metadata(kind, &value["metadata"], &mut causes);
    match kind.table {
        Table::Pods => pod_spec(&value["spec"], "spec", &mut causes),
        Table::Deployments | Table::ReplicaSets | Table::StatefulSets | Table::DaemonSets => {
            workload(&value["spec"], &mut causes);
        }
        _ => {}
    }
    refuse(kind, value, causes)
}

fn refuse(kind: &Kind, value: &Value, causes: Vec<Cause>) -> Result<(), ApiError> {
    if causes.is_empty() {
        return Ok(());
    }
    let name = value["metadata"]["name"].as_str().unwrap_or_default();
    Err(ApiError::invalid(kind, name, causes))
}

fn metadata(kind: &Kind, metadata: &Value, causes: &mut Vec<Cause>) {
    let name = metadata["name"].as_str().unwrap_or_default();
    let (valid, rule) = match kind.table {
        Table::Namespaces | Table::Services => (is_dns_label(name), LABEL),
        _ => (is_dns_subdomain(name), SUBDOMAIN),
    };
    if !valid {
        causes.push(Cause::invalid("metadata.name", &metadata["name"], rule));
    }
    for (key, value) in metadata["labels"].as_object().into_iter().flatten() {
        if !is_qualified_name(key) {
            causes.push(Cause::invalid("metadata.labels", &json!(key), QUALIFIED));
        }
        if !value.as_str().is_some_and(is_label_value) {
            causes.push(Cause::invalid("metadata.labels", value, LABEL_VALUE));
        }
    }
    let mut size = 0;
    for (key, value) in metadata["annotations"].as_object().into_iter().flatten() {
        if !is_qualified_name(&key.to_ascii_lowercase()) {
            causes.push(Cause::invalid(
                "metadata.annotations",
                &json!(key),
                QUALIFIED,
            ));
        }
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > ANNOTATIONS_LIMIT {
        causes.push(Cause::too_long("metadata.annotations", ANNOTATIONS_LIMIT));
    }
    for (index, finalizer) in metadata["finalizers"]
        .as_array()
        .into_iter()
        .flatten()
        .enumerate()
    {
        let known = finalizer.as_str().is_some_and(|name| {
            is_qualified_name(name)
                && (kind.custom
                    || name.contains('/')
                    || matches!(name, "kubernetes" | "orphan" | "foregroundDeletion"))
        });
        if !known {
            causes.push(Cause::invalid(
                format!("metadata.finalizers[{index}]"),
                finalizer,
                "name is neither a standard finalizer name nor is it fully qualified",
            ));
        }
    }
    for owner in metadata["ownerReferences"].as_array().into_iter().flatten() {
        for field in ["apiVersion", "kind", "name", "uid"] {
            if owner[field].as_str().is_none_or(str::is_empty) {
                causes.push(Cause::invalid(
                    format!("metadata.ownerReferences.{field}"),
                    &json!(""),
                    if field == "apiVersion" {
                        "version must not be empty"
                    } else {
                        "must not be empty"
                    },
                ));
            }
        }
    }
}

fn pod_spec(spec: &Value, path: &str, causes: &mut Vec<Cause>) {
    let containers = spec["containers"].as_array().map_or(&[][..], Vec::as_slice);
    if containers.is_empty() {
        causes.push(Cause::required(format!("{path}.containers"), ""));
    }
    for (index, container) in containers.iter().enumerate() {
        let at = format!("{path}.containers[{index}]");
        match container["name"].as_str() {
            None | Some("") => causes.push(Cause::required(format!("{at}.name"), "")),
            Some(name) if !is_dns_label(name) => {
                causes.push(Cause::invalid(format!("{at}.name"), &json!(name), LABEL));
            }
            Some(name)
                if containers[..index]
                    .iter()
                    .any(|other| other["name"] == name) =>
            {
                causes.push(Cause::invalid(
                    format!("{at}.name"),
                    &json!(name),
                    "Duplicate value",
                ));
            }
            Some(_) => {}
        }
        // Templates may leave the image to someone else; a real server requires it in both.
        if container["image"].as_str().is_none_or(str::is_empty) {
            causes.push(Cause::required(format!("{at}.image"), ""));
        }
    }
}

fn workload(spec: &Value, causes: &mut Vec<Cause>) {
    let selector = &spec["selector"];
    let labels = &spec["template"]["metadata"]["labels"];
    if selector.as_object().is_none_or(Map::is_empty) {
        causes.push(Cause::required("spec.selector", ""));
    } else if !selector_matches(selector, labels) {
        causes.push(Cause::invalid(
            "spec.template.metadata.labels",
            labels,
            "`selector` does not match template `labels`",
        ));
    }
    pod_spec(&spec["template"]["spec"], "spec.template.spec", causes);
    if let Some(replicas) = spec["replicas"].as_i64()
        && replicas < 0
    {
        causes.push(Cause::invalid(
            "spec.replicas",
            &json!(replicas),
            "must be greater than or equal to 0",
        ));
    }
}

/// Whether a label selector object (`matchLabels`, `matchExpressions`) matches a map of labels.
pub(crate) fn selector_matches(selector: &Value, labels: &Value) -> bool {
    let labels_match = selector["matchLabels"]
        .as_object()
        .into_iter()
        .flatten()
        .all(|(key, value)| labels[key] == *value);
    let expressions_match = selector["matchExpressions"]
        .as_array()
        .into_iter()
        .flatten()
        .all(|expression| {
            let actual = expression["key"].as_str().and_then(|key| labels.get(key));
            let listed = || {
                let values = expression["values"].as_array();
                values.is_some_and(|values| actual.is_some_and(|actual| values.contains(actual)))
            };
            match expression["operator"].as_str() {
                Some("In") => listed(),
                Some("NotIn") => !listed(),
                Some("Exists") => actual.is_some(),
                Some("DoesNotExist") => actual.is_none(),
                _ => false,
            }
        });
    labels_match && expressions_match
}

/// Fields that may not change after creation.
pub(crate) fn immutable(kind: &Kind, old: &Value, new: &Value) -> Result<(), ApiError> {
    let mut causes = Vec::new();
    for field in ["uid", "deletionTimestamp"] {
        if old["metadata"][field] != new["metadata"][field] {
            causes.push(Cause::invalid(
                format!("metadata.{field}"),
                &new["metadata"][field],
                "field is immutable",
            ));
        }
    }
    let added_finalizer = || {
        let old = old["metadata"]["finalizers"].as_array();
        new["metadata"]["finalizers"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|finalizer| old.is_none_or(|old| !old.contains(finalizer)))
    };
    if old["metadata"]["deletionTimestamp"].is_string()
        && let Some(finalizer) = added_finalizer()
    {
        causes.push(Cause::forbidden(
            "metadata.finalizers",
            format!("no new finalizers can be added if the object is being deleted, found new finalizers []string{{{finalizer}}}"),
        ));
    }
    match kind.table {
        Table::Pods
            if old["spec"] != new["spec"]
                && fixed_pod_spec(&old["spec"]) != fixed_pod_spec(&new["spec"]) =>
        {
            causes.push(Cause::forbidden(
                "spec",
                "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)",
            ));
        }
        Table::Deployments | Table::ReplicaSets | Table::DaemonSets
            if old["spec"]["selector"] != new["spec"]["selector"] =>
        {
            causes.push(Cause::invalid(
                "spec.selector",
                &new["spec"]["selector"],
                "field is immutable",
            ));
        }
        Table::StatefulSets
            if fixed_stateful_spec(&old["spec"]) != fixed_stateful_spec(&new["spec"]) =>
        {
            causes.push(Cause::forbidden(
                "spec",
                "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden",
            ));
        }
        _ => {}
    }
    refuse(kind, new, causes)
}

/// A pod's spec without what may change.
fn fixed_pod_spec(spec: &Value) -> Value {
    let mut spec = spec.clone();
    if let Value::Object(map) = &mut spec {
        for field in ["activeDeadlineSeconds", "tolerations"] {
            map.remove(field);
        }
    }
    for list in ["containers", "initContainers"] {
        if let Some(Value::Array(containers)) = spec.get_mut(list) {
            for container in containers {
                if let Value::Object(container) = container {
                    container.remove("image");
                }
            }
        }
    }
    spec
}

fn fixed_stateful_spec(spec: &Value) -> Value {
    let mut spec = spec.clone();
    if let Value::Object(map) = &mut spec {
        for field in [
            "replicas",
            "ordinals",
            "template",
            "updateStrategy",
            "revisionHistoryLimit",
            "persistentVolumeClaimRetentionPolicy",
            "minReadySeconds",
        ] {
            map.remove(field);
        }
    }
    spec
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_label_values_follow_the_dns_rules() {
        assert!(is_dns_subdomain("a.b-c.1"));
        for bad in ["", "A", "a..b", "-a", "a_b", "a.-b"] {
            assert!(!is_dns_subdomain(bad), "{bad:?}");
        }
        assert!(!is_dns_label("a.b"));
        assert!(!is_dns_label(&"a".repeat(64)));
        assert!(is_qualified_name("kubernetes.io/egress-bandwidth"));
        for bad in ["/a", "a/", "A.b/c/d", "a b"] {
            assert!(!is_qualified_name(bad), "{bad:?}");
        }
        assert!(is_label_value("") && is_label_value("A_b.c") && !is_label_value("a b"));
    }

    #[test]
    fn selectors_with_expressions_match() {
        let labels = json!({"a": "1", "b": "2"});
        let expression = |key: &str, operator: &str, values: Value| json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]});
        assert!(selector_matches(
            &json!({"matchLabels": {"a": "1"}}),
            &labels
        ));
        assert!(!selector_matches(
            &json!({"matchLabels": {"a": "2"}}),
            &labels
        ));
        assert!(selector_matches(
            &expression("a", "In", json!(["1", "3"])),
            &labels
        ));
        assert!(!selector_matches(
            &expression("a", "NotIn", json!(["1"])),
            &labels
        ));
        assert!(selector_matches(
            &expression("c", "DoesNotExist", json!([])),
            &labels
        ));
    }
}
