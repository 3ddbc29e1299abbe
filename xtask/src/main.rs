//! The commands of this repository: `cargo xtask --help`.

mod cargo;
mod check;
mod tools;

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask",
    about = "The commands of this repository",
    version
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Protect a real service from real congestion on this machine: the same load without and with Laneguard
    Demo(WithTools),
    /// Everything the tests need, then all of them: unit, property, contract, pipeline, and a short run of the lab
    Test(WithTools),
    /// How long the loop takes and what it costs (release builds): sample to annotation, new pods, footprint, 1,000 policies
    Bench(WithTools),
    /// The lab's own command line, for example `lab score DIR` or `lab --help`
    Lab(WithTools),
    /// Formatting, lints with warnings as errors, documentation, dependency rules (what CI runs beside the tests)
    Check,
    /// Generate the committed code in proto/src/gen from the schema
    Codegen,
    /// Fetch the programs that tests and demo need into target/tools
    Tools {
        /// Only say what is missing; install nothing
        #[arg(long, env = "LANEGUARD_NO_INSTALL")]
        no_install: bool,
    },
}

#[derive(Debug, Args)]
struct WithTools {
    /// Only check that everything needed is there; install nothing
    #[arg(long, env = "LANEGUARD_NO_INSTALL")]
    no_install: bool,
    /// Passed on: to the lab, or to the test runner (a filter, for example)
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "ARGS"
    )]
    rest: Vec<String>,
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Demo(args) => {
            tools::provide(args.no_install).and_then(|tools| cargo::lab(&tools, "demo", &args.rest))
        }
        // scoring and help need no programs; a missing one is the lab's to name
        Command::Lab(args) => cargo::lab_command(&tools::folder(), &args.rest),
        Command::Test(args) => tools::provide(args.no_install).and_then(|tools| {
            tools::provide_python(args.no_install)?;
            cargo::test(&tools, &args.rest)
        }),
        Command::Bench(args) => {
            tools::provide(args.no_install).and_then(|tools| cargo::bench(&tools, &args.rest))
        }
        Command::Check => check::all(),
        Command::Codegen => cargo::codegen(),
        Command::Tools { no_install } => tools::provide(no_install).and_then(|tools| {
            tools::provide_python(no_install)?;
            println!("everything needed is there ({})", tools.display());
            Ok(ExitCode::SUCCESS)
        }),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
