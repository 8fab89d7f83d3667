//! Callers of the device's API that stall, go away, come back, or listen too slowly.

use std::{
    collections::HashMap,
    fs,
    io::{BufRead, BufReader, Lines, Read, Write},
    net::TcpStream,
    thread,
    time::Duration,
};

use axum::{Router, http::StatusCode};
use outpost_tests::{
    CertificateFolder, CloudService, WebServer, free_address, repository, some_cifar,
};
use serde_json::Value;
use ureq::BodyReader;

use super::run::{Device, PATIENCE, json, until};

const API: &str = "deadline_ms = 20000\n[api]\naddress = \"127.0.0.1:0\"\n";

/// Sends the head of a call, and what is given of its body.
fn send(device: &Device, head: &str, body: &[u8]) -> TcpStream {
    let address = device.url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let head = format!("{head}\r\nHost: {address}\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body).unwrap();
    stream
}

/// The head of a call with an image of so many bytes.
fn head(name: &str, bytes: usize) -> String {
    format!(
        "POST /v1/classify?name={name} HTTP/1.1\r\nContent-Type: image/jpeg\r\nContent-Length: {bytes}"
    )
}

/// What comes from `/v1/answers`.
struct Events<R>(Lines<BufReader<R>>);

/// An event as a listener has it.
struct Heard {
    name: String,
    place: String,
    data: Value,
}

impl<R: Read> Events<R> {
    fn next(&mut self) -> Heard {
        let mut fields: HashMap<String, String> = HashMap::new();
        loop {
            let line = self.0.next().unwrap().unwrap();
            match line.split_once(':') {
                Some((field, value)) => {
                    fields.insert(field.to_owned(), value.trim().to_owned());
                }
                None if fields.contains_key("data") => break,
                None => {}
            }
        }
        Heard {
            name: fields["event"].clone(),
            place: fields.remove("id").unwrap_or_default(),
            data: serde_json::from_str(&fields["data"]).unwrap(),
        }
    }
}

/// Listens from now on, or from after the event `last` on.
fn listen(device: &Device, last: Option<&str>) -> Events<BodyReader<'static>> {
    let mut request = ureq::get(format!("{}/v1/answers", device.url));
    if let Some(last) = last {
        request = request.header("Last-Event-ID", last);
    }
    let body = request.call().unwrap().into_body();
    Events(BufReader::new(body.into_reader()).lines())
}

#[test]
fn a_caller_whose_image_does_not_come_holds_one_place_until_it_goes() {
    let device =
        Device::start("max_in_flight = 1\n[api]\naddress = \"127.0.0.1:0\"\nmax_waiting = 0\n");
    let image = fs::read(&some_cifar(1)[0]).unwrap();
    let status = || {
        let answer = device.post("/v1/classify", "image/jpeg", &image);
        answer.status().as_u16()
    };
    let half = &image[..image.len() / 2];
    // One that comes after the next caller is told to come back itself.
    let stalled = until("another to be told to come back", || {
        let stalled = send(&device, &head("half", image.len()), half);
        (status() == 503).then_some(stalled)
    });
    drop(stalled);
    until("the place", || (status() == 200).then_some(()));
    device.end();
}

#[test]
fn a_caller_whose_image_takes_too_long_is_told_so() {
    let device = Device::start(
        "max_in_flight = 1\n[api]\naddress = \"127.0.0.1:0\"\nmax_waiting = 0\nupload_seconds = 1\n",
    );
    let image = fs::read(&some_cifar(1)[0]).unwrap();
    let mut stalled = send(&device, &head("half", image.len()), &image[..9]);
    let mut told = String::new();
    // It ends the connection as well: what else comes over it is no new call.
    stalled.read_to_string(&mut told).unwrap();
    assert!(told.starts_with("HTTP/1.1 408"), "{told}");
    assert!(told.contains("within 1s (`api.upload_seconds`)"), "{told}");
    let answer = device.post("/v1/classify", "image/jpeg", &image);
    assert_eq!(answer.status(), 200);
    device.end();
}

#[test]
fn callers_have_so_many_bytes_here_and_the_next_is_told_to_come_back() {
    let device = Device::start(&format!(
        "{API}max_waiting_bytes = 100000\n[images]\nmax_bytes = 90000\n"
    ));
    let image = fs::read(&some_cifar(1)[0]).unwrap();
    let half = vec![7; 45_000];
    let (slow, says) = until("another to be told to come back", || {
        // One that comes after the other is told to come back itself.
        let slow = [(); 2].map(|()| send(&device, &head("slow", 90_000), &half));
        thread::sleep(Duration::from_millis(100));
        let mut long = image.clone();
        long.resize(20_000, 0);
        let answer = device.post("/v1/classify", "image/jpeg", &long);
        (answer.status() == 503).then(|| (slow, json(answer)))
    });
    let detail = says["detail"].as_str().unwrap();
    assert!(detail.contains("`api.max_waiting_bytes`"), "{says}");
    // What fits is answered, and there is room again once they are gone.
    let answer = device.post("/v1/classify", "image/jpeg", &image);
    assert_eq!(answer.status(), 200);
    drop(slow);
    until("room", || {
        let long = vec![7; 80_000];
        let answer = device.post("/v1/classify", "image/jpeg", &long);
        (answer.status() == 422).then_some(())
    });
    device.end();
}

#[test]
fn listeners_are_so_many_and_leave_their_place_when_they_go() {
    let device = Device::start(API);
    let listen = || {
        let listening = send(&device, "GET /v1/answers HTTP/1.1", b"");
        let mut status = [0; 12];
        (&listening).read_exact(&mut status).unwrap();
        (listening, String::from_utf8(status.to_vec()).unwrap())
    };
    let mut listening: Vec<_> = (0..64).map(|_| listen()).collect();
    assert!(listening.iter().all(|(_, status)| status == "HTTP/1.1 200"));
    assert_eq!(device.metric("outpost_edge_listeners "), Some(64.0));
    assert_eq!(listen().1, "HTTP/1.1 503");
    listening.pop();
    until("a place", || (listen().1 == "HTTP/1.1 200").then_some(()));
    // Nobody else is kept from calling.
    let image = fs::read(&some_cifar(1)[0]).unwrap();
    let answer = device.post("/v1/classify", "image/jpeg", &image);
    assert_eq!(answer.status(), 200);
    device.end();
}

#[test]
fn connections_are_so_many_and_the_next_is_closed_at_once() {
    let device = Device::start(API);
    let address = device.url.strip_prefix("http://").unwrap();
    let connect = || {
        let connection = TcpStream::connect(address).unwrap();
        connection.set_read_timeout(Some(PATIENCE)).unwrap();
        connection
    };
    let held: Vec<_> = (0..256).map(|_| connect()).collect();
    // Those before it have been taken up by now.
    assert_eq!(connect().read(&mut [0]).unwrap_or(0), 0);
    drop(held);
    let image = fs::read(&some_cifar(1)[0]).unwrap();
    until("a connection", || {
        let answer = send(&device, &head("later", image.len()), &image);
        let mut status = [0; 12];
        let answered = (&answer).read_exact(&mut status);
        (answered.is_ok() && &status == b"HTTP/1.1 200").then_some(())
    });
    device.end();
}

#[test]
fn an_image_whose_caller_goes_away_is_answered_once_nonetheless() {
    let certificates = CertificateFolder::valid();
    let models = repository().join("models");
    // The cloud waits for a second image, in vain: long enough to go away meanwhile.
    let cloud = CloudService::start_with(
        &certificates,
        &format!(
            "models = {models:?}\nnetworks = [\"cifar10-resnet\"]\n[batching]\nmax_batch = 2\nmax_delay_ms = 8000\n"
        ),
    );
    let device = Device::start(&format!(
        "mode = \"cloud-only\"\n{API}[cloud]\nurl = {:?}\ncertificate_authority = {:?}\n",
        cloud.url(),
        certificates.authority(),
    ));
    let mut events = listen(&device, None);
    let image = fs::read(&some_cifar(1)[0]).unwrap();
    let caller = send(&device, &head("left", image.len()), &image);
    until("the image", || {
        (device.metric("outpost_edge_in_flight_images") == Some(1.0)).then_some(())
    });
    drop(caller);
    let heard = events.next();
    assert_eq!(
        (heard.name.as_str(), &heard.data["image"]),
        ("answer", &"left".into())
    );
    assert_eq!(heard.data["site"], "cloud");
    // Nothing else is said about it.
    device.post("/v1/classify?name=next", "image/jpeg", b"none");
    assert_eq!(events.next().data["image"], "next");
    device.end();
}

#[test]
fn who_calls_while_an_output_is_away_gets_an_answer_or_is_told_to_come_back() {
    let away = free_address();
    let device = Device::start(&format!(
        "deadline_ms = 20000\nmax_in_flight = 1\n[api]\naddress = \"127.0.0.1:0\"\nmax_waiting = 1\n[outputs.webhook]\nurl = \"http://{away}/\"\nmax_waiting = 2\n"
    ));
    let mut events = listen(&device, None);
    let image = fs::read(&some_cifar(1)[0]).unwrap();
    let begin = || {
        let head = format!("{}\r\nConnection: close", head("x", image.len()));
        send(&device, &head, &image)
    };
    let told = |mut caller: TcpStream| {
        let mut told = String::new();
        caller.read_to_string(&mut told).unwrap();
        told
    };
    let mut said = 0;
    let refused = loop {
        let told = told(begin());
        if !told.starts_with("HTTP/1.1 200") {
            break told;
        }
        let event: Value = serde_json::from_str(told.split_once("\r\n\r\n").unwrap().1).unwrap();
        assert_eq!(events.next().data, event);
        said += 1;
    };
    // One under way, one at hand, two that wait, and one whose place is kept.
    assert!((3..=5).contains(&said), "{said}");
    // One that waits for the place, and one for whom there is no room beside it.
    let callers = [begin(), begin()];
    for told in callers.map(told).into_iter().chain([refused]) {
        assert!(told.starts_with("HTTP/1.1 503"), "{told}");
        assert!(told.contains("retry-after: 1"), "{told}");
        assert!(told.contains("wait for the output `webhook`"), "{told}");
    }
    let count = |metric| device.metric(metric).unwrap();
    let waiting = "outpost_edge_output_waiting_events{output=\"webhook\"}";
    assert_eq!(count(waiting), f64::from(said));
    let taken = "outpost_edge_images_total{input=\"api\"}";
    assert_eq!(count(taken), f64::from(said));
    let dropped = "outpost_edge_dropped_images_total{input=\"api\"}";
    assert_eq!(count(dropped), 3.0);
    let receiver = Router::new().fallback(async || StatusCode::OK);
    let _receiver = WebServer::start_at(away, receiver);
    until("the output", || (count(waiting) == 0.0).then_some(()));
    assert!(told(begin()).starts_with("HTTP/1.1 200"));
    device.end();
}

#[test]
fn a_listener_that_comes_back_gets_what_it_missed() {
    let device = Device::start(API);
    let image = fs::read(&some_cifar(1)[0]).unwrap();
    let classify = || json(device.post("/v1/classify", "image/jpeg", &image));
    let mut events = listen(&device, None);
    let first = classify();
    let heard = events.next();
    assert_eq!(heard.data, first);
    drop(events);
    let missed = [classify(), classify()];
    let mut events = listen(&device, Some(&heard.place));
    let last = classify();
    for said in [&missed[0], &missed[1], &last] {
        assert_eq!(&events.next().data, said);
    }
    // One who heard another run of the program gets all that there is.
    let mut events = listen(&device, Some("another.7"));
    for said in [&first, &missed[0], &missed[1], &last] {
        assert_eq!(&events.next().data, said);
    }
    device.end();
}

#[test]
fn a_listener_that_is_too_slow_is_told_how_many_it_missed() {
    const CALLERS: u64 = 4;
    const CALLS: u64 = 1000;
    let device = Device::start(API);
    // A call of HTTP/1.0: the lines of its answer are those of the events.
    let stream = send(&device, "GET /v1/answers HTTP/1.0", b"");
    let mut events = Events(BufReader::new(stream).lines());
    let status = events.0.next().unwrap().unwrap();
    assert!(status.contains(" 200 "), "{status}");
    // The longest name, six times as long in JSON: far more is said than a connection holds for one who does not read.
    let path = format!("/v1/classify?name={}", "%01".repeat(255));
    thread::scope(|scope| {
        for _ in 0..CALLERS {
            scope.spawn(|| {
                for _ in 0..CALLS {
                    let problem = json(device.post(&path, "image/jpeg", b"none"));
                    assert_eq!(problem["status"], 422);
                }
            });
        }
    });
    let (mut heard, mut missed) = (0, 0);
    while heard + missed < CALLERS * CALLS {
        let event = events.next();
        match event.name.as_str() {
            "missed" => missed += event.data.as_u64().unwrap(),
            _ => heard += 1,
        }
    }
    assert_eq!(heard + missed, CALLERS * CALLS);
    assert!(missed > 0 && heard > 256, "{heard} {missed}");
    device.end();
}
