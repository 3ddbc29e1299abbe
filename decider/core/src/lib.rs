//! Laneguard's control laws: pure, synchronous, without clock or I/O.
//!
//! `evaluate` is the whole surface: the time, what the operator wants ([`policy::Policy`]), what is remembered
//! ([`state::State`]) and what was measured ([`sample::Sample`]) go in; an [`Evaluation`] comes out. The same inputs give
//! the same output, bit for bit, so a recorded decision can be evaluated again years later.
//!
//! | question | file |
//! |---|---|
//! | What may an operator set, and what is refused? | [`policy`] |
//! | Which sample counts as data? | [`sample`], `intake.rs` |
//! | When does a law want less or more? | [`threshold`], [`drop_rate`] |
//! | When may a wish become a change (cooldown, agreement, bounds)? | `pace.rs` |
//! | What does the operator read? | `reason.rs` |
//!
//! Not here: who owns a policy, terms, commands, renewals, expiry, overrides. Those belong to the services.

mod action;
pub mod drop_rate;
pub mod policy;
pub mod sample;
pub mod state;
pub mod threshold;

use serde::{Deserialize, Serialize};

pub use action::{Action, UnknownAction};
use state::State;

/// What one evaluation of a law concluded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// The law's word for what it did. Anything but [`Action::Hold`] means that at least one limit changed.
    pub action: Action,
    /// Why, for an operator: full sentences with workload, value, target, limits and remaining cooldown.
    pub reason: String,
    /// Every class of the policy in its order, also the unchanged ones.
    pub limits: Vec<LimitChange>,
    /// What the next evaluation must be given.
    pub state: State,
}

/// The limit of one class before and after an evaluation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LimitChange {
    /// Name of the class in the policy.
    pub class: String,
    /// Limit per pod in bits per second that was in force; may lie outside the class's bounds if these just changed.
    pub before_bps: f64,
    /// Limit per pod in bits per second from now on, always within the class's bounds.
    pub after_bps: f64,
}
