//! Raw Prometheus series to increases between scrapes. Pure.
//!
//! Works on the samples as they were scraped, so that the times are the scrapes' own, a counter reset is seen where it happened,
//! and nothing is extrapolated.

use std::collections::BTreeMap;

use crate::histogram::Bucket;

/// The labels of a series, `__name__` included.
pub type Labels = BTreeMap<String, String>;

/// One series of a range selector.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Series {
    /// Its labels.
    pub labels: Labels,
    /// Scrape time in milliseconds since the Unix epoch and value, oldest first.
    pub values: Vec<(i64, f64)>,
    /// The same for native histograms.
    pub histograms: Vec<(i64, NativeHistogram)>,
}

impl Series {
    /// The value of a label; empty when it is missing, which is the same to Prometheus.
    pub fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }
}

/// A native histogram as scraped, counting since the process started.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NativeHistogram {
    /// Observations.
    pub count: f64,
    /// Their sum in seconds.
    pub sum: f64,
    /// Its populated buckets.
    pub buckets: Vec<Bucket>,
}

/// What one source (one instance's histogram with one set of labels) had counted at one scrape.
#[derive(Debug, Clone, Default, PartialEq)]
struct Scrape {
    count: Option<f64>,
    sum: Option<f64>,
    /// Cumulative counts by upper bound.
    classic: Vec<(f64, f64)>,
    native: Option<Vec<Bucket>>,
}

/// The histograms of one source, scrape by scrape.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Source {
    /// The label `reporter`, empty when missing.
    pub reporter: String,
    scrapes: BTreeMap<i64, Scrape>,
}

/// What was observed between two scrapes of one source.
#[derive(Debug, Clone, PartialEq)]
pub struct Increase {
    /// The earlier scrape, milliseconds since the Unix epoch.
    pub start_ms: i64,
    /// The later scrape, milliseconds since the Unix epoch.
    pub end_ms: i64,
    /// Observations.
    pub count: f64,
    /// Their sum in seconds, when it is known.
    pub sum: Option<f64>,
    /// Observations by bucket; empty when the source has none with a finite bound.
    pub buckets: Vec<Bucket>,
}

/// Puts the series of a histogram `metric` together by source.
pub fn sources(metric: &str, series: &[Series]) -> Vec<Source> {
    let mut sources: BTreeMap<Labels, Source> = BTreeMap::new();
    for one in series {
        let mut key = one.labels.clone();
        let name = key.remove("__name__").unwrap_or_default();
        let le = key.remove("le");
        let source = sources.entry(key).or_insert_with(|| Source {
            reporter: one.label("reporter").to_owned(),
            ..Source::default()
        });
        let suffix = name.strip_prefix(metric).unwrap_or_default();
        for &(at, value) in one.values.iter().filter(|(_, value)| value.is_finite()) {
            let scrape = source.scrapes.entry(at).or_default();
            match (suffix, le.as_deref().map(str::parse::<f64>)) {
                ("_bucket", Some(Ok(bound))) if !bound.is_nan() => {
                    scrape.classic.push((bound, value))
                }
                ("_count", _) => scrape.count = Some(value),
                ("_sum", _) => scrape.sum = Some(value),
                _ => {}
            }
        }
        for (at, histogram) in &one.histograms {
            let scrape = source.scrapes.entry(*at).or_default();
            scrape.count = Some(histogram.count);
            scrape.sum = Some(histogram.sum);
            scrape.native = Some(histogram.buckets.clone());
        }
    }
    let mut sources: Vec<Source> = sources.into_values().collect();
    for scrape in sources.iter_mut().flat_map(|s| s.scrapes.values_mut()) {
        scrape.classic.sort_by(|a, b| a.0.total_cmp(&b.0));
    }
    sources.retain(|s| !s.scrapes.is_empty());
    sources
}

impl Source {
    /// When it was last scraped, milliseconds since the Unix epoch.
    pub fn newest_ms(&self) -> Option<i64> {
        self.scrapes.keys().next_back().copied()
    }

    /// Milliseconds between its scrapes.
    pub fn intervals(&self) -> impl Iterator<Item = i64> + '_ {
        self.scrapes
            .keys()
            .zip(self.scrapes.keys().skip(1))
            .map(|(a, b)| b - a)
    }

    /// Increases from scrape to scrape, newest first. Ends where two scrapes cannot be compared (the buckets changed without a restart).
    pub fn increases(&self) -> impl Iterator<Item = Increase> + '_ {
        let later = self.scrapes.iter().rev();
        later
            .zip(self.scrapes.iter().rev().skip(1))
            .map_while(|((end, to), (start, from))| increase(*start, from, *end, to))
    }
}

/// The median scrape interval of some series' scrapes, milliseconds; `None` when nothing was scraped twice.
pub fn median_interval(intervals: impl IntoIterator<Item = i64>) -> Option<i64> {
    let mut intervals: Vec<i64> = intervals.into_iter().filter(|i| *i > 0).collect();
    intervals.sort_unstable();
    intervals.get(intervals.len() / 2).copied()
}

/// The increase of a counter; one that fell has restarted from zero.
pub fn counter_increase(from: f64, to: f64) -> f64 {
    if to < from { to } else { to - from }
}

impl Scrape {
    fn total(&self) -> Option<f64> {
        let unbounded = self.classic.last().filter(|(bound, _)| bound.is_infinite());
        self.count.or(unbounded.map(|(_, count)| *count))
    }
}

fn increase(start_ms: i64, from: &Scrape, end_ms: i64, to: &Scrape) -> Option<Increase> {
    let (before, after) = (from.total()?, to.total()?);
    let restarted = after < before;
    let buckets = match (&from.native, &to.native) {
        (_, Some(to)) if restarted => to.clone(),
        (Some(from), Some(to)) => native_increase(from, to)?,
        (None, None) if restarted => classic_buckets(&to.classic, None)?,
        (None, None) => classic_buckets(&to.classic, Some(&from.classic))?,
        _ => return None,
    };
    let sum = match (from.sum, to.sum) {
        (_, Some(to)) if restarted => Some(to),
        (Some(from), Some(to)) => Some(to - from),
        _ => None,
    };
    Some(Increase {
        start_ms,
        end_ms,
        count: if restarted { after } else { after - before },
        sum: sum.filter(|s| s.is_finite() && *s >= 0.0),
        buckets,
    })
}

/// Cumulative counts to counts per bucket. `None` when the layouts differ or a bucket fell although the total did not.
fn classic_buckets(to: &[(f64, f64)], from: Option<&[(f64, f64)]>) -> Option<Vec<Bucket>> {
    if let Some(from) = from
        && (from.len() != to.len() || from.iter().zip(to).any(|(a, b)| a.0 != b.0 || a.1 > b.1))
    {
        return None;
    }
    if !to.iter().any(|(bound, _)| bound.is_finite()) {
        return Some(Vec::new());
    }
    let mut low = 0.0;
    let mut below = 0.0;
    let mut buckets = Vec::with_capacity(to.len());
    for (n, &(bound, cumulative)) in to.iter().enumerate() {
        let upto = cumulative - from.map_or(0.0, |from| from[n].1);
        // durations are not negative, so a bound at or below zero only holds the zeros
        if bound > low {
            buckets.push(Bucket {
                low,
                high: bound,
                count: (upto - below).max(0.0),
            });
            low = bound;
            below = upto;
        }
    }
    Some(buckets)
}

/// Subtracts an earlier native histogram; its buckets may be finer, because a histogram that grows too large is made coarser.
fn native_increase(from: &[Bucket], to: &[Bucket]) -> Option<Vec<Bucket>> {
    let mut buckets = to.to_vec();
    for old in from {
        let within = |b: &&mut Bucket| b.low <= old.low && old.high <= b.high;
        let bucket = buckets.iter_mut().find(within)?;
        bucket.count -= old.count;
    }
    buckets.iter().all(|b| b.count >= 0.0).then_some(buckets)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) const METRIC: &str = "hubble_http_request_duration_seconds";

    /// A classic histogram's series. `scrapes`: time in ms, cumulative counts per bound in `bounds` then +Inf, sum in seconds.
    pub(crate) fn classic(
        labels: &[(&str, &str)],
        bounds: &[&str],
        scrapes: &[(i64, &[f64], f64)],
    ) -> Vec<Series> {
        let series = |suffix: &str, le: Option<&str>, values: Vec<(i64, f64)>| Series {
            labels: labels
                .iter()
                .copied()
                .chain(le.map(|le| ("le", le)))
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .chain([("__name__".to_owned(), format!("{METRIC}{suffix}"))])
                .collect(),
            values,
            histograms: Vec::new(),
        };
        let last = |counts: &[f64]| *counts.last().unwrap();
        let mut all: Vec<Series> = bounds
            .iter()
            .chain(&["+Inf"])
            .enumerate()
            .map(|(n, le)| {
                series(
                    "_bucket",
                    Some(le),
                    scrapes.iter().map(|s| (s.0, s.1[n])).collect(),
                )
            })
            .collect();
        all.push(series(
            "_count",
            None,
            scrapes.iter().map(|s| (s.0, last(s.1))).collect(),
        ));
        all.push(series(
            "_sum",
            None,
            scrapes.iter().map(|s| (s.0, s.2)).collect(),
        ));
        all
    }

    fn counts(increase: &Increase) -> Vec<f64> {
        increase.buckets.iter().map(|b| b.count).collect()
    }

    fn increases(series: &[Series]) -> Vec<Increase> {
        let sources = sources(METRIC, series);
        assert_eq!(sources.len(), 1);
        sources[0].increases().collect()
    }

    #[test]
    fn cumulative_buckets_become_counts_between_scrapes() {
        let series = classic(
            &[("reporter", "client")],
            &["0.005", "0.01"],
            &[
                (1000, &[10.0, 20.0, 22.0], 1.0),
                (2000, &[13.0, 30.0, 35.0], 1.5),
            ],
        );
        let got = increases(&series);
        assert_eq!(got.len(), 1);
        assert_eq!((got[0].start_ms, got[0].end_ms), (1000, 2000));
        assert_eq!(got[0].count, 13.0);
        assert_eq!(got[0].sum, Some(0.5));
        assert_eq!(counts(&got[0]), [3.0, 7.0, 3.0]);
    }

    #[test]
    fn a_restart_counts_from_zero() {
        let series = classic(
            &[],
            &["0.005"],
            &[
                (1000, &[100.0, 200.0], 9.0),
                (2000, &[3.0, 4.0], 0.1),
                (3000, &[3.0, 6.0], 0.2),
            ],
        );
        let got = increases(&series);
        assert_eq!(counts(&got[0]), [0.0, 2.0]);
        assert_eq!((got[1].count, got[1].sum), (4.0, Some(0.1)));
        assert_eq!(counts(&got[1]), [3.0, 1.0]);
    }

    #[test]
    fn a_layout_that_changed_without_a_restart_is_not_compared() {
        let mut series = classic(&[], &["0.005"], &[(1000, &[1.0, 2.0], 0.1)]);
        series.extend(classic(&[], &["0.001"], &[(2000, &[1.0, 9.0], 0.1)]));
        assert_eq!(increases(&series), []);
    }

    #[test]
    fn nan_is_not_a_scrape() {
        let mut series = classic(&[], &["0.005"], &[(1000, &[1.0, 2.0], 0.1)]);
        series[0].values.push((2000, f64::NAN));
        let sources = sources(METRIC, &series);
        assert_eq!(sources[0].newest_ms(), Some(1000));
    }

    #[test]
    fn a_native_histogram_is_subtracted_even_when_it_got_coarser() {
        let bucket = |low, high, count| Bucket { low, high, count };
        let native = |count, buckets| NativeHistogram {
            count,
            sum: count * 0.001,
            buckets,
        };
        let series = Series {
            labels: [("__name__".to_owned(), METRIC.to_owned())].into(),
            values: Vec::new(),
            histograms: vec![
                (
                    1000,
                    native(
                        5.0,
                        vec![bucket(0.001, 0.002, 2.0), bucket(0.002, 0.004, 3.0)],
                    ),
                ),
                (
                    2000,
                    native(
                        12.0,
                        vec![bucket(0.001, 0.004, 11.0), bucket(0.004, 0.016, 1.0)],
                    ),
                ),
            ],
        };
        let got = increases(&[series]);
        assert_eq!(got[0].count, 7.0);
        assert_eq!(
            got[0].buckets,
            [bucket(0.001, 0.004, 6.0), bucket(0.004, 0.016, 1.0)]
        );
    }

    #[test]
    fn sources_differ_by_any_label_but_the_bucket() {
        let mut series = classic(
            &[("instance", "a")],
            &["0.005"],
            &[(1000, &[1.0, 2.0], 0.1)],
        );
        series.extend(classic(
            &[("instance", "b")],
            &["0.005"],
            &[(1200, &[1.0, 2.0], 0.1)],
        ));
        assert_eq!(sources(METRIC, &series).len(), 2);
    }

    #[test]
    fn the_median_interval_is_not_misled_by_a_missed_scrape() {
        assert_eq!(median_interval([1000, 1001, 2000, 999, 1000]), Some(1000));
        assert_eq!(median_interval([0, -5]), None);
    }
}
