//! Pretends to run pods, for tests that have no node stand-in: bound pods become ready, deleted ones go, after a set time.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashSet},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    cluster::Cluster,
    object::Object,
    path::{Part, Target},
    resource::Table,
    status::ApiResult,
    write::{DeleteOptions, Origin, WriteOptions, now},
};

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Action {
    Start { key: String, uid: String },
    Stop { key: String, uid: String },
}

#[derive(Debug)]
pub(super) struct Kubelet {
    /// `None`: somebody else is the kubelet.
    delay: Option<Duration>,
    due: BinaryHeap<Reverse<(Instant, Action)>>,
    pending: HashSet<Action>,
    addresses: u32,
}

impl Kubelet {
    pub(super) fn new(delay: Option<Duration>) -> Self {
        Self {
            delay,
            due: BinaryHeap::new(),
            pending: HashSet::new(),
            addresses: 0,
        }
    }

    /// When there is something to do.
    pub(super) fn next(&self) -> Option<Instant> {
        self.due.peek().map(|Reverse((instant, _))| *instant)
    }

    /// Takes note of a pod's state.
    pub(super) fn observe(&mut self, pod: &Object) {
        let Some(delay) = self.delay else {
            return;
        };
        if pod.node_name().is_empty() {
            return;
        }
        let (key, uid) = (pod.key().to_owned(), pod.uid().to_owned());
        let action = match (pod.is_deleting(), pod.phase()) {
            (true, _) => Action::Stop { key, uid },
            (false, "Pending") => Action::Start { key, uid },
            (false, _) => return,
        };
        if self.pending.insert(action.clone()) {
            self.due.push(Reverse((Instant::now() + delay, action)));
        }
    }

    /// Does what is due.
    pub(super) fn act(&mut self, cluster: &Cluster) {
        let now = Instant::now();
        while let Some(Reverse((instant, _))) = self.due.peek()
            && *instant <= now
        {
            let Some(Reverse((_, action))) = self.due.pop() else {
                return;
            };
            self.pending.remove(&action);
            let done = match &action {
                Action::Start { key, uid } => self.start(cluster, key, uid),
                Action::Stop { key, uid } => stop(cluster, key, uid),
            };
            if let Err(error) = done {
                tracing::debug!(?action, reason = error.message, "the pod is gone");
            }
        }
    }

    fn start(&mut self, cluster: &Cluster, key: &str, uid: &str) -> ApiResult<()> {
        self.addresses += 1;
        let [_, b, c, d] = self.addresses.to_be_bytes();
        let address = format!("10.{b}.{c}.{d}");
        let mut target = Target::object(Table::Pods, key);
        target.part = Part::Status;
        cluster
            .update(
                &target,
                Origin::Internal,
                &WriteOptions::default(),
                |mut pod, current| {
                    if current.uid() == uid
                        && current.phase() == "Pending"
                        && !current.is_deleting()
                    {
                        run(&mut pod, &address);
                    }
                    Ok(pod)
                },
            )
            .map(drop)
    }
}

fn run(pod: &mut Value, address: &str) {
    let since = now();
    let conditions: Vec<Value> = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"]
        .into_iter()
        .map(|type_| json!({"type": type_, "status": "True", "lastProbeTime": null, "lastTransitionTime": since}))
        .collect();
    let containers: Vec<Value> = pod["spec"]["containers"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|container| {
            json!({"name": container["name"], "image": container["image"], "imageID": "", "ready": true, "started": true,
                "restartCount": 0, "state": {"running": {"startedAt": since}}})
        })
        .collect();
    let host_network = pod["spec"]["hostNetwork"] == true;
    let host = "192.0.2.1";
    let address = if host_network { host } else { address };
    let status = &mut pod["status"];
    status["phase"] = json!("Running");
    status["conditions"] = json!(conditions);
    status["containerStatuses"] = json!(containers);
    status["hostIP"] = json!(host);
    status["podIP"] = json!(address);
    status["podIPs"] = json!([{"ip": address}]);
    status["startTime"] = json!(since);
}

fn stop(cluster: &Cluster, key: &str, uid: &str) -> ApiResult<()> {
    let target = Target::object(Table::Pods, key);
    let options = DeleteOptions {
        grace: Some(0),
        uid: Some(uid.to_owned()),
        ..DeleteOptions::default()
    };
    let name = target.name.clone().unwrap_or_default();
    cluster.delete(&target, &name, &options).map(drop)
}
