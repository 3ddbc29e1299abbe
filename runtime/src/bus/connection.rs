//! The connection and what keeps it useful.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use async_nats::connection::State;
use async_nats::jetstream::{self, context::Context};
use async_nats::{Client, ConnectOptions, Event};
use laneguard_proto::codec::Encoding;
use laneguard_proto::subject::Token;
use tokio::sync::{Notify, watch};

use super::metrics::{Metrics, Storage};
use super::storage;
use crate::Process;
use crate::args::NatsArgs;
use crate::backoff::Backoff;
use crate::failure::ConfigError;
use crate::readiness::{Latch, Readiness};
use crate::shutdown::Shutdown;

/// How long an answer of the server may take.
const ANSWER: Duration = Duration::from_secs(5);

/// Who publishes.
#[derive(Debug, Clone)]
pub struct Producer {
    /// The service's short name: collector, decider, actuator, lanectl.
    pub service: &'static str,
    /// The Kubernetes cluster it acts for.
    pub cluster: Token,
    /// How its messages are encoded.
    pub encoding: Encoding,
}

/// A connection to NATS that comes back by itself. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Bus {
    pub(super) client: Client,
    pub(super) jetstream: Context,
    pub(super) producer: Arc<Producer>,
    pub(super) metrics: Metrics,
    /// Rises each time storage was found or made complete after a (re)connect or a loss; 0 before the first time.
    pub(super) generation: watch::Receiver<u64>,
    pub(super) wanted: Arc<Notify>,
}

/// Keeps streams and buckets set up.
struct Supervisor {
    jetstream: Context,
    client: Client,
    args: NatsArgs,
    metrics: Metrics,
    generation: watch::Sender<u64>,
    events: watch::Receiver<Option<bool>>,
    wanted: Arc<Notify>,
    latch: Latch,
    shutdown: Shutdown,
}

impl Bus {
    /// Begins to connect and returns at once; the connection is tried until it stands, and again whenever it is lost. `/readyz` waits for it.
    ///
    /// # Errors
    /// When URL, credentials or certificates cannot be used.
    pub async fn connect(
        args: &NatsArgs,
        producer: Producer,
        process: &mut Process,
    ) -> anyhow::Result<Self> {
        let metrics = Metrics::default();
        metrics.register(&mut process.registry);
        let latch = process.readiness.latch("nats");
        let (bus, supervisor) =
            Self::open(args, producer, metrics, latch, process.shutdown(), true).await?;
        process.spawn("nats", supervisor.run());
        Ok(bus)
    }

    /// Connects once, for a command line: fails when no server answers within 5 s.
    ///
    /// # Errors
    /// When the settings cannot be used, no server answers, or streams and buckets cannot be set up.
    pub async fn connect_once(
        args: &NatsArgs,
        producer: Producer,
        shutdown: Shutdown,
    ) -> anyhow::Result<Self> {
        let latch = Readiness::default().latch("nats");
        let (bus, supervisor) =
            Self::open(args, producer, Metrics::default(), latch, shutdown, false).await?;
        check_version(&bus.client)?;
        storage::ensure(&bus.jetstream, args.nats_replicas, args.nats_manage_streams)
            .await
            .context("streams and buckets are not set up")?;
        tokio::spawn(supervisor.run());
        bus.ready().await;
        Ok(bus)
    }

    async fn open(
        args: &NatsArgs,
        producer: Producer,
        metrics: Metrics,
        latch: Latch,
        shutdown: Shutdown,
        retry: bool,
    ) -> anyhow::Result<(Self, Supervisor)> {
        let (connected, events) = watch::channel(None);
        let (generation, generations) = watch::channel(0);
        let client = options(args, &producer, connected, metrics.clone(), retry)
            .await?
            .connect(servers(&args.nats_url)?)
            .await
            .with_context(|| format!("no NATS server answers at {}", args.nats_url))?;
        let jetstream = jetstream::context::ContextBuilder::new()
            .timeout(ANSWER)
            .ack_timeout(ANSWER)
            .build(client.clone());
        let wanted = Arc::new(Notify::new());
        let bus = Self {
            client: client.clone(),
            jetstream: jetstream.clone(),
            producer: Arc::new(producer),
            metrics: metrics.clone(),
            generation: generations,
            wanted: wanted.clone(),
        };
        let supervisor = Supervisor {
            jetstream,
            client,
            args: args.clone(),
            metrics,
            generation,
            events,
            wanted,
            latch,
            shutdown,
        };
        Ok((bus, supervisor))
    }

    /// Whether the connection stands now.
    pub fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    /// Waits until streams and buckets were set up once.
    pub async fn ready(&self) {
        let mut generation = self.generation.clone();
        // an error means that the process is ending
        let _ = generation.wait_for(|g| *g > 0).await;
    }

    /// The cluster that messages are about.
    pub fn cluster(&self) -> &Token {
        &self.producer.cluster
    }

    /// Sends what is still buffered. Errors mean that the connection is gone, and with it the buffer.
    pub async fn flush(&self) {
        let _ = tokio::time::timeout(Duration::from_secs(1), self.client.flush()).await;
    }
}

fn servers(urls: &str) -> Result<Vec<async_nats::ServerAddr>, ConfigError> {
    urls.split(',')
        .map(|url| {
            url.trim().parse().map_err(|e| {
                ConfigError::new("NATS_URL", format!("`{}` is no URL: {e}", url.trim()))
            })
        })
        .collect()
}

async fn options(
    args: &NatsArgs,
    producer: &Producer,
    connected: watch::Sender<Option<bool>>,
    metrics: Metrics,
    retry: bool,
) -> Result<ConnectOptions, ConfigError> {
    let lost = AtomicBool::new(false);
    let mut options = ConnectOptions::new()
        .name(format!("laneguard-{}", producer.service))
        .connection_timeout(ANSWER)
        .request_timeout(Some(ANSWER))
        .ping_interval(Duration::from_secs(10))
        // samples arrive in bursts of one per workload; a full queue makes the client drop, which the feeds notice and repair
        .subscription_capacity(8192)
        .reconnect_delay_callback(|attempts| {
            let most = Duration::from_secs(2);
            let mut backoff = Backoff::new(Duration::from_millis(50), most);
            (0..attempts.min(8)).fold(Duration::ZERO, |_, _| backoff.delay())
        })
        .event_callback(move |event| {
            match &event {
                Event::Connected => {
                    metrics.connections.inc();
                    metrics.connected.set(1);
                    connected.send_replace(Some(true));
                    if lost.swap(false, Ordering::Relaxed) {
                        tracing::info!("reconnected to NATS");
                    }
                }
                Event::Disconnected => {
                    metrics.connected.set(0);
                    connected.send_replace(Some(false));
                    if !lost.swap(true, Ordering::Relaxed) {
                        tracing::warn!("connection to NATS lost, trying again");
                    }
                }
                // the client is closed when the process ends
                Event::Closed => {}
                // each failed attempt to reconnect is one of these
                Event::ClientError(error) => tracing::debug!(%error, "NATS connection"),
                other => tracing::warn!(event = %other, "NATS connection"),
            }
            std::future::ready(())
        });
    if retry {
        options = options.retry_on_initial_connect();
    }
    if let Some(file) = &args.nats_creds {
        options = options
            .credentials_file(file)
            .await
            .map_err(|e| ConfigError::new("NATS_CREDS", format!("{}: {e}", file.display())))?;
    }
    if let Some(file) = &args.nats_ca {
        std::fs::metadata(file)
            .map_err(|e| ConfigError::new("NATS_CA", format!("{}: {e}", file.display())))?;
        options = options.add_root_certificates(file.clone());
    }
    Ok(options)
}

/// Refuses a server that lacks what we need: expiry of single keys came with 2.11.
fn check_version(client: &Client) -> anyhow::Result<()> {
    let version = client.server_info().version;
    let mut numbers = version
        .split('.')
        .map(|part| part.parse::<u32>().unwrap_or(0));
    let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    anyhow::ensure!(
        found >= (2, 11),
        "nats-server {version} is too old, 2.11 or newer is needed"
    );
    Ok(())
}

impl Supervisor {
    async fn run(mut self) -> anyhow::Result<()> {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
        loop {
            let connected = self.until_connected().await;
            if self.shutdown.is_cancelled() {
                return Ok(());
            }
            // the client ends only with the process: nothing after that is about the server
            connected.map_err(anyhow::Error::msg)?;
            let wait = match self.set_up().await {
                Ok(()) => {
                    backoff.reset();
                    self.latch.ready();
                    self.generation.send_modify(|g| *g += 1);
                    None
                }
                Err(error) => {
                    let error = format!("{error:#}");
                    tracing::error!(error, "NATS is not usable");
                    self.latch.not_ready(error);
                    Some(backoff.delay())
                }
            };
            let shutdown = self.shutdown.clone();
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                () = tokio::time::sleep(wait.unwrap_or_default()), if wait.is_some() => {}
                () = self.lost(), if wait.is_none() => {}
            }
        }
    }

    /// Waits for the connection.
    async fn until_connected(&mut self) -> Result<(), String> {
        while self.client.connection_state() != State::Connected {
            self.latch.not_ready("not connected");
            let shutdown = self.shutdown.clone();
            tokio::select! {
                () = shutdown.cancelled() => return Err("stopping".into()),
                changed = self.events.changed() => changed.map_err(|_| "client closed".to_owned())?,
                // the state may have changed between check and wait
                () = tokio::time::sleep(Duration::from_millis(250)) => {}
            }
        }
        Ok(())
    }

    /// Waits until storage must be looked at again: after a reconnect, or when somebody missed a stream.
    async fn lost(&mut self) {
        self.events.mark_unchanged();
        tokio::select! {
            _ = self.events.changed() => {}
            () = self.wanted.notified() => {
                // many feeds miss the same stream at once; look once
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }

    async fn set_up(&self) -> anyhow::Result<()> {
        check_version(&self.client)?;
        let args = &self.args;
        let foreign = storage::ensure(
            &self.jetstream,
            args.nats_replicas,
            args.nats_manage_streams,
        )
        .await?;
        for found in foreign {
            let gauge = self
                .metrics
                .foreign
                .get_or_create(&Storage { name: found.name });
            if gauge.set(1) == 0 {
                let differences = found.differences.join("; ");
                tracing::warn!(
                    name = found.name,
                    differences,
                    "not configured by this version, left as it is"
                );
            }
        }
        Ok(())
    }
}
