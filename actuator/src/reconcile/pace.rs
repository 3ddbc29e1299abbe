//! How fast limits rise that somebody else's law asks for.

use laneguard_proto::policy::{BestEffort, Entry, Law, StaleAction};
use tokio::time::Instant;
use tracing::Span;

use super::Reconciler;
use crate::annotation::Limit;
use crate::batch::Trigger;
use crate::commands::Wanted;
use crate::placement::{found_bps, governed};
use crate::policies::{Slot, Standing, class};
use crate::rate_of_change::Asked;

impl Reconciler {
    /// Lets a class's limits follow its command as far as they may. Only while leading with the policies known. Returns whether they changed.
    pub(super) fn pace(&mut self, slot: &Slot, now: Instant) -> bool {
        let Some((asked, begin_bps)) = self.asked(slot, now) else {
            self.ceilings.forget(slot);
            return false;
        };
        if let Some(bps) = begin_bps {
            self.ceilings.begin(slot.clone(), bps);
        }
        let Some(followed) = self.ceilings.follow(slot, &asked, now) else {
            return false;
        };
        if followed.begins {
            self.metrics.held_back.inc();
            tracing::warn!(policy = %slot.policy, class = %slot.class, asked_bps = asked.bps, limit_bps = followed.in_force_bps,
                "somebody else's law raises limits faster than they may rise: at most to twice the limit in 5 s");
        }
        followed.changed
    }

    /// Goes on with the raises that are held back.
    pub(super) fn take_steps(&mut self, now: Instant) {
        for slot in self.ceilings.due(now) {
            if !self.pace(&slot, now) {
                continue;
            }
            if let Some(current) = self.commands.get(&slot) {
                let number = (current.command.term, current.command.sequence);
                self.begin(slot, Trigger::Command, number, now, Span::none(), now);
            }
        }
    }

    /// What a class's command asks for, and what its limits begin with if that is not known yet. `None`: nothing to guard.
    fn asked(&self, slot: &Slot, now: Instant) -> Option<(Asked, Option<f64>)> {
        let Standing::Enforcing(entry) = self.policies.standing(&slot.policy) else {
            return None;
        };
        if entry.spec.control.in_force.law != Law::External {
            return None;
        }
        let class = class(entry, &slot.class)?;
        let bounds = &class.bandwidth;
        let within = |bps| Limit::within(bps, bounds).0.bps();
        let current = self.commands.get(slot)?;
        let mut asked = Asked {
            bps: match current.command.wanted {
                Wanted::Limit(bps) => within(bps),
                Wanted::Restore if bounds.max.is_none() => f64::INFINITY,
                Wanted::Restore => within(f64::INFINITY),
            },
            nodes: current
                .command
                .nodes
                .iter()
                .map(|(node, bps)| (node.clone(), within(*bps)))
                .collect(),
            held: false,
        };
        if current.expired {
            match current.command.on_stale {
                StaleAction::Hold => asked.held = true,
                StaleAction::Protect => {
                    asked.bps = within(0.0);
                    asked.nodes.clear();
                }
                // the pods have what they had before us: the next command begins from there
                StaleAction::Release => return None,
            }
        }
        let begin_bps = (!self.ceilings.knows(slot)).then(|| {
            let found = self.found_bps(entry, class, now);
            found.max(within(0.0))
        });
        Some((asked, begin_bps))
    }

    /// The lowest limit on the pods that a class governs; infinite: none has one.
    fn found_bps(&self, entry: &Entry, class: &BestEffort, now: Instant) -> f64 {
        let world = self.world(now);
        governed(&world, entry, class, &self.pods)
            .filter_map(found_bps)
            .fold(f64::INFINITY, f64::min)
    }
}
