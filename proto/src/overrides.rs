//! What an operator set against a policy's decisions: the value of a key in the bucket `laneguard-overrides`.

use serde::{Deserialize, Serialize};

/// An operator's override of a policy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "camelCase")]
pub enum Override {
    /// Restore what was found before us, and leave the pods alone until the key is deleted. Does not expire.
    Release {
        /// Who set it, for people.
        #[serde(default)]
        by: String,
        /// When, milliseconds since the Unix epoch.
        #[serde(default)]
        since_ms: i64,
    },
    /// Keep the limits as they are until the key expires.
    Freeze {
        /// Who set it, for people.
        #[serde(default)]
        by: String,
        /// When, milliseconds since the Unix epoch.
        #[serde(default)]
        since_ms: i64,
        /// When it ends, milliseconds since the Unix epoch: it lapses then also where the key's expiry is not seen, because its bucket
        /// was lost. Unset: with the key only.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        until_ms: Option<i64>,
    },
}

impl Override {
    /// Whether it still holds. `now_ms` is Unix time in milliseconds.
    #[must_use]
    pub fn holds(&self, now_ms: i64) -> bool {
        match self {
            Self::Release { .. } => true,
            Self::Freeze { until_ms, .. } => until_ms.is_none_or(|until_ms| now_ms < until_ms),
        }
    }
}
