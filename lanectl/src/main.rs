//! The binary `lanectl`.

use std::process::ExitCode;

fn main() -> ExitCode {
    lanectl::run()
}
