//! JSON values as block-style YAML. Every string that could be read as something else is quoted.

use serde_json::Value;

/// A document, with a line end.
pub(crate) fn document(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(fields) if !fields.is_empty() => mapping(&mut out, value, 0, false),
        Value::Array(items) if !items.is_empty() => mapping(&mut out, value, 0, false),
        _ => {
            out.push_str(&scalar(value));
            out.push('\n');
        }
    }
    out
}

/// A non-empty mapping or sequence. `inline`: its first line continues one that is already indented.
fn mapping(out: &mut String, value: &Value, indent: usize, inline: bool) {
    let mut first = inline;
    let mut begin = |out: &mut String| {
        if !std::mem::take(&mut first) {
            out.push_str(&" ".repeat(indent));
        }
    };
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                begin(out);
                out.push_str(&text(key));
                out.push(':');
                match value {
                    Value::Object(fields) if !fields.is_empty() => {
                        out.push('\n');
                        mapping(out, value, indent + 2, false);
                    }
                    Value::Array(items) if !items.is_empty() => {
                        out.push('\n');
                        mapping(out, value, indent + 2, false);
                    }
                    value => {
                        out.push(' ');
                        out.push_str(&scalar(value));
                        out.push('\n');
                    }
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                begin(out);
                out.push_str("- ");
                match item {
                    Value::Object(fields) if !fields.is_empty() => {
                        mapping(out, item, indent + 2, true);
                    }
                    Value::Array(items) if !items.is_empty() => {
                        mapping(out, item, indent + 2, true);
                    }
                    item => {
                        out.push_str(&scalar(item));
                        out.push('\n');
                    }
                }
            }
        }
        _ => {}
    }
}

/// Anything on one line; empty containers too.
fn scalar(value: &Value) -> String {
    match value {
        Value::String(s) => text(s),
        other => other.to_string(),
    }
}

fn text(s: &str) -> String {
    let plain = s.starts_with(|c: char| c.is_ascii_alphabetic())
        && s.chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/'))
        && ![
            "true", "false", "yes", "no", "on", "off", "null", "y", "n", "nan", "inf",
        ]
        .contains(&s.to_ascii_lowercase().as_str());
    if plain {
        s.to_owned()
    } else {
        // a JSON string is a double-quoted YAML string
        Value::from(s).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_written_is_read_back() {
        let value = json!({
            "word": "plain-word.v1", "off": "Off", "number": "10", "size": "10M", "date": "2020-01-01", "colon": "a: b",
            "empty": "", "newline": "a\nb \"q\" ü", "dash": "- a", "int": 3, "float": 0.7, "big": 1e300, "bool": true, "null": null,
            "map": {"x/y.z": {"deep": [1, {"a": [[1, 2], []], "b": {}}, "s", []]}},
            "list": [{"a": 1, "b": {"c": 2}}, {"d": []}],
        });
        let text = document(&value);
        let back: Value = serde_saphyr::from_str(&text).unwrap();
        assert_eq!(back, value, "{text}");
    }

    #[test]
    fn it_reads_like_yaml() {
        let value = json!({"spec": {"critical": [{"workload": "robot", "targets": [{"below": "10ms"}]}], "mode": "Enforce"}});
        assert_eq!(
            document(&value),
            "spec:\n  critical:\n    - targets:\n        - below: \"10ms\"\n      workload: robot\n  mode: Enforce\n"
        );
    }
}
