//! Scrapes of one workload to a sample's content: window, signals, and how far they may be trusted. Pure; `now` is an argument.
//!
//! Mind when reading values: Hubble observes 0 for a response that it could not match to its request, so failed matches sit in
//! the lowest bucket and pull quantiles down; and a histogram's default buckets make everything below 5 ms read as P95 4.75 ms
//! and jitter 2.5 ms, which is why every quantile carries the bounds of its bucket.

use std::time::Duration;

use laneguard_proto::policy::{Metric, Target};

use crate::histogram::{Distribution, Quantile};
use crate::pace::{MOST_SCRAPES, lookback_ms, stale_after_ms};
use crate::series::{Increase, Source, median_interval};

/// Requests that a window should have; older scrapes are added until it has.
const WANTED_REQUESTS: f64 = 30.0;
/// With fewer there is no speaking of quantiles.
const LEAST_REQUESTS: f64 = 5.0;
/// Below this rate a workload is quiet, and idle after a while; requests per second.
const LEAST_RATE: f64 = 1.0;

/// Where a request was observed, the one to prefer first: the server's side lacks the network between client and server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reporter {
    /// `reporter="client"`.
    Client,
    /// `reporter="server"`.
    Server,
    /// Anything else, also no such label.
    Unknown,
}

impl Reporter {
    const ALL: [Self; 3] = [Self::Client, Self::Server, Self::Unknown];

    fn of(label: &str) -> Self {
        match label {
            "client" => Self::Client,
            "server" => Self::Server,
            _ => Self::Unknown,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
            Self::Unknown => "unknown",
        }
    }
}

/// How far a sample may be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Quality {
    /// Fresh, enough requests, finer than the targets.
    Good,
    /// Fresh, but a target lies inside the bounds the buckets can prove.
    Coarse,
    /// Fresh series with next to no traffic for the policy's idleAfter.
    Idle,
    /// The newest scrape is too old.
    Stale,
    /// No series, or too few requests.
    NoData,
    /// The query failed.
    Failed,
}

impl Quality {
    /// Whether the values may be acted on.
    pub fn usable(self) -> bool {
        matches!(self, Self::Good | Self::Coarse)
    }
}

/// Signals in milliseconds; `None`: unknown.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Signals {
    /// 25th percentile.
    pub p25_ms: Option<f64>,
    /// Median.
    pub p50_ms: Option<f64>,
    /// 75th percentile.
    pub p75_ms: Option<f64>,
    /// 95th percentile.
    pub p95_ms: Option<f64>,
    /// 99th percentile.
    pub p99_ms: Option<f64>,
    /// Mean.
    pub mean_ms: Option<f64>,
    /// Interquartile range.
    pub jitter_ms: Option<f64>,
}

/// Between which values a signal is proven to lie, milliseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Span {
    /// Not below.
    pub low_ms: f64,
    /// Not above; `None`: unbounded.
    pub high_ms: Option<f64>,
}

/// The signals of one window and what its buckets can prove.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Raw {
    /// The values.
    pub signals: Signals,
    /// Bounds of the 95th percentile.
    pub p95: Option<Span>,
    /// Bounds of the 99th percentile.
    pub p99: Option<Span>,
    /// Bounds of the jitter.
    pub jitter: Option<Span>,
}

/// From the oldest to the newest scrape used, milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// The oldest scrape.
    pub start_ms: i64,
    /// The newest scrape.
    pub end_ms: i64,
}

/// What was measured of one workload, or why nothing was.
#[derive(Debug, Clone, PartialEq)]
pub struct Measurement {
    /// How far to trust it.
    pub quality: Quality,
    /// Why: one sentence.
    pub reason: String,
    /// Metric and reporter; empty when nothing was found.
    pub source: String,
    /// When; `None` when nothing was measured.
    pub window: Option<Window>,
    /// The signals; `None` when there were too few requests or they are too old.
    pub raw: Option<Raw>,
    /// Requests in the window.
    pub count: Option<f64>,
    /// Requests per second in the window.
    pub request_rate: Option<f64>,
}

/// What is asked about one workload.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    /// The histogram's name, for the sample's source.
    pub metric: &'a str,
    /// The policy's targets.
    pub targets: &'a [Target],
    /// The policy's idleAfter.
    pub idle_after: Duration,
}

/// What was scraped of one workload.
#[derive(Debug, Clone, Default)]
pub struct Scraped {
    /// Its sources.
    pub sources: Vec<Source>,
    /// Median scrape interval, milliseconds; `None` when nothing was scraped twice.
    pub interval_ms: Option<i64>,
    /// Newest scrape, milliseconds since the Unix epoch.
    pub newest_ms: Option<i64>,
    /// What Prometheus warned of, such as a partial answer.
    pub warning: Option<String>,
}

impl Scraped {
    /// Puts an answer's sources together.
    pub fn of(sources: Vec<Source>, warning: Option<String>) -> Self {
        Self {
            interval_ms: median_interval(sources.iter().flat_map(Source::intervals)),
            newest_ms: sources.iter().filter_map(Source::newest_ms).max(),
            sources,
            warning,
        }
    }
}

/// What a workload's next measurement must be given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// The side that last had enough requests, and when.
    reporter: Option<(Reporter, i64)>,
    quiet: Option<Quiet>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Quiet {
    since_ms: i64,
    last_ms: i64,
}

impl Memory {
    /// Goes on from the last sample of another collector.
    pub fn resumed(
        quality: Quality,
        source: &str,
        window_end_ms: i64,
        idle_after: Duration,
    ) -> Self {
        let reporter = source
            .rsplit_once('/')
            .map(|(_, reporter)| Reporter::of(reporter));
        Self {
            reporter: reporter
                .filter(|_| quality.usable())
                .map(|r| (r, window_end_ms)),
            quiet: (quality == Quality::Idle).then(|| Quiet {
                since_ms: window_end_ms - ms(idle_after),
                last_ms: window_end_ms,
            }),
        }
    }
}

fn ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// One side's observations in the window that was chosen for it.
struct Candidate {
    reporter: Reporter,
    newest_ms: i64,
    window: Option<Gathered>,
    late: usize,
    sources: usize,
}

#[derive(Default)]
struct Gathered {
    start_ms: i64,
    end_ms: i64,
    count: f64,
    rate: f64,
    sum: Option<f64>,
    distribution: Distribution,
}

impl Candidate {
    fn fresh(&self, now_ms: i64, interval_ms: i64) -> bool {
        now_ms - self.newest_ms <= stale_after_ms(interval_ms)
    }

    fn enough(&self) -> bool {
        self.window
            .as_ref()
            .is_some_and(|w| w.count >= LEAST_REQUESTS)
    }
}

/// Measures one workload. `scraped` is what its query answered, or why it failed.
#[must_use]
pub fn measure(
    now_ms: i64,
    ask: &Ask<'_>,
    scraped: Result<&Scraped, &str>,
    memory: Memory,
) -> (Measurement, Memory) {
    let scraped = match scraped {
        Ok(scraped) => scraped,
        Err(error) => {
            return (
                nothing(Quality::Failed, format!("the query failed: {error}")),
                memory,
            );
        }
    };
    let (mut measurement, memory) = judge(now_ms, ask, scraped, memory);
    if let Some(warning) = &scraped.warning {
        measurement.reason.push_str("; Prometheus warns: ");
        measurement.reason.push_str(warning);
    }
    (measurement, memory)
}

fn nothing(quality: Quality, reason: String) -> Measurement {
    Measurement {
        quality,
        reason,
        source: String::new(),
        window: None,
        raw: None,
        count: None,
        request_rate: None,
    }
}

fn judge(now_ms: i64, ask: &Ask<'_>, scraped: &Scraped, memory: Memory) -> (Measurement, Memory) {
    let Some(newest_ms) = scraped.newest_ms else {
        let reason = "no series of this workload were found".to_owned();
        let memory = Memory {
            quiet: None,
            ..memory
        };
        return (nothing(Quality::NoData, reason), memory);
    };
    let interval_ms = scraped.interval_ms.unwrap_or(0);
    let candidates: Vec<Candidate> = Reporter::ALL
        .into_iter()
        .filter_map(|reporter| candidate(reporter, &scraped.sources, interval_ms))
        .collect();
    let Some(chosen) = choose(now_ms, interval_ms, ask, &candidates, memory) else {
        return (
            nothing(
                Quality::NoData,
                "no series of this workload were found".to_owned(),
            ),
            memory,
        );
    };
    let source = format!("{}/{}", ask.metric, chosen.reporter.as_str());
    let age_ms = (now_ms - chosen.newest_ms).max(0);
    if !chosen.fresh(now_ms, interval_ms) {
        let reason = format!(
            "the newest scrape is {} old, more than {}",
            seconds(age_ms),
            seconds(stale_after_ms(interval_ms))
        );
        let window = Window {
            start_ms: chosen.newest_ms,
            end_ms: chosen.newest_ms,
        };
        let measurement = Measurement {
            source,
            window: Some(window),
            ..nothing(Quality::Stale, reason)
        };
        return (
            measurement,
            Memory {
                quiet: None,
                ..memory
            },
        );
    }
    let Some(gathered) = &chosen.window else {
        let reason = format!(
            "there are no two scrapes to compare yet, the newest is {} old",
            seconds((now_ms - newest_ms).max(0))
        );
        let measurement = Measurement {
            source,
            ..nothing(Quality::NoData, reason)
        };
        return (
            measurement,
            Memory {
                quiet: None,
                ..memory
            },
        );
    };

    let quiet = quiet(now_ms, interval_ms, &candidates, gathered, memory.quiet);
    let idle = quiet.is_some_and(|q| now_ms - q.since_ms >= ms(ask.idle_after));
    let reporter = match memory.reporter {
        _ if chosen.enough() => Some((chosen.reporter, now_ms)),
        remembered => remembered,
    };
    let raw = chosen.enough().then(|| raw(gathered));
    let (quality, mut reason) = match &raw {
        _ if idle => (
            Quality::Idle,
            format!(
                "{:.1} requests/s, below {LEAST_RATE} for at least {}",
                gathered.rate,
                seconds(ms(ask.idle_after))
            ),
        ),
        None => (
            Quality::NoData,
            format!(
                "{} requests in {}, at least {LEAST_REQUESTS} are needed",
                gathered.count,
                seconds(gathered.end_ms - gathered.start_ms)
            ),
        ),
        Some(raw) => against_targets(ask.targets, raw).unwrap_or_else(|| {
            let reason = format!(
                "{} requests in {}, newest scrape {} old",
                gathered.count,
                seconds(gathered.end_ms - gathered.start_ms),
                seconds(age_ms)
            );
            (Quality::Good, reason)
        }),
    };
    if chosen.late > 0 {
        let late = format!(
            "; {} of {} sources are late and not counted",
            chosen.late, chosen.sources
        );
        reason.push_str(&late);
    }
    let measurement = Measurement {
        quality,
        reason,
        source,
        window: Some(Window {
            start_ms: gathered.start_ms,
            end_ms: gathered.end_ms,
        }),
        raw,
        count: Some(gathered.count),
        request_rate: Some(gathered.rate),
    };
    (measurement, Memory { reporter, quiet })
}

/// One side's sources, put together over the fewest scrapes that hold enough requests.
fn candidate(reporter: Reporter, all: &[Source], interval_ms: i64) -> Option<Candidate> {
    let ours: Vec<&Source> = all
        .iter()
        .filter(|s| Reporter::of(&s.reporter) == reporter)
        .collect();
    let newest_ms = ours.iter().filter_map(|s| s.newest_ms()).max()?;
    // a source that missed a scrape or two has no news; nor has one that is gone, and Prometheus does not tell the two apart
    let current = |s: &&&Source| {
        s.newest_ms()
            .is_some_and(|at| newest_ms - at <= 2 * interval_ms)
    };
    let timely: Vec<Vec<Increase>> = ours
        .iter()
        .filter(current)
        .map(|s| recent(s, interval_ms))
        .collect();
    Some(Candidate {
        reporter,
        newest_ms,
        late: ours.len() - timely.len(),
        sources: ours.len(),
        window: gather(&timely),
    })
}

/// The increases a window may use, newest first.
fn recent(source: &Source, interval_ms: i64) -> Vec<Increase> {
    let newest_ms = source.newest_ms().unwrap_or_default();
    let lookback = lookback_ms(interval_ms);
    source
        .increases()
        .take(usize::try_from(MOST_SCRAPES).unwrap_or_default())
        .enumerate()
        .take_while(|(n, increase)| {
            let reach = newest_ms - increase.start_ms;
            if *n == 0 {
                // over a hole in the scrapes it would mix old news with new
                reach <= lookback.max(stale_after_ms(interval_ms))
            } else {
                // scrapes are not exactly an interval apart
                reach <= lookback + interval_ms / 2
            }
        })
        .map(|(_, increase)| increase)
        .collect()
}

fn gather(sources: &[Vec<Increase>]) -> Option<Gathered> {
    let most = sources
        .iter()
        .map(Vec::len)
        .max()
        .filter(|most| *most > 0)?;
    let count = |k: usize| -> f64 {
        sources
            .iter()
            .flat_map(|s| s.iter().take(k))
            .map(|i| i.count)
            .sum()
    };
    let k = match (1..=most).find(|k| count(*k) >= WANTED_REQUESTS) {
        // Traffic fell: a scrape that has enough by itself is the past, and must not pass for news of a network that went dead.
        Some(k) if k > 1 && count(k) - count(k - 1) >= WANTED_REQUESTS => k - 1,
        Some(k) => k,
        None => most,
    };
    let mut gathered = Gathered {
        start_ms: i64::MAX,
        end_ms: i64::MIN,
        sum: Some(0.0),
        ..Gathered::default()
    };
    for source in sources {
        let used = &source[..k.min(source.len())];
        let (Some(newest), Some(oldest)) = (used.first(), used.last()) else {
            continue;
        };
        gathered.start_ms = gathered.start_ms.min(oldest.start_ms);
        gathered.end_ms = gathered.end_ms.max(newest.end_ms);
        let count: f64 = used.iter().map(|i| i.count).sum();
        gathered.count += count;
        gathered.rate += count * 1000.0 / (newest.end_ms - oldest.start_ms).max(1) as f64;
        for increase in used {
            gathered.distribution.add(increase.buckets.iter().copied());
            gathered.sum = gathered.sum.zip(increase.sum).map(|(a, b)| a + b);
        }
    }
    Some(gathered)
}

/// Prefers the client's side where it has data. A better side that had data within idleAfter is not left because it fell silent:
/// with the network down the server still answers those who reach it, and would look healthy.
fn choose<'a>(
    now_ms: i64,
    interval_ms: i64,
    ask: &Ask<'_>,
    candidates: &'a [Candidate],
    memory: Memory,
) -> Option<&'a Candidate> {
    let with_data = candidates
        .iter()
        .find(|c| c.fresh(now_ms, interval_ms) && c.enough());
    let remembered = memory
        .reporter
        .filter(|(_, at)| now_ms - at < ms(ask.idle_after))
        .and_then(|(reporter, _)| candidates.iter().find(|c| c.reporter == reporter));
    match (remembered, with_data) {
        (Some(remembered), Some(with_data)) if with_data.reporter <= remembered.reporter => {
            Some(with_data)
        }
        (Some(remembered), _) => Some(remembered),
        (None, Some(with_data)) => Some(with_data),
        (None, None) => {
            let fresh = candidates.iter().find(|c| c.fresh(now_ms, interval_ms));
            fresh.or_else(|| candidates.iter().max_by_key(|c| c.newest_ms))
        }
    }
}

/// Since when no side has seen traffic worth speaking of.
fn quiet(
    now_ms: i64,
    interval_ms: i64,
    candidates: &[Candidate],
    gathered: &Gathered,
    before: Option<Quiet>,
) -> Option<Quiet> {
    let rate_of = |c: &Candidate| c.window.as_ref().map_or(0.0, |w| w.rate);
    let busy = candidates
        .iter()
        .any(|c| c.fresh(now_ms, interval_ms) && rate_of(c) >= LEAST_RATE);
    if busy {
        return None;
    }
    // what happened while nobody looked is unknown
    let continued = before.filter(|q| now_ms - q.last_ms <= 2 * stale_after_ms(interval_ms));
    Some(Quiet {
        since_ms: continued.map_or(gathered.start_ms, |q| q.since_ms),
        last_ms: now_ms,
    })
}

fn raw(gathered: &Gathered) -> Raw {
    let [p25, p50, p75, p95, p99] = gathered
        .distribution
        .quantiles([0.25, 0.5, 0.75, 0.95, 0.99]);
    let value = |q: Option<Quantile>| q.map(|q| q.value * 1000.0);
    let span = |q: Option<Quantile>| {
        q.map(|q| Span {
            low_ms: q.low * 1000.0,
            high_ms: q.high.map(|high| high * 1000.0),
        })
    };
    let quartiles = p25.zip(p75);
    Raw {
        signals: Signals {
            p25_ms: value(p25),
            p50_ms: value(p50),
            p75_ms: value(p75),
            p95_ms: value(p95),
            p99_ms: value(p99),
            mean_ms: gathered.sum.map(|sum| sum * 1000.0 / gathered.count),
            jitter_ms: quartiles.map(|(p25, p75)| (p75.value - p25.value) * 1000.0),
        },
        p95: span(p95),
        p99: span(p99),
        jitter: quartiles.map(|(p25, p75)| Span {
            low_ms: p25.high.map_or(0.0, |high| (p75.low - high).max(0.0)) * 1000.0,
            high_ms: p75.high.map(|high| (high - p25.low) * 1000.0),
        }),
    }
}

/// `None` when the source can tell on which side of each target the value lies.
fn against_targets(targets: &[Target], raw: &Raw) -> Option<(Quality, String)> {
    let mut unmeasured = Vec::new();
    let mut coarse = Vec::new();
    for target in targets {
        let at = target.below_ms();
        let (name, span) = match target.metric {
            Metric::P95 => ("P95", raw.p95),
            Metric::P99 => ("P99", raw.p99),
            Metric::Jitter => ("Jitter", raw.jitter),
            // sum over count is exact
            Metric::Mean => (
                "Mean",
                raw.signals.mean_ms.map(|mean| Span {
                    low_ms: mean,
                    high_ms: Some(mean),
                }),
            ),
        };
        match span {
            None => unmeasured.push(name),
            Some(span) if span.low_ms < at && span.high_ms.is_none_or(|high| at < high) => {
                let upto = span
                    .high_ms
                    .map_or("infinity".to_owned(), |high| format!("{} ms", short(high)));
                let (at, low) = (short(at), short(span.low_ms));
                coarse.push(format!(
                    "the {name} target {at} ms lies within {low} to {upto}, which is all the buckets tell: unmeasurable by this source"
                ));
            }
            Some(_) => {}
        }
    }
    if !unmeasured.is_empty() {
        let reason = format!("the source does not measure {}", unmeasured.join(", "));
        Some((Quality::NoData, reason))
    } else if !coarse.is_empty() {
        Some((Quality::Coarse, coarse.join("; ")))
    } else {
        None
    }
}

fn seconds(ms: i64) -> String {
    format!("{:.1} s", ms as f64 / 1000.0)
}

/// Milliseconds for people: at most three decimals, none where they are zero.
fn short(ms: f64) -> f64 {
    (ms * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests;
