//! The stand-in as a process.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::Context;
use clap::Parser;
use laneguard_lab_kube::{Cluster, Options, kubeconfig, serve};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

/// A stateful, in-memory stand-in for the Kubernetes API, for clients such as kubectl and Laneguard's actuator.
///
/// It has no authentication and forgets everything when it ends. It prints its URL on standard output once it serves.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// Address and port to serve plain HTTP on; port 0 takes a free one.
    #[arg(
        long,
        env = "KUBE_LISTEN",
        default_value = "127.0.0.1:0",
        value_name = "ADDR:PORT"
    )]
    listen: SocketAddr,

    /// Write a kubeconfig for this server to this file. [default: none]
    #[arg(long, env = "KUBE_WRITE_KUBECONFIG", value_name = "FILE")]
    write_kubeconfig: Option<PathBuf>,

    /// Begin with this many ready nodes, node-1 to node-N.
    #[arg(long, env = "KUBE_NODES", default_value_t = 0, value_name = "N")]
    nodes: usize,

    /// Act as every node's kubelet: pods run, and deleted pods go, without anything being started.
    #[arg(long, env = "KUBE_KUBELET")]
    kubelet: bool,

    /// Time that --kubelet takes, in milliseconds.
    #[arg(
        long,
        env = "KUBE_KUBELET_DELAY_MS",
        default_value_t = 100,
        value_name = "MS"
    )]
    kubelet_delay_ms: u64,

    /// Run no workload controllers, scheduler and garbage collector: a bare API server.
    #[arg(long, env = "KUBE_NO_CONTROLLERS")]
    no_controllers: bool,

    /// Changes kept per resource; older watches are told to list again (410).
    #[arg(long, env = "KUBE_HISTORY", default_value_t = 20_000, value_name = "N")]
    history: usize,

    /// Time between the bookmarks of a watch, in seconds.
    #[arg(long, env = "KUBE_BOOKMARK_SECONDS", default_value_t = 10, value_name = "S",
        value_parser = clap::value_parser!(u64).range(1..))]
    bookmark_seconds: u64,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env()
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info")),
        )
        .init();
    let listener = TcpListener::bind(args.listen)
        .await
        .with_context(|| format!("cannot listen on {}", args.listen))?;
    let url = format!("http://{}", listener.local_addr()?);
    if let Some(file) = &args.write_kubeconfig {
        tokio::fs::write(file, kubeconfig(&url))
            .await
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    let cluster = Cluster::with_options(Options {
        history: args.history,
        bookmark_interval: Duration::from_secs(args.bookmark_seconds),
        controllers: !args.no_controllers,
        kubelet: args
            .kubelet
            .then(|| Duration::from_millis(args.kubelet_delay_ms)),
        nodes: args.nodes,
    });
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    println!("{url}");
    serve(listener, cluster, async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
    .await
}
