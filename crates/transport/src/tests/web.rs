//! Browsers, played by hand: HTTP/1.1 written out, gRPC-Web framed here, and what must not get through.

use outpost_proto::inference::{ModelInferRequest, ModelInferResponse};
use prost::Message as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::fixture::{Cloud, LOOPBACK, PATIENCE, certificates, infer};
use crate::{Channel, ClientConfig, ListenerConfig, Transport, WebConfig};

const PATH: &str = "/inference.GRPCInferenceService/ModelInfer";

/// One in the clear that serves browsers, with other settings.
async fn served(adjust: impl FnOnce(&mut ListenerConfig)) -> Cloud {
    Cloud::start_with(certificates(), LOOPBACK, |config| {
        config.tls = None;
        config.http3 = false;
        config.web = Some(WebConfig {
            origins: vec!["https://photos.example".parse().unwrap()],
            ..WebConfig::default()
        });
        adjust(config);
    })
    .await
}

/// A call as gRPC-Web frames it.
fn framed(model: &str) -> Vec<u8> {
    let request = ModelInferRequest {
        model_name: model.to_owned(),
        ..Default::default()
    };
    let message = request.encode_to_vec();
    let mut framed = vec![0];
    framed.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    framed.extend(message);
    framed
}

/// Messages and trailers of an answer.
fn frames(mut body: &[u8]) -> (Vec<ModelInferResponse>, String) {
    let (mut messages, mut trailers) = (Vec::new(), String::new());
    while !body.is_empty() {
        let (flag, length) = (body[0], u32::from_be_bytes(body[1..5].try_into().unwrap()));
        let (frame, rest) = body[5..].split_at(length as usize);
        match flag {
            0 => messages.push(ModelInferResponse::decode(frame).unwrap()),
            0x80 => trailers.push_str(std::str::from_utf8(frame).unwrap()),
            other => panic!("a frame of kind {other}"),
        }
        body = rest;
    }
    (messages, trailers)
}

/// What an answer over HTTP/1.1 has: its head in small letters, and its body without chunks.
async fn exchange(cloud: &Cloud, head: &str, body: &[u8]) -> (String, Vec<u8>) {
    let mut tcp = TcpStream::connect(cloud.address).await.unwrap();
    tcp.write_all(head.as_bytes()).await.unwrap();
    tcp.write_all(body).await.unwrap();
    let mut answer = Vec::new();
    let read = timeout(PATIENCE, tcp.read_to_end(&mut answer)).await;
    read.expect("the connection hangs").unwrap();
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
    let end = end.unwrap_or_else(|| panic!("no head: {}", String::from_utf8_lossy(&answer)));
    let head = String::from_utf8(answer[..end].to_vec()).unwrap();
    let head = head.to_ascii_lowercase();
    let mut rest = &answer[end + 4..];
    let mut body = Vec::new();
    if head.contains("transfer-encoding: chunked") {
        loop {
            let line = rest.windows(2).position(|two| two == b"\r\n").unwrap();
            let length = std::str::from_utf8(&rest[..line]).unwrap();
            let length = usize::from_str_radix(length, 16).unwrap();
            body.extend(&rest[line + 2..line + 2 + length]);
            rest = &rest[line + 4 + length..];
            if length == 0 {
                break;
            }
        }
    } else {
        body.extend(rest);
    }
    (head, body)
}

fn post(content_type: &str, length: usize, more: &str) -> String {
    format!(
        "POST {PATH} HTTP/1.1\r\nhost: cloud\r\ncontent-type: {content_type}\r\ncontent-length: {length}\r\n\
         connection: close\r\n{more}\r\n"
    )
}

#[tokio::test]
async fn a_browser_calls_over_http1_and_others_over_http2_on_the_same_port() {
    let cloud = served(|_| {}).await;
    let body = framed("protocol");
    for content_type in ["application/grpc-web", "application/grpc-web+proto"] {
        let head = post(content_type, body.len(), "x-grpc-web: 1\r\n");
        let (head, answer) = exchange(&cloud, &head, &body).await;
        assert!(head.starts_with("http/1.1 200"), "{head}");
        assert!(
            head.contains("content-type: application/grpc-web+proto"),
            "{head}"
        );
        let (messages, trailers) = frames(&answer);
        assert_eq!(messages.len(), 1);
        assert_eq!(messages[0].id, "h1");
        assert!(trailers.contains("grpc-status:0"), "{trailers}");
    }
    let config = ClientConfig {
        transport: Transport::H2,
        ..ClientConfig::new(format!("http://{}", cloud.address))
    };
    let answer = infer(&Channel::new(config).unwrap(), "protocol").await;
    assert_eq!(answer.unwrap().into_inner().id, "h2");
}

#[tokio::test]
async fn a_call_of_a_browser_ends_by_its_deadline_in_its_own_words() {
    let cloud = served(|_| {}).await;
    let body = framed("hold");
    let more = "grpc-timeout: 50m\r\norigin: https://photos.example\r\n";
    let head = post("application/grpc-web+proto", body.len(), more);
    let (head, answer) = exchange(&cloud, &head, &body).await;
    // No message: the status is in the headers, which the page may read.
    assert!(head.contains("grpc-status: 4"), "{head}");
    assert!(
        head.contains("content-type: application/grpc-web+proto"),
        "{head}"
    );
    assert!(
        head.contains("access-control-allow-origin: https://photos.example"),
        "{head}"
    );
    assert!(
        head.contains("access-control-expose-headers: ") && answer.is_empty(),
        "{head}"
    );
    let head = post(
        "application/grpc-web+proto",
        body.len(),
        "grpc-timeout: soon\r\n",
    );
    let (head, _) = exchange(&cloud, &head, &body).await;
    assert!(head.contains("grpc-status: 3"), "{head}");
}

#[tokio::test]
async fn what_is_spoken_as_browsers_cannot_is_refused_with_word_of_what_to_send() {
    let cloud = served(|_| {}).await;
    let body = framed("echo");
    for content_type in ["application/grpc", "application/grpc-web+json"] {
        let (head, answer) = exchange(&cloud, &post(content_type, body.len(), ""), &body).await;
        assert!(head.starts_with("http/1.1 415"), "{head}");
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.contains("application/grpc-web+proto"), "{answer}");
    }
    // A message of 4 GiB that is announced, and bytes that are no frame.
    for body in [&[0, 255, 255, 255, 255, 1][..], b"no frame at all"] {
        let head = post("application/grpc-web+proto", body.len(), "");
        let (head, answer) = exchange(&cloud, &head, body).await;
        let (messages, trailers) = frames(&answer);
        assert!(messages.is_empty(), "{head}");
        let said = head + &trailers;
        assert!(
            said.contains("grpc-status") && !said.contains("grpc-status: 0"),
            "{said}"
        );
    }
}

#[tokio::test]
async fn only_pages_of_configured_origins_may_call() {
    let cloud = served(|_| {}).await;
    let preflight = |origin: &str| {
        format!(
            "OPTIONS {PATH} HTTP/1.1\r\nhost: cloud\r\nconnection: close\r\norigin: {origin}\r\n\
             access-control-request-method: POST\r\n\
             access-control-request-headers: authorization,content-type,grpc-timeout,x-grpc-web\r\n\r\n"
        )
    };
    let (head, _) = exchange(&cloud, &preflight("https://photos.example"), b"").await;
    for part in [
        "access-control-allow-origin: https://photos.example",
        "access-control-allow-methods: get,head,post",
        "grpc-timeout",
        "authorization",
        "access-control-max-age: 7200",
        "vary: origin",
    ] {
        assert!(head.contains(part), "{part} is not in {head}");
    }
    for origin in [
        "https://photos.example:444",
        "http://photos.example",
        "null",
    ] {
        let (head, _) = exchange(&cloud, &preflight(origin), b"").await;
        assert!(!head.contains("access-control-allow-origin"), "{head}");
    }
}

#[tokio::test]
async fn a_browser_without_leave_to_call_gets_no_http1() {
    let cloud = Cloud::start_with(certificates(), LOOPBACK, |config| {
        config.tls = None;
        config.http3 = false;
    })
    .await;
    let mut tcp = TcpStream::connect(cloud.address).await.unwrap();
    let body = framed("echo");
    let head = post("application/grpc-web+proto", body.len(), "");
    tcp.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, tcp.read_to_end(&mut answer))
        .await
        .unwrap();
    assert!(!answer.starts_with(b"HTTP/1.1"), "{answer:?}");
}

#[tokio::test]
async fn a_body_that_trickles_in_is_cut_off_and_headers_are_bounded() {
    let cloud = served(|config| config.max_call = std::time::Duration::from_millis(200)).await;
    let head = post("application/grpc-web+proto", 100, "");
    let (head, _) = exchange(&cloud, &head, &[0]).await;
    assert!(head.contains("grpc-status: 4"), "{head}");
    let long = format!("x-long: {}\r\n", "a".repeat(17 << 10));
    let head = post("application/grpc-web+proto", 0, &long);
    let (head, _) = exchange(&cloud, &head, b"").await;
    assert!(head.starts_with("http/1.1 431"), "{head}");
}

/// Takes the ten seconds that a peer has for its headers.
#[tokio::test]
async fn headers_that_do_not_end_are_given_up() {
    let cloud = served(|_| {}).await;
    let mut tcp = TcpStream::connect(cloud.address).await.unwrap();
    let begun = format!("GET /{} HTTP/1.1\r\nhost: cloud\r\n", "a".repeat(30));
    tcp.write_all(begun.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let ended = timeout(PATIENCE, tcp.read_to_end(&mut answer)).await;
    assert!(ended.is_ok(), "the connection stays");
    assert!(!answer.starts_with(b"HTTP/1.1 200"), "{answer:?}");
}
