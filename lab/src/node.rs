//! What a kubelet and Cilium's agent do on the lab's nodes: pods of the API run on endpoints of the network,
//! and their annotation becomes a limit of the kernel at once, without restarting anything.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use futures::TryStreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, ResourceExt as _};
use serde_json::json;
use tokio::time::sleep;

use crate::bandwidth::{EGRESS_BANDWIDTH, Egress, egress};
use crate::exporter::cadvisor;
use crate::net::{self, Side};
use crate::raw::{self, PodAction, PodEvent};
use crate::scenario::NAMESPACE;

/// Rate of a shaper that once limited and no longer should, in bytes per second: more than any veth carries.
const UNLIMITED: u64 = 12_500_000_000;
/// Seconds of backlog that Cilium keeps before it drops (`t_horizon_drop`).
const HORIZON_SECONDS: u64 = 2;
/// Bounds of a shaper's queue in bytes.
const QUEUE_BYTES: (u64, u64) = (64 * 1024, 64 * 1024 * 1024);
/// A refused or failed call to the API is tried this often before the lab gives up.
const ATTEMPTS: usize = 20;
const RETRY_AFTER: Duration = Duration::from_millis(250);

/// A place where a pod can run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// Endpoint of the network.
    pub endpoint: String,
    /// Value of the label `app` of the pods that may run there.
    pub workload: String,
    /// Which node it belongs to.
    pub side: Side,
    /// Its address.
    pub address: Ipv4Addr,
    /// Where its counters are.
    pub counters: PathBuf,
}

/// A pod that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// Its name in the API.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// Its annotation as last read.
    pub annotation: Option<String>,
    /// Its limit in bits per second; none: unlimited.
    pub limit_bps: Option<u64>,
}

/// The pods that run now, by endpoint; shared with exporter and display.
#[derive(Debug, Clone, Default)]
pub struct Pods(Arc<Mutex<BTreeMap<String, Running>>>);

impl Pods {
    /// The pods that run now, by endpoint.
    #[must_use]
    pub fn running(&self) -> BTreeMap<String, Running> {
        self.lock().clone()
    }

    /// The same as cAdvisor names them.
    #[must_use]
    pub fn for_cadvisor(&self, slots: &[Slot]) -> Vec<cadvisor::Pod> {
        let running = self.lock();
        slots
            .iter()
            .filter_map(|slot| {
                Some(cadvisor::Pod {
                    namespace: NAMESPACE.to_owned(),
                    name: running.get(&slot.endpoint)?.name.clone(),
                    counters: slot.counters.clone(),
                })
            })
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Running>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The stand-in for the agents of all nodes.
pub struct Agent {
    client: Client,
    slots: Vec<Slot>,
    pods: Pods,
    log: raw::Writer,
    /// Endpoints that have a shaper; their queue must not be thrown away.
    shaped: BTreeMap<String, u64>,
}

impl Agent {
    /// An agent that logs into the folder of a run.
    ///
    /// # Errors
    /// When the log cannot be written.
    pub fn new(client: Client, slots: Vec<Slot>, pods: Pods, run: &Path) -> anyhow::Result<Self> {
        Ok(Self {
            client,
            slots,
            pods,
            log: raw::Writer::create::<PodEvent>(run)?,
            shaped: BTreeMap::new(),
        })
    }

    /// Follows the API until something fails for good.
    ///
    /// # Errors
    /// When the API or the kernel refuse again and again.
    pub async fn run(mut self) -> anyhow::Result<()> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), NAMESPACE);
        let mut events = pin!(watcher(api, watcher::Config::default()).default_backoff());
        let mut listed = Vec::new();
        loop {
            // The watcher reconnects by itself; an error is only news.
            let event = match events.try_next().await {
                Ok(Some(event)) => event,
                Ok(None) => anyhow::bail!("the watch of pods ended"),
                Err(error) => {
                    tracing::warn!(%error, "watching pods failed, trying again");
                    continue;
                }
            };
            match event {
                Event::Init => listed.clear(),
                Event::InitApply(pod) => {
                    listed.extend(pod.uid());
                    self.settle(&pod).await?;
                }
                Event::InitDone => {
                    let gone: Vec<String> = self
                        .pods
                        .running()
                        .into_values()
                        .map(|running| running.uid)
                        .filter(|uid| !listed.contains(uid))
                        .collect();
                    for uid in gone {
                        self.forget(&uid)?;
                    }
                }
                Event::Apply(pod) => self.settle(&pod).await?,
                Event::Delete(pod) => self.forget(&pod.uid().unwrap_or_default())?,
            }
        }
    }

    async fn settle(&mut self, pod: &Pod) -> anyhow::Result<()> {
        let mut attempt = 1;
        loop {
            match self.try_settle(pod).await {
                Err(error) if attempt < ATTEMPTS => {
                    tracing::warn!(
                        pod = pod.name_any(),
                        error = format!("{error:#}"),
                        "a pod could not be settled, trying again"
                    );
                    attempt += 1;
                    sleep(RETRY_AFTER).await;
                }
                result => return result.with_context(|| format!("pod {}", pod.name_any())),
            }
        }
    }

    /// Makes true what the API says about one pod.
    async fn try_settle(&mut self, pod: &Pod) -> anyhow::Result<()> {
        let Some(side) = side_of(pod) else {
            return Ok(()); // not bound yet, or on somebody else's node
        };
        if pod.metadata.deletion_timestamp.is_some() {
            return self.finish_deletion(pod).await;
        }
        let Some(slot) = self.slot_for(pod, side) else {
            tracing::warn!(pod = pod.name_any(), "there is no place for this pod");
            return Ok(());
        };
        let uid = pod.uid().unwrap_or_default();
        let phase = pod
            .status
            .as_ref()
            .and_then(|status| status.phase.as_deref());
        if phase != Some("Running") {
            self.mark_running(pod, &slot).await?;
        }
        let known = self
            .pods
            .lock()
            .get(&slot.endpoint)
            .is_some_and(|running| running.uid == uid);
        if !known {
            let running = Running {
                name: pod.name_any(),
                uid: uid.clone(),
                annotation: None,
                limit_bps: None,
            };
            self.pods.lock().insert(slot.endpoint.clone(), running);
            self.record(&slot.endpoint, pod, PodAction::Started)?;
        }
        self.limit(pod, &slot).await
    }

    /// Brings the kernel's limit in line with the annotation.
    async fn limit(&mut self, pod: &Pod, slot: &Slot) -> anyhow::Result<()> {
        let annotation = pod.annotations().get(EGRESS_BANDWIDTH).cloned();
        let meant = egress(annotation.as_deref());
        let (rate, action) = match meant {
            Egress::BytesPerSecond(bytes) => (bytes, PodAction::Limited(bytes.saturating_mul(8))),
            Egress::Unlimited(_) => (UNLIMITED, PodAction::Unlimited),
        };
        let in_force = self
            .shaped
            .get(&slot.endpoint)
            .copied()
            .unwrap_or(UNLIMITED);
        if rate != in_force {
            let queue = rate
                .saturating_mul(HORIZON_SECONDS)
                .clamp(QUEUE_BYTES.0, QUEUE_BYTES.1);
            net::shape(&slot.endpoint, rate, queue).await?;
            self.shaped.insert(slot.endpoint.clone(), rate);
        }
        let changed = {
            let mut pods = self.pods.lock();
            pods.get_mut(&slot.endpoint).is_some_and(|running| {
                let changed = rate != in_force || running.annotation != annotation;
                running.annotation = annotation;
                running.limit_bps = match action {
                    PodAction::Limited(bits) => Some(bits),
                    _ => None,
                };
                changed
            })
        };
        if changed {
            self.record(&slot.endpoint, pod, action)?;
        }
        Ok(())
    }

    async fn mark_running(&self, pod: &Pod, slot: &Slot) -> anyhow::Result<()> {
        let started = pod.metadata.creation_timestamp.clone();
        let ready =
            |kind: &str| json!({"type": kind, "status": "True", "lastTransitionTime": started});
        let containers: Vec<_> = pod
            .spec
            .iter()
            .flat_map(|spec| &spec.containers)
            .map(|container| {
                json!({
                    "name": container.name, "image": container.image, "imageID": "", "ready": true, "started": true,
                    "restartCount": 0, "state": {"running": {"startedAt": started}},
                })
            })
            .collect();
        let status = json!({"status": {
            "phase": "Running",
            "podIP": slot.address.to_string(),
            "podIPs": [{"ip": slot.address.to_string()}],
            "startTime": started,
            "conditions": [ready("PodScheduled"), ready("Initialized"), ready("ContainersReady"), ready("Ready")],
            "containerStatuses": containers,
        }});
        let patched = self
            .api(pod)
            .patch_status(
                &pod.name_any(),
                &PatchParams::default(),
                &Patch::Merge(status),
            )
            .await;
        // A pod that has gone meanwhile needs no status; its deletion follows in the watch.
        ignore_absence(patched.map(drop)).context("cannot mark it running")
    }

    async fn finish_deletion(&mut self, pod: &Pod) -> anyhow::Result<()> {
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions {
                uid: pod.uid(),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        let deleted = self.api(pod).delete(&pod.name_any(), &params).await;
        ignore_absence(deleted.map(drop)).context("cannot finish its deletion")
    }

    /// A pod's endpoint: the one it has, else a free one of its workload, else (when a rollout has both for a
    /// moment) one whose pod it will replace.
    fn slot_for(&self, pod: &Pod, side: Side) -> Option<Slot> {
        let (uid, app) = (pod.uid()?, pod.labels().get("app")?);
        let running = self.pods.lock();
        let candidates = || {
            self.slots
                .iter()
                .filter(|slot| slot.workload == *app && slot.side == side)
        };
        candidates()
            .find(|slot| {
                running
                    .get(&slot.endpoint)
                    .is_some_and(|pod| pod.uid == uid)
            })
            .or_else(|| candidates().find(|slot| !running.contains_key(&slot.endpoint)))
            .or_else(|| candidates().next())
            .cloned()
    }

    fn forget(&mut self, uid: &str) -> anyhow::Result<()> {
        let gone = {
            let mut pods = self.pods.lock();
            let endpoint = pods
                .iter()
                .find(|(_, running)| running.uid == uid)
                .map(|(endpoint, _)| endpoint.clone());
            endpoint.and_then(|endpoint| pods.remove_entry(&endpoint))
        };
        let Some((endpoint, running)) = gone else {
            return Ok(()); // another pod has its place already
        };
        let event = PodEvent {
            unix_ns: raw::unix_ns(),
            endpoint,
            pod: running.name,
            uid: running.uid,
            action: PodAction::Gone,
            annotation: running.annotation.unwrap_or_else(|| "-".to_owned()),
        };
        Ok(self.log.write([&event])?)
    }

    fn record(&mut self, endpoint: &str, pod: &Pod, action: PodAction) -> anyhow::Result<()> {
        let event = PodEvent {
            unix_ns: raw::unix_ns(),
            endpoint: endpoint.to_owned(),
            pod: pod.name_any(),
            uid: pod.uid().unwrap_or_default(),
            action,
            annotation: pod
                .annotations()
                .get(EGRESS_BANDWIDTH)
                .cloned()
                .unwrap_or_else(|| "-".to_owned()),
        };
        Ok(self.log.write([&event])?)
    }

    fn api(&self, pod: &Pod) -> Api<Pod> {
        Api::namespaced(
            self.client.clone(),
            pod.metadata.namespace.as_deref().unwrap_or(NAMESPACE),
        )
    }
}

fn side_of(pod: &Pod) -> Option<Side> {
    let node = pod.spec.as_ref()?.node_name.as_deref()?;
    [Side::A, Side::B, Side::C]
        .into_iter()
        .find(|side| side.node() == node)
}

/// Not found, or found under another uid: the pod is gone, which is as good.
fn ignore_absence(result: kube::Result<()>) -> kube::Result<()> {
    match result {
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(()),
        other => other,
    }
}
