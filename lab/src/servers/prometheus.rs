//! A real Prometheus that scrapes what it is told to.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use super::{Error, free_address, wait_ready};
use crate::process::{self, Process, StartError};
use crate::tools;

/// Another process may take a port between finding it free and listening on it; then another port is tried.
const ATTEMPTS: usize = 5;

/// One thing to scrape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// Value of the label `job`.
    pub name: String,
    /// Where `/metrics` is.
    pub target: SocketAddr,
}

/// A running Prometheus, killed when this is dropped.
#[derive(Debug)]
pub struct Prometheus {
    process: Process,
    address: SocketAddr,
}

impl Prometheus {
    /// Starts a server with its configuration, data and log in `folder`.
    ///
    /// # Errors
    /// When it does not become ready.
    pub async fn start(
        folder: &Path,
        scrape_interval: Duration,
        jobs: &[Job],
    ) -> Result<Self, Error> {
        let configuration = folder.join("prometheus.yml");
        fs::create_dir_all(folder)
            .and_then(|()| fs::write(&configuration, config(scrape_interval, jobs)))
            .map_err(|source| Error::Prepare {
                what: "the configuration of Prometheus",
                source,
            })?;
        let tool = tools::find("prometheus").map_err(StartError::from)?;
        let mut attempt = 1;
        loop {
            let address = free_address().map_err(|source| Error::Prepare {
                what: "a free port",
                source,
            })?;
            let mut command = process::command(&tool, None).map_err(StartError::from)?;
            command
                .arg(format!("--config.file={}", configuration.display()))
                .arg(format!(
                    "--storage.tsdb.path={}",
                    folder.join("data").display()
                ))
                .arg(format!("--web.listen-address={address}"))
                .arg("--log.level=warn");
            let log = folder.join("prometheus.log");
            let mut process = Process::start("prometheus", command, &log)?;
            match wait_ready(&mut process, &format!("http://{address}/-/ready")).await {
                Ok(()) => return Ok(Self { process, address }),
                Err(Error::Exited(exited))
                    if attempt < ATTEMPTS && exited.tail.contains("address already in use") =>
                {
                    attempt += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// What goes into `PROMETHEUS_URL`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The process, to watch or to signal.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

fn config(scrape_interval: Duration, jobs: &[Job]) -> String {
    let interval = scrape_interval.as_millis();
    let mut text = format!(
        "global:\n  scrape_interval: {interval}ms\n  scrape_timeout: {interval}ms\nscrape_configs:\n"
    );
    for Job { name, target } in jobs {
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "  - job_name: {name}\n    static_configs:\n      - targets: ['{target}']\n"
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_names_every_job_and_keeps_fractions_of_a_second() {
        let jobs = [Job {
            name: "hubble".to_owned(),
            target: ([127, 0, 0, 1], 9965).into(),
        }];
        let text = config(Duration::from_millis(1500), &jobs);
        assert!(text.contains("scrape_interval: 1500ms"), "{text}");
        assert!(text.contains("job_name: hubble"), "{text}");
        assert!(text.contains("targets: ['127.0.0.1:9965']"), "{text}");
    }
}
