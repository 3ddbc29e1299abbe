//! What a comparison was made with: written down when it begins, shown at the top of its report.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::SystemTime;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::spec::Spec;
use crate::summary::write_json;
use crate::tools;

/// Name of the file in the folder of a comparison.
pub const FILE: &str = "compare.json";

/// All that a comparison was asked to do.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Scenarios in the order they were named.
    pub scenarios: Vec<Spec>,
    /// Laws in the order they were named, with those of a sweep.
    pub laws: Vec<Spec>,
    /// Runs of each law on each scenario.
    pub runs: usize,
    /// Every time it was worked on.
    pub sessions: Vec<Session>,
}

/// One time that a comparison was worked on.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Session {
    /// When it began, RFC 3339.
    pub began: String,
    /// The command line.
    pub command: String,
    /// Laneguard's version, and the commit where it is known.
    pub laneguard: String,
    /// Kernel release.
    pub kernel: String,
    /// Model of the processor.
    pub processor: String,
    /// Cores that the lab may use.
    pub cores: usize,
    /// Memory of the machine in GiB.
    pub memory_gib: f64,
    /// Versions of the programs that took part.
    pub programs: BTreeMap<String, String>,
}

impl Comparison {
    /// Reads it from the folder of a comparison; absent where no file is.
    ///
    /// # Errors
    /// When the file cannot be read or is malformed.
    pub fn read(folder: &Path) -> anyhow::Result<Option<Self>> {
        let path = folder.join(FILE);
        if !path.is_file() {
            return Ok(None);
        }
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let read = serde_json::from_str(&text)
            .with_context(|| format!("{} is malformed", path.display()))?;
        Ok(Some(read))
    }

    /// Adds what is asked for now to what was asked for before.
    pub fn add(&mut self, scenarios: &[Spec], laws: &[Spec], runs: usize) {
        add_new(&mut self.scenarios, scenarios);
        add_new(&mut self.laws, laws);
        self.runs = self.runs.max(runs);
    }

    /// Writes it into the folder of a comparison.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, folder: &Path) -> anyhow::Result<()> {
        write_json(&folder.join(FILE), self)
    }
}

fn add_new(list: &mut Vec<Spec>, more: &[Spec]) {
    for spec in more {
        if !list.contains(spec) {
            list.push(spec.clone());
        }
    }
}

impl Session {
    /// Of this process, now.
    #[must_use]
    pub fn now() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let version = env!("CARGO_PKG_VERSION");
        let programs = ["nats-server", "prometheus", "iperf3"];
        Self {
            began: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            command: command_line(env::args().skip(1)),
            laneguard: commit().map_or_else(
                || version.to_owned(),
                |commit| format!("{version}, commit {commit}"),
            ),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            processor: field(&read("/proc/cpuinfo"), "model name").unwrap_or_default(),
            cores: thread::available_parallelism().map_or(1, usize::from),
            memory_gib: field(&read("/proc/meminfo"), "MemTotal")
                .and_then(|text| text.split_whitespace().next()?.parse::<f64>().ok())
                .map_or(0.0, |kib| (kib / f64::from(1 << 20) * 10.0).round() / 10.0),
            programs: programs
                .into_iter()
                .filter_map(|name| Some((name.to_owned(), version_of(name)?)))
                .collect(),
        }
    }
}

/// The command that makes the same comparison again.
fn command_line(arguments: impl Iterator<Item = String>) -> String {
    let mut line = "cargo xtask lab".to_owned();
    for argument in arguments {
        let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_.=+,:/@".contains(letter);
        line.push(' ');
        if !argument.is_empty() && argument.chars().all(plain) {
            line.push_str(&argument);
        } else {
            line.push_str(&format!("'{}'", argument.replace('\'', r"'\''")));
        }
    }
    line
}

/// The value of a line `name : value`.
fn field(text: &str, name: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim().to_owned())
    })
}

/// The commit that this program was built from, if it lies in its repository's target folder.
fn commit() -> Option<String> {
    let program = env::current_exe().ok()?;
    let described = Command::new("git")
        .arg("-C")
        .arg(program.parent()?)
        .args(["describe", "--always", "--dirty=, with changes"])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let commit = String::from_utf8_lossy(&described.stdout).trim().to_owned();
    (described.status.success() && !commit.is_empty()).then_some(commit)
}

/// The first word of a program's own answer that begins with a digit, after an optional `v`.
fn version_of(program: &str) -> Option<String> {
    let tool = tools::find(program).ok()?;
    let mut command = Command::new(&tool.path);
    command.arg("--version").stdin(Stdio::null());
    if let Some(library) = &tool.library_path {
        command.env("LD_LIBRARY_PATH", library);
    }
    let output = command.output().ok()?;
    // Prometheus of some versions answers on standard error.
    let text = [output.stdout, output.stderr].concat();
    version_in(&String::from_utf8_lossy(&text))
}

fn version_in(text: &str) -> Option<String> {
    text.split_whitespace()
        .map(|word| word.trim_start_matches('v').trim_end_matches(','))
        .find(|word| word.starts_with(|first: char| first.is_ascii_digit()) && word.contains('.'))
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_can_be_pasted_again() {
        let arguments = [
            "compare",
            "--laws",
            "none,Fixed:66M",
            "--out",
            "my runs",
            "it's",
        ];
        assert_eq!(
            command_line(arguments.into_iter().map(str::to_owned)),
            r"cargo xtask lab compare --laws none,Fixed:66M --out 'my runs' 'it'\''s'"
        );
    }

    #[test]
    fn versions_are_found_in_what_programs_say() {
        for (said, version) in [
            ("nats-server: v2.11.4\n", "2.11.4"),
            ("prometheus, version 3.5.0 (branch: HEAD", "3.5.0"),
            ("iperf 3.18 (cJSON 1.7.15)\n", "3.18"),
        ] {
            assert_eq!(version_in(said).as_deref(), Some(version));
        }
        assert_eq!(version_in("no number"), None);
    }

    #[test]
    fn a_second_session_adds_and_keeps_the_order() {
        let specs = |names: &[&str]| -> Vec<Spec> {
            names.iter().map(|name| name.parse().unwrap()).collect()
        };
        let mut comparison = Comparison::default();
        let scenarios = specs(&["congestion"]);
        comparison.add(&scenarios, &specs(&["none", "Adaptive"]), 10);
        comparison.add(&scenarios, &specs(&["Adaptive", "Threshold"]), 3);
        assert_eq!(comparison.laws, specs(&["none", "Adaptive", "Threshold"]));
        assert_eq!(comparison.runs, 10);
    }
}
