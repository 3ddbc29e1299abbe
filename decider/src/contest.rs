//! Who is right when a write is refused: pure rules on what is found instead.

use laneguard_proto::v1;

use crate::engine::order;
use crate::memory::Memory;

/// What a refused commit leads to.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// The store was wiped, or holds garbage or something older: write over what has this revision. `None`: there is nothing.
    Write(Option<u64>),
    /// It is stored at this revision; only the answer was lost.
    Stored(u64),
    /// An earlier attempt of ours was stored although its answer was lost. It is committed: go on from it.
    Ours(Box<Memory>, u64),
    /// Somebody else owns the policy now.
    Lost,
}

/// Judges a commit that was refused because the key changed. `found`: what the key holds now, with its revision. `now_ms` is Unix time.
pub fn commit(
    attempted: &Memory,
    bytes: &[u8],
    found: Option<(&[u8], u64)>,
    now_ms: i64,
) -> Verdict {
    let Some((stored, revision)) = found else {
        return Verdict::Write(None);
    };
    if stored == bytes {
        return Verdict::Stored(revision);
    }
    match Memory::from_json(stored).filter(|memory| memory.is_plausible(now_ms)) {
        None => Verdict::Write(Some(revision)),
        Some(memory) if memory.owner == attempted.owner => {
            if (memory.term, memory.sequence) >= (attempted.term, attempted.sequence) {
                Verdict::Ours(Box::new(memory), revision)
            } else {
                Verdict::Write(Some(revision))
            }
        }
        Some(memory) if memory.term >= attempted.term => Verdict::Lost,
        Some(_) => Verdict::Write(Some(revision)),
    }
}

/// What a refused publication leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The stream was wiped, or holds garbage or something older: publish over it.
    Publish,
    /// It is there, or a later renewal of it is; only the answer was lost.
    Stored,
    /// Somebody else owns the policy now.
    Lost,
}

/// Judges a command that was refused because the subject's last message is not the one expected. `found`: that message.
pub fn command(ours: &v1::Command, found: Option<&v1::Command>) -> Answer {
    match found {
        Some(last) if order(last) > order(ours) => Answer::Lost,
        Some(last) if order(last) == order(ours) && last.renewal >= ours.renewal => Answer::Stored,
        _ => Answer::Publish,
    }
}

/// Judges a decision that was refused because the subject's last message is not the one expected. `found`: that message. A shadow
/// decision beside it says nothing about who owns the policy.
pub fn decision(ours: &v1::Decision, found: Option<&v1::Decision>) -> Answer {
    let order = |decision: &v1::Decision| (decision.term, decision.sequence);
    match found.filter(|last| !last.shadow) {
        Some(last) if order(last) > order(ours) => Answer::Lost,
        Some(last) if order(last) == order(ours) => Answer::Stored,
        _ => Answer::Publish,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(owner: &str, term: u64, sequence: u64) -> Memory {
        Memory {
            owner: owner.into(),
            term,
            sequence,
            ..Memory::default()
        }
    }

    #[test]
    fn a_refused_commit_is_judged_by_who_wrote_what_is_there() {
        let attempted = memory("me", 10, 5);
        let bytes = attempted.to_json().unwrap();
        let judge = |found: Option<&[u8]>| commit(&attempted, &bytes, found.map(|b| (b, 7)), 1_000);
        let against = |found: &Memory| judge(Some(&found.to_json().unwrap()));

        assert_eq!(judge(None), Verdict::Write(None), "wiped");
        assert_eq!(judge(Some(b"{")), Verdict::Write(Some(7)), "garbage");
        assert_eq!(
            judge(Some(&bytes)),
            Verdict::Stored(7),
            "only the answer was lost"
        );
        assert_eq!(
            against(&memory("other", 9, 50)),
            Verdict::Write(Some(7)),
            "an older owner"
        );
        assert_eq!(
            against(&memory("other", 11, 1)),
            Verdict::Lost,
            "a newer owner"
        );
        for (term, sequence) in [(u64::MAX, 1), (11, u64::MAX)] {
            assert_eq!(
                against(&memory("other", term, sequence)),
                Verdict::Write(Some(7)),
                "nobody could go above it"
            );
        }
        assert_eq!(
            against(&memory("other", 10, 1)),
            Verdict::Lost,
            "an owner who took the same term first"
        );
        assert_eq!(
            against(&memory("me", 10, 4)),
            Verdict::Write(Some(7)),
            "our former write"
        );
        let mut other_content = memory("me", 10, 5);
        other_content.in_force = true;
        assert_eq!(
            against(&other_content),
            Verdict::Ours(Box::new(other_content.clone()), 7),
            "an attempt whose answer was lost"
        );
    }

    #[test]
    fn a_refused_command_is_judged_by_what_is_there() {
        let command = |term, sequence, renewal| v1::Command {
            term,
            sequence,
            renewal,
            ..Default::default()
        };
        let ours = command(10, 5, 2);
        for (found, answer) in [
            (None, Answer::Publish),
            (Some(command(9, 99, 0)), Answer::Publish),
            (Some(command(10, 4, 7)), Answer::Publish),
            (Some(command(10, 5, 1)), Answer::Publish),
            (Some(command(10, 5, 2)), Answer::Stored),
            (Some(command(10, 6, 0)), Answer::Lost),
            (Some(command(11, 1, 0)), Answer::Lost),
        ] {
            assert_eq!(super::command(&ours, found.as_ref()), answer, "{found:?}");
        }
    }

    #[test]
    fn a_refused_decision_is_judged_by_what_is_there_and_shadows_do_not_count() {
        let decision = |term, sequence, shadow| v1::Decision {
            term,
            sequence,
            shadow,
            ..Default::default()
        };
        let ours = decision(10, 5, false);
        for (found, answer) in [
            (None, Answer::Publish),
            (Some(decision(10, 4, false)), Answer::Publish),
            (Some(decision(9, 99, false)), Answer::Publish),
            (Some(decision(99, 99, true)), Answer::Publish),
            (Some(decision(10, 5, false)), Answer::Stored),
            (Some(decision(11, 6, false)), Answer::Lost),
        ] {
            assert_eq!(super::decision(&ours, found.as_ref()), answer, "{found:?}");
        }
    }
}
