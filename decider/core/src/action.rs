//! The words a law uses for what it did, as they stand in a decision.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// What an evaluation did to the limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Action {
    /// At least one limit was raised by a step.
    Increase,
    /// The law changed nothing; the reason says why.
    Hold,
    /// Latency above target while jitter is fine (distance, not congestion): limits went down a gentle step.
    LatencyGentleThrottle,
    /// Congestion (jitter above target, or drops above their baseline): limits went down an aggressive step.
    CongestionThrottle,
    /// Limits that nobody uses, or that nobody watched, went back to what is known to be safe for all pods at once.
    Guard,
    /// Load that comes back with a period is expected: limits went down before it, to what the link is known to leave then.
    ForecastThrottle,
    /// Targets are missed, but bandwidth is not the cause: what was taken from best-effort is given back. Limits rise or stay.
    NotBandwidth,
    /// Targets are missed, and are below what the workload shows without best-effort: nothing is taken. Limits rise or stay.
    CannotBeMet,
}

impl Action {
    /// Every action, for tables and closed label sets.
    pub const ALL: [Self; 8] = [
        Self::Increase,
        Self::Hold,
        Self::LatencyGentleThrottle,
        Self::CongestionThrottle,
        Self::Guard,
        Self::ForecastThrottle,
        Self::NotBandwidth,
        Self::CannotBeMet,
    ];

    /// The word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Increase => "INCREASE",
            Self::Hold => "HOLD",
            Self::LatencyGentleThrottle => "LATENCY_GENTLE_THROTTLE",
            Self::CongestionThrottle => "CONGESTION_THROTTLE",
            Self::Guard => "GUARD",
            Self::ForecastThrottle => "FORECAST_THROTTLE",
            Self::NotBandwidth => "NOT_BANDWIDTH",
            Self::CannotBeMet => "CANNOT_BE_MET",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that is no [`Action`] of this version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown action {0:?}")]
pub struct UnknownAction(pub String);

impl FromStr for Action {
    type Err = UnknownAction;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|action| action.as_str() == word)
            .ok_or_else(|| UnknownAction(word.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_action_has_one_word_in_display_from_str_and_serde() {
        for action in Action::ALL {
            assert_eq!(action.to_string().parse(), Ok(action));
            let json = serde_json::to_string(&action).unwrap();
            assert_eq!(json, format!("\"{action}\""));
        }
        assert_eq!(
            "PANIC".parse::<Action>(),
            Err(UnknownAction("PANIC".into()))
        );
    }
}
