//! Laneguard actuator: everything Kubernetes.
//!
//! Keeps the bandwidth annotations of best-effort pods equal to the limits that are commanded over NATS, restores them when they are no longer
//! wanted, and reports what it did. A pod with `laneguard.dev/ignore` is left as it is, limited or not. Annotates running pods only; templates and workloads are never touched and nothing restarts.
//!
//! Where to look: what may happen to a pod, [`plan`]; which command is in force and until when, [`commands`]; which policies act where,
//! [`policies`]; when pods are looked at and how outcomes are counted, [`reconcile`] and [`batch`]; the write and its fences, [`apply`]; who
//! may write, [`leader`]; the annotations' form, [`annotation`].
//!
//! Needs of Kubernetes' RBAC, cluster-wide: pods get, list, watch, patch; namespaces list, watch (only if a policy has a namespace selector with
//! requirements). In the lease's namespace: leases get, create, update. It writes no Kubernetes Events: one per limit change and pod would be
//! noise; outcomes and logs say it per class.

pub mod annotation;
pub mod apply;
pub mod args;
pub mod batch;
pub mod commands;
pub mod connect;
pub mod drive;
pub mod environment;
pub mod leader;
pub mod messages;
pub mod metrics;
pub mod placement;
pub mod placement_store;
pub mod plan;
pub mod pods;
pub mod policies;
pub mod policy_store;
pub mod rate_of_change;
pub mod reconcile;
pub mod watch;
pub mod wire;

use laneguard_runtime::Process;
use laneguard_runtime::bus::{Bus, Producer};
use tokio::sync::{mpsc, oneshot, watch as value};
use tokio::time::Instant;

use crate::apply::Writer;
use crate::args::Args;
use crate::drive::Links;
use crate::leader::Elector;
use crate::metrics::Metrics;
use crate::reconcile::{Reconciler, Settings};

/// Events from the watches and from NATS that wait for the reconciler. When full, their readers wait.
const QUEUE: usize = 1024;
/// Outcomes that wait for NATS. When full, new ones are dropped and counted.
const REPORTS: usize = 4096;

/// Sets up the service's tasks.
///
/// Pods, leadership and expiry work without NATS from the start.
///
/// # Errors
/// When the configuration cannot be used.
pub async fn run(args: Args, mut process: Process) -> anyhow::Result<Process> {
    let Args {
        common,
        producer,
        admin_addr,
        kubernetes,
        environment,
    } = args;
    let environment = environment::policy(&environment)?;
    let metrics = Metrics::default();
    metrics.register(&mut process.registry);
    let client = connect::client(kubernetes.kubeconfig.as_deref()).await?;
    let policy_namespace =
        connect::policy_namespace(kubernetes.policy_namespace.as_deref(), &client);
    let lease_namespace = kubernetes
        .lease_namespace
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| policy_namespace.clone());
    let identity = connect::identity();
    tracing::info!(
        policy_namespace,
        lease_namespace,
        lease = kubernetes.lease_name,
        identity,
        "acting in Kubernetes"
    );

    let producer = Producer {
        service: "actuator",
        cluster: common.cluster,
        encoding: producer.message_encoding,
    };
    let bus = Bus::connect(&common.nats, producer, &mut process).await?;
    let stop = process.shutdown();
    let (seen_to, seen) = mpsc::channel(QUEUE);
    let (inputs_to, inputs) = mpsc::channel(QUEUE);
    let (reports, reports_from) = mpsc::channel(REPORTS);
    let (placements, placements_from) = value::channel(None);
    let (listed, listed_from) = value::channel(false);
    let (namespaces, namespaces_from) = value::channel(false);
    let (elector, leadership) = Elector::new(
        client.clone(),
        &lease_namespace,
        &kubernetes.lease_name,
        identity,
        {
            let bus = bus.clone();
            move || bus.is_connected()
        },
    );
    let links = Links {
        seen,
        inputs,
        reports,
        placements,
        listed,
        namespaces,
        leadership: leadership.clone(),
        pods_ready: process.readiness.latch("pods"),
        policies_ready: process.readiness.latch("policies"),
    };
    let settings = Settings {
        critical: kubernetes.critical_selector,
        policy_namespace,
        concurrency: kubernetes.write_concurrency.into(),
    };
    let reconciler = Reconciler::new(settings, metrics.clone(), Instant::now());
    let writer = Writer::new(client.clone(), leadership.clone(), metrics.clone());
    process.serve_admin(admin_addr).await?;

    let (reconciling, reconciled) = oneshot::channel::<()>();
    process.spawn("lease", elector.run(reconciled));
    let reconciler = drive::run(reconciler, writer, links, metrics.clone(), stop.clone());
    process.spawn("reconciler", async move {
        let result = reconciler.await;
        // the lease is given up only when nothing is written any more
        drop(reconciling);
        result
    });
    process.spawn(
        "pods",
        watch::pods(
            client.clone(),
            seen_to.clone(),
            metrics.clone(),
            stop.clone(),
        ),
    );
    process.spawn(
        "namespaces",
        watch::namespaces(
            client,
            namespaces_from,
            seen_to,
            metrics.clone(),
            stop.clone(),
        ),
    );
    process.spawn(
        "policies",
        policy_store::policies(
            bus.clone(),
            environment,
            leadership.clone(),
            listed_from.clone(),
            inputs_to.clone(),
            metrics.clone(),
            stop.clone(),
        ),
    );
    process.spawn(
        "overrides",
        policy_store::overrides(
            bus.clone(),
            leadership.clone(),
            inputs_to.clone(),
            metrics.clone(),
            stop.clone(),
        ),
    );
    process.spawn(
        "messages",
        messages::receive(bus.clone(), listed_from, inputs_to, stop.clone()),
    );
    process.spawn(
        "placement",
        placement_store::keep(bus.clone(), placements_from, leadership, stop.clone()),
    );
    process.spawn(
        "outcomes",
        messages::publish(bus, reports_from, metrics, stop),
    );
    Ok(process)
}
