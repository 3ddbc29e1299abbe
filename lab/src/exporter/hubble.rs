//! Hubble's HTTP, drop and flow metrics, with its names, labels and buckets.
//!
//! Where each number comes from:
//! - durations and requests: only from the measuring client, from sending a request to the response's headers, as
//!   a proxy beside the client sees it. A request without a response leaves no duration, as with Hubble.
//! - drops with reason `POLICY_DENIED` and flows of type `Trace` and `Drop`: made up, at the constant rates (until a scenario changes them) that the predecessor's
//!   cluster showed, so that a baseline is there which has nothing to do with congestion.
//! - drops with reason `DROP_REASON_UNKNOWN`: real, counted by the bottleneck's queue. (A real Hubble does not see
//!   drops in a queue; without them there would be no drop signal to study at all.)
//! - flows of type `L7`: two per request, the request and its response.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

use crate::raw::{Outcome, Request};
use crate::scenario::{Buckets, CRITICAL_CLIENT, CRITICAL_SERVICE};

/// Hubble's buckets (client_golang's defaults), upper bounds in seconds.
pub const DEFAULT_BUCKETS: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];
/// Buckets that can tell 1 ms from 4 ms, upper bounds in seconds.
pub const FINE_BUCKETS: &[f64] = &[
    0.0005, 0.001, 0.0015, 0.002, 0.003, 0.004, 0.005, 0.006, 0.007, 0.008, 0.009, 0.01, 0.0125,
    0.015, 0.02, 0.025, 0.035, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];
/// Legitimate drops by policy, per second.
const POLICY_DROPS_PER_SECOND: f64 = 30.0;
/// Other flows, per second.
const OTHER_FLOWS_PER_SECOND: f64 = 295.0;

/// The metrics, fed by the run and rendered for each scrape.
#[derive(Debug, Clone)]
pub struct Metrics(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    bounds: &'static [f64],
    /// One more than bounds: the last counts what is above all of them.
    counts: Vec<u64>,
    sum_seconds: f64,
    statuses: BTreeMap<u16, u64>,
    queue_drops: u64,
    started: Instant,
    policy_drops: Steady,
}

/// What grows at a constant rate, which can change.
#[derive(Debug, Clone, Copy)]
struct Steady {
    /// Its value at `since_seconds`.
    value: f64,
    /// Seconds from the start.
    since_seconds: f64,
    per_second: f64,
}

impl Steady {
    fn at(&self, seconds: f64) -> f64 {
        self.value + (seconds - self.since_seconds) * self.per_second
    }

    fn change(&mut self, seconds: f64, per_second: f64) {
        *self = Self {
            value: self.at(seconds),
            since_seconds: seconds,
            per_second,
        };
    }
}

impl Metrics {
    /// Metrics without any request yet.
    #[must_use]
    pub fn new(buckets: Buckets) -> Self {
        let bounds = match buckets {
            Buckets::Default => DEFAULT_BUCKETS,
            Buckets::Fine => FINE_BUCKETS,
        };
        Self(Arc::new(Mutex::new(State {
            bounds,
            counts: vec![0; bounds.len() + 1],
            sum_seconds: 0.0,
            statuses: BTreeMap::new(),
            queue_drops: 0,
            started: Instant::now(),
            policy_drops: Steady {
                value: 0.0,
                since_seconds: 0.0,
                per_second: POLICY_DROPS_PER_SECOND,
            },
        })))
    }

    /// Counts one request of the client.
    pub fn observe(&self, request: &Request) {
        let Outcome::Status(status) = request.outcome else {
            return;
        };
        let seconds = request.wire_us as f64 / 1e6;
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let bucket = state.bounds.partition_point(|bound| *bound < seconds);
        state.counts[bucket] += 1;
        state.sum_seconds += seconds;
        *state.statuses.entry(status).or_default() += 1;
    }

    /// Sets the packets that the bottleneck's queue has dropped so far.
    pub fn set_queue_drops(&self, drops: u64) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .queue_drops = drops;
    }

    /// Sets the legitimate drops by policy per second from now on.
    pub fn set_policy_drops(&self, per_second: f64) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let elapsed = state.started.elapsed().as_secs_f64();
        state.policy_drops.change(elapsed, per_second);
    }

    /// The page for a scrape now.
    #[must_use]
    pub fn page(&self) -> String {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let elapsed = state.started.elapsed().as_secs_f64();
        state.page(elapsed)
    }
}

impl State {
    fn page(&self, elapsed_seconds: f64) -> String {
        let mut page = String::new();
        self.durations(&mut page);
        self.requests(&mut page);
        let policy_drops = self.policy_drops.at(elapsed_seconds).floor();
        let other_flows = (elapsed_seconds * OTHER_FLOWS_PER_SECOND).floor();
        let http_flows = 2 * self.statuses.values().sum::<u64>();
        // Writing to a String cannot fail.
        let _ = write!(
            page,
            "# HELP hubble_drop_total Number of drops (POLICY_DENIED: made up at a constant rate; DROP_REASON_UNKNOWN: the bottleneck's queue)
# TYPE hubble_drop_total counter
hubble_drop_total{{protocol=\"TCP\",reason=\"POLICY_DENIED\"}} {policy_drops}
hubble_drop_total{{protocol=\"TCP\",reason=\"DROP_REASON_UNKNOWN\"}} {queue_drops}
# HELP hubble_flows_processed_total Total number of flows processed (Trace and Drop: made up at a constant rate)
# TYPE hubble_flows_processed_total counter
hubble_flows_processed_total{{protocol=\"HTTP\",subtype=\"HTTP\",type=\"L7\",verdict=\"FORWARDED\"}} {http_flows}
hubble_flows_processed_total{{protocol=\"TCP\",subtype=\"to-endpoint\",type=\"Trace\",verdict=\"FORWARDED\"}} {other_flows}
hubble_flows_processed_total{{protocol=\"TCP\",subtype=\"\",type=\"Drop\",verdict=\"DROPPED\"}} {policy_drops}
",
            queue_drops = self.queue_drops,
        );
        page
    }

    fn durations(&self, page: &mut String) {
        let name = "hubble_http_request_duration_seconds";
        let labels = format!(
            "destination_workload=\"{CRITICAL_SERVICE}\",method=\"POST\",reporter=\"client\",source_workload=\"{CRITICAL_CLIENT}\""
        );
        let _ = writeln!(
            page,
            "# HELP {name} Quantiles of HTTP request duration in seconds\n# TYPE {name} histogram"
        );
        let count: u64 = self.counts.iter().sum();
        if count == 0 {
            return; // Hubble has no series before the first response either.
        }
        let mut cumulative = 0;
        for (bound, bucket) in self.bounds.iter().zip(&self.counts) {
            cumulative += bucket;
            let _ = writeln!(
                page,
                "{name}_bucket{{{labels},le=\"{bound}\"}} {cumulative}"
            );
        }
        let sum = self.sum_seconds;
        let _ = write!(
            page,
            "{name}_bucket{{{labels},le=\"+Inf\"}} {count}\n{name}_sum{{{labels}}} {sum}\n{name}_count{{{labels}}} {count}\n"
        );
    }

    fn requests(&self, page: &mut String) {
        let name = "hubble_http_requests_total";
        let _ = writeln!(
            page,
            "# HELP {name} Count of HTTP requests\n# TYPE {name} counter"
        );
        for (status, count) in &self.statuses {
            let _ = writeln!(
                page,
                "{name}{{destination_workload=\"{CRITICAL_SERVICE}\",method=\"POST\",protocol=\"HTTP/1.1\",reporter=\"client\",source_workload=\"{CRITICAL_CLIENT}\",status=\"{status}\"}} {count}"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(wire_us: u64, outcome: Outcome) -> Request {
        Request {
            intended_ns: 0,
            latency_us: wire_us + 500,
            wire_us,
            outcome,
        }
    }

    #[test]
    fn buckets_are_cumulative_and_their_bounds_inclusive() {
        let metrics = Metrics::new(Buckets::Default);
        for wire_us in [1_000, 5_000, 5_001, 60_000, 20_000_000] {
            metrics.observe(&request(wire_us, Outcome::Status(200)));
        }
        let page = metrics.page();
        let bucket = |le: &str, count: u64| {
            page.contains(&format!(
                "source_workload=\"robot-control\",le=\"{le}\"}} {count}\n"
            ))
        };
        assert!(bucket("0.005", 2), "{page}");
        assert!(bucket("0.01", 3), "{page}");
        assert!(bucket("0.1", 4), "{page}");
        assert!(bucket("1", 4), "{page}");
        assert!(bucket("10", 4), "{page}");
        assert!(bucket("+Inf", 5), "{page}");
        assert!(page.contains("_sum{destination_workload=\"robot-factory\",method=\"POST\",reporter=\"client\",source_workload=\"robot-control\"} 20.071001\n"), "{page}");
    }

    #[test]
    fn a_request_without_a_response_leaves_no_trace() {
        let metrics = Metrics::new(Buckets::Fine);
        metrics.observe(&request(0, Outcome::Timeout));
        let page = metrics.page();
        assert!(!page.contains("_bucket{"), "{page}");
        assert!(!page.contains("hubble_http_requests_total{"), "{page}");
    }

    #[test]
    fn an_error_status_is_a_response() {
        let metrics = Metrics::new(Buckets::Default);
        metrics.observe(&request(1_000, Outcome::Status(503)));
        assert!(metrics.page().contains("status=\"503\"} 1\n"));
    }

    #[test]
    fn the_baseline_grows_with_time_and_real_drops_stand_beside_it() {
        let metrics = Metrics::new(Buckets::Default);
        metrics.set_queue_drops(7);
        let page = metrics.0.lock().unwrap().page(10.0);
        assert!(page.contains("reason=\"POLICY_DENIED\"} 300\n"), "{page}");
        assert!(
            page.contains("reason=\"DROP_REASON_UNKNOWN\"} 7\n"),
            "{page}"
        );
        assert!(
            page.contains("type=\"Trace\",verdict=\"FORWARDED\"} 2950\n"),
            "{page}"
        );
    }

    #[test]
    fn policy_drops_go_on_from_where_they_were_when_their_rate_changes() {
        let metrics = Metrics::new(Buckets::Default);
        metrics.0.lock().unwrap().policy_drops.change(10.0, 300.0);
        let page = metrics.0.lock().unwrap().page(12.0);
        assert!(page.contains("reason=\"POLICY_DENIED\"} 900\n"), "{page}");
    }
}
