//! A strip of dots: every run of one number on a common scale, with the median and the target.

use std::fmt::Write as _;

use super::metric::Target;
use super::stats::Spread;

const WIDTH: f64 = 84.0;
const HEIGHT: f64 = 16.0;
const EDGE: f64 = 4.0;

/// The values of all laws that one scale must hold: from zero to the greatest that is finite.
pub(super) fn scale(values: impl Iterator<Item = f64>, target: Option<Target>) -> f64 {
    values
        .chain(target.map(Target::limit))
        .filter(|value| value.is_finite())
        .fold(0.0, f64::max)
}

/// The strip. What never came stands as a cross at the right edge.
pub(super) fn strip(values: &[f64], greatest: f64, target: Option<Target>) -> String {
    let x = |value: f64| {
        let share = if greatest > 0.0 {
            value / greatest
        } else {
            0.0
        };
        EDGE + share.clamp(0.0, 1.0) * (WIDTH - 3.0 * EDGE)
    };
    let middle = HEIGHT / 2.0;
    let mut svg = format!(
        "<svg class=\"strip\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" aria-hidden=\"true\">\
         <line class=\"axis\" x1=\"{EDGE}\" y1=\"{middle}\" x2=\"{:.1}\" y2=\"{middle}\"/>",
        x(greatest)
    );
    if let Some(target) = target {
        let at = x(target.limit());
        // Writing to a String cannot fail.
        let _ = write!(
            svg,
            "<line class=\"target\" x1=\"{at:.1}\" y1=\"1\" x2=\"{at:.1}\" y2=\"{:.1}\"/>",
            HEIGHT - 1.0
        );
    }
    for value in values {
        let _ = if value.is_finite() {
            write!(
                svg,
                "<circle cx=\"{:.1}\" cy=\"{middle}\" r=\"2.6\"/>",
                x(*value)
            )
        } else {
            write!(
                svg,
                "<text x=\"{:.1}\" y=\"{:.1}\">×</text>",
                WIDTH - EDGE - 3.0,
                middle + 4.0
            )
        };
    }
    if let Some(spread) = Spread::of(values.iter().copied())
        && spread.median.is_finite()
    {
        let at = x(spread.median);
        let _ = write!(
            svg,
            "<line class=\"median\" x1=\"{at:.1}\" y1=\"2\" x2=\"{at:.1}\" y2=\"{:.1}\"/>",
            HEIGHT - 2.0
        );
    }
    svg.push_str("</svg>");
    svg
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_run_has_a_mark_of_its_own() {
        let svg = strip(&[1.0, 2.0, f64::INFINITY], 2.0, Some(Target::Below(1.5)));
        assert_eq!(svg.matches("<circle").count(), 2);
        assert_eq!(svg.matches("×").count(), 1);
        assert_eq!(svg.matches("class=\"target\"").count(), 1);
    }

    #[test]
    fn the_scale_holds_the_target_and_ignores_what_never_came() {
        let values = [1.0, f64::INFINITY];
        assert_eq!(scale(values.into_iter(), Some(Target::Below(3.0))), 3.0);
        assert_eq!(scale([].into_iter(), None), 0.0);
        // a scale of nothing still draws
        assert!(strip(&[0.0], 0.0, None).contains("cx=\"4.0\""));
    }
}
