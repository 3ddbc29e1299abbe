//! Everything around an actuator: NATS, an API server, a decider's voice, and the actuator's processes.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use kube::core::DynamicObject;
use laneguard_lab_kube::real::RealApiServer;
use laneguard_lab_kube::{Cluster, Server};
use laneguard_proto::codec::Encoding;
use laneguard_proto::duration::to_wire;
use laneguard_proto::policy::Entry;
use laneguard_proto::storage;
use laneguard_proto::subject::{self, Kind};
use laneguard_proto::v1::{Command, Outcome};
use laneguard_runtime::bus::Publish;
use laneguard_tests::broker::{Broker, Shell};
use laneguard_tests::wait::until;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::Child;

/// The egress annotation.
pub(crate) const EGRESS: &str = "kubernetes.io/egress-bandwidth";
/// The actuator's record.
pub(crate) const RECORD: &str = "laneguard.dev/limit";
/// Namespace of the policy under test.
pub(crate) const NAMESPACE: &str = "factory";
/// The policy under test.
pub(crate) const POLICY: &str = "factory_p";

/// NATS, an API server, and clients of both.
pub(crate) struct World {
    pub(crate) client: kube::Client,
    pub(crate) shell: Shell,
    pub(crate) broker: Option<Broker>,
    pub(crate) stand_in: Option<Server>,
    _real: Option<RealApiServer>,
    folder: tempfile::TempDir,
    /// What the actuator gets.
    kubeconfig: PathBuf,
}

/// One process; killed when dropped.
pub(crate) struct Actuator {
    pub(crate) child: Child,
    log: Arc<Mutex<Vec<String>>>,
}

impl World {
    /// With the stand-in.
    pub(crate) async fn new() -> Self {
        let server = Server::start(Cluster::new()).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let kubeconfig = folder.path().join("kubeconfig");
        std::fs::write(&kubeconfig, server.kubeconfig()).unwrap();
        let client = client(&kubeconfig).await;
        create_namespaces(&client).await;
        Self::with(client, kubeconfig, folder, Some(server), None).await
    }

    /// With a real API server, and an actuator that has only the rights it says it needs.
    pub(crate) async fn real(assets: &Path) -> Self {
        let server = RealApiServer::start(assets).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let client = client(server.kubeconfig()).await;
        let kubeconfig = folder.path().join("kubeconfig");
        create_namespaces(&client).await;
        let token = restricted(&client).await;
        let admin = std::fs::read_to_string(server.kubeconfig()).unwrap();
        let mut config: Kubeconfig = Kubeconfig::from_yaml(&admin).unwrap();
        for user in &mut config.auth_infos {
            user.auth_info = Some(serde_json::from_value(json!({"token": token})).unwrap());
        }
        std::fs::write(
            &kubeconfig,
            serde_json::to_string(&config_with_secrets(&config, &token)).unwrap(),
        )
        .unwrap();
        Self::with(client, kubeconfig, folder, None, Some(server)).await
    }

    async fn with(
        client: kube::Client,
        kubeconfig: PathBuf,
        folder: tempfile::TempDir,
        stand_in: Option<Server>,
        real: Option<RealApiServer>,
    ) -> Self {
        let broker = Broker::start().await.unwrap();
        let shell = broker.shell("decider", Encoding::Protobuf).await.unwrap();
        shell.bus.ready().await;
        Self {
            client,
            shell,
            broker: Some(broker),
            stand_in,
            _real: real,
            folder,
            kubeconfig,
        }
    }

    pub(crate) fn cluster(&self) -> &Cluster {
        self.stand_in.as_ref().unwrap().cluster()
    }

    pub(crate) fn nats_url(&self) -> String {
        self.broker.as_ref().unwrap().nats.url()
    }

    /// Starts an actuator. `environment` is all it gets beside the addresses.
    pub(crate) fn start(&self, environment: &[(&str, &str)]) -> Actuator {
        let mut command = tokio::process::Command::new("setpriv");
        command
            .args([
                "--pdeathsig",
                "KILL",
                "--",
                env!("CARGO_BIN_EXE_laneguard-actuator"),
            ])
            .env_clear()
            .env("KUBECONFIG", &self.kubeconfig)
            .env("NATS_URL", self.nats_url())
            .env("ADMIN_ADDR", "127.0.0.1:0")
            .env("NO_COLOR", "1")
            .env("POLICY_NAMESPACE", "laneguard")
            .envs(environment.iter().copied())
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let to = log.clone();
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                eprintln!("{line}");
                to.lock().unwrap().push(line);
            }
        });
        Actuator { child, log }
    }

    /// Starts an actuator and waits until it is ready.
    pub(crate) async fn started(&self, environment: &[(&str, &str)]) -> Actuator {
        let actuator = self.start(environment);
        actuator.ready().await;
        actuator
    }

    pub(crate) fn pods(&self, namespace: &str) -> Api<Pod> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Creates a best-effort pod, changed by merging `metadata` and `spec`.
    pub(crate) async fn pod(&self, name: &str, metadata: Value, spec: Value) {
        let mut pod = json!({"metadata": {"name": name, "labels": {"priority": "best-effort"}},
            "spec": {"containers": [{"name": "c", "image": "none"}]}});
        for (part, change) in [("metadata", metadata), ("spec", spec)] {
            for (key, value) in change.as_object().unwrap() {
                pod[part][key] = value.clone();
            }
        }
        let pod: Pod = serde_json::from_value(pod).unwrap();
        self.pods(NAMESPACE)
            .create(&PostParams::default(), &pod)
            .await
            .unwrap();
    }

    pub(crate) async fn delete_pod(&self, name: &str) {
        let now = DeleteParams {
            grace_period_seconds: Some(0),
            ..DeleteParams::default()
        };
        self.pods(NAMESPACE).delete(name, &now).await.unwrap();
    }

    pub(crate) async fn annotate(&self, name: &str, annotations: Value) {
        let patch = Patch::Merge(json!({"metadata": {"annotations": annotations}}));
        self.pods(NAMESPACE)
            .patch(name, &PatchParams::default(), &patch)
            .await
            .unwrap();
    }

    pub(crate) async fn annotation(&self, name: &str, key: &str) -> Option<String> {
        let pod = self.pods(NAMESPACE).get(name).await.ok()?;
        pod.metadata.annotations?.remove(key)
    }

    /// Waits until a pod's limit is this.
    pub(crate) async fn limited(&self, name: &str, limit: Option<&str>) {
        let what = format!("limit {limit:?} on {name}");
        until(
            &what,
            async || self.annotation(name, EGRESS).await,
            |found| found.as_deref() == limit,
        )
        .await;
    }

    /// Versions of all pods: the same as before when nothing was written.
    pub(crate) async fn versions(&self) -> Vec<Option<String>> {
        let pods = self
            .pods(NAMESPACE)
            .list(&ListParams::default())
            .await
            .unwrap();
        pods.items
            .into_iter()
            .map(|pod| pod.metadata.resource_version)
            .collect()
    }

    /// Stores the policy under test, Enforce with class `bulk` from 10M to 1G, changed by merging `spec`.
    pub(crate) async fn policy(&self, spec: Value) {
        let mut full = json!({"mode": "Enforce",
            "critical": [{"workload": "robot-factory", "targets": [{"metric": "P95", "below": "10ms"}]}],
            "bestEffort": [{"class": "bulk", "selector": {"matchLabels": {"priority": "best-effort"}}, "bandwidth": {"min": "10M", "max": "1G"}}]});
        for (key, value) in spec.as_object().unwrap() {
            full[key] = value.clone();
        }
        let entry = json!({"origin": "lanectl", "namespace": NAMESPACE, "name": "p", "generation": 1, "spec": full});
        let entry = Entry::from_json(entry.to_string().as_bytes()).unwrap();
        let bucket = self.shell.bus.bucket(storage::POLICIES);
        bucket
            .put(&policy_key(), serde_json::to_vec(&entry).unwrap())
            .await
            .unwrap();
    }

    /// Publishes a command as a decider does.
    pub(crate) async fn command(&self, term: u64, sequence: u64, mbps: f64) {
        self.send(Command {
            term,
            sequence,
            ..command(mbps)
        })
        .await;
    }

    pub(crate) async fn send(&self, command: Command) {
        let subject = subject::command(&command.cluster, &command.policy, &command.class);
        self.shell
            .bus
            .publish(&subject, &command, Publish::default())
            .await
            .unwrap();
    }

    /// Waits for an outcome of class `bulk` that fits.
    pub(crate) async fn outcome(&self, what: &str, fits: impl Fn(&Outcome) -> bool) -> Outcome {
        let subject = subject::outcome("default", POLICY, "bulk");
        let last = async || {
            let last = self
                .shell
                .bus
                .last::<Outcome>(Kind::Outcome, &subject)
                .await;
            last.ok().and_then(|last| last.message)
        };
        until(what, last, |found| found.as_ref().is_some_and(&fits))
            .await
            .unwrap()
    }
}

/// The key of the policy under test.
pub(crate) fn policy_key() -> String {
    format!("default.{POLICY}")
}

/// A command for class `bulk`, valid for 15 s.
pub(crate) fn command(mbps: f64) -> Command {
    Command {
        cluster: "default".into(),
        policy: POLICY.into(),
        class: "bulk".into(),
        limit_bps: Some(mbps * 1e6),
        term: 1,
        sequence: 1,
        valid_for: Some(to_wire(Duration::from_secs(15))),
        ..Command::default()
    }
}

impl Actuator {
    /// Everything it has logged.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().join("\n")
    }

    async fn page(&self, path: &str) -> Option<String> {
        let log = self.log();
        let address = log
            .split("address=")
            .nth(1)?
            .split_whitespace()
            .next()?
            .to_owned();
        let mut stream = TcpStream::connect(address).await.ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut page = String::new();
        stream.read_to_string(&mut page).await.ok()?;
        Some(page)
    }

    pub(crate) async fn ready(&self) {
        let page = async || self.page("/readyz").await.unwrap_or_default();
        until("readiness", page, |page| page.starts_with("HTTP/1.1 200")).await;
    }

    /// The value of the series whose line begins so; 0 when there is none.
    pub(crate) async fn metric(&self, series: &str) -> f64 {
        let page = self.page("/metrics").await.unwrap_or_default();
        let line = page
            .lines()
            .find_map(|line| line.strip_prefix(series)?.trim().parse().ok());
        line.unwrap_or(0.0)
    }

    /// Waits until a series is at least this.
    pub(crate) async fn counted(&self, series: &str, least: f64) {
        until(
            series,
            async || self.metric(series).await,
            |value| *value >= least,
        )
        .await;
    }
}

async fn client(kubeconfig: &Path) -> kube::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let config = Kubeconfig::read_from(kubeconfig).unwrap();
    let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default())
        .await
        .unwrap();
    kube::Client::try_from(config).unwrap()
}

async fn create_namespaces(client: &kube::Client) {
    for namespace in [NAMESPACE, "laneguard"] {
        create(
            client,
            "",
            "v1",
            "Namespace",
            None,
            json!({"metadata": {"name": namespace}}),
        )
        .await;
    }
}

async fn create(
    client: &kube::Client,
    group: &str,
    version: &str,
    kind: &str,
    namespace: Option<&str>,
    object: Value,
) {
    let kind = kube::core::GroupVersionKind::gvk(group, version, kind);
    let resource = kube::core::ApiResource::from_gvk(&kind);
    let api: Api<DynamicObject> = match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    let mut object = object;
    object["apiVersion"] = resource.api_version.clone().into();
    object["kind"] = resource.kind.clone().into();
    let object: DynamicObject = serde_json::from_value(object).unwrap();
    api.create(&PostParams::default(), &object).await.unwrap();
}

/// A token of a service account with exactly the rights that the crate's documentation names.
async fn restricted(client: &kube::Client) -> String {
    let rbac = "rbac.authorization.k8s.io";
    let account = json!({"metadata": {"name": "actuator"}});
    create(
        client,
        "",
        "v1",
        "ServiceAccount",
        Some("laneguard"),
        account,
    )
    .await;
    let everywhere = json!({"metadata": {"name": "actuator"}, "rules": [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch", "patch"]},
        {"apiGroups": [""], "resources": ["namespaces"], "verbs": ["list", "watch"]}]});
    create(client, rbac, "v1", "ClusterRole", None, everywhere).await;
    let lease = json!({"metadata": {"name": "actuator"}, "rules": [
        {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get", "create", "update"]}]});
    create(client, rbac, "v1", "Role", Some("laneguard"), lease).await;
    let subjects =
        json!([{"kind": "ServiceAccount", "name": "actuator", "namespace": "laneguard"}]);
    let binding = |kind: &str| json!({"metadata": {"name": "actuator"}, "subjects": subjects, "roleRef": {"apiGroup": rbac, "kind": kind, "name": "actuator"}});
    create(
        client,
        rbac,
        "v1",
        "ClusterRoleBinding",
        None,
        binding("ClusterRole"),
    )
    .await;
    create(
        client,
        rbac,
        "v1",
        "RoleBinding",
        Some("laneguard"),
        binding("Role"),
    )
    .await;
    let body = serde_json::to_vec(
        &json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}),
    )
    .unwrap();
    let request =
        http::Request::post("/api/v1/namespaces/laneguard/serviceaccounts/actuator/token")
            .header("Content-Type", "application/json")
            .body(body)
            .unwrap();
    let answer: Value = client.request(request).await.unwrap();
    answer["status"]["token"].as_str().unwrap().to_owned()
}

/// The kubeconfig as JSON; its own serialization leaves tokens out.
fn config_with_secrets(config: &Kubeconfig, token: &str) -> Value {
    let mut value = serde_json::to_value(config).unwrap();
    for user in value["users"].as_array_mut().unwrap() {
        user["user"] = json!({"token": token});
    }
    value
}
