//! Commands and outcomes from NATS, outcomes to NATS.

use std::time::Duration;

use laneguard_proto::subject::{self, Kind};
use laneguard_proto::v1::{Command, Outcome};
use laneguard_runtime::backoff::Backoff;
use laneguard_runtime::bus::{Bus, Publish, PublishError, Received, Start, Subscription};
use laneguard_runtime::shutdown::Shutdown;
use tokio::sync::{mpsc, watch};
use tracing::Instrument;

use crate::commands::ServerClock;
use crate::drive::Input;
use crate::metrics::{Metrics, TriggerLabel};
use crate::reconcile::Report;
use crate::wire;

/// Reads commands and outcomes until the process stops.
///
/// Begins when the pods are listed, and with the outcomes, so that the numbers of earlier commands are known before the first command is
/// judged.
///
/// # Errors
/// Never.
pub async fn receive(
    bus: Bus,
    mut listed: watch::Receiver<bool>,
    to: mpsc::Sender<Input>,
    stop: Shutdown,
) -> anyhow::Result<()> {
    tokio::select! {
        // an error means that the process is ending
        _ = listed.wait_for(|listed| *listed) => {}
        () = stop.cancelled() => return Ok(()),
    }
    let mut outcomes = bus.subscribe::<Outcome>(Kind::Outcome, Start::LastPerSubject);
    loop {
        let outcome = tokio::select! {
            outcome = outcomes.next_or_caught_up() => outcome,
            () = stop.cancelled() => return Ok(()),
        };
        match outcome {
            Some(Some(outcome)) => take_outcome(&bus, &mut outcomes, outcome, &to).await,
            Some(None) => break,
            None => return Ok(()),
        }
    }
    let mut commands = bus.subscribe::<Command>(Kind::Command, Start::LastPerSubject);
    let mut age = Age::default();
    loop {
        tokio::select! {
            command = commands.next_or_caught_up() => match command {
                Some(Some(command)) => {
                    let old = age.of(&command);
                    take_command(&bus, &mut commands, command, old, &to).await;
                }
                Some(None) => age.caught_up = true,
                None => return Ok(()),
            },
            outcome = outcomes.next() => match outcome {
                Some(outcome) => take_outcome(&bus, &mut outcomes, outcome, &to).await,
                None => return Ok(()),
            },
            () = stop.cancelled() => return Ok(()),
        }
    }
}

/// How old a command is.
///
/// At the start, what the stream kept may be from any time: the server's clock tells, as compared when the subscription was opened. From then
/// on only the server's time stamps and our monotonic clock count, as a wall clock may jump.
#[derive(Default)]
struct Age {
    clock: ServerClock,
    caught_up: bool,
}

impl Age {
    fn of<M>(&mut self, message: &Received<M>) -> Duration {
        let stored = Duration::from_millis(u64::try_from(message.stored_ms).unwrap_or(0));
        let least = self
            .clock
            .age(message.stream_sequence, stored, message.received);
        if self.caught_up {
            least
        } else {
            least.max(message.age)
        }
    }
}

async fn take_command(
    bus: &Bus,
    from: &mut Subscription<Command>,
    received: Received<Command>,
    age: Duration,
    to: &mpsc::Sender<Input>,
) {
    let span = tracing::info_span!(parent: None, "process laneguard.v1.command", policy = received.message.policy,
        class = received.message.class, term = received.message.term, sequence = received.message.sequence);
    received.set_parent(&span);
    let Received {
        subject,
        stream_sequence,
        message,
        received: at,
        ..
    } = received;
    let command = wire::slot(
        &subject,
        Kind::Command,
        bus.cluster(),
        &message.policy,
        &message.class,
    )
    .and_then(|slot| wire::command(slot, message));
    match command {
        // an error means that the process is ending
        Ok(command) => drop(
            to.send(Input::Command {
                command,
                age,
                received: at,
                span,
            })
            .await,
        ),
        Err(reason) => from.refuse(&subject, stream_sequence, "malformed", &reason),
    }
}

async fn take_outcome(
    bus: &Bus,
    from: &mut Subscription<Outcome>,
    received: Received<Outcome>,
    to: &mpsc::Sender<Input>,
) {
    let Received {
        subject,
        stream_sequence,
        message,
        ..
    } = received;
    match wire::slot(
        &subject,
        Kind::Outcome,
        bus.cluster(),
        &message.policy,
        &message.class,
    ) {
        // an error means that the process is ending
        Ok(slot) => drop(to.send(Input::Outcome(slot, Box::new(message))).await),
        Err(reason) => from.refuse(&subject, stream_sequence, "malformed", &reason),
    }
}

/// Publishes outcomes until nobody sends any more. While NATS is away they wait, as many as the queue holds.
///
/// # Errors
/// Never; what cannot be published is counted and dropped.
pub async fn publish(
    bus: Bus,
    mut reports: mpsc::Receiver<Report>,
    metrics: Metrics,
    stop: Shutdown,
) -> anyhow::Result<()> {
    while let Some(Report { mut outcome, span }) = reports.recv().await {
        outcome.cluster = bus.cluster().to_string();
        let subject = subject::outcome(&outcome.cluster, &outcome.policy, &outcome.class);
        let send_span = tracing::debug_span!(parent: &span, "send laneguard.v1.outcome", subject);
        match send(&bus, &subject, &outcome, &stop)
            .instrument(send_span)
            .await
        {
            Ok(()) => {
                let trigger = TriggerLabel {
                    trigger: word(&outcome.trigger),
                };
                metrics.outcomes.get_or_create(&trigger).inc();
            }
            Err(error) => {
                metrics.outcomes_dropped.inc();
                tracing::warn!(%error, subject, "an outcome was not published");
            }
        }
    }
    bus.flush().await;
    Ok(())
}

async fn send(
    bus: &Bus,
    subject: &str,
    outcome: &Outcome,
    stop: &Shutdown,
) -> Result<(), PublishError> {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
    loop {
        match bus.publish(subject, outcome, Publish::default()).await {
            Ok(_) => return Ok(()),
            Err(PublishError::Unavailable(_)) if !stop.is_cancelled() => {
                tokio::select! {
                    () = tokio::time::sleep(backoff.delay()) => {}
                    () = stop.cancelled() => {}
                }
            }
            Err(error) => return Err(error),
        }
    }
}

/// The trigger as a label from a closed set.
fn word(trigger: &str) -> &'static str {
    use crate::batch::Trigger::{Command, Expired, PolicyEnded, Released};
    [Command, Expired, PolicyEnded, Released]
        .into_iter()
        .map(crate::batch::Trigger::as_str)
        .find(|word| *word == trigger)
        .unwrap_or("other")
}
