//! Discovery documents, from which clients learn what is served.

use serde_json::{Value, json};

use crate::resource::{KINDS, Kind};

/// The document at a discovery path.
pub(crate) fn document(path: &str) -> Option<Value> {
    let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
    match segments.as_slice() {
        ["api"] => Some(json!({
            "kind": "APIVersions", "versions": ["v1"],
            "serverAddressByClientCIDRs": [],
        })),
        ["apis"] => Some(json!({
            "kind": "APIGroupList", "apiVersion": "v1",
            "groups": groups().into_iter().map(|(name, version)| group(name, version)).collect::<Vec<_>>(),
        })),
        ["apis", name] => {
            groups()
                .into_iter()
                .find(|(known, _)| known == name)
                .map(|(name, version)| {
                    let mut document = group(name, version);
                    document["kind"] = json!("APIGroup");
                    document["apiVersion"] = json!("v1");
                    document
                })
        }
        ["api", version] => resources("", version),
        ["apis", group, version] => resources(group, version),
        ["version"] => Some(json!({
            "major": "1", "minor": "33", "gitVersion": "v1.33.0+laneguard.lab",
            "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z",
            "goVersion": "none", "compiler": "rustc", "platform": "linux/amd64",
        })),
        _ => None,
    }
}

/// Groups in the order of the table of kinds, each with its only version.
fn groups() -> Vec<(&'static str, &'static str)> {
    let mut groups = Vec::new();
    for kind in KINDS.iter().filter(|kind| !kind.group.is_empty()) {
        if !groups.contains(&(kind.group, kind.version)) {
            groups.push((kind.group, kind.version));
        }
    }
    groups
}

fn group(name: &str, version: &str) -> Value {
    let version = json!({"groupVersion": format!("{name}/{version}"), "version": version});
    json!({"name": name, "versions": [version], "preferredVersion": version})
}

fn resources(group: &str, version: &str) -> Option<Value> {
    let mut resources = Vec::new();
    for kind in KINDS
        .iter()
        .filter(|kind| kind.group == group && kind.version == version)
    {
        resources.push(json!({
            "name": kind.plural, "singularName": kind.singular, "namespaced": kind.namespaced, "kind": kind.kind,
            "shortNames": kind.short,
            "verbs": ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"],
        }));
        let mut part = |name: &str, document: Value| {
            let mut document = document;
            document["name"] = json!(format!("{}/{name}", kind.plural));
            document["singularName"] = json!("");
            document["namespaced"] = json!(kind.namespaced);
            resources.push(document);
        };
        if kind.status {
            part(
                "status",
                json!({"kind": kind.kind, "verbs": ["get", "patch", "update"]}),
            );
        }
        if kind.scale {
            part(
                "scale",
                json!({"kind": "Scale", "group": "autoscaling", "version": "v1", "verbs": ["get", "patch", "update"]}),
            );
        }
        if is_pod(kind) {
            part("binding", json!({"kind": "Binding", "verbs": ["create"]}));
        }
    }
    (!resources.is_empty()).then(|| {
        let group_version = if group.is_empty() {
            version.to_owned()
        } else {
            format!("{group}/{version}")
        };
        json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources})
    })
}

fn is_pod(kind: &Kind) -> bool {
    kind.table == crate::resource::Table::Pods
}
