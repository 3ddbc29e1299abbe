//! The page: what was compared and how, then each scenario.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::collect::{Collected, LawRuns, ScenarioRuns};
use super::stats::Spread;
use super::text::{self, escape};
use super::{loops, multiples, table, tradeoff};
use crate::compare::session::Session;
use crate::score::{JITTER_LIMIT_MS, P95_LIMIT_MS, RECOVERED_PERCENT, STILL_MS, Stalls};

const STYLE: &str = include_str!("report.css");

/// The whole page.
pub(super) fn page(collected: &Collected) -> String {
    let mut html = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>Laneguard: control laws compared</title><style>{STYLE}</style></head><body>\
         <header><h1>Control laws compared</h1>{}{}</header>",
        about(collected),
        contents(collected)
    );
    for scenario in &collected.scenarios {
        html.push_str(&section(scenario));
    }
    html.push_str(&definitions());
    html.push_str("</body></html>\n");
    html
}

fn contents(collected: &Collected) -> String {
    if collected.scenarios.len() < 2 {
        return String::new();
    }
    let mut html = String::from("<nav>Scenarios:");
    for scenario in &collected.scenarios {
        let name = escape(&scenario.spec.to_string());
        // Writing to a String cannot fail.
        let _ = write!(html, " <a href=\"#{name}\">{name}</a>");
    }
    html.push_str("</nav>");
    html
}

/// Command, versions, machine, dates.
fn about(collected: &Collected) -> String {
    let complete: Vec<_> = collected
        .scenarios
        .iter()
        .flat_map(|scenario| &scenario.laws)
        .flat_map(LawRuns::complete)
        .map(|(_, run)| run)
        .collect();
    let mut rows: Vec<(&str, String)> = Vec::new();
    let sessions = collected
        .comparison
        .as_ref()
        .map_or(&[][..], |comparison| &comparison.sessions);
    if sessions.is_empty() {
        rows.push((
            "command",
            "unknown: the runs were made one by one".to_owned(),
        ));
    }
    for (name, value) in [
        (
            "command",
            distinct(sessions, |session| {
                format!("<code>{}</code>", escape(&session.command))
            }),
        ),
        (
            "Laneguard",
            distinct(sessions, |session| escape(&session.laneguard)),
        ),
        (
            "programs",
            distinct(sessions, |session| programs(&session.programs)),
        ),
        ("machine", distinct(sessions, machine)),
    ] {
        if !value.is_empty() {
            rows.push((name, value.join("<br>")));
        }
    }
    let began = complete.iter().map(|run| run.began_ns);
    rows.push((
        "measured",
        began.clone().min().zip(began.max()).map_or_else(
            || "nothing yet".to_owned(),
            |(first, last)| {
                format!(
                    "{} runs, begun from {} to {}",
                    complete.len(),
                    text::moment(first),
                    text::moment(last)
                )
            },
        ),
    ));
    if let Some(busy) = Spread::of(complete.iter().map(|run| run.score.machine_busy_percent)) {
        rows.push((
            "machine busy",
            format!(
                "{:.0} % under load (median; {:.0} to {:.0} %). Above some 80 % the processors, not the network, make requests late.",
                busy.median, busy.min, busy.max
            ),
        ));
    }
    let stood: Vec<&Stalls> = complete
        .iter()
        .filter_map(|run| run.score.stalls.as_ref())
        .collect();
    if !stood.is_empty() {
        let sum = |of: fn(&Stalls) -> usize| stood.iter().map(|stood| of(stood)).sum::<usize>();
        rows.push((
            "processors stood still",
            format!(
                "{} times for {STILL_MS:.0} ms or more in {} runs; {} violating windows had such a moment in them or in the second before. The emulated link stands still with them.",
                sum(|stood| stood.count),
                stood.len(),
                sum(|stood| stood.violating),
            ),
        ));
    }
    let mut html = String::from("<dl>");
    for (name, value) in rows {
        let _ = write!(html, "<dt>{name}</dt><dd>{value}</dd>");
    }
    html.push_str("</dl>");
    html
}

/// What sessions say, each thing once.
fn distinct(sessions: &[Session], say: impl Fn(&Session) -> String) -> Vec<String> {
    let mut said: Vec<String> = Vec::new();
    for session in sessions {
        let words = say(session);
        if !words.is_empty() && !said.contains(&words) {
            said.push(words);
        }
    }
    said
}

fn programs(programs: &BTreeMap<String, String>) -> String {
    let listed: Vec<String> = programs
        .iter()
        .map(|(name, version)| escape(&format!("{name} {version}")))
        .collect();
    listed.join(", ")
}

fn machine(session: &Session) -> String {
    escape(&format!(
        "{} cores of {}, {} GiB, Linux {}",
        session.cores, session.processor, session.memory_gib, session.kernel
    ))
}

fn section(runs: &ScenarioRuns) -> String {
    let name = escape(&runs.spec.to_string());
    let what = runs.scenario.as_ref().map_or_else(
        || "No run of it says what it is.".to_owned(),
        text::scenario,
    );
    let best = runs.best_fixed();
    let shown: Vec<&LawRuns> = runs.shown(best);
    let mut html = format!(
        "<section id=\"{name}\"><h2>{name}</h2><p>{}</p>",
        escape(&what)
    );
    html.push_str(&table::laws(runs, &shown, best));
    html.push_str(
        "<p class=\"legend\">Bold: median of the runs. Dots: every run; stroke: median; dashed: target of DESIGN.md section 6; \
         ×: it never came. <i>met 9/10</i>: the colour judges the median, the numbers count runs.</p>",
    );
    if runs.loads() > 2 {
        html.push_str(&table::loads(runs, &shown));
    }
    html.push_str(&tradeoff::tradeoff(runs, &shown));
    html.push_str(&multiples::multiples(runs, &shown));
    html.push_str(&loops::loops(&shown));
    let _ = write!(
        html,
        "<details open><summary>Every run (◆ typical)</summary>{}</details></section>",
        table::runs(runs)
    );
    html
}

fn definitions() -> String {
    format!(
        "<footer><h2>What the numbers are</h2><ul>\
         <li>Window: one second by the intended send time of its requests; <b>violating</b> when their P95 is above {P95_LIMIT_MS} ms, their \
         interquartile range (jitter) above {JITTER_LIMIT_MS} ms, or there are none. A failed request counts as 10 s. Counted after the \
         first onset of load.</li>\
         <li><b>Time to protect</b>: from the onset of a load to the first of five good windows in a row. <b>Recovery</b>: to the \
         first of five good windows in a row that also have {RECOVERED_PERCENT} % goodput.</li>\
         <li><b>Goodput</b>: what arrived at the sinks under load, in Ethernet frames, as share of the bottleneck’s rate minus \
         the critical traffic.</li>\
         <li><b>Jain’s index</b>: fairness of goodput between the sinks; 1 is equal, 1/n is everything for one (Jain, Chiu, Hawe 1984).</li>\
         <li><b>Limit changes</b>: of the pod with most, per minute of load; steady: from protection on in each load.</li>\
         <li><b>Typical run</b>: the one in the middle by violating share, then goodput. Every number comes from the raw logs by the lab’s \
         score (<code>laneguard-lab score DIR</code>).</li></ul></footer>"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::session::Comparison;
    use crate::report::collect::{Complete, Run};
    use crate::score::series::{Second, Series};
    use crate::score::{Latency, Load, Score};

    fn complete(violating_percent: f64, goodput_percent: f64) -> Complete {
        Complete {
            began_ns: 1_795_534_615_000_000_000,
            score: Score {
                windows: 100,
                violating: violating_percent as usize,
                violating_percent,
                latency: Latency {
                    p50_ms: 1.0,
                    p95_ms: 2.0,
                    p99_ms: 3.0,
                    max_ms: 4.0,
                    jitter_ms: 1.0,
                },
                requests: 1000,
                failed: 0,
                loads: vec![Load {
                    seconds: 2.0,
                    windows: 2,
                    violating: 0,
                    protected_after_s: Some(0.0),
                    recovered_after_s: None,
                    goodput_bps: 1e8,
                    critical_bps: 1e6,
                    room_bps: 199e6,
                    goodput_percent,
                }],
                goodput_percent,
                fairness: Some(1.0),
                limit_changes_per_minute: 1.0,
                steady_limit_changes_per_minute: 1.0,
                pods_restarted: 0,
                machine_busy_percent: 20.0,
                stalls: None,
                services: BTreeMap::new(),
            },
            series: Series {
                seconds: 3.0,
                windows: vec![Second {
                    at_s: 0.0,
                    p95_ms: None,
                    jitter_ms: None,
                    violating: true,
                    goodput_bps: None,
                }],
                limits: vec![(0.0, None)],
                loads: vec![(1.0, 3.0)],
            },
        }
    }

    fn law(name: &str, results: Vec<Result<Complete, String>>) -> LawRuns {
        LawRuns {
            spec: name.parse().unwrap(),
            runs: (1..)
                .zip(results)
                .map(|(number, result)| Run {
                    number,
                    folder: format!("missing/{number}").into(),
                    result,
                })
                .collect(),
            failures: Vec::new(),
        }
    }

    fn collected() -> Collected {
        let scenario = serde_json::from_value(serde_json::json!({
            "name": "congestion", "phases": [{"kind": "idle", "seconds": 1}, {"kind": "load", "seconds": 2}],
            "link": {"rate_bps": 200_000_000, "fifo_bytes": 1_500_000}, "pods": 3, "flows": 4,
            "requests_per_second": 200, "request_bytes": 512, "response_bytes": 512,
            "scrape_interval_ms": 1000, "buckets": "default"
        }));
        Collected {
            comparison: Some(Comparison {
                sessions: vec![Session {
                    command: "cargo xtask lab compare --laws '<script>'".to_owned(),
                    ..Session::default()
                }],
                ..Comparison::default()
            }),
            scenarios: vec![ScenarioRuns {
                spec: "congestion".parse().unwrap(),
                scenario: scenario.ok(),
                laws: vec![
                    law(
                        "Adaptive",
                        vec![Ok(complete(1.0, 95.0)), Err("it broke & burnt".to_owned())],
                    ),
                    law("Threshold", vec![Ok(complete(9.0, 70.0))]),
                    law("Fixed:50M", vec![Ok(complete(0.0, 75.0))]),
                    law("Fixed:60M", vec![Ok(complete(0.0, 90.0))]),
                    law("Fixed:70M", vec![Ok(complete(90.0, 97.0))]),
                ],
            }],
        }
    }

    #[test]
    fn the_page_needs_nothing_from_elsewhere() {
        let html = page(&collected());
        for reference in [
            "http:", "https:", "src=", "url(", "@import", "<script", "<link",
        ] {
            assert!(!html.contains(reference), "{reference}");
        }
    }

    #[test]
    fn every_law_has_its_row_and_of_the_fixed_limits_the_best() {
        let html = page(&collected());
        for law in ["Adaptive", "Threshold", "Fixed:60M"] {
            assert!(html.contains(&format!("<tr data-law=\"{law}\">")), "{law}");
        }
        assert!(!html.contains("<tr data-law=\"Fixed:50M\">"));
        // but its run is listed, and it is a point of the curve
        assert!(html.contains("<tr><th>Fixed:50M</th>"));
        assert!(html.contains("text-anchor=\"middle\">50M</text>"));
    }

    #[test]
    fn targets_are_judged_and_a_run_without_a_result_is_not_hidden() {
        let html = page(&collected());
        assert!(html.contains("met 1/1"));
        assert!(html.contains("missed 0/1"));
        assert!(html.contains("1 run, 1 incomplete"));
        assert!(html.contains("no result: it broke &amp; burnt"));
        assert!(html.contains("not known: cannot use the raw log"));
    }

    #[test]
    fn a_scenario_without_any_result_still_has_a_page() {
        let mut collected = collected();
        collected.scenarios[0].scenario = None;
        collected.scenarios[0].laws = vec![law("none", vec![Err("stopped".to_owned())])];
        let html = page(&collected);
        assert!(html.contains("no data") && html.contains("no result: stopped"));
    }
}
