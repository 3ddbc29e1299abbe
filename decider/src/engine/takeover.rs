//! Becoming the owner of a policy: a term above everything seen, and the same limits.

use std::collections::BTreeMap;
use std::sync::Arc;

use laneguard_decider_core::state::Limit;
use laneguard_proto::duration::from_wire;
use laneguard_proto::overrides::Override;
use laneguard_proto::placement::Placement;
use laneguard_proto::v1;
use tokio::time::Instant;

use super::{Engine, Name, order};
use crate::memory::{Content, Issued, Memory};
use crate::wire::Plan;

/// What a new owner finds about a policy.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// The stored memory. `None`: there is none, or it is garbage; the store may have been wiped.
    pub memory: Option<Memory>,
    /// The last command of each class.
    pub commands: Vec<v1::Command>,
    /// The last decision.
    pub decision: Option<v1::Decision>,
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
        let mut memory = remembered(&wanted.plan, found);
        memory.sequence = found
            .commands
            .iter()
            .map(|command| command.sequence)
            .chain(found.decision.iter().map(|decision| decision.sequence))
            .chain([memory.sequence])
            .max()
            .unwrap_or_default();
        let highest = found
            .commands
            .iter()
            .map(|command| command.term)
            .chain(found.decision.iter().map(|decision| decision.term))
            .chain([found.highest_term])
            .max()
            .unwrap_or_default();
        raise(&mut memory, highest, now_ms);
        owner.clone_into(&mut memory.owner);
        let mut engine = Self {
            name,
            plan: wanted.plan,
            placement: wanted.placement,
            over: wanted.over,
            round: BTreeMap::new(),
            round_began: None,
            stirred: false,
            standing: BTreeMap::new(),
            said_at: memory.said.as_ref().map(|_| now),
            repeats: 0,
            sent: BTreeMap::new(),
            memory,
        };
        engine.check_force();
        engine
    }

    /// The stored decision, if its publication may have been missed: the owner before this one died after the commit.
    pub fn unpublished(&self, found: &Found) -> Option<v1::Decision> {
        let kept = found.memory.as_ref()?.decision()?;
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

    /// The memory with a term above one that somebody else has seen, to be committed and given to [`Engine::reign`]. `None`: ours is above it.
    pub fn outranked(&self, highest_term: u64, now_ms: i64) -> Option<Memory> {
        (highest_term > self.memory.term).then(|| {
            let mut memory = self.memory.clone();
            raise(&mut memory, highest_term, now_ms);
            memory
        })
    }

    /// The memory is committed, or was by an attempt of ours that seemed to fail: every command that it changes is asserted anew.
    pub fn reign(&mut self, memory: Memory) {
        self.replace_memory(memory);
        self.check_force();
    }
}

/// The memory to go on from.
fn remembered(plan: &Plan, found: &Found) -> Memory {
    let mut memory = match &found.memory {
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
