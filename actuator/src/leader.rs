//! Which replica writes: a Kubernetes Lease.
//!
//! Nobody compares wall clocks: a challenger takes over when the lease object has not moved for 3 s of its own monotonic clock, and a
//! leader stops writing when its last successful renewal is 2.5 s old by its own. The API server's compare-and-set on the resource
//! version lets only one of several challengers win.
//!
//! A replica without NATS is a poor leader: it hears no commands. While it is cut off it lets others go first, and gives the lease up once
//! when it is cut off while leading. Where nobody has NATS one of them leads all the same, for expiry.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Api, PostParams};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

/// A lease that has not moved this long is free; also what the lease object says.
const DURATION: Duration = Duration::from_secs(3);
/// A leader's trust in its last renewal, counted from when it was sent.
const TRUST: Duration = Duration::from_millis(2500);
/// Between renewals.
const RENEW: Duration = Duration::from_secs(1);
/// Between looks of a challenger.
const LOOK: Duration = Duration::from_millis(500);
/// A leader that was cut off from NATS this long gives the lease up.
const YIELD: Duration = Duration::from_secs(10);
/// So long a replica without NATS leaves a free lease to others.
const ABSTAIN: Duration = Duration::from_secs(5);
/// Between looks while it does: NATS may be there in a moment.
const LOOK_ABSTAINING: Duration = Duration::from_millis(200);
/// How long a request about the lease may take; the next one follows.
const ANSWER: Duration = Duration::from_secs(1);

/// Whether this replica leads. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Leadership(watch::Receiver<Option<Instant>>);

impl Leadership {
    /// Whether this replica may write now.
    pub fn is_leader(&self) -> bool {
        self.until().is_some_and(|until| Instant::now() < until)
    }

    /// Until when the last renewal lets it write; `None`: it does not lead.
    pub fn until(&self) -> Option<Instant> {
        *self.0.borrow()
    }

    /// Waits for a renewal, a take-over or a loss. Cancel-safe.
    pub async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            // the elector ended, and with it the process
            std::future::pending::<()>().await;
        }
    }

    /// For tests and tools that lead without an election.
    pub fn fixed(until: Option<Instant>) -> Self {
        Self(watch::channel(until).1)
    }
}

/// What to do about the lease.
#[derive(Debug, PartialEq)]
enum Step {
    /// There is none: make one.
    Create,
    /// It is ours: renew it. Or it is free: take it.
    Claim(Box<Lease>),
    /// Somebody else holds it.
    Wait,
}

/// What a candidate remembers between looks. Pure.
#[derive(Debug)]
struct Candidate {
    identity: String,
    /// The lease's version when it last moved, and when that was seen.
    seen: Option<(String, Instant)>,
    /// Since when it leaves a free lease to others.
    abstaining: Option<Instant>,
    /// Whether it had NATS in this leadership.
    connected: bool,
    /// Since when it has been cut off from NATS while leading.
    cut_off: Option<Instant>,
}

impl Candidate {
    fn new(identity: String) -> Self {
        Self {
            identity,
            seen: None,
            abstaining: None,
            connected: false,
            cut_off: None,
        }
    }

    /// Whether it may take a lease that is free.
    fn may_claim(&mut self, connected: bool, now: Instant) -> bool {
        if connected {
            self.abstaining = None;
            return true;
        }
        now - *self.abstaining.get_or_insert(now) >= ABSTAIN
    }

    /// Whether it has to give the lease up that it holds.
    fn must_yield(&mut self, connected: bool, now: Instant) -> bool {
        if connected {
            self.connected = true;
            self.cut_off = None;
        }
        if connected || !self.connected || now - *self.cut_off.get_or_insert(now) < YIELD {
            return false;
        }
        self.connected = false;
        self.cut_off = None;
        self.abstaining = Some(now);
        true
    }

    /// Somebody else holds the lease.
    fn others_lead(&mut self) {
        self.abstaining = None;
        self.connected = false;
        self.cut_off = None;
    }

    fn holds(&self, lease: &Lease) -> bool {
        lease.spec.as_ref().and_then(|s| s.holder_identity.as_ref()) == Some(&self.identity)
    }

    fn look(&mut self, lease: Option<Lease>, now: Instant) -> Step {
        let Some(lease) = lease else {
            return Step::Create;
        };
        let spec = lease.spec.as_ref();
        let holder = spec
            .and_then(|s| s.holder_identity.as_deref())
            .unwrap_or_default();
        if holder.is_empty() || holder == self.identity {
            return Step::Claim(Box::new(lease));
        }
        let version = lease.metadata.resource_version.clone().unwrap_or_default();
        // another tool may have written a longer duration: respect it
        let seconds = spec
            .and_then(|s| s.lease_duration_seconds)
            .unwrap_or(0)
            .clamp(0, 60);
        let patience = DURATION.max(Duration::from_secs(seconds as u64));
        match &self.seen {
            Some((known, since)) if *known == version => {
                if now - *since >= patience {
                    return Step::Claim(Box::new(lease));
                }
            }
            _ => self.seen = Some((version, now)),
        }
        Step::Wait
    }

    /// The lease with us as its holder.
    fn claimed(&self, mut lease: Lease, at: MicroTime) -> Lease {
        let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
        if spec.holder_identity.as_ref() != Some(&self.identity) {
            spec.holder_identity = Some(self.identity.clone());
            spec.acquire_time = Some(at.clone());
            spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(0).saturating_add(1));
        }
        spec.renew_time = Some(at);
        spec.lease_duration_seconds = Some(DURATION.as_secs() as i32);
        lease
    }
}

/// Runs for the lease until asked to stop.
pub struct Elector {
    api: Api<Lease>,
    name: String,
    candidate: Candidate,
    state: watch::Sender<Option<Instant>>,
    /// The lease as we last wrote it.
    held: Option<Lease>,
    /// The last failure that was logged.
    logged: Option<String>,
    /// Whether NATS is there.
    connected: Box<dyn Fn() -> bool + Send + Sync>,
}

impl Elector {
    /// A candidate for the lease `namespace/name`. `identity` must be this process's alone; `connected` says
    /// whether NATS is there.
    pub fn new(
        client: kube::Client,
        namespace: &str,
        name: &str,
        identity: String,
        connected: impl Fn() -> bool + Send + Sync + 'static,
    ) -> (Self, Leadership) {
        let (state, receiver) = watch::channel(None);
        let elector = Self {
            api: Api::namespaced(client, namespace),
            name: name.to_owned(),
            candidate: Candidate::new(identity),
            state,
            held: None,
            logged: None,
            connected: Box::new(connected),
        };
        (elector, Leadership(receiver))
    }

    /// Runs for the lease and renews it until `done` fires or is dropped; then gives it up, so that another replica need not wait.
    ///
    /// # Errors
    /// Never; failures of the API server are tried again.
    pub async fn run(mut self, mut done: oneshot::Receiver<()>) -> anyhow::Result<()> {
        loop {
            let began = Instant::now();
            tokio::select! {
                () = self.round(began) => {}
                _ = &mut done => break,
            }
            let pause = match (&self.held, self.candidate.abstaining) {
                (Some(_), _) => RENEW,
                (None, Some(_)) => LOOK_ABSTAINING,
                (None, None) => LOOK,
            };
            tokio::select! {
                () = tokio::time::sleep_until(began + pause) => {}
                _ = &mut done => break,
            }
        }
        self.state.send_replace(None);
        self.release().await;
        Ok(())
    }

    /// One look or renewal, begun at `now`.
    async fn round(&mut self, now: Instant) {
        match self.attempt(now).await {
            Ok(()) => self.logged = None,
            Err(error) => self.failed(error.to_string()),
        }
        let lapsed = self
            .state
            .borrow()
            .is_some_and(|until| until <= Instant::now());
        if lapsed {
            tracing::warn!("the lease could not be renewed in time: this replica stops writing");
            self.state.send_replace(None);
        }
    }

    fn failed(&mut self, message: String) {
        // what was written is unknown: read it again
        self.held = None;
        if self.logged.as_ref() != Some(&message) {
            tracing::warn!(
                error = message,
                lease = self.name,
                "the lease is out of reach"
            );
            self.logged = Some(message);
        }
    }

    async fn attempt(&mut self, now: Instant) -> Result<(), kube::Error> {
        let connected = (self.connected)();
        if self.held.is_some() && self.candidate.must_yield(connected, now) {
            tracing::warn!("cut off from NATS: the lease is left to another replica");
            self.lost();
            self.release().await;
            return Ok(());
        }
        let mut ours = self.held.is_some();
        let step = match self.held.take() {
            Some(lease) => Step::Claim(Box::new(lease)),
            None => {
                let lease = answer(self.api.get_opt(&self.name)).await?;
                ours = lease.as_ref().is_some_and(|l| self.candidate.holds(l));
                self.candidate.look(lease, now)
            }
        };
        let at = wall_clock();
        let sent = Instant::now();
        let how = PostParams::default();
        // a missing lease is looked for again; a missing namespace must be said
        let creates = step == Step::Create;
        let written = match step {
            Step::Wait => {
                self.candidate.others_lead();
                self.lost();
                return Ok(());
            }
            _ if !ours && !self.candidate.may_claim(connected, now) => return Ok(()),
            Step::Create => {
                let blank = Lease {
                    metadata: ObjectMeta {
                        name: Some(self.name.clone()),
                        ..ObjectMeta::default()
                    },
                    spec: None,
                };
                let lease = self.candidate.claimed(blank, at);
                answer(self.api.create(&how, &lease)).await
            }
            Step::Claim(lease) => {
                let lease = self.candidate.claimed(*lease, at);
                answer(self.api.replace(&self.name, &how, &lease)).await
            }
        };
        match written {
            Ok(lease) => {
                self.held = Some(lease);
                self.candidate.connected |= connected;
                self.state.send_replace(Some(sent + TRUST));
                Ok(())
            }
            // somebody else wrote, or the lease was deleted: look again
            Err(kube::Error::Api(status))
                if status.code == 409 || (status.code == 404 && !creates) =>
            {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Somebody else holds the lease.
    fn lost(&self) {
        self.state.send_if_modified(|state| state.take().is_some());
    }

    async fn release(&mut self) {
        let Some(mut lease) = self.held.take() else {
            return;
        };
        if let Some(spec) = &mut lease.spec {
            spec.holder_identity = Some(String::new());
            spec.renew_time = Some(wall_clock());
        }
        let how = PostParams::default();
        let released = self.api.replace(&self.name, &how, &lease);
        match tokio::time::timeout(ANSWER, released).await {
            Ok(Ok(_)) => tracing::info!(lease = self.name, "lease released"),
            Ok(Err(error)) => {
                tracing::warn!(%error, lease = self.name, "the lease was not released, it lapses")
            }
            Err(_) => tracing::warn!(lease = self.name, "the lease was not released, it lapses"),
        }
    }
}

/// A request's answer, if it comes in time.
async fn answer<T>(
    request: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, kube::Error> {
    tokio::time::timeout(ANSWER, request)
        .await
        .unwrap_or_else(|_| Err(kube::Error::Service("no answer in time".into())))
}

/// For people who read the lease; nobody compares it.
fn wall_clock() -> MicroTime {
    let now = laneguard_runtime::clock::unix_ms();
    MicroTime(jiff::Timestamp::from_millisecond(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(identity: &str) -> Candidate {
        Candidate::new(identity.into())
    }

    fn lease(holder: &str, version: &str) -> Lease {
        Lease {
            metadata: ObjectMeta {
                resource_version: Some(version.into()),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(holder.into()),
                ..LeaseSpec::default()
            }),
        }
    }

    #[test]
    fn a_challenger_waits_until_the_lease_has_not_moved_for_its_duration() {
        let mut b = candidate("b");
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(b.look(Some(lease("a", "1")), at(0)), Step::Wait);
        assert_eq!(
            b.look(Some(lease("a", "2")), at(2900)),
            Step::Wait,
            "it moved"
        );
        assert_eq!(b.look(Some(lease("a", "2")), at(5800)), Step::Wait);
        assert!(matches!(
            b.look(Some(lease("a", "2")), at(5900)),
            Step::Claim(_)
        ));
    }

    #[test]
    fn a_free_or_own_lease_is_claimed_at_once_and_a_missing_one_created() {
        let mut b = candidate("b");
        let now = Instant::now();
        assert_eq!(b.look(None, now), Step::Create);
        assert!(matches!(b.look(Some(lease("", "1")), now), Step::Claim(_)));
        assert!(matches!(b.look(Some(lease("b", "1")), now), Step::Claim(_)));
    }

    #[test]
    fn who_has_no_nats_lets_others_go_first_and_leads_if_nobody_does() {
        let mut b = candidate("b");
        let start = Instant::now();
        assert!(!b.may_claim(false, start));
        assert!(b.may_claim(true, start + Duration::from_secs(1)));
        assert!(!b.may_claim(false, start + Duration::from_secs(10)));
        assert!(b.may_claim(false, start + Duration::from_secs(15)));
    }

    #[test]
    fn a_leader_that_is_cut_off_yields_once() {
        let mut b = candidate("b");
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(
            !b.must_yield(false, at(0)) && !b.must_yield(false, at(60)),
            "it never had NATS"
        );
        assert!(!b.must_yield(true, at(60)) && !b.must_yield(false, at(61)));
        assert!(
            !b.must_yield(true, at(65)) && !b.must_yield(false, at(66)),
            "it came back"
        );
        assert!(b.must_yield(false, at(76)));
        assert!(!b.may_claim(false, at(77)) && b.may_claim(false, at(81)));
        assert!(!b.must_yield(false, at(200)));
    }

    #[test]
    fn claiming_keeps_the_version_that_fences_the_write_and_counts_transitions() {
        let claimed = candidate("b").claimed(lease("a", "7"), wall_clock());
        assert_eq!(claimed.metadata.resource_version.as_deref(), Some("7"));
        let spec = claimed.spec.unwrap();
        assert_eq!(spec.holder_identity.as_deref(), Some("b"));
        assert_eq!(spec.lease_transitions, Some(1));
    }

    #[tokio::test(start_paused = true)]
    async fn an_api_server_that_takes_most_of_a_second_for_each_request_still_elects_a_leader() {
        const SLOW: Duration = Duration::from_millis(800);
        let read = async || {
            tokio::time::sleep(SLOW).await;
            axum::Json(lease("", "1"))
        };
        let write = async |axum::Json(lease): axum::Json<Lease>| {
            tokio::time::sleep(SLOW).await;
            axum::Json(lease)
        };
        let path = "/apis/coordination.k8s.io/v1/namespaces/laneguard/leases/{name}";
        let server = axum::Router::new().route(path, axum::routing::get(read).put(write));
        let client = kube::Client::new(server, "laneguard");
        let (mut elector, leadership) =
            Elector::new(client, "laneguard", "lease", "b".into(), || true);
        let began = Instant::now();
        elector.round(began).await;
        assert!(leadership.is_leader());
        assert_eq!(
            leadership.until(),
            Some(began + SLOW + TRUST),
            "trust counts from when the claim was sent"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn leadership_ends_by_itself_when_nobody_renews() {
        let leadership = Leadership::fixed(Some(Instant::now() + TRUST));
        assert!(leadership.is_leader());
        tokio::time::advance(TRUST).await;
        assert!(!leadership.is_leader());
    }
}
