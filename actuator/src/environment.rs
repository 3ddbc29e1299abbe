//! The policy `default` that environment variables define: the predecessor's settings with its defaults.
//!
//! Pure. Without any of these variables there is no such policy. An empty variable counts as unset.

use std::time::Duration;

use laneguard_proto::policy::{
    Actuation, BestEffort, Bounds, Control, Critical, DropRate, Entry, Law, LawChoice, Link,
    Metric, Mode, OnStale, Origin, Spec, Steps, Target, Targets,
};
use laneguard_proto::quantity::Bandwidth;
use laneguard_proto::selector::LabelSelector;
use laneguard_proto::subject::ENVIRONMENT_POLICY;
use laneguard_runtime::ConfigError;

/// The variables as they were given. Setting any of them defines the policy.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Policy `default`, defined by setting any of these")]
pub struct Variables {
    /// Jitter of critical workloads stays at or below this, milliseconds [default: 5]
    #[arg(long, env = "TARGET_JITTER_MS", value_name = "MS")]
    pub target_jitter_ms: Option<String>,
    /// P95 latency of critical workloads stays at or below this, milliseconds [default: 10]
    #[arg(long, env = "TARGET_LATENCY_MS", value_name = "MS")]
    pub target_latency_ms: Option<String>,
    /// Least limit of a best-effort pod, Mbit/s, at least 1 [default: 10]
    #[arg(long, env = "MIN_BANDWIDTH_MBPS", value_name = "MBPS")]
    pub min_bandwidth_mbps: Option<String>,
    /// Greatest limit of a best-effort pod, Mbit/s [default: 1000]
    #[arg(long, env = "MAX_BANDWIDTH_MBPS", value_name = "MBPS")]
    pub max_bandwidth_mbps: Option<String>,
    /// Weight of the new value in moving averages, over 0 to 1 [default: 0.7]
    #[arg(long, env = "EWMA_ALPHA", value_name = "NUMBER")]
    pub ewma_alpha: Option<String>,
    /// Least time between two changes of a limit, seconds [default: 30]
    #[arg(long, env = "COOLDOWN_PERIOD_SEC", value_name = "SECONDS")]
    pub cooldown_period_sec: Option<String>,
    /// Cut when jitter is over its target, Mbit/s [default: 50]
    #[arg(long, env = "AGGRESSIVE_DECREASE_MBPS", value_name = "MBPS")]
    pub aggressive_decrease_mbps: Option<String>,
    /// Cut when only latency is over its target, Mbit/s [default: 20]
    #[arg(long, env = "GENTLE_DECREASE_MBPS", value_name = "MBPS")]
    pub gentle_decrease_mbps: Option<String>,
    /// Raise when all targets hold, Mbit/s [default: 15]
    #[arg(long, env = "INCREASE_STEP_MBPS", value_name = "MBPS")]
    pub increase_step_mbps: Option<String>,
    /// Workloads to protect, namespace/name with commas [default: default/robot-factory]
    #[arg(long, env = "CRITICAL_WORKLOADS", value_name = "LIST")]
    pub critical_workloads: Option<String>,
    /// Pods to throttle, as a label selector [default: priority=best-effort]
    #[arg(long, env = "BEST_EFFORT_SELECTOR", value_name = "SELECTOR")]
    pub best_effort_selector: Option<String>,
    /// How limits are found: Adaptive, Threshold, DropRate, Watermark, Headroom, Autorate or External [default: Threshold if a cooldown, decrease or step is set, else Adaptive]
    #[arg(long, env = "CONTROL_LAW", value_name = "LAW")]
    pub control_law: Option<String>,
    /// What the link carries, Mbit/s, at least 1; Watermark and Headroom need it, other laws learn it or do not ask [default: none]
    #[arg(long, env = "LINK_BANDWIDTH_MBPS", value_name = "MBPS")]
    pub link_bandwidth_mbps: Option<String>,
}

impl Variables {
    fn any(&self) -> bool {
        let Self {
            target_jitter_ms,
            target_latency_ms,
            min_bandwidth_mbps,
            max_bandwidth_mbps,
            ewma_alpha,
            cooldown_period_sec,
            aggressive_decrease_mbps,
            gentle_decrease_mbps,
            increase_step_mbps,
            critical_workloads,
            best_effort_selector,
            control_law,
            link_bandwidth_mbps,
        } = self;
        [
            target_jitter_ms,
            target_latency_ms,
            min_bandwidth_mbps,
            max_bandwidth_mbps,
            ewma_alpha,
            cooldown_period_sec,
            aggressive_decrease_mbps,
            gentle_decrease_mbps,
            increase_step_mbps,
            critical_workloads,
            best_effort_selector,
            control_law,
            link_bandwidth_mbps,
        ]
        .into_iter()
        .any(|value| set(value).is_some())
    }
}

/// The policy that the variables define, in generation 1; `None` when none is set.
///
/// # Errors
/// Names the variable that cannot be used.
pub fn policy(variables: &Variables) -> Result<Option<Entry>, ConfigError> {
    if !variables.any() {
        return Ok(None);
    }
    let min = bandwidth(
        "MIN_BANDWIDTH_MBPS",
        &variables.min_bandwidth_mbps,
        10.0,
        1.0,
    )?;
    let max = bandwidth(
        "MAX_BANDWIDTH_MBPS",
        &variables.max_bandwidth_mbps,
        1000.0,
        1.0,
    )?;
    if max < min {
        let reason = format!("is {max}, less than MIN_BANDWIDTH_MBPS, {min}");
        return Err(ConfigError::new("MAX_BANDWIDTH_MBPS", reason));
    }
    let targets = vec![
        target(
            Metric::Jitter,
            "TARGET_JITTER_MS",
            &variables.target_jitter_ms,
            5.0,
        )?,
        target(
            Metric::P95,
            "TARGET_LATENCY_MS",
            &variables.target_latency_ms,
            10.0,
        )?,
    ];
    let steps = steps(variables)?;
    let law = law(variables)?;
    let link = link(variables, law)?;
    let spec = Spec {
        mode: Mode::Enforce,
        critical: critical(variables, &targets)?,
        best_effort: vec![BestEffort {
            class: "best-effort".into(),
            selector: selector(variables)?,
            bandwidth: Bounds {
                min,
                max: Some(max),
            },
            weight: 1.0,
            sacrifice: 0,
        }],
        actuation: Actuation::Live,
        control: Control {
            in_force: LawChoice {
                law,
                alpha: number(
                    "EWMA_ALPHA",
                    &variables.ewma_alpha,
                    0.7,
                    f64::MIN_POSITIVE,
                    1.0,
                )?,
                threshold: steps.clone(),
                drop_rate: DropRate {
                    steps,
                    ..DropRate::default()
                },
                watermark: link,
                headroom: link,
                ..LawChoice::default()
            },
            shadow: Vec::new(),
        },
        on_stale: OnStale::default(),
        idle_after: Duration::from_secs(60),
        namespace_selector: Some(LabelSelector::default()),
    };
    spec.validate()
        .map_err(|e| ConfigError::new("the environment's policy", e))?;
    Ok(Some(Entry {
        origin: Origin::Environment,
        namespace: String::new(),
        name: ENVIRONMENT_POLICY.into(),
        uid: String::new(),
        generation: 1,
        spec,
    }))
}

fn set(value: &Option<String>) -> Option<&str> {
    value.as_deref().map(str::trim).filter(|v| !v.is_empty())
}

fn number(
    name: &str,
    value: &Option<String>,
    default: f64,
    least: f64,
    most: f64,
) -> Result<f64, ConfigError> {
    let Some(text) = set(value) else {
        return Ok(default);
    };
    text.parse::<f64>()
        .ok()
        .filter(|n| (least..=most).contains(n))
        .ok_or_else(|| {
            let least = if least == f64::MIN_POSITIVE {
                "over 0".into()
            } else {
                format!("{least}")
            };
            ConfigError::new(
                name,
                format!("`{text}` is not a number from {least} to {most}"),
            )
        })
}

fn bandwidth(
    name: &str,
    value: &Option<String>,
    default: f64,
    least: f64,
) -> Result<Bandwidth, ConfigError> {
    let mbps = number(name, value, default, least, 1e7)?;
    Bandwidth::from_bps(mbps * 1e6).map_err(|e| ConfigError::new(name, e))
}

fn target(
    metric: Metric,
    name: &str,
    value: &Option<String>,
    default: f64,
) -> Result<Target, ConfigError> {
    let ms = number(name, value, default, 0.001, 3.6e6)?;
    Ok(Target {
        metric,
        below: Duration::from_nanos((ms * 1e6).round() as u64),
    })
}

fn steps(variables: &Variables) -> Result<Steps, ConfigError> {
    let step = |name, value, default| bandwidth(name, value, default, 0.001);
    let cooldown = number(
        "COOLDOWN_PERIOD_SEC",
        &variables.cooldown_period_sec,
        30.0,
        0.0,
        86400.0,
    )?;
    Ok(Steps {
        cooldown: Duration::from_millis((cooldown * 1e3).round() as u64),
        aggressive_decrease: step(
            "AGGRESSIVE_DECREASE_MBPS",
            &variables.aggressive_decrease_mbps,
            50.0,
        )?,
        gentle_decrease: step(
            "GENTLE_DECREASE_MBPS",
            &variables.gentle_decrease_mbps,
            20.0,
        )?,
        increase_step: step("INCREASE_STEP_MBPS", &variables.increase_step_mbps, 15.0)?,
    })
}

fn critical(variables: &Variables, targets: &[Target]) -> Result<Vec<Critical>, ConfigError> {
    let bad = |reason: String| ConfigError::new("CRITICAL_WORKLOADS", reason);
    let list = set(&variables.critical_workloads).unwrap_or("default/robot-factory");
    let workloads: Vec<Critical> = list
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .map(|part| match part.split_once('/') {
            Some((namespace, name)) if is_name(namespace) && is_name(name) => Ok(Critical {
                workload: name.to_owned(),
                namespace: Some(namespace.to_owned()),
                targets: Targets::Listed(targets.to_vec()),
                tolerate: None,
            }),
            _ => Err(bad(format!("`{part}` is not namespace/name"))),
        })
        .collect::<Result<_, _>>()?;
    let mut seen = std::collections::BTreeSet::new();
    match workloads
        .iter()
        .find(|c| !seen.insert((&c.namespace, &c.workload)))
    {
        Some(twice) => Err(bad(format!("`{}` is named twice", twice.workload))),
        None if workloads.is_empty() => Err(bad(format!("`{list}` names no workload"))),
        None => Ok(workloads),
    }
}

fn is_name(text: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    text.len() <= 253
        && edge(text.chars().next())
        && edge(text.chars().last())
        && text
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.'))
}

fn selector(variables: &Variables) -> Result<LabelSelector, ConfigError> {
    set(&variables.best_effort_selector)
        .unwrap_or("priority=best-effort")
        .parse()
        .map_err(|e| ConfigError::new("BEST_EFFORT_SELECTOR", e))
}

fn law(variables: &Variables) -> Result<Law, ConfigError> {
    let Some(text) = set(&variables.control_law) else {
        // whoever tunes the predecessor's steps means the predecessor's law
        let steps = [
            &variables.cooldown_period_sec,
            &variables.aggressive_decrease_mbps,
            &variables.gentle_decrease_mbps,
            &variables.increase_step_mbps,
        ];
        let stepped = steps.into_iter().any(|value| set(value).is_some());
        return Ok(if stepped {
            Law::Threshold
        } else {
            Law::Adaptive
        });
    };
    Law::ALL
        .into_iter()
        .find(|law| law.as_str() == text)
        .ok_or_else(|| {
            let words: Vec<_> = Law::ALL.into_iter().map(Law::as_str).collect();
            let reason = format!("`{text}` is none of {}", words.join(", "));
            ConfigError::new("CONTROL_LAW", reason)
        })
}

fn link(variables: &Variables, law: Law) -> Result<Link, ConfigError> {
    const NAME: &str = "LINK_BANDWIDTH_MBPS";
    let given = &variables.link_bandwidth_mbps;
    if set(given).is_some() {
        let link = bandwidth(NAME, given, 1.0, 1.0)?;
        return Ok(Link { link: Some(link) });
    }
    if matches!(law, Law::Watermark | Law::Headroom) {
        let reason = format!(
            "is missing: CONTROL_LAW is {}, which needs it",
            law.as_str()
        );
        return Err(ConfigError::new(NAME, reason));
    }
    Ok(Link::default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(change: impl Fn(&mut Variables)) -> Variables {
        let mut variables = Variables::default();
        change(&mut variables);
        variables
    }

    #[test]
    fn without_a_variable_there_is_no_policy() {
        assert_eq!(policy(&Variables::default()), Ok(None));
        assert_eq!(
            policy(&given(|v| v.control_law = Some(" ".into()))),
            Ok(None)
        );
    }

    #[test]
    fn one_variable_brings_the_predecessors_defaults() {
        let entry = policy(&given(|v| v.target_jitter_ms = Some("2.5".into())))
            .unwrap()
            .unwrap();
        assert_eq!(entry.token().unwrap().as_str(), "default");
        let spec = &entry.spec;
        assert_eq!(
            (spec.mode, spec.actuation),
            (Mode::Enforce, Actuation::Live)
        );
        assert_eq!(spec.critical[0].workload, "robot-factory");
        assert_eq!(spec.critical[0].namespace.as_deref(), Some("default"));
        assert_eq!(spec.critical[0].target_ms(Metric::Jitter), Some(2.5));
        assert_eq!(spec.critical[0].target_ms(Metric::P95), Some(10.0));
        let class = &spec.best_effort[0];
        assert_eq!(
            (class.class.as_str(), class.selector.to_string().as_str()),
            ("best-effort", "priority=best-effort")
        );
        assert_eq!(
            (class.bandwidth.min_bps(), class.bandwidth.max_bps()),
            (1e7, 1e9)
        );
        assert_eq!(spec.control.in_force.threshold, Steps::default());
        assert_eq!(spec.control.in_force.alpha, 0.7);
        assert_eq!(spec.namespace_selector, Some(LabelSelector::default()));
        let json = serde_json::to_vec(&entry).unwrap();
        assert_eq!(
            Entry::from_json(&json).unwrap(),
            entry,
            "it survives the bucket"
        );
    }

    #[test]
    fn whoever_sets_a_step_gets_the_law_of_steps() {
        let law = |change: fn(&mut Variables)| {
            let entry = policy(&given(change)).unwrap().unwrap();
            entry.spec.control.in_force.law
        };
        assert_eq!(
            law(|v| v.target_jitter_ms = Some("5".into())),
            Law::Adaptive
        );
        assert_eq!(
            law(|v| v.cooldown_period_sec = Some("30".into())),
            Law::Threshold
        );
        assert_eq!(
            law(|v| v.increase_step_mbps = Some("15".into())),
            Law::Threshold
        );
        assert_eq!(
            law(|v| {
                v.cooldown_period_sec = Some("30".into());
                v.control_law = Some("Adaptive".into());
            }),
            Law::Adaptive
        );
    }

    #[test]
    fn a_reference_law_is_told_the_link() {
        let entry = policy(&given(|v| {
            v.control_law = Some("Headroom".into());
            v.link_bandwidth_mbps = Some("200".into());
        }))
        .unwrap()
        .unwrap();
        let choice = entry.spec.control.in_force;
        assert_eq!(choice.law, Law::Headroom);
        assert_eq!(choice.headroom.link.map(Bandwidth::bps), Some(200e6));
    }

    #[test]
    fn several_workloads_are_read() {
        let entry = policy(&given(|v| v.critical_workloads = Some("a/b, c/d".into())))
            .unwrap()
            .unwrap();
        let names: Vec<_> = entry
            .spec
            .critical
            .iter()
            .map(|c| c.token("").unwrap().to_string())
            .collect();
        assert_eq!(names, ["a_b", "c_d"]);
    }

    #[test]
    fn a_bad_value_names_its_variable() {
        type Change = fn(&mut Variables);
        let broken: [(&str, Change); 14] = [
            ("TARGET_JITTER_MS", |v| {
                v.target_jitter_ms = Some("fast".into())
            }),
            ("TARGET_LATENCY_MS", |v| {
                v.target_latency_ms = Some("0".into())
            }),
            ("MIN_BANDWIDTH_MBPS", |v| {
                v.min_bandwidth_mbps = Some("0.5".into())
            }),
            ("MAX_BANDWIDTH_MBPS", |v| {
                v.max_bandwidth_mbps = Some("5".into())
            }),
            ("EWMA_ALPHA", |v| v.ewma_alpha = Some("1.5".into())),
            ("EWMA_ALPHA", |v| v.ewma_alpha = Some("NaN".into())),
            ("COOLDOWN_PERIOD_SEC", |v| {
                v.cooldown_period_sec = Some("-1".into())
            }),
            ("INCREASE_STEP_MBPS", |v| {
                v.increase_step_mbps = Some("0".into())
            }),
            ("CRITICAL_WORKLOADS", |v| {
                v.critical_workloads = Some("robot".into())
            }),
            ("BEST_EFFORT_SELECTOR", |v| {
                v.best_effort_selector = Some("a in (b".into())
            }),
            ("CONTROL_LAW", |v| v.control_law = Some("Magic".into())),
            ("LINK_BANDWIDTH_MBPS", |v| {
                v.control_law = Some("Watermark".into())
            }),
            ("LINK_BANDWIDTH_MBPS", |v| {
                v.control_law = Some("Headroom".into())
            }),
            ("LINK_BANDWIDTH_MBPS", |v| {
                v.link_bandwidth_mbps = Some("0.2".into())
            }),
        ];
        for (name, change) in broken {
            assert_eq!(policy(&given(change)).unwrap_err().setting, name);
        }
    }
}
