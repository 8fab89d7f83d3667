//! What happens when a service ends: in order, or killed.

use std::time::{Duration, Instant};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::sleep,
};
use tonic::Code;

use super::fixture::{BOTH, Cloud, LOOPBACK, certificates, client, infer, request};
use crate::CallError;

#[tokio::test]
async fn a_shutdown_answers_the_call_in_flight() {
    for transport in BOTH {
        let mut cloud = Cloud::start().await;
        let channel = cloud.channel(transport);
        let mut held = client(channel.clone());
        let call = tokio::spawn(async move { held.model_infer(request("hold", 100_000)).await });
        cloud.script.begun.acquire().await.unwrap().forget();

        cloud.shut_down();
        // Once new connections are turned away, the shutdown has begun.
        let error = loop {
            if let Err(error) = cloud.channel(transport).connect().await {
                break error;
            }
        };
        assert_ne!(error.cause(), "timeout", "{transport}");
        cloud.script.release.add_permits(1);
        let answer = call.await.unwrap().unwrap().into_inner();
        assert_eq!(answer.raw_output_contents[0].len(), 100_000);
        cloud.ended().await;

        let status = infer(&channel, "echo").await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{transport}: {status}");
    }
}

#[tokio::test]
async fn a_shutdown_waits_no_longer_than_the_drain_timeout() {
    for transport in BOTH {
        let mut cloud = Cloud::start_with(certificates(), LOOPBACK, |config| {
            config.drain_timeout = Duration::from_millis(100);
        })
        .await;
        let mut held = client(cloud.channel(transport));
        let call = tokio::spawn(async move { held.model_infer(request("hold", 0)).await });
        cloud.script.begun.acquire().await.unwrap().forget();
        cloud.shut_down();
        cloud.ended().await;
        let status = call.await.unwrap().unwrap_err();
        assert_eq!(CallError::of(&status).unwrap().cause(), "interrupted");
    }
}

#[tokio::test]
async fn an_idle_shutdown_is_quick() {
    let mut cloud = Cloud::start().await;
    for transport in BOTH {
        let channel = cloud.channel(transport);
        infer(&channel, "echo").await.unwrap();
    }
    let started = Instant::now();
    cloud.shut_down();
    cloud.ended().await;
    assert!(started.elapsed() < Duration::from_secs(5));
}

/// A client may have sent something, such as word that it has read, before it sees that the connection ends. A
/// socket that is closed by then answers with a reset, and what the client has not read yet may be lost: behind
/// HAProxy it was the last answer's trailers.
#[tokio::test]
async fn a_client_that_still_speaks_when_its_connection_ends_is_not_reset() {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    const PING: u8 = 6;
    const WINDOW_UPDATE: &[u8] = b"\0\0\x04\x08\0\0\0\0\0\0\0\0\x01";
    let mut cloud = Cloud::start_with(certificates(), LOOPBACK, |config| {
        config.tls = None;
        config.http3 = false;
    })
    .await;
    let mut tcp = TcpStream::connect(cloud.address).await.unwrap();
    tcp.write_all(PREFACE).await.unwrap();
    // The server's settings: the connection is in use.
    let mut head = [0; 9];
    tcp.read_exact(&mut head).await.unwrap();
    let mut shutdown = Some(());
    loop {
        let length = usize::from(u16::from_be_bytes([head[1], head[2]]));
        let mut payload = vec![0; length];
        tcp.read_exact(&mut payload).await.unwrap();
        if head[3] == PING {
            let acknowledged = [0, 0, 8, PING, 1, 0, 0, 0, 0];
            tcp.write_all(&acknowledged).await.unwrap();
            tcp.write_all(&payload).await.unwrap();
        }
        if shutdown.take().is_some() {
            cloud.shut_down();
        }
        if tcp.read_exact(&mut head).await.is_err() {
            break;
        }
    }
    for _ in 0..3 {
        tcp.write_all(WINDOW_UPDATE).await.unwrap();
        sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(tcp.read(&mut head).await.unwrap(), 0);
    drop(tcp);
    cloud.ended().await;
}

#[tokio::test]
async fn a_channel_reconnects_after_a_restart_in_order() {
    for transport in BOTH {
        let mut cloud = Cloud::start().await;
        let channel = cloud.channel(transport);
        infer(&channel, "echo").await.unwrap();
        cloud.shut_down();
        cloud.ended().await;
        cloud.kill().await;
        let _restarted = cloud.restart().await;
        infer(&channel, "echo").await.unwrap();
    }
}

#[tokio::test]
async fn a_killed_service_is_noticed_during_the_call() {
    for transport in BOTH {
        let mut cloud = Cloud::start().await;
        let channel = cloud.channel(transport);
        let held_channel = channel.clone();
        let call = tokio::spawn(async move { infer(&held_channel, "hold").await });
        cloud.script.begun.acquire().await.unwrap().forget();
        let started = Instant::now();
        cloud.kill().await;
        let status = call.await.unwrap().unwrap_err();
        assert_eq!(CallError::of(&status).unwrap().cause(), "interrupted");
        // Not by the idle timeout of 15 s.
        assert!(started.elapsed() < Duration::from_secs(5), "{transport}");

        let _restarted = cloud.restart().await;
        infer(&channel, "echo").await.unwrap();
    }
}

#[tokio::test]
async fn a_connection_swept_away_by_a_restart_is_noticed_by_the_next_call() {
    for transport in BOTH {
        let mut cloud = Cloud::start().await;
        let channel = cloud.channel(transport);
        infer(&channel, "echo").await.unwrap();
        cloud.kill().await;
        let _restarted = cloud.restart().await;
        let started = Instant::now();
        // The first call may be lost with the connection that it was sent on.
        let _ = infer(&channel, "echo").await;
        infer(&channel, "echo").await.unwrap();
        assert!(started.elapsed() < Duration::from_secs(5), "{transport}");
    }
}
