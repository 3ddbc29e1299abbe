//! Laws in shadow beside the one in force: what they said, when it is worth publishing, and the running totals that decisions carry.
//!
//! The comparison itself is the core's ([`laneguard_decider_core::shadow`]). Nothing here commits, and no command follows: a shadow decision
//! that is not published is lost, and the next one has totals that include it.

use std::collections::BTreeMap;

use laneguard_decider_core::adaptive;
use laneguard_decider_core::policy::Policy;
use laneguard_decider_core::sample::Sample;
use laneguard_decider_core::shadow::{Account, Governing, Ledger, Seat, Verdict};
use laneguard_decider_core::{Action, Evaluation, LimitChange};
use laneguard_proto::duration::timestamp_from_ms;
use laneguard_proto::{structure, v1};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::decide::{self, Inputs};
use crate::engine::REPEAT;

/// What a decision carries as `comparison`: totals since [`Totals::since_ms`], over the same samples.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Totals {
    /// When they began, Unix milliseconds.
    pub since_ms: i64,
    /// Whether the limits of the law in force are on the pods at present.
    pub applied: bool,
    /// No control at all.
    pub no_control: Account,
    /// The law in force.
    pub in_force: Line,
    /// The law whose decision this is, if it is a shadow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shadow: Option<Line>,
}

/// One law's line.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Line {
    /// The law's name.
    pub law: String,
    /// What all best-effort pods together are allowed now, bits per second. Unset: how many there are is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed_bps: Option<f64>,
    /// Its totals.
    #[serde(flatten)]
    pub account: Account,
}

impl Line {
    fn of(seat: &Seat) -> Self {
        Self {
            law: seat.law.clone(),
            allowed_bps: seat.allowed_bps,
            account: seat.account.clone(),
        }
    }
}

impl Totals {
    /// Those that a decision carries. `None`: none, or not of our making.
    #[must_use]
    pub fn of(decision: &v1::Decision) -> Option<Self> {
        let totals = structure::to_json(decision.comparison.as_ref()?);
        serde_json::from_value(totals).ok()
    }
}

/// The value of `shadow.<cluster>.<policy>` in the bucket `laneguard-state`: written every ten seconds at most, so that the next owner
/// goes on from there. Losing it costs the shadows what they learned, and begins the totals anew.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Kept {
    /// The object's life that this is about.
    pub uid: String,
    /// The comparison.
    pub ledger: Ledger,
}

/// The key of a policy's [`Kept`].
#[must_use]
pub fn key(cluster: &str, policy: &str) -> String {
    format!("shadow.{cluster}.{policy}")
}

/// Whose evaluation it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Role {
    /// The law in force.
    InForce,
    /// A shadow.
    Shadow,
}

/// One law after a round.
#[derive(Debug, Clone)]
pub(crate) struct Counted {
    pub(crate) role: Role,
    /// The shadow's name; for the law in force, the law's.
    pub(crate) name: String,
    pub(crate) action: Action,
    pub(crate) allowed_bps: Option<f64>,
    /// Windows that no control would have lost and this law did not, since the round before (estimate).
    pub(crate) avoided: u64,
    /// Goodput lost since the round before, bits (estimate).
    pub(crate) lost_bits: f64,
}

/// A round of the law in force, as the shadows see it.
pub(crate) struct Round<'a> {
    pub(crate) now: Instant,
    pub(crate) inputs: &'a Inputs,
    pub(crate) evaluation: &'a Evaluation,
    /// Whether the limits are on the pods.
    pub(crate) applied: bool,
    /// What every decision of the round has in common, with the samples as they are recorded.
    pub(crate) template: v1::Decision,
}

/// What was last published of a shadow.
#[derive(Debug, Clone)]
struct Said {
    action: Action,
    policy: Policy,
    at: Instant,
    repeats: u64,
}

/// The shadows of one policy.
#[derive(Debug, Default)]
pub(crate) struct Shadows {
    ledger: Ledger,
    applied: bool,
    said: BTreeMap<String, Said>,
    due: Vec<v1::Decision>,
    counted: Vec<Counted>,
}

impl Shadows {
    /// Goes on from what a former owner kept.
    pub(crate) fn new(ledger: Ledger) -> Self {
        Self {
            ledger,
            ..Self::default()
        }
    }

    /// The comparison.
    pub(crate) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Evaluates the shadows over the samples that the law in force was given.
    pub(crate) fn round(&mut self, shadows: &[(String, Policy)], round: Round<'_>) {
        let Inputs {
            now_ms,
            policy,
            samples,
            ..
        } = round.inputs;
        let before = Before::of(&self.ledger);
        let governing = Governing {
            limits: &round.evaluation.limits,
            applied: round.applied,
        };
        self.applied = round.applied;
        let verdicts = self.ledger.round(
            *now_ms,
            &adaptive::in_force(policy, &round.evaluation.state),
            shadows,
            governing,
            samples,
        );
        self.count(&before, round.evaluation.action, &verdicts);
        self.said
            .retain(|name, _| shadows.iter().any(|(shadow, _)| shadow == name));
        self.due.clear();
        for verdict in verdicts {
            let Some((name, policy)) = shadows.get(verdict.index) else {
                continue;
            };
            if let Some(repeats) = self.say(name, policy, &verdict.evaluation, round.now) {
                let decision = self.decision(name, policy, verdict, repeats, samples, &round);
                self.due.push(decision);
            }
        }
    }

    /// Whether to publish, and how often the same was not published before.
    fn say(
        &mut self,
        name: &str,
        policy: &Policy,
        evaluation: &Evaluation,
        now: Instant,
    ) -> Option<u64> {
        let changed = evaluation.limits.iter().any(LimitChange::is_changed);
        let action = evaluation.action;
        let repeats = match self.said.get_mut(name) {
            None => 0,
            Some(said) => {
                let same = !changed && said.action == action && said.policy == *policy;
                if same && now.saturating_duration_since(said.at) < REPEAT {
                    said.repeats = said.repeats.saturating_add(1);
                    return None;
                }
                said.repeats
            }
        };
        let said = Said {
            action,
            policy: policy.clone(),
            at: now,
            repeats: 0,
        };
        self.said.insert(name.to_owned(), said);
        Some(repeats)
    }

    fn decision(
        &self,
        name: &str,
        policy: &Policy,
        verdict: Verdict,
        repeats: u64,
        samples: &[Sample],
        round: &Round<'_>,
    ) -> v1::Decision {
        let Verdict {
            index,
            state,
            mut evaluation,
        } = verdict;
        decide::fit(&mut evaluation);
        let inputs = Inputs {
            now_ms: round.inputs.now_ms,
            policy: policy.clone(),
            state,
            samples: samples.to_vec(),
            gate: None,
            note: None,
        };
        v1::Decision {
            law: policy.law.name().to_owned(),
            shadow: true,
            shadow_name: name.to_owned(),
            decided_at: Some(timestamp_from_ms(inputs.now_ms)),
            action: evaluation.action.to_string(),
            limits: decide::limits(&evaluation),
            reason: evaluation.reason,
            repeats,
            state: inputs.recorded_state(),
            parameters: inputs.parameters(),
            comparison: self.totals(Some(index)),
            ..round.template.clone()
        }
    }

    /// The totals as a decision carries them: of a shadow's by its index, else of the law in force. `None`: there are none yet.
    pub(crate) fn totals(&self, shadow: Option<usize>) -> Option<prost_types::Struct> {
        if self.ledger.is_empty() {
            return None;
        }
        let totals = Totals {
            since_ms: self.ledger.since_ms,
            applied: self.applied,
            no_control: self.ledger.nothing.account.clone(),
            in_force: Line::of(&self.ledger.in_force),
            shadow: shadow.and_then(|index| self.ledger.shadows.get(index).map(Line::of)),
        };
        structure::from_json(&serde_json::to_value(totals).ok()?)
    }

    /// Decisions to be published now, if ever. They get the number of the last decision in force, so that none counts as newer than that.
    pub(crate) fn due(&mut self, term: u64, sequence: u64) -> Vec<v1::Decision> {
        let mut due = std::mem::take(&mut self.due);
        if sequence == 0 {
            // nothing was decided yet that they could follow
            due.clear();
        }
        for decision in &mut due {
            decision.term = term;
            decision.sequence = sequence;
        }
        due
    }

    /// Each law after the last round; once.
    pub(crate) fn counted(&mut self) -> Vec<Counted> {
        std::mem::take(&mut self.counted)
    }

    fn count(&mut self, before: &Before, action: Action, verdicts: &[Verdict]) {
        let before = (before.since_ms == self.ledger.since_ms).then_some(before);
        let former = |account: Option<&Account>| account.cloned().unwrap_or_default();
        let nothing = former(before.map(|b| &b.nothing));
        let lost = self.ledger.nothing.account.since(&nothing).violating;
        let counted = |role, seat: &Seat, action, before: Option<&Account>| {
            let news = seat.account.since(&former(before));
            Counted {
                role,
                name: seat.name.clone(),
                action,
                allowed_bps: seat.allowed_bps,
                avoided: lost.saturating_sub(news.violating),
                lost_bits: news.lost_bits.max(0.0),
            }
        };
        let in_force = &self.ledger.in_force;
        self.counted = vec![counted(
            Role::InForce,
            in_force,
            action,
            before.map(|b| &b.in_force),
        )];
        for verdict in verdicts {
            let Some(seat) = self.ledger.shadows.get(verdict.index) else {
                continue;
            };
            let before = before.and_then(|b| b.shadows.get(verdict.index));
            let action = verdict.evaluation.action;
            self.counted
                .push(counted(Role::Shadow, seat, action, before));
        }
    }
}

/// The totals before a round.
struct Before {
    since_ms: i64,
    nothing: Account,
    in_force: Account,
    shadows: Vec<Account>,
}

impl Before {
    fn of(ledger: &Ledger) -> Self {
        Self {
            since_ms: ledger.since_ms,
            nothing: ledger.nothing.account.clone(),
            in_force: ledger.in_force.account.clone(),
            shadows: ledger.shadows.iter().map(|s| s.account.clone()).collect(),
        }
    }
}
