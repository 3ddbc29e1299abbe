//! Lists: consistent pages of a snapshot.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::json;

use crate::{
    cluster::Cluster,
    object::Object,
    path::Target,
    query::{ListQuery, Token, Version},
    render::View,
    status::{ApiError, ApiResult},
};

impl Cluster {
    /// A serialized list, or a page of one.
    pub(crate) fn list(&self, target: &Target, view: &View, query: &ListQuery) -> ApiResult<Bytes> {
        let (objects, rv) = self.snapshot(target, query)?;
        let selected: Vec<&Arc<Object>> = objects
            .iter()
            .filter(|object| query.selection.matches(object))
            .collect();
        // With version 0 a real server answers from its cache, which knows no pages.
        let limit = match query.version {
            Version::Any if query.token.is_none() => selected.len(),
            _ => query.limit.unwrap_or(selected.len()),
        };
        let page = &selected[..limit.min(selected.len())];
        let mut metadata = json!({"resourceVersion": rv.to_string()});
        let left = selected.len() - page.len();
        if left > 0
            && let Some(last) = page.last()
        {
            let token = Token {
                rv: Some(rv),
                after: last.key().to_owned(),
            };
            metadata["continue"] = json!(token.encode());
            if selected.len() == objects.len() {
                metadata["remainingItemCount"] = json!(left);
            }
        }
        Ok(view.list(&metadata, page.iter().map(|object| object.as_ref())))
    }

    fn snapshot(&self, target: &Target, query: &ListQuery) -> ApiResult<(Vec<Arc<Object>>, u64)> {
        let table = target.kind.table;
        let namespace = target.namespace.as_deref();
        let store = self.store();
        let revision = store.revision();
        let current = |after: Option<&str>| {
            let objects = store.list(table, namespace, after).cloned().collect();
            (objects, revision)
        };
        if let Some(token) = &query.token {
            let after = Some(token.after.as_str());
            let Some(rv) = token.rv else {
                return Ok(current(after));
            };
            return match store.list_at(table, namespace, after, rv) {
                Ok(objects) => Ok((objects, rv)),
                Err(_) => {
                    let mut error = ApiError::expired(
                        "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.",
                    );
                    error.continue_token = Some(
                        Token {
                            rv: None,
                            after: token.after.clone(),
                        }
                        .encode(),
                    );
                    Err(error)
                }
            };
        }
        match query.version {
            Version::Latest | Version::Any => Ok(current(None)),
            Version::NotOlderThan(rv) | Version::Exact(rv) if rv > revision => {
                Err(ApiError::resource_version_too_large(rv, revision))
            }
            Version::NotOlderThan(_) => Ok(current(None)),
            Version::Exact(rv) => store
                .list_at(table, namespace, None, rv)
                .map(|objects| (objects, rv))
                .map_err(|_| {
                    ApiError::expired("The resourceVersion for the provided list is too old.")
                }),
        }
    }
}
