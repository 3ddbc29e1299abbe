//! What `Adaptive` learns. Plain data of fixed size per critical workload and class; every field says what makes it forget.

use serde::{Deserialize, Serialize};

use crate::policy::{Critical, Policy};

use super::{observe::Signals, propose::Baseline, relation::Relation};

/// Until learned: the command's way to the kernel, milliseconds.
const USUAL_EFFECT_MS: i64 = 250;
/// Most that a learned delay may be, milliseconds: beyond it something else is wrong.
const MOST_EFFECT_MS: i64 = 30_000;

/// Everything remembered between evaluations, beside the limits.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    /// Where the loop stands.
    pub phase: Phase,
    /// The last change of a limit.
    pub change: Option<Change>,
    /// How long a change takes to reach the kernel, learned from what pods send after a cut; milliseconds. Unset: not seen yet.
    pub effect_ms: Option<i64>,
    /// By how much the samples' clock was seen to be ahead of ours, milliseconds.
    pub ahead_ms: i64,
    /// How long the samples' windows are, milliseconds, averaged over four; 0: not seen yet.
    pub window_ms: i64,
    /// What the link carries of best-effort. Forgotten when a limit above it holds.
    pub capacity: Option<Capacity>,
    /// The greatest total that was sent without harm since the last harm, bits per second.
    pub held_bps: Option<f64>,
    /// What best-effort sent in the last calm window, bits per second.
    pub calm_bps: Option<f64>,
    /// How much of the room below the target the last calm window used that began after the last change. Unset: none did.
    pub calm_used: Option<f64>,
    /// When a window was last within all targets, Unix milliseconds. Unset: never.
    pub last_calm_ms: Option<i64>,
    /// Evaluations in a row that found the same (calm with room, idle, early sign, unproven), at most 100.
    pub streak: Streak,
    /// No test of what is above the capacity before this time, Unix milliseconds.
    pub test_after_ms: i64,
    /// How long the next failed test will close the subject for, milliseconds.
    pub patience_ms: u64,
    /// The next step of a test above the capacity, as a share; grows while tests succeed.
    pub test_step: f64,
    /// The total that hurt last; a limit that holds well above it shows that the network changed. Bits per second.
    pub mark_bps: f64,
    /// When a raise hurt last, Unix milliseconds.
    pub hurt_ms: Option<i64>,
    /// When something hurt against what was known, Unix milliseconds; a second time soon after counts.
    pub doubted_ms: Option<i64>,
    /// How long the next finding that the cause is elsewhere lasts, milliseconds.
    pub elsewhere_patience_ms: u64,
    /// Best-effort pods counted last.
    pub pods: Option<f64>,
    /// Whether limits were raised while critical traffic was idle, so that nobody saw what that does.
    pub raised_while_idle: bool,
    /// Whether the last raise was such a test.
    pub testing: bool,
    /// What each critical workload shows while best-effort does no harm.
    pub floors: Vec<Floor>,
    /// What best-effort's total does to critical latency, as far as it was seen.
    pub relation: Relation,
    /// What each critical workload shows while best-effort is low, whether targets are met or not.
    pub baselines: Vec<Baseline>,
    /// When load comes back. Forgotten when what was expected did not come.
    pub forecast: Forecast,
}

/// What is known of load that comes back.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Forecast {
    /// When load came, oldest first, at most 16.
    pub onsets: Vec<Onset>,
    /// What limits were lowered for, until it comes or fails to.
    pub expected: Option<Expected>,
    /// Forecasts that failed, less those that came true, at most 10: so many more seasons must fit before the next, up to two.
    pub missed: u8,
}

/// The beginning of load.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Onset {
    /// When, Unix milliseconds.
    pub at_ms: i64,
    /// What best-effort could safely have beside it, bits per second.
    pub budget_bps: f64,
}

/// Load that is expected.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Expected {
    /// When, Unix milliseconds.
    pub at_ms: i64,
    /// How much earlier or later it may be, milliseconds.
    pub tolerance_ms: i64,
    /// What best-effort may safely have beside it, bits per second.
    pub budget_bps: f64,
    /// The limit of each class before it was lowered, in the policy's order, bits per second.
    pub before_bps: Vec<f64>,
    /// The most that best-effort sends without it, bits per second.
    pub total_bps: f64,
    /// The least mean latency of critical requests since, milliseconds.
    pub mean_ms: Option<f64>,
}

/// Where the loop stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE", tag = "name")]
pub enum Phase {
    /// Targets are met, or nothing is known yet.
    #[default]
    Steady,
    /// Targets are missed, and best-effort is taken for the cause.
    Episode(Episode),
    /// Targets are missed, and it was shown that best-effort is not the cause.
    Elsewhere(Elsewhere),
}

/// One stretch of missed targets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Episode {
    /// Not before this time, in the samples' clock, did it begin; Unix milliseconds.
    pub onset_low_ms: i64,
    /// Not after this time, in the samples' clock, did it begin; Unix milliseconds.
    pub onset_high_ms: i64,
    /// Cuts so far.
    pub cuts: u8,
    /// Cuts in a row that brought no improvement.
    pub futile: u8,
    /// Milliseconds above the floor when it last improved.
    pub excess_ms: f64,
    /// Milliseconds above the floor in the window before.
    pub last_ms: f64,
    /// By what all limits would have to be multiplied to return to where it last improved.
    pub give_back: f64,
    /// What best-effort sent when it last improved, or before the first cut, bits per second.
    pub total_bps: Option<f64>,
    /// By what limits are multiplied once the queue has drained.
    pub settle: f64,
}

/// What is known once best-effort is not the cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Elsewhere {
    /// Most milliseconds above the floor that were not best-effort's doing.
    pub excess_ms: f64,
    /// What best-effort sent without being the cause, bits per second, if known.
    pub total_bps: Option<f64>,
    /// When cutting may be tried again, Unix milliseconds.
    pub retry_ms: i64,
    /// The bandwidth to give back still, as a factor on all limits; 1: all is back.
    pub give_back: f64,
}

/// A change of limits.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// When it was decided, Unix milliseconds.
    pub at_ms: i64,
    /// Whether limits rose.
    pub up: bool,
    /// The factor on limits that undoes it.
    pub undo: f64,
    /// What best-effort sent before it, bits per second, if known.
    #[serde(default)]
    pub total_bps: Option<f64>,
    /// Whether it was a raise to a level that was measured, not a step towards the unknown.
    #[serde(default)]
    pub settling: bool,
    /// Whether what came after it came too suddenly to be its doing.
    #[serde(default)]
    pub acquitted: bool,
}

/// Between which totals the link becomes full, bits per second of best-effort.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Capacity {
    /// So much it carries.
    pub low_bps: f64,
    /// More it does not carry.
    pub high_bps: f64,
    /// Whether that is only what one congested window said. Unset: a total above it was seen to hurt.
    #[serde(default)]
    pub guessed: bool,
}

/// Evaluations in a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Streak {
    /// Violating windows.
    pub violating: u8,
    /// Clean calm windows.
    pub calm: u8,
    /// Clean calm windows in which limited pods left room in the budget.
    pub room: u8,
    /// Windows in which best-effort sent next to nothing.
    pub unused: u8,
    /// Windows with an early sign of a queue.
    pub warned: u8,
}

/// What a workload shows while best-effort does no harm, in milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Floor {
    /// The wire id of the workload.
    pub workload: String,
    /// End of the newest window seen, in the samples' clock, Unix milliseconds: a poll may bring the same window again.
    pub seen_until_ms: Option<i64>,
    /// Whether its newest window violates a target.
    pub violating: bool,
    /// Whether a window that began after the last change of limits was calm.
    pub calm: bool,
    /// 95th percentile.
    pub p95_ms: Option<f64>,
    /// 99th percentile.
    pub p99_ms: Option<f64>,
    /// Mean.
    pub mean_ms: Option<f64>,
    /// Jitter.
    pub jitter_ms: Option<f64>,
    /// Mean absolute deviation of the mean.
    pub deviation_ms: Option<f64>,
}

impl Memory {
    /// How long a change takes to reach the kernel, as far as is known, milliseconds.
    pub(super) fn assumed_effect_ms(&self) -> i64 {
        self.effect_ms.unwrap_or(USUAL_EFFECT_MS)
    }

    /// A time of the samples' clock in ours.
    pub(super) fn ours(&self, their_ms: i64) -> i64 {
        their_ms.saturating_sub(self.ahead_ms)
    }

    /// Whether the limits of the last change were in force when a window began, in the samples' clock. Unset change: no.
    pub(super) fn began_in_force(&self, start_ms: i64) -> bool {
        self.change.is_some_and(|change| {
            self.ours(start_ms) >= change.at_ms.saturating_add(self.assumed_effect_ms())
        })
    }

    /// The memory in the shape of the policy, and with times that a clock which was set back cannot stretch.
    pub(super) fn shaped(mut self, now_ms: i64, policy: &Policy, patience_ms: u64) -> Self {
        let longest_ms = i64::try_from(patience_ms.saturating_mul(16 * 60)).unwrap_or(i64::MAX);
        let floor = |workload: String| Floor {
            workload,
            ..Floor::default()
        };
        self.floors = of_critical(policy, self.floors, |floor| &floor.workload, floor);
        let baseline = |workload: String| Baseline {
            workload,
            ..Baseline::default()
        };
        self.baselines = of_critical(policy, self.baselines, |known| &known.workload, baseline);
        self.forecast = self.forecast.shaped(now_ms, policy.classes.len());
        self.effect_ms = self
            .effect_ms
            .map(|ms| ms.clamp(-MOST_EFFECT_MS, MOST_EFFECT_MS));
        self.test_after_ms = self.test_after_ms.min(now_ms.saturating_add(longest_ms));
        if let Some(change) = &mut self.change {
            change.at_ms = change.at_ms.min(now_ms);
        }
        self
    }

    /// Counts one more in a row.
    pub(super) fn count(&mut self, which: impl Fn(&mut Streak) -> &mut u8) -> u8 {
        let mut streak = self.streak;
        let value = (*which(&mut streak)).saturating_add(1).min(100);
        *which(&mut streak) = value;
        self.streak = streak;
        value
    }
}

/// What is known of each critical workload, in the policy's order; a new one where nothing is.
fn of_critical<T>(
    policy: &Policy,
    mut known: Vec<T>,
    workload: impl Fn(&T) -> &str,
    new: impl Fn(String) -> T,
) -> Vec<T> {
    let find = |critical: &Critical| match known
        .iter()
        .position(|one| workload(one) == critical.workload)
    {
        Some(at) => known.swap_remove(at),
        None => new(critical.workload.clone()),
    };
    policy.critical.iter().map(find).collect()
}

/// A learned delay inside its bounds.
pub(super) fn bounded_effect(ms: i64) -> i64 {
    ms.clamp(-MOST_EFFECT_MS, MOST_EFFECT_MS)
}

impl Floor {
    /// Takes one calm window into the floor: down quickly, up slowly.
    pub(super) fn learn(&mut self, signals: &Signals, is_low: bool) {
        let toward = |floor: &mut Option<f64>, value: Option<f64>| {
            let Some(value) = value else { return };
            let weight = match *floor {
                Some(floor) if value > floor => {
                    if is_low {
                        0.05
                    } else {
                        0.01
                    }
                }
                _ => 0.3,
            };
            *floor = Some(floor.map_or(value, |floor| floor + weight * (value - floor)));
        };
        if let (Some(mean), Some(usual)) = (signals.mean_ms, self.mean_ms) {
            let deviation = (mean - usual).abs();
            let known = self.deviation_ms.unwrap_or(deviation);
            self.deviation_ms = Some(known + 0.1 * (deviation - known));
        }
        toward(&mut self.p95_ms, signals.p95_ms);
        toward(&mut self.p99_ms, signals.p99_ms);
        toward(&mut self.mean_ms, signals.mean_ms);
        toward(&mut self.jitter_ms, signals.jitter_ms);
    }
}
