//! One run: the plant and a real control law, in a loop with the delays of the real one.

use laneguard_decider_core::{
    Action, evaluate,
    policy::{Law, Policy},
    sample::Sample,
    state::State,
};

use crate::{
    link::{Bottleneck, Request, STEP},
    random::Random,
    scenario::{CLASS, Demand, Scenario},
    telemetry::{Telemetry, milliseconds},
};

/// What a run left behind.
#[derive(Debug)]
pub struct Record {
    /// All critical requests in order of sending.
    pub requests: Vec<Request>,
    /// Each limit in force: since when and how much, beginning with the start.
    pub limits: Vec<(f64, f64)>,
    /// Best-effort bits that left the bottleneck, until each second.
    pub delivered: Vec<f64>,
    /// Decisions other than Hold, and each Hold whose word differs from the one before.
    pub decisions: Vec<Decision>,
}

/// One decision.
#[derive(Debug)]
pub struct Decision {
    /// When.
    pub at: f64,
    /// What.
    pub action: Action,
    /// Limit per pod after it.
    pub limit_bps: f64,
    /// In words.
    pub reason: String,
}

/// Runs a law on a scenario. Without a law nothing is ever limited beyond the start.
#[must_use]
pub fn run(scenario: &Scenario, law: Option<&Law>) -> Record {
    run_under(scenario, law.map(|law| scenario.policy(law.clone())))
}

/// As [`run`], with a policy that may differ from the scenario's in more than its law.
#[must_use]
pub fn run_under(scenario: &Scenario, policy: Option<Policy>) -> Record {
    let mut state = State::new([(CLASS, scenario.start_bps)]);
    let mut random = Random::new(scenario.seed ^ 0x5eed);
    let mut bottleneck = Bottleneck::new(scenario, Random::new(scenario.seed));
    let mut telemetry = Telemetry::new(scenario);
    let mut record = Record {
        requests: Vec::new(),
        limits: vec![(0.0, scenario.start_bps)],
        delivered: vec![0.0],
        decisions: Vec::new(),
    };
    let mut arriving: Vec<(f64, Sample)> = Vec::new();
    let mut applying: Vec<(f64, f64)> = Vec::new();
    let (mut scrape_latency, mut scrape_usage) = (
        scenario.scrape_at.0 * scenario.scrape,
        scenario.scrape_at.1 * scenario.scrape,
    );
    let mut poll: Option<f64> = None;
    let mut phases = scenario.phases.iter();
    let mut phase = phases.next();
    let mut phase_end = phase.map_or(0.0, |phase| phase.seconds);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let steps = (scenario.seconds() / STEP).round() as u64;
    for step in 0..steps {
        #[allow(clippy::cast_precision_loss)]
        let at = step as f64 * STEP;
        while at >= phase_end - 1e-9 {
            let Some(next) = phases.next() else { break };
            phase = Some(next);
            phase_end += next.seconds;
        }
        let (demand, active) =
            phase.map_or((Demand::None, 0), |phase| (phase.demand, phase.active));
        let known = record.requests.len();
        bottleneck.step(scenario, at, demand, active, &mut record.requests);
        telemetry.add(&record.requests[known..]);
        let end = at + STEP;
        #[allow(clippy::cast_precision_loss)]
        if end >= record.delivered.len() as f64 - 1e-9 {
            record.delivered.push(bottleneck.delivered_bits);
        }

        if end >= scrape_usage {
            scrape_usage += scenario.scrape;
            if !random.chance(scenario.lost) {
                telemetry.scrape_usage(&bottleneck, end);
            }
        }
        if end >= scrape_latency {
            if !random.chance(scenario.lost) {
                telemetry.scrape_latency(scenario, &bottleneck, end);
            }
            scrape_latency += scenario.scrape;
            poll.get_or_insert(end + scenario.news_delay.0 * 0.8);
        }
        if let Some(due) = poll.filter(|due| end >= *due) {
            // The collector polls each second, whatever the scrape interval.
            poll = Some(due + 1.0);
            let sample = telemetry.sample(scenario, end);
            if !random.chance(scenario.lost) {
                let wait = random.between(scenario.news_delay.0, scenario.news_delay.1)
                    - scenario.news_delay.0 * 0.8;
                arriving.push((end + wait, sample));
            }
        }
        while let Some(index) = arriving.iter().position(|(due, _)| end >= *due) {
            let (_, sample) = arriving.remove(index);
            let Some(policy) = &policy else { continue };
            let evaluation = evaluate(
                milliseconds(end),
                policy,
                &state,
                std::slice::from_ref(&sample),
            );
            state = evaluation.state;
            let limit = &evaluation.limits[0];
            if limit.is_changed() {
                let due =
                    end + random.between(scenario.actuation_delay.0, scenario.actuation_delay.1);
                // An older command never overtakes a newer one.
                let due = applying.last().map_or(due, |(last, _)| due.max(*last));
                applying.push((due, limit.after_bps));
            }
            let is_news = record
                .decisions
                .last()
                .is_none_or(|last| last.action != evaluation.action);
            if evaluation.action != Action::Hold || is_news {
                record.decisions.push(Decision {
                    at: end,
                    action: evaluation.action,
                    limit_bps: limit.after_bps,
                    reason: evaluation.reason,
                });
            }
        }
        while applying.first().is_some_and(|(due, _)| end >= *due) {
            let (_, limit_bps) = applying.remove(0);
            bottleneck.set_limit(limit_bps);
            record.limits.push((end, limit_bps));
        }
    }
    record
}
