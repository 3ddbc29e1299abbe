//! Harnesses for Laneguard's tests: real servers, real binaries, bounded waits.

pub mod binary;
pub mod broker;
pub mod exporter;
pub mod kubernetes;
pub mod metrics;
pub mod otlp;
pub mod proxy;
pub mod record;
pub mod run;
pub mod service;
pub mod wait;
pub mod world;
