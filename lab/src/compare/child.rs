//! One run as a process of its own.

use std::collections::VecDeque;
use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::Context as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, ChildStderr, Command};
use tokio::signal::unix::{SignalKind, signal};

use crate::tools;

/// Name of the folder in a comparison's where its programs are kept while it goes on.
const PROGRAMS: &str = ".programs";
/// Lines of a failed run's standard error that are kept.
const KEPT_LINES: usize = 12;

/// The programs of a comparison. They are kept, so that a build meanwhile cannot change them between two runs.
#[derive(Debug)]
pub(super) struct Programs(PathBuf);

impl Programs {
    /// Keeps the lab itself, and the services from `binaries` or from beside the lab.
    ///
    /// # Errors
    /// When they cannot be linked or copied.
    pub(super) fn keep(binaries: Option<&Path>, out: &Path) -> anyhow::Result<Self> {
        let lab = env::current_exe().context("this program's own path is unknown")?;
        let beside = lab.parent().context("this program has no folder")?;
        let kept = Self(out.join(PROGRAMS));
        kept.remove();
        fs::create_dir_all(&kept.0)
            .with_context(|| format!("cannot create {}", kept.0.display()))?;
        for entry in fs::read_dir(binaries.unwrap_or(beside))? {
            let path = entry?.path();
            let is_ours = path.extension().is_none()
                && path
                    .file_name()
                    .and_then(|name| name.to_str())
                    .is_some_and(|name| name.starts_with("laneguard-") || name == "lanectl");
            if is_ours && path.is_file() {
                kept.add(&path)?;
            }
        }
        kept.add(&lab)?;
        Ok(kept)
    }

    fn add(&self, program: &Path) -> anyhow::Result<()> {
        let name = program.file_name().context("a program has no name")?;
        let to = self.0.join(name);
        if to.exists() {
            return Ok(());
        }
        // A link costs nothing; a linker writes a new file and leaves this one.
        fs::hard_link(program, &to)
            .or_else(|_| fs::copy(program, &to).map(drop))
            .with_context(|| format!("cannot keep {}", program.display()))
    }

    fn lab(&self) -> anyhow::Result<PathBuf> {
        let own = env::current_exe()?;
        let name = own.file_name().context("this program has no name")?;
        Ok(self.0.join(name))
    }

    fn remove(&self) {
        // Left over, it is only in the way of nothing.
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Drop for Programs {
    fn drop(&mut self) {
        self.remove();
    }
}

/// How a run ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// With its score written.
    Well,
    /// Because somebody wants the comparison to stop.
    Interrupted,
    /// Before its time.
    Badly {
        /// Its exit code; none when a signal killed it.
        code: Option<i32>,
        /// The last of what it said.
        message: String,
    },
}

/// Makes one run and waits for its end. SIGINT and SIGTERM end it in an orderly way.
///
/// # Errors
/// When the program cannot be started.
pub(super) async fn run(programs: &Programs, arguments: &[String]) -> anyhow::Result<Ended> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    // If this process is killed, the run is asked to end.
    let mut child = Command::new(tools::find("setpriv")?.path)
        .args(["--pdeathsig", "TERM", "--"])
        .arg(programs.lab()?)
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        // So that a terminal's Ctrl-C does not reach it as well: the second signal would kill it.
        .process_group(0)
        .spawn()
        .context("cannot start a run")?;
    let said = child
        .stderr
        .take()
        .map(|output| tokio::spawn(listen(output)));
    let stopped = tokio::select! {
        status = child.wait() => {
            let status = status?;
            if status.success() {
                return Ok(Ended::Well);
            }
            let message = match said {
                Some(said) => said.await?,
                None => String::new(),
            };
            return Ok(Ended::Badly { code: status.code(), message });
        }
        _ = interrupt.recv() => end(&mut child).await,
        _ = terminate.recv() => end(&mut child).await,
    };
    stopped.context("cannot stop the run")?;
    Ok(Ended::Interrupted)
}

async fn end(child: &mut Child) -> io::Result<()> {
    if let Some(id) = child.id().and_then(|id| i32::try_from(id).ok()) {
        // It may have ended meanwhile.
        let _ = kill(Pid::from_raw(id), Signal::SIGTERM);
    }
    child.wait().await.map(drop)
}

/// Passes on what the run says and keeps the last of it.
async fn listen(output: ChildStderr) -> String {
    let mut lines = BufReader::new(output).lines();
    let mut kept = VecDeque::with_capacity(KEPT_LINES);
    while let Ok(Some(line)) = lines.next_line().await {
        eprintln!("{line}");
        if kept.len() == KEPT_LINES {
            kept.pop_front();
        }
        kept.push_back(line);
    }
    Vec::from(kept).join("\n")
}
