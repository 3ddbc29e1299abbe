//! When within the scrape interval to poll. Pure.
//!
//! A poll that happens to fall just before each scrape always sees news that are almost an interval old. So the polls drift until
//! one begins shortly after a scrape has become visible; the interval between them stays what was configured.

/// How long after its scrape began a poll is tried first, milliseconds.
const LEAST_DELAY_MS: i64 = 100;
/// By how much that grows when the scrape was not visible yet, milliseconds.
const MORE_DELAY_MS: i64 = 50;

/// The phase of polls against scrapes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Phase {
    /// Scrapes take time: from this long after they began they are expected to be visible, milliseconds.
    delay_ms: i64,
    newest_ms: Option<i64>,
}

impl Default for Phase {
    fn default() -> Self {
        Self {
            delay_ms: LEAST_DELAY_MS,
            newest_ms: None,
        }
    }
}

impl Phase {
    /// By how much the next poll is to begin later (positive) or earlier than one poll interval after this one, milliseconds;
    /// at most half an interval. `polled_ms` is when this one began, by Prometheus' clock, in which `newest_ms`, the newest
    /// scrape that it saw, is dated.
    pub fn shift_ms(
        &mut self,
        poll_interval_ms: i64,
        polled_ms: i64,
        newest_ms: Option<i64>,
        scrape_interval_ms: Option<i64>,
    ) -> i64 {
        let (Some(newest_ms), Some(scrape_interval_ms)) = (newest_ms, scrape_interval_ms) else {
            return 0;
        };
        let half = poll_interval_ms / 2;
        let age_ms = polled_ms - newest_ms;
        let news = self.newest_ms.replace(newest_ms) != Some(newest_ms);
        let due = scrape_interval_ms + self.delay_ms / 2;
        if (due..2 * scrape_interval_ms).contains(&age_ms) && self.delay_ms < half {
            // the scrape that was due is not visible: it takes longer than we thought, or is missing (then this does little)
            self.delay_ms += MORE_DELAY_MS;
            return MORE_DELAY_MS;
        }
        if !news || age_ms >= due {
            return 0;
        }
        self.delay_ms = (self.delay_ms - 1).max(LEAST_DELAY_MS);
        let late_ms = (age_ms - self.delay_ms).rem_euclid(poll_interval_ms.max(1));
        if late_ms > half {
            poll_interval_ms - late_ms
        } else {
            -late_ms
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ages of the newest visible scrape at each poll. Scrapes begin at multiples of `scrape` and are visible `takes` later.
    fn ages(polls: usize, first: i64, poll: i64, scrape: i64, takes: i64) -> Vec<i64> {
        let mut phase = Phase::default();
        let mut at = first;
        (0..polls)
            .map(|_| {
                let newest = (at - takes).div_euclid(scrape) * scrape;
                let shift = phase.shift_ms(poll, at, Some(newest), Some(scrape));
                assert!(shift.abs() <= poll / 2);
                let age = at - newest;
                at += poll + shift;
                age
            })
            .collect()
    }

    #[test]
    fn polls_settle_shortly_after_the_scrapes_wherever_they_began() {
        for first in (10_000..11_000).step_by(37) {
            let ages = ages(20, first, 1000, 1000, 20);
            assert!(
                ages[3..].iter().all(|age| (90..=210).contains(age)),
                "{first}: {ages:?}"
            );
        }
    }

    #[test]
    fn slow_scrapes_are_waited_for() {
        let ages = ages(200, 10_950, 1000, 1000, 330);
        let fresh = ages[20..].iter().filter(|age| **age < 450).count();
        assert!(fresh >= 170, "{ages:?}");
    }

    #[test]
    fn with_rare_scrapes_one_poll_in_each_interval_is_well_placed() {
        let ages = ages(100, 10_700, 1000, 5000, 20);
        let youngest = ages[10..].iter().filter(|age| **age < 250).count();
        assert!(youngest >= 17, "{ages:?}");
    }

    #[test]
    fn without_scrapes_nothing_is_shifted() {
        let mut phase = Phase::default();
        assert_eq!(phase.shift_ms(1000, 5, None, None), 0);
        assert_eq!(phase.shift_ms(1000, 900, Some(400), Some(1000)), -400);
        for _ in 0..10 {
            assert_eq!(phase.shift_ms(1000, 90_000, Some(400), Some(1000)), 0);
        }
    }
}
