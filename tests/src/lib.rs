//! Harnesses for Laneguard's tests: real servers, real binaries, bounded waits.

pub mod broker;
pub mod wait;
