use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use laneguard_lab_kube::{Cluster, Server};
use laneguard_tests::binary;
use laneguard_tests::broker::Broker;
use laneguard_tests::service::Service;

use crate::documents::{dashboards, documents};

/// Names of metrics in a text: what looks like one of ours. Names that end in `_` stand for all that begin so.
fn mentioned(text: &str) -> BTreeSet<String> {
    let part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.split(|c: char| !part(c))
        .filter(|word| word.starts_with("laneguard_") && word.len() > "laneguard_".len())
        // crates and their modules are no metrics
        .filter(|word| !CRATES.contains(word))
        .map(str::to_owned)
        .collect()
}

const CRATES: &[&str] = &[
    "laneguard_proto",
    "laneguard_runtime",
    "laneguard_collector",
    "laneguard_decider",
    "laneguard_decider_core",
    "laneguard_actuator",
    "laneguard_lab",
    "laneguard_lab_kube",
    "laneguard_tests",
];

/// What the services show when nothing has happened yet.
async fn exposed() -> BTreeSet<String> {
    let broker = Broker::start().await.unwrap();
    let kubernetes = Server::start(Cluster::with_instant_kubelet(Duration::from_millis(10)))
        .await
        .unwrap();
    let kubeconfig = broker.folder().join("kubeconfig");
    std::fs::write(&kubeconfig, kubernetes.kubeconfig()).unwrap();
    let environment = BTreeMap::from([
        ("NATS_URL".to_owned(), broker.nats.url()),
        ("PROMETHEUS_URL".to_owned(), "http://127.0.0.1:9".to_owned()),
        ("KUBECONFIG".to_owned(), kubeconfig.display().to_string()),
        ("TARGET_JITTER_MS".to_owned(), "5".to_owned()),
    ]);
    let mut names = BTreeSet::new();
    for name in binary::SERVICES {
        let service = Service::start(name, name, &environment, broker.folder())
            .await
            .unwrap();
        service.ready().await;
        names.extend(service.metrics().await.names());
    }
    names
}

/// Names that the code registers. A family shows no series before the first, so a page alone does not tell.
fn registered() -> BTreeSet<String> {
    let root = binary::repository();
    let mut names = BTreeSet::new();
    for folder in ["runtime", "collector", "decider", "actuator"] {
        registered_in(&root.join(folder).join("src"), &mut names);
    }
    names
}

fn registered_in(folder: &Path, names: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            registered_in(&path, names);
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let mut prefix = String::new();
        for (at, _) in text.match_indices("regist") {
            let rest = &text[at..];
            let argument = |call: &str| {
                let inside = rest.strip_prefix(call)?.trim_start();
                inside.strip_prefix('"')?.split('"').next()
            };
            if let Some(own) = argument("registry.sub_registry_with_prefix(") {
                own.clone_into(&mut prefix);
            } else if let Some(name) =
                argument("register(").or_else(|| argument("register_with_unit("))
            {
                let call = rest.split(");").next().unwrap_or_default();
                let unit = match call {
                    call if call.contains("Unit::Seconds") => "_seconds",
                    call if call.contains("Unit::Bytes") => "_bytes",
                    _ => "",
                };
                let joint = if prefix.is_empty() { "" } else { "_" };
                names.insert(format!("{prefix}{joint}{name}{unit}"));
            }
        }
    }
}

/// The name without what the format adds to a counter or a histogram.
fn base(name: &str) -> &str {
    ["_total", "_bucket", "_count", "_sum", "_info"]
        .iter()
        .find_map(|suffix| name.strip_suffix(suffix))
        .unwrap_or(name)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_in_documents_dashboards_and_alerts_is_one_that_the_services_have() {
    let (exposed, registered) = (exposed().await, registered());
    let unregistered: Vec<_> = exposed
        .iter()
        .filter(|name| !registered.contains(base(name)) && !registered.contains(*name))
        .collect();
    assert!(
        exposed.len() > 20 && unregistered.is_empty(),
        "shown but not found in the code: {unregistered:?} of {exposed:?}"
    );
    let exists = |name: &str| {
        if name.ends_with('_') {
            return registered.iter().any(|known| known.starts_with(name));
        }
        exposed.contains(name) || registered.contains(name) || registered.contains(base(name))
    };
    let mut unknown = Vec::new();
    for (path, text) in documents().into_iter().chain(dashboards()) {
        for name in mentioned(&text).iter().filter(|name| !exists(name)) {
            unknown.push(format!("{}: {name}", path.display()));
        }
    }
    assert!(unknown.is_empty(), "{}", unknown.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_has_our_prefix_and_base_units() {
    for name in exposed().await {
        assert!(name.starts_with("laneguard_"), "{name}");
        for unit in ["_ms", "_milliseconds", "_mbps", "_mbit", "_kb", "_minutes"] {
            assert!(!base(&name).ends_with(unit), "{name} is in no base unit");
        }
    }
}

#[test]
fn names_of_metrics_are_told_from_other_words() {
    let text = "rate(laneguard_bus_published_messages_total{kind=\"x\"}[1m]), crate laneguard_runtime, `laneguard_actuator_*`";
    let expected = [
        "laneguard_actuator_",
        "laneguard_bus_published_messages_total",
    ];
    assert_eq!(mentioned(text), expected.map(str::to_owned).into());
    let registered = registered();
    assert!(
        registered.contains("laneguard_bus_published_messages"),
        "{registered:?}"
    );
    assert!(
        registered.contains("laneguard_collector_poll_duration_seconds"),
        "{registered:?}"
    );
    assert!(!registered.contains("laneguard_bus_no_such"));
}
