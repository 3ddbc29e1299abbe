//! Subjects and the names that make them up.

use std::fmt;
use std::str::FromStr;

/// What every subject begins with.
pub const PREFIX: &str = "laneguard.v1";

/// The policy that environment variables define.
pub const ENVIRONMENT_POLICY: &str = "default";

/// Why a name cannot be a subject token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a name: 1 to 190 characters of a-z, A-Z, 0-9, `-` and `_`, as one NATS subject token"
)]
pub struct InvalidToken(pub String);

/// A name that may stand as one token in a subject and as a part of a bucket key.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(String);

impl Token {
    /// The token of a namespaced Kubernetes object: `<namespace>_<name>`, dots written as `_` (which occurs in no such name).
    ///
    /// # Errors
    /// When the result is no token.
    pub fn of_object(namespace: &str, name: &str) -> Result<Self, InvalidToken> {
        format!("{namespace}_{name}").replace('.', "_").parse()
    }

    /// The token as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Token {
    type Err = InvalidToken;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fits = (1..=190).contains(&text.len())
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        if fits {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidToken(text.chars().take(200).collect()))
        }
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for Token {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

/// The four kinds of message, each with a subject and a stream of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// What a critical workload experienced.
    Sample,
    /// What a law decided and why.
    Decision,
    /// The desired state of a class.
    Command,
    /// What the actuator did.
    Outcome,
}

impl Kind {
    /// The token after the prefix.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sample => "sample",
            Self::Decision => "decision",
            Self::Command => "command",
            Self::Outcome => "outcome",
        }
    }

    /// The filter for all messages of this kind.
    pub fn all(self) -> String {
        format!("{PREFIX}.{}.>", self.as_str())
    }

    /// The filter for all messages of this kind in a cluster.
    pub fn in_cluster(self, cluster: &Token) -> String {
        format!("{PREFIX}.{}.{cluster}.>", self.as_str())
    }
}

/// `laneguard.v1.sample.<cluster>.<policy>.<workload>`
pub fn sample(cluster: &str, policy: &str, workload: &str) -> String {
    format!("{PREFIX}.sample.{cluster}.{policy}.{workload}")
}

/// `laneguard.v1.decision.<cluster>.<policy>`
pub fn decision(cluster: &str, policy: &str) -> String {
    format!("{PREFIX}.decision.{cluster}.{policy}")
}

/// `laneguard.v1.command.<cluster>.<policy>.<class>`
pub fn command(cluster: &str, policy: &str, class: &str) -> String {
    format!("{PREFIX}.command.{cluster}.{policy}.{class}")
}

/// `laneguard.v1.outcome.<cluster>.<policy>.<class>`
pub fn outcome(cluster: &str, policy: &str, class: &str) -> String {
    format!("{PREFIX}.outcome.{cluster}.{policy}.{class}")
}

/// The tokens after the kind, or `None` if the subject is not of this kind.
pub fn tokens(subject: &str, kind: Kind) -> Option<Vec<&str>> {
    subject
        .strip_prefix(PREFIX)?
        .strip_prefix('.')?
        .strip_prefix(kind.as_str())?
        .strip_prefix('.')
        .map(|rest| rest.split('.').collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kubernetes_name_with_dots_becomes_one_token() {
        let token = Token::of_object("factory", "robot.v2").unwrap();
        assert_eq!(token.as_str(), "factory_robot_v2");
    }

    #[test]
    fn wildcards_dots_spaces_and_nothing_are_no_tokens() {
        for bad in ["", "*", ">", "a.b", "a b", "ä", &"x".repeat(191)] {
            assert!(bad.parse::<Token>().is_err(), "{bad}");
        }
    }

    #[test]
    fn tokens_of_a_subject_are_found_only_under_their_kind() {
        let subject = sample("default", "factory_floor", "factory_robot");
        assert_eq!(
            tokens(&subject, Kind::Sample),
            Some(vec!["default", "factory_floor", "factory_robot"])
        );
        assert_eq!(tokens(&subject, Kind::Command), None);
    }
}
