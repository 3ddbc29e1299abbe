//! What a run is worth, by the lab's definitions (`lab/src/score.rs`), and whether the loop was stable.

use serde::Serialize;

use crate::{
    link::Request,
    run::Record,
    scenario::{Demand, Scenario},
};

/// Good windows in a row that make the critical traffic protected.
const STREAK: usize = 5;
/// Seconds at the minimum in calm that are starvation.
const STARVED: usize = 60;

/// More violating windows than this late in the last load, percent, is not at rest.
pub const LATE_VIOLATING_PERCENT: f64 = 15.0;
/// More turns per minute than this late in the last load is not at rest.
const LATE_SWINGS_PER_MINUTE: f64 = 4.0;

/// The numbers of one run.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Score {
    /// Violating 1-s windows after the first onset, percent.
    pub violating_percent: f64,
    /// Violating windows in each load phase.
    pub violating: Vec<usize>,
    /// Seconds from each load's start to the first of five good windows in a row; 0 when none is violating; `None`: never.
    pub protected_after: Vec<Option<f64>>,
    /// Goodput in all load phases as percent of what the critical traffic left of the link.
    pub goodput_percent: f64,
    /// Limit changes per minute of load, from the moment it was protected.
    pub steady_changes_per_minute: f64,
    /// Limit changes per minute of load.
    pub changes_per_minute: f64,
    /// Violating windows in the second half of the last load, percent.
    pub late_violating_percent: f64,
    /// Turns by more than a fifth of the limit, per minute, in the second half of the last load.
    pub late_swings_per_minute: f64,
    /// Longest time in seconds with the limit within 5 % of the minimum, every signal under half its target and demand for more.
    pub starved_seconds: usize,
    /// Whether a limit was ever above the maximum or below the minimum.
    pub out_of_bounds: bool,
}

impl Score {
    /// Whether the loop never found rest: in the second half of the last load it still violates or swings.
    #[must_use]
    pub fn is_unstable(&self) -> bool {
        self.late_violating_percent > LATE_VIOLATING_PERCENT
            || self.late_swings_per_minute > LATE_SWINGS_PER_MINUTE
    }

    /// Whether best-effort was starved for nothing.
    #[must_use]
    pub fn is_starved(&self) -> bool {
        self.starved_seconds >= STARVED
    }
}

/// One second of critical traffic.
#[derive(Clone, Copy, Debug, Default)]
struct Window {
    is_violating: bool,
    is_under_half: bool,
}

/// Computes the score.
#[must_use]
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss
)]
pub fn score(scenario: &Scenario, record: &Record) -> Score {
    let windows = windows(scenario, &record.requests);
    let loads = scenario.loads();
    let onset = loads
        .first()
        .map_or(0, |load| load.0 as usize)
        .min(windows.len());
    let violating = |range: &[Window]| range.iter().filter(|window| window.is_violating).count();
    let mut score = Score {
        violating_percent: 100.0 * violating(&windows[onset..]) as f64
            / (windows.len() - onset).max(1) as f64,
        ..Score::default()
    };
    let (mut carried, mut room) = (0.0, 0.0);
    let (mut steady_changes, mut changes, mut steady_time, mut time) = (0, 0, 0.0, 0.0);
    for (from, to) in &loads {
        let (first, last) = (*from as usize, (*to as usize).min(windows.len()));
        let load = &windows[first..last];
        score.violating.push(violating(load));
        let protected = load
            .windows(STREAK)
            .position(|five| five.iter().all(|window| !window.is_violating))
            .map(|position| position as f64);
        score.protected_after.push(protected);
        carried += record.delivered[last.min(record.delivered.len() - 1)] - record.delivered[first];
        room += (first..last)
            .map(|second| {
                scenario.link_bps(second as f64) - scenario.request_rate * scenario.request_bits
            })
            .sum::<f64>();
        let within = |from: f64| {
            record
                .limits
                .iter()
                .filter(|(at, _)| (from..*to).contains(at))
                .count()
        };
        changes += within(*from);
        time += to - from;
        if let Some(protected) = protected {
            steady_changes += within(from + protected);
            steady_time += to - from - protected;
        }
    }
    score.goodput_percent = 100.0 * carried / room.max(1.0);
    score.changes_per_minute = per_minute(changes, time);
    score.steady_changes_per_minute = per_minute(steady_changes, steady_time);
    if let Some((from, to)) = loads.last() {
        let middle = f64::midpoint(*from, *to);
        let late = &windows[middle as usize..(*to as usize).min(windows.len())];
        score.late_violating_percent = 100.0 * violating(late) as f64 / late.len().max(1) as f64;
        score.late_swings_per_minute = per_minute(swings(&record.limits, middle, *to), to - middle);
    }
    score.starved_seconds = starved(scenario, record, &windows);
    score.out_of_bounds = record
        .limits
        .iter()
        .skip(1)
        .any(|(_, limit)| !(scenario.min_bps..=scenario.max_bps).contains(limit));
    score
}

#[allow(clippy::cast_precision_loss)]
fn per_minute(count: usize, seconds: f64) -> f64 {
    if seconds > 0.0 {
        count as f64 * 60.0 / seconds
    } else {
        0.0
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn windows(scenario: &Scenario, requests: &[Request]) -> Vec<Window> {
    let seconds = scenario.seconds() as usize;
    let mut windows = vec![Window::default(); seconds];
    let mut rest = requests;
    for (second, window) in windows.iter_mut().enumerate() {
        let end = rest.partition_point(|request| request.sent < second as f64 + 1.0 - 1e-9);
        let (now, later) = rest.split_at(end);
        rest = later;
        let mut latencies: Vec<f64> = now.iter().map(|request| request.latency_ms).collect();
        latencies.sort_by(f64::total_cmp);
        if latencies.is_empty() {
            continue;
        }
        let quantile = |q: f64| {
            let rank = q * (latencies.len() - 1) as f64;
            let below = rank as usize;
            let above = (below + 1).min(latencies.len() - 1);
            latencies[below] + (latencies[above] - latencies[below]) * (rank - below as f64)
        };
        let targets = &scenario.targets;
        let mean = latencies.iter().sum::<f64>() / latencies.len() as f64;
        let ratio = [
            (targets.p95_ms, quantile(0.95)),
            (targets.p99_ms, quantile(0.99)),
            (targets.mean_ms, mean),
            (targets.jitter_ms, quantile(0.75) - quantile(0.25)),
        ]
        .into_iter()
        .filter_map(|(target, value)| Some(value / target?))
        .fold(0.0, f64::max);
        *window = Window {
            is_violating: ratio > 1.0,
            is_under_half: ratio < 0.5,
        };
    }
    windows
}

/// Turns of direction after moves of more than a fifth.
fn swings(limits: &[(f64, f64)], from: f64, to: f64) -> usize {
    let mut count = 0;
    let mut direction = 0.0;
    let mut extreme: Option<f64> = None;
    for (_, limit) in limits.iter().filter(|(at, _)| (from..to).contains(at)) {
        let Some(base) = extreme else {
            extreme = Some(*limit);
            continue;
        };
        let change = limit / base - 1.0;
        if change * direction > 0.0 {
            extreme = Some(*limit);
        } else if change.abs() > 0.2 {
            count += usize::from(direction != 0.0);
            direction = change.signum();
            extreme = Some(*limit);
        }
    }
    count
}

/// The longest starvation, seconds.
fn starved(scenario: &Scenario, record: &Record, windows: &[Window]) -> usize {
    let mut at = 0.0;
    let mut wants = Vec::new();
    for phase in &scenario.phases {
        let wish = match phase.demand {
            Demand::None => 0.0,
            Demand::Tcp => f64::INFINITY,
            Demand::Capped(bps) | Demand::Udp(bps) => bps,
        };
        at += phase.seconds;
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        wants.resize(at as usize, wish);
    }
    let (mut longest, mut current) = (0, 0);
    for (second, (window, want)) in windows.iter().zip(wants).enumerate() {
        let limit = record
            .limits
            .iter()
            .rev()
            .find(|(since, _)| *since <= second as f64)
            .map_or(scenario.start_bps, |(_, limit)| *limit);
        let is_starved = limit <= scenario.min_bps * 1.05 && want > limit && window.is_under_half;
        current = if is_starved { current + 1 } else { 0 };
        longest = longest.max(current);
    }
    longest
}
