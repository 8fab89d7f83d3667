//! More requests than a network takes: the service refuses and says when to come back, the device obeys,
//! and operators see it.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use bytes::Bytes;
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
use outpost_tests::{CertificateFolder, CloudService, EdgeAgent, edge_config, some_photos};
use outpost_transport::{Channel, Identity, Listener, ListenerConfig, Transport};
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
        let name = request.into_inner().model_name;
        let scores = TensorData::Fp32(vec![0.001; 1000]);
        let scores = Tensor::new("probabilities", vec![1, 1000], scores).unwrap();
        Ok(Response::new(tensor::infer_response(
            &name,
            "1",
            "",
            [scores],
            ContentsKind::Raw,
        )))
    }
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
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("edge-agent.toml");
    // One image at a time, so that each knows what the one before was told.
    std::fs::write(&config, edge_config("max_in_flight = 1")).unwrap();
    let answers = EdgeAgent::classify()
        .args(["--config".as_ref(), config.as_os_str()])
        .cloud(&url, &certificates)
        .args(["--mode", "cloud-only"])
        .args(some_photos(3))
        .run();
    let reasons = answers
        .records
        .iter()
        .map(|record| record["reason"].as_str().unwrap().to_owned());
    let reasons = reasons.collect();
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
