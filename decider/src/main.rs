//! The binary `laneguard-decider`.

use std::process::ExitCode;

/// A thousand policies are many short-lived allocations that one thread makes and another frees, which glibc's allocator merges and searches
/// again and again: a third of the decider's processor time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    laneguard_runtime::run("decider", laneguard_decider::start)
}
