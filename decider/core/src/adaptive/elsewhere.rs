//! Above target, and best-effort is not the cause: the bandwidth goes back, until it is time to look again.

use crate::Action;

use super::{
    decide::{Control, Verdict},
    memory::{Elsewhere, Episode, Phase},
    observe::Finding,
    steps::scale,
};

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
        let is_worse =
            elsewhere.give_back <= 1.0 && worst.excess_ms > 1.5 * elsewhere.excess_ms + 1.0;
        if is_worse || self.now_ms >= elsewhere.retry_ms {
            return self.congested(worst, Self::onset(worst), in_a_row);
        }
        self.give_back(worst, elsewhere, "best-effort was shown not to matter")
    }
}
