//! Transmit counters to what each best-effort class sends. Pure.

use std::collections::HashMap;

use laneguard_proto::placement::ClassPlacement;

use crate::series::{Series, counter_increase, median_interval};

/// What the pods of one class sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Usage {
    /// The class.
    pub class: String,
    /// All counted pods together, bits per second.
    pub total_bps: f64,
    /// Pods counted.
    pub pods: u32,
    /// The pod that sent most, bits per second.
    pub top_pod_bps: f64,
    /// The oldest counter that was used, milliseconds since the Unix epoch.
    pub start_ms: i64,
    /// The newest counter that was used, milliseconds since the Unix epoch.
    pub end_ms: i64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct PodRate {
    bps: f64,
    start_ms: i64,
    end_ms: i64,
}

/// What every pod in an answer sends, from its two newest scrapes.
#[derive(Debug, Default)]
pub struct PodRates {
    /// Median interval between the counters' scrapes, milliseconds.
    pub interval_ms: Option<i64>,
    /// The newest scrape, milliseconds since the Unix epoch.
    pub newest_ms: Option<i64>,
    /// By namespace, then pod.
    pods: HashMap<String, HashMap<String, PodRate>>,
}

impl PodRates {
    /// Reads the counters. A pod counts with one interface: `eth0` when it has that, else its first by name; seen by several
    /// scrapers, with the freshest. Pods whose newest counter is late by three intervals are gone and do not count.
    pub fn of(series: &[Series]) -> Self {
        let times = |s: &Series| s.values.iter().map(|v| v.0).collect::<Vec<_>>();
        let interval_ms = median_interval(series.iter().flat_map(|s| {
            let times = times(s);
            times.windows(2).map(|w| w[1] - w[0]).collect::<Vec<_>>()
        }));
        let newest_ms = series
            .iter()
            .filter_map(|s| s.values.last())
            .map(|v| v.0)
            .max();
        let mut best: HashMap<(&str, &str), &Series> = HashMap::new();
        for one in series {
            let newest = |s: &Series| s.values.last().map(|v| v.0);
            let rank = |s: &Series| {
                (
                    s.label("interface") != "eth0",
                    s.label("interface").to_owned(),
                )
            };
            let pod = (one.label("namespace"), one.label("pod"));
            let kept = best.entry(pod).or_insert(one);
            let better = match rank(one).cmp(&rank(kept)) {
                std::cmp::Ordering::Less => true,
                std::cmp::Ordering::Equal => newest(one) > newest(kept),
                std::cmp::Ordering::Greater => false,
            };
            if better {
                *kept = one;
            }
        }
        let mut pods: HashMap<String, HashMap<String, PodRate>> = HashMap::new();
        for ((namespace, pod), series) in best {
            let late = |rate: &PodRate| {
                newest_ms
                    .zip(interval_ms)
                    .is_some_and(|(newest, interval)| newest - rate.end_ms > 3 * interval)
            };
            if let Some(rate) = pod_rate(series).filter(|rate| !late(rate)) {
                pods.entry(namespace.to_owned())
                    .or_default()
                    .insert(pod.to_owned(), rate);
            }
        }
        Self {
            interval_ms,
            newest_ms,
            pods,
        }
    }

    /// What a class's pods send. `None` when that is unknown: no pod has counters yet, or the list of pods is incomplete.
    pub fn of_class(&self, class: &ClassPlacement) -> Option<Usage> {
        if class.truncated {
            return None;
        }
        let rates: Vec<PodRate> = class
            .pods
            .iter()
            .filter_map(|pod| self.pods.get(&pod.namespace)?.get(&pod.name).copied())
            .collect();
        Some(Usage {
            class: class.class.clone(),
            total_bps: rates.iter().map(|r| r.bps).sum(),
            pods: u32::try_from(rates.len()).unwrap_or(u32::MAX),
            top_pod_bps: rates.iter().map(|r| r.bps).fold(0.0, f64::max),
            start_ms: rates.iter().map(|r| r.start_ms).min()?,
            end_ms: rates.iter().map(|r| r.end_ms).max()?,
        })
    }
}

fn pod_rate(series: &Series) -> Option<PodRate> {
    let mut newest_first = series.values.iter().rev().filter(|v| v.1.is_finite());
    let (&(end_ms, to), &(start_ms, from)) = (newest_first.next()?, newest_first.next()?);
    let seconds = (end_ms - start_ms) as f64 / 1000.0;
    let bps = counter_increase(from, to) * 8.0 / seconds;
    (bps.is_finite() && bps >= 0.0).then_some(PodRate {
        bps,
        start_ms,
        end_ms,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use laneguard_proto::placement::PodPlacement;

    fn counter(pod: &str, interface: &str, values: &[(i64, f64)]) -> Series {
        Series {
            labels: [
                ("namespace", "factory"),
                ("pod", pod),
                ("interface", interface),
            ]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into(),
            values: values.to_vec(),
            histograms: Vec::new(),
        }
    }

    fn class(pods: &[&str]) -> ClassPlacement {
        ClassPlacement {
            class: "bulk".into(),
            pods: pods
                .iter()
                .map(|name| PodPlacement {
                    namespace: "factory".into(),
                    name: (*name).into(),
                    node: "n1".into(),
                })
                .collect(),
            ..Default::default()
        }
    }

    #[test]
    fn the_last_two_counters_of_each_pod_make_the_class() {
        let rates = PodRates::of(&[
            counter("a", "eth0", &[(0, 0.0), (1000, 0.0), (2000, 1_000_000.0)]),
            counter("b", "eth0", &[(500, 0.0), (1500, 500_000.0)]),
            counter("other", "eth0", &[(500, 0.0), (1500, 9e9)]),
        ]);
        let usage = rates.of_class(&class(&["a", "b", "new"])).unwrap();
        assert_eq!(usage.total_bps, 12e6);
        assert_eq!(usage.top_pod_bps, 8e6);
        assert_eq!((usage.pods, usage.start_ms, usage.end_ms), (2, 500, 2000));
        assert_eq!(rates.interval_ms, Some(1000));
    }

    #[test]
    fn a_pod_counts_with_one_interface() {
        let rates = PodRates::of(&[
            counter("a", "tunl0", &[(0, 0.0), (1000, 7e6)]),
            counter("a", "eth0", &[(0, 0.0), (1000, 1e6)]),
            counter("a", "cni1", &[(0, 0.0), (1000, 3e6)]),
            counter("b", "net1", &[(0, 0.0), (1000, 2e6)]),
            counter("b", "cni0", &[(0, 0.0), (1000, 4e6)]),
        ]);
        assert_eq!(rates.of_class(&class(&["a"])).unwrap().total_bps, 8e6);
        assert_eq!(rates.of_class(&class(&["b"])).unwrap().total_bps, 32e6);
    }

    #[test]
    fn a_restarted_counter_counts_from_zero() {
        let rates = PodRates::of(&[counter("a", "eth0", &[(0, 5e9), (1000, 1e6)])]);
        assert_eq!(rates.of_class(&class(&["a"])).unwrap().total_bps, 8e6);
    }

    #[test]
    fn a_pod_without_news_does_not_count() {
        let rates = PodRates::of(&[
            counter("a", "eth0", &[(8000, 0.0), (9000, 1e6), (10_000, 2e6)]),
            counter("gone", "eth0", &[(1000, 0.0), (2000, 1e6)]),
        ]);
        assert_eq!(rates.of_class(&class(&["a", "gone"])).unwrap().pods, 1);
    }

    #[test]
    fn unknown_usage_is_not_zero_usage() {
        let rates = PodRates::of(&[counter("a", "eth0", &[(0, 1.0)])]);
        assert_eq!(rates.of_class(&class(&["a"])), None);
        let rates = PodRates::of(&[counter("a", "eth0", &[(0, 1.0), (1000, 2.0)])]);
        let truncated = ClassPlacement {
            truncated: true,
            ..class(&["a"])
        };
        assert_eq!(rates.of_class(&truncated), None);
    }
}
