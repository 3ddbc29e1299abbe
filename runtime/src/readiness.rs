//! Ready once every latch is.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// What must hold before the process is ready.
#[derive(Debug, Clone, Default)]
pub struct Readiness(Arc<Mutex<BTreeMap<&'static str, Option<String>>>>);

/// One condition.
#[derive(Debug, Clone)]
pub struct Latch {
    name: &'static str,
    all: Readiness,
}

impl Readiness {
    /// A condition that does not hold yet.
    pub fn latch(&self, name: &'static str) -> Latch {
        self.set(name, Some("not yet".into()));
        Latch {
            name,
            all: self.clone(),
        }
    }

    /// What does not hold, one line each; empty when the process is ready.
    pub fn missing(&self) -> Vec<String> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .filter_map(|(name, reason)| reason.as_ref().map(|r| format!("{name}: {r}")))
            .collect()
    }

    fn set(&self, name: &'static str, reason: Option<String>) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name, reason);
    }
}

impl Latch {
    /// The condition holds.
    pub fn ready(&self) {
        self.all.set(self.name, None);
    }

    /// The condition does not hold, and why.
    pub fn not_ready(&self, reason: impl Into<String>) {
        self.all.set(self.name, Some(reason.into()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_only_when_every_latch_is() {
        let readiness = Readiness::default();
        let (nats, policies) = (readiness.latch("nats"), readiness.latch("policies"));
        nats.ready();
        assert_eq!(readiness.missing(), ["policies: not yet"]);
        policies.ready();
        assert!(readiness.missing().is_empty());
        nats.not_ready("connection lost");
        assert_eq!(readiness.missing(), ["nats: connection lost"]);
    }
}
