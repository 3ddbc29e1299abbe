//! `lanectl record`: policies, samples, decisions, commands and outcomes into one file (format: `recording.rs`).
//!
//! Each kind is a stream of its own; they are merged by the time at which the server stored them. While a stream delivers what it has
//! kept, the others wait for it; live, a line waits a moment for older ones of other streams.

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use laneguard_proto::codec::{WireMessage, to_json};
use laneguard_proto::storage::POLICIES;
use laneguard_proto::subject::{Kind, Token};
use laneguard_proto::v1::{Command, Decision, Outcome, Sample};
use laneguard_runtime::bus::{Bus, Change, Start, Subscription, Watch};
use laneguard_runtime::{clock, shutdown};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::recording::{FORMAT, VERSION};
use crate::words::{count, duration, timestamp};

/// How long a live line waits for older ones of other streams.
const HOLD: Duration = Duration::from_millis(250);
/// Lines of one stream that wait in memory.
const QUEUE: usize = 64;
/// How often progress is told where nobody watches a terminal.
const PROGRESS: Duration = Duration::from_secs(60);

/// A line to be written.
struct Line {
    kind: &'static str,
    stored_ms: i64,
    text: String,
    /// Messages that are missing before it.
    gap: Option<Gap>,
}

/// Messages that were published and are not there any more.
struct Gap {
    subject: String,
    after: u64,
    next: u64,
}

impl Gap {
    fn lost(&self) -> u64 {
        self.next - self.after - 1
    }
}

enum Item {
    Line(Line),
    CaughtUp,
}

/// One stream, merged with the others.
struct Source {
    lines: mpsc::Receiver<Item>,
    head: Option<(Line, Instant)>,
    is_caught_up: bool,
}

impl Source {
    fn take(&mut self, item: Option<Item>) -> anyhow::Result<()> {
        match item.context("NATS is gone")? {
            Item::Line(line) => self.head = Some((line, Instant::now())),
            Item::CaughtUp => self.is_caught_up = true,
        }
        Ok(())
    }
}

/// What sequences say is missing.
#[derive(Default)]
struct Gaps(HashMap<String, u64>);

impl Gaps {
    fn check(&mut self, series: &str, sequence: u64) -> Option<(u64, u64)> {
        match self.0.get_mut(series) {
            Some(last) => {
                let gap = (sequence > last.saturating_add(1)).then_some((*last, sequence));
                // one that counts again from lower is another series
                *last = sequence;
                gap
            }
            None => {
                self.0.insert(series.to_owned(), sequence);
                None
            }
        }
    }
}

/// What of a message is needed beside its JSON.
trait Recorded: WireMessage + Send + 'static {
    /// The series that its sequence counts in, after the subject. `None`: sequences with gaps are normal.
    fn series(&self) -> Option<&str>;
    /// Its sequence.
    fn sequence(&self) -> u64;
    /// Whether it is marked as of a law in shadow.
    fn is_shadow(&self) -> bool {
        false
    }
}

impl Recorded for Sample {
    fn series(&self) -> Option<&str> {
        Some("")
    }
    fn sequence(&self) -> u64 {
        self.sequence
    }
}

impl Recorded for Decision {
    fn series(&self) -> Option<&str> {
        // laws in shadow share the numbers of the law in force or have their own: only its own are complete
        (!self.shadow).then_some("")
    }
    fn sequence(&self) -> u64 {
        self.sequence
    }
    fn is_shadow(&self) -> bool {
        self.shadow
    }
}

impl Recorded for Command {
    fn series(&self) -> Option<&str> {
        // the stream keeps the last one only
        None
    }
    fn sequence(&self) -> u64 {
        self.sequence
    }
}

impl Recorded for Outcome {
    fn series(&self) -> Option<&str> {
        None
    }
    fn sequence(&self) -> u64 {
        self.sequence
    }
}

fn source() -> (mpsc::Sender<Item>, Source) {
    let (sender, lines) = mpsc::channel(QUEUE);
    let source = Source {
        lines,
        head: None,
        is_caught_up: false,
    };
    (sender, source)
}

/// The file's line for a message.
fn line(
    kind: &'static str,
    subject: &str,
    stored_ms: i64,
    is_shadow: bool,
    message: &str,
) -> String {
    let shadow = if is_shadow { ",\"shadow\":true" } else { "" };
    let (subject, time) = (Value::from(subject), timestamp(stored_ms));
    format!(
        "{{\"kind\":\"{kind}\",\"subject\":{subject},\"time\":\"{time}\"{shadow},\"message\":{message}}}"
    )
}

/// Follows one kind of message until nobody listens.
fn follow<M: Recorded>(bus: &Bus, kind: Kind, policy: Option<&Token>, start: Start) -> Source {
    let filter = match (policy, kind) {
        (None, kind) => kind.in_cluster(bus.cluster()),
        (Some(policy), Kind::Decision) => format!("{}{policy}", prefix(bus, kind)),
        (Some(policy), kind) => format!("{}{policy}.>", prefix(bus, kind)),
    };
    let mut messages: Subscription<M> = bus.subscribe_to(kind, filter, start);
    let (sender, source) = source();
    tokio::spawn(async move {
        let mut gaps = Gaps::default();
        while let Some(next) = messages.next_or_caught_up().await {
            let item = match next {
                None => Item::CaughtUp,
                Some(received) => {
                    let message = &received.message;
                    let subject = &received.subject;
                    // a defect of the descriptors: nothing could be written at all
                    let Ok(text) = to_json(message) else { return };
                    let gap = message.series().and_then(|series| {
                        gaps.check(&format!("{subject} {series}"), message.sequence())
                    });
                    Item::Line(Line {
                        kind: kind.as_str(),
                        stored_ms: received.stored_ms,
                        text: line(
                            kind.as_str(),
                            subject,
                            received.stored_ms,
                            message.is_shadow(),
                            &text,
                        ),
                        gap: gap.map(|(after, next)| Gap {
                            subject: subject.clone(),
                            after,
                            next,
                        }),
                    })
                }
            };
            if sender.send(item).await.is_err() {
                return;
            }
        }
    });
    source
}

/// The subjects of a kind in the cluster, without the last wildcard.
fn prefix(bus: &Bus, kind: Kind) -> String {
    kind.in_cluster(bus.cluster())
        .trim_end_matches('>')
        .to_owned()
}

/// Follows the policies' entries; those that are there come first in the file.
fn follow_policies(bus: &Bus, policy: Option<&Token>, begin_ms: i64) -> Source {
    let cluster = bus.cluster();
    let filter = policy.map_or_else(
        || format!("{cluster}.>"),
        |policy| format!("{cluster}.{policy}"),
    );
    let mut entries: Watch = bus.bucket(POLICIES).watch(&filter);
    let (sender, source) = source();
    tokio::spawn(async move {
        let mut at_ms = begin_ms;
        while let Some(change) = entries.next().await {
            let (key, message) = match change {
                Change::Put { key, bytes, .. } => match serde_json::from_slice::<Value>(&bytes) {
                    Ok(entry) => (key, entry.to_string()),
                    // what is no JSON is no policy
                    Err(_) => continue,
                },
                Change::Deleted { key } => (key, "null".to_owned()),
                Change::Synced { .. } => {
                    at_ms = i64::MAX;
                    if sender.send(Item::CaughtUp).await.is_err() {
                        return;
                    }
                    continue;
                }
            };
            let stored_ms = at_ms.min(clock::unix_ms());
            let item = Item::Line(Line {
                kind: "policy",
                stored_ms,
                text: line("policy", &key, stored_ms, false, &message),
                gap: None,
            });
            if sender.send(item).await.is_err() {
                return;
            }
        }
    });
    source
}

/// The file, and what is in it.
struct Out {
    file: Box<dyn Write>,
    counts: HashMap<&'static str, u64>,
    lines: u64,
    lost: u64,
}

impl Out {
    fn put(&mut self, text: &str) -> anyhow::Result<()> {
        // one write a line: whatever ends this process, lines are whole
        self.file
            .write_all(format!("{text}\n").as_bytes())
            .context("the record cannot be written on")?;
        self.lines += 1;
        Ok(())
    }

    fn line(&mut self, line: &Line) -> anyhow::Result<()> {
        if let Some(gap) = &line.gap {
            self.lost += gap.lost();
            let time = timestamp(line.stored_ms);
            let (after, next, lost) = (
                gap.after.to_string(),
                gap.next.to_string(),
                gap.lost().to_string(),
            );
            let message = json!({"after": after, "next": next, "lost": lost});
            self.put(
                &json!({"kind": "gap", "subject": gap.subject, "time": time, "message": message})
                    .to_string(),
            )?;
        }
        self.put(&line.text)?;
        *self.counts.entry(line.kind).or_default() += 1;
        Ok(())
    }

    fn said(&self) -> String {
        let kinds = [
            ("policy", "policy entries"),
            ("sample", "samples"),
            ("decision", "decisions"),
            ("command", "commands"),
            ("outcome", "outcomes"),
        ];
        let parts: Vec<String> = kinds
            .iter()
            .map(|(kind, name)| {
                format!(
                    "{} {name}",
                    self.counts.get(kind).copied().unwrap_or_default()
                )
            })
            .collect();
        let lost = match self.lost {
            0 => "no gaps".to_owned(),
            lost => format!("{} LOST in gaps of the streams", count(lost, "message")),
        };
        format!("{}; {lost}", parts.join(", "))
    }
}

/// Opens the file, which must not be there yet; `-` is standard output.
fn create(path: &Path) -> anyhow::Result<Box<dyn Write>> {
    if path == Path::new("-") {
        return Ok(Box::new(std::io::stdout()));
    }
    let file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path);
    let file = file.map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => {
            anyhow::anyhow!("it is there already, and a record is never overwritten")
        }
        _ => error.into(),
    });
    Ok(Box::new(file.with_context(|| path.display().to_string())?))
}

/// Records until the time is over, or until it is interrupted, which is a good end.
///
/// # Errors
/// When the file cannot be written, or NATS is gone.
pub(crate) async fn run(
    bus: &Bus,
    policy: Option<&Token>,
    path: &Path,
    since: Option<Duration>,
    length: Option<Duration>,
) -> anyhow::Result<()> {
    let now_ms = clock::unix_ms();
    let begin_ms = now_ms
        - since
            .map_or(0, |since| {
                i64::try_from(since.as_millis()).unwrap_or(now_ms)
            })
            .min(now_ms);
    let mut out = Out {
        file: create(path)?,
        counts: HashMap::new(),
        lines: 0,
        lost: 0,
    };
    let header = json!({
        "kind": "header", "format": FORMAT, "version": VERSION, "cluster": bus.cluster().as_str(), "policy": policy.map(Token::as_str),
        "begin": timestamp(begin_ms), "created": timestamp(now_ms),
    });
    out.put(&header.to_string())?;
    let until = length.map_or_else(
        || "Ctrl-C ends it".to_owned(),
        |length| {
            format!(
                "for {}",
                duration(i64::try_from(length.as_millis()).unwrap_or(i64::MAX))
            )
        },
    );
    eprintln!(
        "recording into {} from {} on; {until}",
        path.display(),
        timestamp(begin_ms)
    );

    let start = since.map_or(Start::New, Start::Ago);
    let mut sources = [
        follow_policies(bus, policy, begin_ms),
        follow::<Sample>(bus, Kind::Sample, policy, start),
        follow::<Decision>(bus, Kind::Decision, policy, start),
        follow::<Command>(bus, Kind::Command, policy, start),
        follow::<Outcome>(bus, Kind::Outcome, policy, start),
    ];
    let end = length.map(|length| Instant::now() + length);
    let mut progress = Instant::now() + PROGRESS;
    let mut interrupted = std::pin::pin!(shutdown::signal());
    loop {
        while let Some(line) = due(&mut sources, Instant::now()) {
            out.line(&line)?;
        }
        let is_quiet = sources
            .iter()
            .all(|source| source.is_caught_up && source.head.is_none());
        if is_quiet && end.is_some_and(|end| Instant::now() >= end) {
            break;
        }
        if Instant::now() >= progress {
            progress = Instant::now() + PROGRESS;
            eprintln!("{}", out.said());
        }
        let wake = Instant::now() + HOLD;
        let [a, b, c, d, e] = &mut sources;
        tokio::select! {
            item = a.lines.recv(), if a.head.is_none() => a.take(item)?,
            item = b.lines.recv(), if b.head.is_none() => b.take(item)?,
            item = c.lines.recv(), if c.head.is_none() => c.take(item)?,
            item = d.lines.recv(), if d.head.is_none() => d.take(item)?,
            item = e.lines.recv(), if e.head.is_none() => e.take(item)?,
            () = tokio::time::sleep_until(wake) => {}
            _ = &mut interrupted => break,
        }
    }
    // what waited for older ones waits no longer
    while let Some(index) = oldest(&sources) {
        if let Some((line, _)) = sources[index].head.take() {
            out.line(&line)?;
        }
    }
    let (lines, lost) = (out.lines, out.lost);
    out.put(
        &json!({"kind": "end", "time": timestamp(clock::unix_ms()), "lines": lines, "lost": lost})
            .to_string(),
    )?;
    out.file.flush()?;
    eprintln!("recorded {}", out.said());
    Ok(())
}

fn oldest(sources: &[Source]) -> Option<usize> {
    let heads = sources
        .iter()
        .enumerate()
        .filter_map(|(index, source)| Some((source.head.as_ref()?.0.stored_ms, index)));
    heads.min().map(|(_, index)| index)
}

/// The oldest line, once no older one can come: every other stream has a later one, or has nothing and had its moment.
fn due(sources: &mut [Source], now: Instant) -> Option<Line> {
    let index = oldest(sources)?;
    let (_, arrived) = sources[index].head.as_ref()?;
    let had_its_moment = now.saturating_duration_since(*arrived) >= HOLD;
    let is_due = sources
        .iter()
        .all(|source| source.head.is_some() || (source.is_caught_up && had_its_moment));
    is_due
        .then(|| sources[index].head.take())
        .flatten()
        .map(|(line, _)| line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(stored_ms: i64, arrived: Instant) -> Source {
        let (_, mut source) = source();
        let line = Line {
            kind: "sample",
            stored_ms,
            text: String::new(),
            gap: None,
        };
        source.head = Some((line, arrived));
        source
    }

    #[tokio::test]
    async fn a_line_is_written_when_no_older_one_can_come() {
        let now = Instant::now();
        let mut sources = [head(2, now), head(1, now), source().1];
        assert!(
            due(&mut sources, now).is_none(),
            "the third still delivers what it kept"
        );
        sources[2].is_caught_up = true;
        assert!(
            due(&mut sources, now).is_none(),
            "an older one may be on its way"
        );
        let order: Vec<i64> = std::iter::from_fn(|| due(&mut sources, now + HOLD))
            .map(|line| line.stored_ms)
            .collect();
        assert_eq!(
            order,
            [1],
            "then the second has nothing, and still delivers"
        );
        sources[1].is_caught_up = true;
        assert_eq!(due(&mut sources, now + HOLD).unwrap().stored_ms, 2);
    }

    #[test]
    fn a_jump_of_a_sequence_is_a_gap_and_a_new_count_is_none() {
        let mut gaps = Gaps::default();
        let found: Vec<_> = [
            (7, None),
            (8, None),
            (11, Some((8, 11))),
            (1, None),
            (2, None),
        ]
        .into_iter()
        .map(|(sequence, expected)| (gaps.check("a", sequence), expected))
        .collect();
        assert!(
            found.iter().all(|(found, expected)| found == expected),
            "{found:?}"
        );
        assert_eq!(gaps.check("b", 5), None);
    }
}
