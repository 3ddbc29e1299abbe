//! What a cluster's control plane does beside the API server: workload controllers, scheduler, garbage collection, namespaces.
//!
//! One task. Changes put work in a set, so a burst of changes to the pods of one owner is one reconciliation. Each piece of work
//! is synchronous and small; it looks at the current state and not at what changed.

mod daemon_set;
mod deployment;
mod garbage;
mod kubelet;
mod namespace;
mod pods;
mod replica_set;
mod scheduler;
mod stateful_set;

use std::collections::BTreeSet;

use tokio::{sync::watch, time::Instant};

use crate::{
    cluster::Cluster,
    object::Object,
    resource::{KINDS, Table},
    store::Change,
};

/// Pods that one reconciliation creates or deletes before others get their turn.
const BURST: usize = 200;

/// Pieces of work done before changes are looked at again.
const TURN: usize = 256;

/// Something to look at, in the order of doing: what concerns one object before what counts many.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Work {
    Schedule(String),
    /// An object with owners: are they there?
    Owners(Table, String),
    /// Dependents of an owner that is gone.
    Orphans(String),
    /// An object that waits for the garbage collector's finalizers.
    Finalize(Table, String),
    Deployment(String),
    ReplicaSet(String),
    StatefulSet(String),
    DaemonSet(String),
    Namespace(String),
}

/// Whether a piece of work is finished for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Done,
    /// More to do; after others.
    Again,
}

/// Runs the controllers. Never returns: after `stopped` it only waits to be dropped.
pub(crate) async fn run(cluster: Cluster, mut stopped: watch::Receiver<bool>) {
    let mut plane = Plane::new(cluster);
    let mut changed = plane.cluster.store().subscribe_all();
    while !*stopped.borrow() {
        changed.mark_unchanged();
        plane.observe();
        plane.work();
        if !plane.queue.is_empty() {
            tokio::task::yield_now().await;
            continue;
        }
        let timer = plane.kubelet.next();
        tokio::select! {
            _ = changed.changed() => {}
            _ = stopped.changed() => {}
            () = sleep_until(timer) => plane.kubelet.act(&plane.cluster),
        }
    }
    std::future::pending().await
}

async fn sleep_until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

struct Plane {
    cluster: Cluster,
    /// Per table, the version up to which changes were seen; `None` before the first look.
    cursors: Vec<Option<u64>>,
    queue: BTreeSet<Work>,
    scheduler: scheduler::Scheduler,
    kubelet: kubelet::Kubelet,
}

impl Plane {
    fn new(cluster: Cluster) -> Self {
        Self {
            cursors: vec![None; Table::ALL.len()],
            queue: BTreeSet::new(),
            scheduler: scheduler::Scheduler::default(),
            kubelet: kubelet::Kubelet::new(cluster.options().kubelet),
            cluster,
        }
    }

    fn observe(&mut self) {
        for table in Table::ALL {
            while let Some(cursor) = self.cursors[table as usize] {
                let changes = self.cluster.store().changes(table, cursor, 1024);
                match changes {
                    Ok((changes, upto)) => {
                        self.cursors[table as usize] = Some(upto);
                        if changes.is_empty() {
                            break;
                        }
                        for change in changes {
                            self.observe_change(table, &change);
                        }
                    }
                    Err(_) => self.cursors[table as usize] = None,
                }
            }
            if self.cursors[table as usize].is_none() {
                self.resync(table);
            }
        }
    }

    /// Looks at everything, at the start and after the history ran past us.
    fn resync(&mut self, table: Table) {
        let (objects, revision) = {
            let store = self.cluster.store();
            let objects: Vec<_> = store.list(table, None, None).cloned().collect();
            (objects, store.revision())
        };
        self.cursors[table as usize] = Some(revision);
        for object in objects {
            self.observe_object(table, &object, true);
        }
    }

    fn observe_change(&mut self, table: Table, change: &Change) {
        let object = &change.after;
        if change.deleted {
            self.enqueue_owners(object);
            self.queue.insert(Work::Orphans(object.uid().to_owned()));
            if !object.namespace().is_empty() {
                self.queue
                    .insert(Work::Namespace(object.namespace().to_owned()));
            }
            return;
        }
        let news = match &change.before {
            Some(before) => table != Table::Pods || matters(before, object),
            None => true,
        };
        if news {
            if let Some(before) = &change.before {
                self.enqueue_owners(before);
            }
            self.observe_object(table, object, change.before.is_none());
        }
    }

    fn observe_object(&mut self, table: Table, object: &Object, new: bool) {
        let key = object.key().to_owned();
        if object.is_deleting() && object.has_finalizers() {
            self.queue.insert(Work::Finalize(table, key.clone()));
        }
        if new && !object.owners().is_empty() {
            self.queue.insert(Work::Owners(table, key.clone()));
        }
        self.enqueue_owners(object);
        match table {
            Table::Deployments => drop(self.queue.insert(Work::Deployment(key))),
            Table::ReplicaSets => drop(self.queue.insert(Work::ReplicaSet(key))),
            Table::StatefulSets => drop(self.queue.insert(Work::StatefulSet(key))),
            Table::DaemonSets => drop(self.queue.insert(Work::DaemonSet(key))),
            Table::Namespaces => drop(self.queue.insert(Work::Namespace(key))),
            Table::Pods => {
                self.kubelet.observe(object);
                if object.node_name().is_empty() && !object.is_deleting() {
                    self.queue.insert(Work::Schedule(key));
                }
            }
            Table::Nodes => self.enqueue_for_nodes(),
            _ => {}
        }
    }

    /// A node came or changed: daemon sets and pods without a node may have a place now.
    fn enqueue_for_nodes(&mut self) {
        let store = self.cluster.store();
        for set in store.list(Table::DaemonSets, None, None) {
            self.queue.insert(Work::DaemonSet(set.key().to_owned()));
        }
        for pod in store.list(Table::Pods, None, None) {
            if pod.node_name().is_empty() && !pod.is_deleting() {
                self.queue.insert(Work::Schedule(pod.key().to_owned()));
            }
        }
    }

    fn enqueue_owners(&mut self, object: &Object) {
        let store = self.cluster.store();
        for owner in object.owners() {
            let Some((table, key)) = store.by_uid(&owner.uid).cloned() else {
                continue;
            };
            match table {
                Table::Deployments => drop(self.queue.insert(Work::Deployment(key.clone()))),
                Table::ReplicaSets => drop(self.queue.insert(Work::ReplicaSet(key.clone()))),
                Table::StatefulSets => drop(self.queue.insert(Work::StatefulSet(key.clone()))),
                Table::DaemonSets => drop(self.queue.insert(Work::DaemonSet(key.clone()))),
                _ => {}
            }
            let waits = store
                .get(table, &key)
                .is_some_and(|owner| owner.is_deleting() && owner.has_finalizers());
            if waits {
                self.queue.insert(Work::Finalize(table, key));
            }
        }
    }

    fn work(&mut self) {
        let controllers = self.cluster.options().controllers;
        for _ in 0..TURN {
            let Some(work) = self.queue.pop_first() else {
                return;
            };
            if !controllers {
                continue;
            }
            if self.perform(&work) == Outcome::Again {
                self.queue.insert(work);
                // It sorts before others, which would never get their turn.
                return;
            }
        }
    }

    fn perform(&mut self, work: &Work) -> Outcome {
        let cluster = &self.cluster;
        let outcome = match work {
            Work::Deployment(key) => deployment::reconcile(cluster, key),
            Work::ReplicaSet(key) => replica_set::reconcile(cluster, key),
            Work::StatefulSet(key) => stateful_set::reconcile(cluster, key),
            Work::DaemonSet(key) => daemon_set::reconcile(cluster, key),
            Work::Schedule(key) => self.scheduler.schedule(cluster, key),
            Work::Owners(table, key) => garbage::check_owners(cluster, *table, key),
            Work::Orphans(uid) => garbage::collect(cluster, uid),
            Work::Finalize(table, key) => garbage::finalize(cluster, *table, key),
            Work::Namespace(name) => namespace::empty(cluster, name),
        };
        outcome.unwrap_or_else(|error| {
            // Races with clients are ordinary; the change that caused it brings the work back.
            tracing::debug!(?work, reason = error.message, "reconciliation failed");
            Outcome::Done
        })
    }
}

/// Whether a pod changed in a way that a controller looks at; annotations are not.
fn matters(before: &Object, after: &Object) -> bool {
    before.node_name() != after.node_name()
        || before.phase() != after.phase()
        || before.is_ready() != after.is_ready()
        || before.is_deleting() != after.is_deleting()
        || before.has_finalizers() != after.has_finalizers()
        || before.owners() != after.owners()
}

/// Whether objects of this kind are served at all.
fn is_served(kind: &str) -> bool {
    KINDS.iter().any(|known| known.kind == kind)
}
