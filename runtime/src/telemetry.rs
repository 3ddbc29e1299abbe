//! Logs to standard error, traces over OTLP, and trace context in message headers.

use std::io::IsTerminal as _;

use async_nats::HeaderMap;
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator};
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::filter::{EnvFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry};

use crate::args::{CommonArgs, LogFormat};
use crate::failure::ConfigError;

/// Flushes spans when the process ends.
#[derive(Debug)]
pub struct Telemetry(Option<SdkTracerProvider>);

/// Spans of these targets are exported, whatever is logged.
const TRACED: [&str; 5] = [
    "laneguard_runtime",
    "laneguard_collector",
    "laneguard_decider",
    "laneguard_actuator",
    "lanectl",
];

/// Sets up logs, and traces if an OTLP endpoint is named in the environment. Must be called within a tokio runtime, once.
///
/// # Errors
/// When the log directives or the OTLP settings cannot be used.
pub fn init(service: &'static str, args: &CommonArgs) -> Result<Telemetry, ConfigError> {
    let filter = EnvFilter::try_new(&args.log).map_err(|e| ConfigError::new("RUST_LOG", e))?;
    let lines = tracing_subscriber::fmt::layer()
        // colours are for a terminal, not for a file or a log collector
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    let lines: Box<dyn Layer<Registry> + Send + Sync> = match args.log_format {
        LogFormat::Text => lines.with_filter(filter).boxed(),
        LogFormat::Json => lines
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .with_filter(filter)
            .boxed(),
    };
    let provider = exporter(service, args)?;
    let spans = provider.as_ref().map(|provider| {
        tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("laneguard"))
            .with_filter(
                Targets::new().with_targets(TRACED.map(|target| (target, tracing::Level::DEBUG))),
            )
    });
    tracing_subscriber::registry()
        .with(lines)
        .with(spans)
        .try_init()
        .map_err(|e| ConfigError::new("RUST_LOG", e))?;
    Ok(Telemetry(provider))
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn exporter(
    service: &'static str,
    args: &CommonArgs,
) -> Result<Option<SdkTracerProvider>, ConfigError> {
    let disabled = variable("OTEL_SDK_DISABLED").is_some_and(|v| v.eq_ignore_ascii_case("true"))
        || variable("OTEL_TRACES_EXPORTER").is_some_and(|v| v == "none");
    let endpoint = [
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
    ]
    .into_iter()
    .find(|name| variable(name).is_some());
    let Some(setting) = endpoint.filter(|_| !disabled) else {
        return Ok(None);
    };
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_tonic()
        .build()
        .map_err(|e| ConfigError::new(setting, e))?;
    let name = variable("OTEL_SERVICE_NAME").unwrap_or_else(|| service.to_owned());
    let resource = Resource::builder()
        .with_service_name(name)
        .with_attributes([
            opentelemetry::KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            opentelemetry::KeyValue::new("k8s.cluster.name", args.cluster.to_string()),
        ])
        .build();
    Ok(Some(
        SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_resource(resource)
            .build(),
    ))
}

impl Telemetry {
    /// Sends what is left. Blocks for at most the exporter's timeout.
    pub fn flush(self) {
        if let Some(Err(error)) = self.0.map(|provider| provider.shutdown()) {
            tracing::warn!(%error, "some spans were not sent");
        }
    }
}

struct Headers<'a>(&'a mut HeaderMap);

impl Injector for Headers<'_> {
    fn set(&mut self, key: &str, value: String) {
        if !value.is_empty() {
            self.0.insert(key, value.as_str());
        }
    }
}

struct ReadHeaders<'a>(&'a HeaderMap);

impl Extractor for ReadHeaders<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(|value| value.as_str())
    }

    fn keys(&self) -> Vec<&str> {
        vec!["traceparent", "tracestate"]
    }
}

/// Writes the span's context as `traceparent` and `tracestate`.
pub fn inject(span: &tracing::Span, headers: &mut HeaderMap) {
    TraceContextPropagator::new().inject_context(&span.context(), &mut Headers(headers));
}

/// Reads the context that [`inject`] wrote; an empty one when there is none.
pub fn extract(headers: Option<&HeaderMap>) -> opentelemetry::Context {
    headers.map_or_else(opentelemetry::Context::new, |headers| {
        TraceContextPropagator::new().extract(&ReadHeaders(headers))
    })
}
