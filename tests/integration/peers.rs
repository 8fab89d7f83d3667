//! Independent peers: Triton's client and aioquic against cloud-service, edge-agent against MLServer, Triton and
//! Ray Serve.
//!
//! They run where `OUTPOST_PYTHON` names an interpreter that has `tests/python/requirements.txt`;
//! `scripts/test` makes one where Python is present. Triton and Ray Serve are large: they run where `OUTPOST_TRITON`
//! and `OUTPOST_RAY` name interpreters that have them (see `tests/python/README.md`).

use std::{
    collections::HashSet,
    env,
    io::{BufRead, BufReader},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use outpost_proto::{
    ContentsKind, Tensor, TensorData,
    inference::grpc_inference_service_client::GrpcInferenceServiceClient, tensor,
};
use outpost_tests::{CertificateFolder, CloudService, EdgeAgent, repository, some_photos};
use outpost_transport::{Channel, ClientConfig, Transport};

/// What a server gets to end the processes that it started.
const ENDING: Duration = Duration::from_secs(60);

/// The interpreter, or a loud word that the test did not run.
fn python(test: &str) -> Option<PathBuf> {
    let python = env::var_os("OUTPOST_PYTHON").map(PathBuf::from);
    if python.is_none() {
        eprintln!("SKIPPED {test}: OUTPOST_PYTHON is not set (scripts/test sets it)");
    }
    python
}

/// The interpreter that a variable names, for what a person must have asked for.
fn opted_in(test: &str, variable: &str) -> Option<PathBuf> {
    let python = env::var_os(variable).map(PathBuf::from);
    if python.is_none() {
        eprintln!("SKIPPED {test}: {variable} is not set (see tests/python/README.md)");
    }
    python
}

fn independent_client(test: &str, script: &str) {
    let Some(python) = python(test) else { return };
    let certificates = CertificateFolder::valid();
    let cloud = CloudService::start_at(
        "127.0.0.1:0".parse().unwrap(),
        &certificates,
        "[grpc_web]\n[repository]\nmode = \"explicit\"",
    );
    let network = repository().join("models/efficientnet-lite2");
    let output = Command::new(python)
        .arg(repository().join("tests/python").join(script))
        .args([
            "--address",
            &format!("localhost:{}", cloud.address().port()),
        ])
        .args(["--ca".as_ref(), certificates.authority().as_os_str()])
        .args(["--model", "efficientnet-lite2"])
        .args(["--image".as_ref(), some_photos(1)[0].as_os_str()])
        .args([
            "--onnx".as_ref(),
            network.join("efficientnet-lite2.onnx").as_os_str(),
        ])
        .args([
            "--manifest".as_ref(),
            network.join("model.toml").as_os_str(),
        ])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let log = String::from_utf8_lossy(&output.stderr);
    println!("{said}");
    assert!(output.status.success(), "{said}\n{log}");
    assert!(said.contains("passed, 0 failed"), "{said}\n{log}");
}

#[test]
fn tritons_client_gets_metadata_and_correct_logits_over_http2() {
    independent_client(
        "tritons_client_gets_metadata_and_correct_logits_over_http2",
        "oip_client.py",
    );
}

#[test]
fn aioquic_gets_a_correct_reply_over_http3() {
    independent_client("aioquic_gets_a_correct_reply_over_http3", "h3_client.py");
}

/// A server that a script runs, with its protocol at `url`; ended when dropped.
struct Server {
    process: Child,
    url: String,
}

impl Server {
    /// Starts one with EfficientNet-Lite2 and waits until it is ready.
    fn start(python: &Path, script: &str) -> Self {
        let free = || {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap().port().to_string()
        };
        let (grpc, http) = (free(), free());
        let network = repository().join("models/efficientnet-lite2/efficientnet-lite2.onnx");
        let process = Command::new(python)
            .arg(repository().join("tests/python").join(script))
            .args(["--onnx".as_ref(), network.as_os_str()])
            .args(["--grpc-port", &grpc, "--http-port", &http])
            // Those with processes of their own end when it does, whatever becomes of this one.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let mut server = Self {
            process: process.unwrap(),
            url: format!("http://127.0.0.1:{grpc}"),
        };
        let mut line = String::new();
        BufReader::new(server.process.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line.trim(), "ready", "run {script} by hand to see why");
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let process = self.process.id().to_string();
        let _ = Command::new("kill").args(["-TERM", &process]).status();
        let asked = Instant::now();
        while matches!(self.process.try_wait(), Ok(None)) && asked.elapsed() < ENDING {
            thread::sleep(Duration::from_millis(50));
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Offloads photos to a server of the protocol and to cloud-service; the answers are the same.
fn offloads_with_tensors(server: &Server) {
    let photos = some_photos(5);
    let foreign = EdgeAgent::classify()
        .args(["--cloud", &server.url])
        .args(["--transport", "h2", "--mode", "cloud-only"])
        .args(&photos)
        .run();
    let certificates = CertificateFolder::valid();
    let cloud = CloudService::start(&certificates);
    let own = EdgeAgent::classify()
        .cloud(&cloud.url(), &certificates)
        .args(["--mode", "cloud-only"])
        .args(&photos)
        .run();
    assert_eq!(foreign.records.len(), photos.len());
    for (foreign_record, own_record) in foreign.records.iter().zip(&own.records) {
        assert_eq!(foreign_record["reason"], "offloaded", "{}", foreign.log);
        assert_eq!(foreign_record["class_id"], own_record["class_id"]);
        assert!(
            foreign_record["cloud_ms"].is_null(),
            "only cloud-service tells its time"
        );
        let difference = foreign_record["confidence"].as_f64().unwrap()
            - own_record["confidence"].as_f64().unwrap();
        assert!(difference.abs() < 1e-3, "{foreign_record} {own_record}");
        let tensor_bytes = 3 * 260 * 260 * 4;
        assert!(foreign_record["bytes_sent"].as_u64().unwrap() > tensor_bytes);
    }
}

#[test]
fn the_agent_offloads_to_mlserver_with_tensors() {
    if let Some(python) = python("the_agent_offloads_to_mlserver_with_tensors") {
        offloads_with_tensors(&Server::start(&python, "mlserver_serve.py"));
    }
}

#[test]
fn the_agent_offloads_to_triton() {
    if let Some(python) = opted_in("the_agent_offloads_to_triton", "OUTPOST_TRITON") {
        offloads_with_tensors(&Server::start(&python, "triton_serve.py"));
    }
}

#[test]
fn the_agent_offloads_to_ray_serve() {
    let test = "the_agent_offloads_to_ray_serve";
    let Some(python) = opted_in(test, "OUTPOST_RAY") else {
        return;
    };
    let server = Server::start(&python, "ray_serve.py");
    offloads_with_tensors(&server);
    let image = TensorData::Fp32(vec![0.0; 3 * 260 * 260]);
    let image = Tensor::new("image", vec![1, 3, 260, 260], image).unwrap();
    let request = tensor::infer_request("efficientnet-lite2", "", [image], ContentsKind::Raw);
    let config = ClientConfig {
        transport: Transport::H2,
        ..ClientConfig::new(&server.url)
    };
    let mut replicas = HashSet::new();
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let mut client = GrpcInferenceServiceClient::new(Channel::new(config).unwrap());
        // Each call goes to one of the two at random, or nearly.
        for _ in 0..100 {
            let answer = client.model_infer(request.clone()).await.unwrap();
            replicas.insert(answer.into_inner().model_version);
            if replicas.len() == 2 {
                return;
            }
        }
    });
    assert_eq!(replicas.len(), 2, "{replicas:?}");
}
