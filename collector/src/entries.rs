//! The valid entries of a bucket, one per policy. Pure.
//!
//! An entry that is invalid is refused and the last good one stays. Only a deletion marker removes: an entry that is merely gone
//! may have been lost with its bucket.

use std::collections::BTreeMap;
use std::sync::Arc;

use laneguard_proto::subject::{InvalidToken, Token};
use laneguard_runtime::bus::Change;

/// What is wrong with an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    /// The field's path.
    pub field: String,
    /// What is wrong with it.
    pub problem: String,
}

/// What a change led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Applied {
    /// The entries may differ now.
    Changed,
    /// They are as before.
    Unchanged,
    /// The change was refused, for the first time.
    Refused {
        /// The entry's key.
        key: String,
        /// The entry's revision.
        revision: u64,
        /// What is wrong with it.
        wrong: Wrong,
        /// Whether an earlier entry stays in force.
        kept: bool,
    },
}

/// Entries under `<prefix><policy>`.
#[derive(Debug)]
pub struct Entries<T> {
    prefix: String,
    all: BTreeMap<Token, Arc<T>>,
    /// The revision that was refused last, so that a re-list does not report it again.
    refused: BTreeMap<String, u64>,
    synced: bool,
}

impl<T> Entries<T> {
    /// None yet.
    pub fn new(prefix: String) -> Self {
        Self {
            prefix,
            all: BTreeMap::new(),
            refused: BTreeMap::new(),
            synced: false,
        }
    }

    /// The entries by policy; `None` before everything stored has been read once, when acting on them would only flicker.
    pub fn known(&self) -> Option<&BTreeMap<Token, Arc<T>>> {
        self.synced.then_some(&self.all)
    }

    /// Takes note of a change. `read` gives an entry, `None` when it asks for nothing, or what is wrong with it.
    pub fn apply(
        &mut self,
        change: Change,
        read: impl Fn(&Token, &[u8]) -> Result<Option<T>, Wrong>,
    ) -> Applied {
        match change {
            Change::Synced { .. } => {
                self.synced = true;
                Applied::Changed
            }
            Change::Deleted { key } => {
                self.refused.remove(&key);
                match self.token(&key) {
                    Ok(token) if self.all.remove(&token).is_some() => Applied::Changed,
                    _ => Applied::Unchanged,
                }
            }
            Change::Put {
                key,
                bytes,
                revision,
            } => {
                let token = self.token(&key);
                let entry = token.clone().and_then(|token| read(&token, &bytes));
                match (token, entry) {
                    (Ok(token), Ok(Some(entry))) => {
                        self.refused.remove(&key);
                        self.all.insert(token, Arc::new(entry));
                        Applied::Changed
                    }
                    (Ok(token), Ok(None)) => {
                        self.refused.remove(&key);
                        self.all.remove(&token);
                        Applied::Changed
                    }
                    (token, Err(wrong)) => {
                        if self.refused.insert(key.clone(), revision) == Some(revision) {
                            return Applied::Unchanged;
                        }
                        Applied::Refused {
                            kept: token.is_ok_and(|token| self.all.contains_key(&token)),
                            key,
                            revision,
                            wrong,
                        }
                    }
                    (Err(_), Ok(_)) => Applied::Unchanged,
                }
            }
        }
    }

    fn token(&self, key: &str) -> Result<Token, Wrong> {
        key.strip_prefix(&self.prefix)
            .unwrap_or_default()
            .parse()
            .map_err(|e: InvalidToken| Wrong {
                field: "key".into(),
                problem: e.to_string(),
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str, bytes: &'static [u8], revision: u64) -> Change {
        Change::Put {
            key: key.into(),
            bytes: bytes.into(),
            revision,
        }
    }

    /// Entries are numbers; 0 asks for nothing.
    fn read(_: &Token, bytes: &[u8]) -> Result<Option<u32>, Wrong> {
        let text = String::from_utf8_lossy(bytes);
        let number: u32 = text.parse().map_err(|_| Wrong {
            field: "entry".into(),
            problem: "is no number".into(),
        })?;
        Ok((number != 0).then_some(number))
    }

    fn entries(changes: Vec<Change>) -> (Entries<u32>, Vec<Applied>) {
        let mut entries = Entries::new("c.".into());
        let applied = changes
            .into_iter()
            .map(|change| entries.apply(change, read))
            .collect();
        (entries, applied)
    }

    fn values(entries: &Entries<u32>) -> Vec<(&str, u32)> {
        let known = entries.known().unwrap();
        known.iter().map(|(k, v)| (k.as_str(), **v)).collect()
    }

    fn synced() -> Change {
        Change::Synced {
            keys: Default::default(),
        }
    }

    #[test]
    fn nothing_is_known_before_everything_stored_was_read() {
        let (entries, _) = entries(vec![put("c.a", b"1", 1)]);
        assert!(entries.known().is_none());
    }

    #[test]
    fn an_invalid_entry_is_refused_once_and_the_last_good_one_stays() {
        let bad = || put("c.a", b"x", 2);
        let (entries, applied) = entries(vec![put("c.a", b"1", 1), synced(), bad(), bad()]);
        assert_eq!(values(&entries), [("a", 1)]);
        let wrong = Wrong {
            field: "entry".into(),
            problem: "is no number".into(),
        };
        let refused = Applied::Refused {
            key: "c.a".into(),
            revision: 2,
            wrong,
            kept: true,
        };
        assert_eq!(applied[2..], [refused, Applied::Unchanged]);
    }

    #[test]
    fn only_a_deletion_removes_not_absence_from_a_list() {
        let (mut entries, _) = entries(vec![put("c.a", b"1", 1), put("c.b", b"2", 2), synced()]);
        let _ = entries.apply(synced(), read);
        assert_eq!(values(&entries), [("a", 1), ("b", 2)]);
        let _ = entries.apply(Change::Deleted { key: "c.a".into() }, read);
        let _ = entries.apply(put("c.b", b"0", 3), read);
        assert_eq!(values(&entries), []);
    }

    #[test]
    fn a_key_that_is_no_name_is_refused() {
        let (_, applied) = entries(vec![put("c.a/b", b"1", 1)]);
        assert!(matches!(&applied[0], Applied::Refused { wrong, .. } if wrong.field == "key"));
    }
}
