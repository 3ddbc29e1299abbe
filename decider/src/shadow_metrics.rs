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
    pub(crate) fn count(&self, policy: &str, round: &[Counted], shown: &mut Vec<(Role, String)>) {
        let now: Vec<_> = round.iter().map(|c| (c.role, c.name.clone())).collect();
        if *shown != now {
            shown.retain(|one| !now.contains(one));
            self.forget(policy, shown);
            *shown = now;
        }
        for counted in round {
            let labels = compared(policy, counted.role, &counted.name);
            match counted.allowed_bps {
                Some(bps) => drop(self.allowed.get_or_create(&labels).set(bps)),
                // what is not known is not shown as it was
                None => drop(self.allowed.remove(&labels)),
            }
            self.avoided.get_or_create(&labels).inc_by(counted.avoided);
            self.lost.get_or_create(&labels).inc_by(counted.lost_bits);
            self.decisions
                .get_or_create(&decided(labels, counted.action))
                .inc();
        }
    }

    /// These laws are no longer compared by this process.
    pub(crate) fn forget(&self, policy: &str, laws: &[(Role, String)]) {
        for (role, name) in laws {
            let labels = compared(policy, *role, name);
            self.allowed.remove(&labels);
            self.avoided.remove(&labels);
            self.lost.remove(&labels);
            for action in Action::ALL {
                self.decisions.remove(&decided(labels.clone(), action));
            }
        }
    }
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
