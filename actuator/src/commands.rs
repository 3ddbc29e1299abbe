//! Which command is in force for each class, and until when.
//!
//! Pure: time is an argument. Commands are kept whatever the policies say at the moment; whether they are carried out is decided when
//! pods are planned. So a policy and a command may arrive in any order.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use laneguard_proto::policy::{OnStale, StaleAction};
use laneguard_proto::subject::Token;
use tokio::time::Instant;

use crate::policies::Slot;

/// A command as it was received.
#[derive(Debug, Clone, PartialEq)]
pub struct Command {
    /// The class it is about.
    pub slot: Slot,
    /// Orders commands, before `sequence`.
    pub term: u64,
    /// Orders commands within a term.
    pub sequence: u64,
    /// What is wanted of every pod.
    pub wanted: Wanted,
    /// Other limits on these nodes, bits per second.
    pub nodes: BTreeMap<String, f64>,
    /// How long it is in force from receipt.
    pub valid_for: Duration,
    /// What follows.
    pub on_stale: StaleAction,
}

impl Command {
    fn number(&self) -> (u64, u64) {
        (self.term, self.sequence)
    }

    /// What follows when nobody renews it is the policy owner's to say, not the decider's: it may only be valid for less.
    pub fn obey(&mut self, on_stale: &OnStale) {
        self.on_stale = on_stale.action;
        self.valid_for = self.valid_for.min(on_stale.after);
    }
}

/// What a command wants of a pod.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Wanted {
    /// At most so many bits per second.
    Limit(f64),
    /// No limit of ours.
    Restore,
}

/// What became of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is in force.
    New,
    /// It was in force and is now for longer.
    Renewed,
    /// It had expired and is in force again.
    Revived,
    /// A newer one is known.
    Refused {
        /// The greatest term known.
        highest_term: u64,
        /// The term is older, not only the sequence.
        older_term: bool,
    },
}

/// A command in force, or expired and waiting for a new one.
#[derive(Debug, Clone, PartialEq)]
pub struct InForce {
    /// The command.
    pub command: Command,
    /// When it expires or did.
    pub deadline: Instant,
    /// Whether its expiry has been acted on.
    pub expired: bool,
}

impl InForce {
    /// What is wanted of a pod on a node now; `None` in [`StaleAction::Protect`]'s case: the class's minimum.
    pub fn wanted(&self, node: Option<&str>) -> Option<Wanted> {
        if self.expired {
            match self.command.on_stale {
                StaleAction::Hold => {}
                StaleAction::Protect => return None,
                StaleAction::Release => return Some(Wanted::Restore),
            }
        }
        let there = node.and_then(|node| self.command.nodes.get(node));
        Some(there.map_or(self.command.wanted, |bps| Wanted::Limit(*bps)))
    }
}

#[derive(Debug, Default)]
struct State {
    highest: (u64, u64),
    current: Option<InForce>,
}

/// Every class's command.
#[derive(Debug, Default)]
pub struct Commands(HashMap<Slot, State>);

impl Commands {
    /// Takes a command in. `age` is how long ago it was stored, as far as is known: that much of its validity has passed.
    pub fn accept(&mut self, command: Command, age: Duration, now: Instant) -> Verdict {
        let state = self.0.entry(command.slot.clone()).or_default();
        let known = state.highest;
        let deadline = now + command.valid_for.saturating_sub(age);
        let refused = Verdict::Refused {
            highest_term: known.0,
            older_term: command.term < known.0,
        };
        if command.number() < known {
            return refused;
        }
        state.highest = command.number();
        match &mut state.current {
            Some(current) if current.command.number() == command.number() => {
                let same = (current.command.wanted, &current.command.nodes)
                    == (command.wanted, &command.nodes);
                if !same {
                    // two contents under one number: whoever came first keeps it
                    return refused;
                }
                // a replay has aged as much as the command in force: it must not make a dead decider look alive
                if deadline <= current.deadline {
                    return Verdict::Renewed;
                }
                current.command = command;
                current.deadline = deadline;
                if std::mem::take(&mut current.expired) {
                    Verdict::Revived
                } else {
                    Verdict::Renewed
                }
            }
            current => {
                *current = Some(InForce {
                    command,
                    deadline,
                    expired: false,
                });
                Verdict::New
            }
        }
    }

    /// How many classes are known.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether no class is known.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Forgets the class's command if a newer number is known: it was taken in before that was.
    pub fn drop_outdated(&mut self, slot: &Slot) {
        if let Some(state) = self.0.get_mut(slot) {
            state
                .current
                .take_if(|c| c.command.number() < state.highest);
        }
    }

    /// A number that is known to have been used, from a pod's record or an outcome: nothing older is accepted.
    pub fn raise(&mut self, slot: &Slot, term: u64, sequence: u64) {
        let state = self.0.entry(slot.clone()).or_default();
        state.highest = state.highest.max((term, sequence));
    }

    /// The greatest term known of a class, 0 for none.
    pub fn highest_term(&self, slot: &Slot) -> u64 {
        self.0.get(slot).map_or(0, |state| state.highest.0)
    }

    /// The class's command, in force or expired.
    pub fn get(&self, slot: &Slot) -> Option<&InForce> {
        self.0.get(slot)?.current.as_ref()
    }

    /// Every class with a command.
    pub fn iter(&self) -> impl Iterator<Item = (&Slot, &InForce)> {
        self.0
            .iter()
            .filter_map(|(slot, state)| Some((slot, state.current.as_ref()?)))
    }

    /// Puts the policy's commands under its `onStale`: see [`Command::obey`].
    pub fn obey(&mut self, policy: &Token, on_stale: &OnStale, now: Instant) {
        for (slot, state) in &mut self.0 {
            if slot.policy == *policy
                && let Some(current) = &mut state.current
            {
                current.command.obey(on_stale);
                current.deadline = current.deadline.min(now + on_stale.after);
            }
        }
    }

    /// Forgets every class but these, numbers and all.
    pub fn retain(&mut self, known: impl Fn(&Slot) -> bool) {
        self.0.retain(|slot, _| known(slot));
    }

    /// Forgets the policy's commands, not their numbers: it stopped enforcing, and needs a new command when it starts again.
    pub fn forget(&mut self, policy: &Token) {
        for (slot, state) in &mut self.0 {
            if slot.policy == *policy {
                state.current = None;
            }
        }
    }

    /// Forgets the policy's expired commands, not their numbers: it starts to enforce, and what expired before that was never carried out.
    pub fn forget_expired(&mut self, policy: &Token, now: Instant) {
        for (slot, state) in &mut self.0 {
            if slot.policy == *policy {
                state.current.take_if(|c| c.expired || c.deadline <= now);
            }
        }
    }

    /// When the next command expires.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.iter()
            .filter(|(_, current)| !current.expired)
            .map(|(_, current)| current.deadline)
            .min()
    }

    /// Marks what has expired by `now` and returns it.
    pub fn expire(&mut self, now: Instant) -> Vec<Slot> {
        let mut expired = Vec::new();
        for (slot, state) in &mut self.0 {
            if let Some(current) = &mut state.current
                && !current.expired
                && current.deadline <= now
            {
                current.expired = true;
                expired.push(slot.clone());
            }
        }
        expired
    }
}

/// How old a message is when it is received, by the server's time stamps and our monotonic clock: neither the decider's clock nor this machine's
/// wall clock comes in.
///
/// The server's time now is at least the newest time stamp seen plus what has passed since; a replayed message has that age. The age is never
/// overestimated, so nothing expires early. Should the server's clock jump back, everything would seem old: but a message that was not seen before
/// was stored after the one seen last, and cannot be older than that.
#[derive(Debug, Default)]
pub struct ServerClock {
    newest: Option<(Duration, Instant)>,
    last: Option<(u64, Instant)>,
}

impl ServerClock {
    /// Message number `sequence` of the stream, stored at `stored` since the Unix epoch, was received at `now`; gives its least possible age.
    pub fn age(&mut self, sequence: u64, stored: Duration, now: Instant) -> Duration {
        let server_now = self
            .newest
            .map_or(stored, |(newest, at)| newest + (now - at));
        let age = server_now.saturating_sub(stored);
        let most = self
            .last
            .filter(|(last, _)| sequence > *last)
            .map(|(_, at)| now - at);
        self.last = Some((sequence, now));
        match most {
            Some(most) if age > most => {
                self.newest = Some((stored, now));
                most
            }
            _ => {
                if stored >= server_now {
                    self.newest = Some((stored, now));
                }
                age
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn slot(policy: &str) -> Slot {
        Slot {
            policy: policy.parse().unwrap(),
            class: "bulk".parse().unwrap(),
        }
    }

    pub(crate) fn command(policy: &str, term: u64, sequence: u64, bps: f64) -> Command {
        Command {
            slot: slot(policy),
            term,
            sequence,
            wanted: Wanted::Limit(bps),
            nodes: BTreeMap::new(),
            valid_for: Duration::from_secs(15),
            on_stale: StaleAction::Hold,
        }
    }

    const NO_AGE: Duration = Duration::ZERO;

    #[test]
    fn an_older_command_is_refused_by_term_then_sequence() {
        let (mut commands, now) = (Commands::default(), Instant::now());
        let mut accept = |term, sequence| {
            commands.accept(
                command("p", term, sequence, 1e7 * sequence as f64),
                NO_AGE,
                now,
            )
        };
        let refused = |older_term| Verdict::Refused {
            highest_term: 5,
            older_term,
        };
        assert_eq!(accept(5, 7), Verdict::New);
        assert_eq!(accept(4, 99), refused(true));
        assert_eq!(accept(5, 6), refused(false));
        assert_eq!(accept(5, 7), Verdict::Renewed);
        assert_eq!(accept(6, 1), Verdict::New);
    }

    #[test]
    fn a_renewal_extends_and_a_repetition_does_not() {
        let (mut commands, start) = (Commands::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let first = command("p", 1, 1, 1e8);
        commands.accept(first.clone(), NO_AGE, start);
        commands.accept(first.clone(), Duration::from_secs(10), at(10));
        assert_eq!(
            commands.next_deadline(),
            Some(at(15)),
            "a replay is not a renewal"
        );
        commands.accept(first.clone(), NO_AGE, at(10));
        assert_eq!(commands.next_deadline(), Some(at(25)));
        assert_eq!(commands.expire(at(24)), []);
        assert_eq!(commands.expire(at(25)), [slot("p")]);
        assert_eq!(commands.next_deadline(), None);
        assert_eq!(commands.accept(first, NO_AGE, at(26)), Verdict::Revived);
    }

    #[test]
    fn a_replayed_command_has_only_what_is_left_of_its_validity() {
        let (mut commands, now) = (Commands::default(), Instant::now());
        commands.accept(command("p", 1, 1, 1e8), Duration::from_secs(12), now);
        assert_eq!(commands.next_deadline(), Some(now + Duration::from_secs(3)));
        commands.accept(command("q", 1, 1, 1e8), Duration::from_secs(3600), now);
        assert_eq!(commands.expire(now), [slot("q")]);
    }

    #[test]
    fn one_number_has_one_content() {
        let (mut commands, now) = (Commands::default(), Instant::now());
        commands.accept(command("p", 1, 1, 1e8), NO_AGE, now);
        let verdict = commands.accept(command("p", 1, 1, 9e8), NO_AGE, now);
        assert!(matches!(verdict, Verdict::Refused { .. }));
        let kept = commands.get(&slot("p")).unwrap().command.wanted;
        assert_eq!(kept, Wanted::Limit(1e8));
    }

    #[test]
    fn numbers_survive_forgetting_and_come_from_records_too() {
        let (mut commands, now) = (Commands::default(), Instant::now());
        commands.raise(&slot("p"), 9, 3);
        assert!(matches!(
            commands.accept(command("p", 9, 2, 1e8), NO_AGE, now),
            Verdict::Refused { .. }
        ));
        assert_eq!(
            commands.accept(command("p", 9, 3, 1e8), NO_AGE, now),
            Verdict::New
        );
        commands.forget(&slot("p").policy);
        assert_eq!(commands.get(&slot("p")), None);
        assert_eq!(commands.highest_term(&slot("p")), 9);
    }

    #[test]
    fn a_replay_is_as_old_as_what_has_passed_since_it_was_new() {
        let (mut clock, start) = (ServerClock::default(), Instant::now());
        let seconds = Duration::from_secs;
        assert_eq!(clock.age(7, seconds(1000), start), NO_AGE);
        assert_eq!(clock.age(3, seconds(400), start), seconds(600));
        assert_eq!(clock.age(8, seconds(1005), start + seconds(2)), NO_AGE);
        assert_eq!(
            clock.age(8, seconds(1005), start + seconds(12)),
            seconds(10)
        );
    }

    #[test]
    fn a_server_clock_that_jumps_back_makes_no_new_message_old() {
        let (mut clock, start) = (ServerClock::default(), Instant::now());
        let seconds = Duration::from_secs;
        clock.age(1, seconds(10_000), start);
        assert_eq!(clock.age(2, seconds(6_405), start + seconds(5)), seconds(5));
        assert_eq!(clock.age(3, seconds(6_410), start + seconds(10)), NO_AGE);
    }

    proptest! {
        #[test]
        fn numbers_only_rise_whatever_the_order(numbers in prop::collection::vec((1_u64..4, 1_u64..6), 1..40)) {
            let (mut commands, now) = (Commands::default(), Instant::now());
            let mut highest = (0, 0);
            for (term, sequence) in numbers {
                commands.accept(command("p", term, sequence, (term * 10 + sequence) as f64 * 1e7), NO_AGE, now);
                let current = commands.get(&slot("p")).unwrap().command.number();
                prop_assert!(current >= highest);
                prop_assert_eq!(current, highest.max((term, sequence)));
                highest = current;
            }
        }
    }
}
