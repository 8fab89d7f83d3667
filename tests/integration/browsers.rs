//! The cloud-service as browsers meet it: gRPC-Web, framed here, its page, and tokens for the page.

use std::{
    collections::BTreeMap, fs, net::SocketAddr, path::Path, process::Command, sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, Version, header};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use outpost_proto::{
    ContentsKind, Tensor, TensorData,
    inference::{
        ModelInferRequest, ModelInferResponse, ModelMetadataRequest, ModelReadyRequest,
        ModelStatisticsRequest, RepositoryIndexRequest,
        grpc_inference_service_client::GrpcInferenceServiceClient,
    },
    tensor,
};
use outpost_tests::{CertificateFolder, CloudService, grpc_message, program, repository};
use outpost_transport::{Channel, Transport};
use prost::Message;
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tokio::net::TcpStream;

use crate::security::issue;

const CLOUD: &str = "cifar10-resnet";
const DEVICE: &str = "cifar10-alexnet";
const OTHER: &str = "cifar10-googlenet";
const OVER_TCP: [Version; 2] = [Version::HTTP_11, Version::HTTP_2];

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

const OK: &str = "0";
const DEADLINE_EXCEEDED: &str = "4";
const NOT_FOUND: &str = "5";
const PERMISSION_DENIED: &str = "7";
const RESOURCE_EXHAUSTED: &str = "8";
const UNAUTHENTICATED: &str = "16";

/// A configuration that serves networks to browsers, and further lines.
fn configuration(extra: &str) -> String {
    let models = repository().join("models");
    format!("models = {models:?}\nnetworks = [{CLOUD:?}, {OTHER:?}]\n{extra}\n")
}

/// The same with a page, and further fields of its table.
fn with_page(fields: &str) -> String {
    let models = repository().join("models");
    configuration(&format!(
        "[page]\ncascade = {cascade:?}\npolicy = {policy:?}\n{fields}",
        cascade = models.join("cascades/cifar10-alexnet-resnet.toml"),
        policy = models.join("policies/cifar10-alexnet-resnet.json"),
    ))
}

/// Asks a service as a browser does.
struct Browser {
    address: SocketAddr,
    roots: Arc<rustls::RootCertStore>,
    version: Version,
}

/// An answer, whole.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value.map_or("", |value| value.to_str().unwrap())
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// What came of a call of gRPC-Web.
struct Called {
    answer: Answer,
    messages: Vec<Bytes>,
    trailers: BTreeMap<String, String>,
}

impl Called {
    fn new(answer: Answer) -> Self {
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(answer.header("content-type"), "application/grpc-web+proto");
        let (mut messages, mut trailers) = (Vec::new(), BTreeMap::new());
        let mut body = answer.body.clone();
        while !body.is_empty() {
            let prefix = body.split_to(5);
            let length = u32::from_be_bytes(prefix[1..].try_into().unwrap());
            let frame = body.split_to(length as usize);
            match prefix[0] {
                0 => messages.push(frame),
                0x80 => {
                    for line in std::str::from_utf8(&frame).unwrap().lines() {
                        let (name, value) = line.split_once(':').unwrap();
                        trailers.insert(name.to_owned(), value.trim().to_owned());
                    }
                }
                other => panic!("a frame of kind {other}"),
            }
        }
        Self {
            answer,
            messages,
            trailers,
        }
    }

    /// A trailer, or what stands for it in the headers where there is no message.
    fn trailer(&self, name: &str) -> &str {
        let trailer = self.trailers.get(name).map(String::as_str);
        trailer.unwrap_or_else(|| self.answer.header(name))
    }

    fn status(&self) -> &str {
        self.trailer("grpc-status")
    }
}

impl Browser {
    fn new(cloud: &CloudService, certificates: &CertificateFolder, version: Version) -> Self {
        let mut roots = rustls::RootCertStore::empty();
        let authority = CertificateDer::from_pem_file(certificates.authority()).unwrap();
        roots.add(authority).unwrap();
        Self {
            address: cloud.address(),
            roots: roots.into(),
            version,
        }
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Answer {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        let (alpn, prefix) = match self.version {
            Version::HTTP_2 => (&b"h2"[..], format!("https://{}", self.address)),
            _ => (&b"http/1.1"[..], String::new()),
        };
        config.alpn_protocols = vec![alpn.to_vec()];
        let tcp = TcpStream::connect(self.address).await.unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let name = "localhost".try_into().unwrap();
        let stream = connector.connect(name, tcp).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(alpn));
        let (mut parts, body) = request.into_parts();
        parts.uri = format!("{prefix}{}", parts.uri).parse().unwrap();
        let host = self.address.to_string().parse().unwrap();
        if self.version == Version::HTTP_11 {
            parts.headers.insert(header::HOST, host);
        }
        let request = Request::from_parts(parts, body);
        let stream = TokioIo::new(stream);
        let response = if self.version == Version::HTTP_2 {
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), stream)
                    .await
                    .unwrap();
            tokio::spawn(connection);
            sender.send_request(request).await.unwrap()
        } else {
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(stream).await.unwrap();
            tokio::spawn(connection);
            sender.send_request(request).await.unwrap()
        };
        assert_eq!(response.version(), self.version);
        let (parts, body) = response.into_parts();
        Answer {
            status: parts.status,
            headers: parts.headers,
            body: body.collect().await.unwrap().to_bytes(),
        }
    }

    async fn ask(&self, method: Method, path: &str, headers: &[(&str, &str)]) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(Full::default()).unwrap()).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask(Method::GET, path, &[]).await
    }

    async fn call(&self, method: &str, message: &impl Message, headers: &[(&str, &str)]) -> Called {
        let body = grpc_message(message);
        let path = format!("/inference.GRPCInferenceService/{method}");
        let mut request = Request::post(path)
            .header("content-type", "application/grpc-web+proto")
            .header("x-grpc-web", "1");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Called::new(self.send(request.body(Full::from(body)).unwrap()).await)
    }

    async fn infer(&self, network: &str, token: Option<&str>) -> Called {
        let bearer = token.map(|token| format!("Bearer {token}"));
        let headers: Vec<_> = bearer
            .iter()
            .map(|bearer| ("authorization", bearer.as_str()))
            .collect();
        self.call("ModelInfer", &image(network), &headers).await
    }

    /// A token of the page.
    async fn token(&self) -> String {
        let answer = self.ask(Method::POST, "/page/token", &[]).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        assert_eq!(answer.header("cache-control"), "no-store");
        answer.json()["token"].as_str().unwrap().to_owned()
    }
}

fn image(network: &str) -> ModelInferRequest {
    let pixels = (0..32 * 32 * 3).map(|at| (at % 251) as u8).collect();
    let image = Tensor::new("image", vec![1, 32, 32, 3], TensorData::Uint8(pixels)).unwrap();
    tensor::infer_request(network, "7", [image], ContentsKind::Raw)
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Runtime::new().unwrap().block_on(future)
}

/// What the metrics of a service say.
fn metrics(address: SocketAddr) -> String {
    let answer = ureq::get(format!("http://{address}/metrics")).call();
    answer.unwrap().body_mut().read_to_string().unwrap()
}

#[test]
fn a_browser_gets_the_answer_that_others_get_over_http1_and_http2() {
    let certificates = CertificateFolder::valid();
    let text = "operations_address = \"127.0.0.1:0\"\n".to_owned()
        + &configuration("[grpc_web]\norigins = [\"https://photos.example\"]");
    let (cloud, operations) = CloudService::start_with(&certificates, &text).with_operations();
    block_on(async {
        let channel = Channel::new(cloud.client(&certificates, Transport::H3)).unwrap();
        let mut client = GrpcInferenceServiceClient::new(channel);
        let expected = client.model_infer(image(CLOUD)).await.unwrap().into_inner();
        for version in OVER_TCP {
            let browser = Browser::new(&cloud, &certificates, version);
            let called = browser.infer(CLOUD, None).await;
            assert_eq!(called.status(), OK, "{}", called.trailer("grpc-message"));
            let [message] = called.messages.as_slice() else {
                panic!("{} messages", called.messages.len());
            };
            let answer = ModelInferResponse::decode(message.clone()).unwrap();
            assert_eq!(answer, expected);
            let answer = &called.answer;
            assert!(answer.header("server-timing").contains("infer;dur="));
            let advertised = format!("h3=\":{}\"; ma=86400", cloud.address().port());
            assert_eq!(answer.header("alt-svc"), advertised);

            let called = browser.infer("none", None).await;
            assert_eq!(called.status(), NOT_FOUND);
            assert!(called.trailer("grpc-message").contains("none"));
            let late = [("grpc-timeout", "1n")];
            let called = browser.call("ModelInfer", &image(CLOUD), &late).await;
            assert_eq!(called.status(), DEADLINE_EXCEEDED);

            // Another page, with leave and without.
            for (origin, may) in [
                ("https://photos.example", true),
                ("https://other.example", false),
            ] {
                let headers = [
                    ("origin", origin),
                    ("access-control-request-method", "POST"),
                    (
                        "access-control-request-headers",
                        "authorization,content-type,x-grpc-web",
                    ),
                ];
                let path = "/inference.GRPCInferenceService/ModelInfer";
                let preflight = browser.ask(Method::OPTIONS, path, &headers).await;
                let allowed = preflight.header("access-control-allow-origin");
                assert_eq!(allowed == origin, may, "{allowed}");
                let called = browser
                    .call("ModelInfer", &image(CLOUD), &[("origin", origin)])
                    .await;
                let allowed = called.answer.header("access-control-allow-origin");
                assert_eq!(allowed == origin, may, "{allowed}");
                let shown = called.answer.header("access-control-expose-headers");
                for name in ["grpc-status", "server-timing", "retry-after"] {
                    assert!(shown.contains(name), "{name} is not in {shown}");
                }
                let timed = called.answer.header("timing-allow-origin");
                assert_eq!(timed == origin, may, "{timed}");
            }
            // A page of any origin may send a text unasked.
            let simple = [("content-type", "text/plain")];
            let path = "/inference.GRPCInferenceService/ModelInfer";
            let answer = browser.ask(Method::POST, path, &simple).await;
            assert_eq!(answer.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
            let none = browser.get("/").await;
            assert_eq!(none.status, StatusCode::NOT_FOUND);
            assert!(none.text().contains("[page]"), "{}", none.text());
        }
    });
    let text = metrics(operations);
    for transport in ["h1", "h2", "h3"] {
        let line =
            format!("outpost_cloud_requests_total{{model=\"{CLOUD}\",transport=\"{transport}\"}}");
        assert!(text.contains(&line), "{line} is not in\n{text}");
    }
}

#[test]
fn a_token_of_the_page_is_for_answers_of_its_models() {
    let certificates = CertificateFolder::valid();
    let identity = issue(&certificates, "camera");
    fs::write(certificates.file("identities.toml"), identity).unwrap();
    let text = "address = \"127.0.0.1:0\"\noperations_address = \"127.0.0.1:0\"\n".to_owned()
        + &with_page("tokens_at_once = 3")
        + "[access]\nidentities = \"identities.toml\"\n\
           [tls]\ncertificate = \"server.pem\"\nkey = \"server.key\"\n";
    let log = certificates.file("log");
    let start = |command: &mut Command| {
        // More than a pipe holds.
        let file = fs::File::create(&log).unwrap();
        command.env("RUST_LOG", "trace").stderr(file);
    };
    let (cloud, operations) =
        CloudService::start_from(&certificates, &text, start).with_operations();
    let tokens = block_on(async {
        let browser = Browser::new(&cloud, &certificates, Version::HTTP_2);
        assert_eq!(browser.infer(CLOUD, None).await.status(), UNAUTHENTICATED);
        let token = browser.token().await;
        for version in OVER_TCP {
            let browser = Browser::new(&cloud, &certificates, version);
            let called = browser.infer(CLOUD, Some(&token)).await;
            assert_eq!(called.status(), OK, "{}", called.trailer("grpc-message"));
        }
        let unknown = token.replace('0', "1") + "0";
        assert_eq!(
            browser.infer(CLOUD, Some(&unknown)).await.status(),
            UNAUTHENTICATED
        );
        assert_eq!(
            browser.infer(OTHER, Some(&token)).await.status(),
            PERMISSION_DENIED
        );
        let bearer = format!("Bearer {token}");
        let headers = [("authorization", bearer.as_str())];
        let asked = ModelMetadataRequest {
            name: CLOUD.to_owned(),
            ..Default::default()
        };
        assert_eq!(
            browser
                .call("ModelMetadata", &asked, &headers)
                .await
                .status(),
            OK
        );
        let asked = ModelReadyRequest {
            name: CLOUD.to_owned(),
            ..Default::default()
        };
        assert_eq!(
            browser.call("ModelReady", &asked, &headers).await.status(),
            OK
        );
        let statistics = ModelStatisticsRequest::default();
        let called = browser.call("ModelStatistics", &statistics, &headers).await;
        assert_eq!(called.status(), PERMISSION_DENIED);
        let index = RepositoryIndexRequest::default();
        let called = browser.call("RepositoryIndex", &index, &headers).await;
        assert_eq!(called.status(), PERMISSION_DENIED);
        // An identity is who it was.
        let camera = fs::read_to_string(certificates.file("camera")).unwrap();
        assert_eq!(browser.infer(OTHER, Some(camera.trim())).await.status(), OK);

        let tokens = [token, browser.token().await, browser.token().await];
        let refused = browser.ask(Method::POST, "/page/token", &[]).await;
        assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
        let seconds: u64 = refused.header("retry-after").parse().unwrap();
        assert!((1..=600).contains(&seconds), "{seconds}");
        assert!(refused.text().contains("3 pages"), "{}", refused.text());
        tokens
    });
    let text = metrics(operations);
    for line in [
        "outpost_cloud_page_tokens_issued_total 3",
        "outpost_cloud_page_tokens_refused_total{cause=\"at-once\"} 1",
        "outpost_cloud_page_tokens 3",
        "outpost_cloud_identity_images_total{identity=\"page\"} 2",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    cloud.terminate();
    let (is_well, _) = cloud.wait();
    let log = fs::read_to_string(log).unwrap();
    assert!(is_well && log.contains("no token for a page"), "{log}");
    for token in tokens {
        assert!(!log.contains(&token), "a token is in the log");
    }
}

#[test]
fn a_token_of_the_page_ends_and_leaves_room_for_another() {
    let certificates = CertificateFolder::valid();
    let text = with_page("token_seconds = 1\ntokens_at_once = 1");
    let cloud = CloudService::start_with(&certificates, &text);
    let ended = async {
        let browser = Browser::new(&cloud, &certificates, Version::HTTP_11);
        let token = browser.token().await;
        let refused = loop {
            let called = browser.infer(CLOUD, Some(&token)).await;
            if called.status() != OK {
                break called;
            }
        };
        assert_eq!(refused.status(), UNAUTHENTICATED);
        assert!(refused.trailer("grpc-message").contains("no%20longer"));
        assert_ne!(browser.token().await, token);
    };
    block_on(async { tokio::time::timeout(PATIENCE, ended).await }).unwrap();
}

#[test]
fn without_identities_everybody_may_call_and_a_token_that_is_shown_must_be_good() {
    let certificates = CertificateFolder::valid();
    let text = with_page("tokens_per_minute = 2\nimages_per_minute = 2");
    let cloud = CloudService::start_with(&certificates, &text);
    block_on(async {
        let browser = Browser::new(&cloud, &certificates, Version::HTTP_2);
        assert_eq!(browser.infer(OTHER, None).await.status(), OK);
        assert_eq!(
            browser.infer(CLOUD, Some("made-up")).await.status(),
            UNAUTHENTICATED
        );
        // A page of another origin gets none, and takes none away.
        let foreign = [("origin", "https://other.example")];
        let answer = browser.ask(Method::POST, "/page/token", &foreign).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN);
        let own = format!("https://{}", cloud.address());
        let answer = browser
            .ask(Method::POST, "/page/token", &[("origin", &own)])
            .await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        let seconds = answer.json()["expires_in_seconds"].as_u64();
        assert_eq!(seconds, Some(600));
        let token = browser.token().await;
        let answer = browser.ask(Method::POST, "/page/token", &[]).await;
        assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS);
        assert!(
            answer.text().contains("2 tokens a minute"),
            "{}",
            answer.text()
        );
        for _ in 0..2 {
            assert_eq!(browser.infer(CLOUD, Some(&token)).await.status(), OK);
        }
        let limited = browser.infer(CLOUD, Some(&token)).await;
        assert_eq!(limited.status(), RESOURCE_EXHAUSTED);
        assert!(!limited.trailer("grpc-retry-pushback-ms").is_empty());
    });
}

#[test]
fn the_page_gives_what_it_lists_and_nothing_else() {
    let certificates = CertificateFolder::valid();
    let web = certificates.file("web");
    fs::create_dir_all(web.join("pkg")).unwrap();
    for (name, contents) in [
        ("index.html", "<!doctype html><title>page</title>"),
        ("app.js", "export {};"),
        ("pkg/a.wasm", "wasm"),
    ] {
        fs::write(web.join(name), contents).unwrap();
    }
    let fields = format!("deadline_ms = 1500\noperating_point = \"loss=2\"\nfolder = {web:?}");
    let cloud = CloudService::start_with(&certificates, &with_page(&fields));
    block_on(async {
        for version in OVER_TCP {
            let browser = Browser::new(&cloud, &certificates, version);
            let index = browser.get("/").await;
            assert_eq!(index.status, StatusCode::OK);
            assert_eq!(index.header("content-type"), "text/html; charset=utf-8");
            for (name, part) in [
                (
                    "content-security-policy",
                    "script-src 'self' 'wasm-unsafe-eval';",
                ),
                ("content-security-policy", "worker-src 'self'"),
                ("cross-origin-opener-policy", "same-origin"),
                ("cross-origin-embedder-policy", "require-corp"),
                ("x-content-type-options", "nosniff"),
                ("cache-control", "no-cache"),
                ("alt-svc", "h3="),
            ] {
                let value = index.header(name);
                assert!(value.contains(part), "{name}: {value}");
            }
            let tag = index.header("etag");
            let again = browser
                .ask(Method::GET, "/", &[("if-none-match", tag)])
                .await;
            assert_eq!(again.status, StatusCode::NOT_MODIFIED);
            assert!(again.body.is_empty() && again.header("etag") == tag);
            let head = browser.ask(Method::HEAD, "/pkg/a.wasm", &[]).await;
            assert_eq!((head.status, head.body.len()), (StatusCode::OK, 0));
            assert_eq!(head.header("content-type"), "application/wasm");
            assert_eq!(head.header("content-length"), "4");

            let agent = browser.get("/page/agent.json").await;
            assert_eq!(agent.header("content-type"), "application/json");
            let agent = agent.json();
            assert_eq!(agent["cascade"]["name"], "cifar10-alexnet-resnet");
            assert_eq!(
                agent["cascade"]["path"],
                "cascades/cifar10-alexnet-resnet.toml"
            );
            assert_eq!(
                agent["policy"]["path"],
                "policies/cifar10-alexnet-resnet.json"
            );
            assert_eq!(agent["goal"], "loss=2");
            assert_eq!(agent["deadline_ms"], 1500);
            assert_eq!(agent["correct_within_ms"], 10_000);
            let mut listed = BTreeMap::new();
            for file in agent["files"].as_array().unwrap() {
                let (path, sha256) = (&file["path"], file["sha256"].as_str().unwrap());
                let answer = browser.get(&format!("/page/files/{sha256}")).await;
                assert_eq!(answer.status, StatusCode::OK, "{path}");
                assert!(answer.header("cache-control").contains("immutable"));
                assert_eq!(
                    answer.body.len() as u64,
                    file["bytes"].as_u64().unwrap(),
                    "{path}"
                );
                let digest: String = Sha256::digest(&answer.body)
                    .iter()
                    .map(|byte| format!("{byte:02x}"))
                    .collect();
                assert_eq!(digest, sha256, "{path}");
                let path = path.as_str().unwrap();
                let on_disk = fs::read(repository().join("models").join(path)).unwrap();
                assert!(on_disk == answer.body, "{path}");
                listed.insert(path.to_owned(), ());
            }
            for (path, is_there) in [
                ("cascades/cifar10-alexnet-resnet.toml", true),
                ("policies/cifar10-alexnet-resnet.json", true),
                ("cifar10-alexnet/model.toml", true),
                ("cifar10-alexnet/cifar10-alexnet.onnx", true),
                ("cifar10/labels.txt", true),
                ("cifar10-resnet/model.toml", true),
                // It runs in the cloud.
                ("cifar10-resnet/cifar10-resnet.onnx", false),
            ] {
                assert_eq!(listed.contains_key(path), is_there, "{path}");
            }

            for path in [
                "/none",
                "/../web/index.html",
                "/pkg/../index.html",
                "/%2e%2e/server.key",
                "/page/files/",
                "/page/files/../agent.json",
                "/page/files/0000",
                "/page/agent.json/",
            ] {
                let answer = browser.get(path).await;
                assert_eq!(answer.status, StatusCode::NOT_FOUND, "{path}");
                assert_eq!(answer.header("x-content-type-options"), "nosniff");
            }
            for (method, path, allowed) in [
                (Method::POST, "/", "GET, HEAD"),
                (Method::DELETE, "/app.js", "GET, HEAD"),
                (Method::PUT, "/page/agent.json", "GET, HEAD"),
                (Method::GET, "/page/token", "POST"),
            ] {
                let answer = browser.ask(method, path, &[]).await;
                assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED, "{path}");
                assert_eq!(answer.header("allow"), allowed);
            }
        }
    });
}

#[test]
fn without_its_files_the_page_says_how_to_get_them() {
    let certificates = CertificateFolder::valid();
    let cloud = CloudService::start_with(&certificates, &with_page(""));
    let index = block_on(async {
        let browser = Browser::new(&cloud, &certificates, Version::HTTP_2);
        assert_eq!(browser.get("/page/agent.json").await.status, StatusCode::OK);
        browser.get("/").await
    });
    // A program that was built with them has them.
    if index.status == StatusCode::OK {
        assert!(index.text().contains("<html"), "{}", index.text());
    } else {
        assert_eq!(index.status, StatusCode::NOT_FOUND);
        assert!(
            index.text().contains("scripts/build-web"),
            "{}",
            index.text()
        );
    }
}

/// What `check-config` says to a page that does not hold.
fn refused(certificates: &CertificateFolder, text: &str) -> String {
    let config = certificates.file("cloud-service.toml");
    let tls = "[tls]\ncertificate = \"server.pem\"\nkey = \"server.key\"\n";
    fs::write(&config, format!("{text}\n{tls}")).unwrap();
    let output = Command::new(program("cloud-service"))
        .args(["check-config", "--config"])
        .arg(&config)
        .output()
        .unwrap();
    assert!(!output.status.success(), "{text}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn a_page_that_does_not_hold_is_refused_at_the_start() {
    let certificates = CertificateFolder::valid();
    let models = repository().join("models");
    let cascade = |name: &str| models.join("cascades").join(name);
    let page = |name: &str| format!("[page]\ncascade = {:?}", cascade(name));
    for (text, word) in [
        (with_page("colour = 1"), "colour"),
        (with_page("deadline_ms = 0"), "page.deadline_ms"),
        (with_page("token_seconds = 100000"), "page.token_seconds"),
        (with_page("operating_point = \"loss\""), "operating"),
        (with_page("folder = \"web\""), "web"),
        (
            with_page("[grpc_web]\norigins = [\"https://a.example/app\"]"),
            "https://HOST",
        ),
        (configuration("[page]"), "cascade"),
        (configuration(&page("none.toml")), "none.toml"),
        // A policy is to be learned, and none is given.
        (
            configuration(&page("cifar10-alexnet-resnet.toml")),
            "policy",
        ),
        (
            configuration(&page("squeezenet-lite2.toml")),
            "efficientnet-lite2",
        ),
    ] {
        let said = refused(&certificates, &text);
        assert!(said.contains(word), "{word} is not in {said}");
    }
    let other = with_page("").replace("policies/cifar10-alexnet-resnet", "policies/lite0-lite2");
    let said = refused(&certificates, &other);
    assert!(said.contains("lite0-lite2.json"), "{said}");
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap().path();
        if entry.is_file() {
            fs::copy(&entry, to.join(entry.file_name().unwrap())).unwrap();
        }
    }
}

#[test]
fn weights_that_are_not_the_manifests_keep_the_page_from_being_served() {
    let certificates = CertificateFolder::valid();
    let models = certificates.file("models");
    for name in [DEVICE, CLOUD, "cifar10", "cascades", "policies"] {
        copy(&repository().join("models").join(name), &models.join(name));
    }
    let weights = models.join("cifar10-alexnet/cifar10-alexnet.onnx");
    let mut bytes = fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&weights, bytes).unwrap();
    let text = format!(
        "models = \"models\"\nnetworks = [{CLOUD:?}]\n\
         [page]\ncascade = \"models/cascades/cifar10-alexnet-resnet.toml\"\n\
         policy = \"models/policies/cifar10-alexnet-resnet.json\"\n"
    );
    let said = refused(&certificates, &text);
    assert!(
        said.contains("cifar10-alexnet.onnx") && said.contains("SHA-256"),
        "{said}"
    );
}
