//! The replayed law beside the recorded one, point by point.

use laneguard_decider::decide::{self, Inputs};
use laneguard_decider::wire::{self, Plan};
use laneguard_decider_core::adaptive;
use laneguard_decider_core::policy::{Law, Policy};
use laneguard_decider_core::sample::Sample;
use laneguard_decider_core::state::State;
use laneguard_proto::policy::Entry;
use laneguard_proto::v1::Decision;

use super::law::{self, Setting};
use super::step::Step;
use crate::words::decided_ms;

/// One evaluation of both laws.
#[derive(Debug, Clone)]
pub(super) struct Point {
    /// Unix milliseconds.
    pub(super) at_ms: i64,
    /// The worst signal as a multiple of its target. Unset: nothing was measured.
    pub(super) signal: Option<f64>,
    /// Limit of each class afterwards, bits per second per pod: recorded.
    pub(super) recorded: Vec<f64>,
    /// The same, replayed.
    pub(super) replayed: Vec<f64>,
}

/// The least and the greatest limit of a class under both laws, bits per second. `None`: there is nothing to draw.
pub(super) fn range(points: &[Point], class: usize) -> Option<(f64, f64)> {
    let all = points
        .iter()
        .flat_map(|point| [point.recorded.get(class), point.replayed.get(class)])
        .flatten();
    let (low, high) = all.fold((f64::INFINITY, 0.0_f64), |(low, high), bps| {
        (low.min(*bps), high.max(*bps))
    });
    (low.is_finite() && low > 0.0).then_some((low, high))
}

/// What is replayed.
#[derive(Debug, Clone, Default)]
pub(super) struct Choice {
    /// The law's name. Unset: the recorded one.
    pub(super) law: Option<String>,
    /// Its parameters that differ.
    pub(super) settings: Vec<Setting>,
}

/// The whole comparison.
#[derive(Debug, Default)]
pub(super) struct Track {
    choice: Choice,
    /// The policy under the replayed law. Unset until the first decision or entry.
    policy: Option<Policy>,
    /// The policy's entry, for records without inputs.
    entry: Option<Box<Entry>>,
    /// The replayed law's memory.
    state: State,
    /// The recorded limits, by class.
    limits: Vec<f64>,
    /// The recorded law's name.
    pub(super) recorded_law: String,
    /// Whether law and parameters are the recorded ones.
    pub(super) is_same: bool,
    /// Points so far.
    pub(super) points: Vec<Point>,
    /// Published decisions.
    pub(super) decisions: u64,
    /// Of them, those whose action and limits came out as recorded.
    pub(super) identical: u64,
    /// Evaluations whose samples are not in the record.
    pub(super) missing: u64,
    /// How often the recorded state stood in for what is not in the record.
    pub(super) resumed: u64,
    /// Decisions without the inputs that are needed.
    pub(super) unreadable: u64,
    /// Samples evaluated since the last published decision.
    between: u64,
    /// Sequence of the last published decision.
    last_sequence: Option<u64>,
}

impl Track {
    /// Nothing yet.
    pub(super) fn new(choice: Choice) -> Self {
        Self {
            choice,
            ..Self::default()
        }
    }

    /// The policy under the replayed law.
    pub(super) fn policy(&self) -> Option<&Policy> {
        self.policy.as_ref()
    }

    /// Takes the policy's entry: all there is to begin with where decisions have no inputs, as those of other deciders.
    pub(super) fn entry(&mut self, entry: Box<Entry>) {
        self.entry = Some(entry);
    }

    /// Begins with the entry, if there is one and nothing better.
    ///
    /// # Errors
    /// When the law or its parameters cannot be used.
    pub(super) fn begin_with_entry(&mut self) -> anyhow::Result<()> {
        let Some(mut entry) = self.entry.take().filter(|_| self.policy.is_none()) else {
            return Ok(());
        };
        if let Some(law) = &self.choice.law
            && let Ok(law) = serde_json::from_value(law.as_str().into())
        {
            entry.spec.control.in_force.law = law;
        }
        let Ok(Plan {
            law: Some(policy), ..
        }) = Plan::from_entry(&entry)
        else {
            return Ok(());
        };
        self.limits = policy.classes.iter().map(|class| class.max_bps).collect();
        self.adopt(policy)?;
        // nothing is known of what the recorded law computed
        self.is_same = false;
        Ok(())
    }

    fn adopt(&mut self, mut policy: Policy) -> anyhow::Result<()> {
        let recorded = policy.law.clone();
        let law = match self.choice.law.as_deref() {
            Some(name) if name != recorded.name() => {
                law::named(name).unwrap_or_else(|| recorded.clone())
            }
            _ => recorded.clone(),
        };
        policy.law = law::with(&law, &self.choice.settings)?;
        policy.validate().map_err(|error| {
            match error.field.strip_prefix("law.") {
                Some(parameter) => {
                    laneguard_runtime::ConfigError::new(format!("--set {parameter}"), error.reason)
                }
                // the recorded policy suits the recorded law: another one was chosen
                None => laneguard_runtime::ConfigError::new("--law", error.to_string()),
            }
        })?;
        self.is_same = policy.law == recorded;
        self.policy = Some(policy);
        Ok(())
    }

    /// Evaluates once.
    ///
    /// # Errors
    /// When the law or its parameters cannot be used.
    pub(super) fn take(&mut self, step: Step) -> anyhow::Result<()> {
        match step {
            Step::Decision(decision) => self.decision(&decision),
            Step::Sample { stored_ms, message } => {
                let mut sample = wire::sample(&message);
                sample.observed_at_ms = stored_ms;
                self.between += 1;
                self.sample(stored_ms, &[sample]);
                Ok(())
            }
        }
    }

    /// A sample after which the recorded law changed nothing.
    fn sample(&mut self, at_ms: i64, samples: &[Sample]) {
        let Some(policy) = &self.policy else {
            return;
        };
        // the recorded law's state after it is in the next decision, exactly
        let replayed = if self.is_same {
            self.limits.clone()
        } else {
            let evaluation = laneguard_decider_core::evaluate(at_ms, policy, &self.state, samples);
            self.state = evaluation.state;
            evaluation
                .limits
                .iter()
                .map(|limit| limit.after_bps)
                .collect()
        };
        self.points.push(Point {
            at_ms,
            signal: signal(&adaptive::in_force(policy, &self.state), samples),
            recorded: self.limits.clone(),
            replayed,
        });
    }

    fn decision(&mut self, decision: &Decision) -> anyhow::Result<()> {
        let at_ms = decided_ms(decision);
        self.missing += decision.repeats.saturating_sub(self.between);
        let is_gap = decision.repeats > 0
            || self
                .last_sequence
                .is_some_and(|last| last + 1 != decision.sequence);
        self.last_sequence = Some(decision.sequence);
        self.between = 0;
        self.recorded_law.clone_from(&decision.law);
        let given = Inputs::of_record(decision).ok();
        let is_first = self.points.is_empty();
        if let Some(given) = &given {
            self.adopt(given.policy.clone())?;
        }
        if given.is_none() {
            self.begin_with_entry()?;
        }
        let Some(policy) = &self.policy else {
            self.unreadable += 1;
            return Ok(());
        };
        self.decisions += 1;
        self.limits = policy
            .classes
            .iter()
            .zip(self.limits.iter().map(Some).chain(std::iter::repeat(None)))
            .map(|(class, known)| {
                let change = decision
                    .limits
                    .iter()
                    .find(|limit| limit.class == class.name);
                change
                    .and_then(|limit| limit.after_bps)
                    .or(known.copied())
                    .unwrap_or(class.max_bps)
            })
            .collect();
        let samples: Vec<Sample> = decision.samples.iter().map(wire::sample).collect();
        if let Some(given) = &given {
            let has_memory = given.policy.law.name() == policy.law.name();
            let is_set = given.note.is_some() || given.gate.is_some();
            if (is_first && has_memory) || (self.is_same && (is_gap || is_set)) {
                if !is_first && given.state != self.state {
                    self.resumed += 1;
                }
                self.state = given.state.clone();
            } else if is_first {
                self.state = State::new(
                    given
                        .state
                        .limits
                        .iter()
                        .map(|l| (l.class.clone(), l.limit_bps)),
                );
            } else if given.note.is_some() {
                // what an operator or the actuator set holds for every law
                self.state.limits.clone_from(&given.state.limits);
            }
        }
        let inputs = Inputs {
            now_ms: at_ms,
            policy: policy.clone(),
            state: std::mem::take(&mut self.state),
            gate: given.as_ref().and_then(|given| given.gate.clone()),
            note: given.and_then(|given| given.note),
            samples,
        };
        let evaluation = inputs.decide();
        if evaluation.action.as_str() == decision.action
            && decide::limits(&evaluation) == decision.limits
        {
            self.identical += 1;
        }
        self.points.push(Point {
            at_ms,
            signal: signal(
                &adaptive::in_force(&inputs.policy, &inputs.state),
                &inputs.samples,
            ),
            recorded: self.limits.clone(),
            // a gate may know no limit yet
            replayed: match evaluation.limits.len() == self.limits.len() {
                true => evaluation
                    .limits
                    .iter()
                    .map(|limit| limit.after_bps)
                    .collect(),
                false => self.limits.clone(),
            },
        });
        self.state = evaluation.state;
        Ok(())
    }

    /// The replayed law with its parameters.
    pub(super) fn replayed_law(&self) -> Option<&Law> {
        self.policy.as_ref().map(|policy| &policy.law)
    }
}

/// The worst measured signal as a multiple of its target.
fn signal(policy: &Policy, samples: &[Sample]) -> Option<f64> {
    let of_sample = |sample: &Sample| {
        let critical = policy
            .critical
            .iter()
            .find(|c| c.workload == sample.workload)?;
        if !sample.quality.is_measured() {
            return None;
        }
        critical
            .targets
            .readings(sample)
            .filter_map(|reading| Some(reading.value_ms? / reading.target_ms))
            .max_by(f64::total_cmp)
    };
    samples.iter().filter_map(of_sample).max_by(f64::total_cmp)
}
