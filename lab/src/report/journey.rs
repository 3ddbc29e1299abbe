//! Where the time went between the onset of a load and protection: which part of the loop took how long.

use std::path::Path;

use laneguard_proto::codec::decode;
use laneguard_proto::duration::timestamp_to_ms;
use laneguard_proto::v1::Decision;

use super::collect::Complete;
use crate::decisions;
use crate::raw::{self, PhaseKind, PhaseStart, PodAction, PodEvent};

/// Seconds shown after protection.
const AFTER: f64 = 4.0;
/// The longest that is shown of one load, in seconds.
const LONGEST: f64 = 45.0;

/// One load phase, all times in seconds from its onset.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Journey {
    /// Number of the load, from 1.
    pub(super) load: usize,
    /// How much of it is worth showing.
    pub(super) shown_s: f64,
    /// Begin of each window, and whether it is violating.
    pub(super) windows: Vec<(f64, bool)>,
    /// Decisions that changed a limit.
    pub(super) changes: Vec<Change>,
    /// Limits in force, the lowest of all pods; none: unlimited.
    pub(super) limits: Vec<(f64, Option<f64>)>,
    /// How the first cut came about.
    pub(super) cut: Option<Cut>,
    /// Cuts after the first and before protection.
    pub(super) later_cuts: usize,
    /// When the critical traffic was protected, as the score says; none: never.
    pub(super) protected_s: Option<f64>,
}

/// A decision that changed a limit.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Change {
    pub(super) at_s: f64,
    pub(super) action: String,
    pub(super) before_bps: f64,
    pub(super) after_bps: f64,
}

/// The first cut of a load, step by step.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Cut {
    /// End of the window of the newest sample that was read; none: not told.
    pub(super) window_end_s: Option<f64>,
    /// When the collector had that sample.
    pub(super) observed_s: Option<f64>,
    /// When the decider decided.
    pub(super) decided_s: f64,
    /// When the kernel had the limit, at the first and at the last pod; none: no pod's limit changed.
    pub(super) kernel_s: Option<(f64, f64)>,
    /// Why, in the decision's own words.
    pub(super) reason: String,
}

/// Violating windows in a row after protection.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Again<'a> {
    /// When the first begins.
    pub(super) from_s: f64,
    /// How many there are.
    pub(super) windows: usize,
    /// The last change of a limit before the end of the first; none: there was none.
    pub(super) after: Option<&'a Change>,
}

/// One step of the way to protection.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Stage {
    pub(super) name: &'static str,
    pub(super) from_s: f64,
    pub(super) to_s: f64,
}

impl Journey {
    /// The steps in order, as far as they are known. A step that was over before the one before it has no length.
    pub(super) fn stages(&self) -> Vec<Stage> {
        let Some(cut) = &self.cut else {
            return Vec::new();
        };
        let moments = [
            ("load until the sample’s window ends", cut.window_end_s),
            ("scrape and collector", cut.observed_s),
            ("decider", Some(cut.decided_s)),
            (
                "command, annotation, kernel",
                cut.kernel_s.map(|(_, last)| last),
            ),
            ("queue drains, further changes", self.protected_s),
        ];
        let mut from_s = 0.0;
        let mut stages = Vec::new();
        for (name, until) in moments {
            let Some(until) = until else { continue };
            let to_s = f64::max(from_s, until);
            stages.push(Stage { name, from_s, to_s });
            from_s = to_s;
        }
        stages
    }

    /// Violating windows after protection, those in a row together.
    pub(super) fn later_violations(&self) -> Vec<Again<'_>> {
        let Some(protected_s) = self.protected_s else {
            return Vec::new();
        };
        let mut groups: Vec<Again<'_>> = Vec::new();
        let mut before = false;
        for (at, violating) in &self.windows {
            let counts = *violating && *at > protected_s - 0.5;
            match groups.last_mut() {
                Some(group) if counts && before => group.windows += 1,
                _ if counts => groups.push(Again {
                    from_s: *at,
                    windows: 1,
                    after: self.changes.iter().rfind(|change| change.at_s < at + 1.0),
                }),
                _ => {}
            }
            before = counts;
        }
        groups
    }

    /// Violating windows of the whole load.
    pub(super) fn violating(&self) -> usize {
        self.windows.iter().filter(|(_, bad)| *bad).count()
    }
}

/// Takes each load of the run in `folder` apart.
///
/// # Errors
/// When a raw log or a decision cannot be read; a run without decisions has none.
pub(super) fn journeys(folder: &Path, run: &Complete) -> anyhow::Result<Vec<Journey>> {
    let phases = raw::read::<PhaseStart>(folder)?;
    let pods = raw::read::<PodEvent>(folder)?;
    let decisions = read_decisions(folder)?;
    let spans = phases
        .windows(2)
        .filter(|pair| pair[0].kind == PhaseKind::Load)
        .map(|pair| (pair[0].unix_ns, pair[1].unix_ns));
    Ok((0..)
        .zip(spans)
        .map(|(index, (onset, end))| journey(index, onset, end, run, &pods, &decisions))
        .collect())
}

fn read_decisions(folder: &Path) -> anyhow::Result<Vec<Decision>> {
    let mut decisions = Vec::new();
    for line in raw::text(&folder.join(decisions::FILE))?.lines() {
        let decision: Decision = decode(line.as_bytes(), Some("application/json"))?;
        if !decision.shadow {
            decisions.push(decision);
        }
    }
    Ok(decisions)
}

fn journey(
    index: usize,
    onset: u64,
    end: u64,
    run: &Complete,
    pods: &[PodEvent],
    decisions: &[Decision],
) -> Journey {
    let since = |unix_ns: u64| (unix_ns as f64 - onset as f64) / 1e9;
    let length = since(end);
    let offset = since(run.began_ns);
    let protected_s = run
        .score
        .loads
        .get(index)
        .and_then(|load| load.protected_after_s);
    let windows: Vec<(f64, bool)> = run
        .series
        .windows
        .iter()
        .map(|window| (window.at_s + offset, window.violating))
        .filter(|(at, _)| (-0.5..length - 0.5).contains(at))
        .collect();
    let since_ms = |ms: i64| (ms as f64 - onset as f64 / 1e6) / 1e3;
    let at = |decision: &Decision| {
        let decided_at = decision.decided_at.as_ref()?;
        Some(since_ms(timestamp_to_ms(decided_at))).filter(|at| (0.0..length).contains(at))
    };
    let changes: Vec<(Change, &Decision)> = decisions
        .iter()
        .filter_map(|decision| Some((change(at(decision)?, decision)?, decision)))
        .collect();
    let is_cut = |change: &Change| change.after_bps < change.before_bps;
    let next_after = |at_s: f64| {
        changes
            .iter()
            .map(|(change, _)| change.at_s)
            .find(|at| *at > at_s)
            .unwrap_or(f64::INFINITY)
    };
    let cut = changes
        .iter()
        .find(|(change, _)| is_cut(change))
        .map(|(change, decision)| {
            let newest = decision
                .samples
                .iter()
                .max_by_key(|sample| sample.observed_at.as_ref().map(timestamp_to_ms));
            let time = |time: Option<&prost_types::Timestamp>| {
                time.map(|time| since_ms(timestamp_to_ms(time)))
            };
            Cut {
                window_end_s: newest.and_then(|sample| time(sample.window_end.as_ref())),
                observed_s: newest.and_then(|sample| time(sample.observed_at.as_ref())),
                decided_s: change.at_s,
                kernel_s: kernel(pods, change.at_s, next_after(change.at_s), &since),
                reason: decision.reason.clone(),
            }
        });
    let first_cut = cut.as_ref().map_or(f64::INFINITY, |cut| cut.decided_s);
    let later_cuts = changes
        .iter()
        .filter(|(change, _)| {
            is_cut(change)
                && change.at_s > first_cut
                && change.at_s < protected_s.unwrap_or(f64::INFINITY)
        })
        .count();
    let busy_until = cut
        .as_ref()
        .and_then(|cut| cut.kernel_s)
        .map_or(0.0, |(_, last)| last)
        .max(protected_s.unwrap_or(LONGEST));
    Journey {
        load: index + 1,
        shown_s: (busy_until + AFTER).ceil().clamp(8.0, LONGEST).min(length),
        windows,
        changes: changes.into_iter().map(|(change, _)| change).collect(),
        limits: run
            .series
            .limits
            .iter()
            .map(|(at, limit)| (at + offset, *limit))
            .collect(),
        cut,
        later_cuts,
        protected_s,
    }
}

/// What a decision changed, if it changed anything: of its classes the first.
fn change(at_s: f64, decision: &Decision) -> Option<Change> {
    decision.limits.iter().find_map(|limit| {
        let (before_bps, after_bps) = (limit.before_bps?, limit.after_bps?);
        (before_bps != after_bps).then(|| Change {
            at_s,
            action: decision.action.clone(),
            before_bps,
            after_bps,
        })
    })
}

/// When the pods' limits changed after a decision, the first and the last of them, up to the next decision and for a second at most.
fn kernel(
    pods: &[PodEvent],
    decided_s: f64,
    next_s: f64,
    since: &impl Fn(u64) -> f64,
) -> Option<(f64, f64)> {
    // decisions are told to the millisecond
    let after = decided_s - 0.001;
    let until = f64::min(next_s, after + 1.0);
    let mut moments = pods
        .iter()
        .filter(|event| matches!(event.action, PodAction::Limited(_) | PodAction::Unlimited))
        .map(|event| since(event.unix_ns))
        .filter(|at| (after..until).contains(at));
    let first = moments.next()?;
    Some((first, moments.next_back().unwrap_or(first)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn a_journey(cut: Option<Cut>, protected_s: Option<f64>) -> Journey {
        Journey {
            load: 1,
            shown_s: 8.0,
            windows: vec![(0.0, true), (1.0, true), (2.0, false)],
            changes: Vec::new(),
            limits: Vec::new(),
            cut,
            later_cuts: 0,
            protected_s,
        }
    }

    fn a_cut() -> Cut {
        Cut {
            window_end_s: Some(1.25),
            observed_s: Some(1.375),
            decided_s: 1.375,
            kernel_s: Some((1.39, 1.5)),
            reason: String::new(),
        }
    }

    #[test]
    fn the_steps_follow_each_other_and_end_with_protection() {
        let stages = a_journey(Some(a_cut()), Some(2.0)).stages();
        let ends: Vec<f64> = stages.iter().map(|stage| stage.to_s).collect();
        assert_eq!(ends, [1.25, 1.375, 1.375, 1.5, 2.0]);
        assert!(stages.windows(2).all(|pair| pair[0].to_s == pair[1].from_s));
    }

    #[test]
    fn a_step_that_is_not_known_is_left_out() {
        let mut cut = a_cut();
        cut.observed_s = None;
        let stages = a_journey(Some(cut), None).stages();
        assert_eq!(stages.len(), 3);
        assert_eq!(stages.last().unwrap().to_s, 1.5);
        assert!(a_journey(None, Some(2.0)).stages().is_empty());
    }

    #[test]
    fn protection_that_began_before_the_kernel_acted_makes_no_negative_step() {
        let stages = a_journey(Some(a_cut()), Some(1.0)).stages();
        assert!(stages.iter().all(|stage| stage.to_s >= stage.from_s));
    }

    #[test]
    fn windows_that_violate_again_are_told_with_the_change_before_them() {
        let mut journey = a_journey(Some(a_cut()), Some(2.0));
        journey.windows = (0..10)
            .map(|second| (f64::from(second), [0, 1, 6, 7, 9].contains(&second)))
            .collect();
        let raise = |at_s, after_bps| Change {
            at_s,
            action: "INCREASE".to_owned(),
            before_bps: 1.0,
            after_bps,
        };
        journey.changes = vec![raise(5.5, 2.0), raise(8.5, 3.0)];
        let groups = journey.later_violations();
        let told: Vec<(f64, usize, f64)> = groups
            .iter()
            .map(|group| (group.from_s, group.windows, group.after.unwrap().after_bps))
            .collect();
        assert_eq!(told, [(6.0, 2, 2.0), (9.0, 1, 3.0)]);
        journey.protected_s = None;
        assert!(journey.later_violations().is_empty());
    }

    #[test]
    fn the_kernel_is_done_with_the_last_pod() {
        let pod = |ms: u64, action| PodEvent {
            unix_ns: ms * 1_000_000,
            endpoint: "a".to_owned(),
            pod: String::new(),
            uid: String::new(),
            action,
            annotation: "-".to_owned(),
        };
        let pods = [
            pod(900, PodAction::Limited(5)),
            pod(1010, PodAction::Limited(4)),
            pod(1015, PodAction::Started),
            pod(1020, PodAction::Limited(4)),
            pod(2500, PodAction::Limited(3)),
        ];
        let since = |unix_ns: u64| unix_ns as f64 / 1e9;
        assert_eq!(
            kernel(&pods, 1.0, f64::INFINITY, &since),
            Some((1.01, 1.02))
        );
        // what comes after the next decision is its own
        assert_eq!(kernel(&pods, 1.0, 1.015, &since), Some((1.01, 1.01)));
        assert_eq!(kernel(&pods, 3.0, f64::INFINITY, &since), None);
    }
}
