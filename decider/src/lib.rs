//! The decider: samples to decisions by a pure control law, decisions to commands.
//!
//! | question | file |
//! |---|---|
//! | What does a policy or a sample mean to the core? | `wire.rs` |
//! | What does a decision rest on, and how is it evaluated again? | `decide.rs` |
//! | When is something decided, published, commanded, renewed? | `engine.rs` |
//! | Who is right when a write is refused? | `contest.rs` |
//! | What survives this process? | `memory.rs` |
//!
//! Knows no Kubernetes and no PromQL.

pub mod contest;
pub mod decide;
pub mod engine;
pub mod memory;
pub mod wire;
