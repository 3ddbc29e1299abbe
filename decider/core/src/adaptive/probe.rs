//! Within target with pods at their limits: is there more, and how fast may it be had?
//!
//! What is known of the link decides the step: nothing, half as much again; a guess of one congested window, steps that shrink towards it and grow
//! beyond it; a total that hurt, half of what is left, slowly; nothing left, half a percent after a long wait.

use crate::reason::{mbit, number, seconds};

use super::{
    decide::{Control, LEAST_STEP, Verdict, hold},
    memory::Capacity,
    observe::Finding,
    within::TRUST,
};

/// So near below what hurt, limits go up at the steady pace only.
const NEAR: f64 = 0.06;
/// So little below what hurt is not worth a step before the time of a test: a raise too far costs more than it brings.
const NEXT_TO_NOTHING: f64 = 0.02;
/// So long limits stay where they settled, milliseconds, for windows of a second: what flows do as they start says little.
const SETTLED_MS: u64 = 5_000;
/// Least and most of a step towards a guess of what the link carries.
const GROPING: (f64, f64) = (0.02, 0.08);
/// So far below what hurt, the greater of the two greatest steps may be taken.
const FAR: f64 = 0.25;
/// The greatest steps towards what hurt: nearer than that, and farther.
const MOST_STEP: (f64, f64) = (0.04, 0.06);
/// The same once signals have begun to rise, and the last one.
const LAST_STEP: f64 = 0.01;
/// While no limit is known to hurt, limits grow by this factor.
const GROWTH: f64 = 1.5;
/// The greatest step of a test above the capacity.
const MOST_TEST: f64 = 0.12;
/// A raise towards the capacity goes no farther than targets hold with this probability.
const CONFIDENCE: f64 = 0.9;
/// The same while the capacity is a guess, and one raise too far says what it is.
const LIKELY: f64 = 0.8;

impl Control<'_> {
    /// Raises limits that hold pods back, if that seems safe; `total`: what they let through now, bits per second.
    pub(super) fn probe(&mut self, worst: &Finding, total: f64, budget: Option<f64>) -> Verdict {
        let (Some(budget), Some(capacity)) = (budget, self.memory.capacity) else {
            return self.raise(
                GROWTH,
                format!("{}, and no limit is known to hurt", worst.text),
            );
        };
        if total < 0.95 * budget {
            let room = self.memory.count(|streak| &mut streak.room);
            if room < 2 {
                return hold(format!("{}, and there seems to be room", worst.text));
            }
            let why = format!(
                "{}, and the link is known to carry {} of best-effort",
                worst.text,
                mbit(budget)
            );
            return self.raise((budget / total).min(3.0), why);
        }
        self.memory.streak.room = 0;
        let gap = 0.985 * capacity.high_bps / total - 1.0;
        let rest_ms = self.rest_ms(gap < NEAR);
        if rest_ms > 0 {
            return hold(format!(
                "{}, and a raise hurt for a whole window: no other one for {}",
                worst.text,
                seconds(rest_ms.unsigned_abs())
            ));
        }
        self.return_to_known(worst, total, gap)
            .or_else(|| self.grope(worst, total, capacity))
            .or_else(|| self.approach(worst, total, gap))
            .unwrap_or_else(|| self.test(worst))
    }

    /// A greater total was seen to hold often enough.
    fn return_to_known(&mut self, worst: &Finding, total: f64, gap: f64) -> Option<Verdict> {
        let known = self.memory.relation.known_to_hold(TRUST)?;
        if gap <= LEAST_STEP || known / total - 1.0 < LEAST_STEP {
            return None;
        }
        let why = format!("{}, and {} was seen to hold", worst.text, mbit(known));
        self.memory.test_after_ms = self
            .memory
            .test_after_ms
            .max(self.now_ms.saturating_add(self.patience_ms()));
        Some(self.settle((known / total).min(1.04), why))
    }

    /// Steps around a guess, which may be too high or too low: the nearer to it the smaller, until one of them hurts. What a queue then grows
    /// to in one window says what the link carries.
    fn grope(&mut self, worst: &Finding, total: f64, capacity: Capacity) -> Option<Verdict> {
        if !capacity.guessed || !worst.quiet || self.is_slow_loop() {
            return None;
        }
        let is_settling = self.memory.change.is_some_and(|change| change.settling);
        if is_settling && self.since_change_ms() < self.paced(SETTLED_MS) {
            return Some(hold(format!(
                "{}, and limits have just settled",
                worst.text
            )));
        }
        let beyond = total / self.memory.mark_bps.max(1.0) - 1.0;
        let most = if beyond < 0.0 { GROPING.1 } else { MOST_TEST };
        let step = (beyond.abs() / 2.0).clamp(GROPING.0, most);
        let safe = self.memory.relation.safe_raise(total, step, LIKELY);
        let why = format!(
            "{}, and that the link carries {} of best-effort is a guess",
            worst.text,
            mbit(self.memory.mark_bps)
        );
        (safe >= LEAST_STEP).then(|| self.raise(1.0 + safe, why))
    }

    /// Half of what is left to what hurt, all of it once that is next to nothing.
    fn approach(&mut self, worst: &Finding, total: f64, gap: f64) -> Option<Verdict> {
        let is_next_to_nothing = gap < NEXT_TO_NOTHING && self.now_ms < self.memory.test_after_ms;
        if gap <= LEAST_STEP || is_next_to_nothing {
            return None;
        }
        if (gap < NEAR || !worst.quiet) && !self.interval_passed() {
            return Some(hold(format!(
                "{}, and limits are near what hurt",
                worst.text
            )));
        }
        let why = format!("{}, {} % below what hurt", worst.text, number(gap * 100.0));
        let step = match gap {
            last if last < LAST_STEP => last,
            near if near < NEAR => near / 2.0,
            far => far / 3.0,
        };
        let most = match gap {
            _ if !worst.quiet => LAST_STEP,
            near if near < FAR => MOST_STEP.0,
            _ => MOST_STEP.1,
        };
        let step = step.clamp(LEAST_STEP, most);
        let safe = self.memory.relation.safe_raise(total, step, CONFIDENCE);
        (safe >= LEAST_STEP).then(|| self.raise(1.0 + safe, why))
    }

    /// What is above the limit that hurt is tried again, after long.
    fn test(&mut self, worst: &Finding) -> Verdict {
        if !worst.quiet {
            return hold(format!("{}, and signals have begun to rise", worst.text));
        }
        let left_ms = self.memory.test_after_ms.saturating_sub(self.now_ms);
        if left_ms > 0 {
            return hold(format!(
                "{}, and limits are just under what hurt: to be tried again in {}",
                worst.text,
                seconds(left_ms.unsigned_abs())
            ));
        }
        if !self.memory.testing {
            self.memory.test_step = LEAST_STEP;
        }
        let step = self.memory.test_step.clamp(LEAST_STEP, MOST_TEST);
        // Above the old mark and calm: the network has changed, and the old mark means little.
        let has_changed = self
            .memory
            .held_bps
            .is_some_and(|held| held >= self.memory.mark_bps * 1.003);
        if !has_changed && !self.interval_passed() {
            return hold(format!(
                "{}, and what is above the limit that hurt is tried out slowly",
                worst.text
            ));
        }
        let most = if has_changed { MOST_TEST } else { LAST_STEP };
        self.memory.test_step = (step * 2.0).min(most);
        let verdict = self.raise(
            1.0 + step,
            format!(
                "{}, and what is above the limit that hurt is tried again",
                worst.text
            ),
        );
        self.memory.testing = true;
        verdict
    }

    /// Without news of what best-effort sends, limits are tried out.
    pub(super) fn steady_blind(&mut self, worst: &Finding) -> Verdict {
        if !self.may_raise() || self.now_ms < self.memory.test_after_ms {
            return hold(format!(
                "{}; what best-effort sends is not known",
                worst.text
            ));
        }
        if !self.memory.testing {
            self.memory.test_step = LEAST_STEP;
        }
        let step = self.memory.test_step.clamp(0.03, 0.25);
        self.memory.test_step = (step * 1.5).min(0.25);
        let verdict = self.raise(
            1.0 + step,
            format!(
                "{}; what best-effort sends is not known, so limits are tried out",
                worst.text
            ),
        );
        self.memory.testing = true;
        verdict
    }
}
