//! Drift between what is written in different places: help, documents, metrics, dependencies, configuration.

#![allow(clippy::unwrap_used)] // a test's helpers fail as the test does

mod configuration;
mod documents;
mod help;
mod metrics;
mod sources;
