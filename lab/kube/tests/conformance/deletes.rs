//! Deletions.

use anyhow::{Result, ensure};
use serde_json::json;

use crate::api::{Api, MERGE, number, pod, text, version};

pub(crate) async fn answers(api: &Api) -> Result<()> {
    let map = api.config_map("a", json!({})).await?;
    let path = api.path("configmaps/a");
    let status = api.delete(&path).await?.ok(200)?;
    ensure!(
        status["kind"] == "Status"
            && status["status"] == "Success"
            && status["details"]
                == json!({"name": "a", "kind": "configmaps", "uid": map["metadata"]["uid"]}),
        "{status}"
    );
    api.delete(&path).await?.refused(404, "NotFound").map(drop)
}

pub(crate) async fn preconditions(api: &Api) -> Result<()> {
    let first = api.config_map("a", json!({})).await?;
    let path = api.path("configmaps/a");
    let second = api
        .patch(&path, MERGE, &json!({"data": {"k": "2"}}))
        .await?
        .ok(200)?;
    for preconditions in [
        json!({"uid": "00000000-0000-4000-8000-000000000000"}),
        json!({"resourceVersion": version(&first)}),
    ] {
        let options = json!({"preconditions": preconditions});
        let status = api
            .delete_with(&path, &options)
            .await?
            .refused(409, "Conflict")?;
        ensure!(
            text(&status["message"]).contains("in the precondition")
                && status["details"]["kind"] == "ConfigMap",
            "{status}"
        );
    }
    let options = json!({"preconditions": {"uid": first["metadata"]["uid"], "resourceVersion": version(&second)}});
    api.delete_with(&path, &options).await?.ok(200).map(drop)
}

pub(crate) async fn unbound_pod(api: &Api) -> Result<()> {
    let start = api.pod("a").await?;
    let query = format!(
        "{}?watch=1&resourceVersion={}",
        api.path("pods"),
        version(&start)
    );
    let mut watch = api.watch(&query).await?;
    let answer = api.delete(&api.path("pods/a")).await?.ok(200)?;
    ensure!(answer["kind"] == "Pod", "{answer}");
    let going = watch.expect("MODIFIED", "a").await?;
    ensure!(
        going["metadata"]["deletionGracePeriodSeconds"] == 0,
        "{going}"
    );
    watch.expect("DELETED", "a").await?;
    api.get(&api.path("pods/a"))
        .await?
        .refused(404, "NotFound")
        .map(drop)
}

pub(crate) async fn bound_pod(api: &Api) -> Result<()> {
    let start = api.pod("a").await?;
    let node = json!({"target": {"kind": "Node", "name": "elsewhere"}, "metadata": {"name": "a"}});
    api.post(&api.path("pods/a/binding"), &node)
        .await?
        .ok(201)?;
    let query = format!(
        "{}?watch=1&resourceVersion={}",
        api.path("pods"),
        version(&start)
    );
    let mut watch = api.watch(&query).await?;
    watch.expect("MODIFIED", "a").await?;
    let path = api.path("pods/a");
    let answer = api.delete(&path).await?.ok(200)?;
    ensure!(
        answer["metadata"]["deletionGracePeriodSeconds"] == 20
            && text(&answer["metadata"]["deletionTimestamp"]).ends_with('Z'),
        "{answer}"
    );
    let going = watch.expect("MODIFIED", "a").await?;
    ensure!(
        going["metadata"]["deletionTimestamp"].is_string(),
        "{going}"
    );
    // Annotations of a pod on its way out can still change.
    let patch = json!({"metadata": {"annotations": {"k": "v"}}});
    api.patch(&path, MERGE, &patch).await?.ok(200)?;
    watch.expect("MODIFIED", "a").await?;
    let again = api.delete(&path).await?.ok(200)?;
    ensure!(
        again["metadata"]["deletionGracePeriodSeconds"] == 20,
        "{again}"
    );
    api.delete_with(&path, &json!({"gracePeriodSeconds": 0}))
        .await?
        .ok(200)?;
    let last = watch.expect("MODIFIED", "a").await?;
    ensure!(
        last["metadata"]["deletionGracePeriodSeconds"] == 0,
        "{last}"
    );
    let gone = watch.expect("DELETED", "a").await?;
    ensure!(number(&gone) > number(&last), "{gone}");
    api.get(&path).await?.refused(404, "NotFound").map(drop)
}

pub(crate) async fn finalizers(api: &Api) -> Result<()> {
    let body = json!({"metadata": {"name": "a", "finalizers": ["laneguard.dev/one", "laneguard.dev/two"]}});
    let start = api.post(&api.path("configmaps"), &body).await?.ok(201)?;
    let query = format!(
        "{}?watch=1&fieldSelector=metadata.name=a&resourceVersion={}",
        api.path("configmaps"),
        version(&start)
    );
    let mut watch = api.watch(&query).await?;
    let path = api.path("configmaps/a");
    let answer = api.delete(&path).await?.ok(200)?;
    ensure!(
        answer["kind"] == "ConfigMap"
            && answer["metadata"]["deletionTimestamp"].is_string()
            && answer["metadata"]["deletionGracePeriodSeconds"] == 0,
        "{answer}"
    );
    watch.expect("MODIFIED", "a").await?;
    let finalizers = |list: serde_json::Value| json!({"metadata": {"finalizers": list}});
    let more = finalizers(json!([
        "laneguard.dev/one",
        "laneguard.dev/two",
        "laneguard.dev/three"
    ]));
    api.patch(&path, MERGE, &more)
        .await?
        .refused(422, "Invalid")?;
    api.patch(&path, MERGE, &finalizers(json!(["laneguard.dev/two"])))
        .await?
        .ok(200)?;
    watch.expect("MODIFIED", "a").await?;
    api.patch(&path, MERGE, &finalizers(json!(null)))
        .await?
        .ok(200)?;
    watch.expect("DELETED", "a").await?;
    api.get(&path).await?.refused(404, "NotFound").map(drop)
}

pub(crate) async fn collection(api: &Api) -> Result<()> {
    for (name, label) in [("a", "go"), ("b", "go"), ("c", "stay")] {
        let mut body = pod(name);
        body["metadata"]["labels"] = json!({"app": label});
        api.post(&api.path("pods"), &body).await?.ok(201)?;
    }
    let answer = api
        .delete(&format!("{}?labelSelector=app=go", api.path("pods")))
        .await?
        .ok(200)?;
    ensure!(answer["kind"] == "PodList", "{answer}");
    ensure!(api.names(&api.path("pods")).await? == ["c"]);
    Ok(())
}
