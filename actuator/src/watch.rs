//! Watches of the API server: pods, and namespaces where a policy needs their labels.
//!
//! Every watch begins with a complete list, and again whenever the API server no longer knows where we were (410): what is missing in a complete
//! list is gone.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::pin::pin;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Namespace;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource};
use laneguard_runtime::backoff::Backoff;
use laneguard_runtime::shutdown::Shutdown;
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, watch};

use crate::metrics::{Metrics, ResourceLabel};
use crate::pods::{Key, Object, Pod};

/// How long one watch request lasts; a connection that died silently is noticed 5 s later.
pub(crate) const WATCH_SECONDS: u32 = 60;
/// Objects in a page of a list.
const PAGE: u32 = 500;

/// What happened to pods or namespaces.
#[derive(Debug)]
pub enum Seen {
    /// A complete list of pods begins.
    PodListBegins,
    /// A pod in that list.
    PodListed(Box<Pod>),
    /// The list is complete.
    PodListEnds,
    /// A pod was added or changed.
    PodChanged(Box<Pod>),
    /// The pod with this uid is gone.
    PodGone(Key, Box<str>),
    /// Labels of every namespace.
    Namespaces(HashMap<String, BTreeMap<String, String>>),
    /// Labels of one namespace; `None`: it is gone.
    Namespace(String, Option<BTreeMap<String, String>>),
}

/// Watches every pod until the process stops. The queue is bounded: a slow reader slows the watch down.
///
/// # Errors
/// Never; failures of the API server are tried again.
pub async fn pods(
    client: Client,
    to: mpsc::Sender<Seen>,
    metrics: Metrics,
    stop: Shutdown,
) -> anyhow::Result<()> {
    let api: Api<Object> = Api::all(client);
    let seen = |event| match event {
        Event::Init => Some(Seen::PodListBegins),
        Event::InitApply(object) => Pod::from_object(object).map(|p| Seen::PodListed(Box::new(p))),
        Event::InitDone => Some(Seen::PodListEnds),
        Event::Apply(object) => Pod::from_object(object).map(|p| Seen::PodChanged(Box::new(p))),
        Event::Delete(object) => Pod::from_object(object).map(|p| Seen::PodGone(p.key, p.uid)),
    };
    follow(api, "pods", seen, to, metrics, stop).await
}

/// Watches every namespace, as soon as `needed` says so, until the process stops.
///
/// # Errors
/// Never; failures of the API server are tried again.
pub async fn namespaces(
    client: Client,
    mut needed: watch::Receiver<bool>,
    to: mpsc::Sender<Seen>,
    metrics: Metrics,
    stop: Shutdown,
) -> anyhow::Result<()> {
    tokio::select! {
        waited = needed.wait_for(|needed| *needed) => {
            if waited.is_err() {
                return Ok(());
            }
        }
        () = stop.cancelled() => return Ok(()),
    }
    let api: Api<Namespace> = Api::all(client);
    let mut listed = HashMap::new();
    let seen = move |event| match event {
        Event::Init => {
            listed.clear();
            None
        }
        Event::InitApply(namespace) => {
            listed.extend([named(namespace)]);
            None
        }
        Event::InitDone => Some(Seen::Namespaces(std::mem::take(&mut listed))),
        Event::Apply(namespace) => {
            let (name, labels) = named(namespace);
            Some(Seen::Namespace(name, Some(labels)))
        }
        Event::Delete(namespace) => Some(Seen::Namespace(named(namespace).0, None)),
    };
    follow(api, "namespaces", seen, to, metrics, stop).await
}

fn named(namespace: Namespace) -> (String, BTreeMap<String, String>) {
    let labels = namespace.metadata.labels.unwrap_or_default();
    (namespace.metadata.name.unwrap_or_default(), labels)
}

/// Follows a resource until the process stops or nobody listens.
async fn follow<K>(
    api: Api<K>,
    resource: &'static str,
    mut seen: impl FnMut(Event<K>) -> Option<Seen> + Send,
    to: mpsc::Sender<Seen>,
    metrics: Metrics,
    stop: Shutdown,
) -> anyhow::Result<()>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let config = watcher::Config::default()
        .page_size(PAGE)
        .timeout(WATCH_SECONDS);
    let mut events = pin!(watcher(api, config));
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    let mut failing = false;
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            () = stop.cancelled() => return Ok(()),
        };
        let event = match event {
            Some(Ok(event)) => event,
            Some(Err(error)) => {
                metrics
                    .watch_errors
                    .get_or_create(&ResourceLabel { resource })
                    .inc();
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(resource, error = %error_chain(&error), "the watch failed, trying again");
                }
                tokio::select! {
                    () = tokio::time::sleep(backoff.delay()) => continue,
                    () = stop.cancelled() => return Ok(()),
                }
            }
            None => anyhow::bail!("the watch of {resource} ended"),
        };
        // a restart of the watch alone proves nothing; an object or a complete list does
        if !matches!(event, Event::Init) {
            backoff.reset();
            if std::mem::take(&mut failing) {
                tracing::info!(resource, "the watch works again");
            }
        }
        if matches!(event, Event::InitDone) {
            metrics
                .lists
                .get_or_create(&ResourceLabel { resource })
                .inc();
        }
        if let Some(seen) = seen(event)
            && to.send(seen).await.is_err()
        {
            return Ok(());
        }
    }
}

/// An error and what caused it, in one line.
fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
