//! Streams and buckets as data: who comes first creates them so, and whoever finds them otherwise says so.

use std::time::Duration;

use crate::subject::Kind;

/// Key in a stream's metadata that says which version of our configuration made it.
pub const CONFIG_VERSION_KEY: &str = "laneguard.dev/config-version";
/// The version of the configuration below. Raise it when a spec changes.
pub const CONFIG_VERSION: &str = "1";

/// A JetStream stream.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StreamSpec {
    /// The stream's name.
    pub name: &'static str,
    /// The kind of message it keeps.
    pub kind: Kind,
    /// In memory rather than on disk.
    pub memory: bool,
    /// Messages older than this go. `None`: never.
    pub max_age: Option<Duration>,
    /// Bytes after which the oldest messages go.
    pub max_bytes: i64,
    /// Messages kept per subject. `None`: any number.
    pub per_subject: Option<i64>,
}

const MIB: i64 = 1024 * 1024;
const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

/// Samples: read live, kept an hour to look back.
pub const SAMPLES: StreamSpec = StreamSpec {
    name: "LANEGUARD_SAMPLES",
    kind: Kind::Sample,
    memory: true,
    max_age: Some(Duration::from_secs(3600)),
    max_bytes: 128 * MIB,
    per_subject: None,
};
/// Decisions: the audit log others subscribe to.
pub const DECISIONS: StreamSpec = StreamSpec {
    name: "LANEGUARD_DECISIONS",
    kind: Kind::Decision,
    memory: false,
    max_age: Some(WEEK),
    max_bytes: 1024 * MIB,
    per_subject: None,
};
/// Commands: only the desired state, the last message per subject.
pub const COMMANDS: StreamSpec = StreamSpec {
    name: "LANEGUARD_COMMANDS",
    kind: Kind::Command,
    memory: false,
    max_age: None,
    max_bytes: 64 * MIB,
    per_subject: Some(1),
};
/// Outcomes: what was done about commands.
pub const OUTCOMES: StreamSpec = StreamSpec {
    name: "LANEGUARD_OUTCOMES",
    kind: Kind::Outcome,
    memory: false,
    max_age: Some(WEEK),
    max_bytes: 1024 * MIB,
    per_subject: None,
};

/// Every stream.
pub const STREAMS: [StreamSpec; 4] = [SAMPLES, DECISIONS, COMMANDS, OUTCOMES];

impl StreamSpec {
    /// The stream that keeps messages of a kind.
    pub fn of(kind: Kind) -> Self {
        match kind {
            Kind::Sample => SAMPLES,
            Kind::Decision => DECISIONS,
            Kind::Command => COMMANDS,
            Kind::Outcome => OUTCOMES,
        }
    }
}

/// A JetStream key-value bucket.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BucketSpec {
    /// The bucket's name.
    pub name: &'static str,
    /// Values kept per key.
    pub history: i64,
    /// In memory rather than on disk.
    pub memory: bool,
    /// Bytes the bucket may take.
    pub max_bytes: i64,
    /// Whether single keys may expire (the server leaves a marker when they do).
    pub expiring_keys: bool,
}

/// Policies, `<cluster>.<policy>`: [`crate::policy::Entry`] as JSON.
pub const POLICIES: BucketSpec = BucketSpec {
    name: "laneguard-policies",
    history: 10,
    memory: false,
    max_bytes: 64 * MIB,
    expiring_keys: false,
};
/// Operators' overrides, `<cluster>.<policy>`: [`crate::overrides::Override`] as JSON.
pub const OVERRIDES: BucketSpec = BucketSpec {
    name: "laneguard-overrides",
    history: 1,
    memory: false,
    max_bytes: 16 * MIB,
    expiring_keys: true,
};
/// Decider memory `decider.<cluster>.<policy>` and placement `placement.<cluster>.<policy>` ([`crate::placement::Placement`]).
pub const STATE: BucketSpec = BucketSpec {
    name: "laneguard-state",
    history: 1,
    memory: false,
    max_bytes: 512 * MIB,
    expiring_keys: false,
};
/// Ownership of shards, `<service>.<cluster>.<shard>`.
pub const LEASES: BucketSpec = BucketSpec {
    name: "laneguard-leases",
    history: 1,
    memory: true,
    max_bytes: 4 * MIB,
    expiring_keys: false,
};

/// Every bucket.
pub const BUCKETS: [BucketSpec; 4] = [POLICIES, OVERRIDES, STATE, LEASES];

/// Number of shards that policies hash to.
pub const SHARDS: u32 = 32;

/// The shard of a policy: FNV-1a of `<cluster>.<policy>` modulo [`SHARDS`], the same in every release and language.
pub fn shard_of(cluster: &str, policy: &str) -> u32 {
    let hash = cluster
        .bytes()
        .chain(std::iter::once(b'.'))
        .chain(policy.bytes())
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    (hash % u64::from(SHARDS)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_keeps_its_shard_from_release_to_release() {
        assert_eq!(shard_of("default", "default"), 13);
        assert_eq!(shard_of("default", "factory_factory-floor"), 8);
    }

    #[test]
    fn policies_spread_over_all_shards() {
        let used: std::collections::BTreeSet<u32> = (0..1000)
            .map(|n| shard_of("default", &format!("ns_policy-{n}")))
            .collect();
        assert_eq!(used.len(), SHARDS as usize);
    }
}
