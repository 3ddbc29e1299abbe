//! Short ways to write policies, samples and traces.

use laneguard_decider_core::{
    Action, Evaluation, drop_rate, evaluate,
    policy::{Class, Critical, Law, Policy, Targets},
    sample::{Quality, Sample},
    state::State,
    threshold,
};

pub(crate) const ROBOT: &str = "factory_robot";
pub(crate) const SCANNER: &str = "factory_scanner";

/// The predecessor's targets.
pub(crate) fn critical(workload: &str) -> Critical {
    Critical::new(
        workload,
        Targets {
            p95_ms: Some(10.0),
            jitter_ms: Some(5.0),
            ..Targets::default()
        },
    )
}

pub(crate) fn class(name: &str, min_mbit: f64, max_mbit: f64) -> Class {
    Class::new(name, min_mbit * 1e6, max_mbit * 1e6)
}

/// The predecessor's policy: one class `bulk` from 10 to 1000 Mbit/s.
pub(crate) fn policy(workloads: &[&str]) -> Policy {
    Policy {
        law: Law::Threshold(threshold::Parameters::default()),
        critical: workloads
            .iter()
            .map(|workload| critical(workload))
            .collect(),
        classes: vec![class("bulk", 10.0, 1000.0)],
    }
}

/// As `policy`, without smoothing, so that each sample speaks for itself.
pub(crate) fn unsmoothed(workloads: &[&str]) -> Policy {
    Policy {
        law: Law::Threshold(threshold::Parameters {
            alpha: 1.0,
            ..threshold::Parameters::default()
        }),
        ..policy(workloads)
    }
}

pub(crate) fn by_drops(workloads: &[&str]) -> Policy {
    Policy {
        law: Law::DropRate(drop_rate::Parameters::default()),
        ..policy(workloads)
    }
}

pub(crate) fn at(workload: &str, sequence: u64, seconds: f64) -> Sample {
    let observed_at_ms = milliseconds(seconds);
    Sample {
        workload: workload.into(),
        sequence,
        window_start_ms: observed_at_ms - 1_000,
        window_end_ms: observed_at_ms,
        observed_at_ms,
        quality: Quality::Good,
        ..Sample::default()
    }
}

#[allow(clippy::cast_possible_truncation)]
pub(crate) fn milliseconds(seconds: f64) -> i64 {
    (seconds * 1e3) as i64
}

/// A loop as the service runs it: the state of each evaluation goes into the next.
pub(crate) struct Loop {
    pub(crate) policy: Policy,
    pub(crate) state: State,
}

impl Loop {
    /// Class `bulk` starts at so many Mbit/s.
    pub(crate) fn new(policy: Policy, bulk_mbit: f64) -> Self {
        Self {
            policy,
            state: State::new([("bulk", bulk_mbit * 1e6)]),
        }
    }

    pub(crate) fn evaluate(&mut self, seconds: f64, samples: &[Sample]) -> Evaluation {
        let evaluation = evaluate(milliseconds(seconds), &self.policy, &self.state, samples);
        self.state = evaluation.state.clone();
        evaluation
    }

    /// Evaluates and returns action and the limit of the first class in Mbit/s.
    pub(crate) fn step(&mut self, seconds: f64, samples: &[Sample]) -> (Action, f64) {
        let evaluation = self.evaluate(seconds, samples);
        (evaluation.action, evaluation.limits[0].after_bps / 1e6)
    }

    /// As `step`, with one sample of the robot, whose sequence is the time in seconds.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    pub(crate) fn robot(&mut self, seconds: f64, jitter_ms: f64, p95_ms: f64) -> (Action, f64) {
        let sample = latency(ROBOT, seconds as u64 + 1, seconds, jitter_ms, p95_ms);
        self.step(seconds, &[sample])
    }
}

pub(crate) fn latency(
    workload: &str,
    sequence: u64,
    seconds: f64,
    jitter_ms: f64,
    p95_ms: f64,
) -> Sample {
    Sample {
        jitter_ms: Some(jitter_ms),
        p95_ms: Some(p95_ms),
        ..at(workload, sequence, seconds)
    }
}

pub(crate) fn drops(workload: &str, sequence: u64, seconds: f64, drop_rate: f64) -> Sample {
    Sample {
        drop_rate: Some(drop_rate),
        flow_rate: Some(325.0),
        ..at(workload, sequence, seconds)
    }
}

pub(crate) fn of_quality(workload: &str, sequence: u64, seconds: f64, quality: Quality) -> Sample {
    Sample {
        quality,
        ..at(workload, sequence, seconds)
    }
}
