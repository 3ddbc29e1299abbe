//! One observation to one step.

use crate::{
    Action,
    policy::Policy,
    reason::{mbit, number, seconds},
    state::State,
};

use super::{
    Parameters,
    memory::{Capacity, Change, Elsewhere, Episode, Floor, Memory, Phase, bounded_effect},
    observe::{Finding, Level, Observation, Seen, Signals},
    steps::{allowed, are_exceeded, are_used, is_out_of_reach, level_for, lower_to, scale, undo},
};

/// Until learned: the command's way to the kernel, milliseconds.
const USUAL_EFFECT_MS: i64 = 250;
/// A raise is held responsible for what comes within this time, milliseconds.
const RESPONSIBLE_MS: i64 = 30_000;
/// A cut takes away at least and at most this share.
const CUT: (f64, f64) = (0.05, 0.5);
/// Cuts that did not help are followed by deeper ones, so that few prove it: together to a twentieth.
const DEEPER: [f64; 4] = [0.0, 0.4, 0.6, 0.75];
/// The smallest step of a test, as a share of the limit.
const LEAST_STEP: f64 = 0.005;
/// The share of the budget that limits go to while nobody uses them: many flows that start at once are rougher than a steady load.
const GUARDED: f64 = 0.98;
/// A pod that sends more than this share of its limit uses it.
const USED: f64 = 0.9;
/// A pod that sends less than this share of its limit is held by something else.
const HELD: f64 = 0.97;
/// Evaluations in a row that make a picture reliable.
const FIRM: u8 = 3;

/// The outcome: what was done to `state.limits`, and why.
pub(super) struct Verdict {
    pub(super) action: Action,
    pub(super) why: String,
}

fn hold(why: impl Into<String>) -> Verdict {
    Verdict {
        action: Action::Hold,
        why: why.into(),
    }
}

/// How far limits go down, and where they settle once the queue has drained.
#[derive(Clone, Copy)]
enum Cut {
    /// To levels per pod, bits per second.
    To { level: f64, settle: f64 },
    /// By factors on the limits before.
    By { factor: f64, settle: f64 },
}

/// Everything a decision rests on and may change.
pub(super) struct Control<'a> {
    pub(super) now_ms: i64,
    pub(super) parameters: &'a Parameters,
    pub(super) policy: &'a Policy,
    pub(super) seen: &'a Observation,
    /// Whether every critical workload was heard of since the last change.
    pub(super) is_known: bool,
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
            Level::Violating => self.violating(worst),
            Level::Early | Level::Calm => match self.another_suffers(worst.workload) {
                Some(other) => hold(format!("{}, but {other} is above its target", worst.text)),
                None => self.within(worst),
            },
        }
    }

    // ---- time ---------------------------------------------------------------------------------------------------

    /// A window cannot end in the future: if it does, the samples' clock is ahead.
    fn mind_clock(&mut self, worst: &Finding) {
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

    fn ours(&self, their_ms: i64) -> i64 {
        their_ms.saturating_sub(self.memory.ahead_ms)
    }

    fn effect_ms(&self) -> i64 {
        self.memory.effect_ms.unwrap_or(USUAL_EFFECT_MS)
    }

    /// Whether a window that began then, in the samples' clock, also saw the time before the last change.
    ///
    /// Not for ever: a window that still seems to when three more have passed has a clock that is behind.
    fn is_mixed(&self, start_ms: i64, end_ms: i64) -> bool {
        let Some(change) = self.memory.change else {
            return false;
        };
        let length_ms = end_ms.saturating_sub(start_ms);
        let patience_ms = self
            .effect_ms()
            .max(0)
            .saturating_add(length_ms.saturating_mul(3))
            .saturating_add(5_000);
        self.ours(start_ms) < change.at_ms.saturating_add(self.effect_ms())
            && self.now_ms.saturating_sub(change.at_ms) < patience_ms
    }

    fn since_change_ms(&self) -> i64 {
        self.memory
            .change
            .map_or(i64::MAX, |change| self.now_ms.saturating_sub(change.at_ms))
    }

    /// The raise that may have caused what is seen now.
    fn responsible_raise(&self) -> Option<Change> {
        self.memory
            .change
            .filter(|change| change.up && self.since_change_ms() < RESPONSIBLE_MS)
    }

    /// Samples of several workloads come one by one: how each one stands is remembered.
    fn note_levels(&mut self) {
        for finding in &self.seen.findings {
            let is_clean = !self.is_mixed(finding.start_ms, finding.end_ms);
            if let Some(floor) = self.memory.floors.get_mut(finding.workload) {
                floor.violating = finding.level == Level::Violating;
                floor.calm = is_clean && finding.level == Level::Calm;
            }
        }
    }

    /// Another workload whose newest window was above a target, and that is not idle.
    fn another_suffers(&self, workload: usize) -> Option<String> {
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
    fn may_raise(&self) -> bool {
        self.is_known
            && self
                .memory
                .floors
                .iter()
                .zip(&self.state.workloads)
                .all(|(floor, memory)| {
                    floor.calm || memory.evidence.is_some_and(|evidence| evidence.idle)
                })
    }

    /// When pods obey a cut tells how long the way to the kernel is.
    fn learn_effect(&mut self) {
        let (Some(usage), Some(change)) = (&self.seen.usage, self.memory.change) else {
            return;
        };
        if change.up || change.undo < 1.2 || self.since_change_ms() > RESPONSIBLE_MS {
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

    // ---- idle ---------------------------------------------------------------------------------------------------

    /// Critical workloads that send nothing need no protection; limits return slowly, if anybody wants more.
    fn nothing_measured(&mut self) -> Verdict {
        let seen = self.seen;
        if let Some(why) = &seen.unknown {
            return hold(format!("{why}, and without data no limit is raised"));
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

    fn interval_passed(&self) -> bool {
        self.since_change_ms() >= self.paced(self.parameters.steady_interval_ms)
    }

    /// A duration that is meant for windows of a second, stretched for longer ones: the slower the loop, the more a mistake costs.
    fn paced(&self, ms: u64) -> i64 {
        let ms = i64::try_from(ms).unwrap_or(i64::MAX);
        ms.saturating_mul(self.memory.window_ms.clamp(1_000, 60_000)) / 1_000
    }

    // ---- above target -------------------------------------------------------------------------------------------

    fn violating(&mut self, worst: &Finding) -> Verdict {
        let in_a_row = self.memory.count(|streak| &mut streak.violating);
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
        match self.memory.phase {
            Phase::Elsewhere(elsewhere) => {
                self.still_elsewhere(worst, elsewhere, is_mixed, in_a_row)
            }
            Phase::Steady => self.congested(worst, Self::onset(worst), in_a_row),
            Phase::Episode(episode) => self.congested(worst, episode, in_a_row),
        }
    }

    /// The share of slow requests says when in the window it began.
    fn onset(worst: &Finding) -> Episode {
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

    fn congested(&mut self, worst: &Finding, mut episode: Episode, in_a_row: u8) -> Verdict {
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
        } else {
            episode.futile = episode.futile.saturating_add(1);
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
        if episode.futile >= enough && self.seen.usage.is_some() {
            return self.give_up(worst, episode, "cutting best-effort did not help");
        }
        let at_minimum = self
            .policy
            .classes
            .iter()
            .zip(&self.state.limits)
            .all(|(class, limit)| limit.limit_bps <= class.min_bps);
        if at_minimum {
            return if episode.futile > 0 || episode.cuts == 0 && in_a_row >= FIRM {
                self.give_up(worst, episode, "best-effort at its minimum did not help")
            } else {
                hold(format!("{}, and best-effort has its minimum", worst.text))
            };
        }
        let Some(usage) = &self.seen.usage else {
            return self.cut_blind(worst, episode);
        };
        if is_out_of_reach(self.policy, usage) {
            return if in_a_row >= FIRM && usage.start_ms >= episode.onset_high_ms {
                self.give_up(worst, episode, "best-effort was idle")
            } else {
                hold(format!(
                    "{}, but best-effort sends next to nothing",
                    worst.text
                ))
            };
        }
        let stale = self.is_mixed(usage.start_ms, usage.end_ms)
            && self.memory.change.is_some_and(|change| !change.up);
        if (stale || usage.end_ms <= worst.start_ms) && in_a_row < FIRM {
            return hold(format!(
                "{}, but what best-effort sent then is not known yet",
                worst.text
            ));
        }
        if stale {
            return self.cut_blind(worst, episode);
        }
        self.cut(
            worst,
            episode,
            usage,
            (worst.excess_ms - before_ms).max(0.0),
            in_a_row,
        )
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
            // What filled the queue was sent, too, and not carried yet: as if the window had been longer.
            let carried = |share: f64| {
                (total - before * (1.0 - share)) / (share + filled_ms / length).max(0.25)
            };
            let capacity = Capacity {
                low_bps: carried(most).max(1.0),
                high_bps: carried(least).max(carried(most)).max(1.0),
            };
            self.learn_capacity(capacity);
            let target = capacity.low_bps * kept;
            let Some(level) = level_for(self.policy, usage, target) else {
                return self.cut_blind(worst, episode);
            };
            let why = format!(
                "{}; best-effort sends {}, which is what the link carries of it, so limits go below it until the queue has drained",
                worst.text,
                mbit(total)
            );
            return self.lower(
                Action::CongestionThrottle,
                why,
                episode,
                Cut::To {
                    level,
                    settle: level * capacity.low_bps * settle / target,
                },
            );
        }
        // The limits themselves are too high.
        let (factor, settle, why) = if let Some(raise) = raise {
            self.test_failed();
            self.learn_from_raise(total, raise);
            let why = format!("{} after the last raise, which is undone", worst.text);
            // A queue that grew to D in a time t was filled at 1 + D / t times what the link carries. A full queue grows no more: of
            // a large raise no more than the middle is kept.
            let grown_ms = self
                .ours(worst.end_ms)
                .saturating_sub(raise.at_ms)
                .saturating_sub(self.effect_ms())
                .max(300);
            #[allow(clippy::cast_precision_loss)]
            let carried = 0.98 / (1.0 + worst.excess_ms / grown_ms as f64);
            let most = if raise.undo < 0.9 {
                raise.undo.sqrt()
            } else {
                0.99
            };
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
            self.learn_capacity(Capacity {
                low_bps: total * settled,
                high_bps: total,
            });
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
                Cut::To { settle, .. } => {
                    let limits = self.state.limits.iter().map(|limit| limit.limit_bps);
                    settle / limits.fold(f64::MIN_POSITIVE, f64::max)
                }
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
    fn learn_from_raise(&mut self, total: f64, raise: Change) {
        let held = raise.total_bps.unwrap_or(total * raise.undo);
        self.memory.held_bps = Some(held);
        self.learn_capacity(Capacity {
            low_bps: held,
            high_bps: held / raise.undo,
        });
    }

    fn learn_capacity(&mut self, capacity: Capacity) {
        self.memory.held_bps = self
            .memory
            .held_bps
            .filter(|held| *held <= 0.99 * capacity.high_bps);
        self.memory.capacity = Some(capacity);
        self.memory.mark_bps = capacity.high_bps;
    }

    // ---- the cause is elsewhere ---------------------------------------------------------------------------------

    fn give_up(&mut self, worst: &Finding, episode: Episode, because: &str) -> Verdict {
        let patience_ms = self
            .memory
            .elsewhere_patience_ms
            .max(self.parameters.patience_ms);
        self.memory.elsewhere_patience_ms = patience_ms
            .saturating_mul(2)
            .min(self.parameters.patience_ms.saturating_mul(16));
        let elsewhere = Elsewhere {
            excess_ms: worst.excess_ms,
            retry_ms: self.now_ms.saturating_add_unsigned(patience_ms),
            give_back: episode.give_back,
        };
        // What was taken for the link's capacity was not.
        if episode.cuts > 0 {
            self.memory.capacity = None;
        }
        self.memory.phase = Phase::Elsewhere(elsewhere);
        self.give_back(worst, elsewhere, because)
    }

    fn elsewhere_action(&self) -> (Action, &'static str) {
        if self.memory.last_calm_ms.is_some() {
            (Action::NotBandwidth, "the cause is not bandwidth")
        } else {
            (
                Action::CannotBeMet,
                "the target is below what this workload shows without best-effort and cannot be met",
            )
        }
    }

    fn give_back(&mut self, worst: &Finding, elsewhere: Elsewhere, because: &str) -> Verdict {
        let (action, verdict) = self.elsewhere_action();
        let why = format!("{}, but {because}: {verdict}", worst.text);
        if elsewhere.give_back <= 1.0 || !self.is_known {
            return Verdict { action, why };
        }
        self.memory.phase = Phase::Elsewhere(Elsewhere {
            give_back: 1.0,
            ..elsewhere
        });
        self.change(
            action,
            format!("{why}, and the bandwidth is given back"),
            |policy, state| {
                scale(policy, state, elsewhere.give_back);
            },
        )
    }

    fn still_elsewhere(
        &mut self,
        worst: &Finding,
        elsewhere: Elsewhere,
        is_mixed: bool,
        in_a_row: u8,
    ) -> Verdict {
        if is_mixed {
            let (action, verdict) = self.elsewhere_action();
            return Verdict {
                action,
                why: format!("{}: {verdict}", worst.text),
            };
        }
        let is_worse =
            elsewhere.give_back <= 1.0 && worst.excess_ms > 1.5 * elsewhere.excess_ms + 1.0;
        if is_worse || self.now_ms >= elsewhere.retry_ms {
            return self.congested(worst, Self::onset(worst), in_a_row);
        }
        self.give_back(worst, elsewhere, "best-effort was shown not to matter")
    }

    // ---- within target ------------------------------------------------------------------------------------------

    fn within(&mut self, worst: &Finding) -> Verdict {
        self.memory.streak.violating = 0;
        let is_early = worst.level == Level::Early;
        let is_mixed = self.is_mixed(worst.start_ms, worst.end_ms);
        if is_mixed && !(is_early && self.responsible_raise().is_some()) {
            return hold(format!(
                "{}, in a window that began before the last change took effect",
                worst.text
            ));
        }
        if is_early {
            return self.early(worst);
        }
        self.memory.streak.warned = 0;
        self.memory.last_calm_ms = Some(self.now_ms);
        let calm = self.memory.count(|streak| &mut streak.calm);
        self.learn_floor(worst.workload, &worst.signals);
        if let Some(usage) = &self.seen.usage
            && !self.is_mixed(usage.start_ms, usage.end_ms)
        {
            self.memory.calm_bps = Some(usage.total_bps);
        }
        match self.memory.phase {
            Phase::Episode(episode) => self.drained(worst, episode),
            Phase::Elsewhere(_) if calm < FIRM => hold(format!("{}, not for long yet", worst.text)),
            Phase::Elsewhere(_) | Phase::Steady => {
                self.memory.phase = Phase::Steady;
                self.steady(worst)
            }
        }
    }

    /// A queue seems to build: the last raise is undone, before a target is missed.
    fn early(&mut self, worst: &Finding) -> Verdict {
        self.memory.streak.room = 0;
        let in_a_row = self.memory.count(|streak| &mut streak.warned);
        if let Some(raise) = self.responsible_raise() {
            let wait_ms = self.patience_ms() / 2;
            self.test_failed();
            // No target was missed: that closes the subject for less long.
            self.memory.test_after_ms = self.now_ms.saturating_add(wait_ms);
            if let Some(usage) = &self.seen.usage {
                self.learn_from_raise(usage.total_bps, raise);
            }
            let why = format!(
                "{}, but it rose after the last raise, which is undone",
                worst.text
            );
            let least = if self.seen.usage.is_some() { 0.96 } else { 0.0 };
            return self.change(Action::LatencyGentleThrottle, why, |policy, state| {
                // An early sign is a small overshoot: of a large raise most holds.
                scale(policy, state, raise.undo.clamp(least, 0.985));
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
        if is_held
            && in_a_row >= FIRM
            && self.interval_passed()
            && self.memory.phase == Phase::Steady
        {
            let why = format!(
                "{}, and a queue seems to stand for {in_a_row} windows",
                worst.text
            );
            return self.change(Action::LatencyGentleThrottle, why, |policy, state| {
                scale(policy, state, 0.98);
            });
        }
        hold(format!("{}, and a queue may be building", worst.text))
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
        self.raise(
            episode.settle,
            format!(
                "{} again: limits settle just under what the link carries",
                worst.text
            ),
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
        let budget = self.memory.capacity.map(|capacity| {
            let settled = capacity.low_bps * self.parameters.settle;
            self.memory
                .held_bps
                .map_or(settled, |held| held.max(settled))
        });
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
        self.probe(worst, total, budget)
    }

    /// Limits that nobody uses go back to where all pods at once do no harm; so do limits that were raised while nobody looked.
    fn guard(&mut self, worst: &Finding, usage: &Seen, budget: Option<f64>) -> Option<Verdict> {
        let pods = usage.classes.iter().map(|(pods, _)| pods).sum::<f64>();
        let grew = self.memory.pods.is_some_and(|before| pods > before);
        self.memory.pods = Some(pods);
        let raised = std::mem::take(&mut self.memory.raised_while_idle);
        let budget = budget?;
        let is_unused = usage.total_bps < 0.1 * budget;
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

    fn probe(&mut self, worst: &Finding, total: f64, budget: Option<f64>) -> Verdict {
        let (Some(budget), Some(capacity)) = (budget, self.memory.capacity) else {
            return self.raise(
                1.25,
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
        if gap > LEAST_STEP {
            if gap < 0.1 && !worst.quiet {
                return hold(format!("{}, and signals have begun to rise", worst.text));
            }
            if gap < 0.03 && !self.interval_passed() {
                return hold(format!("{}, and limits are near what hurt", worst.text));
            }
            let why = format!("{}, {} % below what hurt", worst.text, number(gap * 100.0));
            // The middle when near, less when far, where what hurt is a guess.
            let step = if gap < 0.03 { gap / 2.0 } else { gap / 3.0 };
            let step = if worst.quiet { step } else { step.min(0.01) };
            return self.raise(
                1.0 + step.clamp(LEAST_STEP, if gap > 0.25 { 0.08 } else { 0.04 }),
                why,
            );
        }
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
        let step = self.memory.test_step.clamp(LEAST_STEP, 0.25);
        // Above the old mark and calm: the network has changed, and the old mark means little.
        if self
            .memory
            .held_bps
            .is_some_and(|held| held >= self.memory.mark_bps * 1.003)
        {
            self.memory.test_step = (step * 2.0).min(0.25);
        }
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

    fn steady_blind(&mut self, worst: &Finding) -> Verdict {
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

    fn patience_ms(&self) -> i64 {
        let base = self.parameters.patience_ms;
        self.paced(self.memory.patience_ms.clamp(base, base.saturating_mul(16)))
    }

    fn test_failed(&mut self) {
        let patience_ms = self.patience_ms();
        self.memory.test_after_ms = self.now_ms.saturating_add(patience_ms);
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

    fn raise(&mut self, factor: f64, why: String) -> Verdict {
        self.change(Action::Increase, why, |policy, state| {
            scale(policy, state, factor)
        })
    }

    fn change(
        &mut self,
        action: Action,
        why: String,
        change: impl FnOnce(&Policy, &mut State),
    ) -> Verdict {
        let before = self.state.limits.clone();
        self.memory.testing = false;
        change(self.policy, self.state);
        if before != self.state.limits {
            let undo = undo(&before, &self.state.limits);
            self.memory.change = Some(Change {
                at_ms: self.now_ms,
                up: undo < 1.0,
                undo,
                total_bps: self.seen.usage.as_ref().map(|usage| usage.total_bps),
            });
            self.memory.streak.calm = 0;
            self.memory.streak.room = 0;
            self.memory.streak.warned = 0;
            for floor in &mut self.memory.floors {
                floor.calm = false;
            }
        }
        Verdict { action, why }
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

impl Floor {
    fn learn(&mut self, signals: &Signals, is_low: bool) {
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
