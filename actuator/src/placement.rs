//! Which pods each policy governs and where they run, for collector and decider. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use laneguard_proto::placement::{ClassPlacement, MOST_PODS, Placement, PodPlacement};
use laneguard_proto::policy::{BestEffort, Entry, Mode};
use laneguard_proto::subject::Token;

use crate::annotation::effective_bps;
use crate::plan::World;
use crate::pods::{Key, Pod, workload_name};
use crate::policies::Scope;

/// The placement of every policy that is not off; `written_ms` is left at 0.
pub type Placements = BTreeMap<Token, Placement>;

/// Computes every policy's placement.
pub fn compute(world: &World<'_>, pods: &BTreeMap<Key, Pod>) -> Placements {
    world
        .policies
        .iter()
        .filter(|(_, entry)| entry.spec.mode != Mode::Off)
        .map(|(token, entry)| {
            let classes = &entry.spec.best_effort;
            let placement = Placement {
                classes: classes
                    .iter()
                    .map(|class| of_class(world, entry, class, pods))
                    .collect(),
                critical_nodes: critical_nodes(entry, pods),
                written_ms: 0,
            };
            (token.clone(), placement)
        })
        .collect()
}

/// The pods of one namespace, or of all.
fn within<'a>(
    pods: &'a BTreeMap<Key, Pod>,
    namespace: Option<&'a str>,
) -> impl Iterator<Item = &'a Pod> {
    let from = namespace.map_or(Bound::Unbounded, |namespace| {
        Bound::Included(Key {
            namespace: namespace.into(),
            name: "".into(),
        })
    });
    pods.range((from, Bound::Unbounded))
        .map(|(_, pod)| pod)
        .take_while(move |pod| namespace.is_none_or(|namespace| namespace == &*pod.key.namespace))
        .filter(|pod| !pod.ended)
}

fn of_class(
    world: &World<'_>,
    entry: &Entry,
    class: &BestEffort,
    pods: &BTreeMap<Key, Pod>,
) -> ClassPlacement {
    let mut placement = ClassPlacement {
        class: class.class.clone(),
        ..ClassPlacement::default()
    };
    for pod in within(pods, world.policies.only_namespace(entry)) {
        let governed = class.selector.matches(&pod.labels)
            && world
                .policies
                .scope(entry, &pod.key.namespace, world.namespaces)
                == Scope::Inside
            && world.untouchable(pod).is_none();
        if !governed {
            continue;
        }
        if let Some(bps) = pod.egress.as_deref().and_then(effective_bps) {
            let lowest = placement.found_bps.map_or(bps, |found: f64| found.min(bps));
            placement.found_bps = Some(lowest);
        }
        if placement.pods.len() == MOST_PODS {
            placement.truncated = true;
            continue;
        }
        placement.pods.push(PodPlacement {
            namespace: pod.key.namespace.to_string(),
            name: pod.key.name.to_string(),
            node: pod.node.as_deref().unwrap_or_default().to_owned(),
        });
    }
    placement
}

fn critical_nodes(entry: &Entry, pods: &BTreeMap<Key, Pod>) -> Vec<String> {
    let mut nodes = BTreeSet::new();
    for critical in &entry.spec.critical {
        let name = workload_name(&critical.workload);
        let namespace = Some(critical.namespace_in(&entry.namespace)).filter(|n| !n.is_empty());
        let of_workload =
            within(pods, namespace).filter(|pod| pod.workloads.iter().any(|w| **w == *name));
        nodes.extend(of_workload.filter_map(|pod| pod.node.as_deref().map(str::to_owned)));
    }
    nodes.into_iter().collect()
}
