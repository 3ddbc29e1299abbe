//! Above target: is best-effort the cause, and how far must it go down?

use crate::{Action, reason::mbit};

use super::{
    decide::{Control, FIRM, LEAST_STEP, Verdict, hold},
    memory::{Capacity, Change, Episode, Phase},
    observe::{Finding, Seen},
    steps::{allowed, are_used, is_below_minimum, level_for, lower_to, scale, settling},
    within::TRUST,
};

/// A cut takes away at least and at most this share.
const CUT: (f64, f64) = (0.05, 0.5);
/// A raise that hurt is undone, and at least so much lower for a moment: what it overshot by alone drains too slowly.
const UNDONE: f64 = 0.85;
/// Cuts that did not help are followed by deeper ones, so that few prove it: together to a twentieth.
const DEEPER: [f64; 4] = [0.0, 0.4, 0.6, 0.75];
/// A queue of less than this, milliseconds, may come from a pause.
const MOST_PAUSE_MS: f64 = 60.0;
/// A second time within so long, milliseconds, for windows of a second, is no chance.
const AGAIN_MS: u64 = 15_000;
/// What limits return to then, as a share.
const LESS: f64 = 0.97;
/// So many windows make a total one that has held.
const HELD_FOR: f64 = 5.0;
/// A raise may be to blame for so much more of the room, and so many milliseconds of queue more, than its rate explains.
const ACQUITTED_USE: f64 = 0.5;
const ACQUITTED_MS: f64 = 8.0;
/// Less than this share of what the link was seen to carry should not hurt.
const WELL_KNOWN: f64 = 0.93;
/// Less than this share of what one congested window said it carries should not hurt either.
const BELOW_GUESS: f64 = 0.95;
/// A pod that sends less than this share of its limit is held by something else.
const HELD: f64 = 0.97;
/// Best-effort that still sends more than this share of what it did before the cuts was not cut by enough to prove anything.
const TAKEN: f64 = 0.7;
/// A pod that sends less than this many times its minimum is out of reach of any limit; the rest is the error of counters.
pub(super) const REACHED: f64 = 1.05;
/// A pod that sends less than this share of its minimum is idle.
const IDLE: f64 = 0.5;
/// A queue drains within this time, milliseconds, or it is none.
const MOST_DRAIN_MS: f64 = 1_000.0;
/// What flows in slow start lose, as a share of the queue that they fill.
const OVERSHOT: f64 = 1.0;
/// Limits settle so far from what the link surely carries to what it may carry, by ratio.
const LIKELY: f64 = 0.15;
/// At least so much of the room counts as used at a total that hurt, however little of the window saw it.
const HURT: f64 = 1.5;

/// How far limits go down, and where they settle once the queue has drained.
#[derive(Clone, Copy)]
enum Cut {
    /// To levels per pod, bits per second.
    To { level: f64, settle: f64 },
    /// By factors on the limits before.
    By { factor: f64, settle: f64 },
}

impl Control<'_> {
    pub(super) fn violating(&mut self, worst: &Finding) -> Verdict {
        let is_mixed = self.is_mixed(worst.start_ms, worst.end_ms);
        if is_mixed && self.memory.change.is_some_and(|change| !change.up) {
            if let Phase::Episode(episode) = &mut self.memory.phase {
                episode.last_ms = worst.excess_ms;
            }
            return hold(format!(
                "{}, but that window began before the last cut took effect",
                worst.text
            ));
        }
        let in_a_row = self.memory.count(|streak| &mut streak.violating);
        if self
            .responsible_raise()
            .is_some_and(|raise| self.is_sudden(worst, raise))
            && let Some(change) = &mut self.memory.change
        {
            change.acquitted = true;
        }
        self.memory.streak.calm = 0;
        self.memory.streak.room = 0;
        self.memory.streak.unused = 0;
        self.memory.streak.warned = 0;
        if !worst.proven && self.responsible_raise().is_some() {
            // Whether it is above or just below: it came from the raise.
            return self.early(worst);
        }
        if !worst.proven && in_a_row < 2 {
            return hold(format!(
                "{}, but its histogram cannot prove that: the next sample decides",
                worst.text
            ));
        }
        // A full link slows most requests of a window, and the next window, too; what slows a few once is a stall of something else.
        if worst.slow.0 < 0.5 && in_a_row < 2 && self.responsible_raise().is_none() {
            if self.memory.phase == Phase::Steady {
                self.memory.phase = Phase::Episode(Episode {
                    excess_ms: worst.excess_ms,
                    last_ms: worst.excess_ms,
                    ..Self::onset(worst)
                });
            }
            return hold(format!(
                "{}, for a part of the window: the next one decides",
                worst.text
            ));
        }
        match self.memory.phase {
            Phase::Elsewhere(elsewhere) => {
                self.still_elsewhere(worst, elsewhere, is_mixed, in_a_row)
            }
            Phase::Steady => self.congested(worst, Self::onset(worst), in_a_row),
            Phase::Episode(episode) => self.congested(worst, episode, in_a_row),
        }
    }

    /// Whether a queue came too suddenly for a raise. What a raise overshoots by fills the queue at a steady rate: after calm windows it cannot be
    /// much deeper than that rate, and after a small step from what held never deeper than the step times the time since.
    pub(super) fn is_sudden(&self, worst: &Finding, raise: Change) -> bool {
        if !self.may_be_pause(worst) {
            return false;
        }
        let calm = f64::from(self.memory.streak.calm);
        let is_against_calm = self.memory.calm_used.is_some_and(|used| {
            calm >= 1.0 && worst.used > ACQUITTED_USE + 2.0 * used.max(0.0) * (calm + 1.0) / calm
        });
        #[allow(clippy::cast_precision_loss)]
        let grown_ms = self.ours(worst.end_ms).saturating_sub(raise.at_ms).max(0) as f64;
        let is_against_step = !raise.settling
            && worst.excess_ms > ACQUITTED_MS + 1.5 * (raise.undo.recip() - 1.0) * grown_ms;
        is_against_calm || is_against_step
    }

    /// The share of slow requests says when in the window it began.
    pub(super) fn onset(worst: &Finding) -> Episode {
        #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)]
        let before_end = |share: f64| {
            let length_ms = worst.end_ms.saturating_sub(worst.start_ms) as f64;
            // Requests still under way when the window ended are not in it: it began that much earlier.
            worst
                .end_ms
                .saturating_sub((length_ms * share + worst.excess_ms) as i64)
        };
        Episode {
            onset_low_ms: before_end(worst.slow.1),
            onset_high_ms: before_end(worst.slow.0),
            give_back: 1.0,
            settle: 1.0,
            ..Episode::default()
        }
    }

    pub(super) fn congested(
        &mut self,
        worst: &Finding,
        mut episode: Episode,
        in_a_row: u8,
    ) -> Verdict {
        let before_ms = std::mem::replace(&mut episode.last_ms, worst.excess_ms);
        if episode.cuts == 0 {
            episode.excess_ms = episode.excess_ms.max(worst.excess_ms);
        } else if worst.excess_ms < 0.7 * before_ms {
            self.memory.phase = Phase::Episode(episode);
            return hold(format!("{}, but the queue is draining", worst.text));
        } else if worst.excess_ms < 0.8 * episode.excess_ms {
            episode.excess_ms = worst.excess_ms;
            episode.futile = 0;
            episode.give_back = 1.0;
            episode.total_bps = None;
        } else if self.saw_empty_queue(worst) {
            episode.futile = episode.futile.saturating_add(1);
        }
        if episode.total_bps.is_none() {
            let usage = self.seen.usage.as_ref();
            episode.total_bps = usage.map(|usage| usage.total_bps);
        }
        self.memory.phase = Phase::Episode(episode);
        // One workload of many that suffers alone is a weaker sign of a full link.
        let suffering = self
            .memory
            .floors
            .iter()
            .filter(|floor| floor.violating)
            .count();
        let alone = self.memory.floors.len() >= 3 && suffering == 1;
        let enough = if alone {
            self.parameters.futile_cuts.div_ceil(2)
        } else {
            self.parameters.futile_cuts
        };
        // Without usage it is not known whether the limits bite: then only the minimum proves anything.
        let was_taken = self.was_taken(&episode);
        if episode.futile >= enough && was_taken && self.seen.usage.is_some() {
            return self.give_up(worst, episode, "cutting best-effort did not help");
        }
        let at_minimum = self
            .policy
            .classes
            .iter()
            .zip(&self.state.limits)
            .all(|(class, limit)| limit.limit_bps <= class.min_bps);
        if at_minimum {
            return if episode.futile > 0 && episode.give_back > 1.0 && was_taken {
                self.give_up(worst, episode, "best-effort at its minimum did not help")
            } else if in_a_row >= FIRM {
                // Cuts helped, and there is nothing more to take, or the minimum leaves too much to prove anything.
                let why = if was_taken {
                    "best-effort has its minimum, and that does not suffice"
                } else {
                    "best-effort has its minimum, which for all its pods together is about what it sent before: a lower minimum is needed"
                };
                Verdict {
                    action: Action::CannotBeMet,
                    why: format!("{}, {why}", worst.text),
                }
            } else {
                hold(format!("{}, and best-effort has its minimum", worst.text))
            };
        }
        let Some(usage) = &self.seen.usage else {
            return self.cut_blind(worst, episode);
        };
        if is_below_minimum(self.policy, usage, REACHED) {
            let is_firm = in_a_row >= FIRM && usage.start_ms >= episode.onset_high_ms;
            let is_idle = is_below_minimum(self.policy, usage, IDLE);
            return match (is_firm, is_idle) {
                (true, true) => self.give_up(worst, episode, "best-effort was idle"),
                (true, false) => Verdict {
                    action: Action::CannotBeMet,
                    why: format!(
                        "{}, and best-effort sends no more than its minimum, {} in all, which no limit takes from it: if that is too much, a lower minimum is needed",
                        worst.text,
                        mbit(usage.total_bps)
                    ),
                },
                (false, true) => hold(format!(
                    "{}, but best-effort sends next to nothing",
                    worst.text
                )),
                (false, false) => hold(format!(
                    "{}, but best-effort sends no more than its minimum",
                    worst.text
                )),
            };
        }
        let stale = self.is_mixed(usage.start_ms, usage.end_ms)
            && self.memory.change.is_some_and(|change| !change.up);
        // A raise is undone whatever is sent.
        let is_older = usage.end_ms <= worst.start_ms && self.responsible_raise().is_none();
        if (stale || is_older) && in_a_row < FIRM {
            return hold(format!(
                "{}, but what best-effort sent then is not known yet",
                worst.text
            ));
        }
        if stale {
            return self.cut_blind(worst, episode);
        }
        // Where the window of what was sent began before the congestion, the whole queue grew inside it.
        let filled_ms = if usage.start_ms < episode.onset_high_ms {
            worst.excess_ms
        } else {
            (worst.excess_ms - before_ms).max(0.0)
        };
        self.cut(worst, episode, usage, filled_ms, in_a_row)
    }

    /// Whether cuts took something from best-effort that a link would notice. Without usage that is taken for granted.
    fn was_taken(&self, episode: &Episode) -> bool {
        match (&self.seen.usage, episode.total_bps) {
            (Some(usage), Some(before_bps)) => usage.total_bps < TAKEN * before_bps,
            _ => true,
        }
    }

    /// Whether the queue had time to drain between the last cut and the window: one that still saw it drain proves nothing.
    fn saw_empty_queue(&self, worst: &Finding) -> bool {
        let Some(change) = self.memory.change else {
            return true;
        };
        // A queue of D is empty D / depth after the cut, and a cut is no deeper than a half.
        #[allow(clippy::cast_possible_truncation)]
        let drain_ms = (2.0 * worst.excess_ms)
            .max(self.parameters.drain_ms)
            .min(MOST_DRAIN_MS) as i64;
        self.ours(worst.start_ms)
            >= change
                .at_ms
                .saturating_add(self.effect_ms())
                .saturating_add(drain_ms)
    }

    fn depth(&self, worst: &Finding, episode: &Episode) -> f64 {
        let deeper = DEEPER[usize::from(episode.futile).min(DEEPER.len() - 1)];
        (worst.excess_ms / self.parameters.drain_ms)
            .clamp(CUT.0, CUT.1)
            .max(deeper)
    }

    /// Cuts by what best-effort sent.
    fn cut(
        &mut self,
        worst: &Finding,
        episode: Episode,
        usage: &Seen,
        filled_ms: f64,
        in_a_row: u8,
    ) -> Verdict {
        let total = usage.total_bps;
        let settle = self.parameters.settle;
        let kept = 1.0 - self.depth(worst, &episode);
        let raise = self.responsible_raise();
        let is_unknown = raise.is_some_and(|raise| !raise.settling);
        let was_acquitted = worst.excess_ms < MOST_PAUSE_MS
            && self.memory.change.is_some_and(|change| change.acquitted);
        if episode.cuts == 0
            && !is_unknown
            && (was_acquitted || self.is_known_to_hold(worst, usage))
        {
            return self.disturbed(worst, episode, usage, kept, was_acquitted);
        }
        let is_link = !are_used(self.state, usage, HELD) && raise.is_none();
        if is_link {
            // Limits did not bind: the link did. The share of the window inside the congestion gives the capacity.
            let share = |onset_ms: i64| {
                #[allow(clippy::cast_precision_loss)]
                let (inside, length) = (
                    usage.end_ms.saturating_sub(onset_ms) as f64,
                    usage.end_ms.saturating_sub(usage.start_ms) as f64,
                );
                ((inside / length).clamp(0.0, 1.0), length)
            };
            let ((most, length), (least, _)) =
                (share(episode.onset_low_ms), share(episode.onset_high_ms));
            if least < 0.5 && in_a_row >= FIRM {
                return self.cut_blind(worst, episode);
            }
            if least < 0.5 {
                return hold(format!(
                    "{}, and that began inside the window: the next one tells what the link carries",
                    worst.text
                ));
            }
            let before = self.memory.calm_bps.unwrap_or(0.0).min(total);
            // What filled the queue was sent, too, and not carried yet: as if the window had been longer. And flows that overshot lost
            // up to as much again, which was sent and is carried by nobody.
            let carried = |share: f64, lost: f64| {
                (total - before * (1.0 - share))
                    / (share + (1.0 + lost) * filled_ms / length).max(0.25)
            };
            let low_bps = carried(most, OVERSHOT).max(1.0);
            let capacity = Capacity {
                low_bps,
                high_bps: carried(least, 0.0).max(low_bps),
                guessed: true,
            };
            self.learn_capacity(worst, capacity, capacity.high_bps);
            let target = capacity.low_bps * kept;
            let Some(level) = level_for(self.policy, usage, target) else {
                return self.cut_blind(worst, episode);
            };
            let why = format!(
                "{}; best-effort sends {}, which is what the link carries of it, so limits go below it until the queue has drained",
                worst.text,
                mbit(total)
            );
            // Flows need not have lost as much as they may: a part of the way, by ratio, from what the link surely carries.
            let likely = capacity.low_bps * (capacity.high_bps / capacity.low_bps).powf(LIKELY);
            return self.lower(
                Action::CongestionThrottle,
                why,
                episode,
                Cut::To {
                    level,
                    settle: level * likely * settle / target,
                },
            );
        }
        // The limits themselves are too high.
        let (factor, settle, why) = if let Some(raise) = raise {
            let is_measured = self.went_to_a_measure(raise);
            self.test_failed();
            self.learn_from_raise(worst, total, raise);
            let why = format!("{} after the last raise, which is undone", worst.text);
            // A full queue grows no more: of a raise to a measured level no more than the middle is kept, of a step towards the
            // unknown nothing.
            let carried = 0.98 * self.carried_after(worst, raise);
            let most = if is_measured {
                raise.undo.sqrt()
            } else {
                raise.undo
            };
            // Where not the limits but the link holds the pods, what they send is no less than what it carries.
            let carried = match raise.total_bps {
                Some(held)
                    if !are_used(self.state, usage, HELD)
                        && !self.is_mixed(usage.start_ms, usage.end_ms) =>
                {
                    carried.min(settle * total * raise.undo / held.max(1.0))
                }
                _ => carried,
            };
            // It goes on growing until the cut is in force.
            let kept = kept.min(UNDONE);
            (
                raise.undo * kept,
                carried.clamp(raise.undo.min(0.985), most) / raise.undo / kept,
                why,
            )
        } else {
            self.memory.held_bps = None;
            // That a cut to here was not enough says that the link carries less: the middle, by ratio.
            let settled = if episode.cuts > 0 {
                kept.sqrt().min(settle)
            } else {
                settle.max(kept)
            };
            self.learn_capacity(
                worst,
                Capacity {
                    low_bps: total * settled,
                    high_bps: total,
                    guessed: false,
                },
                total,
            );
            let why = format!(
                "{}, with best-effort held by its limits at {} in all",
                worst.text,
                mbit(total)
            );
            (kept, settled / kept, why)
        };
        self.lower(
            Action::CongestionThrottle,
            why,
            episode,
            Cut::By {
                factor,
                settle: factor * settle,
            },
        )
    }

    /// Whether a queue that is no deeper than what a link fills in a moment of standing still grew at a total that was seen to hold: a pause
    /// of the link, or of something on the way, rather than a link that carries less.
    pub(super) fn is_known_to_hold(&self, worst: &Finding, usage: &Seen) -> bool {
        let expected = self.memory.relation.expect(allowed(self.state, usage));
        let has_held = expected
            .is_some_and(|expected| expected.windows >= HELD_FOR && expected.holds() >= TRUST);
        has_held && self.may_be_pause(worst)
    }

    /// Whether a queue is no deeper than what a pause leaves, and windows short enough to tell.
    fn may_be_pause(&self, worst: &Finding) -> bool {
        worst.excess_ms < MOST_PAUSE_MS && !self.is_slow_loop()
    }

    /// Lets the queue drain, and returns to the total that was seen to hold; if this is not the first time in a while, to a little less.
    fn disturbed(
        &mut self,
        worst: &Finding,
        episode: Episode,
        usage: &Seen,
        kept: f64,
        was_acquitted: bool,
    ) -> Verdict {
        let total = allowed(self.state, usage);
        let is_again = self.has_doubted_within(AGAIN_MS);
        self.memory.doubted_ms = Some(self.now_ms);
        let back = if is_again { LESS } else { 1.0 };
        let conclusion = if is_again {
            self.learn_capacity(
                worst,
                Capacity {
                    low_bps: back * total,
                    high_bps: total,
                    guessed: false,
                },
                total,
            );
            "but not for the first time: limits return to a little less"
        } else {
            self.learn_harm(worst, total);
            "and once is no proof that the link carries less: limits return"
        };
        let against = if was_acquitted {
            "which came too suddenly to be the last raise's doing".to_owned()
        } else {
            format!("where {} of best-effort was seen to hold", mbit(total))
        };
        let why = format!(
            "{}, {against}, {conclusion} once the queue has drained",
            worst.text
        );
        self.lower(
            Action::CongestionThrottle,
            why,
            episode,
            Cut::By {
                factor: kept,
                settle: back,
            },
        )
    }

    /// Whether what is known was doubted so lately, milliseconds, for windows of a second: a second time counts.
    fn has_doubted_within(&self, ms: u64) -> bool {
        self.memory
            .doubted_ms
            .is_some_and(|at| (0..self.paced(ms)).contains(&self.now_ms.saturating_sub(at)))
    }

    /// Cuts in proportion to the overshoot: what best-effort sends is not known.
    fn cut_blind(&mut self, worst: &Finding, episode: Episode) -> Verdict {
        let deeper = DEEPER[usize::from(episode.futile).min(DEEPER.len() - 1)];
        let (factor, settle) = match self.responsible_raise() {
            Some(raise) => {
                self.test_failed();
                (raise.undo * 0.9, 1.0 / 0.9)
            }
            None => {
                let kept = worst.ratio.sqrt().recip().clamp(0.5, 0.85);
                let kept = kept.min(1.0 - deeper);
                (kept, kept.sqrt().recip())
            }
        };
        let why = format!("{}; what best-effort sends is not known", worst.text);
        // After the first cut the way back is looked for at once; after a raise that hurt, not before its time.
        let may_try =
            self.responsible_raise().is_none() && self.memory.test_after_ms <= self.now_ms;
        let verdict = self.lower(
            Action::CongestionThrottle,
            why,
            episode,
            Cut::By {
                factor,
                settle: factor * settle,
            },
        );
        if may_try {
            self.memory.test_after_ms = self.now_ms;
        }
        verdict
    }

    fn lower(&mut self, action: Action, why: String, mut episode: Episode, cut: Cut) -> Verdict {
        let verdict = self.change(action, why, |policy, state| match cut {
            Cut::To { level, .. } => lower_to(policy, state, level),
            Cut::By { factor, .. } => scale(policy, state, factor),
        });
        if let Some(change) = self
            .memory
            .change
            .filter(|change| change.at_ms == self.now_ms)
        {
            episode.cuts = episode.cuts.saturating_add(1);
            episode.give_back *= change.undo.max(1.0);
            // From where the cut really went: a bound may have stopped it.
            episode.settle = match cut {
                Cut::To { level, settle } => settling(self.policy, self.state, level, settle),
                Cut::By { settle, .. } => settle * change.undo,
            };
        }
        self.memory.phase = Phase::Episode(episode);
        self.memory.test_after_ms = self
            .memory
            .test_after_ms
            .max(self.now_ms.saturating_add(self.patience_ms()));
        self.memory.test_step = LEAST_STEP;
        verdict
    }

    /// A raise hurt: what was sent before it holds, what was to be sent after it does not.
    ///
    /// That is against what is known if the link was seen to carry more. If only a part of the window suffered, it may have been a
    /// stall of something else: once is no proof.
    pub(super) fn learn_from_raise(&mut self, worst: &Finding, total: f64, raise: Change) {
        let (held, hurt) = around(raise, total);
        let is_known = self
            .memory
            .capacity
            .is_some_and(|capacity| hurt < WELL_KNOWN * capacity.low_bps);
        if is_known && worst.slow.0 < 0.5 && !self.has_doubted_within(self.parameters.patience_ms) {
            self.memory.doubted_ms = Some(self.now_ms);
            return;
        }
        self.memory.doubted_ms = None;
        self.memory.held_bps = Some(held);
        self.learn_capacity(
            worst,
            Capacity {
                low_bps: held,
                high_bps: (hurt * self.carried_after(worst, raise)).max(held),
                guessed: false,
            },
            hurt,
        );
    }

    /// Whether an early sign after a raise is against what one congested window said the link carries: the first one in a while is no proof that it
    /// carries less, and the raise can be repeated.
    pub(super) fn doubts_sign_below_guess(&mut self, total: f64, raise: Change) -> bool {
        let (_, hurt) = around(raise, total);
        let is_below = self.is_guess() && hurt < BELOW_GUESS * self.memory.mark_bps;
        let doubts = is_below
            && !self.is_slow_loop()
            && !self.has_doubted_within(self.parameters.patience_ms);
        if doubts {
            self.memory.doubted_ms = Some(self.now_ms);
        }
        doubts
    }

    /// Whether a raise went to what one congested window said, or towards it: not a step towards the unknown.
    pub(super) fn went_to_a_measure(&self, raise: Change) -> bool {
        raise.settling || self.is_guess()
    }

    /// Whether what is known of the link is what one congested window said.
    fn is_guess(&self) -> bool {
        self.memory
            .capacity
            .is_some_and(|capacity| capacity.guessed)
    }

    /// What the link carries, as a share of what was sent after a raise that hurt: a queue that grew to D in a time t was filled at
    /// 1 + D / t times that.
    fn carried_after(&self, worst: &Finding, raise: Change) -> f64 {
        let grown_ms = self
            .ours(worst.end_ms)
            .saturating_sub(raise.at_ms)
            .saturating_sub(self.effect_ms())
            .max(300);
        #[allow(clippy::cast_precision_loss)]
        let share = 1.0 / (1.0 + worst.excess_ms / grown_ms as f64);
        share
    }

    /// This total hurt, however little of the window saw it.
    fn learn_harm(&mut self, worst: &Finding, total_bps: f64) {
        self.memory
            .relation
            .learn(self.now_ms, total_bps, worst.used.max(HURT));
    }

    fn learn_capacity(&mut self, worst: &Finding, capacity: Capacity, hurt_bps: f64) {
        self.memory.relation.forget_above(hurt_bps);
        self.learn_harm(worst, hurt_bps);
        self.memory.held_bps = self.memory.held_bps.filter(|held| *held <= 0.99 * hurt_bps);
        self.memory.capacity = Some(capacity);
        self.memory.mark_bps = hurt_bps;
    }
}

/// What best-effort sent before a raise and what it was to send after it, bits per second; `total`: what it sends now, where that is not known.
fn around(raise: Change, total: f64) -> (f64, f64) {
    let held = raise.total_bps.unwrap_or(total * raise.undo);
    (held, held / raise.undo)
}
