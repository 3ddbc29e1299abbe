//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use laneguard_runtime::args::CommonArgs;

/// Laneguard's command line: policies, decisions, and the hand brake.
#[derive(Debug, Parser)]
#[command(name = "lanectl", version, arg_required_else_help = true)]
pub struct Args {
    /// What every process has.
    #[command(flatten)]
    pub common: CommonArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create, show and delete policies
    #[command(subcommand)]
    Policy(Policy),
    /// Print decisions as they are made
    Watch {
        /// Only this policy: namespace/name, a name with -n, or `default` for the environment's
        #[arg(value_name = "POLICY")]
        policy: Option<String>,
        /// The policy's namespace [default: default]
        #[arg(short, long, value_name = "NAMESPACE")]
        namespace: Option<String>,
        /// How decisions are printed: a line for people, or a line of proto3 JSON
        #[arg(short, long, default_value = "text", value_name = "FORMAT")]
        output: Stream,
        /// Begin with decisions made this long ago, such as 10m [default: only new ones]
        #[arg(long, value_parser = laneguard_proto::duration::parse, value_name = "DURATION")]
        since: Option<Duration>,
    },
    /// Say in plain sentences what a decision saw, concluded and changed, what the law has learned, and what can be done
    Explain(Explain),
    /// Save policies, samples, decisions, commands and outcomes in one file, for replay and explain
    Record(Record),
    /// Run any control law over a record, and compare it with the recorded one in numbers and plots
    Replay(Replay),
    /// Put the law in force, its shadows (`control.shadow`) and no control side by side: what to read in Observe mode before enforcing
    ///
    /// For each law: what it allowed all best-effort pods together (mean, least), the share of time in which it cut, changes a minute, violating windows,
    /// and, as estimates against no control, violations avoided and goodput lost.
    Compare(Compare),
    /// Give the pods back what was found before us, and touch them no more until `resume`
    Release(Named),
    /// Enforce a released policy again
    Resume(Named),
    /// Evaluate recorded decisions again from their own inputs; exits 1 if one comes out otherwise
    #[command(group = clap::ArgGroup::new("source").required(true))]
    Verify {
        /// A record, or decisions as lines of proto3 JSON; - for standard input
        #[arg(group = "source", value_name = "FILE")]
        file: Option<PathBuf>,
        /// The decisions that the stream still has
        #[arg(long, group = "source")]
        stream: bool,
        /// With --stream: only decisions made at most this long ago
        #[arg(long, default_value = "7days", value_parser = laneguard_proto::duration::parse, value_name = "DURATION")]
        since: Duration,
    },
}

/// Which decision to explain, and from where.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("which"))]
pub struct Explain {
    /// namespace/name, a name with -n, or `default` for the environment's; with --file the only one in it if left out
    #[arg(value_name = "POLICY", required_unless_present = "file")]
    pub policy: Option<String>,
    /// The policy's namespace [default: default]
    #[arg(short, long, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// The decision in force then: 2026-11-24T03:00:00Z, or how long ago, such as 10m [default: the last that changed a limit]
    #[arg(long, group = "which", value_parser = crate::explain::parse_at, value_name = "TIME")]
    pub at: Option<i64>,
    /// The decision with this sequence [default: the last that changed a limit]
    #[arg(long, group = "which", value_name = "NUMBER")]
    pub sequence: Option<u64>,
    /// A record, or decisions as lines of proto3 JSON; - for standard input [default: what the stream still has]
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// From the stream: only decisions made at most this long ago
    #[arg(long, default_value = "7days", value_parser = laneguard_proto::duration::parse, value_name = "DURATION")]
    pub since: Duration,
    /// How it is printed: text for people, or JSON
    #[arg(short, long, default_value = "text", value_name = "FORMAT")]
    pub output: Stream,
}

/// What to record, and where to.
#[derive(Debug, clap::Args)]
pub struct Record {
    /// Only this policy: namespace/name, a name with -n, or `default` for the environment's
    #[arg(value_name = "POLICY")]
    pub policy: Option<String>,
    /// The policy's namespace [default: default]
    #[arg(short, long, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// The file, which must not be there yet; - for standard output
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// Begin with what was stored this long ago, such as 10m; samples are kept for an hour [default: only new messages]
    #[arg(long, value_parser = laneguard_proto::duration::parse, value_name = "DURATION")]
    pub since: Option<Duration>,
    /// End after this time; 0s: with what is stored already [default: until Ctrl-C]
    #[arg(long = "for", value_parser = laneguard_proto::duration::parse, value_name = "DURATION")]
    pub length: Option<Duration>,
}

/// What to replay, and how.
#[derive(Debug, clap::Args)]
pub struct Replay {
    /// A record, or decisions as lines of proto3 JSON; - for standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// The law that is replayed [default: the recorded one, which comes out identical]
    #[arg(long, value_parser = clap::builder::PossibleValuesParser::new(crate::replay::law::NAMES), value_name = "NAME")]
    pub law: Option<String>,
    /// A parameter of the law, such as cooldown_ms=10s or link_bps=200M; again for each [default: the recorded ones, or the law's own]
    #[arg(long, value_parser = crate::replay::law::parse_setting, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<crate::replay::law::Setting>,
    /// Only this policy: namespace/name or `default` [default: the only one in the file]
    #[arg(long, value_name = "NAMESPACE/NAME")]
    pub policy: Option<String>,
    /// Also write the comparison with its plots as one HTML page [default: none]
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Width of the plots, 40 to 400 [default: the terminal's, or 100]
    #[arg(long, value_name = "COLUMNS")]
    pub width: Option<u16>,
}

/// Which laws to compare, and over which time.
#[derive(Debug, clap::Args)]
pub struct Compare {
    /// Which policy.
    #[command(flatten)]
    pub named: Named,
    /// From a record, or decisions as lines of proto3 JSON; - for standard input [default: what the stream still has]
    #[arg(value_name = "FILE", conflicts_with = "since")]
    pub file: Option<PathBuf>,
    /// From the stream: only decisions made at most this long ago
    #[arg(long, default_value = "1h", value_parser = laneguard_proto::duration::parse, value_name = "DURATION")]
    pub since: Duration,
    /// How it is printed: a table for people, or JSON
    #[arg(short, long, default_value = "text", value_name = "FORMAT")]
    pub output: Stream,
}

/// What to do with policies.
#[derive(Debug, Subcommand)]
pub enum Policy {
    /// Create or change policies: whole QosPolicy objects in YAML or JSON, several in one file if need be
    Apply {
        /// The file; - for standard input
        #[arg(short, long, value_name = "FILE")]
        file: PathBuf,
    },
    /// Show a policy
    Get {
        /// Which one.
        #[command(flatten)]
        named: Named,
        /// How it is printed
        #[arg(short, long, default_value = "yaml", value_name = "FORMAT")]
        output: Format,
    },
    /// Show all policies
    List {
        /// How they are printed
        #[arg(short, long, default_value = "table", value_name = "FORMAT")]
        output: Format,
    },
    /// Delete a policy; its pods get back what was found before us
    Delete(Named),
}

/// Names a policy.
#[derive(Debug, clap::Args)]
pub struct Named {
    /// namespace/name, a name with -n, or `default` for the environment's
    #[arg(value_name = "POLICY")]
    pub policy: String,
    /// The policy's namespace [default: default]
    #[arg(short, long, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
}

/// How objects are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A QosPolicy object that `apply` takes.
    Yaml,
    /// The same as JSON.
    Json,
    /// A line each.
    Table,
}

/// How a stream is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Stream {
    /// A line for people.
    Text,
    /// A line of proto3 JSON.
    Json,
}
