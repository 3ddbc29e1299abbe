//! Flags with their environment twins, and the configuration they make.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use laneguard_proto::duration;
use laneguard_runtime::ConfigError;
use laneguard_runtime::args::{CommonArgs, HasCommon, NatsArgs, ProducerArgs};
use reqwest::Url;

use crate::prometheus::Server;
use crate::query::is_metric_name;

/// Turns telemetry in Prometheus into samples on NATS, one per critical workload and poll
#[derive(Debug, Clone, Parser)]
#[command(name = "laneguard-collector", version)]
pub struct Args {
    /// What every process has.
    #[command(flatten)]
    pub common: CommonArgs,
    /// How messages are written.
    #[command(flatten)]
    pub producer: ProducerArgs,
    /// Where /livez, /readyz and /metrics are served
    #[arg(
        long,
        env = "ADMIN_ADDR",
        default_value = "127.0.0.1:8081",
        value_name = "ADDRESS"
    )]
    pub admin_addr: SocketAddr,
    /// Where Prometheus' HTTP API is: http:// or https://, with path prefix and user:password@ if need be
    #[arg(
        long,
        env = "PROMETHEUS_URL",
        default_value = "http://prometheus.monitoring:9090",
        value_name = "URL",
        help_heading = "Prometheus"
    )]
    pub prometheus_url: String,
    /// Certificates (PEM) to trust instead of the system's, for https:// [default: none]
    #[arg(
        long,
        env = "PROMETHEUS_CA",
        value_name = "FILE",
        help_heading = "Prometheus"
    )]
    pub prometheus_ca: Option<PathBuf>,
    /// How often to ask, 100ms to 1m
    #[arg(
        long,
        env = "POLL_INTERVAL",
        default_value = "1s",
        value_parser = duration::parse,
        value_name = "DURATION",
        help_heading = "Prometheus"
    )]
    pub poll_interval: Duration,
    /// How long all queries of a poll may take together, 50ms to 1m; a poll that takes longer than the interval skips the next ones
    #[arg(
        long,
        env = "PROMETHEUS_TIMEOUT",
        default_value = "2s",
        value_parser = duration::parse,
        value_name = "DURATION",
        help_heading = "Prometheus"
    )]
    pub prometheus_timeout: Duration,
    /// How many queries run at the same time, 1 to 256
    #[arg(
        long,
        env = "PROMETHEUS_CONCURRENCY",
        default_value_t = 8,
        value_parser = clap::value_parser!(u16).range(1..=256),
        value_name = "COUNT",
        help_heading = "Prometheus"
    )]
    pub prometheus_concurrency: u16,
    /// Histogram of request durations in seconds
    #[arg(
        long,
        env = "LATENCY_METRIC",
        default_value = "hubble_http_request_duration_seconds",
        value_name = "METRIC",
        help_heading = "Prometheus"
    )]
    pub latency_metric: String,
    /// Counter of dropped packets
    #[arg(
        long,
        env = "DROP_METRIC",
        default_value = "hubble_drop_total",
        value_name = "METRIC",
        help_heading = "Prometheus"
    )]
    pub drop_metric: String,
    /// Counter of flows
    #[arg(
        long,
        env = "FLOW_METRIC",
        default_value = "hubble_flows_processed_total",
        value_name = "METRIC",
        help_heading = "Prometheus"
    )]
    pub flow_metric: String,
    /// Counter of bytes that a pod's interface sent
    #[arg(
        long,
        env = "USAGE_METRIC",
        default_value = "container_network_transmit_bytes_total",
        value_name = "METRIC",
        help_heading = "Prometheus"
    )]
    pub usage_metric: String,
}

impl HasCommon for Args {
    fn common(&self) -> &CommonArgs {
        &self.common
    }
}

/// Names of the metrics that are asked for, each fit to stand in PromQL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// Histogram of request durations.
    pub latency: String,
    /// Counter of drops.
    pub drops: String,
    /// Counter of flows.
    pub flows: String,
    /// Counter of sent bytes.
    pub usage: String,
}

/// Validated settings.
#[derive(Debug, Clone)]
pub struct Config {
    /// How to reach NATS.
    pub nats: NatsArgs,
    /// How messages are written.
    pub producer: ProducerArgs,
    /// Where the admin endpoint listens.
    pub admin_addr: SocketAddr,
    /// How to reach Prometheus.
    pub prometheus: Server,
    /// How often to poll.
    pub poll_interval: Duration,
    /// How long all queries of a poll may take together.
    pub timeout: Duration,
    /// How many queries run at the same time.
    pub concurrency: usize,
    /// What is asked for.
    pub names: Names,
}

fn within(
    setting: &str,
    value: Duration,
    range: RangeInclusive<Duration>,
) -> Result<Duration, ConfigError> {
    if range.contains(&value) {
        return Ok(value);
    }
    let text = duration::format;
    let (least, most) = (text(*range.start()), text(*range.end()));
    Err(ConfigError::new(
        setting,
        format!("{} is not between {least} and {most}", text(value)),
    ))
}

fn metric(setting: &str, name: String) -> Result<String, ConfigError> {
    if is_metric_name(&name) {
        Ok(name)
    } else {
        Err(ConfigError::new(
            setting,
            format!("`{name}` is not a metric's name"),
        ))
    }
}

fn url(text: &str) -> Result<Url, ConfigError> {
    // the text is not repeated: it may hold a password
    let refuse = |reason: &dyn std::fmt::Display| {
        ConfigError::new(
            "PROMETHEUS_URL",
            format!("is not a URL such as http://prometheus.monitoring:9090: {reason}"),
        )
    };
    let url: Url = text.parse().map_err(|e| refuse(&e))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(refuse(&format!("its scheme is `{}`", url.scheme())));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(refuse(&"it has a query or fragment"));
    }
    Ok(url)
}

impl TryFrom<Args> for Config {
    type Error = ConfigError;

    fn try_from(args: Args) -> Result<Self, ConfigError> {
        let Args {
            common,
            producer,
            admin_addr,
            prometheus_url,
            prometheus_ca,
            poll_interval,
            prometheus_timeout,
            prometheus_concurrency,
            latency_metric,
            drop_metric,
            flow_metric,
            usage_metric,
        } = args;
        let ca = prometheus_ca
            .map(|file| {
                std::fs::read(&file).map_err(|e| {
                    ConfigError::new("PROMETHEUS_CA", format!("{}: {e}", file.display()))
                })
            })
            .transpose()?;
        let minute = Duration::from_secs(60);
        Ok(Self {
            nats: common.nats,
            producer,
            admin_addr,
            prometheus: Server {
                url: url(&prometheus_url)?,
                ca,
            },
            poll_interval: within(
                "POLL_INTERVAL",
                poll_interval,
                Duration::from_millis(100)..=minute,
            )?,
            timeout: within(
                "PROMETHEUS_TIMEOUT",
                prometheus_timeout,
                Duration::from_millis(50)..=minute,
            )?,
            concurrency: prometheus_concurrency.into(),
            names: Names {
                latency: metric("LATENCY_METRIC", latency_metric)?,
                drops: metric("DROP_METRIC", drop_metric)?,
                flows: metric("FLOW_METRIC", flow_metric)?,
                usage: metric("USAGE_METRIC", usage_metric)?,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(flags: &[&str]) -> Result<Config, ConfigError> {
        let flags = std::iter::once("laneguard-collector").chain(flags.iter().copied());
        Config::try_from(Args::try_parse_from(flags).unwrap())
    }

    #[test]
    fn the_defaults_are_the_documented_ones() {
        let config = config(&[]).unwrap();
        assert_eq!(
            config.prometheus.url.as_str(),
            "http://prometheus.monitoring:9090/"
        );
        assert_eq!(config.poll_interval, Duration::from_secs(1));
        assert_eq!(config.admin_addr.port(), 8081);
    }

    #[test]
    fn a_bad_setting_is_named_with_the_reason() {
        for (flags, setting) in [
            (["--prometheus-url", "prometheus:9090"], "PROMETHEUS_URL"),
            (["--prometheus-url", "http://"], "PROMETHEUS_URL"),
            (["--prometheus-url", "http://x/?query=up"], "PROMETHEUS_URL"),
            (["--prometheus-ca", "/nonexistent"], "PROMETHEUS_CA"),
            (["--poll-interval", "10ms"], "POLL_INTERVAL"),
            (["--prometheus-timeout", "2h"], "PROMETHEUS_TIMEOUT"),
            (["--latency-metric", "up{}"], "LATENCY_METRIC"),
        ] {
            let error = config(&flags).unwrap_err();
            assert_eq!(error.setting, setting);
            assert_eq!(error.to_string().lines().count(), 1, "{error}");
        }
    }

    #[test]
    fn a_password_in_the_url_is_not_repeated() {
        let error = config(&["--prometheus-url", "ftp://me:secret@host/"]).unwrap_err();
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}
