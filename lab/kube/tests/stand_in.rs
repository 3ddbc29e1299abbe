//! What tests rely on in the stand-in beside its conformance: faults, real clients, load, and the binary.

use std::{collections::BTreeSet, pin::pin, process::Stdio, time::Duration};

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt};
use http::StatusCode;
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{
    Api, Client, Config, ResourceExt,
    api::{ListParams, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
    runtime::watcher,
};
use laneguard_lab_kube::{Cluster, Fault, Options, Server, Verb};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

/// A client that does not retry by itself.
async fn client(server: &Server) -> Result<Client> {
    let kubeconfig = Kubeconfig::from_yaml(&server.kubeconfig())?;
    let mut config =
        Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    config.default_retry = false;
    Ok(Client::try_from(config)?)
}

fn pod(name: &str) -> Pod {
    serde_json::from_value(
        json!({"metadata": {"name": name, "labels": {"priority": "best-effort"}},
        "spec": {"containers": [{"name": "main", "image": "none"}]}}),
    )
    .expect("a pod")
}

fn deployment(name: &str, replicas: usize) -> Deployment {
    serde_json::from_value(
        json!({"metadata": {"name": name}, "spec": {"replicas": replicas,
        "selector": {"matchLabels": {"app": name}},
        "template": {"metadata": {"labels": {"app": name, "priority": "best-effort"}},
            "spec": {"containers": [{"name": "main", "image": "none"}]}}}}),
    )
    .expect("a deployment")
}

fn annotate(value: &str) -> Patch<serde_json::Value> {
    Patch::Merge(json!({"metadata": {"annotations": {"kubernetes.io/egress-bandwidth": value}}}))
}

async fn until(what: &str, mut condition: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let poll = async {
        while !condition().await? {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    };
    tokio::time::timeout(Duration::from_secs(180), poll)
        .await
        .with_context(|| format!("not within 180 s: {what}"))?
}

fn code<T: std::fmt::Debug>(outcome: kube::Result<T>) -> u16 {
    match outcome {
        Err(kube::Error::Api(status)) => status.code,
        other => panic!("not an API error: {other:?}"),
    }
}

#[tokio::test]
async fn injected_faults_hit_only_what_they_match_and_are_used_up() -> Result<()> {
    let server = Server::start(Cluster::new()).await?;
    let pods: Api<Pod> = Api::namespaced(client(&server).await?, "default");
    pods.create(&PostParams::default(), &pod("a")).await?;
    let cluster = server.cluster();
    for status in [
        StatusCode::CONFLICT,
        StatusCode::UNPROCESSABLE_ENTITY,
        StatusCode::TOO_MANY_REQUESTS,
        StatusCode::INTERNAL_SERVER_ERROR,
    ] {
        cluster.inject(
            Fault::status(status)
                .on(Verb::Patch)
                .path("/pods/a")
                .retry_after(1),
        );
        pods.get("a").await?;
        let patch = pods
            .patch("a", &PatchParams::default(), &annotate("1M"))
            .await;
        ensure!(code(patch) == status.as_u16());
        pods.patch("a", &PatchParams::default(), &annotate("1M"))
            .await?;
    }
    cluster.inject(Fault::lost_reply().on(Verb::Patch));
    let patch = pods
        .patch("a", &PatchParams::default(), &annotate("7M"))
        .await;
    ensure!(code(patch) == 504);
    let written = pods.get("a").await?;
    ensure!(
        written.annotations()["kubernetes.io/egress-bandwidth"] == "7M",
        "a lost reply keeps the write"
    );
    cluster.inject(Fault::status(StatusCode::GONE).times(3));
    ensure!(code(pods.list(&ListParams::default()).await) == 410);
    ensure!(cluster.clear_faults() == 2);
    Ok(())
}

#[tokio::test]
async fn retry_after_reaches_the_client() -> Result<()> {
    let server = Server::start(Cluster::new()).await?;
    server
        .cluster()
        .inject(Fault::status(StatusCode::TOO_MANY_REQUESTS).retry_after(7));
    let request = http::Request::get("/api/v1/pods").body(kube::client::Body::empty())?;
    let response = client(&server).await?.send(request).await?;
    ensure!(response.headers()["retry-after"] == "7");
    Ok(())
}

#[tokio::test]
async fn kubes_watcher_survives_cut_watches_and_compaction() -> Result<()> {
    let server = Server::start(Cluster::new()).await?;
    let pods: Api<Pod> = Api::namespaced(client(&server).await?, "default");
    for config in [
        watcher::Config::default(),
        watcher::Config::default().streaming_lists(),
    ] {
        let mut seen = BTreeSet::new();
        let mut events = pin!(watcher(pods.clone(), config.page_size(2)));
        for round in 0..4 {
            let name = format!("p{round}-{}", server.cluster().revision());
            pods.create(&PostParams::default(), &pod(&name)).await?;
            while !seen.contains(&name) {
                let event = tokio::time::timeout(Duration::from_secs(30), events.next())
                    .await
                    .context("the watcher is silent")?
                    .context("the watcher ended")?;
                // Errors on the way are the watcher's to recover from.
                if let Ok(watcher::Event::Apply(pod) | watcher::Event::InitApply(pod)) = event {
                    seen.insert(pod.name_any());
                }
            }
            match round {
                0 => server.cluster().cut_watches(),
                1 => server.cluster().compact(),
                _ => {
                    server.cluster().compact();
                    server.cluster().cut_watches();
                }
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_stopped_server_is_unreachable_and_comes_back_with_its_state() -> Result<()> {
    let server = Server::start(Cluster::new()).await?;
    let pods: Api<Pod> = Api::namespaced(client(&server).await?, "default");
    let pod = pods.create(&PostParams::default(), &pod("a")).await?;
    let mut watch = pods
        .watch(&kube::api::WatchParams::default(), "0")
        .await?
        .boxed();
    watch.try_next().await?.context("an event")?;
    let (address, cluster) = (server.address(), server.cluster().clone());
    tokio::time::timeout(Duration::from_secs(10), server.stop())
        .await
        .context("an open watch or connection holds it up")?;
    ensure!(watch.try_next().await?.is_none(), "the watch goes on");
    ensure!(pods.get("a").await.is_err(), "it still answers");
    let _server = Server::start_on(cluster, address).await?;
    ensure!(pods.get("a").await?.uid() == pod.uid());
    Ok(())
}

#[tokio::test]
async fn a_continued_list_after_compaction_is_expired_and_offers_the_rest() -> Result<()> {
    let server = Server::start(Cluster::new()).await?;
    let client = client(&server).await?;
    let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
    for name in ["a", "b", "c"] {
        pods.create(&PostParams::default(), &pod(name)).await?;
    }
    let page = pods.list(&ListParams::default().limit(1)).await?;
    let token = page.metadata.continue_.context("a token")?;
    pods.create(&PostParams::default(), &pod("d")).await?;
    server.cluster().compact();
    let get = async |token: &str| -> Result<(u16, serde_json::Value)> {
        let path = format!("/api/v1/namespaces/default/pods?limit=5&continue={token}");
        let request = http::Request::get(path).body(kube::client::Body::empty())?;
        let response = client.send(request).await?;
        let code = response.status().as_u16();
        let body =
            axum::body::to_bytes(axum::body::Body::new(response.into_body()), 1 << 20).await?;
        Ok((code, serde_json::from_slice(&body)?))
    };
    let (code, status) = get(&token).await?;
    ensure!(code == 410 && status["reason"] == "Expired", "{status}");
    let rest = status["metadata"]["continue"]
        .as_str()
        .context("another token")?;
    let (code, list) = get(rest).await?;
    ensure!(
        code == 200 && list["items"].as_array().map(Vec::len) == Some(3),
        "{list}"
    );
    Ok(())
}

#[tokio::test]
async fn a_watcher_that_does_not_read_is_cut_off_and_holds_up_nobody() -> Result<()> {
    let cluster = Cluster::with_options(Options {
        history: 50,
        ..Options::default()
    });
    let server = Server::start(cluster).await?;
    let pods: Api<Pod> = Api::namespaced(client(&server).await?, "default");
    pods.create(&PostParams::default(), &pod("a")).await?;
    // It asks and never reads, so its socket's buffers are all it can take.
    let address = server.url().replace("http://", "");
    let mut slow = tokio::net::TcpStream::connect(&address).await?;
    slow.write_all(b"GET /api/v1/pods?watch=1 HTTP/1.1\r\nHost: x\r\n\r\n")
        .await?;
    let long = "x".repeat(200_000);
    for round in 0..150 {
        let patch =
            Patch::Merge(json!({"metadata": {"annotations": {"k": format!("{round}{long}")}}}));
        pods.patch("a", &PatchParams::default(), &patch).await?;
    }
    let read = async {
        let mut reader = BufReader::new(slow);
        let mut line = String::new();
        let mut last = String::new();
        while reader.read_line(&mut line).await? > 0 {
            if line == "0\r\n" {
                return Ok(last);
            }
            last = std::mem::take(&mut line);
        }
        Ok::<_, std::io::Error>(last)
    };
    let last = tokio::time::timeout(Duration::from_secs(30), read)
        .await
        .context("the slow watch is still open")??;
    ensure!(!last.contains(&format!("149{long}")), "it got everything");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_pods_are_patched_under_several_watchers() -> Result<()> {
    const PODS: usize = 10_000;
    let cluster = Cluster::with_instant_kubelet(Duration::ZERO);
    let server = Server::start(cluster).await?;
    let client = client(&server).await?;
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), "default");
    let started = tokio::time::Instant::now();
    deployments
        .create(&PostParams::default(), &deployment("big", PODS))
        .await?;
    until("all pods run", async || {
        let big = deployments.get("big").await?;
        Ok(big.status.and_then(|status| status.ready_replicas) == Some(PODS as i32))
    })
    .await?;
    let running = started.elapsed();
    let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
    let names: Vec<String> = pods
        .list_metadata(&ListParams::default())
        .await?
        .into_iter()
        .map(|pod| pod.name_any())
        .collect();
    ensure!(names.len() == PODS);
    let version = pods
        .list_metadata(&ListParams::default().limit(1))
        .await?
        .metadata
        .resource_version;
    let version = version.context("a version")?;
    let mut watchers = Vec::new();
    for _ in 0..4 {
        let pods = pods.clone();
        let version = version.clone();
        watchers.push(tokio::spawn(async move {
            let parameters = kube::api::WatchParams::default().labels("priority=best-effort");
            let mut events = pods.watch_metadata(&parameters, &version).await?.boxed();
            let mut seen = 0;
            while seen < PODS {
                match events.try_next().await?.context("the watch ended")? {
                    kube::core::WatchEvent::Modified(_) => seen += 1,
                    kube::core::WatchEvent::Bookmark(_) => {}
                    other => anyhow::bail!("{other:?}"),
                }
            }
            anyhow::Ok(())
        }));
    }
    let started = tokio::time::Instant::now();
    futures::stream::iter(&names)
        .map(Ok)
        .try_for_each_concurrent(16, async |name| {
            pods.patch_metadata(name, &PatchParams::default(), &annotate("10M"))
                .await
                .map(drop)
        })
        .await?;
    for watcher in watchers {
        watcher.await??;
    }
    let patched = started.elapsed();
    // Annotating pods replaced none.
    let after = pods.list_metadata(&ListParams::default()).await?;
    let after: Vec<String> = after.into_iter().map(|pod| pod.name_any()).collect();
    ensure!(after == names, "pods were replaced");
    println!(
        "{PODS} pods ran after {running:?}, were patched under 4 watchers in {patched:?}; peak memory {}",
        peak_memory()?
    );
    Ok(())
}

/// Of this process, client side included.
fn peak_memory() -> Result<String> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmHWM"));
    Ok(line
        .unwrap_or_default()
        .trim_start_matches("VmHWM:")
        .trim()
        .to_owned())
}

#[tokio::test]
async fn the_binary_serves_what_its_kubeconfig_says_and_ends_on_sigterm() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let kubeconfig = directory.path().join("kubeconfig");
    let mut child = tokio::process::Command::new(env!("CARGO_BIN_EXE_laneguard-lab-kube"))
        .arg("--write-kubeconfig")
        .arg(&kubeconfig)
        .args(["--nodes", "1", "--kubelet", "--kubelet-delay-ms", "1"])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let stdout = child.stdout.take().context("its output")?;
    let url = BufReader::new(stdout)
        .lines()
        .next_line()
        .await?
        .context("its URL")?;
    ensure!(url.starts_with("http://127.0.0.1:"), "{url}");
    let kubeconfig = Kubeconfig::read_from(&kubeconfig)?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    let client = Client::try_from(config)?;
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), "default");
    deployments
        .create(&PostParams::default(), &deployment("d", 2))
        .await?;
    until("its kubelet runs the pods", async || {
        let status = deployments.get("d").await?.status;
        Ok(status.and_then(|status| status.available_replicas) == Some(2))
    })
    .await?;
    // An open watch does not hold it up.
    let pods: Api<Pod> = Api::all(client);
    let mut watch = pods
        .watch(&kube::api::WatchParams::default(), "0")
        .await?
        .boxed();
    watch.try_next().await?.context("an event")?;
    let pid = child.id().context("its process id")?.to_string();
    ensure!(
        std::process::Command::new("kill")
            .arg(&pid)
            .status()?
            .success()
    );
    let status = tokio::time::timeout(Duration::from_secs(10), child.wait())
        .await
        .context("it is still there")??;
    ensure!(status.success(), "{status}");
    Ok(())
}
