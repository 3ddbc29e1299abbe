//! Laneguard collector: telemetry in Prometheus to samples on NATS.
