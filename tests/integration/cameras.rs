//! `[[urls]]`: images that are fetched from web servers, and streams of them as cameras give them.

use std::{
    convert::Infallible,
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    http::{HeaderMap, StatusCode, Uri, header},
    response::{IntoResponse, Redirect, Response},
    routing::{MethodRouter, get},
};
use futures::{Stream, StreamExt, stream};
use outpost_tests::{CertificateFolder, WebServer, free_address, some_cifar};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::run::{Device, until};

const API: &str = "deadline_ms = 20000\n[api]\naddress = \"127.0.0.1:0\"\n[outputs.file]\npath = \"answers.jsonl\"\n";

fn image() -> Vec<u8> {
    fs::read(&some_cifar(1)[0]).unwrap()
}

fn events(folder: &Path) -> Vec<Value> {
    let text = fs::read_to_string(folder.join("answers.jsonl")).unwrap_or_default();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// An image as a part of a stream.
fn part(image: &[u8]) -> Bytes {
    let head = format!(
        "--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {}\r\n\r\n",
        image.len()
    );
    [head.as_bytes(), image, b"\r\n"].concat().into()
}

/// A stream of parts.
fn mixed(parts: impl Stream<Item = Bytes> + Send + 'static) -> Response {
    let kind = "multipart/x-mixed-replace; boundary=frame";
    let body = Body::from_stream(parts.map(Ok::<_, Infallible>));
    ([(header::CONTENT_TYPE, kind)], body).into_response()
}

/// Pieces that come one by one, and never end.
fn slowly(piece: Bytes) -> impl Stream<Item = Bytes> + Send {
    stream::repeat(piece).then(|piece| async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        piece
    })
}

#[test]
fn an_image_is_fetched_again_and_again_over_tls_with_a_password() {
    let certificates = CertificateFolder::valid();
    let still = async |headers: HeaderMap| {
        // `camera:p4ssw0rd`.
        if headers
            .get(header::AUTHORIZATION)
            .is_none_or(|shown| shown != "Basic Y2FtZXJhOnA0c3N3MHJk")
        {
            return StatusCode::UNAUTHORIZED.into_response();
        }
        ([(header::CONTENT_TYPE, "image/jpeg")], image()).into_response()
    };
    let router = Router::new()
        .route("/s3cr3t", get(still))
        .route("/moved", get(async || Redirect::temporary("/s3cr3t")));
    let server = WebServer::start_tls(&certificates, router);
    fs::write(certificates.file("camera.password"), "p4ssw0rd\n").unwrap();
    let port = server.address().port();
    let authority = certificates.authority();
    let device = Device::start(&format!(
        "{API}[[urls]]\nname = \"door\"\nurl = \"https://localhost:{port}/s3cr3t\"\nevery_ms = 50\nusername = \"camera\"\npassword = {:?}\ncertificate_authority = {authority:?}\n\
         [[urls]]\nname = \"gate\"\nurl = \"https://camera:p4ssw0rd@localhost:{port}/moved\"\nevery_ms = 50\ncertificate_authority = {authority:?}\n\
         [[urls]]\nname = \"stranger\"\nurl = \"https://localhost:{port}/s3cr3t\"\ncertificate_authority = {authority:?}\n",
        certificates.file("camera.password"),
    ));
    let folder = device.folder.path().to_owned();
    for name in ["door", "gate"] {
        let of_input = until("three images", || {
            let events = events(&folder);
            let of_input: Vec<Value> = events
                .into_iter()
                .filter(|event| event["input"] == name)
                .collect();
            (of_input.len() >= 3).then_some(of_input)
        });
        for (number, event) in of_input.iter().enumerate() {
            assert_eq!(event["image"], format!("{name}-{}", number + 1));
            assert_eq!(event["kind"], "answer");
        }
    }
    until("the stranger's failure", || {
        device.counted("outpost_edge_input_failures_total{input=\"stranger\"}")
    });
    let (log, _folder) = device.end();
    assert!(
        log.contains("give the `token`, or `username` and `password`"),
        "{log}"
    );
    assert!(
        !log.contains("p4ssw0rd") && !log.contains("s3cr3t"),
        "{log}"
    );
}

/// Gives images to who shows the password by Digest, with a nonce that is good for two, over SHA-256 (RFC 7616).
fn digest_camera() -> MethodRouter {
    let given = Arc::new(AtomicUsize::new(0));
    get(async move |uri: Uri, headers: HeaderMap| {
        let images = given.load(Ordering::Relaxed);
        let (nonce, count) = (format!("nonce-{}", images / 2), images % 2 + 1);
        let shown = headers.get(header::AUTHORIZATION);
        let shown = shown.map_or("", |shown| shown.to_str().unwrap());
        let field = |name: &str| {
            let mut fields = shown.trim_start_matches("Digest ").split(", ");
            let field = fields.find_map(|field| field.strip_prefix(name)?.strip_prefix('='));
            field.unwrap_or_default().trim_matches('"').to_owned()
        };
        let user = hash("camera:the door:p4ss w0rd");
        let call = hash(&format!("GET:{uri}"));
        let (nc, cnonce) = (format!("{count:08x}"), field("cnonce"));
        let response = hash(&format!("{user}:{nonce}:{nc}:{cnonce}:auth:{call}"));
        if shown.starts_with("Digest ") && field("response") == response {
            assert_eq!(field("nc"), nc);
            given.fetch_add(1, Ordering::Relaxed);
            return ([(header::CONTENT_TYPE, "image/jpeg")], image()).into_response();
        }
        let asked = format!(
            "Digest realm=\"the door\", qop=\"auth,auth-int\", algorithm=SHA-256, nonce=\"{nonce}\", opaque=\"o\", stale=true"
        );
        let mut response = StatusCode::UNAUTHORIZED.into_response();
        for asked in ["Negotiate", &asked] {
            let asked = asked.parse().unwrap();
            response
                .headers_mut()
                .append(header::WWW_AUTHENTICATE, asked);
        }
        response
    })
}

fn hash(text: &str) -> String {
    let hash = Sha256::digest(text);
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_camera_that_asks_for_digest_is_shown_the_password_so() {
    let router = Router::new()
        .route("/door", digest_camera())
        .route("/gate", digest_camera())
        .route("/stranger", digest_camera());
    let server = WebServer::start(router);
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("password"), "p4ss w0rd\n").unwrap();
    fs::write(folder.path().join("wrong"), "an0ther\n").unwrap();
    let address = server.address();
    let device = Device::start_in(
        folder,
        &format!(
            "{API}[[urls]]\nname = \"door\"\nurl = \"http://{address}/door?channel=1\"\nevery_ms = 50\nusername = \"camera\"\npassword = \"password\"\nplain_http = true\n\
         [[urls]]\nname = \"gate\"\nurl = \"http://camera:p4ss%20w0rd@{address}/gate\"\nevery_ms = 50\nplain_http = true\n\
         [[urls]]\nname = \"stranger\"\nurl = \"http://{address}/stranger\"\nusername = \"camera\"\npassword = \"wrong\"\nplain_http = true\n"
        ),
    );
    let folder = device.folder.path().to_owned();
    for name in ["door", "gate"] {
        until("five images", || {
            let events = events(&folder);
            let count = events.iter().filter(|event| event["input"] == name).count();
            (count >= 5).then_some(())
        });
        let failures = format!("outpost_edge_input_failures_total{{input=\"{name}\"}}");
        assert!(
            device
                .metric(&failures)
                .is_none_or(|failures| failures == 0.0)
        );
    }
    until("the stranger's failure", || {
        device
            .metric("outpost_edge_input_failures_total{input=\"stranger\"}")
            .filter(|&failures| failures > 0.0)
    });
    let (log, _folder) = device.end();
    assert!(log.contains("does not take the token or password"), "{log}");
    for secret in ["p4ss", "an0ther"] {
        assert!(!log.contains(secret), "{log}");
    }
}

#[test]
fn another_cause_of_an_outage_is_told_too() {
    let address = free_address();
    let device = Device::start(&format!(
        "{API}[[urls]]\nname = \"door\"\nurl = \"http://{address}/\"\n"
    ));
    let failures = || {
        let failures = device.metric("outpost_edge_input_failures_total{input=\"door\"}");
        failures.unwrap_or_default()
    };
    until("failures", || (failures() >= 2.0).then_some(()));
    let _server = WebServer::start_at(
        address,
        Router::new().fallback(async || StatusCode::UNAUTHORIZED),
    );
    let before = failures();
    until("others", || (failures() >= before + 3.0).then_some(()));
    let (log, _folder) = device.end();
    for cause in ["Connection refused", "401 Unauthorized: give the `token`"] {
        let is_of = |line: &&str| line.contains("no images come") && line.contains(cause);
        assert_eq!(log.lines().filter(is_of).count(), 1, "{log}");
    }
}

#[test]
fn a_stream_is_read_again_where_it_ends() {
    let calls = Arc::new(AtomicUsize::new(0));
    let called = calls.clone();
    let camera = async move || {
        called.fetch_add(1, Ordering::Relaxed);
        mixed(slowly(part(&image())).take(3))
    };
    let server = WebServer::start(Router::new().route("/stream", get(camera)));
    let device = Device::start(&format!(
        "{API}[[urls]]\nname = \"door\"\nurl = \"http://{}/stream\"\n[[urls]]\nname = \"seldom\"\nurl = \"http://{}/stream\"\nevery_ms = 600000\n",
        server.address(),
        server.address(),
    ));
    let folder = device.folder.path().to_owned();
    let count = |name: &str| {
        let events = events(&folder);
        events.iter().filter(|event| event["input"] == name).count()
    };
    until("images of three streams", || {
        (count("door") >= 7).then_some(())
    });
    assert!(calls.load(Ordering::Relaxed) >= 3);
    assert!((1..=calls.load(Ordering::Relaxed)).contains(&count("seldom")));
    let (log, _folder) = device.end();
    assert!(log.contains("the stream came to its end"), "{log}");
    assert!(log.contains("images come again"), "{log}");
}

#[test]
fn the_newest_image_wins_where_no_place_is_free_and_all_are_accounted_for() {
    const IMAGES: usize = 40;
    let camera = async || {
        // All but the last are none; the first half comes slowly, until events wait and the place with them.
        let junk = part(b"not an image");
        let slow = slowly(junk.clone()).take(IMAGES / 2);
        let fast = stream::repeat(junk).take(IMAGES - IMAGES / 2 - 1);
        let images = slow.chain(fast).chain(stream::iter([part(&image())]));
        mixed(images.chain(stream::pending()))
    };
    let server = WebServer::start(Router::new().route("/stream", get(camera)));
    // Events wait there for a receiver who is away, and the only place with them.
    let away = free_address();
    let device = Device::start(&format!(
        "{API}[outputs.webhook]\nurl = \"http://{away}/\"\nmax_waiting = 1\n[[urls]]\nname = \"door\"\nurl = \"http://{}/stream\"\n",
        server.address(),
    ).replace("deadline_ms", "max_in_flight = 1\ndeadline_ms"));
    let dropped = || {
        device
            .metric("outpost_edge_dropped_images_total{input=\"door\"}")
            .unwrap_or(0.0)
    };
    let taken = || {
        device
            .metric("outpost_edge_images_total{input=\"door\"}")
            .unwrap_or(0.0)
    };
    // One waits.
    until("all images", || {
        (dropped() + taken() == IMAGES as f64 - 1.0).then_some(())
    });
    assert!(dropped() >= 10.0, "{}", dropped());
    let receiver = Router::new().fallback(async || StatusCode::OK);
    let _receiver = WebServer::start_at(away, receiver);
    let folder = device.folder.path().to_owned();
    let last = until("the last image", || {
        let answered = |event: &Value| event["kind"] == "answer";
        events(&folder).into_iter().find(answered)
    });
    assert_eq!(dropped() + taken(), IMAGES as f64);
    assert_eq!(events(&folder).last(), Some(&last));
    device.end();
}

#[test]
fn what_gives_no_images_is_told_by_name_and_the_others_go_on() {
    let kind = |kind: &'static str, body: Vec<u8>| ([(header::CONTENT_TYPE, kind)], body);
    let router = Router::new()
        .route("/good", get(async move || kind("image/jpeg", image())))
        .route(
            "/page",
            get(async move || kind("text/html", b"<html>Log in</html>".to_vec())),
        )
        .route("/loop", get(async || Redirect::temporary("/loop")))
        .route(
            "/large",
            get(async move || kind("image/jpeg", vec![0xff; 5000])),
        )
        .route(
            "/stall",
            get(async || std::future::pending::<StatusCode>().await),
        )
        .route(
            "/drip",
            get(async || mixed(slowly(Bytes::from_static(b"--frame\r\n\r\n")))),
        )
        .route(
            "/wrong-boundary",
            get(async || mixed(slowly(vec![b'x'; 4096].into()))),
        )
        .route(
            "/no-boundary",
            get(async move || kind("multipart/x-mixed-replace", image())),
        )
        .route(
            "/endless-part",
            get(async || {
                let head = stream::iter([Bytes::from_static(b"--frame\r\n\r\n")]);
                mixed(head.chain(slowly(vec![0xff; 4096].into())))
            }),
        )
        .route(
            "/large-part",
            get(async || mixed(stream::iter([part(&[0xff; 5000])]))),
        )
        .route(
            "/stalled-stream",
            get(async || mixed(stream::iter([part(&image())]).chain(stream::pending()))),
        );
    let server = WebServer::start(router);
    let address = server.address();
    let cases = [
        ("page", "it gave \"text/html\", which is no image"),
        ("loop", "it was sent elsewhere too often"),
        ("large", "the image has more than 3000 bytes"),
        ("stall", "no image came within `timeout_ms`"),
        ("drip", "no image came within `timeout_ms`"),
        ("wrong-boundary", "does not come in it"),
        ("no-boundary", "has no boundary"),
        ("endless-part", "an image has more than 3000 bytes"),
        ("large-part", "an image has more than 3000 bytes"),
        ("stalled-stream", "no image came within `timeout_ms`"),
        ("missing", "404 Not Found: see the path in `url`"),
    ];
    let mut config = format!(
        "{API}[images]\nmax_bytes = 3000\n[[urls]]\nname = \"good\"\nurl = \"http://{address}/good\"\nevery_ms = 20\n"
    );
    for (name, _) in &cases {
        config += &format!(
            "[[urls]]\nname = \"{name}\"\nurl = \"http://{address}/{name}\"\ntimeout_ms = 500\n"
        );
    }
    config += &format!(
        "[[urls]]\nname = \"nobody\"\nurl = \"http://{}/\"\n",
        free_address()
    );
    let device = Device::start(&config);
    for name in cases.iter().map(|(name, _)| *name).chain(["nobody"]) {
        let failures = format!("outpost_edge_input_failures_total{{input=\"{name}\"}}");
        until(name, || {
            device.metric(&failures).filter(|&failures| failures >= 2.0)
        });
    }
    let folder = device.folder.path().to_owned();
    let good = || {
        events(&folder)
            .iter()
            .filter(|event| event["input"] == "good")
            .count()
    };
    let before = good();
    until("more images", || (good() > before + 3).then_some(()));
    for event in events(&folder) {
        let input = event["input"].as_str().unwrap();
        assert!(["good", "stalled-stream"].contains(&input), "{event}");
        assert_eq!(event["kind"], "answer");
    }
    let (log, _folder) = device.end();
    for (name, says) in cases.into_iter().chain([("nobody", "Connection refused")]) {
        let name_in_log = format!("\"{name}\"");
        let is_of = |line: &&str| line.contains("no images come") && line.contains(&name_in_log);
        let line = log.lines().find(is_of);
        let line = line.unwrap_or_else(|| panic!("{name}: {log}"));
        assert!(line.contains(says), "{name}: {line}");
    }
}
