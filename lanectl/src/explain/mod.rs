//! `lanectl explain`: one decision, for somebody who was just woken up.
//!
//! | question | file |
//! |---|---|
//! | Which decision, and from where? | this one |
//! | What did it see? | `seen.rs` |
//! | What does that mean, and what can be done? | `story.rs` |
//! | What does the law know? | `learned.rs` |
//! | What came of it? | `after.rs` |
//! | How does it read? | `text.rs` |

mod after;
mod learned;
mod seen;
mod story;
mod text;

use std::cell::OnceCell;
use std::io::{BufRead, IsTerminal as _};
use std::time::Duration;

use anyhow::Context as _;
use laneguard_decider::decide::Inputs;
use laneguard_decider_core::adaptive;
use laneguard_decider_core::policy::Policy;
use laneguard_proto::subject::{self, Kind, Token};
use laneguard_proto::v1::{Decision, Outcome};
use laneguard_runtime::bus::{Bus, Start, Subscription};
use laneguard_runtime::clock;

use crate::args::Stream;
use crate::recording::{Line, OnePolicy, Reader};
use crate::words::{decided_ms, is_change, timestamp};
use crate::{name, output};
use after::After;

/// Which decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// The last one that changed a limit; if none did, the last one.
    LastChange,
    /// The one in force then, Unix milliseconds.
    At(i64),
    /// The one of this number.
    Sequence(u64),
}

/// Reads `--at`: a time in RFC 3339, or how long ago.
///
/// # Errors
/// Says what was expected.
pub(crate) fn parse_at(text: &str) -> Result<i64, String> {
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return Ok(time.as_millisecond());
    }
    match laneguard_proto::duration::parse(text) {
        Ok(ago) => Ok(clock::unix_ms().saturating_sub_unsigned(ago.as_millis() as u64)),
        Err(_) => Err(format!(
            "`{text}` is neither a time such as 2026-11-24T03:00:00Z nor how long ago, such as 10m"
        )),
    }
}

/// A decision and what followed it.
struct Chosen {
    decision: Box<Decision>,
    policy: OnceCell<Option<Policy>>,
    after: After,
}

/// Finds the wanted decision in a stream that goes by.
struct Search {
    wanted: Wanted,
    chosen: Option<Chosen>,
}

impl Search {
    fn new(wanted: Wanted) -> Self {
        Self {
            wanted,
            chosen: None,
        }
    }

    fn take(&mut self, decision: Box<Decision>) {
        // what never governed explains nothing that happened
        if decision.shadow {
            return;
        }
        let is_wanted = match (self.wanted, &self.chosen) {
            (Wanted::LastChange, Some(chosen)) => {
                is_change(&decision) || !is_change(&chosen.decision)
            }
            (Wanted::LastChange, None) => true,
            (Wanted::At(at_ms), _) => decided_ms(&decision) <= at_ms,
            (Wanted::Sequence(sequence), _) => decision.sequence == sequence,
        };
        if is_wanted {
            self.chosen = Some(Chosen {
                decision,
                policy: OnceCell::new(),
                after: After::default(),
            });
        } else if let Some(chosen) = &mut self.chosen {
            let at = decided_ms(&chosen.decision);
            let policy = chosen.policy.get_or_init(|| {
                Inputs::of_record(&chosen.decision)
                    .ok()
                    .map(|inputs| adaptive::in_force(&inputs.policy, &inputs.state).into_owned())
            });
            chosen.after.take(at, policy.as_ref(), &decision);
        }
    }

    fn report(&mut self, outcome: &Outcome) {
        if let Some(chosen) = &mut self.chosen
            && (outcome.term, outcome.sequence) == (chosen.decision.term, chosen.decision.sequence)
            && outcome.policy == chosen.decision.policy
        {
            chosen.after.report(outcome);
        }
    }

    /// Prints what was found.
    fn conclude(self, format: Stream) -> anyhow::Result<()> {
        let wanted = self.wanted;
        let chosen = self.chosen.with_context(|| match wanted {
            Wanted::LastChange => "there is no decision".to_owned(),
            Wanted::At(at_ms) => format!("there is no decision from before {}", timestamp(at_ms)),
            Wanted::Sequence(sequence) => format!("there is no decision with sequence {sequence}"),
        })?;
        let because = match wanted {
            Wanted::LastChange if is_change(&chosen.decision) => {
                "the last decision that changed a limit".to_owned()
            }
            Wanted::LastChange => "the last decision; none changed a limit".to_owned(),
            Wanted::At(at_ms) => format!("the last decision up to {}", timestamp(at_ms)),
            Wanted::Sequence(_) => "as asked for".to_owned(),
        };
        let story = story::tell(&chosen.decision, because, chosen.after);
        match format {
            Stream::Json => output::line(&serde_json::to_string_pretty(&story)?),
            Stream::Text => output::text(&text::render(&story, layout())),
        }
    }
}

/// As wide as the terminal, within reason.
fn layout() -> text::Layout {
    let is_terminal = std::io::stdout().is_terminal();
    let columns = terminal_size::terminal_size().map(|(width, _)| usize::from(width.0));
    text::Layout {
        width: columns
            .filter(|_| is_terminal)
            .unwrap_or(100)
            .clamp(60, 120),
        is_bold: is_terminal && std::env::var_os("NO_COLOR").is_none(),
    }
}

/// Explains a decision of a record.
///
/// # Errors
/// When the record cannot be read, or there is no such decision in it.
pub(crate) fn record<R: BufRead>(
    mut reader: Reader<R>,
    policy: Option<&Token>,
    wanted: Wanted,
    format: Stream,
) -> anyhow::Result<()> {
    let mut search = Search::new(wanted);
    let mut one = OnePolicy::new(policy);
    while let Some(line) = reader.next()? {
        match line {
            Ok(Line::Decision(decision)) => {
                if one.admits(&decision.policy)? {
                    search.take(decision);
                }
            }
            Ok(Line::Outcome(outcome)) => search.report(&outcome),
            Ok(_) => {}
            Err(malformed) => eprintln!("warning: {malformed}; it is left out"),
        }
    }
    search.conclude(format)
}

/// Explains a decision that the stream still has.
///
/// # Errors
/// When NATS does not answer, or there is no such decision.
pub(crate) async fn stream(
    bus: &Bus,
    policy: &Token,
    since: Duration,
    wanted: Wanted,
    format: Stream,
) -> anyhow::Result<()> {
    let mut search = Search::new(wanted);
    let filter = subject::decision(bus.cluster().as_str(), policy.as_str());
    let mut decisions: Subscription<Decision> =
        bus.subscribe_to(Kind::Decision, filter, Start::Ago(since));
    while let Some(received) = decisions
        .next_or_caught_up()
        .await
        .context("NATS is gone")?
    {
        search.take(Box::new(received.message));
    }
    if let Some(chosen) = &search.chosen {
        // a little more than needed, for clocks that differ
        let ago = clock::unix_ms()
            .saturating_sub(decided_ms(&chosen.decision))
            .max(0)
            .unsigned_abs();
        let start = Start::Ago(Duration::from_millis(ago.saturating_add(60_000)));
        let filter = subject::outcome(bus.cluster().as_str(), policy.as_str(), "*");
        let mut outcomes: Subscription<Outcome> = bus.subscribe_to(Kind::Outcome, filter, start);
        while let Some(received) = outcomes.next_or_caught_up().await.context("NATS is gone")? {
            search.report(&received.message);
        }
    }
    search
        .conclude(format)
        .with_context(|| name::shown(policy.as_str()))
}

#[cfg(test)]
mod tests;
