//! When to stop.

use tokio::sync::watch;

/// Tells everybody who holds one when the process is to stop.
#[derive(Debug, Clone)]
pub struct Shutdown(watch::Receiver<bool>);

/// Starts the shutdown.
#[derive(Debug, Clone)]
pub struct Trigger(watch::Sender<bool>);

/// A shutdown and what triggers it.
pub fn channel() -> (Trigger, Shutdown) {
    let (sender, receiver) = watch::channel(false);
    (Trigger(sender), Shutdown(receiver))
}

impl Trigger {
    /// Asks everybody to stop.
    pub fn trigger(&self) {
        self.0.send_replace(true);
    }
}

impl Shutdown {
    /// Waits until the process is to stop.
    pub async fn cancelled(&self) {
        let mut receiver = self.0.clone();
        // an error means that the trigger is gone, which is an end as well
        let _ = receiver.wait_for(|stop| *stop).await;
    }

    /// Whether the process is to stop.
    pub fn is_cancelled(&self) -> bool {
        *self.0.borrow()
    }
}

/// Waits for SIGTERM or SIGINT.
///
/// # Errors
/// When a handler cannot be installed.
pub async fn signal() -> std::io::Result<&'static str> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => Ok("SIGTERM"),
        _ = interrupt.recv() => Ok("SIGINT"),
    }
}
