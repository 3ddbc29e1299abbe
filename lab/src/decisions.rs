//! Laneguard's decision stream as the lab follows it: one more subscriber, with a raw log of its own.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use laneguard_proto::codec::{Encoding, to_json};
use laneguard_proto::subject::Kind;
use laneguard_proto::v1::Decision;
use laneguard_runtime::args::NatsArgs;
use laneguard_runtime::bus::{Bus, Producer, Start, Subscription};
use laneguard_runtime::shutdown::{self, Trigger};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::live::Decided;
use crate::services::CLUSTER;

/// Name of the raw log: one decision a line, as proto3 JSON.
pub const FILE: &str = "decisions.jsonl";

/// The decision stream from the moment it was opened.
#[derive(Debug)]
pub struct Decisions {
    last: Arc<Mutex<Option<Decided>>>,
    task: JoinHandle<anyhow::Result<()>>,
    /// The connection ends when this is dropped.
    _end: Trigger,
}

impl Decisions {
    /// Sets up the streams and follows the decisions of the lab's cluster.
    ///
    /// # Errors
    /// When NATS does not answer or the log cannot be written.
    pub async fn follow(nats_url: &str, folder: &Path) -> anyhow::Result<Self> {
        let args = NatsArgs {
            nats_url: nats_url.to_owned(),
            nats_creds: None,
            nats_ca: None,
            nats_replicas: 1,
            nats_manage_streams: true,
        };
        let producer = Producer {
            service: "lab",
            cluster: CLUSTER.parse()?,
            encoding: Encoding::Protobuf,
        };
        let (end, ended) = shutdown::channel();
        let bus = Bus::connect_once(&args, producer, ended).await?;
        let decisions = bus.subscribe::<Decision>(Kind::Decision, Start::New);
        let path = folder.join(FILE);
        let log =
            File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        let last = Arc::new(Mutex::new(None));
        let task = tokio::spawn(record(decisions, log, Arc::clone(&last)));
        Ok(Self {
            last,
            task,
            _end: end,
        })
    }

    /// The newest decision.
    #[must_use]
    pub fn last(&self) -> Option<Decided> {
        self.last
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Finds out whether the stream is still followed.
    ///
    /// # Errors
    /// When it is not.
    pub fn check(&self) -> anyhow::Result<()> {
        anyhow::ensure!(!self.task.is_finished(), "the decision stream ended");
        Ok(())
    }
}

impl Drop for Decisions {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn record(
    mut decisions: Subscription<Decision>,
    mut log: File,
    last: Arc<Mutex<Option<Decided>>>,
) -> anyhow::Result<()> {
    while let Some(received) = decisions.next().await {
        let decision = received.message;
        writeln!(log, "{}", to_json(&decision)?)?;
        if !decision.shadow {
            *last.lock().unwrap_or_else(PoisonError::into_inner) = Some(Decided {
                action: decision.action,
                reason: decision.reason,
                at: Instant::now(),
            });
        }
    }
    Ok(())
}
