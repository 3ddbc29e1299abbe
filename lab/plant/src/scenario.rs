//! What a run is made of: link, loads, telemetry, delays. Rates in bits per second, times in seconds unless said otherwise.

use laneguard_decider_core::policy::{Class, Critical, Law, Policy, Targets};

/// Name of the class in every plant.
pub const CLASS: &str = "bulk";
/// Wire id of the critical workload.
pub const WORKLOAD: &str = "factory_robot";

/// Hubble's default bucket bounds in milliseconds.
pub const HUBBLE_MS: &[f64] = &[
    5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1_000.0, 2_500.0, 5_000.0, 10_000.0,
];
/// Buckets that can tell 1 ms from 4 ms, in milliseconds; the lab's `fine`.
pub const FINE_MS: &[f64] = &[
    0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 12.5, 15.0, 20.0, 25.0, 35.0,
    50.0, 75.0, 100.0, 250.0, 500.0, 1_000.0, 2_500.0, 5_000.0, 10_000.0,
];

/// What best-effort pods want.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Demand {
    /// Nothing.
    None,
    /// As much as TCP gets.
    Tcp,
    /// As much as TCP gets, at most so much per pod.
    Capped(f64),
    /// So much per pod, whatever is lost.
    Udp(f64),
}

/// One phase of best-effort load.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Phase {
    /// Its length.
    pub seconds: f64,
    /// What each active pod wants.
    pub demand: Demand,
    /// How many pods are active, at most [`Scenario::pods`].
    pub active: usize,
}

/// A stretch of time in which something is added.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Span {
    /// Its start.
    pub from: f64,
    /// Its end.
    pub to: f64,
    /// How much is added.
    pub value: f64,
}

/// All that a run does.
#[derive(Clone, Debug, PartialEq)]
pub struct Scenario {
    /// What it is called.
    pub name: String,
    /// Seed of everything random in it.
    pub seed: u64,
    /// Rate of the bottleneck from each time on; the first from 0.
    pub link: Vec<(f64, f64)>,
    /// Length of the bottleneck's queue in bits.
    pub fifo_bits: f64,
    /// Round trip of best-effort without queue.
    pub rtt: f64,
    /// Best-effort pods.
    pub pods: usize,
    /// TCP flows of each.
    pub flows: usize,
    /// The loads in order.
    pub phases: Vec<Phase>,
    /// Critical requests per second, open loop.
    pub request_rate: f64,
    /// What a critical request takes of the bottleneck, bits.
    pub request_bits: f64,
    /// Latency of a critical request without queue, milliseconds.
    pub base_ms: f64,
    /// Spread of that latency: deviation of its logarithm.
    pub base_spread: f64,
    /// When the server is slow, by milliseconds.
    pub slow_server: Option<Span>,
    /// Stalls of the critical server per minute, of up to 100 ms each, that have nothing to do with the link.
    pub stalls_per_minute: f64,
    /// How often per minute the link stands still, for 20 to 50 ms, as a switch does under flow control, or a radio that repeats.
    pub pauses_per_minute: f64,
    /// Targets of the critical workload.
    pub targets: Targets,
    /// Least limit per pod.
    pub min_bps: f64,
    /// Greatest limit per pod.
    pub max_bps: f64,
    /// Limit per pod at the start.
    pub start_bps: f64,
    /// Scrape interval.
    pub scrape: f64,
    /// When in the interval latency and usage are scraped.
    pub scrape_at: (f64, f64),
    /// From a scrape to its sample's arrival at the decider: least and greatest.
    pub news_delay: (f64, f64),
    /// From a decision to the limit in the kernel: least and greatest.
    pub actuation_delay: (f64, f64),
    /// Share of scrapes and of samples that are lost.
    pub lost: f64,
    /// By how much the samples' clock is ahead of the decider's.
    pub clock_ahead: f64,
    /// Whether usage is measured.
    pub has_usage: bool,
    /// Upper bounds of the latency histogram, milliseconds.
    pub buckets: &'static [f64],
}

impl Scenario {
    /// The lab's: 200 Mbit/s with 1.5 MB, 3 pods of 4 flows, 200 requests per second, 20 s idle, 90 s load, 30 s idle, 40 s load.
    #[must_use]
    pub fn congestion(link_bps: f64, pods: usize, seed: u64) -> Self {
        let phase = |seconds, demand, active| Phase {
            seconds,
            demand,
            active,
        };
        // Where scrapes fall against the load is luck; the seed decides it.
        let mut random = crate::random::Random::new(seed);
        Self {
            name: format!("congestion {} Mbit/s, {pods} pods", link_bps / 1e6),
            seed,
            link: vec![(0.0, link_bps)],
            fifo_bits: 12e6,
            rtt: 0.001,
            pods,
            flows: 4,
            phases: vec![
                phase(20.0, Demand::None, pods),
                phase(90.0, Demand::Tcp, pods),
                phase(30.0, Demand::None, pods),
                phase(40.0, Demand::Tcp, pods),
            ],
            request_rate: 200.0,
            request_bits: 6_400.0,
            base_ms: 1.0,
            base_spread: 0.3,
            slow_server: None,
            stalls_per_minute: 0.0,
            pauses_per_minute: 0.0,
            targets: Targets {
                p95_ms: Some(10.0),
                jitter_ms: Some(5.0),
                ..Targets::default()
            },
            min_bps: 10e6_f64.min(link_bps / 20.0).max(1e6),
            max_bps: 1e9,
            start_bps: 1e9,
            scrape: 1.0,
            scrape_at: (random.unit(), random.unit()),
            news_delay: (0.1, 0.25),
            actuation_delay: (0.01, 0.05),
            lost: 0.0,
            clock_ahead: 0.0,
            has_usage: true,
            buckets: HUBBLE_MS,
        }
    }

    /// Bursts of 10 s each half minute.
    #[must_use]
    pub fn burst(seed: u64) -> Self {
        let mut scenario = Self::congestion(200e6, 3, seed);
        scenario.name = "burst".into();
        scenario.phases = std::iter::repeat_n((), 6)
            .flat_map(|()| [(20.0, Demand::None), (10.0, Demand::Tcp)])
            .map(|(seconds, demand)| Phase {
                seconds,
                demand,
                active: 3,
            })
            .collect();
        scenario
    }

    /// One pod always sends; the other two join it for 10 s each half minute: between the bursts the limit is that of one pod.
    #[must_use]
    pub fn burst_joined(seed: u64) -> Self {
        Self::joined("burst-joined", seed, |_| 20.0)
    }

    /// As [`Self::burst_joined`], but the time between bursts is random, 10 to 40 s.
    #[must_use]
    pub fn burst_random(seed: u64) -> Self {
        let mut random = crate::random::Random::new(seed ^ 0xb0);
        Self::joined("burst-random", seed, |_| random.between(10.0, 40.0))
    }

    /// As [`Self::burst_joined`], but the sixth burst does not come.
    #[must_use]
    pub fn burst_missing(seed: u64) -> Self {
        let mut scenario = Self::joined("burst-missing", seed, |_| 20.0);
        if let Some(sixth) = scenario.phases.get_mut(2 * 6 - 1) {
            sixth.active = 1;
        }
        scenario
    }

    /// Eight bursts of three pods over one that always sends.
    fn joined(name: &str, seed: u64, mut gap: impl FnMut(usize) -> f64) -> Self {
        let mut scenario = Self::congestion(200e6, 3, seed);
        scenario.name = name.into();
        scenario.phases = (0..8)
            .flat_map(|burst| [(gap(burst), 1), (10.0, 3)])
            .map(|(seconds, active)| Phase {
                seconds,
                demand: Demand::Tcp,
                active,
            })
            .collect();
        scenario
    }

    /// Best-effort always sends; each four minutes a load that nobody limits takes half the link for 30 s.
    #[must_use]
    pub fn burst_foreign(seed: u64) -> Self {
        let mut scenario = Self::congestion(200e6, 3, seed);
        scenario.name = "burst-foreign".into();
        scenario.phases = vec![Phase {
            seconds: 1_680.0,
            demand: Demand::Tcp,
            active: 3,
        }];
        scenario.link = std::iter::once((0.0, 200e6))
            .chain((0..7).flat_map(|burst| {
                let at = 180.0 + 240.0 * f64::from(burst);
                [(at, 100e6), (at + 30.0, 200e6)]
            }))
            .collect();
        scenario
    }

    /// The link loses half its rate 40 s into the load and has it back 60 s later.
    #[must_use]
    pub fn capacity_drop(seed: u64) -> Self {
        let mut scenario = Self::congestion(200e6, 3, seed);
        scenario.name = "capacity-drop".into();
        scenario.phases = vec![
            Phase {
                seconds: 10.0,
                demand: Demand::None,
                active: 3,
            },
            Phase {
                seconds: 290.0,
                demand: Demand::Tcp,
                active: 3,
            },
        ];
        scenario.link = vec![(0.0, 200e6), (50.0, 100e6), (110.0, 200e6)];
        scenario
    }

    /// The server is slow by 50 ms from 40 s to 140 s, best-effort sends a tenth of the link.
    #[must_use]
    pub fn slow_server(seed: u64) -> Self {
        let mut scenario = Self::congestion(200e6, 3, seed);
        scenario.name = "slow-server".into();
        scenario.phases = vec![
            Phase {
                seconds: 20.0,
                demand: Demand::None,
                active: 3,
            },
            Phase {
                seconds: 160.0,
                demand: Demand::Capped(30e6),
                active: 3,
            },
        ];
        scenario.slow_server = Some(Span {
            from: 40.0,
            to: 140.0,
            value: 50.0,
        });
        scenario
    }

    /// The link is far from full, and limits start low: they must climb.
    #[must_use]
    pub fn light_load(seed: u64) -> Self {
        let mut scenario = Self::congestion(1e9, 3, seed);
        scenario.name = "light-load".into();
        scenario.phases = vec![
            Phase {
                seconds: 10.0,
                demand: Demand::None,
                active: 3,
            },
            Phase {
                seconds: 170.0,
                demand: Demand::Capped(100e6),
                active: 3,
            },
        ];
        scenario.start_bps = 20e6;
        scenario
    }

    /// The congestion with limits of 100 Mbit/s at the start, as the predecessor's law was measured on the kernel network.
    #[must_use]
    pub fn from_100(seed: u64) -> Self {
        let mut scenario = Self::congestion(200e6, 3, seed);
        scenario.name = "congestion from 100 Mbit/s".into();
        scenario.start_bps = 100e6;
        scenario
    }

    /// The congestion, on machines that stall four times a minute.
    #[must_use]
    pub fn stalls(seed: u64) -> Self {
        let mut scenario = Self::congestion(200e6, 3, seed);
        scenario.name = "congestion with stalls".into();
        scenario.stalls_per_minute = 4.0;
        scenario
    }

    /// The congestion on a link that stands still six times a minute.
    #[must_use]
    pub fn pauses(seed: u64) -> Self {
        let mut scenario = Self::congestion(200e6, 3, seed);
        scenario.name = "congestion with pauses".into();
        scenario.pauses_per_minute = 6.0;
        scenario
    }

    /// Best-effort that does not heed loss: 150 Mbit/s of UDP per pod.
    #[must_use]
    pub fn udp(seed: u64) -> Self {
        let mut scenario = Self::congestion(200e6, 3, seed);
        scenario.name = "udp".into();
        for phase in &mut scenario.phases {
            if phase.demand != Demand::None {
                phase.demand = Demand::Udp(150e6);
            }
        }
        scenario
    }

    /// One pod of three has demand.
    #[must_use]
    pub fn one_of_three(seed: u64) -> Self {
        let mut scenario = Self::congestion(200e6, 3, seed);
        scenario.name = "one pod of three".into();
        for phase in &mut scenario.phases {
            phase.active = 1;
        }
        scenario
    }

    /// Length of the whole plan.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        self.phases.iter().map(|phase| phase.seconds).sum()
    }

    /// Each load phase as start and end.
    #[must_use]
    pub fn loads(&self) -> Vec<(f64, f64)> {
        let mut at = 0.0;
        let mut loads: Vec<(f64, f64)> = Vec::new();
        for phase in &self.phases {
            let end = at + phase.seconds;
            if phase.demand != Demand::None {
                loads.push((at, end));
            }
            at = end;
        }
        loads
    }

    /// Rate of the bottleneck at a time.
    #[must_use]
    pub fn link_bps(&self, at: f64) -> f64 {
        self.link
            .iter()
            .rev()
            .find(|(from, _)| *from <= at)
            .or(self.link.first())
            .map_or(1.0, |(_, bps)| *bps)
    }

    /// The policy under a law.
    #[must_use]
    pub fn policy(&self, law: Law) -> Policy {
        Policy {
            law,
            critical: vec![Critical::new(WORKLOAD, self.targets)],
            classes: vec![Class::new(CLASS, self.min_bps, self.max_bps)],
        }
    }
}
