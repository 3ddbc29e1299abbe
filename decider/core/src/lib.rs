//! Laneguard's control laws: pure, synchronous, without clock or I/O.
//!
//! [`evaluate`] is the whole surface: the time, what the operator wants ([`policy::Policy`]), what is remembered
//! ([`state::State`]) and what was measured ([`sample::Sample`]) go in; an [`Evaluation`] comes out. The same inputs give
//! the same output, bit for bit, so a recorded decision can be evaluated again years later.
//!
//! | question | file |
//! |---|---|
//! | What may an operator set, and what is refused? | [`policy`] |
//! | Which sample counts as data? | [`sample`], `intake.rs` |
//! | When does a law want less or more? | [`adaptive`], [`threshold`], [`drop_rate`] |
//! | What do other systems do, for comparison? | [`watermark`], [`headroom`], [`autorate`] |
//! | What will come next, if it came with a period so far? | [`holt_winters`] |
//! | When may a wish become a change (cooldown, agreement, bounds)? | `pace.rs` |
//! | How often may targets be missed? | `tolerance.rs` |
//! | What does the operator read? | `reason.rs` |
//! | What would other laws have done? | [`shadow`] |
//!
//! Not here: who owns a policy, terms, commands, renewals, expiry, overrides. Those belong to the services.

mod action;
pub mod adaptive;
pub mod autorate;
pub mod drop_rate;
pub mod headroom;
pub mod holt_winters;
mod intake;
mod pace;
pub mod policy;
mod reason;
pub mod sample;
pub mod shadow;
mod share;
pub mod state;
pub mod threshold;
mod tolerance;
pub mod watermark;

use serde::{Deserialize, Serialize};

pub use action::{Action, UnknownAction};
use policy::{Law, Policy};
use sample::Sample;
use state::State;

/// What one evaluation of a law concluded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// The law's word for what it did. Anything but [`Action::Hold`] means that at least one limit changed, except the two
    /// findings [`Action::NotBandwidth`] and [`Action::CannotBeMet`], with which it may.
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

impl LimitChange {
    /// Whether the limit is another one than before.
    #[must_use]
    pub fn is_changed(&self) -> bool {
        self.before_bps != self.after_bps
    }
}

/// Evaluates the policy's law once.
///
/// `now_ms` is Unix time in milliseconds. `samples` may hold any number of samples in any order, of any workload: those
/// already used, malformed or of workloads the policy does not name are ignored. The policy may differ from the one of the
/// previous evaluation: limits are brought inside the new bounds at once, new classes start at their maximum, and what was
/// remembered of removed classes and workloads is dropped.
///
/// The policy is expected to have passed [`Policy::validate`]; with one that did not, the result is unspecified, but there is
/// no panic.
#[must_use]
pub fn evaluate(now_ms: i64, policy: &Policy, state: &State, samples: &[Sample]) -> Evaluation {
    match &policy.law {
        Law::Threshold(parameters) => {
            threshold::evaluate(now_ms, parameters, policy, state, samples)
        }
        Law::DropRate(parameters) => {
            drop_rate::evaluate(now_ms, parameters, policy, state, samples)
        }
        Law::Adaptive(parameters) => adaptive::evaluate(now_ms, parameters, policy, state, samples),
        Law::Watermark(parameters) => {
            watermark::evaluate(now_ms, parameters, policy, state, samples)
        }
        Law::Headroom(parameters) => headroom::evaluate(now_ms, parameters, policy, state, samples),
        Law::Autorate(parameters) => autorate::evaluate(now_ms, parameters, policy, state, samples),
    }
}
