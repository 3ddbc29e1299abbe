//! HTTP requests to operations on the cluster and back.

use axum::{
    body::{Body, Bytes},
    extract::{Query, Request, State},
    response::{IntoResponse, Response},
};
use http::{HeaderMap, Method, StatusCode, header};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::{
    apply::{self, Applier, Conflict},
    cluster::Cluster,
    discovery, events,
    fault::Verb,
    object::Object,
    patch::{self, JsonPatchError},
    path::{self, Part, Target},
    query::{ListQuery, Parameters, Selection, WatchQuery, text},
    render::{self, View},
    resource::{Kind, Table},
    scale,
    status::{self, ApiError, ApiResult, Cause},
    write::{self, DeleteOptions, Origin, Propagation, WriteOptions},
};

/// Bytes that a request may have, as a real server limits it.
const BODY_LIMIT: usize = 3 * 1024 * 1024;

const PATCH_TYPES: &str = "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, application/apply-patch+yaml";

/// What every request needs.
#[derive(Clone, Debug)]
pub(crate) struct Api {
    pub(crate) cluster: Cluster,
    /// Becomes true when the server stops, which ends watches.
    pub(crate) stopped: watch::Receiver<bool>,
}

/// Handles any request.
pub(crate) async fn handle(State(api): State<Api>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    if matches!(path.as_str(), "/livez" | "/readyz" | "/healthz") {
        return "ok".into_response();
    }
    if let Some(document) = discovery::document(&path) {
        return json_response(StatusCode::OK, document.to_string());
    }
    let Some(target) = path::parse(&path) else {
        return if path::is_in_served_group(&path) {
            ApiError::unknown_resource().into_response()
        } else {
            (StatusCode::NOT_FOUND, "404 page not found\n").into_response()
        };
    };
    let parameters = match Query::<Parameters>::try_from_uri(request.uri()) {
        Ok(Query(parameters)) => parameters,
        Err(error) => return ApiError::bad_request(error.body_text()).into_response(),
    };
    let Some(verb) = verb(request.method(), &target, &parameters) else {
        return ApiError::method_not_allowed().into_response();
    };
    let fault = api.cluster.faults().take(verb, &path);
    if let Some(fault) = &fault {
        tokio::time::sleep(fault.waits()).await;
        if let Some(error) = fault.refusal() {
            return error.into_response();
        }
    }
    let call = Call {
        api,
        target,
        parameters,
        headers: request.headers().clone(),
    };
    let outcome = match read_body(request).await {
        Ok(body) => call.dispatch(verb, &body),
        Err(error) => Err(error),
    };
    if let Some(error) = fault.and_then(|fault| fault.loss()) {
        return error.into_response();
    }
    outcome.unwrap_or_else(IntoResponse::into_response)
}

fn verb(method: &Method, target: &Target, parameters: &Parameters) -> Option<Verb> {
    let watch = matches!(text(parameters, "watch"), "true" | "1");
    Some(match (method.as_str(), target.name.is_some()) {
        ("GET", _) if watch && target.part == Part::Main => Verb::Watch,
        ("GET", true) => Verb::Get,
        ("GET", false) => Verb::List,
        ("POST", false) => Verb::Create,
        ("POST", true) if target.part == Part::Binding => Verb::Create,
        ("PUT", true) => Verb::Update,
        ("PATCH", true) => Verb::Patch,
        ("DELETE", true) if target.part == Part::Main => Verb::Delete,
        ("DELETE", false) => Verb::DeleteCollection,
        _ => return None,
    })
}

async fn read_body(request: Request) -> ApiResult<Bytes> {
    let too_large = || {
        ApiError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "RequestEntityTooLarge",
            format!("Request entity too large: limit is {BODY_LIMIT}"),
        )
    };
    axum::body::to_bytes(request.into_body(), BODY_LIMIT)
        .await
        .map_err(|_| too_large())
}

fn json_response(status: StatusCode, body: impl Into<Body>) -> Response {
    (
        status,
        [(header::CONTENT_TYPE, "application/json")],
        body.into(),
    )
        .into_response()
}

/// One request that addresses a served kind.
struct Call {
    api: Api,
    target: Target,
    parameters: Parameters,
    headers: HeaderMap,
}

impl Call {
    fn dispatch(&self, verb: Verb, body: &Bytes) -> ApiResult<Response> {
        match verb {
            Verb::Get => self.get(),
            Verb::List => self.list(),
            Verb::Watch => self.watch(),
            Verb::Create if self.target.part == Part::Binding => self.bind(body),
            Verb::Create => self.create(body),
            Verb::Update => self.put(body),
            Verb::Patch => self.patch(body),
            Verb::Delete => self.delete(body),
            Verb::DeleteCollection => self.delete_collection(body),
        }
    }

    fn name(&self) -> &str {
        self.target.name.as_deref().unwrap_or_default()
    }

    fn view(&self) -> View {
        View::of(self.target.kind, &self.headers)
    }

    fn write_options(&self, options: &str) -> ApiResult<WriteOptions> {
        match text(&self.parameters, "dryRun") {
            "" => Ok(WriteOptions::default()),
            "All" => Ok(WriteOptions {
                dry_run: true,
                ..WriteOptions::default()
            }),
            other => Err(ApiError::invalid_options(
                options,
                Cause::unsupported("dryRun", &json!([other]), "\"All\""),
            )),
        }
    }

    /// The object as the addressed part shows it.
    fn show(&self, status: StatusCode, object: &Object) -> Response {
        if self.target.part == Part::Scale {
            json_response(status, scale::of(&object.value()).to_string())
        } else {
            json_response(status, self.view().object(object))
        }
    }

    fn get(&self) -> ApiResult<Response> {
        let object = self
            .api
            .cluster
            .get(self.target.kind.table, &self.target.key(self.name()))
            .ok_or_else(|| ApiError::not_found(self.target.kind, self.name()))?;
        Ok(self.show(StatusCode::OK, &object))
    }

    fn list(&self) -> ApiResult<Response> {
        let query = ListQuery::parse(&self.target, &self.parameters)?;
        let body = self.api.cluster.list(&self.target, &self.view(), &query)?;
        Ok(json_response(StatusCode::OK, body))
    }

    fn watch(&self) -> ApiResult<Response> {
        let query = WatchQuery::parse(&self.target, &self.parameters)?;
        let stream =
            self.api
                .cluster
                .watch(&self.target, self.view(), query, self.api.stopped.clone());
        Ok(json_response(StatusCode::OK, Body::from_stream(stream)))
    }

    fn create(&self, body: &Bytes) -> ApiResult<Response> {
        let value = self.json_body(body)?;
        let object =
            self.api
                .cluster
                .create(&self.target, value, &self.write_options("CreateOptions")?)?;
        Ok(self.show(StatusCode::CREATED, &object))
    }

    fn bind(&self, body: &Bytes) -> ApiResult<Response> {
        let binding = self.json_body(body)?;
        let node = binding["target"]["name"].as_str().unwrap_or_default();
        self.api.cluster.bind(&self.target, node)?;
        Ok(json_response(
            StatusCode::CREATED,
            json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201})
                .to_string(),
        ))
    }

    fn put(&self, body: &Bytes) -> ApiResult<Response> {
        let kind = self.target.kind;
        let options = self.write_options("UpdateOptions")?;
        let mut given = self.json_body(body)?;
        if self.target.part == Part::Scale {
            return self.update_scale(Origin::Put, &options, |_| Ok(given.clone()));
        }
        write::check_type(kind, &mut given)?;
        if !kind.storage {
            events::to_core(&mut given);
        }
        let exists = self
            .api
            .cluster
            .get(kind.table, &self.target.key(self.name()))
            .is_some();
        if !exists && kind.create_on_update && self.target.part == Part::Main {
            if given["metadata"]["name"] != self.name() {
                return Err(ApiError::bad_request(format!(
                    "the name of the object ({}) does not match the name on the URL ({})",
                    given["metadata"]["name"].as_str().unwrap_or_default(),
                    self.name()
                )));
            }
            let mut collection = self.target.clone();
            collection.name = None;
            // It is in stored form already.
            collection.kind = kind.table.kind();
            let object = self.api.cluster.create(&collection, given, &options)?;
            return Ok(self.show(StatusCode::CREATED, &object));
        }
        let object = self
            .api
            .cluster
            .update(
                &self.target,
                Origin::Put,
                &options,
                |_, _| Ok(given.clone()),
            )?;
        Ok(self.show(StatusCode::OK, &object))
    }

    fn update_scale(
        &self,
        origin: Origin,
        options: &WriteOptions,
        change: impl Fn(Value) -> ApiResult<Value>,
    ) -> ApiResult<Response> {
        // A scale's update is one of the workload's spec.
        let mut workload = self.target.clone();
        workload.part = Part::Main;
        let object =
            self.api
                .cluster
                .update(&workload, Origin::Patch, options, |mut current, _| {
                    let changed = change(scale::of(&current))?;
                    if origin == Origin::Put && changed["metadata"]["name"] != self.name() {
                        return Err(ApiError::bad_request(
                            "the name of the object does not match the name on the URL",
                        ));
                    }
                    scale::put(&mut current, &changed);
                    Ok(current)
                })?;
        Ok(self.show(StatusCode::OK, &object))
    }

    fn patch(&self, body: &Bytes) -> ApiResult<Response> {
        let kind = self.target.kind;
        let options = self.write_options("PatchOptions")?;
        let format = PatchFormat::of(&self.headers)
            .filter(|format| !(kind.custom && *format == PatchFormat::Strategic))
            .ok_or_else(|| ApiError::unsupported_media_type(PATCH_TYPES))?;
        if format == PatchFormat::Apply {
            return self.apply(body, &options);
        }
        if self.parameters.contains_key("force") {
            return Err(ApiError::invalid_options(
                "PatchOptions",
                Cause::forbidden("force", "may not be specified for non-apply patch"),
            ));
        }
        let patch = parse_json(body)?;
        let change = |value: Value| format.apply(value, &patch);
        if self.target.part == Part::Scale {
            return self.update_scale(Origin::Patch, &options, change);
        }
        let object =
            self.api
                .cluster
                .update(&self.target, Origin::Patch, &options, |stored, _| {
                    // Patches see the object as it is served, so that tests on kind or on renamed fields work.
                    let mut value = change(render::shown(kind, stored))?;
                    to_stored(kind, &mut value);
                    Ok(value)
                })?;
        Ok(self.show(StatusCode::OK, &object))
    }

    /// Server-side apply: creates what is not there.
    fn apply(&self, body: &Bytes, options: &WriteOptions) -> ApiResult<Response> {
        let kind = self.target.kind;
        let mut config = parse_yaml(body)?;
        let manager = text(&self.parameters, "fieldManager");
        if manager.is_empty() {
            return Err(ApiError::invalid_options(
                "PatchOptions",
                Cause::required("fieldManager", "is required for apply patch"),
            ));
        }
        if config["kind"].is_null() || config["apiVersion"].is_null() {
            return Err(ApiError::bad_request("invalid object type: /, Kind="));
        }
        write::check_type(kind, &mut config)?;
        let given = config["metadata"]["name"].as_str();
        if given.is_some_and(|given| given != self.name()) {
            return Err(ApiError::bad_request(format!(
                "the name of the object ({}) does not match the name on the URL ({})",
                given.unwrap_or_default(),
                self.name()
            )));
        }
        if !config["metadata"]["managedFields"].is_null() {
            return Err(ApiError::bad_request("metadata.managedFields must be nil"));
        }
        let (api_version, now) = (kind.api_version(), write::now());
        let applier = Applier {
            manager,
            force: matches!(text(&self.parameters, "force"), "true" | "1"),
            api_version: &api_version,
            now: &now,
        };
        let applied = self
            .api
            .cluster
            .update(&self.target, Origin::Patch, options, |stored, _| {
                let mut value = apply::apply(&render::shown(kind, stored), &config, applier)
                    .map_err(|conflicts| apply_conflict(&conflicts))?;
                if let Some(version) = config["metadata"]["resourceVersion"].as_str() {
                    value["metadata"]["resourceVersion"] = json!(version);
                }
                to_stored(kind, &mut value);
                Ok(value)
            });
        match applied {
            Err(error) if error.code == StatusCode::NOT_FOUND && self.target.part == Part::Main => {
            }
            other => return other.map(|object| self.show(StatusCode::OK, &object)),
        }
        let mut value = apply::apply(&Value::Null, &config, applier)
            .map_err(|conflicts| apply_conflict(&conflicts))?;
        let managed_fields = value["metadata"]["managedFields"].take();
        value["metadata"]["name"] = json!(self.name());
        let mut collection = self.target.clone();
        collection.name = None;
        let options = WriteOptions {
            managed_fields: Some(managed_fields),
            ..options.clone()
        };
        let object = self.api.cluster.create(&collection, value, &options)?;
        Ok(self.show(StatusCode::CREATED, &object))
    }

    fn delete(&self, body: &Bytes) -> ApiResult<Response> {
        let kind = self.target.kind;
        let options = self.delete_options(body)?;
        let deletion = self
            .api
            .cluster
            .delete(&self.target, self.name(), &options)?;
        if deletion.gone && !kind.returns_deleted {
            let status = status::deleted(kind, self.name(), deletion.object.uid());
            return Ok(json_response(StatusCode::OK, status.to_string()));
        }
        Ok(self.show(StatusCode::OK, &deletion.object))
    }

    fn delete_collection(&self, body: &Bytes) -> ApiResult<Response> {
        let options = self.delete_options(body)?;
        let selection = Selection::parse(&self.target, &self.parameters)?;
        let table = self.target.kind.table;
        let selected: Vec<_> = self
            .api
            .cluster
            .store()
            .list(table, self.target.namespace.as_deref(), None)
            .filter(|object| selection.matches(object))
            .cloned()
            .collect();
        let mut deleted = Vec::with_capacity(selected.len());
        for object in selected {
            let target = Target::object(table, object.key());
            match self.api.cluster.delete(&target, object.name(), &options) {
                Ok(deletion) => deleted.push(deletion.object),
                Err(error) if error.code == StatusCode::NOT_FOUND => {}
                Err(error) => return Err(error),
            }
        }
        let metadata = json!({"resourceVersion": self.api.cluster.revision().to_string()});
        let objects = deleted.iter().map(|object| object.as_ref());
        Ok(json_response(
            StatusCode::OK,
            self.view().list(&metadata, objects),
        ))
    }

    fn delete_options(&self, body: &Bytes) -> ApiResult<DeleteOptions> {
        let mut given = if body.is_empty() {
            json!({})
        } else {
            parse_json(body)?
        };
        for name in [
            "propagationPolicy",
            "orphanDependents",
            "gracePeriodSeconds",
        ] {
            if given[name].is_null()
                && let Some(value) = self.parameters.get(name)
            {
                given[name] = serde_json::from_str(value).unwrap_or_else(|_| json!(value));
            }
        }
        let propagation = match (
            given["propagationPolicy"].as_str(),
            &given["orphanDependents"],
        ) {
            (None, Value::Bool(true)) | (Some("Orphan"), _) => Some(Propagation::Orphan),
            (None, Value::Bool(false)) | (Some("Background"), _) => Some(Propagation::Background),
            (Some("Foreground"), _) => Some(Propagation::Foreground),
            (None, _) => None,
            (Some(other), _) => {
                return Err(ApiError::invalid_options(
                    "DeleteOptions",
                    Cause::unsupported(
                        "propagationPolicy",
                        &json!(other),
                        r#""Foreground", "Background", "Orphan", "nil""#,
                    ),
                ));
            }
        };
        let precondition = |field: &str| given["preconditions"][field].as_str().map(str::to_owned);
        Ok(DeleteOptions {
            grace: given["gracePeriodSeconds"].as_i64(),
            uid: precondition("uid"),
            resource_version: precondition("resourceVersion"),
            propagation,
            dry_run: self.write_options("DeleteOptions")?.dry_run
                || given["dryRun"] == json!(["All"]),
        })
    }

    /// The body of a POST or PUT.
    fn json_body(&self, body: &Bytes) -> ApiResult<Value> {
        let content_type = content_type(&self.headers);
        if !(content_type.is_empty() || content_type == "application/json") {
            return Err(ApiError::unsupported_media_type("application/json"));
        }
        let value = parse_json(body)?;
        if value.is_object() {
            Ok(value)
        } else {
            Err(ApiError::bad_request(
                "the object provided is unrecognized: expected a JSON object",
            ))
        }
    }
}

fn parse_json(body: &Bytes) -> ApiResult<Value> {
    serde_json::from_slice(body).map_err(|error| {
        ApiError::bad_request(format!("error decoding the body of the request: {error}"))
    })
}

/// A body in YAML or JSON, which is YAML too but is parsed faster as what it is.
fn parse_yaml(body: &Bytes) -> ApiResult<Value> {
    if let Ok(value) = serde_json::from_slice(body) {
        return Ok(value);
    }
    std::str::from_utf8(body)
        .map_err(|error| error.to_string())
        .and_then(|text| serde_saphyr::from_str(text).map_err(|error| error.to_string()))
        .map_err(|why| ApiError::bad_request(format!("error decoding YAML: {why}")))
}

/// From the form of a second view to the stored one.
fn to_stored(kind: &Kind, value: &mut Value) {
    if !kind.storage {
        events::to_core(value);
    }
}

fn apply_conflict(conflicts: &[Conflict]) -> ApiError {
    let listed: Vec<String> = conflicts
        .iter()
        .map(|conflict| format!("conflict with \"{}\": {}", conflict.manager, conflict.field))
        .collect();
    let message = match listed.as_slice() {
        [one] => format!("Apply failed with 1 conflict: {one}"),
        many => format!(
            "Apply failed with {} conflicts: {}",
            many.len(),
            many.join("\n- ")
        ),
    };
    let mut error = ApiError::new(StatusCode::CONFLICT, "Conflict", message);
    let causes: Vec<Value> = conflicts
        .iter()
        .map(|conflict| {
            json!({"reason": "FieldManagerConflict", "field": conflict.field,
                "message": format!("conflict with \"{}\"", conflict.manager)})
        })
        .collect();
    error.details = Some(json!({ "causes": causes }));
    error
}

fn content_type(headers: &HeaderMap) -> &str {
    headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .unwrap_or_default()
        .trim()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PatchFormat {
    Json,
    Merge,
    Strategic,
    Apply,
}

impl PatchFormat {
    fn of(headers: &HeaderMap) -> Option<Self> {
        match content_type(headers) {
            "application/json-patch+json" => Some(Self::Json),
            "application/merge-patch+json" => Some(Self::Merge),
            "application/strategic-merge-patch+json" => Some(Self::Strategic),
            "application/apply-patch+yaml" => Some(Self::Apply),
            _ => None,
        }
    }

    fn apply(self, mut value: Value, patch: &Value) -> ApiResult<Value> {
        match self {
            Self::Merge if !patch.is_object() => {
                return Err(ApiError::bad_request("a merge patch is a JSON object"));
            }
            Self::Merge => patch::merge(&mut value, patch.clone()),
            Self::Json => patch::json(&mut value, patch).map_err(|error| match error {
                JsonPatchError::Malformed(why) => ApiError::bad_request(why),
                JsonPatchError::Failed(why) => {
                    tracing::debug!(why, "a JSON patch does not apply");
                    ApiError::unprocessable_patch()
                }
            })?,
            Self::Strategic | Self::Apply => {
                patch::strategic(&mut value, patch.clone()).map_err(ApiError::bad_request)?;
            }
        }
        Ok(value)
    }
}

impl Cluster {
    /// Puts a pod on a node, as a scheduler's binding does.
    pub(crate) fn bind(&self, target: &Target, node: &str) -> ApiResult<()> {
        let mut pod = target.clone();
        pod.part = Part::Main;
        debug_assert_eq!(pod.kind.table, Table::Pods);
        let name = pod.name.clone().unwrap_or_default();
        self.update(
            &pod,
            Origin::Internal,
            &WriteOptions::default(),
            |mut value, current| {
                if !current.node_name().is_empty() {
                    return Err(ApiError::conflict(
                        pod.kind,
                        &name,
                        format!(
                            "pod {name} is already assigned to node \"{}\"",
                            current.node_name()
                        ),
                    ));
                }
                if current.is_deleting() {
                    return Err(ApiError::conflict(
                        pod.kind,
                        &name,
                        format!("pod {name} is being deleted, cannot be assigned to a host"),
                    ));
                }
                value["spec"]["nodeName"] = json!(node);
                let scheduled = json!({"type": "PodScheduled", "status": "True",
                    "lastProbeTime": null, "lastTransitionTime": write::now()});
                write::set_condition(&mut value["status"], scheduled);
                Ok(value)
            },
        )
        .map(drop)
    }
}
