//! What the real laws do on the model. Few seeds each, so that it stays quick; the binary runs thousands.

use laneguard_decider_core::{
    Action, adaptive, autorate,
    policy::{Law, Policy, Targets},
};
use laneguard_lab_plant::{
    generate::plant,
    run::{Record, run, run_under},
    scenario::{Demand, Phase, Scenario, Span},
    score::{Score, score},
    stability::{Stability, judge, unstable},
};

fn adaptive() -> Law {
    Law::Adaptive(adaptive::Parameters::default())
}

fn scored(scenario: &Scenario, law: Option<&Law>) -> (Record, Score) {
    let record = run(scenario, law);
    let score = score(scenario, &record);
    (record, score)
}

#[test]
fn without_control_the_model_shows_what_the_kernel_network_showed() {
    let scenario = Scenario::congestion(200e6, 3, 1);
    // Measured there: 82 % without control, 33 % and 83 % goodput under cake-autorate's law, with a slower scrape.
    let (_, none) = scored(&scenario, None);
    assert!((75.0..90.0).contains(&none.violating_percent), "{none:?}");
    assert!(none.goodput_percent > 98.0, "{none:?}");
    let law = Law::Autorate(autorate::Parameters::default());
    let (_, autorate) = scored(&scenario, Some(&law));
    assert!(
        (20.0..40.0).contains(&autorate.violating_percent),
        "{autorate:?}"
    );
}

/// The scenario's policy, with the word Auto in the place of its targets.
fn auto(scenario: &Scenario) -> Policy {
    let mut policy = scenario.policy(adaptive());
    for critical in &mut policy.critical {
        critical.targets = Targets::default();
        critical.auto = true;
    }
    policy
}

#[test]
fn targets_learned_before_the_load_protect_as_given_ones_do() {
    for seed in 1..4 {
        let mut scenario = Scenario::congestion(200e6, 3, seed);
        // Without load long enough to learn.
        scenario.phases[0].seconds = 60.0;
        let (_, given) = scored(&scenario, Some(&adaptive()));
        let record = run_under(&scenario, Some(auto(&scenario)));
        // Judged by the scenario's targets, P95 10 ms and jitter 5 ms, that the law was not told.
        let learned = score(&scenario, &record);
        assert!(
            learned.violating_percent < given.violating_percent + 1.0,
            "{learned:?} {given:?}"
        );
        assert!(learned.goodput_percent > 85.0, "{learned:?}");
    }
}

#[test]
fn where_load_comes_before_targets_are_learned_limits_hold_until_they_are() {
    // 20 s without load are too few, and 20 s with the 30 s between loads enough.
    let mut scenario = Scenario::congestion(200e6, 3, 1);
    let phases = scenario.phases.clone();
    scenario.phases.extend(phases);
    let record = run_under(&scenario, Some(auto(&scenario)));
    let moved = |from: f64, to: f64| {
        record
            .decisions
            .iter()
            .find(|d| (from..to).contains(&d.at) && d.action != Action::Hold)
    };
    let loads = scenario.loads();
    assert!(moved(0.0, loads[1].0).is_none(), "{record:?}");
    let first = moved(loads[1].0, f64::INFINITY).unwrap();
    assert_eq!(first.action, Action::CongestionThrottle);
}

#[test]
fn the_best_fixed_limit_never_violates() {
    let mut scenario = Scenario::congestion(200e6, 3, 1);
    scenario.start_bps = 0.95 * 200e6 / 3.0;
    let (_, score) = scored(&scenario, None);
    assert!(score.violating_percent < 0.1, "{score:?}");
    assert!(score.goodput_percent > 94.0, "{score:?}");
}

#[test]
fn the_same_seed_gives_the_same_run_and_another_one_another() {
    let runs = [1, 1, 2].map(|seed| run(&plant(seed), Some(&adaptive())));
    let limits = runs.each_ref().map(|record| &record.limits);
    assert_eq!(limits[0], limits[1]);
    assert_ne!(limits[0], limits[2]);
}

#[test]
fn adaptive_protects_on_every_link_and_number_of_pods_with_the_same_defaults() {
    for link_bps in [50e6, 200e6, 500e6] {
        for pods in [2, 3, 6] {
            let scores: Vec<Score> = (1..=4)
                .map(|seed| {
                    scored(
                        &Scenario::congestion(link_bps, pods, seed),
                        Some(&adaptive()),
                    )
                    .1
                })
                .collect();
            let mean = |value: fn(&Score) -> f64| scores.iter().map(value).sum::<f64>() / 4.0;
            let violating = mean(|score| score.violating_percent);
            let goodput = mean(|score| score.goodput_percent);
            assert!(
                violating < 5.0 && goodput > 85.0,
                "{link_bps} {pods}: {violating} % violating, {goodput} % goodput"
            );
            if link_bps >= 200e6 {
                assert!(
                    violating < 3.0 && goodput > 92.0,
                    "{link_bps} {pods}: {violating} {goodput}"
                );
            }
        }
    }
}

#[test]
fn adaptive_stops_throttling_within_twenty_samples_when_the_server_is_the_cause() {
    let scenario = Scenario::slow_server(3);
    let (record, score) = scored(&scenario, Some(&adaptive()));
    let found = record
        .decisions
        .iter()
        .find(|decision| decision.action == Action::NotBandwidth)
        .map(|decision| decision.at);
    assert!(found.is_some_and(|at| at < 40.0 + 20.0), "{found:?}");
    assert!(score.goodput_percent > 40.0, "of 45 % wanted: {score:?}");
}

#[test]
fn adaptive_finds_the_capacity_again_that_came_back() {
    let (_, score) = scored(&Scenario::capacity_drop(1), Some(&adaptive()));
    assert!(score.goodput_percent > 80.0, "{score:?}");
    assert!(score.violating_percent < 8.0, "{score:?}");
}

#[test]
fn adaptive_lets_light_load_have_what_it_wants() {
    let (record, score) = scored(&Scenario::light_load(1), Some(&adaptive()));
    assert!(score.goodput_percent > 25.0, "of 30 % wanted: {score:?}");
    assert!(
        record
            .decisions
            .iter()
            .all(|decision| decision.action != Action::CongestionThrottle)
    );
}

#[test]
fn of_random_plants_none_is_unstable_starved_or_out_of_bounds() {
    for seed in 0..60 {
        let (_, score) = scored(&plant(seed), Some(&adaptive()));
        assert!(
            !score.is_unstable() && !score.is_starved() && !score.out_of_bounds,
            "seed {seed}: {score:?}"
        );
    }
}

#[test]
fn random_plants_on_which_adaptive_once_found_no_rest_are_at_rest() {
    for seed in [2420, 3043, 5081, 6060, 6621, 6697] {
        let (_, score) = scored(&plant(seed), Some(&adaptive()));
        assert!(
            !score.is_unstable() && !score.is_starved(),
            "seed {seed}: {score:?}"
        );
    }
}

#[test]
fn a_law_made_unstable_on_purpose_is_flagged() {
    let flagged = (0..40)
        .filter(|seed| {
            let scenario = plant(*seed);
            let law = unstable(scenario.link_bps(0.0));
            scored(&scenario, Some(&law)).1.is_unstable()
        })
        .count();
    assert!(flagged >= 20, "{flagged} of 40");
}

#[test]
fn a_law_that_stays_at_the_minimum_is_flagged_as_starving() {
    let mut scenario = Scenario::congestion(200e6, 3, 1);
    scenario.start_bps = scenario.min_bps;
    assert!(scored(&scenario, None).1.is_starved());
    for phase in &mut scenario.phases {
        phase.demand = Demand::None;
    }
    assert!(!scored(&scenario, None).1.is_starved());
}

#[test]
fn a_plant_on_which_no_fixed_limit_meets_the_target_is_infeasible_and_any_other_failure_is_the_laws()
 {
    // 6 pods of 30 Mbit/s each on 100 Mbit/s: a minimum of 20 Mbit/s per pod still fills the link, one of 2 does not.
    let mut scenario = Scenario::congestion(100e6, 6, 1);
    for phase in &mut scenario.phases {
        if phase.demand != Demand::None {
            phase.demand = Demand::Udp(30e6);
        }
    }
    scenario.min_bps = 20e6;
    let (_, score) = scored(&scenario, None);
    assert!(matches!(judge(&scenario, &score), Stability::Infeasible(late) if late > 90.0));
    scenario.min_bps = 2e6;
    assert_eq!(judge(&scenario, &score), Stability::Unstable);
    assert_eq!(judge(&scenario, &Score::default()), Stability::Stable);
}

#[test]
fn a_slow_server_is_found_out_within_twenty_samples_and_bandwidth_returns_whatever_best_effort_does()
 {
    let phase = |seconds, demand| Phase {
        seconds,
        demand,
        active: 3,
    };
    // From 60 s on each request takes 50 ms more.
    let plans = [
        ("idle", vec![phase(120.0, Demand::None)]),
        (
            "a part of the link",
            vec![phase(120.0, Demand::Capped(30e6))],
        ),
        (
            "its full share",
            vec![phase(20.0, Demand::None), phase(100.0, Demand::Tcp)],
        ),
        (
            "full 5 s before",
            vec![phase(55.0, Demand::None), phase(65.0, Demand::Tcp)],
        ),
    ];
    for (name, phases) in plans {
        for seed in 1..=4 {
            let mut scenario = Scenario::slow_server(seed);
            scenario.phases.clone_from(&phases);
            scenario.slow_server = Some(Span {
                from: 60.0,
                to: 120.0,
                value: 50.0,
            });
            let record = run(&scenario, Some(&adaptive()));
            let found = record
                .decisions
                .iter()
                .find(|decision| decision.at > 60.0 && decision.action == Action::NotBandwidth)
                .map(|decision| decision.at);
            assert!(
                found.is_some_and(|at| at < 80.0),
                "{name}, seed {seed}: {found:?}"
            );
            let limit = |at: f64| {
                let before = record.limits.iter().rev().find(|(since, _)| *since <= at);
                before.map_or(0.0, |(_, limit)| *limit)
            };
            assert!(
                limit(81.0) >= 0.9 * limit(60.0),
                "{name}, seed {seed}: {} after {}",
                limit(81.0),
                limit(60.0)
            );
        }
    }
}

#[test]
fn when_the_link_fills_while_the_server_is_slow_the_finding_comes_in_time_too() {
    for (load, from) in [(39.0, 40.0), (45.0, 40.0), (80.0, 40.0)] {
        for seed in 1..=4 {
            let mut scenario = Scenario::slow_server(seed);
            scenario.phases[0].seconds = load;
            scenario.phases[1].demand = Demand::Tcp;
            let record = run(&scenario, Some(&adaptive()));
            let found = record
                .decisions
                .iter()
                .find(|decision| decision.at > from && decision.action == Action::NotBandwidth)
                .map(|decision| decision.at - from);
            assert!(
                found.is_some_and(|after| after < 20.0),
                "{load}, seed {seed}: {found:?}"
            );
        }
    }
}
