//! What CI checks beside the tests.

use std::process::{Command, ExitCode, Stdio};

use crate::cargo::{cargo, step, target};

/// The version of cargo-deny that reads our `deny.toml`.
const CARGO_DENY: &str = "0.20.2";

/// Runs every check and stops at the first that fails.
pub(crate) fn all() -> anyhow::Result<ExitCode> {
    step("formatting", cargo().args(["fmt", "--all", "--check"]))?;
    step(
        "lints",
        cargo().args([
            "clippy",
            "--workspace",
            "--all-targets",
            "--locked",
            "--",
            "-D",
            "warnings",
        ]),
    )?;
    step(
        "documentation",
        cargo()
            .args([
                "doc",
                "--workspace",
                "--no-deps",
                "--document-private-items",
                "--locked",
            ])
            .env("RUSTDOCFLAGS", "-D warnings"),
    )?;
    // the rules are about the crates of every platform, also those that were not built here
    step(
        "crates of every platform",
        cargo().args(["fetch", "--quiet", "--locked"]),
    )?;
    let deny = cargo_deny()?;
    // advisories need a database from the network, which must not decide whether a commit is good
    step(
        "dependency rules",
        cargo_with(&deny).args([
            "check",
            "--hide-inclusion-graph",
            "bans",
            "licenses",
            "sources",
        ]),
    )?;
    Ok(ExitCode::SUCCESS)
}

fn cargo_with(program: &std::path::Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(crate::cargo::root()).arg("--offline");
    command
}

/// cargo-deny: the installed one, else one built into target/tools.
fn cargo_deny() -> anyhow::Result<std::path::PathBuf> {
    let own = target().join("tools/bin/cargo-deny");
    for program in [own.clone(), "cargo-deny".into()] {
        let found = Command::new(&program)
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success());
        if found {
            return Ok(program);
        }
    }
    println!("installing cargo-deny {CARGO_DENY} into target/tools (from crates.io, once)");
    step(
        "installing cargo-deny",
        cargo()
            .args([
                "install",
                "--quiet",
                "--locked",
                "cargo-deny",
                "--version",
                CARGO_DENY,
                "--root",
            ])
            .arg(target().join("tools")),
    )?;
    Ok(own)
}
