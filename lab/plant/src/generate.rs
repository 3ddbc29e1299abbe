//! Random plants. The ranges stand here and nowhere else; they were committed before the laws were tuned on them.
//!
//! | what | range | distribution |
//! |---|---|---|
//! | link rate | 20 Mbit/s to 2 Gbit/s | log-uniform |
//! | queue | 20 to 200 ms of the link's rate | log-uniform |
//! | round trip of best-effort without queue | 0.5 to 50 ms | log-uniform |
//! | pods, flows per pod | 1 to 12, 1 to 8 | uniform |
//! | pods with demand | all (7 of 10 plants), else 1 to all | |
//! | demand | TCP (8 of 10), UDP in all 1.2 to 3 times the link (1 of 10), capped TCP in all 0.2 to 0.9 of the link (1 of 10) | |
//! | critical requests per second, bits each | 10 to 500, 3 000 to 20 000, together at most 5 % of the link | log-uniform |
//! | latency without queue, spread of its logarithm | 0.3 to 3 ms, 0.1 to 0.4 | log-uniform, uniform |
//! | targets | P95 5 to 40 ms, at least 2.5 times the P95 without queue and at most half the queue; in half the plants jitter at half of it | log-uniform |
//! | scrape interval | 1 s (7 of 10), 2 s, 5 s | |
//! | scrape to sample, decision to kernel | 0.1 to 0.6 s, 0.01 to 0.5 s | uniform |
//! | lost scrapes and samples | none (half of the plants), else up to 5 % | uniform |
//! | clock of samples ahead of ours | none (7 of 10), else -3 to 3 s | uniform |
//! | usage measured | 9 of 10 | |
//! | buckets | Hubble's where the targets are at its bounds, else fine | |
//! | start | at max (8 of 10), else log-uniform within the bounds | |
//! | link rate during the second load | as before (8 of 10), else times 0.5 to 2 | |
//! | plan | 10 s idle, 100 s load, 20 s idle, 120 s load | |

use laneguard_decider_core::policy::Targets;

use crate::{
    link::MOST_PODS,
    random::Random,
    scenario::{Demand, FINE_MS, HUBBLE_MS, Phase, Scenario},
};

/// The random plant of a seed.
#[must_use]
#[allow(clippy::cast_precision_loss)]
pub fn plant(seed: u64) -> Scenario {
    let mut random = Random::new(seed.wrapping_mul(0x9e37_79b9) ^ 0x6c61_6e65);
    let link_bps = random.log_between(20e6, 2e9);
    let queue = random.log_between(0.02, 0.2);
    let pods = (1 + random.below(12)).min(MOST_PODS);
    let active = if random.chance(0.7) {
        pods
    } else {
        1 + random.below(pods)
    };
    let demand = match random.below(10) {
        0 => Demand::Udp(link_bps * random.between(1.2, 3.0) / active as f64),
        1 => Demand::Capped(link_bps * random.between(0.2, 0.9) / active as f64),
        _ => Demand::Tcp,
    };
    let request_bits = random.log_between(3e3, 20e3);
    let request_rate = random
        .log_between(10.0, 500.0)
        .min(0.05 * link_bps / request_bits);
    let (base_ms, base_spread) = (random.log_between(0.3, 3.0), random.between(0.1, 0.4));
    let base_p95 = base_ms * (1.645 * base_spread).exp();
    let wanted = random.log_between(5.0, 40.0);
    let p95_ms = wanted.min(queue * 500.0).max(2.5 * base_p95);
    // Half of the plants have targets at Hubble's bounds and Hubble's buckets.
    let bound = HUBBLE_MS.iter().copied().find(|bound| *bound >= p95_ms);
    let (p95_ms, buckets) = match bound.filter(|_| random.chance(0.5)) {
        Some(bound) if bound <= queue * 500.0 => (bound, HUBBLE_MS),
        _ => (p95_ms, FINE_MS),
    };
    let jitter_ms = random.chance(0.5).then_some(p95_ms / 2.0);
    let jitter_ms =
        jitter_ms.filter(|jitter| buckets == FINE_MS && *jitter > 2.0 * base_p95 || *jitter >= 5.0);
    let min_bps = (link_bps / 50.0 / pods as f64).max(1e6);
    let max_bps = 2e9;
    let start_bps = if random.chance(0.8) {
        max_bps
    } else {
        random.log_between(min_bps, max_bps)
    };
    let second = if random.chance(0.8) {
        1.0
    } else {
        random.log_between(0.5, 2.0)
    };
    let phase = |seconds, demand| Phase {
        seconds,
        demand,
        active,
    };
    let news = random.between(0.1, 0.6);
    let actuation = random.between(0.01, 0.5);
    Scenario {
        name: format!("random {seed}"),
        seed,
        link: vec![(0.0, link_bps), (120.0, link_bps * second)],
        fifo_bits: link_bps * queue,
        rtt: random.log_between(0.5e-3, 50e-3),
        pods,
        flows: 1 + random.below(8),
        phases: vec![
            phase(10.0, Demand::None),
            phase(100.0, demand),
            phase(20.0, Demand::None),
            phase(120.0, demand),
        ],
        request_rate,
        request_bits,
        base_ms,
        base_spread,
        slow_server: None,
        stalls_per_minute: 0.0,
        pauses_per_minute: 0.0,
        targets: Targets {
            p95_ms: Some(p95_ms),
            jitter_ms,
            ..Targets::default()
        },
        min_bps,
        max_bps,
        start_bps,
        scrape: [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 5.0][random.below(10)],
        scrape_at: (random.unit(), random.unit()),
        news_delay: (news, news + random.between(0.0, 0.2)),
        actuation_delay: (actuation, actuation + random.between(0.0, 0.1)),
        lost: if random.chance(0.5) {
            0.0
        } else {
            random.between(0.0, 0.05)
        },
        clock_ahead: if random.chance(0.7) {
            0.0
        } else {
            random.between(-3.0, 3.0)
        },
        has_usage: random.chance(0.9),
        buckets,
    }
}
