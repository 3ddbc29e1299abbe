//! Binary of the lab.

use std::process::ExitCode;

fn main() -> ExitCode {
    laneguard_lab::cli::main()
}
