//! The plant's parameters as measured on the kernel network, and how well the plant then foretells what was measured.
//!
//! Nothing is tuned until the result looks right: each parameter is read off the raw logs by itself, and the check then replays a
//! run's limits through the plant and compares what came out. Runs that were not fitted on are a check that means something.
//!
//! | question | file |
//! |---|---|
//! | What was measured? | [`measured`] |
//! | What follows for the parameters? | here |
//! | What would the plant have done under the same limits? | [`replay`] |
//! | How far is that from what was measured? | [`check`] |

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    fit::measured::{Measured, Reading},
    scenario::{Demand, Scenario},
};

pub mod check;
pub mod measured;
pub mod replay;

/// The start of an idle phase that the load before it still disturbs, seconds.
const SETTLING: f64 = 2.0;
/// The queue counts as busy above this share of its greatest length.
const BUSY: f64 = 0.1;
/// A stretch of busy readings must be so long to tell the link's rate, seconds.
const STRETCH: f64 = 1.0;

/// A parameter over all runs that tell it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// Mean over the runs.
    pub value: f64,
    /// Standard deviation between the runs; 0 with one run.
    pub spread: f64,
    /// The least of a run.
    pub least: f64,
    /// The greatest of a run.
    pub most: f64,
    /// How many runs told it.
    pub runs: usize,
}

impl Estimate {
    /// Over values of runs; `None` without any.
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub fn over(values: &[f64]) -> Option<Self> {
        let count = values.len() as f64;
        let value = values.iter().sum::<f64>() / count;
        let squares: f64 = values.iter().map(|each| (each - value).powi(2)).sum();
        (!values.is_empty()).then(|| Self {
            value,
            spread: (squares / (count - 1.0).max(1.0)).sqrt(),
            least: values.iter().copied().fold(f64::INFINITY, f64::min),
            most: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            runs: values.len(),
        })
    }
}

/// What the runs of the lab tell about the plant; what `fit` writes and `--plant` reads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fitted {
    /// The runs it was fitted on.
    pub runs: Vec<String>,
    /// Each parameter by its name, in its unit: `_bps`, `_bits`, `_ms`, else seconds; see [`parameters`].
    pub parameters: BTreeMap<String, Estimate>,
}

/// The parameters that one run tells, by name.
///
/// | name | how it is read off |
/// |---|---|
/// | `link_bps` | bytes the bottleneck sent while its queue was never empty |
/// | `fifo_bits` | the longest queue seen |
/// | `rtt` | the fastest hundredth of critical requests on the wire when idle: also the server's time, so an upper bound |
/// | `base_ms`, `base_spread` | median of critical requests when idle; deviation of the logarithm from its P95 |
/// | `request_rate`, `request_bits` | requests, and what their client sent, over the whole run |
/// | `start_delay` | from a load's mark to its first packets, by the bytes sent until the first busy reading |
/// | `news_delay_low`, `_high` | P5 and P95 from a window's end to the decision on it |
/// | `actuation_delay_low`, `_high` | P5 and P95 from a decision to each pod's limit in the kernel |
#[must_use]
#[allow(clippy::cast_precision_loss)]
pub fn parameters(run: &Measured) -> BTreeMap<&'static str, f64> {
    let (idle, mut wire) = idle(run);
    wire.sort_by(f64::total_cmp);
    let base_ms = quantile(&idle, 0.5);
    let base_p95 = quantile(&idle, 0.95);
    let fifo_bits = run
        .queue
        .iter()
        .map(|reading| reading.backlog_bits)
        .fold(0.0, f64::max);
    let seconds = run.seconds();
    let count = run.requests.len() as f64;
    let link_bps = link_bps(run, fifo_bits);
    let starts: Vec<f64> = link_bps
        .map(|link_bps| start_delays(run, fifo_bits, link_bps))
        .unwrap_or_default();
    let (mut news, mut actuation) = delays(run);
    news.sort_by(f64::total_cmp);
    actuation.sort_by(f64::total_cmp);
    let congested = link_bps.is_some();
    [
        ("link_bps", link_bps),
        ("fifo_bits", congested.then_some(fifo_bits)),
        ("rtt", quantile(&wire, 0.01).map(|ms| ms / 1e3)),
        ("base_ms", base_ms),
        (
            "base_spread",
            base_ms
                .zip(base_p95)
                .map(|(middle, high)| (high / middle).ln() / 1.645),
        ),
        ("request_rate", (seconds > 0.0).then(|| count / seconds)),
        (
            "request_bits",
            (count > 0.0).then(|| run.critical_bits / count),
        ),
        (
            "start_delay",
            Estimate::over(&starts).map(|over| over.value),
        ),
        ("news_delay_low", quantile(&news, 0.05)),
        ("news_delay_high", quantile(&news, 0.95)),
        ("actuation_delay_low", quantile(&actuation, 0.05)),
        ("actuation_delay_high", quantile(&actuation, 0.95)),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name, value?)))
    .collect()
}

/// Latency and time on the wire of requests in undisturbed idle phases, milliseconds; the first sorted.
fn idle(run: &Measured) -> (Vec<f64>, Vec<f64>) {
    let spans: Vec<(f64, f64)> = run
        .phases()
        .filter(|phase| !phase.is_load)
        .map(|phase| (phase.from + SETTLING, phase.to))
        .collect();
    let within = |at: f64| spans.iter().any(|(from, to)| (*from..*to).contains(&at));
    let mut latencies = Vec::new();
    let mut wire = Vec::new();
    for request in run.requests.iter().filter(|request| within(request.sent)) {
        latencies.push(request.latency_ms);
        wire.extend(request.wire_ms);
    }
    latencies.sort_by(f64::total_cmp);
    (latencies, wire)
}

fn link_bps(run: &Measured, fifo_bits: f64) -> Option<f64> {
    let is_busy = |reading: &Reading| reading.backlog_bits > BUSY * fifo_bits;
    let (mut bits, mut seconds) = (0.0, 0.0);
    for stretch in run.queue.chunk_by(|a, b| is_busy(a) && is_busy(b)) {
        if let [first, .., last] = stretch
            && last.at - first.at >= STRETCH
        {
            bits += last.sent_bits - first.sent_bits;
            seconds += last.at - first.at;
        }
    }
    (seconds > 0.0).then(|| bits / seconds)
}

/// Loads that fill the queue within two readings tell when they began: since then the bottleneck sent at its full rate.
fn start_delays(run: &Measured, fifo_bits: f64, link_bps: f64) -> Vec<f64> {
    run.phases()
        .filter(|phase| phase.is_load)
        .filter_map(|phase| {
            let after = run.queue.partition_point(|reading| reading.at < phase.from);
            let before = run.queue.get(after.checked_sub(1)?)?;
            let busy = run.queue[after..]
                .iter()
                .take(2)
                .find(|reading| reading.backlog_bits > BUSY * fifo_bits)?;
            let began = busy.at - (busy.sent_bits - before.sent_bits) / link_bps;
            Some((began - phase.from).max(0.0))
        })
        .collect()
}

/// From a window's end to its decision, and from a decision to each limit that followed from it; seconds.
fn delays(run: &Measured) -> (Vec<f64>, Vec<f64>) {
    let news = run
        .decisions
        .iter()
        .filter_map(|decision| Some(decision.at - decision.window_end?))
        .collect();
    let mut actuation = Vec::new();
    for (index, decision) in run.decisions.iter().enumerate() {
        let Some(limit_bps) = decision.changed_to_bps else {
            continue;
        };
        let next = run.decisions[index + 1..]
            .iter()
            .find(|later| later.changed_to_bps.is_some())
            .map_or(f64::INFINITY, |later| later.at);
        actuation.extend(
            run.limits
                .iter()
                .filter(|limit| {
                    (decision.at..next).contains(&limit.at)
                        // Annotations are in whole kilobits per second.
                        && (limit.bps - limit_bps).abs() <= 1e3
                })
                .map(|limit| limit.at - decision.at),
        );
    }
    (news, actuation)
}

/// Fits the plant on runs.
#[must_use]
pub fn fit(runs: &[Measured]) -> Fitted {
    let mut values: BTreeMap<&'static str, Vec<f64>> = BTreeMap::new();
    for run in runs {
        for (name, value) in parameters(run) {
            values.entry(name).or_default().push(value);
        }
    }
    Fitted {
        runs: runs.iter().map(|run| run.name.clone()).collect(),
        parameters: values
            .into_iter()
            .filter_map(|(name, values)| Some((name.to_owned(), Estimate::over(&values)?)))
            .collect(),
    }
}

impl Fitted {
    /// A parameter's value, if the runs told it.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<f64> {
        self.parameters.get(name).map(|estimate| estimate.value)
    }

    /// Gives a scenario the measured parameters. One with another link than the measured one keeps its rate; the FIFO is the lab's,
    /// which is the same at every rate.
    pub fn apply(&self, scenario: &mut Scenario) {
        let set = |target: &mut f64, name: &str| {
            if let Some(value) = self.value(name) {
                *target = value;
            }
        };
        if let Some((fifo_bits, link_bps)) = self.value("fifo_bits").zip(self.value("link_bps")) {
            scenario.fifo_bits = fifo_bits;
            let nominal = scenario.link_bps(0.0);
            if (link_bps / nominal - 1.0).abs() < 0.05 {
                for (_, bps) in &mut scenario.link {
                    *bps *= link_bps / nominal;
                }
            }
        }
        set(&mut scenario.rtt, "rtt");
        set(&mut scenario.base_ms, "base_ms");
        set(&mut scenario.base_spread, "base_spread");
        set(&mut scenario.request_rate, "request_rate");
        set(&mut scenario.request_bits, "request_bits");
        set(&mut scenario.news_delay.0, "news_delay_low");
        set(&mut scenario.news_delay.1, "news_delay_high");
        set(&mut scenario.actuation_delay.0, "actuation_delay_low");
        set(&mut scenario.actuation_delay.1, "actuation_delay_high");
        let delay = self.value("start_delay").unwrap_or(0.0);
        for index in 1..scenario.phases.len() {
            if let [before, load] = &mut scenario.phases[index - 1..=index]
                && before.demand == Demand::None
                && load.demand != Demand::None
            {
                before.seconds += delay;
                load.seconds -= delay;
            }
        }
    }
}

/// Linear between order statistics, as the lab's score has it.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss
)]
pub(crate) fn quantile(sorted: &[f64], q: f64) -> Option<f64> {
    let rank = q * sorted.len().checked_sub(1)? as f64;
    let (low, high) = (
        sorted.get(rank.floor() as usize)?,
        sorted.get(rank.ceil() as usize)?,
    );
    Some(low + (high - low) * rank.fract())
}
