//! The actuator's binary against a real NATS and an API server: the stand-in, and a real one where `KUBEBUILDER_ASSETS` names it.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests fail where they stand, as tests do"
)]

mod commands;
mod faults;
mod replicas;
mod world;
