//! Messages and policies as others write them, turned into what the core computes with, and back.

use std::time::Duration;

use laneguard_decider_core::policy::{Class, Critical, Law, Policy, Targets, Tolerance};
use laneguard_decider_core::sample::{Quality, Sample, Usage};
use laneguard_decider_core::{adaptive, autorate, drop_rate, headroom, threshold, watermark};
use laneguard_proto::duration::timestamp_to_ms;
use laneguard_proto::policy::{self, Entry, Metric, Mode, StaleAction};
use laneguard_proto::v1;

/// What the decider acts on: a policy that passed the schema's and the core's validation.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The object's life; another uid is another policy of the same name.
    pub uid: String,
    /// Rises with each change of the spec.
    pub generation: u64,
    /// Whether commands follow decisions.
    pub mode: Mode,
    /// What the law needs. Unset: the law is `External`, somebody else decides.
    pub law: Option<Policy>,
    /// The same for each law that runs beside it, by its name, unique. None of them may ever reach a pod.
    pub shadows: Vec<(String, Policy)>,
    /// Names of the classes that have no ceiling, whose annotation goes at the top.
    pub open_ended: Vec<String>,
    /// What follows when commands are no longer renewed.
    pub on_stale: v1::command::OnStale,
    /// How long a command is in force without renewal.
    pub valid_for: Duration,
}

/// Why a policy in the bucket is not acted on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct Refused {
    /// The field's path.
    pub field: String,
    /// What is wrong with it.
    pub problem: String,
}

impl Plan {
    /// From the value of a key in the policies' bucket.
    ///
    /// # Errors
    /// Names the field and what is wrong with it.
    pub fn from_json(bytes: &[u8]) -> Result<Self, Refused> {
        let entry = Entry::from_json(bytes).map_err(|e| Refused {
            field: e.field,
            problem: e.problem,
        })?;
        Self::from_entry(&entry)
    }

    /// From a valid entry.
    ///
    /// # Errors
    /// When the core cannot compute with it; names the field and what is wrong with it.
    pub fn from_entry(entry: &Entry) -> Result<Self, Refused> {
        let spec = &entry.spec;
        let critical = spec
            .critical
            .iter()
            .map(|critical| self::critical(critical, &entry.namespace))
            .collect::<Result<Vec<_>, _>>()?;
        let classes: Vec<Class> = spec.best_effort.iter().map(class).collect();
        let computable = |law: Law, at: &str| {
            let policy = Policy {
                law,
                critical: critical.clone(),
                classes: classes.clone(),
            };
            policy.validate().map_err(|e| Refused {
                field: format!("{at}{}", e.field),
                problem: e.reason,
            })?;
            Ok(policy)
        };
        let in_force = law(&spec.control.in_force)?
            .map(|law| computable(law, ""))
            .transpose()?;
        let mut shadows = Vec::with_capacity(spec.control.shadow.len());
        for shadow in &spec.control.shadow {
            // The schema refuses External here, so every shadow has a law.
            if let Some(law) = law(&shadow.choice)? {
                let at = format!("spec.control.shadow[{}].", shadow.name());
                shadows.push((shadow.name().to_owned(), computable(law, &at)?));
            }
        }
        Ok(Self {
            uid: entry.uid.clone(),
            generation: entry.generation,
            mode: spec.mode,
            law: in_force,
            shadows,
            open_ended: spec
                .best_effort
                .iter()
                .filter(|class| class.bandwidth.max.is_none())
                .map(|class| class.class.clone())
                .collect(),
            on_stale: match spec.on_stale.action {
                StaleAction::Hold => v1::command::OnStale::Hold,
                StaleAction::Protect => v1::command::OnStale::Protect,
                StaleAction::Release => v1::command::OnStale::Release,
            },
            valid_for: spec.on_stale.after,
        })
    }
}

/// The core's law, or `None` where somebody else decides.
fn law(choice: &policy::LawChoice) -> Result<Option<Law>, Refused> {
    Ok(Some(match choice.law {
        policy::Law::External => return Ok(None),
        policy::Law::Adaptive => Law::Adaptive(adaptive::Parameters {
            forecast: choice.adaptive.forecast,
            ..adaptive::Parameters::default()
        }),
        policy::Law::Threshold => Law::Threshold(threshold::Parameters {
            alpha: choice.alpha,
            cooldown_ms: millis(choice.threshold.cooldown),
            aggressive_decrease_bps: choice.threshold.aggressive_decrease.bps(),
            gentle_decrease_bps: choice.threshold.gentle_decrease.bps(),
            increase_step_bps: choice.threshold.increase_step.bps(),
            ..threshold::Parameters::default()
        }),
        policy::Law::DropRate => Law::DropRate(drop_rate::Parameters {
            alpha: choice.alpha,
            cooldown_ms: millis(choice.drop_rate.steps.cooldown),
            aggressive_decrease_bps: choice.drop_rate.steps.aggressive_decrease.bps(),
            increase_step_bps: choice.drop_rate.steps.increase_step.bps(),
            margin_ratio: choice.drop_rate.margin,
            margin_drops: choice.drop_rate.least_excess,
            ..drop_rate::Parameters::default()
        }),
        policy::Law::Watermark => Law::Watermark(watermark::Parameters {
            link_bps: link_bps("watermark", choice.watermark)?,
            ..watermark::Parameters::default()
        }),
        policy::Law::Headroom => Law::Headroom(headroom::Parameters {
            link_bps: link_bps("headroom", choice.headroom)?,
            ..headroom::Parameters::default()
        }),
        policy::Law::Autorate => Law::Autorate(autorate::Parameters::default()),
    }))
}

fn link_bps(law: &str, given: policy::Link) -> Result<f64, Refused> {
    given.link.map(|link| link.bps()).ok_or_else(|| Refused {
        field: format!("spec.control.{law}.link"),
        problem: "is missing".to_owned(),
    })
}

/// Durations beyond the range are refused by the core, which allows a day.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn critical(critical: &policy::Critical, namespace: &str) -> Result<Critical, Refused> {
    let workload = critical.token(namespace).map_err(|e| Refused {
        field: format!("spec.critical[{}].workload", critical.workload),
        problem: e.problem,
    })?;
    Ok(Critical {
        workload: workload.to_string(),
        targets: Targets {
            p95_ms: critical.target_ms(Metric::P95),
            p99_ms: critical.target_ms(Metric::P99),
            mean_ms: critical.target_ms(Metric::Mean),
            jitter_ms: critical.target_ms(Metric::Jitter),
        },
        auto: critical.targets == policy::Targets::Auto,
        tolerate: critical.tolerate.map(|tolerate| match tolerate {
            policy::Tolerate::Windows { windows, of } => Tolerance { windows, of },
            policy::Tolerate::InARow(windows) => Tolerance::in_a_row(windows),
        }),
    })
}

fn class(class: &policy::BestEffort) -> Class {
    Class {
        name: class.class.clone(),
        min_bps: class.bandwidth.min_bps(),
        max_bps: class.bandwidth.max_bps(),
        weight: class.weight,
        sacrifice: class.sacrifice,
    }
}

/// A sample as the laws read it. Of a sample without an end of its window nothing can be said about its age, so it measures nothing.
pub fn sample(message: &v1::Sample) -> Sample {
    let window_end_ms = message.window_end.as_ref().map(timestamp_to_ms);
    let window_start_ms = message.window_start.as_ref().map(timestamp_to_ms);
    let quality = quality(message.quality());
    let raw = message.raw.unwrap_or_default();
    Sample {
        workload: message.workload.clone(),
        sequence: message.sequence,
        window_start_ms: window_start_ms.or(window_end_ms).unwrap_or_default(),
        window_end_ms: window_end_ms.or(window_start_ms).unwrap_or_default(),
        observed_at_ms: message
            .observed_at
            .as_ref()
            .map(timestamp_to_ms)
            .unwrap_or_default(),
        quality: if window_end_ms.is_none() && quality.is_measured() {
            Quality::NoData
        } else {
            quality
        },
        p25_ms: raw.p25_ms,
        p50_ms: raw.p50_ms,
        p75_ms: raw.p75_ms,
        p95_ms: raw.p95_ms,
        p99_ms: raw.p99_ms,
        mean_ms: raw.mean_ms,
        jitter_ms: raw.jitter_ms,
        p95_low_ms: raw.p95_low_ms,
        p95_high_ms: raw.p95_high_ms,
        jitter_low_ms: raw.jitter_low_ms,
        jitter_high_ms: raw.jitter_high_ms,
        count: message.count,
        request_rate: message.request_rate,
        drop_rate: message.drop_rate,
        flow_rate: message.flow_rate,
        usage: message.usage.iter().filter_map(usage).collect(),
    }
}

fn quality(quality: v1::sample::Quality) -> Quality {
    use v1::sample::Quality as Wire;
    match quality {
        Wire::Good => Quality::Good,
        Wire::Coarse => Quality::Coarse,
        Wire::Idle => Quality::Idle,
        Wire::Stale => Quality::Stale,
        Wire::NoData => Quality::NoData,
        Wire::Failed | Wire::Unspecified => Quality::Failed,
    }
}

/// Usage without a window or a total is unknown, which the core writes as absence.
fn usage(usage: &v1::Usage) -> Option<Usage> {
    usage.window_start.and(usage.window_end)?;
    Some(Usage {
        class: usage.class.clone(),
        total_bps: usage.total_bps?,
        pods: usage.pods.into(),
        top_pod_bps: usage.top_pod_bps?,
        window_start_ms: usage.window_start.as_ref().map(timestamp_to_ms),
        window_end_ms: usage.window_end.as_ref().map(timestamp_to_ms),
    })
}

/// A sample as the law is given it and a decision records it: without what the decision says anyway, the collector's averages, and what
/// classes send that are not the policy's. Its sentences are cut: a record of many workloads must fit into a message.
pub fn recorded(mut message: v1::Sample, policy: &Policy) -> v1::Sample {
    message.cluster = String::new();
    message.policy = String::new();
    for sentence in [&mut message.source, &mut message.reason] {
        sentence.truncate(cut(sentence, LONGEST_RECORDED).len());
    }
    message.smoothed = None;
    let ours = |usage: &v1::Usage| policy.classes.iter().any(|c| c.name == usage.class);
    message.usage.retain(ours);
    message
}

/// The longest sentence of a recorded sample, bytes.
const LONGEST_RECORDED: usize = 256;

/// The beginning of a text, at most so many bytes.
pub fn cut(text: &str, most: usize) -> &str {
    let mut end = most.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;
    use laneguard_proto::duration::timestamp_from_ms;
    use serde_json::json;

    fn entry(origin: &str, namespace: &str, spec: &serde_json::Value) -> Vec<u8> {
        json!({"origin": origin, "namespace": namespace, "name": "floor", "uid": "u1", "generation": 4, "spec": spec})
            .to_string()
            .into_bytes()
    }

    fn spec() -> serde_json::Value {
        json!({
            "mode": "Enforce",
            "critical": [
                {"workload": "robot", "targets": [{"metric": "P95", "below": "10ms"}, {"metric": "Jitter", "below": "5ms"}]},
                {"workload": "arm.v2", "namespace": "cell", "targets": [{"metric": "P99", "below": "20ms"}, {"metric": "Mean", "below": "2500us"}]}
            ],
            "bestEffort": [
                {"class": "bulk", "selector": {"matchLabels": {"a": "b"}}, "bandwidth": {"min": "10M", "max": "500M"}},
                {"class": "open", "selector": {"matchLabels": {"a": "c"}}}
            ],
            "control": {"law": "Threshold", "alpha": 0.5, "threshold": {"cooldown": "7s", "gentleDecrease": "5M"}},
            "onStale": {"action": "Protect", "after": "9s"}
        })
    }

    #[test]
    fn every_setting_of_a_policy_reaches_the_core() {
        let plan = Plan::from_json(&entry("kubernetes", "factory", &spec())).unwrap();
        assert_eq!((plan.uid.as_str(), plan.generation), ("u1", 4));
        assert_eq!(plan.mode, Mode::Enforce);
        assert_eq!(plan.on_stale, v1::command::OnStale::Protect);
        assert_eq!(plan.valid_for, Duration::from_secs(9));
        assert_eq!(plan.open_ended, ["open"]);
        let policy = plan.law.unwrap();
        let Law::Threshold(parameters) = &policy.law else {
            panic!("{policy:?}")
        };
        assert_eq!(parameters.alpha, 0.5);
        assert_eq!(parameters.cooldown_ms, 7000);
        assert_eq!(parameters.gentle_decrease_bps, 5e6);
        assert_eq!(parameters.aggressive_decrease_bps, 50e6);
        assert_eq!(policy.critical[0].workload, "factory_robot");
        assert_eq!(policy.critical[0].targets.p95_ms, Some(10.0));
        assert_eq!(policy.critical[0].targets.jitter_ms, Some(5.0));
        assert_eq!(policy.critical[1].workload, "cell_arm_v2");
        assert_eq!(policy.critical[1].targets.p99_ms, Some(20.0));
        assert_eq!(policy.critical[1].targets.mean_ms, Some(2.5));
        assert_eq!(
            (policy.classes[0].min_bps, policy.classes[0].max_bps),
            (10e6, 500e6)
        );
        assert_eq!(policy.classes[1].max_bps, policy::DEFAULT_CEILING_BPS);
    }

    #[test]
    fn the_drop_rate_law_gets_its_own_parameters() {
        let mut spec = spec();
        spec["control"] = json!({"law": "DropRate", "dropRate": {"margin": 2.0, "leastExcess": 5.0, "increaseStep": "1M"}});
        let plan = Plan::from_json(&entry("lanectl", "factory", &spec)).unwrap();
        let Some(Law::DropRate(parameters)) = plan.law.map(|p| p.law) else {
            panic!()
        };
        assert_eq!(parameters.margin_ratio, 2.0);
        assert_eq!(parameters.margin_drops, 5.0);
        assert_eq!(parameters.increase_step_bps, 1e6);
    }

    #[test]
    fn tolerance_weight_and_order_reach_the_core() {
        let mut spec = spec();
        spec["critical"][0]["tolerate"] = json!({"windows": 2, "of": 20});
        spec["critical"][1]["tolerate"] = json!({"inARow": 3});
        spec["bestEffort"][1]["weight"] = json!(0.5);
        spec["bestEffort"][1]["sacrifice"] = json!(7);
        let plan = Plan::from_json(&entry("lanectl", "factory", &spec)).unwrap();
        let policy = plan.law.unwrap();
        let tolerances = [2, 20, 2, 3];
        let found = policy.critical.iter().filter_map(|c| c.tolerate);
        assert_eq!(
            found.flat_map(|t| [t.windows, t.of]).collect::<Vec<_>>(),
            tolerances
        );
        let classes: Vec<_> = policy
            .classes
            .iter()
            .map(|c| (c.weight, c.sacrifice))
            .collect();
        assert_eq!(classes, [(1.0, 0), (0.5, 7)]);
    }

    #[test]
    fn the_word_auto_reaches_the_core() {
        let mut spec = spec();
        spec["control"] = json!({"law": "Adaptive"});
        spec["critical"][1]["targets"] = json!("Auto");
        let plan = Plan::from_json(&entry("lanectl", "factory", &spec)).unwrap();
        let policy = plan.law.unwrap();
        let found: Vec<_> = policy.critical.iter().map(|c| c.auto).collect();
        assert_eq!(found, [false, true]);
        assert_eq!(policy.critical[1].targets, Targets::default());
    }

    #[test]
    fn the_reference_laws_get_the_link_and_keep_their_authors_parameters() {
        let mut spec = spec();
        spec["control"] = json!({"law": "Watermark", "watermark": {"link": "200M"}});
        let plan = Plan::from_json(&entry("lanectl", "factory", &spec)).unwrap();
        assert_eq!(
            plan.law.map(|p| p.law),
            Some(Law::Watermark(watermark::Parameters {
                link_bps: 200e6,
                ..Default::default()
            }))
        );
        spec["control"] = json!({"law": "Headroom", "headroom": {"link": "1G"}});
        let plan = Plan::from_json(&entry("lanectl", "factory", &spec)).unwrap();
        assert_eq!(
            plan.law.map(|p| p.law),
            Some(Law::Headroom(headroom::Parameters {
                link_bps: 1e9,
                ..Default::default()
            }))
        );
        spec["control"] = json!({"law": "Autorate"});
        let plan = Plan::from_json(&entry("lanectl", "factory", &spec)).unwrap();
        assert_eq!(
            plan.law.map(|p| p.law),
            Some(Law::Autorate(Default::default()))
        );
    }

    #[test]
    fn every_shadow_reaches_the_core_with_its_own_parameters() {
        let mut spec = spec();
        spec["control"] = json!({"law": "DropRate", "shadow": [
            {"law": "Threshold", "alpha": 0.25},
            {"name": "blind", "law": "Adaptive", "adaptive": {"forecast": false}},
        ]});
        let plan = Plan::from_json(&entry("lanectl", "factory", &spec)).unwrap();
        assert!(matches!(plan.law.unwrap().law, Law::DropRate(_)));
        let [(first, threshold), (second, adaptive)] = &plan.shadows[..] else {
            panic!("{:?}", plan.shadows)
        };
        assert_eq!((first.as_str(), second.as_str()), ("Threshold", "blind"));
        assert!(matches!(&threshold.law, Law::Threshold(p) if p.alpha == 0.25));
        assert!(matches!(&adaptive.law, Law::Adaptive(p) if !p.forecast));
        assert_eq!(threshold.critical, adaptive.critical);
    }

    #[test]
    fn an_external_law_leaves_the_policy_to_somebody_else() {
        let mut spec = spec();
        spec["control"] = json!({"law": "External"});
        let plan = Plan::from_json(&entry("lanectl", "factory", &spec)).unwrap();
        assert_eq!(plan.law, None);
    }

    #[test]
    fn what_cannot_be_computed_with_is_named() {
        let mut spec = spec();
        spec["control"]["threshold"]["cooldown"] = "2days".into();
        let refused = Plan::from_json(&entry("lanectl", "factory", &spec)).unwrap_err();
        assert_eq!(refused.field, "spec.control.threshold.cooldown");
        let refused = Plan::from_json(b"{").unwrap_err();
        assert_eq!(refused.field, "entry");
    }

    fn message() -> v1::Sample {
        v1::Sample {
            workload: "factory_robot".into(),
            sequence: 7,
            window_start: Some(timestamp_from_ms(1000)),
            window_end: Some(timestamp_from_ms(2000)),
            observed_at: Some(timestamp_from_ms(2100)),
            quality: v1::sample::Quality::Good.into(),
            raw: Some(v1::Signals {
                p95_ms: Some(8.0),
                jitter_ms: Some(2.0),
                ..Default::default()
            }),
            smoothed: Some(v1::Signals {
                p95_ms: Some(99.0),
                ..Default::default()
            }),
            usage: vec![
                v1::Usage {
                    class: "bulk".into(),
                    total_bps: Some(3e6),
                    top_pod_bps: Some(2e6),
                    pods: 2,
                    window_start: Some(timestamp_from_ms(1000)),
                    window_end: Some(timestamp_from_ms(2000)),
                },
                v1::Usage {
                    class: "unknown".into(),
                    ..Default::default()
                },
            ],
            ..Default::default()
        }
    }

    #[test]
    fn the_laws_read_raw_values_and_never_the_collectors_averages() {
        let core = sample(&message());
        assert_eq!(core.p95_ms, Some(8.0));
        assert_eq!(core.quality, Quality::Good);
        assert_eq!(
            (
                core.window_start_ms,
                core.window_end_ms,
                core.observed_at_ms
            ),
            (1000, 2000, 2100)
        );
        assert_eq!(core.usage.len(), 1, "unknown usage is absent");
    }

    #[test]
    fn a_recorded_sample_reads_as_the_one_that_was_given() {
        let plan = Plan::from_json(&entry("kubernetes", "factory", &spec())).unwrap();
        let recorded = recorded(message(), &plan.law.unwrap());
        assert_eq!(sample(&recorded), sample(&message()));
        assert_eq!(recorded.smoothed, None);
    }

    #[test]
    fn a_sample_of_unknown_age_or_quality_measures_nothing() {
        let mut ageless = message();
        ageless.window_end = None;
        assert_eq!(sample(&ageless).quality, Quality::NoData);
        let mut unspecified = message();
        unspecified.quality = 0;
        assert_eq!(sample(&unspecified).quality, Quality::Failed);
        unspecified.quality = 99;
        assert_eq!(sample(&unspecified).quality, Quality::Failed);
    }
}
