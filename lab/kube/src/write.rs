//! Creating, updating and deleting: what a request may change, what the server owns, and when an object really goes.

use std::sync::Arc;

use jiff::{Span, Timestamp};
use serde_json::{Value, json};

use crate::{
    cluster::Cluster,
    defaults, events,
    object::Object,
    path::{Part, Target},
    random,
    resource::{Kind, Table},
    status::{ApiError, ApiResult, Cause},
    validate,
};

/// Attempts at an update whose caller did not name a version, before giving up with a conflict.
const ATTEMPTS: usize = 50;

/// Namespaces that cannot be deleted.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

/// Options of a creating or updating request.
#[derive(Clone, Debug, Default)]
pub(crate) struct WriteOptions {
    pub(crate) dry_run: bool,
    /// What server-side apply noted about a new object.
    pub(crate) managed_fields: Option<Value>,
}

/// Who asks for an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    Put,
    Patch,
    /// The controllers here, which may also change what the API protects (binding a pod to a node).
    Internal,
}

/// What happens to an owner's dependents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Propagation {
    Background,
    Foreground,
    Orphan,
}

/// Options of a deletion.
#[derive(Clone, Debug, Default)]
pub(crate) struct DeleteOptions {
    /// Seconds.
    pub(crate) grace: Option<i64>,
    pub(crate) uid: Option<String>,
    pub(crate) resource_version: Option<String>,
    pub(crate) propagation: Option<Propagation>,
    pub(crate) dry_run: bool,
}

/// What a deletion came to.
#[derive(Debug)]
pub(crate) struct Deletion {
    pub(crate) object: Arc<Object>,
    /// False when it waits for its grace period or finalizers.
    pub(crate) gone: bool,
}

/// The present as the API writes it, to the second.
pub(crate) fn now() -> String {
    format_time(Timestamp::now())
}

fn format_time(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn metadata(value: &Value, field: &str) -> String {
    value["metadata"][field]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

/// Refuses a body of another kind, and drops `kind` and `apiVersion`, which are not stored.
pub(crate) fn check_type(kind: &Kind, value: &mut Value) -> ApiResult<()> {
    validate::shape(kind, value).map_err(|why| {
        ApiError::bad_request(format!(
            "{} in version \"{}\" cannot be handled as a {}: {why}",
            kind.kind, kind.version, kind.kind
        ))
    })?;
    strip_type(kind, value)
}

fn strip_type(kind: &Kind, value: &mut Value) -> ApiResult<()> {
    let Value::Object(map) = value else {
        return Ok(());
    };
    let expected = kind.api_version();
    if let Some(Value::String(version)) = map.remove("apiVersion")
        && version != expected
    {
        return Err(ApiError::bad_request(format!(
            "the API version in the data ({version}) does not match the expected API version ({expected})"
        )));
    }
    if let Some(Value::String(name)) = map.remove("kind")
        && name != kind.kind
    {
        return Err(ApiError::bad_request(format!(
            "{name} in version \"{}\" cannot be handled as a {}: no kind \"{name}\" is registered for this resource",
            kind.version, kind.kind
        )));
    }
    Ok(())
}

impl Cluster {
    /// Creates an object in `target`'s collection.
    pub(crate) fn create(
        &self,
        target: &Target,
        mut value: Value,
        options: &WriteOptions,
    ) -> ApiResult<Arc<Object>> {
        let kind = target.kind;
        check_type(kind, &mut value)?;
        if !kind.storage {
            events::to_core(&mut value);
        }
        self.claim_namespace(target, &mut value)?;
        if !metadata(&value, "resourceVersion").is_empty() {
            return Err(ApiError::internal(
                "resourceVersion should not be set on objects to be created",
            ));
        }
        let generate = metadata(&value, "generateName");
        let generated = metadata(&value, "name").is_empty();
        if generated && generate.is_empty() {
            return Err(ApiError::invalid(
                kind,
                "",
                vec![Cause::required(
                    "metadata.name",
                    "name or generateName is required",
                )],
            ));
        }
        let server_owned = defaults::ensure_object(&mut value, "metadata");
        for field in [
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "resourceVersion",
            "generation",
            "managedFields",
        ] {
            server_owned.remove(field);
        }
        if let Some(fields) = &options.managed_fields {
            server_owned.insert("managedFields".to_owned(), fields.clone());
        }
        server_owned.insert("uid".to_owned(), json!(random::uid()));
        server_owned.insert("creationTimestamp".to_owned(), json!(now()));
        if kind.generation {
            server_owned.insert("generation".to_owned(), json!(1));
        }
        if kind.table == Table::Namespaces {
            let name = metadata(&value, "name");
            defaults::ensure_object(&mut value["metadata"], "labels")
                .insert("kubernetes.io/metadata.name".to_owned(), json!(name));
        }
        defaults::apply(kind, &mut value);
        defaults::initial_status(kind, &mut value);
        defaults::tidy_metadata(&mut value);
        for attempt in 0..8 {
            if generated {
                // A real server cuts the base so that the whole stays a valid name.
                let base: String = generate.chars().take(58).collect();
                value["metadata"]["name"] = json!(format!("{base}{}", random::suffix()));
            }
            if attempt == 0 {
                validate::object(kind, &value)?;
                if !kind.storage {
                    events::validate_new(kind, &value)?;
                }
            }
            let name = metadata(&value, "name");
            let mut store = self.store();
            if store.get(kind.table, &target.key(&name)).is_some() {
                if generated {
                    continue;
                }
                return Err(ApiError::already_exists(kind, &name));
            }
            if options.dry_run {
                return Ok(Arc::new(Object::new(kind, &value, 0)));
            }
            return store
                .put(kind.table, value, None)
                .map_err(|_| ApiError::already_exists(kind, &name));
        }
        Err(ApiError::already_exists(kind, &generate))
    }

    /// Sets the namespace of a new object and refuses one that is not there or goes away.
    fn claim_namespace(&self, target: &Target, value: &mut Value) -> ApiResult<()> {
        let kind = target.kind;
        let Some(namespace) = target.namespace.as_deref() else {
            if kind.namespaced {
                return Err(ApiError::method_not_allowed());
            }
            defaults::ensure_object(value, "metadata").remove("namespace");
            return Ok(());
        };
        let given = metadata(value, "namespace");
        if !given.is_empty() && given != namespace {
            return Err(ApiError::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
        defaults::ensure_object(value, "metadata").insert("namespace".to_owned(), json!(namespace));
        match self.get(Table::Namespaces, namespace) {
            None => Err(ApiError::not_found(Table::Namespaces.kind(), namespace)),
            Some(found) if found.is_deleting() => {
                let why = format!(
                    "unable to create new content in namespace {namespace} because it is being terminated"
                );
                let mut error = ApiError::forbidden(kind, &metadata(value, "name"), why);
                if let Some(details) = &mut error.details {
                    details["causes"] = json!([{"reason": "NamespaceTerminating", "field": "metadata.namespace",
                        "message": format!("namespace {namespace} is being terminated")}]);
                }
                Err(error)
            }
            Some(_) => Ok(()),
        }
    }

    /// Changes an object with `mutate`, which gets the current state and may be called again after a race.
    pub(crate) fn update(
        &self,
        target: &Target,
        origin: Origin,
        options: &WriteOptions,
        mut mutate: impl FnMut(Value, &Object) -> ApiResult<Value>,
    ) -> ApiResult<Arc<Object>> {
        let kind = target.kind;
        let name = target.name.as_deref().unwrap_or_default();
        let key = target.key(name);
        for _ in 0..ATTEMPTS {
            let current = self
                .get(kind.table, &key)
                .ok_or_else(|| ApiError::not_found(kind, name))?;
            let old = current.value();
            let mut new = mutate(old.clone(), &current)?;
            strip_type(kind, &mut new)?;
            let version = metadata(&new, "resourceVersion");
            if let Err(error) = version.parse::<u64>()
                && !version.is_empty()
            {
                return Err(ApiError::internal(format!(
                    "resourceVersion \"{version}\": {error}"
                )));
            }
            if !version.is_empty() && version != current.rv().to_string() {
                return Err(ApiError::modified(kind, name));
            }
            prepare_update(target, origin, &old, &mut new)?;
            if new == old {
                return Ok(current);
            }
            let finished = current.is_deleting()
                && kind.table != Table::Namespaces
                && new["metadata"]["finalizers"].is_null()
                && new["metadata"]["deletionGracePeriodSeconds"]
                    .as_i64()
                    .unwrap_or_default()
                    == 0;
            if options.dry_run {
                return Ok(Arc::new(Object::new(kind, &new, current.rv())));
            }
            let mut store = self.store();
            let written = if finished {
                store.remove(kind.table, &key, current.rv())
            } else {
                store.put(kind.table, new, Some(current.rv()))
            };
            if let Ok(object) = written {
                return Ok(object);
            }
        }
        Err(ApiError::modified(kind, name))
    }

    /// Deletes an object, or begins to.
    pub(crate) fn delete(
        &self,
        target: &Target,
        name: &str,
        options: &DeleteOptions,
    ) -> ApiResult<Deletion> {
        let kind = target.kind;
        let key = target.key(name);
        for _ in 0..ATTEMPTS {
            let current = self
                .get(kind.table, &key)
                .ok_or_else(|| ApiError::not_found(kind, name))?;
            if kind.table == Table::Namespaces && IMMORTAL.contains(&name) {
                return Err(ApiError::forbidden(
                    kind,
                    name,
                    "this namespace may not be deleted",
                ));
            }
            check_preconditions(kind, &current, options)?;
            let mut value = current.value();
            let grace = grace_period(kind, &current, &value, options);
            let finalizers = finalizers_for(&value, options.propagation);
            let at_once = finalizers.is_empty() && grace == 0 && kind.table != Table::Namespaces;
            if options.dry_run {
                return Ok(Deletion {
                    object: current,
                    gone: at_once,
                });
            }
            // Kinds that know a grace period are marked first, even when it is zero, so watchers see both.
            let marks = !at_once || kind.table == Table::Pods;
            if marks {
                mark_deleted(kind, &current, &mut value, grace);
                value["metadata"]["finalizers"] = json!(finalizers);
                defaults::tidy_metadata(&mut value);
            }
            let mut store = self.store();
            let marked = if !marks || value == current.value() {
                Ok(current)
            } else {
                store.put(kind.table, value, Some(current.rv()))
            };
            let finished = marked.and_then(|object| {
                Ok(Deletion {
                    object: if at_once {
                        store.remove(kind.table, &key, object.rv())?
                    } else {
                        object
                    },
                    gone: at_once,
                })
            });
            if let Ok(deletion) = finished {
                return Ok(deletion);
            }
        }
        Err(ApiError::modified(kind, name))
    }
}

/// Sets when the object may go; a running grace period is only ever shortened.
fn mark_deleted(kind: &Kind, current: &Object, value: &mut Value, grace: i64) {
    let metadata = defaults::ensure_object(value, "metadata");
    let running = metadata
        .get("deletionGracePeriodSeconds")
        .and_then(Value::as_i64)
        .filter(|_| current.is_deleting());
    if running.is_some_and(|running| grace >= running) {
        return;
    }
    let end = Timestamp::now()
        .checked_add(Span::new().seconds(grace))
        .unwrap_or(Timestamp::MAX);
    metadata.insert("deletionTimestamp".to_owned(), json!(format_time(end)));
    metadata.insert("deletionGracePeriodSeconds".to_owned(), json!(grace));
    if running.is_none()
        && let Some(generation) = metadata.get("generation").and_then(Value::as_i64)
    {
        metadata.insert("generation".to_owned(), json!(generation + 1));
    }
    if kind.table == Table::Namespaces {
        metadata.remove("deletionGracePeriodSeconds");
        value["status"]["phase"] = json!("Terminating");
    }
}

fn check_preconditions(kind: &Kind, current: &Object, options: &DeleteOptions) -> ApiResult<()> {
    let version = current.rv().to_string();
    for (what, wanted, actual, consequence) in [
        (
            "UID",
            &options.uid,
            current.uid(),
            "The object might have been deleted and then recreated",
        ),
        (
            "ResourceVersion",
            &options.resource_version,
            version.as_str(),
            "The object might have been modified",
        ),
    ] {
        if let Some(wanted) = wanted
            && wanted != actual
        {
            let why = format!(
                "the {what} in the precondition ({wanted}) does not match the {what} in record ({actual}). {consequence}"
            );
            // Unlike other conflicts these name the kind and not the resource.
            let name = current.name();
            let mut error = ApiError::conflict(kind, name, &why);
            error.message = format!(
                "Operation cannot be fulfilled on {} \"{name}\": {why}",
                kind.kind
            );
            if let Some(details) = &mut error.details {
                details["kind"] = json!(kind.kind);
            }
            return Err(error);
        }
    }
    Ok(())
}

/// Seconds until a deleted object may go: only pods on a node have any.
fn grace_period(kind: &Kind, current: &Object, value: &Value, options: &DeleteOptions) -> i64 {
    if kind.table != Table::Pods {
        return 0;
    }
    if current.node_name().is_empty() || matches!(current.phase(), "Succeeded" | "Failed") {
        return 0;
    }
    let own = value["spec"]["terminationGracePeriodSeconds"]
        .as_i64()
        .unwrap_or(30);
    match options.grace.unwrap_or(own) {
        negative if negative < 0 => 1,
        grace => grace,
    }
}

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";

fn finalizers_for(value: &Value, propagation: Option<Propagation>) -> Vec<Value> {
    let mut finalizers = value["metadata"]["finalizers"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    if let Some(propagation) = propagation {
        finalizers.retain(|finalizer| finalizer != FOREGROUND && finalizer != ORPHAN);
        match propagation {
            Propagation::Background => {}
            Propagation::Foreground => finalizers.push(json!(FOREGROUND)),
            Propagation::Orphan => finalizers.push(json!(ORPHAN)),
        }
    }
    finalizers
}

/// Restores what this kind of request may not change, bumps the generation, and validates.
fn prepare_update(target: &Target, origin: Origin, old: &Value, new: &mut Value) -> ApiResult<()> {
    let kind = target.kind;
    let name = old["metadata"]["name"].as_str().unwrap_or_default();
    if let Err(why) = validate::shape(kind, new) {
        return Err(match origin {
            Origin::Patch => ApiError::invalid(
                kind,
                "",
                vec![Cause::invalid("patch", &new["metadata"], why)],
            ),
            _ => ApiError::bad_request(why),
        });
    }
    let given = metadata(new, "name");
    if given != name && !(given.is_empty() && origin != Origin::Put) {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({given}) does not match the name on the URL ({name})"
        )));
    }
    let namespace = metadata(new, "namespace");
    if !namespace.is_empty() && Some(namespace.as_str()) != target.namespace.as_deref() {
        return Err(ApiError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    let version = metadata(new, "resourceVersion");
    if origin == Origin::Put && version.is_empty() && !kind.unconditional_update {
        return Err(ApiError::invalid_fields(
            kind.group,
            kind.plural,
            name,
            &[Cause::invalid(
                "metadata.resourceVersion",
                &json!(0),
                "must be specified for an update",
            )],
        ));
    }
    let uid = metadata(new, "uid");
    let old_uid = metadata(old, "uid");
    if origin == Origin::Put && !uid.is_empty() && uid != old_uid {
        return Err(ApiError::conflict(
            kind,
            name,
            format!(
                "StorageError: invalid object, Code: 4, Key: /registry/{}/{}, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: {uid}, UID in object meta: {old_uid}",
                kind.plural,
                target.key(name)
            ),
        ));
    }
    let mut restored = vec!["name", "namespace", "uid", "deletionTimestamp"];
    let meta = defaults::ensure_object(new, "metadata");
    for always in [
        "generation",
        "resourceVersion",
        "deletionGracePeriodSeconds",
        "generateName",
        "creationTimestamp",
    ] {
        meta.remove(always);
        restored.push(always);
    }
    for field in restored {
        if meta.get(field).is_none_or(Value::is_null)
            && let Some(value) = old["metadata"].get(field)
        {
            meta.insert(field.to_owned(), value.clone());
        }
    }
    if origin != Origin::Internal {
        restore_part(kind, target.part, old, new);
    }
    defaults::tidy_metadata(new);
    defaults::apply(kind, new);
    if let Value::Object(map) = new {
        map.retain(|_, field| !field.is_null());
    }
    let changed = !same_specification(old, new)
        || kind.table == Table::Deployments
            && old["metadata"]["annotations"] != new["metadata"]["annotations"];
    if kind.generation && target.part != Part::Status && changed {
        let generation = old["metadata"]["generation"].as_i64().unwrap_or_default();
        new["metadata"]["generation"] = json!(generation + 1);
    }
    if origin != Origin::Internal {
        validate::immutable(kind, old, new)?;
    }
    validate::object(kind, new)
}

/// Keeps the status out of the main resource and everything else out of `/status`.
fn restore_part(kind: &Kind, part: Part, old: &Value, new: &mut Value) {
    match part {
        Part::Status => {
            let status = new["status"].take();
            let mut metadata = new["metadata"].take();
            *new = old.clone();
            new["status"] = status;
            if !kind.custom {
                for field in ["ownerReferences", "labels"] {
                    let keeps = field == "ownerReferences" || kind.group == "apps";
                    if keeps {
                        metadata[field] = old["metadata"][field].clone();
                    }
                }
                new["metadata"] = metadata;
            }
        }
        _ if kind.status => match old.get("status") {
            Some(status) => new["status"] = status.clone(),
            None => {
                if let Value::Object(map) = new {
                    map.remove("status");
                }
            }
        },
        _ => {}
    }
}

/// Whether all that counts for the generation is equal.
fn same_specification(old: &Value, new: &Value) -> bool {
    fn counted(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
        value
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(key, _)| !matches!(key.as_str(), "metadata" | "status"))
    }
    counted(old).eq(counted(new))
}

/// Adds or replaces a condition of its type.
pub(crate) fn set_condition(status: &mut Value, condition: Value) {
    if !status["conditions"].is_array() {
        status["conditions"] = json!([]);
    }
    if let Value::Array(conditions) = &mut status["conditions"] {
        match conditions
            .iter_mut()
            .find(|known| known["type"] == condition["type"])
        {
            Some(known) => *known = condition,
            None => conditions.push(condition),
        }
    }
}
