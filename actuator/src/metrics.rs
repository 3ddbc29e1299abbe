//! What the actuator counts. Labels come from closed sets.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// A label `result`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ResultLabel {
    /// What came of it.
    pub result: &'static str,
}

/// A label `trigger`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct TriggerLabel {
    /// COMMAND, EXPIRED, POLICY_ENDED or RELEASED.
    pub trigger: &'static str,
}

/// A label `action`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ActionLabel {
    /// What was done.
    pub action: &'static str,
}

/// A label `resource`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ResourceLabel {
    /// pods or namespaces.
    pub resource: &'static str,
}

/// The actuator's metrics. Cheap to clone; clones count together.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Commands received.
    pub commands: Family<ResultLabel, Counter>,
    /// Patches sent, by action and what came of them.
    pub writes: Family<ResultLabel, Counter>,
    /// Limits set and restored.
    pub changes: Family<ActionLabel, Counter>,
    /// Time of one patch.
    pub write_seconds: Histogram,
    /// From receipt of a command to the last pod's answer.
    pub command_seconds: Histogram,
    /// Commands that asked for a limit out of bounds.
    pub clamped: Counter,
    /// Times that somebody else's law asked for a raise faster than limits may rise.
    pub held_back: Counter,
    /// Limits of ours that somebody else changed.
    pub drift: Counter,
    /// Commands that expired.
    pub expirations: Family<ActionLabel, Counter>,
    /// Outcomes published.
    pub outcomes: Family<TriggerLabel, Counter>,
    /// Outcomes dropped, as NATS was away too long.
    pub outcomes_dropped: Counter,
    /// Whether this replica leads.
    pub leader: Gauge,
    /// Pods known.
    pub pods: Gauge,
    /// Pods with a limit of ours.
    pub limited: Gauge,
    /// Pods waiting to be planned.
    pub queue: Gauge,
    /// Watches that failed.
    pub watch_errors: Family<ResourceLabel, Counter>,
    /// Complete lists read.
    pub lists: Family<ResourceLabel, Counter>,
    /// Policies in the bucket that cannot be used.
    pub policies_invalid: Counter,
    /// Records on pods that cannot be read.
    pub records_unreadable: Counter,
    /// Policies and overrides written again after the bucket lost them.
    pub reasserted: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        let seconds = [
            0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
        ];
        Self {
            commands: Family::default(),
            writes: Family::default(),
            changes: Family::default(),
            write_seconds: Histogram::new(seconds),
            command_seconds: Histogram::new(seconds),
            clamped: Counter::default(),
            held_back: Counter::default(),
            drift: Counter::default(),
            expirations: Family::default(),
            outcomes: Family::default(),
            outcomes_dropped: Counter::default(),
            leader: Gauge::default(),
            pods: Gauge::default(),
            limited: Gauge::default(),
            queue: Gauge::default(),
            watch_errors: Family::default(),
            lists: Family::default(),
            policies_invalid: Counter::default(),
            records_unreadable: Counter::default(),
            reasserted: Counter::default(),
        }
    }
}

impl Metrics {
    /// Adds them to a registry.
    pub fn register(&self, registry: &mut Registry) {
        let r = registry.sub_registry_with_prefix("laneguard_actuator");
        r.register("commands", "Commands received", self.commands.clone());
        r.register("writes", "Patches of pods", self.writes.clone());
        r.register(
            "limit_changes",
            "Limits set and restored on pods",
            self.changes.clone(),
        );
        let write = self.write_seconds.clone();
        r.register_with_unit("write_duration", "Time of one patch", Unit::Seconds, write);
        let command = self.command_seconds.clone();
        r.register_with_unit(
            "command_duration",
            "From receipt of a command to the answer for its last pod",
            Unit::Seconds,
            command,
        );
        r.register(
            "commands_clamped",
            "Commands that asked for a limit out of bounds",
            self.clamped.clone(),
        );
        r.register(
            "raises_held_back",
            "Times that somebody else's law asked for a raise faster than limits may rise",
            self.held_back.clone(),
        );
        r.register(
            "drift",
            "Limits of ours that somebody else changed",
            self.drift.clone(),
        );
        r.register(
            "expirations",
            "Commands that nobody renewed, by what followed",
            self.expirations.clone(),
        );
        r.register("outcomes", "Outcomes published", self.outcomes.clone());
        r.register(
            "outcomes_dropped",
            "Outcomes dropped because NATS was away too long",
            self.outcomes_dropped.clone(),
        );
        r.register(
            "leader",
            "1 on the replica that writes",
            self.leader.clone(),
        );
        r.register("pods", "Pods known", self.pods.clone());
        r.register(
            "limited_pods",
            "Pods with a limit of ours",
            self.limited.clone(),
        );
        r.register(
            "queue_pods",
            "Pods waiting to be looked at",
            self.queue.clone(),
        );
        r.register(
            "watch_errors",
            "Watches of the API server that failed",
            self.watch_errors.clone(),
        );
        r.register(
            "lists",
            "Complete lists read from the API server",
            self.lists.clone(),
        );
        r.register(
            "policies_invalid",
            "Policies in the bucket that cannot be used",
            self.policies_invalid.clone(),
        );
        r.register(
            "records_unreadable",
            "Records on pods that cannot be read",
            self.records_unreadable.clone(),
        );
        r.register(
            "reasserted",
            "Policies and overrides written again after their bucket lost them",
            self.reasserted.clone(),
        );
    }
}
