//! Which targets a workload could keep: from what it shows while best-effort is low.
//!
//! Mean and mean deviation of P95 and jitter are smoothed as RFC 6298 (section 2) smooths round trips, and the bound is the same, doubled:
//!
//! ```text
//! deviation  d <- 3/4 d + 1/4 |x - m|      first: d = x / 2
//! mean       m <- 7/8 m + 1/8 x            first: m = x
//! proposal   max(2 * (m + 4 d), h)         h: the upper bound of the bucket that holds the quantile; the source cannot tell finer
//! ```
//!
//! A stall of something else is one value far off: none counts for more than `m + max(4 d, m)`. A metric that shows nothing gets no proposal.
//!
//! Only windows count in which best-effort was low, from the window before to the one after: it sent less than half of what the link is known
//! to carry, or, while that is not known, at most a tenth of what limits allow, and no pod more than its minimum, which nobody may take.
//! Learned under load, a baseline rises with the queue that it is to show. Whether targets are met does not matter. Windows need not follow
//! each other, and the newest weigh most: after a change of the network the proposal is another one some twenty such windows later.
//!
//! With `targets: Auto` the first proposal is adopted and stays for the life of the policy object, or until the policy lists targets: a target
//! that follows what is seen protects nothing. Until then limits hold, however long it takes: to cut best-effort so that a baseline shows
//! would be a throttle without cause. The reason says what is missing, and what an operator can do about it.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::{
    policy::{Critical, Policy, Targets},
    reason::{mbit, number},
    state::State,
};

use super::{
    above::REACHED,
    memory::{Capacity, Memory},
    observe::{Observation, Seen},
    steps::{allowed, is_below_minimum},
};

/// Windows with best-effort low that a proposal needs.
pub const WINDOWS_NEEDED: u32 = 30;
/// Less than this share of what the link carries fills no queue.
const LOW: f64 = 0.5;
/// At most this share of what limits allow is next to nothing.
const NEXT_TO_NOTHING: f64 = 0.1;

/// What one workload shows without best-effort. Kept as long as the policy names the workload.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Baseline {
    /// The wire id of the workload.
    pub workload: String,
    /// Windows taken in.
    pub windows: u32,
    /// 95th percentile.
    pub p95: Usual,
    /// Jitter.
    pub jitter: Usual,
    /// The targets in force. Unset: the policy lists its own, or not enough was seen yet.
    pub adopted: Option<Targets>,
    /// Whether best-effort was low in the newest window.
    pub low: bool,
    /// A window that counts if best-effort is still low in the next.
    pub waiting: Option<Window>,
}

/// A smoothed signal, milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Usual {
    /// Its mean. Unset: never measured.
    pub mean_ms: Option<f64>,
    /// Its mean deviation.
    pub deviation_ms: f64,
    /// The upper bound of the histogram's bucket that holds it, decaying from the greatest; 0: the source has none.
    pub high_ms: f64,
}

/// What is learned from a window, milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Window {
    /// Its end in the samples' clock, Unix milliseconds.
    pub end_ms: i64,
    /// 95th percentile.
    pub p95_ms: Option<f64>,
    /// The upper bound of its bucket.
    pub p95_high_ms: Option<f64>,
    /// Jitter.
    pub jitter_ms: Option<f64>,
    /// The most that the buckets allow it to be.
    pub jitter_high_ms: Option<f64>,
}

impl Usual {
    fn learn(&mut self, value: Option<f64>, high_ms: Option<f64>) {
        let Some(value) = value else { return };
        let Some(mean) = self.mean_ms else {
            *self = Self {
                mean_ms: Some(value),
                deviation_ms: value / 2.0,
                high_ms: high_ms.unwrap_or(0.0),
            };
            return;
        };
        let most = mean + (4.0 * self.deviation_ms).max(mean);
        if value <= most {
            let high = high_ms.unwrap_or(0.0);
            self.high_ms = high.max(self.high_ms + (high - self.high_ms) / 8.0);
        }
        let value = value.min(most);
        self.deviation_ms += ((value - mean).abs() - self.deviation_ms) / 4.0;
        self.mean_ms = Some(mean + (value - mean) / 8.0);
    }

    fn proposal(&self) -> Option<f64> {
        let target = (2.0 * (self.mean_ms? + 4.0 * self.deviation_ms)).max(self.high_ms);
        (target > 0.0).then_some(target)
    }
}

impl Baseline {
    /// What could be kept. `None`: too few windows were seen.
    #[must_use]
    pub fn proposal(&self) -> Option<Targets> {
        if self.windows < WINDOWS_NEEDED {
            return None;
        }
        Some(Targets {
            p95_ms: Some(self.p95.proposal()?),
            jitter_ms: self.jitter.proposal(),
            ..Targets::default()
        })
    }

    /// Takes in a window. `low_until_ms`: until when best-effort is known to have been low, in the samples' clock.
    fn learn(&mut self, window: Window, low_until_ms: i64) {
        if let Some(waiting) = self.waiting
            && waiting.end_ms <= low_until_ms
        {
            self.waiting = None;
            if waiting.p95_ms.is_some() {
                self.p95.learn(waiting.p95_ms, waiting.p95_high_ms);
                self.jitter.learn(waiting.jitter_ms, waiting.jitter_high_ms);
                self.windows = self.windows.saturating_add(1);
            }
        }
        // The first may have seen the queue of the load before. One that waits for what comes later than this is of a clock set back.
        if self.low && self.waiting.is_none_or(|w| w.end_ms > window.end_ms) {
            self.waiting = Some(window);
        }
        self.low = true;
    }

    /// Best-effort is not low, or may not be: what waits to be taken in may have seen its queue.
    fn interrupt(&mut self) {
        self.low = false;
        self.waiting = None;
    }
}

/// Takes in what was seen, and adopts what is asked for. In words, how far it is with the first workload whose targets are being learned.
pub(super) fn learn(
    policy: &Policy,
    state: &State,
    memory: &mut Memory,
    seen: &Observation,
) -> Option<String> {
    let usage = seen.usage.as_ref();
    let low = usage.map(|usage| is_low(policy, state, memory.capacity, usage));
    if low == Some(false) {
        memory.baselines.iter_mut().for_each(Baseline::interrupt);
    }
    for (workload, window) in &seen.windows {
        let Some(baseline) = memory.baselines.get_mut(*workload) else {
            continue;
        };
        match (usage, low) {
            (Some(usage), Some(true)) => baseline.learn(*window, usage.end_ms),
            _ => baseline.interrupt(),
        }
    }
    let mut said = None;
    for (critical, baseline) in policy.critical.iter().zip(&mut memory.baselines) {
        if !critical.auto {
            baseline.adopted = None;
            continue;
        }
        if baseline.adopted.is_some() {
            continue;
        }
        baseline.adopted = baseline.proposal();
        let workload = &critical.workload;
        said.get_or_insert_with(|| match &baseline.adopted {
            Some(targets) => format!(
                "{workload}: from what it shows with best-effort low, its targets are {} from now on",
                text(targets)
            ),
            None => format!(
                "{workload}: its targets are being learned, {} of {WINDOWS_NEEDED} windows with best-effort low were seen{}",
                baseline.windows,
                obstacle(usage, low)
            ),
        });
    }
    said
}

/// What keeps windows from counting at present, and what to do about it; empty: nothing.
fn obstacle(usage: Option<&Seen>, low: Option<bool>) -> String {
    let why = match (usage, low) {
        (Some(_), Some(true)) => return String::new(),
        (Some(usage), _) => format!(
            "best-effort sends {}, too much to learn beside",
            mbit(usage.total_bps)
        ),
        (None, _) => "what best-effort sends is not known".to_owned(),
    };
    let pause = WINDOWS_NEEDED + 2;
    format!("; {why}: list targets instead of Auto, or keep best-effort quiet for {pause} windows")
}

fn is_low(policy: &Policy, state: &State, capacity: Option<Capacity>, usage: &Seen) -> bool {
    match capacity {
        Some(capacity) => usage.total_bps < LOW * capacity.low_bps,
        None => {
            is_below_minimum(policy, usage, REACHED)
                && usage.total_bps <= NEXT_TO_NOTHING * allowed(state, usage)
        }
    }
}

/// The policy with the targets that were adopted where it says `Auto`; none where none are yet.
pub(super) fn resolved<'a>(policy: &'a Policy, baselines: &[Baseline]) -> Cow<'a, Policy> {
    if !policy.critical.iter().any(|critical| critical.auto) {
        return Cow::Borrowed(policy);
    }
    let mut resolved = policy.clone();
    for critical in &mut resolved.critical {
        critical.targets = targets_of(critical, baselines);
    }
    Cow::Owned(resolved)
}

fn targets_of(critical: &Critical, baselines: &[Baseline]) -> Targets {
    if !critical.auto {
        return critical.targets;
    }
    let mut known = baselines.iter();
    known
        .find(|baseline| baseline.workload == critical.workload)
        .and_then(|baseline| baseline.adopted)
        .unwrap_or_default()
}

/// The policy with the targets that workloads are judged by in a state: their own, or, where it says `Auto`, what was adopted; none before that.
#[must_use]
pub fn in_force<'a>(policy: &'a Policy, state: &State) -> Cow<'a, Policy> {
    let memory = state.adaptive.as_deref();
    resolved(policy, memory.map_or(&[], |memory| &memory.baselines))
}

/// What could be met instead of targets that cannot, in words. `None`: not enough was seen, or no target is below what is proposed.
pub(super) fn instead(critical: &Critical, baseline: &Baseline) -> Option<String> {
    let proposal = baseline.proposal()?;
    let is_below = |target: Option<f64>, proposed: Option<f64>| {
        target
            .zip(proposed)
            .is_some_and(|(target, proposed)| target < proposed)
    };
    let targets = &critical.targets;
    (is_below(targets.p95_ms, proposal.p95_ms) || is_below(targets.jitter_ms, proposal.jitter_ms))
        .then(|| {
            format!(
                "from what it shows with best-effort low, targets of {} could be met",
                text(&proposal)
            )
        })
}

fn text(targets: &Targets) -> String {
    let named = [("P95", targets.p95_ms), ("jitter", targets.jitter_ms)];
    let said: Vec<String> = named
        .iter()
        .filter_map(|(name, target)| Some(format!("{name} {} ms", number((*target)?))))
        .collect();
    said.join(" and ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(end_ms: i64, p95_ms: f64) -> Window {
        Window {
            end_ms,
            p95_ms: Some(p95_ms),
            ..Window::default()
        }
    }

    /// So many windows with best-effort low all the time.
    fn after(windows: i64, of: impl Fn(i64) -> Window) -> Baseline {
        let mut baseline = Baseline::default();
        for n in 0..windows {
            baseline.learn(of(n), n);
        }
        baseline
    }

    #[test]
    fn mean_and_deviation_are_those_of_rfc_6298() {
        let mut usual = Usual::default();
        usual.learn(Some(4.0), None);
        assert_eq!((usual.mean_ms, usual.deviation_ms), (Some(4.0), 2.0));
        usual.learn(Some(8.0), None);
        // 3/4 * 2 + 1/4 * 4, with the mean before; 7/8 * 4 + 1/8 * 8
        assert_eq!((usual.mean_ms, usual.deviation_ms), (Some(4.5), 2.5));
        assert_eq!(usual.proposal(), Some(2.0 * (4.5 + 10.0)));
    }

    #[test]
    fn one_stall_counts_for_no_more_than_four_deviations_or_twice_the_mean() {
        let mut usual = Usual {
            mean_ms: Some(4.0),
            deviation_ms: 0.5,
            high_ms: 5.0,
        };
        usual.learn(Some(400.0), Some(500.0));
        assert_eq!((usual.mean_ms, usual.deviation_ms), (Some(4.5), 1.375));
        assert_eq!(usual.high_ms, 5.0);
    }

    #[test]
    fn a_proposal_is_no_finer_than_the_bucket() {
        let coarse = after(200, |n| Window {
            p95_high_ms: Some(5.0),
            jitter_ms: Some(0.0),
            ..window(n, 1.0)
        });
        let targets = coarse.proposal().unwrap();
        assert_eq!((targets.p95_ms, targets.jitter_ms), (Some(5.0), None));
    }

    #[test]
    fn a_proposal_needs_thirty_windows_between_two_others() {
        assert_eq!(after(31, |n| window(n, 1.0)).proposal(), None);
        assert!(after(32, |n| window(n, 1.0)).proposal().is_some());
    }

    #[test]
    fn the_windows_beside_load_do_not_count() {
        let mut baseline = after(10, |n| window(n, 1.0));
        assert_eq!(baseline.windows, 8);
        // Usage is older than the window: whether best-effort was low in it comes out later, and it was not.
        baseline.learn(window(10, 60.0), 9);
        baseline.interrupt();
        baseline.learn(window(12, 60.0), 12);
        assert_eq!((baseline.windows, baseline.waiting), (9, None));
        assert_eq!(baseline.p95.mean_ms, Some(1.0));
    }

    #[test]
    fn a_clock_that_was_set_back_costs_one_window() {
        let mut baseline = after(10, |n| window(n + 3_600_000, 1.0));
        assert_eq!(baseline.windows, 0, "usage never reached them");
        for n in 0..10 {
            baseline.learn(window(n, 1.0), n);
        }
        assert_eq!(baseline.windows, 9);
    }
}
