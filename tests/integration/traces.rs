//! A trace goes on from the device to the service, and reaches a collector whole.

use std::{
    collections::HashMap,
    fs,
    sync::{Arc, Mutex},
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::any_value::Value,
    trace::v1::Span,
};
use outpost_tests::{
    CertificateFolder, CloudService, EdgeAgent, repository, some_cifar, some_photos,
};
use tokio::{net::TcpListener, runtime::Runtime};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use super::run::{Device, json};

/// The spans of an image that the cloud answered, each with those that it is in.
const OF_AN_IMAGE: [&str; 7] = [
    "edge-agent:image > cascade",
    "edge-agent:image > edge-agent:cascade > edge-agent:offload > cloud-service:infer > batch",
    "edge-agent:image > edge-agent:cascade > edge-agent:offload > cloud-service:infer > decode",
    "edge-agent:image > edge-agent:cascade > edge-agent:offload > infer",
    "edge-agent:image > edge-agent:cascade > network",
    "edge-agent:image > edge-agent:cascade > offload",
    "image",
];

/// Spans as they came, each with its program.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<(String, Span)>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut spans = self.0.lock().unwrap();
        for of_program in request.into_inner().resource_spans {
            let resource = of_program.resource.unwrap_or_default();
            let mut attributes = resource.attributes.into_iter();
            let name = attributes.find(|attribute| attribute.key == "service.name");
            let Some(Value::StringValue(program)) = name.and_then(|name| name.value?.value) else {
                return Err(Status::invalid_argument("no service.name"));
            };
            let scopes = of_program.scope_spans.into_iter();
            spans.extend(scopes.flat_map(|scope| {
                scope
                    .spans
                    .into_iter()
                    .map(|span| (program.clone(), span))
                    .collect::<Vec<_>>()
            }));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    /// Starts one; gives its endpoint, too.
    fn start(runtime: &Runtime) -> (Self, String) {
        let collector = Self::default();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let server = tonic::transport::Server::builder()
            .add_service(TraceServiceServer::new(collector.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener));
        runtime.spawn(server);
        (collector, endpoint)
    }

    /// The spans that came, each with those that it is in, in order.
    fn paths(&self) -> Vec<String> {
        let spans = self.0.lock().unwrap();
        let by_id: HashMap<_, _> = spans
            .iter()
            .map(|(program, span)| (&span.span_id, (program.as_str(), span)))
            .collect();
        let path = |span: &Span| {
            let mut path = vec![span.name.clone()];
            let mut at = span;
            while let Some((program, parent)) = by_id.get(&at.parent_span_id) {
                assert_eq!(parent.trace_id, span.trace_id);
                path.push(format!("{program}:{}", parent.name));
                at = parent;
            }
            assert!(at.parent_span_id.is_empty(), "{path:?} has no beginning");
            path.reverse();
            path.join(" > ")
        };
        let mut paths: Vec<String> = spans.iter().map(|(_, span)| path(span)).collect();
        paths.sort();
        paths
    }
}

#[test]
fn a_trace_joins_device_and_service_over_both_transports() {
    let runtime = Runtime::new().unwrap();
    let (collector, endpoint) = Collector::start(&runtime);
    let certificates = CertificateFolder::valid();
    let traces = format!("[traces]\nendpoint = \"{endpoint}\"");
    let address = "127.0.0.1:0".parse().unwrap();
    let cloud = CloudService::start_at(address, &certificates, &traces);
    for transport in ["h2", "h3"] {
        let answers = EdgeAgent::classify()
            .cloud(&cloud.url(), &certificates)
            .args(["--mode", "cloud-only", "--transport", transport])
            .args(["--otlp-endpoint", &endpoint])
            .args(some_photos(1))
            .run();
        assert_eq!(answers.records[0]["site"], "cloud", "{}", answers.log);
    }
    // What it traced last is sent at its end.
    cloud.terminate();
    let (ended_well, said) = cloud.wait();
    assert!(ended_well, "{said}");
    assert_eq!(
        collector.paths(),
        OF_AN_IMAGE.map(|path| [path; 2]).concat()
    );
}

#[test]
fn a_device_that_is_left_running_traces_its_images() {
    let runtime = Runtime::new().unwrap();
    let (collector, endpoint) = Collector::start(&runtime);
    let certificates = CertificateFolder::valid();
    let models = repository().join("models");
    let traces = format!("[traces]\nendpoint = \"{endpoint}\"\n");
    let networks = format!("models = {models:?}\nnetworks = [\"cifar10-resnet\"]\n{traces}");
    let cloud = CloudService::start_with(&certificates, &networks);
    let device = Device::start(&format!(
        "mode = \"cloud-only\"\ndeadline_ms = 20000\n{traces}[cloud]\nurl = {:?}\ncertificate_authority = {:?}\n[api]\naddress = \"127.0.0.1:0\"\n",
        cloud.url(),
        certificates.authority(),
    ));
    let image = fs::read(&some_cifar(1)[0]).unwrap();
    let answer = json(device.post("/v1/classify", "image/jpeg", &image));
    assert_eq!(answer["site"], "cloud", "{answer}");
    device.end();
    cloud.terminate();
    let (ended_well, said) = cloud.wait();
    assert!(ended_well, "{said}");
    assert_eq!(collector.paths(), OF_AN_IMAGE);
}

#[test]
fn a_wrong_endpoint_is_told_at_the_start_and_a_collector_that_is_away_costs_no_answer() {
    let mut wrong = EdgeAgent::classify()
        .args(["--otlp-endpoint", "collector:4317"])
        .args(some_photos(1))
        .into_command();
    let output = wrong.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success());
    assert!(said.contains("traces.endpoint"), "{said}");

    let answers = EdgeAgent::classify()
        .args(["--mode", "device-only"])
        .args(["--otlp-endpoint", "http://127.0.0.1:9"])
        .args(some_photos(1))
        .run();
    assert_eq!(answers.code, 0, "{}", answers.log);
    assert_eq!(answers.records[0]["site"], "device");
}
