//! More requests than a network takes: the service refuses and says when to come back, the device obeys,
//! and operators see it.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use h2::{Reason, RecvStream, server::SendResponse};
use http::HeaderMap;
use outpost_proto::{
    ContentsKind, ENCODED_IMAGE_PROPERTY, Tensor, TensorData,
    inference::{
        ModelInferRequest, ModelInferResponse, ModelMetadataRequest, ModelMetadataResponse,
        grpc_inference_service_client::GrpcInferenceServiceClient,
        grpc_inference_service_server::{GrpcInferenceService, GrpcInferenceServiceServer},
        model_metadata_response::TensorMetadata,
    },
    tensor,
};
use outpost_tests::{
    CertificateFolder, CloudService, EdgeAgent, edge_config, grpc_message, some_photos,
};
use outpost_transport::{Channel, Identity, Listener, ListenerConfig, Transport};
use prost::Message;
use serde_json::Value;
use tokio_rustls::TlsAcceptor;
use tonic::{Code, Request, Response, Status, service::Routes};

const PUSHBACK: &str = "grpc-retry-pushback-ms";

/// A GET over HTTP/1.0: the status line and the body.
pub(crate) fn get(address: SocketAddr, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\nhost: {address}\r\n\r\n").unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    (head.lines().next().unwrap().to_owned(), body.to_owned())
}

fn metric(text: &str, series: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(series));
    let value = line.unwrap_or_else(|| panic!("{series} is not in\n{text}"));
    value.trim().parse().unwrap()
}

#[test]
fn a_full_queue_refuses_with_a_time_to_come_back_and_every_call_is_counted() {
    const CALLS: usize = 24;
    let certificates = CertificateFolder::valid();
    let cloud = CloudService::start_at(
        "127.0.0.1:0".parse().unwrap(),
        &certificates,
        "operations_address = \"127.0.0.1:0\"\n[batching]\nmax_batch = 4\nmax_queue = 3\ninstances = 1",
    );
    let (cloud, operations) = cloud.with_operations();
    assert_eq!(get(operations, "/livez").0, "HTTP/1.0 200 OK");
    assert_eq!(get(operations, "/readyz").0, "HTTP/1.0 200 OK");
    assert!(
        get(operations, "/")
            .1
            .contains("<title>cloud-service</title>")
    );
    let config = cloud.client(&certificates, Transport::H2);
    let image = Bytes::from(std::fs::read(&some_photos(1)[0]).unwrap());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (mut answered, mut refused) = (0, 0);
    runtime.block_on(async {
        let channel = Channel::new(config).unwrap();
        channel.connect().await.unwrap();
        let calls: Vec<_> = (0..CALLS)
            .map(|_| {
                let mut client = GrpcInferenceServiceClient::new(channel.clone());
                let image = TensorData::Bytes(vec![image.clone()]);
                let image = Tensor::new("image", vec![1], image).unwrap();
                let request =
                    tensor::infer_request("efficientnet-lite2", "", [image], ContentsKind::Typed);
                tokio::spawn(async move { client.model_infer(request).await })
            })
            .collect();
        for call in calls {
            match call.await.unwrap() {
                Ok(_) => answered += 1,
                Err(status) => {
                    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
                    let pushback = status.metadata().get(PUSHBACK).unwrap().to_str().unwrap();
                    assert!(pushback.parse::<u64>().unwrap() >= 1);
                    refused += 1;
                }
            }
        }
    });
    assert_eq!(answered + refused, CALLS);
    assert!(
        answered >= 1 && refused >= 1,
        "{answered} answered, {refused} refused"
    );
    let text = get(operations, "/metrics").1;
    let labels = r#"model="efficientnet-lite2",transport="h2""#;
    let total = metric(&text, &format!("outpost_cloud_requests_total{{{labels}}}"));
    let full = format!("outpost_cloud_failures_total{{{labels},cause=\"queue-full\"}}");
    assert_eq!(total, CALLS as f64, "{text}");
    assert_eq!(metric(&text, &full), refused as f64, "{text}");
    let of_model = r#"{model="efficientnet-lite2"}"#;
    let images = metric(&text, &format!("outpost_cloud_batch_images_sum{of_model}"));
    assert_eq!(images, answered as f64, "{text}");
    assert_eq!(
        metric(&text, &format!("outpost_cloud_waiting_images{of_model}")),
        0.0
    );
}

/// A cloud that is busy for the first calls.
struct Busy {
    calls: Arc<Mutex<Vec<Instant>>>,
    refusals: usize,
    pushback: &'static str,
}

#[tonic::async_trait]
impl GrpcInferenceService for Busy {
    async fn model_metadata(
        &self,
        request: Request<ModelMetadataRequest>,
    ) -> Result<Response<ModelMetadataResponse>, Status> {
        Ok(Response::new(ModelMetadataResponse {
            name: request.into_inner().name,
            inputs: vec![TensorMetadata {
                name: "image".to_owned(),
                datatype: "FP32".to_owned(),
                shape: vec![-1, 3, 260, 260],
            }],
            properties: [(ENCODED_IMAGE_PROPERTY.to_owned(), "BYTES".to_owned())].into(),
            ..Default::default()
        }))
    }

    async fn model_infer(
        &self,
        request: Request<ModelInferRequest>,
    ) -> Result<Response<ModelInferResponse>, Status> {
        let number = {
            let mut calls = self.calls.lock().unwrap();
            calls.push(Instant::now());
            calls.len()
        };
        if number <= self.refusals {
            let mut status = Status::resource_exhausted("busy");
            status
                .metadata_mut()
                .insert(PUSHBACK, self.pushback.parse().unwrap());
            return Err(status);
        }
        Ok(Response::new(scores_of(&request.into_inner())))
    }
}

fn scores_of(request: &ModelInferRequest) -> ModelInferResponse {
    let scores = TensorData::Fp32(vec![0.001; 1000]);
    let scores = Tensor::new("probabilities", vec![1, 1000], scores).unwrap();
    tensor::infer_response(&request.model_name, "1", "", [scores], ContentsKind::Raw)
}

/// The reasons of the answers for so many photos, of a device that asks the cloud at `url`.
fn offloads(url: &str, certificates: &CertificateFolder, more: &str, count: usize) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("edge-agent.toml");
    // One image at a time, so that each knows what the one before was told.
    std::fs::write(&config, edge_config(&format!("max_in_flight = 1\n{more}"))).unwrap();
    let answers = EdgeAgent::classify()
        .args(["--config".as_ref(), config.as_os_str()])
        .cloud(url, certificates)
        .args(["--mode", "cloud-only"])
        .args(some_photos(count))
        .run();
    assert_eq!(answers.records.len(), count, "{}", answers.log);
    let reason = |record: &Value| record["reason"].as_str().unwrap().to_owned();
    answers.records.iter().map(reason).collect()
}

/// Offloads three photos to a cloud that refuses so many calls; gives the reasons and when it was called.
fn offloads_to_busy(refusals: usize, pushback: &'static str) -> (Vec<String>, Vec<Instant>) {
    let certificates = CertificateFolder::valid();
    let identity = Identity::load(&certificates.chain(), &certificates.key()).unwrap();
    let calls = Arc::<Mutex<Vec<Instant>>>::default();
    let busy = Busy {
        calls: calls.clone(),
        refusals,
        pushback,
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let address = "127.0.0.1:0".parse().unwrap();
    let listener = runtime
        .block_on(Listener::bind(ListenerConfig::new(
            address,
            Some(identity.into()),
        )))
        .unwrap();
    let url = format!("https://{}", listener.local_addr());
    let mut routes = Routes::builder();
    routes.add_service(GrpcInferenceServiceServer::new(busy));
    // Ends with the runtime.
    runtime.spawn(listener.serve(routes.routes(), std::future::pending()));
    let reasons = offloads(&url, &certificates, "", 3);
    let calls = calls.lock().unwrap().clone();
    (reasons, calls)
}

#[test]
fn the_device_comes_back_when_it_is_told_to() {
    let (reasons, calls) = offloads_to_busy(1, "300");
    assert_eq!(reasons[0], "offloaded", "{reasons:?}");
    assert!(calls[1] - calls[0] >= Duration::from_millis(300));
}

#[test]
fn a_busy_cloud_is_left_alone_and_every_image_is_answered() {
    let (reasons, calls) = offloads_to_busy(usize::MAX, "60000");
    assert_eq!(reasons, ["fallback:overloaded"; 3]);
    assert_eq!(calls.len(), 1);
}

/// Offloads a photo to a cloud over HTTP/2 that ends the first calls by `resets`, one each; gives the reason of its answer and how
/// many calls came.
fn offloads_to_resetting(resets: &'static [Reason]) -> (String, usize) {
    let certificates = CertificateFolder::valid();
    let identity = Identity::load(&certificates.chain(), &certificates.key()).unwrap();
    let acceptor = TlsAcceptor::from(identity.web_server_config());
    let calls = Arc::<AtomicUsize>::default();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0"));
    let listener = listener.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let counted = calls.clone();
    // Ends with the runtime.
    runtime.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, counted) = (acceptor.clone(), counted.clone());
            tokio::spawn(async move {
                let stream = acceptor.accept(stream).await.unwrap();
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((request, respond))) = connection.accept().await {
                    let reset = resets.get(counted.fetch_add(1, Ordering::Relaxed));
                    tokio::spawn(answer_or_reset(request, respond, reset.copied()));
                }
            });
        }
    });
    let more = format!("[cloud]\nurl = \"{url}\"\ntransport = \"h2\"\npayload = \"image\"");
    let reason = offloads(&url, &certificates, &more, 1).remove(0);
    (reason, calls.load(Ordering::Relaxed))
}

/// Answers a call of `ModelInfer` as gRPC does, or ends it by `reset` before that.
async fn answer_or_reset(
    request: http::Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    reset: Option<Reason>,
) {
    if let Some(reset) = reset {
        return respond.send_reset(reset);
    }
    let mut body = request.into_body();
    let mut message = Vec::new();
    while let Some(data) = body.data().await {
        let data = data.unwrap();
        body.flow_control().release_capacity(data.len()).unwrap();
        message.extend(data);
    }
    // Behind a flag and a length.
    let request = ModelInferRequest::decode(&message[5..]).unwrap();
    let reply = grpc_message(&scores_of(&request));
    let head = http::Response::builder().header("content-type", "application/grpc");
    let mut stream = respond
        .send_response(head.body(()).unwrap(), false)
        .unwrap();
    stream.send_data(reply.into(), false).unwrap();
    let mut status = HeaderMap::new();
    status.insert("grpc-status", "0".parse().unwrap());
    stream.send_trailers(status).unwrap();
}

#[test]
fn a_call_that_was_refused_before_it_was_taken_up_is_no_try() {
    use Reason as R;
    for (resets, reason, calls) in [
        // The one more try that a call has which broke.
        (&[R::INTERNAL_ERROR][..], "offloaded", 2),
        (
            &[R::INTERNAL_ERROR, R::INTERNAL_ERROR],
            "fallback:connection-lost",
            2,
        ),
        (&[R::INTERNAL_ERROR, R::REFUSED_STREAM], "offloaded", 3),
        (
            &[R::REFUSED_STREAM, R::REFUSED_STREAM, R::INTERNAL_ERROR],
            "offloaded",
            4,
        ),
        // Not for ever.
        (&[R::REFUSED_STREAM; 9], "fallback:connection-lost", 4),
    ] {
        assert_eq!(
            offloads_to_resetting(resets),
            (reason.to_owned(), calls),
            "{resets:?}"
        );
    }
}
