//! Faults that tests inject: matching requests get another answer, late, or lose their answer.

use std::{collections::VecDeque, time::Duration};

use http::StatusCode;

use crate::status::ApiError;

/// A request's verb, as Kubernetes' RBAC names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// One object.
    Get,
    /// A collection.
    List,
    /// A collection or object, as a stream.
    Watch,
    /// POST.
    Create,
    /// PUT.
    Update,
    /// Any PATCH.
    Patch,
    /// DELETE of one object.
    Delete,
    /// DELETE of a collection.
    DeleteCollection,
}

/// What happens to a matching request. Build with [`Fault::status`], [`Fault::delay`] or [`Fault::lost_reply`] and narrow it down.
#[derive(Clone, Debug)]
pub struct Fault {
    verb: Option<Verb>,
    path: String,
    times: usize,
    delay: Duration,
    status: Option<StatusCode>,
    retry_after: Option<u32>,
    lost_reply: bool,
}

impl Fault {
    const NONE: Fault = Fault {
        verb: None,
        path: String::new(),
        times: 1,
        delay: Duration::ZERO,
        status: None,
        retry_after: None,
        lost_reply: false,
    };

    /// Answers the next request with this status (409, 410, 422, 429, 500, ...) and does nothing else.
    #[must_use]
    pub fn status(status: StatusCode) -> Self {
        Self {
            status: Some(status),
            ..Self::NONE
        }
    }

    /// Handles the next request normally, after this time.
    #[must_use]
    pub fn delay(delay: Duration) -> Self {
        Self {
            delay,
            ..Self::NONE
        }
    }

    /// Handles the next request, then answers 504: what was written stays written.
    #[must_use]
    pub fn lost_reply() -> Self {
        Self {
            lost_reply: true,
            ..Self::NONE
        }
    }

    /// Only requests with this verb.
    #[must_use]
    pub fn on(mut self, verb: Verb) -> Self {
        self.verb = Some(verb);
        self
    }

    /// Only requests whose path contains this text, for instance `/pods/` or `/leases`.
    #[must_use]
    pub fn path(mut self, part: impl Into<String>) -> Self {
        self.path = part.into();
        self
    }

    /// This many requests instead of one.
    #[must_use]
    pub fn times(mut self, times: usize) -> Self {
        self.times = times;
        self
    }

    /// Adds `Retry-After`, in seconds.
    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    /// Waits this long first.
    #[must_use]
    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    pub(crate) fn waits(&self) -> Duration {
        self.delay
    }

    /// The answer instead of handling the request.
    pub(crate) fn refusal(&self) -> Option<ApiError> {
        let status = self.status?;
        let reason = match status.as_u16() {
            401 => "Unauthorized",
            403 => "Forbidden",
            404 => "NotFound",
            409 => "Conflict",
            410 => "Expired",
            413 => "RequestEntityTooLarge",
            422 => "Invalid",
            429 => "TooManyRequests",
            500 => "InternalError",
            503 => "ServiceUnavailable",
            504 => "Timeout",
            _ => "",
        };
        let mut error = ApiError::new(status, reason, "injected fault");
        error.retry_after = self.retry_after;
        Some(error)
    }

    /// The answer that replaces the real one.
    pub(crate) fn loss(&self) -> Option<ApiError> {
        self.lost_reply.then(|| {
            ApiError::new(
                StatusCode::GATEWAY_TIMEOUT,
                "Timeout",
                "injected fault: the request was handled, its answer is lost",
            )
        })
    }
}

#[derive(Debug, Default)]
pub(crate) struct Faults(VecDeque<Fault>);

impl Faults {
    pub(crate) fn push(&mut self, fault: Fault) {
        if fault.times > 0 {
            self.0.push_back(fault);
        }
    }

    pub(crate) fn clear(&mut self) -> usize {
        let left = self.0.iter().map(|fault| fault.times).sum();
        self.0.clear();
        left
    }

    /// The first fault that matches a request, counted as used.
    pub(crate) fn take(&mut self, verb: Verb, path: &str) -> Option<Fault> {
        let index = self.0.iter().position(|fault| {
            fault.verb.is_none_or(|wanted| wanted == verb) && path.contains(&fault.path)
        })?;
        let fault = &mut self.0[index];
        fault.times -= 1;
        let used = fault.clone();
        if used.times == 0 {
            self.0.remove(index);
        }
        Some(used)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_hits_matching_requests_until_it_is_used_up() {
        let mut faults = Faults::default();
        faults.push(
            Fault::status(StatusCode::CONFLICT)
                .on(Verb::Patch)
                .path("/pods/")
                .times(2),
        );
        assert!(
            faults
                .take(Verb::Get, "/api/v1/namespaces/n/pods/p")
                .is_none()
        );
        assert!(faults.take(Verb::Patch, "/api/v1/nodes/n").is_none());
        let path = "/api/v1/namespaces/n/pods/p";
        assert_eq!(
            faults
                .take(Verb::Patch, path)
                .unwrap()
                .refusal()
                .unwrap()
                .code,
            409
        );
        assert_eq!(faults.0.len(), 1);
        assert!(faults.take(Verb::Patch, path).is_some());
        assert!(faults.take(Verb::Patch, path).is_none());
    }
}
