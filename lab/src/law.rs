//! Which control law a run is under, and the policy that says so.
//!
//! What the environment variables of the services can say is left to them. The rest becomes a QosPolicy in the folder of the run, which the
//! lab applies with `lanectl policy apply`.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use laneguard_proto::quantity::{Bandwidth, LEAST_BPS};
use serde::{Deserialize, Serialize};

use crate::scenario::{CRITICAL_SERVICE, NAMESPACE};

/// The policy in the folder of a run, when there is one.
pub const POLICY_FILE: &str = "policy.yaml";
/// After how many seconds without a renewal the policy of a run protects, where the lab writes one.
const STALE_AFTER_S: u64 = 15;

/// The law of a run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Law {
    /// No services at all.
    None,
    /// Laneguard's own, with or without looking ahead.
    Adaptive {
        /// Whether it learns periodic load.
        forecast: bool,
    },
    /// The predecessor's fixed steps, sized for the lab's link.
    Threshold,
    /// The predecessor's older one, sized likewise.
    DropRate,
    /// Volcano's reference law, told the link's rate.
    Watermark,
    /// Heracles' reference law, told the link's rate.
    Headroom,
    /// cake-autorate's reference law.
    Autorate,
    /// One limit for every pod, in bits per second, that never moves.
    Fixed(u64),
    /// The Python decider of the examples.
    External,
}

impl Law {
    /// Whether Laneguard's services run under it.
    #[must_use]
    pub fn is_protected(self) -> bool {
        self != Self::None
    }

    /// The word of the policy's `control.law`; with one limit for all any law that keeps bounds does, and the simplest is taken.
    #[must_use]
    pub fn control(self) -> &'static str {
        match self {
            Self::None | Self::Adaptive { .. } => "Adaptive",
            Self::Threshold | Self::Fixed(_) => "Threshold",
            Self::DropRate => "DropRate",
            Self::Watermark => "Watermark",
            Self::Headroom => "Headroom",
            Self::Autorate => "Autorate",
            Self::External => "External",
        }
    }

    /// Whether it needs a policy of its own: the services' environment variables cannot say it.
    #[must_use]
    pub fn needs_policy(self) -> bool {
        match self {
            Self::None
            | Self::Adaptive { forecast: true }
            | Self::Threshold
            | Self::DropRate
            | Self::Fixed(_) => false,
            Self::Adaptive { forecast: false }
            | Self::Watermark
            | Self::Headroom
            | Self::Autorate
            | Self::External => true,
        }
    }

    /// The QosPolicy in YAML. `settings` are the services' variables with their values; `rate_bps` is the bottleneck's rate.
    #[must_use]
    pub fn policy(self, settings: &BTreeMap<String, String>, rate_bps: u64) -> String {
        let value = |name: &str, default: &str| {
            settings
                .get(name)
                .map_or(default, String::as_str)
                .to_owned()
        };
        let parameters = match self {
            Self::Adaptive { forecast } => format!(", adaptive: {{forecast: {forecast}}}"),
            Self::Watermark => format!(", watermark: {{link: {}}}", bandwidth(rate_bps)),
            Self::Headroom => format!(", headroom: {{link: {}}}", bandwidth(rate_bps)),
            Self::Threshold | Self::Fixed(_) => format!(", threshold: {{{}}}", steps(&value)),
            Self::DropRate => format!(", dropRate: {{{}}}", steps(&value)),
            Self::None | Self::Autorate | Self::External => String::new(),
        };
        format!(
            "\
apiVersion: laneguard.dev/v1alpha1
kind: QosPolicy
metadata: {{name: lab, namespace: {NAMESPACE}}}
spec:
  mode: Enforce
  critical:
    - workload: {CRITICAL_SERVICE}
      targets: [{{metric: P95, below: {}ms}}, {{metric: Jitter, below: {}ms}}]
  bestEffort:
    - class: best-effort
      selector: {{matchLabels: {{priority: best-effort}}}}
      bandwidth: {{min: {}M, max: {}M}}
  control: {{law: {}{parameters}}}
  onStale: {{action: Protect, after: {STALE_AFTER_S}s}}
",
            value("TARGET_LATENCY_MS", "10"),
            value("TARGET_JITTER_MS", "5"),
            value("MIN_BANDWIDTH_MBPS", "10"),
            value("MAX_BANDWIDTH_MBPS", "1000"),
            self.control(),
        )
    }
}

fn steps(value: &impl Fn(&str, &str) -> String) -> String {
    format!(
        "cooldown: {}s, aggressiveDecrease: {}M, gentleDecrease: {}M, increaseStep: {}M",
        value("COOLDOWN_PERIOD_SEC", "30"),
        value("AGGRESSIVE_DECREASE_MBPS", "50"),
        value("GENTLE_DECREASE_MBPS", "20"),
        value("INCREASE_STEP_MBPS", "15"),
    )
}

fn bandwidth(bps: u64) -> String {
    // no rate of the lab is out of the quantity's range
    Bandwidth::from_bps(bps as f64).map_or_else(|_| bps.to_string(), |rate| rate.to_string())
}

impl fmt::Display for Law {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Adaptive { forecast: false } => f.write_str("Adaptive:forecast=false"),
            Self::Fixed(bps) => write!(f, "Fixed:{}", bandwidth(*bps)),
            other => f.write_str(other.control()),
        }
    }
}

impl FromStr for Law {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "none" => Self::None,
            "Adaptive" | "Adaptive:forecast=true" => Self::Adaptive { forecast: true },
            "Adaptive:forecast=false" => Self::Adaptive { forecast: false },
            "Threshold" => Self::Threshold,
            "DropRate" => Self::DropRate,
            "Watermark" => Self::Watermark,
            "Headroom" => Self::Headroom,
            "Autorate" => Self::Autorate,
            "External" => Self::External,
            other => match other.strip_prefix("Fixed:") {
                Some(limit) => Self::Fixed(fixed(limit)?),
                None => {
                    return Err(format!(
                        "{other:?} is none of none, Adaptive, Adaptive:forecast=false, Threshold, DropRate, Watermark, Headroom, \
                         Autorate, External, or Fixed: with a limit such as Fixed:66M"
                    ));
                }
            },
        })
    }
}

/// A limit that the services take: at least 1 Mbit/s.
fn fixed(limit: &str) -> Result<u64, String> {
    let bandwidth: Bandwidth = limit
        .parse()
        .map_err(|error| format!("the limit of Fixed: {error}"))?;
    let bps = bandwidth.bps();
    if bps < LEAST_BPS {
        return Err(format!("the limit of Fixed is {limit}, the least is 1M"));
    }
    Ok(bps as u64)
}

impl TryFrom<String> for Law {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Law> for String {
    fn from(law: Law) -> Self {
        law.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [&str; 10] = [
        "none",
        "Adaptive",
        "Adaptive:forecast=false",
        "Threshold",
        "DropRate",
        "Watermark",
        "Headroom",
        "Autorate",
        "Fixed:66M",
        "External",
    ];

    #[test]
    fn every_law_reads_back_as_it_prints() {
        for text in ALL {
            assert_eq!(text.parse::<Law>().unwrap().to_string(), text);
        }
        assert_eq!("Fixed:66500k".parse(), Ok(Law::Fixed(66_500_000)));
    }

    #[test]
    fn what_is_no_law_is_refused_with_the_reason() {
        for (text, named) in [
            ("adaptive", "none of none, Adaptive"),
            ("Adaptive:forecast=no", "none of none, Adaptive"),
            ("Fixed:", "the limit of Fixed"),
            ("Fixed:500k", "the least is 1M"),
        ] {
            let error = text.parse::<Law>().unwrap_err();
            assert!(error.contains(named), "{text}: {error}");
        }
    }

    #[test]
    fn a_policy_says_targets_bounds_and_the_laws_own_parameters() {
        let settings = BTreeMap::from([
            ("TARGET_JITTER_MS".to_owned(), "4".to_owned()),
            ("MAX_BANDWIDTH_MBPS".to_owned(), "100".to_owned()),
        ]);
        let policy = |text: &str| text.parse::<Law>().unwrap().policy(&settings, 200_000_000);
        let watermark = policy("Watermark");
        assert!(watermark.contains("{metric: Jitter, below: 4ms}"));
        assert!(watermark.contains("bandwidth: {min: 10M, max: 100M}"));
        assert!(watermark.contains("control: {law: Watermark, watermark: {link: 200M}}"));
        assert!(policy("Adaptive:forecast=false").contains("adaptive: {forecast: false}"));
        assert!(policy("Threshold").contains("threshold: {cooldown: 30s, aggressiveDecrease: 50M"));
        assert!(policy("External").contains("control: {law: External}\n"));
    }

    #[test]
    fn only_what_variables_cannot_say_needs_a_policy() {
        let with: Vec<&str> = ALL
            .into_iter()
            .filter(|text| text.parse::<Law>().unwrap().needs_policy())
            .collect();
        let expected = [
            "Adaptive:forecast=false",
            "Watermark",
            "Headroom",
            "Autorate",
            "External",
        ];
        assert_eq!(with, expected);
    }
}
