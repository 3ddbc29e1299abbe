//! Child processes that never outlive the lab and whose unexpected end is noticed and explained.

use std::env;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use crate::tools::{self, Missing, Tool};

/// What makes `chrt` start something with the least real-time priority.
const REALTIME: [&str; 2] = ["--rr", "1"];
/// Lines of a dead process' log that its error shows.
const TAIL_LINES: usize = 15;

/// A process could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A program is not on this machine.
    #[error(transparent)]
    Missing(#[from] Missing),
    /// The log file or the process could not be created.
    #[error("cannot start {name}")]
    Spawn {
        /// The process' name in the lab.
        name: String,
        /// The system's answer.
        source: io::Error,
    },
}

/// A process ended although nobody stopped it.
#[derive(Debug, thiserror::Error)]
#[error("{name} ended unexpectedly ({status}); the end of {}:\n{tail}", log.display())]
pub struct Exited {
    /// The process' name in the lab.
    pub name: String,
    /// How it ended.
    pub status: ExitStatus,
    /// Its log.
    pub log: PathBuf,
    /// The last lines of the log.
    pub tail: String,
}

/// A command line for `tool`, run inside the named network namespace when there is one.
///
/// The child gets a parent-death signal: it is killed when the thread that started it ends. Start it from the
/// main thread or a runtime's worker, never from `spawn_blocking`.
///
/// # Errors
/// When `setpriv` or `nsenter` are not installed.
pub fn command(tool: &Tool, namespace: Option<&Path>) -> Result<Command, Missing> {
    let mut command = Command::new(tools::find("setpriv")?.path);
    command.args(["--pdeathsig", "KILL", "--"]);
    if let Some(namespace) = namespace {
        command.arg(tools::find("nsenter")?.path);
        command.arg(format!("--net={}", namespace.display()));
        command.arg("--");
    }
    command.arg(&tool.path);
    if let Some(library_path) = &tool.library_path {
        command.env("LD_LIBRARY_PATH", library_path);
    }
    Ok(command)
}

/// This program again, with real-time priority where the system grants it, so that on a busy machine the network is measured and not the
/// queue for a processor. (An ordinary user does not get it.)
///
/// # Errors
/// When the tools for that are not installed.
pub async fn real_time(namespace: Option<&Path>) -> anyhow::Result<Command> {
    let program = env::current_exe().context("this program's own path is unknown")?;
    let chrt = tools::find("chrt")?;
    let granted = Command::new(&chrt.path)
        .args(REALTIME)
        .arg("true")
        .stderr(Stdio::null())
        .status()
        .await
        .is_ok_and(|status| status.success());
    if !granted {
        let tool = Tool {
            path: program,
            library_path: None,
        };
        return Ok(command(&tool, namespace)?);
    }
    let mut command = command(&chrt, namespace)?;
    command.args(REALTIME).arg(program);
    Ok(command)
}

/// What a process uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Processor time since its start.
    pub cpu: Duration,
    /// Resident memory in bytes.
    pub rss_bytes: u64,
}

/// A running child process, killed when this is dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with standard output and standard error appended to `log`.
    ///
    /// # Errors
    /// When the log cannot be opened or the program cannot be run.
    pub fn start(name: &str, command: Command, log: &Path) -> Result<Self, StartError> {
        Self::spawn(name, command, log, false)
    }

    /// Starts `command` with standard error appended to `log` and standard output as a pipe for the caller.
    ///
    /// # Errors
    /// When the log cannot be opened or the program cannot be run.
    pub fn start_piped(
        name: &str,
        command: Command,
        log: &Path,
    ) -> Result<(Self, ChildStdout), StartError> {
        let mut process = Self::spawn(name, command, log, true)?;
        let stdout = process
            .child
            .stdout
            .take()
            .ok_or_else(|| StartError::Spawn {
                name: name.to_owned(),
                source: io::Error::other("no standard output"),
            })?;
        Ok((process, stdout))
    }

    fn spawn(
        name: &str,
        mut command: Command,
        log: &Path,
        piped: bool,
    ) -> Result<Self, StartError> {
        let failed = |source| StartError::Spawn {
            name: name.to_owned(),
            source,
        };
        let file = File::options()
            .create(true)
            .append(true)
            .open(log)
            .map_err(failed)?;
        if piped {
            command.stdout(Stdio::piped());
        } else {
            command.stdout(file.try_clone().map_err(failed)?);
        }
        let child = command
            .stdin(Stdio::null())
            .stderr(file)
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        Ok(Self {
            name: name.to_owned(),
            child,
            log: log.to_owned(),
        })
    }

    /// The process' name in the lab.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The process id, while it runs.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// The log of the process.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Finds out whether the process still runs.
    ///
    /// # Errors
    /// [`Exited`] with the end of the log when it does not.
    pub fn check(&mut self) -> Result<(), Exited> {
        match self.child.try_wait() {
            Ok(Some(status)) => Err(self.exited(status)),
            // A process that cannot be asked about is caught by whoever needs its service.
            Ok(None) | Err(_) => Ok(()),
        }
    }

    /// What the process has used so far; none when it has ended.
    #[must_use]
    pub fn usage(&self) -> Option<Usage> {
        let folder = PathBuf::from("/proc").join(self.id()?.to_string());
        usage(
            &fs::read_to_string(folder.join("stat")).ok()?,
            &fs::read_to_string(folder.join("status")).ok()?,
        )
    }

    /// Waits until the process has ended.
    ///
    /// # Errors
    /// When the system cannot wait for it.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Sends a signal. A process that has already ended gets none.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = self.child.id().and_then(|id| i32::try_from(id).ok()) {
            // The process may end between the two lines; that is what the caller wanted anyway.
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }

    /// Asks the process to end (SIGTERM), and kills it after `grace`.
    pub async fn stop(&mut self, grace: Duration) {
        self.signal(Signal::SIGTERM);
        if timeout(grace, self.child.wait()).await.is_err() {
            self.kill().await;
        }
    }

    /// Kills the process (SIGKILL) and waits for its end.
    pub async fn kill(&mut self) {
        // Fails only for a process that has ended already.
        let _ = self.child.kill().await;
    }

    fn exited(&self, status: ExitStatus) -> Exited {
        Exited {
            name: self.name.clone(),
            status,
            log: self.log.clone(),
            tail: tail(&fs::read(&self.log).unwrap_or_default()),
        }
    }
}

/// How much time all processors have spent busy, and in all, since the machine started.
///
/// # Errors
/// When `/proc/stat` cannot be read or has another form.
pub fn machine_time() -> io::Result<(Duration, Duration)> {
    parse_machine_time(&fs::read_to_string("/proc/stat")?)
        .ok_or_else(|| io::Error::other("/proc/stat has another form than expected"))
}

fn parse_machine_time(stat: &str) -> Option<(Duration, Duration)> {
    // user nice system idle iowait irq softirq steal; what follows is counted in user and nice already.
    let ticks: Vec<u64> = stat
        .lines()
        .next()?
        .strip_prefix("cpu ")?
        .split_whitespace()
        .take(8)
        .map(|ticks| ticks.parse().ok())
        .collect::<Option<_>>()?;
    let total: u64 = ticks.iter().sum();
    let idle = ticks.get(3)? + ticks.get(4)?;
    let time = |ticks| Duration::from_millis(10 * ticks);
    Some((time(total - idle), time(total)))
}

/// Reads `/proc/PID/stat` and `/proc/PID/status`.
fn usage(stat: &str, status: &str) -> Option<Usage> {
    // The name in parentheses may contain anything; what follows it is numbers.
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut ticks = after_name.split_whitespace().skip(11);
    let user: u64 = ticks.next()?.parse().ok()?;
    let system: u64 = ticks.next()?.parse().ok()?;
    let resident = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = resident.split_whitespace().next()?.parse().ok()?;
    Some(Usage {
        // The kernel shows times in hundredths of a second on every architecture.
        cpu: Duration::from_millis(10 * (user + system)),
        rss_bytes: kib * 1024,
    })
}

fn tail(log: &[u8]) -> String {
    let text = String::from_utf8_lossy(log);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = command(&tools::find("sh").unwrap(), None).unwrap();
        command.args(["-c", script]);
        command
    }

    #[test]
    fn waiting_for_a_disk_is_not_busy_and_stolen_time_is() {
        let stat = "cpu  100 10 50 800 20 5 5 10 3 0\ncpu0 1 1 1 1\n";
        let (busy, total) = parse_machine_time(stat).unwrap();
        assert_eq!(busy, Duration::from_millis(1800));
        assert_eq!(total, Duration::from_millis(10_000));
    }

    #[test]
    fn usage_is_read_behind_a_name_with_parentheses() {
        let stat = "7 (a) b) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0";
        let expected = Usage {
            cpu: Duration::from_secs(3),
            rss_bytes: 2048 * 1024,
        };
        assert_eq!(
            usage(stat, "Name:\tx\nVmRSS:\t    2048 kB\n"),
            Some(expected)
        );
        assert_eq!(usage(stat, "Name:\tx\n"), None);
    }

    #[tokio::test]
    async fn an_unexpected_end_shows_the_end_of_the_log() {
        let folder = tempfile::tempdir().unwrap();
        let script = "for i in $(seq 100); do echo line $i; done; exit 3";
        let mut process =
            Process::start("part", shell(script), &folder.path().join("part.log")).unwrap();
        process.wait().await.unwrap();
        let error = process.check().unwrap_err().to_string();
        assert!(error.contains("part ended unexpectedly (exit status: 3)"));
        assert!(error.contains("line 100") && error.contains("line 86"));
        assert!(!error.contains("line 85\n"));
    }

    #[tokio::test]
    async fn a_process_that_ignores_sigterm_is_killed_after_the_grace_period() {
        let folder = tempfile::tempdir().unwrap();
        let script = "trap '' TERM; while :; do sleep 1; done";
        let mut process =
            Process::start("deaf", shell(script), &folder.path().join("deaf.log")).unwrap();
        assert!(process.check().is_ok());
        process.stop(Duration::from_millis(50)).await;
        assert!(process.check().is_err());
    }
}
