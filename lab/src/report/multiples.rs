//! Small multiples: the same four pictures for every law, on the same scales.

use std::fmt::Write as _;

use super::collect::{LawRuns, ScenarioRuns};
use super::plot::{Plot, Scale};
use super::text::escape;
use crate::score::series::Series;
use crate::score::{JITTER_LIMIT_MS, P95_LIMIT_MS};

const WIDTH: f64 = 320.0;
const HEIGHT: f64 = 118.0;
/// Above this share of the link a pod's limit limits nothing, and where it stands does not matter.
const SHOWN_SHARES: f64 = 1.5;

/// One of the four pictures.
#[derive(Debug, Clone, Copy)]
enum Panel {
    P95,
    Jitter,
    Limit,
    Goodput,
}

const PANELS: [Panel; 4] = [Panel::P95, Panel::Jitter, Panel::Limit, Panel::Goodput];

/// What all rows have in common.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    seconds: f64,
    rate_mbit: f64,
    share_mbit: f64,
    worst_ms: f64,
}

/// All rows, a law each; missing when no run is complete.
pub(super) fn multiples(runs: &ScenarioRuns, laws: &[&LawRuns]) -> String {
    let Some(scenario) = &runs.scenario else {
        return String::new();
    };
    let all = || {
        laws.iter()
            .flat_map(|law| law.complete())
            .map(|(_, run)| run)
    };
    let rate_mbit = scenario.link.rate_bps as f64 / 1e6;
    let bounds = Bounds {
        seconds: all().map(|run| run.series.seconds).fold(1.0, f64::max),
        rate_mbit,
        share_mbit: rate_mbit / f64::from(scenario.pods.max(1)),
        worst_ms: all()
            .flat_map(|run| &run.series.windows)
            .filter_map(|window| window.p95_ms)
            .fold(100.0, f64::max),
    };
    let mut html = String::from(
        "<h3>Second by second</h3><p>Shaded: load. Dashed: target. Faint: every run; strong: the typical run. A limit at the upper \
         edge limits nothing (none, or more than 1.5 shares of the link).</p><div class=\"multiples\"><div></div>",
    );
    for panel in PANELS {
        // Writing to a String cannot fail.
        let _ = write!(html, "<h4>{}</h4>", panel.title());
    }
    for (index, law) in laws.iter().enumerate() {
        let name = escape(&law.spec.to_string());
        let _ = write!(html, "<div class=\"name c{}\">{name}</div>", colour(index));
        for panel in PANELS {
            html.push_str(&picture(panel, law, bounds, colour(index)));
        }
    }
    html.push_str("</div>");
    html
}

/// Number of a law's colour.
pub(super) fn colour(place: usize) -> usize {
    place % 8
}

fn picture(panel: Panel, law: &LawRuns, bounds: Bounds, colour: usize) -> String {
    let plot = Plot {
        width: WIDTH,
        height: HEIGHT,
        x: Scale::Linear(0.0, bounds.seconds),
        y: panel.scale(bounds),
    };
    let description = format!("{}: {}", escape(&law.spec.to_string()), panel.title());
    let mut svg = plot.open(&format!("c{colour}"), &description);
    let Some((typical, shown)) = law.typical() else {
        return format!("{svg}<text class=\"tick\" x=\"40\" y=\"60\">no complete run</text></svg>");
    };
    for (from, to) in &shown.series.loads {
        svg.push_str(&plot.shade(*from, *to));
    }
    svg.push_str(&plot.axes(" s"));
    if let Some(target) = panel.target() {
        svg.push_str(&plot.target(target));
    }
    for (run, complete) in law.complete() {
        if run.number != typical.number {
            svg.push_str(&panel.trace(&plot, "faint", &complete.series, bounds));
        }
    }
    svg.push_str(&panel.trace(&plot, "strong", &shown.series, bounds));
    svg.push_str("</svg>");
    svg
}

impl Panel {
    fn title(self) -> &'static str {
        match self {
            Self::P95 => "critical P95, ms",
            Self::Jitter => "critical jitter (IQR), ms",
            Self::Limit => "limit of a pod, Mbit/s",
            Self::Goodput => "best-effort goodput, Mbit/s",
        }
    }

    fn scale(self, bounds: Bounds) -> Scale {
        match self {
            Self::P95 => Scale::Log(0.5, bounds.worst_ms * 1.1),
            Self::Jitter => Scale::Log(0.05, 100.0),
            Self::Limit => Scale::Linear(0.0, SHOWN_SHARES * bounds.share_mbit),
            Self::Goodput => Scale::Linear(0.0, bounds.rate_mbit),
        }
    }

    fn target(self) -> Option<f64> {
        match self {
            Self::P95 => Some(P95_LIMIT_MS),
            Self::Jitter => Some(JITTER_LIMIT_MS),
            Self::Limit | Self::Goodput => None,
        }
    }

    fn trace(self, plot: &Plot, class: &str, series: &Series, bounds: Bounds) -> String {
        let of_windows = |value: fn(&crate::score::series::Second) -> Option<f64>| {
            // a window stands at its middle
            let points: Vec<(f64, Option<f64>)> = series
                .windows
                .iter()
                .map(|window| (window.at_s + 0.5, value(window)))
                .collect();
            plot.line(class, &points)
        };
        match self {
            Self::P95 => of_windows(|window| window.p95_ms),
            Self::Jitter => of_windows(|window| window.jitter_ms),
            Self::Goodput => of_windows(|window| window.goodput_bps.map(|bps| bps / 1e6)),
            Self::Limit => {
                let top = SHOWN_SHARES * bounds.share_mbit;
                let mut points = vec![(0.0, top)];
                points.extend(
                    series
                        .limits
                        .iter()
                        .map(|(at, limit)| (*at, limit.map_or(top, |bps| bps / 1e6))),
                );
                plot.steps(class, &points, series.seconds)
            }
        }
    }
}
