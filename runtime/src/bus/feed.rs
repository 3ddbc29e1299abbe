//! A consumer that never ends: made anew after a gap, a reconnect, or when its stream was lost, with the last message of each subject replayed.

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use bytes::Bytes;
use futures::StreamExt;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::connection::Bus;
use super::storage;
use crate::backoff::Backoff;

/// Items waiting for a slow reader. When full, the feed stops fetching and the server keeps the rest.
const QUEUE: usize = 1024;
/// How often the server says that it is there.
const HEARTBEAT: Duration = Duration::from_secs(2);

/// Where a feed begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Begin {
    /// With the last message of each subject, again after each gap.
    LastPerSubject,
    /// With what comes next; after a gap where it left off.
    New,
    /// With messages stored at most this long ago; after a gap where it left off.
    Ago(Duration),
}

/// A message as the stream has it.
#[derive(Debug)]
pub(super) struct Raw {
    pub(super) subject: String,
    pub(super) stream_sequence: u64,
    pub(super) headers: Option<HeaderMap>,
    pub(super) payload: Bytes,
    pub(super) stored_ms: i64,
    pub(super) age: Duration,
    pub(super) received: Instant,
}

#[derive(Debug)]
pub(super) enum Item {
    /// Delivery begins, or begins anew after a gap.
    Opened,
    Message(Raw),
    /// Everything that was stored when the feed was opened has been delivered.
    CaughtUp,
}

/// Ends with its handle.
#[derive(Debug)]
pub(super) struct Feed {
    items: mpsc::Receiver<Item>,
    task: JoinHandle<()>,
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Feed {
    pub(super) fn open(bus: &Bus, stream: String, filter: String, begin: Begin) -> Self {
        let (sender, items) = mpsc::channel(QUEUE);
        let reader = Reader {
            bus: bus.clone(),
            stream,
            filter,
            begin,
            sender,
            seen: None,
        };
        let task = tokio::spawn(reader.run());
        Self { items, task }
    }

    /// The next item; `None` only when the reader's task is gone. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<Item> {
        self.items.recv().await
    }
}

struct Reader {
    bus: Bus,
    stream: String,
    filter: String,
    begin: Begin,
    sender: mpsc::Sender<Item>,
    /// The life of the stream and the last message seen in it.
    seen: Option<(jiff::Timestamp, u64)>,
}

/// Why a feed must be opened anew.
enum Interruption {
    Closed,
    Failed(String),
}

impl Reader {
    async fn run(mut self) {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
        loop {
            self.bus.ready().await;
            let opened = Instant::now();
            match self.read().await {
                Interruption::Closed => return,
                Interruption::Failed(reason) => {
                    tracing::debug!(stream = self.stream, reason, "feed interrupted");
                }
            }
            if self.sender.is_closed() {
                return;
            }
            self.bus.metrics.reopened.inc();
            if opened.elapsed() > Duration::from_secs(10) {
                backoff.reset();
            }
            // a reconnect cuts the wait short
            let mut generation = self.bus.generation.clone();
            generation.mark_unchanged();
            tokio::select! {
                () = tokio::time::sleep(backoff.delay()) => {}
                _ = generation.changed() => {}
            }
        }
    }

    async fn read(&mut self) -> Interruption {
        let mut generation = self.bus.generation.clone();
        generation.mark_unchanged();
        let info = match storage::info(&self.bus.jetstream, &self.stream).await {
            Ok(info) => info,
            Err(reason) => {
                self.bus.wanted.notify_one();
                return Interruption::Failed(reason);
            }
        };
        // ages go by the server's clock, carried on by our monotonic one: a step of our wall clock makes no message old
        let opened = Instant::now();
        let server_ms = info
            .ts
            .map_or_else(crate::clock::unix_ms, |ts| ts.as_millisecond());
        let deliver = self.deliver_policy(&info);
        self.seen = Some((info.created, self.resume_sequence(&info)));

        let config = pull::Config {
            deliver_policy: deliver,
            ack_policy: AckPolicy::None,
            filter_subject: self.filter.clone(),
            inactive_threshold: Duration::from_secs(30),
            memory_storage: true,
            num_replicas: 1,
            ..Default::default()
        };
        let created = self
            .bus
            .jetstream
            .create_consumer_on_stream(config, self.stream.as_str())
            .await;
        let consumer = match created {
            Ok(consumer) => consumer,
            Err(error) => return Interruption::Failed(error.to_string()),
        };
        let mut behind = consumer.cached_info().num_pending > 0;
        let first = [Some(Item::Opened), (!behind).then_some(Item::CaughtUp)];
        for item in first.into_iter().flatten() {
            if self.sender.send(item).await.is_err() {
                return Interruption::Closed;
            }
        }
        let messages = consumer
            .stream()
            .expires(Duration::from_secs(20))
            .heartbeat(HEARTBEAT)
            .max_messages_per_batch(QUEUE)
            .messages()
            .await;
        let mut messages = match messages {
            Ok(messages) => messages,
            Err(error) => return Interruption::Failed(error.to_string()),
        };
        let mut expected = 1;
        loop {
            let message = tokio::select! {
                message = messages.next() => message,
                _ = generation.changed() => return Interruption::Failed("reconnected".into()),
                () = self.sender.closed() => return Interruption::Closed,
            };
            let message = match message {
                Some(Ok(message)) => message,
                Some(Err(error)) => return Interruption::Failed(error.to_string()),
                None => return Interruption::Failed("the consumer ended".into()),
            };
            let info = match message.info() {
                Ok(info) => info,
                Err(error) => return Interruption::Failed(error.to_string()),
            };
            if info.consumer_sequence != expected {
                return Interruption::Failed("a gap in the delivery".into());
            }
            expected += 1;
            let (stream_sequence, pending) = (info.stream_sequence, info.pending);
            let stored_ms = (info.published.unix_timestamp_nanos() / 1_000_000) as i64;
            let now_ms = server_ms + opened.elapsed().as_millis() as i64;
            let age_ms = now_ms - stored_ms;
            if let Some((_, seen)) = &mut self.seen {
                *seen = stream_sequence;
            }
            let message = message.message;
            let raw = Raw {
                subject: message.subject.to_string(),
                stream_sequence,
                headers: message.headers,
                payload: message.payload,
                stored_ms,
                age: Duration::from_millis(age_ms.max(0) as u64),
                received: Instant::now(),
            };
            if self.sender.send(Item::Message(raw)).await.is_err() {
                return Interruption::Closed;
            }
            if behind && pending == 0 {
                behind = false;
                if self.sender.send(Item::CaughtUp).await.is_err() {
                    return Interruption::Closed;
                }
            }
        }
    }

    fn same_life(&self, info: &storage::StreamInfo) -> Option<u64> {
        self.seen
            .filter(|(created, seen)| *created == info.created && *seen <= info.state.last_seq)
            .map(|(_, seen)| seen)
    }

    fn deliver_policy(&self, info: &storage::StreamInfo) -> DeliverPolicy {
        match (self.begin, self.seen, self.same_life(info)) {
            (Begin::LastPerSubject, _, _) => DeliverPolicy::LastPerSubject,
            (_, _, Some(seen)) => DeliverPolicy::ByStartSequence {
                start_sequence: seen + 1,
            },
            // the stream was lost and made anew: all of it is new
            (_, Some(_), None) => DeliverPolicy::All,
            (Begin::New, None, None) => DeliverPolicy::New,
            (Begin::Ago(ago), None, None) => {
                let now = info.ts.unwrap_or_else(jiff::Timestamp::now);
                let start = now - jiff::SignedDuration::from_secs(ago.as_secs() as i64);
                match async_nats::datetime::parse_rfc3339(&start.to_string()) {
                    Ok(start_time) => DeliverPolicy::ByStartTime { start_time },
                    Err(_) => DeliverPolicy::All,
                }
            }
        }
    }

    /// What counts as seen before the first message arrives.
    fn resume_sequence(&self, info: &storage::StreamInfo) -> u64 {
        match (self.begin, self.seen, self.same_life(info)) {
            (_, _, Some(seen)) => seen,
            (Begin::New, None, None) => info.state.last_seq,
            _ => 0,
        }
    }
}
