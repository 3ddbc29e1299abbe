//! Stored objects to what a request asked for: whole or metadata only, one, a list or watch events.

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, header};
use serde_json::{Value, json};

use crate::{events, object::Object, resource::Kind, status::ApiError};

/// How objects are shown to one request.
#[derive(Clone, Debug)]
pub(crate) struct View {
    kind: &'static Kind,
    prefix: String,
    metadata_only: bool,
}

const PARTIAL: &str =
    r#"{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1","metadata":"#;

impl View {
    /// The view of `kind` that the request's `Accept` asks for.
    pub(crate) fn of(kind: &'static Kind, headers: &HeaderMap) -> Self {
        let accept = headers
            .get(header::ACCEPT)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        let first_known = accept
            .split(',')
            .find(|part| !part.contains("as=Table") && part.trim().starts_with("application/json"));
        Self {
            kind,
            prefix: kind.type_prefix(),
            metadata_only: first_known
                .is_some_and(|part| part.contains("as=PartialObjectMetadata")),
        }
    }

    fn put(&self, out: &mut BytesMut, object: &Object, typed: bool) {
        if self.metadata_only {
            out.put_slice(PARTIAL.as_bytes());
            out.put_slice(object.metadata());
            out.put_u8(b'}');
        } else if self.kind.storage {
            if typed {
                out.put_slice(self.prefix.as_bytes());
                out.put_slice(&object.body()[1..]);
            } else {
                out.put_slice(object.body());
            }
        } else {
            let body = converted(object).to_string();
            if typed {
                out.put_slice(self.prefix.as_bytes());
                out.put_slice(&body.as_bytes()[1..]);
            } else {
                out.put_slice(body.as_bytes());
            }
        }
    }

    /// One object.
    pub(crate) fn object(&self, object: &Object) -> Bytes {
        let mut out = BytesMut::with_capacity(object.body().len() + 128);
        self.put(&mut out, object, true);
        out.freeze()
    }

    /// A list. Items of built-in kinds carry no type, as in a real server's answer.
    pub(crate) fn list<'a>(
        &self,
        metadata: &Value,
        objects: impl Iterator<Item = &'a Object>,
    ) -> Bytes {
        let mut out = BytesMut::new();
        let (kind, version) = if self.metadata_only {
            (
                "PartialObjectMetadata".to_owned(),
                "meta.k8s.io/v1".to_owned(),
            )
        } else {
            (self.kind.kind.to_owned(), self.kind.api_version())
        };
        out.put_slice(
            format!(
                r#"{{"kind":"{kind}List","apiVersion":"{version}","metadata":{metadata},"items":["#
            )
            .as_bytes(),
        );
        for (index, object) in objects.enumerate() {
            if index > 0 {
                out.put_u8(b',');
            }
            self.put(&mut out, object, self.kind.custom);
        }
        out.put_slice(b"]}\n");
        out.freeze()
    }

    /// Appends one line of a watch.
    pub(crate) fn event(&self, out: &mut BytesMut, event: &str, object: &Object) {
        out.put_slice(br#"{"type":""#);
        out.put_slice(event.as_bytes());
        out.put_slice(br#"","object":"#);
        self.put(out, object, true);
        out.put_slice(b"}\n");
    }

    /// Appends a bookmark, at the end of the initial events if `end`.
    pub(crate) fn bookmark(&self, out: &mut BytesMut, rv: u64, end: bool) {
        let mut metadata = json!({"resourceVersion": rv.to_string()});
        if end {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let (kind, version) = if self.metadata_only {
            (
                "PartialObjectMetadata".to_owned(),
                "meta.k8s.io/v1".to_owned(),
            )
        } else {
            (self.kind.kind.to_owned(), self.kind.api_version())
        };
        let line = json!({"type": "BOOKMARK", "object": {"kind": kind, "apiVersion": version, "metadata": metadata}});
        out.put_slice(line.to_string().as_bytes());
        out.put_u8(b'\n');
    }
}

/// A stored value as it is shown in full.
pub(crate) fn shown(kind: &Kind, mut stored: Value) -> Value {
    if !kind.storage {
        events::from_core(&mut stored);
    }
    stored["kind"] = json!(kind.kind);
    stored["apiVersion"] = json!(kind.api_version());
    stored
}

fn converted(object: &Object) -> Value {
    let mut value = object.value();
    events::from_core(&mut value);
    value
}

/// Appends an error as a line of a watch.
pub(crate) fn error_event(out: &mut BytesMut, error: &ApiError) {
    out.put_slice(
        json!({"type": "ERROR", "object": error.body()})
            .to_string()
            .as_bytes(),
    );
    out.put_u8(b'\n');
}
