//! A record as the evaluations that a law would have made of it, one after the other.

use std::collections::VecDeque;

use laneguard_proto::v1::{Decision, Sample};

use crate::words::decided_ms;

/// Samples that wait for the decision that used them. More do not wait: something is wrong then.
const MOST_WAITING: usize = 10_000;

/// One evaluation.
#[derive(Debug)]
pub(super) enum Step {
    /// A decision that was published, with its samples.
    Decision(Box<Decision>),
    /// A sample that no published decision names: the law changed nothing then.
    Sample {
        /// When it was stored, Unix milliseconds.
        stored_ms: i64,
        /// The sample.
        message: Box<Sample>,
    },
}

/// Brings samples and decisions, which are two streams, together.
#[derive(Debug, Default)]
pub(super) struct Steps {
    waiting: VecDeque<(i64, Box<Sample>)>,
}

impl Steps {
    /// Takes a sample. Returns one that has waited too long.
    pub(super) fn sample(&mut self, stored_ms: i64, message: Box<Sample>) -> Option<Step> {
        self.waiting.push_back((stored_ms, message));
        if self.waiting.len() <= MOST_WAITING {
            return None;
        }
        let (stored_ms, message) = self.waiting.pop_front()?;
        Some(Step::Sample { stored_ms, message })
    }

    /// Takes a decision. Returns the evaluations up to it, itself the last.
    pub(super) fn decision(&mut self, decision: Box<Decision>) -> Vec<Step> {
        let at_ms = decided_ms(&decision);
        let newest = |sample: &Sample| {
            let same = decision
                .samples
                .iter()
                .filter(|used| used.workload == sample.workload);
            same.map(|used| used.sequence).max()
        };
        let mut steps = Vec::new();
        let mut later = VecDeque::new();
        for (stored_ms, sample) in self.waiting.drain(..) {
            match newest(&sample) {
                Some(newest) if sample.sequence > newest => later.push_back((stored_ms, sample)),
                // it is in the decision itself
                Some(newest) if sample.sequence == newest => {}
                None if stored_ms > at_ms => later.push_back((stored_ms, sample)),
                _ => steps.push(Step::Sample {
                    stored_ms: stored_ms.min(at_ms),
                    message: sample,
                }),
            }
        }
        self.waiting = later;
        steps.push(Step::Decision(decision));
        steps
    }

    /// What is left at the end of the record.
    pub(super) fn rest(&mut self) -> impl Iterator<Item = Step> + '_ {
        let step = |(stored_ms, message)| Step::Sample { stored_ms, message };
        self.waiting.drain(..).map(step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use laneguard_proto::duration::timestamp_from_ms;

    fn sample(sequence: u64) -> Box<Sample> {
        Box::new(Sample {
            workload: "w".into(),
            sequence,
            ..Sample::default()
        })
    }

    #[test]
    fn samples_between_decisions_are_evaluations_of_their_own() {
        let mut steps = Steps::default();
        for sequence in 1..=4 {
            assert!(
                steps
                    .sample(1_000 * sequence as i64, sample(sequence))
                    .is_none()
            );
        }
        let decision = Decision {
            decided_at: Some(timestamp_from_ms(3_010)),
            samples: vec![*sample(3)],
            ..Decision::default()
        };
        let made = steps.decision(Box::new(decision));
        let order: Vec<u64> = made
            .iter()
            .map(|step| match step {
                Step::Sample { message, .. } => message.sequence,
                Step::Decision(decision) => 100 + decision.samples[0].sequence,
            })
            .collect();
        assert_eq!(order, [1, 2, 103]);
        assert!(matches!(
            steps.rest().next(),
            Some(Step::Sample {
                stored_ms: 4_000,
                ..
            })
        ));
    }
}
