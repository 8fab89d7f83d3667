//! Independent peers: Triton's client and aioquic against cloud-service, edge-agent against MLServer.
//!
//! They run where `OUTPOST_PYTHON` names an interpreter that has `tests/python/requirements.txt`;
//! `scripts/test` makes one where Python is present.

use std::{
    env,
    io::{BufRead, BufReader},
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use outpost_tests::{CertificateFolder, CloudService, EdgeAgent, repository, some_photos};

/// The interpreter, or a loud word that the test did not run.
fn python(test: &str) -> Option<PathBuf> {
    let python = env::var_os("OUTPOST_PYTHON").map(PathBuf::from);
    if python.is_none() {
        eprintln!("SKIPPED {test}: OUTPOST_PYTHON is not set (scripts/test sets it)");
    }
    python
}

fn independent_client(test: &str, script: &str) {
    let Some(python) = python(test) else { return };
    let certificates = CertificateFolder::valid();
    let cloud = CloudService::start_at(
        "127.0.0.1:0".parse().unwrap(),
        &certificates,
        "[repository]\nmode = \"explicit\"",
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

struct MlServer(Child);

impl Drop for MlServer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_agent_offloads_to_mlserver_with_tensors() {
    let Some(python) = python("the_agent_offloads_to_mlserver_with_tensors") else {
        return;
    };
    let free = || {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    let (grpc, http) = (free(), free());
    let mut server = MlServer(
        Command::new(python)
            .arg(repository().join("tests/python/mlserver_serve.py"))
            .args([
                "--onnx".as_ref(),
                repository()
                    .join("models/efficientnet-lite2/efficientnet-lite2.onnx")
                    .as_os_str(),
            ])
            .args([
                "--grpc-port",
                &grpc.to_string(),
                "--http-port",
                &http.to_string(),
            ])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );
    let mut line = String::new();
    BufReader::new(server.0.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert_eq!(line.trim(), "ready");

    let photos = some_photos(5);
    let foreign = EdgeAgent::classify()
        .args(["--cloud", &format!("http://127.0.0.1:{grpc}")])
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
            "MLServer does not tell its time"
        );
        let difference = foreign_record["confidence"].as_f64().unwrap()
            - own_record["confidence"].as_f64().unwrap();
        assert!(difference.abs() < 1e-3, "{foreign_record} {own_record}");
        let tensor_bytes = 3 * 260 * 260 * 4;
        assert!(foreign_record["bytes_sent"].as_u64().unwrap() > tensor_bytes);
    }
}
