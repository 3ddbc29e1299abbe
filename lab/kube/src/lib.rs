//! A stateful stand-in for the parts of the Kubernetes API that Laneguard uses.
//!
//! [`Cluster`] is the state, [`serve`] puts it behind HTTP for any client (kube, kubectl), [`Server`] does both for tests, and
//! [`Fault`]s make it misbehave. `README.md` lists what it does as a real API server and what it does not;
//! `tests/conformance.rs` checks that, against a real one too where there is one.

mod apply;
mod cluster;
mod controllers;
mod defaults;
mod discovery;
mod events;
mod fault;
mod http_api;
mod kubeconfig;
mod object;
mod patch;
mod path;
mod query;
mod random;
mod read;
pub mod real;
mod render;
mod resource;
mod scale;
mod selector;
mod server;
mod status;
mod store;
mod validate;
mod watch;
mod write;

pub use cluster::{Cluster, Options};
pub use fault::{Fault, Verb};
pub use kubeconfig::kubeconfig;
pub use server::{Server, serve};
