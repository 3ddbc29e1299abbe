//! Short runs of a binary: what it prints, how it exits, how long it took.

use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::process::Command;
use tokio::time::Instant;

use crate::wait::soon;

/// What a run left.
#[derive(Debug)]
pub struct Finished {
    /// How it exited.
    pub status: ExitStatus,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// How long it ran.
    pub took: Duration,
}

impl Finished {
    /// The exit code; `None` when a signal ended it.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Standard output of a run that was to succeed.
    ///
    /// # Panics
    /// When it did not.
    pub fn output(&self) -> &str {
        assert!(self.status.success(), "{self:#?}");
        &self.stdout
    }

    /// Standard error of a run that was to fail with this code.
    ///
    /// # Panics
    /// When it did not.
    pub fn failure(&self, code: i32) -> &str {
        assert_eq!(self.code(), Some(code), "{self:#?}");
        &self.stderr
    }
}

/// A binary with nothing in its environment but these variables and `PATH`; killed when dropped.
pub fn command(binary: &str, environment: &[(&str, &str)], arguments: &[&str]) -> Command {
    let mut command = Command::new(crate::binary::path(binary));
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .envs(environment.iter().copied())
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

/// Runs it to its end.
///
/// # Panics
/// When it cannot be started or does not end.
pub async fn run(binary: &str, environment: &[(&str, &str)], arguments: &[&str]) -> Finished {
    let began = Instant::now();
    let output = command(binary, environment, arguments).output();
    let what = format!("the end of {binary} {}", arguments.join(" "));
    let output = soon(&what, output).await.expect("the binary can be run");
    Finished {
        status: output.status,
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        took: began.elapsed(),
    }
}
