//! How far the plant is from what was measured, quantity by quantity. Both sides are judged by the same code.

use crate::{
    fit::{
        Fitted,
        measured::{Measured, Phase},
        quantile,
        replay::{Replayed, replay, scenario},
    },
    scenario::Scenario,
};

/// Above this P95 a second is violating, milliseconds; as in the lab's score.
const P95_MS: f64 = 10.0;
/// Above this interquartile range a second is violating, milliseconds.
const JITTER_MS: f64 = 5.0;
/// The queue is full when requests wait so much of its greatest length.
const FULL: f64 = 0.9;
/// A cut drains something when requests wait so much of the queue's greatest length before it.
const HALF: f64 = 0.5;
/// A queue that does not fill or drain in so many seconds was not about to.
const SOON: f64 = 5.0;
/// A limit is cut when it falls by more than this share.
const CUT: f64 = 0.02;

/// A moment at which something should happen to the queue, and how many seconds it took; `None` if it did not within 5 s.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Passage {
    /// When it began.
    pub at: f64,
    /// How long it took on the kernel network.
    pub measured: Option<f64>,
    /// How long it took on the plant.
    pub plant: Option<f64>,
}

/// What the plant got right and wrong about one run, with one seed.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// Whole seconds of the run.
    pub seconds: usize,
    /// Seconds that are violating on the kernel network.
    pub measured_violating: usize,
    /// Seconds that are violating on the plant.
    pub plant_violating: usize,
    /// Seconds that both call the same.
    pub agreeing: usize,
    /// Median of the difference in a second's P95, plant minus measured, milliseconds, in seconds that are good on both.
    pub calm_p95_error_ms: f64,
    /// The same in seconds that are violating on both.
    pub congested_p95_error_ms: f64,
    /// Best-effort's share of the link in load phases, plant minus measured, percentage points.
    pub goodput_error: f64,
    /// Correlation of the queue's length at the moments it was read.
    pub queue_correlation: f64,
    /// Root mean square difference of the queue's length, percent of its greatest length.
    pub queue_rms_percent: f64,
    /// From each load's mark to a full queue.
    pub fills: Vec<Passage>,
    /// From each cut under a queue that is more than half full to requests inside their target.
    pub drains: Vec<Passage>,
}

impl Comparison {
    /// Agreeing seconds in percent.
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub fn agreement_percent(&self) -> f64 {
        100.0 * self.agreeing as f64 / self.seconds.max(1) as f64
    }
}

/// Mean absolute difference in seconds over passages; one that happened on one side only counts as 5 s. `None` without any.
#[must_use]
#[allow(clippy::cast_precision_loss)]
pub fn passage_error(passages: &[Passage]) -> Option<f64> {
    let errors: Vec<f64> = passages
        .iter()
        .filter_map(|passage| match (passage.measured, passage.plant) {
            (Some(measured), Some(plant)) => Some((plant - measured).abs()),
            (None, None) => None,
            _ => Some(SOON),
        })
        .collect();
    (!errors.is_empty()).then(|| errors.iter().sum::<f64>() / errors.len() as f64)
}

/// Replays a run on the fitted plant and compares.
#[must_use]
pub fn check(run: &Measured, fitted: &Fitted, seed: u64) -> Comparison {
    let scenario = scenario(run, fitted, seed);
    let replayed = replay(run, &scenario);
    let measured = series(run.requests.iter().map(|r| (r.sent, r.latency_ms)));
    let plant = series(replayed.requests.iter().map(|r| (r.sent, r.latency_ms)));
    let mut comparison = windows(&measured, &plant, run.seconds());
    (comparison.queue_correlation, comparison.queue_rms_percent) =
        queue(run, &replayed, scenario.fifo_bits);
    comparison.goodput_error = goodput_error(run, &replayed, &scenario);
    let full_ms = 1e3 * scenario.fifo_bits / scenario.link_bps(0.0);
    comparison.fills = run
        .phases()
        .filter(|phase| phase.is_load)
        .map(|phase| Passage {
            at: phase.from,
            measured: first(&measured, phase.from, |ms| ms >= FULL * full_ms),
            plant: first(&plant, phase.from, |ms| ms >= FULL * full_ms),
        })
        .collect();
    comparison.drains = cuts(run)
        .into_iter()
        .filter(|at| waits(&measured, *at) >= HALF * full_ms)
        .map(|at| Passage {
            at,
            measured: first(&measured, at, |ms| ms < P95_MS),
            plant: (waits(&plant, at) >= HALF * full_ms)
                .then(|| first(&plant, at, |ms| ms < P95_MS))
                .flatten(),
        })
        .collect();
    comparison
}

/// Requests as time and latency in milliseconds.
type Series = Vec<(f64, f64)>;

fn series(requests: impl Iterator<Item = (f64, f64)>) -> Series {
    requests.collect()
}

fn windows(measured: &Series, plant: &Series, seconds: f64) -> Comparison {
    let mut comparison = Comparison {
        seconds: 0,
        measured_violating: 0,
        plant_violating: 0,
        agreeing: 0,
        calm_p95_error_ms: 0.0,
        congested_p95_error_ms: 0.0,
        goodput_error: 0.0,
        queue_correlation: 0.0,
        queue_rms_percent: 0.0,
        fills: Vec::new(),
        drains: Vec::new(),
    };
    let (mut calm, mut congested) = (Vec::new(), Vec::new());
    let mut from = 0.0;
    while from + 1.0 <= seconds {
        if let (Some(a), Some(b)) = (window(measured, from), window(plant, from)) {
            comparison.seconds += 1;
            comparison.measured_violating += usize::from(a.is_violating);
            comparison.plant_violating += usize::from(b.is_violating);
            comparison.agreeing += usize::from(a.is_violating == b.is_violating);
            match (a.is_violating, b.is_violating) {
                (false, false) => calm.push(b.p95_ms - a.p95_ms),
                (true, true) => congested.push(b.p95_ms - a.p95_ms),
                _ => {}
            }
        }
        from += 1.0;
    }
    let median = |errors: &mut Vec<f64>| {
        errors.sort_by(f64::total_cmp);
        quantile(errors, 0.5).unwrap_or(0.0)
    };
    comparison.calm_p95_error_ms = median(&mut calm);
    comparison.congested_p95_error_ms = median(&mut congested);
    comparison
}

struct Window {
    p95_ms: f64,
    is_violating: bool,
}

fn window(series: &Series, from: f64) -> Option<Window> {
    let (begin, end) = (
        series.partition_point(|(at, _)| *at < from),
        series.partition_point(|(at, _)| *at < from + 1.0),
    );
    let mut latencies: Vec<f64> = series[begin..end].iter().map(|(_, ms)| *ms).collect();
    latencies.sort_by(f64::total_cmp);
    let at = |q| quantile(&latencies, q);
    let (p95_ms, jitter_ms) = (at(0.95)?, at(0.75)? - at(0.25)?);
    Some(Window {
        p95_ms,
        is_violating: p95_ms > P95_MS || jitter_ms > JITTER_MS,
    })
}

/// From a time to the first request that is so, if soon.
fn first(series: &Series, from: f64, is_so: impl Fn(f64) -> bool) -> Option<f64> {
    let begin = series.partition_point(|(at, _)| *at < from);
    series[begin..]
        .iter()
        .take_while(|(at, _)| *at < from + SOON)
        .find(|(_, ms)| is_so(*ms))
        .map(|(at, _)| at - from)
}

/// What the last request before a time took, milliseconds.
fn waits(series: &Series, at: f64) -> f64 {
    let before = series.partition_point(|(sent, _)| *sent < at);
    before.checked_sub(1).map_or(0.0, |last| series[last].1)
}

/// When the first pod's limit fell during a load.
fn cuts(run: &Measured) -> Vec<f64> {
    let loads: Vec<Phase> = run.phases().filter(|phase| phase.is_load).collect();
    let mut before = f64::INFINITY;
    let mut cuts = Vec::new();
    for limit in run.limits.iter().filter(|limit| limit.pod == 0) {
        let within = loads
            .iter()
            .any(|load| (load.from..load.to).contains(&limit.at));
        if within && limit.bps < before * (1.0 - CUT) {
            cuts.push(limit.at);
        }
        before = limit.bps;
    }
    cuts
}

/// Correlation, and root mean square difference in percent of the greatest length.
#[allow(clippy::cast_precision_loss)]
fn queue(run: &Measured, replayed: &Replayed, fifo_bits: f64) -> (f64, f64) {
    let pairs: Vec<(f64, f64)> = run
        .queue
        .iter()
        .filter(|reading| (0.0..run.seconds()).contains(&reading.at))
        .map(|reading| {
            let measured = reading.backlog_bits / fifo_bits;
            (measured, replayed.backlog(reading.at) / fifo_bits)
        })
        .collect();
    let count = (pairs.len() as f64).max(1.0);
    let mean = |of: &dyn Fn(&(f64, f64)) -> f64| pairs.iter().map(of).sum::<f64>() / count;
    let (a, b) = (mean(&|pair| pair.0), mean(&|pair| pair.1));
    let covariance = mean(&|pair| (pair.0 - a) * (pair.1 - b));
    let variances = mean(&|pair| (pair.0 - a).powi(2)) * mean(&|pair| (pair.1 - b).powi(2));
    let rms = mean(&|pair| (pair.0 - pair.1).powi(2)).sqrt();
    (covariance / variances.sqrt().max(1e-12), 100.0 * rms)
}

/// By what the bottleneck sent, less the critical traffic. (The sinks' own counters are no measure: they count one header for a
/// packet that was merged on its way from many.)
fn goodput_error(run: &Measured, replayed: &Replayed, scenario: &Scenario) -> f64 {
    let (mut measured, mut plant, mut room) = (0.0, 0.0, 0.0);
    for load in run.phases().filter(|phase| phase.is_load) {
        let within = |at: f64| (load.from..load.to).contains(&at);
        let mut readings = run.queue.iter().filter(|reading| within(reading.at));
        let Some((first, last)) = readings.next().zip(readings.next_back()) else {
            continue;
        };
        let seconds = last.at - first.at;
        let critical = scenario.request_rate * scenario.request_bits * seconds;
        measured += last.sent_bits - first.sent_bits - critical;
        plant += replayed.delivered(last.at) - replayed.delivered(first.at);
        room += scenario.link_bps(first.at) * seconds - critical;
    }
    100.0 * (plant - measured) / f64::max(room, 1.0)
}
