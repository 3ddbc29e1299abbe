//! Request paths to what they address. Pure.

use crate::resource::{self, Kind, Table};

/// The part of an object that a request addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Main,
    Status,
    Scale,
    /// `pods/NAME/binding`, what a scheduler posts.
    Binding,
}

/// A collection or an object of a kind.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) kind: &'static Kind,
    /// `None`: all namespaces, or a kind without.
    pub(crate) namespace: Option<String>,
    /// `None`: the collection.
    pub(crate) name: Option<String>,
    pub(crate) part: Part,
}

impl Target {
    /// All objects of a kind, or those of a namespace.
    pub(crate) fn collection(table: Table, namespace: Option<&str>) -> Self {
        Self {
            kind: table.kind(),
            namespace: namespace.map(str::to_owned),
            name: None,
            part: Part::Main,
        }
    }

    /// The object with a key.
    pub(crate) fn object(table: Table, key: &str) -> Self {
        let (namespace, name) = match key.split_once('/') {
            Some((namespace, name)) => (Some(namespace), name),
            None => (None, key),
        };
        Self {
            name: Some(name.to_owned()),
            ..Self::collection(table, namespace)
        }
    }

    /// The key of the addressed object in its table.
    pub(crate) fn key(&self, name: &str) -> String {
        match &self.namespace {
            Some(namespace) => format!("{namespace}/{name}"),
            None => name.to_owned(),
        }
    }
}

/// Whether a path that addresses nothing is at least in a group that is served: a real server tells the two apart.
pub(crate) fn is_in_served_group(path: &str) -> bool {
    let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
    match segments.as_slice() {
        ["api", version, ..] => resource::is_group_served("", version),
        ["apis", group, version, ..] => resource::is_group_served(group, version),
        _ => false,
    }
}

/// `None` where a real server knows no such path either.
pub(crate) fn parse(path: &str) -> Option<Target> {
    let mut segments: Vec<&str> = path.trim_matches('/').split('/').collect();
    let (group, version) = match segments.as_slice() {
        ["api", version, ..] => ("", *version),
        ["apis", group, version, ..] => (*group, *version),
        _ => return None,
    };
    segments.drain(..if group.is_empty() { 2 } else { 3 });
    let known = |plural: &str| resource::find(group, version, plural);
    let (namespace, plural, rest) = match segments.as_slice() {
        ["namespaces", _, "status" | "finalize"] => (None, "namespaces", &segments[1..]),
        ["namespaces", namespace, plural, rest @ ..] => (Some(*namespace), *plural, rest),
        [plural, rest @ ..] => (None, *plural, rest),
        [] => return None,
    };
    let kind = known(plural)?;
    let (name, part) = match rest {
        [] => (None, Part::Main),
        [name] => (Some(*name), Part::Main),
        [name, "status"] if kind.status => (Some(*name), Part::Status),
        [name, "scale"] if kind.scale => (Some(*name), Part::Scale),
        [name, "binding"] if kind.table == Table::Pods => (Some(*name), Part::Binding),
        _ => return None,
    };
    // An object of a namespaced kind needs a namespace; other kinds have none.
    if namespace.is_some() != kind.namespaced && (namespace.is_some() || name.is_some()) {
        return None;
    }
    Some(Target {
        kind,
        namespace: namespace.map(str::to_owned),
        name: name.map(str::to_owned),
        part,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(path: &str) -> Option<String> {
        parse(path).map(|target| {
            format!(
                "{} {:?} {:?} {:?}",
                target.kind.qualified(),
                target.namespace,
                target.name,
                target.part
            )
        })
    }

    #[test]
    fn paths_address_collections_objects_and_parts() {
        for (path, expected) in [
            ("/api/v1/pods", r#"pods None None Main"#),
            ("/api/v1/namespaces", r#"namespaces None None Main"#),
            ("/api/v1/namespaces/a", r#"namespaces None Some("a") Main"#),
            (
                "/api/v1/namespaces/a/status",
                r#"namespaces None Some("a") Status"#,
            ),
            (
                "/api/v1/namespaces/a/pods/p",
                r#"pods Some("a") Some("p") Main"#,
            ),
            (
                "/api/v1/namespaces/a/pods/p/status",
                r#"pods Some("a") Some("p") Status"#,
            ),
            (
                "/apis/apps/v1/namespaces/a/deployments/d/scale",
                r#"deployments.apps Some("a") Some("d") Scale"#,
            ),
            ("/api/v1/nodes/n", r#"nodes None Some("n") Main"#),
        ] {
            assert_eq!(summary(path).as_deref(), Some(expected), "{path}");
        }
        for path in [
            "/api/v1/pods/p",
            "/api/v1/namespaces/a/nodes",
            "/api/v1/namespaces/a/leases",
            "/apis/apps/v1/namespaces/a/deployments/d/other",
            "/api/v1",
            "/other",
        ] {
            assert_eq!(summary(path), None, "{path}");
        }
    }
}
