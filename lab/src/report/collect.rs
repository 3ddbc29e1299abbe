//! What lies in the folder of a comparison, read and scored.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::metric::Metric;
use super::stats::{Spread, typical};
use crate::compare::session::Comparison;
use crate::compare::spec::Spec;
use crate::compare::{Failure, is_complete};
use crate::scenario::Scenario;
use crate::score::series::{Series, series};
use crate::score::{Score, score};
use crate::summary;

/// So many fixed limits are a sweep.
const SWEEP: usize = 3;

/// One law's folder in the folder of a comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The scenario.
    pub scenario: Spec,
    /// The law.
    pub law: Spec,
    /// Numbers of the runs there, complete or not, in order.
    pub runs: Vec<usize>,
}

/// All of a comparison.
#[derive(Debug)]
pub struct Collected {
    /// What was asked for; absent where runs were put together by hand.
    pub comparison: Option<Comparison>,
    /// The scenarios in the order they were asked for.
    pub scenarios: Vec<ScenarioRuns>,
}

/// All runs of one scenario.
#[derive(Debug)]
pub struct ScenarioRuns {
    /// As it was asked for.
    pub spec: Spec,
    /// What its runs did; absent when there is none that says so.
    pub scenario: Option<Scenario>,
    /// The laws in the order they were asked for.
    pub laws: Vec<LawRuns>,
}

/// All runs of one law on one scenario.
#[derive(Debug)]
pub struct LawRuns {
    /// The law.
    pub spec: Spec,
    /// Its runs in order.
    pub runs: Vec<Run>,
    /// Attempts that failed.
    pub failures: Vec<Failure>,
}

/// One run.
#[derive(Debug)]
pub struct Run {
    /// Which repetition.
    pub number: usize,
    /// Where it lies.
    pub folder: PathBuf,
    /// What came out, or why nothing did.
    pub result: Result<Complete, String>,
}

/// A run that came to its end.
#[derive(Debug)]
pub struct Complete {
    /// When its first phase began, in nanoseconds since the Unix epoch.
    pub began_ns: u64,
    /// Its numbers.
    pub score: Score,
    /// Itself, second by second.
    pub series: Series,
}

impl ScenarioRuns {
    /// Load phases of its runs; of those that have most.
    #[must_use]
    pub fn loads(&self) -> usize {
        self.laws
            .iter()
            .flat_map(LawRuns::complete)
            .map(|(_, run)| run.score.loads.len())
            .max()
            .unwrap_or(0)
    }

    /// The fixed limits that were tried, from the lowest.
    #[must_use]
    pub fn fixed(&self) -> Vec<&LawRuns> {
        let mut fixed: Vec<(f64, &LawRuns)> = self
            .laws
            .iter()
            .filter_map(|law| Some((law.spec.fixed_bps()?, law)))
            .collect();
        fixed.sort_by(|a, b| a.0.total_cmp(&b.0));
        fixed.into_iter().map(|(_, law)| law).collect()
    }

    /// The best fixed limit: with the least violating windows, then with most goodput, each by the median.
    #[must_use]
    pub fn best_fixed(&self) -> Option<&LawRuns> {
        let median =
            |law: &LawRuns, metric| Spread::of(law.values(metric)).map(|spread| spread.median);
        self.fixed()
            .into_iter()
            .filter_map(|law| {
                let violating = median(law, Metric::Violating)?;
                Some((violating, -median(law, Metric::Goodput)?, law))
            })
            .min_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)))
            .map(|(_, _, law)| law)
    }

    /// The laws that stand in full beside each other: all but the fixed limits that are not the best, unless there are only a few.
    #[must_use]
    pub fn shown(&self, best_fixed: Option<&LawRuns>) -> Vec<&LawRuns> {
        let is_sweep = self.fixed().len() >= SWEEP;
        self.laws
            .iter()
            .filter(|law| {
                !is_sweep
                    || law.spec.fixed_bps().is_none()
                    || best_fixed.is_some_and(|best| best.spec == law.spec)
            })
            .collect()
    }
}

impl LawRuns {
    /// One number of all its runs that have it.
    #[must_use]
    pub fn values(&self, metric: Metric) -> Vec<f64> {
        self.complete()
            .filter_map(|(_, run)| metric.of(&run.score))
            .collect()
    }

    /// The runs that came to their end, each with its number.
    pub fn complete(&self) -> impl Iterator<Item = (&Run, &Complete)> {
        self.runs
            .iter()
            .filter_map(|run| Some((run, run.result.as_ref().ok()?)))
    }

    /// The run in the middle when they are put in order of violating share, then of goodput.
    #[must_use]
    pub fn typical(&self) -> Option<(&Run, &Complete)> {
        let runs: Vec<(&Run, &Complete)> = self.complete().collect();
        let keys: Vec<(f64, f64)> = runs
            .iter()
            .map(|(_, run)| (run.score.violating_percent, run.score.goodput_percent))
            .collect();
        typical(&keys).map(|place| runs[place])
    }
}

/// Finds the laws' folders, in order of name.
///
/// # Errors
/// When a folder cannot be read.
pub fn folders(out: &Path) -> anyhow::Result<Vec<Found>> {
    let mut found = Vec::new();
    for (scenario, folder) in named(out)? {
        for (law, folder) in named(&folder)? {
            let mut runs: Vec<usize> = names(&folder)?
                .into_iter()
                .filter_map(|name| name.parse().ok())
                .filter(|number| *number > 0)
                .collect();
            runs.sort_unstable();
            found.push(Found {
                scenario: scenario.clone(),
                law,
                runs,
            });
        }
    }
    Ok(found)
}

fn named(folder: &Path) -> anyhow::Result<Vec<(Spec, PathBuf)>> {
    let mut found: Vec<(Spec, PathBuf)> = names(folder)?
        .into_iter()
        .filter_map(|name| Some((Spec::from_folder(&name)?, folder.join(name))))
        .collect();
    found.sort();
    Ok(found)
}

/// Names of the folders in a folder.
fn names(folder: &Path) -> anyhow::Result<Vec<String>> {
    let mut names = Vec::new();
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    for entry in entries {
        let entry = entry?;
        if entry.path().is_dir()
            && let Ok(name) = entry.file_name().into_string()
        {
            names.push(name);
        }
    }
    Ok(names)
}

/// Reads and scores everything in the folder of a comparison.
///
/// # Errors
/// When it is no such folder. A run that cannot be scored is no error but a run without a score.
pub fn collect(out: &Path) -> anyhow::Result<Collected> {
    let comparison = Comparison::read(out)?;
    let mut scenarios: Vec<ScenarioRuns> = Vec::new();
    for found in folders(out)? {
        let folder = out.join(found.scenario.folder()).join(found.law.folder());
        let failures = Failure::read_all(&folder)?;
        if found.runs.is_empty() && failures.is_empty() {
            continue;
        }
        let at = match scenarios
            .iter()
            .position(|known| known.spec == found.scenario)
        {
            Some(at) => at,
            None => {
                scenarios.push(ScenarioRuns {
                    spec: found.scenario,
                    scenario: None,
                    laws: Vec::new(),
                });
                scenarios.len() - 1
            }
        };
        let scenario = &mut scenarios[at];
        let mut runs = Vec::new();
        for number in found.runs {
            let folder = folder.join(number.to_string());
            let result = read(&folder).map(|(plan, complete)| {
                scenario.scenario.get_or_insert(plan);
                complete
            });
            runs.push(Run {
                number,
                folder,
                result: result.map_err(|problem| format!("{problem:#}")),
            });
        }
        scenario.laws.push(LawRuns {
            spec: found.law,
            runs,
            failures,
        });
    }
    anyhow::ensure!(
        !scenarios.is_empty(),
        "{} holds no runs (SCENARIO/LAW/NUMBER)",
        out.display()
    );
    let asked = comparison.clone().unwrap_or_default();
    let places =
        |list: &[Spec]| -> BTreeMap<Spec, usize> { list.iter().cloned().zip(0..).collect() };
    let (of_scenario, of_law) = (places(&asked.scenarios), places(&asked.laws));
    let place = |places: &BTreeMap<Spec, usize>, spec: &Spec| {
        places.get(spec).copied().unwrap_or(usize::MAX)
    };
    scenarios.sort_by_key(|scenario| place(&of_scenario, &scenario.spec));
    for scenario in &mut scenarios {
        scenario.laws.sort_by_key(|law| place(&of_law, &law.spec));
    }
    Ok(Collected {
        comparison,
        scenarios,
    })
}

fn read(folder: &Path) -> anyhow::Result<(Scenario, Complete)> {
    anyhow::ensure!(is_complete(folder), "it did not come to its end");
    let (scenario, raw) = summary::read(folder)?;
    let setup = scenario.setup();
    let complete = Complete {
        began_ns: raw.phases.first().map_or(0, |phase| phase.unix_ns),
        score: score(&setup, &raw)?,
        series: series(&setup, &raw)?,
    };
    Ok((scenario, complete))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_folders_of_runs_are_found_in_order_of_their_numbers() {
        let out = tempfile::tempdir().unwrap();
        for folder in [
            "congestion/none/10",
            "congestion/none/2",
            "congestion/Fixed@66M/1",
            ".programs/x/1",
            "congestion/none/old",
        ] {
            fs::create_dir_all(out.path().join(folder)).unwrap();
        }
        fs::write(out.path().join("congestion/none/failures.jsonl"), "").unwrap();
        let found = folders(out.path()).unwrap();
        let listed: Vec<(String, &[usize])> = found
            .iter()
            .map(|found| (found.law.to_string(), &*found.runs))
            .collect();
        assert_eq!(
            listed,
            [
                ("Fixed:66M".to_owned(), &[1][..]),
                ("none".to_owned(), &[2, 10][..])
            ]
        );
    }

    #[test]
    fn an_incomplete_run_is_kept_with_its_reason() {
        let out = tempfile::tempdir().unwrap();
        fs::create_dir_all(out.path().join("congestion/none/1")).unwrap();
        let collected = collect(out.path()).unwrap();
        let law = &collected.scenarios[0].laws[0];
        assert_eq!(
            law.runs[0].result.as_ref().unwrap_err(),
            "it did not come to its end"
        );
        assert!(law.typical().is_none());
    }

    #[test]
    fn a_folder_without_runs_is_refused() {
        let out = tempfile::tempdir().unwrap();
        let problem = collect(out.path()).unwrap_err().to_string();
        assert!(problem.contains("holds no runs"), "{problem}");
    }
}
