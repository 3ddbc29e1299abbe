//! The section "where the time went": the loop's steps of the typical run, law by law.

use std::fmt::Write as _;

use super::collect::{Complete, LawRuns, Run};
use super::journey::{Journey, journeys};
use super::text::escape;

const WIDTH: f64 = 1100.0;
const LEFT: f64 = 120.0;
const RIGHT: f64 = 12.0;
/// Loads of one law that are shown.
const MOST_LOADS: usize = 3;

/// The section; nothing when no law decided anything.
pub(super) fn loops(laws: &[&LawRuns]) -> String {
    let parts: String = laws
        .iter()
        .filter(|law| law.spec.word() != "none" && law.spec.fixed_bps().is_none())
        .filter_map(|law| Some((law, law.typical()?)))
        .map(|(law, (run, complete))| of_law(law, run, complete))
        .collect();
    if parts.is_empty() {
        return parts;
    }
    format!(
        "<h3>Where the time went</h3><p>The typical run of each law, in seconds from the onset of a load. First the way to the first cut, \
         step by step; then critical windows (red: violating), decisions (▼ cut, ▲ raise) and the limit in force.</p>{parts}"
    )
}

fn of_law(law: &LawRuns, run: &Run, complete: &Complete) -> String {
    let name = escape(&law.spec.to_string());
    let mut html = format!("<div class=\"loop\"><h4>{name}, run {}</h4>", run.number);
    match journeys(&run.folder, complete) {
        Ok(journeys) => {
            let mut shown = 0;
            for journey in &journeys {
                if journey.violating() == 0 {
                    // Writing to a String cannot fail.
                    let _ = write!(
                        html,
                        "<p>Load {}: never outside its targets.</p>",
                        journey.load
                    );
                } else if shown < MOST_LOADS {
                    shown += 1;
                    html.push_str(&of_load(journey));
                } else {
                    let _ = write!(html, "<p>Load {}: {}</p>", journey.load, outcome(journey));
                }
            }
        }
        Err(problem) => {
            let _ = write!(
                html,
                "<p class=\"missing\">not known: {}</p>",
                escape(&format!("{problem:#}"))
            );
        }
    }
    html.push_str("</div>");
    html
}

/// In words what came out of a load.
fn outcome(journey: &Journey) -> String {
    let protected = journey.protected_s.map_or_else(
        || "never protected".to_owned(),
        |seconds| format!("protected after {seconds:.0} s"),
    );
    let cuts = match (&journey.cut, journey.later_cuts) {
        (None, _) => ", without a cut".to_owned(),
        (Some(_), 0) => String::new(),
        (Some(_), 1) => ", one further cut on the way".to_owned(),
        (Some(_), more) => format!(", {more} further cuts on the way"),
    };
    format!(
        "{protected}{cuts}; {} violating windows in all.",
        journey.violating()
    )
}

fn of_load(journey: &Journey) -> String {
    let mut html = format!("<p><b>Load {}</b>: {}</p>", journey.load, outcome(journey));
    let stages = journey.stages();
    if !stages.is_empty() {
        html.push_str("<ul class=\"stages\">");
        for (index, stage) in stages.iter().enumerate() {
            let _ = write!(
                html,
                "<li><span class=\"s{index}\"></span>{}: <b>{}</b></li>",
                stage.name,
                duration(stage.to_s - stage.from_s)
            );
        }
        html.push_str("</ul>");
    }
    html.push_str(&picture(journey));
    if let Some(cut) = &journey.cut {
        let _ = write!(html, "<p class=\"reason\">“{}”</p>", escape(&cut.reason));
    }
    html.push_str(&later(journey));
    html
}

/// Violating windows after protection, each group with the change of a limit before it.
fn later(journey: &Journey) -> String {
    let groups = journey.later_violations();
    if groups.is_empty() {
        return String::new();
    }
    let said: Vec<String> = groups
        .iter()
        .map(|group| {
            let when = if group.windows == 1 {
                format!("{:.0} s", group.from_s)
            } else {
                format!(
                    "{:.0} to {:.0} s",
                    group.from_s,
                    group.from_s + group.windows as f64
                )
            };
            let after = group.after.map_or_else(
                || "with no change before it".to_owned(),
                |change| {
                    let when = if change.at_s < group.from_s {
                        format!("{} earlier", duration(group.from_s - change.at_s))
                    } else {
                        "within its first second".to_owned()
                    };
                    format!(
                        "{} to {} Mbit/s {when}",
                        escape(&change.action),
                        mbit(change.after_bps)
                    )
                },
            );
            format!("{when} ({after})")
        })
        .collect();
    format!(
        "<p>Violating again after protection: {}.</p>",
        said.join("; ")
    )
}

fn duration(seconds: f64) -> String {
    if seconds < 0.9995 {
        format!("{:.0} ms", seconds * 1e3)
    } else {
        format!("{seconds:.1} s")
    }
}

fn picture(journey: &Journey) -> String {
    let x =
        |seconds: f64| LEFT + (seconds / journey.shown_s).clamp(0.0, 1.0) * (WIDTH - LEFT - RIGHT);
    let mut svg = format!(
        "<svg class=\"plot lanes\" viewBox=\"0 0 {WIDTH} 142\" role=\"img\" aria-label=\"load {}\">",
        journey.load
    );
    for (label, y) in [
        ("first cut", 15.0),
        ("critical windows", 39.0),
        ("decisions", 63.0),
        ("limit of a pod", 98.0),
    ] {
        let _ = write!(
            svg,
            "<text class=\"lane\" x=\"{:.0}\" y=\"{y}\" text-anchor=\"end\">{label}</text>",
            LEFT - 10.0
        );
    }
    let step = if journey.shown_s > 20.0 { 5 } else { 1 };
    for second in (0..=journey.shown_s as u32).step_by(step) {
        let at = x(f64::from(second));
        let _ = write!(
            svg,
            "<line class=\"grid\" x1=\"{at:.1}\" y1=\"4\" x2=\"{at:.1}\" y2=\"124\"/>\
             <text class=\"tick\" x=\"{at:.1}\" y=\"137\" text-anchor=\"middle\">{second}{}</text>",
            if second == 0 { " s" } else { "" }
        );
    }
    for (index, stage) in journey.stages().iter().enumerate() {
        let from = x(stage.from_s);
        let _ = write!(
            svg,
            "<rect class=\"s{index}\" x=\"{from:.1}\" y=\"4\" width=\"{:.1}\" height=\"16\"><title>{}: {}</title></rect>",
            (x(stage.to_s) - from).max(1.5),
            stage.name,
            duration(stage.to_s - stage.from_s)
        );
    }
    for (at, violating) in &journey.windows {
        if *at < journey.shown_s - 0.01 {
            let (from, to) = (x(at.max(0.0)), x(at + 1.0));
            let class = if *violating { "bad" } else { "good" };
            let _ = write!(
                svg,
                "<rect class=\"{class}\" x=\"{:.1}\" y=\"28\" width=\"{:.1}\" height=\"16\"/>",
                from + 0.5,
                (to - from - 1.0).max(0.5)
            );
        }
    }
    svg.push_str(&decisions(journey, &x));
    svg.push_str(&limits(journey, &x));
    if let Some(at) = journey.protected_s.filter(|at| *at < journey.shown_s) {
        let at = x(at);
        let _ = write!(
            svg,
            "<line class=\"protected\" x1=\"{at:.1}\" y1=\"2\" x2=\"{at:.1}\" y2=\"124\"/>"
        );
    }
    svg.push_str("</svg>");
    svg
}

fn decisions(journey: &Journey, x: &impl Fn(f64) -> f64) -> String {
    let mut svg = String::new();
    for change in journey
        .changes
        .iter()
        .filter(|change| change.at_s < journey.shown_s)
    {
        let (mark, class) = if change.after_bps < change.before_bps {
            ("▼", "cut")
        } else {
            ("▲", "raise")
        };
        let _ = write!(
            svg,
            "<text class=\"{class}\" x=\"{:.1}\" y=\"65\" text-anchor=\"middle\">{mark}<title>{} at {:.3} s: {} to {} Mbit/s</title></text>",
            x(change.at_s),
            escape(&change.action),
            change.at_s,
            mbit(change.before_bps),
            mbit(change.after_bps)
        );
    }
    svg
}

fn mbit(bps: f64) -> String {
    format!("{}", (bps / 1e5).round() / 10.0)
}

/// Steps of the limit, each with its value where there is room.
fn limits(journey: &Journey, x: &impl Fn(f64) -> f64) -> String {
    const TOP: f64 = 84.0;
    const BOTTOM: f64 = 122.0;
    let before = journey.limits.iter().rposition(|(at, _)| *at <= 0.0);
    let shown = &journey.limits[before.unwrap_or(0)..];
    let shown: Vec<&(f64, Option<f64>)> = shown
        .iter()
        .filter(|(at, _)| *at < journey.shown_s)
        .collect();
    let cut: Vec<f64> = shown
        .iter()
        .filter(|(at, _)| *at > 0.0)
        .filter_map(|(_, limit)| *limit)
        .collect();
    // What was there before is often far above and limited nothing: it stands at the edge.
    let greatest = cut.iter().copied().fold(1.0, f64::max) * 1.7;
    let y = |limit: Option<f64>| {
        let share = limit.map_or(1.0, |bps| (bps / greatest).min(1.0));
        BOTTOM - share * (BOTTOM - TOP)
    };
    let mut path = String::new();
    let mut words = String::new();
    let mut free_from = 0.0;
    for (index, (at, limit)) in shown.iter().enumerate() {
        let from = x(at.max(0.0));
        let to = shown
            .get(index + 1)
            .map_or(x(journey.shown_s), |next| x(next.0));
        let _ = write!(
            path,
            "{}{from:.1} {:.1}H{to:.1}",
            if index == 0 { 'M' } else { 'L' },
            y(*limit)
        );
        let said = limit.map_or_else(|| "none".to_owned(), mbit);
        if to - from > 8.0 && from >= free_from {
            free_from = from + 8.0 * said.len() as f64;
            let _ = write!(
                words,
                "<text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\">{said}</text>",
                from + 3.0,
                (y(*limit) - 3.0).max(TOP + 8.0)
            );
        }
    }
    format!("<path class=\"limit\" d=\"{path}\"/>{words}")
}
