//! What a run does: the link, the loads, the phases, and what happens meanwhile. Plans have names ([`Name`]); every number can be changed by
//! a flag.

mod plans;

pub use plans::missing_burst_at;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::event::{Action, Event};
use crate::net::{Link, Side};
use crate::raw::PhaseKind;
use crate::score::Setup;

/// Namespace of everything the lab deploys.
pub const NAMESPACE: &str = "factory";
/// The critical service and its workload.
pub const CRITICAL_SERVICE: &str = "robot-factory";
/// The workload that sends the critical requests.
pub const CRITICAL_CLIENT: &str = "robot-control";
/// The best-effort workloads; more pods than these are spread over them as replicas.
pub const BEST_EFFORT: [&str; 3] = ["telemetry-upload", "erp-dashboard", "background-traffic"];
/// Endpoint of traffic that belongs to no pod.
pub const FOREIGN: &str = "foreign";
/// Where that traffic goes.
pub const FOREIGN_SINK: &str = "sink-foreign";

/// The named scenarios.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Name {
    /// 20 s idle, 90 s load, 30 s idle, 40 s load: what targets are measured on.
    Congestion,
    /// 8 s idle, 45 s load, 4 s idle: short enough to watch twice.
    Demo,
    /// Eight bursts of 10 s, one every 30 s
    Burst,
    /// Eight bursts of random length after random pauses (--seed)
    BurstRandom,
    /// One pod always sends; eight times, every 30 s, the others join it for 10 s
    BurstJoined,
    /// The same six times, but the seventh burst does not come
    BurstJoinedMissing,
    /// Best-effort always sends; six times, every 30 s, foreign traffic takes 60 % of the link for 10 s
    BurstForeign,
    /// The same, but the sixth burst does not come
    BurstMissing,
    /// The link loses half its rate for 50 s
    CapacityDrop,
    /// Best-effort sends more than the link carries in UDP, which heeds no loss
    Udp,
    /// The critical service becomes slow by itself while best-effort takes less than half the link
    SlowServer,
    /// Limits start low and the link is far from full: they must climb
    LightLoad,
    /// One best-effort pod begins to send 2.5 times the link's rate in UDP
    Injection,
    /// The best-effort pods move to another node behind the same link
    Failover,
    /// Ten times the drops by policy, without any congestion
    PolicyDrops,
}

/// What each best-effort pod wants to send in a load phase.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Demand {
    /// As much as TCP gets.
    #[default]
    Tcp,
    /// As much as TCP gets, at most so many bits per second.
    Paced(u64),
    /// So many bits per second of UDP, whatever is lost.
    Udp(u64),
}

/// Histogram buckets of the HTTP exporter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Buckets {
    /// Hubble's: 5, 10, 25, 50, 100, 250, 500 ms, 1, 2.5, 5, 10 s.
    Default,
    /// Finer ones below 50 ms, as a source could have that was set up for it.
    Fine,
}

/// One phase of the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Phase {
    /// What best-effort does.
    pub kind: PhaseKind,
    /// For how long, in seconds.
    pub seconds: u64,
    /// How many of the best-effort pods send in it; unset: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pods: Option<u8>,
}

/// The plan of a run as text: `idle:20,load:90`, and `load:20/1` where only one pod sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Phases(pub Vec<Phase>);

impl FromStr for Phases {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let phase = |part: &str| {
            let (word, seconds) = part.split_once(':').ok_or_else(|| {
                format!(
                    "{part:?} is not of the form idle:SECONDS, load:SECONDS or load:SECONDS/PODS"
                )
            })?;
            let (seconds, pods) = match seconds.split_once('/') {
                Some((seconds, pods)) => match pods.parse() {
                    Ok(pods @ 1..) => (seconds, Some(pods)),
                    _ => return Err(format!("{pods:?} is not a number of pods from 1 to 255")),
                },
                None => (seconds, None),
            };
            let kind = match word {
                "idle" => PhaseKind::Idle,
                "load" => PhaseKind::Load,
                _ => return Err(format!("{word:?} is neither idle nor load")),
            };
            match seconds.parse() {
                Ok(seconds @ 1..=86_400) => Ok(Phase {
                    kind,
                    seconds,
                    pods,
                }),
                _ => Err(format!(
                    "{seconds:?} is not a number of seconds from 1 to 86400"
                )),
            }
        };
        let phases = text.split(',').map(phase).collect::<Result<Vec<_>, _>>()?;
        if phases.iter().any(|phase| phase.kind == PhaseKind::Load) {
            Ok(Self(phases))
        } else {
            Err("there is no load phase".to_owned())
        }
    }
}

impl fmt::Display for Phases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, phase) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{}:{}", phase.kind.word(), phase.seconds)?;
            if let Some(pods) = phase.pods {
                write!(f, "/{pods}")?;
            }
        }
        Ok(())
    }
}

/// Flags that shape a scenario.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Scenario")]
pub struct ScenarioArgs {
    /// Phases in order, each with its length in seconds, such as idle:20,load:90 [default: the scenario's]
    #[arg(long, env = "LANEGUARD_LAB_PHASES", value_name = "PLAN")]
    pub phases: Option<Phases>,
    /// Rate of the bottleneck in Mbit/s
    #[arg(long, env = "LANEGUARD_LAB_RATE_MBIT", value_name = "MBIT", default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub rate_mbit: u64,
    /// Length of the bottleneck's FIFO in bytes
    #[arg(long, env = "LANEGUARD_LAB_FIFO_BYTES", value_name = "BYTES", default_value_t = 1_500_000, value_parser = clap::value_parser!(u64).range(65_536..))]
    pub fifo_bytes: u64,
    /// Best-effort pods
    #[arg(long, env = "LANEGUARD_LAB_PODS", value_name = "COUNT", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=60))]
    pub pods: u8,
    /// TCP flows of each best-effort pod (cubic)
    #[arg(long, env = "LANEGUARD_LAB_FLOWS", value_name = "COUNT", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub flows: u8,
    /// Critical requests per second, in an open loop
    #[arg(long, env = "LANEGUARD_LAB_REQUESTS_PER_SECOND", value_name = "COUNT", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=5_000))]
    pub requests_per_second: u32,
    /// Length of a critical request's body in bytes
    #[arg(long, env = "LANEGUARD_LAB_REQUEST_BYTES", value_name = "BYTES", default_value_t = 512, value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    pub request_bytes: u32,
    /// Length of a critical response's body in bytes
    #[arg(long, env = "LANEGUARD_LAB_RESPONSE_BYTES", value_name = "BYTES", default_value_t = 512, value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    pub response_bytes: u32,
    /// Prometheus' scrape interval, such as 1s
    #[arg(long, env = "LANEGUARD_LAB_SCRAPE_INTERVAL", value_name = "DURATION", default_value = "1s", value_parser = humantime::parse_duration)]
    pub scrape_interval: Duration,
    /// Histogram buckets of the HTTP exporter
    #[arg(long, env = "LANEGUARD_LAB_BUCKETS", value_enum, default_value_t = Buckets::Default)]
    pub buckets: Buckets,
    /// Seed of what is random in a scenario
    #[arg(
        long,
        env = "LANEGUARD_LAB_SEED",
        value_name = "NUMBER",
        default_value_t = 1
    )]
    pub seed: u64,
    /// Kill the decider (under --law External the one in Python) after so many seconds [default: never]
    #[arg(long, env = "LANEGUARD_LAB_KILL_DECIDER_AT", value_name = "SECONDS")]
    pub kill_decider_at: Option<u64>,
    /// Start the decider again after so many seconds [default: never]
    #[arg(
        long,
        env = "LANEGUARD_LAB_RESTORE_DECIDER_AT",
        value_name = "SECONDS",
        requires = "kill_decider_at"
    )]
    pub restore_decider_at: Option<u64>,
}

/// All that a run does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scenario {
    /// Which plan it started from.
    pub name: Name,
    /// Its phases.
    pub phases: Vec<Phase>,
    /// The bottleneck.
    pub link: Link,
    /// Best-effort pods.
    pub pods: u8,
    /// TCP flows of each.
    pub flows: u8,
    /// Critical requests per second.
    pub requests_per_second: u32,
    /// Body of a critical request in bytes.
    pub request_bytes: u32,
    /// Body of a critical response in bytes.
    pub response_bytes: u32,
    /// Prometheus' scrape interval in milliseconds.
    pub scrape_interval_ms: u64,
    /// Buckets of the HTTP exporter.
    pub buckets: Buckets,
    /// What each best-effort pod wants in load phases.
    #[serde(default)]
    pub demand: Demand,
    /// What happens meanwhile, in order of time.
    #[serde(default)]
    pub events: Vec<Event>,
    /// The limit that the pods' owner set on each of them before Laneguard came, in bits per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_limit_bps: Option<u64>,
}

/// Where one best-effort pod runs and where its traffic goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sender {
    /// Its Deployment.
    pub workload: &'static str,
    /// Endpoint on node A.
    pub endpoint: String,
    /// Endpoint on node B.
    pub sink: String,
}

impl Scenario {
    /// The named scenario with what the flags change.
    #[must_use]
    pub fn new(name: Name, args: &ScenarioArgs) -> Self {
        let rate_bps = args.rate_mbit * 1_000_000;
        let planned = plans::planned(name, rate_bps, args.pods, args.seed);
        let mut events = planned.events;
        events.extend(args.kill_decider_at.map(|at_s| Event {
            at_s,
            action: Action::KillDecider,
        }));
        events.extend(args.restore_decider_at.map(|at_s| Event {
            at_s,
            action: Action::RestoreDecider,
        }));
        events.sort_by_key(|event| event.at_s);
        Self {
            name,
            phases: args
                .phases
                .clone()
                .map_or(planned.phases, |phases| phases.0),
            link: Link {
                rate_bps,
                fifo_bytes: args.fifo_bytes,
            },
            pods: args.pods,
            flows: args.flows,
            requests_per_second: args.requests_per_second,
            request_bytes: args.request_bytes,
            response_bytes: args.response_bytes,
            scrape_interval_ms: u64::try_from(args.scrape_interval.as_millis()).unwrap_or(u64::MAX),
            buckets: args.buckets,
            demand: planned.demand,
            events,
            start_limit_bps: planned.start_limit_bps,
        }
    }

    /// The best-effort pods in order.
    #[must_use]
    pub fn senders(&self) -> Vec<Sender> {
        (0..usize::from(self.pods))
            .map(|index| {
                let workload = BEST_EFFORT[index % BEST_EFFORT.len()];
                let replica = index / BEST_EFFORT.len();
                Sender {
                    workload,
                    endpoint: format!("{workload}-{replica}"),
                    sink: format!("sink-{workload}-{replica}"),
                }
            })
            .collect()
    }

    /// The same pods after they have moved to the other node behind the bottleneck; none in a scenario where they stay.
    #[must_use]
    pub fn moved_senders(&self) -> Vec<Sender> {
        if !self.moves() {
            return Vec::new();
        }
        let moved = |sender: Sender| Sender {
            endpoint: format!("{}-moved", sender.endpoint),
            ..sender
        };
        self.senders().into_iter().map(moved).collect()
    }

    /// Whether the pods move.
    #[must_use]
    pub fn moves(&self) -> bool {
        self.events.iter().any(|event| event.action == Action::Move)
    }

    /// Whether traffic comes that belongs to no pod.
    #[must_use]
    pub fn has_foreign(&self) -> bool {
        let foreign = |event: &Event| matches!(event.action, Action::Foreign(_));
        self.events.iter().any(foreign)
    }

    /// Whether the decider is killed.
    #[must_use]
    pub fn kills_decider(&self) -> bool {
        let kill = |event: &Event| event.action == Action::KillDecider;
        self.events.iter().any(kill)
    }

    /// All endpoints of the network and the node each is on.
    #[must_use]
    pub fn endpoints(&self) -> Vec<(String, Side)> {
        let mut endpoints = vec![
            (CRITICAL_CLIENT.to_owned(), Side::A),
            (CRITICAL_SERVICE.to_owned(), Side::B),
        ];
        for sender in self.senders() {
            endpoints.push((sender.endpoint, Side::A));
            endpoints.push((sender.sink, Side::B));
        }
        for sender in self.moved_senders() {
            endpoints.push((sender.endpoint, Side::C));
        }
        if self.has_foreign() {
            endpoints.push((FOREIGN.to_owned(), Side::A));
            endpoints.push((FOREIGN_SINK.to_owned(), Side::B));
        }
        endpoints
    }

    /// Length of the whole plan in seconds.
    #[must_use]
    pub fn seconds(&self) -> u64 {
        self.phases.iter().map(|phase| phase.seconds).sum()
    }

    /// What the score needs to know.
    #[must_use]
    pub fn setup(&self) -> Setup {
        Setup {
            rate_bps: self.link.rate_bps,
            sinks: self
                .senders()
                .into_iter()
                .map(|sender| sender.sink)
                .collect(),
            critical_client: CRITICAL_CLIENT.to_owned(),
            others: if self.has_foreign() {
                vec![FOREIGN_SINK.to_owned()]
            } else {
                Vec::new()
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_read_back_as_they_print() {
        let text = "idle:20,load:90,idle:30,load:40";
        assert_eq!(text.parse::<Phases>().unwrap().to_string(), text);
    }

    #[test]
    fn a_plan_needs_words_it_knows_seconds_and_a_load() {
        for text in ["", "load", "load:0", "load:x", "rest:5,load:5", "idle:5"] {
            assert!(text.parse::<Phases>().is_err(), "{text:?}");
        }
    }

    #[derive(clap::Parser)]
    struct Command {
        #[command(flatten)]
        args: ScenarioArgs,
    }

    fn scenario(name: Name, line: &[&str]) -> Scenario {
        let line = ["lab"].iter().chain(line);
        Scenario::new(name, &<Command as clap::Parser>::parse_from(line).args)
    }

    #[test]
    fn more_pods_than_workloads_become_replicas() {
        let scenario = scenario(Name::Congestion, &["--pods", "4"]);
        let senders = scenario.senders();
        assert_eq!(senders[3].endpoint, "telemetry-upload-1");
        assert_eq!(senders[3].workload, "telemetry-upload");
        assert_eq!(scenario.endpoints().len(), 10);
        assert_eq!(scenario.seconds(), 180);
    }

    #[test]
    fn pods_that_move_have_a_place_on_both_nodes_and_one_sink() {
        let scenario = scenario(Name::Failover, &[]);
        let (here, there) = (scenario.senders(), scenario.moved_senders());
        assert_eq!(here[0].sink, there[0].sink);
        let place = (there[0].endpoint.clone(), Side::C);
        assert!(scenario.endpoints().contains(&place));
        assert!(self::scenario(Name::Udp, &[]).moved_senders().is_empty());
    }

    #[test]
    fn the_deciders_death_is_an_event_of_any_scenario() {
        let flags = ["--kill-decider-at", "60", "--restore-decider-at", "100"];
        let scenario = scenario(Name::CapacityDrop, &flags);
        let times: Vec<u64> = scenario.events.iter().map(|event| event.at_s).collect();
        assert_eq!(times, [50, 60, 100, 100]);
        assert!(scenario.kills_decider());
    }

    #[test]
    fn a_scenario_written_before_there_were_events_can_be_read() {
        let mut value = serde_json::to_value(scenario(Name::Congestion, &[])).unwrap();
        let fields = value.as_object_mut().unwrap();
        fields.remove("demand");
        fields.remove("events");
        let read: Scenario = serde_json::from_value(value).unwrap();
        assert_eq!(read, scenario(Name::Congestion, &[]));
    }
}
