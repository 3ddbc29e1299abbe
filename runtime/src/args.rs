//! Flags that every service has, each with its environment twin.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use laneguard_proto::codec::Encoding;
use laneguard_proto::subject::Token;

/// How to reach NATS.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "NATS")]
pub struct NatsArgs {
    /// Where NATS is: one URL or several with commas, nats:// or tls://
    #[arg(
        long,
        env = "NATS_URL",
        default_value = "nats://127.0.0.1:4222",
        value_name = "URL"
    )]
    pub nats_url: String,
    /// Credentials file (JWT and nkey seed) [default: none]
    #[arg(long, env = "NATS_CREDS", value_name = "FILE")]
    pub nats_creds: Option<PathBuf>,
    /// Certificates (PEM) to trust beside the system's [default: none]
    #[arg(long, env = "NATS_CA", value_name = "FILE")]
    pub nats_ca: Option<PathBuf>,
    /// Copies of each stream and bucket, 1 to 5; more than 1 needs a NATS cluster
    #[arg(long, env = "NATS_REPLICAS", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=5), value_name = "COUNT")]
    pub nats_replicas: u8,
    /// Create missing streams and buckets; false only verifies them
    #[arg(long, env = "NATS_MANAGE_STREAMS", default_value_t = true, action = clap::ArgAction::Set, value_name = "BOOL")]
    pub nats_manage_streams: bool,
}

/// What every process has.
#[derive(Debug, Clone, Args)]
pub struct CommonArgs {
    /// How to reach NATS.
    #[command(flatten)]
    pub nats: NatsArgs,
    /// Name of this Kubernetes cluster in subjects and keys
    #[arg(
        long,
        help_heading = "Process",
        env = "CLUSTER",
        default_value = "default",
        value_name = "NAME"
    )]
    pub cluster: Token,
    /// What is logged, as in tracing's directives: info, debug, laneguard_decider=debug
    #[arg(
        long,
        help_heading = "Process",
        env = "RUST_LOG",
        default_value = "info",
        value_name = "DIRECTIVES"
    )]
    pub log: String,
    /// How it is logged
    #[arg(
        long,
        help_heading = "Process",
        env = "LOG_FORMAT",
        default_value = "text",
        value_name = "FORMAT"
    )]
    pub log_format: LogFormat,
}

/// How messages are written.
#[derive(Debug, Clone, Args)]
pub struct ProducerArgs {
    /// How messages are encoded: protobuf or json; both are always read
    #[arg(
        long,
        help_heading = "Process",
        env = "MESSAGE_ENCODING",
        default_value = "protobuf",
        value_name = "ENCODING"
    )]
    pub message_encoding: Encoding,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Gives the shell what it needs from a service's flags.
pub trait HasCommon {
    /// The common flags.
    fn common(&self) -> &CommonArgs;
}
