//! Creates, updates and patches.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::api::{Api, JSON, JSON_PATCH, MERGE, STRATEGIC, number, pod, text, version};

fn deployment(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {
        "replicas": 0,
        "selector": {"matchLabels": {"app": name}},
        "template": {"metadata": {"labels": {"app": name}},
            "spec": {"containers": [{"name": "main", "image": "registry.example/none:1"}]}}}})
}

pub(crate) async fn create(api: &Api) -> Result<()> {
    let pod = api.pod("a").await?;
    let metadata = &pod["metadata"];
    ensure!(text(&metadata["uid"]).len() == 36, "{pod}");
    ensure!(text(&metadata["creationTimestamp"]).ends_with('Z'), "{pod}");
    ensure!(
        number(&pod) > 0 && metadata["namespace"] == api.namespace(),
        "{pod}"
    );
    ensure!(
        pod["status"]["phase"] == "Pending" && pod["kind"] == "Pod",
        "{pod}"
    );
    let deployment = api
        .post(&api.path("deployments"), &deployment("d"))
        .await?
        .ok(201)?;
    ensure!(deployment["metadata"]["generation"] == 1, "{deployment}");
    ensure!(
        number(&deployment) > number(&pod),
        "one counter for all resources"
    );
    Ok(())
}

pub(crate) async fn create_conflicts(api: &Api) -> Result<()> {
    api.config_map("a", json!({})).await?;
    let body = json!({"metadata": {"name": "a"}});
    let status = api
        .post(&api.path("configmaps"), &body)
        .await?
        .refused(409, "AlreadyExists")?;
    ensure!(
        status["message"] == "configmaps \"a\" already exists",
        "{status}"
    );
    ensure!(
        status["details"] == json!({"name": "a", "kind": "configmaps"}),
        "{status}"
    );
    Ok(())
}

pub(crate) async fn generated_names(api: &Api) -> Result<()> {
    let body = json!({"metadata": {"generateName": "gen-"}});
    let one = api.post(&api.path("configmaps"), &body).await?.ok(201)?;
    let two = api.post(&api.path("configmaps"), &body).await?.ok(201)?;
    let names = [
        text(&one["metadata"]["name"]),
        text(&two["metadata"]["name"]),
    ];
    ensure!(names[0] != names[1], "{names:?}");
    for name in names {
        ensure!(name.starts_with("gen-") && name.len() == 9, "{name}");
    }
    Ok(())
}

pub(crate) async fn create_refused(api: &Api) -> Result<()> {
    let maps = api.path("configmaps");
    for (body, code, reason) in [
        (json!({"metadata": {}}), 422, "Invalid"),
        (json!({"metadata": {"name": "A_b"}}), 422, "Invalid"),
        (
            json!({"metadata": {"name": "a", "labels": {"k": "not valid"}}}),
            422,
            "Invalid",
        ),
        (
            json!({"metadata": {"name": "a", "labels": {"not valid": "v"}}}),
            422,
            "Invalid",
        ),
        (
            json!({"metadata": {"name": "a", "annotations": {"not valid": "v"}}}),
            422,
            "Invalid",
        ),
        (
            json!({"metadata": {"name": "a", "labels": {"k": 1}}}),
            400,
            "BadRequest",
        ),
        (
            json!({"metadata": {"name": "a", "namespace": "other"}}),
            400,
            "BadRequest",
        ),
        (
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}}),
            400,
            "BadRequest",
        ),
        (
            json!({"apiVersion": "v2", "kind": "ConfigMap", "metadata": {"name": "a"}}),
            400,
            "BadRequest",
        ),
    ] {
        api.post(&maps, &body).await?.refused(code, reason)?;
    }
    let versioned = json!({"metadata": {"name": "a", "resourceVersion": "5"}});
    // Not a reason one would choose, but the real one.
    api.post(&maps, &versioned).await?.ok(500)?;
    let lost = "/api/v1/namespaces/laneguard-none/configmaps";
    let status = api
        .post(lost, &json!({"metadata": {"name": "a"}}))
        .await?
        .refused(404, "NotFound")?;
    ensure!(status["details"]["kind"] == "namespaces", "{status}");
    let mut empty = pod("p");
    empty["spec"]["containers"] = json!([]);
    api.post(&api.path("pods"), &empty)
        .await?
        .refused(422, "Invalid")?;
    let mut unmatched = deployment("d");
    unmatched["spec"]["template"]["metadata"]["labels"] = json!({"app": "other"});
    let status = api
        .post(&api.path("deployments"), &unmatched)
        .await?
        .refused(422, "Invalid")?;
    ensure!(
        status["details"]["kind"] == "Deployment"
            && status["details"]["causes"][0]["field"] == "spec.template.metadata.labels",
        "{status}"
    );
    Ok(())
}

pub(crate) async fn sizes(api: &Api) -> Result<()> {
    let annotated =
        |size: usize| json!({"metadata": {"name": "a", "annotations": {"k": "x".repeat(size)}}});
    let path = api.path("configmaps");
    let status = api
        .post(&path, &annotated(256 * 1024))
        .await?
        .refused(422, "Invalid")?;
    ensure!(
        status["details"]["causes"][0]["reason"] == "FieldValueTooLong",
        "{status}"
    );
    api.post(&path, &annotated(256 * 1024 - 1)).await?.ok(201)?;
    let body = json!({"metadata": {"name": "b"}, "data": {"k": "x".repeat(3 * 1024 * 1024)}});
    api.post(&path, &body)
        .await?
        .refused(413, "RequestEntityTooLarge")
        .map(drop)
}

pub(crate) async fn bodies(api: &Api) -> Result<()> {
    let path = api.path("configmaps");
    api.call("POST", &path, JSON, "{\"metadata\":")
        .await?
        .refused(400, "BadRequest")?;
    api.call("POST", &path, "text/plain", "{}")
        .await?
        .refused(415, "UnsupportedMediaType")?;
    api.config_map("a", json!({})).await?;
    api.call("PATCH", &api.path("configmaps/a"), JSON, "{}")
        .await?
        .refused(415, "UnsupportedMediaType")?;
    api.call("POST", &api.path("configmaps/a"), JSON, "{}")
        .await?
        .refused(405, "MethodNotAllowed")
        .map(drop)
}

pub(crate) async fn recreated(api: &Api) -> Result<()> {
    let first = api.config_map("a", json!({})).await?;
    api.delete(&api.path("configmaps/a")).await?.ok(200)?;
    let second = api.config_map("a", json!({})).await?;
    ensure!(first["metadata"]["uid"] != second["metadata"]["uid"]);
    let options = json!({"preconditions": {"uid": first["metadata"]["uid"]}});
    api.delete_with(&api.path("configmaps/a"), &options)
        .await?
        .refused(409, "Conflict")
        .map(drop)
}

pub(crate) async fn put(api: &Api) -> Result<()> {
    let first = api.config_map("a", json!({})).await?;
    let path = api.path("configmaps/a");
    let mut next = first.clone();
    next["data"]["k"] = json!("2");
    let second = api.put(&path, &next).await?.ok(200)?;
    ensure!(
        number(&second) > number(&first) && second["data"]["k"] == "2",
        "{second}"
    );
    let status = api.put(&path, &next).await?.refused(409, "Conflict")?;
    ensure!(
        text(&status["message"]).contains("the object has been modified")
            && status["details"] == json!({"name": "a", "kind": "configmaps"}),
        "{status}"
    );
    // The same content: nothing is written.
    let same = api.put(&path, &second).await?.ok(200)?;
    ensure!(version(&same) == version(&second), "{same}");
    let forced = api
        .put(
            &path,
            &json!({"metadata": {"name": "a"}, "data": {"k": "3"}}),
        )
        .await?
        .ok(200)?;
    ensure!(
        forced["metadata"]["uid"] == first["metadata"]["uid"] && forced["data"]["k"] == "3",
        "{forced}"
    );
    let other = json!({"metadata": {"name": "a", "uid": "00000000-0000-4000-8000-000000000000"}});
    api.put(&path, &other).await?.refused(409, "Conflict")?;
    api.put(&path, &json!({"metadata": {"name": "b"}}))
        .await?
        .refused(400, "BadRequest")?;
    api.put(
        &api.path("configmaps/none"),
        &json!({"metadata": {"name": "none"}}),
    )
    .await?
    .refused(404, "NotFound")
    .map(drop)
}

pub(crate) async fn lease(api: &Api) -> Result<()> {
    let path = api.path("leases/l");
    let body = json!({"metadata": {"name": "l"}, "spec": {"holderIdentity": "a", "leaseDurationSeconds": 15,
        "acquireTime": "2026-01-01T00:00:00.000000Z", "renewTime": "2026-01-01T00:00:00.000000Z", "leaseTransitions": 0}});
    let created = api.put(&path, &body).await?.ok(201)?;
    ensure!(
        created["spec"]["renewTime"] == "2026-01-01T00:00:00.000000Z",
        "{created}"
    );
    api.put(&path, &body).await?.refused(422, "Invalid")?;
    let mut taken = created.clone();
    taken["spec"]["holderIdentity"] = json!("b");
    api.put(&path, &taken).await?.ok(200)?;
    taken["spec"]["holderIdentity"] = json!("c");
    api.put(&path, &taken).await?.refused(409, "Conflict")?;
    ensure!(api.get(&path).await?.ok(200)?["spec"]["holderIdentity"] == "b");
    // Its times have exactly six digits after the second.
    let whole = json!({"spec": {"renewTime": "2026-01-01T00:00:00Z"}});
    api.patch(&path, MERGE, &whole)
        .await?
        .refused(422, "Invalid")
        .map(drop)
}

pub(crate) async fn merge_patch(api: &Api) -> Result<()> {
    let first = api.pod("a").await?;
    let path = api.path("pods/a");
    let annotate = |value: Value| json!({"metadata": {"annotations": {"kubernetes.io/egress-bandwidth": value}}});
    let second = api
        .patch(&path, MERGE, &annotate(json!("10M")))
        .await?
        .ok(200)?;
    ensure!(
        second["metadata"]["annotations"]["kubernetes.io/egress-bandwidth"] == "10M",
        "{second}"
    );
    ensure!(
        second["metadata"]["labels"]["app"] == "a" && number(&second) > number(&first),
        "{second}"
    );
    let same = api
        .patch(&path, MERGE, &annotate(json!("10M")))
        .await?
        .ok(200)?;
    ensure!(version(&same) == version(&second), "{same}");
    let third = api
        .patch(&path, MERGE, &annotate(Value::Null))
        .await?
        .ok(200)?;
    ensure!(third["metadata"]["annotations"].is_null(), "{third}");
    api.patch(&api.path("pods/none"), MERGE, &annotate(json!("1M")))
        .await?
        .refused(404, "NotFound")
        .map(drop)
}

pub(crate) async fn merge_patch_fenced(api: &Api) -> Result<()> {
    let first = api.pod("a").await?;
    let path = api.path("pods/a");
    let fenced = |object: &Value, value: &str| json!({"metadata": {"uid": object["metadata"]["uid"], "resourceVersion": version(object), "annotations": {"k": value}}});
    let second = api
        .patch(&path, MERGE, &fenced(&first, "1"))
        .await?
        .ok(200)?;
    api.patch(&path, MERGE, &fenced(&first, "2"))
        .await?
        .refused(409, "Conflict")?;
    ensure!(version(&api.get(&path).await?.ok(200)?) == version(&second));
    let other = json!({"metadata": {"uid": "00000000-0000-4000-8000-000000000000", "annotations": {"k": "3"}}});
    let status = api
        .patch(&path, MERGE, &other)
        .await?
        .refused(422, "Invalid")?;
    ensure!(
        status["details"]["causes"][0]["field"] == "metadata.uid",
        "{status}"
    );
    api.patch(&path, MERGE, &json!({"metadata": {"name": "b"}}))
        .await?
        .refused(400, "BadRequest")?;
    api.patch(&path, MERGE, &json!({"metadata": {"namespace": "b"}}))
        .await?
        .refused(400, "BadRequest")?;
    // Ignored, not refused.
    let old = json!({"metadata": {"creationTimestamp": "2020-01-01T00:00:00Z", "generation": 77}});
    api.patch(&path, MERGE, &old).await?.ok(200)?;
    let same = api.get(&path).await?.ok(200)?;
    ensure!(
        version(&same) == version(&second) && same["metadata"]["annotations"]["k"] == "1",
        "{same}"
    );
    Ok(())
}

pub(crate) async fn merge_patch_refused(api: &Api) -> Result<()> {
    let first = api.pod("a").await?;
    let path = api.path("pods/a");
    let number = json!({"metadata": {"annotations": {"k": 1}}});
    api.patch(&path, MERGE, &number)
        .await?
        .refused(422, "Invalid")?;
    api.patch(&path, MERGE, &json!([]))
        .await?
        .refused(400, "BadRequest")?;
    let finalizer = json!({"metadata": {"finalizers": ["unqualified"]}});
    api.patch(&path, MERGE, &finalizer)
        .await?
        .refused(422, "Invalid")?;
    let owner = json!({"metadata": {"ownerReferences": [{"kind": "x"}]}});
    api.patch(&path, MERGE, &owner)
        .await?
        .refused(422, "Invalid")?;
    let forced = format!("{path}?force=true");
    api.patch(&forced, MERGE, &json!({}))
        .await?
        .refused(422, "Invalid")?;
    let long = json!({"metadata": {"annotations": {"k": "x".repeat(256 * 1024)}}});
    api.patch(&path, MERGE, &long)
        .await?
        .refused(422, "Invalid")?;
    ensure!(version(&api.get(&path).await?.ok(200)?) == version(&first));
    Ok(())
}

pub(crate) async fn json_patch(api: &Api) -> Result<()> {
    let first = api.pod("a").await?;
    let path = api.path("pods/a");
    let uid = &first["metadata"]["uid"];
    let patch = json!([
        {"op": "test", "path": "/metadata/uid", "value": uid},
        {"op": "test", "path": "/metadata/resourceVersion", "value": version(&first)},
        {"op": "add", "path": "/metadata/annotations", "value": {}},
        {"op": "add", "path": "/metadata/annotations/kubernetes.io~1egress-bandwidth", "value": "10M"},
    ]);
    let second = api.patch(&path, JSON_PATCH, &patch).await?.ok(200)?;
    ensure!(
        second["metadata"]["annotations"]["kubernetes.io/egress-bandwidth"] == "10M",
        "{second}"
    );
    for failing in [
        json!([{"op": "test", "path": "/metadata/uid", "value": "other"}]),
        json!([{"op": "test", "path": "/metadata/annotations/none", "value": "x"}]),
        json!([{"op": "remove", "path": "/metadata/annotations/none"}]),
        json!([{"op": "test", "path": "/metadata/none/none", "value": null}]),
        json!([{"op": "replace", "path": "/metadata/none/none", "value": "x"}]),
        json!([{"op": "add", "path": "/metadata/none/none", "value": "x"}]),
    ] {
        let status = api
            .patch(&path, JSON_PATCH, &failing)
            .await?
            .refused(422, "Invalid")?;
        ensure!(
            status["message"] == "the server rejected our request due to an error in our request",
            "{failing}: {status}"
        );
    }
    api.patch(&path, JSON_PATCH, &json!({"op": "add"}))
        .await?
        .refused(400, "BadRequest")?;
    ensure!(version(&api.get(&path).await?.ok(200)?) == version(&second));
    let absent = json!([{"op": "test", "path": "/metadata/annotations/none", "value": null}]);
    api.patch(&path, JSON_PATCH, &absent).await?.ok(200)?;
    // Not what the RFC says: replacing a member that is not there adds it.
    let replace = json!([{"op": "replace", "path": "/metadata/annotations/none", "value": "x"}]);
    let third = api.patch(&path, JSON_PATCH, &replace).await?.ok(200)?;
    ensure!(third["metadata"]["annotations"]["none"] == "x", "{third}");
    Ok(())
}

pub(crate) async fn strategic_patch(api: &Api) -> Result<()> {
    let mut body = pod("a");
    body["metadata"]["finalizers"] = json!(["laneguard.dev/x", "laneguard.dev/y"]);
    api.post(&api.path("pods"), &body).await?.ok(201)?;
    let path = api.path("pods/a");
    let patch = json!({
        "metadata": {"annotations": {"k": "v"}, "labels": {"app": null},
            "$deleteFromPrimitiveList/finalizers": ["laneguard.dev/x"]},
        "spec": {"containers": [{"name": "side", "image": "registry.example/none:2"}]},
    });
    let patched = api.patch(&path, STRATEGIC, &patch).await?.ok(200)?;
    ensure!(
        patched["metadata"]["finalizers"] == json!(["laneguard.dev/y"]),
        "{patched}"
    );
    ensure!(
        patched["metadata"]["labels"].is_null() && patched["metadata"]["annotations"]["k"] == "v",
        "{patched}"
    );
    let images: Vec<_> = patched["spec"]["containers"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|container| text(&container["image"]))
        .collect();
    ensure!(
        images == ["registry.example/none:1", "registry.example/none:2"],
        "{images:?}"
    );
    // As kubectl removes an item and sets the order.
    let mut template = deployment("d");
    template["spec"]["template"]["spec"]["containers"] = json!([{"name": "a", "image": "registry.example/none:1"}, {"name": "b", "image": "registry.example/none:1"}]);
    api.post(&api.path("deployments"), &template)
        .await?
        .ok(201)?;
    let patch = json!({"spec": {"template": {"spec": {
        "$setElementOrder/containers": [{"name": "b"}],
        "containers": [{"name": "a", "$patch": "delete"}]}}}});
    let patched = api
        .patch(&api.path("deployments/d"), STRATEGIC, &patch)
        .await?
        .ok(200)?;
    let containers = &patched["spec"]["template"]["spec"]["containers"];
    ensure!(
        containers.as_array().is_some_and(|list| list.len() == 1) && containers[0]["name"] == "b",
        "{containers}"
    );
    api.patch(&path, MERGE, &json!({"metadata": {"finalizers": null}}))
        .await?
        .ok(200)
        .map(drop)
}

fn policy(name: &str) -> Value {
    json!({"apiVersion": "laneguard.dev/v1alpha1", "kind": "QosPolicy", "metadata": {"name": name},
        "spec": {"mode": "Observe"}, "status": {"ignored": true}})
}

pub(crate) async fn custom_strategic(api: &Api) -> Result<()> {
    api.post(&api.path("qospolicies"), &policy("a"))
        .await?
        .ok(201)?;
    let patch = json!({"spec": {"mode": "Off"}});
    let path = api.path("qospolicies/a");
    api.patch(&path, STRATEGIC, &patch)
        .await?
        .refused(415, "UnsupportedMediaType")?;
    api.patch(&path, MERGE, &patch).await?.ok(200).map(drop)
}

pub(crate) async fn dry_run(api: &Api) -> Result<()> {
    let maps = format!("{}?dryRun=All", api.path("configmaps"));
    let answer = api
        .post(&maps, &json!({"metadata": {"name": "a"}}))
        .await?
        .ok(201)?;
    ensure!(!text(&answer["metadata"]["uid"]).is_empty(), "{answer}");
    api.get(&api.path("configmaps/a"))
        .await?
        .refused(404, "NotFound")?;
    let kept = api.config_map("b", json!({})).await?;
    let path = format!("{}?dryRun=All", api.path("configmaps/b"));
    let patched = api
        .patch(&path, MERGE, &json!({"data": {"k": "2"}}))
        .await?
        .ok(200)?;
    ensure!(patched["data"]["k"] == "2", "{patched}");
    let mut changed = kept.clone();
    changed["data"]["k"] = json!("3");
    api.put(&path, &changed).await?.ok(200)?;
    api.delete(&path).await?.ok(200)?;
    let now = api.get(&api.path("configmaps/b")).await?.ok(200)?;
    ensure!(now == kept, "{now}");
    // Refusals are as without.
    api.post(&maps, &json!({"metadata": {"name": "b"}}))
        .await?
        .refused(409, "AlreadyExists")?;
    let other = format!("{}?dryRun=Some", api.path("configmaps"));
    let answer = api
        .post(&other, &json!({"metadata": {"name": "c"}}))
        .await?;
    ensure!(answer.code >= 400, "{answer:?}");
    Ok(())
}

pub(crate) async fn status(api: &Api) -> Result<()> {
    let created = api.pod("a").await?;
    let both = json!({"metadata": {"annotations": {"k": "v"}}, "status": {"phase": "Running", "podIP": "10.0.0.1"}});
    let main = api
        .patch(&api.path("pods/a"), MERGE, &both)
        .await?
        .ok(200)?;
    ensure!(
        main["status"]["phase"] == "Pending" && main["metadata"]["annotations"]["k"] == "v",
        "{main}"
    );
    let both = json!({"spec": {"containers": [{"name": "main", "image": "registry.example/none:9"}]}, "status": {"phase": "Running"}});
    let status = api
        .patch(&api.path("pods/a/status"), MERGE, &both)
        .await?
        .ok(200)?;
    ensure!(
        status["status"]["phase"] == "Running" && status["spec"] == created["spec"],
        "{status}"
    );
    let mut body = status.clone();
    body["status"]["message"] = json!("m");
    let put = api.put(&api.path("pods/a/status"), &body).await?.ok(200)?;
    ensure!(put["status"]["message"] == "m", "{put}");
    api.put(&api.path("pods/a/status"), &body)
        .await?
        .refused(409, "Conflict")?;
    let got = api.get(&api.path("pods/a/status")).await?.ok(200)?;
    ensure!(version(&got) == version(&put), "{got}");
    let condition = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    api.patch(&api.path("pods/a/status"), STRATEGIC, &condition)
        .await?
        .ok(200)?;
    let other = json!({"status": {"conditions": [{"type": "Other", "status": "True"}]}});
    let merged = api
        .patch(&api.path("pods/a/status"), STRATEGIC, &other)
        .await?
        .ok(200)?;
    ensure!(
        merged["status"]["conditions"]
            .as_array()
            .is_some_and(|list| list.len() == 2),
        "{merged}"
    );
    Ok(())
}

pub(crate) async fn custom_status(api: &Api) -> Result<()> {
    let created = api
        .post(&api.path("qospolicies"), &policy("a"))
        .await?
        .ok(201)?;
    ensure!(
        created["status"].is_null() && created["metadata"]["generation"] == 1,
        "{created}"
    );
    let path = api.path("qospolicies/a");
    let both = json!({"metadata": {"labels": {"k": "v"}}, "spec": {"mode": "Off"}, "status": {"observed": 1}});
    let status = api
        .patch(&api.path("qospolicies/a/status"), MERGE, &both)
        .await?
        .ok(200)?;
    ensure!(
        status["status"]["observed"] == 1
            && status["spec"]["mode"] == "Observe"
            && status["metadata"]["labels"].is_null()
            && status["metadata"]["generation"] == 1,
        "{status}"
    );
    let main = json!({"spec": {"mode": "Enforce"}, "status": {"observed": 2}});
    let main = api.patch(&path, MERGE, &main).await?.ok(200)?;
    ensure!(
        main["status"]["observed"] == 1
            && main["spec"]["mode"] == "Enforce"
            && main["metadata"]["generation"] == 2,
        "{main}"
    );
    // Custom resources need a version to be replaced.
    api.put(&path, &policy("a"))
        .await?
        .refused(422, "Invalid")
        .map(drop)
}

pub(crate) async fn scale(api: &Api) -> Result<()> {
    // Controllers may act on it at any time: the version is theirs too.
    let mut paused = deployment("d");
    paused["spec"]["paused"] = json!(true);
    api.post(&api.path("deployments"), &paused).await?.ok(201)?;
    let path = api.path("deployments/d/scale");
    let scale = api.get(&path).await?.ok(200)?;
    ensure!(
        scale["kind"] == "Scale"
            && scale["apiVersion"] == "autoscaling/v1"
            && scale["status"]["selector"] == "app=d",
        "{scale}"
    );
    let patched = api
        .patch(&path, MERGE, &json!({"spec": {"replicas": 3}}))
        .await?
        .ok(200)?;
    ensure!(
        patched["spec"]["replicas"] == 3 && patched["kind"] == "Scale",
        "{patched}"
    );
    let mut put = patched.clone();
    put["spec"]["replicas"] = json!(2);
    put["metadata"]["resourceVersion"] = json!(null);
    api.put(&path, &put).await?.ok(200)?;
    put["metadata"]["resourceVersion"] = scale["metadata"]["resourceVersion"].clone();
    api.put(&path, &put).await?.refused(409, "Conflict")?;
    let deployment = api.get(&api.path("deployments/d")).await?.ok(200)?;
    ensure!(
        deployment["spec"]["replicas"] == 2 && deployment["metadata"]["generation"] == 3,
        "{deployment}"
    );
    Ok(())
}

pub(crate) async fn generation(api: &Api) -> Result<()> {
    let annotation = json!({"metadata": {"annotations": {"k": "v"}}});
    let label = json!({"metadata": {"labels": {"k": "v"}}});
    let template = json!({"spec": {"template": {"metadata": {"annotations": {"k": "v"}}}}});
    let mut set = deployment("s");
    set["spec"]["serviceName"] = json!("s");
    api.post(&api.path("statefulsets"), &set).await?.ok(201)?;
    api.post(&api.path("deployments"), &deployment("d"))
        .await?
        .ok(201)?;
    for (path, patch, expected) in [
        ("statefulsets/s", &annotation, 1),
        ("statefulsets/s", &template, 2),
        // A deployment's annotations count as well: its controller copies them.
        ("deployments/d", &label, 1),
        ("deployments/d", &annotation, 2),
        ("deployments/d", &template, 3),
    ] {
        let changed = api.patch(&api.path(path), MERGE, patch).await?.ok(200)?;
        ensure!(
            changed["metadata"]["generation"] == expected,
            "{path} {patch}: {changed}"
        );
    }
    let status = json!({"status": {"observedGeneration": 3}});
    let status = api
        .patch(&api.path("deployments/d/status"), MERGE, &status)
        .await?
        .ok(200)?;
    ensure!(status["metadata"]["generation"] == 3, "{status}");
    let map = api.config_map("a", json!({})).await?;
    ensure!(map["metadata"]["generation"].is_null(), "{map}");
    Ok(())
}

pub(crate) async fn immutable(api: &Api) -> Result<()> {
    api.pod("a").await?;
    let node = json!({"spec": {"nodeName": "elsewhere"}});
    let status = api
        .patch(&api.path("pods/a"), MERGE, &node)
        .await?
        .refused(422, "Invalid")?;
    ensure!(
        status["details"]["causes"][0]["field"] == "spec",
        "{status}"
    );
    api.post(&api.path("deployments"), &deployment("d"))
        .await?
        .ok(201)?;
    let selector = json!({"spec": {"selector": {"matchLabels": {"app": "e"}}, "template": {"metadata": {"labels": {"app": "e"}}}}});
    let status = api
        .patch(&api.path("deployments/d"), MERGE, &selector)
        .await?
        .refused(422, "Invalid")?;
    ensure!(
        status["details"]["causes"][0]["field"] == "spec.selector",
        "{status}"
    );
    Ok(())
}

pub(crate) async fn bind(api: &Api) -> Result<()> {
    api.pod("a").await?;
    let binding = json!({"metadata": {"name": "a"}, "target": {"apiVersion": "v1", "kind": "Node", "name": "elsewhere"}});
    let path = api.path("pods/a/binding");
    let status = api.post(&path, &binding).await?.ok(201)?;
    ensure!(
        status["kind"] == "Status" && status["status"] == "Success",
        "{status}"
    );
    let pod = api.get(&api.path("pods/a")).await?.ok(200)?;
    ensure!(
        pod["spec"]["nodeName"] == "elsewhere"
            && pod["status"]["conditions"][0]["type"] == "PodScheduled",
        "{pod}"
    );
    api.post(&path, &binding)
        .await?
        .refused(409, "Conflict")
        .map(drop)
}

fn event_path(api: &Api, name: &str) -> String {
    format!(
        "/apis/events.k8s.io/v1/namespaces/{}/events{name}",
        api.namespace()
    )
}

fn event(api: &Api) -> Value {
    json!({
        "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e"},
        "eventTime": "2026-01-01T00:00:00.000000Z", "reportingController": "laneguard.dev/actuator",
        "reportingInstance": "one", "action": "Limit", "reason": "Limited", "type": "Normal", "note": "n",
        "regarding": {"kind": "Pod", "namespace": api.namespace(), "name": "p", "apiVersion": "v1"},
    })
}

pub(crate) async fn events(api: &Api) -> Result<()> {
    let created = api.post(&event_path(api, ""), &event(api)).await?.ok(201)?;
    ensure!(
        created["note"] == "n" && created["regarding"]["name"] == "p",
        "{created}"
    );
    let core = api.get(&api.path("events/e")).await?.ok(200)?;
    ensure!(
        core["apiVersion"] == "v1"
            && core["message"] == "n"
            && core["involvedObject"]["name"] == "p"
            && core["reportingComponent"] == "laneguard.dev/actuator",
        "{core}"
    );
    let mine = api
        .names(&format!(
            "{}?fieldSelector=involvedObject.name=p,reason=Limited",
            api.path("events")
        ))
        .await?;
    ensure!(mine == ["e"], "{mine:?}");
    let series = json!({"series": {"count": 2, "lastObservedTime": "2026-01-01T00:00:01.000000Z"}});
    let patched = api
        .patch(&event_path(api, "/e"), MERGE, &series)
        .await?
        .ok(200)?;
    ensure!(
        patched["series"]["count"] == 2 && patched["kind"] == "Event",
        "{patched}"
    );
    let old = json!({"metadata": {"name": "old"}, "message": "m", "reason": "R", "type": "Warning",
        "involvedObject": {"kind": "Pod", "namespace": api.namespace(), "name": "p"}, "source": {"component": "c"}});
    api.post(&api.path("events"), &old).await?.ok(201)?;
    let new = api.get(&event_path(api, "/old")).await?.ok(200)?;
    ensure!(
        new["note"] == "m" && new["deprecatedSource"]["component"] == "c",
        "{new}"
    );
    Ok(())
}

pub(crate) async fn events_refused(api: &Api) -> Result<()> {
    for field in [
        "eventTime",
        "reportingController",
        "reportingInstance",
        "action",
        "reason",
        "type",
    ] {
        let mut event = event(api);
        event[field] = Value::Null;
        let status = api
            .post(&event_path(api, ""), &event)
            .await?
            .refused(422, "Invalid")?;
        ensure!(status["details"]["kind"] == "Event", "{field}: {status}");
    }
    Ok(())
}
