//! What waits for a policy's task: only the newest of each kind, so it is bounded by the policy and never holds what is out of date.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use laneguard_proto::v1;
use laneguard_runtime::bus::Received;
use tokio::sync::Notify;

use crate::engine::Seen;

/// The newest sample of each workload and what the actuator has seen.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    waiting: Mutex<Waiting>,
    arrived: Notify,
}

/// What was waiting.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    /// By workload. The router puts in only workloads of the policy. Boxed: a tree's node has room for eleven, and mostly holds one.
    pub(crate) samples: BTreeMap<String, Box<Received<v1::Sample>>>,
    /// From outcomes.
    pub(crate) seen: Seen,
}

impl Inbox {
    fn change(&self, change: impl FnOnce(&mut Waiting)) {
        change(&mut self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        self.arrived.notify_one();
    }

    /// A sample of one of the policy's workloads; an older one that still waits is replaced.
    pub(crate) fn sample(&self, sample: Received<v1::Sample>) {
        let sample = Box::new(sample);
        self.change(|waiting| {
            waiting
                .samples
                .insert(sample.message.workload.clone(), sample);
        });
    }

    /// What the actuator has seen.
    pub(crate) fn seen(&self, seen: Seen) {
        self.change(|waiting| waiting.seen = waiting.seen.max(seen));
    }

    /// Waits until something came. Cancel-safe.
    pub(crate) async fn arrived(&self) {
        self.arrived.notified().await;
    }

    /// Takes what waits.
    pub(crate) fn take(&self) -> Waiting {
        std::mem::take(&mut self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
