//! One decision from its inputs, live and again from the record. Pure: what [`Inputs`] holds is all that counts.
//!
//! A decision message carries every input: the law's state before it, the samples, the time, and as `parameters` the policy as the
//! core sees it with, where they apply, `gate` (why the law was not asked) and `note` (what changed the limits before it was asked).

use laneguard_decider_core::policy::Policy;
use laneguard_decider_core::sample::Sample;
use laneguard_decider_core::state::State;
use laneguard_decider_core::{Action, Evaluation, LimitChange, evaluate};
use laneguard_proto::duration::timestamp_to_ms;
use laneguard_proto::{structure, v1};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::wire;

/// All that a decision rests on.
#[derive(Debug, Clone, PartialEq)]
pub struct Inputs {
    /// Unix time in milliseconds.
    pub now_ms: i64,
    /// What the operator wants.
    pub policy: Policy,
    /// What is remembered.
    pub state: State,
    /// What was measured.
    pub samples: Vec<Sample>,
    /// Why the law is not asked. Unset: it is.
    pub gate: Option<Gate>,
    /// What changed the limits in `state` since the last decision; precedes the law's reason. Unset: nothing did.
    pub note: Option<String>,
}

/// Why a law is not asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "why", rename_all = "camelCase")]
pub enum Gate {
    /// An operator gave the pods back what was found before us.
    Released {
        /// Who.
        by: String,
    },
    /// An operator keeps the limits as they are.
    Frozen {
        /// Who.
        by: String,
    },
    /// Nobody said yet where a class's pods run and what limit they have, so there is no limit to begin with.
    Unplaced {
        /// The class.
        class: String,
    },
}

impl Gate {
    fn reason(&self) -> String {
        let by = |by: &str| match by {
            "" => String::new(),
            by => format!(" ({by})"),
        };
        match self {
            Self::Released { by: who } => format!(
                "Released by operator{}: the pods have what was found before us, and no limit changes until the policy is resumed.",
                by(who)
            ),
            Self::Frozen { by: who } => format!(
                "Frozen by operator{}: the limits stay as they are.",
                by(who)
            ),
            Self::Unplaced { class } => {
                format!("The placement of class {class} is not known yet: no limit to begin with.")
            }
        }
    }
}

/// The longest reason of a decision, bytes: readers refuse longer ones.
const LONGEST_REASON: usize = 4096;

impl Inputs {
    /// Decides.
    pub fn decide(&self) -> Evaluation {
        if let Some(gate) = &self.gate {
            return Evaluation {
                action: Action::Hold,
                reason: gate.reason(),
                limits: self.unchanged(),
                state: self.state.clone(),
            };
        }
        let mut evaluation = evaluate(self.now_ms, &self.policy, &self.state, &self.samples);
        if let Some(note) = &self.note {
            evaluation.reason = format!("{note} {}", evaluation.reason);
        }
        fit(&mut evaluation);
        evaluation
    }

    /// The limits that are known, as they are.
    fn unchanged(&self) -> Vec<LimitChange> {
        let known = |class: &laneguard_decider_core::policy::Class| {
            let limit_bps = self.state.limit_bps(&class.name)?;
            Some(LimitChange {
                class: class.name.clone(),
                before_bps: limit_bps,
                after_bps: limit_bps,
            })
        };
        self.policy.classes.iter().filter_map(known).collect()
    }

    /// The inputs of a recorded decision.
    ///
    /// # Errors
    /// When an input is missing or cannot be read, as in decisions of other deciders.
    pub fn of_record(decision: &v1::Decision) -> Result<Self, Unreadable> {
        let missing = |what| Unreadable(format!("it has no {what}"));
        let parameters = decision
            .parameters
            .as_ref()
            .ok_or_else(|| missing("parameters"))?;
        let parameters = structure::to_json(parameters);
        let state = decision.state.as_ref().ok_or_else(|| missing("state"))?;
        let decided_at = decision
            .decided_at
            .as_ref()
            .ok_or_else(|| missing("decided_at"))?;
        let optional = |key: &str| parameters.get(key).filter(|v| !v.is_null()).cloned();
        Ok(Self {
            now_ms: timestamp_to_ms(decided_at),
            state: read("state", exact_numbers(structure::to_json(state)))?,
            samples: decision.samples.iter().map(wire::sample).collect(),
            gate: optional("gate").map(|v| read("gate", v)).transpose()?,
            note: optional("note").map(|v| read("note", v)).transpose()?,
            policy: read("parameters", parameters)?,
        })
    }

    /// Policy, gate and note as a decision carries them. `None` never happens with validated input: a number would not be finite.
    pub fn parameters(&self) -> Option<prost_types::Struct> {
        let mut parameters = serde_json::to_value(&self.policy).ok()?;
        if let Some(gate) = &self.gate {
            parameters["gate"] = serde_json::to_value(gate).ok()?;
        }
        if let Some(note) = &self.note {
            parameters["note"] = note.clone().into();
        }
        structure::from_json(&parameters)
    }

    /// The law's state as a decision carries it.
    pub fn recorded_state(&self) -> Option<prost_types::Struct> {
        structure::from_json(&whole_numbers_as_text(
            serde_json::to_value(&self.state).ok()?,
        ))
    }
}

/// Cuts what a reader would refuse.
pub(crate) fn fit(evaluation: &mut Evaluation) {
    let fitting = wire::cut(&evaluation.reason, LONGEST_REASON).len();
    evaluation.reason.truncate(fitting);
}

/// Why a recorded decision cannot be evaluated again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the decision cannot be evaluated again: {0}")]
pub struct Unreadable(String);

fn read<T: serde::de::DeserializeOwned>(what: &str, value: Value) -> Result<T, Unreadable> {
    serde_json::from_value(value).map_err(|e| Unreadable(format!("its {what}: {e}")))
}

/// Evaluates a recorded decision from its own inputs.
///
/// # Errors
/// When it does not carry them.
pub fn reevaluate(decision: &v1::Decision) -> Result<Evaluation, Unreadable> {
    Inputs::of_record(decision).map(|inputs| inputs.decide())
}

/// What a recorded decision says otherwise than its own inputs: `action`, `reason`, `limits`, each with both versions. Empty: identical.
///
/// # Errors
/// As [`reevaluate`].
pub fn differences(decision: &v1::Decision) -> Result<Vec<String>, Unreadable> {
    let evaluation = reevaluate(decision)?;
    let mut found = Vec::new();
    let mut compare = |what: &str, recorded: String, evaluated: String| {
        if recorded != evaluated {
            found.push(format!(
                "{what}: recorded {recorded:?}, evaluated {evaluated:?}"
            ));
        }
    };
    compare(
        "action",
        decision.action.clone(),
        evaluation.action.to_string(),
    );
    compare("reason", decision.reason.clone(), evaluation.reason.clone());
    // f64's Debug form is exact
    compare(
        "limits",
        format!("{:?}", decision.limits),
        format!("{:?}", limits(&evaluation)),
    );
    Ok(found)
}

/// An evaluation's limits as a decision carries them.
pub fn limits(evaluation: &Evaluation) -> Vec<v1::LimitChange> {
    evaluation
        .limits
        .iter()
        .map(|limit| v1::LimitChange {
            class: limit.class.clone(),
            before_bps: Some(limit.before_bps),
            after_bps: Some(limit.after_bps),
        })
        .collect()
}

/// The one field of the state that may exceed what a double holds exactly.
const SEQUENCE: &str = "last_sequence";
/// 2^53: whole numbers up to here are exact in a double, and so in a `Struct`.
const EXACT: u64 = 1 << 53;

/// Sequences above 2^53 as text, as proto3 JSON writes 64-bit integers.
fn whole_numbers_as_text(mut value: Value) -> Value {
    convert(&mut value, &|value| {
        if let Some(sequence) = value.as_u64().filter(|sequence| *sequence > EXACT) {
            *value = Value::String(sequence.to_string());
        }
    });
    value
}

/// The reverse of [`whole_numbers_as_text`].
fn exact_numbers(mut value: Value) -> Value {
    convert(&mut value, &|value| {
        if let Some(sequence) = value.as_str().and_then(|s| s.parse::<u64>().ok()) {
            *value = sequence.into();
        }
    });
    value
}

/// Applies `change` to every [`SEQUENCE`] in a tree.
fn convert(value: &mut Value, change: &impl Fn(&mut Value)) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|value| convert(value, change)),
        Value::Object(fields) => {
            for (key, value) in fields {
                if key == SEQUENCE {
                    change(value);
                } else {
                    convert(value, change);
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests;
