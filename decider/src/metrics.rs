//! What the decider counts. Policies and classes are labels because operators name them; pods never are.

use laneguard_decider_core::Action;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use std::sync::atomic::AtomicU64;

use crate::shadow_metrics::ShadowMetrics;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Acted {
    action: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Resulted {
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Limited {
    policy: String,
    class: String,
}

/// The decider's metrics. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    /// Times a law was evaluated.
    pub(crate) evaluations: Counter,
    decisions: Family<Acted, Counter>,
    commits: Family<Resulted, Counter>,
    commands: Family<Resulted, Counter>,
    /// Renewals among the commands stored.
    pub(crate) renewals: Counter,
    limits: Family<Limited, Gauge<f64, AtomicU64>>,
    /// Policies in the bucket that this decider could act on.
    pub(crate) policies: Gauge,
    /// Those that this process owns.
    pub(crate) owned: Gauge,
    /// Takeovers of a policy.
    pub(crate) takeovers: Counter,
    /// Ownerships lost to another owner in a race.
    pub(crate) lost: Counter,
    /// Values in the buckets that could not be acted on.
    pub(crate) refused: Counter,
    /// Samples left out because their sequence is below one that was used.
    pub(crate) older: Counter,
    /// Duration of an evaluation.
    pub(crate) evaluation_seconds: Histogram,
    /// From receipt of a sample to its decision being stored.
    pub(crate) decision_seconds: Histogram,
    /// The comparison of laws.
    pub(crate) shadows: ShadowMetrics,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            evaluations: Counter::default(),
            decisions: Family::default(),
            commits: Family::default(),
            commands: Family::default(),
            renewals: Counter::default(),
            limits: Family::default(),
            policies: Gauge::default(),
            owned: Gauge::default(),
            takeovers: Counter::default(),
            lost: Counter::default(),
            refused: Counter::default(),
            older: Counter::default(),
            shadows: ShadowMetrics::default(),
            evaluation_seconds: Histogram::new([
                5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 1e-3, 1e-2,
            ]),
            decision_seconds: Histogram::new([
                1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0,
            ]),
        }
    }
}

impl Metrics {
    /// Registers everything under `laneguard_decider_`, and the comparison of laws under `laneguard_shadow_`.
    pub(crate) fn register(&self, registry: &mut Registry) {
        self.shadows.register(registry);
        for action in Action::ALL {
            // every action is there from the first scrape on, so that rates begin at zero
            let action = action.as_str();
            drop(self.decisions.get_or_create(&Acted { action }));
        }
        let registry = registry.sub_registry_with_prefix("laneguard_decider");
        registry.register(
            "evaluations",
            "Evaluations of a control law, published or not",
            self.evaluations.clone(),
        );
        registry.register(
            "decisions",
            "Decisions committed, by the law's action",
            self.decisions.clone(),
        );
        registry.register(
            "commits",
            "Writes of a policy's state, by result (committed, conflict, unavailable)",
            self.commits.clone(),
        );
        registry.register(
            "commands",
            "Commands published, by result (stored, duplicate, wrong_last_sequence, unavailable)",
            self.commands.clone(),
        );
        registry.register(
            "renewals",
            "Commands published to keep the former one in force",
            self.renewals.clone(),
        );
        registry.register(
            "limit_bits_per_second",
            "Decided egress limit of each pod of a class, of the policies this process owns",
            self.limits.clone(),
        );
        registry.register(
            "policies",
            "Valid policies of this cluster whose law is one of ours",
            self.policies.clone(),
        );
        registry.register(
            "owned_policies",
            "Policies that this process decides for",
            self.owned.clone(),
        );
        registry.register(
            "takeovers",
            "Policies taken over by this process",
            self.takeovers.clone(),
        );
        registry.register(
            "lost_races",
            "Policies lost to another decider that wrote first",
            self.lost.clone(),
        );
        registry.register(
            "refused_values",
            "Policies, placements and overrides in the buckets that could not be acted on",
            self.refused.clone(),
        );
        registry.register(
            "older_samples",
            "Samples not evaluated because their sequence is below one that was used",
            self.older.clone(),
        );
        registry.register(
            "evaluation_seconds",
            "Duration of one evaluation",
            self.evaluation_seconds.clone(),
        );
        registry.register(
            "sample_to_decision_seconds",
            "From receipt of the last sample of a set to its decision being stored",
            self.decision_seconds.clone(),
        );
    }

    pub(crate) fn decided(&self, action: &str) {
        if let Some(action) = Action::ALL.iter().find(|a| a.as_str() == action) {
            let action = action.as_str();
            self.decisions.get_or_create(&Acted { action }).inc();
        }
    }

    pub(crate) fn committed(&self, result: &'static str) {
        self.commits.get_or_create(&Resulted { result }).inc();
    }

    pub(crate) fn commanded(&self, result: &'static str) {
        self.commands.get_or_create(&Resulted { result }).inc();
    }

    pub(crate) fn limit(&self, policy: &str, class: &str, bps: f64) {
        let labels = Limited {
            policy: policy.to_owned(),
            class: class.to_owned(),
        };
        self.limits.get_or_create(&labels).set(bps);
    }

    /// Somebody else owns the class's policy now, or nobody does.
    pub(crate) fn forget_limit(&self, policy: &str, class: &str) {
        self.limits.remove(&Limited {
            policy: policy.to_owned(),
            class: class.to_owned(),
        });
    }
}
