//! What a call costs beyond the service's own work, on loopback: `cargo bench -p outpost-transport`.
//!
//! A call carries a photo's worth of bytes (30 KB) there and the probabilities of 1000 classes
//! back, one call at a time. Then, how long connecting takes: over each protocol, where UDP is
//! blocked, and where nothing listens. Then the first call after a connection was closed for being idle: of a new channel, of
//! one that resumes its TLS session, and of one that sends the call before the handshake is done; with the bytes on the wire of
//! each. The last again over a path of 40 ms there and back, where round trips are what counts.

use std::{
    error::Error,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::Arc,
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
    Channel, ClientConfig, EarlyData, Idempotent, Identity, Listener, ListenerConfig, Protocol,
    Transport, Trust,
    development_certificates::{Certificates, Subjects, Validity},
};
use tokio::{sync::mpsc, time::sleep_until};
use tonic::{Request, Response, Status, service::Routes};

const IMAGE_BYTES: usize = 30_000;
const CLASSES: usize = 1000;
const CALLS: usize = 2000;
const CONNECTIONS: usize = 20;
/// Each way, of a path with a delay.
const ONE_WAY: Duration = Duration::from_millis(20);

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
    let distant = delayed(both).await?;
    for (address, transport, path) in [
        (both, Transport::H2, ""),
        (both, Transport::H3, ""),
        (distant, Transport::H3, ", 40 ms away"),
    ] {
        let before = channel(address, transport)?;
        first_call(&before, When::Connected).await?;
        for (what, is_new, when) in [
            ("a new channel", true, When::Connected),
            ("a resumed session", false, When::Connected),
            ("early data", false, When::Early),
        ] {
            if when == When::Early && transport == Transport::H2 {
                continue;
            }
            let (mut times, mut bytes) = (Vec::with_capacity(CONNECTIONS), 0);
            for _ in 0..CONNECTIONS {
                let new = channel(address, transport)?;
                let channel = if is_new { &new } else { &before };
                channel.retire();
                let (time, wire) = first_call(channel, when).await?;
                times.push(time);
                bytes += wire;
            }
            report(&format!("first call, {transport}{path}, {what}"), times);
            println!(
                "| its bytes on the wire | {} | |",
                bytes / CONNECTIONS as u64
            );
        }
    }
    drop(blocked);
    Ok(())
}

/// When a call may go out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum When {
    Connected,
    Early,
}

/// Makes a call over a new connection; gives its time and what both cost on the wire.
async fn first_call(channel: &Channel, when: When) -> Result<(Duration, u64), Box<dyn Error>> {
    let total = || {
        let [h2, h3] = [Protocol::H2, Protocol::H3].map(|protocol| channel.wire().bytes(protocol));
        let both = h2 + h3;
        both.sent + both.received
    };
    let mut request = Request::new(photo());
    if when == When::Early {
        request.extensions_mut().insert(Idempotent);
    }
    let before = total();
    let started = Instant::now();
    let mut client = GrpcInferenceServiceClient::new(channel.clone());
    let response = client.model_infer(request).await?;
    let took = started.elapsed();
    let expected = (when == When::Early).then_some(EarlyData::Accepted);
    assert_eq!(response.extensions().get().copied(), expected);
    Ok((took, total() - before))
}

/// The address of a relay of datagrams to a service that takes its time.
async fn delayed(service: SocketAddr) -> Result<SocketAddr, Box<dyn Error>> {
    let front = Arc::new(tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?);
    let address = front.local_addr()?;
    tokio::spawn(async move {
        let mut ways = std::collections::HashMap::new();
        let mut buffer = vec![0; 65_536];
        while let Ok((length, client)) = front.recv_from(&mut buffer).await {
            let way = match ways.entry(client) {
                std::collections::hash_map::Entry::Occupied(way) => way.into_mut(),
                std::collections::hash_map::Entry::Vacant(none) => {
                    let Ok(back) = tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await
                    else {
                        continue;
                    };
                    let back = Arc::new(back);
                    let answers = later(front.clone(), client);
                    let from = back.clone();
                    tokio::spawn(async move {
                        let mut buffer = vec![0; 65_536];
                        while let Ok(length) = from.recv(&mut buffer).await {
                            let _ = answers.send((Instant::now(), buffer[..length].to_vec()));
                        }
                    });
                    none.insert(later(back, service))
                }
            };
            let _ = way.send((Instant::now(), buffer[..length].to_vec()));
        }
    });
    Ok(address)
}

/// Where to leave datagrams with the time of their arrival, to be sent on in order.
fn later(
    socket: Arc<tokio::net::UdpSocket>,
    to: SocketAddr,
) -> mpsc::UnboundedSender<(Instant, Vec<u8>)> {
    let (sender, mut waiting) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    tokio::spawn(async move {
        while let Some((arrived, datagram)) = waiting.recv().await {
            sleep_until((arrived + ONE_WAY).into()).await;
            let _ = socket.send_to(&datagram, to).await;
        }
    });
    sender
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
        early_data: &["/inference.GRPCInferenceService/ModelInfer"],
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
