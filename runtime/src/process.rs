//! The life of a service: parse, run, drain, exit.

use std::future::Future;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::args::HasCommon;
use crate::command_line::{self, EXIT_CONFIG};
use crate::failure::ConfigError;
use crate::readiness::Readiness;
use crate::shutdown::{self, Shutdown, Trigger};
use crate::{admin, telemetry};

/// How long tasks may take to finish after the shutdown began.
const GRACE: Duration = Duration::from_secs(10);

/// What a service gets from its shell.
#[derive(Debug)]
pub struct Process {
    /// The service's metrics; register before [`Process::serve_admin`].
    pub registry: Registry,
    /// What must hold before `/readyz` says so.
    pub readiness: Readiness,
    shutdown: Shutdown,
    ended: mpsc::UnboundedSender<(&'static str, anyhow::Result<()>)>,
}

/// Reports of core tasks that ended.
pub type Ends = mpsc::UnboundedReceiver<(&'static str, anyhow::Result<()>)>;

impl Process {
    /// A shell for a service, what stops it, and where its core tasks report their end. [`run`] makes one; so does what embeds a service.
    pub fn new(name: &'static str) -> (Self, Trigger, Ends) {
        let (trigger, shutdown) = shutdown::channel();
        // bounded by the number of core tasks, each of which reports once
        let (ended, ends) = mpsc::unbounded_channel();
        let mut registry = Registry::default();
        registry.register(
            "laneguard_build",
            "Version of this binary",
            Info::new([("service", name), ("version", env!("CARGO_PKG_VERSION"))]),
        );
        let process = Self {
            registry,
            readiness: Readiness::default(),
            shutdown,
            ended,
        };
        (process, trigger, ends)
    }

    /// When to stop.
    pub fn shutdown(&self) -> Shutdown {
        self.shutdown.clone()
    }

    /// Runs a task that the service cannot do without: if it ends before the shutdown began, or fails, or panics, the process ends with 1.
    /// After the shutdown began the process waits for it, 10 s at most.
    pub fn spawn(
        &self,
        name: &'static str,
        task: impl Future<Output = anyhow::Result<()>> + Send + 'static,
    ) {
        let ended = self.ended.clone();
        let task = tokio::spawn(task);
        tokio::spawn(async move {
            let result = match task.await {
                Ok(result) => result,
                Err(error) => Err(anyhow::Error::new(error)),
            };
            // the receiver is gone only when the process is ending anyway
            let _ = ended.send((name, result));
        });
    }

    /// Binds the admin address and serves `/livez`, `/readyz` and `/metrics`; takes the registry.
    ///
    /// # Errors
    /// When the address cannot be bound, named by its setting.
    pub async fn serve_admin(&mut self, address: SocketAddr) -> Result<SocketAddr, ConfigError> {
        let listener = TcpListener::bind(address).await.map_err(|e| {
            ConfigError::new("ADMIN_ADDR", format!("cannot listen on {address}: {e}"))
        })?;
        let bound = listener.local_addr().unwrap_or(address);
        tracing::info!(address = %bound, "serving /livez /readyz /metrics");
        let registry = std::mem::take(&mut self.registry);
        let (readiness, stop) = (self.readiness.clone(), self.shutdown());
        self.spawn("admin", async move {
            admin::serve(listener, registry, readiness, stop)
                .await
                .context("the admin endpoint failed")
        });
        Ok(bound)
    }
}

/// Parses the flags, sets up logs and signals, runs the service until it ends or a signal comes, and gives the exit code.
///
/// The service sets up its tasks with [`Process::spawn`] and returns; the process then lives as long as they do.
pub fn run<A, F>(name: &'static str, service: impl FnOnce(A, Process) -> F) -> ExitCode
where
    A: Parser + HasCommon,
    F: Future<Output = anyhow::Result<Process>>,
{
    let args: A = match command_line::parse(A::command()) {
        Ok(args) => args,
        Err(code) => return code,
    };
    // fails only when another provider was installed before, which is as good
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: the runtime cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(async {
        let telemetry = match telemetry::init(name, args.common()) {
            Ok(telemetry) => telemetry,
            Err(error) => return config_failure(&error),
        };
        let code = live(name, args, service).await;
        // spans are flushed over the network: not on a runtime thread
        let _ = tokio::task::spawn_blocking(move || telemetry.flush()).await;
        code
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    code
}

fn config_failure(error: &ConfigError) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::from(EXIT_CONFIG)
}

async fn live<A, F>(name: &'static str, args: A, service: impl FnOnce(A, Process) -> F) -> ExitCode
where
    F: Future<Output = anyhow::Result<Process>>,
{
    let (process, trigger, mut ends) = Process::new(name);

    let started = tokio::select! {
        started = service(args, process) => started,
        signal = shutdown::signal() => {
            tracing::info!(signal = signal.unwrap_or("unknown"), "stopped while starting");
            return ExitCode::SUCCESS;
        }
    };
    let process = match started {
        Ok(process) => process,
        Err(error) => return failure(name, &error),
    };
    tracing::info!(
        service = name,
        version = env!("CARGO_PKG_VERSION"),
        "started"
    );

    let mut code = tokio::select! {
        signal = shutdown::signal() => {
            tracing::info!(signal = signal.unwrap_or("unknown"), "stopping");
            ExitCode::SUCCESS
        }
        Some((task, result)) = ends.recv() => match result {
            Ok(()) => {
                tracing::error!(task, "a core task ended");
                ExitCode::FAILURE
            }
            Err(error) => {
                tracing::error!(task, "a core task failed");
                failure(name, &error)
            }
        },
    };
    trigger.trigger();
    drop(process);
    let drained = async {
        while let Some((task, result)) = ends.recv().await {
            if let Err(error) = result {
                tracing::error!(task, error = %chain(&error), "a core task failed while stopping");
                code = ExitCode::FAILURE;
            }
        }
    };
    tokio::select! {
        () = drained => {}
        () = tokio::time::sleep(GRACE) => tracing::warn!("some tasks did not finish in time"),
        _ = shutdown::signal() => tracing::warn!("second signal, stopping at once"),
    }
    tracing::info!(service = name, "stopped");
    code
}

fn failure(name: &str, error: &anyhow::Error) -> ExitCode {
    if let Some(error) = error.downcast_ref::<ConfigError>() {
        return config_failure(error);
    }
    tracing::error!(service = name, error = %chain(error), "cannot go on");
    ExitCode::FAILURE
}

/// An error and what caused it, in one line.
fn chain(error: &anyhow::Error) -> String {
    format!("{error:#}")
}
