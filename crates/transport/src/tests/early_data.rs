//! Calls that go out before a handshake is done: what they save, and what does not become of them.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use outpost_proto::inference::{ModelInferRequest, ModelInferResponse};
use tokio::{
    net::UdpSocket,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::task::AbortOnDropHandle;
use tonic::{Code, Response, Status, body::Body, server::NamedService, service::Routes};

use super::{
    fixture::{BOTH, Cloud, LOOPBACK, PATIENCE, certificates, client, infer, request},
    relay::{TcpRelay, UdpRelay},
};
use crate::{
    BindError, Channel, ClientAuthentication, ClientAuthority, ClientConfig, EarlyData, Handshakes,
    Idempotent, Listener, ListenerConfig, Protocol, ServerTls, Transport, Trust,
};

const INFER: &[&str] = &["/inference.GRPCInferenceService/ModelInfer"];

/// More than fits into a first flight.
const LARGE: usize = 300_000;

fn takes_early_data(config: &mut ListenerConfig) {
    config.early_data = INFER;
}

async fn cloud_with_early_data() -> Cloud {
    Cloud::start_with(certificates(), LOOPBACK, takes_early_data).await
}

fn channel_to(cloud: &Cloud, address: std::net::SocketAddr, transport: Transport) -> Channel {
    Channel::new(ClientConfig {
        url: format!("https://{address}"),
        ..cloud.config(transport)
    })
    .unwrap()
}

/// A call that may run twice, told from others by what it sends.
async fn ask(
    channel: &Channel,
    request: ModelInferRequest,
) -> Result<Response<ModelInferResponse>, Status> {
    let mut request = tonic::Request::new(request);
    request.extensions_mut().insert(Idempotent);
    let mut client = client(channel.clone());
    timeout(PATIENCE, client.model_infer(request))
        .await
        .expect("the call hangs")
}

fn spawn_ask(
    channel: &Channel,
    model: &'static str,
    payload: usize,
) -> JoinHandle<Result<Response<ModelInferResponse>, Status>> {
    let channel = channel.clone();
    tokio::spawn(async move { ask(&channel, request(model, payload)).await })
}

fn early_data(response: &Response<ModelInferResponse>) -> Option<EarlyData> {
    response.extensions().get().copied()
}

/// Connects, gets what a session is resumed with, and leaves the connection.
async fn has_been_there(channel: &Channel) {
    for _ in 0..2 {
        let response = ask(channel, request("echo", 10)).await.unwrap();
        assert_eq!(early_data(&response), None);
    }
    channel.retire();
}

/// How many calls were served that sent so much.
fn served(cloud: &Cloud, payload: usize) -> usize {
    let served = cloud.script.served.lock().unwrap();
    served.iter().filter(|sent| sent.len() == payload).count()
}

#[tokio::test]
async fn a_session_is_resumed_over_both_protocols() {
    let cloud = Cloud::start().await;
    for transport in BOTH {
        let channel = cloud.channel(transport);
        let protocol = channel.connect().await.unwrap();
        let received = async || {
            // With what the service sends once the handshake is done.
            sleep(Duration::from_millis(500)).await;
            channel.wire().bytes(protocol).received
        };
        let whole = received().await;
        has_been_there(&channel).await;
        let before = received().await;
        channel.connect().await.unwrap();
        let resumed = received().await - before;
        println!("{transport}: {whole} bytes of a whole handshake, {resumed} of a resumed one");
        match transport {
            // A certificate and a signature fewer; QUIC fills them up.
            Transport::H2 => assert!(resumed + 400 < whole),
            _ => {
                let handshakes = channel.wire().handshakes();
                assert_eq!((handshakes.done, handshakes.resumed), (2, 1));
            }
        }
    }
}

#[tokio::test]
async fn a_call_is_there_before_anything_has_come_back() {
    let cloud = cloud_with_early_data().await;
    let relay = UdpRelay::to(cloud.address);
    let channel = channel_to(&cloud, relay.address, Transport::H3);
    has_been_there(&channel).await;

    relay.hold();
    let call = spawn_ask(&channel, "hold", 1000);
    timeout(PATIENCE, cloud.script.begun.acquire())
        .await
        .expect("the request waits for the handshake")
        .unwrap()
        .forget();
    // A round trip ahead, and nobody says that there is a connection.
    assert_eq!(channel.protocol(), None);
    channel.reach().await.unwrap();
    let connecting = {
        let channel = channel.clone();
        tokio::spawn(async move { channel.connect().await })
    };
    sleep(Duration::from_millis(100)).await;
    assert!(!connecting.is_finished());
    assert!(!call.is_finished());

    cloud.script.release.add_permits(1);
    relay.release();
    let response = call.await.unwrap().unwrap();
    assert_eq!(early_data(&response), Some(EarlyData::Accepted));
    // The service knows it for what it is.
    assert_eq!(response.get_ref().id, "Some(Accepted)");
    assert_eq!(connecting.await.unwrap().unwrap(), Protocol::H3);
    let expected = Handshakes {
        done: 2,
        resumed: 1,
        early_data_accepted: 1,
        early_data_rejected: 0,
    };
    assert_eq!(channel.wire().handshakes(), expected);
    // The connection is as any other from then on, and the next one is as early.
    let response = ask(&channel, request("early", LARGE)).await.unwrap();
    assert_eq!(response.get_ref().id, "None");
    assert_eq!(early_data(&response), None);
    channel.retire();
    let response = ask(&channel, request("echo", LARGE)).await.unwrap();
    assert_eq!(early_data(&response), Some(EarlyData::Accepted));
    assert_eq!(response.get_ref().raw_output_contents[0].len(), LARGE);
    assert_eq!(served(&cloud, LARGE), 2);
}

#[tokio::test]
async fn a_call_that_may_not_run_twice_waits_for_the_handshake() {
    let cloud = cloud_with_early_data().await;
    let relay = UdpRelay::to(cloud.address);
    let channel = channel_to(&cloud, relay.address, Transport::H3);
    has_been_there(&channel).await;
    relay.hold();
    let waits = {
        let channel = channel.clone();
        tokio::spawn(async move { infer(&channel, "echo").await })
    };
    let early = spawn_ask(&channel, "hold", 10);
    let begun = timeout(PATIENCE, cloud.script.begun.acquire()).await;
    begun.unwrap().unwrap().forget();
    sleep(Duration::from_millis(100)).await;
    // `infer` sends so much.
    assert_eq!(served(&cloud, 1000), 0);
    cloud.script.release.add_permits(1);
    relay.release();
    let waited = waits.await.unwrap().unwrap();
    assert_eq!(early_data(&waited), None);
    early.await.unwrap().unwrap();
    assert_eq!(served(&cloud, 1000), 1);
}

/// The service has no session any more, with which it could read what was sent.
#[tokio::test]
async fn a_call_that_was_passed_over_is_sent_again_once() {
    let mut cloud = cloud_with_early_data().await;
    let relay = UdpRelay::to(cloud.address);
    let channel = channel_to(&cloud, relay.address, Transport::H3);
    has_been_there(&channel).await;
    let before = channel.wire().bytes(Protocol::H3).sent;
    cloud.kill().await;
    let cloud = cloud.restart_with(takes_early_data).await;
    let calls: Vec<_> = (1..=4)
        .map(|n| spawn_ask(&channel, "early", n * LARGE))
        .collect();
    for (call, n) in calls.into_iter().zip(1..) {
        let response = call.await.unwrap().unwrap();
        assert_eq!(early_data(&response), Some(EarlyData::Rejected));
        assert_eq!(response.get_ref().id, "None");
        let echo = &response.get_ref().raw_output_contents[0];
        assert_eq!(echo.len(), n * LARGE);
        assert!(echo.iter().all(|byte| *byte == 7));
        assert_eq!(served(&cloud, n * LARGE), 1);
    }
    let handshakes = channel.wire().handshakes();
    assert_eq!(
        (
            handshakes.early_data_accepted,
            handshakes.early_data_rejected
        ),
        (0, 1)
    );
    assert_eq!(handshakes.done, 2);
    // What went out in vain is counted, too: the first flight of four calls.
    let sent = channel.wire().bytes(Protocol::H3).sent;
    let came_through = relay.counts.wire().sent;
    assert!(sent - before > 10 * LARGE as u64 + 8_000, "{sent}");
    assert!(sent.abs_diff(came_through) * 100 <= came_through * 3);
    // And the connection serves as any other: its streams are those of HTTP/3 begun anew.
    for _ in 0..40 {
        infer(&channel, "echo").await.unwrap();
    }
    assert_eq!(channel.wire().handshakes().done, 2);
    // The new service's shutdown comes through: its control stream is read.
    let mut cloud = cloud;
    cloud.shut_down();
    cloud.ended().await;
}

#[tokio::test]
async fn a_service_that_takes_no_early_data_is_sent_none() {
    let cloud = Cloud::start().await;
    let channel = cloud.channel(Transport::H3);
    has_been_there(&channel).await;
    let response = ask(&channel, request("early", 10)).await.unwrap();
    assert_eq!(early_data(&response), None);
    let handshakes = channel.wire().handshakes();
    assert_eq!((handshakes.done, handshakes.resumed), (2, 1));
    assert_eq!(handshakes.early_data_accepted, 0);
    assert_eq!(handshakes.early_data_rejected, 0);
}

#[tokio::test]
async fn a_channel_that_is_told_so_sends_none() {
    let cloud = cloud_with_early_data().await;
    let channel = Channel::new(ClientConfig {
        early_data: false,
        ..cloud.config(Transport::H3)
    })
    .unwrap();
    has_been_there(&channel).await;
    let response = ask(&channel, request("early", 10)).await.unwrap();
    assert_eq!(response.get_ref().id, "None");
    assert_eq!(channel.wire().handshakes().early_data_accepted, 0);
}

#[tokio::test]
async fn where_udp_is_blocked_since_then_a_call_goes_over_http2() {
    let cloud = cloud_with_early_data().await;
    let tcp = TcpRelay::to(cloud.address).await;
    let udp = UdpRelay::at(tcp.address, cloud.address);
    let channel = channel_to(&cloud, tcp.address, Transport::Auto);
    has_been_there(&channel).await;
    udp.block();
    let response = ask(&channel, request("early", LARGE)).await.unwrap();
    assert_eq!(response.extensions().get(), Some(&Protocol::H2));
    assert_eq!(early_data(&response), Some(EarlyData::Rejected));
    assert_eq!(response.get_ref().raw_output_contents[0].len(), LARGE);
    assert_eq!(channel.protocol(), Some(Protocol::H2));
    assert_eq!(served(&cloud, LARGE), 1);
    assert_eq!(channel.wire().handshakes().early_data_accepted, 0);
}

#[tokio::test]
async fn a_service_that_is_gone_refuses_early_data_at_once() {
    let mut cloud = cloud_with_early_data().await;
    let channel = cloud.channel(Transport::H3);
    has_been_there(&channel).await;
    cloud.kill().await;
    let status = ask(&channel, request("echo", 10)).await.unwrap_err();
    assert_eq!(crate::CallError::of(&status).unwrap().cause(), "refused");
}

#[tokio::test]
async fn calls_that_the_service_does_not_name_are_refused_before_the_handshake_is_done() {
    let cloud = Cloud::start_with(certificates(), LOOPBACK, |config| {
        config.early_data = &["/inference.GRPCInferenceService/ServerLive"];
    })
    .await;
    let relay = UdpRelay::to(cloud.address);
    let channel = channel_to(&cloud, relay.address, Transport::H3);
    has_been_there(&channel).await;
    let before = relay.counts.wire();
    relay.hold();
    let call = spawn_ask(&channel, "echo", 1000);
    // The request has come through, with the handshake still to do.
    let arrived = async {
        while relay.counts.wire().sent < before.sent + 2000 {
            sleep(Duration::from_millis(5)).await;
        }
        sleep(Duration::from_millis(200)).await;
    };
    timeout(PATIENCE, arrived).await.unwrap();
    relay.release();
    let status = call.await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("send it again"), "{status:?}");
    ask(&channel, request("echo", 10)).await.unwrap();
    assert_eq!(served(&cloud, 1000), 0);
}

/// Somebody on the way keeps a copy of a first flight, and sends it once more.
#[tokio::test]
async fn a_copy_of_early_data_is_not_served() {
    let cloud = cloud_with_early_data().await;
    let relay = UdpRelay::to(cloud.address);
    let channel = channel_to(&cloud, relay.address, Transport::H3);
    has_been_there(&channel).await;
    relay.record();
    let response = ask(&channel, request("echo", 1000)).await.unwrap();
    assert_eq!(early_data(&response), Some(EarlyData::Accepted));
    let flight = relay.recorded();
    assert_eq!(served(&cloud, 1000), 1);
    drop(channel);
    let copy = UdpSocket::bind(LOOPBACK).await.unwrap();
    let answered = async {
        loop {
            for datagram in &flight {
                copy.send_to(datagram, cloud.address).await.unwrap();
            }
            let answer = async {
                // What is left of connections before is reset.
                while copy.recv(&mut [0; 2000]).await.unwrap() < 1000 {}
            };
            // It answers, as to a client whose session it does not know, with a certificate; once it has forgotten the
            // connection, of which the copy is a repetition till then.
            if timeout(Duration::from_secs(1), answer).await.is_ok() {
                return;
            }
        }
    };
    timeout(PATIENCE, answered)
        .await
        .expect("it is not answered");
    infer(&cloud.channel(Transport::H3), "hold-no-more")
        .await
        .unwrap_err();
    sleep(Duration::from_millis(300)).await;
    let copied: Vec<_> = cloud.script.served.lock().unwrap().clone();
    // Two calls at first, the one that was copied, and the last one.
    assert_eq!(copied.len(), 4);
}

/// A proxy that cannot tell whether a call may run twice, as far as the third one.
#[derive(Clone, Default)]
struct Proxy(Arc<AtomicUsize>);

impl NamedService for Proxy {
    const NAME: &'static str = "inference.GRPCInferenceService";
}

impl tower::Service<http::Request<Body>> for Proxy {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Request<Body>) -> Self::Future {
        let mut answer = Status::not_found("no such model").into_http();
        if self.0.fetch_add(1, Ordering::Relaxed) == 2 {
            answer = http::Response::new(Body::empty());
            *answer.status_mut() = http::StatusCode::TOO_EARLY;
        }
        std::future::ready(Ok(answer))
    }
}

#[tokio::test]
async fn a_call_that_is_too_early_for_a_proxy_is_sent_again() {
    let certificates = certificates();
    let tls = super::fixture::identity(&certificates).into();
    let mut config = ListenerConfig::new(LOOPBACK, Some(tls));
    takes_early_data(&mut config);
    let listener = Listener::bind(config).await.unwrap();
    let channel = Channel::new(ClientConfig {
        transport: Transport::H3,
        trust: Trust::Authority(certificates.authority_pem.into()),
        ..ClientConfig::new(format!("https://{}", listener.local_addr()))
    })
    .unwrap();
    let proxy = Proxy::default();
    let served = listener.serve(Routes::new(proxy.clone()), std::future::pending());
    let _served = AbortOnDropHandle::new(tokio::spawn(served));
    for _ in 0..2 {
        ask(&channel, request("echo", 10)).await.unwrap_err();
    }
    channel.retire();
    let status = ask(&channel, request("echo", 10)).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound, "{status:?}");
    assert_eq!(proxy.0.load(Ordering::Relaxed), 4);
    assert_eq!(channel.wire().handshakes().early_data_accepted, 1);
}

#[tokio::test]
async fn early_data_and_certificates_of_clients_exclude_each_other() {
    let certificates = certificates();
    let authority = ClientAuthority::from_pem(certificates.authority_pem.as_bytes(), None).unwrap();
    let tls = ServerTls {
        clients: ClientAuthentication::Optional(authority),
        ..super::fixture::identity(&certificates).into()
    };
    let bound = Listener::bind(ListenerConfig {
        early_data: INFER,
        ..ListenerConfig::new(LOOPBACK, Some(tls))
    });
    let error = bound.await.err();
    assert!(matches!(error, Some(BindError::EarlyDataOfCertificates)));
}
