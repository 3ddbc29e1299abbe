//! The whole system in small: real nats-server, real Prometheus with an exporter that a test controls, a Kubernetes API, and any number of
//! replicas of the real services. Everything ends with the value; when a test fails, the ends of the logs are printed.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use laneguard_lab::servers::prometheus::{Job, Prometheus};
use laneguard_proto::codec::Encoding;
use laneguard_proto::policy::Entry;
use laneguard_proto::storage::POLICIES;
use laneguard_proto::subject::{self, Kind};
use laneguard_proto::v1::{Command, Decision};
use laneguard_runtime::bus::Bus;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::broker::{Broker, Shell};
use crate::exporter::Telemetry;
use crate::kubernetes::{Kubernetes, Where};
use crate::metrics::Page;
use crate::proxy::Proxy;
use crate::record::Record;
use crate::run::{self, Finished};
use crate::service::Service;
use crate::wait::{soon, until};

/// How often Prometheus scrapes and the collector asks: faster than in production, so that tests are short.
const INTERVAL: Duration = Duration::from_millis(500);
/// Lines of each log that a failing test shows.
const TAIL: usize = 25;

/// The name of a service's binary.
fn binary(service: &str) -> String {
    format!("laneguard-{service}")
}

/// The system. See the module.
#[derive(Debug)]
pub struct World {
    /// Replicas of services by name: `collector-1`.
    services: BTreeMap<String, Service>,
    /// Everything seen so far.
    pub record: Record,
    /// The test's own connection to NATS.
    pub shell: Shell,
    /// The Kubernetes API.
    pub kubernetes: Kubernetes,
    /// What Prometheus scrapes.
    pub telemetry: Telemetry,
    broker: Option<Broker>,
    prometheus: Option<Prometheus>,
    /// Prometheus at one address, also after a restart.
    proxy: Proxy,
    settings: BTreeMap<String, String>,
    folder: TempDir,
    starts: usize,
}

impl World {
    /// Starts all but the services, which get these settings beside where to find everything.
    ///
    /// # Errors
    /// When a server does not come up.
    pub async fn start(place: &Where, settings: &[(&str, &str)]) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let broker = Broker::start().await?;
        let telemetry = Telemetry::start().await?;
        let kubernetes = Kubernetes::start(place, folder.path()).await?;
        let prometheus = scraping(folder.path(), telemetry.address()).await?;
        let proxy = Proxy::start(address_of(&prometheus)?).await?;
        let shell = broker.shell("test", Encoding::Protobuf).await?;
        soon("streams and buckets", shell.bus.ready()).await;
        let record = Record::begin(&shell.bus, kubernetes.pods_api());
        let mut all = BTreeMap::from([
            ("NATS_URL".to_owned(), broker.nats.url()),
            (
                "PROMETHEUS_URL".to_owned(),
                format!("http://{}", proxy.address()),
            ),
            (
                "KUBECONFIG".to_owned(),
                kubernetes.kubeconfig().display().to_string(),
            ),
            ("POLICY_NAMESPACE".to_owned(), kubernetes.namespace.clone()),
            ("POLL_INTERVAL".to_owned(), "500ms".to_owned()),
            ("RUST_LOG".to_owned(), "info".to_owned()),
        ]);
        all.extend(
            settings
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
        );
        Ok(Self {
            services: BTreeMap::new(),
            record,
            shell,
            kubernetes,
            telemetry,
            broker: Some(broker),
            prometheus: Some(prometheus),
            proxy,
            settings: all,
            folder,
            starts: 0,
        })
    }

    /// A connection to NATS.
    pub fn bus(&self) -> &Bus {
        &self.shell.bus
    }

    /// The server's URL.
    ///
    /// # Panics
    /// While the server is being restarted.
    pub fn nats_url(&self) -> String {
        self.broker
            .as_ref()
            .map(|broker| broker.nats.url())
            .expect("NATS is not being restarted")
    }

    /// Sets a variable for services started from now on.
    pub fn setting(&mut self, name: &str, value: &str) {
        self.settings.insert(name.to_owned(), value.to_owned());
    }

    // ---- services ----

    /// Starts a replica of `collector`, `decider` or `actuator` and waits until it is ready.
    ///
    /// # Errors
    /// When it ends instead.
    pub async fn add(&mut self, service: &str) -> anyhow::Result<String> {
        let name = self.launch(service).await?;
        self.services[&name].ready().await;
        Ok(name)
    }

    /// Starts a replica that need not become ready.
    ///
    /// # Errors
    /// When it ends before it serves its admin pages.
    pub async fn launch(&mut self, service: &str) -> anyhow::Result<String> {
        self.starts += 1;
        let name = format!("{service}-{}", self.starts);
        let binary = binary(service);
        let started = Service::start(&binary, &name, &self.settings, self.folder.path()).await?;
        self.services.insert(name.clone(), started);
        Ok(name)
    }

    /// Starts one of each.
    ///
    /// # Errors
    /// When one does not become ready.
    pub async fn add_all(&mut self) -> anyhow::Result<()> {
        for service in ["actuator", "decider", "collector"] {
            self.add(service).await?;
        }
        Ok(())
    }

    /// A replica.
    ///
    /// # Panics
    /// When there is none of this name.
    pub fn service(&mut self, name: &str) -> &mut Service {
        self.services
            .get_mut(name)
            .unwrap_or_else(|| panic!("no replica {name}"))
    }

    /// Names of the running replicas of a service.
    pub fn replicas(&mut self, service: &str) -> Vec<String> {
        let running = self.services.iter_mut().filter_map(|(name, one)| {
            let is_one = name.rsplit_once('-').is_some_and(|(s, _)| s == service);
            (is_one && one.is_running()).then(|| name.clone())
        });
        running.collect()
    }

    /// The metrics of each running replica of a service.
    pub async fn metrics(&mut self, service: &str) -> BTreeMap<String, Page> {
        let mut pages = BTreeMap::new();
        for name in self.replicas(service) {
            let page = self.services[&name].metrics().await;
            pages.insert(name, page);
        }
        pages
    }

    /// Sum of a metric over the running replicas of a service.
    pub async fn metric(&mut self, service: &str, name: &str, labels: &[(&str, &str)]) -> f64 {
        let pages = self.metrics(service).await;
        pages.values().map(|page| page.sum(name, labels)).sum()
    }

    /// Waits until a metric, summed over a service's replicas, is at least this.
    pub async fn counted(
        &mut self,
        service: &str,
        name: &str,
        labels: &[(&str, &str)],
        at_least: f64,
    ) {
        let what = format!("{service} {name}{labels:?} >= {at_least}");
        until(
            &what,
            async || self.metric(service, name, labels).await,
            |value| *value >= at_least,
        )
        .await;
    }

    /// Lines in the logs of a service's replicas, dead ones included, whose message contains this.
    pub fn logged(&self, service: &str, message: &str) -> Vec<Value> {
        let of_service = self
            .services
            .iter()
            .filter(|(name, _)| name.rsplit_once('-').is_some_and(|(s, _)| s == service));
        let lines = of_service.flat_map(|(_, one)| one.log());
        lines
            .filter(|line| {
                line["message"]
                    .as_str()
                    .is_some_and(|text| text.contains(message))
            })
            .collect()
    }

    /// Whether no replica has ended by itself.
    ///
    /// # Panics
    /// When one has.
    pub fn all_run(&mut self) {
        for (name, service) in &mut self.services {
            assert!(service.is_running(), "{name} has ended");
        }
    }

    /// Forgets a replica, killing it if it runs.
    pub async fn remove(&mut self, name: &str) {
        self.service(name).kill().await;
        self.services.remove(name);
    }

    // ---- servers ----

    /// Kills nats-server as a crash would, loses its disk if asked to, and starts it again.
    ///
    /// # Errors
    /// When it does not come back.
    pub async fn crash_nats(&mut self, lose_disk: bool) -> anyhow::Result<()> {
        let broker = self.broker.take().context("NATS is there")?;
        self.broker = Some(broker.crash(lose_disk).await?);
        Ok(())
    }

    /// Kills Prometheus; its address refuses connections.
    pub async fn kill_prometheus(&mut self) {
        self.proxy.cut();
        if let Some(mut prometheus) = self.prometheus.take() {
            prometheus.process().kill().await;
        }
    }

    /// Starts Prometheus at the same address, with nothing it knew before.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn revive_prometheus(&mut self) -> anyhow::Result<()> {
        let folder = self.folder.path();
        // it would otherwise go on with its old data
        let _ = std::fs::remove_dir_all(folder.join("data"));
        let prometheus = scraping(folder, self.telemetry.address()).await?;
        self.proxy.lead_to(address_of(&prometheus)?);
        self.prometheus = Some(prometheus);
        Ok(())
    }

    // ---- operators ----

    /// Runs `lanectl`.
    pub async fn lanectl(&self, arguments: &[&str]) -> Finished {
        let url = self.nats_url();
        run::run("lanectl", &[("NATS_URL", &url)], arguments).await
    }

    /// A whole QosPolicy object of this world's namespace.
    pub fn policy_object(&self, name: &str, spec: &Value) -> Value {
        json!({
            "apiVersion": "laneguard.dev/v1alpha1",
            "kind": "QosPolicy",
            "metadata": {"name": name, "namespace": self.kubernetes.namespace},
            "spec": spec,
        })
    }

    /// Applies a policy by `lanectl policy apply -f`, and gives its token.
    ///
    /// # Panics
    /// When `lanectl` refuses.
    pub async fn apply(&self, name: &str, spec: Value) -> String {
        let file = self.folder.path().join(format!("{name}.yaml"));
        // JSON is YAML
        std::fs::write(&file, self.policy_object(name, &spec).to_string())
            .expect("the folder can be written to");
        let path = file.display().to_string();
        let applied = self.lanectl(&["policy", "apply", "-f", &path]).await;
        applied.output();
        self.token(name)
    }

    /// The token of a policy of this world's namespace.
    pub fn token(&self, name: &str) -> String {
        format!("{}_{name}", self.kubernetes.namespace)
    }

    /// What the bucket has of a policy.
    pub async fn entry(&self, token: &str) -> Option<Entry> {
        let bucket = self.bus().bucket(POLICIES);
        let value = bucket.get(&format!("default.{token}")).await.ok()??;
        Entry::from_json(&value.bytes).ok()
    }

    // ---- messages ----

    /// The last command of a class.
    pub async fn command(&self, token: &str, class: &str) -> Option<Command> {
        let subject = subject::command("default", token, class);
        let last = self.bus().last::<Command>(Kind::Command, &subject).await;
        last.ok()?.message
    }

    /// The last decision of a policy.
    pub async fn decision(&self, token: &str) -> Option<Decision> {
        let subject = subject::decision("default", token);
        let last = self.bus().last::<Decision>(Kind::Decision, &subject).await;
        last.ok()?.message
    }

    /// Waits until every pod with this `app` label has a limit that fits, and gives them.
    pub async fn limits_fit(
        &self,
        what: &str,
        app: &str,
        fits: impl Fn(Option<&str>) -> bool,
    ) -> Vec<Option<String>> {
        until(
            what,
            async || self.kubernetes.limits(app).await,
            |limits| !limits.is_empty() && limits.iter().all(|limit| fits(limit.as_deref())),
        )
        .await
    }

    /// Waits until every pod with this `app` label has this limit.
    pub async fn limited(&self, app: &str, limit: Option<&str>) {
        let what = format!("limit {limit:?} on {app}");
        self.limits_fit(&what, app, |found| found == limit).await;
    }

    /// Ends the world in an orderly way: nothing of it is left in a cluster that outlives it.
    pub async fn finish(self) {
        self.kubernetes.clean_up().await;
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut err = std::io::stderr().lock();
            for service in self.services.values() {
                // a test's output is the best there is; if it is gone, so is the reader
                let _ = writeln!(
                    err,
                    "---- the end of {}'s log\n{}",
                    service.name(),
                    service.log_tail(TAIL)
                );
            }
        }
    }
}

async fn scraping(folder: &Path, target: SocketAddr) -> anyhow::Result<Prometheus> {
    let jobs = [Job {
        name: "hubble".to_owned(),
        target,
    }];
    Ok(Prometheus::start(folder, INTERVAL, &jobs).await?)
}

fn address_of(prometheus: &Prometheus) -> anyhow::Result<SocketAddr> {
    let url = prometheus.url();
    let address = url.strip_prefix("http://").context("an http URL")?;
    Ok(address.parse()?)
}

/// A limit in Mbit/s; what cannot be read is none.
pub fn mbps(limit: Option<&str>) -> Option<f64> {
    let text = limit?;
    let (number, factor) = match text.strip_suffix('M') {
        Some(number) => (number, 1.0),
        None => (text.strip_suffix('k')?, 1e-3),
    };
    Some(number.parse::<f64>().ok()? * factor)
}
