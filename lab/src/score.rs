//! The score of a run, recomputed from its raw logs alone. Pure: rows in, numbers out.
//!
//! A window is one second by the intended send time of its requests. It is *violating* when the P95 of their latency is above
//! 10 ms or its interquartile range above 5 ms; a failed request counts as 10 s, and a second without any
//! request is violating, for nothing shows that it was good. Quantiles interpolate linearly between order statistics.
//! Goodput is what arrived at the sinks, in Ethernet frames as the bottleneck counts them, as share of the
//! link's rate, as it was at each moment, minus what critical and foreign traffic used of it. [`series`] has the same windows one by one,
//! for pictures.

pub mod series;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::event::{Action, Happened};
use crate::raw::{
    Footprint, Machine, PhaseKind, PhaseStart, PodAction, PodEvent, Request, Stall, Traffic,
};

/// Above this P95 in milliseconds a window is violating.
pub const P95_LIMIT_MS: f64 = 10.0;
/// Above this interquartile range in milliseconds a window is violating.
pub const JITTER_LIMIT_MS: f64 = 5.0;
/// What a failed request counts for, in milliseconds.
const FAILED_MS: f64 = 10_000.0;
/// A processor that stands still for so long, in milliseconds, is told: the emulated link stands still with it.
pub const STILL_MS: f64 = 10.0;
/// Good windows in a row that make the critical traffic protected.
const STREAK: usize = 5;
/// Goodput in percent of what the critical traffic left from which best-effort has recovered.
pub const RECOVERED_PERCENT: f64 = 90.0;
const SECOND_NS: u64 = 1_000_000_000;

/// What the score needs to know beside the raw logs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Setup {
    /// Rate of the bottleneck in bits per second.
    pub rate_bps: u64,
    /// Endpoints that best-effort traffic arrives at.
    pub sinks: Vec<String>,
    /// Endpoint that the critical requests come from.
    pub critical_client: String,
    /// Endpoints that traffic of nobody's pod arrives at; it leaves less to best-effort.
    #[serde(default)]
    pub others: Vec<String>,
}

/// The raw logs that count.
#[derive(Debug, Clone, Default)]
pub struct Raw {
    /// All critical requests.
    pub requests: Vec<Request>,
    /// All phases in order of time, with the end.
    pub phases: Vec<PhaseStart>,
    /// Byte counters in order of time.
    pub traffic: Vec<Traffic>,
    /// What happened to pods, in order of time.
    pub pods: Vec<PodEvent>,
    /// What the services used, in order of time.
    pub footprints: Vec<Footprint>,
    /// What the whole machine did, in order of time.
    pub machine: Vec<Machine>,
    /// What happened beside the phases, in order of time.
    pub events: Vec<Happened>,
    /// When processors stood still, in order of time; empty for runs of older labs.
    pub stalls: Vec<Stall>,
}

/// How often a processor stood still for [`STILL_MS`] or more, from the first onset on.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Stalls {
    /// How often.
    pub count: usize,
    /// The longest, in milliseconds.
    pub longest_ms: f64,
    /// Violating windows with such a moment in them or in the second before.
    pub violating: usize,
}

impl fmt::Display for Stalls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.count {
            0 => f.write_str("never"),
            1 => write!(f, "once, {:.0} ms", self.longest_ms),
            count => write!(f, "{count} times, {:.0} ms at most", self.longest_ms),
        }
    }
}

/// The numbers of one run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// Windows after the first onset of load.
    pub windows: usize,
    /// How many of them are violating.
    pub violating: usize,
    /// The same as share in percent.
    pub violating_percent: f64,
    /// Latency of all requests in load phases.
    pub latency: Latency,
    /// Critical requests of the whole run.
    pub requests: usize,
    /// How many of them failed.
    pub failed: usize,
    /// Each load phase by itself.
    pub loads: Vec<Load>,
    /// Goodput over all load phases in percent of what the critical traffic left.
    pub goodput_percent: f64,
    /// Jain's index of the sinks' goodput over all load phases: 1 when all get the same, 1/n when one gets everything; absent when
    /// nothing arrived (Jain, Chiu, Hawe: A Quantitative Measure of Fairness, DEC-TR-301, 1984).
    #[serde(default)]
    pub fairness: Option<f64>,
    /// Changes of a pod's limit per minute of load, for the pod with most.
    pub limit_changes_per_minute: f64,
    /// The same, counted only from the moment the critical traffic was protected in each load phase.
    pub steady_limit_changes_per_minute: f64,
    /// Pods that were replaced by others during the run.
    pub pods_restarted: usize,
    /// How busy the whole machine was on average during the load, in percent. Above some 80 the processors, not the
    /// network, make requests late.
    pub machine_busy_percent: f64,
    /// When the machine disturbed the measurement; absent for runs of older labs and where no processor was ever late.
    #[serde(default)]
    pub stalls: Option<Stalls>,
    /// What each service used; empty without Laneguard.
    pub services: BTreeMap<String, Service>,
}

/// What one service used between its first and last reading.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Service {
    /// Processor time in percent of one core.
    pub cpu_percent: f64,
    /// Greatest resident memory in MiB.
    pub most_rss_mib: f64,
}

/// Quantiles of latency in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Half are below.
    pub p50_ms: f64,
    /// 95 % are below.
    pub p95_ms: f64,
    /// 99 % are below.
    pub p99_ms: f64,
    /// The slowest.
    pub max_ms: f64,
    /// Interquartile range.
    pub jitter_ms: f64,
}

/// One load phase.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Load {
    /// Its length in seconds.
    pub seconds: f64,
    /// Whole windows in it.
    pub windows: usize,
    /// How many of them are violating.
    pub violating: usize,
    /// From its start to the first of five good windows in a row, in seconds; absent when that never came. Violations after that are
    /// in `violating`.
    pub protected_after_s: Option<f64>,
    /// From its start to the first of five seconds in a row that are good windows with a goodput of at least
    /// [`RECOVERED_PERCENT`], in seconds: both sides have what they need. Absent when that never came.
    #[serde(default)]
    pub recovered_after_s: Option<f64>,
    /// What arrived at the sinks, in bits per second.
    pub goodput_bps: f64,
    /// What the critical traffic used of the bottleneck, in bits per second.
    pub critical_bps: f64,
    /// What was left to best-effort, in bits per second: the rate minus critical and foreign traffic.
    #[serde(default)]
    pub room_bps: f64,
    /// Goodput in percent of that.
    pub goodput_percent: f64,
}

/// The raw logs do not contain what a score needs.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// There is no complete load phase.
    #[error("the run has no load phase that ended")]
    NoLoad,
    /// An endpoint's counters do not cover a load phase.
    #[error("the byte counters of {0} do not cover the load phases")]
    NoTraffic(String),
}

/// Computes the score of a run.
///
/// # Errors
/// When the run was too short for one.
pub fn score(setup: &Setup, raw: &Raw) -> Result<Score, Error> {
    let spans: Vec<(u64, u64)> = raw
        .phases
        .windows(2)
        .filter(|pair| pair[0].kind == PhaseKind::Load)
        .map(|pair| (pair[0].unix_ns, pair[1].unix_ns))
        .collect();
    let (Some((onset, _)), Some(end)) = (spans.first(), raw.phases.last()) else {
        return Err(Error::NoLoad);
    };

    let windows = windows(&raw.requests, *onset, end.unix_ns);
    let violating = violating(&windows);
    let loads = spans
        .iter()
        .map(|(start, end)| load(setup, raw, *start, *end))
        .collect::<Result<Vec<_>, _>>()?;
    let under_load = raw.requests.iter().filter(|request| {
        spans
            .iter()
            .any(|(start, end)| (*start..*end).contains(&request.intended_ns))
    });
    let steady: Vec<(u64, u64)> = spans
        .iter()
        .zip(&loads)
        .filter_map(|((start, end), load)| {
            let after = load.protected_after_s?;
            Some((start + (after * SECOND_NS as f64) as u64, *end))
        })
        .collect();
    let carried: f64 = loads
        .iter()
        .map(|load| load.goodput_bps * load.seconds)
        .sum();
    let room: f64 = loads.iter().map(|load| load.room_bps * load.seconds).sum();
    Ok(Score {
        windows: windows.len(),
        violating,
        violating_percent: percent(violating as f64, windows.len() as f64),
        latency: latency(&sorted_ms(under_load)).ok_or(Error::NoLoad)?,
        requests: raw.requests.len(),
        failed: raw
            .requests
            .iter()
            .filter(|request| !request.outcome.is_success())
            .count(),
        goodput_percent: percent(carried, room),
        fairness: jain(&carried_by_sink(setup, raw, &spans)?),
        limit_changes_per_minute: changes_per_minute(&raw.pods, &spans),
        steady_limit_changes_per_minute: changes_per_minute(&raw.pods, &steady),
        pods_restarted: restarted(&raw.pods),
        machine_busy_percent: machine_busy(&raw.machine, &spans),
        stalls: stalls(&raw.stalls, &windows, *onset, end.unix_ns),
        services: services(&raw.footprints),
        loads,
    })
}

/// P95 and jitter of one window's requests, for a display while the run goes on; absent without requests.
#[must_use]
pub fn window_latency<'a>(requests: impl IntoIterator<Item = &'a Request>) -> Option<Latency> {
    latency(&sorted_ms(requests))
}

/// The numbers of any span of time.
pub(crate) fn load(setup: &Setup, raw: &Raw, start: u64, end: u64) -> Result<Load, Error> {
    let seconds = (end - start) as f64 / SECOND_NS as f64;
    let windows = windows(&raw.requests, start, end);
    let sinks = setup
        .sinks
        .iter()
        .map(|sink| Counter::of(raw, sink, |row| row.rx_bytes))
        .collect::<Vec<_>>();
    let mut goodput_bps = 0.0;
    for sink in &sinks {
        goodput_bps += sink.bits(start, end)? / seconds;
    }
    let critical = Counter::of(raw, &setup.critical_client, |row| row.tx_bytes);
    let critical_bps = critical.bits(start, end)? / seconds;
    let mut room_bps = mean_rate(setup.rate_bps, &raw.events, start, end) - critical_bps;
    for other in &setup.others {
        let carried = Counter::of(raw, other, |row| row.rx_bytes);
        room_bps -= carried.bits(start, end)? / seconds;
    }
    let served: Vec<bool> = windows
        .iter()
        .map(|window| {
            let carried: Option<f64> = sinks
                .iter()
                .map(|sink| sink.in_second(window.start_ns))
                .sum();
            !window.violating
                && carried.is_some_and(|bits| percent(bits, room_bps) >= RECOVERED_PERCENT)
        })
        .collect();
    let good: Vec<bool> = windows.iter().map(|window| !window.violating).collect();
    Ok(Load {
        seconds,
        windows: windows.len(),
        violating: violating(&windows),
        protected_after_s: streak_after(&good),
        recovered_after_s: streak_after(&served),
        goodput_bps,
        critical_bps,
        room_bps,
        goodput_percent: percent(goodput_bps, room_bps),
    })
}

/// The bottleneck's mean rate over a span of time.
fn mean_rate(rate_bps: u64, events: &[Happened], start: u64, end: u64) -> f64 {
    let (mut rate, mut since, mut bit_ns) = (rate_bps, start, 0.0);
    for event in events {
        if let (Action::Rate(next), true) = (event.action, event.unix_ns < end) {
            let until = event.unix_ns.max(start);
            bit_ns += rate as f64 * (until - since) as f64;
            (rate, since) = (next, until);
        }
    }
    bit_ns += rate as f64 * end.saturating_sub(since) as f64;
    bit_ns / end.saturating_sub(start).max(1) as f64
}

/// For each whole second from `start` to `end`, whether it is violating.
pub(crate) fn violations(requests: &[Request], start: u64, end: u64) -> Vec<bool> {
    let windows = windows(requests, start, end);
    windows.iter().map(|window| window.violating).collect()
}

/// Seconds to the first of five good windows in a row.
pub(crate) fn protected_after(violations: &[bool]) -> Option<f64> {
    let good: Vec<bool> = violations.iter().map(|bad| !bad).collect();
    streak_after(&good)
}

/// One second of critical requests, by intended send time.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Window {
    start_ns: u64,
    /// Absent without requests.
    latency: Option<Latency>,
    violating: bool,
}

/// Each whole second from `start` to `end`.
fn windows(requests: &[Request], start: u64, end: u64) -> Vec<Window> {
    let count = (end.saturating_sub(start) / SECOND_NS) as usize;
    let mut windows: Vec<Vec<&Request>> = vec![Vec::new(); count];
    for request in requests {
        let window = request
            .intended_ns
            .checked_sub(start)
            .and_then(|after| windows.get_mut((after / SECOND_NS) as usize));
        if let Some(window) = window {
            window.push(request);
        }
    }
    (0..)
        .zip(windows)
        .map(|(index, window)| {
            let latency = latency(&sorted_ms(window));
            Window {
                start_ns: start + index * SECOND_NS,
                latency,
                violating: latency.is_none_or(|latency| {
                    latency.p95_ms > P95_LIMIT_MS || latency.jitter_ms > JITTER_LIMIT_MS
                }),
            }
        })
        .collect()
}

fn violating(windows: &[Window]) -> usize {
    windows.iter().filter(|window| window.violating).count()
}

/// Seconds before the first streak of good ones.
fn streak_after(good: &[bool]) -> Option<f64> {
    good.windows(STREAK)
        .position(|streak| !streak.contains(&false))
        .map(|first| first as f64)
}

/// Jain's fairness index of shares of the same thing.
fn jain(shares: &[f64]) -> Option<f64> {
    let sum: f64 = shares.iter().sum();
    let squares: f64 = shares.iter().map(|share| share * share).sum();
    (squares > 0.0).then(|| sum * sum / (shares.len() as f64 * squares))
}

/// Bits that arrived at each sink in all spans together.
fn carried_by_sink(setup: &Setup, raw: &Raw, spans: &[(u64, u64)]) -> Result<Vec<f64>, Error> {
    setup
        .sinks
        .iter()
        .map(|sink| {
            let counter = Counter::of(raw, sink, |row| row.rx_bytes);
            spans
                .iter()
                .map(|(start, end)| counter.bits(*start, *end))
                .sum()
        })
        .collect()
}

fn sorted_ms<'a>(requests: impl IntoIterator<Item = &'a Request>) -> Vec<f64> {
    let mut latencies: Vec<f64> = requests
        .into_iter()
        .map(|request| {
            if request.outcome.is_success() {
                request.latency_us as f64 / 1000.0
            } else {
                FAILED_MS
            }
        })
        .collect();
    latencies.sort_by(f64::total_cmp);
    latencies
}

fn latency(sorted: &[f64]) -> Option<Latency> {
    Some(Latency {
        p50_ms: quantile(sorted, 0.50)?,
        p95_ms: quantile(sorted, 0.95)?,
        p99_ms: quantile(sorted, 0.99)?,
        max_ms: *sorted.last()?,
        jitter_ms: quantile(sorted, 0.75)? - quantile(sorted, 0.25)?,
    })
}

fn quantile(sorted: &[f64], q: f64) -> Option<f64> {
    let rank = q * sorted.len().checked_sub(1)? as f64;
    let (below, above) = (rank.floor() as usize, rank.ceil() as usize);
    let (low, high) = (*sorted.get(below)?, *sorted.get(above)?);
    Some(low + (high - low) * rank.fract())
}

/// One byte counter of one endpoint.
struct Counter<'a> {
    endpoint: &'a str,
    /// In order of time.
    readings: Vec<(u64, u64)>,
}

impl<'a> Counter<'a> {
    fn of(raw: &Raw, endpoint: &'a str, bytes: fn(&Traffic) -> u64) -> Self {
        Self {
            endpoint,
            readings: raw
                .traffic
                .iter()
                .filter(|row| row.endpoint == endpoint)
                .map(|row| (row.unix_ns, bytes(row)))
                .collect(),
        }
    }

    /// Its value at a moment between two readings, by linear interpolation.
    fn bytes_at(&self, moment: u64) -> Option<f64> {
        let after = self.readings.partition_point(|(at, _)| *at < moment);
        let (right_at, right) = *self.readings.get(after)?;
        if right_at == moment {
            return Some(right as f64);
        }
        let (left_at, left) = self.readings[after.checked_sub(1)?];
        let part = (moment - left_at) as f64 / (right_at - left_at) as f64;
        Some(left as f64 + (right as f64 - left as f64) * part)
    }

    /// Bits counted from `start` to `end`.
    fn bits(&self, start: u64, end: u64) -> Result<f64, Error> {
        self.bytes_at(end)
            .zip(self.bytes_at(start))
            .map(|(after, before)| (after - before) * 8.0)
            .ok_or_else(|| Error::NoTraffic(self.endpoint.to_owned()))
    }

    /// Bits counted in the second that begins at `start`; absent where readings do not cover it.
    fn in_second(&self, start: u64) -> Option<f64> {
        self.bits(start, start + SECOND_NS).ok()
    }
}

fn changes_per_minute(pods: &[PodEvent], spans: &[(u64, u64)]) -> f64 {
    let mut in_force: BTreeMap<&str, PodAction> = BTreeMap::new();
    let mut changes: BTreeMap<&str, usize> = BTreeMap::new();
    for event in pods {
        let (PodAction::Limited(_) | PodAction::Unlimited) = event.action else {
            continue;
        };
        let before = in_force.insert(&event.endpoint, event.action);
        let within = spans
            .iter()
            .any(|(start, end)| (*start..*end).contains(&event.unix_ns));
        if within && before.unwrap_or(PodAction::Unlimited) != event.action {
            *changes.entry(&event.endpoint).or_default() += 1;
        }
    }
    let nanoseconds: u64 = spans.iter().map(|(start, end)| end - start).sum();
    let minutes = nanoseconds as f64 / SECOND_NS as f64 / 60.0;
    let most = changes.values().max().copied().unwrap_or(0);
    if minutes > 0.0 {
        most as f64 / minutes
    } else {
        0.0
    }
}

/// Pods beyond the first on each endpoint.
fn restarted(pods: &[PodEvent]) -> usize {
    let mut seen: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for event in pods
        .iter()
        .filter(|event| event.action == PodAction::Started)
    {
        seen.entry(&event.endpoint).or_default().insert(&event.uid);
    }
    seen.values().map(|uids| uids.len() - 1).sum()
}

fn stalls(stalls: &[Stall], windows: &[Window], onset: u64, end: u64) -> Option<Stalls> {
    let long: Vec<&Stall> = stalls
        .iter()
        .filter(|stall| (onset..end).contains(&stall.unix_ns))
        .filter(|stall| stall.late_us as f64 >= 1e3 * STILL_MS)
        .collect();
    let is_beside = |window: &&Window| {
        long.iter().any(|stall| {
            stall.unix_ns + SECOND_NS >= window.start_ns
                && stall.unix_ns.saturating_sub(1000 * stall.late_us) < window.start_ns + SECOND_NS
        })
    };
    (!stalls.is_empty()).then(|| Stalls {
        count: long.len(),
        longest_ms: long.iter().map(|stall| stall.late_us).max().unwrap_or(0) as f64 / 1e3,
        violating: windows
            .iter()
            .filter(|window| window.violating)
            .filter(is_beside)
            .count(),
    })
}

fn machine_busy(machine: &[Machine], spans: &[(u64, u64)]) -> f64 {
    let (mut busy, mut total) = (0, 0);
    for (start, end) in spans {
        let mut within = machine
            .iter()
            .filter(|reading| (*start..*end).contains(&reading.unix_ns));
        if let (Some(first), Some(last)) = (within.next(), within.next_back()) {
            busy += last.busy_ms.saturating_sub(first.busy_ms);
            total += last.total_ms.saturating_sub(first.total_ms);
        }
    }
    percent(busy as f64, total as f64)
}

fn services(footprints: &[Footprint]) -> BTreeMap<String, Service> {
    let mut by_name: BTreeMap<&str, Vec<&Footprint>> = BTreeMap::new();
    for footprint in footprints {
        by_name
            .entry(&footprint.service)
            .or_default()
            .push(footprint);
    }
    by_name
        .into_iter()
        .filter_map(|(name, readings)| {
            let (first, last) = (readings.first()?, readings.last()?);
            let used = last.cpu_ms.saturating_sub(first.cpu_ms) as f64;
            let passed = last.unix_ns.saturating_sub(first.unix_ns) as f64 / 1e6;
            let most = readings.iter().map(|reading| reading.rss_bytes).max()?;
            let service = Service {
                cpu_percent: percent(used, passed),
                most_rss_mib: most as f64 / f64::from(1 << 20),
            };
            Some((name.to_owned(), service))
        })
        .collect()
}

fn percent(part: f64, whole: f64) -> f64 {
    if whole > 0.0 {
        100.0 * part / whole
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raw::Outcome;

    const S: u64 = SECOND_NS;

    fn request(at_ms: u64, latency_ms: u64) -> Request {
        Request {
            intended_ns: at_ms * 1_000_000,
            latency_us: latency_ms * 1000,
            wire_us: latency_ms * 1000,
            outcome: Outcome::Status(200),
        }
    }

    /// A hundred requests in each second of `range`, each answered after `latency_ms`.
    fn steady(range: std::ops::Range<u64>, latency_ms: u64) -> Vec<Request> {
        range
            .flat_map(|second| (0..100).map(move |n| request(second * 1000 + n * 10, latency_ms)))
            .collect()
    }

    fn phases(starts: &[(u64, PhaseKind)]) -> Vec<PhaseStart> {
        starts
            .iter()
            .map(|(second, kind)| PhaseStart {
                unix_ns: second * S,
                kind: *kind,
            })
            .collect()
    }

    fn counter(endpoint: &str, second: u64, bytes: u64) -> Traffic {
        Traffic {
            unix_ns: second * S,
            endpoint: endpoint.to_owned(),
            tx_bytes: bytes,
            rx_bytes: bytes,
        }
    }

    fn setup() -> Setup {
        Setup {
            rate_bps: 8_000_000,
            sinks: vec!["sink-0".to_owned(), "sink-1".to_owned()],
            critical_client: "client".to_owned(),
            others: Vec::new(),
        }
    }

    /// Idle 0..10, load 10..30, idle 30..40; both sinks together carry 720 kB/s, the client 100 kB/s.
    fn raw(requests: Vec<Request>) -> Raw {
        Raw {
            requests,
            phases: phases(&[
                (0, PhaseKind::Idle),
                (10, PhaseKind::Load),
                (30, PhaseKind::Idle),
                (40, PhaseKind::End),
            ]),
            traffic: (0..=40)
                .flat_map(|second| {
                    let sent = 360_000 * second.clamp(10, 30);
                    [
                        counter("sink-0", second, sent),
                        counter("sink-1", second, sent),
                        counter("client", second, 100_000 * second),
                    ]
                })
                .collect(),
            pods: Vec::new(),
            footprints: Vec::new(),
            machine: Vec::new(),
            events: Vec::new(),
            stalls: Vec::new(),
        }
    }

    fn pod_event(second: u64, uid: &str, action: PodAction) -> PodEvent {
        PodEvent {
            unix_ns: second * S,
            endpoint: "erp-0".to_owned(),
            pod: "erp".to_owned(),
            uid: uid.to_owned(),
            action,
            annotation: "-".to_owned(),
        }
    }

    #[test]
    fn windows_before_the_first_onset_do_not_count() {
        let mut requests = steady(0..10, 500);
        requests.extend(steady(10..40, 1));
        let score = score(&setup(), &raw(requests)).unwrap();
        assert_eq!((score.windows, score.violating), (30, 0));
        assert_eq!(score.loads[0].protected_after_s, Some(0.0));
        assert_eq!(score.latency.p95_ms, 1.0);
    }

    #[test]
    fn a_window_above_the_p95_limit_is_violating_and_one_at_the_limit_is_not() {
        let mut requests = steady(10..11, 11);
        requests.extend(steady(11..40, 10));
        let score = score(&setup(), &raw(requests)).unwrap();
        assert_eq!(score.violating, 1);
        assert_eq!(score.violating_percent, 100.0 / 30.0);
    }

    #[test]
    fn jitter_alone_makes_a_window_violating() {
        let mut requests = steady(10..40, 1);
        for request in requests.iter_mut().take(100).skip(50) {
            request.latency_us = 7_000; // P95 is 7 ms, but half at 1 and half at 7 are 6 ms apart
        }
        assert_eq!(score(&setup(), &raw(requests)).unwrap().violating, 1);
    }

    #[test]
    fn a_failed_request_counts_as_ten_seconds() {
        let mut requests = steady(10..40, 1);
        for request in requests.iter_mut().take(6) {
            request.outcome = Outcome::Timeout;
        }
        let score = score(&setup(), &raw(requests)).unwrap();
        assert_eq!((score.violating, score.failed), (1, 6));
        assert_eq!(score.latency.max_ms, 10_000.0);
    }

    #[test]
    fn a_second_without_requests_is_violating() {
        let mut requests = steady(10..20, 1);
        requests.extend(steady(21..40, 1));
        assert_eq!(score(&setup(), &raw(requests)).unwrap().violating, 1);
    }

    #[test]
    fn protection_begins_with_the_first_long_enough_streak_of_good_windows() {
        let mut requests = steady(10..13, 60);
        requests.extend(steady(13..16, 1)); // three good ones are not enough
        requests.extend(steady(16..17, 60));
        requests.extend(steady(17..40, 1));
        let score = score(&setup(), &raw(requests)).unwrap();
        assert_eq!(score.loads[0].protected_after_s, Some(7.0));
        assert_eq!(score.loads[0].violating, 4);
    }

    #[test]
    fn one_late_violation_does_not_undo_protection() {
        let mut requests = steady(10..29, 1);
        requests.extend(steady(29..30, 60));
        let score = score(&setup(), &raw(requests)).unwrap();
        assert_eq!(score.loads[0].protected_after_s, Some(0.0));
        assert_eq!(score.loads[0].violating, 1);
    }

    #[test]
    fn a_load_that_never_gets_better_is_never_protected() {
        let score = score(&setup(), &raw(steady(10..40, 60))).unwrap();
        assert_eq!(score.loads[0].protected_after_s, None);
        assert_eq!(score.loads[0].violating, 20);
    }

    #[test]
    fn goodput_is_a_share_of_what_the_critical_traffic_leaves() {
        let score = score(&setup(), &raw(steady(10..40, 1))).unwrap();
        let load = &score.loads[0];
        assert!((load.critical_bps - 800_000.0).abs() < 1e-6);
        assert!((load.goodput_bps - 5_760_000.0).abs() < 1e-6);
        assert!((score.goodput_percent - 80.0).abs() < 1e-9);
    }

    #[test]
    fn foreign_traffic_and_a_narrower_link_leave_less_to_best_effort() {
        let mut raw = raw(steady(10..40, 1));
        raw.events = vec![Happened {
            unix_ns: 20 * S,
            action: Action::Rate(6_000_000),
        }];
        let foreign = (0..=40).map(|second| counter("foreign", second, 50_000 * second));
        raw.traffic.extend(foreign);
        let setup = Setup {
            others: vec!["foreign".to_owned()],
            ..setup()
        };
        let load = score(&setup, &raw).unwrap().loads.remove(0);
        // half at 8 and half at 6 Mbit/s, less 0.8 of critical and 0.4 of foreign traffic
        assert!((load.room_bps - 5_800_000.0).abs() < 1e-6);
    }

    #[test]
    fn counters_are_interpolated_at_the_bounds_of_a_phase() {
        let counter = Counter {
            endpoint: "x",
            readings: vec![(10 * S, 0), (20 * S, 1000)],
        };
        assert_eq!(counter.bytes_at(13 * S), Some(300.0));
        assert_eq!(counter.bytes_at(10 * S), Some(0.0));
        assert_eq!(counter.bytes_at(9 * S), None);
        assert_eq!(counter.bytes_at(21 * S), None);
    }

    #[test]
    fn recovery_needs_good_windows_and_goodput_at_once() {
        // 720 kB/s are 80 % of what is left until second 20, then 1 MB/s are more than 100 %
        let mut raw = raw(steady(10..40, 1));
        let more = |second: u64| 140_000 * second.clamp(20, 30).saturating_sub(20);
        for row in &mut raw.traffic {
            if row.endpoint.starts_with("sink") {
                row.rx_bytes += more(row.unix_ns / S);
            }
        }
        let load = &score(&setup(), &raw).unwrap().loads[0];
        assert_eq!(load.protected_after_s, Some(0.0));
        assert_eq!(load.recovered_after_s, Some(10.0));
    }

    #[test]
    fn a_starved_load_never_recovers() {
        let load = &score(&setup(), &raw(steady(10..40, 1))).unwrap().loads[0];
        assert_eq!(load.recovered_after_s, None);
    }

    #[test]
    fn jains_index_is_one_for_equal_shares_and_one_over_n_for_a_single_winner() {
        assert_eq!(jain(&[5.0, 5.0, 5.0]), Some(1.0));
        assert_eq!(jain(&[7.0, 0.0, 0.0, 0.0]), Some(0.25));
        // the paper's own example: 20 dollars for each of 20 of 100 people are an index of 0.2
        let dollars: Vec<f64> = (0..100).map(|n| if n < 20 { 20.0 } else { 0.0 }).collect();
        assert_eq!(jain(&dollars), Some(0.2));
        assert_eq!(jain(&[0.0, 0.0]), None);
        assert_eq!(jain(&[]), None);
    }

    #[test]
    fn fairness_compares_what_arrived_at_the_sinks_under_load() {
        let mut raw = raw(steady(10..40, 1));
        for row in &mut raw.traffic {
            if row.endpoint == "sink-1" {
                row.rx_bytes = 0;
            }
        }
        assert_eq!(score(&setup(), &raw).unwrap().fairness, Some(0.5));
    }

    #[test]
    fn only_real_changes_of_a_limit_under_load_are_counted() {
        let mut raw = raw(steady(10..40, 1));
        raw.pods = vec![
            pod_event(1, "a", PodAction::Started),
            pod_event(5, "a", PodAction::Limited(100)), // before the load
            pod_event(12, "a", PodAction::Limited(100)), // no change
            pod_event(13, "a", PodAction::Limited(50)),
            pod_event(25, "a", PodAction::Unlimited),
            pod_event(35, "a", PodAction::Limited(50)), // after the load
        ];
        let score = score(&setup(), &raw).unwrap();
        assert_eq!(score.limit_changes_per_minute, 6.0); // two in twenty seconds
        assert_eq!(score.pods_restarted, 0);
    }

    #[test]
    fn changes_before_protection_are_not_steady_state() {
        let mut requests = steady(10..15, 60);
        requests.extend(steady(15..40, 1));
        let mut raw = raw(requests);
        raw.pods = vec![
            pod_event(12, "a", PodAction::Limited(100)),
            pod_event(20, "a", PodAction::Limited(110)),
        ];
        let score = score(&setup(), &raw).unwrap();
        assert_eq!(score.limit_changes_per_minute, 6.0);
        assert_eq!(score.steady_limit_changes_per_minute, 4.0); // one in fifteen seconds
    }

    #[test]
    fn a_second_pod_on_an_endpoint_is_a_restart() {
        let mut raw = raw(steady(10..40, 1));
        raw.pods = vec![
            pod_event(1, "a", PodAction::Started),
            pod_event(14, "b", PodAction::Started),
        ];
        assert_eq!(score(&setup(), &raw).unwrap().pods_restarted, 1);
    }

    #[test]
    fn a_services_footprint_counts_from_its_first_reading() {
        let reading = |second: u64, cpu_ms, rss_mib: u64| Footprint {
            unix_ns: second * S,
            service: "decider".to_owned(),
            cpu_ms,
            rss_bytes: rss_mib << 20,
        };
        let mut raw = raw(steady(10..40, 1));
        raw.footprints = vec![
            reading(0, 500, 20),
            reading(5, 600, 30),
            reading(10, 700, 25),
        ];
        let service = score(&setup(), &raw).unwrap().services["decider"];
        assert_eq!((service.cpu_percent, service.most_rss_mib), (2.0, 30.0));
    }

    #[test]
    fn the_machine_is_judged_by_the_load_phases_alone() {
        let reading = |second: u64, busy_ms, total_ms| Machine {
            unix_ns: second * S,
            busy_ms,
            total_ms,
        };
        let mut raw = raw(steady(10..40, 1));
        raw.machine = vec![
            reading(0, 0, 0),
            reading(10, 20_000, 20_000),
            reading(20, 25_000, 40_000),
            reading(35, 70_000, 70_000),
        ];
        let score = score(&setup(), &raw).unwrap();
        assert_eq!(score.machine_busy_percent, 25.0);
    }

    #[test]
    fn violating_windows_beside_a_processor_that_stood_still_are_told_apart() {
        let mut requests = steady(10..20, 1);
        requests.extend(steady(20..22, 11)); // 20 and 21
        requests.extend(steady(22..25, 1));
        requests.extend(steady(25..26, 11)); // 25
        requests.extend(steady(26..40, 1));
        let mut raw = raw(requests);
        assert_eq!(score(&setup(), &raw).unwrap().stalls, None);
        let stall = |ms: u64, late_us| Stall {
            unix_ns: ms * 1_000_000,
            processor: 0,
            late_us,
        };
        raw.stalls = vec![
            stall(9_000, 50_000), // before the onset
            stall(20_500, 30_000),
            stall(25_500, 9_000), // too short
        ];
        let stood = score(&setup(), &raw).unwrap().stalls.unwrap();
        assert_eq!(
            (stood.count, stood.longest_ms, stood.violating),
            (1, 30.0, 2)
        );
        assert_eq!(stood.to_string(), "once, 30 ms");
    }

    #[test]
    fn a_run_without_a_finished_load_has_no_score() {
        let mut raw = raw(steady(0..40, 1));
        raw.phases.truncate(2);
        assert_eq!(score(&setup(), &raw), Err(Error::NoLoad));
    }

    #[test]
    fn quantiles_interpolate_between_order_statistics() {
        let sorted: Vec<f64> = (1..=5).map(f64::from).collect();
        assert_eq!(quantile(&sorted, 0.25), Some(2.0));
        assert_eq!(quantile(&sorted, 0.95), Some(4.8));
        assert_eq!(quantile(&[7.0], 0.95), Some(7.0));
        assert_eq!(quantile(&[], 0.95), None);
    }
}
