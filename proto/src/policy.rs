//! The QosPolicy: as the file or resource people write, and as the entry in the bucket `laneguard-policies`.
//!
//! Owns the schema, its defaults and its validation; the part about laws is in `policy/control.rs`. What a law does with its parameters is the decider's.

mod control;

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use serde::de::{self, SeqAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::quantity::{Bandwidth, LEAST_BPS};
use crate::selector::LabelSelector;
use crate::subject::{ENVIRONMENT_POLICY, Token};

pub use control::{
    Adaptive, Autorate, Control, DropRate, Law, LawChoice, Link, MOST_SHADOWS, Shadow, Steps,
};

/// `apiVersion` of the resource.
pub const API_VERSION: &str = "laneguard.dev/v1alpha1";
/// `kind` of the resource.
pub const KIND: &str = "QosPolicy";

/// Working ceiling of a class whose `max` is unset, bits per second: the predecessor's MAX_BANDWIDTH_MBPS. At the top the annotation goes.
pub const DEFAULT_CEILING_BPS: f64 = 1e9;

/// Most critical workloads of a policy: what is remembered and recorded of them must fit into a message.
pub const MOST_CRITICAL: usize = 256;
/// Most windows that a tolerance may look back upon.
pub const MOST_WINDOWS: u8 = 100;
/// Least weight of a class.
pub const LEAST_WEIGHT: f64 = 0.01;
/// Greatest weight of a class.
pub const MOST_WEIGHT: f64 = 100.0;
/// Most classes of a policy, as above.
pub const MOST_CLASSES: usize = 64;

/// A whole QosPolicy object, as in a file for `lanectl policy apply`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct QosPolicy {
    /// [`API_VERSION`].
    pub api_version: String,
    /// [`KIND`].
    pub kind: String,
    /// Name and namespace.
    pub metadata: Metadata,
    /// What is wanted.
    pub spec: Spec,
}

/// The part of Kubernetes' metadata that counts here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    /// The policy's name.
    pub name: String,
    /// The namespace it acts in; `default` when unset.
    #[serde(default = "default_namespace")]
    pub namespace: String,
}

fn default_namespace() -> String {
    "default".into()
}

/// Who wrote a policy into the bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Origin {
    /// A QosPolicy resource, mirrored by the actuator; only the resource changes it.
    Kubernetes,
    /// `lanectl policy apply`.
    Lanectl,
    /// The actuator's environment variables.
    Environment,
}

/// The value of a key in the bucket `laneguard-policies`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// Who wrote it.
    pub origin: Origin,
    /// The policy's namespace; empty for the environment's.
    #[serde(default)]
    pub namespace: String,
    /// The policy's name.
    pub name: String,
    /// The resource's uid; for other origins an id of the object's life.
    #[serde(default)]
    pub uid: String,
    /// Rises with each change of the spec.
    #[serde(default)]
    pub generation: u64,
    /// What is wanted.
    pub spec: Spec,
}

impl Entry {
    /// The policy's token in subjects and keys: `<namespace>_<name>`, or `default` for the environment's.
    ///
    /// # Errors
    /// When namespace or name cannot be a token.
    pub fn token(&self) -> Result<Token, PolicyError> {
        let token = match self.origin {
            Origin::Environment => ENVIRONMENT_POLICY.parse(),
            Origin::Kubernetes | Origin::Lanectl => Token::of_object(&self.namespace, &self.name),
        };
        token.map_err(|e| PolicyError::new("metadata.name", e.to_string()))
    }

    /// Reads and validates the value of a key.
    ///
    /// # Errors
    /// Names the field and what is wrong with it.
    pub fn from_json(bytes: &[u8]) -> Result<Self, PolicyError> {
        let entry: Self = serde_json::from_slice(bytes)
            .map_err(|e| PolicyError::new("entry", format!("is not a policy: {e}")))?;
        entry.token()?;
        entry.spec.validate_in(&entry.namespace)?;
        Ok(entry)
    }
}

/// What a policy wants.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Spec {
    /// Whether limits are written.
    #[serde(default)]
    pub mode: Mode,
    /// Whom to protect, at least one.
    pub critical: Vec<Critical>,
    /// Whom to throttle, at least one class.
    pub best_effort: Vec<BestEffort>,
    /// How limits reach pods.
    #[serde(default)]
    pub actuation: Actuation,
    /// How limits are found.
    #[serde(default)]
    pub control: Control,
    /// What happens when nobody renews the limits.
    #[serde(default)]
    pub on_stale: OnStale,
    /// After how long without traffic a workload counts as idle.
    #[serde(default = "default_idle_after", with = "crate::duration")]
    pub idle_after: Duration,
    /// Other namespaces to act in; honoured only in the actuator's own policy namespace and for the environment's policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<LabelSelector>,
}

fn default_idle_after() -> Duration {
    Duration::from_secs(60)
}

/// Whether limits are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// Decide and record, touch nothing.
    #[default]
    Observe,
    /// Write limits.
    Enforce,
    /// Do nothing.
    Off,
}

impl Mode {
    /// The word in policies and decisions.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Observe => "Observe",
            Self::Enforce => "Enforce",
            Self::Off => "Off",
        }
    }
}

/// A workload to protect.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Critical {
    /// The workload's name, as in `robot-factory`; `robot-factory-deployment` in telemetry means the same.
    pub workload: String,
    /// Its namespace, when it is not the policy's (the environment's policy has none).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// What must hold.
    pub targets: Targets,
    /// How often it may not. Unset: every window counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerate: Option<Tolerate>,
}

/// How often targets may be missed before that counts, in the laws Threshold and Adaptive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "WrittenTolerate", into = "WrittenTolerate")]
pub enum Tolerate {
    /// In at most this many windows of any so many.
    Windows {
        /// Windows that may be above, less than `of`.
        windows: u8,
        /// 1 to [`MOST_WINDOWS`].
        of: u8,
    },
    /// Until so many windows in a row are above, 1 to [`MOST_WINDOWS`].
    InARow(u8),
}

/// [`Tolerate`] as people write it.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WrittenTolerate {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    windows: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    of: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    in_a_row: Option<u8>,
}

impl TryFrom<WrittenTolerate> for Tolerate {
    type Error = &'static str;

    fn try_from(written: WrittenTolerate) -> Result<Self, Self::Error> {
        match (written.windows, written.of, written.in_a_row) {
            (Some(windows), Some(of), None) => Ok(Self::Windows { windows, of }),
            (None, None, Some(windows)) => Ok(Self::InARow(windows)),
            _ => Err("tolerate is either {windows: m, of: k} or {inARow: n}"),
        }
    }
}

impl From<Tolerate> for WrittenTolerate {
    fn from(tolerate: Tolerate) -> Self {
        let (windows, of, in_a_row) = match tolerate {
            Tolerate::Windows { windows, of } => (Some(windows), Some(of), None),
            Tolerate::InARow(windows) => (None, None, Some(windows)),
        };
        Self {
            windows,
            of,
            in_a_row,
        }
    }
}

/// What must hold of a critical workload: the word `Auto`, or a list.
#[derive(Debug, Clone, PartialEq)]
pub enum Targets {
    /// The law Adaptive, in force and in shadow, finds targets for P95 and jitter from what the workload shows while best-effort is low:
    /// it waits for 30 such windows, holding limits, and sets twice what is usual with four deviations, no finer than the histogram's
    /// buckets. They stay as long as the word does; to have them learned anew, list targets and then say it again.
    Auto,
    /// At least one target, each metric once.
    Listed(Vec<Target>),
}

impl Targets {
    /// The list; empty where the word is `Auto`.
    pub fn listed(&self) -> &[Target] {
        match self {
            Self::Auto => &[],
            Self::Listed(targets) => targets,
        }
    }
}

const AUTO: &str = "Auto";

impl Serialize for Targets {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str(AUTO),
            Self::Listed(targets) => targets.serialize(serializer),
        }
    }
}

/// By hand, because an untagged enum hides what is wrong inside the list.
impl<'de> Deserialize<'de> for Targets {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Written;

        impl<'de> Visitor<'de> for Written {
            type Value = Targets;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("the word Auto or a list of targets")
            }

            fn visit_str<E: de::Error>(self, word: &str) -> Result<Targets, E> {
                if word == AUTO {
                    Ok(Targets::Auto)
                } else {
                    Err(E::invalid_value(Unexpected::Str(word), &self))
                }
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Targets, A::Error> {
                Vec::deserialize(de::value::SeqAccessDeserializer::new(list)).map(Targets::Listed)
            }
        }

        deserializer.deserialize_any(Written)
    }
}

/// One target: the metric stays at or below a bound.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Target {
    /// What is measured.
    pub metric: Metric,
    /// The bound.
    #[serde(with = "crate::duration")]
    pub below: Duration,
}

impl Target {
    /// The bound in milliseconds.
    pub fn below_ms(&self) -> f64 {
        self.below.as_secs_f64() * 1000.0
    }
}

/// What a target is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Metric {
    /// 95th percentile of request duration.
    P95,
    /// 99th percentile of request duration.
    P99,
    /// Mean request duration.
    Mean,
    /// Interquartile range of request duration.
    Jitter,
}

/// A class of best-effort pods that share a limit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BestEffort {
    /// The class's name, unique in the policy.
    pub class: String,
    /// Its pods. An empty selector is refused: it would match everything.
    pub selector: LabelSelector,
    /// The limits' bounds.
    #[serde(default)]
    pub bandwidth: Bounds,
    /// Its share relative to the other classes', per pod, [`LEAST_WEIGHT`] to [`MOST_WEIGHT`]. Read by the law Adaptive.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub weight: f64,
    /// The order in which classes give up: smaller numbers go to their minimum first and get it back last; equal ones give up together.
    /// Read by the law Adaptive.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub sacrifice: u32,
}

fn one() -> f64 {
    1.0
}

fn is_one(weight: &f64) -> bool {
    *weight == 1.0
}

fn is_zero(order: &u32) -> bool {
    *order == 0
}

/// Bounds of a class's limit, per pod.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Bounds {
    /// Never below this, at least 1M.
    pub min: Bandwidth,
    /// Never above this. Unset: at the top our annotation goes and what was there returns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<Bandwidth>,
}

fn mbps(value: f64) -> Bandwidth {
    // only called with constants well inside the range
    Bandwidth::from_bps(value * 1e6).unwrap_or_else(|_| unreachable!("a constant in range"))
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            min: mbps(10.0),
            max: None,
        }
    }
}

impl Bounds {
    /// The floor in bits per second.
    pub fn min_bps(&self) -> f64 {
        self.min.bps()
    }

    /// The ceiling in bits per second, the working one when `max` is unset.
    pub fn max_bps(&self) -> f64 {
        self.max
            .map_or(DEFAULT_CEILING_BPS.max(self.min.bps()), Bandwidth::bps)
    }
}

/// How limits reach pods.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Actuation {
    /// Annotate running pods; nothing restarts.
    #[default]
    Live,
    /// Annotate the pod template, for CNIs that read it once: pods are replaced.
    Rollout,
}

/// What happens when nobody renews the limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OnStale {
    /// What to do.
    pub action: StaleAction,
    /// After how long without a renewal, 3 s to 24 h.
    #[serde(with = "crate::duration")]
    pub after: Duration,
}

impl Default for OnStale {
    fn default() -> Self {
        Self {
            action: StaleAction::Hold,
            after: Duration::from_secs(15),
        }
    }
}

/// The direction to fail in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum StaleAction {
    /// Leave the limits as they are.
    #[default]
    Hold,
    /// Set the minimum.
    Protect,
    /// Restore what was found before us.
    Release,
}

/// Why a policy is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct PolicyError {
    /// The field's path.
    pub field: String,
    /// What is wrong with it.
    pub problem: String,
}

impl PolicyError {
    fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            problem: problem.into(),
        }
    }
}

impl QosPolicy {
    /// Checks the whole object.
    ///
    /// # Errors
    /// Names the field and what is wrong with it.
    pub fn validate(&self) -> Result<(), PolicyError> {
        let expect = |field: &str, found: &str, wanted: &str| {
            if found == wanted {
                Ok(())
            } else {
                Err(PolicyError::new(
                    field,
                    format!("is `{found}`, expected `{wanted}`"),
                ))
            }
        };
        expect("apiVersion", &self.api_version, API_VERSION)?;
        expect("kind", &self.kind, KIND)?;
        object_name("metadata.name", &self.metadata.name)?;
        object_name("metadata.namespace", &self.metadata.namespace)?;
        Token::of_object(&self.metadata.namespace, &self.metadata.name)
            .map_err(|e| PolicyError::new("metadata.name", e.to_string()))?;
        self.spec.validate_in(&self.metadata.namespace)
    }
}

impl Spec {
    /// As [`Spec::validate`], and what only the policy's namespace tells: each critical workload has a token, and one of its own.
    ///
    /// # Errors
    /// Names the field and what is wrong with it.
    pub fn validate_in(&self, policy_namespace: &str) -> Result<(), PolicyError> {
        self.validate()?;
        let mut tokens = BTreeSet::new();
        for (n, critical) in self.critical.iter().enumerate() {
            let field = format!("spec.critical[{n}].workload");
            let token = critical
                .token(policy_namespace)
                .map_err(|e| PolicyError::new(&field, e.problem))?;
            if !tokens.insert(token) {
                return Err(PolicyError::new(field, "is named twice"));
            }
        }
        Ok(())
    }

    /// Checks everything that the types do not.
    ///
    /// # Errors
    /// Names the field and what is wrong with it.
    pub fn validate(&self) -> Result<(), PolicyError> {
        at_most("spec.critical", self.critical.len(), MOST_CRITICAL)?;
        at_most("spec.bestEffort", self.best_effort.len(), MOST_CLASSES)?;
        if self.critical.is_empty() {
            return Err(PolicyError::new(
                "spec.critical",
                "names no workload to protect",
            ));
        }
        if self.best_effort.is_empty() {
            return Err(PolicyError::new(
                "spec.bestEffort",
                "names no class to throttle",
            ));
        }
        for (n, critical) in self.critical.iter().enumerate() {
            critical.validate(&|field: &str| format!("spec.critical[{n}].{field}"))?;
        }
        let mut classes = BTreeSet::new();
        for (n, class) in self.best_effort.iter().enumerate() {
            let at = |field: &str| format!("spec.bestEffort[{n}].{field}");
            class.validate(&at)?;
            if !classes.insert(&class.class) {
                return Err(PolicyError::new(at("class"), "is named twice"));
            }
        }
        self.control.validate()?;
        self.validate_auto()?;
        let after = self.on_stale.after;
        if !(Duration::from_secs(3)..=Duration::from_secs(24 * 3600)).contains(&after) {
            return Err(PolicyError::new(
                "spec.onStale.after",
                "is not between 3s and 24h",
            ));
        }
        if self.idle_after.is_zero() {
            return Err(PolicyError::new("spec.idleAfter", "is zero"));
        }
        at_most_a_day("spec.idleAfter", self.idle_after)?;
        match &self.namespace_selector {
            Some(selector) => selector
                .check()
                .map_err(|e| PolicyError::new("spec.namespaceSelector", e)),
            None => Ok(()),
        }
    }
}

impl Spec {
    /// Only one law learns targets; every law that is to judge them must be it.
    fn validate_auto(&self) -> Result<(), PolicyError> {
        let mut critical = self.critical.iter();
        let Some(n) = critical.position(|critical| critical.targets == Targets::Auto) else {
            return Ok(());
        };
        let law = self.control.in_force.law;
        if law != Law::Adaptive {
            let field = format!("spec.critical[{n}].targets");
            let problem = format!(
                "is Auto, which only the law Adaptive can learn, and spec.control.law is {}",
                law.as_str()
            );
            return Err(PolicyError::new(field, problem));
        }
        let mut shadows = self.control.shadow.iter();
        match shadows.position(|shadow| shadow.choice.law != Law::Adaptive) {
            Some(shadow) => {
                let problem = format!(
                    "is {}, which has no targets where spec.critical[{n}].targets is Auto: only the law Adaptive can learn them",
                    self.control.shadow[shadow].choice.law.as_str()
                );
                let field = format!("spec.control.shadow[{shadow}].law");
                Err(PolicyError::new(field, problem))
            }
            None => Ok(()),
        }
    }
}

impl Critical {
    fn validate(&self, at: &impl Fn(&str) -> String) -> Result<(), PolicyError> {
        object_name(at("workload"), &self.workload)?;
        if let Some(namespace) = &self.namespace {
            object_name(at("namespace"), namespace)?;
        }
        if self.targets == Targets::Listed(Vec::new()) {
            return Err(PolicyError::new(at("targets"), "is empty"));
        }
        let mut metrics = BTreeSet::new();
        for target in self.targets.listed() {
            if target.below.is_zero() || target.below > Duration::from_secs(3600) {
                return Err(PolicyError::new(
                    at("targets.below"),
                    "is not between 0 and 1h",
                ));
            }
            if !metrics.insert(target.metric) {
                return Err(PolicyError::new(at("targets.metric"), "is named twice"));
            }
        }
        self.tolerate.map_or(Ok(()), |t| t.validate(at))
    }

    /// The target for a metric in milliseconds, if there is one.
    pub fn target_ms(&self, metric: Metric) -> Option<f64> {
        self.targets
            .listed()
            .iter()
            .find(|t| t.metric == metric)
            .map(Target::below_ms)
    }

    /// The workload's namespace in a policy of the given one.
    pub fn namespace_in<'a>(&'a self, policy_namespace: &'a str) -> &'a str {
        self.namespace.as_deref().unwrap_or(policy_namespace)
    }

    /// The workload's token in subjects.
    ///
    /// # Errors
    /// When the name cannot be a token.
    pub fn token(&self, policy_namespace: &str) -> Result<Token, PolicyError> {
        Token::of_object(self.namespace_in(policy_namespace), &self.workload)
            .map_err(|e| PolicyError::new("workload", e.to_string()))
    }
}

impl Tolerate {
    fn validate(self, at: &impl Fn(&str) -> String) -> Result<(), PolicyError> {
        let (field, looked_at) = match self {
            Self::Windows { windows, of } if windows >= of => {
                let problem = format!("is {windows}, not less than of, {of}");
                return Err(PolicyError::new(at("tolerate.windows"), problem));
            }
            Self::Windows { of, .. } => ("tolerate.of", of),
            Self::InARow(windows) => ("tolerate.inARow", windows),
        };
        if !(1..=MOST_WINDOWS).contains(&looked_at) {
            let problem = format!("is {looked_at}, not from 1 to {MOST_WINDOWS}");
            return Err(PolicyError::new(at(field), problem));
        }
        Ok(())
    }
}

impl BestEffort {
    fn validate(&self, at: &impl Fn(&str) -> String) -> Result<(), PolicyError> {
        self.class
            .parse::<Token>()
            .map_err(|e| PolicyError::new(at("class"), e.to_string()))?;
        if self.selector.is_empty() {
            return Err(PolicyError::new(
                at("selector"),
                "is empty, it would match every pod",
            ));
        }
        self.selector
            .check()
            .map_err(|e| PolicyError::new(at("selector"), e))?;
        if self.bandwidth.min_bps() < LEAST_BPS {
            return Err(PolicyError::new(
                at("bandwidth.min"),
                format!("is {}, the least is 1M", self.bandwidth.min),
            ));
        }
        if !(LEAST_WEIGHT..=MOST_WEIGHT).contains(&self.weight) {
            let problem = format!(
                "is {}, not from {LEAST_WEIGHT} to {MOST_WEIGHT}",
                self.weight
            );
            return Err(PolicyError::new(at("weight"), problem));
        }
        match self.bandwidth.max {
            Some(max) if max < self.bandwidth.min => Err(PolicyError::new(
                at("bandwidth.max"),
                format!("is {max}, less than min {}", self.bandwidth.min),
            )),
            _ => Ok(()),
        }
    }
}

fn at_most(field: &str, length: usize, most: usize) -> Result<(), PolicyError> {
    if length > most {
        let problem = format!("has {length} entries, the most is {most}");
        return Err(PolicyError::new(field, problem));
    }
    Ok(())
}

fn at_most_a_day(field: &str, duration: Duration) -> Result<(), PolicyError> {
    if duration > Duration::from_secs(24 * 3600) {
        return Err(PolicyError::new(field, "is more than 24h"));
    }
    Ok(())
}

fn object_name(field: impl Into<String>, name: &str) -> Result<(), PolicyError> {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let fits = name.len() <= 253
        && name.chars().all(inner)
        && edge(name.chars().next())
        && edge(name.chars().last());
    if fits {
        Ok(())
    } else {
        Err(PolicyError::new(
            field,
            format!("`{name}` is not a Kubernetes name (a-z, 0-9, `-`)"),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn example() -> serde_json::Value {
        serde_json::json!({
            "apiVersion": "laneguard.dev/v1alpha1", "kind": "QosPolicy",
            "metadata": {"name": "factory-floor", "namespace": "factory"},
            "spec": {
                "critical": [{"workload": "robot-factory",
                    "targets": [{"metric": "P95", "below": "10ms"}, {"metric": "Jitter", "below": "5ms"}]}],
                "bestEffort": [{"class": "bulk", "selector": {"matchLabels": {"priority": "best-effort"}},
                    "bandwidth": {"min": "10M", "max": "1G"}}]
            }
        })
    }

    fn changed(path: &str, value: serde_json::Value) -> Result<(), String> {
        let mut object = example();
        *object
            .pointer_mut(path)
            .unwrap_or_else(|| panic!("no {path}")) = value;
        serde_json::from_value::<QosPolicy>(object)
            .map_err(|e| e.to_string())
            .and_then(|p| p.validate().map_err(|e| e.to_string()))
    }

    #[test]
    fn the_documented_example_has_the_documented_defaults() {
        let policy: QosPolicy = serde_json::from_value(example()).unwrap();
        policy.validate().unwrap();
        assert_eq!(policy.spec.mode, Mode::Observe);
        assert_eq!(policy.spec.actuation, Actuation::Live);
        assert_eq!(policy.spec.on_stale.action, StaleAction::Hold);
        assert_eq!(policy.spec.on_stale.after, Duration::from_secs(15));
        assert_eq!(policy.spec.idle_after, Duration::from_secs(60));
        assert_eq!(policy.spec.critical[0].target_ms(Metric::P95), Some(10.0));
        assert_eq!(policy.spec.best_effort[0].bandwidth.max_bps(), 1e9);
        assert_eq!(
            policy.spec.control.in_force.threshold.cooldown,
            Duration::from_secs(30)
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        let with = |field: &str, value: serde_json::Value| {
            let mut spec = example()["spec"].clone();
            spec[field] = value;
            spec
        };
        let critical = example()["spec"]["critical"][0].clone();
        let class = example()["spec"]["bestEffort"][0].clone();
        let with_field = |object: &serde_json::Value, field: &str, value: serde_json::Value| {
            let mut object = object.clone();
            object[field] = value;
            object
        };
        let mut explicit = critical.clone();
        explicit["namespace"] = "factory".into();
        for (path, value, named) in [
            ("/kind", "Pod".into(), "kind"),
            ("/metadata/name", "Robot".into(), "metadata.name"),
            ("/spec/critical", serde_json::json!([]), "spec.critical"),
            (
                "/spec/critical/0/targets",
                serde_json::json!([]),
                "spec.critical[0].targets",
            ),
            ("/spec/critical/0/targets/0/below", "10".into(), "`10`"),
            (
                "/spec/critical/0/targets/1/metric",
                "P95".into(),
                "named twice",
            ),
            (
                "/spec/bestEffort/0/selector",
                serde_json::json!({}),
                "spec.bestEffort[0].selector",
            ),
            (
                "/spec/bestEffort/0/bandwidth/min",
                "100k".into(),
                "spec.bestEffort[0].bandwidth.min",
            ),
            (
                "/spec/bestEffort/0/bandwidth/max",
                "5M".into(),
                "spec.bestEffort[0].bandwidth.max",
            ),
            (
                "/spec/bestEffort/0/bandwidth/max",
                "10Mbit".into(),
                "10Mbit",
            ),
            (
                "/spec/bestEffort/0/class",
                "a.b".into(),
                "spec.bestEffort[0].class",
            ),
            (
                "/spec/critical",
                vec![critical.clone(); 257].into(),
                "the most is 256",
            ),
            (
                "/spec/bestEffort",
                vec![class.clone(); 65].into(),
                "the most is 64",
            ),
            (
                "/spec/critical",
                serde_json::json!([critical.clone(), explicit]),
                "spec.critical[1].workload: is named twice",
            ),
            (
                "/spec/critical/0/workload",
                "r".repeat(200).into(),
                "spec.critical[0].workload",
            ),
            (
                "/spec",
                with(
                    "control",
                    serde_json::json!({"threshold": {"cooldown": "25h"}}),
                ),
                "spec.control.threshold.cooldown",
            ),
            (
                "/spec",
                with(
                    "control",
                    serde_json::json!({"dropRate": {"cooldown": "25h"}}),
                ),
                "spec.control.dropRate.cooldown",
            ),
            (
                "/spec",
                with("control", serde_json::json!({"dropRate": {"margin": 1e16}})),
                "spec.control.dropRate.margin",
            ),
            (
                "/spec/critical/0",
                with_field(&critical, "tolerate", json!({"windows": 3, "of": 3})),
                "spec.critical[0].tolerate.windows: is 3, not less than of, 3",
            ),
            (
                "/spec/critical/0",
                with_field(&critical, "tolerate", json!({"windows": 3, "of": 101})),
                "spec.critical[0].tolerate.of: is 101",
            ),
            (
                "/spec/critical/0",
                with_field(&critical, "tolerate", json!({"inARow": 0})),
                "spec.critical[0].tolerate.inARow: is 0",
            ),
            (
                "/spec/critical/0",
                with_field(&critical, "tolerate", json!({"inARow": 2, "of": 3})),
                "either {windows: m, of: k} or {inARow: n}",
            ),
            (
                "/spec/bestEffort/0",
                with_field(&class, "weight", 0.into()),
                "spec.bestEffort[0].weight: is 0, not from 0.01 to 100",
            ),
            (
                "/spec/bestEffort/0",
                with_field(&class, "sacrifice", (-1).into()),
                "-1",
            ),
            ("/spec", with("idleAfter", "25h".into()), "spec.idleAfter"),
            (
                "/spec/critical/0/targets",
                "auto".into(),
                "expected the word Auto or a list of targets",
            ),
        ] {
            let error = changed(path, value).unwrap_err();
            assert!(error.contains(named), "{path}: {error}");
        }
    }

    #[test]
    fn targets_are_learned_only_where_every_law_is_the_one_that_can() {
        let auto = |control: serde_json::Value| {
            let mut policy = example();
            policy["spec"]["critical"][0]["targets"] = "Auto".into();
            policy["spec"]["control"] = control;
            let policy: QosPolicy = serde_json::from_value(policy).unwrap();
            assert_eq!(
                serde_json::to_value(&policy).unwrap()["spec"]["critical"][0]["targets"],
                "Auto"
            );
            policy.validate().map_err(|e| e.to_string())
        };
        assert_eq!(auto(json!({})), Ok(()));
        assert_eq!(
            auto(json!({"law": "Adaptive", "shadow": [{"name": "blind", "law": "Adaptive"}]})),
            Ok(())
        );
        for law in ["Threshold", "DropRate", "External"] {
            let why = auto(json!({"law": law})).unwrap_err();
            assert!(
                why.starts_with("spec.critical[0].targets: is Auto") && why.ends_with(law),
                "{why}"
            );
        }
        let why = auto(json!({"shadow": [{"law": "Threshold"}]})).unwrap_err();
        assert!(
            why.starts_with("spec.control.shadow[0].law: is Threshold"),
            "{why}"
        );
    }

    #[test]
    fn an_entry_is_read_back_as_it_was_written() {
        let policy: QosPolicy = serde_json::from_value(example()).unwrap();
        let entry = Entry {
            origin: Origin::Lanectl,
            namespace: policy.metadata.namespace,
            name: policy.metadata.name,
            uid: "u".into(),
            generation: 3,
            spec: policy.spec,
        };
        let bytes = serde_json::to_vec(&entry).unwrap();
        assert_eq!(Entry::from_json(&bytes).unwrap(), entry);
        assert_eq!(entry.token().unwrap().as_str(), "factory_factory-floor");
    }
}
