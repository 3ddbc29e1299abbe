//! Server-side apply.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::api::{APPLY, Answer, Api, text, version};

fn config(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": data})
}

async fn apply(api: &Api, query: &str, config: &Value) -> Result<Answer> {
    api.patch(
        &format!("{}?{query}", api.path("configmaps/a")),
        APPLY,
        config,
    )
    .await
}

pub(crate) async fn applies(api: &Api) -> Result<()> {
    let first = apply(api, "fieldManager=x", &config(json!({"a": "1", "b": "1"})))
        .await?
        .ok(201)?;
    let entry = &first["metadata"]["managedFields"][0];
    ensure!(
        entry["manager"] == "x"
            && entry["operation"] == "Apply"
            && entry["fieldsV1"] == json!({"f:data": {"f:a": {}, "f:b": {}}}),
        "{entry}"
    );
    let same = apply(api, "fieldManager=x", &config(json!({"a": "1", "b": "1"})))
        .await?
        .ok(200)?;
    ensure!(version(&same) == version(&first), "{same}");
    apply(api, "fieldManager=y", &config(json!({"b": "1", "c": "1"})))
        .await?
        .ok(200)?;
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\ndata:\n  d: '1'\n";
    let path = format!("{}?fieldManager=x", api.path("configmaps/a"));
    let last = api.call("PATCH", &path, APPLY, yaml).await?.ok(200)?;
    // `a` was x's alone, `b` is y's too.
    ensure!(
        last["data"] == json!({"b": "1", "c": "1", "d": "1"}),
        "{last}"
    );
    Ok(())
}

pub(crate) async fn conflicts(api: &Api) -> Result<()> {
    apply(api, "fieldManager=x", &config(json!({"a": "1"})))
        .await?
        .ok(201)?;
    let status = apply(api, "fieldManager=y", &config(json!({"a": "2"})))
        .await?
        .refused(409, "Conflict")?;
    ensure!(
        status["details"]["causes"][0]
            == json!({"reason": "FieldManagerConflict", "message": "conflict with \"x\"", "field": ".data.a"}),
        "{status}"
    );
    ensure!(
        text(&status["message"]) == "Apply failed with 1 conflict: conflict with \"x\": .data.a",
        "{status}"
    );
    let forced = apply(api, "fieldManager=y&force=true", &config(json!({"a": "2"})))
        .await?
        .ok(200)?;
    ensure!(forced["data"]["a"] == "2", "{forced}");
    apply(api, "fieldManager=x", &config(json!({"a": "1"})))
        .await?
        .refused(409, "Conflict")
        .map(drop)
}

pub(crate) async fn refused(api: &Api) -> Result<()> {
    let body = config(json!({"a": "1"}));
    let without = api.path("configmaps/a");
    api.patch(&without, APPLY, &body)
        .await?
        .refused(422, "Invalid")?;
    let mut other = body.clone();
    other["metadata"]["name"] = json!("b");
    apply(api, "fieldManager=x", &other)
        .await?
        .refused(400, "BadRequest")?;
    let untyped = json!({"metadata": {"name": "a"}});
    apply(api, "fieldManager=x", &untyped)
        .await?
        .refused(400, "BadRequest")?;
    let first = apply(api, "fieldManager=x", &body).await?.ok(201)?;
    apply(api, "fieldManager=x", &config(json!({"a": "2"})))
        .await?
        .ok(200)?;
    let mut stale = config(json!({"a": "3"}));
    stale["metadata"]["resourceVersion"] = first["metadata"]["resourceVersion"].clone();
    apply(api, "fieldManager=x", &stale)
        .await?
        .refused(409, "Conflict")?;
    let mut managed = body.clone();
    managed["metadata"]["managedFields"] = json!([{"manager": "z"}]);
    apply(api, "fieldManager=x", &managed)
        .await?
        .refused(400, "BadRequest")
        .map(drop)
}
