//! Policy files: whole QosPolicy objects, read strictly. A field that nobody knows is a mistake, not a wish.

use anyhow::Context as _;
use laneguard_proto::policy::QosPolicy;
use serde_json::Value;

/// Fields of Kubernetes' metadata that objects from a cluster carry and that mean nothing here.
const METADATA: [&str; 11] = [
    "annotations",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generation",
    "labels",
    "managedFields",
    "ownerReferences",
    "resourceVersion",
    "uid",
];

/// Reads every object in a YAML or JSON text.
///
/// # Errors
/// Says in which document what is wrong: the syntax, an unknown field, or a value that is refused.
pub(crate) fn policies(text: &str) -> anyhow::Result<Vec<QosPolicy>> {
    // keys as written: what the typed form does not keep is unknown
    let written: Vec<Value> = serde_saphyr::from_multiple(text).context("not YAML or JSON")?;
    let typed: Vec<QosPolicy> =
        serde_saphyr::from_multiple(text).context("not a QosPolicy object")?;
    anyhow::ensure!(!typed.is_empty(), "there is no QosPolicy in it");
    anyhow::ensure!(
        typed.len() == written.len(),
        "documents without content are not understood"
    );
    for (number, (policy, written)) in typed.iter().zip(&written).enumerate() {
        let at = || {
            format!(
                "document {} ({}/{})",
                number + 1,
                policy.metadata.namespace,
                policy.metadata.name
            )
        };
        policy.validate().with_context(at)?;
        let kept = serde_json::to_value(policy).with_context(at)?;
        let mut unknown = Vec::new();
        compare(String::new(), written, &kept, &mut unknown);
        if !unknown.is_empty() {
            let what = match unknown.len() {
                1 => "unknown field",
                _ => "unknown fields",
            };
            return Err(anyhow::anyhow!("{what} {}", unknown.join(", ")).context(at()));
        }
    }
    Ok(typed)
}

/// Collects paths of fields that were written and not kept. Empty values say nothing, so they may be left out of the typed form.
fn compare(path: String, written: &Value, kept: &Value, unknown: &mut Vec<String>) {
    match (written, kept) {
        (Value::Object(written), Value::Object(kept)) => {
            for (key, value) in written {
                let path = if path.is_empty() {
                    key.clone()
                } else {
                    format!("{path}.{key}")
                };
                match kept.get(key) {
                    Some(kept) => compare(path, value, kept, unknown),
                    None if is_empty(value) || is_ignored(&path) => {}
                    None => unknown.push(path),
                }
            }
        }
        (Value::Array(written), Value::Array(kept)) => {
            for (n, (written, kept)) in written.iter().zip(kept).enumerate() {
                compare(format!("{path}[{n}]"), written, kept, unknown);
            }
        }
        _ => {}
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

fn is_ignored(path: &str) -> bool {
    path == "status"
        || path
            .strip_prefix("metadata.")
            .is_some_and(|field| METADATA.contains(&field))
}

#[cfg(test)]
mod tests {
    use super::*;
    use laneguard_proto::policy::{Law, Mode};

    const EXAMPLE: &str = include_str!("../examples/factory-floor.yaml");

    fn error(text: &str) -> String {
        format!("{:#}", policies(text).unwrap_err())
    }

    #[test]
    fn the_example_is_read_with_every_value() {
        let read = policies(EXAMPLE).unwrap();
        assert_eq!(read.len(), 1);
        let spec = &read[0].spec;
        assert_eq!(spec.mode, Mode::Observe);
        assert_eq!(spec.control.in_force.law, Law::Adaptive);
        assert_eq!(spec.critical.len(), 1);
        assert_eq!(spec.best_effort[0].bandwidth.min_bps(), 10e6);
    }

    #[test]
    fn several_documents_and_json_are_read() {
        let two = format!(
            "{EXAMPLE}---\n{}",
            EXAMPLE.replace("factory-floor", "other")
        );
        let read = policies(&two).unwrap();
        assert_eq!(read[1].metadata.name, "other");
        let json = serde_json::to_string_pretty(&read[0]).unwrap();
        assert_eq!(policies(&json).unwrap()[0], read[0]);
    }

    #[test]
    fn words_that_yaml_1_1_takes_for_booleans_are_words() {
        let off = EXAMPLE.replace("mode: Observe", "mode: Off");
        assert_eq!(policies(&off).unwrap()[0].spec.mode, Mode::Off);
    }

    #[test]
    fn unknown_fields_are_named_with_their_path() {
        for (from, to, path) in [
            (
                "  mode: Observe",
                "  mode: Observe\n  colour: red",
                "spec.colour",
            ),
            (
                "min: 10M",
                "min: 10M, maximum: 1G",
                "spec.bestEffort[0].bandwidth.maximum",
            ),
            (
                "workload: robot-factory",
                "workload: robot-factory\n      name: x",
                "spec.critical[0].name",
            ),
            (
                "law: Adaptive",
                "law: Adaptive\n    dropRate: {aggressive: 1M}",
                "spec.control.dropRate.aggressive",
            ),
            ("metadata:", "metadata:\n  nmae: x", "metadata.nmae"),
        ] {
            let text = EXAMPLE.replacen(from, to, 1);
            assert_ne!(text, EXAMPLE, "{from}");
            let error = error(&text);
            assert!(error.contains(&format!("unknown field {path}")), "{error}");
        }
    }

    #[test]
    fn what_a_cluster_adds_is_no_mistake() {
        let text = EXAMPLE.replacen(
            "metadata:",
            "status: {observed: 1}\nmetadata:\n  uid: u\n  generation: 3\n  labels: {a: b}",
            1,
        );
        policies(&text).unwrap();
    }

    #[test]
    fn what_is_wrong_is_said_with_the_document() {
        let bad = EXAMPLE.replace("below: 10ms", "below: 0s");
        let two = format!("{EXAMPLE}---\n{bad}");
        let said = error(&two);
        assert!(
            said.contains("document 2 (factory/factory-floor)"),
            "{said}"
        );
        assert!(said.contains("spec.critical[0].targets.below"), "{said}");
        assert!(error("a: [").contains("not YAML"));
        assert!(error("kind: Pod").contains("not a QosPolicy"));
        assert!(error("").contains("QosPolicy"));
        let law = EXAMPLE.replace("law: Adaptive", "law: Magic");
        assert!(error(&law).contains("Magic"), "{}", error(&law));
    }
}
