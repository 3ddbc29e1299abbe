//! A real nats-server and connections to it as a service has them.

use std::path::Path;

use laneguard_lab::servers::nats::Nats;
use laneguard_proto::codec::Encoding;
use laneguard_runtime::args::NatsArgs;
use laneguard_runtime::bus::{Bus, Producer};
use laneguard_runtime::shutdown::Trigger;
use laneguard_runtime::{Ends, Process};
use tempfile::TempDir;

/// A server with a store of its own; both go when this is dropped.
#[derive(Debug)]
pub struct Broker {
    /// The server.
    pub nats: Nats,
    folder: TempDir,
}

/// A service's shell with a bus. Dropping it stops the service's tasks.
#[derive(Debug)]
pub struct Shell {
    /// The connection.
    pub bus: Bus,
    /// The shell.
    pub process: Process,
    /// Stops it.
    pub trigger: Trigger,
    /// Where core tasks report their end.
    pub ends: Ends,
}

impl Drop for Shell {
    fn drop(&mut self) {
        self.trigger.trigger();
    }
}

/// Flags for a server.
pub fn nats_args(url: &str) -> NatsArgs {
    NatsArgs {
        nats_url: url.to_owned(),
        nats_creds: None,
        nats_ca: None,
        nats_replicas: 1,
        nats_manage_streams: true,
    }
}

impl Broker {
    /// Starts a server.
    ///
    /// # Errors
    /// When it does not become ready.
    pub async fn start() -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let nats = Nats::start(folder.path()).await?;
        Ok(Self { nats, folder })
    }

    /// Its files.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A service of this name in cluster `default`.
    ///
    /// # Errors
    /// When the settings cannot be used.
    pub async fn shell(&self, service: &'static str, encoding: Encoding) -> anyhow::Result<Shell> {
        shell(&nats_args(&self.nats.url()), service, encoding).await
    }

    /// Kills the server as a crash would, loses its disk if asked to, and starts it again.
    ///
    /// # Errors
    /// When it does not become ready again.
    pub async fn crash(self, lose_disk: bool) -> anyhow::Result<Self> {
        let Self { mut nats, folder } = self;
        nats.kill().await;
        if lose_disk {
            std::fs::remove_dir_all(nats.store())?;
        }
        let nats = nats.restart().await?;
        Ok(Self { nats, folder })
    }
}

/// A service with these flags.
///
/// # Errors
/// When the settings cannot be used.
pub async fn shell(
    args: &NatsArgs,
    service: &'static str,
    encoding: Encoding,
) -> anyhow::Result<Shell> {
    let (mut process, trigger, ends) = Process::new(service);
    let producer = Producer {
        service,
        cluster: "default".parse()?,
        encoding,
    };
    let bus = Bus::connect(args, producer, &mut process).await?;
    Ok(Shell {
        bus,
        process,
        trigger,
        ends,
    })
}
