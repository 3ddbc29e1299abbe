//! Which law is replayed, with which parameters.

use std::time::Duration;

use laneguard_decider_core::policy::Law;
use laneguard_proto::quantity::Bandwidth;
use laneguard_runtime::ConfigError;
use serde::de::{DeserializeOwned, Deserializer, Visitor};
use serde_json::{Value, json};

/// The laws of the core.
pub(crate) const NAMES: [&str; 6] = [
    "Adaptive",
    "Threshold",
    "DropRate",
    "Watermark",
    "Headroom",
    "Autorate",
];

/// `--set key=value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Setting {
    /// The parameter.
    pub(crate) key: String,
    /// Its value as written.
    pub(crate) value: String,
}

/// Reads `key=value`.
///
/// # Errors
/// When there is no `=`.
pub(crate) fn parse_setting(text: &str) -> Result<Setting, String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok(Setting {
            key: key.trim().to_owned(),
            value: value.trim().to_owned(),
        }),
        _ => Err(format!("`{text}` is not key=value")),
    }
}

/// A law by its name with its default parameters. `None`: there is no such law.
pub(crate) fn named(name: &str) -> Option<Law> {
    serde_json::from_value(json!({ "name": name })).ok()
}

/// The law with other parameters.
///
/// # Errors
/// Names the key, and which there are; or the value, and what was expected.
pub(crate) fn with(law: &Law, settings: &[Setting]) -> Result<Law, ConfigError> {
    let keys = keys(law);
    let name = law.name();
    let refuse = |key: &str, problem: String| ConfigError::new(format!("--set {key}"), problem);
    let mut value = serde_json::to_value(law)
        .map_err(|error| refuse("", format!("{name} cannot be written: {error}")))?;
    for setting in settings {
        let key = setting.key.as_str();
        if !keys.contains(&key) {
            let problem = format!("{name} has no such parameter; it has {}", keys.join(", "));
            return Err(refuse(key, problem));
        }
        value[key] = parameter(setting).ok_or_else(|| {
            let kind = match () {
                () if key.ends_with("_bps") => {
                    "a rate such as 200M, or a number of bits per second"
                }
                () if key.ends_with("_ms") => "a duration such as 10s, or a number of milliseconds",
                () => "a number, true or false",
            };
            refuse(key, format!("`{}` is not {kind}", setting.value))
        })?;
        // after each one, so that the error is about this key
        serde_json::from_value::<Law>(value.clone())
            .map_err(|error| refuse(key, format!("`{}` does not fit: {error}", setting.value)))?;
    }
    serde_json::from_value(value).map_err(|error| refuse("", error.to_string()))
}

fn parameter(setting: &Setting) -> Option<Value> {
    let text = setting.value.as_str();
    if let Ok(value @ (Value::Number(_) | Value::Bool(_))) = serde_json::from_str(text) {
        return Some(value);
    }
    if setting.key.ends_with("_bps") {
        return text.parse::<Bandwidth>().ok().map(|rate| rate.bps().into());
    }
    if setting.key.ends_with("_ms") {
        let duration: Duration = laneguard_proto::duration::parse(text).ok()?;
        return u64::try_from(duration.as_millis()).ok().map(Value::from);
    }
    None
}

/// The parameters of a law by name.
fn keys(law: &Law) -> &'static [&'static str] {
    match law {
        Law::Threshold(parameters) => fields(parameters),
        Law::DropRate(parameters) => fields(parameters),
        Law::Adaptive(parameters) => fields(parameters),
        Law::Watermark(parameters) => fields(parameters),
        Law::Headroom(parameters) => fields(parameters),
        Law::Autorate(parameters) => fields(parameters),
    }
}

/// The fields of a structure, as its `Deserialize` names them: unset optional ones are among them.
fn fields<T: DeserializeOwned>(_: &T) -> &'static [&'static str] {
    let mut names: &'static [&'static str] = &[];
    // it ends with an error on purpose: the names are all that is wanted
    let _ = T::deserialize(Names(&mut names));
    names
}

struct Names<'a>(&'a mut &'static [&'static str]);

/// Asked for nothing but the names.
#[derive(Debug, thiserror::Error)]
#[error("only names are read")]
struct OnlyNames;

impl serde::de::Error for OnlyNames {
    fn custom<T: std::fmt::Display>(_: T) -> Self {
        Self
    }
}

impl<'de> Deserializer<'de> for Names<'_> {
    type Error = OnlyNames;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, OnlyNames> {
        Err(OnlyNames)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, OnlyNames> {
        *self.0 = fields;
        Err(OnlyNames)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct newtype_struct seq tuple
        tuple_struct map enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(name: &str, settings: &[&str]) -> Result<Law, String> {
        let settings: Vec<Setting> = settings.iter().map(|s| parse_setting(s).unwrap()).collect();
        with(&named(name).unwrap(), &settings).map_err(|error| error.to_string())
    }

    #[test]
    fn every_law_has_parameters_that_can_be_set() {
        for name in NAMES {
            assert_eq!(set(name, &["max_sample_age_ms=5s"]).unwrap().name(), name);
        }
        let Law::Autorate(autorate) =
            set("Autorate", &["base_bps=50M", "window=3", "needed=2"]).unwrap()
        else {
            panic!()
        };
        assert_eq!((autorate.base_bps, autorate.window), (Some(50e6), 3));
        let Law::Threshold(threshold) =
            set("Threshold", &["alpha=0.5", "cooldown_ms=1500"]).unwrap()
        else {
            panic!()
        };
        assert_eq!((threshold.alpha, threshold.cooldown_ms), (0.5, 1500));
    }

    #[test]
    fn a_wrong_setting_is_named_with_what_is_allowed() {
        let unknown = set("Headroom", &["alpha=1"]).unwrap_err();
        assert!(
            unknown.contains("--set alpha") && unknown.contains("link_bps, link_share"),
            "{unknown}"
        );
        let value = set("Threshold", &["cooldown_ms=soon"]).unwrap_err();
        assert!(
            value.contains("--set cooldown_ms") && value.contains("10s"),
            "{value}"
        );
        let kind = set("Threshold", &["cooldown_ms=-1"]).unwrap_err();
        assert!(kind.contains("--set cooldown_ms"), "{kind}");
        assert!(parse_setting("alpha").is_err());
    }
}
