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
    },
}
