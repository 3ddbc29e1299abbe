//! The real binaries with real servers: what operators see when all is well, and when it is not.
//!
//! Each test has a world of its own. The stand-in serves the Kubernetes API; where `KUBEBUILDER_ASSETS` or `KUBECONFIG` leads to a real API
//! server, `real.rs` runs the same scenarios against that one.

#![allow(clippy::unwrap_used)] // a test's helpers fail as the test does

mod environment;
mod hostile;
mod laws;
mod lifecycle;
mod operators;
mod outages;
mod real;
mod replicas;
mod targets;

use laneguard_proto::v1::Decision;
use laneguard_tests::wait::until;
use laneguard_tests::world::World;
use serde_json::{Value, json};

/// Waits until a decision fits, and gives the first that does.
async fn decided(world: &World, what: &str, fits: impl Fn(&Decision) -> bool) -> Decision {
    let found = until(
        what,
        async || world.record.decisions().into_iter().find(&fits),
        Option::is_some,
    );
    found.await.unwrap()
}

/// A policy of one class of one workload that Hubble calls `robot`, with steps that fit a short test.
fn spec(mode: &str, app: &str) -> Value {
    json!({
        "mode": mode,
        "critical": [{"workload": "robot", "targets": [{"metric": "P95", "below": "10ms"}, {"metric": "Jitter", "below": "5ms"}]}],
        "bestEffort": [{"class": "bulk", "selector": {"matchLabels": {"app": app}}, "bandwidth": {"min": "10M", "max": "200M"}}],
        "control": {"law": "Threshold", "alpha": 1.0, "threshold": {"cooldown": "1s"}},
        "onStale": {"action": "Hold", "after": "6s"},
    })
}

/// The same for a decider that is the test itself.
fn external(app: &str, after: &str, action: &str) -> Value {
    let mut spec = spec("Enforce", app);
    spec["control"] = json!({"law": "External"});
    spec["onStale"] = json!({"action": action, "after": after});
    spec
}
