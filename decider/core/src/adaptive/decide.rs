//! One observation to one step.

use crate::{
    Action,
    policy::{Policy, Targets},
    state::State,
};

use super::{
    Parameters,
    memory::{Change, Memory, bounded_effect},
    observe::{Finding, Level, Observation},
    steps::{are_exceeded, are_used, let_through, scale, undo},
};

/// A raise is held responsible for what comes within this time, milliseconds, for windows of a second.
const RESPONSIBLE_MS: u64 = 5_000;
/// What pods send after a cut teaches the way to the kernel for so long, milliseconds.
const TEACHING_MS: i64 = 30_000;
/// A raise that hurts costs up to two windows: this many after it without another one near what hurt keep that to a twentieth.
const RESTED_NEAR: i64 = 40;
/// The same where what hurt is far and therefore a guess.
const RESTED_FAR: i64 = 12;
/// Windows longer than this, milliseconds, make a slow loop.
const SLOW_LOOP_MS: i64 = 2_000;
/// The smallest step of a test, as a share of the limit.
pub(super) const LEAST_STEP: f64 = 0.005;
/// A pod that sends more than this share of its limit uses it.
pub(super) const USED: f64 = 0.9;
/// Evaluations in a row that make a picture reliable.
pub(super) const FIRM: u8 = 3;

/// The outcome: what was done to `state.limits`, and why.
pub(super) struct Verdict {
    pub(super) action: Action,
    pub(super) why: String,
}

pub(super) fn hold(why: impl Into<String>) -> Verdict {
    Verdict {
        action: Action::Hold,
        why: why.into(),
    }
}

/// Everything a decision rests on and may change.
pub(super) struct Control<'a> {
    pub(super) now_ms: i64,
    pub(super) parameters: &'a Parameters,
    pub(super) policy: &'a Policy,
    pub(super) seen: &'a Observation,
    /// Whether every critical workload was heard of since the last change.
    pub(super) is_known: bool,
    /// What workloads whose targets are being learned stand at, if there are any.
    pub(super) learning: Option<String>,
    pub(super) state: &'a mut State,
    pub(super) memory: &'a mut Memory,
}

impl Control<'_> {
    pub(super) fn decide(mut self) -> Verdict {
        let seen = self.seen;
        if !seen.is_new {
            return hold(seen.unknown.clone().map_or_else(
                || "No sample came since the last evaluation".to_owned(),
                |why| format!("{why}, and without data no limit is raised"),
            ));
        }
        let Some(worst) = seen.findings.first() else {
            return self.nothing_measured();
        };
        self.mind_clock(worst);
        self.learn_effect();
        self.note_levels();
        match worst.level {
            Level::Violating => self.violating_noted(worst),
            Level::Early | Level::Calm => match self.another_suffers(worst.workload) {
                Some(other) => hold(format!("{}, but {other} is above its target", worst.text)),
                None => self.foresee(worst).unwrap_or_else(|| self.within(worst)),
            },
        }
    }

    /// A window cannot end in the future: if it does, the samples' clock is ahead.
    pub(super) fn mind_clock(&mut self, worst: &Finding) {
        let ahead_ms = worst.end_ms.saturating_sub(self.now_ms).max(0);
        let length_ms = worst
            .end_ms
            .saturating_sub(worst.start_ms)
            .clamp(0, 600_000);
        self.memory.window_ms = if self.memory.window_ms == 0 {
            length_ms
        } else {
            (self.memory.window_ms.saturating_mul(3) + length_ms) / 4
        };
        self.memory.ahead_ms = (self.memory.ahead_ms - 1).max(ahead_ms);
    }

    pub(super) fn ours(&self, their_ms: i64) -> i64 {
        self.memory.ours(their_ms)
    }

    pub(super) fn effect_ms(&self) -> i64 {
        self.memory.assumed_effect_ms()
    }

    /// Whether a window that began then, in the samples' clock, also saw the time before the last change.
    ///
    /// Not for ever: a window that still seems to when three more have passed has a clock that is behind.
    pub(super) fn is_mixed(&self, start_ms: i64, end_ms: i64) -> bool {
        let Some(change) = self.memory.change else {
            return false;
        };
        let length_ms = end_ms.saturating_sub(start_ms);
        let patience_ms = self
            .effect_ms()
            .max(0)
            .saturating_add(length_ms.saturating_mul(3))
            .saturating_add(5_000);
        !self.memory.began_in_force(start_ms)
            && self.now_ms.saturating_sub(change.at_ms) < patience_ms
    }

    pub(super) fn since_change_ms(&self) -> i64 {
        self.memory
            .change
            .map_or(i64::MAX, |change| self.now_ms.saturating_sub(change.at_ms))
    }

    /// The raise that may have caused what is seen now.
    pub(super) fn responsible_raise(&self) -> Option<Change> {
        self.memory.change.filter(|change| {
            change.up
                && !change.acquitted
                && self.since_change_ms()
                    < self.paced(RESPONSIBLE_MS).saturating_add(self.effect_ms())
        })
    }

    /// Samples of several workloads come one by one: how each one stands is remembered.
    pub(super) fn note_levels(&mut self) {
        for finding in &self.seen.findings {
            let is_clean = !self.is_mixed(finding.start_ms, finding.end_ms);
            if let Some(floor) = self.memory.floors.get_mut(finding.workload) {
                floor.violating = finding.level == Level::Violating;
                floor.calm = is_clean && finding.level == Level::Calm;
            }
        }
    }

    /// Another workload whose newest window was above a target, and that is not idle.
    pub(super) fn another_suffers(&self, workload: usize) -> Option<String> {
        let known = self
            .memory
            .floors
            .iter()
            .zip(&self.state.workloads)
            .enumerate();
        known
            .filter(|(index, (floor, _))| *index != workload && floor.violating)
            .find(|(_, (_, memory))| memory.evidence.is_some_and(|evidence| !evidence.idle))
            .map(|(_, (floor, _))| floor.workload.clone())
    }

    /// Whether limits may rise: every critical workload was calm, or idle, since the last change.
    pub(super) fn may_raise(&self) -> bool {
        self.is_known
            && self
                .memory
                .floors
                .iter()
                .zip(&self.state.workloads)
                .zip(&self.policy.critical)
                .all(|((floor, memory), critical)| {
                    // Where targets are still being learned, none can be missed.
                    critical.targets == Targets::default()
                        || floor.calm
                        || memory.evidence.is_some_and(|evidence| evidence.idle)
                })
    }

    /// When pods obey a cut tells how long the way to the kernel is.
    pub(super) fn learn_effect(&mut self) {
        let (Some(usage), Some(change)) = (&self.seen.usage, self.memory.change) else {
            return;
        };
        if change.up || change.undo < 1.2 || self.since_change_ms() > TEACHING_MS {
            return;
        }
        let (start_ms, end_ms) = (self.ours(usage.start_ms), self.ours(usage.end_ms));
        let assumed_ms = self.effect_ms();
        if are_exceeded(self.state, usage) {
            if start_ms >= change.at_ms.saturating_add(assumed_ms) {
                self.memory.effect_ms = Some(bounded_effect(end_ms.saturating_sub(change.at_ms)));
            }
        } else if end_ms > change.at_ms
            && start_ms < change.at_ms.saturating_add(assumed_ms)
            && are_used(self.state, usage, USED)
        {
            let shown_ms = start_ms.saturating_sub(change.at_ms).max(0);
            self.memory.effect_ms = Some(bounded_effect(shown_ms.midpoint(assumed_ms)));
        }
    }

    /// Critical workloads that send nothing need no protection; limits return slowly, if anybody wants more.
    pub(super) fn nothing_measured(&mut self) -> Verdict {
        let seen = self.seen;
        if let Some(why) = &seen.unknown {
            return hold(format!("{why}, and without data no limit is raised"));
        }
        if !seen.idle
            && let Some(learning) = self.learning.take()
        {
            return hold(learning);
        }
        if !seen.idle {
            return hold("No newer window came since the last evaluation");
        }
        if !self.is_known {
            return hold("Not every critical workload was heard of since the last change");
        }
        let wants_more = seen
            .usage
            .as_ref()
            .is_none_or(|usage| are_used(self.state, usage, USED));
        if !wants_more {
            return hold("Critical workloads are idle, and nobody uses the limits");
        }
        if !self.interval_passed() {
            return hold("Critical workloads are idle, and limits return slowly");
        }
        self.memory.raised_while_idle = true;
        self.raise(1.05, "Critical workloads are idle".to_owned())
    }

    pub(super) fn interval_passed(&self) -> bool {
        self.since_change_ms() >= self.paced(self.parameters.steady_interval_ms)
    }

    /// A duration that is meant for windows of a second, stretched for longer ones: the slower the loop, the more a mistake costs.
    pub(super) fn paced(&self, ms: u64) -> i64 {
        let ms = i64::try_from(ms).unwrap_or(i64::MAX);
        ms.saturating_mul(self.memory.window_ms.clamp(1_000, 60_000)) / 1_000
    }

    /// Whether windows are so long that trying costs more than it teaches.
    pub(super) fn is_slow_loop(&self) -> bool {
        self.memory.window_ms > SLOW_LOOP_MS
    }

    /// How long no limit is to rise above what held, after a raise that hurt, milliseconds: windows of a second show at once what a raise
    /// does, and longer ones cost whole windows each time.
    pub(super) fn rest_ms(&self, is_near: bool) -> i64 {
        let windows = if is_near { RESTED_NEAR } else { RESTED_FAR };
        let rest_ms = (self.memory.window_ms.clamp(1_000, 60_000) - 1_000).saturating_mul(windows);
        self.memory.hurt_ms.map_or(0, |at_ms| {
            let since_ms = self.now_ms.saturating_sub(at_ms).max(0);
            rest_ms.saturating_sub(since_ms).max(0)
        })
    }

    pub(super) fn patience_ms(&self) -> i64 {
        let base = self.parameters.patience_ms;
        self.paced(self.memory.patience_ms.clamp(base, base.saturating_mul(16)))
    }

    pub(super) fn test_failed(&mut self) {
        let patience_ms = self.patience_ms();
        self.memory.test_after_ms = self.now_ms.saturating_add(patience_ms);
        self.memory.hurt_ms = Some(self.now_ms);
        if std::mem::take(&mut self.memory.testing) {
            let base = self.parameters.patience_ms;
            self.memory.patience_ms = self
                .memory
                .patience_ms
                .clamp(base, base.saturating_mul(8))
                .saturating_mul(2);
        }
        self.memory.test_step = LEAST_STEP;
    }

    pub(super) fn raise(&mut self, factor: f64, why: String) -> Verdict {
        self.change(Action::Increase, why, |policy, state| {
            scale(policy, state, factor)
        })
    }

    /// A raise to a level that was measured, not a step towards the unknown.
    pub(super) fn settle(&mut self, factor: f64, why: String) -> Verdict {
        let verdict = self.raise(factor, why);
        if let Some(change) = &mut self.memory.change {
            change.settling = true;
        }
        verdict
    }

    pub(super) fn change(
        &mut self,
        action: Action,
        why: String,
        change: impl FnOnce(&Policy, &mut State),
    ) -> Verdict {
        let before = self.state.limits.clone();
        let usage = self.seen.usage.as_ref();
        let total_bps = usage.map(|usage| let_through(self.state, usage, USED));
        self.memory.testing = false;
        change(self.policy, self.state);
        if before != self.state.limits {
            let undo = undo(self.policy, &before, self.state);
            self.memory.change = Some(Change {
                at_ms: self.now_ms,
                up: undo < 1.0,
                undo,
                total_bps,
                settling: false,
                acquitted: false,
            });
            self.memory.calm_used = None;
            self.memory.streak.violating = 0;
            self.memory.streak.calm = 0;
            self.memory.streak.room = 0;
            self.memory.streak.warned = 0;
            for floor in &mut self.memory.floors {
                floor.calm = false;
            }
        }
        Verdict { action, why }
    }
}
