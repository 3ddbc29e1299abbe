//! What a real Kubernetes API server answers, as a table of cases, run against the stand-in and, where there is one, a real one.
//!
//! A real one is there when `KUBECONFIG` points to a cluster, or `KUBEBUILDER_ASSETS` names a folder with etcd and kube-apiserver
//! (and kube-controller-manager and kube-scheduler for the cases that need controllers). Each case works in namespaces of its own,
//! labelled `laneguard.dev/test`, which are deleted afterwards.

mod api;
mod apply;
mod deletes;
mod reads;
mod watches;
mod workloads;
mod writes;

use std::time::Duration;

use anyhow::{Context, Result};
use futures::{FutureExt, StreamExt, future::BoxFuture};
use laneguard_lab_kube::{Cluster, Server, real};

use crate::api::{Api, Backend};

/// What a case needs beside an API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Needs {
    Nothing,
    /// The `QosPolicy` resource.
    Policies,
    /// The workload controllers and the garbage collector.
    Controllers,
    /// Controllers, and nodes whose kubelet the case plays itself.
    IdleNodes,
}

struct Case {
    name: &'static str,
    needs: Needs,
    run: for<'a> fn(&'a Api) -> BoxFuture<'a, Result<()>>,
}

macro_rules! table {
    ($($needs:ident $run:path: $name:literal,)*) => {
        &[$(Case { name: $name, needs: Needs::$needs, run: |api| $run(api).boxed() }),*]
    };
}

/// Function and behaviour; the README's table has the same behaviours.
const TABLE: &[Case] = table! {
    Nothing reads::discovery: "discovery lists the resources, their verbs and subresources",
    Nothing reads::not_found: "a missing object is 404 NotFound with details; an unknown resource is 404",
    Nothing reads::pages: "limit and continue give pages of one snapshot",
    Nothing reads::bad_token: "a garbage continue token is 400",
    Nothing reads::bad_version: "a garbage resourceVersion is 400 for a list, 500 for a watch",
    Nothing reads::any_version: "limit with resourceVersion=0 gives everything",
    Nothing reads::future_version: "a list from the future is 504 Timeout with cause ResourceVersionTooLarge",
    Nothing reads::exact_version: "resourceVersionMatch=Exact gives the list as it was",
    Nothing reads::label_selectors: "label selectors: equality, sets, existence",
    Nothing reads::bad_selectors: "a malformed label selector and an unknown field are 400",
    Nothing reads::field_selectors: "field selectors: name, namespace, nodeName, phase",
    Nothing reads::list_types: "items of a built-in list carry no kind",
    Policies reads::custom_list_types: "items of a custom list carry their kind",
    Nothing reads::partial_metadata: "PartialObjectMetadata for objects, lists and watches",
    Nothing reads::all_namespaces: "a list over all namespaces with a selector",

    Nothing writes::create: "create gives uid, creationTimestamp, resourceVersion",
    Nothing writes::create_conflicts: "creating what exists is 409 AlreadyExists",
    Nothing writes::generated_names: "generateName appends five characters",
    Nothing writes::create_refused: "a bad name, label, annotation, kind, namespace or version is refused with the right reason",
    Nothing writes::sizes: "annotations over 256 KiB are 422, a body over 3 MiB is 413",
    Nothing writes::bodies: "malformed JSON is 400, an unknown media type 415",
    Nothing writes::recreated: "a recreated object has a new uid, and the old one no longer deletes it",
    Nothing writes::put: "PUT: stale version 409, no version overwrites, other uid 409, other name 400, no change keeps the version",
    Nothing writes::lease: "leases: PUT creates, needs a version to update, times have six digits",
    Nothing writes::merge_patch: "merge patch: sets, removes, 404, no change keeps the version",
    Nothing writes::merge_patch_fenced: "merge patch: stale resourceVersion 409, other uid 422, other name or namespace 400, a creationTimestamp is ignored",
    Nothing writes::merge_patch_refused: "merge patch: annotations that are no strings or too long, unqualified finalizers and incomplete owners are 422 and change nothing",
    Nothing writes::json_patch: "JSON patch: tests guard, a failed test or missing path is 422 Invalid, a malformed one 400",
    Nothing writes::strategic_patch: "strategic merge patch: containers by name, maps by key, directives",
    Policies writes::custom_strategic: "strategic merge patch of a custom resource is 415",
    Nothing writes::dry_run: "dryRun=All answers and keeps nothing",
    Nothing writes::status: "the main resource ignores status, /status ignores the spec",
    Policies writes::custom_status: "custom resources: /status changes status only, the generation follows the spec",
    Nothing writes::scale: "scale: get, patch, put",
    Nothing writes::generation: "generation rises with the spec, for deployments also with annotations",
    Nothing writes::immutable: "a pod's spec and a deployment's selector are immutable",
    Nothing writes::bind: "binding puts a pod on a node, once",
    Nothing writes::events: "events are the same objects in v1 and events.k8s.io/v1",
    Nothing writes::events_refused: "events.k8s.io/v1 requires reporter, action and time",

    Nothing apply::applies: "server-side apply creates, merges, removes what is no longer applied",
    Nothing apply::conflicts: "server-side apply: another applier's field is 409 unless forced",
    Nothing apply::refused: "server-side apply needs a field manager, kind, name and the right version",

    Nothing deletes::answers: "deleting a config map answers a Status with its uid, again is 404",
    Nothing deletes::preconditions: "delete with other uid or version is 409 and deletes nothing",
    Nothing deletes::unbound_pod: "a pod without node goes at once, after a last MODIFIED",
    Nothing deletes::bound_pod: "a pod on a node waits for its grace period; grace 0 ends it",
    Nothing deletes::finalizers: "finalizers hold a deleted object until the last is removed",
    Nothing deletes::collection: "deleting a collection honours the selector",

    Nothing watches::from_version: "a watch from a version gives what happened since, in order",
    Nothing watches::selector: "an object that leaves a watch's selector is DELETED to it, with its last matching state and the new version",
    Nothing watches::field_selector: "a watch by field: phase and node",
    Nothing watches::initial: "a watch without version, or with 0, begins with what is there",
    Nothing watches::streaming_list: "sendInitialEvents ends the list with a marked bookmark",
    Nothing watches::streaming_list_refused: "sendInitialEvents without NotOlderThan, and the reverse, are 422",
    Nothing watches::bookmark: "a watch that allows bookmarks gets one before its timeout ends it",
    Policies watches::too_old: "a watch from a forgotten version is an ERROR event with 410 Expired",
    Nothing watches::by_name: "a watch of one object by name",

    Controllers workloads::deployment: "a deployment makes a replica set that makes pods, with hash and owners",
    Controllers workloads::annotating: "annotating a deployment's pods replaces none; changing its template replaces all",
    Controllers workloads::scaling: "scaling a deployment by its scale subresource adds and removes pods",
    Controllers workloads::orphans: "dependents go with their owner; orphaned ones stay",
    Controllers workloads::foreground: "foreground deletion keeps the owner until its dependents are gone",
    Controllers workloads::namespace: "a deleted namespace refuses new objects, is emptied and goes",
    IdleNodes workloads::scheduling: "pods are bound to a ready node that fits their selector",
    IdleNodes workloads::stateful_set: "a stateful set makes pods in order, each after the one before is ready",
    IdleNodes workloads::daemon_set: "a daemon set makes a pod on each fitting node",
};

/// Runs the table and lists every disagreement.
async fn run(backend: Backend) -> Result<()> {
    let outcomes: Vec<(&str, Result<()>)> = futures::stream::iter(TABLE)
        .map(|case| {
            let backend = &backend;
            async move {
                if let Err(reason) = backend.provides(case.needs) {
                    println!("skipped, {reason}: {}", case.name);
                    return (case.name, Ok(()));
                }
                let api = match Api::new(backend).await {
                    Ok(api) => api,
                    Err(error) => return (case.name, Err(error)),
                };
                let outcome = tokio::time::timeout(Duration::from_secs(90), (case.run)(&api))
                    .await
                    .context("still waiting after 90 s")
                    .flatten();
                (case.name, outcome.and(api.clean_up().await))
            }
        })
        .buffer_unordered(6)
        .collect()
        .await;
    let failures: Vec<String> = outcomes
        .into_iter()
        .filter_map(|(name, outcome)| Some(format!("- {name}: {:#}", outcome.err()?)))
        .collect();
    anyhow::ensure!(
        failures.is_empty(),
        "{} of {} disagree on {}:\n{}",
        failures.len(),
        TABLE.len(),
        backend.name(),
        failures.join("\n")
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_stand_in_answers_as_the_table_says() -> Result<()> {
    let server = Server::start(Cluster::new()).await?;
    run(Backend::stand_in(server).await?).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_api_server_answers_as_the_table_says() -> Result<()> {
    if let Some(assets) = real::assets() {
        let server = real::RealApiServer::start(&assets).await?;
        return run(Backend::local(server).await?).await;
    }
    match std::env::var_os("KUBECONFIG") {
        Some(_) => run(Backend::cluster().await?).await,
        None => {
            println!(
                "skipped: neither KUBEBUILDER_ASSETS nor KUBECONFIG leads to a real API server"
            );
            Ok(())
        }
    }
}
