//! Additive Holt-Winters: exponential smoothing of level, trend and season.
//!
//! With `y` the value, `l` level, `b` trend per step, `s` season, `m` steps per season and `h` steps ahead, all in the value's unit:
//!
//! ```text
//! l' = a * (y - s[-m]) + (1 - a) * (l + b)
//! b' = bb * (l' - l) + (1 - bb) * b
//! s' = g * (y - l - b) + (1 - g) * s[-m]
//! forecast(h) = l + h * b + s of that step's place in the season
//! ```
//!
//! Source: P. R. Winters, Forecasting sales by exponentially weighted moving averages, Management Science 6 (1960); in the component form of
//! Hyndman and Athanasopoulos, Forecasting: principles and practice, 3rd edition, section 8.3. Not here: choosing the weights, intervals.

/// How fast each component follows, 0 (never) to 1 (at once).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Weights {
    /// Of the level, `a`.
    pub level: f64,
    /// Of the trend, `bb`.
    pub trend: f64,
    /// Of the season, `g`.
    pub season: f64,
}

/// The smoothed components of a series.
#[derive(Clone, Debug, PartialEq)]
pub struct HoltWinters {
    weights: Weights,
    level: f64,
    trend: f64,
    /// One per step of a season; the next step's stands at `place`.
    season: Vec<f64>,
    place: usize,
}

impl HoltWinters {
    /// Begins from the first two seasons: the level is the mean of the first, the trend the difference of both means per step, the season what
    /// the first shows above its mean. None of the two is smoothed yet: [`Self::update`] takes the series from its first value on.
    ///
    /// `None` if the seasons are empty or of different length, a value is not finite, or a weight is outside 0 to 1.
    #[must_use]
    pub fn from_seasons(weights: Weights, first: &[f64], second: &[f64]) -> Option<Self> {
        let is_usable = !first.is_empty()
            && first.len() == second.len()
            && first.iter().chain(second).all(|value| value.is_finite())
            && [weights.level, weights.trend, weights.season]
                .iter()
                .all(|weight| (0.0..=1.0).contains(weight));
        if !is_usable {
            return None;
        }
        #[allow(clippy::cast_precision_loss)]
        let steps = first.len() as f64;
        let level = first.iter().sum::<f64>() / steps;
        Some(Self {
            weights,
            level,
            trend: (second.iter().sum::<f64>() / steps - level) / steps,
            season: first.iter().map(|value| value - level).collect(),
            place: 0,
        })
    }

    /// Takes in the next value; one that is not finite counts as foreseen, so that a gap teaches nothing.
    pub fn update(&mut self, value: f64) {
        let Some(season) = self.season.get_mut(self.place) else {
            return;
        };
        let expected = self.level + self.trend;
        let value = if value.is_finite() {
            value
        } else {
            expected + *season
        };
        let Weights {
            level: a,
            trend: b,
            season: g,
        } = self.weights;
        let level = a * (value - *season) + (1.0 - a) * expected;
        self.trend = b * (level - self.level) + (1.0 - b) * self.trend;
        *season = g * (value - expected) + (1.0 - g) * *season;
        self.level = level;
        self.place = (self.place + 1) % self.season.len();
    }

    /// What is expected `ahead` steps after the last value; 1 is the next one. 0 counts as 1.
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub fn forecast(&self, ahead: usize) -> f64 {
        let ahead = ahead.max(1);
        let place = (self.place + ahead - 1) % self.season.len().max(1);
        self.level + ahead as f64 * self.trend + self.season.get(place).copied().unwrap_or(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Visitor nights in Australia, millions per quarter, from 1999 (`austourists` of the R package fpp2), under the weights of
    /// Hyndman and Athanasopoulos, 2nd edition, section 7.3.
    const AUSTOURISTS: [f64; 8] = [
        30.052513, 19.148496, 25.317692, 27.591437, 32.076456, 23.487961, 28.47594, 35.123753,
    ];
    const PUBLISHED: Weights = Weights {
        level: 0.441,
        trend: 0.030,
        season: 0.002,
    };

    fn begun() -> HoltWinters {
        HoltWinters::from_seasons(PUBLISHED, &AUSTOURISTS[..4], &AUSTOURISTS[4..]).unwrap()
    }

    fn assert_near(found: f64, published: f64) {
        assert!((found - published).abs() < 1e-9, "{found} {published}");
    }

    // The expected numbers are those of R's forecast::hw(initial = "simple"), as published in Expedia's adaptive-alerting:
    // samples/CsvTrafficHoltWintersVariants (start), anomdetect/HoltWintersAustouristsTestHelper (after two seasons).
    #[test]
    fn it_begins_where_the_published_vector_begins() {
        let model = begun();
        assert_near(model.level, 25.527_534_5);
        assert_near(model.trend, 1.065_873_25);
        let season = [4.524_978_5, -6.379_038_5, -0.209_842_5, 2.063_902_5];
        for (found, published) in model.season.iter().zip(season) {
            assert_near(*found, published);
        }
    }

    #[test]
    fn after_two_seasons_it_stands_where_the_published_vector_stands() {
        let mut model = begun();
        for value in AUSTOURISTS {
            model.update(value);
        }
        assert_near(model.level, 31.618_601_453_710_7);
        assert_near(model.trend, 1.006_590_642_135_58);
        let season = [
            4.522_604_063_221_75,
            -6.379_785_669_831_14,
            -0.216_664_733_898_538,
            2.064_884_495_025_78,
        ];
        for (found, published) in model.season.iter().zip(season) {
            assert_near(*found, published);
        }
        assert_near(
            model.forecast(2),
            31.618_601_453_710_7 + 2.0 * 1.006_590_642_135_58 - 6.379_785_669_831_14,
        );
        assert_near(
            model.forecast(5) - model.forecast(1),
            4.0 * 1.006_590_642_135_58,
        );
    }

    #[test]
    fn a_gap_changes_neither_trend_nor_season() {
        let mut model = begun();
        let before = model.clone();
        let foreseen = model.forecast(1);
        model.update(f64::NAN);
        assert_near(model.level + model.season[0], foreseen);
        assert_near(model.trend, before.trend);
        assert_near(model.season[0], before.season[0]);
    }

    #[test]
    fn unusable_beginnings_are_refused() {
        let begin = HoltWinters::from_seasons;
        assert_eq!(begin(PUBLISHED, &[], &[]), None);
        assert_eq!(begin(PUBLISHED, &[1.0], &[1.0, 2.0]), None);
        assert_eq!(begin(PUBLISHED, &[1.0], &[f64::INFINITY]), None);
        let weights = Weights {
            level: 1.5,
            ..PUBLISHED
        };
        assert_eq!(begin(weights, &[1.0], &[1.0]), None);
    }
}
