//! The comparison as one HTML page that needs nothing else.

use super::track::{Point, range};
use crate::words::{clock, number};

/// Most corners of a line: more than a screen has pixels tells nothing.
const MOST_CORNERS: usize = 2_000;
const WIDTH: f64 = 960.0;
const LEFT: f64 = 70.0;
const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:1000px;margin:2em auto;padding:0 1em;color:#222}\
table{border-collapse:collapse}td,th{padding:.2em .9em .2em 0;text-align:left;border-bottom:1px solid #ddd}svg{width:100%;height:auto}\
text{font:12px system-ui,sans-serif;fill:#444}.a{stroke:#1f6fb4}.b{stroke:#d2691e}.s{stroke:#555}path{fill:none;stroke-width:1.6}\
.t{stroke:#b00;stroke-dasharray:4 4}.g{stroke:#ddd}.k{display:inline-block;width:2em;border-top:3px solid;vertical-align:middle}";

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

/// Where a value stands, on a logarithmic scale from `low` at the bottom to `high` at the top.
struct Scale {
    low: f64,
    high: f64,
    height: f64,
}

impl Scale {
    fn y(&self, value: f64) -> f64 {
        let share = (value.max(self.low) / self.low).ln() / (self.high / self.low).ln();
        10.0 + self.height * (1.0 - share.clamp(0.0, 1.0))
    }
}

/// Times that are drawn, and where.
struct Time {
    first_ms: i64,
    span: f64,
}

impl Time {
    fn x(&self, at_ms: i64) -> f64 {
        LEFT + (WIDTH - LEFT - 10.0) * (at_ms - self.first_ms) as f64 / self.span
    }
}

/// A line in steps; a gap in the values is one in the line. Of many points it keeps the greatest and least of each small time.
fn path(
    points: &[Point],
    time: &Time,
    scale: &Scale,
    value: impl Fn(&Point) -> Option<f64>,
) -> String {
    let mut corners: Vec<(i64, Option<f64>)> = Vec::new();
    for chunk in points.chunks(points.len().div_ceil(MOST_CORNERS / 2).max(1)) {
        let of = |p: &Point| (p.at_ms, value(p));
        let known = || chunk.iter().map(of).filter(|(_, v)| v.is_some());
        let by = |a: &(i64, Option<f64>), b: &(i64, Option<f64>)| {
            a.1.unwrap_or_default().total_cmp(&b.1.unwrap_or_default())
        };
        let mut both: Vec<_> = known()
            .min_by(by)
            .into_iter()
            .chain(known().max_by(by))
            .collect();
        if both.is_empty() {
            both.extend(chunk.first().map(of));
        }
        both.sort_by_key(|(at_ms, _)| *at_ms);
        both.dedup();
        corners.extend(both);
    }
    let mut out = String::new();
    let mut is_drawing = false;
    for (at_ms, value) in corners {
        let x = time.x(at_ms);
        match value {
            Some(value) if is_drawing => out.push_str(&format!("H{x:.1}V{:.1}", scale.y(value))),
            Some(value) => out.push_str(&format!("M{x:.1} {:.1}", scale.y(value))),
            None => {}
        }
        is_drawing = value.is_some();
    }
    out
}

fn frame(
    title: &str,
    scale: &Scale,
    time: &Time,
    last_ms: i64,
    unit: impl Fn(f64) -> String,
    body: &str,
) -> String {
    let mut out = format!(
        "<h2>{}</h2><svg viewBox=\"0 0 {WIDTH} {}\" role=\"img\">",
        escape(title),
        scale.height + 35.0
    );
    for share in [0.0, 0.25, 0.5, 0.75, 1.0] {
        let value = scale.low * (scale.high / scale.low).powf(share);
        let y = scale.y(value);
        out.push_str(&format!(
            "<path class=\"g\" d=\"M{LEFT} {y:.1}H{WIDTH}\"/><text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT - 6.0,
            y + 4.0,
            escape(&unit(value))
        ));
    }
    for share in 0..=4 {
        let at_ms = time.first_ms + (last_ms - time.first_ms) * share / 4;
        let anchor = if share == 4 { "end" } else { "start" };
        out.push_str(&format!(
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"{anchor}\">{}</text>",
            time.x(at_ms),
            scale.height + 28.0,
            clock(at_ms)
        ));
    }
    out.push_str(body);
    out.push_str("</svg>");
    out
}

/// The page. `notes` are sentences above the table.
pub(super) fn page(
    points: &[Point],
    classes: &[String],
    laws: (&str, &str),
    notes: &[String],
    table: &[[String; 3]],
) -> String {
    let mut out = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\"><title>Replay of {0} beside {1}</title><style>{STYLE}</style><h1>Replay of {0} beside the recorded {1}</h1>",
        escape(laws.1),
        escape(laws.0)
    );
    for note in notes {
        out.push_str(&format!("<p>{}</p>", escape(note)));
    }
    out.push_str("<table><tr><th></th><th>recorded</th><th>replayed</th></tr>");
    for row in table {
        out.push_str("<tr>");
        for cell in row {
            out.push_str(&format!("<td>{}</td>", escape(cell)));
        }
        out.push_str("</tr>");
    }
    out.push_str("</table><p><span class=\"k\" style=\"border-color:#1f6fb4\"></span> recorded &nbsp; <span class=\"k\" style=\"border-color:#d2691e\"></span> replayed &nbsp; logarithmic scales, times in UTC</p>");
    let (Some(first), Some(last)) = (points.first(), points.last()) else {
        return out;
    };
    let time = Time {
        first_ms: first.at_ms,
        span: (last.at_ms - first.at_ms).max(1) as f64,
    };
    for (index, class) in classes.iter().enumerate() {
        let Some((low, high)) = range(points, index) else {
            continue;
        };
        let scale = Scale {
            low: low / 1.2,
            high: high * 1.2,
            height: 220.0,
        };
        let recorded = path(points, &time, &scale, |p| p.recorded.get(index).copied());
        let replayed = path(points, &time, &scale, |p| p.replayed.get(index).copied());
        let lines =
            format!("<path class=\"a\" d=\"{recorded}\"/><path class=\"b\" d=\"{replayed}\"/>");
        let title = format!("Limit of {class} per pod, Mbit/s");
        out.push_str(&frame(
            &title,
            &scale,
            &time,
            last.at_ms,
            |v| number(v / 1e6),
            &lines,
        ));
    }
    let most = points
        .iter()
        .filter_map(|p| p.signal)
        .fold(2.0_f64, f64::max);
    let scale = Scale {
        low: 0.1,
        high: most * 1.2,
        height: 160.0,
    };
    let target = scale.y(1.0);
    let lines = format!(
        "<path class=\"t\" d=\"M{LEFT} {target:.1}H{WIDTH}\"/><path class=\"s\" d=\"{}\"/>",
        path(points, &time, &scale, |p| p.signal)
    );
    out.push_str(&frame(
        "Worst signal as a multiple of its target, recorded",
        &scale,
        &time,
        last.at_ms,
        number,
        &lines,
    ));
    out.push_str("</html>\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_nothing_from_elsewhere_and_text_of_others_is_text() {
        let points: Vec<Point> = (0..10_000)
            .map(|n| Point {
                at_ms: n * 1_000,
                signal: (n % 2 == 0).then_some(1.5),
                recorded: vec![1e7],
                replayed: vec![2e7],
            })
            .collect();
        let html = page(
            &points,
            &["<b>".into()],
            ("A&B", "C"),
            &["1 < 2".into()],
            &[],
        );
        assert!(!html.contains("<b>") && html.contains("&lt;b&gt;") && html.contains("A&amp;B"));
        assert!(!html.contains("http") && !html.contains("src="));
        assert!(html.len() < 300_000, "{}", html.len());
        assert_eq!(html.matches("<path class=\"a\"").count(), 1);
    }
}
