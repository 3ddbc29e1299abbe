//! How fast the limits of somebody else's law may rise: a guard against a bad decider, not a law.
//!
//! Pure: time is an argument. A cut is in force at once, as it protects critical traffic. A raise goes at most to [`GROWTH`] times the lowest
//! limit that was in force within the last [`WINDOW`], whatever is asked for and how often; the rest follows step by step while the command is
//! in force. Commands are kept as they came: only what is written to pods is held back.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use crate::policies::Slot;

/// A limit grows at most by [`GROWTH`] within this time.
pub const WINDOW: Duration = Duration::from_secs(5);
/// What a limit grows by at most within [`WINDOW`]: a factor.
pub const GROWTH: f64 = 2.0;
/// A class without a ceiling is at its top from here, bits per second: such a limit may be followed by none.
pub const TOP_BPS: f64 = 1e9;
/// Raises closer together than this count as one: it bounds what is remembered.
const GRAIN: Duration = Duration::from_millis(100);
/// Nodes with a limit of their own that are told apart in a class; pods on others rise with the class.
const MOST_NODES: usize = 5000;

/// One limit and how it came about. Infinite: no limit.
#[derive(Debug, Clone)]
struct Pace {
    in_force_bps: f64,
    /// Lower limits that were in force until then, within the last [`WINDOW`]; both ascend.
    before: VecDeque<(f64, Instant)>,
}

impl Pace {
    fn new(in_force_bps: f64) -> Self {
        Self {
            in_force_bps,
            before: VecDeque::new(),
        }
    }

    /// The lowest limit that counts.
    fn lowest_bps(&self) -> f64 {
        self.before
            .front()
            .map_or(self.in_force_bps, |(bps, _)| *bps)
    }

    /// Goes towards a limit as far as is allowed. Returns when it may go on, if it is not there.
    fn toward(&mut self, wanted_bps: f64, now: Instant) -> Option<Instant> {
        while let Some((_, until)) = self.before.front()
            && *until + WINDOW <= now
        {
            self.before.pop_front();
        }
        let mut ceiling = (self.lowest_bps() * GROWTH).max(self.in_force_bps);
        if wanted_bps.is_infinite() && ceiling >= TOP_BPS {
            ceiling = f64::INFINITY;
        }
        let next = wanted_bps.min(ceiling);
        if next < self.in_force_bps {
            self.before.retain(|(bps, _)| *bps < next);
        } else if next > self.in_force_bps {
            match self.before.back_mut() {
                Some((_, until)) if now - *until < GRAIN => *until = now,
                _ => self.before.push_back((self.in_force_bps, now)),
            }
        }
        self.in_force_bps = next;
        let (_, until) = self.before.front().filter(|_| next < wanted_bps)?;
        Some(*until + WINDOW)
    }
}

/// What a class's command asks for, within the class's bounds.
#[derive(Debug, Clone, PartialEq)]
pub struct Asked {
    /// The limit of its pods, bits per second. Infinite: none.
    pub bps: f64,
    /// Other limits on these nodes, bits per second.
    pub nodes: BTreeMap<String, f64>,
    /// Nobody renews it and limits hold: nothing rises any further.
    pub held: bool,
}

/// What following a command came to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Followed {
    /// Limits changed.
    pub changed: bool,
    /// Limits begin to be held back: they were not before.
    pub begins: bool,
    /// The limit in force on nodes without one of their own, bits per second.
    pub in_force_bps: f64,
}

#[derive(Debug)]
struct Class {
    all: Pace,
    nodes: BTreeMap<String, Pace>,
    next_step: Option<Instant>,
}

impl Class {
    fn follow(&mut self, asked: &Asked, now: Instant) -> Followed {
        let mut changed = false;
        let was_held_back = self.next_step.take().is_some();
        for name in asked.nodes.keys() {
            if self.nodes.len() < MOST_NODES && !self.nodes.contains_key(name) {
                self.nodes.insert(name.clone(), self.all.clone());
            }
        }
        let mut step = |pace: &mut Pace, wanted: f64| {
            let before = pace.in_force_bps;
            let wanted = if asked.held {
                wanted.min(before)
            } else {
                wanted
            };
            let next = pace.toward(wanted, now);
            changed |= pace.in_force_bps != before;
            self.next_step = [self.next_step, next].into_iter().flatten().min();
        };
        step(&mut self.all, asked.bps);
        for (name, pace) in &mut self.nodes {
            step(pace, asked.nodes.get(name).copied().unwrap_or(asked.bps));
        }
        let all = &self.all;
        // a node without a limit of its own any more is told apart until it has caught up
        self.nodes.retain(|name, pace| {
            asked.nodes.contains_key(name)
                || pace.in_force_bps != all.in_force_bps
                || pace.lowest_bps() < all.lowest_bps()
        });
        Followed {
            changed,
            begins: self.next_step.is_some() && !was_held_back,
            in_force_bps: self.all.in_force_bps,
        }
    }
}

/// The highest limits that may be in force now, of every class that somebody else's law decides for.
#[derive(Debug, Default)]
pub struct Ceilings(HashMap<Slot, Class>);

impl Ceilings {
    /// Whether the class is guarded.
    pub fn knows(&self, slot: &Slot) -> bool {
        self.0.contains_key(slot)
    }

    /// Begins to guard a class whose pods have this limit, bits per second. Infinite: none.
    pub fn begin(&mut self, slot: Slot, in_force_bps: f64) {
        let class = Class {
            all: Pace::new(in_force_bps),
            nodes: BTreeMap::new(),
            next_step: None,
        };
        self.0.insert(slot, class);
    }

    /// Goes towards what is asked for as far as is allowed now. `None`: the class is not guarded.
    pub fn follow(&mut self, slot: &Slot, asked: &Asked, now: Instant) -> Option<Followed> {
        Some(self.0.get_mut(slot)?.follow(asked, now))
    }

    /// The highest limit that pods of the class on a node may have, bits per second; infinite where there is none.
    pub fn bps(&self, slot: &Slot, node: Option<&str>) -> f64 {
        self.0.get(slot).map_or(f64::INFINITY, |class| {
            let own = node.and_then(|node| class.nodes.get(node));
            own.unwrap_or(&class.all).in_force_bps
        })
    }

    /// When the next limit may rise.
    pub fn next_step(&self) -> Option<Instant> {
        self.0.values().filter_map(|class| class.next_step).min()
    }

    /// The classes with a limit that may rise by `now`.
    pub fn due(&self, now: Instant) -> Vec<Slot> {
        let due = |class: &Class| class.next_step.is_some_and(|at| at <= now);
        let due = self.0.iter().filter(|(_, class)| due(class));
        due.map(|(slot, _)| slot.clone()).collect()
    }

    /// Guards the class no more.
    pub fn forget(&mut self, slot: &Slot) {
        self.0.remove(slot);
    }

    /// Guards only these classes from now on.
    pub fn retain(&mut self, known: impl Fn(&Slot) -> bool) {
        self.0.retain(|slot, _| known(slot));
    }

    /// Guards nothing any more.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::commands::tests::slot;

    fn asked(bps: f64) -> Asked {
        Asked {
            bps,
            nodes: BTreeMap::new(),
            held: false,
        }
    }

    fn guarding(bps: f64) -> Ceilings {
        let mut ceilings = Ceilings::default();
        ceilings.begin(slot("p"), bps);
        ceilings
    }

    #[test]
    fn a_great_raise_doubles_every_five_seconds_and_a_cut_is_in_force_at_once() {
        let (mut ceilings, mut now) = (guarding(10e6), Instant::now());
        let start = now;
        let mut seen = Vec::new();
        let mut begun = 0;
        loop {
            let followed = ceilings.follow(&slot("p"), &asked(1e9), now).unwrap();
            begun += u32::from(followed.begins);
            seen.push((now - start, followed.in_force_bps / 1e6));
            match ceilings.next_step() {
                Some(next) => now = next,
                None => break,
            }
        }
        let seconds = |s, mbps| (Duration::from_secs(s), mbps);
        let expected = [
            seconds(0, 20.0),
            seconds(5, 40.0),
            seconds(10, 80.0),
            seconds(15, 160.0),
            seconds(20, 320.0),
            seconds(25, 640.0),
            seconds(30, 1000.0),
        ];
        assert_eq!(seen, expected);
        assert_eq!(begun, 1, "one episode");
        let cut = ceilings.follow(&slot("p"), &asked(10e6), now).unwrap();
        assert_eq!((cut.in_force_bps, cut.begins), (10e6, false));
    }

    #[test]
    fn no_limit_comes_back_once_the_top_is_reached_and_pods_without_a_limit_are_held_back_by_nothing()
     {
        let (mut ceilings, now) = (guarding(300e6), Instant::now());
        let mut follow = |after| {
            let at = now + Duration::from_secs(after);
            let followed = ceilings.follow(&slot("p"), &asked(f64::INFINITY), at);
            followed.unwrap().in_force_bps
        };
        assert_eq!(
            (follow(0), follow(4), follow(5)),
            (600e6, 600e6, f64::INFINITY)
        );
        let mut free = guarding(f64::INFINITY);
        let first = free.follow(&slot("p"), &asked(1e9), now).unwrap();
        assert_eq!((first.in_force_bps, free.next_step()), (1e9, None));
    }

    #[test]
    fn a_nodes_own_limit_rises_at_its_own_pace_also_after_it_is_gone() {
        let (mut ceilings, now) = (guarding(100e6), Instant::now());
        let nodes = BTreeMap::from([("slow".to_owned(), 20e6)]);
        let slow = Asked {
            nodes,
            ..asked(100e6)
        };
        ceilings.follow(&slot("p"), &slow, now);
        assert_eq!(ceilings.bps(&slot("p"), Some("slow")), 20e6);
        ceilings.follow(&slot("p"), &asked(100e6), now);
        assert_eq!(ceilings.bps(&slot("p"), Some("slow")), 40e6);
        assert_eq!(ceilings.bps(&slot("p"), Some("other")), 100e6);
        while let Some(next) = ceilings.next_step() {
            assert_eq!(ceilings.due(next), [slot("p")]);
            ceilings.follow(&slot("p"), &asked(100e6), next);
        }
        assert_eq!(ceilings.bps(&slot("p"), Some("slow")), 100e6);
    }

    #[test]
    fn what_nobody_renews_rises_no_further() {
        let (mut ceilings, now) = (guarding(10e6), Instant::now());
        ceilings.follow(&slot("p"), &asked(1e9), now);
        let held = Asked {
            held: true,
            ..asked(1e9)
        };
        let later = now + Duration::from_secs(60);
        let followed = ceilings.follow(&slot("p"), &held, later).unwrap();
        assert_eq!((followed.in_force_bps, followed.changed), (20e6, false));
        assert_eq!(ceilings.next_step(), None);
    }

    proptest! {
        #[test]
        fn no_limit_more_than_doubles_within_the_window_and_every_target_is_reached(
            begin in 1e6_f64..1e9,
            asks in prop::collection::vec((1e6_f64..1e9, 0_u64..7000), 1..200),
        ) {
            let (mut ceilings, mut now) = (guarding(begin), Instant::now());
            // limits and when they came into force
            let mut past = vec![(begin, now)];
            for (bps, wait_ms) in asks {
                now += Duration::from_millis(wait_ms);
                let before = past.last().unwrap().0;
                let in_force = ceilings.follow(&slot("p"), &asked(bps), now).unwrap().in_force_bps;
                prop_assert!(in_force <= bps, "never above what is asked for");
                prop_assert!(in_force >= bps.min(before), "a raise cuts nothing");
                if bps <= before {
                    prop_assert_eq!(in_force, bps);
                }
                past.push((in_force, now));
                // a limit counts until the next one came into force
                let ended = past.windows(2).filter(|pair| pair[1].1 + WINDOW > now).map(|pair| pair[0].0);
                let lowest = ended.fold(in_force, f64::min);
                prop_assert!(in_force <= GROWTH * lowest * 1.000_001, "{in_force} after {lowest}");
                let class = &ceilings.0[&slot("p")];
                prop_assert!(class.all.before.len() <= 51, "bounded");
            }
            let mut steps = 0;
            ceilings.follow(&slot("p"), &asked(1e9), now);
            while let Some(next) = ceilings.next_step() {
                prop_assert!(next > now && next <= now + WINDOW);
                now = next;
                ceilings.follow(&slot("p"), &asked(1e9), now);
                steps += 1;
                // ten doublings from the lowest to the highest, some of them in parts
                prop_assert!(steps < 1000);
            }
            prop_assert_eq!(ceilings.bps(&slot("p"), None), 1e9);
        }
    }
}
