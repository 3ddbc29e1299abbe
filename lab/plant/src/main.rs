//! Prints what each law does on the model, and how like the kernel network the model is:
//!
//! - `laneguard-lab-plant table [LAW] [--plant FILE]`
//! - `random COUNT|SEED,SEED,.. [LAW] [--json FILE]`; the law `Unstable` is made so on purpose and must be flagged; the file gets one plant a line
//! - `trace SCENARIO [LAW] [SEED] [--plant FILE]`
//! - `fit DIR... [--out FILE]` reads runs of the lab and writes a plant for `--plant`
//! - `check DIR... [--plant FILE]` replays their limits and compares; without a plant, each run on the plant fitted to the others

use std::{error::Error, process::ExitCode};

use laneguard_decider_core::{
    adaptive, autorate, drop_rate, headroom, policy::Law, threshold, watermark,
};
use laneguard_lab_plant::{
    fit::Fitted,
    generate::plant,
    run::run,
    scenario::Scenario,
    score::{Score, score},
    stability::{Outcome, Stability, survey, unstable},
};

mod measured_commands;

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
        (
            "Adaptive:forecast=false",
            Some(Law::Adaptive(adaptive::Parameters {
                forecast: false,
                ..adaptive::Parameters::default()
            })),
        ),
    ]
}

fn scenarios(seed: u64, fitted: Option<&Fitted>) -> Vec<Scenario> {
    let mut scenarios: Vec<Scenario> = [50e6, 200e6, 500e6]
        .into_iter()
        .flat_map(|link_bps| [2, 3, 6].map(|pods| Scenario::congestion(link_bps, pods, seed)))
        .collect();
    scenarios.extend([
        Scenario::burst(seed),
        Scenario::burst_joined(seed),
        Scenario::burst_random(seed),
        Scenario::burst_missing(seed),
        Scenario::burst_foreign(seed),
        Scenario::capacity_drop(seed),
        Scenario::slow_server(seed),
        Scenario::light_load(seed),
        Scenario::from_100(seed),
        Scenario::stalls(seed),
        Scenario::pauses(seed),
        Scenario::udp(seed),
        Scenario::one_of_three(seed),
    ]);
    if let Some(fitted) = fitted {
        for scenario in &mut scenarios {
            fitted.apply(scenario);
        }
    }
    scenarios
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match command(arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(64)
        }
    }
}

fn command(mut arguments: Vec<String>) -> Result<ExitCode, Box<dyn Error>> {
    let fitted = option(&mut arguments, "--plant")?
        .map(|path| measured_commands::read(&path))
        .transpose()?;
    let out = option(&mut arguments, "--out")?;
    let json = option(&mut arguments, "--json")?;
    let argument = |index: usize| arguments.get(index).map(String::as_str);
    let number = |index: usize, default: u64| {
        argument(index)
            .and_then(|text| text.parse().ok())
            .unwrap_or(default)
    };
    match argument(0) {
        None | Some("table") => table(argument(1), fitted.as_ref()),
        Some("random") => {
            return random(
                argument(1).unwrap_or("1000"),
                argument(2).unwrap_or("Adaptive"),
                json.as_deref(),
            );
        }
        Some("trace") => trace(
            argument(1).unwrap_or("congestion 200"),
            argument(2).unwrap_or("Adaptive"),
            number(3, 1),
            fitted.as_ref(),
        )?,
        Some("fit") => measured_commands::run_fit(&arguments[1..], out.as_deref())?,
        Some("check") => measured_commands::run_check(&arguments[1..], fitted.as_ref())?,
        Some(other) => {
            return Err(format!("{other:?} is none of table, random, trace, fit, check").into());
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Takes an option and its value out of the arguments.
fn option(arguments: &mut Vec<String>, name: &str) -> Result<Option<String>, String> {
    let Some(index) = arguments.iter().position(|argument| argument == name) else {
        return Ok(None);
    };
    if index + 1 >= arguments.len() {
        return Err(format!("{name} needs a file"));
    }
    arguments.remove(index);
    Ok(Some(arguments.remove(index)))
}

/// The law of this name; `None` without control.
fn law(name: &str, link_bps: f64) -> Result<Option<Law>, String> {
    if name == "Unstable" {
        return Ok(Some(unstable(link_bps)));
    }
    let mut known = laws(link_bps).into_iter();
    let found = known.find(|(other, _)| *other == name);
    found
        .map(|(_, law)| law)
        .ok_or_else(|| format!("there is no law {name:?}"))
}

#[allow(clippy::cast_precision_loss)]
fn table(only: Option<&str>, fitted: Option<&Fitted>) {
    println!(
        "{:30} {:23} {:>13} {:>9} {:>13} {:>7} {:>11} {:>11}",
        "scenario",
        "law",
        "violating %",
        "goodput %",
        "protected s",
        "2nd bad",
        "changes/min",
        "steady/min"
    );
    for (index, first) in scenarios(0, fitted).iter().enumerate() {
        let name = &first.name;
        for (law_name, law) in laws(first.link_bps(0.0)) {
            if only.is_some_and(|only| only != law_name) {
                continue;
            }
            let scores: Vec<Score> = (1..=RUNS)
                .map(|seed| {
                    let scenario = &scenarios(seed, fitted)[index];
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
                "{name:30} {law_name:23} {:5.2} ({:5.2}) {:4.1} ({:4.1}) {:4.1} ({:4.1}) {:7.1} {:11.1} {:11.1}",
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

/// `argument` is how many seeds from 0 on, or a list of them: `8462,3239`.
fn random(argument: &str, law_name: &str, json: Option<&str>) -> Result<ExitCode, Box<dyn Error>> {
    let numbers: Vec<u64> = argument
        .split(',')
        .map(str::parse)
        .collect::<Result<_, _>>()
        .map_err(|error| {
            format!("random {argument:?}: neither a count nor a list of seeds: {error}")
        })?;
    let seeds = match numbers.as_slice() {
        [count] => (0..*count).collect(),
        _ => numbers,
    };
    law(law_name, 1e9)?;
    let mut outcomes = survey(&seeds, |scenario| {
        law(law_name, scenario.link_bps(0.0)).unwrap_or_default()
    });
    if let Some(path) = json {
        measured_commands::write_lines(path, &outcomes)?;
    }
    let listed = |is: &dyn Fn(&Outcome) -> bool| -> Vec<u64> {
        let found = outcomes.iter().filter(|outcome| is(outcome));
        found.map(|outcome| outcome.seed).collect()
    };
    let failures = [
        ("unstable", listed(&|o| o.stability == Stability::Unstable)),
        ("starved", listed(&|o| o.score.is_starved())),
        ("out of bounds", listed(&|o| o.score.out_of_bounds)),
    ];
    let infeasible = listed(&|o| matches!(o.stability, Stability::Infeasible(_)));
    println!("{law_name} on {} plants:", outcomes.len());
    for (what, seeds) in &failures {
        println!("{:6} {what} {seeds:?}", seeds.len());
    }
    println!(
        "{:6} infeasible, as no fixed limit meets the targets either {infeasible:?}",
        infeasible.len()
    );
    let sorted = |value: fn(&Score) -> f64| {
        let mut values: Vec<f64> = outcomes.iter().map(|o| value(&o.score)).collect();
        values.sort_by(f64::total_cmp);
        values
    };
    let (violating, goodput) = (
        sorted(|s| s.violating_percent),
        sorted(|s| s.goodput_percent),
    );
    println!(
        "violating %: median {:.2}, 90th {:.2}, 99th {:.2}; goodput %: median {:.1}, 10th {:.1}, 1st {:.1}",
        percentile(&violating, 50),
        percentile(&violating, 90),
        percentile(&violating, 99),
        percentile(&goodput, 50),
        percentile(&goodput, 10),
        percentile(&goodput, 1),
    );
    outcomes.sort_by(|a, b| b.badness().total_cmp(&a.badness()));
    println!("worst ten:");
    for Outcome {
        seed,
        score,
        stability,
    } in outcomes.iter().take(10)
    {
        println!(
            "  seed {seed}: {stability:?}, violating {:.1} % (late {:.1} %), goodput {:.1} %, swings {:.1}/min, starved {} s",
            score.violating_percent,
            score.late_violating_percent,
            score.goodput_percent,
            score.late_swings_per_minute,
            score.starved_seconds
        );
    }
    Ok(if failures.iter().all(|(_, seeds)| seeds.is_empty()) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn percentile(sorted: &[f64], percent: usize) -> f64 {
    sorted
        .get(sorted.len() * percent / 100)
        .copied()
        .unwrap_or(0.0)
}

fn trace(name: &str, law_name: &str, seed: u64, fitted: Option<&Fitted>) -> Result<(), String> {
    let scenario = match name
        .strip_prefix("random ")
        .and_then(|seed| seed.parse().ok())
    {
        Some(seed) => Some(plant(seed)),
        None => scenarios(seed, fitted)
            .into_iter()
            .find(|scenario| scenario.name.starts_with(name)),
    };
    let Some(scenario) = scenario else {
        return Err(format!("there is no scenario {name:?}"));
    };
    println!("{scenario:?}");
    let record = run(&scenario, law(law_name, scenario.link_bps(0.0))?.as_ref());
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
    Ok(())
}
