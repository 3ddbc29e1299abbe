//! What a bag of histogram buckets proves about quantiles. Pure.
//!
//! Buckets of several sources are put together without a common layout: each keeps its own bounds. With one layout the values
//! are exactly what Prometheus' `histogram_quantile` interpolates for a classic histogram.

/// Observations in `(low, high]`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bucket {
    /// Lower bound in seconds, exclusive, not negative.
    pub low: f64,
    /// Upper bound in seconds, inclusive; infinite in a classic histogram's last bucket.
    pub high: f64,
    /// Observations, not negative.
    pub count: f64,
}

/// A quantile and the bounds within which it is proven to lie.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quantile {
    /// Linearly interpolated, seconds. In an unbounded bucket: its lower bound.
    pub value: f64,
    /// Not below this, seconds.
    pub low: f64,
    /// Not above this, seconds. `None`: unbounded.
    pub high: Option<f64>,
}

/// Observations of one window, by bucket.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Distribution {
    buckets: Vec<Bucket>,
}

/// What is known about the number of observations at or below one bucket bound.
struct Edge {
    at: f64,
    /// At least this many.
    least: f64,
    /// At most this many.
    most: f64,
    /// By interpolation, coming from below.
    before: f64,
    /// By interpolation, with the unbounded buckets that begin here counted at their lower bound.
    upto: f64,
}

impl Distribution {
    /// Adds observations; empty buckets and ones without a meaning (NaN, reversed) are ignored.
    pub fn add(&mut self, buckets: impl IntoIterator<Item = Bucket>) {
        for new in buckets {
            let sound = new.low.is_finite()
                && new.high > new.low
                && new.count.is_finite()
                && new.count > 0.0;
            if !sound {
                continue;
            }
            let same = |b: &&mut Bucket| b.low == new.low && b.high == new.high;
            match self.buckets.iter_mut().find(same) {
                Some(bucket) => bucket.count += new.count,
                None => self.buckets.push(new),
            }
        }
    }

    /// Observations in all buckets.
    pub fn total(&self) -> f64 {
        self.buckets.iter().map(|b| b.count).sum()
    }

    /// The quantiles asked for (each within 0 to 1), in their order. `None` when there is nothing to tell them by.
    pub fn quantiles<const N: usize>(&self, asked: [f64; N]) -> [Option<Quantile>; N] {
        let total = self.total();
        let edges = self.edges();
        asked.map(|q| quantile(&edges, q * total))
    }

    fn edges(&self) -> Vec<Edge> {
        let mut bounds: Vec<f64> = self
            .buckets
            .iter()
            .flat_map(|b| [b.low, b.high])
            .filter(|bound| bound.is_finite())
            .collect();
        bounds.sort_by(f64::total_cmp);
        bounds.dedup();
        bounds.into_iter().map(|at| self.edge(at)).collect()
    }

    fn edge(&self, at: f64) -> Edge {
        let mut edge = Edge {
            at,
            least: 0.0,
            most: 0.0,
            before: 0.0,
            upto: 0.0,
        };
        for bucket in &self.buckets {
            if bucket.low < at {
                edge.most += bucket.count;
            }
            if bucket.high <= at {
                edge.least += bucket.count;
                edge.before += bucket.count;
                edge.upto += bucket.count;
            } else if bucket.high.is_finite() && bucket.low < at {
                let part = bucket.count * (at - bucket.low) / (bucket.high - bucket.low);
                edge.before += part;
                edge.upto += part;
            } else if bucket.high.is_infinite() && bucket.low <= at {
                edge.upto += bucket.count;
                if bucket.low < at {
                    edge.before += bucket.count;
                }
            }
        }
        edge
    }
}

fn quantile(edges: &[Edge], rank: f64) -> Option<Quantile> {
    // With rank 0 the first bucket's lower bound is meant; the least positive rank finds that bucket.
    let rank = rank.max(f64::MIN_POSITIVE);
    let reached = edges.iter().position(|e| e.upto >= rank)?;
    let edge = &edges[reached];
    let value = match reached.checked_sub(1).map(|previous| &edges[previous]) {
        Some(previous) if edge.before >= rank => {
            let share = (rank - previous.upto) / (edge.before - previous.upto);
            previous.at + (edge.at - previous.at) * share.clamp(0.0, 1.0)
        }
        _ => edge.at,
    };
    let low = edges
        .iter()
        .rev()
        .find(|e| e.most < rank)
        .map_or(0.0, |e| e.at);
    let high = edges.iter().find(|e| e.least >= rank).map(|e| e.at);
    // Sums in another order may differ in the last bit; what is reported must hold together.
    Some(Quantile {
        value: value.max(low).min(high.unwrap_or(f64::INFINITY)),
        low,
        high,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Upper bounds in milliseconds and the observations in each bucket.
    fn layout(buckets: &[(f64, f64)]) -> Vec<Bucket> {
        let mut low = 0.0;
        buckets
            .iter()
            .map(|&(high, count)| {
                let bucket = Bucket {
                    low,
                    high: high / 1000.0,
                    count,
                };
                low = high / 1000.0;
                bucket
            })
            .collect()
    }

    fn of(layouts: &[&[(f64, f64)]]) -> Distribution {
        let mut distribution = Distribution::default();
        layouts.iter().for_each(|l| distribution.add(layout(l)));
        distribution
    }

    fn ms(q: Option<Quantile>) -> (f64, f64, Option<f64>) {
        let round = |seconds: f64| (seconds * 1e9).round() / 1e6;
        let q = q.unwrap();
        (round(q.value), round(q.low), q.high.map(round))
    }

    #[test]
    fn everything_under_the_first_default_bound_reads_as_constants() {
        // the numeric check of the data plane's facts: whatever happens below 5 ms
        let d = of(&[&[(5.0, 1234.0), (10.0, 0.0), (f64::INFINITY, 0.0)]]);
        let [p25, p50, p75, p95, p99] = d.quantiles([0.25, 0.5, 0.75, 0.95, 0.99]);
        assert_eq!(ms(p25), (1.25, 0.0, Some(5.0)));
        assert_eq!(ms(p50), (2.5, 0.0, Some(5.0)));
        assert_eq!(ms(p75), (3.75, 0.0, Some(5.0)));
        assert_eq!(ms(p95), (4.75, 0.0, Some(5.0)));
        assert_eq!(ms(p99), (4.95, 0.0, Some(5.0)));
    }

    #[test]
    fn a_quantile_is_interpolated_in_the_bucket_that_holds_its_rank() {
        // 10 up to 5 ms, none to 10, 30 to 25, 60 to 50: rank 25 is the 15th of 30 in (10, 25]
        let d = of(&[&[(5.0, 10.0), (10.0, 0.0), (25.0, 30.0), (50.0, 60.0)]]);
        let [p05, p10, p25, p95] = d.quantiles([0.05, 0.10, 0.25, 0.95]);
        assert_eq!(ms(p05), (2.5, 0.0, Some(5.0)));
        assert_eq!(ms(p10), (5.0, 0.0, Some(5.0)));
        assert_eq!(ms(p25), (17.5, 10.0, Some(25.0)));
        // rank 95 is the 55th of 60 in (25, 50]: 25 + 25 * 55/60
        assert_eq!(ms(p95), (47.916667, 25.0, Some(50.0)));
    }

    #[test]
    fn the_unbounded_bucket_gives_its_lower_bound_and_no_upper_one() {
        let d = of(&[&[(5.0, 50.0), (10.0, 0.0), (f64::INFINITY, 50.0)]]);
        let [p50, p95] = d.quantiles([0.5, 0.95]);
        assert_eq!(ms(p50), (5.0, 0.0, Some(5.0)));
        assert_eq!(ms(p95), (10.0, 10.0, None));
    }

    #[test]
    fn mixed_layouts_are_bounded_by_what_both_can_prove() {
        // 60 in (0, 5] and 40 in (0, 10]: rank 50 is past every certain count at 5 only if all 40 were below 5
        let d = of(&[&[(5.0, 60.0)], &[(10.0, 40.0)]]);
        let [p50, p95] = d.quantiles([0.5, 0.95]);
        // C(5) = 60 + 20 = 80; rank 50 at 5 * 50/80; at least 60 lie at or below 5
        assert_eq!(ms(p50), (3.125, 0.0, Some(5.0)));
        // rank 95: 5 + 5 * 15/20; at 5 there may already be 100, so only (0, 10] is certain
        assert_eq!(ms(p95), (8.75, 0.0, Some(10.0)));
    }

    #[test]
    fn nothing_observed_has_no_quantiles() {
        let d = of(&[&[(5.0, 0.0), (f64::INFINITY, 0.0)]]);
        assert_eq!(d.quantiles([0.95]), [None]);
    }

    fn any_layout() -> impl Strategy<Value = Vec<(f64, f64)>> {
        let bound =
            prop::sample::subsequence(vec![1.0, 5.0, 10.0, 25.0, 50.0, 100.0, 2500.0], 1..7);
        bound.prop_flat_map(|bounds| {
            let n = bounds.len() + 1;
            prop::collection::vec(0u32..200, n).prop_map(move |counts| {
                bounds
                    .iter()
                    .copied()
                    .chain([f64::INFINITY])
                    .zip(counts.into_iter().map(f64::from))
                    .collect()
            })
        })
    }

    proptest! {
        #[test]
        fn quantiles_rise_and_stay_within_their_bounds(layouts in prop::collection::vec(any_layout(), 1..4)) {
            let refs: Vec<&[(f64, f64)]> = layouts.iter().map(Vec::as_slice).collect();
            let d = of(&refs);
            let asked = [0.0, 0.01, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0];
            let got = d.quantiles(asked);
            prop_assert_eq!(got[0].is_some(), d.total() > 0.0);
            let mut last = 0.0;
            for q in got.into_iter().flatten() {
                prop_assert!(q.value.is_finite() && q.low >= 0.0);
                prop_assert!(q.value >= last, "{} after {}", q.value, last);
                prop_assert!(q.low <= q.value);
                prop_assert!(q.high.is_none_or(|high| q.value <= high && high.is_finite()));
                last = q.value;
            }
        }
    }
}
