//! The decider: samples to decisions by a pure control law, decisions to commands.
//!
//! | question | file |
//! |---|---|
//! | What does a policy or a sample mean to the core? | [`wire`] |
//! | What does a decision rest on, and how is it evaluated again? | [`decide`] |
//! | When is something decided, published, commanded, renewed? | [`engine`] |
//! | What survives this process? | [`memory`] |
//! | Who is right when a write is refused? | [`contest`] |
//! | In which order is it committed and published? | `keeper.rs` |
//! | Which laws run in shadow, and what is said of them? | [`shadow`] |
//! | Which policies are there, and which value is in force? | [`policies`], `consume.rs` |
//!
//! Knows no Kubernetes and no PromQL.

mod args;
mod consume;
pub mod contest;
pub mod decide;
pub mod engine;
mod inbox;
mod keeper;
pub mod memory;
mod metrics;
pub mod policies;
pub mod shadow;
mod shadow_metrics;
pub mod wire;

use std::collections::BTreeSet;
use std::sync::Arc;

use laneguard_proto::storage::STATE;
use laneguard_runtime::Process;
use laneguard_runtime::bus::{Bus, Producer};
use laneguard_runtime::clock;
use laneguard_runtime::lease::Shards;
use tokio::sync::{Semaphore, watch};

pub use args::Args;

/// Policies taken over at once: each asks the server for a few values.
const TAKEOVERS: usize = 32;

/// Sets up the service's tasks.
///
/// # Errors
/// When a setting cannot be used.
pub async fn start(args: Args, mut process: Process) -> anyhow::Result<Process> {
    let metrics = metrics::Metrics::default();
    metrics.register(&mut process.registry);
    let producer = Producer {
        service: "decider",
        cluster: args.common.cluster.clone(),
        encoding: args.producer.message_encoding,
    };
    let bus = Bus::connect(&args.common.nats, producer, &mut process).await?;
    let latch = process.readiness.latch("policies");
    process.serve_admin(args.admin_addr).await?;

    let (interest, interested) = watch::channel(BTreeSet::new());
    let shards = Shards::start(&process, &bus, "decider", interested);
    let owner = format!(
        "{:x}-{:x}",
        clock::since_epoch().as_nanos(),
        std::process::id()
    );
    let shared = keeper::Shared {
        state: bus.bucket(STATE),
        bus,
        metrics,
        shards,
        shutdown: process.shutdown(),
        owner: Arc::from(owner),
        takeovers: Arc::new(Semaphore::new(TAKEOVERS)),
    };
    process.spawn(
        "router",
        consume::Router::new(shared, interest, latch).run(),
    );
    Ok(process)
}
