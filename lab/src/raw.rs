//! The raw logs of a run: what is written down while it runs, and all that its score is computed from.
//!
//! Every file is CSV with a header line; times are nanoseconds since the Unix epoch. In an archive the files are compressed.

use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use flate2::read::MultiGzDecoder;

/// Now, as nanoseconds since the Unix epoch.
#[must_use]
pub fn unix_ns() -> u64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

/// A raw log cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file is not there or cannot be read or written.
    #[error("cannot use the raw log {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A line has another form than expected.
    #[error("{}, line {line}: {text:?} is no row of {columns}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What stands there.
        text: String,
        /// What should.
        columns: &'static str,
    },
}

/// One kind of row and the file it stands in.
pub trait Row: Sized {
    /// Name of the file in the folder of a run.
    const FILE: &'static str;
    /// The header line.
    const COLUMNS: &'static str;
    /// The row as text, without the end of line.
    fn line(&self) -> String;
    /// Reads what [`Row::line`] wrote; `None` for anything else.
    fn parse(line: &str) -> Option<Self>;
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The service answered with this status.
    Status(u16),
    /// No answer in time.
    Timeout,
    /// The connection failed.
    Error,
    /// Not sent: too many were waiting already.
    Overrun,
}

impl Outcome {
    /// Whether the request did what it was for.
    #[must_use]
    pub fn is_success(self) -> bool {
        matches!(self, Self::Status(200..=299))
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "{status}"),
            Self::Timeout => f.write_str("timeout"),
            Self::Error => f.write_str("error"),
            Self::Overrun => f.write_str("overrun"),
        }
    }
}

impl FromStr for Outcome {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "timeout" => Self::Timeout,
            "error" => Self::Error,
            "overrun" => Self::Overrun,
            status => Self::Status(status.parse()?),
        })
    }
}

/// One critical request, as the client saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// When it was meant to be sent.
    pub intended_ns: u64,
    /// From that moment to the end of the response, in microseconds; for a failed one, to the failure.
    pub latency_us: u64,
    /// From really sending it to the response's headers, in microseconds, which is what a proxy sees; 0 if failed.
    pub wire_us: u64,
    /// How it ended.
    pub outcome: Outcome,
}

impl Row for Request {
    const FILE: &'static str = "requests.csv";
    const COLUMNS: &'static str = "intended_ns,latency_us,wire_us,outcome";

    fn line(&self) -> String {
        let Self {
            intended_ns,
            latency_us,
            wire_us,
            outcome,
        } = self;
        format!("{intended_ns},{latency_us},{wire_us},{outcome}")
    }

    fn parse(line: &str) -> Option<Self> {
        let [intended_ns, latency_us, wire_us, outcome] = fields(line)?;
        Some(Self {
            intended_ns: intended_ns.parse().ok()?,
            latency_us: latency_us.parse().ok()?,
            wire_us: wire_us.parse().ok()?,
            outcome: outcome.parse().ok()?,
        })
    }
}

/// The beginning of a phase; the last row of a run is its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PhaseStart {
    /// When it began.
    pub unix_ns: u64,
    /// What begins.
    pub kind: PhaseKind,
}

/// What the best-effort pods do in a phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PhaseKind {
    /// They send nothing.
    Idle,
    /// They send all they can.
    Load,
    /// The run is over.
    End,
}

impl PhaseKind {
    /// The word in logs and tables.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Load => "load",
            Self::End => "end",
        }
    }
}

impl Row for PhaseStart {
    const FILE: &'static str = "phases.csv";
    const COLUMNS: &'static str = "unix_ns,phase";

    fn line(&self) -> String {
        format!("{},{}", self.unix_ns, self.kind.word())
    }

    fn parse(line: &str) -> Option<Self> {
        let [unix_ns, kind] = fields(line)?;
        Some(Self {
            unix_ns: unix_ns.parse().ok()?,
            kind: [PhaseKind::Idle, PhaseKind::Load, PhaseKind::End]
                .into_iter()
                .find(|candidate| candidate.word() == kind)?,
        })
    }
}

/// The byte counters of one endpoint's `eth0` at one moment, Ethernet headers included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Traffic {
    /// When they were read.
    pub unix_ns: u64,
    /// The endpoint: a best-effort pod, its sink, or one end of the critical traffic.
    pub endpoint: String,
    /// Sent since the start.
    pub tx_bytes: u64,
    /// Received since the start.
    pub rx_bytes: u64,
}

impl Row for Traffic {
    const FILE: &'static str = "traffic.csv";
    const COLUMNS: &'static str = "unix_ns,endpoint,tx_bytes,rx_bytes";

    fn line(&self) -> String {
        let Self {
            unix_ns,
            endpoint,
            tx_bytes,
            rx_bytes,
        } = self;
        format!("{unix_ns},{endpoint},{tx_bytes},{rx_bytes}")
    }

    fn parse(line: &str) -> Option<Self> {
        let [unix_ns, endpoint, tx_bytes, rx_bytes] = fields(line)?;
        Some(Self {
            unix_ns: unix_ns.parse().ok()?,
            endpoint: endpoint.to_owned(),
            tx_bytes: tx_bytes.parse().ok()?,
            rx_bytes: rx_bytes.parse().ok()?,
        })
    }
}

/// The bottleneck's queue at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Queue {
    /// When it was read.
    pub unix_ns: u64,
    /// Bytes sent since the start.
    pub sent_bytes: u64,
    /// Packets dropped since the start.
    pub drops: u64,
    /// Bytes waiting.
    pub backlog_bytes: u64,
}

impl Row for Queue {
    const FILE: &'static str = "bottleneck.csv";
    const COLUMNS: &'static str = "unix_ns,sent_bytes,drops,backlog_bytes";

    fn line(&self) -> String {
        let Self {
            unix_ns,
            sent_bytes,
            drops,
            backlog_bytes,
        } = self;
        format!("{unix_ns},{sent_bytes},{drops},{backlog_bytes}")
    }

    fn parse(line: &str) -> Option<Self> {
        let [unix_ns, sent_bytes, drops, backlog_bytes] = fields(line)?;
        Some(Self {
            unix_ns: unix_ns.parse().ok()?,
            sent_bytes: sent_bytes.parse().ok()?,
            drops: drops.parse().ok()?,
            backlog_bytes: backlog_bytes.parse().ok()?,
        })
    }
}

/// Something the node stand-in did to a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodEvent {
    /// When the kernel or the API had confirmed it.
    pub unix_ns: u64,
    /// The endpoint the pod runs on.
    pub endpoint: String,
    /// The pod's name in the API.
    pub pod: String,
    /// The pod's uid; another one is another pod.
    pub uid: String,
    /// What was done.
    pub action: PodAction,
    /// The annotation as read, `-` if there is none.
    pub annotation: String,
}

/// What the node stand-in does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PodAction {
    /// Marked it running.
    Started,
    /// Limits its egress to this many bits per second from now on.
    Limited(u64),
    /// Lets it send without limit from now on.
    Unlimited,
    /// It is gone.
    Gone,
}

impl Row for PodEvent {
    const FILE: &'static str = "pods.csv";
    const COLUMNS: &'static str = "unix_ns,endpoint,pod,uid,action,bits_per_second,annotation";

    fn line(&self) -> String {
        let (word, bits) = match self.action {
            PodAction::Started => ("started", String::new()),
            PodAction::Limited(bits) => ("limited", bits.to_string()),
            PodAction::Unlimited => ("unlimited", String::new()),
            PodAction::Gone => ("gone", String::new()),
        };
        // The annotation is anybody's text: what would break the table is replaced.
        let annotation = self
            .annotation
            .replace(|letter: char| letter == ',' || letter.is_control(), "?");
        let Self {
            unix_ns,
            endpoint,
            pod,
            uid,
            ..
        } = self;
        format!("{unix_ns},{endpoint},{pod},{uid},{word},{bits},{annotation}")
    }

    fn parse(line: &str) -> Option<Self> {
        let [unix_ns, endpoint, pod, uid, word, bits, annotation] = fields(line)?;
        Some(Self {
            unix_ns: unix_ns.parse().ok()?,
            endpoint: endpoint.to_owned(),
            pod: pod.to_owned(),
            uid: uid.to_owned(),
            action: match word {
                "started" => PodAction::Started,
                "limited" => PodAction::Limited(bits.parse().ok()?),
                "unlimited" => PodAction::Unlimited,
                "gone" => PodAction::Gone,
                _ => return None,
            },
            annotation: annotation.to_owned(),
        })
    }
}

/// What a process of Laneguard has used up to one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Footprint {
    /// When it was read.
    pub unix_ns: u64,
    /// The service.
    pub service: String,
    /// Processor time since its start, in milliseconds.
    pub cpu_ms: u64,
    /// Resident memory, in bytes.
    pub rss_bytes: u64,
}

impl Row for Footprint {
    const FILE: &'static str = "footprint.csv";
    const COLUMNS: &'static str = "unix_ns,service,cpu_ms,rss_bytes";

    fn line(&self) -> String {
        let Self {
            unix_ns,
            service,
            cpu_ms,
            rss_bytes,
        } = self;
        format!("{unix_ns},{service},{cpu_ms},{rss_bytes}")
    }

    fn parse(line: &str) -> Option<Self> {
        let [unix_ns, service, cpu_ms, rss_bytes] = fields(line)?;
        Some(Self {
            unix_ns: unix_ns.parse().ok()?,
            service: service.to_owned(),
            cpu_ms: cpu_ms.parse().ok()?,
            rss_bytes: rss_bytes.parse().ok()?,
        })
    }
}

/// A processor that stood still: a thread of the highest priority that was granted woke up late on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stall {
    /// When it woke.
    pub unix_ns: u64,
    /// The processor's number.
    pub processor: u16,
    /// By how much it was late, in microseconds.
    pub late_us: u64,
}

impl Row for Stall {
    const FILE: &'static str = "stalls.csv";
    const COLUMNS: &'static str = "unix_ns,processor,late_us";

    fn line(&self) -> String {
        let Self {
            unix_ns,
            processor,
            late_us,
        } = self;
        format!("{unix_ns},{processor},{late_us}")
    }

    fn parse(line: &str) -> Option<Self> {
        let [unix_ns, processor, late_us] = fields(line)?;
        Some(Self {
            unix_ns: unix_ns.parse().ok()?,
            processor: processor.parse().ok()?,
            late_us: late_us.parse().ok()?,
        })
    }
}

/// How much processor time the whole machine has spent up to one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Machine {
    /// When it was read.
    pub unix_ns: u64,
    /// Busy, on all cores together, in milliseconds; time that a hypervisor took counts as busy.
    pub busy_ms: u64,
    /// Busy and idle, on all cores together, in milliseconds.
    pub total_ms: u64,
}

impl Row for Machine {
    const FILE: &'static str = "machine.csv";
    const COLUMNS: &'static str = "unix_ns,busy_ms,total_ms";

    fn line(&self) -> String {
        let Self {
            unix_ns,
            busy_ms,
            total_ms,
        } = self;
        format!("{unix_ns},{busy_ms},{total_ms}")
    }

    fn parse(line: &str) -> Option<Self> {
        let [unix_ns, busy_ms, total_ms] = fields(line)?;
        Some(Self {
            unix_ns: unix_ns.parse().ok()?,
            busy_ms: busy_ms.parse().ok()?,
            total_ms: total_ms.parse().ok()?,
        })
    }
}

fn fields<const N: usize>(line: &str) -> Option<[&str; N]> {
    line.split(',').collect::<Vec<_>>().try_into().ok()
}

/// Writes rows of one kind; each batch is on disk, as far as the kernel is concerned, when the call returns.
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    file: BufWriter<File>,
}

impl Writer {
    /// Creates the file for rows of kind `R` in the folder of a run.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn create<R: Row>(run: &Path) -> Result<Self, Error> {
        let path = run.join(R::FILE);
        let file = File::create(&path).map_err(|source| Error::Io {
            path: path.clone(),
            source,
        })?;
        let mut writer = Self {
            path,
            file: BufWriter::new(file),
        };
        writer.put(R::COLUMNS)?;
        writer.flush()?;
        Ok(writer)
    }

    /// Appends rows.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write<'a, R: Row + 'a>(
        &mut self,
        rows: impl IntoIterator<Item = &'a R>,
    ) -> Result<(), Error> {
        for row in rows {
            self.put(&row.line())?;
        }
        self.flush()
    }

    fn put(&mut self, line: &str) -> Result<(), Error> {
        let written = writeln!(self.file, "{line}");
        self.checked(written)
    }

    fn flush(&mut self) -> Result<(), Error> {
        let flushed = self.file.flush();
        self.checked(flushed)
    }

    fn checked(&self, result: io::Result<()>) -> Result<(), Error> {
        result.map_err(|source| Error::Io {
            path: self.path.clone(),
            source,
        })
    }
}

/// Ending of a compressed raw log's name, after its own.
pub const COMPRESSED: &str = ".gz";

/// The text of a raw log, plain or compressed with gzip under the same name with `.gz` at its end.
///
/// # Errors
/// When neither file can be read.
pub fn text(path: &Path) -> Result<String, Error> {
    let failed = |path: &Path, source| Error::Io {
        path: path.to_owned(),
        source,
    };
    match std::fs::read_to_string(path) {
        Err(source) if source.kind() == io::ErrorKind::NotFound => {
            let mut packed = path.as_os_str().to_owned();
            packed.push(COMPRESSED);
            let packed = PathBuf::from(packed);
            // Without either file, the plain name is the one to tell.
            let file = File::open(&packed).map_err(|_| failed(path, source))?;
            let mut text = String::new();
            MultiGzDecoder::new(file)
                .read_to_string(&mut text)
                .map_err(|source| failed(&packed, source))?;
            Ok(text)
        }
        read => read.map_err(|source| failed(path, source)),
    }
}

/// Reads all rows of one kind from the folder of a run.
///
/// # Errors
/// When the file cannot be read or a line is not of that kind.
pub fn read<R: Row>(run: &Path) -> Result<Vec<R>, Error> {
    let path = run.join(R::FILE);
    let text = text(&path)?;
    text.lines()
        .enumerate()
        .skip(1)
        .map(|(index, line)| {
            R::parse(line).ok_or_else(|| Error::Malformed {
                path: path.clone(),
                line: index + 1,
                text: line.to_owned(),
                columns: R::COLUMNS,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip<R: Row + PartialEq + fmt::Debug>(row: R) {
        assert_eq!(R::parse(&row.line()), Some(row));
    }

    #[test]
    fn every_row_reads_back_as_it_was_written() {
        for outcome in [
            Outcome::Status(200),
            Outcome::Timeout,
            Outcome::Error,
            Outcome::Overrun,
        ] {
            round_trip(Request {
                intended_ns: 1_700_000_000_000_000_000,
                latency_us: 1_234,
                wire_us: 1_200,
                outcome,
            });
        }
        for kind in [PhaseKind::Idle, PhaseKind::Load, PhaseKind::End] {
            round_trip(PhaseStart { unix_ns: 5, kind });
        }
        round_trip(Traffic {
            unix_ns: 5,
            endpoint: "sink-0".to_owned(),
            tx_bytes: 1,
            rx_bytes: 2,
        });
        round_trip(Queue {
            unix_ns: 5,
            sent_bytes: 6,
            drops: 7,
            backlog_bytes: 8,
        });
        round_trip(Footprint {
            unix_ns: 5,
            service: "decider".to_owned(),
            cpu_ms: 40,
            rss_bytes: 20_000_000,
        });
        round_trip(Stall {
            unix_ns: 5,
            processor: 1,
            late_us: 12_345,
        });
        round_trip(Machine {
            unix_ns: 5,
            busy_ms: 6,
            total_ms: 7,
        });
        for action in [
            PodAction::Started,
            PodAction::Limited(14_375_000),
            PodAction::Unlimited,
            PodAction::Gone,
        ] {
            round_trip(PodEvent {
                unix_ns: 5,
                endpoint: "erp-dashboard-0".to_owned(),
                pod: "erp-dashboard-x".to_owned(),
                uid: "u".to_owned(),
                action,
                annotation: "115M".to_owned(),
            });
        }
    }

    #[test]
    fn a_hostile_annotation_cannot_break_the_table() {
        let line = PodEvent {
            unix_ns: 5,
            endpoint: "e".to_owned(),
            pod: "p".to_owned(),
            uid: "u".to_owned(),
            action: PodAction::Unlimited,
            annotation: "1,2\n3".to_owned(),
        }
        .line();
        assert_eq!(PodEvent::parse(&line).unwrap().annotation, "1?2?3");
    }

    #[test]
    fn a_compressed_log_reads_as_the_plain_one() {
        let run = tempfile::tempdir().unwrap();
        let file = File::create(run.path().join("phases.csv.gz")).unwrap();
        let mut packed = flate2::write::GzEncoder::new(file, flate2::Compression::default());
        packed.write_all(b"unix_ns,phase\n7,load\n").unwrap();
        packed.finish().unwrap();
        let rows = read::<PhaseStart>(run.path()).unwrap();
        assert_eq!((rows.len(), rows[0].unix_ns), (1, 7));
        let error = read::<Machine>(run.path()).unwrap_err().to_string();
        assert!(error.ends_with("machine.csv"), "{error}");
    }

    #[test]
    fn a_broken_line_is_named() {
        let run = tempfile::tempdir().unwrap();
        std::fs::write(run.path().join("phases.csv"), "unix_ns,phase\n1,idle\n2\n").unwrap();
        let error = read::<PhaseStart>(run.path()).unwrap_err().to_string();
        assert!(error.contains("line 3"), "{error}");
    }

    #[test]
    fn only_success_statuses_are_successes() {
        assert!(Outcome::Status(204).is_success());
        assert!(!Outcome::Status(503).is_success());
        assert!(!Outcome::Overrun.is_success());
    }
}
