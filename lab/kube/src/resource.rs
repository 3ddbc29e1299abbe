//! The kinds that are served and how each is treated. Adding a kind is adding a row to [`KINDS`].

/// Where objects of a kind are kept. `events` and `events.k8s.io` are two views of one table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Table {
    Namespaces,
    Nodes,
    Pods,
    ConfigMaps,
    Secrets,
    Services,
    ServiceAccounts,
    Events,
    Deployments,
    ReplicaSets,
    StatefulSets,
    DaemonSets,
    Leases,
    QosPolicies,
}

impl Table {
    pub(crate) const ALL: [Table; 14] = [
        Table::Namespaces,
        Table::Nodes,
        Table::Pods,
        Table::ConfigMaps,
        Table::Secrets,
        Table::Services,
        Table::ServiceAccounts,
        Table::Events,
        Table::Deployments,
        Table::ReplicaSets,
        Table::StatefulSets,
        Table::DaemonSets,
        Table::Leases,
        Table::QosPolicies,
    ];

    /// The kind whose form the table stores.
    pub(crate) fn kind(self) -> &'static Kind {
        KINDS
            .iter()
            .find(|kind| kind.table == self && kind.storage)
            .expect("every table has a storage kind")
    }
}

/// One served kind.
#[derive(Debug)]
pub(crate) struct Kind {
    pub(crate) table: Table,
    pub(crate) group: &'static str,
    pub(crate) version: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) plural: &'static str,
    pub(crate) singular: &'static str,
    pub(crate) short: &'static [&'static str],
    pub(crate) namespaced: bool,
    /// False for a second view of a table, converted at the border.
    pub(crate) storage: bool,
    /// Has a `/status` subresource, so that the main resource ignores status.
    pub(crate) status: bool,
    /// Has a `/scale` subresource.
    pub(crate) scale: bool,
    /// `metadata.generation` rises when the spec changes.
    pub(crate) generation: bool,
    /// Defined by a CRD: no strategic merge, list items carry their kind, updates need a resource version.
    pub(crate) custom: bool,
    /// A PUT without resource version is taken as "whatever is there".
    pub(crate) unconditional_update: bool,
    /// A PUT to a name that does not exist creates it.
    pub(crate) create_on_update: bool,
    /// An immediate deletion answers with the object instead of a Status.
    pub(crate) returns_deleted: bool,
    /// Field selectors: name and JSON pointer. `metadata.name` and `metadata.namespace` work for every kind.
    pub(crate) fields: &'static [(&'static str, &'static str)],
}

impl Kind {
    /// `v1` or `apps/v1`.
    pub(crate) fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// `pods` or `deployments.apps`, as error messages name a resource.
    pub(crate) fn qualified(&self) -> String {
        if self.group.is_empty() {
            self.plural.to_owned()
        } else {
            format!("{}.{}", self.plural, self.group)
        }
    }

    /// The opening of a serialized object, up to where a stored body (which has no type) continues.
    pub(crate) fn type_prefix(&self) -> String {
        format!(
            r#"{{"kind":"{}","apiVersion":"{}","#,
            self.kind,
            self.api_version()
        )
    }
}

const PLAIN: Kind = Kind {
    table: Table::ConfigMaps,
    group: "",
    version: "v1",
    kind: "",
    plural: "",
    singular: "",
    short: &[],
    namespaced: true,
    storage: true,
    status: false,
    scale: false,
    generation: false,
    custom: false,
    unconditional_update: true,
    create_on_update: false,
    returns_deleted: false,
    fields: &[],
};

const WORKLOAD: Kind = Kind {
    group: "apps",
    status: true,
    generation: true,
    ..PLAIN
};

/// Every served kind.
pub(crate) static KINDS: &[Kind] = &[
    Kind {
        table: Table::Namespaces,
        kind: "Namespace",
        plural: "namespaces",
        singular: "namespace",
        short: &["ns"],
        namespaced: false,
        status: true,
        returns_deleted: true,
        fields: &[("status.phase", "/status/phase")],
        ..PLAIN
    },
    Kind {
        table: Table::Nodes,
        kind: "Node",
        plural: "nodes",
        singular: "node",
        short: &["no"],
        namespaced: false,
        status: true,
        fields: &[("spec.unschedulable", "/spec/unschedulable")],
        ..PLAIN
    },
    Kind {
        table: Table::Pods,
        kind: "Pod",
        plural: "pods",
        singular: "pod",
        short: &["po"],
        status: true,
        generation: true,
        returns_deleted: true,
        fields: &[
            ("spec.nodeName", "/spec/nodeName"),
            ("status.phase", "/status/phase"),
            ("spec.restartPolicy", "/spec/restartPolicy"),
            ("spec.schedulerName", "/spec/schedulerName"),
            ("spec.serviceAccountName", "/spec/serviceAccountName"),
            ("status.podIP", "/status/podIP"),
        ],
        ..PLAIN
    },
    Kind {
        table: Table::ConfigMaps,
        kind: "ConfigMap",
        plural: "configmaps",
        singular: "configmap",
        short: &["cm"],
        ..PLAIN
    },
    Kind {
        table: Table::Secrets,
        kind: "Secret",
        plural: "secrets",
        singular: "secret",
        fields: &[("type", "/type")],
        ..PLAIN
    },
    Kind {
        table: Table::Services,
        kind: "Service",
        plural: "services",
        singular: "service",
        short: &["svc"],
        status: true,
        create_on_update: true,
        returns_deleted: true,
        ..PLAIN
    },
    Kind {
        table: Table::ServiceAccounts,
        kind: "ServiceAccount",
        plural: "serviceaccounts",
        singular: "serviceaccount",
        short: &["sa"],
        returns_deleted: true,
        ..PLAIN
    },
    Kind {
        table: Table::Events,
        kind: "Event",
        plural: "events",
        singular: "event",
        short: &["ev"],
        create_on_update: true,
        fields: EVENT_FIELDS,
        ..PLAIN
    },
    Kind {
        table: Table::Events,
        group: "events.k8s.io",
        kind: "Event",
        plural: "events",
        singular: "event",
        short: &["ev"],
        storage: false,
        create_on_update: true,
        fields: EVENT_FIELDS,
        ..PLAIN
    },
    Kind {
        table: Table::Deployments,
        kind: "Deployment",
        plural: "deployments",
        singular: "deployment",
        short: &["deploy"],
        scale: true,
        ..WORKLOAD
    },
    Kind {
        table: Table::ReplicaSets,
        kind: "ReplicaSet",
        plural: "replicasets",
        singular: "replicaset",
        short: &["rs"],
        scale: true,
        ..WORKLOAD
    },
    Kind {
        table: Table::StatefulSets,
        kind: "StatefulSet",
        plural: "statefulsets",
        singular: "statefulset",
        short: &["sts"],
        scale: true,
        ..WORKLOAD
    },
    Kind {
        table: Table::DaemonSets,
        kind: "DaemonSet",
        plural: "daemonsets",
        singular: "daemonset",
        short: &["ds"],
        ..WORKLOAD
    },
    Kind {
        table: Table::Leases,
        group: "coordination.k8s.io",
        kind: "Lease",
        plural: "leases",
        singular: "lease",
        unconditional_update: false,
        create_on_update: true,
        ..PLAIN
    },
    Kind {
        table: Table::QosPolicies,
        group: "laneguard.dev",
        version: "v1alpha1",
        kind: "QosPolicy",
        plural: "qospolicies",
        singular: "qospolicy",
        short: &["qosp"],
        status: true,
        generation: true,
        custom: true,
        unconditional_update: false,
        ..PLAIN
    },
];

const EVENT_FIELDS: &[(&str, &str)] = &[
    ("involvedObject.kind", "/involvedObject/kind"),
    ("involvedObject.namespace", "/involvedObject/namespace"),
    ("involvedObject.name", "/involvedObject/name"),
    ("involvedObject.uid", "/involvedObject/uid"),
    ("reason", "/reason"),
    ("type", "/type"),
    ("reportingComponent", "/reportingComponent"),
];

/// Whether anything is served in a group and version.
pub(crate) fn is_group_served(group: &str, version: &str) -> bool {
    KINDS
        .iter()
        .any(|kind| kind.group == group && kind.version == version)
}

/// The kind served at a group, version and plural name.
pub(crate) fn find(group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
    KINDS
        .iter()
        .find(|kind| kind.group == group && kind.version == version && kind.plural == plural)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_has_exactly_one_storage_kind() {
        for table in Table::ALL {
            let kinds = KINDS
                .iter()
                .filter(|kind| kind.table == table && kind.storage);
            assert_eq!(kinds.count(), 1, "{table:?}");
        }
        for (index, table) in Table::ALL.into_iter().enumerate() {
            assert_eq!(table as usize, index);
        }
    }
}
