//! Runs that failed: kept beside the runs of their law, also when they are made again and succeed.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::time::SystemTime;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

/// Name of the file in the folder of a law: one failure a line.
pub(super) const FILE: &str = "failures.jsonl";

/// One run that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Which repetition.
    pub run: usize,
    /// When it ended, RFC 3339.
    pub at: String,
    /// Its exit code; absent when a signal killed it.
    pub code: Option<i32>,
    /// The last of what it said.
    pub message: String,
}

impl Failure {
    /// That ended just now.
    #[must_use]
    pub fn now(run: usize, code: Option<i32>, message: String) -> Self {
        Self {
            run,
            at: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            code,
            message,
        }
    }

    /// Adds it to the failures in the folder of its law.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, law: &Path) -> anyhow::Result<()> {
        fs::create_dir_all(law).with_context(|| format!("cannot create {}", law.display()))?;
        let path = law.join(FILE);
        let mut line = serde_json::to_string(self)?;
        line.push('\n');
        File::options()
            .create(true)
            .append(true)
            .open(&path)
            .and_then(|mut file| file.write_all(line.as_bytes()))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// All failures of a law, oldest first.
    ///
    /// # Errors
    /// When the file is there and cannot be read.
    pub fn read_all(law: &Path) -> anyhow::Result<Vec<Self>> {
        let path = law.join(FILE);
        if !path.is_file() {
            return Ok(Vec::new());
        }
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        text.lines()
            .map(|line| {
                serde_json::from_str(line)
                    .with_context(|| format!("{} is malformed", path.display()))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_add_up() {
        let law = tempfile::tempdir().unwrap();
        assert_eq!(Failure::read_all(law.path()).unwrap(), []);
        let failures = [
            Failure::now(2, Some(1), "the decider ended".to_owned()),
            Failure::now(2, None, String::new()),
        ];
        for failure in &failures {
            failure.write(law.path()).unwrap();
        }
        assert_eq!(Failure::read_all(law.path()).unwrap(), failures);
    }
}
