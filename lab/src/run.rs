//! One run: everything is started, the phases pass, and the raw logs are complete.

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::cluster::Cluster;
use crate::decisions::Decisions;
use crate::deploy;
use crate::event::{Action, Event, Happened};
use crate::exporter::{Exporter, cadvisor, hubble};
use crate::external;
use crate::law::Law;
use crate::live::{Live, Stage};
use crate::net::{self, Network, Side};
use crate::node::{Agent, Pods, Slot};
use crate::process::Process;
use crate::raw::{self, PhaseKind, PhaseStart, Writer};
use crate::recorder::{Observed, Recorder};
use crate::scenario::{
    CRITICAL_CLIENT, CRITICAL_SERVICE, FOREIGN, FOREIGN_SINK, Phase, Scenario, Sender,
};
use crate::score::Score;
use crate::servers::nats::Nats;
use crate::servers::prometheus::{Job, Prometheus};
use crate::services::{self, Services, Surroundings};
use crate::stalls;
use crate::summary::{self, Ran};
use crate::traffic::critical::Critical;
use crate::traffic::datagrams;
use crate::traffic::senders::Bulk;

/// How often counters are read and parts are checked.
const TICK: Duration = Duration::from_millis(250);

/// What to run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Load and network.
    pub scenario: Scenario,
    /// Under which law, or without Laneguard.
    pub law: Law,
    /// Folder of the run; it is created.
    pub folder: PathBuf,
    /// A real API server instead of the stand-in.
    pub kubeconfig: Option<PathBuf>,
    /// Folder of the services' binaries; none: beside the lab's own.
    pub binaries: Option<PathBuf>,
    /// Folder of the Python decider, for [`Law::External`]; none: the repository's example.
    pub decider: Option<PathBuf>,
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
    let ran = Ran {
        law: Some(plan.law),
        scenario: plan.scenario.clone(),
    };
    summary::write_json(&folder.join(summary::SCENARIO_FILE), &ran)?;

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
    /// The pods' places: those in use first, then those that pods may move to.
    senders: Vec<Sender>,
    moved: Vec<Sender>,
    events: VecDeque<Event>,
    happened: Writer,
    /// Traffic of no pod, and what one pod sends in addition.
    streams: Streams,
    folder: PathBuf,
    network: Network,
    pods: Pods,
    agent: JoinHandle<anyhow::Result<()>>,
    critical: Critical,
    watchers: Process,
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
    /// Somebody else's decider, under the law External.
    external: Option<External>,
}

/// How somebody else's decider is started, and the running one.
struct External {
    folder: Option<PathBuf>,
    process: Option<Process>,
}

/// UDP beside the bulk; a stream ends when its process is dropped.
#[derive(Default)]
struct Streams {
    foreign: Option<Process>,
    injected: Option<Process>,
}

impl<'a> Lab<'a> {
    async fn start(plan: &'a Plan, folder: &Path, cluster: &Cluster) -> anyhow::Result<Self> {
        let scenario = &plan.scenario;
        let senders = scenario.senders();
        let logs = folder.join("logs");
        let network = Network::build(scenario.link, &scenario.endpoints(), &logs)
            .await
            .context("cannot make the network")?;
        let moved = scenario.moved_senders();
        let slots = slots(&network, &senders, &moved)?;
        let pods = Pods::default();
        let agent = Agent::new(cluster.client.clone(), slots.clone(), pods.clone(), folder)?;
        let agent = tokio::spawn(agent.run());
        deploy::create(&cluster.client, scenario).await?;
        deploy::wait_running(&cluster.client, scenario).await?;

        let loads = scenario
            .phases
            .iter()
            .filter(|phase| phase.kind == PhaseKind::Load);
        let mut bulks = VecDeque::new();
        for (index, _) in (0_u16..).zip(loads) {
            bulks.push_back(Bulk::prepare(&network, &senders, index, &logs).await?);
        }
        let metrics = hubble::Metrics::new(scenario.buckets);
        let critical = Critical::start(&network, scenario, metrics.clone(), folder).await?;
        let watchers = stalls::start(folder).await?;
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
        let control = if plan.law.is_protected() {
            Some(Control::start(plan, folder, cluster, &prometheus).await?)
        } else {
            None
        };
        Ok(Self {
            scenario,
            senders,
            moved,
            events: scenario.events.iter().copied().collect(),
            happened: Writer::create::<Happened>(folder)?,
            streams: Streams::default(),
            folder: folder.to_owned(),
            network,
            pods,
            agent,
            critical,
            watchers,
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
        let places: Vec<Sender> = self.senders.iter().chain(&self.moved).cloned().collect();
        let others = self.scenario.setup().others;
        let mut recorder = Recorder::new(&places, &others, &self.folder)?;
        let mut phases = Writer::create::<PhaseStart>(&self.folder)?;
        recorder.tick(self.observed(), live).await?;
        let start = Instant::now();
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
            self.phase(cluster, phase, start, &mut recorder, live)
                .await?;
        }
        let ended = PhaseStart {
            unix_ns: raw::unix_ns(),
            kind: PhaseKind::End,
        };
        phases.write([&ended])?;
        // The counters must cover the whole last phase.
        recorder.tick(self.observed(), live).await
    }

    /// One phase of the run that began at `start`.
    async fn phase(
        &mut self,
        cluster: &Cluster,
        phase: &Phase,
        start: Instant,
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
        let mut begun = false;
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        while Instant::now() < end {
            tokio::select! {
                _ = ticks.tick() => {}
                () = tokio::time::sleep_until(end) => break,
            }
            self.happen(cluster, start.elapsed()).await?;
            self.check(cluster).await?;
            if let Some(bulk) = &mut bulk {
                // Pods that are moving send when all have arrived.
                if !begun && self.is_placed() {
                    begun = true;
                    self.begin(bulk, phase.pods, length)?;
                }
                bulk.check()?;
            }
            recorder.tick(self.observed(), live).await?;
        }
        if let Some(bulk) = bulk {
            bulk.end().await;
        }
        Ok(())
    }

    fn begin(&self, bulk: &mut Bulk, pods: Option<u8>, length: Duration) -> anyhow::Result<()> {
        let all = self.senders.len();
        let sending = pods.map_or(all, |pods| usize::from(pods).min(all));
        bulk.begin(
            &self.network,
            &self.senders[..sending],
            self.scenario.flows,
            self.scenario.demand,
            // Longer than the phase, so that only the lab ends it.
            length + Duration::from_secs(60),
            &self.folder.join("logs"),
        )
    }

    fn is_placed(&self) -> bool {
        let running = self.pods.running();
        self.senders
            .iter()
            .all(|sender| running.contains_key(&sender.endpoint))
    }

    /// Does what is due after so much time.
    async fn happen(&mut self, cluster: &Cluster, elapsed: Duration) -> anyhow::Result<()> {
        while let Some(event) = self.events.front().copied() {
            if elapsed < Duration::from_secs(event.at_s) {
                break;
            }
            self.events.pop_front();
            self.act(cluster, event.action)
                .await
                .with_context(|| format!("the event after {} s", event.at_s))?;
            self.happened.write([&Happened {
                unix_ns: raw::unix_ns(),
                action: event.action,
            }])?;
        }
        Ok(())
    }

    async fn act(&mut self, cluster: &Cluster, action: Action) -> anyhow::Result<()> {
        let logs = self.folder.join("logs");
        match action {
            Action::Rate(rate_bps) => {
                let link = net::Link {
                    rate_bps,
                    ..self.scenario.link
                };
                net::change_bottleneck(link).await?;
            }
            Action::Foreign(bps) => {
                let ends = (FOREIGN, FOREIGN_SINK);
                self.streams.foreign = stream(&self.network, ends, bps, &logs)?;
            }
            Action::Inject(bps) => {
                let sender = self.senders.last().context("there is no best-effort pod")?;
                let ends = (sender.endpoint.as_str(), sender.sink.as_str());
                self.streams.injected = stream(&self.network, ends, bps, &logs)?;
            }
            Action::ServiceTime(microseconds) => self.critical.set_slow(microseconds > 0),
            Action::PolicyDrops(per_second) => self.metrics.set_policy_drops(per_second as f64),
            Action::Move => {
                deploy::move_best_effort(&cluster.client, self.scenario, Side::C).await?;
                std::mem::swap(&mut self.senders, &mut self.moved);
            }
            Action::KillDecider => {
                if let Some(control) = &mut self.control {
                    control.kill_decider().await;
                }
            }
            Action::RestoreDecider => {
                if let Some(control) = &mut self.control {
                    control.restore_decider(&logs)?;
                }
            }
        }
        Ok(())
    }

    /// Finds out whether every part still does its work.
    async fn check(&mut self, cluster: &Cluster) -> anyhow::Result<()> {
        cluster.check()?;
        self.critical.check().await?;
        self.watchers.check()?;
        self.prometheus.process().check()?;
        anyhow::ensure!(
            self.exporters.iter().all(Exporter::is_serving),
            "an exporter ended"
        );
        let streams = [&mut self.streams.foreign, &mut self.streams.injected];
        for stream in streams.into_iter().flatten() {
            stream.check()?;
        }
        if self.agent.is_finished() {
            (&mut self.agent).await??;
            anyhow::bail!("the node stand-in ended");
        }
        if let Some(control) = &mut self.control {
            control.nats.process().check()?;
            control.services.check()?;
            control.decisions.check()?;
            if let Some(process) = control
                .external
                .as_mut()
                .and_then(|external| external.process.as_mut())
            {
                process.check()?;
            }
        }
        Ok(())
    }

    fn observed(&self) -> Observed<'_> {
        Observed {
            network: &self.network,
            senders: &self.senders,
            pods: &self.pods,
            critical: &self.critical,
            metrics: &self.metrics,
            services: self.control.as_ref().map(|control| &control.services),
            decisions: self.control.as_ref().map(|control| &control.decisions),
        }
    }

    /// Completes the raw logs, then takes everything down.
    async fn finish(mut self) -> anyhow::Result<()> {
        self.critical.finish().await?;
        self.watchers.kill().await;
        if let Some(control) = self.control {
            control.services.stop().await;
        }
        self.agent.abort();
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
        let binaries = plan.binaries.as_deref();
        let rate_bps = plan.scenario.link.rate_bps;
        let mut settings =
            services::merged(&plan.scenario, plan.law, |name| std::env::var(name).ok());
        // Only a policy of its own says what follows when nobody decides.
        if plan.law.needs_policy() || plan.scenario.kills_decider() {
            let policy = plan.law.policy(&settings, rate_bps);
            services::apply(binaries, &policy, &nats.url(), folder).await?;
            settings.clear();
        }
        let services = Services::start(binaries, &settings, surroundings, folder).await?;
        let external = if plan.law == Law::External {
            let logs = folder.join("logs");
            let process = external::start(plan.decider.as_deref(), &nats.url(), &logs)?;
            Some(External {
                folder: plan.decider.clone(),
                process: Some(process),
            })
        } else {
            None
        };
        Ok(Self {
            nats,
            services,
            decisions,
            external,
        })
    }

    /// Kills whoever decides under the run's law.
    async fn kill_decider(&mut self) {
        match &mut self.external {
            Some(external) => {
                if let Some(mut process) = external.process.take() {
                    process.kill().await;
                }
            }
            None => self.services.kill_decider().await,
        }
    }

    fn restore_decider(&mut self, logs: &Path) -> anyhow::Result<()> {
        match &mut self.external {
            Some(external) => {
                let folder = external.folder.as_deref();
                external.process = Some(external::start(folder, &self.nats.url(), logs)?);
                Ok(())
            }
            None => self.services.restore_decider(),
        }
    }
}

/// A stream of UDP; none at rate 0.
fn stream(
    network: &Network,
    (from, sink): (&str, &str),
    bps: u64,
    logs: &Path,
) -> anyhow::Result<Option<Process>> {
    (bps > 0)
        .then(|| datagrams::start(network, from, sink, bps, logs))
        .transpose()
}

fn slots(network: &Network, senders: &[Sender], moved: &[Sender]) -> Result<Vec<Slot>, net::Error> {
    let critical = [(CRITICAL_CLIENT, Side::A), (CRITICAL_SERVICE, Side::B)];
    let critical = critical.map(|(name, side)| (name.to_owned(), name.to_owned(), side));
    senders
        .iter()
        .map(|sender| (sender, Side::A))
        .chain(moved.iter().map(|sender| (sender, Side::C)))
        .map(|(sender, side)| (sender.endpoint.clone(), sender.workload.to_owned(), side))
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
