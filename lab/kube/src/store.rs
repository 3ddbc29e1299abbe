//! The versioned store: current objects, a bounded history of changes per table, and an index of owners.
//!
//! Synchronous and without I/O. Watchers read the history with a cursor, so a slow one costs no memory of its own: when the
//! history has moved past its cursor, it is told so.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    ops::Bound,
    sync::Arc,
};

use serde_json::{Value, json};
use tokio::sync::watch;

use crate::{object::Object, resource::Table};

/// One change. An addition has only `after`, a deletion has `before` and, in `after`, the last state with the deletion's version.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) rv: u64,
    pub(crate) before: Option<Arc<Object>>,
    pub(crate) after: Arc<Object>,
    pub(crate) deleted: bool,
}

/// The asked-for version is older than the history kept.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Compacted {
    /// The oldest version that still works.
    pub(crate) oldest: u64,
}

/// A write whose expectation about what is there did not hold.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Stale;

/// A reference to an object of any table.
pub(crate) type Reference = (Table, String);

#[derive(Debug)]
struct Shelf {
    objects: BTreeMap<String, Arc<Object>>,
    history: VecDeque<Arc<Change>>,
    /// Version of the newest change that the history no longer has.
    dropped: u64,
    /// Watches and snapshots below this are refused.
    floor: u64,
    changed: watch::Sender<u64>,
}

#[derive(Debug)]
pub(crate) struct Store {
    revision: u64,
    shelves: Vec<Shelf>,
    history_limit: usize,
    /// Who is alive, by uid.
    uids: HashMap<String, Reference>,
    /// Objects that name a uid as owner.
    dependents: HashMap<String, BTreeSet<Reference>>,
    changed: watch::Sender<u64>,
}

impl Store {
    /// An empty store that keeps `history_limit` changes per table.
    pub(crate) fn new(history_limit: usize) -> Self {
        let shelf = |_| Shelf {
            objects: BTreeMap::new(),
            history: VecDeque::new(),
            dropped: 0,
            floor: 0,
            changed: watch::Sender::new(0),
        };
        Self {
            // A fresh etcd starts at 1; 0 means "any" in the API.
            revision: 1,
            shelves: Table::ALL.into_iter().map(shelf).collect(),
            history_limit: history_limit.max(1),
            uids: HashMap::new(),
            dependents: HashMap::new(),
            changed: watch::Sender::new(0),
        }
    }

    fn shelf(&self, table: Table) -> &Shelf {
        &self.shelves[table as usize]
    }

    /// The version of the last change of any table.
    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    /// Notified with the version of each change of `table`.
    pub(crate) fn subscribe(&self, table: Table) -> watch::Receiver<u64> {
        self.shelf(table).changed.subscribe()
    }

    /// Notified with the version of each change of any table.
    pub(crate) fn subscribe_all(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    pub(crate) fn get(&self, table: Table, key: &str) -> Option<Arc<Object>> {
        self.shelf(table).objects.get(key).cloned()
    }

    pub(crate) fn by_uid(&self, uid: &str) -> Option<&Reference> {
        self.uids.get(uid)
    }

    /// The objects that name `uid` as owner, in order of table and key.
    pub(crate) fn dependents(&self, uid: &str) -> impl Iterator<Item = &Reference> {
        self.dependents.get(uid).into_iter().flatten()
    }

    /// All objects of a namespace (all namespaces: `None`) in key order, those after `after` only.
    pub(crate) fn list(
        &self,
        table: Table,
        namespace: Option<&str>,
        after: Option<&str>,
    ) -> impl Iterator<Item = &Arc<Object>> {
        let (from, to) = bounds(namespace, after);
        self.shelf(table)
            .objects
            .range((from, to))
            .map(|(_, object)| object)
    }

    /// The same as it was at version `rv`, by undoing the changes since.
    pub(crate) fn list_at(
        &self,
        table: Table,
        namespace: Option<&str>,
        after: Option<&str>,
        rv: u64,
    ) -> Result<Vec<Arc<Object>>, Compacted> {
        let shelf = self.shelf(table);
        let oldest = shelf.dropped.max(shelf.floor);
        if rv < oldest {
            return Err(Compacted { oldest });
        }
        let first = shelf.history.partition_point(|change| change.rv <= rv);
        if first == shelf.history.len() {
            return Ok(self.list(table, namespace, after).cloned().collect());
        }
        let (from, to) = bounds(namespace, after);
        let range = (from, to);
        let mut objects: BTreeMap<&str, Arc<Object>> = shelf
            .objects
            .range(range.clone())
            .map(|(key, object)| (key.as_str(), object.clone()))
            .collect();
        for change in shelf.history.iter().skip(first).rev() {
            let key = change.after.key();
            if !std::ops::RangeBounds::contains(&range, &key.to_owned()) {
                continue;
            }
            match &change.before {
                Some(before) => objects.insert(key, before.clone()),
                None => objects.remove(key),
            };
        }
        Ok(objects.into_values().collect())
    }

    /// Whether a watch may start after version `rv`.
    pub(crate) fn check_start(&self, table: Table, rv: u64) -> Result<(), Compacted> {
        let shelf = self.shelf(table);
        let oldest = shelf.dropped.max(shelf.floor);
        if rv < oldest {
            Err(Compacted { oldest })
        } else {
            Ok(())
        }
    }

    /// Up to `limit` changes after version `rv`, and the version up to which the answer is complete.
    pub(crate) fn changes(
        &self,
        table: Table,
        rv: u64,
        limit: usize,
    ) -> Result<(Vec<Arc<Change>>, u64), Compacted> {
        let shelf = self.shelf(table);
        if rv < shelf.dropped {
            return Err(Compacted {
                oldest: shelf.dropped,
            });
        }
        let first = shelf.history.partition_point(|change| change.rv <= rv);
        let changes: Vec<_> = shelf
            .history
            .iter()
            .skip(first)
            .take(limit)
            .cloned()
            .collect();
        let upto = match changes.last() {
            Some(last) if first + changes.len() < shelf.history.len() => last.rv,
            _ => self.revision.max(rv),
        };
        Ok((changes, upto))
    }

    /// Writes an object with the next version. `expected` is the version it must have now, `None` that it must not exist.
    pub(crate) fn put(
        &mut self,
        table: Table,
        mut value: Value,
        expected: Option<u64>,
    ) -> Result<Arc<Object>, Stale> {
        let rv = self.revision + 1;
        value["metadata"]["resourceVersion"] = json!(rv.to_string());
        let object = Arc::new(Object::new(table.kind(), &value, rv));
        let before = self.get(table, object.key());
        if before.as_ref().map(|before| before.rv()) != expected {
            return Err(Stale);
        }
        if let Some(before) = &before {
            self.unindex(table, before);
        }
        self.uids
            .insert(object.uid().to_owned(), (table, object.key().to_owned()));
        for owner in object.owners() {
            self.dependents
                .entry(owner.uid.clone())
                .or_default()
                .insert((table, object.key().to_owned()));
        }
        self.shelves[table as usize]
            .objects
            .insert(object.key().to_owned(), object.clone());
        self.record(table, before, object.clone(), false);
        Ok(object)
    }

    /// Removes an object that has version `expected`. Gives its last state, with the deletion's version.
    pub(crate) fn remove(
        &mut self,
        table: Table,
        key: &str,
        expected: u64,
    ) -> Result<Arc<Object>, Stale> {
        let before = self.get(table, key).ok_or(Stale)?;
        if before.rv() != expected {
            return Err(Stale);
        }
        let rv = self.revision + 1;
        let after = Arc::new(with_version(table, &before, rv));
        self.unindex(table, &before);
        self.shelves[table as usize].objects.remove(key);
        self.record(table, Some(before), after.clone(), true);
        Ok(after)
    }

    /// Forgets all history, as a compaction does: watches and continued lists from before now are refused.
    pub(crate) fn compact(&mut self) {
        let revision = self.revision;
        for shelf in &mut self.shelves {
            if let Some(last) = shelf.history.back() {
                shelf.dropped = last.rv;
            }
            shelf.history.clear();
            shelf.floor = revision;
        }
    }

    fn unindex(&mut self, table: Table, object: &Object) {
        self.uids.remove(object.uid());
        for owner in object.owners() {
            if let Some(references) = self.dependents.get_mut(&owner.uid) {
                references.remove(&(table, object.key().to_owned()));
                if references.is_empty() {
                    self.dependents.remove(&owner.uid);
                }
            }
        }
    }

    fn record(
        &mut self,
        table: Table,
        before: Option<Arc<Object>>,
        after: Arc<Object>,
        deleted: bool,
    ) {
        self.revision += 1;
        let rv = self.revision;
        let limit = self.history_limit;
        let shelf = &mut self.shelves[table as usize];
        shelf.history.push_back(Arc::new(Change {
            rv,
            before,
            after,
            deleted,
        }));
        if shelf.history.len() > limit
            && let Some(oldest) = shelf.history.pop_front()
        {
            shelf.dropped = oldest.rv;
        }
        shelf.changed.send_replace(rv);
        self.changed.send_replace(rv);
    }
}

/// An object as it was, but with another version: what a watcher sees when an object goes or leaves its selector.
pub(crate) fn with_version(table: Table, object: &Object, rv: u64) -> Object {
    let mut value = object.value();
    value["metadata"]["resourceVersion"] = json!(rv.to_string());
    Object::new(table.kind(), &value, rv)
}

/// The key range of a namespace, starting after a key. `/` is followed by `0` in the order of bytes.
fn bounds(namespace: Option<&str>, after: Option<&str>) -> (Bound<String>, Bound<String>) {
    let from = match (namespace, after) {
        (_, Some(after)) => Bound::Excluded(after.to_owned()),
        (Some(namespace), None) => Bound::Included(format!("{namespace}/")),
        (None, None) => Bound::Unbounded,
    };
    let to = namespace.map_or(Bound::Unbounded, |namespace| {
        Bound::Excluded(format!("{namespace}0"))
    });
    match (&from, &to) {
        // A start beyond the end would be an invalid range: nothing is there.
        (Bound::Excluded(start), Bound::Excluded(end)) if start >= end => {
            (Bound::Included(end.clone()), Bound::Excluded(end.clone()))
        }
        _ => (from, to),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config_map(name: &str, data: &str) -> Value {
        json!({"metadata": {"namespace": "n", "name": name, "uid": format!("uid-{name}")}, "data": {"k": data}})
    }

    fn keys(objects: &[Arc<Object>]) -> Vec<String> {
        objects
            .iter()
            .map(|object| {
                format!(
                    "{}={}",
                    object.key(),
                    object.value()["data"]["k"].as_str().unwrap()
                )
            })
            .collect()
    }

    #[test]
    fn a_snapshot_shows_what_was_there_at_its_version() {
        let mut store = Store::new(100);
        let table = Table::ConfigMaps;
        let a = store.put(table, config_map("a", "1"), None).unwrap();
        let b = store.put(table, config_map("b", "1"), None).unwrap();
        let at = store.revision();
        store
            .put(table, config_map("a", "2"), Some(a.rv()))
            .unwrap();
        store.remove(table, "n/b", b.rv()).unwrap();
        store.put(table, config_map("c", "1"), None).unwrap();
        assert_eq!(
            keys(&store.list_at(table, Some("n"), None, at).unwrap()),
            ["n/a=1", "n/b=1"]
        );
        assert_eq!(
            keys(&store.list_at(table, None, Some("n/a"), at).unwrap()),
            ["n/b=1"]
        );
        let now: Vec<_> = store.list(table, Some("n"), None).cloned().collect();
        assert_eq!(keys(&now), ["n/a=2", "n/c=1"]);
    }

    #[test]
    fn a_cursor_behind_the_bounded_history_is_told_so() {
        let mut store = Store::new(2);
        let start = store.revision();
        for name in ["a", "b", "c"] {
            store
                .put(Table::ConfigMaps, config_map(name, "1"), None)
                .unwrap();
        }
        assert!(store.changes(Table::ConfigMaps, start, 10).is_err());
        let (changes, upto) = store.changes(Table::ConfigMaps, start + 1, 1).unwrap();
        assert_eq!((changes.len(), upto), (1, start + 2));
        // Other tables are not touched by it.
        assert!(store.changes(Table::Pods, start, 10).is_ok());
    }

    #[test]
    fn compaction_refuses_new_watches_but_not_cursors_that_missed_nothing() {
        let mut store = Store::new(100);
        store
            .put(Table::ConfigMaps, config_map("a", "1"), None)
            .unwrap();
        let seen = store.revision();
        store.put(Table::Pods, config_map("p", "1"), None).unwrap();
        store.compact();
        assert_eq!(
            store.check_start(Table::ConfigMaps, seen),
            Err(Compacted { oldest: seen + 1 })
        );
        assert!(store.changes(Table::ConfigMaps, seen, 10).is_ok());
        assert!(store.changes(Table::Pods, seen, 10).is_err());
    }

    #[test]
    fn a_write_with_a_wrong_expectation_changes_nothing() {
        let mut store = Store::new(10);
        let a = store
            .put(Table::ConfigMaps, config_map("a", "1"), None)
            .unwrap();
        let revision = store.revision();
        assert_eq!(
            store
                .put(Table::ConfigMaps, config_map("a", "2"), None)
                .unwrap_err(),
            Stale
        );
        assert_eq!(
            store
                .remove(Table::ConfigMaps, "n/a", a.rv() + 1)
                .unwrap_err(),
            Stale
        );
        assert_eq!(store.revision(), revision);
    }

    #[test]
    fn namespaces_that_share_a_prefix_are_not_mixed() {
        let mut store = Store::new(10);
        for namespace in ["n", "n-2", "n0"] {
            let value =
                json!({"metadata": {"namespace": namespace, "name": "a", "uid": namespace}});
            store.put(Table::ConfigMaps, value, None).unwrap();
        }
        assert_eq!(
            store
                .list(Table::ConfigMaps, Some("n"), None)
                .map(|object| object.key())
                .collect::<Vec<_>>(),
            ["n/a"]
        );
    }
}
