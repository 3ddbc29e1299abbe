//! Tables: laws side by side, and every run by itself.

use std::fmt::Write as _;

use super::collect::{LawRuns, ScenarioRuns};
use super::metric::{Metric, Target, metrics};
use super::stats::Spread;
use super::strip::{scale, strip};
use super::text::escape;

/// Laws side by side: the median of each number, its range, every run as a dot, and whether the target is met.
pub(super) fn laws(runs: &ScenarioRuns, laws: &[&LawRuns], best_fixed: Option<&LawRuns>) -> String {
    let metrics = metrics(runs.loads());
    let target = |metric: Metric| metric.target(runs.spec.word());
    let mut html =
        String::from("<div class=\"wide\"><table class=\"laws\"><thead><tr><th>law</th>");
    for metric in &metrics {
        // Writing to a String cannot fail.
        let _ = write!(html, "<th>{}</th>", metric.title());
    }
    html.push_str("</tr><tr class=\"targets\"><th>target</th>");
    for metric in &metrics {
        let words = target(*metric).map_or_else(|| "–".to_owned(), |target| target.words(*metric));
        let _ = write!(html, "<td>{}</td>", escape(&words));
    }
    html.push_str("</tr></thead><tbody>");
    let scales: Vec<f64> = metrics
        .iter()
        .map(|metric| {
            let values = laws.iter().flat_map(|law| law.values(*metric));
            scale(values, target(*metric))
        })
        .collect();
    for law in laws {
        let is_best = best_fixed.is_some_and(|best| best.spec == law.spec);
        let mark = if is_best {
            " <small>best fixed limit of the sweep</small>"
        } else {
            ""
        };
        let _ = write!(
            html,
            "<tr data-law=\"{name}\"><th>{name}{mark}<small>{}</small>{}</th>",
            count_words(law),
            met_words(runs, law, &metrics),
            name = escape(&law.spec.to_string()),
        );
        for (metric, greatest) in metrics.iter().zip(&scales) {
            html.push_str(&cell(
                *metric,
                &law.values(*metric),
                *greatest,
                target(*metric),
            ));
        }
        html.push_str("</tr>");
    }
    html.push_str("</tbody></table></div>");
    html
}

/// How many of the targets the medians meet.
fn met_words(runs: &ScenarioRuns, law: &LawRuns, metrics: &[Metric]) -> String {
    let judged: Vec<bool> = metrics
        .iter()
        .filter_map(|metric| {
            let target = metric.target(runs.spec.word())?;
            let spread = Spread::of(law.values(*metric))?;
            Some(target.is_met(spread.median))
        })
        .collect();
    if judged.len() < 2 {
        return String::new();
    }
    let met = judged.iter().filter(|met| **met).count();
    format!("<small>{met} of {} targets met</small>", judged.len())
}

fn count_words(law: &LawRuns) -> String {
    let complete = law.complete().count();
    let broken = law.runs.len() - complete;
    let mut words = match complete {
        1 => "1 run".to_owned(),
        count => format!("{count} runs"),
    };
    if broken > 0 {
        let _ = write!(words, ", {broken} incomplete");
    }
    if !law.failures.is_empty() {
        let _ = write!(words, ", {} failed attempts", law.failures.len());
    }
    words
}

fn cell(metric: Metric, values: &[f64], greatest: f64, target: Option<Target>) -> String {
    let Some(spread) = Spread::of(values.iter().copied()) else {
        return "<td class=\"missing\">no data</td>".to_owned();
    };
    let (class, verdict) = match target {
        None => ("", String::new()),
        Some(target) => {
            let met = values.iter().filter(|value| target.is_met(**value)).count();
            let class = if target.is_met(spread.median) {
                "met"
            } else {
                "missed"
            };
            (class, format!("<i>{class} {met}/{}</i>", values.len()))
        }
    };
    let unit = if spread.median.is_finite() {
        metric.unit()
    } else {
        ""
    };
    let range = if spread.count > 1 {
        format!(
            "<small>{} … {}</small>",
            metric.number(spread.min),
            metric.number(spread.max)
        )
    } else {
        String::new()
    };
    format!(
        "<td class=\"{class}\"><b>{}</b>{unit}{range}{}{verdict}</td>",
        metric.number(spread.median),
        strip(values, greatest, target)
    )
}

/// Violating windows and time to protect of each load, where there are many.
pub(super) fn loads(runs: &ScenarioRuns, laws: &[&LawRuns]) -> String {
    let loads = runs.loads();
    let mut html = String::from(
        "<h3>Load by load</h3><p>Violating windows of each load: median of the runs, and the range. In brackets the median \
         time to protect.</p><div class=\"wide\"><table><thead><tr><th>law</th>",
    );
    for load in 1..=loads {
        let _ = write!(html, "<th>load {load}</th>");
    }
    html.push_str("</tr></thead><tbody>");
    for law in laws {
        let _ = write!(html, "<tr><th>{}</th>", escape(&law.spec.to_string()));
        for load in 0..loads {
            let violating = Metric::LoadViolating(load);
            let cell = Spread::of(law.values(violating)).map_or_else(
                || "<td class=\"missing\">no data</td>".to_owned(),
                |spread| {
                    let protected = Spread::of(law.values(Metric::Protected(load)));
                    let protected = protected.map_or_else(String::new, |spread| {
                        format!(" ({})", seconds(spread.median))
                    });
                    format!(
                        "<td><b>{}</b>{protected}<small>{} … {}</small></td>",
                        violating.number(spread.median),
                        violating.number(spread.min),
                        violating.number(spread.max)
                    )
                },
            );
            html.push_str(&cell);
        }
        html.push_str("</tr>");
    }
    html.push_str("</tbody></table></div>");
    html
}

fn seconds(value: f64) -> String {
    let shown = Metric::ProtectedWorst.number(value);
    if value.is_finite() {
        format!("{shown} s")
    } else {
        shown
    }
}

/// Every run by itself, also those that did not come to their end.
pub(super) fn runs(runs: &ScenarioRuns) -> String {
    let metrics = metrics(runs.loads());
    let mut html = String::from(
        "<div class=\"wide\"><table class=\"runs\"><thead><tr><th>law</th><th>run</th><th>began</th>",
    );
    for metric in &metrics {
        let _ = write!(html, "<th>{}</th>", metric.title());
    }
    html.push_str("<th>requests failed</th><th>machine busy</th><th>processors stood still; violating windows beside that</th></tr></thead><tbody>");
    let columns = metrics.len() + 4;
    for law in &runs.laws {
        let name = escape(&law.spec.to_string());
        let typical = law.typical().map(|(run, _)| run.number);
        for run in &law.runs {
            let mark = if typical == Some(run.number) {
                " ◆"
            } else {
                ""
            };
            let _ = write!(html, "<tr><th>{name}</th><td>{}{mark}</td>", run.number);
            match &run.result {
                Ok(complete) => {
                    let began = super::text::moment(complete.began_ns);
                    let _ = write!(html, "<td>{began}</td>");
                    for metric in &metrics {
                        html.push_str(&single(
                            *metric,
                            metric.of(&complete.score),
                            runs.spec.word(),
                        ));
                    }
                    let _ = write!(
                        html,
                        "<td>{} of {}</td><td>{:.0} %</td><td>{}</td></tr>",
                        complete.score.failed,
                        complete.score.requests,
                        complete.score.machine_busy_percent,
                        complete.score.stalls.as_ref().map_or_else(
                            || "-".to_owned(),
                            |stood| format!("{stood}; {}", stood.violating)
                        )
                    );
                }
                Err(problem) => {
                    let _ = write!(
                        html,
                        "<td class=\"missed\" colspan=\"{columns}\">no result: {}</td></tr>",
                        escape(problem)
                    );
                }
            }
        }
        for failure in &law.failures {
            let code = failure
                .code
                .map_or_else(|| "killed".to_owned(), |code| format!("exit code {code}"));
            let _ = write!(
                html,
                "<tr><th>{name}</th><td>{}</td><td class=\"missed\" colspan=\"{columns}\">failed at {} ({code}): {}</td></tr>",
                failure.run,
                escape(&failure.at),
                escape(&failure.message)
            );
        }
    }
    html.push_str("</tbody></table></div>");
    html
}

fn single(metric: Metric, value: Option<f64>, scenario: &str) -> String {
    let Some(value) = value else {
        return "<td class=\"missing\">–</td>".to_owned();
    };
    let class = match metric.target(scenario) {
        Some(target) if target.is_met(value) => "met",
        Some(_) => "missed",
        None => "",
    };
    format!("<td class=\"{class}\">{}</td>", metric.number(value))
}
