//! An exporter with Hubble's and cAdvisor's metrics whose values a test sets while it runs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use laneguard_lab::exporter::Exporter;
use laneguard_lab::exporter::hubble::DEFAULT_BUCKETS;
use tokio::time::Instant;

const REQUESTS_PER_SECOND: f64 = 200.0;

/// What a critical workload experiences.
#[derive(Debug, Clone, PartialEq)]
pub enum Condition {
    /// Both targets of the predecessor hold: P95 4.75 ms, jitter 2.5 ms by the default buckets.
    Healthy,
    /// Jitter and latency are far above every target: half of the requests take long.
    Congested,
    /// Jitter is fine, P95 is 12.5 ms: one request in seventeen takes longer.
    Distant,
    /// Series are there, but hardly a request.
    Quiet,
    /// The workload has no series.
    Gone,
    /// Requests per second, and which share of them takes how many milliseconds.
    Exactly(f64, Vec<(f64, f64)>),
}

impl Condition {
    fn load(&self) -> Option<(f64, Vec<(f64, f64)>)> {
        let (rate, shares): (f64, &[(f64, f64)]) = match self {
            Self::Healthy => (REQUESTS_PER_SECOND, &[(1.0, 3.0)]),
            Self::Congested => (REQUESTS_PER_SECOND, &[(0.5, 3.0), (0.5, 60.0)]),
            Self::Distant => (REQUESTS_PER_SECOND, &[(0.94, 3.0), (0.06, 20.0)]),
            Self::Quiet => (0.05, &[(1.0, 3.0)]),
            Self::Gone => return None,
            Self::Exactly(rate, shares) => (*rate, shares),
        };
        Some((rate, shares.to_vec()))
    }
}

#[derive(Debug)]
struct State {
    bounds: Vec<f64>,
    workloads: BTreeMap<String, Workload>,
    drops: Rate,
    flows: Rate,
    /// Bytes sent by namespace and pod.
    sent: BTreeMap<(String, String), Rate>,
    moved: Instant,
    scrapes: u64,
}

#[derive(Debug)]
struct Workload {
    condition: Condition,
    counts: Vec<f64>,
    sum_seconds: f64,
}

#[derive(Debug, Default, Clone, Copy)]
struct Rate {
    total: f64,
    per_second: f64,
}

impl Rate {
    fn grow(&mut self, seconds: f64) {
        self.total += self.per_second * seconds;
    }
}

impl State {
    /// Lets everything happen that happened since the last look.
    fn grow(&mut self) {
        let now = Instant::now();
        let seconds = (now - self.moved).as_secs_f64();
        self.moved = now;
        for workload in self.workloads.values_mut() {
            let Some((rate, shares)) = workload.condition.load() else {
                continue;
            };
            for (share, ms) in shares {
                let requests = rate * share * seconds;
                let duration = ms / 1000.0;
                let bucket = self.bounds.partition_point(|bound| *bound < duration);
                workload.counts[bucket] += requests;
                workload.sum_seconds += requests * duration;
            }
        }
        self.drops.grow(seconds);
        self.flows.grow(seconds);
        for rate in self.sent.values_mut() {
            rate.grow(seconds);
        }
    }

    fn page(&mut self) -> String {
        self.grow();
        self.scrapes += 1;
        let mut page = String::new();
        // Writing to a String cannot fail.
        let _ = self.write(&mut page);
        page
    }

    fn write(&self, page: &mut String) -> std::fmt::Result {
        let name = "hubble_http_request_duration_seconds";
        writeln!(page, "# TYPE {name} histogram")?;
        for (workload, state) in &self.workloads {
            if state.condition == Condition::Gone {
                continue;
            }
            let labels = format!(
                "destination_workload=\"{workload}\",method=\"POST\",reporter=\"client\",source_workload=\"robot-control\""
            );
            // a counter counts whole requests
            let mut cumulative = 0.0;
            for (bound, count) in self.bounds.iter().zip(&state.counts) {
                cumulative += count;
                writeln!(
                    page,
                    "{name}_bucket{{{labels},le=\"{bound}\"}} {}",
                    cumulative.floor()
                )?;
            }
            let count = state.counts.iter().sum::<f64>().floor();
            writeln!(page, "{name}_bucket{{{labels},le=\"+Inf\"}} {count}")?;
            writeln!(page, "{name}_sum{{{labels}}} {}", state.sum_seconds)?;
            writeln!(page, "{name}_count{{{labels}}} {count}")?;
        }
        let (drops, flows) = (self.drops.total.floor(), self.flows.total.floor());
        writeln!(page, "# TYPE hubble_drop_total counter")?;
        writeln!(
            page,
            "hubble_drop_total{{protocol=\"TCP\",reason=\"POLICY_DENIED\"}} {drops}"
        )?;
        writeln!(page, "# TYPE hubble_flows_processed_total counter")?;
        writeln!(
            page,
            "hubble_flows_processed_total{{protocol=\"TCP\",type=\"Trace\",verdict=\"FORWARDED\"}} {flows}"
        )?;
        let name = "container_network_transmit_bytes_total";
        writeln!(page, "# TYPE {name} counter")?;
        for ((namespace, pod), sent) in &self.sent {
            let sent = sent.total.floor();
            writeln!(
                page,
                "{name}{{interface=\"eth0\",namespace=\"{namespace}\",pod=\"{pod}\"}} {sent}"
            )?;
        }
        Ok(())
    }
}

/// The exporter. Serves until it is dropped.
#[derive(Debug)]
pub struct Telemetry {
    state: Arc<Mutex<State>>,
    exporter: Exporter,
}

impl Telemetry {
    /// Serves Hubble's default buckets, the predecessor's baseline of drops and flows, and no workload yet.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn start() -> anyhow::Result<Self> {
        Self::with_buckets(DEFAULT_BUCKETS).await
    }

    /// The same with these buckets, upper bounds in seconds.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn with_buckets(bounds: &[f64]) -> anyhow::Result<Self> {
        let rate = |per_second| Rate {
            total: 0.0,
            per_second,
        };
        let state = Arc::new(Mutex::new(State {
            bounds: bounds.to_vec(),
            workloads: BTreeMap::new(),
            drops: rate(30.0),
            flows: rate(325.0),
            sent: BTreeMap::new(),
            moved: Instant::now(),
            scrapes: 0,
        }));
        let scraped = Arc::clone(&state);
        let page = move || {
            scraped
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .page()
        };
        let exporter = Exporter::start(Arc::new(page)).await?;
        Ok(Self { state, exporter })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.exporter.address()
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // what held until now is counted before it changes
        state.grow();
        change(&mut state);
    }

    /// From now on a workload (as Hubble names it) experiences this.
    pub fn set(&self, workload: &str, condition: Condition) {
        self.change(|state| {
            let buckets = state.bounds.len() + 1;
            let workload = state
                .workloads
                .entry(workload.to_owned())
                .or_insert_with(|| Workload {
                    condition: Condition::Gone,
                    counts: vec![0.0; buckets],
                    sum_seconds: 0.0,
                });
            workload.condition = condition;
        });
    }

    /// From now on so many packets are dropped per second.
    pub fn drops(&self, per_second: f64) {
        self.change(|state| state.drops.per_second = per_second);
    }

    /// From now on a pod sends so many bits per second.
    pub fn sends(&self, namespace: &str, pod: &str, bps: f64) {
        self.change(|state| {
            let pod = (namespace.to_owned(), pod.to_owned());
            state.sent.entry(pod).or_default().per_second = bps / 8.0;
        });
    }

    /// How often it was scraped.
    pub fn scrapes(&self) -> u64 {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .scrapes
    }
}
