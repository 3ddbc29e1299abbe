//! Kubernetes label selectors: as objects in policies and as text in flags.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Selects objects by their labels; every requirement must hold. An empty selector matches everything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LabelSelector {
    /// Labels that must have exactly these values.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub match_labels: BTreeMap<String, String>,
    /// Further requirements.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub match_expressions: Vec<Requirement>,
}

/// One requirement of a selector.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requirement {
    /// The label's key.
    pub key: String,
    /// How the label's value relates to `values`.
    pub operator: Operator,
    /// For `In` and `NotIn`: the values, at least one. Else empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
}

/// The operators of Kubernetes' set-based requirements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operator {
    /// The label is there with one of the values.
    In,
    /// The label is absent or has none of the values.
    NotIn,
    /// The label is there.
    Exists,
    /// The label is absent.
    DoesNotExist,
}

/// Why a text is no selector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a label selector such as priority=critical or `tier in (a,b)`: {reason}")]
pub struct InvalidSelector {
    text: String,
    reason: String,
}

impl LabelSelector {
    /// A selector with one exact label.
    pub fn label(key: &str, value: &str) -> Self {
        Self {
            match_labels: BTreeMap::from([(key.to_owned(), value.to_owned())]),
            match_expressions: Vec::new(),
        }
    }

    /// Whether it has no requirement and so matches everything.
    pub fn is_empty(&self) -> bool {
        self.match_labels.is_empty() && self.match_expressions.is_empty()
    }

    /// Whether an object with these labels is selected.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.match_labels
            .iter()
            .all(|(key, value)| labels.get(key) == Some(value))
            && self.match_expressions.iter().all(|r| r.matches(labels))
    }

    /// Checks what Kubernetes would check.
    ///
    /// # Errors
    /// Names the requirement and what is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        for (key, value) in &self.match_labels {
            check_key(key)?;
            check_value(value)?;
        }
        for requirement in &self.match_expressions {
            check_key(&requirement.key)?;
            requirement.values.iter().try_for_each(|v| check_value(v))?;
            let needs_values = matches!(requirement.operator, Operator::In | Operator::NotIn);
            if needs_values == requirement.values.is_empty() {
                return Err(format!(
                    "{:?} for `{}` {} values",
                    requirement.operator,
                    requirement.key,
                    if needs_values { "needs" } else { "takes no" }
                ));
            }
        }
        Ok(())
    }
}

impl Requirement {
    fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let value = labels.get(&self.key);
        match self.operator {
            Operator::In => value.is_some_and(|v| self.values.contains(v)),
            Operator::NotIn => !value.is_some_and(|v| self.values.contains(v)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }
}

fn is_name(text: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    text.len() <= 63
        && edge(text.chars().next())
        && edge(text.chars().last())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}

fn check_key(key: &str) -> Result<(), String> {
    let (prefix, name) = key
        .split_once('/')
        .map_or((None, key), |(p, n)| (Some(p), n));
    let prefix_fits = prefix.is_none_or(|p| {
        !p.is_empty()
            && p.len() <= 253
            && p.chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.'))
    });
    if prefix_fits && is_name(name) {
        Ok(())
    } else {
        Err(format!("`{key}` is not a label key"))
    }
}

fn check_value(value: &str) -> Result<(), String> {
    if value.is_empty() || is_name(value) {
        Ok(())
    } else {
        Err(format!("`{value}` is not a label value"))
    }
}

/// Splits at commas that are not inside parentheses.
fn split_requirements(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut depth, mut start) = (0_i32, 0);
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn parse_requirement(part: &str) -> Result<Requirement, String> {
    let requirement = |key: &str, operator, values: Vec<String>| Requirement {
        key: key.trim().to_owned(),
        operator,
        values,
    };
    let one = |value: &str| vec![value.trim().to_owned()];
    if let Some((key, value)) = part.split_once("!=") {
        return Ok(requirement(key, Operator::NotIn, one(value)));
    }
    if let Some((key, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
        return Ok(requirement(key, Operator::In, one(value)));
    }
    if let Some(open) = part.find('(') {
        let values = part[open + 1..]
            .trim_end()
            .strip_suffix(')')
            .ok_or("a parenthesis is not closed")?
            .split(',')
            .map(|v| v.trim().to_owned())
            .collect();
        let mut words = part[..open].split_whitespace();
        return match (words.next(), words.next(), words.next()) {
            (Some(key), Some("in"), None) => Ok(requirement(key, Operator::In, values)),
            (Some(key), Some("notin"), None) => Ok(requirement(key, Operator::NotIn, values)),
            _ => Err("expected `key in (...)` or `key notin (...)`".into()),
        };
    }
    match part.trim().strip_prefix('!') {
        Some(key) => Ok(requirement(key, Operator::DoesNotExist, Vec::new())),
        None => Ok(requirement(part, Operator::Exists, Vec::new())),
    }
}

impl std::str::FromStr for LabelSelector {
    type Err = InvalidSelector;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = |reason: String| InvalidSelector {
            text: text.to_owned(),
            reason,
        };
        if text.trim().is_empty() {
            return Err(invalid("it is empty".into()));
        }
        let mut selector = Self::default();
        for part in split_requirements(text) {
            let mut requirement = parse_requirement(part).map_err(invalid)?;
            if requirement.operator == Operator::In
                && requirement.values.len() == 1
                && !part.contains('(')
                && !selector.match_labels.contains_key(&requirement.key)
            {
                let value = requirement.values.remove(0);
                selector.match_labels.insert(requirement.key, value);
            } else {
                selector.match_expressions.push(requirement);
            }
        }
        selector.check().map_err(invalid)?;
        Ok(selector)
    }
}

impl std::fmt::Display for LabelSelector {
    /// The form that [`std::str::FromStr`] reads.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let exact = self.match_labels.iter().map(|(k, v)| format!("{k}={v}"));
        let further = self.match_expressions.iter().map(|r| match r.operator {
            Operator::In => format!("{} in ({})", r.key, r.values.join(",")),
            Operator::NotIn => format!("{} notin ({})", r.key, r.values.join(",")),
            Operator::Exists => r.key.clone(),
            Operator::DoesNotExist => format!("!{}", r.key),
        });
        f.write_str(&exact.chain(further).collect::<Vec<_>>().join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    #[test]
    fn each_operator_selects_as_kubernetes_does() {
        let red = labels(&[("tier", "red")]);
        let none = labels(&[]);
        for (text, on_red, on_none) in [
            ("tier=red", true, false),
            ("tier==blue", false, false),
            ("tier!=red", false, true),
            ("tier in (red,blue)", true, false),
            ("tier notin (red)", false, true),
            ("tier", true, false),
            ("!tier", false, true),
            ("tier,tier!=blue", true, false),
        ] {
            let selector: LabelSelector = text.parse().unwrap();
            assert_eq!(selector.matches(&red), on_red, "{text} on red");
            assert_eq!(selector.matches(&none), on_none, "{text} on none");
            assert_eq!(
                selector.to_string().parse::<LabelSelector>().unwrap(),
                selector
            );
        }
    }

    #[test]
    fn nonsense_is_refused_with_a_reason() {
        for text in ["", "a=b c", "a in (b", "a like (b)", "=x", "a in ()x"] {
            assert!(text.parse::<LabelSelector>().is_err(), "{text}");
        }
    }
}
