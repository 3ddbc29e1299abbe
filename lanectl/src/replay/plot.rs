//! The comparison as block characters for a terminal.

use super::track::{Point, range};
use crate::words::{clock, number};

/// Eighths of a cell, from empty to full.
const BLOCKS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// Columns of the labels at the left.
const LABEL: usize = 9;

/// Every point's value in a column: means over equal times; a column without points goes on as the one before.
fn columns(
    points: &[Point],
    count: usize,
    value: impl Fn(&Point) -> Option<f64>,
    hold: bool,
) -> Vec<Option<f64>> {
    let (Some(first), Some(last)) = (points.first(), points.last()) else {
        return vec![None; count];
    };
    let span = (last.at_ms - first.at_ms).max(1) as f64;
    let mut sums = vec![(0.0, 0_u32); count];
    for point in points {
        let column = ((point.at_ms - first.at_ms) as f64 / span * count as f64) as usize;
        if let (Some(value), Some(sum)) = (value(point), sums.get_mut(column.min(count - 1))) {
            *sum = (sum.0 + value, sum.1 + 1);
        }
    }
    let mut before = None;
    sums.into_iter()
        .map(|(sum, n)| {
            let here = (n > 0).then(|| sum / f64::from(n));
            if hold {
                before = here.or(before);
                before
            } else {
                here
            }
        })
        .collect()
}

/// A chart with `rows` rows from `low` to `high` on a logarithmic scale, with a dotted line at `mark`.
fn chart(
    values: &[Option<f64>],
    (low, high): (f64, f64),
    rows: usize,
    mark: Option<f64>,
) -> Vec<String> {
    let height = |value: f64| {
        ((value.max(low) / low).ln() / (high / low).ln()).clamp(0.0, 1.0) * rows as f64
    };
    let marked = mark.map(|mark| (height(mark) - 0.001).max(0.0) as usize);
    (0..rows)
        .rev()
        .map(|row| {
            let cell = |value: &Option<f64>| {
                let empty = if marked == Some(row) { '┈' } else { ' ' };
                let Some(value) = value else { return empty };
                // something measured is something to see
                let filled = ((height(*value).max(0.125) - row as f64) * 8.0).round();
                match filled {
                    filled if filled < 1.0 => empty,
                    filled => BLOCKS[(filled as usize).min(8)],
                }
            };
            values.iter().map(cell).collect()
        })
        .collect()
}

/// All charts: each class under both laws, then the worst signal against its target. `width` columns in all.
pub(super) fn plot(
    points: &[Point],
    classes: &[String],
    laws: (&str, &str),
    width: usize,
) -> String {
    let count = width.saturating_sub(LABEL + 1).max(10);
    let mut out = String::new();
    let mut put = |title: &str, rows: &[String], labels: &[(usize, String)]| {
        out.push_str(title);
        out.push('\n');
        for (index, row) in rows.iter().enumerate() {
            let label = labels
                .iter()
                .find(|(at, _)| *at == index)
                .map_or("", |(_, text)| text);
            out.push_str(format!("{label:>LABEL$}│{row}").trim_end());
            out.push('\n');
        }
    };
    for (index, class) in classes.iter().enumerate() {
        let Some((low, high)) = range(points, index) else {
            continue;
        };
        // room below the least, so that it is not taken for zero
        let scale = (low / 1.5, high.max(low * 1.01));
        let rows = 6;
        let labels = [
            (0, format!("{}M", number(high / 1e6))),
            (rows - 1, format!("{}M", number(scale.0 / 1e6))),
        ];
        let recorded = columns(points, count, |p| p.recorded.get(index).copied(), true);
        let replayed = columns(points, count, |p| p.replayed.get(index).copied(), true);
        put(
            &format!("limit of {class} per pod, recorded ({})", laws.0),
            &chart(&recorded, scale, rows, None),
            &labels,
        );
        put(
            &format!("limit of {class} per pod, replayed ({})", laws.1),
            &chart(&replayed, scale, rows, None),
            &labels,
        );
    }
    let signal = columns(points, count, |p| p.signal, false);
    let most = signal
        .iter()
        .flatten()
        .fold(2.0_f64, |most, v| most.max(*v));
    let scale = (0.1, most);
    let rows = 5;
    let labels = [
        (0, format!("x {}", number((most * 10.0).round() / 10.0))),
        (rows - 1, "x 0.1".to_owned()),
    ];
    put(
        "worst signal / target, recorded (above the dotted line: missed)",
        &chart(&signal, scale, rows, Some(1.0)),
        &labels,
    );
    if let (Some(first), Some(last)) = (points.first(), points.last()) {
        let (begin, end) = (clock(first.at_ms), clock(last.at_ms));
        let gap = count.saturating_sub(begin.len() + end.len());
        out.push_str(&format!(
            "{:LABEL$} {begin}{:gap$}{end}\n{:LABEL$} times in UTC, scales logarithmic\n",
            "", "", ""
        ));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chart_is_full_at_the_top_of_its_scale_and_marks_the_target() {
        let values = [Some(1.0), Some(10.0), Some(100.0), None];
        let rows = chart(&values, (1.0, 100.0), 2, Some(100.0));
        assert_eq!(rows, ["┈┈█┈", "▁██ "]);
    }

    #[test]
    fn a_limit_holds_until_it_changes_and_a_signal_does_not() {
        let point = |at_ms, signal, limit| Point {
            at_ms,
            signal,
            recorded: vec![limit],
            replayed: vec![limit],
        };
        let points = [point(0, Some(2.0), 50.0), point(9_000, None, 100.0)];
        let limits = columns(&points, 3, |p| p.recorded.first().copied(), true);
        assert_eq!(limits, [Some(50.0), Some(50.0), Some(100.0)]);
        assert_eq!(
            columns(&points, 3, |p| p.signal, false),
            [Some(2.0), None, None]
        );
    }
}
