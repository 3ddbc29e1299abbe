//! How far back to ask, learned from the scrapes themselves. Pure.

/// Windows to ask for while the scrape interval is unknown, milliseconds: the wider one when the narrower found no two scrapes.
const UNKNOWN_MS: [i64; 2] = [60_000, 300_000];
/// A sample looks back this far at most, unless the scrape interval is longer, milliseconds.
const MOST_LOOKBACK_MS: i64 = 10_000;
/// And over this many scrapes at most.
pub const MOST_SCRAPES: i64 = 10;
/// Never stale below this age, milliseconds: a short scrape interval does not make a late scrape alarming.
const LEAST_STALE_MS: i64 = 5_000;

/// How long a sample's window may be with this scrape interval, milliseconds.
pub fn lookback_ms(interval_ms: i64) -> i64 {
    interval_ms.max(MOST_LOOKBACK_MS.min(MOST_SCRAPES.saturating_mul(interval_ms)))
}

/// The age from which the newest scrape is too old to act on, milliseconds.
pub fn stale_after_ms(interval_ms: i64) -> i64 {
    LEAST_STALE_MS.max(interval_ms.saturating_mul(3))
}

/// What is known about how often some series are scraped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pace {
    /// The scrape interval in milliseconds, once learned.
    pub interval_ms: Option<i64>,
    newest_ms: Option<i64>,
    rung: usize,
}

impl Pace {
    /// How far back the next query asks, whole seconds.
    ///
    /// Wide enough for the longest window and for scrapes that are late; when no new ones come it goes on growing to
    /// five minutes, so that STALE can say how old the newest one is.
    pub fn window_s(&self, now_ms: i64) -> i64 {
        let ms = match (self.interval_ms, self.newest_ms) {
            (Some(interval), Some(newest)) => {
                let late = (now_ms - newest - stale_after_ms(interval)).max(0);
                lookback_ms(interval) + stale_after_ms(interval) + interval + late
            }
            _ => UNKNOWN_MS[self.rung.min(UNKNOWN_MS.len() - 1)],
        };
        (ms.min(UNKNOWN_MS[1]) + 999) / 1000
    }

    /// Learns from an answer: the median scrape interval in it, if anything was scraped twice, and its newest scrape.
    #[must_use]
    pub fn learned(self, interval_ms: Option<i64>, newest_ms: Option<i64>) -> Self {
        let rung = match (interval_ms, self.interval_ms) {
            (None, None) => (self.rung + 1).min(UNKNOWN_MS.len() - 1),
            _ => 0,
        };
        Self {
            interval_ms,
            newest_ms,
            rung,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_widens_until_two_scrapes_are_found_then_fits_the_interval() {
        let now = 1_000_000;
        let unknown = Pace::default();
        assert_eq!(unknown.window_s(now), 60);
        let wider = unknown.learned(None, Some(now));
        assert_eq!(wider.window_s(now), 300);
        assert_eq!(wider.learned(None, None).window_s(now), 300);
        // 1 s: 10 s to look back, 5 s until stale, 1 s for the scrape under way
        assert_eq!(wider.learned(Some(1000), Some(now)).window_s(now), 16);
        // 15 s: one interval, three until stale, one more
        assert_eq!(wider.learned(Some(15_000), Some(now)).window_s(now), 75);
    }

    #[test]
    fn when_scrapes_stop_the_window_follows_the_last_one_to_five_minutes() {
        let pace = Pace::default().learned(Some(1000), Some(0));
        assert_eq!(pace.window_s(5_000), 16);
        assert_eq!(pace.window_s(65_000), 76);
        assert_eq!(pace.window_s(3_600_000), 300);
        // gone: begins anew
        assert_eq!(pace.learned(None, None).window_s(3_600_000), 60);
    }

    #[test]
    fn a_sample_looks_back_ten_scrapes_or_ten_seconds_and_at_least_one_scrape() {
        assert_eq!(lookback_ms(500), 5_000);
        assert_eq!(lookback_ms(1_000), 10_000);
        assert_eq!(lookback_ms(5_000), 10_000);
        assert_eq!(lookback_ms(30_000), 30_000);
        assert_eq!(stale_after_ms(1_000), 5_000);
        assert_eq!(stale_after_ms(15_000), 45_000);
    }
}
