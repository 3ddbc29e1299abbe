//! Runs cargo, the lab and the test runner.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, bail};

/// The root of the repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

/// Cargo's target folder.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// Cargo itself, at the repository's root.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// Runs a step and fails with its name.
pub(crate) fn step(name: &str, command: &mut Command) -> anyhow::Result<()> {
    println!("==> {name}");
    let status = command
        .status()
        .with_context(|| format!("{name}: {:?} cannot be started", command.get_program()))?;
    if !status.success() {
        bail!("{name} failed ({status})");
    }
    Ok(())
}

fn build_binaries() -> anyhow::Result<()> {
    step(
        "building (the first time takes a few minutes)",
        cargo().args(["build", "--workspace", "--bins", "--locked"]),
    )
}

/// Builds everything and runs `laneguard-lab` with the arguments.
pub(crate) fn lab_command(tools: &Path, args: &[String]) -> anyhow::Result<ExitCode> {
    build_binaries()?;
    let status = Command::new(target().join("debug/laneguard-lab"))
        .args(args)
        .env("LANEGUARD_TOOLS", tools)
        .status()
        .context("laneguard-lab cannot be started")?;
    // a signal has no code: the lab was interrupted
    Ok(status
        .code()
        .map_or(ExitCode::from(130), |code| ExitCode::from(code as u8)))
}

/// As [`lab_command`], with a subcommand before the arguments.
pub(crate) fn lab(tools: &Path, command: &str, args: &[String]) -> anyhow::Result<ExitCode> {
    let args: Vec<String> = std::iter::once(command.to_owned())
        .chain(args.iter().cloned())
        .collect();
    lab_command(tools, &args)
}

/// Generates the committed code anew.
pub(crate) fn codegen() -> anyhow::Result<ExitCode> {
    step(
        "generating proto/src/gen",
        cargo()
            .args([
                "test",
                "--quiet",
                "--package",
                "laneguard-proto",
                "--test",
                "bootstrap",
            ])
            .env("LANEGUARD_REGENERATE", "1"),
    )?;
    Ok(ExitCode::SUCCESS)
}

/// Builds the services for release and runs the benchmarks.
pub(crate) fn bench(tools: &Path, args: &[String]) -> anyhow::Result<ExitCode> {
    step(
        "building for release (takes some minutes)",
        cargo().args(["build", "--release", "--workspace", "--bins", "--locked"]),
    )?;
    step(
        "benchmarks",
        cargo()
            .args([
                "bench",
                "--package",
                "laneguard-tests",
                "--bench",
                "control_loop",
                "--bench",
                "decider_load",
                "--locked",
            ])
            .args(args)
            .env("LANEGUARD_TOOLS", tools),
    )?;
    Ok(ExitCode::SUCCESS)
}

fn has_nextest() -> bool {
    cargo()
        .args(["nextest", "--version"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Runs all tests: with cargo-nextest where it is installed, else with cargo's own runner.
pub(crate) fn test(tools: &Path, args: &[String]) -> anyhow::Result<ExitCode> {
    build_binaries()?;
    if has_nextest() {
        step(
            "tests",
            cargo()
                .args([
                    "nextest",
                    "run",
                    "--workspace",
                    "--locked",
                    "--no-fail-fast",
                ])
                .args(without_real_server(args))
                .args(args)
                .env("LANEGUARD_TOOLS", tools),
        )?;
        return Ok(ExitCode::SUCCESS);
    }
    plain_test(tools, args)
}

/// Where no real API server is named, its suite is left out, so that the summary counts it as skipped and not as passed.
fn without_real_server(args: &[String]) -> &'static [&'static str] {
    let named = ["KUBECONFIG", "KUBEBUILDER_ASSETS"]
        .into_iter()
        .any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()));
    if named || !args.is_empty() {
        return &[];
    }
    println!(
        "neither KUBEBUILDER_ASSETS nor KUBECONFIG is set: the suite against a real API server is skipped"
    );
    &["--filterset", "not test(/^real::/)"]
}

/// Cargo's runner prints a summary per binary; the last line adds them up.
fn plain_test(tools: &Path, args: &[String]) -> anyhow::Result<ExitCode> {
    println!("==> tests (cargo-nextest is not installed, using cargo test)");
    let mut child = cargo()
        .args([
            "test",
            "--workspace",
            "--locked",
            "--no-fail-fast",
            "--lib",
            "--bins",
            "--tests",
        ])
        .args(args)
        .env("LANEGUARD_TOOLS", tools)
        .stdout(Stdio::piped())
        .spawn()
        .context("cargo test cannot be started")?;
    let output = child.stdout.take().context("cargo test has no output")?;
    let (mut passed, mut failed) = (0, 0);
    for line in BufReader::new(output).lines() {
        let line = line.context("cargo test's output cannot be read")?;
        println!("{line}");
        if let Some((p, f)) = summary(&line) {
            passed += p;
            failed += f;
        }
    }
    let status = child.wait().context("cargo test is lost")?;
    println!("{passed} passed, {failed} failed");
    if !status.success() || failed > 0 {
        bail!("some tests failed");
    }
    Ok(ExitCode::SUCCESS)
}

/// Passed and failed, from `test result: ok. 3 passed; 0 failed; ...`.
fn summary(line: &str) -> Option<(u32, u32)> {
    let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let mut numbers = counts
        .split("; ")
        .filter_map(|part| part.split(' ').next()?.parse().ok());
    Some((numbers.next()?, numbers.next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_are_read_from_cargo_tests_lines() {
        let line = "test result: ok. 26 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s";
        assert_eq!(summary(line), Some((26, 1)));
        assert_eq!(summary("test codec::tests::x ... ok"), None);
    }
}
