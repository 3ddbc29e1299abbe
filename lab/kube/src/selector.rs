//! Label and field selectors, parsed once per request and matched against an object's index.

use crate::{
    object::Object,
    resource::Kind,
    status::{ApiError, ApiResult},
};

/// One requirement on a label.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Requirement {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Absent(String),
    Greater(String, i64),
    Less(String, i64),
}

/// A label selector; empty matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Labels(Vec<Requirement>);

impl Labels {
    /// Parses the query parameter's syntax: `a=b,c!=d,e in (f,g),h notin (i),j,!k`.
    pub(crate) fn parse(text: &str) -> ApiResult<Self> {
        let parse = |part: &str| {
            requirement(part).ok_or_else(|| {
                ApiError::bad_request(format!(
                    "unable to parse requirement: found '{part}', expected a label selector requirement"
                ))
            })
        };
        split_outside_parentheses(text)
            .into_iter()
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .map(parse)
            .collect::<ApiResult<_>>()
            .map(Self)
    }

    pub(crate) fn matches(&self, object: &Object) -> bool {
        self.0.iter().all(|requirement| match requirement {
            Requirement::In(key, values) => object
                .label(key)
                .is_some_and(|value| values.iter().any(|wanted| wanted == value)),
            Requirement::NotIn(key, values) => object
                .label(key)
                .is_none_or(|value| values.iter().all(|unwanted| unwanted != value)),
            Requirement::Exists(key) => object.label(key).is_some(),
            Requirement::Absent(key) => object.label(key).is_none(),
            Requirement::Greater(key, bound) => number(object, key).is_some_and(|n| n > *bound),
            Requirement::Less(key, bound) => number(object, key).is_some_and(|n| n < *bound),
        })
    }
}

fn number(object: &Object, key: &str) -> Option<i64> {
    object.label(key)?.parse().ok()
}

fn split_outside_parentheses(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut depth, mut start) = (0usize, 0usize);
    for (index, character) in text.char_indices() {
        match character {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(&text[start..index]);
                start = index + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn requirement(part: &str) -> Option<Requirement> {
    if let Some(key) = part.strip_prefix('!') {
        return Some(Requirement::Absent(label_key(key)?));
    }
    if let Some((key, value)) = part.split_once("!=") {
        return Some(Requirement::NotIn(label_key(key)?, vec![value_of(value)?]));
    }
    if let Some((key, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
        return Some(Requirement::In(label_key(key)?, vec![value_of(value)?]));
    }
    if let Some((key, value)) = part.split_once('>') {
        return Some(Requirement::Greater(
            label_key(key)?,
            value.trim().parse().ok()?,
        ));
    }
    if let Some((key, value)) = part.split_once('<') {
        return Some(Requirement::Less(
            label_key(key)?,
            value.trim().parse().ok()?,
        ));
    }
    let Some((key, rest)) = part.split_once(char::is_whitespace) else {
        return Some(Requirement::Exists(label_key(part)?));
    };
    let rest = rest.trim();
    let (negated, list) = match (rest.strip_prefix("notin"), rest.strip_prefix("in")) {
        (Some(list), _) => (true, list),
        (None, Some(list)) => (false, list),
        (None, None) => return None,
    };
    let list = list.trim().strip_prefix('(')?.strip_suffix(')')?;
    let values = list.split(',').map(value_of).collect::<Option<Vec<_>>>()?;
    let key = label_key(key)?;
    Some(if negated {
        Requirement::NotIn(key, values)
    } else {
        Requirement::In(key, values)
    })
}

fn label_key(key: &str) -> Option<String> {
    let key = key.trim();
    crate::validate::is_qualified_name(key).then(|| key.to_owned())
}

fn value_of(value: &str) -> Option<String> {
    let value = value.trim();
    crate::validate::is_label_value(value).then(|| value.to_owned())
}

/// A field selector; empty matches everything.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fields(Vec<(Field, bool, String)>);

#[derive(Clone, Copy, Debug)]
enum Field {
    Name,
    Namespace,
    /// Index into the kind's selectable fields.
    Indexed(usize),
}

impl Fields {
    /// Parses `a=b,c!=d` with the fields `kind` supports.
    pub(crate) fn parse(kind: &Kind, text: &str) -> ApiResult<Self> {
        let mut terms = Vec::new();
        for part in text
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
        {
            let (name, equal, value) = if let Some((name, value)) = part.split_once("!=") {
                (name, false, value)
            } else if let Some((name, value)) =
                part.split_once("==").or_else(|| part.split_once('='))
            {
                (name, true, value)
            } else {
                return Err(ApiError::bad_request(format!(
                    "invalid field selector: {part}"
                )));
            };
            let field = match name.trim() {
                "metadata.name" => Field::Name,
                "metadata.namespace" => Field::Namespace,
                other => kind
                    .fields
                    .iter()
                    .position(|(known, _)| *known == other)
                    .map(Field::Indexed)
                    .ok_or_else(|| {
                        ApiError::bad_request(format!("field label not supported: {other}"))
                    })?,
            };
            terms.push((field, equal, value.trim().to_owned()));
        }
        Ok(Self(terms))
    }

    pub(crate) fn matches(&self, object: &Object) -> bool {
        self.0.iter().all(|(field, equal, wanted)| {
            let actual = match field {
                Field::Name => object.name(),
                Field::Namespace => object.namespace(),
                Field::Indexed(index) => object.field(*index),
            };
            (actual == wanted) == *equal
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::resource::Table;

    fn pod(labels: serde_json::Value) -> Object {
        let value = json!({"metadata": {"name": "a", "namespace": "n", "labels": labels}, "spec": {"nodeName": "w1"}});
        Object::new(Table::Pods.kind(), &value, 1)
    }

    #[test]
    fn each_operator_matches_as_documented() {
        let object = pod(json!({"priority": "best-effort", "rank": "5"}));
        for (selector, expected) in [
            ("", true),
            ("priority=best-effort", true),
            ("priority==best-effort,rank", true),
            ("priority!=best-effort", false),
            ("other!=x", true),
            ("priority in (critical, best-effort)", true),
            ("priority notin (critical)", true),
            ("other notin (critical)", true),
            ("priority notin (best-effort,critical)", false),
            ("!other", true),
            ("!rank", false),
            ("rank>4,rank<6", true),
            ("rank>5", false),
        ] {
            let labels = Labels::parse(selector).unwrap();
            assert_eq!(labels.matches(&object), expected, "{selector}");
        }
    }

    #[test]
    fn a_malformed_selector_is_a_bad_request() {
        for selector in ["a in b", "=x", "a=b c", "a in (b", "-a=b"] {
            assert_eq!(
                Labels::parse(selector).unwrap_err().code,
                400,
                "{selector:?}"
            );
        }
    }

    #[test]
    fn field_selectors_use_the_index_and_refuse_unknown_fields() {
        let kind = Table::Pods.kind();
        let object = pod(json!({}));
        let matches = |text| Fields::parse(kind, text).unwrap().matches(&object);
        assert!(matches("metadata.name=a,spec.nodeName=w1"));
        assert!(matches("spec.nodeName!=w2"));
        assert!(!matches("status.phase=Running"));
        assert!(!matches("metadata.namespace=other"));
        assert_eq!(Fields::parse(kind, "spec.x=1").unwrap_err().code, 400);
    }
}
