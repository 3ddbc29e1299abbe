//! Discovery, gets and lists.

use anyhow::{Result, ensure};
use serde_json::json;

use crate::api::{Api, JSON, MERGE, names, text, version};

pub(crate) async fn discovery(api: &Api) -> Result<()> {
    let core = api.get("/api/v1").await?.ok(200)?;
    let apps = api.get("/apis/apps/v1").await?.ok(200)?;
    for (list, name, kind, verb) in [
        (&core, "pods", "Pod", "watch"),
        (&core, "pods/status", "Pod", "patch"),
        (&core, "pods/binding", "Binding", "create"),
        (&core, "nodes", "Node", "list"),
        (&core, "events", "Event", "create"),
        (&apps, "deployments", "Deployment", "patch"),
        (&apps, "deployments/scale", "Scale", "update"),
        (&apps, "statefulsets/scale", "Scale", "update"),
        (&apps, "daemonsets", "DaemonSet", "deletecollection"),
    ] {
        let found = list["resources"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|resource| {
                resource["name"] == name
                    && resource["kind"] == kind
                    && resource["verbs"]
                        .as_array()
                        .is_some_and(|verbs| verbs.contains(&json!(verb)))
            });
        ensure!(
            found,
            "{name} with {verb} is not in {}",
            list["groupVersion"]
        );
    }
    let groups = api.get("/apis").await?.ok(200)?;
    for group in ["apps", "coordination.k8s.io", "events.k8s.io"] {
        let found = groups["groups"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|known| known["name"] == group && known["preferredVersion"]["version"] == "v1");
        ensure!(found, "no group {group}");
    }
    ensure!(api.get("/version").await?.ok(200)?["major"] == "1");
    for path in ["/livez", "/readyz"] {
        ensure!(api.get(path).await?.ok(200)? == "ok");
    }
    Ok(())
}

pub(crate) async fn not_found(api: &Api) -> Result<()> {
    let status = api
        .get(&api.path("pods/none"))
        .await?
        .refused(404, "NotFound")?;
    ensure!(status["message"] == "pods \"none\" not found", "{status}");
    ensure!(
        status["details"] == json!({"name": "none", "kind": "pods"}),
        "{status}"
    );
    let status = api
        .get(&api.path("deployments/none"))
        .await?
        .refused(404, "NotFound")?;
    ensure!(
        status["message"] == "deployments.apps \"none\" not found",
        "{status}"
    );
    ensure!(
        status["details"] == json!({"name": "none", "kind": "deployments", "group": "apps"}),
        "{status}"
    );
    api.get(&api.path("nothings"))
        .await?
        .refused(404, "NotFound")?;
    api.get(&api.path("configmaps/none/status"))
        .await?
        .refused(404, "NotFound")?;
    api.get("/apis/none.example/v1/nothings").await?.ok(404)?;
    // A list in a namespace that does not exist is empty.
    let list = api
        .get("/api/v1/namespaces/laneguard-none/pods")
        .await?
        .ok(200)?;
    ensure!(list["items"] == json!([]), "{list}");
    Ok(())
}

pub(crate) async fn pages(api: &Api) -> Result<()> {
    for name in ["a", "b", "c", "d", "e"] {
        api.config_map(name, json!({"page": "1"})).await?;
    }
    let path = api.path("configmaps");
    // The selector keeps out what a cluster puts into each namespace.
    let query = "labelSelector=page=1&limit=2";
    let first = api.get(&format!("{path}?{query}")).await?.ok(200)?;
    ensure!(names(&first) == ["a", "b"], "{first}");
    let token = text(&first["metadata"]["continue"]);
    ensure!(!token.is_empty());
    api.delete(&api.path("configmaps/c")).await?.ok(200)?;
    api.config_map("cc", json!({"page": "1"})).await?;
    let second = api
        .get(&format!("{path}?{query}&continue={token}"))
        .await?
        .ok(200)?;
    ensure!(names(&second) == ["c", "d"], "not the snapshot: {second}");
    ensure!(version(&second) == version(&first), "{second}");
    let token = text(&second["metadata"]["continue"]);
    let third = api
        .get(&format!("{path}?{query}&continue={token}"))
        .await?
        .ok(200)?;
    ensure!(names(&third) == ["e"], "{third}");
    ensure!(text(&third["metadata"]["continue"]).is_empty(), "{third}");
    // Without selector the server says how many are left.
    let pods = api.path("pods");
    for name in ["x", "y", "z"] {
        api.pod(name).await?;
    }
    let page = api.get(&format!("{pods}?limit=1")).await?.ok(200)?;
    ensure!(page["metadata"]["remainingItemCount"] == 2, "{page}");
    Ok(())
}

pub(crate) async fn bad_token(api: &Api) -> Result<()> {
    let path = format!("{}?limit=1&continue=garbage", api.path("pods"));
    api.get(&path).await?.refused(400, "BadRequest").map(drop)
}

pub(crate) async fn bad_version(api: &Api) -> Result<()> {
    let path = format!("{}?resourceVersion=garbage", api.path("pods"));
    api.get(&path).await?.refused(400, "BadRequest")?;
    api.get(&format!("{path}&watch=1")).await?.ok(500).map(drop)
}

pub(crate) async fn any_version(api: &Api) -> Result<()> {
    for name in ["a", "b", "c"] {
        api.config_map(name, json!({"any": "1"})).await?;
    }
    let path = format!(
        "{}?labelSelector=any=1&limit=1&resourceVersion=0",
        api.path("configmaps")
    );
    crate::api::until("the cache has caught up", || async {
        Ok(api.names(&path).await? == ["a", "b", "c"])
    })
    .await
}

pub(crate) async fn future_version(api: &Api) -> Result<()> {
    let path = format!("{}?resourceVersion=99999999", api.path("configmaps"));
    let status = api.get(&path).await?.refused(504, "Timeout")?;
    ensure!(
        status["details"]["causes"][0]["reason"] == "ResourceVersionTooLarge",
        "{status}"
    );
    Ok(())
}

pub(crate) async fn exact_version(api: &Api) -> Result<()> {
    let a = api.config_map("a", json!({"exact": "1"})).await?;
    api.config_map("b", json!({"exact": "1"})).await?;
    let path = format!(
        "{}?labelSelector=exact=1&resourceVersion={}&resourceVersionMatch=",
        api.path("configmaps"),
        version(&a)
    );
    ensure!(api.names(&format!("{path}Exact")).await? == ["a"]);
    ensure!(api.names(&format!("{path}NotOlderThan")).await? == ["a", "b"]);
    let without = format!("{}?resourceVersionMatch=Exact", api.path("configmaps"));
    api.get(&without).await?.refused(422, "Invalid").map(drop)
}

pub(crate) async fn label_selectors(api: &Api) -> Result<()> {
    api.config_map(
        "a",
        json!({"t": "1", "priority": "best-effort", "tier": "1"}),
    )
    .await?;
    api.config_map("b", json!({"t": "1", "priority": "critical"}))
        .await?;
    api.config_map("c", json!({"t": "1"})).await?;
    for (selector, expected) in [
        ("priority=best-effort", vec!["a"]),
        ("priority==critical", vec!["b"]),
        ("priority!=critical", vec!["a", "c"]),
        ("priority in (critical,best-effort)", vec!["a", "b"]),
        ("priority notin (critical)", vec!["a", "c"]),
        ("priority", vec!["a", "b"]),
        ("!priority", vec!["c"]),
        ("priority,!tier", vec!["b"]),
        ("tier>0", vec!["a"]),
    ] {
        let path = format!("{}?labelSelector=t=1,{selector}", api.path("configmaps"));
        let found = api.names(&path.replace('>', "%3E")).await?;
        ensure!(found == expected, "{selector}: {found:?}");
    }
    Ok(())
}

pub(crate) async fn bad_selectors(api: &Api) -> Result<()> {
    for query in [
        "labelSelector=a in b",
        "labelSelector=-a=b",
        "labelSelector=a=b c",
        "fieldSelector=spec.nothing=1",
        "fieldSelector=garbage",
    ] {
        let path = format!("{}?{query}", api.path("pods"));
        api.get(&path).await?.refused(400, "BadRequest")?;
    }
    Ok(())
}

pub(crate) async fn field_selectors(api: &Api) -> Result<()> {
    api.pod("a").await?;
    api.pod("b").await?;
    let running = json!({"status": {"phase": "Running"}});
    api.patch(&api.path("pods/b/status"), MERGE, &running)
        .await?
        .ok(200)?;
    let node = json!({"target": {"kind": "Node", "name": "elsewhere"}, "metadata": {"name": "b"}});
    api.post(&api.path("pods/b/binding"), &node)
        .await?
        .ok(201)?;
    for (selector, expected) in [
        ("metadata.name=a", vec!["a"]),
        ("metadata.name!=a", vec!["b"]),
        ("status.phase=Running", vec!["b"]),
        ("status.phase=Pending", vec!["a"]),
        ("spec.nodeName=elsewhere", vec!["b"]),
        ("spec.nodeName=", vec!["a"]),
        ("status.phase=Running,spec.nodeName!=elsewhere", vec![]),
    ] {
        let found = api
            .names(&format!("{}?fieldSelector={selector}", api.path("pods")))
            .await?;
        ensure!(found == expected, "{selector}: {found:?}");
    }
    let everywhere = format!(
        "/api/v1/pods?fieldSelector=metadata.namespace={}",
        api.namespace()
    );
    ensure!(api.names(&everywhere).await? == ["a", "b"]);
    Ok(())
}

pub(crate) async fn list_types(api: &Api) -> Result<()> {
    api.pod("a").await?;
    let list = api.get(&api.path("pods")).await?.ok(200)?;
    ensure!(
        list["kind"] == "PodList" && list["apiVersion"] == "v1",
        "{list}"
    );
    let item = &list["items"][0];
    ensure!(
        item["kind"].is_null() && item["apiVersion"].is_null(),
        "{item}"
    );
    let pod = api.get(&api.path("pods/a")).await?.ok(200)?;
    ensure!(pod["kind"] == "Pod" && pod["apiVersion"] == "v1", "{pod}");
    Ok(())
}

pub(crate) async fn custom_list_types(api: &Api) -> Result<()> {
    let policy = json!({"apiVersion": "laneguard.dev/v1alpha1", "kind": "QosPolicy", "metadata": {"name": "a"}, "spec": {}});
    api.post(&api.path("qospolicies"), &policy).await?.ok(201)?;
    let list = api.get(&api.path("qospolicies")).await?.ok(200)?;
    ensure!(list["kind"] == "QosPolicyList", "{list}");
    let item = &list["items"][0];
    ensure!(
        item["kind"] == "QosPolicy" && item["apiVersion"] == "laneguard.dev/v1alpha1",
        "{item}"
    );
    Ok(())
}

pub(crate) async fn partial_metadata(api: &Api) -> Result<()> {
    api.pod("a").await?;
    let accept = |kind: &str| format!("{JSON};as={kind};g=meta.k8s.io;v=v1");
    let one = api
        .get_as(&api.path("pods/a"), &accept("PartialObjectMetadata"))
        .await?
        .ok(200)?;
    let is_partial = |object: &serde_json::Value| {
        object["kind"] == "PartialObjectMetadata"
            && object["apiVersion"] == "meta.k8s.io/v1"
            && object["metadata"]["name"] == "a"
            && object["metadata"]["labels"]["app"] == "a"
            && object["spec"].is_null()
    };
    ensure!(is_partial(&one), "{one}");
    let list = api
        .get_as(&api.path("pods"), &accept("PartialObjectMetadataList"))
        .await?
        .ok(200)?;
    ensure!(list["kind"] == "PartialObjectMetadataList", "{list}");
    ensure!(
        list["items"][0]["metadata"]["name"] == "a" && list["items"][0]["spec"].is_null(),
        "{list}"
    );
    let mut watch = api
        .watch_as(
            &format!("{}?watch=1", api.path("pods")),
            &accept("PartialObjectMetadata"),
        )
        .await?;
    let event = watch.expect("ADDED", "a").await?;
    ensure!(is_partial(&event), "{event}");
    Ok(())
}

pub(crate) async fn all_namespaces(api: &Api) -> Result<()> {
    let other = api.another_namespace().await?;
    let mark = api.namespace().to_owned();
    api.config_map("a", json!({"all": mark})).await?;
    let body = json!({"metadata": {"name": "b", "labels": {"all": mark}}});
    api.post(&format!("/api/v1/namespaces/{other}/configmaps"), &body)
        .await?
        .ok(201)?;
    let found = api
        .names(&format!("/api/v1/configmaps?labelSelector=all={mark}"))
        .await?;
    ensure!(found == ["a", "b"], "{found:?}");
    Ok(())
}
