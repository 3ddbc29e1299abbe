//! The numbers that laws are compared by, and the targets that were set for them.

use crate::score::Score;

/// Load phases that get columns of their own; more are summed up by the worst.
const SHOWN_LOADS: usize = 2;

/// A number of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metric {
    /// Share of violating windows after the first onset, in percent.
    Violating,
    /// From the onset of this load to protection, in seconds.
    Protected(usize),
    /// The longest of these times.
    ProtectedWorst,
    /// Violating windows of this load.
    LoadViolating(usize),
    /// From the onset of this load until best-effort also has its goodput, in seconds.
    Recovered(usize),
    /// The longest of these times.
    RecoveredWorst,
    /// Share of what the critical traffic left, in percent.
    Goodput,
    /// Jain's index over the sinks.
    Fairness,
    /// Changes of a limit per minute of load.
    Changes,
    /// The same while protected.
    SteadyChanges,
    /// Pods replaced.
    Restarts,
    /// P95 of the critical latency under load, in milliseconds.
    P95,
    /// P99 of it.
    P99,
}

/// What a number should be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Target {
    /// Less than this.
    Below(f64),
    /// This or less.
    AtMost(f64),
    /// More than this.
    Above(f64),
}

impl Target {
    /// Whether a value is as it should be.
    #[must_use]
    pub fn is_met(self, value: f64) -> bool {
        match self {
            Self::Below(limit) => value < limit,
            Self::AtMost(limit) => value <= limit,
            Self::Above(limit) => value > limit,
        }
    }

    /// The border between met and missed.
    #[must_use]
    pub fn limit(self) -> f64 {
        match self {
            Self::Below(limit) | Self::AtMost(limit) | Self::Above(limit) => limit,
        }
    }

    /// In words.
    #[must_use]
    pub fn words(self, metric: Metric) -> String {
        match self {
            Self::AtMost(0.0) => "0".to_owned(),
            Self::Below(limit) => format!("< {limit}{}", metric.unit()),
            Self::AtMost(limit) => format!("≤ {limit}{}", metric.unit()),
            Self::Above(limit) => format!("> {limit}{}", metric.unit()),
        }
    }
}

/// The metrics of runs with this many load phases, in the order of the table.
#[must_use]
pub fn metrics(loads: usize) -> Vec<Metric> {
    let mut metrics = vec![Metric::Violating];
    if loads <= SHOWN_LOADS {
        metrics.extend((0..loads).map(Metric::Protected));
        metrics.extend((1..loads).map(Metric::LoadViolating));
        metrics.extend((0..loads.min(1)).map(Metric::Recovered));
    } else {
        metrics.extend([Metric::ProtectedWorst, Metric::RecoveredWorst]);
    }
    metrics.extend([
        Metric::Goodput,
        Metric::Fairness,
        Metric::Changes,
        Metric::SteadyChanges,
        Metric::Restarts,
        Metric::P95,
        Metric::P99,
    ]);
    metrics
}

impl Metric {
    /// The number itself, from the score of a run. Infinity: it never came. `None`: the run has no such number.
    #[must_use]
    pub fn of(self, score: &Score) -> Option<f64> {
        let never = |seconds: Option<f64>| seconds.unwrap_or(f64::INFINITY);
        match self {
            Self::Violating => Some(score.violating_percent),
            Self::Protected(load) => Some(never(score.loads.get(load)?.protected_after_s)),
            Self::ProtectedWorst => {
                worst(score.loads.iter().map(|load| never(load.protected_after_s)))
            }
            Self::LoadViolating(load) => Some(score.loads.get(load)?.violating as f64),
            Self::Recovered(load) => Some(never(score.loads.get(load)?.recovered_after_s)),
            Self::RecoveredWorst => {
                worst(score.loads.iter().map(|load| never(load.recovered_after_s)))
            }
            Self::Goodput => Some(score.goodput_percent),
            Self::Fairness => score.fairness,
            Self::Changes => Some(score.limit_changes_per_minute),
            Self::SteadyChanges => score
                .loads
                .iter()
                .any(|load| load.protected_after_s.is_some())
                .then_some(score.steady_limit_changes_per_minute),
            Self::Restarts => Some(score.pods_restarted as f64),
            Self::P95 => Some(score.latency.p95_ms),
            Self::P99 => Some(score.latency.p99_ms),
        }
    }

    /// Its target on this scenario, of those that DESIGN.md section 6 sets.
    #[must_use]
    pub fn target(self, scenario: &str) -> Option<Target> {
        if self == Self::Restarts {
            return Some(Target::AtMost(0.0));
        }
        if scenario != "congestion" {
            return None;
        }
        match self {
            Self::Violating => Some(Target::Below(3.0)),
            Self::Goodput => Some(Target::Above(92.0)),
            Self::Protected(0) => Some(Target::Below(3.0)),
            Self::LoadViolating(1) => Some(Target::AtMost(0.0)),
            Self::SteadyChanges => Some(Target::AtMost(6.0)),
            _ => None,
        }
    }

    /// Head of its column.
    #[must_use]
    pub fn title(self) -> String {
        match self {
            Self::Violating => "violating windows".to_owned(),
            Self::Protected(load) => format!("time to protect, load {}", load + 1),
            Self::ProtectedWorst => "time to protect, slowest load".to_owned(),
            Self::LoadViolating(load) => format!("violating windows, load {}", load + 1),
            Self::Recovered(load) => format!("recovery, load {}", load + 1),
            Self::RecoveredWorst => "recovery, slowest load".to_owned(),
            Self::Goodput => "goodput".to_owned(),
            Self::Fairness => "Jain’s index".to_owned(),
            Self::Changes => "limit changes".to_owned(),
            Self::SteadyChanges => "limit changes, steady".to_owned(),
            Self::Restarts => "pods restarted".to_owned(),
            Self::P95 => "P95 under load".to_owned(),
            Self::P99 => "P99 under load".to_owned(),
        }
    }

    /// Name in `report.json`.
    #[must_use]
    pub fn key(self) -> String {
        match self {
            Self::Violating => "violating_percent".to_owned(),
            Self::Protected(load) => format!("load_{}_protected_after_s", load + 1),
            Self::ProtectedWorst => "slowest_protected_after_s".to_owned(),
            Self::LoadViolating(load) => format!("load_{}_violating", load + 1),
            Self::Recovered(load) => format!("load_{}_recovered_after_s", load + 1),
            Self::RecoveredWorst => "slowest_recovered_after_s".to_owned(),
            Self::Goodput => "goodput_percent".to_owned(),
            Self::Fairness => "fairness".to_owned(),
            Self::Changes => "limit_changes_per_minute".to_owned(),
            Self::SteadyChanges => "steady_limit_changes_per_minute".to_owned(),
            Self::Restarts => "pods_restarted".to_owned(),
            Self::P95 => "p95_ms".to_owned(),
            Self::P99 => "p99_ms".to_owned(),
        }
    }

    /// Behind a value.
    #[must_use]
    pub fn unit(self) -> &'static str {
        match self {
            Self::Violating | Self::Goodput => " %",
            Self::Protected(_)
            | Self::ProtectedWorst
            | Self::Recovered(_)
            | Self::RecoveredWorst => " s",
            Self::Changes | Self::SteadyChanges => "/min",
            Self::P95 | Self::P99 => " ms",
            Self::LoadViolating(_) | Self::Fairness | Self::Restarts => "",
        }
    }

    /// A value without its unit.
    #[must_use]
    pub fn number(self, value: f64) -> String {
        if value.is_infinite() {
            return "never".to_owned();
        }
        match self {
            Self::Fairness => format!("{value:.3}"),
            Self::LoadViolating(_) | Self::Restarts => short(value, 0),
            Self::Protected(_)
            | Self::ProtectedWorst
            | Self::Recovered(_)
            | Self::RecoveredWorst => short(value, 0),
            Self::P95 | Self::P99 if value >= 100.0 => short(value, 0),
            _ => format!("{value:.1}"),
        }
    }
}

/// So many decimals, but a half is shown: medians of whole numbers have them.
fn short(value: f64, decimals: usize) -> String {
    if value.fract() == 0.0 || value >= 100.0 {
        format!("{value:.decimals$}")
    } else {
        format!("{value:.1}")
    }
}

fn worst(values: impl Iterator<Item = f64>) -> Option<f64> {
    values.max_by(f64::total_cmp)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_strict_where_they_say_so() {
        assert!(!Target::Below(3.0).is_met(3.0));
        assert!(Target::AtMost(6.0).is_met(6.0));
        assert!(!Target::Above(92.0).is_met(92.0));
        assert!(!Target::Below(3.0).is_met(f64::INFINITY));
    }

    #[test]
    fn only_congestion_has_all_targets_and_nobody_may_restart_pods() {
        assert_eq!(
            Metric::Violating.target("congestion"),
            Some(Target::Below(3.0))
        );
        assert_eq!(Metric::Violating.target("burst"), None);
        assert_eq!(Metric::Restarts.target("burst"), Some(Target::AtMost(0.0)));
    }

    #[test]
    fn many_loads_are_summed_up_by_the_worst() {
        assert!(metrics(2).contains(&Metric::Protected(1)));
        let many = metrics(8);
        assert!(many.contains(&Metric::ProtectedWorst));
        assert!(!many.contains(&Metric::Protected(0)));
        assert_eq!(
            worst([1.0, f64::INFINITY, 2.0].into_iter()),
            Some(f64::INFINITY)
        );
    }

    #[test]
    fn values_are_shown_as_precisely_as_they_are_known() {
        assert_eq!(Metric::Protected(0).number(2.0), "2");
        assert_eq!(Metric::Protected(0).number(2.5), "2.5");
        assert_eq!(Metric::Protected(0).number(f64::INFINITY), "never");
        assert_eq!(Metric::P99.number(52.57), "52.6");
        assert_eq!(Metric::P99.number(512.57), "513");
        assert_eq!(Metric::Fairness.number(0.99949), "0.999");
    }
}
