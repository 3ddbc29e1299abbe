//! JSON values as `google.protobuf.Struct` and back: how a decision carries a law's state and parameters.

use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};

/// A JSON object as a struct; any other value, or one with a number that is not finite, gives `None`.
pub fn from_json(value: &serde_json::Value) -> Option<Struct> {
    match value {
        serde_json::Value::Object(fields) => Some(Struct {
            fields: fields
                .iter()
                .map(|(key, value)| Some((key.clone(), to_value(value)?)))
                .collect::<Option<_>>()?,
        }),
        _ => None,
    }
}

fn to_value(value: &serde_json::Value) -> Option<Value> {
    let kind = match value {
        serde_json::Value::Null => Kind::NullValue(0),
        serde_json::Value::Bool(b) => Kind::BoolValue(*b),
        serde_json::Value::Number(n) => Kind::NumberValue(n.as_f64().filter(|n| n.is_finite())?),
        serde_json::Value::String(s) => Kind::StringValue(s.clone()),
        serde_json::Value::Array(items) => Kind::ListValue(ListValue {
            values: items.iter().map(to_value).collect::<Option<_>>()?,
        }),
        serde_json::Value::Object(_) => Kind::StructValue(from_json(value)?),
    };
    Some(Value { kind: Some(kind) })
}

/// A struct as a JSON object. Whole numbers up to 2^53 become integers, so that they read back into integer fields.
pub fn to_json(structure: &Struct) -> serde_json::Value {
    serde_json::Value::Object(
        structure
            .fields
            .iter()
            .map(|(key, value)| (key.clone(), value_to_json(value)))
            .collect(),
    )
}

fn value_to_json(value: &Value) -> serde_json::Value {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match &value.kind {
        None | Some(Kind::NullValue(_)) => serde_json::Value::Null,
        Some(Kind::BoolValue(b)) => (*b).into(),
        Some(Kind::NumberValue(n)) if n.fract() == 0.0 && n.abs() <= EXACT => (*n as i64).into(),
        Some(Kind::NumberValue(n)) => (*n).into(),
        Some(Kind::StringValue(s)) => s.clone().into(),
        Some(Kind::ListValue(list)) => list.values.iter().map(value_to_json).collect(),
        Some(Kind::StructValue(structure)) => to_json(structure),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_in_comes_out() {
        let value = serde_json::json!({
            "limit": 115e6, "alpha": 0.7, "at": 1_764_000_000_123_i64, "on": true, "none": null,
            "list": [1, "two", {"three": 3.5}]
        });
        let back = to_json(&from_json(&value).unwrap());
        assert_eq!(back["at"], 1_764_000_000_123_i64);
        assert_eq!(back["limit"].as_f64(), Some(115e6));
        assert_eq!(back["list"], value["list"]);
        assert_eq!(back["alpha"], 0.7);
        assert!(back["none"].is_null());
    }

    #[test]
    fn only_objects_are_structs() {
        assert!(from_json(&serde_json::json!([1])).is_none());
    }
}
