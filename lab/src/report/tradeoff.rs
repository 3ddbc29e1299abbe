//! The trade: violating windows against goodput, laws as points, fixed limits as a curve.

use std::fmt::Write as _;

use super::collect::{LawRuns, ScenarioRuns};
use super::metric::Metric;
use super::multiples::colour;
use super::plot::{Plot, Scale};
use super::stats::Spread;
use super::text::escape;

/// Pixels that two labels must be apart.
const LINE: f64 = 14.0;

/// The picture; nothing when no law has a complete run.
pub(super) fn tradeoff(runs: &ScenarioRuns, laws: &[&LawRuns]) -> String {
    let fixed = runs.fixed();
    let all: Vec<&LawRuns> = laws.iter().chain(&fixed).copied().collect();
    let goodputs: Vec<f64> = all
        .iter()
        .flat_map(|law| law.values(Metric::Goodput))
        .collect();
    let Some(goodput) = Spread::of(goodputs) else {
        return String::new();
    };
    let worst = all
        .iter()
        .flat_map(|law| law.values(Metric::Violating))
        .fold(10.0, f64::max);
    let plot = Plot {
        width: 860.0,
        height: 360.0,
        x: Scale::Linear(((goodput.min - 2.0) / 10.0).floor() * 10.0, 101.0),
        y: Scale::FromZero(worst * 1.1),
    };
    let mut svg = plot.open("tradeoff", "violating windows against goodput");
    svg.push_str(&target_corner(runs, &plot));
    svg.push_str(&plot.axes(" %"));
    svg.push_str(&curve(&plot, &fixed, laws));
    let mut labels = Labels::default();
    for (place, law) in laws.iter().enumerate() {
        svg.push_str(&law_marks(&plot, law, colour(place), &mut labels));
    }
    svg.push_str("</svg>");
    let about_fixed = if fixed.is_empty() {
        "No fixed limits were tried (<code>--sweep</code>)."
    } else {
        "The grey curve joins fixed limits per pod, each written beside its point."
    };
    format!(
        "<h3>Violating windows (%, upwards) against goodput (%, to the right)</h3><p>Best is the lower right corner. Large: median; \
         small: every run; bars: range. The green area is the target. {about_fixed}</p>{svg}"
    )
}

fn target_corner(runs: &ScenarioRuns, plot: &Plot) -> String {
    let target = |metric: Metric| metric.target(runs.spec.word());
    let (Some(violating), Some(goodput)) = (target(Metric::Violating), target(Metric::Goodput))
    else {
        return String::new();
    };
    let (_, _, right, bottom) = plot.area();
    let (x, y) = (plot.at_x(goodput.limit()), plot.at_y(violating.limit()));
    format!(
        "<rect class=\"goal\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{:.1}\"/>",
        (right - x).max(0.0),
        (bottom - y).max(0.0)
    )
}

/// Median goodput and violating share.
fn median(law: &LawRuns) -> Option<(f64, f64)> {
    let of = |metric| Spread::of(law.values(metric)).map(|spread| spread.median);
    of(Metric::Goodput).zip(of(Metric::Violating))
}

fn curve(plot: &Plot, fixed: &[&LawRuns], named: &[&LawRuns]) -> String {
    let points: Vec<(&LawRuns, (f64, f64))> = fixed
        .iter()
        .filter_map(|law| Some((*law, median(law)?)))
        .collect();
    let line: Vec<(f64, Option<f64>)> = points.iter().map(|(_, (x, y))| (*x, Some(*y))).collect();
    let mut svg = if line.is_empty() {
        String::new()
    } else {
        plot.line("curve", &line)
    };
    for (law, (x, y)) in points {
        // A limit that stands among the laws has its name already.
        if named.iter().any(|named| named.spec == law.spec) {
            continue;
        }
        let (x, y) = (plot.at_x(x), plot.at_y(y));
        let limit = law.spec.settings().next().unwrap_or_default();
        // Writing to a String cannot fail.
        let _ = write!(
            svg,
            "<circle class=\"fixed\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\"/>\
             <text class=\"tick\" x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            y + 14.0,
            escape(limit)
        );
    }
    svg
}

/// A law's runs, range and median.
fn law_marks(plot: &Plot, law: &LawRuns, colour: usize, labels: &mut Labels) -> String {
    let (Some(goodput), Some(violating), Some((x, y))) = (
        Spread::of(law.values(Metric::Goodput)),
        Spread::of(law.values(Metric::Violating)),
        median(law),
    ) else {
        return String::new();
    };
    let (x, y) = (plot.at_x(x), plot.at_y(y));
    let mut svg = format!(
        "<g class=\"c{colour}\"><line class=\"range\" x1=\"{:.1}\" y1=\"{y:.1}\" x2=\"{:.1}\" y2=\"{y:.1}\"/>\
         <line class=\"range\" x1=\"{x:.1}\" y1=\"{:.1}\" x2=\"{x:.1}\" y2=\"{:.1}\"/>",
        plot.at_x(goodput.min),
        plot.at_x(goodput.max),
        plot.at_y(violating.min),
        plot.at_y(violating.max)
    );
    for (_, run) in law.complete() {
        let _ = write!(
            svg,
            "<circle class=\"run\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"2.2\"/>",
            plot.at_x(run.score.goodput_percent),
            plot.at_y(run.score.violating_percent)
        );
    }
    let (_, _, right, _) = plot.area();
    let (anchor, beside) = if x > right - 130.0 {
        ("end", x - 9.0)
    } else {
        ("start", x + 9.0)
    };
    let _ = write!(
        svg,
        "<circle class=\"median\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"6\"/>\
         <text class=\"label\" x=\"{beside:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{}</text></g>",
        labels.free(beside, y - 6.0),
        escape(&law.spec.to_string())
    );
    svg
}

/// Keeps labels from lying on each other.
#[derive(Debug, Default)]
struct Labels(Vec<(f64, f64)>);

impl Labels {
    /// The nearest height above that is free.
    fn free(&mut self, x: f64, wanted: f64) -> f64 {
        let mut y = wanted;
        while let Some((_, taken)) = self
            .0
            .iter()
            .find(|(at_x, at_y)| (at_x - x).abs() < 120.0 && (at_y - y).abs() < LINE)
        {
            y = taken - LINE;
        }
        self.0.push((x, y));
        y
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_of_neighbours_stand_above_each_other() {
        let mut labels = Labels::default();
        assert_eq!(labels.free(100.0, 50.0), 50.0);
        assert_eq!(labels.free(110.0, 52.0), 36.0);
        assert_eq!(labels.free(105.0, 40.0), 22.0);
        assert_eq!(labels.free(400.0, 50.0), 50.0);
    }
}
