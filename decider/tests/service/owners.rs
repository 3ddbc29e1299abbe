use super::*;
use nix::sys::signal::Signal;

/// Follows the commands as an actuator would: each newer than the one before, one limit for one order.
struct Follower(
    tokio::task::JoinHandle<()>,
    tokio::sync::watch::Receiver<Option<String>>,
);

impl Follower {
    fn start(world: &World) -> Self {
        let mut stream = world
            .shell
            .bus
            .subscribe::<v1::Command>(Kind::Command, Start::New);
        let (failed, failure) = tokio::sync::watch::channel(None);
        let task = tokio::spawn(async move {
            let mut limits = BTreeMap::new();
            let mut last = (0, 0, 0);
            while let Some(received) = stream.next().await {
                let c = received.message;
                let key = (c.term, c.sequence, c.renewal);
                let limit = *limits.entry((c.term, c.sequence)).or_insert(c.limit_bps);
                if key < last || limit != c.limit_bps {
                    failed.send_replace(Some(format!(
                        "{key:?} after {last:?}, limit {limit:?} {c:?}"
                    )));
                }
                last = key;
            }
        });
        Self(task, failure)
    }

    fn check(&self) {
        assert_eq!(*self.1.borrow(), None);
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_owner_is_succeeded_at_the_same_limit() {
    let mut world = World::new().await;
    let follower = Follower::start(&world);
    let mut deciders: Vec<Decider> = (0..3)
        .map(|_| Decider::start(&world.url(), "protobuf"))
        .collect();
    let before = world
        .commanded("a throttle", |c| c.limit_bps == Some(150e6))
        .await;
    let memory = world.memory().await.unwrap();
    let owner = deciders.iter().position(|d| d.wrote(&memory)).unwrap();
    drop(deciders.remove(owner)); // SIGKILL
    let after = world
        .commanded("another owner's command", |c| c.term > before.term)
        .await;
    assert_eq!(after.limit_bps, before.limit_bps);
    follower.check();
    check(&world.decisions().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_was_paused_is_refused_when_it_wakes_up() {
    let mut world = World::new().await;
    let follower = Follower::start(&world);
    let paused = Decider::start(&world.url(), "protobuf");
    let before = world
        .commanded("a throttle", |c| c.limit_bps == Some(150e6))
        .await;
    let other = Decider::start(&world.url(), "protobuf");
    paused.signal(Signal::SIGSTOP);
    let taken = world
        .commanded("the other's command", |c| c.term > before.term)
        .await;
    assert!(other.wrote(&world.memory().await.unwrap()));

    // the paused one finds all of these waiting when it wakes up
    for _ in 0..5 {
        world.congested().await;
    }
    paused.signal(Signal::SIGCONT);
    let renewed = world
        .commanded("a renewal by the other", |c| c.renewal > taken.renewal)
        .await;
    assert_eq!(renewed.term, taken.term);
    assert!(other.wrote(&world.memory().await.unwrap()));
    follower.check();
    check(&world.decisions().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_committed_by_a_dead_owner_is_published_once() {
    let mut world = World::new().await;
    // the first owner's life, up to the moment between commit and publication
    let mut memory = {
        let _decider = Decider::start(&world.url(), "protobuf");
        world
            .commanded("a throttle", |c| c.limit_bps == Some(150e6))
            .await;
        world.memory().await.unwrap()
    };
    let mut decision = memory.decision().expect("the outbox holds the decision");
    decision.sequence = memory.sequence + 1;
    memory.sequence = decision.sequence;
    memory.keep(&decision).unwrap();
    let state = world.shell.bus.bucket(STATE);
    state
        .put(
            &format!("decider.default.{POLICY}"),
            memory.to_json().unwrap(),
        )
        .await
        .unwrap();

    for _ in 0..2 {
        let _decider = Decider::start(&world.url(), "protobuf");
        let term = world.memory().await.unwrap().term;
        world.commanded("a new owner", |c| c.term > term).await;
    }
    let published = world.decisions().await;
    let copies = published
        .iter()
        .filter(|d| (d.term, d.sequence) == (decision.term, decision.sequence));
    assert_eq!(copies.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decider_that_is_stopped_ends_well_and_gives_its_policies_away() {
    let mut world = World::new().await;
    let mut stopped = Decider::start(&world.url(), "protobuf");
    let before = world
        .commanded("a throttle", |c| c.limit_bps == Some(150e6))
        .await;
    let other = Decider::start(&world.url(), "protobuf");
    stopped.signal(Signal::SIGTERM);
    let status = until(
        "its end",
        async || stopped.0.try_wait().unwrap(),
        Option::is_some,
    )
    .await;
    assert!(status.is_some_and(|status| status.success()));
    let after = world
        .commanded("the other's command", |c| c.term > before.term)
        .await;
    assert_eq!(after.limit_bps, before.limit_bps);
    assert!(other.wrote(&world.memory().await.unwrap()));
    check(&world.decisions().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_that_is_there_already_is_renewed_beyond() {
    let mut world = World::new().await;
    let _decider = Decider::start(&world.url(), "protobuf");
    let mut there = world
        .commanded("a throttle", |c| c.limit_bps == Some(150e6))
        .await;
    // as if renewals had been stored and every answer lost
    there.renewal += 50;
    let subject = subject::command("default", POLICY, CLASS);
    let bus = world.shell.bus.clone();
    bus.publish(&subject, &there, Publish::default())
        .await
        .unwrap();
    let next = world
        .commanded("the next renewal", |c| c.renewal > there.renewal)
        .await;
    assert_eq!(
        (next.term, next.sequence, next.renewal),
        (there.term, there.sequence, there.renewal + 1)
    );
}
