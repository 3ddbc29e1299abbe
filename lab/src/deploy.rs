//! The lab's workloads in the Kubernetes API: nodes, namespace, and one Deployment per workload.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Context as _;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Client, Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::bandwidth::EGRESS_BANDWIDTH;
use crate::net::Side;
use crate::scenario::{BEST_EFFORT, CRITICAL_CLIENT, CRITICAL_SERVICE, NAMESPACE, Scenario};

/// Label of everything the lab creates, so that it finds and removes only that.
const MARK: &str = "laneguard.dev/lab";
/// How long pods may take to run or to go.
const PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(50);

/// Creates nodes, namespace and Deployments.
///
/// # Errors
/// When the API refuses, for instance because something else has one of the names.
pub async fn create(client: &Client, scenario: &Scenario) -> anyhow::Result<()> {
    for side in sides(scenario) {
        let ready = json!([{"type": "Ready", "status": "True", "reason": "LabReady"}]);
        let node = json!({
            "metadata": {"name": side.node(), "labels": {MARK: "true", "kubernetes.io/hostname": side.node()}},
            "status": {"conditions": ready},
        });
        post::<Node>(&Api::all(client.clone()), node).await?;
    }
    let namespaces: Api<Namespace> = Api::all(client.clone());
    wait("the namespace of an earlier run does not go", || async {
        let found = namespaces.get_opt(NAMESPACE).await?;
        Ok(found.is_none_or(|namespace| namespace.metadata.deletion_timestamp.is_none()))
    })
    .await?;
    if namespaces.get_opt(NAMESPACE).await?.is_none() {
        post(
            &namespaces,
            json!({"metadata": {"name": NAMESPACE, "labels": {MARK: "true"}}}),
        )
        .await?;
    }
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), NAMESPACE);
    let mut workloads = vec![
        (CRITICAL_SERVICE, "critical", Side::B, 1),
        (CRITICAL_CLIENT, "critical", Side::A, 1),
    ];
    for workload in BEST_EFFORT {
        let senders = scenario.senders();
        let replicas = senders
            .iter()
            .filter(|sender| sender.workload == workload)
            .count();
        if replicas > 0 {
            workloads.push((workload, "best-effort", Side::A, replicas));
        }
    }
    for (name, priority, side, replicas) in workloads {
        let mut object = deployment(name, priority, side, replicas);
        if let (Some(bps), "best-effort") = (scenario.start_limit_bps, priority) {
            let limit = format!("{}k", bps / 1000);
            object["spec"]["template"]["metadata"]["annotations"] =
                json!({EGRESS_BANDWIDTH: limit});
        }
        post(&deployments, object).await?;
    }
    Ok(())
}

fn sides(scenario: &Scenario) -> Vec<Side> {
    let mut sides = vec![Side::A, Side::B];
    if scenario.moves() {
        sides.push(Side::C);
    }
    sides
}

/// Has the best-effort pods replaced by others on another node; returns as soon as the API knows.
///
/// # Errors
/// When the API refuses.
pub async fn move_best_effort(
    client: &Client,
    scenario: &Scenario,
    to: Side,
) -> anyhow::Result<()> {
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), NAMESPACE);
    let patch = json!({"spec": {"template": {"spec": {"nodeName": to.node()}}}});
    let workloads: BTreeSet<&str> = scenario
        .senders()
        .iter()
        .map(|sender| sender.workload)
        .collect();
    for workload in workloads {
        deployments
            .patch(workload, &PatchParams::default(), &Patch::Merge(&patch))
            .await
            .with_context(|| format!("cannot move {workload}"))?;
    }
    Ok(())
}

/// Waits until all pods of the scenario run.
///
/// # Errors
/// When they do not in time.
pub async fn wait_running(client: &Client, scenario: &Scenario) -> anyhow::Result<()> {
    let expected = usize::from(scenario.pods) + 2;
    wait("pods do not run", || async {
        let pods = marked::<Pod>(&Api::namespaced(client.clone(), NAMESPACE)).await?;
        let running = pods.iter().filter(|pod| {
            pod.metadata.deletion_timestamp.is_none()
                && pod
                    .status
                    .as_ref()
                    .and_then(|status| status.phase.as_deref())
                    == Some("Running")
        });
        Ok(running.count() == expected)
    })
    .await
}

/// Removes what [`create`] made, here or in an earlier run that was killed. The namespace stays when others use it.
///
/// # Errors
/// When the API refuses or pods do not go.
pub async fn remove(client: &Client) -> anyhow::Result<()> {
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), NAMESPACE);
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    delete_marked(&deployments, &DeleteParams::background()).await?;
    // No kubelet stands behind these pods: nobody else would confirm a graceful end.
    let at_once = DeleteParams::default().grace_period(0);
    wait("pods do not go", || async {
        delete_marked(&pods, &at_once).await?;
        Ok(marked(&pods).await?.is_empty())
    })
    .await?;
    delete_marked::<Node>(&Api::all(client.clone()), &DeleteParams::default()).await?;
    delete_marked::<Namespace>(&Api::all(client.clone()), &DeleteParams::default()).await
}

fn deployment(name: &str, priority: &str, side: Side, replicas: usize) -> serde_json::Value {
    json!({
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": {"app": name, "priority": priority, MARK: "true"}},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name, "priority": priority, MARK: "true"}},
                "spec": {
                    "nodeName": side.node(),
                    "automountServiceAccountToken": false,
                    "containers": [{"name": "main", "image": format!("lab.invalid/{name}:1")}],
                },
            },
        },
    })
}

async fn post<K>(api: &Api<K>, object: serde_json::Value) -> anyhow::Result<()>
where
    K: Resource + Clone + DeserializeOwned + Serialize + std::fmt::Debug,
{
    let object: K = serde_json::from_value(object).context("an object of the lab is malformed")?;
    let name = object.name_any();
    api.create(&PostParams::default(), &object)
        .await
        .with_context(|| format!("cannot create {name}"))?;
    Ok(())
}

async fn marked<K>(api: &Api<K>) -> kube::Result<Vec<K>>
where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug,
{
    let selector = ListParams::default().labels(&format!("{MARK}=true"));
    Ok(api.list(&selector).await?.items)
}

async fn delete_marked<K>(api: &Api<K>, params: &DeleteParams) -> anyhow::Result<()>
where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug,
{
    for object in marked(api).await? {
        match api.delete(&object.name_any(), params).await {
            Ok(_) => {}
            // Somebody else was faster.
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => {
                return Err(error).with_context(|| format!("cannot delete {}", object.name_any()));
            }
        }
    }
    Ok(())
}

async fn wait<F>(failure: &'static str, condition: impl Fn() -> F) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<bool>>,
{
    let deadline = Instant::now() + PATIENCE;
    while !condition().await? {
        anyhow::ensure!(
            Instant::now() < deadline,
            "{failure} within {}s",
            PATIENCE.as_secs()
        );
        sleep(POLL).await;
    }
    Ok(())
}
