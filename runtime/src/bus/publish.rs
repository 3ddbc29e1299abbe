//! Publishing with headers, deduplication and fencing.

use async_nats::HeaderMap;
use async_nats::jetstream::context::PublishErrorKind;
use bytes::Bytes;
use laneguard_proto::codec::{WireMessage, encode};
use laneguard_proto::header::{self, MessageId, cloud_event};

use super::connection::Bus;
use crate::{clock, telemetry};

/// How a message is published.
#[derive(Debug, Clone, Copy, Default)]
pub struct Publish<'a> {
    /// Refuse unless the subject's last message has this stream sequence (0: unless there is none).
    pub expect_last: Option<u64>,
    /// A shadow decision of this law.
    pub shadow: Option<&'a str>,
}

/// The server's acknowledgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// Where it is in the stream; of the first one, for a duplicate.
    pub stream_sequence: u64,
    /// It had been stored before.
    pub duplicate: bool,
}

/// Why a message was not stored.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The subject's last message is another one than expected: somebody else published.
    #[error("the subject's last message is not the expected one")]
    WrongLastSequence,
    /// No connection, no stream, or no answer. It may or may not have been stored; publishing again is safe.
    #[error("NATS is unavailable: {0}")]
    Unavailable(String),
    /// The server or our own encoding refuses the message; publishing it again is futile.
    #[error("the message is refused: {0}")]
    Refused(String),
}

impl PublishError {
    fn kind(&self) -> &'static str {
        match self {
            Self::WrongLastSequence => "wrong_last_sequence",
            Self::Unavailable(_) => "unavailable",
            Self::Refused(_) => "refused",
        }
    }
}

impl Bus {
    /// Publishes and waits until the message is stored.
    ///
    /// # Errors
    /// See [`PublishError`].
    pub async fn publish<M: WireMessage + MessageId>(
        &self,
        subject: &str,
        message: &M,
        how: Publish<'_>,
    ) -> Result<Published, PublishError> {
        let kind = kind_of(M::FULL_NAME);
        let result = self.send(subject, message, how).await;
        let word = match &result {
            Ok(published) if published.duplicate => "duplicate",
            Ok(_) => "stored",
            Err(error) => error.kind(),
        };
        self.metrics.publication(kind, word);
        result
    }

    async fn send<M: WireMessage + MessageId>(
        &self,
        subject: &str,
        message: &M,
        how: Publish<'_>,
    ) -> Result<Published, PublishError> {
        let encoding = self.producer.encoding;
        let payload =
            encode(message, encoding).map_err(|e| PublishError::Refused(e.to_string()))?;
        let id = message.message_id();
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, encoding.content_type());
        headers.insert(header::MESSAGE_ID, id.as_str());
        headers.insert(cloud_event::SPEC_VERSION, "1.0");
        headers.insert(cloud_event::ID, id.as_str());
        let source = format!(
            "laneguard/{}/{}",
            self.producer.service, self.producer.cluster
        );
        headers.insert(cloud_event::SOURCE, source.as_str());
        headers.insert(cloud_event::TYPE, M::FULL_NAME);
        headers.insert(cloud_event::TIME, clock::rfc3339().as_str());
        headers.insert(cloud_event::DATA_CONTENT_TYPE, encoding.content_type());
        if let Some(law) = how.shadow {
            headers.insert(header::SHADOW, law);
        }
        if let Some(sequence) = how.expect_last {
            headers.insert(
                header::EXPECTED_LAST_SUBJECT_SEQUENCE,
                sequence.to_string().as_str(),
            );
        }
        telemetry::inject(&tracing::Span::current(), &mut headers);
        self.store(subject.to_owned(), headers, payload.into())
            .await
    }

    /// Publishes bytes into a stream and waits for the acknowledgement.
    pub(super) async fn store(
        &self,
        subject: String,
        headers: HeaderMap,
        payload: Bytes,
    ) -> Result<Published, PublishError> {
        if !self.is_connected() {
            // what is buffered now would be delivered later, when it is no longer meant
            return Err(PublishError::Unavailable("not connected".into()));
        }
        let acknowledged = async {
            self.jetstream
                .publish_with_headers(subject, headers, payload)
                .await?
                .await
        };
        match acknowledged.await {
            Ok(ack) => Ok(Published {
                stream_sequence: ack.sequence,
                duplicate: ack.duplicate,
            }),
            Err(error) => Err(match error.kind() {
                PublishErrorKind::WrongLastSequence | PublishErrorKind::WrongLastMessageId => {
                    PublishError::WrongLastSequence
                }
                PublishErrorKind::StreamNotFound => {
                    self.wanted.notify_one();
                    PublishError::Unavailable("the stream is gone".into())
                }
                PublishErrorKind::MaxPayloadExceeded => PublishError::Refused(error.to_string()),
                _ => PublishError::Unavailable(error.to_string()),
            }),
        }
    }
}

/// `sample` of `laneguard.v1.Sample`, for labels.
fn kind_of(full_name: &'static str) -> &'static str {
    match full_name {
        "laneguard.v1.Sample" => "sample",
        "laneguard.v1.Decision" => "decision",
        "laneguard.v1.Command" => "command",
        _ => "outcome",
    }
}
