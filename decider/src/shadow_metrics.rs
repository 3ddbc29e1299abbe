//! The comparison of laws in metrics. Label sets are closed: a policy has one law in force and at most eight shadows.

use std::sync::atomic::AtomicU64;

use laneguard_decider_core::Action;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::shadow::{Counted, Role};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Compared {
    policy: String,
    /// The shadow's name; for the law in force, the law's.
    law: String,
    /// `in_force` or `shadow`: a shadow may have the name of the law in force.
    role: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Decided {
    policy: String,
    law: String,
    role: &'static str,
    action: &'static str,
}

/// One line of the comparison is kept for each law of each policy that this process owns. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct ShadowMetrics {
    allowed: Family<Compared, Gauge<f64, AtomicU64>>,
    decisions: Family<Decided, Counter>,
    avoided: Family<Compared, Counter>,
    lost: Family<Compared, Counter<f64, AtomicU64>>,
}

impl ShadowMetrics {
    /// Registers everything under `laneguard_shadow_`.
    pub(crate) fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("laneguard_shadow");
        registry.register(
            "allowed_bits_per_second",
            "What all best-effort pods together may send under a law, in force or in shadow (role)",
            self.allowed.clone(),
        );
        registry.register(
            "decisions",
            "Evaluations of a law, in force or in shadow (role), by its action",
            self.decisions.clone(),
        );
        registry.register(
            "violations_avoided",
            "Estimate: windows that would violate a target without control and not under this law",
            self.avoided.clone(),
        );
        registry.register(
            "goodput_lost_bits",
            "Estimate: what best-effort traffic loses under this law against no control, bits",
            self.lost.clone(),
        );
    }

    /// A round of a policy's laws. Laws that are no longer compared are forgotten.
    pub(crate) fn count(&self, policy: &str, round: &[Counted], shown: &mut Vec<Shown>) {
        if !shown.iter().map(Shown::law).eq(round.iter().map(law)) {
            self.show(policy, round, shown);
        }
        for (counted, shown) in round.iter().zip(shown) {
            match (counted.allowed_bps, &shown.allowed) {
                (Some(bps), Some(allowed)) => drop(allowed.set(bps)),
                (Some(bps), None) => {
                    let allowed = self.allowed.get_or_create_owned(&shown.labels);
                    allowed.set(bps);
                    shown.allowed = Some(allowed);
                }
                // what is not known is not shown as it was
                (None, _) => {
                    if shown.allowed.take().is_some() {
                        self.allowed.remove(&shown.labels);
                    }
                }
            }
            shown.avoided.inc_by(counted.avoided);
            shown.lost.inc_by(counted.lost_bits);
            let action = counted.action;
            let known = shown.decisions.iter().find(|(of, _)| *of == action);
            if let Some((_, decisions)) = known {
                decisions.inc();
            } else {
                let labels = decided(shown.labels.clone(), action);
                let decisions = self.decisions.get_or_create_owned(&labels);
                decisions.inc();
                shown.decisions.push((action, decisions));
            }
        }
    }

    /// These laws are compared from now on: those that are not any more are forgotten, and of each other one its lines are kept at hand.
    fn show(&self, policy: &str, round: &[Counted], shown: &mut Vec<Shown>) {
        let gone = |one: &Shown| !round.iter().any(|counted| law(counted) == one.law());
        let (gone, mut kept): (Vec<_>, Vec<_>) = shown.drain(..).partition(gone);
        self.forget(&gone);
        for counted in round {
            let known = kept.iter().position(|one| one.law() == law(counted));
            shown.push(match known {
                Some(at) => kept.swap_remove(at),
                None => {
                    let labels = compared(policy, counted.role, &counted.name);
                    Shown {
                        role: counted.role,
                        allowed: None,
                        avoided: self.avoided.get_or_create_owned(&labels),
                        lost: self.lost.get_or_create_owned(&labels),
                        decisions: Vec::new(),
                        labels,
                    }
                }
            });
        }
    }

    /// These laws are no longer compared by this process.
    pub(crate) fn forget(&self, laws: &[Shown]) {
        for Shown { labels, .. } in laws {
            self.allowed.remove(labels);
            self.avoided.remove(labels);
            self.lost.remove(labels);
            for action in Action::ALL {
                self.decisions.remove(&decided(labels.clone(), action));
            }
        }
    }
}

/// The lines of one law, at hand: looking them up by their labels in each round would cost more than counting.
#[derive(Debug)]
pub(crate) struct Shown {
    role: Role,
    labels: Compared,
    /// Unset while it is not known.
    allowed: Option<Gauge<f64, AtomicU64>>,
    avoided: Counter,
    lost: Counter<f64, AtomicU64>,
    /// By action, those that came.
    decisions: Vec<(Action, Counter)>,
}

impl Shown {
    fn law(&self) -> (Role, &str) {
        (self.role, &self.labels.law)
    }
}

fn law(counted: &Counted) -> (Role, &str) {
    (counted.role, &counted.name)
}

fn compared(policy: &str, role: Role, law: &str) -> Compared {
    Compared {
        policy: policy.to_owned(),
        law: law.to_owned(),
        role: match role {
            Role::InForce => "in_force",
            Role::Shadow => "shadow",
        },
    }
}

fn decided(compared: Compared, action: Action) -> Decided {
    Decided {
        policy: compared.policy,
        law: compared.law,
        role: compared.role,
        action: action.as_str(),
    }
}
