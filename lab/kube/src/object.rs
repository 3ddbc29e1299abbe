//! A stored object: its serialized form, shared by every reader, and the small index that selectors and controllers need.

use bytes::{BufMut, Bytes, BytesMut};
use serde_json::Value;

use crate::resource::{Kind, Table};

/// An owner reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) uid: String,
    pub(crate) kind: String,
    pub(crate) controller: bool,
}

/// One version of one object. Immutable; a write makes a new one.
#[derive(Debug)]
pub(crate) struct Object {
    key: String,
    slash: Option<usize>,
    uid: String,
    rv: u64,
    labels: Vec<(String, String)>,
    fields: Vec<String>,
    owners: Vec<Owner>,
    finalizers: bool,
    deleting: bool,
    ready: bool,
    body: Bytes,
    metadata_end: usize,
}

const METADATA: &[u8] = br#"{"metadata":"#;

impl Object {
    /// Indexes and serializes `value`, which carries `rv` already or gets it here in the serialized form only through the caller.
    pub(crate) fn new(kind: &Kind, value: &Value, rv: u64) -> Self {
        let metadata = &value["metadata"];
        let (body, metadata_end) = serialize(value);
        let name = text(&metadata["name"]);
        let (key, slash) = match metadata["namespace"].as_str() {
            Some(namespace) if kind.namespaced => {
                (format!("{namespace}/{name}"), Some(namespace.len()))
            }
            _ => (name.to_owned(), None),
        };
        let labels = metadata["labels"].as_object().map_or_else(Vec::new, |map| {
            map.iter()
                .map(|(key, value)| (key.clone(), text(value).to_owned()))
                .collect()
        });
        let fields = kind
            .fields
            .iter()
            .map(|(_, pointer)| match value.pointer(pointer) {
                Some(Value::String(text)) => text.clone(),
                Some(Value::Bool(true)) => "true".to_owned(),
                _ if *pointer == "/spec/unschedulable" => "false".to_owned(),
                _ => String::new(),
            })
            .collect();
        let owners = metadata["ownerReferences"]
            .as_array()
            .map_or_else(Vec::new, |owners| {
                owners
                    .iter()
                    .map(|owner| Owner {
                        uid: text(&owner["uid"]).to_owned(),
                        kind: text(&owner["kind"]).to_owned(),
                        controller: owner["controller"] == true,
                    })
                    .collect()
            });
        Self {
            key,
            slash,
            uid: text(&metadata["uid"]).to_owned(),
            rv,
            labels,
            fields,
            owners,
            finalizers: metadata["finalizers"]
                .as_array()
                .is_some_and(|f| !f.is_empty()),
            deleting: metadata["deletionTimestamp"].is_string(),
            ready: matches!(kind.table, Table::Pods | Table::Nodes) && is_ready(value),
            body,
            metadata_end,
        }
    }

    /// `namespace/name`, or the name for kinds without namespace: the order in which lists are served.
    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    pub(crate) fn name(&self) -> &str {
        self.slash.map_or(&self.key, |slash| &self.key[slash + 1..])
    }

    pub(crate) fn namespace(&self) -> &str {
        self.slash.map_or("", |slash| &self.key[..slash])
    }

    pub(crate) fn uid(&self) -> &str {
        &self.uid
    }

    pub(crate) fn rv(&self) -> u64 {
        self.rv
    }

    pub(crate) fn label(&self, key: &str) -> Option<&str> {
        self.labels
            .iter()
            .find(|(known, _)| known == key)
            .map(|(_, value)| value.as_str())
    }

    /// The value of the kind's selectable field at `index`; empty when unset.
    pub(crate) fn field(&self, index: usize) -> &str {
        self.fields.get(index).map_or("", String::as_str)
    }

    /// A pod's node; empty while unscheduled.
    pub(crate) fn node_name(&self) -> &str {
        self.field(0)
    }

    /// A pod's phase.
    pub(crate) fn phase(&self) -> &str {
        self.field(1)
    }

    pub(crate) fn owners(&self) -> &[Owner] {
        &self.owners
    }

    pub(crate) fn controller(&self) -> Option<&Owner> {
        self.owners.iter().find(|owner| owner.controller)
    }

    pub(crate) fn has_finalizers(&self) -> bool {
        self.finalizers
    }

    pub(crate) fn is_deleting(&self) -> bool {
        self.deleting
    }

    /// Whether a pod's or node's condition `Ready` is true.
    pub(crate) fn is_ready(&self) -> bool {
        self.ready
    }

    /// The object without `kind` and `apiVersion`, as JSON.
    pub(crate) fn body(&self) -> &Bytes {
        &self.body
    }

    /// The value of `metadata`, as JSON.
    pub(crate) fn metadata(&self) -> &[u8] {
        &self.body[METADATA.len()..self.metadata_end]
    }

    /// Parses the object, without `kind` and `apiVersion`.
    pub(crate) fn value(&self) -> Value {
        serde_json::from_slice(&self.body).expect("a stored body is JSON that was serialized here")
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn is_ready(value: &Value) -> bool {
    value["status"]["conditions"]
        .as_array()
        .is_some_and(|conditions| {
            conditions
                .iter()
                .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
        })
}

/// Metadata first, so that it can be sliced out, and neither kind nor apiVersion.
fn serialize(value: &Value) -> (Bytes, usize) {
    let mut buffer = BytesMut::with_capacity(1024).writer();
    let write = |value: &Value, buffer: &mut bytes::buf::Writer<BytesMut>| {
        serde_json::to_writer(buffer, value).expect("writing a JSON value to memory cannot fail");
    };
    buffer.get_mut().put_slice(METADATA);
    write(&value["metadata"], &mut buffer);
    let metadata_end = buffer.get_ref().len();
    for (key, field) in value.as_object().into_iter().flatten() {
        if matches!(key.as_str(), "metadata" | "kind" | "apiVersion") {
            continue;
        }
        buffer.get_mut().put_u8(b',');
        write(&Value::String(key.clone()), &mut buffer);
        buffer.get_mut().put_u8(b':');
        write(field, &mut buffer);
    }
    buffer.get_mut().put_u8(b'}');
    // Copied to its exact size: thousands of these are kept.
    (Bytes::copy_from_slice(buffer.get_ref()), metadata_end)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_object_is_stored_without_its_type_and_with_its_metadata_first() {
        let value = json!({"apiVersion": "v1", "kind": "Pod", "aaa": 1, "metadata": {"name": "a", "namespace": "n"}});
        let object = Object::new(Table::Pods.kind(), &value, 7);
        assert_eq!(object.metadata(), br#"{"name":"a","namespace":"n"}"#);
        assert_eq!(
            object.value(),
            json!({"aaa": 1, "metadata": {"name": "a", "namespace": "n"}})
        );
        assert_eq!(
            (object.key(), object.namespace(), object.name()),
            ("n/a", "n", "a")
        );
    }
}
