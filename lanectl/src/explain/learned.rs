//! What a law knows after a decision, in sentences.

use laneguard_decider_core::adaptive::{self, Baseline, Floor, Memory, Phase, WINDOWS_NEEDED};
use laneguard_decider_core::policy::{Law, Policy, Targets};
use laneguard_decider_core::state::{Direction, State};
use serde::Serialize;
use serde_json::Value;

use crate::name;
use crate::words::{count, duration, later, list, mbit, ms, number, plain};

/// One thing that is known.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Fact {
    /// What it is about.
    pub(super) topic: String,
    /// A sentence.
    pub(super) text: String,
}

fn fact(topic: &str, text: impl Into<String>) -> Fact {
    Fact {
        topic: topic.to_owned(),
        text: text.into(),
    }
}

/// What is known of the network, in the state after a decision made at `at_ms`.
pub(super) fn facts(policy: &Policy, state: &State, at_ms: i64) -> Vec<Fact> {
    match (&policy.law, &state.adaptive) {
        (Law::Adaptive(parameters), Some(memory)) => {
            let mut facts = adaptive(parameters, policy, state, memory, at_ms);
            if let Ok(Value::Object(fields)) = serde_json::to_value(memory) {
                let unknown = fields
                    .iter()
                    .filter(|(key, _)| !TOLD.contains(&key.as_str()));
                facts.extend(unknown.filter_map(|(key, value)| match key.as_str() {
                    "forecast" => forecast(value, at_ms),
                    key => generic(key, value),
                }));
            }
            facts
        }
        (Law::Threshold(parameters), _) => paced(state, parameters.cooldown_ms, at_ms),
        (Law::DropRate(parameters), _) => {
            let mut facts = paced(state, parameters.cooldown_ms, at_ms);
            facts.extend(state.workloads.iter().filter_map(|known| {
                let (baseline, workload) = (known.drop_baseline?, name::shown(&known.workload));
                Some(fact(
                    "usual drops",
                    format!("{workload}: {} packets/s are dropped by network policy all the time; only more than that counts.", number(baseline)),
                ))
            }));
            facts
        }
        (Law::Autorate(_), _) => state
            .workloads
            .iter()
            .filter_map(|known| {
                let (delay, workload) = (known.delay.as_ref()?, name::shown(&known.workload));
                Some(fact(
                    "delay without queue",
                    format!("{workload}: {}.", ms(delay.baseline_ms)),
                ))
            })
            .collect(),
        _ => Vec::new(),
    }
}

/// When the law would raise a limit next, and what else it would do.
pub(super) fn next_raise(policy: &Policy, state: &State, at_ms: i64) -> Option<String> {
    match (&policy.law, &state.adaptive) {
        (Law::Adaptive(parameters), Some(memory)) => {
            Some(adaptive_raise(parameters, policy, state, memory, at_ms))
        }
        (Law::Threshold(parameters), _) => Some(paced_raise(
            state,
            parameters.cooldown_ms,
            parameters.increase_step_bps,
            "every smoothed signal is within its target",
            at_ms,
        )),
        (Law::DropRate(parameters), _) => Some(paced_raise(
            state,
            parameters.cooldown_ms,
            parameters.increase_step_bps,
            "drops are back at their usual rate",
            at_ms,
        )),
        _ => None,
    }
}

/// Fields of the memory that sentences below tell, and counters that tell an operator nothing.
const TOLD: [&str; 23] = [
    "phase",
    "change",
    "effect_ms",
    "ahead_ms",
    "window_ms",
    "capacity",
    "held_bps",
    "calm_bps",
    "last_calm_ms",
    "streak",
    "test_after_ms",
    "patience_ms",
    "test_step",
    "mark_bps",
    "doubted_ms",
    "elsewhere_patience_ms",
    "pods",
    "raised_while_idle",
    "testing",
    "floors",
    "baselines",
    "pending",
    "relation",
];

fn adaptive(
    parameters: &adaptive::Parameters,
    policy: &Policy,
    state: &State,
    memory: &Memory,
    at_ms: i64,
) -> Vec<Fact> {
    let mut facts = Vec::new();
    for floor in &memory.floors {
        let workload = name::shown(&plain(&floor.workload));
        facts.push(fact("without best-effort", floor_text(&workload, floor)));
    }
    for baseline in &memory.baselines {
        let is_auto = policy
            .critical
            .iter()
            .any(|critical| critical.auto && critical.workload == baseline.workload);
        facts.extend(
            baseline_text(baseline, is_auto).map(|text| fact("targets it could keep", text)),
        );
    }
    facts.push(fact("the link", capacity_text(policy, state, memory)));
    if memory.mark_bps > 0.0 {
        let held = memory.held_bps.map_or_else(String::new, |held| {
            format!(
                " Since then {} of best-effort in all did no harm.",
                mbit(held)
            )
        });
        facts.push(fact(
            "what hurt last",
            format!(
                "About {} of best-effort in all.{held}",
                mbit(memory.mark_bps)
            ),
        ));
    } else {
        facts.push(fact(
            "what hurt last",
            "Nothing yet: best-effort was never found to harm critical traffic.",
        ));
    }
    if let Some(text) = relation_text(in_all(policy, state, memory), memory) {
        facts.push(fact("experience", text));
    }
    facts.push(fact("the loop", loop_text(memory)));
    match memory.phase {
        Phase::Steady => {}
        Phase::Episode(episode) => {
            let futile = match episode.futile {
                0 => String::new(),
                futile => format!(
                    " {futile} in a row brought no improvement; after {} the law concludes that the cause is not bandwidth.",
                    parameters.futile_cuts
                ),
            };
            let cuts = count(episode.cuts.into(), "cut");
            facts.push(fact("this stretch", format!("Targets are missed and best-effort is taken for the cause; {cuts} so far.{futile}")));
        }
        Phase::Elsewhere(elsewhere) => facts.push(fact(
            "this stretch",
            format!(
                "Targets are missed, and best-effort was shown not to be the cause. Cutting is tried again at {}, or before if the delay grows to {} above its usual value.",
                later(elsewhere.retry_ms, at_ms),
                ms(1.5 * elsewhere.excess_ms + 1.0),
            ),
        )),
    }
    facts
}

fn floor_text(workload: &str, floor: &Floor) -> String {
    let signals = [
        ("P95", floor.p95_ms),
        ("P99", floor.p99_ms),
        ("jitter", floor.jitter_ms),
        ("mean", floor.mean_ms),
    ];
    let known: Vec<String> = signals
        .iter()
        .filter_map(|(name, value)| Some(format!("{name} {}", ms((*value)?))))
        .collect();
    if known.is_empty() {
        return format!("{workload}: not known yet, no window within its targets was seen.");
    }
    let spread = floor.deviation_ms.map_or_else(String::new, |deviation| {
        format!(" (the mean varies by {} either way)", ms(deviation))
    });
    format!(
        "{workload} shows {}{spread} while best-effort does no harm.",
        list(&known)
    )
}

/// What targets a workload could keep. `None`: best-effort was never low, and nobody asked.
fn baseline_text(baseline: &Baseline, is_auto: bool) -> Option<String> {
    let workload = name::shown(&plain(&baseline.workload));
    let said = |targets: &Targets| {
        let named = [("P95", targets.p95_ms), ("jitter", targets.jitter_ms)];
        let named: Vec<String> = named
            .iter()
            .filter_map(|(name, target)| Some(format!("{name} {}", ms((*target)?))))
            .collect();
        list(&named)
    };
    let seen = count(baseline.windows.into(), "window");
    let text = match (baseline.adopted, baseline.proposal()) {
        (Some(adopted), today) => {
            let today = today
                .filter(|today| *today != adopted)
                .map_or_else(String::new, |today| {
                    format!(" Learned now they would be {}.", said(&today))
                });
            format!(
                "learned, and in force as long as the policy says Auto: {}.{today} To have them learned anew, list targets and then say Auto again.",
                said(&adopted)
            )
        }
        (None, Some(proposal)) => format!(
            "{}, from {seen} with best-effort low. Proposed only: `targets: Auto` would put them in force.",
            said(&proposal)
        ),
        (None, None) if is_auto => format!(
            "learning: {} of {WINDOWS_NEEDED} windows with best-effort low were seen. Until then limits hold.",
            baseline.windows
        ),
        (None, None) if baseline.windows > 0 => {
            format!(
                "{seen} with best-effort low were seen, {WINDOWS_NEEDED} are needed to propose any."
            )
        }
        (None, None) => return None,
    };
    Some(format!("{workload}: {text}"))
}

/// What one limit per pod amounts to in all, for the pods counted last.
fn in_all(policy: &Policy, state: &State, memory: &Memory) -> Option<f64> {
    // one class: pods of several are not counted apart here
    let [class] = policy.classes.as_slice() else {
        return None;
    };
    Some(memory.pods? * state.limit_bps(&class.name)?)
}

fn capacity_text(policy: &Policy, state: &State, memory: &Memory) -> String {
    let allowed = in_all(policy, state, memory);
    match memory.capacity {
        None => "How much best-effort it carries is not known: no congestion was measured since the last change of the network.".to_owned(),
        Some(capacity) => {
            let (low, high) = (capacity.low_bps, capacity.high_bps);
            let sure = 100.0 * (high / low - 1.0);
            let how = match sure {
                _ if capacity.guessed => "a guess from one congested window",
                s if s < 2.0 => "known well",
                s if s < 10.0 => "known roughly",
                _ => "a rough bracket",
            };
            let allowed = allowed.map_or_else(String::new, |allowed| {
                format!(" The limits now allow {} in all.", mbit(allowed))
            });
            format!(
                "It carries {} of best-effort and not more than {} ({how}, within {} %).{allowed}",
                mbit(low),
                mbit(high),
                number((sure * 10.0).round() / 10.0),
            )
        }
    }
}

/// What amounts of best-effort were seen to do, and how likely what limits allow now holds.
fn relation_text(allowed: Option<f64>, memory: &Memory) -> Option<String> {
    let relation = &memory.relation;
    let (first, last) = (relation.bins.first()?, relation.bins.last()?);
    let seen = format!(
        "Amounts from {} to {} were seen lately",
        mbit(first.total_bps()),
        mbit(last.total_bps())
    );
    // far from what was seen an expectation is a guess
    let is_near = |allowed: f64| {
        relation
            .bins
            .iter()
            .any(|bin| (0.96..=1.04).contains(&(allowed / bin.total_bps())))
    };
    let chance = allowed
        .filter(|allowed| is_near(*allowed))
        .and_then(|allowed| Some((allowed, relation.expect(allowed)?)));
    let chance = chance.map_or_else(String::new, |(allowed, expectation)| {
        format!(
            "; targets are expected to hold in {} of 100 windows at {}, what limits now allow",
            number((100.0 * expectation.holds()).round()),
            mbit(allowed)
        )
    });
    let changes = match relation.changes {
        0 => String::new(),
        changes => format!(
            " The network was found changed, and the experience forgotten, {}.",
            count(changes.into(), "time")
        ),
    };
    Some(format!("{seen}{chance}.{changes}"))
}

fn loop_text(memory: &Memory) -> String {
    let effect = match memory.effect_ms {
        Some(effect) if effect >= 0 => format!(
            "Pods obey a new limit {} after it was decided (measured).",
            duration(effect)
        ),
        Some(effect) => format!(
            "Pods seem to obey {} before the decision: the clock of the counters is behind.",
            duration(effect)
        ),
        None => "How long pods take to obey a new limit is not measured yet; 250 ms are assumed."
            .to_owned(),
    };
    let window = match memory.window_ms {
        0 => String::new(),
        window => format!(" A measurement spans {}.", duration(window)),
    };
    let ahead = match memory.ahead_ms {
        0 => String::new(),
        ahead => format!(
            " The clock of the measurements is {} ahead of the decider's.",
            duration(ahead)
        ),
    };
    format!("{effect}{window}{ahead}")
}

fn adaptive_raise(
    parameters: &adaptive::Parameters,
    policy: &Policy,
    state: &State,
    memory: &Memory,
    at_ms: i64,
) -> String {
    let per_pod = |factor: f64| match policy.classes.as_slice() {
        [class] => state
            .limit_bps(&class.name)
            .map(|limit| format!(" to about {} per pod", mbit(class.clamp(limit * factor)))),
        _ => None,
    };
    match memory.phase {
        Phase::Episode(episode) if episode.settle > 1.0 => format!(
            "As soon as one window that began after the cut took effect is within every target: then{}, just under what the link carries.",
            per_pod(episode.settle)
                .unwrap_or_else(|| format!(" by a factor of {}", number(episode.settle))),
        ),
        Phase::Episode(_) => {
            "As soon as windows that began after the last cut are within every target.".to_owned()
        }
        Phase::Elsewhere(elsewhere) if elsewhere.give_back > 1.0 => format!(
            "With the next sample of every critical workload: what was taken is given back{}.",
            per_pod(elsewhere.give_back).unwrap_or_default(),
        ),
        Phase::Elsewhere(_) => "What was taken is given back already.".to_owned(),
        Phase::Steady => {
            let used = "Limits rise only while every target is met and pods use 90 % of what they are allowed";
            match memory.capacity {
                None => format!(
                    "{used}; no harmful amount is known, so they would rise by 50 % at a time."
                ),
                Some(capacity) => {
                    let budget = capacity.low_bps * parameters.settle;
                    let budget = memory.held_bps.map_or(budget, |held| held.max(budget));
                    let slowly = 0.985 * capacity.high_bps;
                    let slowly = if capacity.guessed {
                        format!(
                            "; then in steps, the smaller the nearer to the guess of {}, until one of them hurts",
                            mbit(memory.mark_bps)
                        )
                    } else if slowly > 1.005 * budget {
                        format!("; then in small steps up to {}", mbit(slowly))
                    } else {
                        String::new()
                    };
                    format!(
                        "{used}: quickly up to {} in all, which is known to be safe{slowly}; what lies above is tried again, half a percent at a time, from {}.",
                        mbit(budget),
                        later(memory.test_after_ms.max(at_ms), at_ms),
                    )
                }
            }
        }
    }
}

/// What laws with a cooldown remember.
fn paced(state: &State, cooldown_ms: u64, at_ms: i64) -> Vec<Fact> {
    let mut facts = Vec::new();
    for known in &state.workloads {
        let workload = name::shown(&plain(&known.workload));
        let smoothed = [
            ("P95", known.smoothed.p95_ms, " ms"),
            ("P99", known.smoothed.p99_ms, " ms"),
            ("jitter", known.smoothed.jitter_ms, " ms"),
            ("mean", known.smoothed.mean_ms, " ms"),
            ("drops", known.smoothed.drop_rate, " packets/s"),
        ];
        let values: Vec<String> = smoothed
            .iter()
            .filter_map(|(name, value, unit)| Some(format!("{name} {}{unit}", number((*value)?))))
            .collect();
        if !values.is_empty() {
            facts.push(fact(
                "smoothed",
                format!(
                    "{workload}: {}. The law judges these, not single windows.",
                    list(&values)
                ),
            ));
        }
    }
    let cooldown = i64::try_from(cooldown_ms).unwrap_or(i64::MAX);
    match state.last_change_ms {
        Some(changed_ms) if changed_ms.saturating_add(cooldown) > at_ms => facts.push(fact(
            "cooldown",
            format!(
                "Limits changed {} ago; no limit changes again, either way, before {}.",
                duration(at_ms.saturating_sub(changed_ms)),
                later(changed_ms.saturating_add(cooldown), at_ms),
            ),
        )),
        Some(changed_ms) => facts.push(fact(
            "cooldown",
            format!(
                "Over: limits changed {} ago.",
                duration(at_ms.saturating_sub(changed_ms))
            ),
        )),
        None => facts.push(fact(
            "cooldown",
            "None: this law never changed a limit yet.",
        )),
    }
    if let Some(pending) = state.pending {
        let way = match pending.direction {
            Direction::Up => "up",
            Direction::Down => "down",
        };
        facts.push(fact(
            "turning",
            format!("The law wants to go {way}, against its last change; {} of 2 evaluations in a row agree.", pending.agreeing),
        ));
    }
    facts
}

fn paced_raise(
    state: &State,
    cooldown_ms: u64,
    step_bps: f64,
    condition: &str,
    at_ms: i64,
) -> String {
    let cooldown = i64::try_from(cooldown_ms).unwrap_or(i64::MAX);
    let from_ms = state
        .last_change_ms
        .map_or(at_ms, |changed_ms| changed_ms.saturating_add(cooldown))
        .max(at_ms);
    let turn = match state.last_direction {
        Some(Direction::Down) => " in two evaluations in a row",
        _ => "",
    };
    format!(
        "By {} per pod when {condition}{turn}, not before {}.",
        mbit(step_bps),
        later(from_ms, at_ms)
    )
}

/// Load that comes back: when it came, and what is expected. `None`: nothing came yet.
fn forecast(value: &Value, at_ms: i64) -> Option<Fact> {
    let time = |value: &Value| {
        value
            .get("at_ms")
            .and_then(Value::as_f64)
            .map(|at_ms| at_ms as i64)
    };
    let onsets: Vec<i64> = value
        .get("onsets")?
        .as_array()?
        .iter()
        .filter_map(time)
        .collect();
    let last = *onsets.last()?;
    let came = format!(
        "Load began {} lately, the last time at {}",
        count(onsets.len() as u64, "time"),
        later(last, at_ms)
    );
    let between = match onsets.as_slice() {
        [.., before, last] => format!(", {} after the time before", duration(last - before)),
        _ => String::new(),
    };
    let expected = value.get("expected").and_then(time).map_or_else(
        || " Nothing is expected now.".to_owned(),
        |expected| {
            format!(
                " It is expected again at {}, and limits make room for it.",
                later(expected, at_ms)
            )
        },
    );
    let missed = match value.get("missed").and_then(Value::as_f64) {
        Some(missed) if missed > 0.0 => {
            format!(" Forecasts that failed lately: {}.", number(missed))
        }
        _ => String::new(),
    };
    Some(fact(
        "load that comes back",
        format!("{came}{between}.{expected}{missed}"),
    ))
}

/// A part of the memory that this command has no words for: its numbers, by name. `None`: there is nothing in it.
fn generic(key: &str, value: &Value) -> Option<Fact> {
    let mut told = Vec::new();
    flatten("", value, &mut told);
    let most = 12;
    let more = told.len().saturating_sub(most);
    told.truncate(most);
    if told.is_empty() {
        return None;
    }
    let more = match more {
        0 => String::new(),
        more => format!(", and {more} more values"),
    };
    Some(fact(&words(key), format!("{}{more}.", told.join(", "))))
}

fn words(key: &str) -> String {
    plain(key).replace(['_', '.'], " ")
}

/// Values by path, with the unit that the end of a name says.
fn flatten(path: &str, value: &Value, told: &mut Vec<String>) {
    let join = |key: &str| match path {
        "" => key.to_owned(),
        path => format!("{path} {key}"),
    };
    match value {
        Value::Null => {}
        Value::Object(fields) => {
            for (key, value) in fields {
                flatten(&join(key), value, told);
            }
        }
        // long series are for machines
        Value::Array(items) if items.len() > 8 => {
            told.push(
                format!("{} of {} values", words(path), items.len())
                    .trim()
                    .to_owned(),
            );
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                flatten(&join(&(index + 1).to_string()), item, told);
            }
        }
        Value::Number(n) => {
            let value = n.as_f64().unwrap_or_default();
            let (name, text) = match (path.strip_suffix("_bps"), path.strip_suffix("_ms")) {
                (Some(name), _) => (name, mbit(value)),
                // Unix times are beyond any duration
                (_, Some(name)) if value > 1e12 => (name, crate::words::clock(value as i64)),
                (_, Some(name)) => (name, ms(value)),
                _ => (path, number(value)),
            };
            told.push(format!("{} {text}", words(name)).trim().to_owned());
        }
        Value::Bool(value) => told.push(
            format!("{} {}", words(path), if *value { "yes" } else { "no" })
                .trim()
                .to_owned(),
        ),
        Value::String(text) => {
            told.push(format!("{} {}", words(path), plain(text)).trim().to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_part_that_nobody_has_words_for_is_told_by_its_names() {
        let value = json!({"slope_ms": 0.25, "knee_bps": 2e8, "sure": true, "at_ms": 1_764_000_000_000_i64, "none": null, "series": [1,2,3,4,5,6,7,8,9]});
        let fact = generic("relation", &value).unwrap();
        assert_eq!(fact.topic, "relation");
        assert_eq!(
            fact.text,
            "at 16:00:00.0, knee 200 Mbit/s, series of 9 values, slope 0.25 ms, sure yes."
        );
        assert_eq!(generic("relation", &Value::Null), None);
        assert_eq!(generic("relation", &json!({"a": null, "b": {}})), None);
    }

    #[test]
    fn load_that_comes_back_is_told_with_what_is_expected() {
        let at_ms = 1_764_000_000_000_i64;
        let value = json!({"onsets": [{"at_ms": at_ms - 90_000}, {"at_ms": at_ms - 30_000}], "expected": {"at_ms": at_ms + 30_000}, "missed": 1});
        let text = forecast(&value, at_ms).unwrap().text;
        assert_eq!(
            text,
            "Load began 2 times lately, the last time at 15:59:30.0 (30 s before this decision), 60 s after the time before. It is expected again at 16:00:30.0 (30 s after this decision), and limits make room for it. Forecasts that failed lately: 1."
        );
        assert_eq!(forecast(&json!({"onsets": []}), at_ms), None);
    }

    #[test]
    fn a_cooldown_says_until_when() {
        let state = State {
            last_change_ms: Some(1_764_000_000_000),
            last_direction: Some(Direction::Down),
            ..State::default()
        };
        let facts = paced(&state, 30_000, 1_764_000_010_000);
        assert!(
            facts[0]
                .text
                .contains("16:00:30.0 (20 s after this decision)"),
            "{facts:?}"
        );
        let raise = paced_raise(&state, 30_000, 15e6, "all is well", 1_764_000_010_000);
        assert_eq!(
            raise,
            "By 15 Mbit/s per pod when all is well in two evaluations in a row, not before 16:00:30.0 (20 s after this decision)."
        );
    }
}
