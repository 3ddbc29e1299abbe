//! Somebody else's decider: the Python one of the examples, as a process of its own beside the services.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::process::{self, Process};
use crate::services::CLUSTER;
use crate::tools;

/// The repository's example, where this program was built.
const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/python-decider");

/// Starts `decider.py` of the folder; its packages come from `python/` in the folder of tools where that is set.
///
/// # Errors
/// When there is no such decider, or python3 is missing.
pub fn start(folder: Option<&Path>, nats_url: &str, logs: &Path) -> anyhow::Result<Process> {
    let folder = folder.unwrap_or(Path::new(EXAMPLE));
    let folder = folder.canonicalize().with_context(|| {
        format!(
            "cannot find the decider in {} (--decider)",
            folder.display()
        )
    })?;
    anyhow::ensure!(
        folder.join("decider.py").is_file(),
        "{} has no decider.py (--decider)",
        folder.display()
    );
    let mut command = process::command(&tools::find("python3")?, None)?;
    command
        .arg("decider.py")
        .current_dir(&folder)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("NATS_URL", nats_url)
        .env("CLUSTER", CLUSTER)
        .env_remove("NATS_CREDS")
        .env_remove("NATS_CA");
    if let Some(tools) = env::var_os(tools::TOOLS_ENV) {
        let packages = PathBuf::from(tools).join("python");
        // The decider runs in its own folder, so a relative path would lead elsewhere.
        let packages = packages.canonicalize().unwrap_or(packages);
        command.env("PYTHONPATH", packages);
    }
    let log = logs.join("external.log");
    Ok(Process::start("the external decider", command, &log)?)
}
