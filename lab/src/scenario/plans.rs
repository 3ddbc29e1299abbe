//! The named plans: phases, what best-effort wants in them, and what happens meanwhile.
//!
//! Rates are shares of the link, so that a plan means the same on another one. On the default link of 200 Mbit/s a share of 0.6 is 120 Mbit/s.

use super::{Demand, Name, Phase};
use crate::event::{Action, Event};
use crate::raw::PhaseKind;

/// What a name stands for.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Planned {
    pub phases: Vec<Phase>,
    pub demand: Demand,
    pub events: Vec<Event>,
    pub start_limit_bps: Option<u64>,
}

/// From one burst's start to the next, in seconds.
const PERIOD: u64 = 30;
/// How long a burst is.
const BURST: u64 = 10;

/// The plan of that name on a link of `rate_bps` with so many best-effort pods; `seed` decides what is random in it.
pub(super) fn planned(name: Name, rate_bps: u64, pods: u8, seed: u64) -> Planned {
    let rate = |percent: u64| rate_bps * percent / 100;
    // what each pod sends when all together send so much of the link
    let each = |percent: u64| rate(percent) / u64::from(pods.max(1));
    let plan = |phases, demand, events| Planned {
        phases,
        demand,
        events,
        start_limit_bps: None,
    };
    let once = |idle_s, load_s| vec![idle(idle_s), load(load_s)];
    match name {
        Name::Congestion => {
            let phases = vec![idle(20), load(90), idle(30), load(40)];
            plan(phases, Demand::Tcp, Vec::new())
        }
        Name::Demo => plan(vec![idle(8), load(45), idle(4)], Demand::Tcp, Vec::new()),
        Name::Burst => {
            let phases = (0..8).flat_map(|_| [idle(PERIOD - BURST), load(BURST)]);
            plan(phases.collect(), Demand::Tcp, Vec::new())
        }
        Name::BurstJoined => plan(joined_bursts(8, PERIOD - BURST), Demand::Tcp, Vec::new()),
        Name::BurstJoinedMissing => plan(joined_bursts(6, 60), Demand::Tcp, Vec::new()),
        Name::BurstRandom => plan(random_bursts(seed), Demand::Tcp, Vec::new()),
        Name::BurstForeign => plan(once(10, 200), Demand::Tcp, foreign_bursts(6, rate(60))),
        Name::BurstMissing => plan(once(10, 200), Demand::Tcp, foreign_bursts(5, rate(60))),
        Name::CapacityDrop => {
            let events = vec![
                at(50, Action::Rate(rate(50))),
                at(100, Action::Rate(rate_bps)),
            ];
            plan(once(10, 150), Demand::Tcp, events)
        }
        Name::Udp => {
            let phases = vec![idle(20), load(60), idle(20), load(40)];
            plan(phases, Demand::Udp(each(225)), Vec::new())
        }
        Name::SlowServer => {
            let events = vec![
                at(40, Action::ServiceTime(4_000)),
                at(130, Action::ServiceTime(0)),
            ];
            plan(once(20, 140), Demand::Paced(each(45)), events)
        }
        Name::LightLoad => Planned {
            start_limit_bps: Some(each(30)),
            ..plan(once(10, 140), Demand::Paced(each(60)), Vec::new())
        },
        Name::Injection => {
            let events = vec![
                at(40, Action::Inject(rate(250))),
                at(110, Action::Inject(0)),
            ];
            plan(once(10, 130), Demand::Paced(each(30)), events)
        }
        Name::Failover => {
            let phases = vec![idle(15), load(65), load(80)];
            plan(phases, Demand::Tcp, vec![at(80, Action::Move)])
        }
        Name::PolicyDrops => {
            let events = vec![at(50, Action::PolicyDrops(300))];
            plan(once(10, 110), Demand::Paced(each(30)), events)
        }
    }
}

fn idle(seconds: u64) -> Phase {
    Phase {
        kind: PhaseKind::Idle,
        seconds,
        pods: None,
    }
}

fn load(seconds: u64) -> Phase {
    Phase {
        kind: PhaseKind::Load,
        seconds,
        pods: None,
    }
}

/// One pod sends, and so many times, after each 20 s, the others join it for 10 s; it ends with that one pod alone.
fn joined_bursts(count: usize, last_s: u64) -> Vec<Phase> {
    let alone = |seconds| Phase {
        pods: Some(1),
        ..load(seconds)
    };
    let mut phases = vec![idle(10)];
    phases.extend((0..count).flat_map(|_| [alone(PERIOD - BURST), load(BURST)]));
    phases.push(alone(last_s));
    phases
}

fn at(at_s: u64, action: Action) -> Event {
    Event { at_s, action }
}

/// The first begins 30 s after the start.
fn foreign_bursts(count: u64, bps: u64) -> Vec<Event> {
    (1..=count)
        .flat_map(|burst| {
            let start = burst * PERIOD;
            [
                at(start, Action::Foreign(bps)),
                at(start + BURST, Action::Foreign(0)),
            ]
        })
        .collect()
}

/// When the foreign burst after the last one of a plan would have begun.
#[must_use]
pub fn missing_burst_at(events: &[Event]) -> Option<u64> {
    let last = events
        .iter()
        .rfind(|event| matches!(event.action, Action::Foreign(bps) if bps > 0))?;
    Some(last.at_s + PERIOD)
}

/// Eight bursts of 5 to 15 s with pauses of 8 to 30 s, by a linear congruential generator (Knuth's MMIX).
fn random_bursts(seed: u64) -> Vec<Phase> {
    let mut state = seed;
    let mut from = |least: u64, most: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        least + (state >> 33) % (most - least + 1)
    };
    (0..8)
        .flat_map(|_| [idle(from(8, 30)), load(from(5, 15))])
        .collect()
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;

    use super::*;

    #[test]
    fn every_plan_takes_at_most_four_minutes_and_its_events_fall_into_it() {
        for name in Name::value_variants() {
            let plan = planned(*name, 200_000_000, 3, 1);
            let seconds: u64 = plan.phases.iter().map(|phase| phase.seconds).sum();
            assert!(seconds <= 320, "{name:?} takes {seconds} s");
            let in_order = plan.events.windows(2).all(|two| two[0].at_s <= two[1].at_s);
            assert!(in_order, "{name:?}");
            assert!(plan.events.iter().all(|event| event.at_s < seconds));
        }
    }

    #[test]
    fn the_missing_burst_is_where_the_sixth_would_have_been() {
        let with = planned(Name::BurstForeign, 200_000_000, 3, 1).events;
        let without = planned(Name::BurstMissing, 200_000_000, 3, 1).events;
        let sixth = with[10];
        assert_eq!(sixth.action, Action::Foreign(120_000_000));
        assert_eq!(missing_burst_at(&without), Some(sixth.at_s));
    }

    #[test]
    fn random_bursts_follow_from_their_seed() {
        assert_eq!(random_bursts(7), random_bursts(7));
        assert_ne!(random_bursts(7), random_bursts(8));
    }
}
