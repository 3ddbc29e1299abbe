//! Waits for values, not for seconds: bounded, and telling what was there when they give up.

use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;

/// How long anything may take before a test gives up. Generous: it decides only how long a failing test runs.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Asks again and again until the answer fits.
///
/// # Panics
/// When it does not within [`PATIENCE`]; the message shows the last answer.
pub async fn until<T: Debug>(
    what: &str,
    mut ask: impl AsyncFnMut() -> T,
    fits: impl Fn(&T) -> bool,
) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = ask().await;
        if fits(&answer) {
            return answer;
        }
        assert!(
            Instant::now() < deadline,
            "{what} did not happen; last seen: {answer:?}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits for a future that should come true.
///
/// # Panics
/// When it does not within [`PATIENCE`].
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what} did not happen"),
    }
}
