//! Ownership of shards by leases in the bucket `laneguard-leases`.
//!
//! The owner renews its key each second by compare-and-set. A challenger takes over when the key's revision has not moved for
//! 3 s of the challenger's own clock; no two clocks are ever compared. An owner stops acting 2.5 s after its last successful
//! renewal began, before any challenger may start. What is written under ownership is fenced besides: by terms and by
//! compare-and-set, so a paused owner that wakes up does no harm.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use laneguard_proto::storage::LEASES;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};

use crate::Process;
use crate::bus::{Bucket, Bus, Change, StoreError};
use crate::shutdown::Shutdown;

/// How often an owner renews.
const RENEW: Duration = Duration::from_secs(1);
/// How long the revision must stand still before a challenger takes over.
const TAKE_OVER: Duration = Duration::from_secs(3);
/// How long an owner may act after the start of its last successful renewal.
const VALID: Duration = Duration::from_millis(2500);
/// How often expiry is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// Which shards this process owns. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Shards {
    owned: Arc<Mutex<BTreeMap<u32, Instant>>>,
    changes: watch::Receiver<BTreeSet<u32>>,
}

impl Shards {
    /// Competes for the shards in `interest` (those that some policy hashes to) until shutdown, then gives them back.
    pub fn start(
        process: &Process,
        bus: &Bus,
        service: &'static str,
        interest: watch::Receiver<BTreeSet<u32>>,
    ) -> Self {
        let (changed, changes) = watch::channel(BTreeSet::new());
        let owned = Arc::new(Mutex::new(BTreeMap::new()));
        let shards = Self {
            owned: owned.clone(),
            changes,
        };
        let holder = format!(
            "{}-{:x}",
            std::env::var("HOSTNAME").unwrap_or_else(|_| service.to_owned()),
            crate::clock::since_epoch().as_nanos() ^ u128::from(std::process::id())
        );
        let contest = Contest {
            bucket: bus.bucket(LEASES),
            prefix: format!("{service}.{}.", bus.cluster()),
            holder,
            interest,
            owned,
            changed,
            leases: BTreeMap::new(),
            shutdown: process.shutdown(),
        };
        process.spawn("leases", contest.run());
        shards
    }

    /// Whether this process may act for the shard now.
    pub fn owns(&self, shard: u32) -> bool {
        self.owned
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&shard)
            .is_some_and(|renewed| renewed.elapsed() < VALID)
    }

    /// The owned shards, as they change.
    pub fn changes(&self) -> watch::Receiver<BTreeSet<u32>> {
        self.changes.clone()
    }
}

/// What is known of a shard's key.
#[derive(Debug, Clone, Copy)]
struct Lease {
    /// Its revision; 0 when it has none.
    revision: u64,
    /// When the revision moved, by our clock.
    moved: Instant,
    /// The key is free: it was given back or never taken.
    free: bool,
}

struct Contest {
    bucket: Bucket,
    prefix: String,
    holder: String,
    interest: watch::Receiver<BTreeSet<u32>>,
    owned: Arc<Mutex<BTreeMap<u32, Instant>>>,
    changed: watch::Sender<BTreeSet<u32>>,
    leases: BTreeMap<u32, Lease>,
    shutdown: Shutdown,
}

impl Contest {
    async fn run(mut self) -> anyhow::Result<()> {
        let mut watch = self.bucket.watch(&format!("{}*", self.prefix));
        let mut renew = tokio::time::interval(RENEW);
        renew.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let shutdown = self.shutdown.clone();
        // nothing is free before we know what is taken
        let mut synced = false;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                change = watch.next() => match change {
                    Some(change) => synced |= self.observe(change),
                    None => anyhow::bail!("the watch on leases ended"),
                },
                _ = renew.tick() => self.renew().await,
                _ = look.tick(), if synced => self.challenge().await,
            }
        }
        self.give_back().await;
        Ok(())
    }

    /// Takes note of a change; true when everything stored is known.
    fn observe(&mut self, change: Change) -> bool {
        let now = Instant::now();
        let (key, revision, holder) = match change {
            Change::Put {
                key,
                revision,
                bytes,
            } => (key, revision, Some(bytes)),
            Change::Deleted { key } => (key, 0, None),
            Change::Synced { keys } => {
                // a wiped bucket: a key that is gone is free
                let gone: Vec<u32> = self
                    .leases
                    .keys()
                    .filter(|shard| !keys.contains(&self.key(**shard)))
                    .copied()
                    .collect();
                for shard in gone {
                    self.leases.remove(&shard);
                }
                return true;
            }
        };
        let Some(shard) = key
            .strip_prefix(&self.prefix)
            .and_then(|shard| shard.parse::<u32>().ok())
        else {
            return false;
        };
        let ours = holder.as_deref() == Some(self.holder.as_bytes());
        let known = self.leases.get(&shard).copied();
        // our own renewals come back late: what is older than what we hold is no news
        if self.holds(shard) && known.is_some_and(|l| revision <= l.revision && holder.is_some()) {
            return false;
        }
        let free = holder.is_none();
        if known.is_none_or(|l| l.revision != revision || l.free != free) {
            let moved = now;
            let lease = Lease {
                revision,
                moved,
                free,
            };
            self.leases.insert(shard, lease);
        }
        if self.holds(shard) && !ours {
            self.lose(shard, "somebody else wrote the lease");
        }
        false
    }

    fn key(&self, shard: u32) -> String {
        format!("{}{shard}", self.prefix)
    }

    fn holds(&self, shard: u32) -> bool {
        self.owned
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains_key(&shard)
    }

    /// Renews what we own and are still interested in; lets go of what is lost or no longer of interest.
    async fn renew(&mut self) {
        let owned: Vec<u32> = self
            .owned
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .keys()
            .copied()
            .collect();
        let interest = self.interest.borrow().clone();
        let (keep, drop): (Vec<u32>, Vec<u32>) = owned
            .into_iter()
            .partition(|shard| interest.contains(shard));
        for shard in drop {
            self.release(shard, "no policy there any more").await;
        }
        let renewals = keep.into_iter().map(|shard| {
            let revision = self.leases.get(&shard).map_or(0, |lease| lease.revision);
            let (bucket, key, holder) = (&self.bucket, self.key(shard), self.holder.clone());
            async move {
                let started = Instant::now();
                (shard, started, bucket.update(&key, holder, revision).await)
            }
        });
        for (shard, started, result) in join_all(renewals).await {
            match result {
                Ok(revision) => self.hold(shard, revision, started),
                Err(StoreError::Conflict) => self.lose(shard, "somebody else took it"),
                Err(StoreError::Unavailable(reason)) => {
                    let expired = self
                        .owned
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .get(&shard)
                        .is_none_or(|renewed| renewed.elapsed() >= VALID);
                    if expired {
                        self.lose(shard, &reason);
                    }
                }
            }
        }
    }

    /// Takes what is free or has not moved for too long.
    async fn challenge(&mut self) {
        let interest = self.interest.borrow().clone();
        for shard in interest {
            if self.holds(shard) {
                continue;
            }
            let lease = self.leases.get(&shard).copied();
            let open = lease.is_none_or(|lease| lease.free || lease.moved.elapsed() >= TAKE_OVER);
            if !open {
                continue;
            }
            let started = Instant::now();
            let key = self.key(shard);
            let taken = match lease {
                Some(lease) if !lease.free => {
                    self.bucket
                        .update(&key, self.holder.clone(), lease.revision)
                        .await
                }
                _ => self.bucket.create(&key, self.holder.clone()).await,
            };
            match taken {
                Ok(revision) => {
                    tracing::info!(shard, lease = self.prefix, "took over");
                    self.hold(shard, revision, started);
                }
                Err(error) => {
                    // somebody was faster, or NATS is away: look again when it has not moved for long enough
                    tracing::debug!(shard, %error, "not taken over");
                    let revision = match self.bucket.get(&key).await {
                        Ok(Some(value)) => value.revision,
                        Ok(None) => {
                            self.leases.remove(&shard);
                            continue;
                        }
                        Err(_) => continue,
                    };
                    let moved = Instant::now();
                    let lease = Lease {
                        revision,
                        moved,
                        free: false,
                    };
                    self.leases.insert(shard, lease);
                }
            }
        }
    }

    fn hold(&mut self, shard: u32, revision: u64, started: Instant) {
        let lease = Lease {
            revision,
            moved: started,
            free: false,
        };
        self.leases.insert(shard, lease);
        let new = self
            .owned
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(shard, started)
            .is_none();
        if new {
            self.changed.send_modify(|owned| {
                owned.insert(shard);
            });
        }
    }

    fn lose(&mut self, shard: u32, reason: &str) {
        tracing::warn!(shard, lease = self.prefix, reason, "ownership lost");
        self.forget(shard);
    }

    fn forget(&mut self, shard: u32) {
        self.owned
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&shard);
        // what the revision is now is for the watch to say
        if let Some(lease) = self.leases.get_mut(&shard) {
            lease.moved = Instant::now();
        }
        self.changed.send_modify(|owned| {
            owned.remove(&shard);
        });
    }

    async fn release(&mut self, shard: u32, reason: &str) {
        let revision = self.leases.get(&shard).map_or(0, |lease| lease.revision);
        tracing::info!(shard, lease = self.prefix, reason, "ownership given back");
        self.forget(shard);
        if let Err(error) = self
            .bucket
            .delete_revision(&self.key(shard), revision)
            .await
        {
            tracing::debug!(shard, %error, "the lease was not deleted and will lapse");
        }
    }

    async fn give_back(&mut self) {
        let owned: Vec<u32> = self.changed.borrow().iter().copied().collect();
        for shard in owned {
            self.release(shard, "stopping").await;
        }
    }
}
