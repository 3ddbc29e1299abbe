//! Above target, and best-effort is not the cause: the bandwidth goes back, until it is time to look again.

use crate::Action;

use super::{
    decide::{Control, FIRM, Verdict},
    memory::{Elsewhere, Episode, Phase},
    observe::Finding,
    steps::scale,
};

/// Best-effort that sends by this more than when it was shown not to matter may matter now.
const MORE: f64 = 1.1;
/// So much worse than then it must be for that.
const WORSE: f64 = 1.5;
/// So much worse if best-effort sends no more than then.
const MUCH_WORSE: f64 = 3.0;

impl Control<'_> {
    pub(super) fn give_up(&mut self, worst: &Finding, episode: Episode, because: &str) -> Verdict {
        let patience_ms = self
            .memory
            .elsewhere_patience_ms
            .max(self.parameters.patience_ms);
        self.memory.elsewhere_patience_ms = patience_ms
            .saturating_mul(2)
            .min(self.parameters.patience_ms.saturating_mul(16));
        let elsewhere = Elsewhere {
            excess_ms: worst.excess_ms,
            total_bps: episode.total_bps,
            retry_ms: self.now_ms.saturating_add_unsigned(patience_ms),
            give_back: episode.give_back,
        };
        // What was taken for the link's capacity was not.
        if episode.cuts > 0 {
            self.memory.capacity = None;
            self.memory.relation.forget_harm();
        }
        self.memory.phase = Phase::Elsewhere(elsewhere);
        self.give_back(worst, elsewhere, because)
    }

    fn elsewhere_action(&self) -> (Action, &'static str) {
        if self.memory.last_calm_ms.is_some() {
            (Action::NotBandwidth, "the cause is not bandwidth")
        } else {
            (
                Action::CannotBeMet,
                "the target is below what this workload shows without best-effort and cannot be met",
            )
        }
    }

    fn give_back(&mut self, worst: &Finding, elsewhere: Elsewhere, because: &str) -> Verdict {
        let (action, verdict) = self.elsewhere_action();
        let why = format!("{}, but {because}: {verdict}", worst.text);
        if elsewhere.give_back <= 1.0 || !self.is_known {
            return Verdict { action, why };
        }
        self.memory.phase = Phase::Elsewhere(Elsewhere {
            give_back: 1.0,
            ..elsewhere
        });
        self.change(
            action,
            format!("{why}, and the bandwidth is given back"),
            |policy, state| {
                scale(policy, state, elsewhere.give_back);
            },
        )
    }

    pub(super) fn still_elsewhere(
        &mut self,
        worst: &Finding,
        elsewhere: Elsewhere,
        is_mixed: bool,
        in_a_row: u8,
    ) -> Verdict {
        if is_mixed {
            let (action, verdict) = self.elsewhere_action();
            return Verdict {
                action,
                why: format!("{}: {verdict}", worst.text),
            };
        }
        let worse = worst.excess_ms / elsewhere.excess_ms.max(1.0);
        // At what best-effort was shown not to matter with, a slow server that fluctuates looks no different from a link that fills
        // now and then: it takes a queue that stands and is out of all proportion.
        let is_worse = if self.is_more_than(elsewhere.total_bps) {
            worse > WORSE
        } else {
            worse > MUCH_WORSE && worst.slow.0 >= 0.5 && in_a_row >= FIRM
        };
        if elsewhere.give_back <= 1.0 && is_worse || self.now_ms >= elsewhere.retry_ms {
            return self.congested(worst, Self::onset(worst), in_a_row);
        }
        let excess_ms = if worse > MUCH_WORSE {
            elsewhere.excess_ms
        } else {
            worst.excess_ms.max(elsewhere.excess_ms)
        };
        let elsewhere = Elsewhere {
            excess_ms,
            ..elsewhere
        };
        self.memory.phase = Phase::Elsewhere(elsewhere);
        self.give_back(worst, elsewhere, "best-effort was shown not to matter")
    }

    /// Whether best-effort sends clearly more than this; also if either is not known.
    fn is_more_than(&self, total_bps: Option<f64>) -> bool {
        let usage = self.seen.usage.as_ref();
        usage
            .zip(total_bps)
            .is_none_or(|(usage, total_bps)| usage.total_bps > MORE * total_bps)
    }
}
