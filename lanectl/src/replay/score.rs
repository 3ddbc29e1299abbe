//! Recorded and replayed law in numbers.

use laneguard_decider_core::policy::Policy;

use super::track::Point;
use crate::words::{clock, duration, mbit, number};

/// A point stands for the time until the next, but not for longer than this, milliseconds: what lies in between is not known.
const LONGEST_MS: i64 = 60_000;
/// Violating stretches that are listed.
const MOST_STRETCHES: usize = 20;

/// One law's numbers.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Score {
    /// Evaluations that changed a limit.
    pub(super) changes: u64,
    /// Mean over time, least and greatest limit of each class, bits per second per pod.
    pub(super) limits: Vec<(f64, f64, f64)>,
    /// How long some class was below its maximum, milliseconds.
    pub(super) throttled_ms: i64,
}

/// A stretch of evaluations with a target missed.
#[derive(Debug, PartialEq)]
pub(super) struct Stretch {
    /// When it was first seen, Unix milliseconds.
    pub(super) at_ms: i64,
    /// How long it lasted, milliseconds.
    pub(super) long_ms: i64,
    /// How long after it was seen a limit first went down: recorded. Unset: not in it.
    pub(super) recorded_ms: Option<i64>,
    /// The same, replayed.
    pub(super) replayed_ms: Option<i64>,
}

/// How long each point stands for, milliseconds.
fn weights(points: &[Point]) -> impl Iterator<Item = (&Point, i64)> {
    let next = points.iter().skip(1).map(|next| next.at_ms);
    let ends = next.chain(points.last().map(|last| last.at_ms));
    points
        .iter()
        .zip(ends)
        .map(|(point, end_ms)| (point, (end_ms - point.at_ms).clamp(0, LONGEST_MS)))
}

/// One law's numbers; `limits` picks it.
pub(super) fn score(points: &[Point], policy: &Policy, limits: impl Fn(&Point) -> &[f64]) -> Score {
    let pairs = points.iter().zip(points.iter().skip(1));
    let mut score = Score {
        changes: pairs.filter(|(a, b)| limits(a) != limits(b)).count() as u64,
        ..Score::default()
    };
    for (index, class) in policy.classes.iter().enumerate() {
        let (mut sum, mut time, mut least, mut greatest) = (0.0, 0.0, f64::INFINITY, 0.0_f64);
        for (point, weight_ms) in weights(points) {
            let Some(limit) = limits(point).get(index) else {
                continue;
            };
            sum += limit * weight_ms as f64;
            time += weight_ms as f64;
            (least, greatest) = (least.min(*limit), greatest.max(*limit));
        }
        let mean = if time > 0.0 { sum / time } else { least };
        score
            .limits
            .push((mean, least.min(class.max_bps), greatest));
    }
    score.throttled_ms = weights(points)
        .filter(|(point, _)| {
            limits(point)
                .iter()
                .zip(&policy.classes)
                .any(|(limit, class)| *limit < class.max_bps)
        })
        .map(|(_, weight_ms)| weight_ms)
        .sum();
    score
}

/// Every stretch of missed targets, and how fast each law went down in it.
pub(super) fn stretches(points: &[Point]) -> Vec<Stretch> {
    let mut stretches: Vec<Stretch> = Vec::new();
    let mut is_open = false;
    for (index, point) in points.iter().enumerate() {
        match point.signal {
            Some(signal) if signal > 1.0 => {
                if !is_open {
                    stretches.push(Stretch {
                        at_ms: point.at_ms,
                        long_ms: 0,
                        recorded_ms: None,
                        replayed_ms: None,
                    });
                }
                is_open = true;
            }
            Some(_) => is_open = false,
            None => {}
        }
        let (true, Some(stretch)) = (is_open, stretches.last_mut()) else {
            continue;
        };
        stretch.long_ms = point.at_ms - stretch.at_ms;
        let Some(before) = index.checked_sub(1).and_then(|before| points.get(before)) else {
            continue;
        };
        let is_down =
            |before: &[f64], now: &[f64]| before.iter().zip(now).any(|(before, now)| now < before);
        if is_down(&before.recorded, &point.recorded) {
            stretch.recorded_ms.get_or_insert(stretch.long_ms);
        }
        if is_down(&before.replayed, &point.replayed) {
            stretch.replayed_ms.get_or_insert(stretch.long_ms);
        }
    }
    stretches
}

/// The share of evaluations, 0 to 1, in which both laws went the same way: up, down, or nowhere.
pub(super) fn agreement(points: &[Point]) -> f64 {
    let way = |before: &[f64], now: &[f64]| {
        let sum = |limits: &[f64]| limits.iter().sum::<f64>();
        sum(now).total_cmp(&sum(before))
    };
    let pairs = points.iter().zip(points.iter().skip(1));
    let same = pairs
        .filter(|(a, b)| way(&a.recorded, &b.recorded) == way(&a.replayed, &b.replayed))
        .count();
    match points.len().saturating_sub(1) {
        0 => 1.0,
        all => same as f64 / all as f64,
    }
}

/// The table: what, recorded, replayed.
pub(super) fn table(points: &[Point], policy: &Policy) -> Vec<[String; 3]> {
    let recorded = score(points, policy, |point| &point.recorded);
    let replayed = score(points, policy, |point| &point.replayed);
    let row =
        |what: &str, of: &dyn Fn(&Score) -> String| [what.to_owned(), of(&recorded), of(&replayed)];
    let mut rows = vec![
        row("changes of limits", &|score| score.changes.to_string()),
        row("time throttled", &|score| duration(score.throttled_ms)),
    ];
    for (index, class) in policy.classes.iter().enumerate() {
        let of = |pick: fn(&(f64, f64, f64)) -> f64| {
            move |score: &Score| {
                score
                    .limits
                    .get(index)
                    .map_or_else(String::new, |limits| mbit(pick(limits)))
            }
        };
        rows.push(row(
            &format!("{}: mean limit per pod", class.name),
            &of(|l| l.0),
        ));
        rows.push(row(&format!("{}: least", class.name), &of(|l| l.1)));
        rows.push(row(&format!("{}: greatest", class.name), &of(|l| l.2)));
    }
    let reaction = |ms: Option<i64>| match ms {
        Some(0) => "at once".to_owned(),
        Some(ms) => format!("after {}", duration(ms)),
        None => "no cut".to_owned(),
    };
    let all = stretches(points);
    for stretch in all.iter().take(MOST_STRETCHES) {
        rows.push([
            format!(
                "targets missed at {}, for {}: first cut",
                clock(stretch.at_ms),
                duration(stretch.long_ms)
            ),
            reaction(stretch.recorded_ms),
            reaction(stretch.replayed_ms),
        ]);
    }
    if all.len() > MOST_STRETCHES {
        rows.push([
            format!("and {} more such stretches", all.len() - MOST_STRETCHES),
            String::new(),
            String::new(),
        ]);
    }
    let share = format!("{} %", number((1000.0 * agreement(points)).round() / 10.0));
    rows.push([
        "evaluations in which both went the same way".to_owned(),
        String::new(),
        share,
    ]);
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points() -> Vec<Point> {
        [
            (0, Some(0.5), 100.0, 100.0),
            (1_000, Some(2.0), 100.0, 100.0),
            (2_000, Some(2.0), 50.0, 100.0),
            (3_000, None, 50.0, 80.0),
            (4_000, Some(0.5), 50.0, 80.0),
        ]
        .map(|(at_ms, signal, recorded, replayed)| Point {
            at_ms,
            signal,
            recorded: vec![recorded],
            replayed: vec![replayed],
        })
        .to_vec()
    }

    #[test]
    fn means_are_over_time_and_throttled_is_below_the_maximum() {
        let policy = serde_json::from_value(serde_json::json!({
            "law": {"name": "Headroom"},
            "critical": [{"workload": "w", "targets": {"p95_ms": 10.0}}],
            "classes": [{"name": "bulk", "min_bps": 10.0, "max_bps": 100.0}],
        }))
        .unwrap();
        let score = score(&points(), &policy, |point| &point.recorded);
        let expected = Score {
            changes: 1,
            limits: vec![(75.0, 50.0, 100.0)],
            throttled_ms: 2_000,
        };
        assert_eq!(score, expected);
    }

    #[test]
    fn a_stretch_of_missed_targets_goes_on_while_nothing_is_measured() {
        let expected = Stretch {
            at_ms: 1_000,
            long_ms: 2_000,
            recorded_ms: Some(1_000),
            replayed_ms: Some(2_000),
        };
        assert_eq!(stretches(&points()), [expected]);
    }

    #[test]
    fn agreement_counts_directions() {
        assert_eq!(agreement(&points()), 0.5);
        assert_eq!(agreement(&points()[..2]), 1.0);
    }
}
