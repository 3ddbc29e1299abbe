//! What a scenario does at fixed moments beside its phases, and the raw log of when it happened.

use serde::{Deserialize, Serialize};

use crate::raw::Row;

/// Something that is done once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// The bottleneck has this rate from now on, in bits per second.
    Rate(u64),
    /// Traffic of nobody's pod goes through the bottleneck from now on: UDP, in bits per second; 0 ends it.
    Foreign(u64),
    /// One best-effort pod sends UDP in addition from now on, in bits per second; 0 ends it.
    Inject(u64),
    /// The critical service is one worker with this mean service time from now on, in microseconds; 0 ends it.
    ServiceTime(u64),
    /// Legitimate drops by policy from now on, per second.
    PolicyDrops(u64),
    /// The best-effort pods move to another node behind the same bottleneck.
    Move,
    /// The decider is killed.
    KillDecider,
    /// The decider is started again.
    RestoreDecider,
}

impl Action {
    fn parts(self) -> (&'static str, Option<u64>) {
        match self {
            Self::Rate(value) => ("rate", Some(value)),
            Self::Foreign(value) => ("foreign", Some(value)),
            Self::Inject(value) => ("inject", Some(value)),
            Self::ServiceTime(value) => ("service-time", Some(value)),
            Self::PolicyDrops(value) => ("policy-drops", Some(value)),
            Self::Move => ("move", None),
            Self::KillDecider => ("kill-decider", None),
            Self::RestoreDecider => ("restore-decider", None),
        }
    }

    fn of(word: &str, value: &str) -> Option<Self> {
        let number = || value.parse().ok();
        Some(match word {
            "rate" => Self::Rate(number()?),
            "foreign" => Self::Foreign(number()?),
            "inject" => Self::Inject(number()?),
            "service-time" => Self::ServiceTime(number()?),
            "policy-drops" => Self::PolicyDrops(number()?),
            "move" => Self::Move,
            "kill-decider" => Self::KillDecider,
            "restore-decider" => Self::RestoreDecider,
            _ => return None,
        })
    }
}

/// What is planned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When, in seconds from the start of the first phase.
    pub at_s: u64,
    /// What.
    pub action: Action,
}

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Happened {
    /// When it was complete.
    pub unix_ns: u64,
    /// What.
    pub action: Action,
}

impl Row for Happened {
    const FILE: &'static str = "events.csv";
    const COLUMNS: &'static str = "unix_ns,event,value";

    fn line(&self) -> String {
        let (word, value) = self.action.parts();
        let value = value.map_or_else(String::new, |value| value.to_string());
        format!("{},{word},{value}", self.unix_ns)
    }

    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split(',');
        let unix_ns = fields.next()?.parse().ok()?;
        let action = Action::of(fields.next()?, fields.next()?)?;
        fields.next().is_none().then_some(Self { unix_ns, action })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_reads_back_as_it_was_written() {
        for action in [
            Action::Rate(1),
            Action::Foreign(2),
            Action::Inject(3),
            Action::ServiceTime(4),
            Action::PolicyDrops(5),
            Action::Move,
            Action::KillDecider,
            Action::RestoreDecider,
        ] {
            let row = Happened { unix_ns: 9, action };
            assert_eq!(Happened::parse(&row.line()), Some(row));
        }
        assert_eq!(Happened::parse("9,rate,"), None);
        assert_eq!(Happened::parse("9,move,,"), None);
    }
}
