//! Watches.

use anyhow::{Result, ensure};
use serde_json::json;

use crate::api::{Api, MERGE, number, text, version};

pub(crate) async fn from_version(api: &Api) -> Result<()> {
    let start = api.config_map("a", json!({"w": "1"})).await?;
    let path = api.path("configmaps");
    let patch = json!({"data": {"k": "2"}});
    let changed = api
        .patch(&api.path("configmaps/a"), MERGE, &patch)
        .await?
        .ok(200)?;
    let query = format!(
        "{path}?watch=1&labelSelector=w=1&resourceVersion={}",
        version(&start)
    );
    let mut watch = api.watch(&query).await?;
    let event = watch.expect("MODIFIED", "a").await?;
    ensure!(
        version(&event) == version(&changed) && event["kind"] == "ConfigMap",
        "{event}"
    );
    api.config_map("b", json!({"w": "1"})).await?;
    watch.expect("ADDED", "b").await?;
    api.delete(&api.path("configmaps/a")).await?.ok(200)?;
    let gone = watch.expect("DELETED", "a").await?;
    ensure!(
        number(&gone) > number(&changed),
        "a deletion has a version of its own: {gone}"
    );
    ensure!(gone["data"]["k"] == "2", "{gone}");
    Ok(())
}

pub(crate) async fn selector(api: &Api) -> Result<()> {
    let start = api.config_map("a", json!({"w": "in", "n": "1"})).await?;
    let path = api.path("configmaps");
    let mut watch = api
        .watch(&format!(
            "{path}?watch=1&labelSelector=w=in&resourceVersion={}",
            version(&start)
        ))
        .await?;
    let label = |value: &str| json!({"metadata": {"labels": {"w": value}}});
    let object = api.path("configmaps/a");
    let out = api.patch(&object, MERGE, &label("out")).await?.ok(200)?;
    let left = watch.expect("DELETED", "a").await?;
    ensure!(
        left["metadata"]["labels"]["w"] == "in",
        "not the last matching state: {left}"
    );
    ensure!(
        version(&left) == version(&out),
        "not the new version: {left}"
    );
    // What happens outside the selector is not seen.
    api.patch(&object, MERGE, &json!({"data": {"k": "unseen"}}))
        .await?
        .ok(200)?;
    api.patch(&object, MERGE, &label("in")).await?.ok(200)?;
    let back = watch.expect("ADDED", "a").await?;
    ensure!(back["data"]["k"] == "unseen", "{back}");
    api.patch(&object, MERGE, &json!({"data": {"k": "seen"}}))
        .await?
        .ok(200)?;
    watch.expect("MODIFIED", "a").await.map(drop)
}

pub(crate) async fn field_selector(api: &Api) -> Result<()> {
    let start = api.pod("a").await?;
    let path = api.path("pods");
    let query = format!(
        "{path}?watch=1&fieldSelector=status.phase=Running,spec.nodeName=elsewhere&resourceVersion={}",
        version(&start)
    );
    let mut watch = api.watch(&query).await?;
    let node = json!({"target": {"kind": "Node", "name": "elsewhere"}, "metadata": {"name": "a"}});
    api.post(&api.path("pods/a/binding"), &node)
        .await?
        .ok(201)?;
    let phase = |phase: &str| json!({"status": {"phase": phase}});
    let status = api.path("pods/a/status");
    api.patch(&status, MERGE, &phase("Running"))
        .await?
        .ok(200)?;
    watch.expect("ADDED", "a").await?;
    api.patch(&status, MERGE, &phase("Succeeded"))
        .await?
        .ok(200)?;
    watch.expect("DELETED", "a").await.map(drop)
}

pub(crate) async fn initial(api: &Api) -> Result<()> {
    api.config_map("a", json!({"w": "1"})).await?;
    api.config_map("b", json!({"w": "1"})).await?;
    let path = api.path("configmaps");
    for query in ["watch=1", "watch=true&resourceVersion=0"] {
        let mut watch = api
            .watch(&format!("{path}?{query}&labelSelector=w=1"))
            .await?;
        let mut seen = Vec::new();
        for _ in 0..2 {
            let event = watch.next().await?.unwrap_or_default();
            ensure!(event["type"] == "ADDED", "{event}");
            seen.push(text(&event["object"]["metadata"]["name"]));
        }
        seen.sort();
        ensure!(seen == ["a", "b"], "{seen:?}");
        api.patch(
            &api.path("configmaps/a"),
            MERGE,
            &json!({"data": {"k": query}}),
        )
        .await?
        .ok(200)?;
        watch.expect("MODIFIED", "a").await?;
    }
    Ok(())
}

pub(crate) async fn streaming_list(api: &Api) -> Result<()> {
    api.config_map("a", json!({"w": "1"})).await?;
    let last = api.config_map("b", json!({"w": "1"})).await?;
    let path = api.path("configmaps");
    let query = "watch=1&labelSelector=w=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut watch = api.watch(&format!("{path}?{query}")).await?;
    watch.expect("ADDED", "a").await?;
    watch.expect("ADDED", "b").await?;
    let mark = watch.next().await?.unwrap_or_default();
    ensure!(
        mark["type"] == "BOOKMARK"
            && mark["object"]["kind"] == "ConfigMap"
            && mark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"] == "true",
        "{mark}"
    );
    ensure!(number(&mark["object"]) >= number(&last), "{mark}");
    // The marked version is one to go on from.
    let query = format!(
        "watch=1&labelSelector=w=1&resourceVersion={}",
        version(&mark["object"])
    );
    let mut from_there = api.watch(&format!("{path}?{query}")).await?;
    api.config_map("c", json!({"w": "1"})).await?;
    from_there.expect("ADDED", "c").await?;
    watch.expect("ADDED", "c").await.map(drop)
}

pub(crate) async fn streaming_list_refused(api: &Api) -> Result<()> {
    for query in [
        "sendInitialEvents=true",
        "resourceVersionMatch=NotOlderThan",
    ] {
        let path = format!(
            "{}?watch=1&allowWatchBookmarks=true&{query}",
            api.path("configmaps")
        );
        api.get(&path).await?.refused(422, "Invalid")?;
    }
    Ok(())
}

pub(crate) async fn bookmark(api: &Api) -> Result<()> {
    let start = api.config_map("a", json!({"w": "1"})).await?;
    let path = api.path("configmaps");
    let query = format!(
        "{path}?watch=1&labelSelector=w=1&allowWatchBookmarks=true&timeoutSeconds=5&resourceVersion={}",
        version(&start)
    );
    let mut watch = api.watch(&query).await?;
    // Something that the selector hides: the bookmark must get past it.
    let other = api.config_map("b", json!({})).await?;
    let mark = watch.next().await?.unwrap_or_default();
    ensure!(
        mark["type"] == "BOOKMARK" && mark["object"]["kind"] == "ConfigMap",
        "{mark}"
    );
    ensure!(number(&mark["object"]) >= number(&other), "{mark}");
    ensure!(mark["object"]["metadata"]["name"].is_null(), "{mark}");
    while let Some(event) = watch.next().await? {
        ensure!(event["type"] == "BOOKMARK", "{event}");
    }
    Ok(())
}

pub(crate) async fn too_old(api: &Api) -> Result<()> {
    let path = api.path("qospolicies");
    let mut watch = api
        .watch(&format!("{path}?watch=1&resourceVersion=1"))
        .await?;
    let event = watch.next().await?.unwrap_or_default();
    let status = &event["object"];
    ensure!(
        event["type"] == "ERROR"
            && status["kind"] == "Status"
            && status["code"] == 410
            && status["reason"] == "Expired",
        "{event}"
    );
    ensure!(
        watch.next().await?.is_none(),
        "the watch goes on after the error"
    );
    Ok(())
}

pub(crate) async fn by_name(api: &Api) -> Result<()> {
    let start = api.config_map("a", json!({})).await?;
    api.config_map("b", json!({})).await?;
    let path = api.path("configmaps");
    let query = format!(
        "{path}?watch=1&fieldSelector=metadata.name=b&resourceVersion={}",
        version(&start)
    );
    let mut watch = api.watch(&query).await?;
    watch.expect("ADDED", "b").await?;
    api.delete(&api.path("configmaps/a")).await?.ok(200)?;
    api.delete(&api.path("configmaps/b")).await?.ok(200)?;
    watch.expect("DELETED", "b").await.map(drop)
}
