//! The cluster's state and the handle to it that everything here shares.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde_json::json;
use tokio::sync::watch;

use crate::{
    fault::{Fault, Faults},
    object::Object,
    resource::Table,
    store::Store,
    write::WriteOptions,
};

/// How a stand-in behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// Changes kept per resource; a watch that starts or falls behind further than this gets 410. Default 20,000.
    pub history: usize,
    /// Time between bookmarks for watches that allow them. Default 10 s (a real server: about a minute).
    pub bookmark_interval: Duration,
    /// Run the workload controllers, the scheduler and the garbage collector. Default true.
    pub controllers: bool,
    /// Mark bound pods running, and finish graceful deletions, after this time. Default `None`: a node stand-in does it.
    pub kubelet: Option<Duration>,
    /// Ready nodes `node-1`, `node-2`, ... to begin with. Default 0.
    pub nodes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            history: 20_000,
            bookmark_interval: Duration::from_secs(10),
            controllers: true,
            kubelet: None,
            nodes: 0,
        }
    }
}

/// A handle to one in-memory cluster; clones are the same cluster.
#[derive(Clone, Debug)]
pub struct Cluster(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    options: Options,
    store: Mutex<Store>,
    faults: Mutex<Faults>,
    cut: watch::Sender<u64>,
}

impl Default for Cluster {
    fn default() -> Self {
        Self::new()
    }
}

impl Cluster {
    /// A cluster with default [`Options`]: controllers, no nodes, no kubelet.
    #[must_use]
    pub fn new() -> Self {
        Self::with_options(Options::default())
    }

    /// A cluster with two ready nodes whose pods run `delay` after they are bound.
    #[must_use]
    pub fn with_instant_kubelet(delay: Duration) -> Self {
        Self::with_options(Options {
            kubelet: Some(delay),
            nodes: 2,
            ..Options::default()
        })
    }

    /// A cluster as described by `options`, with the namespaces every cluster has.
    #[must_use]
    pub fn with_options(options: Options) -> Self {
        let cluster = Self(Arc::new(Inner {
            store: Mutex::new(Store::new(options.history)),
            faults: Mutex::new(Faults::default()),
            cut: watch::Sender::new(0),
            options,
        }));
        for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
            cluster.install(Table::Namespaces, json!({"metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}}}));
        }
        for number in 1..=cluster.options().nodes {
            let name = format!("node-{number}");
            cluster.install(
                Table::Nodes,
                json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux"}},
                    "status": {"conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
                        "addresses": [{"type": "InternalIP", "address": format!("192.0.2.{}", number % 250)}]}}),
            );
        }
        cluster
    }

    fn install(&self, table: Table, value: serde_json::Value) {
        let target = crate::path::Target::collection(table, None);
        if let Err(error) = self.create(&target, value, &WriteOptions::default()) {
            tracing::error!(reason = error.message, "initial object was refused");
        }
    }

    pub(crate) fn options(&self) -> &Options {
        &self.0.options
    }

    pub(crate) fn store(&self) -> MutexGuard<'_, Store> {
        // A panic elsewhere cannot leave the store half-written in a way that matters to a test double.
        self.0.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn faults(&self) -> MutexGuard<'_, Faults> {
        self.0.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn get(&self, table: Table, key: &str) -> Option<Arc<Object>> {
        self.store().get(table, key)
    }

    /// Answers matching requests wrongly from now on, until the fault is used up. Faults are tried in the order injected.
    pub fn inject(&self, fault: Fault) {
        self.faults().push(fault);
    }

    /// Removes all faults and gives how many were not used up.
    pub fn clear_faults(&self) -> usize {
        self.faults().clear()
    }

    /// Ends every open watch, as a restarting API server or load balancer does.
    pub fn cut_watches(&self) {
        self.0.cut.send_modify(|count| *count += 1);
    }

    pub(crate) fn cuts(&self) -> watch::Receiver<u64> {
        self.0.cut.subscribe()
    }

    /// Forgets the history, as etcd's compaction does: watches and continued lists from older versions get 410.
    pub fn compact(&self) {
        self.store().compact();
    }

    /// The version of the last write.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.store().revision()
    }
}
