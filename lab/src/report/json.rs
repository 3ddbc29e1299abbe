//! `report.json`: the numbers of the report for programs.

use std::collections::BTreeMap;

use serde::Serialize;

use super::collect::{Collected, LawRuns, ScenarioRuns};
use super::metric::{Target, metrics};
use super::stats::Spread;
use crate::compare::Failure;
use crate::compare::session::Comparison;
use crate::compare::spec::Spec;
use crate::scenario::Scenario;
use crate::score::Score;

#[derive(Debug, Serialize)]
pub(super) struct Report<'a> {
    comparison: Option<&'a Comparison>,
    scenarios: Vec<OneScenario<'a>>,
}

#[derive(Debug, Serialize)]
struct OneScenario<'a> {
    scenario: &'a Spec,
    plan: Option<&'a Scenario>,
    targets: BTreeMap<String, String>,
    best_fixed: Option<&'a Spec>,
    laws: Vec<OneLaw<'a>>,
}

#[derive(Debug, Serialize)]
struct OneLaw<'a> {
    law: &'a Spec,
    typical_run: Option<usize>,
    /// A median, least or greatest value that is `null` is an event that never came.
    metrics: BTreeMap<String, OneMetric>,
    runs: Vec<OneRun<'a>>,
    failures: &'a [Failure],
}

#[derive(Debug, Serialize)]
struct OneMetric {
    #[serde(flatten)]
    spread: Spread,
    /// Runs that meet the target; absent without one.
    met: Option<usize>,
}

#[derive(Debug, Serialize)]
struct OneRun<'a> {
    run: usize,
    score: Option<&'a Score>,
    problem: Option<&'a str>,
}

pub(super) fn report(collected: &Collected) -> Report<'_> {
    Report {
        comparison: collected.comparison.as_ref(),
        scenarios: collected.scenarios.iter().map(scenario).collect(),
    }
}

fn scenario(runs: &ScenarioRuns) -> OneScenario<'_> {
    let metrics = metrics(runs.loads());
    OneScenario {
        scenario: &runs.spec,
        plan: runs.scenario.as_ref(),
        targets: metrics
            .iter()
            .filter_map(|metric| {
                let target = metric.target(runs.spec.word())?;
                Some((metric.key(), target.words(*metric)))
            })
            .collect(),
        best_fixed: runs.best_fixed().map(|law| &law.spec),
        laws: runs
            .laws
            .iter()
            .map(|law| OneLaw {
                law: &law.spec,
                typical_run: law.typical().map(|(run, _)| run.number),
                metrics: metrics
                    .iter()
                    .filter_map(|metric| {
                        let values = law.values(*metric);
                        let target = metric.target(runs.spec.word());
                        let spread = Spread::of(values.iter().copied())?;
                        let met = |target: Target| {
                            values.iter().filter(|value| target.is_met(**value)).count()
                        };
                        Some((
                            metric.key(),
                            OneMetric {
                                spread,
                                met: target.map(met),
                            },
                        ))
                    })
                    .collect(),
                runs: each(law),
                failures: &law.failures,
            })
            .collect(),
    }
}

fn each(law: &LawRuns) -> Vec<OneRun<'_>> {
    law.runs
        .iter()
        .map(|run| OneRun {
            run: run.number,
            score: run.result.as_ref().ok().map(|complete| &complete.score),
            problem: run.result.as_ref().err().map(String::as_str),
        })
        .collect()
}
