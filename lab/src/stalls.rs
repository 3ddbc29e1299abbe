//! When a processor stands still, the emulated link and its pods stand still, too: what a run shows then is the machine's doing. So one
//! watcher per processor, with real-time priority where the system grants it, sleeps and writes down how late it woke.
//!
//! On a shared host a hypervisor takes processors away for milliseconds; a full one makes even real-time threads late.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use crate::process::{self, Process};
use crate::raw::{self, Stall, Writer};

/// How long a watcher sleeps.
const NAP: Duration = Duration::from_millis(2);
/// Waking up later than this is written down.
const LATE: Duration = Duration::from_millis(3);
/// Stalls waiting to be written; a watcher waits when there are more, and sees less meanwhile.
const WAITING: usize = 256;

// No doc comment here: it would replace the command's own description.
#[allow(missing_docs)]
#[derive(Debug, Clone, Args)]
pub struct StallsArgs {
    /// Folder of the run.
    #[arg(long)]
    pub folder: PathBuf,
}

/// Starts the watchers; they end when this is dropped.
///
/// # Errors
/// When they cannot be started.
pub async fn start(folder: &Path) -> anyhow::Result<Process> {
    let mut command = process::real_time(None).await?;
    command.arg("stalls").arg("--folder").arg(folder);
    let log = folder.join("logs").join("stalls.log");
    Ok(Process::start("the watchers of processors", command, &log)?)
}

/// Watches every processor this program may use, until it is killed.
///
/// # Errors
/// When the log cannot be written or no processor can be watched.
pub fn watch(args: &StallsArgs) -> anyhow::Result<()> {
    let mut log = Writer::create::<Stall>(&args.folder)?;
    let usable = sched_getaffinity(Pid::from_raw(0)).context("cannot tell the processors")?;
    let (found, stalls) = sync_channel(WAITING);
    for processor in 0..CpuSet::count() {
        if usable.is_set(processor).unwrap_or(false) {
            let found = found.clone();
            thread::Builder::new()
                .name(format!("processor-{processor}"))
                .spawn(move || one(processor, &found))
                .context("cannot start a watcher")?;
        }
    }
    drop(found);
    for stall in stalls {
        log.write([&stall?])?;
    }
    anyhow::bail!("every watcher has ended")
}

/// Watches one processor until nobody listens. A thread of its own: what is measured is when the kernel wakes it, not a runtime.
#[allow(clippy::disallowed_methods)]
fn one(processor: usize, found: &SyncSender<anyhow::Result<Stall>>) {
    let mut only = CpuSet::new();
    let bound = only
        .set(processor)
        .and_then(|()| sched_setaffinity(Pid::from_raw(0), &only));
    if let Err(error) = bound {
        let error = anyhow::Error::new(error)
            .context(format!("cannot bind a thread to processor {processor}"));
        // Nobody listens any more, then.
        let _ = found.send(Err(error));
        return;
    }
    loop {
        let begun = Instant::now();
        thread::sleep(NAP);
        let late = begun.elapsed().saturating_sub(NAP);
        if late < LATE {
            continue;
        }
        let stall = Stall {
            unix_ns: raw::unix_ns(),
            processor: u16::try_from(processor).unwrap_or(u16::MAX),
            late_us: u64::try_from(late.as_micros()).unwrap_or(u64::MAX),
        };
        if found.send(Ok(stall)).is_err() {
            return;
        }
    }
}
