//! `spec.control`: which law is in force, which ones run beside it, and the parameters an operator may set.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{PolicyError, at_most, at_most_a_day, mbps};
use crate::quantity::{Bandwidth, LEAST_BPS};
use crate::subject::Token;

/// Most laws that may run beside the one in force: each costs one evaluation per sample.
pub const MOST_SHADOWS: usize = 8;
/// The greatest margin and excess of the drop-rate law: arithmetic on them stays finite.
const MOST_DROPS: f64 = 1e15;

/// How limits are found.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Control {
    /// The law in force and the parameters of all.
    #[serde(flatten)]
    pub in_force: LawChoice,
    /// Laws that decide beside it, are recorded and compared, and never reach a pod; at most [`MOST_SHADOWS`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub shadow: Vec<Shadow>,
}

/// A law and the parameters of all laws, of which only its own count.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LawChoice {
    /// The law.
    pub law: Law,
    /// Weight of the new value in the moving averages of [`Law::Threshold`] and [`Law::DropRate`], over 0 to 1.
    pub alpha: f64,
    /// Parameters of [`Law::Threshold`].
    pub threshold: Steps,
    /// Parameters of [`Law::DropRate`].
    pub drop_rate: DropRate,
    /// Parameters of [`Law::Adaptive`].
    #[serde(skip_serializing_if = "is_default")]
    pub adaptive: Adaptive,
    /// Parameters of [`Law::Watermark`].
    #[serde(skip_serializing_if = "is_default")]
    pub watermark: Link,
    /// Parameters of [`Law::Headroom`].
    #[serde(skip_serializing_if = "is_default")]
    pub headroom: Link,
    /// Parameters of [`Law::Autorate`].
    #[serde(skip_serializing_if = "is_default")]
    pub autorate: Autorate,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Default for LawChoice {
    fn default() -> Self {
        Self {
            law: Law::default(),
            alpha: 0.7,
            threshold: Steps::default(),
            drop_rate: DropRate::default(),
            adaptive: Adaptive::default(),
            watermark: Link::default(),
            headroom: Link::default(),
            autorate: Autorate::default(),
        }
    }
}

/// A law that only watches.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Shadow {
    /// What it is called in metrics and decisions, unique in the policy and a subject token. Unset: as its law.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The law, not [`Law::External`], and its parameters.
    #[serde(flatten)]
    pub choice: LawChoice,
}

impl Shadow {
    /// What it is called.
    pub fn name(&self) -> &str {
        self.name
            .as_deref()
            .unwrap_or_else(|| self.choice.law.as_str())
    }
}

/// A control law.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Law {
    /// Learns the link from the signals and what best-effort really sends; needs targets and nothing else.
    #[default]
    Adaptive,
    /// Fixed steps against the targets, with cooldown and hysteresis: the predecessor's.
    Threshold,
    /// Fixed steps against the drop rate over a learned baseline: the predecessor's older one.
    DropRate,
    /// Two shares of the link by what critical traffic sends: Volcano's, for comparison.
    Watermark,
    /// What critical traffic and a reserve leave of the link: Heracles' network loop, for comparison.
    Headroom,
    /// Delay above a baseline, in small factors: cake-autorate's, for comparison.
    Autorate,
    /// Somebody else's decider; ours leaves the policy alone.
    External,
}

impl Law {
    /// Every law.
    pub const ALL: [Self; 7] = [
        Self::Adaptive,
        Self::Threshold,
        Self::DropRate,
        Self::Watermark,
        Self::Headroom,
        Self::Autorate,
        Self::External,
    ];

    /// The word in policies and decisions.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Adaptive => "Adaptive",
            Self::Threshold => "Threshold",
            Self::DropRate => "DropRate",
            Self::Watermark => "Watermark",
            Self::Headroom => "Headroom",
            Self::Autorate => "Autorate",
            Self::External => "External",
        }
    }
}

/// Step sizes and pace, per class.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Steps {
    /// Least time between two changes of the limit.
    #[serde(with = "crate::duration")]
    pub cooldown: Duration,
    /// Cut when jitter is over its target.
    pub aggressive_decrease: Bandwidth,
    /// Cut when only latency is over its target.
    pub gentle_decrease: Bandwidth,
    /// Raise when all targets hold.
    pub increase_step: Bandwidth,
}

impl Default for Steps {
    fn default() -> Self {
        Self {
            cooldown: Duration::from_secs(30),
            aggressive_decrease: mbps(50.0),
            gentle_decrease: mbps(20.0),
            increase_step: mbps(15.0),
        }
    }
}

/// Parameters of the drop-rate law.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DropRate {
    /// Step sizes and pace.
    #[serde(flatten)]
    pub steps: Steps,
    /// Congestion begins above baseline times (1 + margin), not negative.
    pub margin: f64,
    /// And above the baseline by at least this many drops per second, not negative.
    pub least_excess: f64,
}

impl Default for DropRate {
    fn default() -> Self {
        Self {
            steps: Steps::default(),
            margin: 0.5,
            least_excess: 10.0,
        }
    }
}

/// What may be set of the adaptive law. It needs nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Adaptive {
    /// Whether periodic load is learned and best-effort lowered before it comes.
    pub forecast: bool,
}

impl Default for Adaptive {
    fn default() -> Self {
        Self { forecast: true }
    }
}

/// What a law must be told that does not learn the link.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Link {
    /// What the link carries, at least 1M. Required while the law is in force or a shadow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link: Option<Bandwidth>,
}

/// What may be set of cake-autorate's law: nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Autorate {}

impl Control {
    pub(super) fn validate(&self) -> Result<(), PolicyError> {
        self.in_force
            .validate(&|field: &str| format!("spec.control.{field}"))?;
        at_most("spec.control.shadow", self.shadow.len(), MOST_SHADOWS)?;
        if self.in_force.law == Law::External && !self.shadow.is_empty() {
            let problem = "laws run in shadow only beside a law of ours, not beside External";
            return Err(PolicyError::new("spec.control.shadow", problem));
        }
        let mut names = BTreeSet::new();
        for (n, shadow) in self.shadow.iter().enumerate() {
            let at = |field: &str| format!("spec.control.shadow[{n}].{field}");
            shadow
                .name()
                .parse::<Token>()
                .map_err(|e| PolicyError::new(at("name"), e.to_string()))?;
            if !names.insert(shadow.name()) {
                let problem = format!("`{}` is named twice", shadow.name());
                return Err(PolicyError::new(at("name"), problem));
            }
            if shadow.choice.law == Law::External {
                let problem = "External is somebody else's decider, which cannot be run beside";
                return Err(PolicyError::new(at("law"), problem));
            }
            shadow.choice.validate(&at)?;
        }
        Ok(())
    }
}

impl LawChoice {
    fn validate(&self, at: &impl Fn(&str) -> String) -> Result<(), PolicyError> {
        if !(self.alpha > 0.0 && self.alpha <= 1.0) {
            return Err(PolicyError::new(at("alpha"), "is not over 0 and up to 1"));
        }
        for (field, value) in [
            ("dropRate.margin", self.drop_rate.margin),
            ("dropRate.leastExcess", self.drop_rate.least_excess),
        ] {
            if !(0.0..=MOST_DROPS).contains(&value) {
                let problem = format!("is not between 0 and {MOST_DROPS}");
                return Err(PolicyError::new(at(field), problem));
            }
        }
        for (section, steps) in [
            ("threshold", &self.threshold),
            ("dropRate", &self.drop_rate.steps),
        ] {
            at_most_a_day(&at(&format!("{section}.cooldown")), steps.cooldown)?;
            for (field, step) in [
                ("aggressiveDecrease", steps.aggressive_decrease),
                ("gentleDecrease", steps.gentle_decrease),
                ("increaseStep", steps.increase_step),
            ] {
                if step.bps() <= 0.0 {
                    return Err(PolicyError::new(
                        at(&format!("{section}.{field}")),
                        "is zero",
                    ));
                }
            }
        }
        for (field, law, given) in [
            ("watermark.link", Law::Watermark, self.watermark),
            ("headroom.link", Law::Headroom, self.headroom),
        ] {
            match given.link {
                Some(link) if link.bps() < LEAST_BPS => {
                    let problem = format!("is {link}, the least is 1M");
                    return Err(PolicyError::new(at(field), problem));
                }
                None if self.law == law => {
                    let problem = format!(
                        "is missing: {} does not learn what the link carries",
                        law.as_str()
                    );
                    return Err(PolicyError::new(at(field), problem));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn checked(control: serde_json::Value) -> Result<Control, String> {
        let control: Control = serde_json::from_value(control).map_err(|e| e.to_string())?;
        control.validate().map_err(|e| e.to_string())?;
        Ok(control)
    }

    #[test]
    fn every_law_can_be_chosen_by_its_word() {
        for law in Law::ALL {
            let control = checked(json!({
                "law": law.as_str(),
                "watermark": {"link": "200M"}, "headroom": {"link": "200M"}, "autorate": {}
            }));
            assert_eq!(control.unwrap().in_force.law, law);
        }
        assert!(checked(json!({"law": "Magic"})).is_err());
    }

    #[test]
    fn a_law_that_does_not_learn_the_link_must_be_told() {
        for (law, field) in [
            ("Watermark", "spec.control.watermark.link"),
            ("Headroom", "spec.control.headroom.link"),
        ] {
            let error = checked(json!({"law": law})).unwrap_err();
            assert!(
                error.starts_with(field) && error.contains("missing"),
                "{error}"
            );
        }
        let error = checked(json!({"headroom": {"link": "10k"}})).unwrap_err();
        assert!(error.starts_with("spec.control.headroom.link"), "{error}");
    }

    #[test]
    fn a_shadow_is_called_as_its_law_unless_it_has_a_name() {
        let control = checked(json!({"shadow": [
            {"law": "Threshold", "threshold": {"cooldown": "5s"}},
            {"name": "calm", "law": "Adaptive", "adaptive": {"forecast": false}},
            {"law": "Watermark", "watermark": {"link": "200M"}},
        ]}))
        .unwrap();
        let names: Vec<_> = control.shadow.iter().map(Shadow::name).collect();
        assert_eq!(names, ["Threshold", "calm", "Watermark"]);
        let choice = |n: usize| &control.shadow[n].choice;
        assert_eq!(choice(0).threshold.cooldown, Duration::from_secs(5));
        assert_eq!(choice(0).alpha, 0.7, "unset parameters have their defaults");
        assert!(!choice(1).adaptive.forecast);
        assert!(control.in_force.adaptive.forecast);
        let json = serde_json::to_value(&control).unwrap();
        assert_eq!(checked(json).unwrap(), control);
    }

    #[test]
    fn what_is_wrong_with_a_shadow_is_named() {
        let many: Vec<_> = (0..9)
            .map(|n| json!({"name": format!("n{n}"), "law": "Autorate"}))
            .collect();
        for (shadows, named) in [
            (
                json!(many),
                "spec.control.shadow: has 9 entries, the most is 8",
            ),
            (
                json!([{"law": "Threshold"}, {"law": "Threshold"}]),
                "spec.control.shadow[1].name: `Threshold` is named twice",
            ),
            (
                json!([{"name": "a.b", "law": "Threshold"}]),
                "spec.control.shadow[0].name",
            ),
            (
                json!([{"law": "External"}]),
                "spec.control.shadow[0].law: External",
            ),
            (
                json!([{"law": "Headroom"}]),
                "spec.control.shadow[0].headroom.link: is missing",
            ),
            (
                json!([{"law": "DropRate", "dropRate": {"increaseStep": "0"}}]),
                "spec.control.shadow[0].dropRate.increaseStep: is zero",
            ),
        ] {
            let error = checked(json!({"shadow": shadows})).unwrap_err();
            assert!(error.starts_with(named), "{error}");
        }
        let beside = json!({"law": "External", "shadow": [{"law": "Adaptive"}]});
        let error = checked(beside).unwrap_err();
        assert!(
            error.starts_with("spec.control.shadow: laws run in shadow only beside"),
            "{error}"
        );
    }
}
