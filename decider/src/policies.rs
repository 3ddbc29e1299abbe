//! What operators want: policies, placements and overrides as the buckets have them, each the last good one.
//!
//! A value that cannot be read leaves the one before in force. Only a deletion marker takes a value away: a key that is missing may be
//! a bucket that was lost.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use laneguard_proto::overrides::Override;
use laneguard_proto::placement::Placement;
use laneguard_proto::policy::Entry;

use crate::engine::Wanted;
use crate::wire::{Plan, Refused};

/// Everything known, by the policy's token.
#[derive(Debug, Default)]
pub struct Catalogue {
    plans: BTreeMap<String, Arc<Plan>>,
    placements: HashMap<String, Arc<Placement>>,
    overrides: HashMap<String, Override>,
}

impl Catalogue {
    /// A policy was written. The one before stays in force when this one is refused.
    ///
    /// # Errors
    /// Names the field and what is wrong with it.
    pub fn put_policy(&mut self, token: &str, bytes: &[u8]) -> Result<(), Refused> {
        let entry = Entry::from_json(bytes).map_err(|e| Refused {
            field: e.field,
            problem: e.problem,
        })?;
        let own = entry.token().map_err(|e| Refused {
            field: e.field,
            problem: e.problem,
        })?;
        if own.as_str() != token {
            return Err(Refused {
                field: "metadata.name".into(),
                problem: format!("makes the key {own}, but it is stored under {token}"),
            });
        }
        let plan = Plan::from_entry(&entry)?;
        self.plans.insert(token.to_owned(), Arc::new(plan));
        Ok(())
    }

    /// A policy was deleted.
    pub fn delete_policy(&mut self, token: &str) {
        self.plans.remove(token);
    }

    /// A placement was written.
    ///
    /// # Errors
    /// Those of JSON; the placement before stays.
    pub fn put_placement(&mut self, token: &str, bytes: &[u8]) -> Result<(), serde_json::Error> {
        let placement = serde_json::from_slice(bytes)?;
        self.placements
            .insert(token.to_owned(), Arc::new(placement));
        Ok(())
    }

    /// A placement was deleted.
    pub fn delete_placement(&mut self, token: &str) {
        self.placements.remove(token);
    }

    /// An override was set.
    ///
    /// # Errors
    /// Those of JSON; the override before stays.
    pub fn put_override(&mut self, token: &str, bytes: &[u8]) -> Result<(), serde_json::Error> {
        let over = serde_json::from_slice(bytes)?;
        self.overrides.insert(token.to_owned(), over);
        Ok(())
    }

    /// An override was withdrawn or has expired.
    pub fn delete_override(&mut self, token: &str) {
        self.overrides.remove(token);
    }

    /// The policy as written, whoever's law it has.
    pub fn plan(&self, token: &str) -> Option<&Arc<Plan>> {
        self.plans.get(token)
    }

    /// All policies that one of our laws decides for.
    pub fn ours(&self) -> impl Iterator<Item = &String> {
        self.plans
            .iter()
            .filter(|(_, plan)| plan.law.is_some())
            .map(|(token, _)| token)
    }

    /// What an engine needs to know about a policy that one of our laws decides for.
    pub fn wanted(&self, token: &str) -> Option<Wanted> {
        let plan = self.plans.get(token).filter(|plan| plan.law.is_some())?;
        Some(Wanted {
            plan: Arc::clone(plan),
            placement: self.placements.get(token).cloned(),
            over: self.overrides.get(token).cloned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn policy(name: &str, generation: u64, min: &str) -> Vec<u8> {
        json!({
            "origin": "lanectl", "namespace": "ns", "name": name, "generation": generation,
            "spec": {
                "critical": [{"workload": "robot", "targets": [{"metric": "P95", "below": "10ms"}]}],
                "bestEffort": [{"class": "bulk", "selector": {"matchLabels": {"a": "b"}}, "bandwidth": {"min": min}}]
            }
        })
        .to_string()
        .into_bytes()
    }

    #[test]
    fn an_invalid_update_leaves_the_last_good_policy_in_force() {
        let mut catalogue = Catalogue::default();
        catalogue
            .put_policy("ns_p", &policy("p", 1, "10M"))
            .unwrap();
        let refused = catalogue
            .put_policy("ns_p", &policy("p", 2, "1k"))
            .unwrap_err();
        assert_eq!(refused.field, "spec.bestEffort[0].bandwidth.min");
        assert!(catalogue.put_policy("ns_p", b"garbage").is_err());
        assert_eq!(catalogue.wanted("ns_p").unwrap().plan.generation, 1);
        catalogue.delete_policy("ns_p");
        assert!(catalogue.wanted("ns_p").is_none());
    }

    #[test]
    fn a_policy_under_another_policys_key_is_refused() {
        let mut catalogue = Catalogue::default();
        let refused = catalogue
            .put_policy("ns_other", &policy("p", 1, "10M"))
            .unwrap_err();
        assert_eq!(refused.field, "metadata.name");
    }

    #[test]
    fn placement_and_override_may_come_before_the_policy() {
        let mut catalogue = Catalogue::default();
        catalogue
            .put_placement(
                "ns_p",
                br#"{"classes":[{"class":"bulk","foundBps":1e8}],"writtenMs":5}"#,
            )
            .unwrap();
        catalogue
            .put_override("ns_p", br#"{"action":"release"}"#)
            .unwrap();
        assert!(catalogue.put_override("ns_p", b"{}").is_err());
        catalogue
            .put_policy("ns_p", &policy("p", 1, "10M"))
            .unwrap();
        let wanted = catalogue.wanted("ns_p").unwrap();
        assert_eq!(wanted.placement.unwrap().classes[0].found_bps, Some(1e8));
        assert!(matches!(wanted.over, Some(Override::Release { .. })));
        catalogue.delete_override("ns_p");
        assert!(catalogue.wanted("ns_p").unwrap().over.is_none());
    }
}
