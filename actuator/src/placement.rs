//! Which pods each policy governs and where they run, for collector and decider. Pure.

use std::collections::{BTreeMap, BTreeSet};

use laneguard_proto::placement::{ClassPlacement, MOST_PODS, Placement, PodPlacement};
use laneguard_proto::policy::{BestEffort, Entry, Mode};
use laneguard_proto::subject::Token;

use crate::annotation::effective_bps;
use crate::plan::World;
use crate::pods::{Key, Pod, within, workload_name};
use crate::policies::Scope;

/// The placement of every policy that is not off; `written_ms` is left at 0.
pub type Placements = BTreeMap<Token, Placement>;

/// Bytes of JSON that a placement's pods may take, and its critical nodes: with room to spare below the megabyte that NATS takes.
const ROOM: (usize, usize) = (600 * 1024, 64 * 1024);
/// What a pod takes in JSON beside its names.
const POD_OVERHEAD: usize = r#"{"namespace":"","name":"","node":""},"#.len();

/// Computes every policy's placement.
pub fn compute(world: &World<'_>, pods: &BTreeMap<Key, Pod>) -> Placements {
    world
        .policies
        .iter()
        .filter(|(_, entry)| entry.spec.mode != Mode::Off)
        .map(|(token, entry)| {
            let classes = &entry.spec.best_effort;
            let mut room = ROOM.0;
            let placement = Placement {
                classes: classes
                    .iter()
                    .map(|class| of_class(world, entry, class, pods, &mut room))
                    .collect(),
                critical_nodes: critical_nodes(entry, pods),
                written_ms: 0,
            };
            (token.clone(), placement)
        })
        .collect()
}

/// The pods that a class governs: those its policy would limit.
pub fn governed<'a>(
    world: &'a World<'a>,
    entry: &'a Entry,
    class: &'a BestEffort,
    pods: &'a BTreeMap<Key, Pod>,
) -> impl Iterator<Item = &'a Pod> {
    within(pods, world.policies.only_namespace(entry))
        .filter(|pod| class.selector.matches(&pod.labels))
        .filter(|pod| {
            let namespace = &pod.key.namespace;
            let scope = world.policies.scope(entry, namespace, world.namespaces);
            scope == Scope::Inside && world.untouchable(pod).is_none()
        })
}

/// The limit that a pod has now, bits per second. `None`: none.
pub fn found_bps(pod: &Pod) -> Option<f64> {
    pod.egress.as_deref().and_then(effective_bps)
}

fn of_class(
    world: &World<'_>,
    entry: &Entry,
    class: &BestEffort,
    pods: &BTreeMap<Key, Pod>,
    room: &mut usize,
) -> ClassPlacement {
    let mut placement = ClassPlacement {
        class: class.class.clone(),
        ..ClassPlacement::default()
    };
    for pod in governed(world, entry, class, pods) {
        if let Some(bps) = found_bps(pod) {
            let lowest = placement.found_bps.map_or(bps, |found: f64| found.min(bps));
            placement.found_bps = Some(lowest);
        }
        let node = pod.node.as_deref().unwrap_or_default();
        let size = POD_OVERHEAD + pod.key.namespace.len() + pod.key.name.len() + node.len();
        if placement.truncated || placement.pods.len() == MOST_PODS || size > *room {
            placement.truncated = true;
            continue;
        }
        *room -= size;
        placement.pods.push(PodPlacement {
            namespace: pod.key.namespace.to_string(),
            name: pod.key.name.to_string(),
            node: node.to_owned(),
        });
    }
    placement
}

/// As many as there is room for.
fn critical_nodes(entry: &Entry, pods: &BTreeMap<Key, Pod>) -> Vec<String> {
    let mut nodes = BTreeSet::new();
    for critical in &entry.spec.critical {
        let name = workload_name(&critical.workload);
        let namespace = Some(critical.namespace_in(&entry.namespace)).filter(|n| !n.is_empty());
        let of_workload =
            within(pods, namespace).filter(|pod| pod.workloads.iter().any(|w| **w == *name));
        nodes.extend(of_workload.filter_map(|pod| pod.node.as_deref().map(str::to_owned)));
    }
    let mut room = ROOM.1;
    let fits = |node: &String| {
        room = room.saturating_sub(node.len() + r#""","#.len());
        room > 0
    };
    nodes.into_iter().take_while(fits).collect()
}
