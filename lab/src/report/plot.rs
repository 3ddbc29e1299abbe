//! A plot's frame: scales, grid, and lines, as SVG.

use std::fmt::Write as _;

/// Space for the numbers at the axes.
const LEFT: f64 = 38.0;
const BOTTOM: f64 = 18.0;
const TOP: f64 = 6.0;
const RIGHT: f64 = 8.0;

/// How values become heights or widths.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Scale {
    /// In proportion, from the first to the second.
    Linear(f64, f64),
    /// By their logarithm, from the first, which is above zero, to the second.
    Log(f64, f64),
    /// In proportion near zero and by the logarithm far from it, from zero to this.
    FromZero(f64),
}

impl Scale {
    /// Place of a value from 0 to 1; what lies outside is put on the edge.
    pub(super) fn place(self, value: f64) -> f64 {
        let share = match self {
            Self::Linear(low, high) => (value - low) / (high - low),
            Self::Log(low, high) => (value.max(low) / low).ln() / (high / low).ln(),
            Self::FromZero(high) => value.max(0.0).ln_1p() / high.ln_1p(),
        };
        if share.is_nan() {
            0.0
        } else {
            share.clamp(0.0, 1.0)
        }
    }

    /// Round values along it.
    pub(super) fn ticks(self) -> Vec<f64> {
        match self {
            Self::Linear(low, high) => {
                let step = round_step((high - low) / 4.0);
                let first = (low / step).ceil() as i64;
                (first..)
                    .map(|n| n as f64 * step)
                    .take_while(|tick| *tick <= high * (1.0 + 1e-9))
                    .take(20)
                    .collect()
            }
            Self::Log(low, high) => decades(low, high).collect(),
            Self::FromZero(high) => std::iter::once(0.0)
                .chain([1.0, 3.0, 10.0, 30.0, 100.0])
                .filter(|tick| *tick <= high)
                .collect(),
        }
    }
}

fn decades(low: f64, high: f64) -> impl Iterator<Item = f64> {
    (-6..=9)
        .map(|power| 10_f64.powi(power))
        .filter(move |tick| *tick >= low * 0.999 && *tick <= high * 1.001)
}

/// The nearest of 1, 2, 5 times a power of ten above.
fn round_step(least: f64) -> f64 {
    if least.is_nan() || least <= 0.0 {
        return 1.0;
    }
    let power = 10_f64.powf(least.log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|factor| factor * power)
        .find(|step| *step >= least * 0.999)
        .unwrap_or(10.0 * power)
}

/// A plot with its axes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plot {
    /// Width of the whole in pixels.
    pub(super) width: f64,
    /// Height of the whole in pixels.
    pub(super) height: f64,
    /// Along the bottom.
    pub(super) x: Scale,
    /// Along the left.
    pub(super) y: Scale,
}

impl Plot {
    /// Horizontal place of a value.
    pub(super) fn at_x(&self, value: f64) -> f64 {
        LEFT + self.x.place(value) * (self.width - LEFT - RIGHT)
    }

    /// Vertical place of a value.
    pub(super) fn at_y(&self, value: f64) -> f64 {
        self.height - BOTTOM - self.y.place(value) * (self.height - BOTTOM - TOP)
    }

    /// Left, top, right and bottom edge of the area.
    pub(super) fn area(&self) -> (f64, f64, f64, f64) {
        (LEFT, TOP, self.width - RIGHT, self.height - BOTTOM)
    }

    /// The opening tag, for readers that do not see it with a description.
    pub(super) fn open(&self, class: &str, description: &str) -> String {
        format!(
            "<svg class=\"plot {class}\" viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{description}\">",
            self.width, self.height
        )
    }

    /// A band over the whole height.
    pub(super) fn shade(&self, from: f64, to: f64) -> String {
        let (left, right) = (self.at_x(from), self.at_x(to));
        let (_, top, _, bottom) = self.area();
        format!(
            "<rect class=\"shade\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{:.1}\"/>",
            right - left,
            bottom - top
        )
    }

    /// Grid lines and numbers; `unit` stands behind the last number of the horizontal axis.
    pub(super) fn axes(&self, unit: &str) -> String {
        let (left, _, right, bottom) = self.area();
        let mut svg = String::new();
        for tick in self.y.ticks() {
            let at = self.at_y(tick);
            // Writing to a String cannot fail.
            let _ = write!(
                svg,
                "<line class=\"grid\" x1=\"{left}\" y1=\"{at:.1}\" x2=\"{right}\" y2=\"{at:.1}\"/>\
                 <text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                left - 4.0,
                at + 3.5,
                number(tick)
            );
        }
        let ticks = self.x.ticks();
        for (index, tick) in ticks.iter().enumerate() {
            let at = self.at_x(*tick);
            let unit = if index + 1 == ticks.len() { unit } else { "" };
            let _ = write!(
                svg,
                "<line class=\"grid\" x1=\"{at:.1}\" y1=\"{bottom}\" x2=\"{at:.1}\" y2=\"{:.1}\"/>\
                 <text class=\"tick\" x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}{unit}</text>",
                bottom + 3.0,
                bottom + 14.0,
                number(*tick)
            );
        }
        svg
    }

    /// A dashed line at a target.
    pub(super) fn target(&self, value: f64) -> String {
        let (left, _, right, _) = self.area();
        let at = self.at_y(value);
        format!(
            "<line class=\"target\" x1=\"{left}\" y1=\"{at:.1}\" x2=\"{right}\" y2=\"{at:.1}\"/>"
        )
    }

    /// A line through points; it is broken where a value is missing.
    pub(super) fn line(&self, class: &str, points: &[(f64, Option<f64>)]) -> String {
        let mut path = String::new();
        let mut pen_down = false;
        for (x, y) in points {
            let Some(y) = y else {
                pen_down = false;
                continue;
            };
            let _ = write!(
                path,
                "{}{:.1} {:.1}",
                if pen_down { 'L' } else { 'M' },
                self.at_x(*x),
                self.at_y(*y)
            );
            pen_down = true;
        }
        format!("<path class=\"{class}\" d=\"{path}\"/>")
    }

    /// A line of steps: each value holds until the next, the last until `end`.
    pub(super) fn steps(&self, class: &str, points: &[(f64, f64)], end: f64) -> String {
        let mut path = String::new();
        for (index, (x, y)) in points.iter().enumerate() {
            let until = points.get(index + 1).map_or(end, |next| next.0);
            let _ = write!(
                path,
                "{}{:.1} {:.1}H{:.1}",
                if index == 0 { 'M' } else { 'L' },
                self.at_x(*x),
                self.at_y(*y),
                self.at_x(until)
            );
        }
        format!("<path class=\"{class}\" d=\"{path}\"/>")
    }
}

fn number(value: f64) -> String {
    let rounded = (value * 1e6).round() / 1e6;
    format!("{rounded}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_numbers_within_the_scale() {
        assert_eq!(Scale::Linear(0.0, 180.0).ticks(), [0.0, 50.0, 100.0, 150.0]);
        assert_eq!(Scale::Log(0.5, 1000.0).ticks(), [1.0, 10.0, 100.0, 1000.0]);
        assert_eq!(Scale::FromZero(50.0).ticks(), [0.0, 1.0, 3.0, 10.0, 30.0]);
    }

    #[test]
    fn what_lies_outside_is_put_on_the_edge() {
        for scale in [
            Scale::Linear(0.0, 10.0),
            Scale::Log(1.0, 10.0),
            Scale::FromZero(10.0),
        ] {
            assert_eq!(scale.place(-5.0), 0.0);
            assert_eq!(scale.place(f64::INFINITY), 1.0);
        }
        // a scale without extent still draws
        assert_eq!(Scale::Linear(0.0, 0.0).place(0.0), 0.0);
    }

    #[test]
    fn a_missing_value_breaks_the_line() {
        let plot = Plot {
            width: 100.0,
            height: 50.0,
            x: Scale::Linear(0.0, 4.0),
            y: Scale::Linear(0.0, 1.0),
        };
        let line = plot.line(
            "x",
            &[
                (0.0, Some(1.0)),
                (1.0, None),
                (2.0, Some(0.0)),
                (3.0, Some(0.0)),
            ],
        );
        assert_eq!(
            (line.matches('M').count(), line.matches('L').count()),
            (2, 1)
        );
    }
}
