//! Laws in shadow: evaluated beside the one in force over the same samples, and what each would have done.
//!
//! A shadow is never actuated, so what it *would have* brought about is an estimate. This is how it is made, once a round.
//!
//! **Allowed.** `allowed = sum over classes of limit * pods`, integrated over time; pods as measured. A gap of more than
//! [`LONGEST_STEP_MS`] between rounds, and time in which usage is not known, count for nobody.
//!
//! **Wanted.** What a class would send without any limit of ours: what it sends, unless the law in force holds it (limits are on the pods, and
//! its busiest pod sends at least [`HELD`] of its limit); then what it sent when it was last not held, and at least what it sends.
//!
//! **Goodput lost** against doing nothing, per class: `max(0, wanted - limit * pods, top pod - limit)`, integrated over time; while this is above
//! zero the law *cuts*. Classes whose pods differ lose at least that much.
//!
//! **Windows violating.** A round with a newly measured window of a critical workload is a window; it violates if a signal is above its
//! target there. What shaped it is known: the law in force if its limits are on the pods, else no control. For that one the verdict
//! is as observed. For any other law it is estimated by one rule: *a queue stands where best-effort may send what the link carried while one
//! stood*. So a violating window is **avoided** by a law that, since before the window began, let through at most [`DRAINS`] of
//! what best-effort sent in it; and a good window **would have violated** under a law that lets through more than [`DRAINS`] of
//! what best-effort sent in the last violating window (the measured capacity), and more than it sent.
//!
//! What this assumes, and where it is wrong:
//! - that best-effort traffic caused what was observed. If something else did, no law avoids it, and the estimate is too high;
//! - that a cut works within the window that follows it: what a law would have gained by a queue that drains sooner is not counted,
//!   and neither is the tail of one that drains late;
//! - laws in shadow run open loop: they see what others caused, not what they would have. With nothing applied (mode Observe) a law sees its
//!   cuts fail and may cut further, or conclude that bandwidth is not the cause. With another law's limits applied (Enforce) it
//!   sees the latency those keep, and verdicts about good windows rest on a capacity that is remembered, not seen: such windows are
//!   counted apart as `supposed`.

use serde::{Deserialize, Serialize};

use crate::{
    Evaluation, LimitChange, evaluate,
    policy::{Class, Policy, Targets},
    sample::{Sample, Usage},
    state::{Limit, State},
};

/// Most shadows of one policy; bounds the ledger.
pub const MOST_SHADOWS: usize = 8;
/// A round later than this after the one before says nothing about the time between, milliseconds.
pub const LONGEST_STEP_MS: i64 = 10_000;
/// A class whose busiest pod sends at least this share of its limit is held by it.
pub const HELD: f64 = 0.85;
/// A queue drains while at most this share of what the link carries comes in.
pub const DRAINS: f64 = 0.97;

/// What the law in force did in a round.
#[derive(Clone, Copy, Debug)]
pub struct Governing<'a> {
    /// Every class's limit before and after.
    pub limits: &'a [LimitChange],
    /// Whether the pods have these limits. Not in mode Observe, and not while an operator has released them.
    pub applied: bool,
}

/// What a law in shadow would have done in a round, with all that is needed to evaluate it again.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// Its index among the shadows given.
    pub index: usize,
    /// Its state before.
    pub state: State,
    /// What it concluded.
    pub evaluation: Evaluation,
}

/// Running totals of one law. They only rise.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Account {
    /// Times it was evaluated.
    pub evaluations: u64,
    /// Evaluations that lowered a limit.
    pub cuts: u64,
    /// Evaluations that raised one and lowered none.
    pub raises: u64,
    /// Time in which what best-effort sends was known, seconds.
    pub seconds: f64,
    /// What all best-effort pods together were allowed, bits (bits per second integrated over `seconds`).
    pub allowed_bits: f64,
    /// Part of `seconds` in which a limit was below what was wanted.
    pub cut_seconds: f64,
    /// Goodput lost against doing nothing, bits (estimate).
    pub lost_bits: f64,
    /// Windows judged.
    pub windows: u64,
    /// Violating ones: observed for what shaped the traffic, else estimated.
    pub violating: u64,
    /// Those of `violating` that looked good and are supposed to violate under this law, by a remembered capacity.
    pub supposed: u64,
}

/// One law's place in the comparison.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Seat {
    /// The shadow's name; for the law in force, the law's.
    pub name: String,
    /// The law's name: another law begins anew.
    pub law: String,
    /// The shadow's own state; empty for the law in force, whose state is kept elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<State>,
    /// What it came to.
    pub account: Account,
    /// What all best-effort pods together are allowed now, bits per second. Unset: how many pods there are is not known.
    pub allowed_bps: Option<f64>,
    /// Since when a queue would have drained under it without interruption, Unix milliseconds.
    draining_since_ms: Option<i64>,
}

/// What is remembered of a class between rounds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Demand {
    class: String,
    /// What it sent when it was last not held, bits per second.
    free_bps: f64,
}

/// The newest window seen of a workload.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct LastWindow {
    workload: String,
    end_ms: i64,
}

/// The comparison of one policy. Bounded by the policy's workloads, classes and shadows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ledger {
    /// When the totals began, Unix milliseconds; 0: not yet.
    pub since_ms: i64,
    /// No control at all.
    pub nothing: Seat,
    /// The law in force.
    pub in_force: Seat,
    /// The shadows.
    pub shadows: Vec<Seat>,
    last_ms: Option<i64>,
    demand: Vec<Demand>,
    windows: Vec<LastWindow>,
    /// What best-effort sent in the last violating window, bits per second.
    capacity_bps: Option<f64>,
}

/// What best-effort sends in a round, and what it would.
struct Traffic<'a> {
    /// What was measured, by class of the policy.
    classes: Vec<(&'a str, &'a Usage, f64)>,
    sent_bps: f64,
    wanted_bps: f64,
}

/// The windows of a round as one.
struct Window {
    violating: bool,
    /// When it began, by the clock of `now_ms`; with wrong clocks earlier rather than later.
    start_ms: i64,
}

impl Ledger {
    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.since_ms == 0
    }

    /// One round: evaluates every shadow, and brings every account up to date.
    ///
    /// `policy` is the one in force; shadows are by name, which is unique, and have its workloads, targets and classes with a law of their own. Beyond [`MOST_SHADOWS`] shadows are ignored. Shadows
    /// that are new begin at the limits of the law in force, with nothing learned; those that are gone are forgotten. When the laws compared change, all
    /// totals begin anew: they are about the same windows.
    pub fn round(
        &mut self,
        now_ms: i64,
        policy: &Policy,
        shadows: &[(String, Policy)],
        governing: Governing<'_>,
        samples: &[Sample],
    ) -> Vec<Verdict> {
        let shadows = &shadows[..shadows.len().min(MOST_SHADOWS)];
        self.reseat(now_ms, policy, shadows, governing.limits);
        let former_ms = self.last_ms.unwrap_or(now_ms);
        let seconds = self.step_seconds(now_ms);
        let window = self.window(now_ms, policy, samples);
        let traffic = self.traffic(policy, governing, samples);
        if let (Some(traffic), Some(true)) = (&traffic, window.as_ref().map(|w| w.violating))
            && traffic.sent_bps > 0.0
        {
            self.capacity_bps = Some(traffic.sent_bps);
        }
        let facts = Facts {
            former_ms,
            seconds,
            window,
            traffic,
            capacity_bps: self.capacity_bps,
        };

        facts.judge(&mut self.nothing, None, !governing.applied);
        let limits: Vec<Limit> = governing.limits.iter().map(before).collect();
        facts.judge(&mut self.in_force, Some(&limits), governing.applied);
        self.in_force.conclude(governing.limits, &facts);
        let mut verdicts = Vec::with_capacity(shadows.len());
        for (index, ((_, policy), seat)) in shadows.iter().zip(&mut self.shadows).enumerate() {
            let state = seat.state.take().unwrap_or_default();
            let evaluation = evaluate(now_ms, policy, &state, samples);
            // the limits that held since the round before, not those that follow from this one
            facts.judge(seat, Some(&state.limits), false);
            seat.conclude(&evaluation.limits, &facts);
            seat.state = Some(evaluation.state.clone());
            verdicts.push(Verdict {
                index,
                state,
                evaluation,
            });
        }
        verdicts
    }

    /// Brings the seats in line with the policy.
    fn reseat(
        &mut self,
        now_ms: i64,
        policy: &Policy,
        shadows: &[(String, Policy)],
        limits: &[LimitChange],
    ) {
        let law = policy.law.name();
        let is = |seat: &Seat, (name, policy): &(String, Policy)| {
            seat.name == *name && seat.law == policy.law.name()
        };
        let same = self.since_ms != 0
            && self.in_force.law == law
            && self.shadows.len() == shadows.len()
            && self.shadows.iter().zip(shadows).all(|(s, w)| is(s, w));
        if !same {
            self.since_ms = now_ms;
            self.nothing = Seat::default();
            self.in_force = Seat::new(law, law, None);
            let mut former = std::mem::take(&mut self.shadows);
            for shadow in shadows {
                let known = former.iter_mut().find(|seat| is(seat, shadow));
                let state = known.and_then(|seat| seat.state.take());
                let state = state.unwrap_or_else(|| State {
                    limits: limits.iter().map(before).collect(),
                    ..State::default()
                });
                let law = shadow.1.law.name();
                self.shadows.push(Seat::new(&shadow.0, law, Some(state)));
            }
        }
        self.demand
            .retain(|d| policy.classes.iter().any(|class| class.name == d.class));
        self.windows
            .retain(|w| policy.critical.iter().any(|c| c.workload == w.workload));
    }

    /// The time that this round accounts for.
    #[allow(clippy::cast_precision_loss)] // at most LONGEST_STEP_MS
    fn step_seconds(&mut self, now_ms: i64) -> f64 {
        let last = self.last_ms.replace(now_ms);
        let step = last.map_or(0, |last| now_ms.saturating_sub(last));
        match step {
            0..=LONGEST_STEP_MS => step as f64 / 1e3,
            _ => 0.0,
        }
    }

    /// The newly measured windows of the round as one: the earliest beginning, violating if one of them does.
    fn window(&mut self, now_ms: i64, policy: &Policy, samples: &[Sample]) -> Option<Window> {
        let mut whole: Option<Window> = None;
        for critical in &policy.critical {
            let newest = samples
                .iter()
                .filter(|s| s.workload == critical.workload && s.is_well_formed())
                .max_by_key(|s| s.sequence)
                .filter(|s| s.quality.is_measured());
            let Some(sample) = newest else { continue };
            let Some(violating) = violates(&critical.targets, sample) else {
                continue;
            };
            // a poll may find no newer scrape: the same window again is no second one
            let known = self
                .windows
                .iter_mut()
                .find(|w| w.workload == sample.workload);
            match known {
                Some(known) if known.end_ms == sample.window_end_ms => continue,
                Some(known) => known.end_ms = sample.window_end_ms,
                None => self.windows.push(LastWindow {
                    workload: sample.workload.clone(),
                    end_ms: sample.window_end_ms,
                }),
            }
            let length = sample.window_end_ms.saturating_sub(sample.window_start_ms);
            let start_ms = sample.window_start_ms.min(now_ms.saturating_sub(length));
            let window = whole.get_or_insert(Window {
                violating,
                start_ms,
            });
            window.violating |= violating;
            window.start_ms = window.start_ms.min(start_ms);
        }
        whole
    }

    /// What best-effort sends, and what it would. `None`: no sample says.
    fn traffic<'a>(
        &mut self,
        policy: &'a Policy,
        governing: Governing<'_>,
        samples: &'a [Sample],
    ) -> Option<Traffic<'a>> {
        let mut traffic = Traffic {
            classes: Vec::with_capacity(policy.classes.len()),
            sent_bps: 0.0,
            wanted_bps: 0.0,
        };
        for class in &policy.classes {
            let Some(usage) = newest_usage(class, samples) else {
                continue;
            };
            let limit = governing.limits.iter().find(|l| l.class == class.name);
            let held = governing.applied
                && limit.is_some_and(|l| usage.top_pod_bps >= HELD * l.before_bps);
            let wanted = self.wanted(&class.name, usage.total_bps, held);
            traffic.sent_bps += usage.total_bps;
            traffic.wanted_bps += wanted;
            traffic.classes.push((&class.name, usage, wanted));
        }
        (!traffic.classes.is_empty()).then_some(traffic)
    }

    fn wanted(&mut self, class: &str, sent_bps: f64, held: bool) -> f64 {
        let known = self.demand.iter_mut().find(|d| d.class == class);
        match known {
            Some(known) if held => known.free_bps.max(sent_bps),
            Some(known) => {
                known.free_bps = sent_bps;
                sent_bps
            }
            None => {
                self.demand.push(Demand {
                    class: class.to_owned(),
                    free_bps: sent_bps,
                });
                sent_bps
            }
        }
    }
}

impl Seat {
    fn new(name: &str, law: &str, state: Option<State>) -> Self {
        Self {
            name: name.to_owned(),
            law: law.to_owned(),
            state,
            ..Self::default()
        }
    }

    /// Counts what an evaluation did.
    fn conclude(&mut self, limits: &[LimitChange], facts: &Facts<'_>) {
        let account = &mut self.account;
        account.evaluations = account.evaluations.saturating_add(1);
        if limits.iter().any(|l| l.after_bps < l.before_bps) {
            account.cuts = account.cuts.saturating_add(1);
        } else if limits.iter().any(LimitChange::is_changed) {
            account.raises = account.raises.saturating_add(1);
        }
        let after = |class: &str| limits.iter().find(|l| l.class == class);
        self.allowed_bps = facts.traffic.as_ref().map(|traffic| {
            let classes = traffic.classes.iter();
            classes
                .filter_map(|(class, usage, _)| Some(after(class)?.after_bps * pods(usage)))
                .sum()
        });
    }
}

/// What a round says about any law.
struct Facts<'a> {
    /// When the round before was, since which the limits held.
    former_ms: i64,
    seconds: f64,
    window: Option<Window>,
    traffic: Option<Traffic<'a>>,
    capacity_bps: Option<f64>,
}

impl Facts<'_> {
    /// Brings a seat's account up to date. `limits`: those it had since the round before; unset: none. `shaped`: whether the traffic is
    /// what it is under these limits.
    fn judge(&self, seat: &mut Seat, limits: Option<&[Limit]>, shaped: bool) {
        let Some(traffic) = &self.traffic else {
            seat.draining_since_ms = None;
            if let Some(window) = &self.window {
                // without usage nobody can be said to have avoided anything
                seat.account.count(window.violating, false);
            }
            return;
        };
        let (allowed_bps, through_bps) = match limits {
            None => (f64::INFINITY, traffic.wanted_bps),
            Some(limits) => traffic.under(limits),
        };
        let cut = through_bps < traffic.wanted_bps;
        let account = &mut seat.account;
        account.seconds += self.seconds;
        if allowed_bps.is_finite() {
            account.allowed_bits += allowed_bps * self.seconds;
        }
        if cut {
            account.cut_seconds += self.seconds;
            account.lost_bits += (traffic.wanted_bps - through_bps) * self.seconds;
        }

        let violating = self.window.as_ref().is_some_and(|w| w.violating);
        let carried_bps = if violating {
            Some(traffic.sent_bps)
        } else {
            self.capacity_bps
        };
        // a limit that does not bind at the moment would as soon as there was more to send
        let most_bps = if cut { through_bps } else { allowed_bps };
        let drains = carried_bps.is_some_and(|carried| most_bps <= DRAINS * carried);
        seat.draining_since_ms = match seat.draining_since_ms {
            _ if !drains => None,
            Some(since) => Some(since),
            None => Some(self.former_ms),
        };
        let Some(window) = &self.window else { return };
        if shaped {
            account.count(window.violating, false);
        } else if window.violating {
            let avoided = seat
                .draining_since_ms
                .is_some_and(|since| since <= window.start_ms);
            account.count(!avoided, false);
        } else {
            let supposed = self.capacity_bps.is_some_and(|capacity| {
                through_bps > DRAINS * capacity && through_bps * DRAINS > traffic.sent_bps
            });
            account.count(supposed, supposed);
        }
    }
}

impl Traffic<'_> {
    /// What these limits allow, and what of the wanted gets through, bits per second. A class without a limit has all it wants.
    fn under(&self, limits: &[Limit]) -> (f64, f64) {
        let (mut allowed, mut through) = (0.0, 0.0);
        for (class, usage, wanted) in &self.classes {
            let Some(limit) = limits.iter().find(|l| l.class == *class) else {
                allowed += wanted;
                through += wanted;
                continue;
            };
            let most = limit.limit_bps * pods(usage);
            allowed += most;
            let top_loses = (usage.top_pod_bps - limit.limit_bps).max(0.0);
            through += wanted.min(most).min((wanted - top_loses).max(0.0));
        }
        (allowed, through)
    }
}

impl Account {
    fn count(&mut self, violating: bool, supposed: bool) {
        self.windows = self.windows.saturating_add(1);
        self.violating = self.violating.saturating_add(u64::from(violating));
        self.supposed = self.supposed.saturating_add(u64::from(supposed));
    }

    /// What happened between an earlier reading of these totals and this one.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            evaluations: self.evaluations.saturating_sub(earlier.evaluations),
            cuts: self.cuts.saturating_sub(earlier.cuts),
            raises: self.raises.saturating_sub(earlier.raises),
            seconds: self.seconds - earlier.seconds,
            allowed_bits: self.allowed_bits - earlier.allowed_bits,
            cut_seconds: self.cut_seconds - earlier.cut_seconds,
            lost_bits: self.lost_bits - earlier.lost_bits,
            windows: self.windows.saturating_sub(earlier.windows),
            violating: self.violating.saturating_sub(earlier.violating),
            supposed: self.supposed.saturating_sub(earlier.supposed),
        }
    }

    /// Both together.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        Self {
            evaluations: self.evaluations.saturating_add(other.evaluations),
            cuts: self.cuts.saturating_add(other.cuts),
            raises: self.raises.saturating_add(other.raises),
            seconds: self.seconds + other.seconds,
            allowed_bits: self.allowed_bits + other.allowed_bits,
            cut_seconds: self.cut_seconds + other.cut_seconds,
            lost_bits: self.lost_bits + other.lost_bits,
            windows: self.windows.saturating_add(other.windows),
            violating: self.violating.saturating_add(other.violating),
            supposed: self.supposed.saturating_add(other.supposed),
        }
    }
}

fn before(change: &LimitChange) -> Limit {
    Limit {
        class: change.class.clone(),
        limit_bps: change.before_bps,
    }
}

#[allow(clippy::cast_precision_loss)] // pods of a cluster
fn pods(usage: &Usage) -> f64 {
    usage.pods as f64
}

/// The class's usage that was measured last.
fn newest_usage<'a>(class: &Class, samples: &'a [Sample]) -> Option<&'a Usage> {
    samples
        .iter()
        .filter(|sample| sample.is_well_formed())
        .flat_map(|sample| sample.usage.iter().map(move |usage| (sample, usage)))
        .filter(|(_, usage)| usage.class == class.name)
        .max_by_key(|(sample, usage)| {
            (
                usage.window_end_ms.unwrap_or(sample.window_end_ms),
                sample.sequence,
            )
        })
        .map(|(_, usage)| usage)
}

/// Whether a signal is above its target. `None`: no signal with a target was measured.
fn violates(targets: &Targets, sample: &Sample) -> Option<bool> {
    targets
        .readings(sample)
        .filter_map(|reading| Some(reading.value_ms? > reading.target_ms))
        .reduce(|one, other| one || other)
}
