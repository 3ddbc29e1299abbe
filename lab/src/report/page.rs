//! The page: what was compared and how, then each scenario.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::collect::{Collected, LawRuns, ScenarioRuns};
use super::stats::Spread;
use super::table;
use super::text::{self, escape};
use crate::compare::session::Session;
use crate::score::{JITTER_LIMIT_MS, P95_LIMIT_MS, RECOVERED_PERCENT};

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
