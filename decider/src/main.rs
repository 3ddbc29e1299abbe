//! The binary `laneguard-decider`.

use std::process::ExitCode;

fn main() -> ExitCode {
    laneguard_runtime::run("decider", laneguard_decider::start)
}
