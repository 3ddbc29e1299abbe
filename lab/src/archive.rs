//! Keeps the raw logs of runs in little space: what scores and reports need, compressed, and nothing else.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use anyhow::Context as _;
use flate2::Compression;
use flate2::write::GzEncoder;

use crate::decisions;
use crate::event::Happened;
use crate::law::POLICY_FILE;
use crate::raw::{
    COMPRESSED, Footprint, Machine, PhaseStart, PodEvent, Queue, Request, Row, Stall, Traffic,
};
use crate::summary::{SCENARIO_FILE, SUMMARY_FILE};

/// Raw logs; they are compressed.
const LOGS: [&str; 10] = [
    Request::FILE,
    PhaseStart::FILE,
    Traffic::FILE,
    Queue::FILE,
    PodEvent::FILE,
    Footprint::FILE,
    Machine::FILE,
    Stall::FILE,
    Happened::FILE,
    decisions::FILE,
];
/// What people may want to read as it is.
const PLAIN: [&str; 4] = [SCENARIO_FILE, SUMMARY_FILE, POLICY_FILE, "services.env"];

/// Copies the raw logs of the run in `from` to the folder `to`, which is created. What the run does not have is left out, and what is
/// compressed already is taken as it is.
///
/// # Errors
/// When a file cannot be read or written.
pub fn store(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot create {}", to.display()))?;
    for name in PLAIN {
        copy(&from.join(name), &to.join(name))?;
    }
    for name in LOGS {
        let packed = format!("{name}{COMPRESSED}");
        copy(&from.join(&packed), &to.join(&packed))?;
        compress(&from.join(name), &to.join(&packed))?;
    }
    Ok(())
}

/// Copies a file if it is there.
///
/// # Errors
/// When it is there and cannot be copied.
pub fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    if from.is_file() {
        fs::copy(from, to)
            .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    }
    Ok(())
}

fn compress(from: &Path, to: &Path) -> anyhow::Result<()> {
    if !from.is_file() {
        return Ok(());
    }
    let pack = || -> io::Result<()> {
        let mut encoder = GzEncoder::new(File::create(to)?, Compression::best());
        io::copy(&mut File::open(from)?, &mut encoder)?;
        encoder.finish()?;
        Ok(())
    };
    pack().with_context(|| format!("cannot compress {} to {}", from.display(), to.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raw;

    #[test]
    fn what_is_stored_reads_as_before_and_the_rest_stays_behind() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (from, to) = (from.path(), to.path());
        fs::write(from.join("phases.csv"), "unix_ns,phase\n1,idle\n").unwrap();
        fs::write(from.join("decisions.jsonl"), "{}\n").unwrap();
        fs::write(from.join("scenario.json"), "{}").unwrap();
        fs::write(from.join("kubeconfig"), "secret").unwrap();
        store(from, to).unwrap();
        let before = raw::read::<PhaseStart>(from).unwrap();
        assert_eq!(raw::read::<PhaseStart>(to).unwrap(), before);
        assert_eq!(raw::text(&to.join(decisions::FILE)).unwrap(), "{}\n");
        let mut names: Vec<String> = fs::read_dir(to)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(
            names,
            ["decisions.jsonl.gz", "phases.csv.gz", "scenario.json"]
        );
        // an archive of an archive is the same
        let again = tempfile::tempdir().unwrap();
        store(to, again.path()).unwrap();
        assert_eq!(raw::read::<PhaseStart>(again.path()).unwrap(), before);
    }
}
