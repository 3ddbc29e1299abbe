//! Drift between what is written in different places: help, documents, metrics, dependencies, configuration.

mod configuration;
mod documents;
mod help;
mod metrics;
mod sources;
