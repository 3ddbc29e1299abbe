//! What is shown while a run goes on: a block that is redrawn on a terminal, plain lines elsewhere.

use std::collections::BTreeMap;
use std::env;
use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::raw::PhaseKind;
use crate::score::{JITTER_LIMIT_MS, Latency, P95_LIMIT_MS};

/// How often a terminal is redrawn.
const REDRAW: Duration = Duration::from_millis(500);
/// How often a plain line is written.
const LINE: Duration = Duration::from_secs(5);
/// Latency shown with its decimals up to here.
const MOST_PRECISE_MS: f64 = 1000.0;

/// The state of a run as people want to see it.
#[derive(Debug, Clone, Default)]
pub struct Live {
    /// Which run this is: scenario, with or without.
    pub title: String,
    /// What is going on: preparing, a phase, finishing.
    pub stage: Stage,
    /// Latency of the last second's requests; none: no requests.
    pub latency: Option<Latency>,
    /// Requests that failed so far.
    pub failed: usize,
    /// What arrived at the sinks in the last second, in bits per second.
    pub goodput_bps: f64,
    /// The bottleneck's rate in bits per second.
    pub rate_bps: u64,
    /// What waits at the bottleneck, in bytes.
    pub backlog_bytes: u64,
    /// The limit of each best-effort endpoint in bits per second; none: unlimited.
    pub limits: BTreeMap<String, Option<u64>>,
    /// The last decision.
    pub decision: Option<Decided>,
}

/// Where a run is.
#[derive(Debug, Clone, Default)]
pub enum Stage {
    /// Something is being started.
    #[default]
    Starting,
    /// A phase is on.
    Phase {
        /// What best-effort does.
        kind: PhaseKind,
        /// Its number, from 1, and how many there are.
        number: (usize, usize),
        /// When it began.
        since: Instant,
        /// How long it is.
        length: Duration,
    },
    /// The raw logs are being completed.
    Finishing,
}

/// A decision of the control loop.
#[derive(Debug, Clone)]
pub struct Decided {
    /// The law's word.
    pub action: String,
    /// Why.
    pub reason: String,
    /// When it arrived here.
    pub at: Instant,
}

/// Shows the run until `live`'s sender is gone.
pub async fn show(mut live: watch::Receiver<Live>) {
    let terminal =
        io::stdout().is_terminal() && env::var_os("TERM").is_some_and(|term| term != "dumb");
    let mut ticks = interval(if terminal { REDRAW } else { LINE });
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut screen = Screen::default();
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            gone = live.changed() => match gone {
                // Redrawing keeps its own pace; only the end is urgent.
                Ok(()) if live.borrow_and_update().stage.is_news(&screen.shown) => {}
                Ok(()) => continue,
                Err(_) => break,
            },
        }
        let now = live.borrow().clone();
        screen.shown = now.stage.clone();
        if terminal {
            screen.redraw(&block(&now));
        } else {
            say(&line(&now));
        }
    }
}

/// Writes one line to standard output. A reader that has gone is no reason to stop the run.
pub fn say(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}

#[derive(Debug, Default)]
struct Screen {
    lines: usize,
    shown: Stage,
}

impl Screen {
    /// Draws over what was drawn before. Lines that are too long are cut by the terminal itself.
    fn redraw(&mut self, lines: &[String]) {
        let mut text = String::new();
        if self.lines > 0 {
            let _ = write!(text, "\x1b[{}F", self.lines);
        }
        text.push_str("\x1b[?7l");
        for line in lines {
            let _ = writeln!(text, "{line}\x1b[K");
        }
        text.push_str("\x1b[?7h\x1b[J");
        self.lines = lines.len();
        let mut output = io::stdout();
        let _ = output
            .write_all(text.as_bytes())
            .and_then(|()| output.flush());
    }
}

impl Stage {
    fn is_news(&self, shown: &Self) -> bool {
        match (self, shown) {
            (Self::Phase { number, .. }, Self::Phase { number: before, .. }) => number != before,
            (Self::Starting, Self::Starting) | (Self::Finishing, Self::Finishing) => false,
            _ => true,
        }
    }

    fn words(&self) -> String {
        match self {
            Self::Starting => "starting".to_owned(),
            Self::Finishing => "finishing".to_owned(),
            Self::Phase {
                kind,
                number: (number, of),
                since,
                length,
            } => format!(
                "phase {number}/{of} {} {:>3} of {} s",
                kind.word(),
                since.elapsed().as_secs().min(length.as_secs()),
                length.as_secs()
            ),
        }
    }
}

fn block(live: &Live) -> Vec<String> {
    vec![
        format!("{} | {}", live.title, live.stage.words()),
        format!(
            "  critical     {}, failed {}",
            latency_words(live.latency),
            live.failed
        ),
        format!(
            "  best-effort  goodput {:>5.1} of {} Mbit/s, {:>4.1} ms of queue at the bottleneck",
            live.goodput_bps / 1e6,
            live.rate_bps / 1_000_000,
            queue_ms(live)
        ),
        format!("  limits       {}", limit_words(&live.limits)),
        format!("  decision     {}", decision_words(live.decision.as_ref())),
    ]
}

fn line(live: &Live) -> String {
    format!(
        "{} | {} | {} | goodput {:.1} Mbit/s | limits {} | {}",
        live.title,
        live.stage.words(),
        latency_words(live.latency),
        live.goodput_bps / 1e6,
        limit_words(&live.limits),
        decision_words(live.decision.as_ref())
    )
}

fn queue_ms(live: &Live) -> f64 {
    if live.rate_bps == 0 {
        return 0.0;
    }
    live.backlog_bytes as f64 * 8000.0 / live.rate_bps as f64
}

fn latency_words(latency: Option<Latency>) -> String {
    let Some(latency) = latency else {
        return "no requests yet".to_owned();
    };
    let shown = |value: f64, limit: f64| {
        let mark = if value > limit { "VIOLATED" } else { "ok" };
        if value < MOST_PRECISE_MS {
            format!("{value:>5.1} ms (target {limit} ms, {mark})")
        } else {
            format!("{value:>5.0} ms (target {limit} ms, {mark})")
        }
    };
    format!(
        "P95 {}, jitter {}",
        shown(latency.p95_ms, P95_LIMIT_MS),
        shown(latency.jitter_ms, JITTER_LIMIT_MS)
    )
}

fn limit_words(limits: &BTreeMap<String, Option<u64>>) -> String {
    let mut values = limits.values();
    let shown = |limit: Option<u64>| match limit {
        Some(bits) => format!("{:.1} Mbit/s", bits as f64 / 1e6),
        None => "none".to_owned(),
    };
    match values.next() {
        None => "no pods yet".to_owned(),
        Some(first) if values.all(|limit| limit == first) => {
            format!("{} (each of {} pods)", shown(*first), limits.len())
        }
        Some(_) => limits
            .iter()
            .map(|(pod, limit)| format!("{pod} {}", shown(*limit)))
            .collect::<Vec<_>>()
            .join(", "),
    }
}

fn decision_words(decision: Option<&Decided>) -> String {
    decision.map_or_else(
        || "none".to_owned(),
        |decided| {
            format!(
                "{} {} s ago: {}",
                decided.action,
                decided.at.elapsed().as_secs(),
                decided.reason
            )
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_violated_target_is_marked() {
        let latency = Latency {
            p50_ms: 1.0,
            p95_ms: 61.26,
            p99_ms: 1.0,
            max_ms: 1.0,
            jitter_ms: 2.0,
        };
        let words = latency_words(Some(latency));
        assert_eq!(
            words,
            "P95  61.3 ms (target 10 ms, VIOLATED), jitter   2.0 ms (target 5 ms, ok)"
        );
    }

    #[test]
    fn equal_limits_are_said_once() {
        let mut limits = BTreeMap::from([
            ("a".to_owned(), Some(60_000_000)),
            ("b".to_owned(), Some(60_000_000)),
        ]);
        assert_eq!(limit_words(&limits), "60.0 Mbit/s (each of 2 pods)");
        limits.insert("b".to_owned(), None);
        assert_eq!(limit_words(&limits), "a 60.0 Mbit/s, b none");
    }

    #[test]
    fn the_next_phase_is_news_and_the_same_is_not() {
        let phase = |number| Stage::Phase {
            kind: PhaseKind::Load,
            number: (number, 4),
            since: Instant::now(),
            length: Duration::from_secs(1),
        };
        assert!(phase(2).is_news(&phase(1)));
        assert!(!phase(2).is_news(&phase(2)));
        assert!(Stage::Finishing.is_news(&phase(4)));
    }
}
