//! The learned relation of best-effort's total to the critical workload's latency, with its uncertainty.
//!
//! Each clean window (one that began after the last change took effect) is one observation `(T, u)`: `T` is what best-effort sent, bits per
//! second; `u` is how much of the room between floor and target the worst signal used, without unit:
//!
//! ```text
//! u     = (signal - floor) / (target - floor)             0: as without best-effort; 1: at the target; clipped to 0..2
//! bin   b = ln T / ln 1.01                                1 % wide; each keeps n windows, their mean m and sum of squares S
//! age   n, S *= 2^(-dt / 10 min)                          exponential forgetting, at most 32 bins
//! fit   pool adjacent violators over b                    more traffic never helps: m must not fall as T rises
//! P(T holds) = Phi((1 - m) / s)                           s^2 = (S + s0^2) / (n + 1) * (1 + 1 / n) + (0.12 d)^2
//! ```
//!
//! `s0 = 0.15` stands for the noise of a single window, `d` is the distance to the nearest observed block in percent of `T`: the farther from what
//! was seen, the less is known. Between two blocks `m` is interpolated. An observation that the fit did not expect is counted by a two-sided
//! CUSUM of the standardised error (drift 1, threshold 6, errors clipped to 3): when it trips, the network has changed, and what was
//! learned is forgotten. So is what was calm above a total at which the link was seen full.
//!
//! Source: isotonic regression by pooling, Ayer et al., Ann. Math. Statist. 26 (1955) 641; CUSUM, Page, Biometrika 41 (1954) 100; running
//! mean and squares, Welford, Technometrics 4 (1962) 419. An average with its spread, no machine learning.

use serde::{Deserialize, Serialize};

/// Most bins kept; the lowest go first, as calm far below the capacity teaches least.
const MOST_BINS: usize = 32;
/// Width of a bin in logarithm.
const WIDTH: f64 = 0.009_950_33;
/// Windows count half after this time, milliseconds.
const HALF_LIFE_MS: f64 = 600_000.0;
/// A bin of fewer windows than this is dropped.
const LEAST_WINDOWS: f64 = 0.05;
/// The spread that a single window is taken to have.
const NOISE: f64 = 0.15;
/// How fast ignorance grows outside of what was seen, per percent.
const IGNORANCE: f64 = 0.12;
/// Between two observed blocks it grows no further than over so many percent.
const MOST_DISTANCE: f64 = 4.0;
/// Windows that make a total known.
const KNOWN: f64 = 3.0;
/// Drift and threshold of the change detector, and what an error counts at most.
const CUSUM: (f64, f64, f64) = (1.0, 6.0, 3.0);
/// The greatest `u` told apart.
const MOST_USE: f64 = 2.0;

/// What was seen at totals within one percent of each other.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bin {
    /// The total's logarithm to base 1.01, rounded: the bin lies around `1.01^index` bits per second.
    pub index: i32,
    /// Windows seen, each fading with time.
    pub windows: f64,
    /// Mean use of the room between floor and target: 0 none, 1 all.
    pub mean: f64,
    /// Sum of squared deviations from that mean.
    pub squares: f64,
}

impl Bin {
    /// Best-effort's total in the middle of the bin, bits per second.
    #[must_use]
    pub fn total_bps(&self) -> f64 {
        (f64::from(self.index) * WIDTH).exp()
    }
}

/// The relation as learned so far.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Relation {
    /// By rising total, at most 32.
    pub bins: Vec<Bin>,
    /// When it was last brought up to date, Unix milliseconds.
    pub aged_ms: Option<i64>,
    /// How much worse than expected lately: the detector's upper sum.
    pub worse: f64,
    /// How much better than expected lately: the detector's lower sum.
    pub better: f64,
    /// How often it was forgotten because the network had changed.
    pub changes: u32,
}

/// What to expect at a total.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Expectation {
    /// Mean use of the room between floor and target.
    pub mean: f64,
    /// Standard deviation of a single window around it, with the uncertainty of the mean itself.
    pub deviation: f64,
    /// Windows it rests on.
    pub windows: f64,
}

impl Expectation {
    /// The probability that a window meets its targets.
    #[must_use]
    pub fn holds(&self) -> f64 {
        normal((1.0 - self.mean) / self.deviation)
    }
}

/// Bins that the fit holds together.
#[derive(Clone, Copy)]
struct Block {
    first: f64,
    last: f64,
    windows: f64,
    mean: f64,
    squares: f64,
}

impl Relation {
    /// Takes in one window: what best-effort sent, and which share of the room was used. Says whether the network was found changed.
    pub fn learn(&mut self, now_ms: i64, total_bps: f64, used: f64) -> bool {
        if total_bps < 1.0 || !used.is_finite() {
            return false;
        }
        self.age(now_ms);
        let used = used.clamp(0.0, MOST_USE);
        let has_changed = self.is_change(total_bps, used);
        if has_changed {
            self.bins.clear();
            self.changes = self.changes.saturating_add(1);
        }
        #[allow(clippy::cast_possible_truncation)]
        let index = position(total_bps).round() as i32;
        match self.bins.binary_search_by_key(&index, |bin| bin.index) {
            Ok(at) => {
                let bin = &mut self.bins[at];
                bin.windows += 1.0;
                let error = used - bin.mean;
                bin.mean += error / bin.windows;
                bin.squares += error * (used - bin.mean);
            }
            Err(at) => self.bins.insert(
                at,
                Bin {
                    index,
                    windows: 1.0,
                    mean: used,
                    squares: 0.0,
                },
            ),
        }
        if self.bins.len() > MOST_BINS {
            self.bins.remove(0);
        }
        has_changed
    }

    /// The link was full at this total: what was calm above it is history.
    pub fn forget_above(&mut self, total_bps: f64) {
        let limit = position(total_bps);
        self.bins.retain(|bin| f64::from(bin.index) <= limit);
    }

    /// Best-effort was shown not to be the cause: what seemed to hurt did not.
    pub fn forget_harm(&mut self) {
        self.bins.retain(|bin| bin.mean < 1.0);
    }

    /// What to expect at a total; `None` while nothing was learned.
    #[must_use]
    pub fn expect(&self, total_bps: f64) -> Option<Expectation> {
        expect(&self.fit(), total_bps)
    }

    /// The greatest total that was seen often enough and holds with at least this probability, bits per second.
    #[must_use]
    pub fn known_to_hold(&self, probability: f64) -> Option<f64> {
        let blocks = self.fit();
        let mut totals = self.bins.iter().rev().map(Bin::total_bps);
        totals.find(|total_bps| {
            expect(&blocks, *total_bps).is_some_and(|expected| {
                expected.windows >= KNOWN && expected.holds() >= probability
            })
        })
    }

    /// The greatest raise from a total, as a share and at most `most`, after which targets hold with at least this probability.
    #[must_use]
    pub fn safe_raise(&self, total_bps: f64, most: f64, probability: f64) -> f64 {
        let blocks = self.fit();
        let is_safe = |raise: f64| {
            expect(&blocks, total_bps * (1.0 + raise))
                .is_none_or(|expected| expected.holds() >= probability)
        };
        if is_safe(most) {
            return most;
        }
        // The probability falls as the total rises, so halving finds the edge: 12 times leave a four-thousandth of `most`.
        let (mut low, mut high) = (0.0, most);
        for _ in 0..12 {
            let middle = f64::midpoint(low, high);
            if is_safe(middle) {
                low = middle;
            } else {
                high = middle;
            }
        }
        low
    }

    fn age(&mut self, now_ms: i64) {
        let since_ms = self
            .aged_ms
            .map_or(0, |at| now_ms.saturating_sub(at).max(0));
        self.aged_ms = Some(now_ms);
        #[allow(clippy::cast_precision_loss)]
        let kept = (-(since_ms as f64) / HALF_LIFE_MS).exp2();
        for bin in &mut self.bins {
            bin.windows *= kept;
            bin.squares *= kept;
        }
        self.bins.retain(|bin| bin.windows >= LEAST_WINDOWS);
    }

    fn is_change(&mut self, total_bps: f64, used: f64) -> bool {
        let Some(expected) = self.expect(total_bps).filter(|known| known.windows >= 2.0) else {
            return false;
        };
        let (drift, threshold, most) = CUSUM;
        let error = ((used - expected.mean) / expected.deviation).clamp(-most, most);
        self.worse = (self.worse + error - drift).max(0.0);
        self.better = (self.better - error - drift).max(0.0);
        let has_changed = self.worse > threshold || self.better > threshold;
        if has_changed {
            (self.worse, self.better) = (0.0, 0.0);
        }
        has_changed
    }

    /// Pools neighbours until means do not fall as totals rise.
    fn fit(&self) -> Vec<Block> {
        let mut blocks: Vec<Block> = Vec::with_capacity(self.bins.len());
        for bin in &self.bins {
            let at = f64::from(bin.index);
            let mut block = Block {
                first: at,
                last: at,
                windows: bin.windows,
                mean: bin.mean,
                squares: bin.squares,
            };
            while let Some(below) = blocks.pop_if(|below| below.mean >= block.mean) {
                let windows = below.windows + block.windows;
                let apart = below.mean - block.mean;
                block = Block {
                    first: below.first,
                    last: block.last,
                    windows,
                    mean: (below.mean * below.windows + block.mean * block.windows) / windows,
                    squares: below.squares
                        + block.squares
                        + apart * apart * below.windows * block.windows / windows,
                };
            }
            blocks.push(block);
        }
        blocks
    }
}

/// What a fit says of a total; `None`: nothing was learned.
fn expect(blocks: &[Block], total_bps: f64) -> Option<Expectation> {
    let at = position(total_bps.max(1.0));
    let above = blocks.partition_point(|block| block.last < at);
    let (mean, nearest, distance) = match (above.checked_sub(1), blocks.get(above)) {
        (_, Some(block)) if block.first <= at => (block.mean, *block, 0.0),
        // Below all that was seen it is no worse than there.
        (None, Some(block)) => (block.mean, *block, 0.0),
        (Some(below), None) => {
            let block = blocks[below];
            (block.mean, block, at - block.last)
        }
        (Some(below), Some(next)) => {
            let (low, high) = (blocks[below], *next);
            let share = (at - low.last) / (high.first - low.last);
            let (nearest, distance) = if share < 0.5 {
                (low, at - low.last)
            } else {
                (high, high.first - at)
            };
            (
                low.mean + share * (high.mean - low.mean),
                nearest,
                distance.min(MOST_DISTANCE),
            )
        }
        (None, None) => return None,
    };
    let variance = (nearest.squares + NOISE * NOISE) / (nearest.windows + 1.0)
        * (1.0 + 1.0 / nearest.windows.max(LEAST_WINDOWS));
    Some(Expectation {
        mean,
        deviation: (variance + (IGNORANCE * distance).powi(2)).sqrt().max(0.01),
        windows: nearest.windows,
    })
}

fn position(total_bps: f64) -> f64 {
    total_bps.ln() / WIDTH
}

/// The standard normal distribution, by the logistic approximation of Bowling et al. (2009), to within 0.000 14.
fn normal(z: f64) -> f64 {
    1.0 / (1.0 + (-0.07056 * z.powi(3) - 1.5976 * z).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000;

    /// Windows a second apart, at these megabits per second with this use of the room.
    fn learned(windows: &[(f64, f64)]) -> Relation {
        let mut relation = Relation::default();
        for (index, (mbit, used)) in windows.iter().enumerate() {
            relation.learn(i64::try_from(index).unwrap() * SECOND, mbit * 1e6, *used);
        }
        relation
    }

    fn holds(relation: &Relation, mbit: f64) -> f64 {
        relation.expect(mbit * 1e6).unwrap().holds()
    }

    #[test]
    fn the_normal_distribution_is_the_published_one() {
        for (z, p) in [
            (0.0, 0.5),
            (1.0, 0.841_345),
            (1.96, 0.975_002),
            (-1.281_55, 0.1),
        ] {
            assert!((normal(z) - p).abs() < 2e-4, "{z}: {}", normal(z));
        }
    }

    #[test]
    fn a_bin_keeps_count_mean_and_squares_of_its_windows() {
        let relation = learned(&[(100.0, 0.1), (100.0, 0.3)]);
        let [bin] = relation.bins.as_slice() else {
            panic!("{relation:?}")
        };
        // Over one second 0.1 % of the first window fades.
        assert!((bin.windows - 1.998_8).abs() < 1e-3, "{bin:?}");
        assert!((bin.mean - 0.2).abs() < 1e-3, "{bin:?}");
        assert!((bin.squares - 0.02).abs() < 1e-3, "{bin:?}");
        assert!((bin.total_bps() / 100e6 - 1.0).abs() < 0.005, "{bin:?}");
    }

    #[test]
    fn what_was_seen_calm_holds_and_the_farther_above_it_the_less_is_known() {
        let relation = learned(&[(90.0, 0.05); 5]);
        let probabilities = [80.0, 90.0, 94.0, 97.0, 105.0].map(|mbit| holds(&relation, mbit));
        assert!(
            probabilities.is_sorted_by(|a, b| a >= b),
            "{probabilities:?}"
        );
        assert!(
            probabilities[1] > 0.999 && probabilities[4] < 0.75,
            "{probabilities:?}"
        );
    }

    #[test]
    fn a_raise_stops_short_of_what_hurt() {
        let mut windows = vec![(90.0, 0.05); 5];
        assert!((learned(&windows).safe_raise(90e6, 0.04, 0.9) - 0.04).abs() < 1e-9);
        windows.push((93.0, 2.0));
        let raise = learned(&windows).safe_raise(90e6, 0.04, 0.9);
        assert!((0.005..0.02).contains(&raise), "{raise}");
    }

    #[test]
    fn one_bad_window_among_many_calm_ones_above_it_is_outvoted() {
        let mut windows = vec![(95.0, 0.05); 20];
        windows.push((90.0, 2.0));
        let relation = learned(&windows);
        assert!(holds(&relation, 90.0) > 0.9, "{}", holds(&relation, 90.0));
        assert_eq!(relation.changes, 0);
    }

    #[test]
    fn a_changed_network_is_noticed_within_a_few_windows_in_both_directions() {
        for (before, after) in [(0.05, 1.5), (1.5, 0.05)] {
            let mut relation = learned(&[(95.0, before); 20]);
            let found = (20..30).find(|index| relation.learn(index * SECOND, 95e6, after));
            assert!(found.is_some_and(|index| index < 26), "{before}: {found:?}");
            assert_eq!(relation.changes, 1);
            assert!((relation.expect(95e6).unwrap().mean - after).abs() < 1e-9);
        }
    }

    #[test]
    fn the_past_fades_and_the_size_is_bounded() {
        let mut relation = learned(&[(95.0, 2.0)]);
        relation.learn(600 * SECOND, 80e6, 0.0);
        assert!(
            (relation.bins[1].windows - 0.5).abs() < 1e-6,
            "{relation:?}"
        );
        relation.learn(3_600 * SECOND, 80e6, 0.0);
        assert_eq!(relation.bins.len(), 1, "{relation:?}");
        for index in 0..200 {
            relation.learn(3_600 * SECOND, 1e6 * 1.02_f64.powi(index), 0.0);
        }
        assert_eq!(relation.bins.len(), MOST_BINS);
    }
}
