//! A Kubernetes API for a test, in a namespace of its own: the stand-in in this process, or a real API server.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use laneguard_lab_kube::real::{self, RealApiServer};
use laneguard_lab_kube::{Cluster, Options};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::wait::{soon, until};

/// The annotation that limits a pod.
pub const EGRESS: &str = "kubernetes.io/egress-bandwidth";
/// Our record beside it.
pub const RECORD: &str = "laneguard.dev/limit";
/// Label of everything that tests make.
const LABEL: &str = "laneguard.dev/test";

/// A real API server that several tests' worlds share, each in a namespace of its own.
#[derive(Debug)]
pub struct Real {
    /// Ours, if it is not somebody's cluster.
    server: Option<RealApiServer>,
    kubeconfig: PathBuf,
    controllers: bool,
}

impl Real {
    /// The one that `KUBEBUILDER_ASSETS` or `KUBECONFIG` leads to; `None` when neither is set.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn find() -> anyhow::Result<Option<Arc<Self>>> {
        if let Some(assets) = real::assets() {
            let server = RealApiServer::start(&assets).await?;
            let controllers = server.has_controllers();
            if controllers {
                server.start_controllers()?;
            }
            let kubeconfig = server.kubeconfig().to_owned();
            return Ok(Some(Arc::new(Self {
                server: Some(server),
                kubeconfig,
                controllers,
            })));
        }
        let kubeconfig = std::env::var_os("KUBECONFIG").map(PathBuf::from);
        Ok(kubeconfig.map(|kubeconfig| {
            Arc::new(Self {
                server: None,
                kubeconfig,
                controllers: true,
            })
        }))
    }

    /// Whether the cluster is somebody else's.
    pub fn is_foreign(&self) -> bool {
        self.server.is_none()
    }
}

/// Which API a world gets.
#[derive(Debug, Clone)]
pub enum Where {
    /// The stand-in with controllers, two nodes and kubelets.
    StandIn,
    /// A real one.
    Real(Arc<Real>),
}

/// The API, and a namespace of this world.
pub struct Kubernetes {
    /// A client for it.
    pub client: kube::Client,
    /// The world's namespace.
    pub namespace: String,
    kubeconfig: PathBuf,
    backend: Backend,
}

impl fmt::Debug for Kubernetes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Kubernetes");
        shown.field("namespace", &self.namespace);
        shown
            .field("backend", &self.backend)
            .finish_non_exhaustive()
    }
}

#[derive(Debug)]
enum Backend {
    StandIn(StandIn),
    Real(Arc<Real>),
}

/// A pod as far as these tests look at it.
#[derive(Debug, Clone, PartialEq)]
pub struct View {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// The limit on it.
    pub limit: Option<String>,
    /// Our record on it.
    pub record: Option<Value>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

impl View {
    /// Reads what the API server sent.
    pub fn of(pod: &Pod) -> Self {
        let annotations = pod.metadata.annotations.clone().unwrap_or_default();
        Self {
            name: pod.metadata.name.clone().unwrap_or_default(),
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            limit: annotations.get(EGRESS).cloned(),
            record: annotations
                .get(RECORD)
                .map(|text| serde_json::from_str(text).unwrap_or_else(|_| json!(text))),
            labels: pod.metadata.labels.clone().unwrap_or_default(),
        }
    }
}

/// A name that no other test has.
pub fn unique(prefix: &str) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let time = laneguard_runtime::clock::since_epoch().as_nanos();
    format!("{prefix}-{time:x}-{:x}-{count:x}", std::process::id())
}

impl Kubernetes {
    /// Starts or joins one, and makes the namespace. `folder` gets the kubeconfig.
    ///
    /// # Errors
    /// When the API does not answer.
    pub async fn start(place: &Where, folder: &Path) -> anyhow::Result<Self> {
        let (backend, kubeconfig) = match place {
            Where::StandIn => {
                let server = StandIn::start().await?;
                let kubeconfig = folder.join("kubeconfig");
                let text = laneguard_lab_kube::kubeconfig(&format!("http://{}", server.address));
                std::fs::write(&kubeconfig, text)?;
                (Backend::StandIn(server), kubeconfig)
            }
            Where::Real(real) => (Backend::Real(Arc::clone(real)), real.kubeconfig.clone()),
        };
        let config = Config::from_custom_kubeconfig(
            Kubeconfig::read_from(&kubeconfig)?,
            &KubeConfigOptions::default(),
        )
        .await?;
        let client = kube::Client::try_from(config)?;
        let namespace = unique("laneguard-test");
        let kubernetes = Self {
            client,
            namespace,
            kubeconfig,
            backend,
        };
        let object =
            json!({"metadata": {"name": kubernetes.namespace, "labels": {LABEL: "pipeline"}}});
        Api::<Namespace>::all(kubernetes.client.clone())
            .create(&PostParams::default(), &serde_json::from_value(object)?)
            .await
            .context("the test's namespace")?;
        Ok(kubernetes)
    }

    /// What goes into `KUBECONFIG`.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The stand-in, for faults.
    ///
    /// # Panics
    /// When it is a real one.
    pub fn stand_in(&mut self) -> &mut StandIn {
        match &mut self.backend {
            Backend::StandIn(server) => server,
            Backend::Real(_) => panic!("a real API server takes no faults from a test"),
        }
    }

    /// Whether others' pods are there, which a test must leave alone.
    pub fn is_foreign(&self) -> bool {
        matches!(&self.backend, Backend::Real(real) if real.is_foreign())
    }

    fn has_controllers(&self) -> bool {
        match &self.backend {
            Backend::StandIn(_) => true,
            Backend::Real(real) => real.controllers,
        }
    }

    fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// The namespace's pods.
    pub fn pods_api(&self) -> Api<Pod> {
        self.api()
    }

    /// Makes a Deployment; where nobody makes its pods, makes them as it would.
    ///
    /// # Errors
    /// When the API refuses.
    pub async fn deployment(
        &self,
        name: &str,
        replicas: i32,
        labels: Value,
        annotations: Value,
    ) -> anyhow::Result<()> {
        if !self.has_controllers() {
            return self.lone_pods(name, 0..replicas, labels, annotations).await;
        }
        let object = workload(name, replicas, labels, annotations);
        let object: Deployment = serde_json::from_value(object)?;
        self.api().create(&PostParams::default(), &object).await?;
        self.counted(name, replicas).await;
        Ok(())
    }

    /// Makes a StatefulSet; where nobody makes its pods, makes them as it would.
    ///
    /// # Errors
    /// When the API refuses.
    pub async fn stateful_set(
        &self,
        name: &str,
        replicas: i32,
        labels: Value,
        annotations: Value,
    ) -> anyhow::Result<()> {
        if !self.has_controllers() {
            return self.lone_pods(name, 0..replicas, labels, annotations).await;
        }
        let mut object = workload(name, replicas, labels, annotations);
        object["spec"]["serviceName"] = json!(name);
        // where no kubelet runs, no pod ever becomes ready
        object["spec"]["podManagementPolicy"] = json!("Parallel");
        let object: StatefulSet = serde_json::from_value(object)?;
        self.api().create(&PostParams::default(), &object).await?;
        self.counted(name, replicas).await;
        Ok(())
    }

    /// Sets the number of a Deployment's pods.
    ///
    /// # Errors
    /// When the API refuses.
    pub async fn scale_deployment(&self, name: &str, replicas: i32) -> anyhow::Result<()> {
        if !self.has_controllers() {
            let there = self.pods(name).await.len() as i32;
            let labels = self.pods(name).await.first().map(|pod| json!(pod.labels));
            let labels = labels.context("no pod to go by")?;
            return self
                .lone_pods(name, there..replicas, labels, json!({}))
                .await;
        }
        let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
        let parameters = PatchParams::default();
        self.api::<Deployment>()
            .patch_scale(name, &parameters, &patch)
            .await?;
        Ok(())
    }

    async fn lone_pods(
        &self,
        name: &str,
        numbers: std::ops::Range<i32>,
        labels: Value,
        annotations: Value,
    ) -> anyhow::Result<()> {
        for number in numbers {
            let mut labels = labels.clone();
            labels["app"] = json!(name);
            self.pod(
                &format!("{name}-{number}"),
                labels,
                annotations.clone(),
                json!({}),
            )
            .await?;
        }
        Ok(())
    }

    async fn counted(&self, app: &str, count: i32) {
        until(
            &format!("{count} pods of {app}"),
            async || self.pods(app).await.len(),
            |found| *found == count as usize,
        )
        .await;
    }

    /// Makes a pod that nobody owns; `spec` is laid over that of an ordinary one.
    ///
    /// # Errors
    /// When the API refuses.
    pub async fn pod(
        &self,
        name: &str,
        labels: Value,
        annotations: Value,
        spec: Value,
    ) -> anyhow::Result<View> {
        let mut object = json!({
            "metadata": {"name": name, "labels": labels, "annotations": annotations},
            "spec": pod_spec(),
        });
        if let (Some(into), Some(more)) = (object["spec"].as_object_mut(), spec.as_object()) {
            into.extend(more.clone());
        }
        let pod = self
            .pods_api()
            .create(&PostParams::default(), &serde_json::from_value(object)?)
            .await?;
        Ok(View::of(&pod))
    }

    /// Sets annotations of a pod, as somebody else would.
    ///
    /// # Errors
    /// When the API refuses.
    pub async fn annotate(&self, pod: &str, annotations: Value) -> anyhow::Result<()> {
        let patch = Patch::Merge(json!({"metadata": {"annotations": annotations}}));
        let parameters = PatchParams::default();
        self.pods_api().patch(pod, &parameters, &patch).await?;
        Ok(())
    }

    /// Pods with this `app` label that are not on their way out, by name.
    pub async fn pods(&self, app: &str) -> Vec<View> {
        let selected = ListParams::default().labels(&format!("app={app}"));
        self.list(&selected).await
    }

    /// All pods of the namespace that are not on their way out, by name.
    pub async fn all_pods(&self) -> Vec<View> {
        self.list(&ListParams::default()).await
    }

    async fn list(&self, parameters: &ListParams) -> Vec<View> {
        // an API that is away shows no pods; whoever waits for some goes on waiting
        let list = self.pods_api().list(parameters).await;
        let pods = list.map(|list| list.items).unwrap_or_default();
        let mut views: Vec<View> = pods
            .iter()
            .filter(|pod| pod.metadata.deletion_timestamp.is_none())
            .map(View::of)
            .collect();
        views.sort_by(|a, b| a.name.cmp(&b.name));
        views
    }

    /// The limits on the pods with this `app` label.
    pub async fn limits(&self, app: &str) -> Vec<Option<String>> {
        let pods = self.pods(app).await;
        pods.into_iter().map(|pod| pod.limit).collect()
    }

    /// Deletes the namespace, where it would outlive the test.
    pub async fn clean_up(&self) {
        if let Backend::Real(_) = self.backend {
            let all = Api::<Namespace>::all(self.client.clone());
            // the API server may be about to end anyway
            let _ = all.delete(&self.namespace, &DeleteParams::default()).await;
        }
    }
}

fn pod_spec() -> Value {
    json!({
        "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "main", "image": "registry.k8s.io/pause:3.10"}],
    })
}

fn workload(name: &str, replicas: i32, labels: Value, annotations: Value) -> Value {
    let mut labels = labels;
    labels["app"] = json!(name);
    json!({
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": labels, "annotations": annotations},
                "spec": pod_spec(),
            },
        },
    })
}

/// The stand-in on a fixed port, to be taken down and up again.
#[derive(Debug)]
pub struct StandIn {
    /// Its state, which survives being down; faults go in here.
    pub cluster: Cluster,
    address: SocketAddr,
    serving: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

impl StandIn {
    async fn start() -> anyhow::Result<Self> {
        let cluster = Cluster::with_options(Options {
            kubelet: Some(Duration::from_millis(50)),
            nodes: 2,
            bookmark_interval: Duration::from_secs(1),
            ..Options::default()
        });
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let mut server = Self {
            cluster,
            address: listener.local_addr()?,
            serving: None,
        };
        server.serve(listener);
        Ok(server)
    }

    fn serve(&mut self, listener: TcpListener) {
        let (stop, stopped) = oneshot::channel::<()>();
        let cluster = self.cluster.clone();
        let task = tokio::spawn(async move {
            let stopped = async {
                // a dropped sender is an end as well
                let _ = stopped.await;
            };
            if let Err(error) = laneguard_lab_kube::serve(listener, cluster, stopped).await {
                eprintln!("the stand-in ended: {error:#}");
            }
        });
        self.serving = Some((stop, task));
    }

    /// Takes the API down: connections end, new ones are refused. What is stored stays.
    ///
    /// # Panics
    /// When it does not end.
    pub async fn down(&mut self) {
        if let Some((stop, task)) = self.serving.take() {
            drop(stop);
            self.cluster.cut_watches();
            soon("the end of the API", task)
                .await
                .expect("the stand-in does not panic");
        }
    }

    /// Serves again at the same address.
    ///
    /// # Panics
    /// When the port is taken.
    pub async fn up(&mut self) {
        let address = self.address;
        let bound = until(
            "the port",
            async || TcpListener::bind(address).await,
            Result::is_ok,
        )
        .await;
        self.serve(bound.expect("it was waited for"));
    }
}
