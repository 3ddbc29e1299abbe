//! One replica of a service: the real binary as a process, with its log, its admin pages, and signals.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use laneguard_lab::process::{self, Process};
use laneguard_lab::servers::http_client;
use laneguard_lab::tools::Tool;
use nix::sys::signal::Signal;
use serde_json::Value;
use tokio::time::Instant;

use crate::binary;
use crate::metrics::Page;
use crate::wait::{soon, until};

/// A running replica. Killed when dropped, and with the test.
#[derive(Debug)]
pub struct Service {
    name: String,
    process: Process,
    log: PathBuf,
    admin: String,
}

impl Service {
    /// Starts a binary with nothing in its environment but these variables, an admin address of its own and a log in JSON, and waits
    /// until it serves its admin pages.
    ///
    /// # Errors
    /// When it ends before that.
    pub async fn start(
        binary: &str,
        name: &str,
        environment: &BTreeMap<String, String>,
        folder: &Path,
    ) -> anyhow::Result<Self> {
        let tool = Tool {
            path: binary::path(binary),
            library_path: None,
        };
        let mut command = process::command(&tool, None)?;
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("ADMIN_ADDR", "127.0.0.1:0")
            .env("LOG_FORMAT", "json")
            .envs(environment);
        let log = folder.join(format!("{name}.log"));
        let process = Process::start(name, command, &log)?;
        let mut service = Self {
            name: name.to_owned(),
            process,
            log,
            admin: String::new(),
        };
        let bound = |line: &Value| {
            let serving = line["message"] == "serving /livez /readyz /metrics";
            serving
                .then(|| line["address"].as_str().map(str::to_owned))
                .flatten()
        };
        let address = until(
            &format!("the admin address of {name}"),
            async || match service.process.check() {
                Ok(()) => Ok(read_log(&service.log).iter().find_map(bound)),
                Err(exited) => Err(exited),
            },
            |answer| !matches!(answer, Ok(None)),
        )
        .await?;
        service.admin = address.context("no address")?;
        Ok(service)
    }

    /// Its name among the replicas.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id, while it runs.
    pub fn id(&self) -> Option<u32> {
        self.process.id()
    }

    /// Whether it runs.
    pub fn is_running(&mut self) -> bool {
        self.process.check().is_ok()
    }

    /// Its log so far, one object a line.
    pub fn log(&self) -> Vec<Value> {
        read_log(&self.log)
    }

    /// The end of its log as text, for a failing test.
    pub fn log_tail(&self, lines: usize) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    async fn page(&self, path: &str) -> Option<(u16, String)> {
        let client = http_client().ok()?;
        let answer = client.get(format!("http://{}{path}", self.admin));
        let answer = answer.send().await.ok()?;
        Some((answer.status().as_u16(), answer.text().await.ok()?))
    }

    /// Its metrics; an empty page while it does not answer.
    pub async fn metrics(&self) -> Page {
        Page::new(self.page("/metrics").await.unwrap_or_default().1)
    }

    /// Waits until `/readyz` says so.
    pub async fn ready(&self) {
        until(
            &format!("readiness of {}", self.name),
            async || self.page("/readyz").await,
            |answer| answer.as_ref().is_some_and(|(status, _)| *status == 200),
        )
        .await;
    }

    /// Kills it (SIGKILL).
    pub async fn kill(&mut self) {
        self.process.kill().await;
    }

    /// Stops its clock (SIGSTOP).
    pub fn pause(&self) {
        self.process.signal(Signal::SIGSTOP);
    }

    /// Lets it go on (SIGCONT).
    pub fn resume(&self) {
        self.process.signal(Signal::SIGCONT);
    }

    /// Asks it to end (SIGTERM), and gives its exit code and how long it took.
    ///
    /// # Panics
    /// When it does not end.
    pub async fn terminate(&mut self) -> (Option<i32>, Duration) {
        let began = Instant::now();
        self.process.signal(Signal::SIGTERM);
        let what = format!("the end of {}", self.name);
        let status = soon(&what, self.process.wait())
            .await
            .expect("a child can be waited for");
        (status.code(), began.elapsed())
    }
}

fn read_log(path: &Path) -> Vec<Value> {
    let text = std::fs::read(path).unwrap_or_default();
    String::from_utf8_lossy(&text)
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect()
}
