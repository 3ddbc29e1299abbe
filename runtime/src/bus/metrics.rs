//! What the bus counts.

use laneguard_proto::subject::Kind;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Publication {
    pub(super) kind: &'static str,
    pub(super) result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Refusal {
    pub(super) kind: &'static str,
    pub(super) reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Storage {
    pub(super) name: &'static str,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Metrics {
    pub(super) published: Family<Publication, Counter>,
    pub(super) refused: Family<Refusal, Counter>,
    pub(super) connected: Gauge,
    pub(super) connections: Counter,
    pub(super) reopened: Counter,
    pub(super) foreign: Family<Storage, Gauge>,
}

impl Metrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("laneguard_bus");
        registry.register(
            "published_messages",
            "Messages published, by kind and result (stored, duplicate, wrong_last_sequence, unavailable, refused)",
            self.published.clone(),
        );
        registry.register(
            "refused_messages",
            "Messages received but not acted on, by kind and reason (too_large, content_type, malformed, out_of_range, misplaced)",
            self.refused.clone(),
        );
        registry.register(
            "connected",
            "1 while connected to NATS",
            self.connected.clone(),
        );
        registry.register(
            "connections",
            "Connections made to NATS, the first one included",
            self.connections.clone(),
        );
        registry.register(
            "reopened_feeds",
            "Consumers made anew after a gap, a reconnect or a lost stream",
            self.reopened.clone(),
        );
        registry.register(
            "foreign_storage",
            "1 for each stream or bucket that is not configured as this version would configure it",
            self.foreign.clone(),
        );
    }

    pub(super) fn publication(&self, kind: &'static str, result: &'static str) {
        self.published
            .get_or_create(&Publication { kind, result })
            .inc();
    }

    pub(super) fn refusal(&self, kind: Kind, reason: &'static str) {
        let kind = kind.as_str();
        self.refused.get_or_create(&Refusal { kind, reason }).inc();
    }
}
