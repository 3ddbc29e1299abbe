//! A measured run's loads and limits, open loop through the plant: no law decides anything here.

use crate::{
    fit::{Fitted, measured::Measured},
    link::{Bottleneck, Request, STEP},
    random::Random,
    scenario::{Demand, Phase, Scenario},
};

/// What the plant did.
#[derive(Debug)]
pub struct Replayed {
    /// All critical requests in order of sending.
    pub requests: Vec<Request>,
    /// Bits waiting at the end of each step.
    pub backlog_bits: Vec<f64>,
    /// Best-effort bits that left the bottleneck by the end of each step.
    pub delivered_bits: Vec<f64>,
}

impl Replayed {
    /// Bits waiting at a time.
    #[must_use]
    pub fn backlog(&self, at: f64) -> f64 {
        value_at(&self.backlog_bits, at)
    }

    /// Best-effort bits delivered until a time.
    #[must_use]
    pub fn delivered(&self, at: f64) -> f64 {
        value_at(&self.delivered_bits, at)
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn value_at(steps: &[f64], at: f64) -> f64 {
    let index = ((at / STEP) as usize).min(steps.len().saturating_sub(1));
    steps.get(index).copied().unwrap_or(0.0)
}

/// The scenario that a measured run was, with the fitted parameters.
#[must_use]
pub fn scenario(run: &Measured, fitted: &Fitted, seed: u64) -> Scenario {
    let mut scenario = Scenario::congestion(run.link_bps, run.pods.len(), seed);
    scenario.name.clone_from(&run.name);
    scenario.flows = run.flows;
    scenario.fifo_bits = run.fifo_bits;
    scenario.start_bps = f64::INFINITY;
    scenario.phases = run
        .phases()
        .map(|phase| Phase {
            seconds: phase.to - phase.from,
            demand: if phase.is_load {
                Demand::Tcp
            } else {
                Demand::None
            },
            active: run.pods.len(),
        })
        .collect();
    fitted.apply(&mut scenario);
    scenario
}

/// Replays a run.
#[must_use]
pub fn replay(run: &Measured, scenario: &Scenario) -> Replayed {
    let mut bottleneck = Bottleneck::new(scenario, Random::new(scenario.seed));
    let mut replayed = Replayed {
        requests: Vec::with_capacity(run.requests.len()),
        backlog_bits: Vec::new(),
        delivered_bits: Vec::new(),
    };
    let mut limits = run.limits.iter().peekable();
    let loads = scenario.loads();
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let steps = (scenario.seconds() / STEP) as u64;
    for step in 0..steps {
        #[allow(clippy::cast_precision_loss)]
        let at = step as f64 * STEP;
        while let Some(limit) = limits.next_if(|limit| limit.at <= at) {
            bottleneck.set_pod_limit(limit.pod, limit.bps);
        }
        let is_load = loads.iter().any(|(from, to)| (*from..*to).contains(&at));
        let demand = if is_load { Demand::Tcp } else { Demand::None };
        bottleneck.step(scenario, at, demand, scenario.pods, &mut replayed.requests);
        replayed.backlog_bits.push(bottleneck.queue_bits());
        replayed.delivered_bits.push(bottleneck.delivered_bits);
    }
    replayed
}
