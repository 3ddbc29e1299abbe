//! The policies as they stand: which are known, which act, where, and whom they protect.
//!
//! Pure. A policy that is merely missing is never taken for deleted; only a delete marker is.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use laneguard_proto::policy::{Actuation, BestEffort, Entry, Mode, Origin};
use laneguard_proto::selector::LabelSelector;
use laneguard_proto::subject::Token;

use crate::pods::{Pod, workload_name};

/// A class of a policy: what a command is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot {
    /// The policy's token.
    pub policy: Token,
    /// The class within the policy.
    pub class: Token,
}

impl std::fmt::Display for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.policy, self.class)
    }
}

/// How a policy stands.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Standing<'a> {
    /// It enforces limits.
    Enforcing(&'a Entry),
    /// It is known, and writes nothing.
    Idle(&'a Entry, Idle),
    /// It was deleted: a delete marker was read.
    Deleted,
    /// Nothing is known of it, which is no deletion.
    Unknown,
}

/// Why a policy writes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Idle {
    /// Its mode is Observe or Off.
    NotEnforcing,
    /// An operator released it.
    Released,
    /// It asks for rollouts, which this version does not do.
    RolloutUnsupported,
}

/// Whether a policy acts in a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// It does.
    Inside,
    /// It does not.
    Outside,
    /// Its namespace selector would, but is not honoured: the policy is not in the policy namespace.
    Denied,
    /// The namespace's labels are not known yet.
    Unknown,
}

/// Labels of namespaces. `None`: not listed yet.
pub type Namespaces = Option<HashMap<String, BTreeMap<String, String>>>;

/// Every policy of this cluster.
#[derive(Debug, Default)]
pub struct PolicySet {
    policy_namespace: String,
    entries: BTreeMap<Token, Option<Entry>>,
    released: BTreeSet<Token>,
    policies_synced: bool,
    overrides_synced: bool,
    by_namespace: HashMap<String, Vec<Token>>,
    wide: Vec<Token>,
    critical: BTreeSet<(String, String)>,
    critical_anywhere: BTreeSet<String>,
    needs_namespaces: bool,
}

impl PolicySet {
    /// Knows nothing yet. Namespace selectors are honoured in policies of `policy_namespace` only.
    pub fn new(policy_namespace: impl Into<String>) -> Self {
        Self {
            policy_namespace: policy_namespace.into(),
            ..Self::default()
        }
    }

    /// A policy as it was read. Returns whether anything changed.
    pub fn put(&mut self, token: Token, entry: Entry) -> bool {
        if self.entry(&token) == Some(&entry) {
            return false;
        }
        self.entries.insert(token, Some(entry));
        self.index();
        true
    }

    /// A delete marker was read. Returns whether anything changed.
    pub fn delete(&mut self, token: &Token) -> bool {
        let changed = !matches!(self.entries.insert(token.clone(), None), Some(None));
        self.index();
        changed
    }

    /// An operator released a policy, or took that back. Returns whether anything changed.
    pub fn set_released(&mut self, token: &Token, released: bool) -> bool {
        if released {
            self.released.insert(token.clone())
        } else {
            self.released.remove(token)
        }
    }

    /// The policies were read in full once.
    pub fn policies_synced(&mut self) {
        self.policies_synced = true;
    }

    /// The overrides were read in full once.
    pub fn overrides_synced(&mut self) {
        self.overrides_synced = true;
    }

    /// Whether policies and overrides were read in full, so that what they say may be acted on.
    pub fn synced(&self) -> bool {
        self.policies_synced && self.overrides_synced
    }

    /// Whether some policy's scope depends on labels of namespaces.
    pub fn needs_namespaces(&self) -> bool {
        self.needs_namespaces
    }

    /// A known policy.
    pub fn entry(&self, token: &Token) -> Option<&Entry> {
        self.entries.get(token).and_then(Option::as_ref)
    }

    /// Every known policy.
    pub fn iter(&self) -> impl Iterator<Item = (&Token, &Entry)> {
        self.entries
            .iter()
            .filter_map(|(token, entry)| Some((token, entry.as_ref()?)))
    }

    /// How a policy stands.
    pub fn standing(&self, token: &Token) -> Standing<'_> {
        match self.entries.get(token) {
            None => Standing::Unknown,
            Some(None) => Standing::Deleted,
            Some(Some(entry)) if self.released.contains(token) => {
                Standing::Idle(entry, Idle::Released)
            }
            Some(Some(entry)) if entry.spec.mode != Mode::Enforce => {
                Standing::Idle(entry, Idle::NotEnforcing)
            }
            Some(Some(entry)) if entry.spec.actuation == Actuation::Rollout => {
                Standing::Idle(entry, Idle::RolloutUnsupported)
            }
            Some(Some(entry)) => Standing::Enforcing(entry),
        }
    }

    /// The policies that may act in a namespace.
    pub fn near<'a>(&'a self, namespace: &str) -> impl Iterator<Item = &'a Token> + use<'a> {
        let own = self
            .by_namespace
            .get(namespace)
            .map_or(&[][..], Vec::as_slice);
        own.iter().chain(&self.wide)
    }

    /// The one namespace that a policy acts in. `None`: it may act in several.
    pub fn only_namespace<'a>(&self, entry: &'a Entry) -> Option<&'a str> {
        (!self.is_wide(entry)).then_some(entry.namespace.as_str())
    }

    /// Whether a policy acts in a namespace.
    pub fn scope(&self, entry: &Entry, namespace: &str, namespaces: &Namespaces) -> Scope {
        let selected = match (&entry.spec.namespace_selector, entry.origin) {
            (None, Origin::Environment) => Scope::Inside,
            (None, _) => Scope::Outside,
            (Some(selector), _) => selects(selector, namespace, namespaces),
        };
        if entry.origin == Origin::Environment {
            selected
        } else if entry.namespace == namespace {
            Scope::Inside
        } else if entry.namespace == self.policy_namespace {
            selected
        } else if selected == Scope::Inside {
            Scope::Denied
        } else {
            Scope::Outside
        }
    }

    /// Whether a pod belongs to a critical workload of any policy, whatever the policy's mode. A workload in another namespace than the
    /// policy's counts only in policies of the policy namespace and of the environment.
    pub fn protects(&self, pod: &Pod) -> bool {
        pod.workloads.iter().any(|workload| {
            self.critical_anywhere.contains(&**workload)
                || self
                    .critical
                    .contains(&(pod.key.namespace.to_string(), workload.to_string()))
        })
    }

    fn is_wide(&self, entry: &Entry) -> bool {
        entry.origin == Origin::Environment
            || (entry.namespace == self.policy_namespace && entry.spec.namespace_selector.is_some())
    }

    fn index(&mut self) {
        self.by_namespace.clear();
        self.wide.clear();
        self.critical.clear();
        self.critical_anywhere.clear();
        self.needs_namespaces = false;
        for (token, entry) in &self.entries {
            let Some(entry) = entry else { continue };
            if self.is_wide(entry) {
                self.wide.push(token.clone());
            } else {
                let own = self
                    .by_namespace
                    .entry(entry.namespace.clone())
                    .or_default();
                own.push(token.clone());
            }
            let selector = entry.spec.namespace_selector.as_ref();
            self.needs_namespaces |= selector.is_some_and(|s| !s.is_empty());
            // or a policy of one namespace could make the pods of another untouchable
            let reaches_out =
                entry.origin == Origin::Environment || entry.namespace == self.policy_namespace;
            for critical in &entry.spec.critical {
                let name = workload_name(&critical.workload).to_owned();
                match critical.namespace_in(&entry.namespace) {
                    namespace if namespace != entry.namespace && !reaches_out => continue,
                    "" => self.critical_anywhere.insert(name),
                    namespace => self.critical.insert((namespace.to_owned(), name)),
                };
            }
        }
    }
}

fn selects(selector: &LabelSelector, namespace: &str, namespaces: &Namespaces) -> Scope {
    if selector.is_empty() {
        return Scope::Inside;
    }
    match namespaces {
        None => Scope::Unknown,
        // a namespace that is not in the list yet was made a moment ago: its event is on the way
        Some(all) => match all.get(namespace) {
            None => Scope::Unknown,
            Some(labels) if selector.matches(labels) => Scope::Inside,
            Some(_) => Scope::Outside,
        },
    }
}

/// A class of a policy by its name.
pub fn class<'a>(entry: &'a Entry, name: &Token) -> Option<&'a BestEffort> {
    entry
        .spec
        .best_effort
        .iter()
        .find(|c| c.class == name.as_str())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// A policy `namespace/name` in mode Enforce with class `bulk` for `priority=best-effort`, 10M to 1G, changed by merging `spec`.
    pub(crate) fn entry(namespace: &str, name: &str, spec: Value) -> Entry {
        let mut full = json!({"mode": "Enforce",
            "critical": [{"workload": "robot-factory", "targets": [{"metric": "P95", "below": "10ms"}]}],
            "bestEffort": [{"class": "bulk", "selector": {"matchLabels": {"priority": "best-effort"}}, "bandwidth": {"min": "10M", "max": "1G"}}]});
        for (key, value) in spec.as_object().unwrap() {
            full[key] = value.clone();
        }
        let value = json!({"origin": "lanectl", "namespace": namespace, "name": name, "generation": 1, "spec": full});
        Entry::from_json(value.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn a_namespace_selector_counts_only_in_the_policy_namespace() {
        let set = PolicySet::new("laneguard");
        let selector = json!({"namespaceSelector": {"matchLabels": {"team": "a"}}});
        let namespaces = Some(HashMap::from([
            (
                "x".to_owned(),
                BTreeMap::from([("team".to_owned(), "a".to_owned())]),
            ),
            ("y".to_owned(), BTreeMap::new()),
        ]));
        let central = entry("laneguard", "p", selector.clone());
        let other = entry("factory", "p", selector);
        assert_eq!(set.scope(&central, "x", &namespaces), Scope::Inside);
        assert_eq!(set.scope(&central, "y", &namespaces), Scope::Outside);
        assert_eq!(set.scope(&central, "x", &None), Scope::Unknown);
        assert_eq!(set.scope(&central, "laneguard", &None), Scope::Inside);
        assert_eq!(set.scope(&other, "x", &namespaces), Scope::Denied);
        assert_eq!(set.scope(&other, "y", &namespaces), Scope::Outside);
        assert_eq!(set.scope(&other, "factory", &namespaces), Scope::Inside);
    }

    #[test]
    fn only_the_policy_namespace_and_the_environment_protect_pods_of_other_namespaces() {
        let critical = |namespace: &str| {
            json!({"critical": [{"namespace": namespace, "workload": "upload",
                "targets": [{"metric": "P95", "below": "10ms"}]}]})
        };
        let upload = crate::pods::tests::pod(
            json!({"metadata": {"namespace": "b", "name": "upload", "uid": "u", "resourceVersion": "1"}}),
        );
        let mut environment = entry("default", "default", critical("b"));
        environment.origin = Origin::Environment;
        for (entry, protected) in [
            (entry("a", "p", critical("b")), false),
            (entry("a", "p", critical("a")), false),
            (entry("b", "p", critical("b")), true),
            (entry("laneguard", "p", critical("b")), true),
            (environment, true),
        ] {
            let mut set = PolicySet::new("laneguard");
            let from = format!("{:?} {}", entry.origin, entry.namespace);
            set.put("x".parse().unwrap(), entry);
            assert_eq!(set.protects(&upload), protected, "{from}");
        }
    }

    #[test]
    fn a_missing_policy_is_unknown_and_only_a_marker_deletes() {
        let mut set = PolicySet::new("laneguard");
        let token: Token = "factory_p".parse().unwrap();
        assert_eq!(set.standing(&token), Standing::Unknown);
        assert!(set.put(token.clone(), entry("factory", "p", json!({}))));
        assert!(matches!(set.standing(&token), Standing::Enforcing(_)));
        assert!(set.set_released(&token, true));
        assert!(matches!(
            set.standing(&token),
            Standing::Idle(_, Idle::Released)
        ));
        assert!(set.delete(&token) && !set.delete(&token));
        assert_eq!(set.standing(&token), Standing::Deleted);
    }
}
