//! Whether a law finds rest on a plant, judged beside the best that any fixed limit achieves on the same plant.
//!
//! A plant is *infeasible* when even the best of [`FIXED`] fixed limits from the minimum to the maximum leaves more violating
//! windows than a stable loop may have: then no limit would have helped, and the law is not to blame. The same threshold holds for
//! both. Only plants on which the law fails are examined; all others are feasible by its own proof.

use laneguard_decider_core::{policy::Law, threshold};
use serde::Serialize;

use crate::{
    generate::plant,
    run::run,
    scenario::Scenario,
    score::{LATE_VIOLATING_PERCENT, Score, score},
};

/// Fixed limits tried per plant, evenly spread by ratio, the minimum first.
pub const FIXED: u32 = 12;

/// What is to be thought of a law on a plant.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stability {
    /// It found rest.
    Stable,
    /// It did not, and some fixed limit would have met the targets.
    Unstable,
    /// It did not, and no fixed limit would have: the best one leaves so many violating windows late in the run, percent.
    Infeasible(f64),
}

/// The least share of late violating windows that a fixed limit leaves, percent; stops at the first that is good enough.
#[must_use]
pub fn best_fixed(scenario: &Scenario) -> f64 {
    let span = (scenario.max_bps / scenario.min_bps).max(1.0);
    let mut best = f64::INFINITY;
    for index in 0..FIXED {
        let mut fixed = scenario.clone();
        fixed.start_bps = scenario.min_bps * span.powf(f64::from(index) / f64::from(FIXED - 1));
        best = best.min(score(&fixed, &run(&fixed, None)).late_violating_percent);
        if best <= LATE_VIOLATING_PERCENT {
            break;
        }
    }
    best
}

/// Judges one run by its score.
#[must_use]
pub fn judge(scenario: &Scenario, score: &Score) -> Stability {
    if !score.is_unstable() {
        return Stability::Stable;
    }
    let best = best_fixed(scenario);
    if best > LATE_VIOLATING_PERCENT {
        Stability::Infeasible(best)
    } else {
        Stability::Unstable
    }
}

/// One random plant under a law.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// The plant's seed.
    pub seed: u64,
    /// The run's numbers.
    pub score: Score,
    /// What is to be thought of it.
    pub stability: Stability,
}

impl Outcome {
    /// How bad it is, for sorting: failures first, the worst of them first.
    #[must_use]
    pub fn badness(&self) -> f64 {
        let failed = self.stability == Stability::Unstable
            || self.score.is_starved()
            || self.score.out_of_bounds;
        f64::from(u8::from(failed)) * 1e3
            + self.score.late_violating_percent
            + self.score.late_swings_per_minute
    }
}

/// A law made unstable on purpose, to see that it is flagged: steps of half the link, both ways, as fast as samples come.
#[must_use]
pub fn unstable(link_bps: f64) -> Law {
    let step = link_bps / 2.0;
    Law::Threshold(threshold::Parameters {
        alpha: 1.0,
        cooldown_ms: 0,
        aggressive_decrease_bps: step,
        gentle_decrease_bps: step,
        increase_step_bps: step,
        ..threshold::Parameters::default()
    })
}

/// Runs a law on the random plants of these seeds, on all cores; in the order of the seeds.
#[must_use]
pub fn survey(seeds: &[u64], law: impl Fn(&Scenario) -> Option<Law> + Sync) -> Vec<Outcome> {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let law = &law;
    let mut outcomes: Vec<Outcome> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|worker| {
                scope.spawn(move || {
                    seeds
                        .iter()
                        .skip(worker)
                        .step_by(threads)
                        .map(|seed| {
                            let scenario = plant(*seed);
                            let score = score(&scenario, &run(&scenario, law(&scenario).as_ref()));
                            Outcome {
                                seed: *seed,
                                stability: judge(&scenario, &score),
                                score,
                            }
                        })
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        workers
            .into_iter()
            .filter_map(|worker| worker.join().ok())
            .flatten()
            .collect()
    });
    outcomes.sort_by_key(|outcome| outcome.seed);
    outcomes
}
