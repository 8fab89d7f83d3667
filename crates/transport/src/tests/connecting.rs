//! How connections come about, and why they do not.

use std::{
    net::{SocketAddr, TcpListener, UdpSocket},
    time::{Duration, Instant},
};

use time::OffsetDateTime;
use tonic::Code;

use super::fixture::{Cloud, LOOPBACK, certificates, infer, subjects};
use crate::{
    CallError, Channel, ClientConfig, ConnectError, Protocol, Transport, Trust,
    development_certificates::{Certificates, Validity},
};

const ALL: [Transport; 3] = [Transport::H2, Transport::H3, Transport::Auto];

fn channel_to(address: SocketAddr, transport: Transport, connect_timeout: Duration) -> Channel {
    Channel::new(ClientConfig {
        transport,
        trust: Trust::Authority(certificates().authority_pem.into()),
        connect_timeout,
        ..ClientConfig::new(format!("https://{address}"))
    })
    .unwrap()
}

#[tokio::test]
async fn auto_falls_back_to_http2_where_udp_is_silent() {
    let cloud = Cloud::start_with(certificates(), LOOPBACK, |config| config.http3 = false).await;
    let _silent = UdpSocket::bind(cloud.address).unwrap();
    let channel = cloud.channel(Transport::Auto);
    assert_eq!(channel.connect().await.unwrap(), Protocol::H2);
    infer(&channel, "echo").await.unwrap();
}

#[tokio::test]
async fn auto_falls_back_to_http2_where_http3_is_refused() {
    let cloud = Cloud::start_with(certificates(), LOOPBACK, |config| config.http3 = false).await;
    let channel = cloud.channel(Transport::Auto);
    assert_eq!(channel.connect().await.unwrap(), Protocol::H2);
}

#[tokio::test]
async fn a_name_is_resolved_and_all_its_addresses_tried() {
    // On most machines `localhost` is ::1 first, where nothing listens.
    let cloud = Cloud::start().await;
    for transport in ALL {
        let config = ClientConfig {
            url: format!("https://localhost:{}", cloud.address.port()),
            ..cloud.config(transport)
        };
        Channel::new(config).unwrap().connect().await.unwrap();
    }
}

#[tokio::test]
async fn plaintext_http2_is_spoken_where_asked() {
    let mut cloud = Cloud::start_with(certificates(), LOOPBACK, |config| {
        config.tls = None;
        config.http3 = false;
    })
    .await;
    let channel = Channel::new(ClientConfig::new(format!("http://{}", cloud.address))).unwrap();
    let response = infer(&channel, "protocol").await.unwrap();
    assert_eq!(response.get_ref().id, "h2");
    cloud.shut_down();
    cloud.ended().await;
}

#[tokio::test]
async fn a_refused_connection_is_noticed_at_once() {
    let unused = TcpListener::bind(LOOPBACK).unwrap().local_addr().unwrap();
    for transport in ALL {
        let channel = channel_to(unused, transport, Duration::from_secs(60));
        let started = Instant::now();
        let error = channel.connect().await.unwrap_err();
        assert!(
            matches!(error, ConnectError::Refused { address } if address == unused),
            "{transport}: {error:?}"
        );
        // Far below any timeout, and far above what a busy machine needs.
        assert!(started.elapsed() < Duration::from_secs(2), "{transport}");

        let status = infer(&channel, "echo").await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable);
        assert_eq!(CallError::of(&status).unwrap().cause(), "refused");
    }
}

#[tokio::test]
async fn a_silent_host_is_given_up_at_the_connect_timeout() {
    let tcp = TcpListener::bind(LOOPBACK).unwrap();
    let address = tcp.local_addr().unwrap();
    let _udp = UdpSocket::bind(address).unwrap();
    for transport in ALL {
        let channel = channel_to(address, transport, Duration::from_millis(400));
        let error = channel.connect().await.unwrap_err();
        assert!(
            matches!(error, ConnectError::Timeout { .. }),
            "{transport}: {error:?}"
        );
        assert_eq!(error.cause(), "timeout");
    }
}

async fn tls_error(cloud: &Cloud, adjust: impl Fn(&mut ClientConfig)) -> Vec<String> {
    let mut messages = Vec::new();
    for transport in ALL {
        let mut config = cloud.config(transport);
        adjust(&mut config);
        let error = Channel::new(config).unwrap().connect().await.unwrap_err();
        assert!(
            matches!(error, ConnectError::Tls(_)),
            "{transport}: {error:?}"
        );
        assert_eq!(error.cause(), "tls");
        messages.push(error.to_string());
    }
    messages
}

#[tokio::test]
async fn an_unknown_authority_is_not_believed() {
    let cloud = Cloud::start().await;
    let other = certificates();
    let messages = tls_error(&cloud, |config| {
        config.trust = Trust::Authority(other.authority_pem.clone().into());
    });
    for message in messages.await {
        assert!(message.contains("unknown authority"), "{message}");
    }
}

#[tokio::test]
async fn an_expired_certificate_is_not_believed() {
    let now = OffsetDateTime::now_utc();
    let validity = Validity {
        not_before: now - time::Duration::days(2),
        not_after: now - time::Duration::days(1),
    };
    let expired = Certificates::issue(&subjects(), validity).unwrap();
    let cloud = Cloud::start_with(expired, LOOPBACK, |_| {}).await;
    for message in tls_error(&cloud, |_| {}).await {
        assert!(message.contains("expired"), "{message}");
    }
}

#[tokio::test]
async fn a_certificate_for_another_name_is_not_believed() {
    let cloud = Cloud::start().await;
    let messages = tls_error(&cloud, |config| {
        config.server_name = Some("cloud.example".into());
    });
    for message in messages.await {
        assert!(message.contains("wrong name"), "{message}");
    }
}

#[tokio::test]
async fn an_unknown_host_is_named() {
    let url = "https://no-such-host.invalid";
    let error = Channel::new(ClientConfig::new(url))
        .unwrap()
        .connect()
        .await
        .unwrap_err();
    assert_eq!(error.cause(), "unknown-host");
    assert!(error.to_string().contains("no-such-host.invalid"));
}

#[tokio::test]
async fn a_server_without_tls_is_a_tls_failure() {
    let cloud = Cloud::start_with(certificates(), LOOPBACK, |config| {
        config.tls = None;
        config.http3 = false;
    })
    .await;
    let channel = cloud.channel(Transport::H2);
    assert_eq!(channel.connect().await.unwrap_err().cause(), "tls");
}

#[tokio::test]
async fn connections_over_the_limit_are_turned_away_until_one_ends() {
    let cloud = Cloud::start_with(certificates(), LOOPBACK, |config| {
        config.max_connections = 4
    })
    .await;
    for transport in [Transport::H2, Transport::H3] {
        // The third and fourth over HTTP/3 also prove their addresses.
        let channels: Vec<_> = (0..4).map(|_| cloud.channel(transport)).collect();
        for channel in &channels {
            // A place that a dropped connection had may be free a moment later.
            while infer(channel, "echo").await.is_err() {
                tokio::task::yield_now().await;
            }
        }
        infer(&cloud.channel(transport), "echo").await.unwrap_err();
    }
}
