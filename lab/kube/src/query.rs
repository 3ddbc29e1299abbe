//! Query parameters of reads, parsed and checked. Pure.

use std::{collections::HashMap, time::Duration};

use serde_json::json;

use crate::{
    path::Target,
    selector::{Fields, Labels},
    status::{ApiError, ApiResult, Cause},
};

/// Length of a watch that asks for none; a real server chooses between 30 and 60 minutes.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(45 * 60);

/// The raw parameters by name.
pub(crate) type Parameters = HashMap<String, String>;

/// A selection of objects.
#[derive(Clone, Debug)]
pub(crate) struct Selection {
    pub(crate) labels: Labels,
    pub(crate) fields: Fields,
    /// One object only.
    pub(crate) name: Option<String>,
}

impl Selection {
    pub(crate) fn parse(target: &Target, parameters: &Parameters) -> ApiResult<Self> {
        Ok(Self {
            labels: Labels::parse(text(parameters, "labelSelector"))?,
            fields: Fields::parse(target.kind, text(parameters, "fieldSelector"))?,
            name: target.name.clone(),
        })
    }

    pub(crate) fn matches(&self, object: &crate::object::Object) -> bool {
        self.name
            .as_deref()
            .is_none_or(|name| name == object.name())
            && self.labels.matches(object)
            && self.fields.matches(object)
    }
}

/// How a read's resource version is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    /// Not given: the most recent.
    Latest,
    /// `0`: any.
    Any,
    /// At least this one.
    NotOlderThan(u64),
    /// Exactly this one.
    Exact(u64),
}

/// A list.
#[derive(Clone, Debug)]
pub(crate) struct ListQuery {
    pub(crate) selection: Selection,
    pub(crate) limit: Option<usize>,
    pub(crate) token: Option<Token>,
    pub(crate) version: Version,
}

/// Where a list goes on: opaque to clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    /// `None`: whatever is current, after the original version expired.
    pub(crate) rv: Option<u64>,
    pub(crate) after: String,
}

impl Token {
    pub(crate) fn encode(&self) -> String {
        let rv = self.rv.map_or_else(|| "-".to_owned(), |rv| rv.to_string());
        format!("{rv}:{}", self.after)
            .bytes()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    fn decode(text: &str) -> Option<Self> {
        let bytes: Option<Vec<u8>> = (0..text.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok())
            .collect();
        let plain = String::from_utf8(bytes?).ok()?;
        let (rv, after) = plain.split_once(':')?;
        Some(Self {
            rv: match rv {
                "-" => None,
                rv => Some(rv.parse().ok()?),
            },
            after: after.to_owned(),
        })
    }
}

impl ListQuery {
    pub(crate) fn parse(target: &Target, parameters: &Parameters) -> ApiResult<Self> {
        let limit = number(parameters, "limit")?.unwrap_or(0);
        let token = match text(parameters, "continue") {
            "" => None,
            token => Some(Token::decode(token).ok_or_else(|| {
                ApiError::bad_request("continue key is not valid: invalid token")
            })?),
        };
        let rv = version(parameters)
            .map_err(|why| ApiError::bad_request(format!("invalid resource version: {why}")))?;
        if token.is_some() && rv.is_some_and(|rv| rv > 0) {
            return Err(ApiError::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
        let version = match (text(parameters, "resourceVersionMatch"), rv) {
            ("", None) => Version::Latest,
            ("", Some(0)) => Version::Any,
            ("" | "NotOlderThan", Some(rv)) => Version::NotOlderThan(rv),
            ("Exact", Some(rv)) if rv > 0 => Version::Exact(rv),
            (other, rv) => {
                let why = match rv {
                    None => "resourceVersionMatch is forbidden unless resourceVersion is provided",
                    Some(_) => "unsupported value",
                };
                return Err(ApiError::invalid_options(
                    "ListOptions",
                    Cause::invalid("resourceVersionMatch", &json!(other), why),
                ));
            }
        };
        Ok(Self {
            selection: Selection::parse(target, parameters)?,
            limit: usize::try_from(limit).ok().filter(|limit| *limit > 0),
            token,
            version,
        })
    }
}

/// A watch.
#[derive(Clone, Debug)]
pub(crate) struct WatchQuery {
    pub(crate) selection: Selection,
    /// `None` and 0 begin with what is there.
    pub(crate) rv: Option<u64>,
    pub(crate) bookmarks: bool,
    /// Begin with what is there and mark its end, whatever `rv` says.
    pub(crate) initial_events: bool,
    pub(crate) timeout: Duration,
}

impl WatchQuery {
    pub(crate) fn parse(target: &Target, parameters: &Parameters) -> ApiResult<Self> {
        let flag = |name: &str| matches!(text(parameters, name), "true" | "1");
        let initial = match text(parameters, "sendInitialEvents") {
            "" => None,
            value => Some(matches!(value, "true" | "1")),
        };
        match (initial, text(parameters, "resourceVersionMatch")) {
            (None, "") | (Some(_), "NotOlderThan") => {}
            (None, _) => {
                return Err(ApiError::invalid_options(
                    "ListOptions",
                    Cause::forbidden(
                        "resourceVersionMatch",
                        "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
                    ),
                ));
            }
            (Some(_), _) => {
                return Err(ApiError::invalid_options(
                    "ListOptions",
                    Cause::forbidden(
                        "resourceVersionMatch",
                        "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
                    ),
                ));
            }
        }
        Ok(Self {
            selection: Selection::parse(target, parameters)?,
            rv: version(parameters).map_err(ApiError::internal)?,
            bookmarks: flag("allowWatchBookmarks"),
            initial_events: initial == Some(true),
            timeout: number(parameters, "timeoutSeconds")?
                .and_then(|seconds| u64::try_from(seconds).ok())
                .filter(|seconds| *seconds > 0)
                .map_or(DEFAULT_TIMEOUT, Duration::from_secs),
        })
    }
}

/// A parameter, empty if not given.
pub(crate) fn text<'a>(parameters: &'a Parameters, name: &str) -> &'a str {
    parameters.get(name).map_or("", String::as_str)
}

fn number(parameters: &Parameters, name: &str) -> ApiResult<Option<i64>> {
    match text(parameters, name) {
        "" => Ok(None),
        value => value.parse().map(Some).map_err(|_| {
            ApiError::bad_request(format!(
                "strconv.ParseInt: parsing \"{value}\": invalid syntax"
            ))
        }),
    }
}

fn version(parameters: &Parameters) -> Result<Option<u64>, String> {
    match text(parameters, "resourceVersion") {
        "" => Ok(None),
        value => value.parse().map(Some).map_err(|_| {
            format!(
                "resourceVersion: Invalid value: \"{value}\": strconv.ParseUint: parsing \"{value}\": invalid syntax"
            )
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_continue_token_survives_encoding_and_garbage_is_refused() {
        for rv in [Some(42), None] {
            let token = Token {
                rv,
                after: "n/a:b".to_owned(),
            };
            assert_eq!(Token::decode(&token.encode()), Some(token));
        }
        for garbage in ["x", "zz", "31", "é1"] {
            assert_eq!(Token::decode(garbage), None, "{garbage}");
        }
    }
}
