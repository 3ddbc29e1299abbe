//! The cluster's drop rate, and whether it is news. Pure.
//!
//! Prometheus computes a rate from what its window holds, also long after the last scrape, so the rate alone says nothing about
//! now: the newest scrape of the counters does.

use crate::pace::stale_after_ms;
use crate::sample::{Measurement, Quality, Window};

/// What is known about drops.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub enum Drops {
    /// Nothing.
    #[default]
    Unknown,
    /// A rate that is too old to act on.
    Stale {
        /// Age of the newest scrape, milliseconds.
        age_ms: i64,
        /// The age from which it is too old, milliseconds.
        after_ms: i64,
        /// The newest scrape, milliseconds since the Unix epoch.
        newest_ms: i64,
    },
    /// A rate that says something about now.
    Fresh {
        /// Drops per second.
        rate: f64,
        /// What it was taken over.
        window: Window,
    },
}

impl Drops {
    /// Judges a `rate` over the last `window_ms` by the `newest_ms` scrape of its counters, which come every `interval_ms`. `now_ms` and
    /// `newest_ms` are Prometheus' clock.
    pub fn of(
        now_ms: i64,
        rate: Option<f64>,
        newest_ms: Option<i64>,
        window_ms: i64,
        interval_ms: i64,
    ) -> Self {
        let Some((rate, newest_ms)) = rate.zip(newest_ms) else {
            return Self::Unknown;
        };
        let (age_ms, after_ms) = (now_ms - newest_ms, stale_after_ms(interval_ms));
        if age_ms > after_ms {
            return Self::Stale {
                age_ms,
                after_ms,
                newest_ms,
            };
        }
        Self::Fresh {
            rate,
            window: Window {
                start_ms: (now_ms - window_ms).min(newest_ms),
                end_ms: newest_ms,
            },
        }
    }

    /// Drops per second; `None`: unknown, or too old.
    pub fn rate(&self) -> Option<f64> {
        match self {
            Self::Fresh { rate, .. } => Some(*rate),
            Self::Unknown | Self::Stale { .. } => None,
        }
    }

    /// For a law that reads drops and nothing else: whether latency was measured does not matter, whether drops were does.
    #[must_use]
    pub fn judge(&self, measurement: Measurement) -> Measurement {
        let latency = &measurement.reason;
        let (quality, window, why) = match *self {
            Self::Fresh { .. } if measurement.quality.usable() => return measurement,
            Self::Fresh { window, .. } => (
                Quality::Good,
                Some(window),
                "judged by the drop rate".to_owned(),
            ),
            Self::Stale {
                age_ms,
                after_ms,
                newest_ms,
            } => (
                Quality::Stale,
                Some(Window {
                    start_ms: newest_ms,
                    end_ms: newest_ms,
                }),
                format!(
                    "the newest scrape of the drop rate is {} s old, more than {} s",
                    age_ms / 1000,
                    after_ms / 1000
                ),
            ),
            Self::Unknown => (
                Quality::NoData,
                measurement.window,
                "there is no drop rate".to_owned(),
            ),
        };
        Measurement {
            quality,
            reason: format!("{why}, which is all that the law reads; of latency: {latency}"),
            window,
            ..measurement
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn latency(quality: Quality) -> Measurement {
        Measurement {
            quality,
            reason: "no series".into(),
            source: String::new(),
            window: None,
            raw: None,
            count: None,
            request_rate: None,
        }
    }

    const WINDOW: Window = Window {
        start_ms: 96_000,
        end_ms: 99_500,
    };

    fn scraped(age_ms: i64) -> Drops {
        Drops::of(100_000, Some(30.0), Some(100_000 - age_ms), 4_000, 1_000)
    }

    #[test]
    fn a_fresh_drop_rate_makes_a_sample_that_ends_with_its_newest_scrape() {
        assert_eq!(
            scraped(500),
            Drops::Fresh {
                rate: 30.0,
                window: WINDOW
            }
        );
        for quality in [Quality::NoData, Quality::Idle, Quality::Failed] {
            let judged = scraped(500).judge(latency(quality));
            assert_eq!(judged.quality, Quality::Good);
            assert_eq!(judged.window, Some(WINDOW));
            assert!(judged.reason.contains("no series"), "{}", judged.reason);
        }
    }

    #[test]
    fn a_rate_that_prometheus_still_computes_after_scraping_stopped_is_stale_whatever_latency_says()
    {
        for quality in [Quality::Good, Quality::NoData, Quality::Idle] {
            let judged = scraped(5_001).judge(latency(quality));
            assert_eq!(judged.quality, Quality::Stale, "{}", judged.reason);
            assert_eq!(judged.window.map(|w| w.end_ms), Some(94_999));
        }
        assert_eq!(scraped(5_001).rate(), None);
        assert_eq!(scraped(5_000).rate(), Some(30.0));
    }

    #[test]
    fn without_a_rate_or_a_scrape_there_is_no_data() {
        for (rate, newest_ms) in [(None, Some(99_500)), (Some(30.0), None)] {
            let drops = Drops::of(100_000, rate, newest_ms, 4_000, 1_000);
            assert_eq!(drops.judge(latency(Quality::Good)).quality, Quality::NoData);
        }
    }
}
