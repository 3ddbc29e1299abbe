//! The laneguard-actuator binary.

use std::process::ExitCode;

use laneguard_actuator::args::Args;

fn main() -> ExitCode {
    laneguard_runtime::run::<Args, _>("actuator", laneguard_actuator::run)
}
