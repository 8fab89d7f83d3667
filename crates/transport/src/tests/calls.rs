//! What a call over either protocol is like.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tonic::Code;

use super::fixture::{BOTH, Cloud, LOOPBACK, PATIENCE, client, infer, request};
use crate::{CallError, Channel, ClientConfig, DEFAULT_MAX_MESSAGE_BYTES, Protocol, Transport};

#[tokio::test]
async fn a_call_is_answered_and_says_by_which_protocol() {
    let cloud = Cloud::start().await;
    for (transport, protocol) in [
        (Transport::H2, Protocol::H2),
        (Transport::H3, Protocol::H3),
        (Transport::Auto, Protocol::H3),
    ] {
        let channel = cloud.channel(transport);
        let response = infer(&channel, "protocol").await.unwrap();
        assert_eq!(response.extensions().get(), Some(&protocol));
        // The service knows it too.
        assert_eq!(response.get_ref().id, protocol.to_string());
        assert_eq!(response.get_ref().raw_output_contents[0].len(), 1000);
        assert_eq!(channel.protocol(), Some(protocol));
    }
}

#[tokio::test]
async fn the_services_own_status_comes_through() {
    let cloud = Cloud::start().await;
    for transport in BOTH {
        let status = infer(&cloud.channel(transport), "no such model")
            .await
            .unwrap_err();
        assert_eq!(status.code(), Code::NotFound);
        assert_eq!(status.message(), "no such model");
        assert!(CallError::of(&status).is_none());
    }
}

#[tokio::test]
async fn a_proxys_own_page_is_not_taken_for_an_answer() {
    let listener = TcpListener::bind(LOOPBACK).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    // What HAProxy and nginx say where no server is left.
    let page = |_| async {
        let page = http::Response::builder()
            .status(503)
            .header("content-type", "text/html")
            .body(Full::new(Bytes::from_static(b"<html>503</html>")));
        Ok::<_, Infallible>(page.unwrap())
    };
    tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(tcp), service_fn(page))
            .await
    });
    let channel = Channel::new(ClientConfig::new(url)).unwrap();
    let status = infer(&channel, "echo").await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert_eq!(CallError::of(&status).unwrap().cause(), "not-grpc");
    assert!(status.message().contains("503"), "{status}");
}

#[tokio::test]
async fn callers_share_one_connection() {
    let cloud = Cloud::start().await;
    for transport in [Transport::H2, Transport::H3, Transport::Auto] {
        let channel = cloud.channel(transport);
        let calls = (0..16).map(|_| infer(&channel, "peer"));
        let peers: Vec<_> = futures::future::join_all(calls)
            .await
            .into_iter()
            .map(|response| response.unwrap().into_inner().id)
            .collect();
        assert!(peers.iter().all(|peer| *peer == peers[0]), "{peers:?}");
    }
}

#[tokio::test]
async fn a_large_message_goes_both_ways_and_one_too_large_is_refused() {
    let cloud = Cloud::start().await;
    for transport in BOTH {
        let mut client = client(cloud.channel(transport));
        let large = client.model_infer(request("echo", 8_000_000)).await;
        let large = large.unwrap().into_inner();
        assert_eq!(large.raw_output_contents[0].len(), 8_000_000);

        let too_large = request("echo", DEFAULT_MAX_MESSAGE_BYTES + 1);
        let status = client.model_infer(too_large).await.unwrap_err();
        assert_eq!(status.code(), Code::OutOfRange, "{transport}: {status}");

        // The connection has not suffered.
        client.model_infer(request("echo", 1)).await.unwrap();
    }
}

#[tokio::test]
async fn the_service_is_told_the_deadline() {
    let cloud = Cloud::start().await;
    for transport in BOTH {
        let mut call = tonic::Request::new(request("deadline", 0));
        call.set_timeout(Duration::from_secs(60));
        let answer = client(cloud.channel(transport)).model_infer(call).await;
        let remaining: u64 = answer.unwrap().into_inner().id.parse().unwrap();
        assert!((40_000..=60_000).contains(&remaining), "{remaining}");
    }
}

#[tokio::test]
async fn a_call_ends_at_its_deadline_at_both_sides() {
    let cloud = Cloud::start().await;
    for transport in BOTH {
        let channel = cloud.channel(transport);
        channel.connect().await.unwrap();
        let mut call = tonic::Request::new(request("hold", 0));
        call.set_timeout(Duration::from_millis(100));
        let status = client(channel).model_infer(call).await.unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded);
        let over = cloud.script.over.acquire();
        tokio::time::timeout(PATIENCE, over)
            .await
            .expect("the service still works on it")
            .unwrap()
            .forget();
    }
}

#[tokio::test]
async fn a_malformed_timeout_is_refused() {
    let cloud = Cloud::start().await;
    for transport in BOTH {
        let mut call = tonic::Request::new(request("echo", 0));
        let malformed = "soon".parse().unwrap();
        call.metadata_mut().insert("grpc-timeout", malformed);
        let answer = client(cloud.channel(transport)).model_infer(call).await;
        assert_eq!(answer.unwrap_err().code(), Code::InvalidArgument);
    }
}

#[tokio::test]
async fn an_abandoned_call_is_dropped_at_the_service() {
    let cloud = Cloud::start().await;
    for transport in BOTH {
        let mut client = client(cloud.channel(transport));
        let call = tokio::spawn(async move { client.model_infer(request("hold", 0)).await });
        cloud.script.begun.acquire().await.unwrap().forget();
        call.abort();
        tokio::time::timeout(PATIENCE, cloud.script.over.acquire())
            .await
            .expect("the service still works on it")
            .unwrap()
            .forget();
    }
}

#[tokio::test]
async fn headers_that_are_too_large_are_refused_and_harm_no_other_call() {
    let cloud = Cloud::start().await;
    for transport in BOTH {
        let mut client = client(cloud.channel(transport));
        // The first call also fetches the server's settings.
        client.model_infer(request("echo", 1)).await.unwrap();
        let mut call = tonic::Request::new(request("echo", 1));
        let large = "x".repeat(20_000).parse().unwrap();
        call.metadata_mut().insert("x-large", large);
        client.model_infer(call).await.unwrap_err();
        client.model_infer(request("echo", 1)).await.unwrap();
    }
}
