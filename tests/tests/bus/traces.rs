use std::sync::{Arc, Mutex};

use laneguard_proto::codec::Encoding;
use laneguard_proto::subject::Kind;
use laneguard_proto::v1::Sample;
use laneguard_runtime::args::{CommonArgs, LogFormat};
use laneguard_runtime::bus::{Publish, Start};
use laneguard_runtime::telemetry;
use laneguard_tests::broker::{Broker, nats_args};
use laneguard_tests::wait::{soon, until};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::trace::v1::Span;
use tracing::Instrument;

use super::{SAMPLE, sample};

#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<Span>>>);

#[tonic::async_trait]
impl TraceService for Sink {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        let spans = request.into_inner().resource_spans.into_iter();
        let spans = spans.flat_map(|r| r.scope_spans).flat_map(|s| s.spans);
        self.0.lock().unwrap().extend(spans);
        Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
    }
}

/// The only test of this binary that sets up telemetry, which is global to the process.
#[tokio::test(flavor = "multi_thread")]
async fn a_trace_crosses_nats_and_reaches_an_otlp_sink() {
    let endpoint = std::env::var("OTEL_EXPORTER_OTLP_ENDPOINT");
    let Ok(endpoint) = endpoint else {
        // the exporter reads its endpoint from the environment, which a process may only set for a child
        return rerun_with_endpoint().await;
    };
    let sink = Sink::default();
    let address = endpoint.trim_start_matches("http://").parse().unwrap();
    let server =
        tonic::transport::Server::builder().add_service(TraceServiceServer::new(sink.clone()));
    tokio::spawn(server.serve(address));

    let broker = Broker::start().await.unwrap();
    let common = CommonArgs {
        nats: nats_args(&broker.nats.url()),
        cluster: "default".parse().unwrap(),
        log: "warn".into(),
        log_format: LogFormat::Text,
    };
    let telemetry = telemetry::init("collector", &common).unwrap();
    let shell = broker.shell("collector", Encoding::Protobuf).await.unwrap();
    soon("storage", shell.bus.ready()).await;
    let mut samples = shell
        .bus
        .subscribe::<Sample>(Kind::Sample, Start::LastPerSubject);

    let send = tracing::info_span!(target: "laneguard_collector", "send");
    shell
        .bus
        .publish(SAMPLE, &sample(1), Publish::default())
        .instrument(send)
        .await
        .unwrap();
    let received = soon("the sample", samples.next()).await.unwrap();
    let process = tracing::info_span!(target: "laneguard_decider", "process");
    received.set_parent(&process);
    drop(process);
    tokio::task::spawn_blocking(move || telemetry.flush())
        .await
        .unwrap();

    let spans = until(
        "both spans",
        async || sink.0.lock().unwrap().clone(),
        |spans| spans.len() >= 2,
    )
    .await;
    let named = |name: &str| spans.iter().find(|s| s.name == name).unwrap();
    assert_eq!(named("process").parent_span_id, named("send").span_id);
    assert_eq!(named("process").trace_id, named("send").trace_id);
}

async fn rerun_with_endpoint() {
    let address = laneguard_lab::servers::free_address().unwrap();
    let output = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "traces::a_trace_crosses_nats_and_reaches_an_otlp_sink",
            "--nocapture",
        ])
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{address}"))
        .kill_on_drop(true)
        .output();
    let output = soon("the test in a process of its own", output)
        .await
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}"
    );
}
