//! What a channel says that it cost on the wire, against what came through a relay.

use std::time::Duration;

use tokio::time::sleep;

use super::{
    fixture::{BOTH, Cloud, LOOPBACK, certificates, client, infer, request},
    relay::{TcpRelay, UdpRelay},
};
use crate::{Channel, ClientConfig, Protocol, Transport, WireBytes, WireMeter};

/// Of IP and TCP with timestamps.
const SEGMENT_HEADER_BYTES: u64 = 52;

/// That two counts are the same within 3 %.
fn assert_agree(counted: WireBytes, came_through: WireBytes) {
    for (counted, came_through) in [
        (counted.sent, came_through.sent),
        (counted.received, came_through.received),
    ] {
        let difference = counted.abs_diff(came_through);
        assert!(
            difference * 100 <= came_through * 3,
            "{counted} counted, {came_through} came through"
        );
    }
}

/// Asks for answers of many sizes over two connections, one after the other, and ends them.
async fn talk(config: ClientConfig) -> WireMeter {
    let wire = WireMeter::default();
    for _ in 0..2 {
        let channel = Channel::new(config.clone()).unwrap();
        channel.count_with(wire.clone());
        for bytes in [10, 50_000, 400_000, 1000] {
            let mut client = client(channel.clone());
            client.model_infer(request("echo", bytes)).await.unwrap();
        }
    }
    wire
}

/// Waits until nothing comes through any more.
async fn quiet(count: impl Fn() -> WireBytes) -> WireBytes {
    let mut before = count();
    loop {
        sleep(Duration::from_millis(300)).await;
        let now = count();
        if now == before {
            return now;
        }
        before = now;
    }
}

#[tokio::test]
async fn over_http3_the_count_is_that_of_the_packets() {
    let cloud = Cloud::start().await;
    let relay = UdpRelay::to(cloud.address);
    let config = ClientConfig {
        url: format!("https://{}", relay.address),
        ..cloud.config(Transport::H3)
    };
    let wire = talk(config).await;
    let came_through = quiet(|| relay.counts.wire()).await;
    assert!(came_through.sent > 900_000, "{came_through:?}");
    assert_agree(wire.bytes(Protocol::H3), came_through);
    assert_eq!(wire.bytes(Protocol::H2), WireBytes::default());
}

#[tokio::test]
async fn over_http2_the_count_is_that_of_the_bytes_and_of_the_segments_that_the_kernel_tells() {
    let cloud = Cloud::start().await;
    let relay = TcpRelay::to(cloud.address).await;
    let config = ClientConfig {
        url: format!("https://{}", relay.address),
        ..cloud.config(Transport::H2)
    };
    let wire = talk(config).await;
    let payload = quiet(|| relay.counts.wire()).await;
    let counted = quiet(|| wire.bytes(Protocol::H2)).await;
    assert!(payload.sent > 900_000, "{payload:?}");
    // Loopback's segments are large, so their headers are few: a handshake, two ends, and what lies between.
    assert_agree(counted, payload);
    for (counted, payload) in [
        (counted.sent, payload.sent),
        (counted.received, payload.received),
    ] {
        let segments = (counted - payload) / SEGMENT_HEADER_BYTES;
        assert!((8..2000).contains(&segments), "{segments} segments");
    }
}

#[tokio::test]
async fn a_connection_that_is_open_counts_as_it_goes() {
    for transport in BOTH {
        let cloud = Cloud::start().await;
        let channel = cloud.channel(transport);
        let protocol = channel.connect().await.unwrap();
        let handshake = channel.wire().bytes(protocol);
        assert!(handshake.sent > 300, "{handshake:?}");
        assert!(handshake.received > 300, "{handshake:?}");
        infer(&channel, "echo").await.unwrap();
        let after = channel.wire().bytes(protocol);
        assert!(after.sent > handshake.sent + 1000, "{after:?}");
        assert!(after.received > handshake.received + 1000, "{after:?}");
    }
}

#[tokio::test]
async fn an_idle_connection_costs_its_keep_alives_and_one_that_is_closed_nothing() {
    let cloud = Cloud::start().await;
    let channel = |close_idle| {
        Channel::new(ClientConfig {
            keep_alive: Duration::from_millis(200),
            close_idle,
            ..cloud.config(Transport::H3)
        })
        .unwrap()
    };
    let kept = channel(None);
    let closed = channel(Some(Duration::from_millis(400)));
    for channel in [&kept, &closed] {
        infer(channel, "echo").await.unwrap();
    }
    sleep(Duration::from_secs(1)).await;
    assert!(kept.protocol().is_some());
    assert_eq!(closed.protocol(), None);
    let total = |channel: &Channel| {
        let wire = channel.wire().bytes(Protocol::H3);
        wire.sent + wire.received
    };
    let before = [&kept, &closed].map(total);
    sleep(Duration::from_secs(4)).await;
    let after = [&kept, &closed].map(total);
    let each = (after[0] - before[0]) / 20;
    println!("{each} bytes a keep-alive over HTTP/3, both ways");
    // On a busy machine some are late.
    assert!((40..400).contains(&each), "{each}");
    assert_eq!(after[1], before[1]);
    // The next call connects.
    infer(&closed, "echo").await.unwrap();
}

#[tokio::test]
async fn an_idle_connection_over_http2_costs_the_questions_of_the_service() {
    let cloud = Cloud::start_with(certificates(), LOOPBACK, |config| {
        // It asks in half of the time.
        config.idle_timeout = Duration::from_secs(2);
    });
    let cloud = cloud.await;
    let channel = cloud.channel(Transport::H2);
    infer(&channel, "echo").await.unwrap();
    let total = || {
        let wire = channel.wire().bytes(Protocol::H2);
        wire.sent + wire.received
    };
    // The first of them, with which the last acknowledgements of the call have come.
    sleep(Duration::from_millis(1500)).await;
    let before = total();
    sleep(Duration::from_secs(4)).await;
    let each = (total() - before) / 4;
    println!("{each} bytes a question of the service over HTTP/2, both ways");
    assert!((50..400).contains(&each), "{each}");
    assert!(channel.protocol().is_some());
}

#[tokio::test]
async fn a_connection_with_a_call_under_way_is_not_idle() {
    for transport in BOTH {
        let cloud = Cloud::start().await;
        let channel = Channel::new(ClientConfig {
            close_idle: Some(Duration::from_millis(50)),
            ..cloud.config(transport)
        })
        .unwrap();
        let held = {
            let channel = channel.clone();
            tokio::spawn(async move { infer(&channel, "hold").await })
        };
        cloud.script.begun.acquire().await.unwrap().forget();
        sleep(Duration::from_millis(300)).await;
        assert!(channel.protocol().is_some(), "{transport}");
        cloud.script.release.add_permits(1);
        held.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn attempts_that_come_to_nothing_count() {
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let channel = |transport| {
        Channel::new(ClientConfig {
            transport,
            connect_timeout: Duration::from_millis(400),
            ..ClientConfig::new(format!("https://{address}"))
        })
        .unwrap()
    };
    let http3 = channel(Transport::H3);
    http3.connect().await.unwrap_err();
    // The first packet is padded to 1200 bytes; the questions whether somebody listens are small.
    let sent = http3.wire().bytes(Protocol::H3).sent;
    assert!((1228..5000).contains(&sent), "{sent}");
    let http2 = channel(Transport::H2);
    http2.connect().await.unwrap_err();
    let refused = WireBytes {
        sent: 60,
        received: 40,
    };
    assert_eq!(http2.wire().bytes(Protocol::H2), refused);
}
