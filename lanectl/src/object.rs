//! Policies as objects that `apply` takes, and as lines of a table.

use laneguard_proto::policy::{API_VERSION, Entry, KIND, Origin};
use serde_json::{Value, json};

use crate::output;

/// A whole QosPolicy object. Where it comes from stands in an annotation.
///
/// # Errors
/// Those of JSON.
pub(crate) fn object(entry: &Entry) -> anyhow::Result<Value> {
    let mut metadata = json!({
        "name": entry.name,
        "uid": entry.uid,
        "generation": entry.generation,
        "annotations": {"laneguard.dev/origin": origin(entry)},
    });
    if !entry.namespace.is_empty() {
        metadata["namespace"] = entry.namespace.clone().into();
    }
    Ok(json!({
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": metadata,
        "spec": serde_json::to_value(&entry.spec)?,
    }))
}

/// Who wrote it.
pub(crate) fn origin(entry: &Entry) -> &'static str {
    match entry.origin {
        Origin::Kubernetes => "kubernetes",
        Origin::Lanectl => "lanectl",
        Origin::Environment => "environment",
    }
}

/// A table with a headline.
pub(crate) fn table(entries: &[Entry]) -> String {
    let head = [
        "NAMESPACE",
        "NAME",
        "MODE",
        "LAW",
        "CRITICAL",
        "CLASSES",
        "ORIGIN",
        "GENERATION",
    ];
    let mut rows = vec![head.map(str::to_owned)];
    rows.extend(entries.iter().map(|entry| {
        let spec = &entry.spec;
        let critical = spec.critical.iter().map(|c| c.workload.as_str());
        let classes = spec.best_effort.iter().map(|c| c.class.as_str());
        [
            if entry.namespace.is_empty() {
                "-".to_owned()
            } else {
                entry.namespace.clone()
            },
            entry.name.clone(),
            spec.mode.as_str().to_owned(),
            spec.control.in_force.law.as_str().to_owned(),
            critical.collect::<Vec<_>>().join(","),
            classes.collect::<Vec<_>>().join(","),
            origin(entry).to_owned(),
            entry.generation.to_string(),
        ]
    }));
    output::table(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{file, yaml};

    fn entry() -> Entry {
        let policy = file::policies(include_str!("../examples/factory-floor.yaml"))
            .unwrap()
            .remove(0);
        Entry {
            origin: Origin::Lanectl,
            namespace: policy.metadata.namespace,
            name: policy.metadata.name,
            uid: "u".into(),
            generation: 3,
            spec: policy.spec,
        }
    }

    #[test]
    fn what_get_prints_can_be_applied_again() {
        let text = yaml::document(&object(&entry()).unwrap());
        let read = file::policies(&text).unwrap();
        assert_eq!(read[0].spec, entry().spec);
        assert_eq!(read[0].metadata.namespace, "factory");
    }

    #[test]
    fn a_table_has_a_line_for_each_policy() {
        assert_eq!(
            table(&[entry()]),
            "NAMESPACE  NAME           MODE     LAW       CRITICAL       CLASSES  ORIGIN   GENERATION\n\
             factory    factory-floor  Observe  Adaptive  robot-factory  bulk     lanectl  3\n"
        );
    }
}
