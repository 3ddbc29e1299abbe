//! The file format of records: one JSON object a line, read as a stream.
//!
//! ```text
//! {"kind":"header","format":"laneguard.record","version":1,"cluster":"default","policy":null,"begin":"…","created":"…"}
//! {"kind":"policy"|"sample"|"decision"|"command"|"outcome","subject":"…","time":"…","message":{proto3 JSON}}
//! {"kind":"gap","subject":"…","time":"…","message":{"after":"7","next":"9","lost":"1"}}
//! {"kind":"end","time":"…","lines":123,"lost":0}
//! ```
//!
//! `time` is when the server stored the message, and lines are in its order. A policy's message is the entry of the bucket, `null` once it
//! is deleted. A shadow decision also has `"shadow":true`. Without an `end` the recording was cut off; the lines before it are whole.
//! Lines that are bare decisions (the lab's `decisions.jsonl`, `lanectl watch -o json`) are read too. Kinds that nobody knows are passed over.

use std::io::{BufRead, Read as _};
use std::path::Path;

use anyhow::Context as _;
use laneguard_proto::codec::{WireMessage, decode};
use laneguard_proto::duration::timestamp_to_ms;
use laneguard_proto::header;
use laneguard_proto::policy::Entry;
use laneguard_proto::subject::Token;
use laneguard_proto::v1::{Decision, Outcome, Sample};
use serde_json::Value;

use crate::name;

/// What the header of a record says in `format`.
pub(crate) const FORMAT: &str = "laneguard.record";
/// The version that is written; later ones are refused.
pub(crate) const VERSION: u64 = 1;
/// The longest line that is read, bytes: the largest message with its envelope, twice.
const LONGEST: u64 = 2 * 1024 * 1024;

/// One line.
#[derive(Debug)]
pub(crate) enum Line {
    /// The value of a policy's key in the bucket.
    Policy(Box<Entry>),
    /// What a workload experienced.
    Sample {
        /// When it was stored, Unix milliseconds.
        stored_ms: i64,
        /// The message.
        message: Box<Sample>,
    },
    /// What was decided.
    Decision(Box<Decision>),
    /// What was done.
    Outcome(Box<Outcome>),
    /// So many messages of a stream are missing here.
    Gap(u64),
    /// Anything else that is no mistake: the header, commands, deletions, the end, kinds of later versions.
    Other,
}

/// A line that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("line {number}: {reason}")]
pub(crate) struct Malformed {
    /// Counted from 1.
    pub(crate) number: u64,
    /// What is wrong with it.
    pub(crate) reason: String,
}

/// Reads a record line by line.
pub(crate) struct Reader<R> {
    source: R,
    number: u64,
    buffer: Vec<u8>,
}

/// Opens a file, or standard input for `-`.
///
/// # Errors
/// Names the file.
pub(crate) fn open(path: &Path) -> anyhow::Result<Reader<Box<dyn BufRead>>> {
    let source: Box<dyn BufRead> = if path == Path::new("-") {
        Box::new(std::io::stdin().lock())
    } else {
        let file = std::fs::File::open(path).with_context(|| path.display().to_string())?;
        Box::new(std::io::BufReader::new(file))
    };
    Ok(Reader::new(source))
}

impl<R: BufRead> Reader<R> {
    /// Reads from this.
    pub(crate) fn new(source: R) -> Self {
        Self {
            source,
            number: 0,
            buffer: Vec::new(),
        }
    }

    /// The next line; `None` at the end. After a malformed line the next one follows.
    ///
    /// # Errors
    /// When the source cannot be read any more, or is of a later version.
    pub(crate) fn next(&mut self) -> anyhow::Result<Option<Result<Line, Malformed>>> {
        loop {
            self.buffer.clear();
            let read = self
                .source
                .by_ref()
                .take(LONGEST)
                .read_until(b'\n', &mut self.buffer)?;
            if read == 0 {
                return Ok(None);
            }
            self.number += 1;
            if read as u64 == LONGEST && !self.buffer.ends_with(b"\n") {
                self.skip_rest()?;
                return Ok(Some(Err(self.malformed("it is too long"))));
            }
            if self.buffer.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            return match parse(&self.buffer) {
                Ok(line) => Ok(Some(Ok(line))),
                Err(Failure::Later(version)) => anyhow::bail!(
                    "the record has format version {version}, this lanectl reads up to {VERSION}"
                ),
                Err(Failure::Malformed(reason)) => Ok(Some(Err(self.malformed(&reason)))),
            };
        }
    }

    fn malformed(&self, reason: &str) -> Malformed {
        Malformed {
            number: self.number,
            reason: reason.to_owned(),
        }
    }

    fn skip_rest(&mut self) -> std::io::Result<()> {
        loop {
            let chunk = self.source.fill_buf()?;
            let (used, done) = match chunk.iter().position(|byte| *byte == b'\n') {
                Some(end) => (end + 1, true),
                None => (chunk.len(), chunk.is_empty()),
            };
            self.source.consume(used);
            if done {
                return Ok(());
            }
        }
    }
}

/// Keeps to one policy of a record: the one that is named, or the only one.
#[derive(Debug)]
pub(crate) struct OnePolicy {
    named: bool,
    policy: Option<String>,
}

impl OnePolicy {
    /// With a name, or without.
    pub(crate) fn new(policy: Option<&Token>) -> Self {
        Self {
            named: policy.is_some(),
            policy: policy.map(|policy| policy.as_str().to_owned()),
        }
    }

    /// The policy's token; empty where none came yet.
    pub(crate) fn name(&self) -> &str {
        self.policy.as_deref().unwrap_or_default()
    }

    /// Whether a message of `policy` counts.
    ///
    /// # Errors
    /// When none was named and this is a second one.
    pub(crate) fn admits(&mut self, policy: &str) -> anyhow::Result<bool> {
        match &self.policy {
            None => {
                self.policy = Some(policy.to_owned());
                Ok(true)
            }
            Some(known) if known == policy => Ok(true),
            Some(_) if self.named => Ok(false),
            Some(known) => anyhow::bail!(
                "the record has several policies, such as {} and {}: name the one that is meant",
                name::shown(known),
                name::shown(policy)
            ),
        }
    }
}

enum Failure {
    Malformed(String),
    Later(u64),
}

impl From<String> for Failure {
    fn from(reason: String) -> Self {
        Self::Malformed(reason)
    }
}

fn parse(bytes: &[u8]) -> Result<Line, Failure> {
    let value: Value =
        serde_json::from_slice(bytes).map_err(|error| format!("it is no JSON ({error})"))?;
    let Some(kind) = value.get("kind").and_then(Value::as_str) else {
        // a bare message; samples have no `decidedAt`
        return match value.get("decidedAt") {
            Some(_) => Ok(Line::Decision(message(bytes)?)),
            None => Err("it is neither a line of a record nor a decision"
                .to_owned()
                .into()),
        };
    };
    let inner = || -> Result<Vec<u8>, Failure> {
        let message = value
            .get("message")
            .ok_or_else(|| format!("its {kind} has no message"))?;
        Ok(message.to_string().into_bytes())
    };
    Ok(match kind {
        "header" => match value.get("version").and_then(Value::as_u64) {
            Some(version) if version > VERSION => return Err(Failure::Later(version)),
            Some(_) if value.get("format") == Some(&FORMAT.into()) => Line::Other,
            _ => return Err("its header is not one of a record".to_owned().into()),
        },
        "policy" if value.get("message") == Some(&Value::Null) => Line::Other,
        "policy" => Line::Policy(Box::new(
            Entry::from_json(&inner()?).map_err(|error| format!("no policy: {error}"))?,
        )),
        "sample" => {
            let message: Box<Sample> = message(&inner()?)?;
            let stored_ms = value
                .get("time")
                .and_then(Value::as_str)
                .and_then(|time| time.parse::<jiff::Timestamp>().ok())
                .map(|time| time.as_millisecond())
                .or_else(|| message.observed_at.as_ref().map(timestamp_to_ms))
                .ok_or_else(|| "a sample without a time".to_owned())?;
            Line::Sample { stored_ms, message }
        }
        "decision" => Line::Decision(message(&inner()?)?),
        "outcome" => Line::Outcome(message(&inner()?)?),
        "gap" => {
            let lost = value.pointer("/message/lost").and_then(Value::as_str);
            Line::Gap(lost.and_then(|lost| lost.parse().ok()).unwrap_or(1))
        }
        _ => Line::Other,
    })
}

fn message<M: WireMessage>(bytes: &[u8]) -> Result<Box<M>, Failure> {
    let what = M::FULL_NAME.rsplit('.').next().unwrap_or_default();
    decode(bytes, Some(header::JSON))
        .map(Box::new)
        .map_err(|error| format!("no {}: {error}", what.to_lowercase()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DECISION: &str = r#"{"cluster":"c","policy":"p","term":"1","sequence":"1","decidedAt":"2026-11-24T15:36:56Z","action":"HOLD"}"#;

    fn read(text: &str) -> Vec<Result<Line, Malformed>> {
        let mut reader = Reader::new(text.as_bytes());
        let mut lines = Vec::new();
        while let Some(line) = reader.next().unwrap() {
            lines.push(line);
        }
        lines
    }

    #[test]
    fn a_malformed_line_is_named_by_its_number_and_the_rest_goes_on() {
        let sample = r#"{"cluster":"c","policy":"p","workload":"w","sequence":"1","observedAt":"2026-11-24T15:36:56Z"}"#;
        let text = format!(
            "{{\"kind\":\"header\",\"format\":\"{FORMAT}\",\"version\":1}}\n{{\"kind\":\"decision\",\"message\":{DECISION}}}\n\n{DECISION}\nnonsense\n{{\"kind\":\"sample\",\"time\":\"2026-11-24T15:36:57Z\",\"message\":{sample}}}\n{{\"kind\":\"novelty\"}}\n{{\"kind\":\"gap\",\"message\":{{\"lost\":\"3\"}}}}\n{{\"kind\":\"outcome\"}}"
        );
        let lines = read(&text);
        assert!(matches!(lines[0], Ok(Line::Other)));
        assert!(matches!(&lines[1], Ok(Line::Decision(d)) if d.action == "HOLD"));
        assert!(matches!(lines[2], Ok(Line::Decision(_))));
        assert_eq!(lines[3].as_ref().unwrap_err().number, 5);
        let stored = 1_795_534_617_000;
        assert!(matches!(lines[4], Ok(Line::Sample { stored_ms, .. }) if stored_ms == stored));
        assert!(matches!(lines[5], Ok(Line::Other)));
        assert!(matches!(lines[6], Ok(Line::Gap(3))));
        let last = lines[7].as_ref().unwrap_err();
        assert_eq!(last.to_string(), "line 9: its outcome has no message");
    }

    #[test]
    fn a_later_version_is_refused() {
        let text = format!("{{\"kind\":\"header\",\"format\":\"{FORMAT}\",\"version\":2}}\n");
        let error = Reader::new(text.as_bytes()).next().unwrap_err();
        assert!(error.to_string().contains("version 2"), "{error}");
    }

    #[test]
    fn a_line_longer_than_any_message_is_passed_over() {
        let text = format!("{}\n{DECISION}\n", "x".repeat(3 * 1024 * 1024));
        let lines = read(&text);
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0].as_ref().unwrap_err().number, 1);
        assert!(matches!(lines[1], Ok(Line::Decision(_))));
    }
}
