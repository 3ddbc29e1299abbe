//! A run second by second, for pictures: the same windows that the score counts, and what was in force in each.

use std::collections::BTreeMap;

use super::{Counter, Error, Raw, SECOND_NS, Setup, windows};
use crate::raw::{PhaseKind, PodAction};

/// A run second by second. All times are seconds since its start.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// Length of the run.
    pub seconds: f64,
    /// Every whole second, in step with the first onset of load, so that they are the score's windows.
    pub windows: Vec<Second>,
    /// The lowest limit of a pod from each moment on, in bits per second; none: no pod is limited.
    pub limits: Vec<(f64, Option<f64>)>,
    /// Begin and end of each load phase.
    pub loads: Vec<(f64, f64)>,
}

/// One second of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Second {
    /// When it begins.
    pub at_s: f64,
    /// P95 of the critical requests in milliseconds; absent without requests.
    pub p95_ms: Option<f64>,
    /// Their interquartile range in milliseconds; absent without requests.
    pub jitter_ms: Option<f64>,
    /// Whether the window is violating.
    pub violating: bool,
    /// What arrived at the sinks in bits per second; absent where the counters were not read.
    pub goodput_bps: Option<f64>,
}

/// Takes a run apart.
///
/// # Errors
/// When there is no load phase that ended.
pub fn series(setup: &Setup, raw: &Raw) -> Result<Series, Error> {
    let (Some(first), Some(last)) = (raw.phases.first(), raw.phases.last()) else {
        return Err(Error::NoLoad);
    };
    let (start, end) = (first.unix_ns, last.unix_ns);
    let since = |moment: u64| (moment as f64 - start as f64) / SECOND_NS as f64;
    let loads: Vec<(u64, u64)> = raw
        .phases
        .windows(2)
        .filter(|pair| pair[0].kind == PhaseKind::Load)
        .map(|pair| (pair[0].unix_ns, pair[1].unix_ns))
        .collect();
    let onset = loads.first().ok_or(Error::NoLoad)?.0;
    let grid = start + onset.saturating_sub(start) % SECOND_NS;
    let sinks: Vec<Counter<'_>> = setup
        .sinks
        .iter()
        .map(|sink| Counter::of(raw, sink, |row| row.rx_bytes))
        .collect();
    let windows = windows(&raw.requests, grid, end)
        .into_iter()
        .map(|window| Second {
            at_s: since(window.start_ns),
            p95_ms: window.latency.map(|latency| latency.p95_ms),
            jitter_ms: window.latency.map(|latency| latency.jitter_ms),
            violating: window.violating,
            goodput_bps: sinks
                .iter()
                .map(|sink| sink.in_second(window.start_ns))
                .sum(),
        })
        .collect();
    Ok(Series {
        seconds: since(end),
        windows,
        limits: limits(raw, end)
            .into_iter()
            .map(|(at, limit)| (since(at).max(0.0), limit))
            .collect(),
        loads: loads
            .into_iter()
            .map(|(from, to)| (since(from), since(to)))
            .collect(),
    })
}

/// Each moment at which the lowest limit changes.
fn limits(raw: &Raw, end: u64) -> Vec<(u64, Option<f64>)> {
    let mut in_force: BTreeMap<&str, u64> = BTreeMap::new();
    let mut changes: Vec<(u64, Option<f64>)> = Vec::new();
    for event in raw.pods.iter().filter(|event| event.unix_ns <= end) {
        match event.action {
            PodAction::Limited(bits) => {
                in_force.insert(&event.endpoint, bits);
            }
            PodAction::Unlimited | PodAction::Gone => {
                in_force.remove(event.endpoint.as_str());
            }
            _ => continue,
        }
        let lowest = in_force.values().min().map(|bits| *bits as f64);
        if changes.last().is_none_or(|(_, before)| *before != lowest) {
            changes.push((event.unix_ns, lowest));
        }
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raw::{Outcome, PhaseStart, PodEvent, Request, Traffic};

    fn raw() -> Raw {
        let phase = |unix_ns, kind| PhaseStart { unix_ns, kind };
        let pod = |second: u64, endpoint: &str, action| PodEvent {
            unix_ns: second * SECOND_NS,
            endpoint: endpoint.to_owned(),
            pod: String::new(),
            uid: String::new(),
            action,
            annotation: "-".to_owned(),
        };
        Raw {
            // the load begins half a second off the whole second
            phases: vec![
                phase(10 * SECOND_NS, PhaseKind::Idle),
                phase(12 * SECOND_NS + SECOND_NS / 2, PhaseKind::Load),
                phase(15 * SECOND_NS, PhaseKind::End),
            ],
            requests: (0..100)
                .map(|n| Request {
                    intended_ns: 12 * SECOND_NS + SECOND_NS / 2 + n * 10_000_000,
                    latency_us: 30_000,
                    wire_us: 1,
                    outcome: Outcome::Status(200),
                })
                .collect(),
            traffic: (10..=20)
                .map(|second: u64| Traffic {
                    unix_ns: second * SECOND_NS,
                    endpoint: "sink".to_owned(),
                    tx_bytes: 0,
                    rx_bytes: 1000 * second,
                })
                .collect(),
            pods: vec![
                pod(9, "a", PodAction::Limited(50)),
                pod(13, "b", PodAction::Limited(40)),
                pod(14, "b", PodAction::Limited(60)),
                pod(14, "a", PodAction::Unlimited),
                pod(14, "b", PodAction::Unlimited),
            ],
            ..Raw::default()
        }
    }

    fn of_raw() -> Series {
        let setup = Setup {
            rate_bps: 1,
            sinks: vec!["sink".to_owned()],
            critical_client: "client".to_owned(),
            others: Vec::new(),
        };
        series(&setup, &raw()).unwrap()
    }

    #[test]
    fn windows_are_in_step_with_the_first_onset() {
        let series = of_raw();
        let starts: Vec<f64> = series.windows.iter().map(|window| window.at_s).collect();
        assert_eq!(starts, [0.5, 1.5, 2.5, 3.5]);
        assert_eq!(series.loads, [(2.5, 5.0)]);
        assert_eq!(series.windows[2].p95_ms, Some(30.0));
        assert_eq!(series.windows[2].goodput_bps, Some(8000.0));
    }

    #[test]
    fn a_second_without_requests_has_no_latency() {
        let series = of_raw();
        assert_eq!(series.windows[0].p95_ms, None);
        assert!(series.windows[0].violating);
    }

    #[test]
    fn the_lowest_limit_is_the_one_shown_and_no_limit_is_none() {
        assert_eq!(
            of_raw().limits,
            [
                (0.0, Some(50.0)),
                (3.0, Some(40.0)),
                (4.0, Some(50.0)),
                (4.0, Some(60.0)),
                (4.0, None)
            ]
        );
    }
}
