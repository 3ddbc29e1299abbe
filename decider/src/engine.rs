//! What to do about one policy: pure, without I/O and clock.
//!
//! Samples, the policy, its placement and overrides go in. Out come proposals, each of which its caller commits (one CAS on the
//! stored [`Memory`]) before it publishes the decision, and the commands that are due. Evaluations that say nothing new change only
//! the memory of this process.

mod takeover;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use laneguard_decider_core::policy::{Class, Policy};
use laneguard_decider_core::sample::{Quality, Sample};
use laneguard_decider_core::state::{Limit, State};
use laneguard_decider_core::{Evaluation, LimitChange};
use laneguard_proto::duration::{timestamp_from_ms, to_wire};
use laneguard_proto::overrides::Override;
use laneguard_proto::placement::Placement;
use laneguard_proto::policy::Mode;
use laneguard_proto::v1;
use tokio::time::Instant;

use crate::decide::{self, Gate, Inputs};
use crate::memory::{Content, Issued, Memory, Said};
use crate::shadow::{Counted, Kept, Round, Shadows};
use crate::wire::{self, Plan};

pub use takeover::{Found, Seen, Wanted};

/// How long a round waits for the samples of the other workloads after the first new one.
pub const ROUND: Duration = Duration::from_millis(500);
/// An unchanged decision is published at most this often.
pub const REPEAT: Duration = Duration::from_secs(10);
/// A window that ended longer than this before it was observed, and a sample stored longer ago, say nothing about now.
const LONGEST_LAG: Duration = Duration::from_secs(60);
/// So many samples in a row below the last sequence are not late: whoever counts began again from lower.
const BELIEVED: u8 = 3;

/// Which policy this is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    /// The cluster's name.
    pub cluster: String,
    /// The policy's token.
    pub policy: String,
}

/// The state machine of one policy that this process owns.
#[derive(Debug)]
pub struct Engine {
    name: Name,
    plan: Arc<Plan>,
    placement: Option<Arc<Placement>>,
    over: Option<Override>,
    memory: Memory,
    /// New samples since the last evaluation, one per workload. Boxed: a tree's node has room for eleven.
    round: BTreeMap<String, Box<Heard>>,
    /// When the first of them came.
    round_began: Option<Instant>,
    /// What other than samples calls for an evaluation.
    stirred: Option<Cause>,
    /// What the newest evaluated sample of each workload was good for.
    standing: BTreeMap<String, Standing>,
    /// When a decision was last published.
    said_at: Option<Instant>,
    /// Evaluations since then that said the same.
    repeats: u64,
    /// What this owner has published of each command in force.
    sent: BTreeMap<String, Sent>,
    /// Samples in a row of each workload that were below the last sequence.
    older: BTreeMap<String, Older>,
    /// A term to go above, seen by the actuator; 0: none was.
    above: u64,
    /// Laws beside the one in force.
    shadows: Shadows,
}

/// What calls for an evaluation without new samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    Policy,
    Placement,
    Override,
}

impl Cause {
    /// The word in decisions.
    fn as_str(self) -> &'static str {
        match self {
            Self::Policy => "policy",
            Self::Placement => "placement",
            Self::Override => "override",
        }
    }
}

/// One new sample. Only the message: with what the law reads of it beside it, each would be too large for the allocator's fast path.
#[derive(Debug)]
struct Heard {
    message: v1::Sample,
    at: Instant,
    /// Whether it can carry a command while it is new; known once it is [read](Heard::read).
    usable: bool,
}

impl Heard {
    /// The sample as the law is given it. Says in our clock when it was observed, which is when it was stored: the collector's and
    /// Prometheus' clocks may be others.
    fn read(&mut self, now: Instant, now_ms: i64) -> Sample {
        let mut sample = wire::sample(&self.message);
        self.usable = is_usable(&sample);
        let age_ms = now.saturating_duration_since(self.at).as_millis();
        let at_ms = now_ms.saturating_sub(i64::try_from(age_ms).unwrap_or(i64::MAX));
        self.message.observed_at = Some(timestamp_from_ms(at_ms));
        sample.observed_at_ms = at_ms;
        sample
    }
}

#[derive(Debug, Clone, Copy)]
struct Older {
    in_a_row: u8,
    stream_sequence: u64,
}

/// What becomes of a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hearing {
    /// It will be evaluated.
    Taken,
    /// It is known, or nobody asked for it.
    Ignored,
    /// Its sequence is below one that was used. It is not evaluated.
    Older,
    /// So is that of several in a row before it, so the sequence that was used was wrong, or is gone with its stream. It will be evaluated.
    Restarted,
}

#[derive(Debug, Clone, Copy)]
struct Standing {
    sequence: u64,
    /// When it came, if it was usable.
    usable: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Sent {
    renewal: u64,
    at: Instant,
}

/// What an evaluation came to.
#[derive(Debug)]
pub enum Step {
    /// Nothing to publish beyond commands that are due.
    Quiet,
    /// Commit this, then give it to [`Engine::settle`]; if it cannot be committed, to [`Engine::abandon`].
    Commit(Box<Proposal>),
}

/// A change that takes effect with its commit.
#[derive(Debug, Clone, PartialEq)]
pub struct Proposal {
    /// To be stored.
    pub memory: Memory,
    /// To be published once it is. `None`: the policy is off, which is kept without a decision.
    pub decision: Option<v1::Decision>,
    stirred: Option<Cause>,
}

impl Engine {
    /// The memory that is committed.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// The policy changed. A change in what the policy wants is decided on at once, not only with the next samples.
    pub fn set_plan(&mut self, plan: Arc<Plan>) {
        if *plan == *self.plan {
            return;
        }
        if plan.uid != self.plan.uid {
            // another object of the same name: what was in force is gone with the former
            self.memory = Memory {
                uid: plan.uid.clone(),
                ..self.memory.tombstone()
            };
            self.sent.clear();
            self.shadows = Shadows::default();
        }
        self.stirred = Some(Cause::Policy);
        self.plan = plan;
        self.check_force();
    }

    /// Placement became known or changed.
    pub fn set_placement(&mut self, placement: Option<Arc<Placement>>) {
        self.placement = placement;
        let waits = |said: &Said| matches!(said.gate, Some(Gate::Unplaced { .. }));
        if self.memory.said.as_ref().is_some_and(waits) && self.unplaced().is_none() {
            self.stirred = Some(Cause::Placement);
        }
    }

    /// An operator set or withdrew an override.
    pub fn set_override(&mut self, over: Option<Override>) {
        if over != self.over {
            self.stirred = Some(Cause::Override);
            self.over = over;
            self.check_force();
        }
    }

    /// Whoever stops enforcing has the pods restored: from then on the limits remembered are not those of the pods, even if
    /// enforcement returns before anything was decided.
    fn check_force(&mut self) {
        if !self.enforces() {
            self.memory.in_force = false;
            self.memory.commands.clear();
        }
    }

    /// Takes a sample that was stored `at` with `stream_sequence`; known and older ones, and those of workloads that the policy does not name,
    /// are left out.
    pub fn hear(
        &mut self,
        message: v1::Sample,
        stream_sequence: u64,
        at: Instant,
        now: Instant,
    ) -> Hearing {
        let plan = Arc::clone(&self.plan);
        let Some(policy) = &plan.law else {
            return Hearing::Ignored;
        };
        let named = || {
            let mut critical = policy.critical.iter();
            critical.any(|c| c.workload == message.workload)
        };
        if plan.mode == Mode::Off || !named() {
            return Hearing::Ignored;
        }
        let mut hearing = Hearing::Taken;
        match self.last_sequence(&message.workload) {
            Some(last) if message.sequence == last => return Hearing::Ignored,
            Some(last) if message.sequence < last => {
                match self.count_older(&message.workload, stream_sequence) {
                    None => return Hearing::Ignored,
                    Some(in_a_row) if in_a_row < BELIEVED => return Hearing::Older,
                    Some(_) => {}
                }
                self.forget_sequence(&message.workload);
                hearing = Hearing::Restarted;
            }
            _ => {}
        }
        self.older.remove(&message.workload);
        self.round_began.get_or_insert(now);
        let heard = Heard {
            message: wire::recorded(message, policy),
            at,
            usable: false,
        };
        let workload = heard.message.workload.clone();
        self.round.insert(workload, Box::new(heard));
        hearing
    }

    /// The sequence of the newest sample of a workload, evaluated or not.
    fn last_sequence(&self, workload: &str) -> Option<u64> {
        let used = self.memory.law.workload(workload);
        let used = used.and_then(|known| known.last_sequence);
        let evaluated = self.standing.get(workload).map(|s| s.sequence);
        let heard = self.round.get(workload).map(|h| h.message.sequence);
        used.max(evaluated).max(heard)
    }

    /// Counts an older sample; `None`: it is counted already.
    fn count_older(&mut self, workload: &str, stream_sequence: u64) -> Option<u8> {
        let older = self.older.entry(workload.to_owned()).or_insert(Older {
            in_a_row: 0,
            stream_sequence: 0,
        });
        (older.stream_sequence != stream_sequence).then(|| {
            older.stream_sequence = stream_sequence;
            older.in_a_row = older.in_a_row.saturating_add(1);
            older.in_a_row
        })
    }

    fn forget_sequence(&mut self, workload: &str) {
        self.standing.remove(workload);
        self.round.remove(workload);
        let mut known = self.memory.law.workloads.iter_mut();
        if let Some(known) = known.find(|known| known.workload == workload) {
            known.last_sequence = None;
        }
    }

    /// When [`Engine::step`] is to be called although nothing new comes in. `None`: it need not.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        if self.is_due(now) {
            return Some(now);
        }
        self.round_began.map(|began| began + ROUND)
    }

    fn is_due(&self, now: Instant) -> bool {
        let complete = || {
            self.plan
                .law
                .as_ref()
                .is_some_and(|policy| self.round.len() >= policy.critical.len())
        };
        self.stirred.is_some()
            || self
                .round_began
                .is_some_and(|began| complete() || now >= began + ROUND)
    }

    /// Evaluates once for each set of samples, and when something else calls for it. `now_ms` is Unix time and stands in the decision.
    pub fn step(&mut self, now: Instant, now_ms: i64) -> Step {
        if !self.is_due(now) {
            return Step::Quiet;
        }
        let stirred = self.stirred.take();
        self.round_began = None;
        let mut round = std::mem::take(&mut self.round);
        let read = |heard: &mut Box<Heard>| heard.read(now, now_ms);
        let samples: Vec<Sample> = round.values_mut().map(read).collect();
        let plan = Arc::clone(&self.plan);
        let Some(policy) = &plan.law else {
            return Step::Quiet;
        };
        if plan.mode == Mode::Off {
            return self.rest(stirred);
        }

        let (inputs, enforced) = self.inputs(policy, samples, now_ms);
        let mut evaluation = inputs.decide();
        self.note_usable(policy, &round, &inputs, &evaluation, now);
        self.compare(&plan, &round, &inputs, &evaluation, enforced, now);

        let law = std::mem::take(&mut evaluation.state);
        let sequence = self.memory.sequence.saturating_add(1);
        let (commands, reissued) = self.issue(enforced, &law, policy, &inputs, sequence);
        let action = evaluation.action.as_str();
        let repeats = |said: &Said| {
            said.action == action
                && said.gate == inputs.gate
                && said.generation == plan.generation
                && said.mode == plan.mode.as_str()
        };
        let is_news = !self.memory.said.as_ref().is_some_and(repeats)
            || plan.uid != self.memory.uid
            || evaluation.limits.iter().any(LimitChange::is_changed)
            || inputs.note.is_some()
            || reissued;
        let is_time = self
            .said_at
            .is_none_or(|at| now.saturating_duration_since(at) >= REPEAT);
        if !is_news && !is_time {
            self.repeats += 1;
            self.memory.law = law;
            return Step::Quiet;
        }

        let memory = Memory {
            uid: plan.uid.clone(),
            owner: self.memory.owner.clone(),
            term: self.memory.term,
            sequence,
            in_force: enforced,
            law,
            commands: commands.into_owned(),
            said: Some(Said {
                action: action.to_owned(),
                gate: inputs.gate.clone(),
                generation: plan.generation,
                mode: plan.mode.as_str().to_owned(),
            }),
            outbox: None,
        };
        let cause = match stirred {
            Some(cause) if round.is_empty() => cause.as_str(),
            _ => "samples",
        };
        let decision = self.decision(cause, &inputs, &evaluation, &round, &memory);
        Step::Commit(Box::new(Proposal {
            memory,
            decision: Some(decision),
            stirred,
        }))
    }

    /// The policy is off: what was in force no longer is, and there is nothing to decide.
    fn rest(&self, stirred: Option<Cause>) -> Step {
        let memory = Memory {
            uid: self.plan.uid.clone(),
            ..self.memory.tombstone()
        };
        if stirred.is_none() {
            return Step::Quiet;
        }
        Step::Commit(Box::new(Proposal {
            memory,
            decision: None,
            stirred,
        }))
    }

    /// What to decide from, and whether the limits are those of the pods afterwards.
    fn inputs(&self, policy: &Policy, samples: Vec<Sample>, now_ms: i64) -> (Inputs, bool) {
        let begins = self.enforces() && !self.memory.in_force;
        let mut state = self.memory.law.clone();
        let mut note = None;
        let over = self.over.as_ref().filter(|over| over.holds(now_ms));
        let mut gate = match over {
            Some(Override::Release { by, .. }) => Some(Gate::Released { by: by.clone() }),
            Some(Override::Freeze { by, .. }) => Some(Gate::Frozen { by: by.clone() }),
            None => None,
        };
        if !matches!(gate, Some(Gate::Released { .. }))
            && let Some(class) = self.unplaced()
        {
            gate = Some(Gate::Unplaced { class });
        }
        if !matches!(
            gate,
            Some(Gate::Released { .. }) | Some(Gate::Unplaced { .. })
        ) {
            if begins {
                state = State {
                    workloads: state.workloads,
                    ..State::default()
                };
            }
            let mut begun = Vec::new();
            for class in &policy.classes {
                if state.limit_bps(&class.name).is_none() {
                    let limit_bps = self.start_bps(class).unwrap_or(class.max_bps);
                    begun.push(format!("{} {} Mbit/s", class.name, limit_bps / 1e6));
                    state.limits.push(Limit {
                        class: class.name.clone(),
                        limit_bps,
                    });
                }
            }
            if !begun.is_empty() {
                note = Some(format!(
                    "Begins at the limits found, or the maximum where there are none: {}.",
                    begun.join(", ")
                ));
            }
        }
        let enforced = self.enforces()
            && (self.memory.in_force || !matches!(gate, Some(Gate::Unplaced { .. })));
        let inputs = Inputs {
            now_ms,
            policy: policy.clone(),
            state,
            samples,
            gate,
            note,
        };
        (inputs, enforced)
    }

    /// Whether pods are to have limits at all.
    fn enforces(&self) -> bool {
        self.plan.law.is_some()
            && self.plan.mode == Mode::Enforce
            && !matches!(self.over, Some(Override::Release { .. }))
    }

    /// The first class that has no limit yet and whose placement is not known.
    fn unplaced(&self) -> Option<String> {
        let policy = self.plan.law.as_ref()?;
        let begins = self.enforces() && !self.memory.in_force;
        policy
            .classes
            .iter()
            .find(|class| {
                (begins || self.memory.law.limit_bps(&class.name).is_none())
                    && self.start_bps(class).is_none()
            })
            .map(|class| class.name.clone())
    }

    /// Where a class begins: at the limit found on its pods, else at the top. `None`: its placement is not known.
    fn start_bps(&self, class: &Class) -> Option<f64> {
        let placement = self.placement.as_ref()?;
        let placed = placement.classes.iter().find(|c| c.class == class.name)?;
        Some(class.clamp(placed.found_bps.unwrap_or(class.max_bps)))
    }

    /// The commands in force from now on, and whether one is new or says something else. Mostly those that are in force already.
    fn issue(
        &self,
        enforced: bool,
        law: &State,
        policy: &Policy,
        inputs: &Inputs,
        sequence: u64,
    ) -> (Cow<'_, BTreeMap<String, Issued>>, bool) {
        let mut commands = Cow::Borrowed(&self.memory.commands);
        if !enforced {
            let revoked = !commands.is_empty();
            return (Cow::Owned(BTreeMap::new()), revoked);
        }
        let named = |name: &String| policy.classes.iter().any(|class| class.name == *name);
        if !commands.keys().all(named) {
            commands.to_mut().retain(|name, _| named(name));
        }
        if matches!(inputs.gate, Some(Gate::Unplaced { .. })) {
            return (commands, false);
        }
        let mut reissued = false;
        for class in &policy.classes {
            let Some(limit_bps) = law.limit_bps(&class.name) else {
                continue;
            };
            let content = Content {
                limit_bps,
                restore: self.plan.open_ended.contains(&class.name) && limit_bps >= class.max_bps,
                valid_for_ms: self.plan.valid_for.as_millis() as u64,
                on_stale: self.plan.on_stale.into(),
            };
            let same = commands
                .get(&class.name)
                .is_some_and(|issued| issued.content == content);
            if !same {
                reissued = true;
                let issued = Issued {
                    content,
                    term: self.memory.term,
                    sequence,
                };
                commands.to_mut().insert(class.name.clone(), issued);
            }
        }
        (commands, reissued)
    }

    /// Remembers for each workload whether its newest sample can carry a command.
    fn note_usable(
        &mut self,
        policy: &Policy,
        round: &BTreeMap<String, Box<Heard>>,
        inputs: &Inputs,
        evaluation: &Evaluation,
        now: Instant,
    ) {
        let named = |name: &str| policy.critical.iter().any(|c| c.workload == name);
        self.standing.retain(|name, _| named(name));
        self.older.retain(|name, _| named(name));
        for (name, heard) in round {
            // the law took it in, unless it was not asked
            let counted = inputs.gate.is_some()
                || evaluation
                    .state
                    .workload(name)
                    .is_some_and(|workload| workload.evidence.is_some());
            let is_new = now.saturating_duration_since(heard.at) <= LONGEST_LAG;
            let usable = counted && heard.usable && is_new;
            let standing = Standing {
                sequence: heard.message.sequence,
                usable: usable.then_some(heard.at),
            };
            self.standing.insert(name.clone(), standing);
        }
    }

    /// Whether the newest sample of every critical workload is usable and came within the validity of a command.
    fn sees(&self, now: Instant) -> bool {
        let Some(policy) = &self.plan.law else {
            return false;
        };
        policy.critical.iter().all(|critical| {
            self.standing
                .get(&critical.workload)
                .and_then(|standing| standing.usable)
                .is_some_and(|at| now.saturating_duration_since(at) <= self.plan.valid_for)
        })
    }

    fn decision(
        &self,
        cause: &str,
        inputs: &Inputs,
        evaluation: &Evaluation,
        round: &BTreeMap<String, Box<Heard>>,
        memory: &Memory,
    ) -> v1::Decision {
        v1::Decision {
            cluster: self.name.cluster.clone(),
            policy: self.name.policy.clone(),
            law: inputs.policy.law.name().to_owned(),
            shadow: false,
            term: memory.term,
            sequence: memory.sequence,
            decided_at: Some(timestamp_from_ms(inputs.now_ms)),
            action: evaluation.action.to_string(),
            reason: evaluation.reason.clone(),
            limits: decide::limits(evaluation),
            samples: round.values().map(|heard| heard.message.clone()).collect(),
            repeats: self.repeats,
            state: inputs.recorded_state(),
            parameters: inputs.parameters(),
            mode: self.plan.mode.as_str().to_owned(),
            policy_generation: self.plan.generation,
            cause: cause.to_owned(),
            shadow_name: String::new(),
            comparison: self.shadows.totals(None),
        }
    }

    /// Evaluates the laws in shadow over the same samples. Nothing that comes of it reaches the memory, a command, or what the law in force
    /// is given.
    fn compare(
        &mut self,
        plan: &Plan,
        round: &BTreeMap<String, Box<Heard>>,
        inputs: &Inputs,
        evaluation: &Evaluation,
        applied: bool,
        now: Instant,
    ) {
        if round.is_empty() || matches!(inputs.gate, Some(Gate::Unplaced { .. })) {
            return;
        }
        // what decisions of shadows say is made only where there are any
        let template = (!plan.shadows.is_empty()).then(|| v1::Decision {
            cluster: self.name.cluster.clone(),
            policy: self.name.policy.clone(),
            mode: plan.mode.as_str().to_owned(),
            policy_generation: plan.generation,
            cause: "samples".to_owned(),
            samples: round.values().map(|heard| heard.message.clone()).collect(),
            ..v1::Decision::default()
        });
        let round = Round {
            now,
            inputs,
            evaluation,
            applied,
            template: template.unwrap_or_default(),
        };
        self.shadows.round(&plan.shadows, round);
    }

    /// Shadow decisions to be published now, after the decision in force and its commands; once. Losing them loses nothing that
    /// counts.
    pub fn shadow_decisions(&mut self) -> Vec<v1::Decision> {
        let due = self.shadows.due(self.memory.term, self.memory.sequence);
        // the law in force speaks first in a term: a decision that lost the race for its commit was never published
        if self.said_at.is_some() {
            due
        } else {
            Vec::new()
        }
    }

    /// What is to be kept of the shadows for the next owner. `None`: there are none.
    pub fn shadow_memory(&self) -> Option<Kept> {
        (!self.plan.shadows.is_empty()).then(|| Kept {
            uid: self.plan.uid.clone(),
            ledger: self.shadows.ledger().clone(),
        })
    }

    /// What each law came to in the last round, for metrics; once.
    pub(crate) fn counted(&mut self) -> Vec<Counted> {
        self.shadows.counted()
    }

    /// The proposal is committed. Returns its decision, to be published.
    pub fn settle(&mut self, proposal: Proposal, now: Instant) -> Option<v1::Decision> {
        self.replace_memory(proposal.memory);
        if proposal.decision.is_some() {
            self.said_at = Some(now);
            self.repeats = 0;
        }
        proposal.decision
    }

    /// What was sent of a command counts as long as the same command is in force: its renewals go on, they do not begin again.
    fn replace_memory(&mut self, memory: Memory) {
        let before = std::mem::replace(&mut self.memory, memory);
        self.sent.retain(|class, _| {
            self.memory
                .commands
                .get(class)
                .is_some_and(|issued| before.commands.get(class) == Some(issued))
        });
    }

    /// The proposal could not be committed: it never happened. What called for it other than samples still does.
    pub fn abandon(&mut self, proposal: &Proposal) {
        self.stirred = self.stirred.or(proposal.stirred);
    }

    /// Commands to publish now: those that were not yet, and renewals, a third of the validity after the last publication. None while the
    /// samples are not usable, so that the commands run out.
    pub fn due(&self, now: Instant, now_ms: i64) -> Vec<v1::Command> {
        if !self.enforces() || !self.memory.in_force || !self.sees(now) {
            return Vec::new();
        }
        let commands = self.memory.commands.iter().filter_map(|(class, issued)| {
            let valid_for = Duration::from_millis(issued.content.valid_for_ms);
            let renewal = match self.sent.get(class) {
                None => 0,
                // a tenth early: samples come in steps, and the next one could be too late
                Some(sent)
                    if now.saturating_duration_since(sent.at) >= (valid_for / 3).mul_f64(0.9) =>
                {
                    sent.renewal + 1
                }
                Some(_) => return None,
            };
            Some(v1::Command {
                cluster: self.name.cluster.clone(),
                policy: self.name.policy.clone(),
                class: class.clone(),
                limit_bps: Some(issued.content.limit_bps),
                nodes: Vec::new(),
                term: issued.term,
                sequence: issued.sequence,
                renewal,
                issued_at: Some(timestamp_from_ms(now_ms)),
                valid_for: Some(to_wire(valid_for)),
                on_stale: issued.content.on_stale,
                restore: issued.content.restore,
            })
        });
        commands.collect()
    }

    /// A command that was due is published.
    pub fn sent(&mut self, command: &v1::Command, now: Instant) {
        let in_force = |issued: &Issued| (issued.term, issued.sequence) == order(command);
        if self
            .memory
            .commands
            .get(&command.class)
            .is_some_and(in_force)
        {
            self.sent.insert(
                command.class.clone(),
                Sent {
                    renewal: command.renewal,
                    at: now,
                },
            );
        }
    }
}

/// What orders the commands of a class.
pub(crate) fn order(command: &v1::Command) -> (u64, u64) {
    (command.term, command.sequence)
}

/// Whether a sample, as the collector wrote it, said something about when it was written. Both of its times are by one clock.
fn is_usable(sample: &Sample) -> bool {
    (sample.quality.is_measured() || sample.quality == Quality::Idle)
        && sample.is_well_formed()
        && sample.window_end_ms > 0
        && sample.observed_at_ms.saturating_sub(sample.window_end_ms)
            <= LONGEST_LAG.as_millis() as i64
}

#[cfg(test)]
mod tests;
