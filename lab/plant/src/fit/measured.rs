//! A run of the lab as its raw logs tell it (`lab/src/raw.rs` has the columns). Times are seconds since the first phase's mark.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use serde::Deserialize;

/// What a failed request counts for, milliseconds, as in the lab's score.
const FAILED_MS: f64 = 10_000.0;
/// The endpoint that the critical requests come from.
const CRITICAL_CLIENT: &str = "robot-control";

/// A raw log that cannot be used.
#[derive(Debug)]
pub struct Error {
    path: PathBuf,
    problem: String,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.problem)
    }
}

impl std::error::Error for Error {}

/// One critical request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Request {
    /// When it was meant to be sent.
    pub sent: f64,
    /// From then to the end of the response, milliseconds; 10 s if it failed.
    pub latency_ms: f64,
    /// From really sending it to the response's headers, milliseconds; `None` if it failed.
    pub wire_ms: Option<f64>,
}

/// The bottleneck at one moment; counters since the start of the run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reading {
    /// When.
    pub at: f64,
    /// Bits sent.
    pub sent_bits: f64,
    /// Bits waiting.
    pub backlog_bits: f64,
}

/// A pod's limit from a moment on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limit {
    /// When the kernel had it.
    pub at: f64,
    /// Which best-effort pod, from 0.
    pub pod: usize,
    /// Bits per second; infinite without a limit.
    pub bps: f64,
}

/// A decision in force (not a shadow's).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Decided {
    /// When.
    pub at: f64,
    /// End of the newest window it judged.
    pub window_end: Option<f64>,
    /// The new limit per pod, if it changed one.
    pub changed_to_bps: Option<f64>,
}

/// What best-effort did over a time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Phase {
    /// Its start.
    pub from: f64,
    /// Its end.
    pub to: f64,
    /// Whether best-effort sends all it can; else nothing.
    pub is_load: bool,
}

/// A run.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// The folder's last two names.
    pub name: String,
    /// The bottleneck's rate as it was set.
    pub link_bps: f64,
    /// The bottleneck's queue as it was set, bits.
    pub fifo_bits: f64,
    /// TCP flows of each best-effort pod.
    pub flows: usize,
    /// Names of the best-effort pods' endpoints; a pod's index is its place here.
    pub pods: Vec<String>,
    /// All critical requests in order of sending.
    pub requests: Vec<Request>,
    /// The bottleneck in order of time.
    pub queue: Vec<Reading>,
    /// All limits in order of time.
    pub limits: Vec<Limit>,
    /// What the critical client sent, bits.
    pub critical_bits: f64,
    /// All decisions in order of time; empty without control.
    pub decisions: Vec<Decided>,
    phases: Vec<Phase>,
}

#[derive(Deserialize)]
struct Scenario {
    link: Link,
    pods: usize,
    flows: usize,
}

#[derive(Deserialize)]
struct Link {
    rate_bps: f64,
    fifo_bytes: f64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Decision {
    decided_at: jiff::Timestamp,
    #[serde(default)]
    shadow: bool,
    #[serde(default)]
    limits: Vec<DecidedLimit>,
    #[serde(default)]
    samples: Vec<Used>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DecidedLimit {
    #[serde(default)]
    before_bps: f64,
    #[serde(default)]
    after_bps: f64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Used {
    window_end: Option<jiff::Timestamp>,
}

impl Measured {
    /// Reads a run's folder.
    ///
    /// # Errors
    /// When a log is missing, malformed, or has a phase that is neither idle nor load.
    pub fn read(folder: &Path) -> Result<Self, Error> {
        let scenario: Scenario = serde_json::from_str(&text(&folder.join("scenario.json"))?)
            .map_err(|error| problem(folder, "scenario.json", &error))?;
        let marks = rows(folder, "phases.csv", |[at, word]| {
            Some((nanoseconds(at)?, word.to_owned()))
        })?;
        let Some((start, _)) = marks.first() else {
            return Err(problem(folder, "phases.csv", &"there is no phase"));
        };
        let start = *start;
        let seconds = |text: &str| Some(since(nanoseconds(text)?, start));
        let pods = (0..scenario.pods).map(endpoint).collect::<Vec<_>>();
        Ok(Self {
            name: name(folder),
            link_bps: scenario.link.rate_bps,
            fifo_bits: scenario.link.fifo_bytes * 8.0,
            flows: scenario.flows,
            phases: phases(folder, &marks, start)?,
            requests: requests(folder, start)?,
            queue: rows(
                folder,
                "bottleneck.csv",
                |[at, sent_bytes, _drops, backlog_bytes]| {
                    Some(Reading {
                        at: seconds(at)?,
                        sent_bits: number(sent_bytes)? * 8.0,
                        backlog_bits: number(backlog_bytes)? * 8.0,
                    })
                },
            )?,
            limits: limits(folder, start, &pods)?,
            critical_bits: critical_bits(folder)?,
            decisions: decisions(folder, start)?,
            pods,
        })
    }

    /// All phases in order.
    pub fn phases(&self) -> impl Iterator<Item = Phase> {
        self.phases.iter().copied()
    }

    /// Length of the run.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        self.phases.last().map_or(0.0, |phase| phase.to)
    }
}

/// The lab spreads its pods over three workloads in turn.
fn endpoint(index: usize) -> String {
    let workloads = ["telemetry-upload", "erp-dashboard", "background-traffic"];
    format!("{}-{}", workloads[index % 3], index / 3)
}

fn name(folder: &Path) -> String {
    let parts: Vec<_> = folder.iter().map(|part| part.to_string_lossy()).collect();
    parts[parts.len().saturating_sub(2)..].join("/")
}

fn phases(folder: &Path, marks: &[(u64, String)], start: u64) -> Result<Vec<Phase>, Error> {
    marks
        .windows(2)
        .map(|pair| {
            let is_load = match pair[0].1.as_str() {
                "load" => true,
                "idle" => false,
                other => {
                    let reason = format!("the plant knows idle and load, not {other:?}");
                    return Err(problem(folder, "phases.csv", &reason));
                }
            };
            Ok(Phase {
                from: since(pair[0].0, start),
                to: since(pair[1].0, start),
                is_load,
            })
        })
        .collect()
}

fn requests(folder: &Path, start: u64) -> Result<Vec<Request>, Error> {
    let mut requests = rows(
        folder,
        "requests.csv",
        |[at, latency_us, wire_us, outcome]| {
            let has_succeeded = outcome.len() == 3 && outcome.starts_with('2');
            Some(Request {
                sent: since(nanoseconds(at)?, start),
                latency_ms: if has_succeeded {
                    number(latency_us)? / 1e3
                } else {
                    FAILED_MS
                },
                wire_ms: number(wire_us).filter(|_| has_succeeded).map(|us| us / 1e3),
            })
        },
    )?;
    requests.retain(|request| request.sent >= 0.0);
    // They are logged in the order of their answers.
    requests.sort_by(|a, b| a.sent.total_cmp(&b.sent));
    Ok(requests)
}

fn limits(folder: &Path, start: u64, pods: &[String]) -> Result<Vec<Limit>, Error> {
    let all = rows(
        folder,
        "pods.csv",
        |[at, endpoint, _pod, _uid, action, bps, _annotation]| {
            let bps = match action {
                "limited" => Some(number(bps)?),
                "unlimited" => Some(f64::INFINITY),
                _ => None,
            };
            let pod = pods.iter().position(|name| name == endpoint);
            Some(bps.zip(pod).zip(Some(since(nanoseconds(at)?, start))))
        },
    )?;
    Ok(all
        .into_iter()
        .flatten()
        .map(|((bps, pod), at)| Limit { at, pod, bps })
        .collect())
}

fn critical_bits(folder: &Path) -> Result<f64, Error> {
    let sent = rows(
        folder,
        "traffic.csv",
        |[_at, endpoint, sent_bytes, _received]| {
            Some((endpoint == CRITICAL_CLIENT).then_some(number(sent_bytes)? * 8.0))
        },
    )?;
    let mut sent = sent.into_iter().flatten();
    let first = sent.next().unwrap_or(0.0);
    Ok(sent.last().unwrap_or(first) - first)
}

fn decisions(folder: &Path, start: u64) -> Result<Vec<Decided>, Error> {
    const FILE: &str = "decisions.jsonl";
    if !folder.join(FILE).exists() {
        return Ok(Vec::new());
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let seconds = |at: jiff::Timestamp| since(at.as_nanosecond().max(0) as u64, start);
    let mut decided = Vec::new();
    for line in text(&folder.join(FILE))?.lines() {
        let decision: Decision =
            serde_json::from_str(line).map_err(|error| problem(folder, FILE, &error))?;
        if decision.shadow {
            continue;
        }
        decided.push(Decided {
            at: seconds(decision.decided_at),
            window_end: decision
                .samples
                .iter()
                .filter_map(|used| used.window_end)
                .max()
                .map(seconds),
            changed_to_bps: decision
                .limits
                .first()
                .filter(|limit| (limit.after_bps - limit.before_bps).abs() > 0.5)
                .map(|limit| limit.after_bps),
        });
    }
    Ok(decided)
}

fn rows<const N: usize, T>(
    folder: &Path,
    file: &str,
    parse: impl Fn([&str; N]) -> Option<T>,
) -> Result<Vec<T>, Error> {
    text(&folder.join(file))?
        .lines()
        .enumerate()
        .skip(1)
        .map(|(index, line)| {
            let fields: Option<[&str; N]> = line.split(',').collect::<Vec<_>>().try_into().ok();
            fields.and_then(&parse).ok_or_else(|| {
                let reason = format!("line {}: {line:?} is no such row", index + 1);
                problem(folder, file, &reason)
            })
        })
        .collect()
}

fn text(path: &Path) -> Result<String, Error> {
    fs::read_to_string(path).map_err(|error| Error {
        path: path.to_owned(),
        problem: error.to_string(),
    })
}

fn problem(folder: &Path, file: &str, what: &impl fmt::Display) -> Error {
    Error {
        path: folder.join(file),
        problem: what.to_string(),
    }
}

fn nanoseconds(text: &str) -> Option<u64> {
    text.parse().ok()
}

fn number(text: &str) -> Option<f64> {
    text.parse().ok()
}

#[allow(clippy::cast_precision_loss)]
fn since(nanoseconds: u64, start: u64) -> f64 {
    if nanoseconds >= start {
        (nanoseconds - start) as f64 / 1e9
    } else {
        -((start - nanoseconds) as f64) / 1e9
    }
}
