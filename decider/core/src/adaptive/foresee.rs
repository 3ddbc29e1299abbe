//! Load that comes back: when is it expected, and what is done before it?
//!
//! An onset is remembered when the link was filled by something else than a raise of ours, or when best-effort began to send; with it what
//! best-effort could then safely have. The times between onsets are a series; Holt-Winters with a season of one to three of them (two
//! jobs that alternate have two) says when the next is due. It counts only if it foretold the last three seasons, each time within
//! 4 % of the period (or most of a window, if that is longer): chance does not.
//!
//! ```text
//! lead      limits go down at  due - tolerance - effect_ms - 1.25 windows    decisions are a window apart
//! came      best-effort sends 1.3 times what its pods of before would, or the critical mean rises clearly above what it was just before
//! missed    a window that began after  due + tolerance  shows neither: all is given back, what was learned is forgotten, and one more
//!           season must fit
//! ```
//!
//! What it cannot do: a load that takes the link without slowing critical requests while best-effort is low is not seen to come; limits then
//! return as if it had not. Seasons of more than three onsets, or periods outside 10 s to an hour, are not found.

use crate::{
    Action,
    holt_winters::{HoltWinters, Weights},
    reason::{mbit, number, seconds},
};

use super::{
    decide::{Control, Verdict, hold},
    memory::{Capacity, Episode, Expected, Forecast, Onset, Phase},
    observe::{Finding, Level, Seen},
    steps::{allowed, level_for, lower_to, raise_to},
    within::GUARDED,
};

/// Onsets nearer than this are one, milliseconds.
const ONE_ONSET_MS: i64 = 5_000;
/// Between what the periods lie, milliseconds.
const PERIOD_MS: (i64, i64) = (10_000, 3_600_000);
/// Most onsets remembered.
const MOST_ONSETS: usize = 16;
/// Most times between onsets in one season.
const MOST_SEASON: usize = 3;
/// Seasons that must fit before anything is expected.
const LEAST_SEASONS: usize = 3;
/// Most seasons asked for, after however many that failed.
const MOST_SEASONS: usize = 5;
/// How far from foretold an onset may be, as a share of the time since the one before.
const TOLERANCE: f64 = 0.04;
/// A queue that grew by this factor after a raise was undone has another cause.
const GROWN: f64 = 1.5;
/// Of the times between onsets: slow, since they are counted by hand.
const WEIGHTS: Weights = Weights {
    level: 0.3,
    trend: 0.1,
    season: 0.2,
};

/// When the next onset is due.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Due {
    at_ms: i64,
    /// Since the onset before, milliseconds.
    period_ms: i64,
    /// It may be early or late by so much, milliseconds.
    tolerance_ms: i64,
    /// Onsets that it was found from.
    fitted: usize,
    /// What best-effort could safely have, bits per second.
    budget_bps: f64,
}

impl Forecast {
    /// Whatever a clock that was set back left in the future is forgotten.
    pub(super) fn shaped(mut self, now_ms: i64, classes: usize) -> Self {
        let in_order = self
            .onsets
            .windows(2)
            .all(|pair| pair[0].at_ms < pair[1].at_ms);
        let is_past = self
            .onsets
            .last()
            .is_none_or(|onset| onset.at_ms <= now_ms.saturating_add(ONE_ONSET_MS));
        if !in_order || !is_past || self.onsets.len() > MOST_ONSETS {
            return Self {
                missed: self.missed,
                ..Self::default()
            };
        }
        self.expected = self.expected.filter(|expected| {
            expected.before_bps.len() == classes
                && (now_ms - PERIOD_MS.1..=now_ms + PERIOD_MS.1).contains(&expected.at_ms)
        });
        self
    }

    fn note(&mut self, at_ms: i64, budget_bps: f64) {
        match self.onsets.last_mut() {
            Some(last) if at_ms < last.at_ms - ONE_ONSET_MS => self.onsets.clear(),
            Some(last) if at_ms < last.at_ms + ONE_ONSET_MS => {
                last.budget_bps = last.budget_bps.min(budget_bps);
                return;
            }
            _ => {}
        }
        if self.onsets.len() >= MOST_ONSETS {
            self.onsets.remove(0);
        }
        self.onsets.push(Onset { at_ms, budget_bps });
    }

    /// When the next onset is due, if the last ones came with a period.
    fn due(&self, now_ms: i64, window_ms: i64) -> Option<Due> {
        let seasons = LEAST_SEASONS
            .saturating_add(usize::from(self.missed))
            .min(MOST_SEASONS);
        (1..=MOST_SEASON)
            .filter_map(|season| self.due_by(season, seasons, window_ms))
            .find(|due| due.at_ms.saturating_add(due.tolerance_ms) >= now_ms)
    }

    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)]
    fn due_by(&self, season: usize, seasons: usize, window_ms: i64) -> Option<Due> {
        let count = season * seasons;
        let first = self.onsets.len().checked_sub(count + 1)?;
        let onsets = &self.onsets[first..];
        let between: Vec<f64> = onsets
            .windows(2)
            .map(|pair| (pair[1].at_ms - pair[0].at_ms) as f64)
            .collect();
        let mean: Vec<f64> = (0..season)
            .map(|place| between.iter().skip(place).step_by(season).sum::<f64>() / seasons as f64)
            .collect();
        // Begun from the mean of all, without trend: two times alone would make their noise one.
        let mut model = HoltWinters::from_seasons(WEIGHTS, &mean, &mean)?;
        let mut worst = 0.0_f64;
        for (place, value) in between.iter().enumerate() {
            let usual = mean[place % season];
            let error = (value - usual).abs().max((value - model.forecast(1)).abs());
            let bound = (TOLERANCE * usual).max(0.75 * window_ms as f64);
            if error > bound {
                return None;
            }
            worst = worst.max(error);
            model.update(*value);
        }
        let period_ms = model.forecast(1) as i64;
        if !(PERIOD_MS.0..=PERIOD_MS.1).contains(&period_ms) {
            return None;
        }
        Some(Due {
            at_ms: onsets.last()?.at_ms.saturating_add(period_ms),
            period_ms,
            tolerance_ms: (1.25 * worst) as i64 + window_ms / 4,
            fitted: onsets.len(),
            budget_bps: onsets.last()?.budget_bps,
        })
    }
}

/// At most what pods send under a level, if they want no more than now: the busiest of each class, and the others in all.
fn beside(usage: &Seen, level_bps: f64) -> f64 {
    let busiest: f64 = usage.classes.iter().map(|(_, top_bps)| top_bps).sum();
    let held: f64 = usage
        .classes
        .iter()
        .map(|(_, top_bps)| top_bps.min(level_bps))
        .sum();
    let others: f64 = usage
        .classes
        .iter()
        .map(|(pods, _)| (pods - 1.0).max(0.0))
        .sum();
    held + (usage.total_bps - busiest).clamp(0.0, others * level_bps)
}

impl Control<'_> {
    /// Cuts in the present episode, and the milliseconds of queue that they were for.
    fn cuts(&self) -> (u8, f64) {
        match self.memory.phase {
            Phase::Episode(episode) => (episode.cuts, episode.excess_ms),
            _ => (0, 0.0),
        }
    }

    /// [`Self::violating`], and learns from it when load comes.
    pub(super) fn violating_noted(&mut self, worst: &Finding) -> Verdict {
        if !self.parameters.forecast {
            return self.violating(worst);
        }
        let (cuts, cut_for_ms) = self.cuts();
        // The windows before were calm: the queue is no older than this one, give or take its last requests.
        #[allow(clippy::cast_precision_loss)]
        let raised_ms = self.responsible_raise().map_or(0.0, |raise| {
            let grown_ms = self
                .since_change_ms()
                .min(self.memory.window_ms.saturating_mul(3) / 2);
            (1.0 / raise.undo - 1.0) * grown_ms as f64 + 10.0
        });
        let verdict = self.violating(worst);
        if matches!(verdict.action, Action::NotBandwidth | Action::CannotBeMet) {
            // What comes is not about bandwidth: to lower best-effort before it would help nobody.
            self.memory.forecast.onsets.clear();
            self.memory.forecast.expected = None;
        } else if self.cuts().0 > cuts {
            let expected = self.memory.forecast.expected.take();
            let onset_ms = match (expected, self.memory.phase) {
                (Some(expected), _) => expected.at_ms.clamp(
                    self.ours(worst.start_ms),
                    self.ours(worst.end_ms).max(self.ours(worst.start_ms)),
                ),
                (
                    None,
                    Phase::Episode(Episode {
                        onset_low_ms,
                        onset_high_ms,
                        ..
                    }),
                ) => self.ours(onset_low_ms.midpoint(onset_high_ms)),
                _ => return verdict,
            };
            let Some(budget) = self.budget() else {
                return verdict;
            };
            let forecast = &mut self.memory.forecast;
            match forecast.onsets.last_mut() {
                // A later cut knows better what is safe.
                Some(last) if onset_ms < last.at_ms.saturating_add(2 * ONE_ONSET_MS) => {
                    last.budget_bps = budget;
                }
                // A queue that the last raise explains is no load that came, unless it grows on although the raise was undone.
                _ if cuts == 0 && worst.excess_ms > raised_ms
                    || cuts == 1 && worst.excess_ms > GROWN * cut_for_ms =>
                {
                    forecast.note(onset_ms, budget);
                }
                _ => {}
            }
        }
        verdict
    }

    /// Before an onset that is due, and until it has come or failed to; `None`: nothing is expected now.
    pub(super) fn foresee(&mut self, worst: &Finding) -> Option<Verdict> {
        if !self.parameters.forecast || self.memory.phase != Phase::Steady {
            return None;
        }
        let seen = self.seen;
        let usage = seen.usage.as_ref()?;
        if let Some(expected) = self.memory.forecast.expected.take() {
            return self.wait(worst, usage, expected);
        }
        self.note_demand(usage);
        let window_ms = self.memory.window_ms.max(1_000);
        let due = self.memory.forecast.due(self.now_ms, window_ms)?;
        let lead_ms = self
            .effect_ms()
            .max(0)
            .saturating_add(window_ms * 5 / 4)
            .saturating_add(due.tolerance_ms);
        let left_ms = due.at_ms.saturating_sub(self.now_ms);
        let budget = GUARDED * due.budget_bps;
        if left_ms > lead_ms || allowed(self.state, usage) <= 1.02 * budget {
            return None;
        }
        let level = level_for(self.policy, usage, budget)?;
        let why = format!(
            "{}, and load that came the last {} times, {} apart, is expected in {} (give or take {}): until then limits go to the {} that are safe beside it",
            worst.text,
            due.fitted,
            seconds(due.period_ms.unsigned_abs() / 100 * 100),
            seconds(left_ms.max(0).unsigned_abs() / 100 * 100),
            seconds(due.tolerance_ms.unsigned_abs() / 100 * 100),
            mbit(budget),
        );
        self.memory.forecast.expected = Some(Expected {
            at_ms: due.at_ms,
            tolerance_ms: due.tolerance_ms,
            budget_bps: due.budget_bps,
            total_bps: beside(usage, level),
            before_bps: self
                .state
                .limits
                .iter()
                .map(|limit| limit.limit_bps)
                .collect(),
            ..Expected::default()
        });
        Some(self.change(Action::ForecastThrottle, why, |policy, state| {
            lower_to(policy, state, level)
        }))
    }

    /// Best-effort that begins to send is an onset, too, whether or not it hurts.
    fn note_demand(&mut self, usage: &Seen) {
        let (Some(budget), Some(before)) = (self.budget(), self.memory.calm_bps) else {
            return;
        };
        if !self.is_mixed(usage.start_ms, usage.end_ms)
            && usage.total_bps > 0.4 * budget
            && before < 0.1 * budget
        {
            let at_ms = self.ours(usage.start_ms.midpoint(usage.end_ms));
            self.memory.forecast.note(at_ms, budget);
        }
    }

    fn wait(&mut self, worst: &Finding, usage: &Seen, mut expected: Expected) -> Option<Verdict> {
        let start_ms = worst.start_ms.min(usage.start_ms);
        let end_ms = worst.end_ms.min(usage.end_ms);
        if self.is_mixed(start_ms, end_ms) {
            let verdict = hold(format!(
                "{}, in a window that began before limits were lowered for what is expected",
                worst.text
            ));
            self.memory.forecast.expected = Some(expected);
            return Some(verdict);
        }
        let mean_ms = worst.signals.mean_ms;
        let noise_ms = self
            .memory
            .floors
            .get(worst.workload)
            .and_then(|floor| floor.deviation_ms)
            .unwrap_or(0.0);
        let is_rising = match (mean_ms, expected.mean_ms) {
            (Some(mean), Some(usual)) => mean > usual + (4.0 * noise_ms).max(0.1 * usual),
            _ => worst.level == Level::Early,
        };
        let is_sending = usage.total_bps > 1.3 * expected.total_bps
            && usage.total_bps > 0.4 * expected.budget_bps;
        let (from_ms, to_ms) = (
            self.ours(start_ms),
            self.ours(worst.end_ms.max(usage.end_ms)),
        );
        if to_ms >= expected.at_ms.saturating_sub(expected.tolerance_ms)
            && (is_rising || is_sending)
        {
            self.memory.forecast.note(
                expected.at_ms.clamp(from_ms, to_ms.max(from_ms)),
                expected.budget_bps,
            );
            self.memory.forecast.missed = self.memory.forecast.missed.saturating_sub(1);
            if !is_sending {
                // Somebody else takes a part of the link: what it carries is known from the last time.
                let low_bps = expected.budget_bps / self.parameters.settle;
                self.memory.capacity = Some(Capacity {
                    low_bps,
                    high_bps: low_bps * 1.02,
                    guessed: false,
                });
                self.memory.held_bps = None;
                self.memory.mark_bps = low_bps * 1.02;
                self.memory.test_after_ms = self.now_ms.saturating_add(self.patience_ms());
            }
            return Some(hold(format!(
                "{}, and what was expected has come",
                worst.text
            )));
        }
        if from_ms >= expected.at_ms.saturating_add(expected.tolerance_ms) {
            let missed = self.memory.forecast.missed.saturating_add(1).min(10);
            self.memory.forecast = Forecast {
                missed,
                ..Forecast::default()
            };
            if !self.may_raise() {
                return None;
            }
            let late_ms = self.now_ms.saturating_sub(expected.at_ms).unsigned_abs();
            let why = format!(
                "{}, and what was expected {} ago did not come: the bandwidth is given back",
                worst.text,
                seconds(late_ms / 100 * 100)
            );
            let verdict = self.change(Action::Increase, why, |policy, state| {
                raise_to(policy, state, &expected.before_bps);
            });
            if let Some(change) = &mut self.memory.change {
                // Not towards the unknown: it held until a moment ago.
                change.settling = true;
            }
            return Some(verdict);
        }
        expected.total_bps = expected.total_bps.min(usage.total_bps);
        expected.mean_ms =
            mean_ms.map(|mean| expected.mean_ms.map_or(mean, |usual| usual.min(mean)));
        let verdict = hold(format!(
            "{}, and what is expected has not come yet: {}",
            worst.text,
            if expected.at_ms > self.now_ms {
                format!(
                    "it is due in {} s",
                    number(((expected.at_ms - self.now_ms) / 100) as f64 / 10.0)
                )
            } else {
                "it is due".to_owned()
            }
        ));
        self.memory.forecast.expected = Some(expected);
        Some(verdict)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START_MS: i64 = 1_000_000_000;

    /// Onsets after the given times, each in seconds after the one before.
    fn after(seconds: &[f64]) -> Forecast {
        let mut forecast = Forecast::default();
        let mut at_ms = START_MS;
        forecast.note(at_ms, 100e6);
        for seconds in seconds {
            #[allow(clippy::cast_possible_truncation)]
            let ms = (seconds * 1e3) as i64;
            at_ms += ms;
            forecast.note(at_ms, 100e6);
        }
        forecast
    }

    fn due_after_last(forecast: &Forecast) -> Option<i64> {
        let last_ms = forecast.onsets.last()?.at_ms;
        let due = forecast.due(last_ms + 1_000, 1_000)?;
        Some((due.at_ms - last_ms) / 1_000)
    }

    #[test]
    fn three_equal_times_between_onsets_make_a_period_and_two_do_not() {
        assert_eq!(due_after_last(&after(&[30.0, 30.2])), None);
        assert_eq!(due_after_last(&after(&[30.0, 30.2, 29.9])), Some(30));
        assert_eq!(
            due_after_last(&after(&[1800.0, 1805.0, 1795.0])),
            Some(1_798)
        );
    }

    #[test]
    fn two_jobs_that_alternate_are_a_season_of_two() {
        let forecast = after(&[40.0, 20.0, 40.0, 20.0, 40.0, 20.0]);
        assert_eq!(due_after_last(&forecast), Some(40));
        let forecast = after(&[20.0, 40.0, 20.0, 40.0, 20.0, 40.0]);
        assert_eq!(due_after_last(&forecast), Some(20));
    }

    #[test]
    fn irregular_onsets_and_periods_out_of_range_make_none() {
        assert_eq!(due_after_last(&after(&[30.0, 33.0, 28.0, 31.5])), None);
        assert_eq!(due_after_last(&after(&[7.0, 7.0, 7.0, 7.0])), None);
        assert_eq!(due_after_last(&after(&[4_000.0; 5])), None);
    }

    #[test]
    fn chance_makes_a_period_of_few_random_series() {
        // A linear congruential generator: gaps evenly between 10 and 60 s.
        let mut seed = 1_u64;
        let mut found = 0;
        for _ in 0..1_000 {
            let gaps: Vec<f64> = (0..4)
                .map(|_| {
                    seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    #[allow(clippy::cast_precision_loss)]
                    let unit = (seed >> 40) as f64 / f64::from(1_u32 << 24);
                    10.0 + 50.0 * unit
                })
                .collect();
            found += usize::from(due_after_last(&after(&gaps)).is_some());
        }
        assert!(found < 10, "{found} of 1000");
    }

    #[test]
    fn after_a_forecast_that_failed_more_seasons_must_fit() {
        let mut forecast = after(&[30.0; 3]);
        forecast.missed = 1;
        assert_eq!(due_after_last(&forecast), None);
        let mut forecast = after(&[30.0; 4]);
        forecast.missed = 1;
        assert_eq!(due_after_last(&forecast), Some(30));
    }

    #[test]
    fn what_was_due_and_passed_unseen_is_not_expected_any_more() {
        let forecast = after(&[30.0; 4]);
        let last_ms = START_MS + 4 * 30_000;
        assert!(forecast.due(last_ms + 29_000, 1_000).is_some());
        assert!(forecast.due(last_ms + 33_000, 1_000).is_none());
    }

    #[test]
    fn onsets_are_bounded_and_near_ones_are_one() {
        let forecast = after(&[12.0; 100]);
        assert_eq!(forecast.onsets.len(), MOST_ONSETS);
        assert_eq!(due_after_last(&forecast), Some(12));
        assert_eq!(after(&[30.0, 3.0]).onsets.len(), 2);
    }

    #[test]
    fn the_whole_memory_of_onsets_takes_less_than_two_kibibytes_and_comes_back_from_storage() {
        let mut forecast = Forecast::default();
        for place in 0..100 {
            forecast.note(1_795_000_000_000 + place * 30_123, 98_765_432.123_456_78);
        }
        forecast.expected = Some(Expected {
            before_bps: vec![98_765_432.123_456_78; 8],
            ..Expected::default()
        });
        let text = serde_json::to_string(&forecast).unwrap();
        assert!(text.len() < 2_048, "{}", text.len());
        assert_eq!(serde_json::from_str::<Forecast>(&text).unwrap(), forecast);
        assert_eq!(
            serde_json::from_str::<Forecast>("{}").unwrap(),
            Forecast::default()
        );
    }

    #[test]
    fn a_clock_that_is_set_back_makes_it_learn_anew() {
        let forecast = after(&[30.0; 4]);
        let now_ms = START_MS + 130_000;
        assert_eq!(forecast.clone().shaped(now_ms, 1), forecast);
        let shaped = forecast.clone().shaped(START_MS - 3_600_000, 1);
        assert_eq!(shaped.onsets, []);
        let mut forecast = forecast;
        forecast.note(START_MS - 3_600_000, 1e6);
        assert_eq!(forecast.onsets.len(), 1);
    }

    #[test]
    fn what_pods_send_under_a_lower_limit_is_the_busiest_cut_and_the_rest_as_before() {
        let usage = |pods, top_bps, total_bps| Seen {
            start_ms: 0,
            end_ms: 1_000,
            total_bps,
            classes: vec![(pods, top_bps)],
        };
        assert_eq!(beside(&usage(3.0, 190e6, 190e6), 60e6), 60e6);
        assert_eq!(beside(&usage(3.0, 190e6, 195e6), 60e6), 65e6);
        assert_eq!(beside(&usage(3.0, 65e6, 195e6), 30e6), 90e6);
    }
}
