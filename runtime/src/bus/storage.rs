//! Sets up streams and buckets, idempotently; what somebody else configured is reported, not changed.

use std::time::Duration;

use async_nats::jetstream::context::{Context, CreateStreamErrorKind, GetStreamErrorKind};
use async_nats::jetstream::stream::{Config, DiscardPolicy, StorageType};
use async_nats::jetstream::{self, ErrorCode};
use laneguard_proto::storage::{
    BUCKETS, BucketSpec, CONFIG_VERSION, CONFIG_VERSION_KEY, STREAMS, StreamSpec,
};

/// How long the server keeps a marker for an expired key.
const MARKER_TTL: Duration = Duration::from_secs(3600);
/// Window in which a message id is recognized again.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);

/// Why storage is not as it should be.
#[derive(Debug, thiserror::Error)]
pub(super) enum StorageError {
    #[error("stream {name} does not exist and NATS_MANAGE_STREAMS is false")]
    Missing { name: String },
    #[error("stream {name} cannot be read: {reason}")]
    Read { name: String, reason: String },
    #[error("stream {name} cannot be created: {reason}")]
    Create { name: String, reason: String },
}

/// A stream or bucket that is not as we would have made it.
#[derive(Debug)]
pub(super) struct Foreign {
    pub(super) name: &'static str,
    pub(super) differences: Vec<String>,
}

fn metadata() -> std::collections::HashMap<String, String> {
    [(CONFIG_VERSION_KEY.to_owned(), CONFIG_VERSION.to_owned())].into()
}

fn storage_type(memory: bool) -> StorageType {
    if memory {
        StorageType::Memory
    } else {
        StorageType::File
    }
}

pub(super) fn stream_config(spec: &StreamSpec, replicas: u8) -> Config {
    Config {
        name: spec.name.to_owned(),
        subjects: vec![spec.kind.all()],
        storage: storage_type(spec.memory),
        max_age: spec.max_age.unwrap_or_default(),
        max_bytes: spec.max_bytes,
        max_messages: -1,
        max_messages_per_subject: spec.per_subject.unwrap_or(-1),
        max_message_size: -1,
        max_consumers: -1,
        discard: DiscardPolicy::Old,
        duplicate_window: DUPLICATE_WINDOW,
        allow_direct: true,
        num_replicas: replicas.into(),
        metadata: metadata(),
        ..Config::default()
    }
}

/// The name of a bucket's stream.
pub(super) fn bucket_stream(spec: &BucketSpec) -> String {
    format!("KV_{}", spec.name)
}

/// As the key-value convention has it (ADR-8), with our version in the metadata.
pub(super) fn bucket_config(spec: &BucketSpec, replicas: u8) -> Config {
    Config {
        name: bucket_stream(spec),
        subjects: vec![format!("$KV.{}.>", spec.name)],
        storage: storage_type(spec.memory),
        max_bytes: spec.max_bytes,
        max_messages: -1,
        max_messages_per_subject: spec.history,
        max_message_size: -1,
        max_consumers: -1,
        // a full bucket refuses: silently dropping a policy would be worse
        discard: DiscardPolicy::New,
        duplicate_window: DUPLICATE_WINDOW,
        allow_rollup: true,
        deny_delete: true,
        allow_direct: true,
        num_replicas: replicas.into(),
        allow_message_ttl: spec.expiring_keys,
        subject_delete_marker_ttl: spec.expiring_keys.then_some(MARKER_TTL),
        metadata: metadata(),
        ..Config::default()
    }
}

/// Makes sure that every stream and bucket is there.
pub(super) async fn ensure(
    jetstream: &Context,
    replicas: u8,
    manage: bool,
) -> Result<Vec<Foreign>, StorageError> {
    let streams = STREAMS
        .iter()
        .map(|spec| (spec.name, stream_config(spec, replicas)));
    let buckets = BUCKETS
        .iter()
        .map(|spec| (spec.name, bucket_config(spec, replicas)));
    let mut foreign = Vec::new();
    for (name, wanted) in streams.chain(buckets) {
        let differences = ensure_one(jetstream, &wanted, manage).await?;
        if !differences.is_empty() {
            foreign.push(Foreign { name, differences });
        }
    }
    Ok(foreign)
}

async fn ensure_one(
    jetstream: &Context,
    wanted: &Config,
    manage: bool,
) -> Result<Vec<String>, StorageError> {
    let name = || wanted.name.clone();
    match found(jetstream, &wanted.name).await? {
        Some(found) => Ok(differences(&found, wanted)),
        None if !manage => Err(StorageError::Missing { name: name() }),
        None => match jetstream.create_stream(wanted.clone()).await {
            Ok(_) => {
                tracing::info!(stream = wanted.name, "created");
                Ok(Vec::new())
            }
            Err(error) => match error.kind() {
                // somebody else came first, with another configuration
                CreateStreamErrorKind::JetStream(e)
                    if e.error_code() == ErrorCode::STREAM_NAME_EXIST =>
                {
                    let found = found(jetstream, &wanted.name).await?;
                    Ok(found.map_or_else(Vec::new, |found| differences(&found, wanted)))
                }
                _ => Err(StorageError::Create {
                    name: name(),
                    reason: error.to_string(),
                }),
            },
        },
    }
}

async fn found(jetstream: &Context, name: &str) -> Result<Option<Config>, StorageError> {
    match jetstream.get_stream(name).await {
        Ok(stream) => Ok(Some(stream.cached_info().config.clone())),
        Err(error) => match error.kind() {
            GetStreamErrorKind::JetStream(e) if e.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                Ok(None)
            }
            _ => Err(StorageError::Read {
                name: name.to_owned(),
                reason: error.to_string(),
            }),
        },
    }
}

/// What differs between two configurations, in the fields that we set.
fn differences(found: &Config, wanted: &Config) -> Vec<String> {
    let mut differences = Vec::new();
    let mut compare = |field: &str, found: String, wanted: String| {
        if found != wanted {
            differences.push(format!("{field} is {found}, ours would be {wanted}"));
        }
    };
    let version = |config: &Config| {
        config
            .metadata
            .get(CONFIG_VERSION_KEY)
            .cloned()
            .unwrap_or_else(|| "unset".into())
    };
    compare("config version", version(found), version(wanted));
    compare(
        "subjects",
        found.subjects.join(" "),
        wanted.subjects.join(" "),
    );
    compare(
        "storage",
        format!("{:?}", found.storage),
        format!("{:?}", wanted.storage),
    );
    compare(
        "max_age",
        format!("{:?}", found.max_age),
        format!("{:?}", wanted.max_age),
    );
    compare(
        "max_bytes",
        found.max_bytes.to_string(),
        wanted.max_bytes.to_string(),
    );
    compare(
        "max_msgs_per_subject",
        found.max_messages_per_subject.to_string(),
        wanted.max_messages_per_subject.to_string(),
    );
    compare(
        "discard",
        format!("{:?}", found.discard),
        format!("{:?}", wanted.discard),
    );
    compare(
        "replicas",
        found.num_replicas.to_string(),
        wanted.num_replicas.to_string(),
    );
    differences
}

/// A stream as the server describes it: what our own feeds need to know of it.
#[derive(Debug, serde::Deserialize)]
pub(super) struct StreamInfo {
    pub(super) created: jiff::Timestamp,
    /// The server's clock at the answer.
    pub(super) ts: Option<jiff::Timestamp>,
    pub(super) state: StreamState,
}

#[derive(Debug, serde::Deserialize)]
pub(super) struct StreamState {
    pub(super) last_seq: u64,
}

/// Asks the server about a stream.
pub(super) async fn info(jetstream: &Context, name: &str) -> Result<StreamInfo, String> {
    let response: jetstream::response::Response<StreamInfo> = jetstream
        .request(format!("STREAM.INFO.{name}"), &())
        .await
        .map_err(|e| e.to_string())?;
    match response {
        jetstream::response::Response::Ok(info) => Ok(info),
        jetstream::response::Response::Err { error } => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_we_make_is_what_we_want() {
        for spec in &STREAMS {
            let config = stream_config(spec, 1);
            assert!(differences(&config, &config).is_empty());
            assert!(config.max_bytes > 0, "{} is bounded", spec.name);
        }
    }

    #[test]
    fn a_stream_of_somebody_else_is_told_apart() {
        let wanted = stream_config(&STREAMS[0], 1);
        let found = Config {
            metadata: Default::default(),
            max_bytes: -1,
            ..wanted.clone()
        };
        let differences = differences(&found, &wanted);
        assert_eq!(differences.len(), 2, "{differences:?}");
    }
}
