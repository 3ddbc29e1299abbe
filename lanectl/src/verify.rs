//! Recorded decisions, evaluated again from their own inputs.

use std::io::BufRead;
use std::time::Duration;

use anyhow::Context as _;
use laneguard_decider::decide;
use laneguard_proto::policy::Law;
use laneguard_proto::subject::Kind;
use laneguard_proto::v1::Decision;
use laneguard_runtime::bus::{Bus, Start, Subscription};

use crate::recording::{Line, Reader};
use crate::{name, output};

/// What came of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Came out as recorded.
    pub(crate) identical: u64,
    /// Came out otherwise, or lack their inputs.
    pub(crate) different: u64,
    /// Made by laws that are not ours.
    pub(crate) foreign: u64,
}

impl Tally {
    /// Evaluates one decision again. Returns a line about it unless it is identical.
    pub(crate) fn check(&mut self, decision: &Decision) -> Option<String> {
        if !is_ours(&decision.law) {
            self.foreign += 1;
            return None;
        }
        let found = match decide::differences(decision) {
            Ok(found) if found.is_empty() => {
                self.identical += 1;
                return None;
            }
            Ok(found) => found.join("; "),
            Err(error) => error.to_string(),
        };
        self.different += 1;
        let (policy, term) = (name::shown(&decision.policy), decision.term);
        // laws in shadow have the numbers of the law in force
        let shadow = match decision.shadow {
            true => format!(" shadow {}", name::shown(&decision.shadow_name)),
            false => String::new(),
        };
        Some(format!(
            "different: {policy}{shadow} term {term} sequence {}: {found}",
            decision.sequence
        ))
    }

    /// Prints the sums.
    ///
    /// # Errors
    /// When a decision came out otherwise.
    pub(crate) fn conclude(&self) -> anyhow::Result<()> {
        let Self {
            identical,
            different,
            foreign,
        } = self;
        output::line(&format!(
            "{identical} identical, {different} different, {foreign} by laws that are not ours"
        ))?;
        anyhow::ensure!(*different == 0, "not every decision came out as recorded");
        Ok(())
    }
}

/// Whether a law is one that our decider has.
fn is_ours(law: &str) -> bool {
    let known = serde_json::from_value::<Law>(law.into());
    known.is_ok_and(|law| law != Law::External)
}

/// The decisions of a record, or bare ones, line by line. What cannot be read is told and left out, but is no proof either.
///
/// # Errors
/// When the source cannot be read, a line of it is malformed, or a decision came out otherwise.
pub(crate) fn record<R: BufRead>(mut source: Reader<R>) -> anyhow::Result<()> {
    let mut tally = Tally::default();
    let mut malformed = 0_u64;
    while let Some(line) = source.next()? {
        match line {
            Ok(Line::Decision(decision)) => {
                if let Some(line) = tally.check(&decision) {
                    output::line(&line)?;
                }
            }
            Ok(_) => {}
            Err(line) => {
                malformed += 1;
                eprintln!("warning: {line}; it is left out");
            }
        }
    }
    tally.conclude()?;
    anyhow::ensure!(malformed == 0, "not every line could be read");
    Ok(())
}

/// The decisions that the stream still has.
///
/// # Errors
/// When NATS does not answer, or one came out otherwise.
pub(crate) async fn stream(bus: &Bus, since: Duration) -> anyhow::Result<()> {
    let mut tally = Tally::default();
    let mut decisions: Subscription<Decision> = bus.subscribe(Kind::Decision, Start::Ago(since));
    while let Some(received) = decisions
        .next_or_caught_up()
        .await
        .context("NATS is gone")?
    {
        if let Some(line) = tally.check(&received.message) {
            output::line(&line)?;
        }
    }
    tally.conclude()
}

#[cfg(test)]
mod tests {
    use super::*;
    use laneguard_decider::decide::{self, Inputs};
    use laneguard_decider_core::policy::{Class, Critical, Policy, Targets};
    use laneguard_decider_core::state::State;
    use laneguard_proto::duration::timestamp_from_ms;

    fn decision() -> Decision {
        let inputs = Inputs {
            now_ms: 1_764_000_000_000,
            policy: Policy {
                law: laneguard_decider_core::policy::Law::Threshold(Default::default()),
                critical: vec![Critical::new(
                    "factory_robot",
                    Targets {
                        p95_ms: Some(10.0),
                        ..Targets::default()
                    },
                )],
                classes: vec![Class::new("bulk", 10e6, 1e9)],
            },
            state: State::new([("bulk", 5e6)]),
            samples: Vec::new(),
            gate: None,
            note: None,
        };
        let evaluation = inputs.decide();
        Decision {
            cluster: "default".into(),
            policy: "factory_floor".into(),
            law: "Threshold".into(),
            term: 1,
            sequence: 1,
            decided_at: Some(timestamp_from_ms(inputs.now_ms)),
            action: evaluation.action.to_string(),
            reason: evaluation.reason.clone(),
            limits: decide::limits(&evaluation),
            state: inputs.recorded_state(),
            parameters: inputs.parameters(),
            ..Default::default()
        }
    }

    #[test]
    fn a_decision_that_was_tampered_with_is_found() {
        let mut tally = Tally::default();
        assert_eq!(tally.check(&decision()), None);
        let mut tampered = decision();
        tampered.limits[0].after_bps = Some(10_000_001.0);
        assert!(tally.check(&tampered).unwrap().contains("limits"));
        let mut bare = decision();
        bare.state = None;
        assert!(tally.check(&bare).unwrap().contains("no state"));
        let mut foreign = decision();
        foreign.law = "Oracle".into();
        assert_eq!(tally.check(&foreign), None);
        let expected = Tally {
            identical: 1,
            different: 2,
            foreign: 1,
        };
        assert_eq!(tally, expected);
        assert!(tally.conclude().is_err());
    }

    #[test]
    fn decisions_in_shadow_are_evaluated_again_as_well_and_told_apart() {
        let mut tally = Tally::default();
        let in_shadow = Decision {
            shadow: true,
            shadow_name: "steps".into(),
            ..decision()
        };
        assert_eq!(tally.check(&in_shadow), None);
        let mut tampered = in_shadow;
        tampered.limits[0].after_bps = Some(10_000_001.0);
        let told = tally.check(&tampered).unwrap();
        assert!(told.contains(" shadow steps term 1 sequence 1"), "{told}");
        assert_eq!((tally.identical, tally.different), (1, 1));
    }

    /// What verifying these lines came to, and why it failed.
    fn verified(lines: &[&str]) -> Result<(), String> {
        record(Reader::new(lines.join("\n").as_bytes())).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn bare_decisions_and_those_of_a_record_are_evaluated_again() {
        let json = |decision| laneguard_proto::codec::to_json(&decision).unwrap();
        let (good, bad) = (
            json(decision()),
            json(Decision {
                action: "INCREASE".into(),
                ..decision()
            }),
        );
        let of_record = |decision: &str| {
            let subject = "laneguard.v1.decision.default.factory_floor";
            format!(
                r#"{{"kind":"decision","subject":"{subject}","time":"2026-11-24T15:36:57Z","message":{decision}}}"#
            )
        };
        let header = r#"{"kind":"header","format":"laneguard.record","version":1}"#;
        let sample = r#"{"kind":"sample","time":"2026-11-24T15:36:57Z","message":{"cluster":"c","policy":"p","workload":"w","sequence":"1","observedAt":"2026-11-24T15:36:56Z"}}"#;
        let (recorded, tampered) = (of_record(&good), of_record(&bad));
        assert_eq!(verified(&[&good, "", &good]), Ok(()));
        assert_eq!(verified(&[header, sample, &recorded]), Ok(()));
        for lines in [[good.as_str(), &bad], [header, &tampered]] {
            let error = verified(&lines).unwrap_err();
            assert!(error.contains("not every decision"), "{error}");
        }
    }

    #[test]
    fn a_line_that_cannot_be_read_fails_the_whole_although_the_rest_is_verified() {
        let json = laneguard_proto::codec::to_json(&decision()).unwrap();
        let error = verified(&[&json, "nonsense", &json]).unwrap_err();
        assert_eq!(error, "not every line could be read");
    }
}
