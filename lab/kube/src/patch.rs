//! The patch formats, pure: JSON merge patch, JSON patch, strategic merge patch.

use serde_json::{Map, Value};

/// RFC 7386.
pub(crate) fn merge(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(target) = target else {
        return;
    };
    for (key, value) in patch {
        if value.is_null() {
            target.remove(&key);
        } else {
            merge(target.entry(key).or_insert(Value::Null), value);
        }
    }
}

/// Why a JSON patch was not applied.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum JsonPatchError {
    /// The patch itself is malformed.
    Malformed(String),
    /// A test failed or a path is not there.
    Failed(String),
}

/// RFC 6902.
pub(crate) fn json(target: &mut Value, patch: &Value) -> Result<(), JsonPatchError> {
    let malformed = |why: &str| JsonPatchError::Malformed(why.to_owned());
    let operations = patch
        .as_array()
        .ok_or_else(|| malformed("a JSON patch is an array of operations"))?;
    for operation in operations {
        let field = |name: &str| operation[name].as_str();
        let path = field("path").ok_or_else(|| malformed("operation without path"))?;
        let value = || {
            operation
                .get("value")
                .cloned()
                .ok_or_else(|| malformed("operation without value"))
        };
        match field("op").unwrap_or_default() {
            "add" => add(target, path, value()?)?,
            "remove" => remove(target, path).map(drop)?,
            "replace" => replace(target, path, value()?)?,
            "test" => {
                let wanted = operation.get("value").unwrap_or(&Value::Null);
                // A member that an object does not have is null; what no object could have is nothing.
                let actual = target.pointer(path).or_else(|| {
                    let (parent, _) = split(path)?;
                    target.pointer(parent)?.is_object().then_some(&Value::Null)
                });
                if actual != Some(wanted) {
                    return Err(JsonPatchError::Failed(format!(
                        "testing value {path} failed: test failed"
                    )));
                }
            }
            op @ ("move" | "copy") => {
                let from = field("from").ok_or_else(|| malformed("operation without from"))?;
                let value = if op == "move" {
                    remove(target, from)?
                } else {
                    target
                        .pointer(from)
                        .cloned()
                        .ok_or_else(|| missing("copy", from))?
                };
                add(target, path, value)?;
            }
            other => {
                return Err(JsonPatchError::Malformed(format!(
                    "unexpected kind: {other}"
                )));
            }
        }
    }
    Ok(())
}

fn missing(op: &str, path: &str) -> JsonPatchError {
    JsonPatchError::Failed(format!(
        "{op} operation does not apply: doc is missing path: {path}: missing value"
    ))
}

fn split(path: &str) -> Option<(&str, String)> {
    let (parent, last) = path.rsplit_once('/')?;
    Some((parent, last.replace("~1", "/").replace("~0", "~")))
}

fn add(target: &mut Value, path: &str, value: Value) -> Result<(), JsonPatchError> {
    let Some((parent, last)) = split(path) else {
        *target = value;
        return Ok(());
    };
    match target.pointer_mut(parent) {
        Some(Value::Object(map)) => {
            map.insert(last, value);
            Ok(())
        }
        Some(Value::Array(items)) if last == "-" => {
            items.push(value);
            Ok(())
        }
        Some(Value::Array(items)) => match last.parse::<usize>() {
            Ok(index) if index <= items.len() => {
                items.insert(index, value);
                Ok(())
            }
            _ => Err(missing("add", path)),
        },
        _ => Err(missing("add", path)),
    }
}

/// As the library of real servers does, and unlike the RFC: a member that is not there is added.
fn replace(target: &mut Value, path: &str, value: Value) -> Result<(), JsonPatchError> {
    if let Some(slot) = target.pointer_mut(path) {
        *slot = value;
        return Ok(());
    }
    match split(path).and_then(|(parent, _)| target.pointer(parent)) {
        Some(Value::Object(_)) => add(target, path, value),
        _ => Err(missing("replace", path)),
    }
}

fn remove(target: &mut Value, path: &str) -> Result<Value, JsonPatchError> {
    let (parent, last) = split(path).ok_or_else(|| missing("remove", path))?;
    let removed = match target.pointer_mut(parent) {
        Some(Value::Object(map)) => map.remove(&last),
        Some(Value::Array(items)) => match last.parse::<usize>() {
            Ok(index) if index < items.len() => Some(items.remove(index)),
            _ => None,
        },
        _ => None,
    };
    removed.ok_or_else(|| missing("remove", path))
}

/// The field that identifies an item in a list that strategic merge and server-side apply merge item by item.
pub(crate) fn merge_key(list: &str) -> Option<&'static str> {
    Some(match list {
        "containers"
        | "initContainers"
        | "ephemeralContainers"
        | "volumes"
        | "env"
        | "imagePullSecrets"
        | "secrets" => "name",
        "ports" => "containerPort",
        "volumeMounts" => "mountPath",
        "conditions" | "addresses" => "type",
        "ownerReferences" => "uid",
        "hostAliases" | "podIPs" => "ip",
        "topologySpreadConstraints" => "topologyKey",
        "taints" => "key",
        _ => return None,
    })
}

/// Kubernetes' strategic merge patch, by list names instead of each type's schema.
pub(crate) fn strategic(target: &mut Value, patch: Value) -> Result<(), String> {
    let Value::Object(mut patch) = patch else {
        *target = patch;
        return Ok(());
    };
    match patch.remove("$patch").as_ref().and_then(Value::as_str) {
        None => {}
        Some("replace") => {
            *target = Value::Object(patch);
            return Ok(());
        }
        Some("delete") => {
            *target = Value::Object(Map::new());
            return Ok(());
        }
        Some(other) => return Err(format!("unknown $patch directive {other}")),
    }
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(target) = target else {
        return Ok(());
    };
    if let Some(Value::Array(keep)) = patch.remove("$retainKeys") {
        target.retain(|key, _| keep.iter().any(|kept| kept == key.as_str()));
    }
    for (key, value) in patch {
        if key.starts_with("$setElementOrder/") {
            continue;
        }
        if let Some(list) = key.strip_prefix("$deleteFromPrimitiveList/") {
            if let (Some(Value::Array(items)), Value::Array(gone)) = (target.get_mut(list), value) {
                items.retain(|item| !gone.contains(item));
            }
            continue;
        }
        match value {
            Value::Null => {
                target.remove(&key);
            }
            Value::Array(items) => {
                let current = target.remove(&key);
                target.insert(key.clone(), strategic_list(&key, current, items)?);
            }
            value => strategic(target.entry(key).or_insert(Value::Null), value)?,
        }
    }
    Ok(())
}

fn strategic_list(list: &str, current: Option<Value>, patch: Vec<Value>) -> Result<Value, String> {
    let mut items = match current {
        Some(Value::Array(items)) => items,
        _ => Vec::new(),
    };
    if list == "finalizers" {
        for item in patch {
            if !items.contains(&item) {
                items.push(item);
            }
        }
        return Ok(Value::Array(items));
    }
    let Some(key) = merge_key(list) else {
        return Ok(Value::Array(patch));
    };
    if patch
        .iter()
        .any(|item| item["$patch"] == "replace" && item.get(key).is_none())
    {
        return Ok(Value::Array(
            patch
                .into_iter()
                .filter(|item| item["$patch"] != "replace")
                .collect(),
        ));
    }
    for item in patch {
        let id = item
            .get(key)
            .ok_or_else(|| format!("map: {item} does not contain declared merge key: {key}"))?
            .clone();
        let position = items.iter().position(|existing| existing[key] == id);
        match (item["$patch"] == "delete", position) {
            (true, Some(position)) => drop(items.remove(position)),
            (true, None) => {}
            (false, Some(position)) => strategic(&mut items[position], item)?,
            (false, None) => {
                let mut added = Value::Null;
                strategic(&mut added, item)?;
                items.push(added);
            }
        }
    }
    Ok(Value::Array(items))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn merge_patch_removes_nulls_and_replaces_lists() {
        let mut target = json!({"a": {"b": 1, "c": 2}, "l": [1, 2]});
        merge(
            &mut target,
            json!({"a": {"b": null, "d": {"e": null, "f": 1}}, "l": [3]}),
        );
        assert_eq!(target, json!({"a": {"c": 2, "d": {"f": 1}}, "l": [3]}));
    }

    #[test]
    fn json_patch_applies_in_order_and_unescapes_paths() {
        let mut target = json!({"metadata": {"annotations": {"a/b": "1"}}, "l": [1, 3]});
        let patch = json!([
            {"op": "test", "path": "/none", "value": null},
            {"op": "test", "path": "/metadata/annotations/a~1b", "value": "1"},
            {"op": "replace", "path": "/metadata/annotations/a~1b", "value": "2"},
            {"op": "add", "path": "/l/1", "value": 2},
            {"op": "add", "path": "/l/-", "value": 4},
            {"op": "copy", "from": "/l/0", "path": "/first"},
            {"op": "move", "from": "/first", "path": "/moved"},
            {"op": "remove", "path": "/l/0"},
        ]);
        json(&mut target, &patch).unwrap();
        assert_eq!(
            target,
            json!({"metadata": {"annotations": {"a/b": "2"}}, "l": [2, 3, 4], "moved": 1})
        );
    }

    #[test]
    fn json_patch_fails_on_a_wrong_test_or_a_missing_path() {
        for patch in [
            json!([{"op": "test", "path": "/a", "value": 2}]),
            json!([{"op": "test", "path": "/b/c", "value": null}]),
            json!([{"op": "remove", "path": "/b"}]),
            json!([{"op": "replace", "path": "/b/c", "value": 1}]),
            json!([{"op": "add", "path": "/b/c", "value": 1}]),
        ] {
            let outcome = json(&mut json!({"a": 1}), &patch);
            assert!(matches!(outcome, Err(JsonPatchError::Failed(_))), "{patch}");
        }
        assert!(matches!(
            json(&mut json!({}), &json!({"a": 1})),
            Err(JsonPatchError::Malformed(_))
        ));
    }

    #[test]
    fn strategic_merge_merges_containers_by_name_and_honours_directives() {
        let mut target = json!({"metadata": {"labels": {"a": "1"}, "finalizers": ["x", "y"]},
            "spec": {"containers": [{"name": "one", "image": "i"}, {"name": "two", "image": "i"}], "args": [1]}});
        let patch = json!({"metadata": {"labels": {"a": null, "b": "2"}, "$deleteFromPrimitiveList/finalizers": ["x"]},
            "spec": {"$setElementOrder/containers": [{"name": "one"}], "args": [2],
                "containers": [{"name": "one", "image": "j"}, {"name": "two", "$patch": "delete"}, {"name": "three"}]}});
        strategic(&mut target, patch).unwrap();
        assert_eq!(
            target,
            json!({"metadata": {"labels": {"b": "2"}, "finalizers": ["y"]},
                "spec": {"containers": [{"name": "one", "image": "j"}, {"name": "three"}], "args": [2]}})
        );
    }
}
