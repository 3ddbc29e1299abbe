//! Watches: a cursor over a table's history, filtered and rendered in batches.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use futures::Stream;
use tokio::{sync::watch, time::Instant};

use crate::{
    cluster::Cluster,
    object::Object,
    path::Target,
    query::{Selection, WatchQuery},
    render::{self, View},
    resource::Table,
    status::ApiError,
    store::{Change, with_version},
};

/// A last bookmark is sent this long before a watch ends by its timeout, so that the next one can go on from there.
const LAST_BOOKMARK: Duration = Duration::from_secs(2);

/// Changes or objects rendered at once; bounds what one watcher holds.
const BATCH: usize = 128;

struct Watcher {
    cluster: Cluster,
    table: Table,
    namespace: Option<String>,
    selection: Selection,
    view: View,
    /// All changes up to here were sent.
    cursor: u64,
    initial: std::vec::IntoIter<Arc<Object>>,
    /// A bookmark that ends the initial events is due.
    end_initial: bool,
    /// An error to send, then end.
    error: Option<ApiError>,
    bookmarks: bool,
    bookmark_due: bool,
    next_bookmark: Instant,
    deadline: Instant,
    changed: watch::Receiver<u64>,
    cut: watch::Receiver<u64>,
    stopped: watch::Receiver<bool>,
}

impl Cluster {
    /// The lines of a watch, in chunks, until its timeout, a cut, an error or `stopped`.
    pub(crate) fn watch(
        &self,
        target: &Target,
        view: View,
        query: WatchQuery,
        stopped: watch::Receiver<bool>,
    ) -> impl Stream<Item = Result<Bytes, Infallible>> + Send + use<> {
        let table = target.kind.table;
        let from_here = query.initial_events || query.rv.unwrap_or(0) == 0;
        let store = self.store();
        let mut error = None;
        let (initial, cursor) = if from_here {
            let objects: Vec<_> = store
                .list(table, target.namespace.as_deref(), None)
                .filter(|object| query.selection.matches(object))
                .cloned()
                .collect();
            (objects, store.revision())
        } else {
            let rv = query.rv.unwrap_or(0);
            if let Err(compacted) = store.check_start(table, rv) {
                // As a real server does: 200, and the refusal as the only event.
                error = Some(too_old(rv, compacted.oldest));
            }
            (Vec::new(), rv)
        };
        let now = Instant::now();
        let watcher = Watcher {
            cluster: self.clone(),
            table,
            namespace: target.namespace.clone(),
            selection: query.selection,
            view,
            cursor,
            initial: initial.into_iter(),
            end_initial: query.initial_events && query.bookmarks,
            error,
            bookmarks: query.bookmarks,
            bookmark_due: false,
            next_bookmark: next_bookmark(
                now,
                self.options().bookmark_interval,
                now + query.timeout,
            ),
            deadline: now + query.timeout,
            changed: store.subscribe(table),
            cut: self.cuts(),
            stopped,
        };
        futures::stream::unfold(Some(watcher), |watcher| async move {
            let mut watcher = watcher?;
            let (chunk, last) = watcher.next().await?;
            Some((Ok(chunk), (!last).then_some(watcher)))
        })
    }
}

fn next_bookmark(now: Instant, interval: Duration, deadline: Instant) -> Instant {
    let regular = now + interval;
    match deadline.checked_sub(LAST_BOOKMARK) {
        Some(last) if last > now => regular.min(last),
        _ => regular,
    }
}

fn too_old(rv: u64, oldest: u64) -> ApiError {
    ApiError::expired(format!("too old resource version: {rv} ({oldest})"))
}

impl Watcher {
    /// The next chunk, and whether it is the last. `None` ends the watch.
    async fn next(&mut self) -> Option<(Bytes, bool)> {
        let mut out = BytesMut::new();
        loop {
            if *self.stopped.borrow()
                || Instant::now() >= self.deadline
                || self.cut.has_changed().unwrap_or(true)
            {
                return None;
            }
            if let Some(error) = self.error.take() {
                render::error_event(&mut out, &error);
                return Some((out.freeze(), true));
            }
            for object in self.initial.by_ref().take(BATCH) {
                self.view.event(&mut out, "ADDED", &object);
            }
            if out.is_empty() && std::mem::take(&mut self.end_initial) {
                self.view.bookmark(&mut out, self.cursor, true);
            }
            if !out.is_empty() {
                return Some((out.freeze(), false));
            }
            self.changed.mark_unchanged();
            let changes = self.cluster.store().changes(self.table, self.cursor, BATCH);
            match changes {
                Ok((changes, upto)) => {
                    for change in &changes {
                        self.render(&mut out, change);
                    }
                    self.cursor = upto;
                    if !out.is_empty() {
                        return Some((out.freeze(), false));
                    }
                    if !changes.is_empty() {
                        continue;
                    }
                }
                // A watcher that cannot keep up is cut off; it will find out about its version when it comes back.
                Err(_) => {
                    tracing::debug!(table = ?self.table, "watch fell behind the history");
                    return None;
                }
            }
            // Only now is everything up to the cursor sent, which is what a bookmark promises.
            if std::mem::take(&mut self.bookmark_due) {
                self.view.bookmark(&mut out, self.cursor, false);
                return Some((out.freeze(), false));
            }
            tokio::select! {
                changed = self.changed.changed() => changed.ok()?,
                _ = self.cut.changed() => return None,
                _ = self.stopped.changed() => return None,
                () = tokio::time::sleep_until(self.deadline) => return None,
                () = tokio::time::sleep_until(self.next_bookmark), if self.bookmarks => {
                    let interval = self.cluster.options().bookmark_interval;
                    self.next_bookmark = next_bookmark(Instant::now(), interval, self.deadline);
                    self.bookmark_due = true;
                }
            }
        }
    }

    fn render(&self, out: &mut BytesMut, change: &Change) {
        if self
            .namespace
            .as_deref()
            .is_some_and(|namespace| namespace != change.after.namespace())
        {
            return;
        }
        let matched = change
            .before
            .as_ref()
            .is_some_and(|before| self.selection.matches(before));
        let matches = !change.deleted && self.selection.matches(&change.after);
        match (matched, matches) {
            (false, false) => {}
            (false, true) => self.view.event(out, "ADDED", &change.after),
            (true, true) => self.view.event(out, "MODIFIED", &change.after),
            (true, false) if change.deleted => self.view.event(out, "DELETED", &change.after),
            // It left the selection: the watcher gets the last state that it could see.
            (true, false) => {
                if let Some(before) = &change.before {
                    let last = with_version(self.table, before, change.rv);
                    self.view.event(out, "DELETED", &last);
                }
            }
        }
    }
}
