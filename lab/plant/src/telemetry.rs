//! From requests and counters to samples, as Prometheus and the collector make them: cumulative buckets, windows of whole
//! scrapes that reach back until they hold enough requests, linear interpolation, bounds, quality.

use laneguard_decider_core::sample::{Quality, Sample, Usage};

use crate::{
    link::{Bottleneck, Request},
    scenario::{CLASS, Scenario, WORKLOAD},
};

/// Requests that a window should have, and must have.
const REQUESTS: (f64, f64) = (30.0, 5.0);
/// Scrapes and seconds a window reaches back at most.
const REACH: (usize, f64) = (10, 10.0);
/// Below so many requests per second for so many seconds a workload is idle.
const IDLE: (f64, f64) = (1.0, 60.0);

/// Scrapes that a drop rate spans.
const DROP_SCRAPES: usize = 5;
/// Legitimate drops by policy per second, as the lab makes them up.
const POLICY_DROPS: f64 = 30.0;

#[derive(Clone, Debug)]
struct Latencies {
    at: f64,
    counts: Vec<f64>,
    sum_ms: f64,
}

/// What has been scraped.
#[derive(Debug)]
pub struct Telemetry {
    counts: Vec<f64>,
    sum_ms: f64,
    pending: Vec<Request>,
    latencies: Vec<Latencies>,
    counters: Vec<(f64, Vec<f64>)>,
    drops: Vec<(f64, f64)>,
    quiet_since: Option<f64>,
    sequence: u64,
}

impl Telemetry {
    /// Nothing scraped yet.
    #[must_use]
    pub fn new(scenario: &Scenario) -> Self {
        Self {
            counts: vec![0.0; scenario.buckets.len() + 1],
            sum_ms: 0.0,
            pending: Vec::new(),
            latencies: Vec::new(),
            counters: Vec::new(),
            drops: Vec::new(),
            quiet_since: None,
            sequence: 0,
        }
    }

    /// Requests under way; each is counted when it is answered.
    pub fn add(&mut self, requests: &[Request]) {
        self.pending.extend_from_slice(requests);
    }

    /// Scrapes the histogram and the drops.
    pub fn scrape_latency(&mut self, scenario: &Scenario, bottleneck: &Bottleneck, at: f64) {
        self.drops.push((at, bottleneck.dropped_packets));
        if self.drops.len() > DROP_SCRAPES {
            self.drops.remove(0);
        }
        let (counts, sum_ms) = (&mut self.counts, &mut self.sum_ms);
        self.pending.retain(|request| {
            let is_answered = request.sent + request.latency_ms / 1e3 <= at;
            if is_answered {
                let bucket = scenario
                    .buckets
                    .partition_point(|bound| *bound < request.latency_ms);
                counts[bucket] += 1.0;
                *sum_ms += request.latency_ms;
            }
            !is_answered
        });
        self.latencies.push(Latencies {
            at,
            counts: self.counts.clone(),
            sum_ms: self.sum_ms,
        });
        if self.latencies.len() > REACH.0 + 1 {
            self.latencies.remove(0);
        }
    }

    /// Scrapes what pods sent.
    pub fn scrape_usage(&mut self, bottleneck: &Bottleneck, at: f64) {
        self.counters.push((at, bottleneck.sent_bits().collect()));
        if self.counters.len() > 2 {
            self.counters.remove(0);
        }
    }

    /// The sample of a poll at `at`; the samples' clock is ahead by what the scenario says.
    pub fn sample(&mut self, scenario: &Scenario, at: f64) -> Sample {
        self.sequence += 1;
        let theirs = |seconds: f64| milliseconds(seconds + scenario.clock_ahead);
        let mut sample = Sample {
            workload: WORKLOAD.into(),
            sequence: self.sequence,
            window_start_ms: theirs(at),
            window_end_ms: theirs(at),
            observed_at_ms: theirs(at),
            quality: Quality::NoData,
            usage: self.usage(scenario),
            drop_rate: self.drop_rate(),
            ..Sample::default()
        };
        let Some(newest) = self.latencies.last() else {
            return sample;
        };
        sample.window_end_ms = theirs(newest.at);
        sample.window_start_ms = sample.window_end_ms;
        if at - newest.at > (3.0 * scenario.scrape).max(5.0) {
            sample.quality = Quality::Stale;
            return sample;
        }
        let reach = scenario.scrape.max(REACH.1) + 0.01;
        let older = self
            .latencies
            .iter()
            .rev()
            .skip(1)
            .take_while(|older| newest.at - older.at <= reach);
        let mut window = None;
        for older in older {
            let counts: Vec<f64> = newest
                .counts
                .iter()
                .zip(&older.counts)
                .map(|(a, b)| a - b)
                .collect();
            let count: f64 = counts.iter().sum();
            window = Some((older.at, newest.sum_ms - older.sum_ms, counts, count));
            if count >= REQUESTS.0 {
                break;
            }
        }
        let Some((start, sum_ms, counts, count)) = window else {
            return sample;
        };
        sample.window_start_ms = theirs(start);
        sample.count = Some(count);
        let rate = count / (newest.at - start);
        sample.request_rate = Some(rate);
        if rate < IDLE.0 {
            let since = *self.quiet_since.get_or_insert(at);
            if at - since >= IDLE.1 {
                sample.quality = Quality::Idle;
                return sample;
            }
        } else {
            self.quiet_since = None;
        }
        if count < REQUESTS.1 {
            return sample;
        }
        fill(scenario, &mut sample, &counts, count, sum_ms);
        sample
    }

    /// Over four intervals, as the collector asks; policy drops are always there.
    fn drop_rate(&self) -> Option<f64> {
        let (first, last) = (self.drops.first()?, self.drops.last()?);
        (last.0 > first.0).then(|| POLICY_DROPS + (last.1 - first.1) / (last.0 - first.0))
    }

    fn usage(&self, scenario: &Scenario) -> Vec<Usage> {
        let ([(start, from), (end, to)], true) = (self.counters.as_slice(), scenario.has_usage)
        else {
            return Vec::new();
        };
        let rates: Vec<f64> = from
            .iter()
            .zip(to)
            .map(|(from, to)| (to - from) / (end - start))
            .collect();
        let theirs = |seconds: f64| Some(milliseconds(seconds + scenario.clock_ahead));
        vec![Usage {
            class: CLASS.into(),
            total_bps: rates.iter().sum(),
            pods: rates.len() as u64,
            top_pod_bps: rates.iter().copied().fold(0.0, f64::max),
            window_start_ms: theirs(*start),
            window_end_ms: theirs(*end),
        }]
    }
}

fn fill(scenario: &Scenario, sample: &mut Sample, counts: &[f64], count: f64, sum_ms: f64) {
    let quantile = |q: f64| quantile(scenario.buckets, counts, q);
    let (p25, p75, p95) = (quantile(0.25), quantile(0.75), quantile(0.95));
    let jitter = p75.value - p25.value;
    let (jitter_low, jitter_high) = ((p75.low - p25.high).max(0.0), p75.high - p25.low);
    sample.p25_ms = Some(p25.value);
    sample.p50_ms = Some(quantile(0.5).value);
    sample.p75_ms = Some(p75.value);
    sample.p95_ms = Some(p95.value);
    sample.p99_ms = Some(quantile(0.99).value);
    sample.mean_ms = Some(sum_ms / count);
    sample.jitter_ms = Some(jitter);
    (sample.p95_low_ms, sample.p95_high_ms) = (Some(p95.low), Some(p95.high));
    (sample.jitter_low_ms, sample.jitter_high_ms) = (Some(jitter_low), Some(jitter_high));
    let straddles = |target: Option<f64>, low: f64, high: f64| {
        target.is_some_and(|target| low < target && target < high)
    };
    let is_coarse = straddles(scenario.targets.p95_ms, p95.low, p95.high)
        || straddles(scenario.targets.jitter_ms, jitter_low, jitter_high);
    sample.quality = if is_coarse {
        Quality::Coarse
    } else {
        Quality::Good
    };
}

struct Quantile {
    value: f64,
    low: f64,
    high: f64,
}

/// As PromQL's `histogram_quantile`: linear inside a bucket, the greatest bound above all of them.
fn quantile(bounds: &[f64], counts: &[f64], q: f64) -> Quantile {
    let rank = q * counts.iter().sum::<f64>();
    let mut below = 0.0;
    let mut low = 0.0;
    for (bound, count) in bounds.iter().zip(counts) {
        if below + count >= rank && *count > 0.0 {
            return Quantile {
                value: low + (bound - low) * (rank - below) / count,
                low,
                high: *bound,
            };
        }
        below += count;
        low = *bound;
    }
    Quantile {
        value: low,
        low,
        high: low,
    }
}

/// Seconds of the run as Unix milliseconds; the epoch of all runs is 10^6 s.
#[allow(clippy::cast_possible_truncation)]
pub(crate) fn milliseconds(seconds: f64) -> i64 {
    ((seconds + 1e6) * 1e3).round() as i64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::HUBBLE_MS;

    #[test]
    fn below_the_lowest_bound_quantiles_interpolate_as_promql_does() {
        let mut counts = vec![0.0; HUBBLE_MS.len() + 1];
        counts[0] = 200.0;
        assert_eq!(quantile(HUBBLE_MS, &counts, 0.95).value, 4.75);
        counts[4] = 200.0;
        // Rank 380 of 400: 180 of 200 into the bucket from 50 to 100 ms.
        let p95 = quantile(HUBBLE_MS, &counts, 0.95);
        assert_eq!((p95.value, p95.low, p95.high), (95.0, 50.0, 100.0));
    }
}
