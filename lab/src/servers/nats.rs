//! A real nats-server with JetStream.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use tokio::time::{Instant, sleep};

use super::{Error, PATIENCE, wait_ready};
use crate::process::{self, Process, StartError};
use crate::tools;

/// A running nats-server, killed when this is dropped. Its store stays in the folder it was given.
#[derive(Debug)]
pub struct Nats {
    process: Process,
    folder: PathBuf,
    ports: Ports,
}

/// Ports on loopback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ports {
    client: u16,
    monitor: u16,
}

impl Nats {
    /// Starts a server on ports of its own choice, with store and log in `folder`.
    ///
    /// # Errors
    /// When it does not become ready.
    pub async fn start(folder: &Path) -> Result<Self, Error> {
        fs::create_dir_all(folder).map_err(|source| Error::Prepare {
            what: "the folder of nats-server",
            source,
        })?;
        let mut process = spawn(folder, None)?;
        let ports = read_ports(&mut process, folder).await?;
        Self::ready(process, folder.to_owned(), ports).await
    }

    /// Its process id, while it runs.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.process.id()
    }

    /// Starts the server again on the same ports and store, after [`Nats::kill`].
    ///
    /// # Errors
    /// When it does not become ready.
    pub async fn restart(self) -> Result<Self, Error> {
        let Self { folder, ports, .. } = self;
        let process = spawn(&folder, Some(ports))?;
        Self::ready(process, folder, ports).await
    }

    async fn ready(mut process: Process, folder: PathBuf, ports: Ports) -> Result<Self, Error> {
        let health = format!("http://127.0.0.1:{}/healthz", ports.monitor);
        wait_ready(&mut process, &health).await?;
        Ok(Self {
            process,
            folder,
            ports,
        })
    }

    /// What goes into `NATS_URL`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.ports.client)
    }

    /// Address of the monitoring pages (`/varz`, `/jsz`).
    #[must_use]
    pub fn monitor_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports.monitor)
    }

    /// Where the streams are; removing it between [`Nats::kill`] and [`Nats::restart`] is a lost disk.
    #[must_use]
    pub fn store(&self) -> PathBuf {
        self.folder.join("store")
    }

    /// The process, to watch or to signal.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Kills the server as a crash would.
    pub async fn kill(&mut self) {
        self.process.kill().await;
    }
}

fn spawn(folder: &Path, ports: Option<Ports>) -> Result<Process, Error> {
    let tool = tools::find("nats-server").map_err(StartError::from)?;
    let mut command = process::command(&tool, None).map_err(StartError::from)?;
    // -1 lets the server choose; it writes what it chose into the ports file.
    let (client, monitor) = match ports {
        Some(ports) => (ports.client.to_string(), ports.monitor.to_string()),
        None => ("-1".to_owned(), "-1".to_owned()),
    };
    command
        .args(["-a", "127.0.0.1", "-p", &client, "-m", &monitor])
        .args(["-js", "-sd"])
        .arg(folder.join("store"))
        .arg("--ports_file_dir")
        .arg(folder);
    Ok(Process::start(
        "nats-server",
        command,
        &folder.join("nats-server.log"),
    )?)
}

async fn read_ports(process: &mut Process, folder: &Path) -> Result<Ports, Error> {
    // Neither setpriv nor the server forks, so this is the server's own process id.
    let file = folder.join(format!("nats-server_{}.ports", process.id().unwrap_or(0)));
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        process.check()?;
        let ports = fs::read_to_string(&file)
            .ok()
            .and_then(|text| parse_ports(&text));
        if let Some(ports) = ports {
            return Ok(ports);
        }
        sleep(Duration::from_millis(10)).await;
    }
    Err(Error::NotReady {
        name: process.name().to_owned(),
        log: process.log().display().to_string(),
    })
}

fn parse_ports(text: &str) -> Option<Ports> {
    #[derive(Deserialize)]
    struct File {
        nats: Vec<String>,
        monitoring: Vec<String>,
    }
    let port = |urls: &[String]| urls.first()?.rsplit_once(':')?.1.parse().ok();
    // Half a file is no JSON: the server is still writing.
    let file: File = serde_json::from_str(text).ok()?;
    Some(Ports {
        client: port(&file.nats)?,
        monitor: port(&file.monitoring)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_once_the_file_is_complete() {
        let text = r#"{"nats":["nats://127.0.0.1:41001"],"monitoring":["http://127.0.0.1:41002"]}"#;
        let ports = Ports {
            client: 41001,
            monitor: 41002,
        };
        assert_eq!(parse_ports(text), Some(ports));
        assert_eq!(parse_ports(&text[..30]), None);
    }
}
