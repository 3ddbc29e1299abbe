//! The collector's binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    laneguard_runtime::run("collector", laneguard_collector::start)
}
