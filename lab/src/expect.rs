//! What each scenario is about beside the score: did the thing happen that it was made for, and how fast.
//!
//! Pure: scenario, raw logs and decisions in, findings out. Nothing here decides whether a run was good; a [`Finding`] says what was seen, and
//! where there is a bound, whether it was kept.

use std::fmt;
use std::io::ErrorKind;
use std::path::Path;
use std::time::UNIX_EPOCH;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::decisions;
use crate::event::Action;
use crate::raw::{self, PhaseKind, PodAction};
use crate::scenario::{Demand, Name, Scenario, missing_burst_at};
use crate::score::{self, Raw};

const SECOND_NS: u64 = 1_000_000_000;
/// Where every limit ends, in bits per second, when it climbs to the services' default maximum.
const TOP_BPS: u64 = 1_000_000_000;
/// Violating windows belong to a burst until so many seconds after its end.
const AFTERMATH_S: u64 = 5;

/// One thing that was seen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// What it is about.
    pub name: String,
    /// What was seen, in words with units.
    pub seen: String,
    /// Whether the bound of the scenario was kept; absent where there is none.
    pub kept: Option<bool>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match self.kept {
            Some(true) => " (as expected)",
            Some(false) => " (NOT as expected)",
            None => "",
        };
        write!(f, "{}: {}{verdict}", self.name, self.seen)
    }
}

/// A decision as the findings need it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decided {
    /// When, in nanoseconds since the Unix epoch.
    pub unix_ns: u64,
    /// The law's word.
    pub action: String,
    /// The newest sample that it read, if any.
    pub sample: Option<u64>,
}

/// The decisions of the law in force, in the order of the stream; none for a run without Laneguard.
///
/// # Errors
/// When the log cannot be read or a line is no decision.
pub fn decisions(folder: &Path) -> anyhow::Result<Vec<Decided>> {
    let path = folder.join(decisions::FILE);
    let text = match raw::text(&path) {
        Err(raw::Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
            return Ok(Vec::new());
        }
        read => read?,
    };
    let mut decided = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let value: Value = serde_json::from_str(line)
            .with_context(|| format!("{}, line {} is no JSON", path.display(), index + 1))?;
        if value["shadow"] != true {
            decided.extend(of_json(&value));
        }
    }
    Ok(decided)
}

fn of_json(value: &Value) -> Option<Decided> {
    let at = humantime::parse_rfc3339_weak(value["decidedAt"].as_str()?).ok()?;
    let since = at.duration_since(UNIX_EPOCH).ok()?;
    // proto3 JSON writes 64-bit numbers as text
    let sequence = |sample: &Value| sample["sequence"].as_str()?.parse().ok();
    Some(Decided {
        unix_ns: u64::try_from(since.as_nanos()).ok()?,
        action: value["action"].as_str()?.to_owned(),
        sample: value["samples"]
            .as_array()
            .and_then(|samples| samples.iter().filter_map(sequence).max()),
    })
}

/// What the scenario is about.
#[must_use]
pub fn findings(scenario: &Scenario, raw: &Raw, decisions: &[Decided]) -> Vec<Finding> {
    let run = Run {
        scenario,
        raw,
        decisions,
    };
    let mut found = match scenario.name {
        Name::Congestion | Name::Demo | Name::Udp => Vec::new(),
        Name::Burst
        | Name::BurstRandom
        | Name::BurstForeign
        | Name::BurstJoined
        | Name::BurstJoinedMissing => run.bursts(),
        Name::BurstMissing => run.missing_burst(),
        Name::CapacityDrop => run.protected("the drop", is_rate),
        Name::SlowServer => run.slow_server(),
        Name::LightLoad => run.light_load(),
        Name::Injection => run.protected("the injection", is_injection),
        Name::Failover => run.failover(),
        Name::PolicyDrops => run.policy_drops(),
    };
    found.extend(run.decider_killed());
    found
}

struct Run<'a> {
    scenario: &'a Scenario,
    raw: &'a Raw,
    decisions: &'a [Decided],
}

fn is_rate(action: Action) -> bool {
    matches!(action, Action::Rate(_))
}

fn is_injection(action: Action) -> bool {
    matches!(action, Action::Inject(bps) if bps > 0)
}

fn finding(name: impl Into<String>, seen: impl Into<String>, kept: Option<bool>) -> Finding {
    Finding {
        name: name.into(),
        seen: seen.into(),
        kept,
    }
}

fn seconds(from: u64, to: u64) -> f64 {
    to.saturating_sub(from) as f64 / SECOND_NS as f64
}

impl Run<'_> {
    fn when(&self, wanted: impl Fn(Action) -> bool) -> Option<u64> {
        let event = self.raw.events.iter().find(|event| wanted(event.action))?;
        Some(event.unix_ns)
    }

    fn start(&self) -> Option<u64> {
        Some(self.raw.phases.first()?.unix_ns)
    }

    fn end(&self) -> u64 {
        self.raw.phases.last().map_or(0, |phase| phase.unix_ns)
    }

    fn violating(&self, from: u64, to: u64) -> usize {
        let windows = score::violations(&self.raw.requests, from, to.min(self.end()));
        windows.into_iter().filter(|bad| *bad).count()
    }

    /// Seconds from a moment until the critical traffic is back inside its targets for good, and violating windows since.
    fn recovery(&self, from: u64) -> (Option<f64>, usize) {
        let windows = score::violations(&self.raw.requests, from, self.end());
        (
            score::protected_after(&windows),
            windows.iter().filter(|bad| **bad).count(),
        )
    }

    fn protected(&self, what: &str, is_it: fn(Action) -> bool) -> Vec<Finding> {
        let Some(at) = self.when(is_it) else {
            return Vec::new();
        };
        let (after, violating) = self.recovery(at);
        let seen = match after {
            Some(after) => {
                format!("after {after:.0} s, {violating} violating windows from then on")
            }
            None => format!("never, {violating} violating windows"),
        };
        let name = format!("critical traffic inside its targets after {what}");
        vec![finding(name, seen, Some(after.is_some()))]
    }

    /// Each span of foreign traffic, or each load phase in which all pods send where there is none.
    fn spans(&self) -> Vec<(u64, u64)> {
        if self.scenario.has_foreign() {
            let events = self.raw.events.iter();
            let foreign = events.filter_map(|event| match event.action {
                Action::Foreign(bps) => Some((event.unix_ns, bps)),
                _ => None,
            });
            let foreign: Vec<(u64, u64)> = foreign.collect();
            return foreign
                .windows(2)
                .filter(|pair| pair[0].1 > 0)
                .map(|pair| (pair[0].0, pair[1].0))
                .collect();
        }
        self.raw
            .phases
            .windows(2)
            .zip(&self.scenario.phases)
            .filter(|(pair, phase)| pair[0].kind == PhaseKind::Load && phase.pods.is_none())
            .map(|(pair, _)| (pair[0].unix_ns, pair[1].unix_ns))
            .collect()
    }

    fn bursts(&self) -> Vec<Finding> {
        let each = self.spans().into_iter().map(|(start, end)| {
            let aftermath = AFTERMATH_S * SECOND_NS;
            self.violating(start, end + aftermath).to_string()
        });
        let seen = each.collect::<Vec<_>>().join(", ");
        vec![finding("violating windows of each burst", seen, None)]
    }

    fn goodput(&self, from: u64, to: u64) -> Option<f64> {
        let load = score::load(&self.scenario.setup(), self.raw, from, to.min(self.end())).ok()?;
        Some(load.goodput_percent)
    }

    /// Goodput around the burst that did not come, beside the time between the bursts that did.
    fn missing_burst(&self) -> Vec<Finding> {
        let mut found = self.bursts();
        let spans = self.spans();
        let start = self.start().zip(missing_burst_at(&self.scenario.events));
        if let (Some((start, at)), [.., (_, last_end)]) = (start, spans.as_slice()) {
            let expected = start + at * SECOND_NS;
            // from before the burst, for a forecast lowers limits early, to where its aftermath would have ended
            let around = self.goodput(
                expected.saturating_sub(AFTERMATH_S * SECOND_NS),
                expected + 15 * SECOND_NS,
            );
            let before = self.goodput(
                last_end + AFTERMATH_S * SECOND_NS,
                expected.saturating_sub(AFTERMATH_S * SECOND_NS),
            );
            if let (Some(around), Some(before)) = (around, before) {
                let seen = format!("{around:.1} %, in the pause before {before:.1} %");
                found.push(finding(
                    "goodput around the burst that did not come",
                    seen,
                    None,
                ));
            }
        }
        found
    }

    fn throttles(&self, from: u64, to: u64) -> usize {
        self.decisions
            .iter()
            .filter(|decided| (from..to).contains(&decided.unix_ns))
            .filter(|decided| decided.action.contains("THROTTLE"))
            .count()
    }

    /// Samples from the slow-down to the first decision that says the cause is elsewhere.
    fn slow_server(&self) -> Vec<Finding> {
        let slow = |wanted: fn(u64) -> bool| {
            self.when(|action| matches!(action, Action::ServiceTime(us) if wanted(us)))
        };
        let Some(from) = slow(|us| us > 0) else {
            return Vec::new();
        };
        let to = slow(|us| us == 0).unwrap_or_else(|| self.end());
        let said = self.decisions.iter().find(|decided| {
            (from..to).contains(&decided.unix_ns) && decided.action == "NOT_BANDWIDTH"
        });
        let (seen, kept) = match said {
            Some(said) => {
                let samples = self.samples_between(from, said);
                let seen = format!(
                    "{samples} samples ({:.0} s) after the slow-down",
                    seconds(from, said.unix_ns)
                );
                (seen, samples <= 20)
            }
            None => ("never".to_owned(), false),
        };
        let after = said.map_or(to, |said| said.unix_ns);
        vec![
            finding("NOT_BANDWIDTH is said (within 20)", seen, Some(kept)),
            finding(
                "throttles while the service was slow",
                format!(
                    "{}, of these {} after it was said",
                    self.throttles(from, to),
                    self.throttles(after, to)
                ),
                None,
            ),
        ]
    }

    /// How many samples came from a moment up to a decision: by their numbers, from the last decision before that moment and the time in
    /// between, or without one by the scrape interval.
    fn samples_between(&self, from: u64, decided: &Decided) -> u64 {
        let interval_ns = self.scenario.scrape_interval_ms.max(1) * 1_000_000;
        let before = self
            .decisions
            .iter()
            .rfind(|earlier| earlier.unix_ns < from && earlier.sample.is_some());
        match (
            before.and_then(|before| Some((before.sample?, before.unix_ns))),
            decided.sample,
        ) {
            (Some((number, at)), Some(last)) if last >= number => {
                let unseen = from.saturating_sub(at) / interval_ns;
                (last - number).saturating_sub(unseen)
            }
            _ => decided.unix_ns.saturating_sub(from) / interval_ns,
        }
    }

    /// When limits stopped holding anybody back, and when they reached the top, where there is no limit or the greatest.
    fn light_load(&self) -> Vec<Finding> {
        let Some(start) = self.start() else {
            return Vec::new();
        };
        let after = |reached: Option<u64>| {
            reached.map_or_else(
                || format!("not within {:.0} s", seconds(start, self.end())),
                |at| format!("after {:.0} s", seconds(start, at)),
            )
        };
        let mut found = Vec::new();
        if let Demand::Paced(wanted) = self.scenario.demand {
            let enough = self.all_at_least(wanted);
            let name = "every limit above what its pod wants";
            found.push(finding(name, after(enough), Some(enough.is_some())));
        }
        let top = self.all_at_least(TOP_BPS);
        let name = "every limit at the maximum or gone";
        found.push(finding(name, after(top), Some(top.is_some())));
        found
    }

    /// When the last pod's limit rose to so much and stayed there.
    fn all_at_least(&self, bps: u64) -> Option<u64> {
        let mut reached = self.start();
        for sender in self.scenario.senders() {
            let mut at_top = None;
            for event in &self.raw.pods {
                if event.endpoint != sender.endpoint {
                    continue;
                }
                match event.action {
                    PodAction::Limited(limit) if limit < bps => at_top = None,
                    PodAction::Limited(_) | PodAction::Unlimited => {
                        at_top = at_top.or(Some(event.unix_ns));
                    }
                    PodAction::Started | PodAction::Gone => {}
                }
            }
            reached = reached.zip(at_top).map(|(all, own)| all.max(own));
        }
        reached
    }

    fn failover(&self) -> Vec<Finding> {
        let Some(at) = self.when(|action| action == Action::Move) else {
            return Vec::new();
        };
        let (after, violating) = self.recovery(at);
        let limited = self
            .raw
            .pods
            .iter()
            .find(|event| event.unix_ns > at && matches!(event.action, PodAction::Limited(_)));
        let seen = match after {
            Some(after) => {
                format!("after {after:.0} s, {violating} violating windows from then on")
            }
            None => format!("never, {violating} violating windows"),
        };
        let first = limited.map_or_else(
            || "none was".to_owned(),
            |event| format!("after {:.2} s", seconds(at, event.unix_ns)),
        );
        vec![
            finding(
                "critical traffic inside its targets after the move (within 60 s)",
                seen,
                Some(after.is_some_and(|after| after <= 60.0)),
            ),
            finding("the first moved pod limited", first, None),
        ]
    }

    fn policy_drops(&self) -> Vec<Finding> {
        let rise = self.when(|action| matches!(action, Action::PolicyDrops(_)));
        let Some(from) = rise else {
            return Vec::new();
        };
        let throttles = self.throttles(from, self.end());
        vec![finding(
            "throttles after policy drops rose (0)",
            throttles.to_string(),
            Some(throttles == 0),
        )]
    }

    /// What followed the decider's death and its return.
    fn decider_killed(&self) -> Vec<Finding> {
        let Some(killed) = self.when(|action| action == Action::KillDecider) else {
            return Vec::new();
        };
        let start = self.start().unwrap_or(killed);
        let restored = self.when(|action| action == Action::RestoreDecider);
        let until = restored.unwrap_or_else(|| self.end());
        let set = self
            .raw
            .pods
            .iter()
            .find(|event| (killed..until).contains(&event.unix_ns) && is_limit(event.action));
        let seen = match set {
            Some(event) => format!(
                "{:.1} s later ({})",
                seconds(killed, event.unix_ns),
                limit_words(event.action)
            ),
            None => "no limit was set".to_owned(),
        };
        let mut found = vec![
            finding(
                "the decider was killed",
                format!("{:.1} s after the start", seconds(start, killed)),
                None,
            ),
            finding("onStale followed", seen, Some(set.is_some())),
        ];
        if let Some(restored) = restored {
            let decided = self
                .decisions
                .iter()
                .find(|decided| decided.unix_ns > restored);
            let moved = self
                .raw
                .pods
                .iter()
                .find(|event| event.unix_ns > restored && is_limit(event.action));
            let after = |at: Option<u64>, none: &str| {
                at.map_or_else(
                    || none.to_owned(),
                    |at| format!("{:.1} s later", seconds(restored, at)),
                )
            };
            let seen = format!(
                "{:.1} s after the start; first decision {}, first limit {}",
                seconds(start, restored),
                after(decided.map(|decided| decided.unix_ns), "never"),
                after(moved.map(|event| event.unix_ns), "never"),
            );
            found.push(finding(
                "the decider was restored and took over",
                seen,
                Some(decided.is_some()),
            ));
        }
        found
    }
}

fn is_limit(action: PodAction) -> bool {
    matches!(action, PodAction::Limited(_) | PodAction::Unlimited)
}

fn limit_words(action: PodAction) -> String {
    match action {
        PodAction::Limited(bps) => format!("{:.1} Mbit/s", bps as f64 / 1e6),
        PodAction::Unlimited => "unlimited".to_owned(),
        PodAction::Started | PodAction::Gone => "-".to_owned(),
    }
}

#[cfg(test)]
mod tests;
