//! One write to one pod: a merge patch of our two annotations, fenced by uid and resource version.

use std::time::Duration;

use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};
use tokio::time::Instant;
use tracing::{Instrument, Span};

use crate::annotation::{EGRESS, RECORD};
use crate::leader::Leadership;
use crate::metrics::Metrics;
use crate::pods::{Key, Object, Pod};

/// How long the API server may take to answer. A write that was cut off may have landed; the watch tells.
const ANSWER: Duration = Duration::from_secs(5);
/// Who writes, for managed fields.
const FIELD_MANAGER: &str = "laneguard-actuator";

/// Which pod in which version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Namespace and name.
    pub key: Key,
    /// Its uid: a later pod of the same name is not meant.
    pub uid: Box<str>,
    /// Its version: if it has changed since, the write is planned anew.
    pub resource_version: Box<str>,
}

/// Values of our two annotations; `None`: the annotation goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    /// The egress limit.
    pub egress: Option<String>,
    /// Our record.
    pub record: Option<String>,
}

/// A write to do.
#[derive(Debug, Clone)]
pub struct Job {
    /// Of which pod.
    pub target: Target,
    /// What is written.
    pub edit: Edit,
    /// The span of its cause.
    pub span: Span,
    /// Which write of this process it is.
    pub number: u64,
}

/// Why a write failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The API server does not take it as it is: 400, 422.
    Invalid,
    /// We may not: 401, 403.
    Forbidden,
    /// Later: 429.
    Throttled,
    /// No answer, or 5xx.
    Unavailable,
}

impl Failure {
    /// The word in metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::Forbidden => "forbidden",
            Self::Throttled => "throttled",
            Self::Unavailable => "unavailable",
        }
    }
}

/// What became of a write.
#[derive(Debug)]
pub enum Answer {
    /// It is written; the pod as it is now.
    Written(Pod),
    /// The pod had changed; as it is now.
    Changed(Pod),
    /// There is no such pod.
    Gone,
    /// This replica leads no more; nothing was sent.
    NotLeading,
    /// It was not written.
    Failed {
        /// Why.
        reason: Failure,
        /// What the API server or the connection says.
        message: String,
        /// When the API server wants to be asked again.
        retry_after: Option<Duration>,
    },
}

impl Answer {
    /// The word in metrics.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Written(_) => "written",
            Self::Changed(_) => "conflict",
            Self::Gone => "gone",
            Self::NotLeading => "not_leading",
            Self::Failed { reason, .. } => reason.as_str(),
        }
    }

    fn failed(reason: Failure, message: impl ToString) -> Self {
        Self::Failed {
            reason,
            message: message.to_string(),
            retry_after: None,
        }
    }
}

/// The merge patch: fences and annotations. `null` removes an annotation.
pub fn patch(target: &Target, edit: &Edit) -> Value {
    json!({"metadata": {
        "uid": target.uid,
        "resourceVersion": target.resource_version,
        "annotations": {EGRESS: edit.egress, RECORD: edit.record},
    }})
}

/// Writes to pods while this replica leads. Cheap to clone.
#[derive(Clone)]
pub struct Writer {
    client: kube::Client,
    leadership: Leadership,
    metrics: Metrics,
}

impl Writer {
    /// Writes through the client while `leadership` lasts. The client must not retry by itself: each attempt asks for leadership anew.
    pub fn new(client: kube::Client, leadership: Leadership, metrics: Metrics) -> Self {
        Self {
            client,
            leadership,
            metrics,
        }
    }

    /// Does one write.
    pub async fn write(&self, job: &Job) -> Answer {
        let key = &job.target.key;
        let span = tracing::debug_span!(parent: &job.span, "patch pod", pod = %key, limit = job.edit.egress.as_deref());
        let api: Api<Object> = Api::namespaced(self.client.clone(), &key.namespace);
        async {
            let patch = Patch::Merge(patch(&job.target, &job.edit));
            let how = PatchParams {
                field_manager: Some(FIELD_MANAGER.to_owned()),
                ..PatchParams::default()
            };
            if !self.leadership.is_leader() {
                return Answer::NotLeading;
            }
            let began = Instant::now();
            let result = within(api.patch(&key.name, &how, &patch)).await;
            self.metrics
                .write_seconds
                .observe(began.elapsed().as_secs_f64());
            match result {
                Ok(object) => Pod::from_object(object).map_or(
                    Answer::failed(Failure::Invalid, "the answer is no pod"),
                    Answer::Written,
                ),
                Err(Refused::Status(status)) => self.refused(&api, job, *status).await,
                Err(Refused::NoAnswer(message)) => Answer::failed(Failure::Unavailable, message),
            }
        }
        .instrument(span)
        .await
    }

    async fn refused(&self, api: &Api<Object>, job: &Job, status: kube::core::Status) -> Answer {
        let failed = |reason| Answer::Failed {
            reason,
            message: status.message.clone(),
            retry_after: status
                .details
                .as_ref()
                .map(|d| d.retry_after_seconds)
                .filter(|s| *s > 0)
                .map(|s| Duration::from_secs(s.into())),
        };
        match status.code {
            404 => Answer::Gone,
            // a recreated pod has another uid, which some versions answer with 422
            409 | 410 | 422 => match self.read(api, job).await {
                Answer::Changed(pod)
                    if status.code == 422
                        && pod.resource_version == job.target.resource_version =>
                {
                    failed(Failure::Invalid)
                }
                answer => answer,
            },
            429 => failed(Failure::Throttled),
            401 | 403 => failed(Failure::Forbidden),
            code if code >= 500 => failed(Failure::Unavailable),
            _ => failed(Failure::Invalid),
        }
    }

    /// The pod as it is now.
    async fn read(&self, api: &Api<Object>, job: &Job) -> Answer {
        match within(api.get(&job.target.key.name)).await {
            Ok(object) => Pod::from_object(object).map_or(
                Answer::failed(Failure::Invalid, "the answer is no pod"),
                Answer::Changed,
            ),
            Err(Refused::Status(status)) if status.code == 404 => Answer::Gone,
            Err(Refused::Status(status)) => Answer::failed(
                Failure::Unavailable,
                format!("cannot read the pod: {}", status.message),
            ),
            Err(Refused::NoAnswer(message)) => Answer::failed(Failure::Unavailable, message),
        }
    }
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer")
            .field("leadership", &self.leadership)
            .finish_non_exhaustive()
    }
}

enum Refused {
    Status(Box<kube::core::Status>),
    NoAnswer(String),
}

async fn within<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, Refused> {
    match tokio::time::timeout(ANSWER, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(kube::Error::Api(status))) => Err(Refused::Status(status)),
        Ok(Err(error)) => Err(Refused::NoAnswer(error.to_string())),
        Err(_) => Err(Refused::NoAnswer(format!("no answer within {ANSWER:?}"))),
    }
}
