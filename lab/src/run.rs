//! One run: everything is started, the phases pass, and the raw logs are complete.

use std::collections::{BTreeMap, VecDeque};
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use nix::sys::signal::Signal;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{ChildStdout, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::cluster::Cluster;
use crate::decisions::Decisions;
use crate::deploy;
use crate::exporter::{Exporter, cadvisor, hubble};
use crate::live::{Live, Stage};
use crate::net::{self, Network, Side};
use crate::node::{Agent, Pods, Slot};
use crate::process::{self, Process};
use crate::raw::{
    self, Footprint, Machine, PhaseKind, PhaseStart, Queue, Request, Row as _, Traffic, Writer,
};
use crate::scenario::{CRITICAL_CLIENT, CRITICAL_SERVICE, Phase, Scenario, Sender};
use crate::score::{self, Score};
use crate::servers::nats::Nats;
use crate::servers::prometheus::{Job, Prometheus};
use crate::services::{Services, Surroundings};
use crate::summary;
use crate::tools::{self, Tool};
use crate::traffic::senders::Bulk;

/// How often counters are read and parts are checked.
const TICK: Duration = Duration::from_millis(250);
/// How long after the last request's timeout the client may take to end.
const DRAIN: Duration = Duration::from_secs(5);
/// How long a critical request may take before it counts as failed.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Requests remembered for the display.
const RECENT: usize = 20_000;
const CRITICAL_PORT: u16 = 8080;
/// What makes `chrt` start something with the least real-time priority.
const REALTIME: [&str; 2] = ["--rr", "1"];

/// What to run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Load and network.
    pub scenario: Scenario,
    /// With Laneguard, or without.
    pub protected: bool,
    /// Folder of the run; it is created.
    pub folder: PathBuf,
    /// A real API server instead of the stand-in.
    pub kubeconfig: Option<PathBuf>,
    /// Folder of the services' binaries; none: beside the lab's own.
    pub binaries: Option<PathBuf>,
    /// What the display calls it.
    pub title: String,
}

/// Runs the plan and computes its score from the raw logs.
///
/// # Errors
/// When anything cannot be started or ends before its time.
pub async fn run(plan: &Plan, live: &watch::Sender<Live>) -> anyhow::Result<Score> {
    live.send_replace(Live {
        title: plan.title.clone(),
        rate_bps: plan.scenario.link.rate_bps,
        ..Live::default()
    });
    fs::create_dir_all(plan.folder.join("logs"))
        .with_context(|| format!("cannot create {}", plan.folder.display()))?;
    let folder = fs::canonicalize(&plan.folder)?;
    summary::write_json(&folder.join(summary::SCENARIO_FILE), &plan.scenario)?;

    let cluster = Cluster::open(plan.kubeconfig.as_deref(), &folder).await?;
    if cluster.is_real() {
        deploy::remove(&cluster.client)
            .await
            .context("cannot remove what an earlier run left in the cluster")?;
    }
    let result = with_cluster(plan, &folder, &cluster, live).await;
    if cluster.is_real() {
        let removed = deploy::remove(&cluster.client).await;
        return result.and_then(|score| {
            removed.context("cannot remove the lab's workloads from the cluster")?;
            Ok(score)
        });
    }
    result
}

async fn with_cluster(
    plan: &Plan,
    folder: &Path,
    cluster: &Cluster,
    live: &watch::Sender<Live>,
) -> anyhow::Result<Score> {
    let mut lab = Lab::start(plan, folder, cluster).await?;
    lab.phases(cluster, live).await?;
    live.send_modify(|live| live.stage = Stage::Finishing);
    lab.finish().await?;
    let score = summary::score(folder)?;
    summary::write_json(&folder.join(summary::SUMMARY_FILE), &score)?;
    Ok(score)
}

/// The parts of a run that are alive.
struct Lab<'a> {
    scenario: &'a Scenario,
    senders: Vec<Sender>,
    folder: PathBuf,
    network: Network,
    pods: Pods,
    agent: JoinHandle<anyhow::Result<()>>,
    server: Process,
    client: Process,
    measuring: JoinHandle<anyhow::Result<()>>,
    recent: Recent,
    bulks: VecDeque<Bulk>,
    metrics: hubble::Metrics,
    exporters: Vec<Exporter>,
    prometheus: Prometheus,
    control: Option<Control>,
}

/// Laneguard and its NATS.
struct Control {
    nats: Nats,
    services: Services,
    decisions: Decisions,
}

impl<'a> Lab<'a> {
    async fn start(plan: &'a Plan, folder: &Path, cluster: &Cluster) -> anyhow::Result<Self> {
        let scenario = &plan.scenario;
        let senders = scenario.senders();
        let logs = folder.join("logs");
        let network = Network::build(scenario.link, &scenario.endpoints(), &logs)
            .await
            .context("cannot make the network")?;
        let slots = slots(&network, &senders)?;
        let pods = Pods::default();
        let agent = Agent::new(cluster.client.clone(), slots.clone(), pods.clone(), folder)?;
        let agent = tokio::spawn(agent.run());
        deploy::create(&cluster.client, scenario).await?;
        deploy::wait_running(&cluster.client, scenario).await?;

        let server = start_server(&network, scenario, &logs).await?;
        let loads = scenario
            .phases
            .iter()
            .filter(|phase| phase.kind == PhaseKind::Load);
        let mut bulks = VecDeque::new();
        for (index, _) in (0_u16..).zip(loads) {
            bulks.push_back(Bulk::prepare(&network, &senders, index, &logs).await?);
        }
        let metrics = hubble::Metrics::new(scenario.buckets);
        let recent = Recent::default();
        let (client, output) = start_client(&network, scenario, &logs).await?;
        let measuring = tokio::spawn(measure(
            output,
            Writer::create::<Request>(folder)?,
            metrics.clone(),
            recent.clone(),
        ));
        let exporters = start_exporters(&metrics, &pods, slots).await?;
        let jobs = ["hubble", "cadvisor"].iter().zip(&exporters);
        let prometheus = Prometheus::start(
            &folder.join("prometheus"),
            Duration::from_millis(scenario.scrape_interval_ms),
            &jobs
                .map(|(name, exporter)| Job {
                    name: (*name).to_owned(),
                    target: exporter.address(),
                })
                .collect::<Vec<_>>(),
        )
        .await?;
        let control = if plan.protected {
            Some(Control::start(plan, folder, cluster, &prometheus).await?)
        } else {
            None
        };
        Ok(Self {
            scenario,
            senders,
            folder: folder.to_owned(),
            network,
            pods,
            agent,
            server,
            client,
            measuring,
            recent,
            bulks,
            metrics,
            exporters,
            prometheus,
            control,
        })
    }

    async fn phases(
        &mut self,
        cluster: &Cluster,
        live: &watch::Sender<Live>,
    ) -> anyhow::Result<()> {
        let mut recorder = Recorder::new(self)?;
        let mut phases = Writer::create::<PhaseStart>(&self.folder)?;
        recorder.tick(self, live).await?;
        let total = self.scenario.phases.len();
        for (index, phase) in self.scenario.phases.iter().enumerate() {
            let began = PhaseStart {
                unix_ns: raw::unix_ns(),
                kind: phase.kind,
            };
            phases.write([&began])?;
            live.send_modify(|live| {
                live.stage = Stage::Phase {
                    kind: phase.kind,
                    number: (index + 1, total),
                    since: Instant::now(),
                    length: Duration::from_secs(phase.seconds),
                };
            });
            self.phase(cluster, phase, &mut recorder, live).await?;
        }
        let ended = PhaseStart {
            unix_ns: raw::unix_ns(),
            kind: PhaseKind::End,
        };
        phases.write([&ended])?;
        // The counters must cover the whole last phase.
        recorder.tick(self, live).await
    }

    async fn phase(
        &mut self,
        cluster: &Cluster,
        phase: &Phase,
        recorder: &mut Recorder,
        live: &watch::Sender<Live>,
    ) -> anyhow::Result<()> {
        let length = Duration::from_secs(phase.seconds);
        let end = Instant::now() + length;
        let mut bulk = if phase.kind == PhaseKind::Load {
            self.bulks.pop_front()
        } else {
            None
        };
        if let Some(bulk) = &mut bulk {
            let logs = self.folder.join("logs");
            // Longer than the phase, so that only the lab ends it.
            let at_most = length + Duration::from_secs(60);
            bulk.begin(
                &self.network,
                &self.senders,
                self.scenario.flows,
                at_most,
                &logs,
            )?;
        }
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        while Instant::now() < end {
            tokio::select! {
                _ = ticks.tick() => {}
                () = tokio::time::sleep_until(end) => break,
            }
            self.check(cluster).await?;
            if let Some(bulk) = &mut bulk {
                bulk.check()?;
            }
            recorder.tick(self, live).await?;
        }
        if let Some(bulk) = bulk {
            bulk.end().await;
        }
        Ok(())
    }

    /// Finds out whether every part still does its work.
    async fn check(&mut self, cluster: &Cluster) -> anyhow::Result<()> {
        cluster.check()?;
        self.server.check()?;
        self.client.check()?;
        self.prometheus.process().check()?;
        anyhow::ensure!(
            self.exporters.iter().all(Exporter::is_serving),
            "an exporter ended"
        );
        if self.agent.is_finished() {
            (&mut self.agent).await??;
            anyhow::bail!("the node stand-in ended");
        }
        if self.measuring.is_finished() {
            (&mut self.measuring).await??;
            anyhow::bail!("the client closed its output");
        }
        if let Some(control) = &mut self.control {
            control.nats.process().check()?;
            control.services.check()?;
            control.decisions.check()?;
        }
        Ok(())
    }

    /// Lets the client finish, so that every request is in the log, then takes everything down.
    async fn finish(mut self) -> anyhow::Result<()> {
        self.client.signal(Signal::SIGTERM);
        let status = timeout(REQUEST_TIMEOUT + DRAIN, self.client.wait())
            .await
            .context("the client does not end")??;
        anyhow::ensure!(
            status.success(),
            "the client failed ({status}); see {}",
            self.client.log().display()
        );
        self.measuring.await??;
        if let Some(control) = self.control {
            control.services.stop().await;
        }
        self.agent.abort();
        self.server.kill().await;
        self.network.destroy().await?;
        Ok(())
    }
}

impl Control {
    async fn start(
        plan: &Plan,
        folder: &Path,
        cluster: &Cluster,
        prometheus: &Prometheus,
    ) -> anyhow::Result<Self> {
        let nats = Nats::start(&folder.join("nats")).await?;
        let decisions = Decisions::follow(&nats.url(), folder).await?;
        let surroundings = Surroundings {
            nats_url: &nats.url(),
            prometheus_url: &prometheus.url(),
            kubeconfig: &cluster.kubeconfig,
        };
        let services = Services::start(
            plan.binaries.as_deref(),
            &plan.scenario,
            surroundings,
            folder,
        )
        .await?;
        Ok(Self {
            nats,
            services,
            decisions,
        })
    }
}

/// Writes counters down and tells the display.
struct Recorder {
    traffic: Writer,
    queue: Writer,
    footprint: Writer,
    machine: Writer,
    endpoints: Vec<String>,
    sinks: Vec<String>,
    /// Bytes at all sinks, with the time of reading, for the last second.
    arrived: VecDeque<(u64, u64)>,
}

impl Recorder {
    fn new(lab: &Lab<'_>) -> anyhow::Result<Self> {
        let sinks: Vec<String> = lab
            .senders
            .iter()
            .map(|sender| sender.sink.clone())
            .collect();
        let endpoints = lab
            .senders
            .iter()
            .map(|sender| sender.endpoint.clone())
            .chain(sinks.clone())
            .chain([CRITICAL_CLIENT.to_owned(), CRITICAL_SERVICE.to_owned()]);
        Ok(Self {
            traffic: Writer::create::<Traffic>(&lab.folder)?,
            queue: Writer::create::<Queue>(&lab.folder)?,
            footprint: Writer::create::<Footprint>(&lab.folder)?,
            machine: Writer::create::<Machine>(&lab.folder)?,
            endpoints: endpoints.collect(),
            sinks,
            arrived: VecDeque::new(),
        })
    }

    async fn tick(&mut self, lab: &Lab<'_>, live: &watch::Sender<Live>) -> anyhow::Result<()> {
        let rows = self
            .endpoints
            .iter()
            .map(|endpoint| {
                let counters = lab.network.counters(endpoint)?;
                Ok(Traffic {
                    unix_ns: raw::unix_ns(),
                    endpoint: endpoint.clone(),
                    tx_bytes: counters.tx_bytes,
                    rx_bytes: counters.rx_bytes,
                })
            })
            .collect::<Result<Vec<_>, net::Error>>()?;
        self.traffic.write(&rows)?;
        let bottleneck = net::bottleneck().await?;
        let now = raw::unix_ns();
        self.queue.write([&Queue {
            unix_ns: now,
            sent_bytes: bottleneck.sent_bytes,
            drops: bottleneck.drops,
            backlog_bytes: bottleneck.backlog_bytes,
        }])?;
        lab.metrics.set_queue_drops(bottleneck.drops);
        let (busy, total) = process::machine_time()?;
        self.machine.write([&Machine {
            unix_ns: now,
            busy_ms: millis(busy),
            total_ms: millis(total),
        }])?;
        if let Some(control) = &lab.control {
            self.footprint.write(&control.services.footprints())?;
        }

        let goodput_bps = self.goodput(now, &rows);
        let (latency, failed) = lab.recent.last_second(now);
        let running = lab.pods.running();
        let limits: BTreeMap<String, Option<u64>> = lab
            .senders
            .iter()
            .filter_map(|sender| {
                let pod = running.get(&sender.endpoint)?;
                Some((sender.endpoint.clone(), pod.limit_bps))
            })
            .collect();
        let decision = lab
            .control
            .as_ref()
            .and_then(|control| control.decisions.last());
        live.send_modify(|live| {
            live.latency = latency;
            live.failed = failed;
            live.goodput_bps = goodput_bps;
            live.backlog_bytes = bottleneck.backlog_bytes;
            live.limits = limits;
            live.decision = decision;
        });
        Ok(())
    }

    fn goodput(&mut self, now: u64, rows: &[Traffic]) -> f64 {
        let total = rows
            .iter()
            .filter(|row| self.sinks.contains(&row.endpoint))
            .map(|row| row.rx_bytes)
            .sum();
        self.arrived.push_back((now, total));
        while self.arrived.len() > 2 && now - self.arrived[1].0 >= 1_000_000_000 {
            self.arrived.pop_front();
        }
        match self.arrived.front() {
            Some((then, before)) if *then < now => {
                (total - before) as f64 * 8e9 / (now - then) as f64
            }
            _ => 0.0,
        }
    }
}

/// The newest requests, for the display.
#[derive(Debug, Clone, Default)]
struct Recent(Arc<Mutex<(VecDeque<Request>, usize)>>);

impl Recent {
    fn push(&self, request: Request) {
        let mut guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (requests, failed) = &mut *guard;
        *failed += usize::from(!request.outcome.is_success());
        requests.push_back(request);
        if requests.len() > RECENT {
            requests.pop_front();
        }
    }

    /// Latency of what was answered or failed in the last second, and the failures of the whole run.
    fn last_second(&self, now: u64) -> (Option<score::Latency>, usize) {
        let mut guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (requests, failed) = &mut *guard;
        let ended = |request: &Request| request.intended_ns + request.latency_us * 1000;
        while requests
            .front()
            .is_some_and(|request| ended(request) + 1_000_000_000 < now)
        {
            requests.pop_front();
        }
        (score::window_latency(&*requests), *failed)
    }
}

/// Reads the client's measurements, which come through a pipe and so never touch the measured network.
async fn measure(
    output: ChildStdout,
    mut log: Writer,
    metrics: hubble::Metrics,
    recent: Recent,
) -> anyhow::Result<()> {
    let mut lines = BufReader::new(output).lines();
    while let Some(line) = lines.next_line().await? {
        let request = Request::parse(&line)
            .with_context(|| format!("the client wrote {line:?} instead of a measurement"))?;
        log.write([&request])?;
        metrics.observe(&request);
        recent.push(request);
    }
    Ok(())
}

fn slots(network: &Network, senders: &[Sender]) -> Result<Vec<Slot>, net::Error> {
    let critical = [(CRITICAL_CLIENT, Side::A), (CRITICAL_SERVICE, Side::B)];
    let critical = critical.map(|(name, side)| (name.to_owned(), name.to_owned(), side));
    senders
        .iter()
        .map(|sender| (sender.endpoint.clone(), sender.workload.to_owned(), Side::A))
        .chain(critical)
        .map(|(endpoint, workload, side)| {
            Ok(Slot {
                address: network.address(&endpoint)?,
                counters: network.counters_file(&endpoint)?,
                endpoint,
                workload,
                side,
            })
        })
        .collect()
}

async fn start_exporters(
    metrics: &hubble::Metrics,
    pods: &Pods,
    slots: Vec<Slot>,
) -> anyhow::Result<Vec<Exporter>> {
    let metrics = metrics.clone();
    let hubble = Exporter::start(Arc::new(move || metrics.page())).await?;
    let pods = pods.clone();
    let cadvisor =
        Exporter::start(Arc::new(move || cadvisor::page(&pods.for_cadvisor(&slots)))).await?;
    Ok(vec![hubble, cadvisor])
}

async fn start_server(
    network: &Network,
    scenario: &Scenario,
    logs: &Path,
) -> anyhow::Result<Process> {
    let mut command = critical_part(network.namespace(CRITICAL_SERVICE)?).await?;
    command
        .args(["server", "--listen", &format!("0.0.0.0:{CRITICAL_PORT}")])
        .args(["--response-bytes", &scenario.response_bytes.to_string()]);
    let name = "the critical service";
    Ok(Process::start(name, command, &logs.join("server.log"))?)
}

async fn start_client(
    network: &Network,
    scenario: &Scenario,
    logs: &Path,
) -> anyhow::Result<(Process, ChildStdout)> {
    let service = network.address(CRITICAL_SERVICE)?;
    let mut command = critical_part(network.namespace(CRITICAL_CLIENT)?).await?;
    command
        .args(["client", "--target", &format!("{service}:{CRITICAL_PORT}")])
        .args(["--rate", &scenario.requests_per_second.to_string()])
        .args(["--request-bytes", &scenario.request_bytes.to_string()])
        .args(["--timeout", &format!("{}s", REQUEST_TIMEOUT.as_secs())]);
    let name = "the critical client";
    Ok(Process::start_piped(
        name,
        command,
        &logs.join("client.log"),
    )?)
}

/// This program as one end of the critical traffic; with real-time priority where the system grants it, so that on a busy
/// machine the network is measured and not the queue for a processor. (An ordinary user does not get it.)
async fn critical_part(namespace: &Path) -> anyhow::Result<Command> {
    let program = env::current_exe().context("this program's own path is unknown")?;
    let chrt = tools::find("chrt")?;
    let granted = Command::new(&chrt.path)
        .args(REALTIME)
        .arg("true")
        .stderr(Stdio::null())
        .status()
        .await
        .is_ok_and(|status| status.success());
    if !granted {
        let tool = Tool {
            path: program,
            library_path: None,
        };
        return Ok(process::command(&tool, Some(namespace))?);
    }
    let mut command = process::command(&chrt, Some(namespace))?;
    command.args(REALTIME).arg(program);
    Ok(command)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
