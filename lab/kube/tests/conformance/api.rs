//! Raw requests, so that cases see what is answered and not what a client library makes of it.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use futures::{AsyncBufReadExt, StreamExt, TryStreamExt, stream::BoxStream};
use http::{Request, Response};
use kube::{
    Client, Config,
    client::Body,
    config::{KubeConfigOptions, Kubeconfig},
};
use laneguard_lab_kube::{Server, real::RealApiServer};
use serde_json::{Value, json};

use crate::Needs;

pub(crate) const JSON: &str = "application/json";
pub(crate) const MERGE: &str = "application/merge-patch+json";
pub(crate) const JSON_PATCH: &str = "application/json-patch+json";
pub(crate) const STRATEGIC: &str = "application/strategic-merge-patch+json";
pub(crate) const APPLY: &str = "application/apply-patch+yaml";

/// The server under test.
pub(crate) struct Backend {
    client: Client,
    name: &'static str,
    policies: bool,
    controllers: bool,
    idle_nodes: bool,
    /// Kept for as long as they serve.
    _stand_in: Option<Server>,
    _real: Option<RealApiServer>,
}

async fn client(kubeconfig: Kubeconfig) -> Result<Client> {
    let mut config =
        Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    // Cases look at answers that the client would otherwise try to avoid.
    config.default_retry = false;
    Ok(Client::try_from(config)?)
}

impl Backend {
    pub(crate) async fn stand_in(server: Server) -> Result<Self> {
        let client = client(Kubeconfig::from_yaml(&server.kubeconfig())?).await?;
        let backend = Self {
            client,
            name: "the stand-in",
            policies: true,
            controllers: true,
            idle_nodes: true,
            _stand_in: Some(server),
            _real: None,
        };
        backend.add_nodes().await?;
        if let Some(server) = &backend._stand_in {
            // A real server has forgotten its first version by the time it serves a custom resource.
            server.cluster().compact();
        }
        Ok(backend)
    }

    pub(crate) async fn local(server: RealApiServer) -> Result<Self> {
        let controllers = server.has_controllers();
        if controllers {
            server.start_controllers()?;
        }
        let client = client(Kubeconfig::read_from(server.kubeconfig())?).await?;
        let backend = Self {
            client,
            name: "a real API server",
            policies: true,
            controllers,
            idle_nodes: controllers,
            _stand_in: None,
            _real: Some(server),
        };
        backend.add_policies().await?;
        if controllers {
            backend.add_nodes().await?;
        }
        Ok(backend)
    }

    pub(crate) async fn cluster() -> Result<Self> {
        let mut config = Config::from_kubeconfig(&KubeConfigOptions::default()).await?;
        config.default_retry = false;
        let mut backend = Self {
            client: Client::try_from(config)?,
            name: "the cluster of KUBECONFIG",
            policies: false,
            controllers: true,
            // Its kubelets would fight a case that plays one.
            idle_nodes: false,
            _stand_in: None,
            _real: None,
        };
        let policies = "/apis/laneguard.dev/v1alpha1/qospolicies?limit=1";
        backend.policies = backend.call("GET", policies, JSON, "").await?.code == 200;
        Ok(backend)
    }

    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// Whether a case can run, or why not.
    pub(crate) fn provides(&self, needs: Needs) -> Result<(), &'static str> {
        match needs {
            Needs::Policies if !self.policies => Err("no QosPolicy resource there"),
            Needs::Controllers if !self.controllers => Err("no controllers beside this API server"),
            Needs::IdleNodes if !self.idle_nodes => Err("no nodes without a kubelet of their own"),
            _ => Ok(()),
        }
    }

    async fn add_nodes(&self) -> Result<()> {
        for number in 1..=2 {
            let name = format!("idle-{number}");
            let node = json!({
                "metadata": {"name": name, "labels": {"laneguard.dev/test": "idle", "laneguard.dev/number": number.to_string()}},
                "status": {
                    "capacity": {"cpu": "64", "memory": "64Gi", "pods": "1000"},
                    "allocatable": {"cpu": "64", "memory": "64Gi", "pods": "1000"},
                    "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady", "message": ""}],
                },
            });
            self.call("POST", "/api/v1/nodes", JSON, &node.to_string())
                .await?
                .ok(201)?;
            // Admission taints new nodes until their controller has seen them ready.
            let path = format!("/api/v1/nodes/{name}");
            self.call("PATCH", &path, MERGE, r#"{"spec": {"taints": null}}"#)
                .await?
                .ok(200)?;
        }
        Ok(())
    }

    async fn add_policies(&self) -> Result<()> {
        let open = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
        let definition = json!({
            "metadata": {"name": "qospolicies.laneguard.dev"},
            "spec": {
                "group": "laneguard.dev", "scope": "Namespaced",
                "names": {"kind": "QosPolicy", "plural": "qospolicies", "singular": "qospolicy", "shortNames": ["qosp"]},
                "versions": [{"name": "v1alpha1", "served": true, "storage": true, "subresources": {"status": {}},
                    "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": open, "status": open}}}}],
            },
        });
        let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
        self.call("POST", path, JSON, &definition.to_string())
            .await?
            .ok(201)?;
        let policies = "/apis/laneguard.dev/v1alpha1/qospolicies";
        until("the QosPolicy resource is served", || async {
            Ok(self.call("GET", policies, JSON, "").await?.code == 200)
        })
        .await
    }

    async fn call(&self, method: &str, path: &str, media: &str, body: &str) -> Result<Answer> {
        send(&self.client, method, path, media, JSON, body).await
    }
}

async fn send(
    client: &Client,
    method: &str,
    path: &str,
    media: &str,
    accept: &str,
    body: &str,
) -> Result<Answer> {
    let response = request(client, method, path, media, accept, body).await?;
    let code = response.status().as_u16();
    let mut bytes = Vec::new();
    let mut data = axum::body::Body::new(response.into_body()).into_data_stream();
    while let Some(chunk) = data.try_next().await? {
        bytes.extend_from_slice(&chunk);
    }
    let body =
        serde_json::from_slice(&bytes).unwrap_or_else(|_| json!(String::from_utf8_lossy(&bytes)));
    Ok(Answer {
        request: format!("{method} {path}"),
        code,
        body,
    })
}

async fn request(
    client: &Client,
    method: &str,
    path: &str,
    media: &str,
    accept: &str,
    body: &str,
) -> Result<Response<Body>> {
    let mut request = Request::builder()
        .method(method)
        .uri(path.replace(' ', "%20"))
        .header("Accept", accept);
    if !body.is_empty() {
        request = request.header("Content-Type", media);
    }
    let request = request.body(Body::from(body.as_bytes().to_vec()))?;
    client
        .send(request)
        .await
        .with_context(|| format!("{method} {path}"))
}

/// An answer with its JSON body (text: a JSON string).
#[derive(Debug)]
pub(crate) struct Answer {
    request: String,
    pub(crate) code: u16,
    pub(crate) body: Value,
}

impl Answer {
    /// The body of an answer with this status.
    pub(crate) fn ok(self, code: u16) -> Result<Value> {
        ensure!(
            self.code == code,
            "{}: {} instead of {code}: {}",
            self.request,
            self.code,
            self.body
        );
        Ok(self.body)
    }

    /// The `Status` of a refusal with this status and reason.
    pub(crate) fn refused(self, code: u16, reason: &str) -> Result<Value> {
        let Answer {
            request,
            code: actual,
            body,
        } = self;
        ensure!(
            actual == code && body["reason"] == reason,
            "{request}: {actual} {} instead of {code} {reason}: {body}",
            body["reason"]
        );
        ensure!(
            body["kind"] == "Status" && body["status"] == "Failure" && body["code"] == code,
            "{request}: not a Status: {body}"
        );
        Ok(body)
    }
}

/// One case's access: raw requests and a namespace of its own.
pub(crate) struct Api {
    client: Client,
    namespace: String,
    others: std::sync::Mutex<Vec<String>>,
}

static NAMESPACES: AtomicU64 = AtomicU64::new(0);

impl Api {
    pub(crate) async fn new(backend: &Backend) -> Result<Self> {
        let api = Self {
            client: backend.client.clone(),
            namespace: String::new(),
            others: std::sync::Mutex::default(),
        };
        let namespace = api.another_namespace().await?;
        Ok(Self { namespace, ..api })
    }

    pub(crate) async fn another_namespace(&self) -> Result<String> {
        let number = NAMESPACES.fetch_add(1, Ordering::Relaxed);
        let name = format!("laneguard-test-{}-{number}-", std::process::id());
        let body = json!({"metadata": {"generateName": name, "labels": {"laneguard.dev/test": "conformance"}}});
        let namespace = self.post("/api/v1/namespaces", &body).await?.ok(201)?;
        let name = text(&namespace["metadata"]["name"]);
        if let Ok(mut others) = self.others.lock() {
            others.push(name.clone());
        }
        Ok(name)
    }

    pub(crate) async fn clean_up(&self) -> Result<()> {
        let names = self
            .others
            .lock()
            .map(|mut others| std::mem::take(&mut *others))
            .unwrap_or_default();
        for name in names {
            let answer = self.delete(&format!("/api/v1/namespaces/{name}")).await?;
            ensure!(
                matches!(answer.code, 200 | 202 | 404 | 409),
                "cannot delete namespace {name}: {}",
                answer.body
            );
        }
        Ok(())
    }

    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The path of a collection (`pods`) or object (`pods/a`) in the case's namespace.
    pub(crate) fn path(&self, resource: &str) -> String {
        let plural = resource.split('/').next().unwrap_or_default();
        let api = match plural {
            "deployments" | "replicasets" | "statefulsets" | "daemonsets" => "apis/apps/v1",
            "leases" => "apis/coordination.k8s.io/v1",
            "qospolicies" => "apis/laneguard.dev/v1alpha1",
            _ => "api/v1",
        };
        format!("/{api}/namespaces/{}/{resource}", self.namespace)
    }

    /// Any request, by full path.
    pub(crate) async fn call(
        &self,
        method: &str,
        path: &str,
        media: &str,
        body: &str,
    ) -> Result<Answer> {
        send(&self.client, method, path, media, JSON, body).await
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Answer> {
        self.call("GET", path, JSON, "").await
    }

    pub(crate) async fn get_as(&self, path: &str, accept: &str) -> Result<Answer> {
        send(&self.client, "GET", path, JSON, accept, "").await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Result<Answer> {
        self.call("POST", path, JSON, &body.to_string()).await
    }

    pub(crate) async fn put(&self, path: &str, body: &Value) -> Result<Answer> {
        self.call("PUT", path, JSON, &body.to_string()).await
    }

    pub(crate) async fn patch(&self, path: &str, media: &str, body: &Value) -> Result<Answer> {
        self.call("PATCH", path, media, &body.to_string()).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Result<Answer> {
        self.call("DELETE", path, JSON, "").await
    }

    pub(crate) async fn delete_with(&self, path: &str, options: &Value) -> Result<Answer> {
        self.call("DELETE", path, JSON, &options.to_string()).await
    }

    /// A new config map in the case's namespace.
    pub(crate) async fn config_map(&self, name: &str, labels: Value) -> Result<Value> {
        let body = json!({"metadata": {"name": name, "labels": labels}, "data": {"k": "v"}});
        self.post(&self.path("configmaps"), &body).await?.ok(201)
    }

    /// A new pod that no scheduler looks at.
    pub(crate) async fn pod(&self, name: &str) -> Result<Value> {
        self.post(&self.path("pods"), &pod(name)).await?.ok(201)
    }

    /// The names in a list, by full path and query.
    pub(crate) async fn names(&self, path: &str) -> Result<Vec<String>> {
        Ok(names(&self.get(path).await?.ok(200)?))
    }

    pub(crate) async fn watch(&self, path_and_query: &str) -> Result<Watch> {
        self.watch_as(path_and_query, JSON).await
    }

    pub(crate) async fn watch_as(&self, path_and_query: &str, accept: &str) -> Result<Watch> {
        let response = request(&self.client, "GET", path_and_query, JSON, accept, "").await?;
        ensure!(
            response.status() == 200,
            "GET {path_and_query}: {}",
            response.status()
        );
        let data = axum::body::Body::new(response.into_body())
            .into_data_stream()
            .map_err(std::io::Error::other);
        let lines = Box::pin(data).into_async_read().lines();
        Ok(Watch(lines.boxed()))
    }
}

/// An open watch.
pub(crate) struct Watch(BoxStream<'static, std::io::Result<String>>);

impl Watch {
    /// The next event, or `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Value>> {
        let line = tokio::time::timeout(Duration::from_secs(20), self.0.next())
            .await
            .context("no event within 20 s")?;
        Ok(match line {
            Some(line) => Some(serde_json::from_str(&line?)?),
            None => None,
        })
    }

    /// The object of the next event, which must be this one about this name. Bookmarks may come at any time.
    pub(crate) async fn expect(&mut self, event: &str, name: &str) -> Result<Value> {
        while let Some(next) = self.next().await? {
            if next["type"] == "BOOKMARK" {
                continue;
            }
            ensure!(
                next["type"] == event && next["object"]["metadata"]["name"] == name,
                "{} {} instead of {event} {name}: {next}",
                next["type"],
                next["object"]["metadata"]["name"]
            );
            return Ok(next["object"].clone());
        }
        bail!("the watch ended instead of {event} {name}");
    }
}

/// Waits until something is true.
pub(crate) async fn until<F>(what: &str, mut condition: impl FnMut() -> F) -> Result<()>
where
    F: Future<Output = Result<bool>>,
{
    let poll = async {
        while !condition().await? {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    };
    tokio::time::timeout(Duration::from_secs(45), poll)
        .await
        .with_context(|| format!("not within 45 s: {what}"))?
}

pub(crate) fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"app": name}}, "spec": {
        "schedulerName": "nobody",
        "terminationGracePeriodSeconds": 20,
        "containers": [{"name": "main", "image": "registry.example/none:1"}, {"name": "side", "image": "registry.example/none:1"}]}})
}

pub(crate) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

pub(crate) fn version(object: &Value) -> String {
    text(&object["metadata"]["resourceVersion"])
}

pub(crate) fn number(object: &Value) -> u64 {
    version(object).parse().unwrap_or(0)
}

pub(crate) fn names(list: &Value) -> Vec<String> {
    list["items"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|item| text(&item["metadata"]["name"]))
        .collect()
}
