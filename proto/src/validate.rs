//! What a message must satisfy before anybody acts on it.

use crate::duration::from_wire;
use crate::quantity::MOST_BPS;
use crate::subject::Token;
use crate::v1::{Command, Decision, Outcome, Sample, Signals};

/// Why a message is refused: which field, and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} {problem}")]
pub struct Invalid {
    /// The field's path in the message.
    pub field: String,
    /// What is wrong with it.
    pub problem: String,
}

/// A message that knows its own ranges.
pub trait Validate {
    /// Checks names, ranges and required fields.
    ///
    /// # Errors
    /// Names the first field that is missing or out of range.
    fn validate(&self) -> Result<(), Invalid>;

    /// Checks what only somebody with a clock can: that terms and sequences can have come about by the rules. `now_ms` is Unix milliseconds.
    ///
    /// # Errors
    /// Names the first field that is out of range.
    fn validate_at(&self, now_ms: i64) -> Result<(), Invalid>;
}

/// The longest law, action or trigger word.
const LONGEST_WORD: usize = 64;
/// The longest sentence for people.
const LONGEST_TEXT: usize = 4096;
/// The most entries a repeated field may have.
const MOST_ENTRIES: usize = 5000;

/// The greatest sequence of a decision, command or outcome. At one a second that is 142 million years; a greater one is an error or an attack,
/// and would otherwise be above everything that comes after it.
pub const MOST_SEQUENCE: u64 = 1 << 52;
/// How far terms and sample sequences, which begin at the Unix time in milliseconds, may be ahead of the reader's clock: one year.
const AHEAD_MS: u64 = 366 * 24 * 3600 * 1000;

/// Whether a term or a sample's sequence can have come about by the rules: at most a year ahead of `now_ms` (Unix milliseconds). One that cannot is
/// refused, or whoever wrote it would own the policy for ever.
pub fn plausible_term(term: u64, now_ms: i64) -> bool {
    term <= u64::try_from(now_ms).unwrap_or(0).saturating_add(AHEAD_MS)
}

fn plausible(field: &str, term: u64, now_ms: i64) -> Result<(), Invalid> {
    if plausible_term(term, now_ms) {
        Ok(())
    } else {
        Err(invalid(
            field,
            format!("is more than a year ahead of the clock: {term}"),
        ))
    }
}

fn countable(field: &str, sequence: u64) -> Result<(), Invalid> {
    if sequence <= MOST_SEQUENCE {
        Ok(())
    } else {
        Err(invalid(field, format!("is out of range: {sequence}")))
    }
}

fn invalid(field: impl Into<String>, problem: impl Into<String>) -> Invalid {
    Invalid {
        field: field.into(),
        problem: problem.into(),
    }
}

fn token(field: &str, value: &str) -> Result<(), Invalid> {
    value
        .parse::<Token>()
        .map(drop)
        .map_err(|e| invalid(field, format!("is refused: {e}")))
}

fn set(field: &str, value: u64) -> Result<(), Invalid> {
    if value == 0 {
        return Err(invalid(field, "is not set"));
    }
    Ok(())
}

fn at_most(field: &str, length: usize, most: usize) -> Result<(), Invalid> {
    if length > most {
        return Err(invalid(
            field,
            format!("has length {length}, the most is {most}"),
        ));
    }
    Ok(())
}

/// Finite, not negative, not absurd.
fn quantity(field: &str, value: Option<f64>) -> Result<(), Invalid> {
    match value {
        Some(v) if !v.is_finite() => Err(invalid(field, "is not finite")),
        Some(v) if v < 0.0 => Err(invalid(field, format!("is negative: {v}"))),
        Some(v) if v > 1e18 => Err(invalid(field, format!("is out of range: {v}"))),
        _ => Ok(()),
    }
}

fn bandwidth(field: &str, value: Option<f64>) -> Result<(), Invalid> {
    quantity(field, value)?;
    match value {
        Some(v) if v > MOST_BPS => Err(invalid(field, format!("is over {MOST_BPS} bit/s: {v}"))),
        _ => Ok(()),
    }
}

fn time(field: &str, value: Option<&prost_types::Timestamp>) -> Result<(), Invalid> {
    // 0001-01-01 to 9999-12-31, as protobuf defines Timestamp
    match value {
        Some(t)
            if !(-62_135_596_800..=253_402_300_799).contains(&t.seconds)
                || !(0..1_000_000_000).contains(&t.nanos) =>
        {
            Err(invalid(field, "is not a time"))
        }
        _ => Ok(()),
    }
}

fn required_time(field: &str, value: Option<&prost_types::Timestamp>) -> Result<(), Invalid> {
    if value.is_none() {
        return Err(invalid(field, "is not set"));
    }
    time(field, value)
}

fn signals(field: &str, signals: Option<&Signals>) -> Result<(), Invalid> {
    let Some(s) = signals else { return Ok(()) };
    for (name, value) in [
        ("p25_ms", s.p25_ms),
        ("p50_ms", s.p50_ms),
        ("p75_ms", s.p75_ms),
        ("p95_ms", s.p95_ms),
        ("p99_ms", s.p99_ms),
        ("mean_ms", s.mean_ms),
        ("jitter_ms", s.jitter_ms),
        ("p95_low_ms", s.p95_low_ms),
        ("p95_high_ms", s.p95_high_ms),
        ("jitter_low_ms", s.jitter_low_ms),
        ("jitter_high_ms", s.jitter_high_ms),
        ("p99_low_ms", s.p99_low_ms),
        ("p99_high_ms", s.p99_high_ms),
    ] {
        quantity(&format!("{field}.{name}"), value)?;
    }
    Ok(())
}

/// What a sample says, wherever it stands.
fn sample_values(sample: &Sample) -> Result<(), Invalid> {
    token("workload", &sample.workload)?;
    set("sequence", sample.sequence)?;
    required_time("observed_at", sample.observed_at.as_ref())?;
    time("window_start", sample.window_start.as_ref())?;
    time("window_end", sample.window_end.as_ref())?;
    at_most("reason", sample.reason.len(), LONGEST_TEXT)?;
    at_most("source", sample.source.len(), LONGEST_TEXT)?;
    signals("raw", sample.raw.as_ref())?;
    signals("smoothed", sample.smoothed.as_ref())?;
    quantity("count", sample.count)?;
    quantity("request_rate", sample.request_rate)?;
    quantity("drop_rate", sample.drop_rate)?;
    quantity("flow_rate", sample.flow_rate)?;
    at_most("usage", sample.usage.len(), MOST_ENTRIES)?;
    for usage in &sample.usage {
        quantity("usage.total_bps", usage.total_bps)?;
        quantity("usage.top_pod_bps", usage.top_pod_bps)?;
        time("usage.window_start", usage.window_start.as_ref())?;
        time("usage.window_end", usage.window_end.as_ref())?;
    }
    Ok(())
}

impl Validate for Sample {
    fn validate(&self) -> Result<(), Invalid> {
        token("cluster", &self.cluster)?;
        token("policy", &self.policy)?;
        sample_values(self)
    }

    fn validate_at(&self, now_ms: i64) -> Result<(), Invalid> {
        plausible("sequence", self.sequence, now_ms)
    }
}

impl Validate for Decision {
    fn validate(&self) -> Result<(), Invalid> {
        token("cluster", &self.cluster)?;
        token("policy", &self.policy)?;
        set("term", self.term)?;
        set("sequence", self.sequence)?;
        required_time("decided_at", self.decided_at.as_ref())?;
        at_most("law", self.law.len(), LONGEST_WORD)?;
        at_most("action", self.action.len(), LONGEST_WORD)?;
        at_most("cause", self.cause.len(), LONGEST_WORD)?;
        if !self.shadow_name.is_empty() {
            token("shadow_name", &self.shadow_name)?;
        }
        at_most("reason", self.reason.len(), LONGEST_TEXT)?;
        at_most("limits", self.limits.len(), MOST_ENTRIES)?;
        for limit in &self.limits {
            token("limits.class", &limit.class)?;
            bandwidth("limits.before_bps", limit.before_bps)?;
            bandwidth("limits.after_bps", limit.after_bps)?;
        }
        at_most("samples", self.samples.len(), MOST_ENTRIES)?;
        self.samples.iter().try_for_each(|sample| {
            sample_values(sample).map_err(|e| invalid(format!("samples.{}", e.field), e.problem))
        })
    }

    fn validate_at(&self, now_ms: i64) -> Result<(), Invalid> {
        plausible("term", self.term, now_ms)?;
        countable("sequence", self.sequence)
    }
}

impl Validate for Command {
    fn validate(&self) -> Result<(), Invalid> {
        token("cluster", &self.cluster)?;
        token("policy", &self.policy)?;
        token("class", &self.class)?;
        set("term", self.term)?;
        set("sequence", self.sequence)?;
        bandwidth("limit_bps", self.limit_bps)?;
        if self.limit_bps.is_none() && !self.restore {
            return Err(invalid("limit_bps", "is not set, nor is restore"));
        }
        time("issued_at", self.issued_at.as_ref())?;
        let valid_for = self.valid_for.as_ref().and_then(from_wire);
        if valid_for.is_none_or(|d| d.is_zero() || d.as_secs() > 24 * 3600) {
            return Err(invalid("valid_for", "is not between 0 and 24 h"));
        }
        at_most("nodes", self.nodes.len(), MOST_ENTRIES)?;
        self.nodes.iter().try_for_each(|node| {
            if node.node.is_empty() || node.node.len() > 253 {
                return Err(invalid("nodes.node", "is not a node's name"));
            }
            if node.limit_bps.is_none() {
                return Err(invalid("nodes.limit_bps", "is not set"));
            }
            bandwidth("nodes.limit_bps", node.limit_bps)
        })
    }

    fn validate_at(&self, now_ms: i64) -> Result<(), Invalid> {
        plausible("term", self.term, now_ms)?;
        countable("sequence", self.sequence)?;
        countable("renewal", self.renewal)
    }
}

impl Validate for Outcome {
    fn validate(&self) -> Result<(), Invalid> {
        token("cluster", &self.cluster)?;
        token("policy", &self.policy)?;
        token("class", &self.class)?;
        at_most("refused_reason", self.refused_reason.len(), LONGEST_WORD)?;
        at_most("trigger", self.trigger.len(), LONGEST_WORD)?;
        at_most("not_covered", self.not_covered.len(), MOST_ENTRIES)?;
        time("finished_at", self.finished_at.as_ref())?;
        quantity("took_ms", self.took_ms)
    }

    fn validate_at(&self, now_ms: i64) -> Result<(), Invalid> {
        plausible("term", self.term, now_ms)?;
        plausible("highest_term", self.highest_term, now_ms)?;
        countable("sequence", self.sequence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn command() -> Command {
        Command {
            cluster: "default".into(),
            policy: "default".into(),
            class: "best-effort".into(),
            limit_bps: Some(1e8),
            term: 1,
            sequence: 1,
            valid_for: Some(crate::duration::to_wire(Duration::from_secs(15))),
            ..Default::default()
        }
    }

    #[test]
    fn a_complete_command_is_accepted() {
        assert_eq!(command().validate(), Ok(()));
    }

    #[test]
    fn each_broken_field_is_named() {
        type Break = fn(&mut Command);
        let broken: [(&str, Break); 8] = [
            ("cluster", |c| c.cluster = "a.b".into()),
            ("class", |c| c.class.clear()),
            ("term", |c| c.term = 0),
            ("sequence", |c| c.sequence = 0),
            ("limit_bps", |c| c.limit_bps = Some(f64::INFINITY)),
            ("limit_bps", |c| c.limit_bps = Some(-1.0)),
            ("limit_bps", |c| c.limit_bps = None),
            ("valid_for", |c| {
                c.valid_for = Some(prost_types::Duration {
                    seconds: -1,
                    nanos: 0,
                })
            }),
        ];
        for (field, breaks) in broken {
            let mut command = command();
            breaks(&mut command);
            assert_eq!(command.validate().unwrap_err().field, field);
        }
    }

    #[test]
    fn numbers_above_everything_that_comes_after_are_refused() {
        let now_ms = 1_795_000_000_000;
        let mut command = command();
        command.term = now_ms as u64 + 5;
        assert_eq!(command.validate_at(now_ms), Ok(()));
        command.sequence = MOST_SEQUENCE + 1;
        assert_eq!(command.validate_at(now_ms).unwrap_err().field, "sequence");
        command.term = u64::MAX;
        assert_eq!(command.validate_at(now_ms).unwrap_err().field, "term");
        (command.term, command.sequence, command.renewal) = (1, 1, u64::MAX);
        assert_eq!(command.validate_at(now_ms).unwrap_err().field, "renewal");
        let outcome = Outcome {
            highest_term: u64::MAX,
            ..Default::default()
        };
        assert_eq!(
            outcome.validate_at(now_ms).unwrap_err().field,
            "highest_term"
        );
        let sample = Sample {
            sequence: u64::MAX,
            ..Default::default()
        };
        assert_eq!(sample.validate_at(now_ms).unwrap_err().field, "sequence");
    }
}
