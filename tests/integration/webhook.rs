//! `[outputs.webhook]`: every event comes to a web server, also to one that is away for a while.

use std::{
    collections::VecDeque,
    convert::Infallible,
    fs,
    future::pending,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use futures::stream;
use outpost_tests::{CertificateFolder, WebServer, edge_config, free_address, program, some_cifar};
use serde_json::Value;

use super::run::{Device, json, until};

/// A server that takes events, as a receiver of webhooks would.
#[derive(Clone, Default)]
struct Receiver {
    /// The calls that came: their headers and events.
    calls: Arc<Mutex<Vec<(HeaderMap, Value)>>>,
    /// What it answers first; then 204.
    answers: Arc<Mutex<VecDeque<StatusCode>>>,
}

impl Receiver {
    fn router(&self) -> Router {
        let take = async |State(receiver): State<Self>, headers: HeaderMap, body: Bytes| {
            let event = serde_json::from_slice(&body).unwrap();
            receiver.calls.lock().unwrap().push((headers, event));
            let answer = receiver.answers.lock().unwrap().pop_front();
            let answer = answer.unwrap_or(StatusCode::NO_CONTENT);
            (answer, [(header::RETRY_AFTER, "0")])
        };
        Router::new()
            .route("/events/{key}", post(take))
            .with_state(self.clone())
    }

    fn events(&self) -> Vec<Value> {
        let calls = self.calls.lock().unwrap();
        calls.iter().map(|(_, event)| event.clone()).collect()
    }

    fn headers(&self, name: &str) -> Vec<String> {
        let calls = self.calls.lock().unwrap();
        let header = |(headers, _): &(HeaderMap, Value)| headers[name].to_str().unwrap().to_owned();
        calls.iter().map(header).collect()
    }
}

#[test]
fn events_come_in_order_over_tls_with_a_token_and_no_secret_is_logged() {
    let certificates = CertificateFolder::valid();
    let receiver = Receiver::default();
    let server = WebServer::start_tls(&certificates, receiver.router());
    fs::write(certificates.file("receiver.token"), "t0k3n-t0k3n-t0k3n\n").unwrap();
    let device = Device::start(&format!(
        "deadline_ms = 20000\n[api]\naddress = \"127.0.0.1:0\"\n[outputs.webhook]\nurl = \"https://localhost:{}/events/s3cr3t\"\ntoken = {:?}\ncertificate_authority = {:?}\n",
        server.address().port(),
        certificates.file("receiver.token"),
        certificates.authority(),
    ));
    let mut said = Vec::new();
    for image in some_cifar(5) {
        let image = fs::read(image).unwrap();
        said.push(json(device.post("/v1/classify", "image/jpeg", &image)));
    }
    until("five events", || {
        (receiver.events().len() == 5).then_some(())
    });
    assert_eq!(receiver.events(), said);
    assert_eq!(
        receiver.headers("authorization"),
        ["Bearer t0k3n-t0k3n-t0k3n"; 5]
    );
    assert_eq!(receiver.headers("content-type"), ["application/json"; 5]);
    let key = |event: &Value| format!("\"{}.answer\"", event["id"].as_str().unwrap());
    let keys: Vec<String> = said.iter().map(key).collect();
    assert_eq!(receiver.headers("idempotency-key"), keys);
    // Another authority's server is told nothing.
    certificates.renew();
    let stranger = Receiver::default();
    let address = server.address();
    drop(server);
    let _stranger = WebServer::start_tls_at(address, &certificates, stranger.router());
    let image = fs::read(&some_cifar(1)[0]).unwrap();
    json(device.post("/v1/classify", "image/jpeg", &image));
    until("a failure", || {
        device.counted("outpost_edge_output_failures_total{output=\"webhook\"}")
    });
    assert!(stranger.events().is_empty());
    let (log, _) = device.end();
    assert!(log.contains("events wait for the webhook"), "{log}");
    assert!(log.contains("invalid peer certificate"), "{log}");
    assert!(
        log.contains("could not be delivered before the end"),
        "{log}"
    );
    assert!(!log.contains("t0k3n") && !log.contains("s3cr3t"), "{log}");
}

#[test]
fn events_wait_for_a_server_that_is_away_or_fails_and_the_inputs_with_them() {
    let address = free_address();
    let device = Device::start(&format!(
        "deadline_ms = 20000\nmax_in_flight = 1\n[api]\naddress = \"127.0.0.1:0\"\n[outputs.webhook]\nurl = \"http://{address}/events/x\"\nmax_waiting = 2\n",
    ));
    let images = some_cifar(10);
    let taken = || device.metric("outpost_edge_images_total{input=\"api\"}");
    let receiver = Receiver::default();
    // One of the first calls was taken in truth, and its answer lost.
    receiver.answers.lock().unwrap().extend([
        StatusCode::SERVICE_UNAVAILABLE,
        StatusCode::TOO_MANY_REQUESTS,
        StatusCode::REQUEST_TIMEOUT,
        StatusCode::NO_CONTENT,
        StatusCode::BAD_GATEWAY,
    ]);
    let mut said: Vec<Value> = thread::scope(|scope| {
        let calls: Vec<_> = images
            .iter()
            .map(|image| {
                let image = fs::read(image).unwrap();
                let device = &device;
                scope.spawn(move || {
                    loop {
                        let answer = device.post("/v1/classify", "image/jpeg", &image);
                        if answer.status() == 200 {
                            break json(answer);
                        }
                        assert_eq!(answer.status(), 503);
                        thread::sleep(Duration::from_millis(100));
                    }
                })
            })
            .collect();
        until("an event that waits", || {
            device.counted("outpost_edge_output_failures_total{output=\"webhook\"}")
        });
        let before = until("the inputs to wait", || {
            let before = taken();
            thread::sleep(Duration::from_secs(1));
            (taken() == before).then_some(before).flatten()
        });
        // One under way, one at hand, two that wait, and one whose place is kept.
        assert!((3.0..=5.0).contains(&before), "{before}");
        let _server = WebServer::start_at(address, receiver.router());
        let said = calls.into_iter().map(|call| call.join().unwrap()).collect();
        until("all events", || {
            (receiver.events().len() >= 14).then_some(())
        });
        said
    });
    let mut keys = receiver.headers("idempotency-key");
    assert_eq!(keys.len(), 14);
    // What comes again has the same name, and comes before the next.
    keys.dedup();
    assert_eq!(keys.len(), 10);
    let mut events = receiver.events();
    events.dedup();
    let id = |event: &Value| event["id"].as_str().unwrap().to_owned();
    said.sort_by_key(id);
    events.sort_by_key(id);
    assert_eq!(events, said);
    let (log, _) = device.end();
    assert_eq!(
        log.matches("events wait for the webhook").count(),
        2,
        "{log}"
    );
    assert!(log.contains("events are taken again"), "{log}");
}

#[test]
fn a_file_in_a_folder_is_put_away_once_the_webhook_has_taken_its_event() {
    let address = free_address();
    let folder = tempfile::tempdir().unwrap();
    let incoming = folder.path().join("incoming");
    fs::create_dir(&incoming).unwrap();
    let images = some_cifar(8);
    for image in &images {
        fs::copy(image, incoming.join(image.file_name().unwrap())).unwrap();
    }
    let device = Device::start_in(
        folder,
        &format!(
            "deadline_ms = 20000\nmax_in_flight = 1\n[api]\naddress = \"127.0.0.1:0\"\n[[folders]]\nname = \"door\"\npath = \"incoming\"\n[outputs.webhook]\nurl = \"http://{address}/events/x\"\nmax_waiting = 1\n"
        ),
    );
    let taken = || device.metric("outpost_edge_images_total{input=\"door\"}");
    let answered = || fs::read_dir(incoming.join("answered")).map_or(0, Iterator::count);
    let taken = until("the folder to wait", || {
        let before = taken().filter(|&taken| taken >= 3.0);
        thread::sleep(Duration::from_secs(1));
        before.filter(|_| taken() == before)
    });
    assert_eq!(answered() as f64, taken - 1.0);
    let receiver = Receiver::default();
    let _server = WebServer::start_at(address, receiver.router());
    until("all files", || (answered() == images.len()).then_some(()));
    until("all events", || {
        (receiver.events().len() == images.len()).then_some(())
    });
    device.end();
}

#[test]
fn what_is_about_an_event_drops_it_and_who_is_not_let_in_calls_again() {
    let receiver = Receiver::default();
    let (taken, dropped) = (StatusCode::NO_CONTENT, StatusCode::UNPROCESSABLE_ENTITY);
    let events: [&[StatusCode]; 9] = [
        &[dropped],
        &[dropped],
        &[StatusCode::UNAUTHORIZED, taken],
        &[StatusCode::PERMANENT_REDIRECT, StatusCode::NOT_FOUND, taken],
        &[StatusCode::FORBIDDEN, taken],
        &[StatusCode::PROXY_AUTHENTICATION_REQUIRED, taken],
        &[dropped],
        &[StatusCode::UNAUTHORIZED, taken],
        &[StatusCode::METHOD_NOT_ALLOWED, taken],
    ];
    let answers = events.concat();
    receiver.answers.lock().unwrap().extend(&answers);
    let server = WebServer::start(receiver.router());
    let device = Device::start(&format!(
        "deadline_ms = 20000\n[api]\naddress = \"127.0.0.1:0\"\n[outputs.webhook]\nurl = \"http://{}/events/x\"\nevents = [\"failure\"]\n",
        server.address(),
    ));
    let image = fs::read(&some_cifar(1)[0]).unwrap();
    for _ in events {
        // Of a kind that is not sent.
        assert_eq!(
            device.post("/v1/classify", "image/jpeg", &image).status(),
            200
        );
        assert_eq!(
            device.post("/v1/classify", "image/jpeg", b"none").status(),
            422
        );
    }
    until("all calls", || {
        (receiver.events().len() == answers.len()).then_some(())
    });
    for event in receiver.events() {
        assert_eq!(event["kind"], "failure");
    }
    let mut calls = Vec::new();
    for key in receiver.headers("idempotency-key") {
        match calls.last_mut() {
            Some((last, count)) if *last == key => *count += 1,
            _ => calls.push((key, 1)),
        }
    }
    let calls: Vec<usize> = calls.into_iter().map(|(_, count)| count).collect();
    assert_eq!(calls, events.map(<[StatusCode]>::len));
    let count = |metric| device.metric(&format!("{metric}{{output=\"webhook\"}}"));
    until("the last event", || {
        (count("outpost_edge_output_waiting_events") == Some(0.0)).then_some(())
    });
    assert_eq!(count("outpost_edge_output_refusals_total"), Some(3.0));
    assert_eq!(count("outpost_edge_output_failures_total"), Some(7.0));
    let (log, _) = device.end();
    // Told once, and again after an event was taken.
    for (says, times) in [
        ("422 Unprocessable Entity", 2),
        ("401 Unauthorized", 2),
        ("as `outputs.webhook.token`", 3),
        ("change `outputs.webhook.url`", 1),
        ("that `outputs.webhook.url` is its address", 2),
        ("the proxy on the way", 1),
        ("events are taken again", 6),
    ] {
        assert_eq!(log.matches(says).count(), times, "{says}: {log}");
    }
}

/// A body without an end.
fn endless(status: StatusCode) -> Response {
    let piece = || Ok::<_, Infallible>(Bytes::from_static(&[b' '; 1024]));
    (status, Body::from_stream(stream::repeat_with(piece))).into_response()
}

#[test]
fn a_server_that_does_not_answer_or_never_ends_its_answer_holds_up_no_image() {
    let keys: Arc<Mutex<Vec<String>>> = Arc::default();
    let take = async |State(keys): State<Arc<Mutex<Vec<String>>>>, headers: HeaderMap| {
        let key = headers["idempotency-key"].to_str().unwrap().to_owned();
        let calls = {
            let mut keys = keys.lock().unwrap();
            keys.push(key);
            keys.len()
        };
        match calls {
            1 => pending().await,
            2 => endless(StatusCode::SERVICE_UNAVAILABLE),
            // The status is what counts.
            3 => endless(StatusCode::OK),
            _ => StatusCode::NO_CONTENT.into_response(),
        }
    };
    let router = Router::new().route("/events", post(take));
    let server = WebServer::start(router.with_state(keys.clone()));
    let device = Device::start(&format!(
        "deadline_ms = 20000\n[api]\naddress = \"127.0.0.1:0\"\n[outputs.webhook]\nurl = \"http://{}/events\"\ntimeout_ms = 3000\n",
        server.address(),
    ));
    let image = fs::read(&some_cifar(1)[0]).unwrap();
    let mut expected: Vec<String> = Vec::new();
    for _ in 0..3 {
        let event = json(device.post("/v1/classify", "image/jpeg", &image));
        expected.push(format!("\"{}.answer\"", event["id"].as_str().unwrap()));
    }
    // The first is called with twice more.
    expected.splice(0..0, [expected[0].clone(), expected[0].clone()]);
    until("all events", || {
        (keys.lock().unwrap().len() >= expected.len()).then_some(())
    });
    assert_eq!(
        device.metric("outpost_edge_output_failures_total{output=\"webhook\"}"),
        Some(2.0)
    );
    let (log, _) = device.end();
    assert_eq!(*keys.lock().unwrap(), expected);
    assert!(
        log.contains("did not answer in time (`timeout_ms`)"),
        "{log}"
    );
    assert!(log.contains("events are taken again"), "{log}");
}

#[test]
fn what_does_not_hold_about_outputs_and_addresses_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("edge-agent.toml");
    fs::write(folder.path().join("secret"), "0123456789abcdef\n").unwrap();
    for (extra, says) in [
        (
            "[outputs.webhook]\nurl = \"receiver\"\n",
            "`outputs.webhook.url`",
        ),
        (
            "[outputs.webhook]\nurl = \"http://x/\"\ntoken = \"secret\"\n",
            "plain_http",
        ),
        (
            "[outputs.webhook]\nurl = \"https://x/\"\ntoken = \"nowhere\"\n",
            "nowhere",
        ),
        (
            "[outputs.webhook]\nurl = \"https://x/\"\ntimeout_ms = 0\n",
            "outputs.webhook.timeout_ms",
        ),
        (
            "[outputs.webhook]\nurl = \"https://x/\"\nevents = [\"all\"]\n",
            "events",
        ),
        (
            "[outputs.mqtt]\nhost = \"x\"\ntopic = \"a/#\"\n",
            "`outputs.mqtt.topic`",
        ),
        (
            "[outputs.mqtt]\nhost = \"x\"\ntopic = \"\"\n",
            "`outputs.mqtt.topic`",
        ),
        (
            "[outputs.mqtt]\nhost = \"x\"\ntopic = \"a\"\nusername = \"me\"\n",
            "`outputs.mqtt.password`",
        ),
        (
            "[outputs.mqtt]\nhost = \"x\"\ntopic = \"a\"\ncertificate_authority = \"secret\"\n",
            "holds no certificate",
        ),
        (
            "[outputs.mqtt]\nhost = \"x\"\ntopic = \"a\"\nplain = true\ncertificate_authority = \"secret\"\n",
            "`plain`",
        ),
        (
            "[outputs.mqtt]\nhost = \"x\"\ntopic = \"a\"\nmax_waiting = 0\n",
            "outputs.mqtt.max_waiting",
        ),
        (
            "[[urls]]\nurl = \"rtsp://me:0123456789abcdef@camera/\"\n",
            "neither https",
        ),
        (
            "[[urls]]\nurl = \"http://me:0123456789abcdef@camera/\"\n",
            "plain_http",
        ),
        (
            "[[urls]]\nurl = \"https://camera/\"\nname = \"api\"\n",
            "two inputs are called",
        ),
        (
            "[[urls]]\nurl = \"https://camera/\"\nusername = \"me\"\n",
            "no single way",
        ),
        (
            "[[urls]]\nurl = \"https://camera/\"\ntimeout_ms = 0\n",
            "urls.timeout_ms",
        ),
    ] {
        fs::write(
            &config,
            edge_config(&format!("[api]\naddress = \"127.0.0.1:0\"\n{extra}")),
        )
        .unwrap();
        let output = std::process::Command::new(program("edge-agent"))
            .args(["run", "--mode", "device-only", "--config"])
            .arg(&config)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{extra}");
        assert!(said.contains(says), "{extra}: {said}");
        assert!(!said.contains("0123456789abcdef"), "{said}");
    }
}
