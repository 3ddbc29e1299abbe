//! Key-value buckets: read, compare-and-set, watch.

use std::collections::BTreeSet;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::stream::DirectGetErrorKind;
use bytes::Bytes;
use laneguard_proto::header;
use laneguard_proto::storage::BucketSpec;

use super::connection::Bus;
use super::feed::{Begin, Feed, Item};
use super::publish::PublishError;
use super::storage::bucket_stream;

/// The header that marks a deletion, and its words.
const OPERATION: &str = "KV-Operation";
/// The header that marks an expiry, written by the server.
const MARKER: &str = "Nats-Marker-Reason";
const TTL: &str = "Nats-TTL";

/// A bucket. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Bucket {
    bus: Bus,
    spec: BucketSpec,
}

/// A key's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    /// The value.
    pub bytes: Bytes,
    /// Its revision, for [`Bucket::update`].
    pub revision: u64,
}

/// Why a bucket did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The key's revision is another one than expected: somebody else wrote.
    #[error("the key was changed by somebody else")]
    Conflict,
    /// No connection, no bucket, or no answer. It may or may not have been written.
    #[error("NATS is unavailable: {0}")]
    Unavailable(String),
}

impl From<PublishError> for StoreError {
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::WrongLastSequence => Self::Conflict,
            PublishError::Unavailable(reason) | PublishError::Refused(reason) => {
                Self::Unavailable(reason)
            }
        }
    }
}

/// What happened to a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It has this value; also repeated after a gap.
    Put {
        /// The key.
        key: String,
        /// The value.
        bytes: Bytes,
        /// Its revision.
        revision: u64,
    },
    /// It was deleted or has expired: there is a marker that says so.
    Deleted {
        /// The key.
        key: String,
    },
    /// Everything stored has been delivered. A key that is not among these has no value; that alone is no deletion,
    /// as the bucket may have been lost.
    Synced {
        /// Keys with a value.
        keys: BTreeSet<String>,
    },
}

impl Bus {
    /// A bucket of ours.
    pub fn bucket(&self, spec: BucketSpec) -> Bucket {
        Bucket {
            bus: self.clone(),
            spec,
        }
    }
}

fn is_deletion(headers: Option<&HeaderMap>) -> bool {
    headers.is_some_and(|headers| {
        headers.get(MARKER).is_some()
            || headers
                .get(OPERATION)
                .is_some_and(|op| matches!(op.as_str(), "DEL" | "PURGE"))
    })
}

impl Bucket {
    fn subject(&self, key: &str) -> String {
        format!("$KV.{}.{key}", self.spec.name)
    }

    async fn last(&self, key: &str) -> Result<Option<(u64, HeaderMap, Bytes)>, StoreError> {
        if !self.bus.is_connected() {
            return Err(StoreError::Unavailable("not connected".into()));
        }
        let stream = self
            .bus
            .jetstream
            .get_stream_no_info(bucket_stream(&self.spec))
            .await
            .map_err(|e| StoreError::Unavailable(e.to_string()))?;
        match stream.direct_get_last_for_subject(self.subject(key)).await {
            Ok(stored) => Ok(Some((stored.sequence, stored.headers, stored.payload))),
            Err(error) if matches!(error.kind(), DirectGetErrorKind::NotFound) => Ok(None),
            Err(error) => {
                self.bus.wanted.notify_one();
                Err(StoreError::Unavailable(error.to_string()))
            }
        }
    }

    async fn write(
        &self,
        key: &str,
        bytes: Bytes,
        revision: Option<u64>,
        extra: &[(&str, &str)],
    ) -> Result<u64, StoreError> {
        let mut headers = HeaderMap::new();
        for (name, value) in extra {
            headers.insert(*name, *value);
        }
        if let Some(revision) = revision {
            headers.insert(
                header::EXPECTED_LAST_SUBJECT_SEQUENCE,
                revision.to_string().as_str(),
            );
        }
        let stored = self.bus.store(self.subject(key), headers, bytes).await?;
        Ok(stored.stream_sequence)
    }

    /// The key's value; `None` when it has none or was deleted.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn get(&self, key: &str) -> Result<Option<Value>, StoreError> {
        Ok(self
            .last(key)
            .await?
            .filter(|(_, headers, _)| !is_deletion(Some(headers)))
            .map(|(revision, _, bytes)| Value { bytes, revision }))
    }

    /// Writes whatever was there before.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn put(&self, key: &str, bytes: impl Into<Bytes>) -> Result<u64, StoreError> {
        self.write(key, bytes.into(), None, &[]).await
    }

    /// Writes a value that goes by itself; only in buckets with expiring keys.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn put_for(
        &self,
        key: &str,
        bytes: impl Into<Bytes>,
        ttl: Duration,
    ) -> Result<u64, StoreError> {
        let ttl = format!("{}s", ttl.as_secs().max(1));
        self.write(key, bytes.into(), None, &[(TTL, &ttl)]).await
    }

    /// Writes only if the key has no value (or a deletion marker).
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when it has one.
    pub async fn create(&self, key: &str, bytes: impl Into<Bytes>) -> Result<u64, StoreError> {
        let bytes = bytes.into();
        match self.write(key, bytes.clone(), Some(0), &[]).await {
            Err(StoreError::Conflict) => match self.last(key).await? {
                Some((revision, headers, _)) if is_deletion(Some(&headers)) => {
                    self.write(key, bytes, Some(revision), &[]).await
                }
                _ => Err(StoreError::Conflict),
            },
            other => other,
        }
    }

    /// Writes only if the key still has this revision: the compare-and-set that commits.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when somebody else wrote, or the bucket was lost.
    pub async fn update(
        &self,
        key: &str,
        bytes: impl Into<Bytes>,
        revision: u64,
    ) -> Result<u64, StoreError> {
        self.write(key, bytes.into(), Some(revision), &[]).await
    }

    /// Leaves a deletion marker.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.write(key, Bytes::new(), None, &[(OPERATION, "DEL")])
            .await
            .map(drop)
    }

    /// Leaves a deletion marker if the key still has this revision.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when somebody else wrote.
    pub async fn delete_revision(&self, key: &str, revision: u64) -> Result<(), StoreError> {
        self.write(key, Bytes::new(), Some(revision), &[(OPERATION, "DEL")])
            .await
            .map(drop)
    }

    /// All current values whose key matches (subject wildcards `*` and `>`), then [`Change::Synced`], then changes, for ever.
    pub fn watch(&self, filter: &str) -> Watch {
        Watch {
            prefix: format!("$KV.{}.", self.spec.name),
            feed: Feed::open(
                &self.bus,
                bucket_stream(&self.spec),
                self.subject(filter),
                Begin::LastPerSubject,
            ),
            keys: BTreeSet::new(),
        }
    }
}

/// See [`Bucket::watch`].
#[derive(Debug)]
pub struct Watch {
    prefix: String,
    feed: Feed,
    /// Keys with a value, as delivered since the feed was opened.
    keys: BTreeSet<String>,
}

impl Watch {
    /// The next change; `None` only when the process is ending. Cancel-safe.
    pub async fn next(&mut self) -> Option<Change> {
        loop {
            match self.feed.next().await? {
                Item::Opened => self.keys.clear(),
                Item::CaughtUp => {
                    return Some(Change::Synced {
                        keys: std::mem::take(&mut self.keys),
                    });
                }
                Item::Message(raw) => {
                    let Some(key) = raw.subject.strip_prefix(&self.prefix) else {
                        continue;
                    };
                    let key = key.to_owned();
                    if is_deletion(raw.headers.as_ref()) {
                        self.keys.remove(&key);
                        return Some(Change::Deleted { key });
                    }
                    self.keys.insert(key.clone());
                    return Some(Change::Put {
                        key,
                        bytes: raw.payload,
                        revision: raw.stream_sequence,
                    });
                }
            }
        }
    }
}
