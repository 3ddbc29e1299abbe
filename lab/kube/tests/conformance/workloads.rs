//! What the control plane's controllers do with workloads.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::api::{Api, MERGE, text, until};

/// Pods that no scheduler looks at, so that a case sees what controllers alone do.
fn workload(name: &str, replicas: u32) -> Value {
    json!({"metadata": {"name": name}, "spec": {
        "replicas": replicas,
        "selector": {"matchLabels": {"app": name}},
        "template": {"metadata": {"labels": {"app": name}}, "spec": {
            "schedulerName": "nobody",
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "main", "image": "registry.example/none:1"}]}}}})
}

/// The same for the scheduler, on the idle nodes only.
fn scheduled(name: &str, replicas: u32) -> Value {
    let mut workload = workload(name, replicas);
    let spec = &mut workload["spec"]["template"]["spec"];
    spec["schedulerName"] = json!("default-scheduler");
    spec["nodeSelector"] = json!({"laneguard.dev/test": "idle"});
    workload
}

async fn pods(api: &Api) -> Result<Vec<Value>> {
    let list = api.get(&api.path("pods")).await?.ok(200)?;
    Ok(list["items"].as_array().cloned().unwrap_or_default())
}

/// Waits for exactly this many pods that are not on their way out, and gives them.
async fn settled(api: &Api, count: usize) -> Result<Vec<Value>> {
    until(&format!("{count} pods"), || async {
        let pods = pods(api).await?;
        Ok(pods.len() == count
            && pods
                .iter()
                .all(|pod| pod["metadata"]["deletionTimestamp"].is_null()))
    })
    .await?;
    pods(api).await
}

fn uids(pods: &[Value]) -> Vec<String> {
    let mut uids: Vec<_> = pods
        .iter()
        .map(|pod| text(&pod["metadata"]["uid"]))
        .collect();
    uids.sort();
    uids
}

/// Plays the kubelet: the pod is ready.
async fn run_pod(api: &Api, name: &str) -> Result<()> {
    let status = json!({"status": {"phase": "Running", "conditions": [
        {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
    api.patch(&api.path(&format!("pods/{name}/status")), MERGE, &status)
        .await?
        .ok(200)
        .map(drop)
}

pub(crate) async fn deployment(api: &Api) -> Result<()> {
    api.post(&api.path("deployments"), &workload("d", 2))
        .await?
        .ok(201)?;
    let pods = settled(api, 2).await?;
    let sets = api.get(&api.path("replicasets")).await?.ok(200)?;
    let set = &sets["items"][0];
    let hash = text(&set["metadata"]["labels"]["pod-template-hash"]);
    ensure!(
        !hash.is_empty() && set["metadata"]["name"] == format!("d-{hash}"),
        "{set}"
    );
    let owner = &set["metadata"]["ownerReferences"][0];
    ensure!(
        owner["kind"] == "Deployment" && owner["name"] == "d" && owner["controller"] == true,
        "{owner}"
    );
    for pod in pods {
        let metadata = &pod["metadata"];
        ensure!(
            text(&metadata["name"]).starts_with(&format!("d-{hash}-")),
            "{metadata}"
        );
        ensure!(
            metadata["labels"] == json!({"app": "d", "pod-template-hash": hash}),
            "{metadata}"
        );
        let owner = &metadata["ownerReferences"][0];
        ensure!(
            owner["kind"] == "ReplicaSet"
                && owner["controller"] == true
                && owner["uid"] == set["metadata"]["uid"],
            "{owner}"
        );
    }
    until("the deployment's status", || async {
        let status = api.get(&api.path("deployments/d")).await?.ok(200)?["status"].clone();
        Ok(status["replicas"] == 2
            && status["updatedReplicas"] == 2
            && status["observedGeneration"] == 1)
    })
    .await
}

pub(crate) async fn annotating(api: &Api) -> Result<()> {
    let mut body = workload("d", 2);
    // Pods without node never get ready: replace them without waiting for that.
    body["spec"]["strategy"] = json!({"type": "Recreate"});
    api.post(&api.path("deployments"), &body).await?.ok(201)?;
    let before = settled(api, 2).await?;
    for pod in &before {
        let path = api.path(&format!("pods/{}", text(&pod["metadata"]["name"])));
        let patch = json!({"metadata": {"annotations": {"kubernetes.io/egress-bandwidth": "10M"}}});
        api.patch(&path, MERGE, &patch).await?.ok(200)?;
    }
    // The controller has looked at the deployment again after the pods were annotated.
    let touch = json!({"spec": {"minReadySeconds": 1}});
    let generation = api
        .patch(&api.path("deployments/d"), MERGE, &touch)
        .await?
        .ok(200)?["metadata"]["generation"]
        .clone();
    until("the controller's look", || async {
        Ok(
            api.get(&api.path("deployments/d")).await?.ok(200)?["status"]["observedGeneration"]
                == generation,
        )
    })
    .await?;
    let after = settled(api, 2).await?;
    ensure!(uids(&before) == uids(&after), "pods were replaced");
    let template = json!({"spec": {"template": {"metadata": {"annotations": {"k": "v"}}}}});
    api.patch(&api.path("deployments/d"), MERGE, &template)
        .await?
        .ok(200)?;
    until("all pods are new", || async {
        let now = pods(api).await?;
        Ok(now.len() == 2
            && now
                .iter()
                .all(|pod| pod["metadata"]["annotations"]["k"] == "v"))
    })
    .await?;
    ensure!(api.names(&api.path("replicasets")).await?.len() == 2);
    Ok(())
}

pub(crate) async fn scaling(api: &Api) -> Result<()> {
    api.post(&api.path("deployments"), &workload("d", 1))
        .await?
        .ok(201)?;
    settled(api, 1).await?;
    let scale = |replicas: u32| json!({"spec": {"replicas": replicas}});
    let path = api.path("deployments/d/scale");
    api.patch(&path, MERGE, &scale(4)).await?.ok(200)?;
    settled(api, 4).await?;
    until("the scale's status", || async {
        Ok(api.get(&path).await?.ok(200)?["status"]["replicas"] == 4)
    })
    .await?;
    api.patch(&path, MERGE, &scale(2)).await?.ok(200)?;
    settled(api, 2).await?;
    ensure!(
        api.names(&api.path("replicasets")).await?.len() == 1,
        "scaling is no new template"
    );
    // A pod that is deleted is replaced.
    let victim = text(&pods(api).await?[0]["metadata"]["name"]);
    api.delete(&api.path(&format!("pods/{victim}")))
        .await?
        .ok(200)?;
    until("another pod", || async {
        let now = pods(api).await?;
        Ok(now.len() == 2 && now.iter().all(|pod| pod["metadata"]["name"] != victim))
    })
    .await
}

pub(crate) async fn orphans(api: &Api) -> Result<()> {
    api.post(&api.path("deployments"), &workload("d", 1))
        .await?
        .ok(201)?;
    settled(api, 1).await?;
    api.delete(&api.path("deployments/d")).await?.ok(200)?;
    settled(api, 0).await?;
    until("no replica sets", || async {
        Ok(api.names(&api.path("replicasets")).await?.is_empty())
    })
    .await?;
    api.post(&api.path("replicasets"), &workload("r", 1))
        .await?
        .ok(201)?;
    let pod = settled(api, 1).await?.remove(0);
    let answer = api
        .delete_with(
            &api.path("replicasets/r"),
            &json!({"propagationPolicy": "Orphan"}),
        )
        .await?
        .ok(200)?;
    ensure!(
        answer["metadata"]["finalizers"] == json!(["orphan"]),
        "{answer}"
    );
    until("the set is gone", || async {
        Ok(api.names(&api.path("replicasets")).await?.is_empty())
    })
    .await?;
    let left = settled(api, 1).await?.remove(0);
    ensure!(left["metadata"]["uid"] == pod["metadata"]["uid"], "{left}");
    ensure!(left["metadata"]["ownerReferences"].is_null(), "{left}");
    Ok(())
}

pub(crate) async fn foreground(api: &Api) -> Result<()> {
    let mut body = workload("r", 1);
    body["spec"]["template"]["metadata"]["finalizers"] = json!(["laneguard.dev/hold"]);
    api.post(&api.path("replicasets"), &body).await?.ok(201)?;
    let name = text(&settled(api, 1).await?[0]["metadata"]["name"]);
    let answer = api
        .delete_with(
            &api.path("replicasets/r"),
            &json!({"propagationPolicy": "Foreground"}),
        )
        .await?
        .ok(200)?;
    ensure!(
        answer["metadata"]["finalizers"] == json!(["foregroundDeletion"]),
        "{answer}"
    );
    let pod = api.path(&format!("pods/{name}"));
    until("the pod is being deleted", || async {
        Ok(api.get(&pod).await?.ok(200)?["metadata"]["deletionTimestamp"].is_string())
    })
    .await?;
    api.get(&api.path("replicasets/r")).await?.ok(200)?;
    api.patch(&pod, MERGE, &json!({"metadata": {"finalizers": null}}))
        .await?
        .ok(200)?;
    until("the owner follows", || async {
        Ok(api.get(&api.path("replicasets/r")).await?.code == 404)
    })
    .await
}

pub(crate) async fn namespace(api: &Api) -> Result<()> {
    let name = api.another_namespace().await?;
    let maps = format!("/api/v1/namespaces/{name}/configmaps");
    let held = json!({"metadata": {"name": "held", "finalizers": ["laneguard.dev/hold"]}});
    api.post(&maps, &held).await?.ok(201)?;
    api.post(&maps, &json!({"metadata": {"name": "free"}}))
        .await?
        .ok(201)?;
    let path = format!("/api/v1/namespaces/{name}");
    let answer = api.delete(&path).await?.ok(200)?;
    ensure!(answer["status"]["phase"] == "Terminating", "{answer}");
    until("what is free goes", || async {
        Ok(api.get(&format!("{maps}/free")).await?.code == 404)
    })
    .await?;
    let late = json!({"metadata": {"name": "late"}});
    let status = api.post(&maps, &late).await?.refused(403, "Forbidden")?;
    ensure!(
        status["details"]["causes"][0]["reason"] == "NamespaceTerminating",
        "{status}"
    );
    let release = json!({"metadata": {"finalizers": null}});
    api.patch(&format!("{maps}/held"), MERGE, &release)
        .await?
        .ok(200)?;
    until("the namespace is gone", || async {
        Ok(api.get(&path).await?.code == 404)
    })
    .await
}

pub(crate) async fn scheduling(api: &Api) -> Result<()> {
    let mut body = scheduled("d", 3);
    body["spec"]["template"]["spec"]["nodeSelector"]["laneguard.dev/number"] = json!("2");
    api.post(&api.path("deployments"), &body).await?.ok(201)?;
    until("all are on the node that fits", || async {
        let pods = pods(api).await?;
        Ok(pods.len() == 3 && pods.iter().all(|pod| pod["spec"]["nodeName"] == "idle-2"))
    })
    .await?;
    let mut lost = crate::api::pod("lost");
    lost["spec"]["schedulerName"] = json!("default-scheduler");
    lost["spec"]["nodeSelector"] = json!({"laneguard.dev/number": "none"});
    api.post(&api.path("pods"), &lost).await?.ok(201)?;
    until("the reason is told", || async {
        let pod = api.get(&api.path("pods/lost")).await?.ok(200)?;
        let condition = &pod["status"]["conditions"][0];
        Ok(condition["type"] == "PodScheduled" && condition["reason"] == "Unschedulable")
    })
    .await
}

pub(crate) async fn stateful_set(api: &Api) -> Result<()> {
    let mut body = scheduled("s", 2);
    body["spec"]["serviceName"] = json!("s");
    api.post(&api.path("statefulsets"), &body).await?.ok(201)?;
    let pod = &settled(api, 1).await?[0];
    ensure!(
        pod["metadata"]["name"] == "s-0"
            && pod["metadata"]["labels"]["statefulset.kubernetes.io/pod-name"] == "s-0"
            && pod["metadata"]["labels"]["apps.kubernetes.io/pod-index"] == "0",
        "{pod}"
    );
    let first = pod["metadata"]["uid"].clone();
    run_pod(api, "s-0").await?;
    settled(api, 2).await?;
    run_pod(api, "s-1").await?;
    until("the set's status", || async {
        let status = api.get(&api.path("statefulsets/s")).await?.ok(200)?["status"].clone();
        Ok(status["readyReplicas"] == 2
            && status["currentReplicas"] == 2
            && status["updatedReplicas"] == 2)
    })
    .await?;
    // A new template replaces the last pod first, and the next when that one is ready.
    let template = json!({"spec": {"template": {"metadata": {"annotations": {"k": "v"}}}}});
    api.patch(&api.path("statefulsets/s"), MERGE, &template)
        .await?
        .ok(200)?;
    until("s-1 is new", || async {
        let answer = api.get(&api.path("pods/s-1")).await?;
        Ok(answer.body["metadata"]["annotations"]["k"] == "v")
    })
    .await?;
    ensure!(api.get(&api.path("pods/s-0")).await?.ok(200)?["metadata"]["uid"] == first);
    run_pod(api, "s-1").await?;
    until("s-0 is new", || async {
        let answer = api.get(&api.path("pods/s-0")).await?;
        Ok(answer.code == 200 && answer.body["metadata"]["uid"] != first)
    })
    .await
}

pub(crate) async fn daemon_set(api: &Api) -> Result<()> {
    let mut body = scheduled("d", 0);
    if let Some(spec) = body["spec"].as_object_mut() {
        spec.remove("replicas");
    }
    api.post(&api.path("daemonsets"), &body).await?.ok(201)?;
    until("one pod on each node", || async {
        let mut nodes: Vec<_> = pods(api)
            .await?
            .iter()
            .map(|pod| text(&pod["spec"]["nodeName"]))
            .collect();
        nodes.sort();
        Ok(nodes == ["idle-1", "idle-2"])
    })
    .await?;
    until("the set's status", || async {
        let status = api.get(&api.path("daemonsets/d")).await?.ok(200)?["status"].clone();
        Ok(status["desiredNumberScheduled"] == 2 && status["currentNumberScheduled"] == 2)
    })
    .await
}
