//! What a call costs beyond the service's own work, on loopback: `cargo bench -p outpost-transport`.
//!
//! A call carries a photo's worth of bytes (30 KB) there and the probabilities of 1000 classes
//! back, one call at a time. Then, how long connecting takes: over each protocol, where UDP is
//! blocked, and where nothing listens. Then the first call after a connection was closed for being idle: of a new channel, and
//! of one that resumes its TLS session; with the bytes on the wire of each.

use std::{
    error::Error,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use bytes::Bytes;
use outpost_proto::inference::{
    ModelInferRequest, ModelInferResponse,
    grpc_inference_service_client::GrpcInferenceServiceClient,
    grpc_inference_service_server::{GrpcInferenceService, GrpcInferenceServiceServer},
    model_infer_request::InferInputTensor,
    model_infer_response::InferOutputTensor,
};
use outpost_transport::{
    Channel, ClientConfig, Identity, Listener, ListenerConfig, Protocol, Transport, Trust,
    development_certificates::{Certificates, Subjects, Validity},
};
use tonic::{Request, Response, Status, service::Routes};

const IMAGE_BYTES: usize = 30_000;
const CLASSES: usize = 1000;
const CALLS: usize = 2000;
const CONNECTIONS: usize = 20;

fn main() -> Result<(), Box<dyn Error>> {
    // The service has a runtime of its own, as it would on another machine.
    let service = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    runtime.block_on(measure(&service))?;
    service.shutdown_background();
    Ok(())
}

async fn measure(service: &tokio::runtime::Runtime) -> Result<(), Box<dyn Error>> {
    let certificates = Certificates::issue(&Subjects::host("127.0.0.1"), Validity::days(1))?;
    let both = serve(service, &certificates, true).await?;
    let http2_only = serve(service, &certificates, false).await?;
    let blocked = UdpSocket::bind(http2_only)?;
    let nowhere = UdpSocket::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?.local_addr()?;
    let channel = |address: SocketAddr, transport| {
        Channel::new(ClientConfig {
            transport,
            trust: Trust::Authority(certificates.authority_pem.clone().into()),
            ..ClientConfig::new(format!("https://{address}"))
        })
    };

    println!("| what | median | 95th percentile |\n| --- | --- | --- |");
    for transport in [Transport::H2, Transport::H3] {
        let mut client = GrpcInferenceServiceClient::new(channel(both, transport)?);
        for _ in 0..CALLS / 10 {
            client.model_infer(photo()).await?;
        }
        let mut times = Vec::with_capacity(CALLS);
        for _ in 0..CALLS {
            let request = photo();
            let started = Instant::now();
            client.model_infer(request).await?;
            times.push(started.elapsed());
        }
        report(&format!("call over {transport}"), times);
    }
    for (what, address, transport, expected) in [
        ("connect, h2", both, Transport::H2, Some(Protocol::H2)),
        ("connect, h3", both, Transport::H3, Some(Protocol::H3)),
        ("connect, auto", both, Transport::Auto, Some(Protocol::H3)),
        (
            "connect, auto, UDP blocked",
            http2_only,
            Transport::Auto,
            Some(Protocol::H2),
        ),
        ("refused, h2", nowhere, Transport::H2, None),
        ("refused, h3", nowhere, Transport::H3, None),
        ("refused, auto", nowhere, Transport::Auto, None),
    ] {
        let mut times = Vec::with_capacity(CONNECTIONS);
        for _ in 0..CONNECTIONS {
            let channel = channel(address, transport)?;
            let started = Instant::now();
            let outcome = channel.connect().await;
            times.push(started.elapsed());
            assert_eq!(outcome.ok(), expected, "{what}");
        }
        report(what, times);
    }
    for transport in [Transport::H2, Transport::H3] {
        let resuming = channel(both, transport)?;
        first_call(&resuming).await?;
        for (what, is_resumed) in [("a new channel", false), ("a resumed session", true)] {
            let (mut times, mut bytes) = (Vec::with_capacity(CONNECTIONS), 0);
            for _ in 0..CONNECTIONS {
                let new = channel(both, transport)?;
                let channel = if is_resumed { &resuming } else { &new };
                channel.retire();
                let (time, wire) = first_call(channel).await?;
                times.push(time);
                bytes += wire;
            }
            report(&format!("first call, {transport}, {what}"), times);
            println!(
                "| its bytes on the wire | {} | |",
                bytes / CONNECTIONS as u64
            );
        }
    }
    drop(blocked);
    Ok(())
}

/// Makes a call over a new connection; gives its time and what both cost on the wire.
async fn first_call(channel: &Channel) -> Result<(Duration, u64), Box<dyn Error>> {
    let total = || {
        let [h2, h3] = [Protocol::H2, Protocol::H3].map(|protocol| channel.wire().bytes(protocol));
        let both = h2 + h3;
        both.sent + both.received
    };
    let before = total();
    let started = Instant::now();
    let mut client = GrpcInferenceServiceClient::new(channel.clone());
    client.model_infer(photo()).await?;
    Ok((started.elapsed(), total() - before))
}

fn report(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |percent: usize| times[times.len() * percent / 100].as_secs_f64() * 1e3;
    println!("| {what} | {:.2} ms | {:.2} ms |", at(50), at(95));
}

async fn serve(
    runtime: &tokio::runtime::Runtime,
    certificates: &Certificates,
    http3: bool,
) -> Result<SocketAddr, Box<dyn Error>> {
    let identity = Identity::from_pem(
        certificates.chain_pem.as_bytes(),
        certificates.key_pem.as_bytes(),
    )?;
    let config = ListenerConfig {
        http3,
        ..ListenerConfig::new((Ipv4Addr::LOCALHOST, 0).into(), Some(identity.into()))
    };
    let listener = runtime.spawn(Listener::bind(config)).await??;
    let address = listener.local_addr();
    let routes = Routes::new(GrpcInferenceServiceServer::new(Classifier));
    runtime.spawn(listener.serve(routes, std::future::pending()));
    Ok(address)
}

fn photo() -> ModelInferRequest {
    // A BYTES tensor of one element: its length, then the image.
    let mut raw = (IMAGE_BYTES as u32).to_le_bytes().to_vec();
    raw.resize(4 + IMAGE_BYTES, 0xa5);
    ModelInferRequest {
        model_name: "classifier".into(),
        inputs: vec![InferInputTensor {
            name: "image".into(),
            datatype: "BYTES".into(),
            shape: vec![1],
            ..Default::default()
        }],
        raw_input_contents: vec![raw.into()],
        ..Default::default()
    }
}

/// Answers at once, so that nothing but the transport is measured.
struct Classifier;

#[tonic::async_trait]
impl GrpcInferenceService for Classifier {
    async fn model_infer(
        &self,
        _: Request<ModelInferRequest>,
    ) -> Result<Response<ModelInferResponse>, Status> {
        Ok(Response::new(ModelInferResponse {
            model_name: "classifier".into(),
            outputs: vec![InferOutputTensor {
                name: "probabilities".into(),
                datatype: "FP32".into(),
                shape: vec![1, CLASSES as i64],
                ..Default::default()
            }],
            raw_output_contents: vec![Bytes::from(vec![0; 4 * CLASSES])],
            ..Default::default()
        }))
    }
}
