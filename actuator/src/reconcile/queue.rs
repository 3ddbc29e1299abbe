//! Which pods are looked at next, and which later.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};

use tokio::time::Instant;

use crate::pods::Key;

/// Pods to be looked at, each once.
#[derive(Debug, Default)]
pub(super) struct Queue {
    order: VecDeque<Key>,
    members: HashSet<Key>,
}

impl Queue {
    pub(super) fn push(&mut self, key: Key, urgent: bool) {
        if self.members.insert(key.clone()) {
            if urgent {
                self.order.push_front(key);
            } else {
                self.order.push_back(key);
            }
        }
    }

    pub(super) fn pop(&mut self) -> Option<Key> {
        let key = self.order.pop_front()?;
        self.members.remove(&key);
        Some(key)
    }

    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    pub(super) fn clear(&mut self) {
        self.order.clear();
        self.members.clear();
    }
}

/// Pods to be looked at later, each once, at the earliest time asked for.
#[derive(Debug, Default)]
pub(super) struct Wakes {
    order: BTreeSet<(Instant, Key)>,
    at: HashMap<Key, Instant>,
}

impl Wakes {
    pub(super) fn add(&mut self, key: &Key, at: Instant) {
        let earliest = self.at.get(key).map_or(at, |known| at.min(*known));
        if let Some(known) = self.at.insert(key.clone(), earliest) {
            self.order.remove(&(known, key.clone()));
        }
        self.order.insert((earliest, key.clone()));
    }

    pub(super) fn due(&mut self, now: Instant) -> Option<Key> {
        let (at, _) = self.order.first()?;
        if *at > now {
            return None;
        }
        let (_, key) = self.order.pop_first()?;
        self.at.remove(&key);
        Some(key)
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.order.first().map(|(at, _)| *at)
    }
}
