//! Within target: settle, guard what nobody uses, and find out gently whether there is more.

use crate::{Action, reason::number};

use super::{
    decide::{Control, FIRM, USED, Verdict, hold},
    memory::{Change, Episode, Phase},
    observe::{Finding, Level, Seen, Signals},
    relation::Expectation,
    steps::{allowed, are_used, let_through, level_for, lower_to, scale},
};

/// The share of the budget that limits go to while nobody uses them: many flows that start at once are rougher than a steady load.
pub(super) const GUARDED: f64 = 0.96;

/// Calm windows in a row after which a cause that lies elsewhere is gone.
const LASTING: u8 = 15;
/// A rise of the room's use by more than this after a raise is a queue that builds, not a busier link.
const JUMP: f64 = 0.5;
/// A total is left alone if targets hold there with this probability.
pub(super) const TRUST: f64 = 0.95;
/// So many windows that on average use more than this share of the room make a total too tight.
const TIGHT: (f64, f64) = (5.0, 0.75);

impl Control<'_> {
    pub(super) fn within(&mut self, worst: &Finding) -> Verdict {
        self.memory.streak.violating = 0;
        let is_early = worst.level == Level::Early;
        let is_mixed = self.is_mixed(worst.start_ms, worst.end_ms);
        if is_mixed && !(is_early && self.responsible_raise().is_some()) {
            return hold(format!(
                "{}, in a window that began before the last change took effect",
                worst.text
            ));
        }
        self.learn_relation(worst);
        if is_early {
            return self.early(worst);
        }
        self.memory.streak.warned = 0;
        self.memory.last_calm_ms = Some(self.now_ms);
        let calm = self.memory.count(|streak| &mut streak.calm);
        self.memory.calm_used = Some(worst.used);
        self.learn_floor(worst.workload, &worst.signals);
        if let Some(usage) = &self.seen.usage
            && !self.is_mixed(usage.start_ms, usage.end_ms)
        {
            self.memory.calm_bps = Some(usage.total_bps);
        }
        match self.memory.phase {
            Phase::Episode(episode) => self.drained(worst, episode),
            Phase::Elsewhere(_) if calm < FIRM => hold(format!("{}, not for long yet", worst.text)),
            // A cause that comes and goes is the same one until it is time to look again, or it has been away for long.
            Phase::Elsewhere(elsewhere) if calm < LASTING && self.now_ms < elsewhere.retry_ms => {
                self.steady(worst)
            }
            Phase::Elsewhere(_) | Phase::Steady => {
                self.memory.phase = Phase::Steady;
                self.steady(worst)
            }
        }
    }

    /// A queue seems to build: the last raise is undone, before a target is missed.
    pub(super) fn early(&mut self, worst: &Finding) -> Verdict {
        self.memory.streak.room = 0;
        let in_a_row = self.memory.count(|streak| &mut streak.warned);
        if let Phase::Elsewhere(_) = self.memory.phase {
            return hold(format!(
                "{}, and best-effort was shown not to matter",
                worst.text
            ));
        }
        if let Some(raise) = self.responsible_raise() {
            if in_a_row < 2 && self.is_sudden(worst, raise) {
                return hold(format!(
                    "{}, too suddenly for the last raise: the next window decides",
                    worst.text
                ));
            }
            if in_a_row < 2
                && raise.settling
                && let Some(usage) = &self.seen.usage
                && self.is_known_to_hold(worst, usage)
            {
                return hold(format!(
                    "{}, where best-effort's total was seen to hold: the next window decides",
                    worst.text
                ));
            }
            if let Some(probability) = self.is_trusted(worst, raise) {
                return hold(format!(
                    "{}, and best-effort's present total holds with a probability of {} %",
                    worst.text,
                    number((probability * 100.0).round())
                ));
            }
            let was_test = self.memory.testing;
            let is_measured = self.went_to_a_measure(raise);
            self.test_failed();
            if let Some(usage) = &self.seen.usage
                && !self.doubts_sign_below_guess(usage.total_bps, raise)
            {
                self.learn_from_raise(worst, usage.total_bps, raise);
            }
            let why = format!(
                "{}, but it rose after the last raise, which is undone",
                worst.text
            );
            // A step towards the unknown goes back to where it held. After a large one, to a level that was measured, an early sign is
            // a small overshoot: most of it holds.
            let factor = if is_measured && self.seen.usage.is_some() {
                raise.undo.clamp(0.94, 0.985)
            } else if was_test {
                // What was above the mark may be above what the link carries, too: as far below it as the raise went above drains
                // the queue in the time that it took to build.
                raise.undo.powi(2).clamp(0.9, 0.985)
            } else {
                raise.undo.min(0.985)
            };
            return self.change(Action::LatencyGentleThrottle, why, |policy, state| {
                scale(policy, state, factor);
            });
        }
        let is_held = self
            .seen
            .usage
            .as_ref()
            .is_some_and(|usage| are_used(self.state, usage, USED));
        if let Phase::Episode(episode) = self.memory.phase
            && in_a_row >= FIRM
        {
            // As calm as it gets.
            if let Some(floor) = self.memory.floors.get_mut(worst.workload) {
                floor.calm = true;
            }
            return self.drained(worst, episode);
        }
        let is_tight = is_held && self.is_tight();
        if is_held
            && (in_a_row >= FIRM && self.holds_here() < TRUST || is_tight)
            && self.interval_passed()
            && self.memory.phase == Phase::Steady
        {
            let why = if is_tight {
                format!(
                    "{}, and best-effort's present total leaves next to no room",
                    worst.text
                )
            } else {
                format!(
                    "{}, and a queue seems to stand for {in_a_row} windows",
                    worst.text
                )
            };
            return self.change(Action::LatencyGentleThrottle, why, |policy, state| {
                scale(policy, state, 0.98);
            });
        }
        hold(format!("{}, and a queue may be building", worst.text))
    }

    /// What was learned of what best-effort sends now.
    fn expected_here(&self) -> Option<Expectation> {
        let usage = self.seen.usage.as_ref()?;
        self.memory.relation.expect(usage.total_bps)
    }

    /// With what probability targets hold at what best-effort sends now, by what was learned; 0 if unknown.
    fn holds_here(&self) -> f64 {
        self.expected_here()
            .map_or(0.0, |expected| expected.holds())
    }

    /// Whether what best-effort sends now was seen to leave next to no room below a target.
    fn is_tight(&self) -> bool {
        self.expected_here()
            .is_some_and(|expected| expected.windows >= TIGHT.0 && expected.mean > TIGHT.1)
    }

    /// Whether an early sign after a raise is only what a busier link shows: clean, no jump, and within targets with some probability.
    fn is_trusted(&self, worst: &Finding, raise: Change) -> Option<f64> {
        if worst.level != Level::Early || self.is_mixed(worst.start_ms, worst.end_ms) {
            return None;
        }
        let before = self.memory.relation.expect(raise.total_bps?)?;
        let probability = self.holds_here();
        (worst.used - before.mean < JUMP && probability >= TRUST).then_some(probability)
    }

    /// The first calm window after a cut: the queue is gone.
    fn drained(&mut self, worst: &Finding, episode: Episode) -> Verdict {
        if !self.may_raise() {
            return hold(format!(
                "{} again, but not every critical workload was heard of",
                worst.text
            ));
        }
        self.memory.phase = Phase::Steady;
        if episode.cuts == 0 || episode.settle <= 1.0 {
            return hold(worst.text.clone());
        }
        let is_wanted = self
            .seen
            .usage
            .as_ref()
            .is_none_or(|usage| are_used(self.state, usage, USED));
        if !is_wanted {
            return hold(format!("{} again, and nobody uses the limits", worst.text));
        }
        self.settle(
            episode.settle,
            format!(
                "{} again: limits settle just under what the link carries",
                worst.text
            ),
        )
    }

    /// What best-effort can safely have in all, bits per second; `None`: the capacity is not known.
    pub(super) fn budget(&self) -> Option<f64> {
        let settled = self.memory.capacity?.low_bps * self.parameters.settle;
        Some(
            self.memory
                .held_bps
                .map_or(settled, |held| held.max(settled)),
        )
    }

    fn steady(&mut self, worst: &Finding) -> Verdict {
        let seen = self.seen;
        let Some(usage) = &seen.usage else {
            return self.steady_blind(worst);
        };
        if self.is_mixed(usage.start_ms, usage.end_ms) {
            return hold(format!(
                "{}; what best-effort sends since the last change is not known yet",
                worst.text
            ));
        }
        let total = usage.total_bps;
        let budget = self.budget();
        if let Some(guarded) = self.guard(worst, usage, budget) {
            return guarded;
        }
        if !are_used(self.state, usage, USED) {
            self.memory.streak.room = 0;
            return hold(format!("{}, and nobody uses the limits", worst.text));
        }
        self.memory.held_bps = Some(self.memory.held_bps.map_or(total, |held| held.max(total)));
        if let Some(capacity) = &mut self.memory.capacity {
            capacity.low_bps = capacity.low_bps.max(total);
            capacity.high_bps = capacity.high_bps.max(total);
        }
        if !self.may_raise() {
            return hold(format!(
                "{}, but not every critical workload was heard of since the last change",
                worst.text
            ));
        }
        let sent = let_through(self.state, usage, USED);
        self.probe(worst, sent, budget)
    }

    /// Limits that nobody uses go back to where all pods at once do no harm; so do limits that were raised while nobody looked.
    fn guard(&mut self, worst: &Finding, usage: &Seen, budget: Option<f64>) -> Option<Verdict> {
        let pods = usage.classes.iter().map(|(pods, _)| pods).sum::<f64>();
        let grew = self.memory.pods.is_some_and(|before| pods > before);
        self.memory.pods = Some(pods);
        let raised = std::mem::take(&mut self.memory.raised_while_idle);
        let budget = budget?;
        let is_unused = usage.total_bps < 0.1 * budget
            && !level_for(self.policy, usage, GUARDED * budget)
                .is_some_and(|level| self.would_hold(usage, level));
        let unused = if is_unused {
            self.memory.count(|streak| &mut streak.unused)
        } else {
            self.memory.streak.unused = 0;
            0
        };
        let because = if grew {
            "there are more pods"
        } else if raised {
            "critical traffic is back"
        } else if unused >= FIRM {
            "nobody uses the limits"
        } else {
            return None;
        };
        let level = level_for(self.policy, usage, GUARDED * budget)?;
        if unused >= FIRM {
            self.memory.test_after_ms = self
                .memory
                .test_after_ms
                .max(self.now_ms.saturating_add(self.patience_ms() / 2));
        }
        if allowed(self.state, usage) <= 1.001 * GUARDED * budget {
            return None;
        }
        let why = format!(
            "{}, and {because}: limits go to what was safe for all pods at once",
            worst.text
        );
        Some(self.change(Action::Guard, why, |policy, state| {
            lower_to(policy, state, level)
        }))
    }

    /// Whether limits lowered to this level would hold some pod back: one of many sends little, too.
    fn would_hold(&self, usage: &Seen, level_bps: f64) -> bool {
        let mut lowered = self.state.clone();
        lower_to(self.policy, &mut lowered, level_bps);
        are_used(&lowered, usage, USED)
    }

    /// A window that began after the last change says what this total does.
    fn learn_relation(&mut self, worst: &Finding) {
        let Some(usage) = &self.seen.usage else {
            return;
        };
        if !self.is_mixed(worst.start_ms, worst.end_ms)
            && !self.is_mixed(usage.start_ms, usage.end_ms)
        {
            let total_bps = let_through(self.state, usage, USED);
            self.memory
                .relation
                .learn(self.now_ms, total_bps, worst.used);
        }
    }

    fn learn_floor(&mut self, workload: usize, signals: &Signals) {
        // Up only while best-effort is low: a floor learned under load creeps up until it hides the queue.
        let is_low = match (&self.seen.usage, self.memory.capacity) {
            (Some(usage), Some(capacity)) => usage.total_bps < 0.5 * capacity.low_bps,
            _ => false,
        };
        let Some(floor) = self.memory.floors.get_mut(workload) else {
            return;
        };
        floor.learn(signals, is_low);
    }
}
