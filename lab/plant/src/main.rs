//! Prints what each law does on the model: `laneguard-lab-plant table`, `random COUNT [LAW]`, or `trace SCENARIO [LAW] [SEED]`.

use std::process::ExitCode;

use laneguard_decider_core::{
    adaptive, autorate, drop_rate, headroom, policy::Law, threshold, watermark,
};
use laneguard_lab_plant::{
    generate::plant,
    run::run,
    scenario::Scenario,
    score::{Score, score},
};

/// Runs per row, each with its own luck.
const RUNS: u64 = 20;

/// The laws at their defaults; those that must be told the link's rate are told.
fn laws(link_bps: f64) -> Vec<(&'static str, Option<Law>)> {
    vec![
        ("none", None),
        (
            "Threshold",
            Some(Law::Threshold(threshold::Parameters::default())),
        ),
        (
            "DropRate",
            Some(Law::DropRate(drop_rate::Parameters::default())),
        ),
        (
            "Watermark",
            Some(Law::Watermark(watermark::Parameters {
                link_bps,
                ..watermark::Parameters::default()
            })),
        ),
        (
            "Headroom",
            Some(Law::Headroom(headroom::Parameters {
                link_bps,
                ..headroom::Parameters::default()
            })),
        ),
        (
            "Autorate",
            Some(Law::Autorate(autorate::Parameters::default())),
        ),
        (
            "Adaptive",
            Some(Law::Adaptive(adaptive::Parameters::default())),
        ),
    ]
}

fn scenarios(seed: u64) -> Vec<Scenario> {
    let mut scenarios: Vec<Scenario> = [50e6, 200e6, 500e6]
        .into_iter()
        .flat_map(|link_bps| [2, 3, 6].map(|pods| Scenario::congestion(link_bps, pods, seed)))
        .collect();
    scenarios.extend([
        Scenario::burst(seed),
        Scenario::capacity_drop(seed),
        Scenario::slow_server(seed),
        Scenario::light_load(seed),
        Scenario::from_100(seed),
        Scenario::stalls(seed),
        Scenario::udp(seed),
        Scenario::one_of_three(seed),
    ]);
    scenarios
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let argument = |index: usize| arguments.get(index).map(String::as_str);
    let number = |index: usize, default: u64| {
        argument(index)
            .and_then(|text| text.parse().ok())
            .unwrap_or(default)
    };
    match argument(0) {
        None | Some("table") => table(argument(1)),
        Some("random") => return random(number(1, 1_000), argument(2).unwrap_or("Adaptive")),
        Some("trace") => trace(
            argument(1).unwrap_or("congestion 200"),
            argument(2).unwrap_or("Adaptive"),
            number(3, 1),
        ),
        Some(other) => {
            eprintln!("{other:?} is none of table, random, trace");
            return ExitCode::from(64);
        }
    }
    ExitCode::SUCCESS
}

fn law(name: &str, link_bps: f64) -> Option<Law> {
    laws(link_bps)
        .into_iter()
        .find(|(other, _)| *other == name)
        .and_then(|(_, law)| law)
}

#[allow(clippy::cast_precision_loss)]
fn table(only: Option<&str>) {
    println!(
        "{:30} {:10} {:>13} {:>9} {:>13} {:>7} {:>11} {:>11}",
        "scenario",
        "law",
        "violating %",
        "goodput %",
        "protected s",
        "2nd bad",
        "changes/min",
        "steady/min"
    );
    for (index, first) in scenarios(0).iter().enumerate() {
        let name = &first.name;
        for (law_name, law) in laws(first.link_bps(0.0)) {
            if only.is_some_and(|only| only != law_name) {
                continue;
            }
            let scores: Vec<Score> = (1..=RUNS)
                .map(|seed| {
                    let scenario = &scenarios(seed)[index];
                    score(scenario, &run(scenario, law.as_ref()))
                })
                .collect();
            let mean = |value: fn(&Score) -> f64| {
                scores.iter().map(value).sum::<f64>() / scores.len() as f64
            };
            let most = |value: fn(&Score) -> f64| scores.iter().map(value).fold(0.0, f64::max);
            let least =
                |value: fn(&Score) -> f64| scores.iter().map(value).fold(f64::INFINITY, f64::min);
            let protected = |score: &Score| {
                score
                    .protected_after
                    .first()
                    .copied()
                    .flatten()
                    .unwrap_or(f64::INFINITY)
            };
            println!(
                "{name:30} {law_name:10} {:5.2} ({:5.2}) {:4.1} ({:4.1}) {:4.1} ({:4.1}) {:7.1} {:11.1} {:11.1}",
                mean(|s| s.violating_percent),
                most(|s| s.violating_percent),
                mean(|s| s.goodput_percent),
                least(|s| s.goodput_percent),
                mean(protected),
                most(protected),
                mean(|s| s.violating.iter().skip(1).sum::<usize>() as f64),
                mean(|s| s.changes_per_minute),
                mean(|s| s.steady_changes_per_minute),
            );
        }
    }
}

#[allow(clippy::cast_precision_loss)]
fn random(count: u64, law_name: &str) -> ExitCode {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as u64;
    let scores: Vec<(u64, Score)> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|worker| {
                scope.spawn(move || {
                    (0..count)
                        .filter(|seed| seed % threads == worker)
                        .map(|seed| {
                            let scenario = plant(seed);
                            let law = law(law_name, scenario.link_bps(0.0));
                            (seed, score(&scenario, &run(&scenario, law.as_ref())))
                        })
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        workers
            .into_iter()
            .filter_map(|worker| worker.join().ok())
            .flatten()
            .collect()
    });
    let share = |is: &dyn Fn(&Score) -> bool| scores.iter().filter(|(_, score)| is(score)).count();
    let (unstable, starved, outside) = (
        share(&Score::is_unstable),
        share(&Score::is_starved),
        share(&|s| s.out_of_bounds),
    );
    let mut violating: Vec<f64> = scores
        .iter()
        .map(|(_, score)| score.violating_percent)
        .collect();
    let mut goodput: Vec<f64> = scores
        .iter()
        .map(|(_, score)| score.goodput_percent)
        .collect();
    violating.sort_by(f64::total_cmp);
    goodput.sort_by(f64::total_cmp);
    let at = |sorted: &[f64], q: f64| {
        sorted
            .get((q * sorted.len() as f64) as usize)
            .copied()
            .unwrap_or(0.0)
    };
    println!(
        "{law_name} on {} plants: {unstable} unstable, {starved} starved, {outside} out of bounds",
        scores.len()
    );
    println!(
        "violating %: median {:.2}, 90th {:.2}, 99th {:.2}; goodput %: median {:.1}, 10th {:.1}, 1st {:.1}",
        at(&violating, 0.5),
        at(&violating, 0.9),
        at(&violating, 0.99),
        at(&goodput, 0.5),
        at(&goodput, 0.1),
        at(&goodput, 0.01),
    );
    let mut worst = scores;
    worst.sort_by(|(_, a), (_, b)| {
        let rank = |s: &Score| {
            f64::from(u8::from(s.is_starved())) * 1e3
                + s.late_violating_percent
                + s.late_swings_per_minute
        };
        rank(b).total_cmp(&rank(a))
    });
    println!("worst ten:");
    for (seed, score) in worst.iter().take(10) {
        println!(
            "  seed {seed}: violating {:.1} % (late {:.1} %), goodput {:.1} %, swings {:.1}/min, starved {} s",
            score.violating_percent,
            score.late_violating_percent,
            score.goodput_percent,
            score.late_swings_per_minute,
            score.starved_seconds
        );
    }
    if unstable + starved + outside == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn trace(name: &str, law_name: &str, seed: u64) {
    let scenario = match name
        .strip_prefix("random ")
        .and_then(|seed| seed.parse().ok())
    {
        Some(seed) => Some(plant(seed)),
        None => scenarios(seed)
            .into_iter()
            .find(|scenario| scenario.name.starts_with(name)),
    };
    let Some(scenario) = scenario else {
        eprintln!("there is no scenario {name:?}");
        return;
    };
    println!("{scenario:?}");
    let record = run(&scenario, law(law_name, scenario.link_bps(0.0)).as_ref());
    for decision in &record.decisions {
        println!(
            "{:7.2} {:24} {:8.2} {}",
            decision.at,
            decision.action.to_string(),
            decision.limit_bps / 1e6,
            decision.reason
        );
    }
    println!("{:?}", score(&scenario, &record));
}
