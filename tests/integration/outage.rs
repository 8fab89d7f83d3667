//! A link that loses everything for a while: images are sent again soon after it is back, however long the circuit would
//! stay open; and what all of it cost on the wire is told.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use outpost_tests::{CertificateFolder, CloudService, repository, some_cifar};
use serde_json::Value;

use crate::run::{Device, json, until};

/// How long the link is away. By then TCP waits seconds between retransmissions.
const OUTAGE: Duration = Duration::from_secs(8);
/// Within what an image is to be sent again; two seconds where the machine has nothing else to do.
const BACK_WITHIN: Duration = Duration::from_secs(12);

fn cloud(certificates: &CertificateFolder) -> CloudService {
    let models = repository().join("models");
    let config = format!(
        "address = \"127.0.0.1:0\"\nmodels = {models:?}\nnetworks = [\"cifar10-resnet\"]\n[tls]\ncertificate = \"server.pem\"\nkey = \"server.key\"\n"
    );
    CloudService::start_from(certificates, &config, |_| {})
}

/// A device that sends all images to a cloud, and whose circuit would stay open for minutes.
fn device(
    address: SocketAddr,
    certificates: &CertificateFolder,
    circuit: &str,
    cloud: &str,
) -> Device {
    Device::start(&format!(
        "mode = \"cloud-only\"\ndeadline_ms = 1500\ncorrect_within_ms = 0\n\
         [circuit]\nopen_for_ms = 300000\nopen_for_at_most_ms = 600000\n{circuit}\n\
         [cloud]\nurl = \"https://{address}\"\ncertificate_authority = {:?}\n{cloud}\n\
         [api]\naddress = \"127.0.0.1:0\"\n",
        certificates.authority(),
    ))
}

fn ask(device: &Device) -> Value {
    let image = fs::read(&some_cifar(1)[0]).unwrap();
    json(device.post("/v1/classify", "image/jpeg", &image))
}

/// Sends images until one is answered by the cloud; gives how long that took.
fn until_sent(device: &Device) -> Duration {
    let started = Instant::now();
    until("an answer of the cloud", || {
        (ask(device)["reason"] == "offloaded").then_some(())
    });
    started.elapsed()
}

/// Sends images until the circuit is open.
fn until_open(device: &Device) {
    until("an open circuit", || {
        (ask(device)["reason"] == "fallback:circuit-open").then_some(())
    });
}

/// Packets of loopback between a device and a cloud, passed on or lost. What a connection over TCP had sent when the link
/// went is lost for ever, as is in effect what the kernel would send again after a minute.
struct Link {
    address: SocketAddr,
    is_there: Arc<AtomicBool>,
    /// Of datagrams, with their headers.
    sent: Arc<AtomicU64>,
    tcp: Arc<Mutex<Vec<TcpStream>>>,
}

impl Link {
    fn to(service: SocketAddr) -> Self {
        let (tcp, udp) = loop {
            let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
            if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()) {
                break (tcp, udp);
            }
        };
        let link = Self {
            address: tcp.local_addr().unwrap(),
            is_there: Arc::new(AtomicBool::new(true)),
            sent: Arc::default(),
            tcp: Arc::default(),
        };
        link.pass_datagrams(udp, service);
        link.pass_streams(tcp, service);
        link
    }

    /// Ends with the test's process.
    fn pass_datagrams(&self, front: UdpSocket, service: SocketAddr) {
        let (is_there, sent) = (self.is_there.clone(), self.sent.clone());
        thread::spawn(move || {
            let mut ways: Vec<(SocketAddr, UdpSocket)> = Vec::new();
            let mut buffer = [0; 65_536];
            loop {
                let (length, device) = front.recv_from(&mut buffer).unwrap();
                sent.fetch_add(length as u64 + 28, Ordering::Relaxed);
                let known = ways.iter().position(|(known, _)| *known == device);
                let known = known.unwrap_or_else(|| {
                    let back = UdpSocket::bind("127.0.0.1:0").unwrap();
                    let (answers, front) = (back.try_clone().unwrap(), front.try_clone().unwrap());
                    let is_there = is_there.clone();
                    thread::spawn(move || {
                        let mut buffer = [0; 65_536];
                        while let Ok(length) = answers.recv(&mut buffer) {
                            if is_there.load(Ordering::Relaxed) {
                                let _ = front.send_to(&buffer[..length], device);
                            }
                        }
                    });
                    ways.push((device, back));
                    ways.len() - 1
                });
                if is_there.load(Ordering::Relaxed) {
                    let _ = ways[known].1.send_to(&buffer[..length], service);
                }
            }
        });
    }

    fn pass_streams(&self, listener: TcpListener, service: SocketAddr) {
        let (is_there, open) = (self.is_there.clone(), self.tcp.clone());
        thread::spawn(move || {
            for device in listener.incoming() {
                let Ok(device) = device else { continue };
                if !is_there.load(Ordering::Relaxed) {
                    // It hears nothing, and nobody hears it.
                    open.lock().unwrap().push(device);
                    continue;
                }
                let service = TcpStream::connect(service).unwrap();
                // One that was open when the link went stays dead.
                let is_alive = Arc::new(AtomicBool::new(true));
                for (from, to) in [(&device, &service), (&service, &device)] {
                    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let (is_there, is_alive) = (is_there.clone(), is_alive.clone());
                    thread::spawn(move || {
                        let mut buffer = [0; 16_384];
                        while let Ok(read @ 1..) = from.read(&mut buffer) {
                            if !is_there.load(Ordering::Relaxed) {
                                is_alive.store(false, Ordering::Relaxed);
                            }
                            if is_alive.load(Ordering::Relaxed)
                                && to.write_all(&buffer[..read]).is_err()
                            {
                                break;
                            }
                        }
                    });
                }
                open.lock().unwrap().extend([device, service]);
            }
        });
    }

    fn goes(&self) {
        self.is_there.store(false, Ordering::Relaxed);
    }

    fn comes_back(&self) {
        self.is_there.store(true, Ordering::Relaxed);
    }
}

fn start(transport: &str, more: &str) -> (CloudService, Link, Device) {
    let certificates = CertificateFolder::valid();
    let cloud = cloud(&certificates);
    let link = Link::to(cloud.address());
    let text = format!("transport = {transport:?}");
    let device = device(link.address, &certificates, more, &text);
    (cloud, link, device)
}

#[test]
fn after_an_outage_images_are_sent_again_while_the_circuit_would_stay_open() {
    for transport in ["h2", "h3", "auto"] {
        let (_cloud, link, device) = start(transport, "");
        until_sent(&device);
        link.goes();
        let went = Instant::now();
        until_open(&device);
        while went.elapsed() < OUTAGE {
            assert_eq!(ask(&device)["site"], "device");
            thread::sleep(Duration::from_millis(50));
        }
        link.comes_back();
        let took = until_sent(&device);
        println!("{transport}: sent again {took:?} after the link came back");
        assert!(took < BACK_WITHIN, "{transport}: {took:?}");
        // And so are those after it.
        for _ in 0..3 {
            until_sent(&device);
        }
        let url = format!("https://{}", link.address);
        let questions = format!("{{site=\"cloud\",endpoint=\"{url}\"}}");
        let questions = device.metric(&format!("outpost_edge_cloud_questions_total{questions}"));
        let most = went.elapsed().as_secs_f64() + 2.0;
        assert!((1.0..=most).contains(&questions.unwrap()), "{questions:?}");
        device.end();
    }
}

#[test]
fn after_a_cloud_has_stood_still_images_are_sent_again_while_the_circuit_would_stay_open() {
    for transport in ["h2", "h3"] {
        let (cloud, _link, device) = start(transport, "");
        until_sent(&device);
        cloud.freeze();
        until_open(&device);
        thread::sleep(OUTAGE);
        cloud.thaw();
        let took = until_sent(&device);
        println!("{transport}: sent again {took:?} after the cloud went on");
        assert!(took < BACK_WITHIN, "{transport}: {took:?}");
        device.end();
    }
}

#[test]
fn without_images_to_send_nothing_is_asked_and_no_question_where_none_is_wanted() {
    let (_cloud, link, device) = start("h3", "ask_every_ms = 0");
    until_sent(&device);
    link.goes();
    until_open(&device);
    link.comes_back();
    for _ in 0..30 {
        assert_eq!(ask(&device)["reason"], "fallback:circuit-open");
        thread::sleep(Duration::from_millis(50));
    }
    device.end();
    // With questions, but without images: nothing but what the connection of before still sends.
    let (_cloud, link, device) = start("h2", "");
    until_sent(&device);
    link.goes();
    until_open(&device);
    let questions = || {
        let labels = format!("{{site=\"cloud\",endpoint=\"https://{}\"}}", link.address);
        let metric = device.metric(&format!("outpost_edge_cloud_questions_total{labels}"));
        metric.unwrap()
    };
    let before = questions();
    thread::sleep(Duration::from_secs(3));
    assert_eq!(questions(), before);
    device.end();
}

#[test]
fn what_a_device_says_that_it_cost_on_the_wire_is_what_came_through() {
    let (_cloud, link, device) = start("h3", "");
    until_sent(&device);
    for _ in 0..20 {
        until_sent(&device);
    }
    let state = json(device.get("/v1/state"));
    let wire = &state["peers"][0]["wire"];
    let counted = wire["h3"]["sent"].as_u64().unwrap();
    let came_through = link.sent.load(Ordering::Relaxed);
    assert!(came_through > 20_000, "{came_through}");
    // Packets that came between the two looks.
    let difference = counted.abs_diff(came_through);
    assert!(
        difference * 100 <= came_through * 3,
        "{counted} {came_through}"
    );
    assert_eq!(wire["h2"]["sent"], 0, "{state}");
    let labels = format!(
        "{{site=\"cloud\",endpoint=\"https://{}\",transport=\"h3\",direction=\"sent\"}}",
        link.address
    );
    let metric = device.metric(&format!("outpost_edge_wire_bytes_total{labels}"));
    assert!(metric.unwrap() >= counted as f64, "{metric:?}");
    device.end();
}

#[test]
fn what_is_no_congestion_control_and_no_time_is_refused_by_name() {
    for (line, named) in [
        ("congestion = \"vegas\"", "cubic"),
        ("keep_alive_seconds = 0", "close_idle_seconds"),
        ("close_idle_seconds = 90_000", "86400"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let config = format!(
            "[api]\naddress = \"127.0.0.1:0\"\n[cloud]\nurl = \"https://a.example\"\n{line}"
        );
        let (code, said) = Device::refused(&folder, &config);
        assert_eq!(code, 1, "{said}");
        let field = line.split(' ').next().unwrap();
        assert!(said.contains(field) && said.contains(named), "{said}");
    }
}
