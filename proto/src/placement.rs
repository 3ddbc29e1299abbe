//! Which pods a policy governs and where they run: written by the actuator into the bucket `laneguard-state`, read by collector and decider.

use serde::{Deserialize, Serialize};

/// Pods listed per class at most; beyond, `truncated` says so and usage is unknown.
pub const MOST_PODS: usize = 5000;

/// Placement of one policy, key `placement.<cluster>.<policy>`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Placement {
    /// Every class of the policy.
    pub classes: Vec<ClassPlacement>,
    /// Nodes that run the policy's critical pods.
    pub critical_nodes: Vec<String>,
    /// When the actuator wrote it, milliseconds since the Unix epoch.
    pub written_ms: i64,
}

/// The pods of one class.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClassPlacement {
    /// The class's name.
    pub class: String,
    /// Pods that may be limited, sorted, at most [`MOST_PODS`].
    pub pods: Vec<PodPlacement>,
    /// True: there are more pods than are listed.
    pub truncated: bool,
    /// The lowest egress limit found on the pods, bits per second. Unset: no pod has a readable one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub found_bps: Option<f64>,
}

/// One pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
pub struct PodPlacement {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The node it runs on. Empty: not scheduled yet.
    pub node: String,
}

/// The key of a policy's placement in the bucket `laneguard-state`.
pub fn key(cluster: &str, policy: &str) -> String {
    format!("placement.{cluster}.{policy}")
}
