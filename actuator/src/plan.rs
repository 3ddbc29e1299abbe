//! What each pod should look like: the guard rails.
//!
//! Pure. Everything that must never happen to a pod is refused here, whatever commands and policies say.

use laneguard_proto::policy::{BestEffort, Bounds, Entry, StaleAction};
use laneguard_proto::selector::LabelSelector;
use laneguard_proto::subject::Token;
use std::time::Duration;
use tokio::time::Instant;

use crate::annotation::{LONGEST_FOUND, Limit, Record, Stale, effective_bps};
use crate::commands::{Commands, InForce, Wanted};
use crate::pods::{Ownership, Pod};
use crate::policies::{Idle, Namespaces, PolicySet, Scope, Slot, Standing, class};
use crate::rate_of_change::Ceilings;

/// All that a plan depends on beside the pod.
#[derive(Debug, Clone, Copy)]
pub struct World<'a> {
    /// The policies.
    pub policies: &'a PolicySet,
    /// The commands.
    pub commands: &'a Commands,
    /// How far limits of somebody else's law may have risen by now.
    pub ceilings: &'a Ceilings,
    /// Labels of namespaces.
    pub namespaces: &'a Namespaces,
    /// Pods that are never annotated.
    pub critical: &'a LabelSelector,
    /// Since when this process has been responsible: limits without a command are stale so long after.
    pub responsible_since: Instant,
    /// Now.
    pub now: Instant,
}

/// What to do about a pod.
#[derive(Debug, Clone, PartialEq)]
pub enum Plan {
    /// Nothing to write: it is as it should be, or not ours.
    Leave,
    /// Its limit stands although no command is known; at this time (if ever) that changes.
    Await(Option<Instant>),
    /// Write limit and record.
    Set(Box<Set>),
    /// Put back what was found before us.
    Restore(Box<Restore>),
    /// It should be limited and cannot be.
    Refuse(Refusal),
}

/// A limit to write.
#[derive(Debug, Clone, PartialEq)]
pub struct Set {
    /// The limit.
    pub limit: Limit,
    /// The record to go with it.
    pub record: Record,
    /// What was asked for was out of the class's bounds.
    pub clamped: bool,
    /// It follows from an expiry, not from a command in force.
    pub stale: bool,
}

/// A limit to take back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restore {
    /// The class whose limit it was; `None` when the record is unreadable.
    pub slot: Option<Slot>,
    /// The value to put back; `None`: the annotation goes.
    pub found: Option<String>,
    /// Why.
    pub cause: Cause,
}

/// Why a limit is taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The command says so: its class has no ceiling and is at the top.
    Command,
    /// The policy was deleted, stopped enforcing, or lost the class; or the pod left its selector or became critical.
    PolicyEnded,
    /// An operator released the policy.
    Released,
    /// Nobody renews the limit and `onStale` is Release.
    Expired,
}

/// Why a pod in a selector is not limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It shares the node's network.
    HostNetwork,
    /// It is critical.
    Critical,
    /// It carries our ignore annotation.
    Ignored,
    /// The policy's namespace selector is not honoured.
    NamespaceDenied,
    /// The value found on it is too long to be kept for restoring.
    FoundTooLong,
}

impl Refusal {
    /// The word in outcomes and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::HostNetwork => "host_network",
            Self::Critical => "critical",
            Self::Ignored => "ignored",
            Self::NamespaceDenied => "namespace_denied",
            Self::FoundTooLong => "found_too_long",
        }
    }
}

/// What one class wants of a pod.
enum Claim<'a> {
    /// This limit, by a command.
    Limit {
        slot: Slot,
        class: &'a BestEffort,
        current: &'a InForce,
        limit: Limit,
        clamped: bool,
        stale: bool,
    },
    /// That the limit on it stays, as no command is known yet.
    Standing { until: Option<Instant> },
    /// The minimum of these bounds, as nobody renews the limit.
    Minimum(Limit, Bounds),
}

impl Claim<'_> {
    fn bps(&self, pod: &Pod) -> f64 {
        match self {
            Self::Limit { limit, .. } | Self::Minimum(limit, _) => limit.bps(),
            Self::Standing { .. } => pod
                .egress
                .as_deref()
                .and_then(effective_bps)
                .unwrap_or(f64::INFINITY),
        }
    }
}

impl World<'_> {
    /// Why a pod may not be limited by anybody.
    pub fn untouchable(&self, pod: &Pod) -> Option<Refusal> {
        if pod.ignored {
            Some(Refusal::Ignored)
        } else if pod.host_network {
            Some(Refusal::HostNetwork)
        } else if self.critical.matches(&pod.labels) || self.policies.protects(pod) {
            Some(Refusal::Critical)
        } else {
            None
        }
    }

    /// Why a pod cannot be limited.
    pub fn not_covered(&self, pod: &Pod) -> Option<Refusal> {
        let long = |pod: &Pod| pod.egress.as_ref().is_some_and(|e| e.len() > LONGEST_FOUND);
        self.untouchable(pod).or_else(|| {
            (pod.ownership == Ownership::Foreign && long(pod)).then_some(Refusal::FoundTooLong)
        })
    }

    /// The first class of a policy that selects the pod, and whether the policy acts in its namespace.
    pub fn selecting<'b>(&self, entry: &'b Entry, pod: &Pod) -> Option<(&'b BestEffort, Scope)> {
        let class = entry
            .spec
            .best_effort
            .iter()
            .find(|class| class.selector.matches(&pod.labels))?;
        let scope = self
            .policies
            .scope(entry, &pod.key.namespace, self.namespaces);
        Some((class, scope))
    }

    /// What to do about a pod.
    pub fn plan(&self, pod: &Pod) -> Plan {
        if pod.ended {
            return Plan::Leave;
        }
        match self.untouchable(pod) {
            Some(Refusal::Critical) if pod.ownership != Ownership::Foreign => {
                return restore(pod, Cause::PolicyEnded);
            }
            Some(reason) => return Plan::Refuse(reason),
            None => {}
        }
        let mut claims = Vec::new();
        if self.policies.synced() {
            self.claims(pod, &mut claims);
        }
        let ending = match self.own(pod) {
            Own::None => None,
            Own::Claims(claim) => {
                claims.push(claim);
                None
            }
            Own::Ends(cause) => Some(cause),
        };
        let lowest = claims
            .into_iter()
            .reduce(|a, b| if b.bps(pod) < a.bps(pod) { b } else { a });
        match (lowest, ending) {
            (Some(claim), _) => self.carry_out(pod, claim),
            (None, Some(cause)) => restore(pod, cause),
            (None, None) => Plan::Leave,
        }
    }

    /// What commands in force want of a pod. The owner of its limit comes first, so that equal limits change no owner.
    fn claims<'b>(&'b self, pod: &Pod, claims: &mut Vec<Claim<'b>>) {
        for token in self.policies.near(&pod.key.namespace) {
            let Standing::Enforcing(entry) = self.policies.standing(token) else {
                continue;
            };
            let scope = self
                .policies
                .scope(entry, &pod.key.namespace, self.namespaces);
            if scope != Scope::Inside {
                continue;
            }
            for class in &entry.spec.best_effort {
                if !class.selector.matches(&pod.labels) {
                    continue;
                }
                let Ok(name) = class.class.parse() else {
                    continue;
                };
                let slot = Slot {
                    policy: token.clone(),
                    class: name,
                };
                let Some(current) = self.commands.get(&slot) else {
                    continue;
                };
                let ceiling = self.ceilings.bps(&slot, pod.node.as_deref());
                let (limit, clamped) = match wanted_bps(current, pod, &class.bandwidth) {
                    Some(bps) => Limit::within(bps, &class.bandwidth),
                    // no limit is wanted, and that is still too far to rise
                    None if ceiling.is_finite() => {
                        (Limit::within(ceiling, &class.bandwidth).0, false)
                    }
                    None => continue,
                };
                let limit = if limit.bps() > ceiling {
                    Limit::within(ceiling, &class.bandwidth).0
                } else {
                    limit
                };
                let owned = pod
                    .record()
                    .is_some_and(|r| (&r.policy, &r.class) == (&slot.policy, &slot.class));
                let claim = Claim::Limit {
                    slot,
                    class,
                    current,
                    limit,
                    clamped: clamped && !current.expired,
                    stale: current.expired,
                };
                if owned {
                    claims.insert(0, claim);
                } else {
                    claims.push(claim);
                }
            }
        }
    }

    /// What the limit on a pod is worth without a command in force for it.
    fn own<'b>(&self, pod: &Pod) -> Own<'b> {
        let record = match &pod.ownership {
            Ownership::Foreign => return Own::None,
            // it could be anybody's: it stays until the policies are known, and goes if none of them claims the pod
            Ownership::Unreadable
                if self.policies.synced()
                    && self.policies.iter().next().is_some()
                    && !self.awaits_command(pod, None) =>
            {
                return Own::Ends(Cause::PolicyEnded);
            }
            Ownership::Unreadable => return Own::Claims(Claim::Standing { until: None }),
            Ownership::Ours(record) => record,
        };
        if !self.policies.synced() {
            return self.unattended(record, None, None);
        }
        let slot = Slot {
            policy: record.policy.clone(),
            class: record.class.clone(),
        };
        let entry = match self.policies.standing(&record.policy) {
            Standing::Unknown => return self.unattended(record, None, None),
            Standing::Deleted => return Own::Ends(Cause::PolicyEnded),
            Standing::Idle(_, Idle::Released) => return Own::Ends(Cause::Released),
            Standing::Idle(..) => return Own::Ends(Cause::PolicyEnded),
            Standing::Enforcing(entry) => entry,
        };
        let scope = self
            .policies
            .scope(entry, &pod.key.namespace, self.namespaces);
        let selected = class(entry, &record.class).filter(|c| c.selector.matches(&pod.labels));
        match (selected, scope) {
            // the class has another name now
            (None, Scope::Inside | Scope::Unknown)
                if self.awaits_command(pod, Some(&record.policy)) =>
            {
                Own::Claims(Claim::Standing { until: None })
            }
            (None, _) | (_, Scope::Outside | Scope::Denied) => Own::Ends(Cause::PolicyEnded),
            (_, Scope::Unknown) => Own::Claims(Claim::Standing { until: None }),
            (Some(class), Scope::Inside) => {
                self.unattended(record, Some(&class.bandwidth), self.commands.get(&slot))
            }
        }
    }

    /// Whether a policy (this one, or any) enforces a class here that has no command yet: the pod is not to be unlimited until it has.
    fn awaits_command(&self, pod: &Pod, policy: Option<&Token>) -> bool {
        let mut near = self.policies.near(&pod.key.namespace);
        near.any(|token| {
            if policy.is_some_and(|policy| policy != token) {
                return false;
            }
            let Standing::Enforcing(entry) = self.policies.standing(token) else {
                return false;
            };
            let scope = self
                .policies
                .scope(entry, &pod.key.namespace, self.namespaces);
            let selecting = entry
                .spec
                .best_effort
                .iter()
                .filter(|class| class.selector.matches(&pod.labels));
            matches!(scope, Scope::Inside | Scope::Unknown)
                && selecting
                    .filter_map(|class| class.class.parse().ok())
                    .any(|class| {
                        let policy = token.clone();
                        self.commands.get(&Slot { policy, class }).is_none()
                    })
        })
    }

    /// Without a command in force, `onStale` of the record decides, counted from when we became responsible.
    fn unattended<'b>(
        &self,
        record: &Record,
        bounds: Option<&Bounds>,
        current: Option<&InForce>,
    ) -> Own<'b> {
        if let Some(current) = current {
            // the command is among the claims, unless it wants the limit gone
            return match (current.expired, current.command.on_stale) {
                (true, StaleAction::Release) => Own::Ends(Cause::Expired),
                _ => Own::Ends(Cause::Command),
            };
        }
        let stale = self.responsible_since + Duration::from_millis(record.on_stale.after_ms);
        match record.on_stale.action {
            StaleAction::Hold => Own::Claims(Claim::Standing { until: None }),
            _ if self.now < stale => Own::Claims(Claim::Standing { until: Some(stale) }),
            StaleAction::Protect => {
                // those in the record are as old as the record
                let bounds = bounds.copied().unwrap_or_else(|| record.bounds());
                Own::Claims(Claim::Minimum(Limit::within(0.0, &bounds).0, bounds))
            }
            StaleAction::Release => Own::Ends(Cause::Expired),
        }
    }

    fn carry_out(&self, pod: &Pod, claim: Claim<'_>) -> Plan {
        let (limit, record, clamped, stale) = match claim {
            Claim::Standing { until } => return Plan::Await(until),
            Claim::Minimum(limit, Bounds { min, max }) => match pod.record() {
                Some(record) => {
                    let record = record.clone();
                    (limit, Record { min, max, ..record }, false, true)
                }
                None => return Plan::Leave,
            },
            Claim::Limit {
                slot,
                class,
                current,
                limit,
                clamped,
                stale,
            } => {
                let found = match &pod.ownership {
                    Ownership::Foreign => pod.egress.as_deref().map(str::to_owned),
                    Ownership::Ours(record) => record.found.clone(),
                    Ownership::Unreadable => None,
                };
                if found.as_ref().is_some_and(|f| f.len() > LONGEST_FOUND) {
                    return Plan::Refuse(Refusal::FoundTooLong);
                }
                let record = Record {
                    policy: slot.policy,
                    class: slot.class,
                    term: current.command.term,
                    sequence: current.command.sequence,
                    on_stale: Stale {
                        action: current.command.on_stale,
                        after_ms: current.command.valid_for.as_millis() as u64,
                    },
                    min: class.bandwidth.min,
                    max: class.bandwidth.max,
                    found,
                };
                (limit, record, clamped, stale)
            }
        };
        let has_limit = pod.egress.as_deref() == Some(limit.to_string().as_str());
        let has_record =
            !pod.recalled && pod.record().is_some_and(|r| r.same_but_for_number(&record));
        if has_limit && has_record {
            return Plan::Leave;
        }
        Plan::Set(Box::new(Set {
            limit,
            record,
            clamped,
            stale,
        }))
    }
}

/// Bits per second that a command in force wants of a pod. `None`: no limit.
fn wanted_bps(current: &InForce, pod: &Pod, bounds: &Bounds) -> Option<f64> {
    match current.wanted(pod.node.as_deref()) {
        None => Some(0.0),
        Some(Wanted::Limit(bps)) => Some(bps),
        // only a class without a ceiling may go unlimited by command
        Some(Wanted::Restore) if bounds.max.is_some() && !current.expired => Some(f64::INFINITY),
        Some(Wanted::Restore) => None,
    }
}

/// What the limit on a pod is worth without a command.
enum Own<'a> {
    None,
    Claims(Claim<'a>),
    Ends(Cause),
}

fn restore(pod: &Pod, cause: Cause) -> Plan {
    let record = pod.record();
    Plan::Restore(Box::new(Restore {
        slot: record.map(|r| Slot {
            policy: r.policy.clone(),
            class: r.class.clone(),
        }),
        found: record.and_then(|r| r.found.clone()),
        cause,
    }))
}

#[cfg(test)]
mod tests;
