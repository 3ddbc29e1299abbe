//! The process shell that Laneguard's services share: configuration, logs and traces, the NATS connection, the admin endpoint,
//! readiness, ownership of shards, and an orderly end.
//!
//! Knows nothing of samples, laws or pods.

pub mod admin;
pub mod args;
pub mod backoff;
pub mod bus;
pub mod clock;
pub mod command_line;
mod failure;
pub mod lease;
mod process;
pub mod readiness;
pub mod shutdown;
pub mod telemetry;

pub use failure::ConfigError;
pub use process::{Ends, Process, run};
