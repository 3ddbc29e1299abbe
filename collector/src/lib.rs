//! Laneguard collector: telemetry in Prometheus to samples on NATS.
pub mod histogram;
pub mod pace;
pub mod query;
pub mod sample;
pub mod series;
pub mod smooth;
pub mod usage;
