//! Becoming the owner of a policy: a term above everything seen, and the same limits.

use std::collections::BTreeMap;
use std::sync::Arc;

use laneguard_decider_core::shadow::Ledger;
use laneguard_decider_core::state::Limit;
use laneguard_proto::duration::from_wire;
use laneguard_proto::overrides::Override;
use laneguard_proto::placement::Placement;
use laneguard_proto::{MOST_SEQUENCE, v1};
use tokio::time::Instant;

use super::{Engine, Name, order};
use crate::memory::{Content, Issued, Memory};
use crate::shadow::{Kept, Shadows};
use crate::wire::Plan;

/// What a new owner finds about a policy.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// The stored memory. `None`: there is none, or it is garbage; the store may have been wiped.
    pub memory: Option<Memory>,
    /// The last command of each class.
    pub commands: Vec<v1::Command>,
    /// The last decision. A shadow decision stands for the decision in force that it followed, whose number it has.
    pub decision: Option<v1::Decision>,
    /// What a former owner kept of the laws in shadow.
    pub shadows: Option<Kept>,
    /// The greatest term in the last outcomes.
    pub highest_term: u64,
}

/// The inputs of a policy other than samples.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// What the operator wants.
    pub plan: Arc<Plan>,
    /// Which pods there are.
    pub placement: Option<Arc<Placement>>,
    /// What an operator set against it.
    pub over: Option<Override>,
}

/// What the actuator says it has seen of a policy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    /// The greatest term; 0: none.
    pub highest_term: u64,
    /// Term and sequence of the newest command that it refused as older than one it knows.
    pub refused: Option<(u64, u64)>,
}

impl Seen {
    /// From an outcome.
    pub fn of(outcome: &v1::Outcome) -> Self {
        let older = outcome.refused
            && matches!(
                outcome.refused_reason.as_str(),
                "older_term" | "older_sequence"
            );
        Self {
            highest_term: outcome.highest_term,
            refused: older.then_some((outcome.term, outcome.sequence)),
        }
    }

    /// Both together.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self {
            highest_term: self.highest_term.max(other.highest_term),
            refused: self.refused.max(other.refused),
        }
    }
}

impl Engine {
    /// A new owner's engine. Its memory has a new term and must be committed before anything else; each command in force is then
    /// asserted anew, at the same limit, with the first usable samples.
    pub fn take_over(
        name: Name,
        owner: &str,
        wanted: Wanted,
        found: &Found,
        now: Instant,
        now_ms: i64,
    ) -> Self {
        let mut memory = remembered(&wanted.plan, found, now_ms);
        memory.sequence = found
            .commands
            .iter()
            .map(|command| command.sequence)
            .chain(found.decision.iter().map(|decision| decision.sequence))
            .chain([memory.sequence])
            .max()
            .unwrap_or_default();
        let runs_out = memory.sequence > MOST_SEQUENCE / 2;
        let highest = found
            .commands
            .iter()
            .map(|command| command.term)
            .chain(found.decision.iter().map(|decision| decision.term))
            .chain([found.highest_term])
            .max()
            .unwrap_or_default();
        raise(&mut memory, highest, now_ms);
        if runs_out {
            // a greater term orders before any sequence
            memory.sequence = 1;
            for issued in memory.commands.values_mut() {
                issued.sequence = 1;
            }
        }
        owner.clone_into(&mut memory.owner);
        let ledger = match &found.shadows {
            Some(kept) if kept.uid == wanted.plan.uid => kept.ledger.clone(),
            _ => Ledger::default(),
        };
        let mut engine = Self {
            name,
            plan: wanted.plan,
            placement: wanted.placement,
            over: wanted.over,
            round: BTreeMap::new(),
            round_began: None,
            stirred: None,
            standing: BTreeMap::new(),
            said_at: memory.said.as_ref().map(|_| now),
            repeats: 0,
            sent: BTreeMap::new(),
            older: BTreeMap::new(),
            above: 0,
            shadows: Shadows::new(ledger),
            memory,
        };
        engine.check_force();
        engine
    }

    /// The stored decision, if its publication may have been missed: the owner before this one died after the commit.
    pub fn unpublished(&self, found: &Found) -> Option<v1::Decision> {
        let kept = found.memory.as_ref()?.decision()?;
        if kept.term >= self.memory.term {
            // ours is above everything that can be: garbage
            return None;
        }
        let published = found
            .decision
            .as_ref()
            .map(|decision| (decision.term, decision.sequence));
        (published < Some((kept.term, kept.sequence))).then_some(kept)
    }

    /// Every committed decision is published, so none needs to be kept for the next owner.
    pub fn published(&mut self) {
        self.memory.outbox = None;
    }

    /// The actuator said what it has seen. That it refused our command in force, although our term is the greatest, means that somebody
    /// used our term with a greater sequence; a refused older command of ours is a replay and means nothing.
    pub fn saw(&mut self, seen: Seen) {
        let in_force = |issued: &Issued| Some((issued.term, issued.sequence)) == seen.refused;
        if seen.highest_term > self.memory.term || self.memory.commands.values().any(in_force) {
            self.above = self.above.max(seen.highest_term).max(self.memory.term);
        }
    }

    /// The memory with a term above what the actuator has seen, to be committed and given to [`Engine::reign`], again until it is. `None`:
    /// ours is above it.
    pub fn outranked(&self, now_ms: i64) -> Option<Memory> {
        (self.above >= self.memory.term).then(|| {
            let mut memory = self.memory.clone();
            raise(&mut memory, self.above, now_ms);
            memory
        })
    }

    /// The memory is committed, or was by an attempt of ours that seemed to fail: every command that it changes is asserted anew.
    pub fn reign(&mut self, memory: Memory) {
        self.replace_memory(memory);
        self.said_at = None;
        self.check_force();
    }
}

/// The memory to go on from.
fn remembered(plan: &Plan, found: &Found, now_ms: i64) -> Memory {
    let plausible = |memory: &&Memory| memory.is_plausible(now_ms);
    let mut memory = match found.memory.as_ref().filter(plausible) {
        Some(memory) if memory.uid == plan.uid => memory.clone(),
        // another object of the same name: its limits are gone with it
        Some(memory) => {
            return Memory {
                uid: plan.uid.clone(),
                ..memory.tombstone()
            };
        }
        None => Memory {
            uid: plan.uid.clone(),
            ..Memory::default()
        },
    };
    // A command that is newer than what is stored: the store was wiped, or somebody else decided. Its limit is what the pods have.
    let known = (memory.term, memory.sequence);
    for command in &found.commands {
        let Some((limit_bps, content)) = content(command).filter(|_| order(command) > known) else {
            continue;
        };
        memory
            .law
            .limits
            .retain(|limit| limit.class != command.class);
        memory.law.limits.push(Limit {
            class: command.class.clone(),
            limit_bps,
        });
        memory.commands.insert(
            command.class.clone(),
            Issued {
                content,
                term: command.term,
                sequence: command.sequence,
            },
        );
        memory.in_force = true;
    }
    memory
}

/// What a command of any decider says, as far as ours go.
fn content(command: &v1::Command) -> Option<(f64, Content)> {
    let limit_bps = command.limit_bps?;
    let valid_for = command.valid_for.as_ref().and_then(from_wire)?;
    Some((
        limit_bps,
        Content {
            limit_bps,
            restore: command.restore,
            valid_for_ms: u64::try_from(valid_for.as_millis()).ok()?,
            on_stale: command.on_stale,
        },
    ))
}

/// term = max(Unix ms, 1 + highest term seen).
fn raise(memory: &mut Memory, highest_term: u64, now_ms: i64) {
    let above = highest_term.max(memory.term).saturating_add(1);
    memory.term = above.max(u64::try_from(now_ms).unwrap_or_default());
    for issued in memory.commands.values_mut() {
        issued.term = memory.term;
    }
}
