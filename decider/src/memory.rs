//! What the decider remembers of a policy beyond its own life: the value of `decider.<cluster>.<policy>` in the bucket
//! `laneguard-state`. Writing it is the commit of a decision and its commands; whoever owns the policy next goes on from here.

use std::collections::BTreeMap;

use laneguard_decider_core::state::State;
use laneguard_proto::codec::{self, Encoding};
use laneguard_proto::{MOST_SEQUENCE, plausible_term, v1};
use serde::{Deserialize, Serialize};

use crate::decide::Gate;

/// The memory of one policy.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    /// The object's life that the limits belong to.
    pub uid: String,
    /// The process that wrote this: tells two owners apart that took the same term at the same moment.
    pub owner: String,
    /// Of the owner who wrote this.
    pub term: u64,
    /// Of the newest decision.
    pub sequence: u64,
    /// Whether the limits are those of the pods: the policy enforces and is not released. If not, enforcement starts from what is found.
    pub in_force: bool,
    /// The law's state after the newest committed decision.
    pub law: State,
    /// The command in force of each class.
    pub commands: BTreeMap<String, Issued>,
    /// What the newest decision said, to tell a repetition from news.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub said: Option<Said>,
    /// The newest decision, to be published by the next owner if this one dies first. Encoded as protobuf, in hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outbox: Option<String>,
}

/// A command in force, without what changes from renewal to renewal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Issued {
    /// What it says.
    #[serde(flatten)]
    pub content: Content,
    /// Of the owner who asserts it.
    pub term: u64,
    /// Of the decision it follows from.
    pub sequence: u64,
}

/// What a command says.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Content {
    /// Bits per second per pod.
    pub limit_bps: f64,
    /// No limit: what was found returns.
    pub restore: bool,
    /// Milliseconds without renewal until it expires.
    pub valid_for_ms: u64,
    /// What follows expiry: the number of [`v1::command::OnStale`].
    pub on_stale: i32,
}

/// What a decision said, as far as it counts for whether the next one repeats it. Limits are compared by themselves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Said {
    /// The law's word.
    pub action: String,
    /// Why the law was not asked.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub gate: Option<Gate>,
    /// The policy's generation.
    pub generation: u64,
    /// The policy's mode.
    pub mode: String,
}

/// The largest decision that is kept, bytes. In hexadecimal digits it takes half of what NATS stores at most, 1 MiB.
const MOST_KEPT: usize = 256 * 1024;

/// Why a decision is not kept for the next owner.
#[derive(Debug, thiserror::Error)]
pub enum NotKept {
    /// It cannot be encoded.
    #[error(transparent)]
    Encode(#[from] codec::EncodeError),
    /// It would make the memory too large to be stored.
    #[error("it has {0} bytes, the most is {MOST_KEPT}")]
    TooLarge(usize),
}

impl Memory {
    /// From the value of the key. Garbage is `None`: it is replaced like a value that is missing.
    pub fn from_json(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }

    /// Whether term and sequence can have come about by the rules. If not, it is garbage: nobody could ever go above it.
    pub fn is_plausible(&self, now_ms: i64) -> bool {
        plausible_term(self.term, now_ms) && self.sequence <= MOST_SEQUENCE
    }

    /// The value of the key.
    ///
    /// # Errors
    /// Those of JSON, which cannot write a number that is not finite; validated policies lead to none.
    pub fn to_json(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(self)
    }

    /// The decision that may still have to be published. `None`: none, or it cannot be read.
    pub fn decision(&self) -> Option<v1::Decision> {
        let bytes = from_hex(self.outbox.as_deref()?)?;
        codec::decode(&bytes, None).ok()
    }

    /// Keeps a decision in the outbox. One that cannot be kept leaves it empty: the memory must be storable.
    ///
    /// # Errors
    /// Those of the codec, and when the decision is too large.
    pub fn keep(&mut self, decision: &v1::Decision) -> Result<(), NotKept> {
        self.outbox = None;
        let bytes = codec::encode(decision, Encoding::Protobuf)?;
        if bytes.len() > MOST_KEPT {
            return Err(NotKept::TooLarge(bytes.len()));
        }
        self.outbox = Some(to_hex(&bytes));
        Ok(())
    }

    /// What remains of a deleted policy: who decided last. An object of the same name begins anew, with later commands.
    pub fn tombstone(&self) -> Self {
        Self {
            uid: self.uid.clone(),
            owner: self.owner.clone(),
            term: self.term,
            sequence: self.sequence,
            ..Self::default()
        }
    }
}

fn to_hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |c: u8| char::from(c).to_digit(16).map(|d| d as u8);
    text.as_bytes()
        .chunks(2)
        .map(|pair| match pair {
            [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use laneguard_proto::duration::timestamp_from_ms;

    #[test]
    fn a_memory_is_read_back_as_it_was_written() {
        let decision = v1::Decision {
            cluster: "default".into(),
            policy: "default".into(),
            term: 1_764_000_000_000,
            sequence: 3,
            decided_at: Some(timestamp_from_ms(1)),
            ..Default::default()
        };
        let mut memory = Memory {
            uid: "u".into(),
            owner: "me".into(),
            term: u64::MAX,
            sequence: 3,
            in_force: true,
            law: State::new([("bulk", 123_456_789.123)]),
            commands: BTreeMap::from([(
                "bulk".to_owned(),
                Issued {
                    content: Content {
                        limit_bps: 1e9,
                        restore: true,
                        valid_for_ms: 15_000,
                        on_stale: 2,
                    },
                    term: 2,
                    sequence: 3,
                },
            )]),
            said: Some(Said {
                action: "HOLD".into(),
                gate: Some(Gate::Released { by: "me".into() }),
                generation: 2,
                mode: "Enforce".into(),
            }),
            outbox: None,
        };
        memory.keep(&decision).unwrap();
        let back = Memory::from_json(&memory.to_json().unwrap()).unwrap();
        assert_eq!(back, memory);
        assert_eq!(back.decision(), Some(decision));
    }

    #[test]
    fn a_decision_too_large_for_the_store_is_left_out_and_the_memory_stays_storable() {
        let decision = v1::Decision {
            samples: vec![v1::Sample::default(); 300_000],
            ..Default::default()
        };
        let mut memory = Memory {
            outbox: Some("00".into()),
            ..Memory::default()
        };
        assert!(matches!(memory.keep(&decision), Err(NotKept::TooLarge(_))));
        assert_eq!(memory.outbox, None);
    }

    #[test]
    fn garbage_in_the_store_is_no_memory_and_no_decision() {
        assert_eq!(Memory::from_json(b"\xff{"), None);
        for outbox in ["", "0", "zz", "00ff"] {
            let memory = Memory {
                outbox: Some(outbox.into()),
                ..Memory::default()
            };
            assert_eq!(memory.decision(), None, "{outbox:?}");
        }
    }

    #[test]
    fn a_tombstone_keeps_what_orders_later_commands_and_no_limit() {
        let memory = Memory {
            uid: "u".into(),
            term: 5,
            sequence: 9,
            in_force: true,
            law: State::new([("bulk", 1e8)]),
            outbox: Some("00".into()),
            ..Memory::default()
        };
        let left = memory.tombstone();
        assert_eq!((left.term, left.sequence), (5, 9));
        assert!(!left.in_force && left.law.limits.is_empty() && left.outbox.is_none());
    }
}
