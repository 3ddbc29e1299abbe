//! Server-side apply, pure: merge a manager's configuration, remember what it set, remove what it no longer sets.
//!
//! Ownership is kept between appliers only; an ordinary update neither takes nor loses any.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::patch::merge_key;

/// One field, as the elements of `FieldsV1`: `f:name`, `k:{"name":"x"}`, `v:"x"`, and `.` for a list item itself.
type Path = Vec<String>;

/// A field that another manager owns and sets otherwise.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Conflict {
    pub(crate) manager: String,
    /// As messages name it: `.spec.replicas`.
    pub(crate) field: String,
}

/// Who applies, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Applier<'a> {
    pub(crate) manager: &'a str,
    /// Take conflicting fields over.
    pub(crate) force: bool,
    pub(crate) api_version: &'a str,
    pub(crate) now: &'a str,
}

/// Applies `config` to an object (null: to nothing).
pub(crate) fn apply(
    current: &Value,
    config: &Value,
    applier: Applier<'_>,
) -> Result<Value, Vec<Conflict>> {
    let mut config = config.clone();
    strip_identity(&mut config);
    let mut set = BTreeSet::new();
    leaves(&mut Vec::new(), "", &config, &mut set);
    let mut entries: Vec<Value> = current["metadata"]["managedFields"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let own = entries
        .iter()
        .position(|entry| entry["manager"] == applier.manager && entry["operation"] == "Apply")
        .map(|index| entries.remove(index));
    let mut others: Vec<(Value, BTreeSet<Path>)> = entries
        .into_iter()
        .map(|entry| {
            let owned = owned(&entry);
            (entry, owned)
        })
        .collect();

    let mut conflicts = Vec::new();
    for (entry, owned) in &mut others {
        for path in &set {
            if owned.contains(path) && get(current, path) != get(&config, path) {
                if applier.force {
                    owned.remove(path);
                } else {
                    conflicts.push(Conflict {
                        manager: entry["manager"].as_str().unwrap_or_default().to_owned(),
                        field: display(path),
                    });
                }
            }
        }
        if applier.force {
            entry["fieldsV1"] = tree(owned);
        }
    }
    if !conflicts.is_empty() {
        return Err(conflicts);
    }

    let mut result = current.clone();
    if !result.is_object() {
        result = json!({});
    }
    let before = own.as_ref().map(owned).unwrap_or_default();
    // A list item comes before its fields: once it is gone, they are not looked for.
    for path in before.difference(&set) {
        let kept = set
            .iter()
            .chain(others.iter().flat_map(|(_, owned)| owned))
            .any(|other| is_within(other, path));
        if !kept {
            remove(&mut result, path);
        }
    }
    merge(&mut result, "", config);
    let entry = match own {
        Some(own) if before == set => own,
        _ => {
            json!({"manager": applier.manager, "operation": "Apply", "apiVersion": applier.api_version,
            "time": applier.now, "fieldsType": "FieldsV1", "fieldsV1": tree(&set)})
        }
    };
    let entries: Vec<Value> = others
        .into_iter()
        .filter(|(_, owned)| !owned.is_empty())
        .map(|(entry, _)| entry)
        .chain([entry])
        .collect();
    result["metadata"]["managedFields"] = json!(entries);
    Ok(result)
}

/// Removes what names the object but is nobody's field.
fn strip_identity(config: &mut Value) {
    if let Value::Object(map) = config {
        map.remove("kind");
        map.remove("apiVersion");
        if let Some(Value::Object(metadata)) = map.get_mut("metadata") {
            for field in [
                "name",
                "namespace",
                "uid",
                "resourceVersion",
                "creationTimestamp",
                "generation",
                "managedFields",
            ] {
                metadata.remove(field);
            }
            if metadata.is_empty() {
                map.remove("metadata");
            }
        }
    }
}

fn item_key(list: &str, item: &Value) -> Option<String> {
    let key = merge_key(list)?;
    let id = item.get(key)?;
    Some(format!("k:{}", json!({ key: id })))
}

fn leaves(path: &mut Path, name: &str, value: &Value, out: &mut BTreeSet<Path>) {
    let mut descend = |path: &mut Path, element: String, name: &str, value: &Value| {
        path.push(element);
        leaves(path, name, value, out);
        path.pop();
    };
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                descend(path, format!("f:{key}"), key, value);
            }
        }
        Value::Array(items)
            if items.iter().all(|item| item_key(name, item).is_some())
                && merge_key(name).is_some() =>
        {
            for item in items {
                if let Some(key) = item_key(name, item) {
                    descend(path, key, "", item);
                }
            }
            for item in items {
                if let Some(key) = item_key(name, item) {
                    path.extend([key, ".".to_owned()]);
                    out.insert(path.clone());
                    path.truncate(path.len() - 2);
                }
            }
        }
        Value::Array(items) if name == "finalizers" => {
            for item in items {
                path.push(format!("v:{item}"));
                out.insert(path.clone());
                path.pop();
            }
        }
        _ if path.is_empty() => {}
        _ => {
            out.insert(path.clone());
        }
    }
}

/// The fields of a `managedFields` entry.
fn owned(entry: &Value) -> BTreeSet<Path> {
    fn walk(path: &mut Path, value: &Value, out: &mut BTreeSet<Path>) {
        match value.as_object() {
            Some(map) if !map.is_empty() => {
                for (key, value) in map {
                    path.push(key.clone());
                    walk(path, value, out);
                    path.pop();
                }
            }
            _ if path.is_empty() => {}
            _ => {
                out.insert(path.clone());
            }
        }
    }
    let mut out = BTreeSet::new();
    walk(&mut Vec::new(), &entry["fieldsV1"], &mut out);
    out
}

fn tree(set: &BTreeSet<Path>) -> Value {
    let mut root = json!({});
    for path in set {
        let mut at = &mut root;
        for element in path {
            at = &mut at[element.as_str()];
            if at.is_null() {
                *at = json!({});
            }
        }
    }
    root
}

fn is_within(path: &[String], ancestor: &[String]) -> bool {
    let ancestor = match ancestor.split_last() {
        Some((last, item)) if last == "." => item,
        _ => ancestor,
    };
    path.starts_with(ancestor)
}

fn step<'a>(value: &'a Value, element: &str) -> Option<&'a Value> {
    match element.split_at_checked(2)? {
        ("f:", name) => value.get(name),
        ("k:", _) | ("v:", _) => value.as_array()?.get(position(value, element)?),
        _ => None,
    }
}

fn position(list: &Value, element: &str) -> Option<usize> {
    let (kind, text) = element.split_at_checked(2)?;
    let wanted: Value = serde_json::from_str(text).ok()?;
    list.as_array()?.iter().position(|item| match kind {
        "k:" => wanted
            .as_object()
            .is_some_and(|keys| keys.iter().all(|(key, id)| item.get(key) == Some(id))),
        _ => *item == wanted,
    })
}

fn get<'a>(value: &'a Value, path: &[String]) -> Option<&'a Value> {
    let path = match path.split_last() {
        // Whether the item is there is not a value to differ in.
        Some((last, _)) if last == "." => return None,
        _ => path,
    };
    path.iter().try_fold(value, |at, element| step(at, element))
}

fn remove(value: &mut Value, path: &[String]) {
    let Some((last, parents)) = path.split_last() else {
        return;
    };
    let (last, parents) = match (last.as_str(), parents.split_last()) {
        (".", Some((item, parents))) => (item, parents),
        _ => (last, parents),
    };
    let mut at = value;
    for element in parents {
        let next = match element.strip_prefix("f:") {
            Some(name) => at.get_mut(name),
            None => match position(at, element) {
                Some(index) => at.get_mut(index),
                None => None,
            },
        };
        match next {
            Some(next) => at = next,
            None => return,
        }
    }
    match (last.strip_prefix("f:"), at) {
        (Some(name), Value::Object(map)) => drop(map.remove(name)),
        (None, list) => {
            if let Some(index) = position(list, last)
                && let Value::Array(items) = list
            {
                items.remove(index);
            }
        }
        _ => {}
    }
}

fn merge(target: &mut Value, name: &str, config: Value) {
    match config {
        Value::Object(map) => {
            if !target.is_object() {
                *target = Value::Object(Map::new());
            }
            for (key, value) in map {
                merge(&mut target[key.as_str()], &key, value);
            }
        }
        Value::Array(items) if merge_key(name).is_some() || name == "finalizers" => {
            if !target.is_array() {
                *target = json!([]);
            }
            for item in items {
                let element = item_key(name, &item).unwrap_or_else(|| format!("v:{item}"));
                match position(target, &element) {
                    Some(index) => merge(&mut target[index], "", item),
                    None => {
                        if let Value::Array(existing) = target {
                            existing.push(item);
                        }
                    }
                }
            }
        }
        value => *target = value,
    }
}

fn display(path: &[String]) -> String {
    path.iter()
        .map(|element| match element.split_at_checked(2) {
            Some(("f:", name)) => format!(".{name}"),
            Some(("k:", keys)) => {
                let keys = keys.trim_matches(['{', '}']).replacen("\":", "=", 1);
                format!("[{}]", keys.trim_start_matches('"'))
            }
            Some(("v:", value)) => format!("[={value}]"),
            _ => String::new(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by(manager: &str, force: bool) -> Applier<'_> {
        Applier {
            manager,
            force,
            api_version: "v1",
            now: "t",
        }
    }

    fn without_record(mut value: Value) -> Value {
        value["metadata"]
            .as_object_mut()
            .unwrap()
            .remove("managedFields");
        value
    }

    #[test]
    fn a_field_that_is_no_longer_applied_goes_unless_another_applier_has_it() {
        let config = |data: Value| json!({"metadata": {"name": "c"}, "data": data});
        let one = apply(
            &json!({"metadata": {"name": "c"}}),
            &config(json!({"a": "1", "b": "1"})),
            by("x", false),
        )
        .unwrap();
        let two = apply(&one, &config(json!({"b": "1", "c": "1"})), by("y", false)).unwrap();
        let three = apply(&two, &config(json!({"d": "1"})), by("x", false)).unwrap();
        assert_eq!(
            without_record(three)["data"],
            json!({"b": "1", "c": "1", "d": "1"})
        );
    }

    #[test]
    fn another_appliers_value_conflicts_unless_forced() {
        let config = |value: &str| json!({"metadata": {"labels": {"a": value}}});
        let one = apply(&json!({}), &config("1"), by("x", false)).unwrap();
        assert!(apply(&one, &config("1"), by("y", false)).is_ok());
        assert_eq!(
            apply(&one, &config("2"), by("y", false)),
            Err(vec![Conflict {
                manager: "x".to_owned(),
                field: ".metadata.labels.a".to_owned()
            }])
        );
        let two = apply(&one, &config("2"), by("y", true)).unwrap();
        assert_eq!(two["metadata"]["labels"]["a"], "2");
        let managers = two["metadata"]["managedFields"].as_array().unwrap();
        assert_eq!(managers.len(), 1);
        assert_eq!(managers[0]["manager"], "y");
    }

    #[test]
    fn list_items_are_merged_and_removed_by_key() {
        let config = |containers: Value| json!({"spec": {"containers": containers}});
        let start = json!({"spec": {"containers": [{"name": "other", "image": "o"}]}});
        let one = apply(
            &start,
            &config(json!([{"name": "a", "image": "1"}, {"name": "b", "image": "1"}])),
            by("x", false),
        )
        .unwrap();
        let two = apply(
            &one,
            &config(json!([{"name": "b", "image": "2"}])),
            by("x", false),
        )
        .unwrap();
        assert_eq!(
            two["spec"]["containers"],
            json!([{"name": "other", "image": "o"}, {"name": "b", "image": "2"}])
        );
    }

    #[test]
    fn applying_the_same_again_changes_nothing() {
        let config =
            json!({"metadata": {"name": "c", "annotations": {"a/b": "1"}}, "data": {"k": "v"}});
        let one = apply(&json!({}), &config, by("x", false)).unwrap();
        let later = Applier {
            now: "later",
            ..by("x", false)
        };
        assert_eq!(apply(&one, &config, later).unwrap(), one);
    }
}
