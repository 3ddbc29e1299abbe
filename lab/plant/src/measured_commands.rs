//! The binary's `fit` and `check`, and what it keeps in files: on stdout what a person reads, in a file what other programs take.

use std::{error::Error, fmt::Write as _, fs, path::Path};

use laneguard_lab_plant::fit::{
    Fitted,
    check::{Comparison, check, passage_error},
    fit,
    measured::Measured,
};

/// Replays per run, each with its own luck.
const SEEDS: u64 = 5;

/// Reads a file that `fit` wrote.
pub(crate) fn read(path: &str) -> Result<Fitted, Box<dyn Error>> {
    let text = fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
    Ok(serde_json::from_str(&text).map_err(|error| format!("{path}: {error}"))?)
}

/// Writes values as JSON, one a line.
pub(crate) fn write_lines<T: serde::Serialize>(
    path: &str,
    values: &[T],
) -> Result<(), Box<dyn Error>> {
    let mut text = String::new();
    for value in values {
        writeln!(text, "{}", serde_json::to_string(value)?)?;
    }
    Ok(fs::write(path, text).map_err(|error| format!("{path}: {error}"))?)
}

fn measured(folders: &[String]) -> Result<Vec<Measured>, Box<dyn Error>> {
    if folders.is_empty() {
        return Err("name the folders of one or more runs".into());
    }
    let read = |folder: &String| Measured::read(Path::new(folder));
    Ok(folders.iter().map(read).collect::<Result<Vec<_>, _>>()?)
}

/// `fit DIR... [--out FILE]`
pub(crate) fn run_fit(folders: &[String], out: Option<&str>) -> Result<(), Box<dyn Error>> {
    let fitted = fit(&measured(folders)?);
    println!("fitted on {}", fitted.runs.join(", "));
    println!(
        "{:22} {:>14} {:>12} {:>14} {:>14} {:>5}",
        "parameter", "mean", "deviation", "least", "most", "runs"
    );
    for (name, estimate) in &fitted.parameters {
        println!(
            "{name:22} {:14} {:12} {:14} {:14} {:5}",
            short(estimate.value),
            short(estimate.spread),
            short(estimate.least),
            short(estimate.most),
            estimate.runs
        );
    }
    if let Some(path) = out {
        let json = serde_json::to_string_pretty(&fitted)? + "\n";
        fs::write(path, json).map_err(|error| format!("{path}: {error}"))?;
    }
    Ok(())
}

fn short(value: f64) -> String {
    if value.abs() >= 1e3 {
        format!("{value:.0}")
    } else {
        format!("{value:.4}")
    }
}

/// `check DIR... [--plant FILE]`: without a file, each run is checked on the plant fitted to all the others.
pub(crate) fn run_check(folders: &[String], plant: Option<&Fitted>) -> Result<(), Box<dyn Error>> {
    let runs = measured(folders)?;
    if plant.is_none() && runs.len() < 2 {
        return Err(
            "one run alone cannot be held out: name more, or a fitted plant with --plant".into(),
        );
    }
    println!(
        "{:20} {:>8} {:>17} {:>19} {:>9} {:>13} {:>17} {:>17}",
        "run (held out)",
        "agree %",
        "violating s",
        "P95 error ms",
        "goodput",
        "queue",
        "fills, error s",
        "drains, error s"
    );
    println!(
        "{:20} {:>8} {:>17} {:>19} {:>9} {:>13} {:>17} {:>17}",
        "", "", "measured, plant", "calm, congested", "points", "corr, RMS %", "", ""
    );
    for (index, run) in runs.iter().enumerate() {
        let others = || {
            let mut others = runs.clone();
            others.remove(index);
            fit(&others)
        };
        let fitted = plant.cloned().unwrap_or_else(others);
        let is_known = fitted.runs.contains(&run.name);
        let comparisons: Vec<Comparison> =
            (1..=SEEDS).map(|seed| check(run, &fitted, seed)).collect();
        print_comparison(&run.name, is_known, &comparisons);
    }
    println!(
        "each: mean over {SEEDS} replays; * fitted on this very run; errors are plant minus measured"
    );
    Ok(())
}

#[allow(clippy::cast_precision_loss)]
fn print_comparison(name: &str, is_known: bool, comparisons: &[Comparison]) {
    let mean = |of: &dyn Fn(&Comparison) -> f64| {
        comparisons.iter().map(of).sum::<f64>() / comparisons.len() as f64
    };
    let passages = |of: fn(&Comparison) -> &Vec<_>| {
        let all: Vec<_> = comparisons.iter().flat_map(of).copied().collect();
        let count = comparisons.first().map_or(0, |first| of(first).len());
        let error = passage_error(&all).map_or("-".into(), |error| format!("{error:.3}"));
        format!("{count}, {error}")
    };
    println!(
        "{:20} {:8.1} {:>17} {:>19} {:9.2} {:>13} {:>17} {:>17}",
        format!("{name}{}", if is_known { " *" } else { "" }),
        mean(&Comparison::agreement_percent),
        format!(
            "{:.0}, {:.1}",
            mean(&|c| c.measured_violating as f64),
            mean(&|c| c.plant_violating as f64)
        ),
        format!(
            "{:+.2}, {:+.2}",
            mean(&|c| c.calm_p95_error_ms),
            mean(&|c| c.congested_p95_error_ms)
        ),
        mean(&|c| c.goodput_error),
        format!(
            "{:.3}, {:.1}",
            mean(&|c| c.queue_correlation),
            mean(&|c| c.queue_rms_percent)
        ),
        passages(|c| &c.fills),
        passages(|c| &c.drains),
    );
}
