//! What the operator wants, as the laws need it: targets, bounds and parameters, in base units.
//!
//! Excludes what only the services need (selectors, mode, staleness action): they hold the full policy.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{adaptive, autorate, drop_rate, headroom, sample::Sample, threshold, watermark};

pub use crate::tolerance::{MOST_WINDOWS, Tolerance};

/// Smallest lower bound of a class in bits per second: below it Cilium reads a value as *unlimited*.
pub const LEAST_LIMIT_BPS: f64 = 1e6;
/// Most critical workloads of one policy; bounds the state.
pub const MOST_CRITICAL: usize = 256;
/// Most classes of one policy; bounds the state.
pub const MOST_CLASSES: usize = 64;

/// Least weight of a class.
pub const LEAST_WEIGHT: f64 = 0.01;
/// Greatest weight of a class.
pub const MOST_WEIGHT: f64 = 100.0;

/// Longest name: a namespace and a name of a Kubernetes object and `_` between.
const LONGEST_NAME: usize = 63 + 1 + 253;
/// Largest number accepted anywhere, so that arithmetic on validated values stays finite.
const LARGEST: f64 = 1e15;

/// A policy as the control laws see it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Policy {
    /// The law and its parameters.
    pub law: Law,
    /// The workloads to protect. The worst of them governs.
    pub critical: Vec<Critical>,
    /// The classes of best-effort workloads that are throttled.
    pub classes: Vec<Class>,
}

/// One workload to protect.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Critical {
    /// The wire id `<namespace>_<name>`, as in [`crate::sample::Sample::workload`].
    pub workload: String,
    /// What must not be exceeded.
    pub targets: Targets,
    /// Whether targets are learned instead ([`crate::adaptive`], the only law that can); `targets` has none then. Default false.
    #[serde(default, skip_serializing_if = "is_false")]
    pub auto: bool,
    /// How often they may be. Unset: every window counts. Read by the laws `Threshold` and `Adaptive`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerate: Option<Tolerance>,
}

impl Critical {
    /// A workload of which every window counts.
    #[must_use]
    pub fn new(workload: impl Into<String>, targets: Targets) -> Self {
        Self {
            workload: workload.into(),
            targets,
            auto: false,
            tolerate: None,
        }
    }
}

/// Upper bounds of the signals of one workload. Unset: not judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Targets {
    /// 95th percentile of request latency in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p95_ms: Option<f64>,
    /// 99th percentile of request latency in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p99_ms: Option<f64>,
    /// Mean request latency in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean_ms: Option<f64>,
    /// Jitter (interquartile range of request latency) in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jitter_ms: Option<f64>,
}

/// One class of best-effort workloads and the bounds of its limit per pod.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Class {
    /// Name, unique in the policy.
    pub name: String,
    /// Never throttled below this, in bits per second; at least [`LEAST_LIMIT_BPS`].
    pub min_bps: f64,
    /// Never raised above this, in bits per second; at least `min_bps`.
    pub max_bps: f64,
    /// Its share of what is there, relative to the others': a limit is this times a level that all have in common, inside the bounds.
    /// From [`LEAST_WEIGHT`] to [`MOST_WEIGHT`], default 1. Read by the law `Adaptive`; the others treat every class alike.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub weight: f64,
    /// The order in which classes give up: those with smaller numbers go to their minimum before greater ones give anything, and get it back
    /// after them. Default 0: all together. Read by the law `Adaptive`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub sacrifice: u32,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // as serde calls it
fn is_false(value: &bool) -> bool {
    !*value
}

fn one() -> f64 {
    1.0
}

#[allow(clippy::trivially_copy_pass_by_ref)] // as serde calls it
fn is_one(weight: &f64) -> bool {
    *weight == 1.0
}

#[allow(clippy::trivially_copy_pass_by_ref)] // as serde calls it
fn is_zero(order: &u32) -> bool {
    *order == 0
}

impl Class {
    /// A class of weight 1 that gives up together with the others.
    #[must_use]
    pub fn new(name: impl Into<String>, min_bps: f64, max_bps: f64) -> Self {
        Self {
            name: name.into(),
            min_bps,
            max_bps,
            weight: one(),
            sacrifice: 0,
        }
    }

    /// Brings a limit inside the bounds. NaN, an unknown limit, becomes the maximum, where a class without history starts.
    #[must_use]
    pub fn clamp(&self, limit_bps: f64) -> f64 {
        // `f64::clamp` panics on bounds that no validated policy has; this does not, and `min` maps NaN to the maximum.
        limit_bps.min(self.max_bps).max(self.min_bps)
    }
}

/// A control law and its parameters; serialized with the law's name under `name`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name")]
pub enum Law {
    /// Jitter and latency against targets, in fixed steps: see [`threshold`].
    Threshold(threshold::Parameters),
    /// Packet drops against a learned baseline, in fixed steps: see [`drop_rate`].
    DropRate(drop_rate::Parameters),
    /// Cuts to what best-effort really sends while the link is full: see [`adaptive`].
    Adaptive(adaptive::Parameters),
    /// Volcano's, for comparison: see [`watermark`].
    Watermark(watermark::Parameters),
    /// Heracles' network loop, for comparison: see [`headroom`].
    Headroom(headroom::Parameters),
    /// cake-autorate's, for comparison: see [`autorate`].
    Autorate(autorate::Parameters),
}

impl Law {
    /// The law's name in policies and decisions.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Threshold(_) => "Threshold",
            Self::DropRate(_) => "DropRate",
            Self::Adaptive(_) => "Adaptive",
            Self::Watermark(_) => "Watermark",
            Self::Headroom(_) => "Headroom",
            Self::Autorate(_) => "Autorate",
        }
    }
}

/// Why a policy was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct PolicyError {
    /// Path of the field, such as `classes[bulk].min_bps`.
    pub field: String,
    /// What is wrong with it.
    pub reason: String,
}

impl PolicyError {
    fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            reason: reason.into(),
        }
    }
}

impl Policy {
    /// Checks everything the laws rely on.
    ///
    /// # Errors
    /// The first field that is missing, out of range, not finite or not unique.
    pub fn validate(&self) -> Result<(), PolicyError> {
        within_count("critical", self.critical.len(), MOST_CRITICAL)?;
        within_count("classes", self.classes.len(), MOST_CLASSES)?;
        let mut seen = BTreeSet::new();
        for critical in &self.critical {
            let field = format!("critical[{}]", critical.workload);
            name(&format!("{field}.workload"), &critical.workload)?;
            if !seen.insert(&critical.workload) {
                return Err(PolicyError::new(field, "is named twice"));
            }
            // Only Threshold and Adaptive judge targets.
            let needed = matches!(self.law, Law::Threshold(_) | Law::Adaptive(_));
            critical
                .targets
                .validate(&field, needed && !critical.auto)?;
            if critical.auto {
                let field = format!("{field}.targets");
                if !matches!(self.law, Law::Adaptive(_)) {
                    let law = self.law.name();
                    let problem =
                        format!("is Auto, which the law {law} cannot learn, only Adaptive");
                    return Err(PolicyError::new(field, problem));
                }
                if critical.targets != Targets::default() {
                    return Err(PolicyError::new(field, "is Auto and has targets, too"));
                }
            }
            if let Some(tolerance) = critical.tolerate {
                tolerance.validate(&format!("{field}.tolerate"))?;
            }
        }
        seen.clear();
        for class in &self.classes {
            let field = format!("classes[{}]", class.name);
            name(&format!("{field}.name"), &class.name)?;
            if !seen.insert(&class.name) {
                return Err(PolicyError::new(field, "is named twice"));
            }
            in_range(
                &format!("{field}.min_bps"),
                class.min_bps,
                LEAST_LIMIT_BPS,
                LARGEST,
            )?;
            in_range(
                &format!("{field}.max_bps"),
                class.max_bps,
                class.min_bps,
                LARGEST,
            )?;
            in_range(
                &format!("{field}.weight"),
                class.weight,
                LEAST_WEIGHT,
                MOST_WEIGHT,
            )?;
        }
        match &self.law {
            Law::Threshold(parameters) => parameters.validate(),
            Law::DropRate(parameters) => parameters.validate(),
            Law::Adaptive(parameters) => parameters.validate(),
            Law::Watermark(parameters) => parameters.validate(),
            Law::Headroom(parameters) => parameters.validate(),
            Law::Autorate(parameters) => parameters.validate(),
        }
    }
}

/// A target and what a sample shows of its signal.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reading {
    /// The signal, in words.
    pub name: &'static str,
    /// The target in milliseconds.
    pub target_ms: f64,
    /// What was measured, in milliseconds. Unset: nothing.
    pub value_ms: Option<f64>,
}

impl Targets {
    /// Every target that is set, beside what a sample shows.
    pub fn readings(&self, sample: &Sample) -> impl Iterator<Item = Reading> + use<> {
        [
            ("P95 latency", self.p95_ms, sample.p95_ms),
            ("P99 latency", self.p99_ms, sample.p99_ms),
            ("mean latency", self.mean_ms, sample.mean_ms),
            ("jitter", self.jitter_ms, sample.jitter_ms),
        ]
        .into_iter()
        .filter_map(|(name, target_ms, value_ms)| {
            Some(Reading {
                name,
                target_ms: target_ms?,
                value_ms,
            })
        })
    }

    fn validate(&self, field: &str, needed: bool) -> Result<(), PolicyError> {
        let all = [
            ("p95_ms", self.p95_ms),
            ("p99_ms", self.p99_ms),
            ("mean_ms", self.mean_ms),
            ("jitter_ms", self.jitter_ms),
        ];
        if needed && all.iter().all(|(_, target)| target.is_none()) {
            return Err(PolicyError::new(
                format!("{field}.targets"),
                "at least one target is needed",
            ));
        }
        for (metric, target) in all {
            if let Some(target) = target {
                positive(&format!("{field}.targets.{metric}"), target)?;
            }
        }
        Ok(())
    }
}

fn within_count(field: &str, count: usize, most: usize) -> Result<(), PolicyError> {
    match count {
        0 => Err(PolicyError::new(field, "at least one is needed")),
        n if n > most => Err(PolicyError::new(
            field,
            format!("{n} are more than the {most} allowed"),
        )),
        _ => Ok(()),
    }
}

/// Names travel as one token of a NATS subject.
fn name(field: &str, name: &str) -> Result<(), PolicyError> {
    if name.is_empty() || name.len() > LONGEST_NAME {
        return Err(PolicyError::new(
            field,
            format!(
                "must have 1 to {LONGEST_NAME} characters, has {}",
                name.len()
            ),
        ));
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    match name.chars().find(|c| !allowed(*c)) {
        Some(c) => Err(PolicyError::new(
            field,
            format!("{c:?} is not a letter, digit, '-' or '_'"),
        )),
        None => Ok(()),
    }
}

/// `low <= value <= high`, which NaN never is.
pub(crate) fn in_range(field: &str, value: f64, low: f64, high: f64) -> Result<(), PolicyError> {
    if (low..=high).contains(&value) {
        Ok(())
    } else {
        Err(PolicyError::new(
            field,
            format!("must be from {low} to {high}, is {value}"),
        ))
    }
}

/// Greater than zero and finite.
pub(crate) fn positive(field: &str, value: f64) -> Result<(), PolicyError> {
    if value > 0.0 && value <= LARGEST {
        Ok(())
    } else {
        Err(PolicyError::new(
            field,
            format!("must be greater than 0 and at most {LARGEST}, is {value}"),
        ))
    }
}

/// Zero or more and finite.
pub(crate) fn not_negative(field: &str, value: f64) -> Result<(), PolicyError> {
    in_range(field, value, 0.0, LARGEST)
}

/// A weight of a moving average: greater than 0, at most 1.
pub(crate) fn weight(field: &str, value: f64) -> Result<(), PolicyError> {
    if value > 0.0 && value <= 1.0 {
        Ok(())
    } else {
        Err(PolicyError::new(
            field,
            format!("must be greater than 0 and at most 1, is {value}"),
        ))
    }
}

/// A duration of at most a day.
pub(crate) fn duration(field: &str, value_ms: u64) -> Result<(), PolicyError> {
    const DAY_MS: u64 = 86_400_000;
    if value_ms <= DAY_MS {
        Ok(())
    } else {
        Err(PolicyError::new(
            field,
            format!("must be at most {DAY_MS} ms (a day), is {value_ms} ms"),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> Policy {
        Policy {
            law: Law::Threshold(threshold::Parameters::default()),
            critical: vec![Critical::new(
                "factory_robot",
                Targets {
                    p95_ms: Some(10.0),
                    jitter_ms: Some(5.0),
                    ..Targets::default()
                },
            )],
            classes: vec![Class::new("bulk", 10e6, 1e9)],
        }
    }

    fn refused(change: impl FnOnce(&mut Policy)) -> String {
        let mut policy = policy();
        change(&mut policy);
        policy.validate().unwrap_err().field
    }

    fn threshold(change: impl FnOnce(&mut threshold::Parameters)) -> Law {
        let mut parameters = threshold::Parameters::default();
        change(&mut parameters);
        Law::Threshold(parameters)
    }

    fn drop_rate(change: impl FnOnce(&mut drop_rate::Parameters)) -> Law {
        let mut parameters = drop_rate::Parameters::default();
        change(&mut parameters);
        Law::DropRate(parameters)
    }

    #[test]
    fn a_plain_policy_passes_with_either_law_at_its_defaults() {
        let mut policy = policy();
        assert_eq!(policy.validate(), Ok(()));
        policy.law = Law::DropRate(drop_rate::Parameters::default());
        policy.critical[0].targets = Targets::default();
        assert_eq!(policy.validate(), Ok(()));
    }

    #[test]
    fn a_refusal_names_the_field() {
        assert_eq!(refused(|p| p.critical.clear()), "critical");
        assert_eq!(refused(|p| p.classes.clear()), "classes");
        assert_eq!(
            refused(|p| p.critical.push(p.critical[0].clone())),
            "critical[factory_robot]"
        );
        assert_eq!(
            refused(|p| p.classes.push(p.classes[0].clone())),
            "classes[bulk]"
        );
        assert_eq!(
            refused(|p| p.critical = vec![p.critical[0].clone(); MOST_CRITICAL + 1]),
            "critical"
        );
        assert_eq!(
            refused(|p| p.classes = vec![p.classes[0].clone(); MOST_CLASSES + 1]),
            "classes"
        );
        assert_eq!(
            refused(|p| p.critical[0].workload = "a.b".into()),
            "critical[a.b].workload"
        );
        assert_eq!(
            refused(|p| p.classes[0].name = String::new()),
            "classes[].name"
        );
        assert_eq!(
            refused(|p| p.critical[0].targets = Targets::default()),
            "critical[factory_robot].targets"
        );
        for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(
                refused(|p| p.critical[0].targets.p99_ms = Some(bad)),
                "critical[factory_robot].targets.p99_ms"
            );
        }
        for bad in [0.999e6, f64::NAN, f64::INFINITY] {
            assert_eq!(
                refused(|p| p.classes[0].min_bps = bad),
                "classes[bulk].min_bps"
            );
        }
        for bad in [0.0, 101.0, f64::NAN] {
            assert_eq!(
                refused(|p| p.classes[0].weight = bad),
                "classes[bulk].weight"
            );
        }
        assert_eq!(
            refused(|p| p.critical[0].tolerate = Some(Tolerance { windows: 3, of: 3 })),
            "critical[factory_robot].tolerate.windows"
        );
        for bad in [9e6, f64::NAN, f64::INFINITY] {
            assert_eq!(
                refused(|p| p.classes[0].max_bps = bad),
                "classes[bulk].max_bps"
            );
        }
    }

    #[test]
    fn only_the_law_that_learns_targets_does_without() {
        let auto = |law: Law| {
            let mut policy = policy();
            policy.critical[0].targets = Targets::default();
            policy.critical[0].auto = true;
            policy.law = law;
            policy.validate().map_err(|e| e.to_string())
        };
        assert_eq!(auto(Law::Adaptive(adaptive::Parameters::default())), Ok(()));
        for law in [threshold(|_| {}), drop_rate(|_| {})] {
            let why = auto(law).unwrap_err();
            assert!(
                why.contains("critical[factory_robot].targets: is Auto"),
                "{why}"
            );
        }
        assert_eq!(
            refused(|p| {
                p.critical[0].auto = true;
                p.law = Law::Adaptive(adaptive::Parameters::default());
            }),
            "critical[factory_robot].targets"
        );
    }

    #[test]
    fn parameters_of_the_law_are_checked() {
        for bad in [0.0, 1.01, f64::NAN] {
            assert_eq!(
                refused(|p| p.law = threshold(|t| t.alpha = bad)),
                "law.alpha"
            );
            assert_eq!(
                refused(|p| p.law = drop_rate(|t| t.baseline_rise = bad)),
                "law.baseline_rise"
            );
        }
        for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(
                refused(|p| p.law = threshold(|t| t.gentle_decrease_bps = bad)),
                "law.gentle_decrease_bps"
            );
            assert_eq!(
                refused(|p| p.law = drop_rate(|t| t.increase_step_bps = bad)),
                "law.increase_step_bps"
            );
        }
        assert_eq!(
            refused(|p| p.law = threshold(|t| t.cooldown_ms = 86_400_001)),
            "law.cooldown_ms"
        );
        assert_eq!(
            refused(|p| p.law = drop_rate(|t| t.margin_ratio = -0.1)),
            "law.margin_ratio"
        );
    }

    #[test]
    fn a_law_is_serialized_under_its_name_and_unset_parameters_take_their_defaults() {
        let law: Law = serde_json::from_str(r#"{"name":"Threshold","alpha":0.5}"#).unwrap();
        assert_eq!(law, threshold(|t| t.alpha = 0.5));
        let policy = policy();
        let json = serde_json::to_string(&policy).unwrap();
        assert_eq!(serde_json::from_str::<Policy>(&json).unwrap(), policy);
    }

    #[test]
    fn an_unknown_limit_is_clamped_to_the_maximum() {
        let class = &policy().classes[0];
        assert_eq!(class.clamp(f64::NAN), 1e9);
        assert_eq!(class.clamp(f64::INFINITY), 1e9);
        assert_eq!(class.clamp(-1.0), 10e6);
        assert_eq!(class.clamp(20e6), 20e6);
    }
}
