//! Events are stored in the form of `v1` and served in that of `events.k8s.io/v1` too: the same objects, other names.

use serde_json::{Map, Value};

use crate::{
    resource::Kind,
    status::{ApiError, Cause},
};

/// `events.k8s.io/v1` name, `v1` name.
const RENAMED: &[(&str, &str)] = &[
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
];

fn rename(map: &mut Map<String, Value>, from: &str, to: &str) {
    if let Some(value) = map.remove(from) {
        map.insert(to.to_owned(), value);
    }
}

/// To the stored form.
pub(crate) fn to_core(value: &mut Value) {
    if let Value::Object(map) = value {
        for (new, core) in RENAMED {
            rename(map, new, core);
        }
        // reportingInstance has the same name in both, reportingController another.
        map.remove("kind");
        map.remove("apiVersion");
    }
}

/// From the stored form.
pub(crate) fn from_core(value: &mut Value) {
    if let Value::Object(map) = value {
        for (new, core) in RENAMED {
            rename(map, core, new);
        }
    }
}

/// What `events.k8s.io/v1` requires of a new event and `v1` does not.
pub(crate) fn validate_new(kind: &Kind, stored: &Value) -> Result<(), ApiError> {
    let text = |field: &str| stored[field].as_str().unwrap_or_default();
    let mut causes = Vec::new();
    if text("eventTime").is_empty() {
        causes.push(Cause::required("eventTime", ""));
    }
    if text("reportingComponent").is_empty() {
        causes.push(Cause::required("reportingController", ""));
    }
    if text("reportingInstance").is_empty() {
        causes.push(Cause::required("reportingInstance", ""));
    }
    if text("action").is_empty() {
        causes.push(Cause::required("action", ""));
    }
    if text("reason").is_empty() {
        causes.push(Cause::required("reason", ""));
    }
    if !matches!(text("type"), "Normal" | "Warning") {
        causes.push(Cause::invalid("type", &stored["type"], "has invalid value"));
    }
    if causes.is_empty() {
        return Ok(());
    }
    let name = stored["metadata"]["name"].as_str().unwrap_or_default();
    Err(ApiError::invalid(kind, name, causes))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_survives_the_way_there_and_back() {
        let event = json!({"metadata": {"name": "e"}, "regarding": {"name": "p"}, "note": "n", "reportingController": "c",
            "reportingInstance": "i", "deprecatedCount": 2, "type": "Normal"});
        let mut value = event.clone();
        to_core(&mut value);
        assert_eq!(value["involvedObject"]["name"], "p");
        assert_eq!(value["reportingComponent"], "c");
        assert_eq!(value["count"], 2);
        from_core(&mut value);
        assert_eq!(value, event);
    }
}
