//! Typed subscriptions: validated messages, with what is malformed counted, logged once and left behind.

use std::collections::HashMap;
use std::marker::PhantomData;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::stream::DirectGetErrorKind;
use laneguard_proto::codec::{DecodeError, WireMessage, decode};
use laneguard_proto::header;
use laneguard_proto::storage::StreamSpec;
use laneguard_proto::subject::Kind;
use tokio::time::Instant;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use super::connection::Bus;
use super::feed::{Begin, Feed, Item, Raw};
use super::publish::PublishError;
use crate::{clock, telemetry};

/// Where a subscription begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// With the last message of each subject; again after each gap, so that nothing that still holds is missed.
    LastPerSubject,
    /// With what comes next; after a gap where it left off.
    New,
    /// With messages stored at most this long ago; after a gap where it left off.
    Ago(Duration),
}

/// A message that passed validation.
#[derive(Debug)]
pub struct Received<M> {
    /// Where it was published.
    pub subject: String,
    /// Its sequence in the stream.
    pub stream_sequence: u64,
    /// The message.
    pub message: M,
    /// When it was stored, by the server's clock, milliseconds since the Unix epoch.
    pub stored_ms: i64,
    /// How long before receipt it was stored, by the server's clock: more than a moment for a replayed message.
    pub age: Duration,
    /// When it arrived here.
    pub received: Instant,
    /// Its headers.
    pub headers: Option<HeaderMap>,
}

impl<M> Received<M> {
    /// Makes the span a child of the one that the message was published in.
    pub fn set_parent(&self, span: &tracing::Span) {
        // fails only for a span that is not recorded
        let _ = span.set_parent(telemetry::extract(self.headers.as_ref()));
    }
}

/// The last message on a subject.
#[derive(Debug)]
pub struct Last<M> {
    /// Its sequence in the stream; 0 when there is none.
    pub stream_sequence: u64,
    /// The message; `None` when there is none or it is malformed.
    pub message: Option<M>,
}

/// Messages of one kind, for ever. Dropping it ends the consumer.
#[derive(Debug)]
pub struct Subscription<M> {
    bus: Bus,
    kind: Kind,
    feed: Feed,
    /// The last refused message by subject, so that a replay does not log it again. Bounded.
    refused: HashMap<String, u64>,
    message: PhantomData<fn() -> M>,
}

/// Subjects remembered for logging once.
const MOST_REFUSED: usize = 1024;

/// Decodes and validates, with the reader's clock for what needs one.
fn read<M: WireMessage>(payload: &[u8], headers: Option<&HeaderMap>) -> Result<M, DecodeError> {
    let message: M = decode(payload, content_type(headers))?;
    message.validate_at(clock::unix_ms())?;
    Ok(message)
}

fn content_type(headers: Option<&HeaderMap>) -> Option<&str> {
    headers?
        .get(header::CONTENT_TYPE)
        .map(|value| value.as_str())
}

impl Bus {
    /// Subscribes to all messages of a kind in our cluster. Opens at once, delivers as soon as NATS is there.
    pub fn subscribe<M: WireMessage>(&self, kind: Kind, start: Start) -> Subscription<M> {
        self.subscribe_to(kind, kind.in_cluster(self.cluster()), start)
    }

    /// Subscribes to messages of a kind under a filter, which must be one of that kind's subjects.
    pub fn subscribe_to<M: WireMessage>(
        &self,
        kind: Kind,
        filter: String,
        start: Start,
    ) -> Subscription<M> {
        let begin = match start {
            Start::LastPerSubject => Begin::LastPerSubject,
            Start::New => Begin::New,
            Start::Ago(ago) => Begin::Ago(ago),
        };
        let stream = StreamSpec::of(kind).name.to_owned();
        Subscription {
            bus: self.clone(),
            kind,
            feed: Feed::open(self, stream, filter, begin),
            refused: HashMap::new(),
            message: PhantomData,
        }
    }

    /// Reads the last message on a subject.
    ///
    /// # Errors
    /// [`PublishError::Unavailable`] when NATS does not answer.
    pub async fn last<M: WireMessage>(
        &self,
        kind: Kind,
        subject: &str,
    ) -> Result<Last<M>, PublishError> {
        let unavailable = |reason: String| PublishError::Unavailable(reason);
        if !self.is_connected() {
            return Err(unavailable("not connected".into()));
        }
        let stream = self
            .jetstream
            .get_stream_no_info(StreamSpec::of(kind).name)
            .await
            .map_err(|e| unavailable(e.to_string()))?;
        match stream.direct_get_last_for_subject(subject).await {
            Ok(stored) => {
                let message = read(&stored.payload, Some(&stored.headers));
                Ok(Last {
                    stream_sequence: stored.sequence,
                    message: message.ok(),
                })
            }
            Err(error) if matches!(error.kind(), DirectGetErrorKind::NotFound) => Ok(Last {
                stream_sequence: 0,
                message: None,
            }),
            Err(error) => {
                self.wanted.notify_one();
                Err(unavailable(error.to_string()))
            }
        }
    }
}

impl<M: WireMessage> Subscription<M> {
    /// The next valid message; `None` only when the process is ending. Cancel-safe.
    pub async fn next(&mut self) -> Option<Received<M>> {
        loop {
            match self.feed.next().await? {
                Item::Opened | Item::CaughtUp => {}
                Item::Message(raw) => {
                    if let Some(received) = self.accept(raw) {
                        return Some(received);
                    }
                }
            }
        }
    }

    /// As [`Subscription::next`], but also says, as `Some(None)`, that everything stored before has been delivered.
    pub async fn next_or_caught_up(&mut self) -> Option<Option<Received<M>>> {
        loop {
            match self.feed.next().await? {
                Item::Opened => {}
                Item::CaughtUp => return Some(None),
                Item::Message(raw) => {
                    if let Some(received) = self.accept(raw) {
                        return Some(Some(received));
                    }
                }
            }
        }
    }

    fn accept(&mut self, raw: Raw) -> Option<Received<M>> {
        match read::<M>(&raw.payload, raw.headers.as_ref()) {
            Ok(message) => Some(Received {
                subject: raw.subject,
                stream_sequence: raw.stream_sequence,
                message,
                stored_ms: raw.stored_ms,
                age: raw.age,
                received: raw.received,
                headers: raw.headers,
            }),
            Err(error) => {
                let reason = error.to_string();
                self.refuse(&raw.subject, raw.stream_sequence, error.kind(), &reason);
                None
            }
        }
    }

    /// Counts a message that cannot be acted on and logs it once: for readers that find more wrong than the schema can say.
    pub fn refuse(
        &mut self,
        subject: &str,
        stream_sequence: u64,
        kind: &'static str,
        reason: &str,
    ) {
        self.bus.metrics.refusal(self.kind, kind);
        if self.refused.get(subject) == Some(&stream_sequence) {
            return;
        }
        if self.refused.len() >= MOST_REFUSED {
            self.refused.clear();
        }
        self.refused.insert(subject.to_owned(), stream_sequence);
        tracing::warn!(subject, stream_sequence, reason, "message refused");
    }
}
