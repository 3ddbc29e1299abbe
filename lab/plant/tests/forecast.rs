//! Whether `Adaptive` foresees load that comes back, and what it costs where there is nothing to foresee.

use laneguard_decider_core::{Action, adaptive, policy::Law};
use laneguard_lab_plant::{
    run::{Record, run},
    scenario::Scenario,
    score::{Score, score},
};

const SEEDS: std::ops::RangeInclusive<u64> = 1..=6;

fn with(forecast: bool, scenario: &Scenario) -> (Record, Score) {
    let law = Law::Adaptive(adaptive::Parameters {
        forecast,
        ..adaptive::Parameters::default()
    });
    let record = run(scenario, Some(&law));
    let score = score(scenario, &record);
    (record, score)
}

fn forecasts(record: &Record) -> usize {
    record
        .decisions
        .iter()
        .filter(|decision| decision.action == Action::ForecastThrottle)
        .count()
}

/// Phases alternate between one pod and all: the violating windows of the nth burst, the first being 1.
fn in_burst(score: &Score, n: usize) -> usize {
    score.violating[2 * n - 1]
}

#[test]
fn after_five_periodic_bursts_the_sixth_has_at_most_half_the_violating_windows() {
    let (mut foreseen, mut unforeseen) = (0, 0);
    for seed in SEEDS {
        let scenario = Scenario::burst_joined(seed);
        let (record, score) = with(true, &scenario);
        foreseen += in_burst(&score, 6);
        unforeseen += in_burst(&with(false, &scenario).1, 6);
        assert!(forecasts(&record) > 0, "seed {seed}");
    }
    assert!(unforeseen >= 6, "{unforeseen}: nothing to foresee");
    assert!(2 * foreseen <= unforeseen, "{foreseen} of {unforeseen}");
}

#[test]
fn a_burst_that_does_not_come_costs_at_most_two_points_of_goodput() {
    for seed in SEEDS {
        let scenario = Scenario::burst_missing(seed);
        let (record, score) = with(true, &scenario);
        let without = with(false, &scenario).1;
        // It was expected about 175 s after the start, and not afterwards: confidence is lost.
        let given_back = record.decisions.iter().find(|decision| {
            decision
                .reason
                .contains("did not come: the bandwidth is given back")
        });
        assert!(
            given_back.is_some_and(|decision| (170.0..176.0).contains(&decision.at)),
            "seed {seed}: {given_back:?}"
        );
        assert!(
            record
                .decisions
                .iter()
                .all(|decision| decision.action != Action::ForecastThrottle || decision.at < 176.0),
            "seed {seed}"
        );
        assert!(
            score.goodput_percent >= without.goodput_percent - 2.0,
            "seed {seed}: {} instead of {}",
            score.goodput_percent,
            without.goodput_percent
        );
    }
}

#[test]
fn random_bursts_are_not_foreseen_and_cost_nothing() {
    let (mut foreseen, mut unforeseen, mut forecast) = (0.0, 0.0, 0);
    for seed in SEEDS {
        let scenario = Scenario::burst_random(seed);
        let (record, score) = with(true, &scenario);
        let without = with(false, &scenario).1;
        foreseen += score.violating_percent;
        unforeseen += without.violating_percent;
        forecast += forecasts(&record);
        assert!(score.goodput_percent >= without.goodput_percent - 2.0);
    }
    assert!(foreseen <= unforeseen, "{foreseen} {unforeseen}");
    assert_eq!(forecast, 0);
}

#[test]
fn forecasts_survive_lost_samples_and_a_clock_that_is_ahead() {
    // From the fifth burst on.
    let late = |score: &Score| (5..=8).map(|n| in_burst(score, n)).sum::<usize>();
    let (mut foreseen, mut unforeseen) = (0, 0);
    for seed in SEEDS {
        let mut scenario = Scenario::burst_joined(seed);
        scenario.lost = 0.03;
        scenario.clock_ahead = 1.5;
        foreseen += late(&with(true, &scenario).1);
        unforeseen += late(&with(false, &scenario).1);
    }
    assert!(2 * foreseen <= unforeseen, "{foreseen} of {unforeseen}");
}

#[test]
fn without_the_forecast_nothing_is_foreseen() {
    let (record, _) = with(false, &Scenario::burst_joined(1));
    assert_eq!(forecasts(&record), 0);
}
