//! Runtimes chosen by configuration: the same answers, and clear words where one is missing.

use std::{fs, process::Command};

use outpost_proto::{
    ContentsKind, Tensor, TensorData,
    inference::{ModelMetadataRequest, grpc_inference_service_client::GrpcInferenceServiceClient},
    tensor,
};
use outpost_tests::{
    CertificateFolder, CloudService, EdgeAgent, program, repository, some_cifar, some_photos,
};
use outpost_transport::{Channel, Transport};
use serde_json::Value;

use crate::{
    operations::{reconfigure, refused, state},
    run::{Device, until},
};

const TLS: &str = "[tls]\ncertificate = \"server.pem\"\nkey = \"server.key\"\n";

fn configuration(runtime: &str) -> String {
    let models = repository().join("models");
    format!(
        "address = \"127.0.0.1:0\"\nmodels = {models:?}\n\
         networks = [\"cifar10-googlenet\", \"cifar10-resnet\"]\n{runtime}\n{TLS}"
    )
}

/// Scores of some images by the GoogLeNet, and what runs it.
fn scores(cloud: &CloudService, certificates: &CertificateFolder) -> (Vec<f32>, String) {
    let config = cloud.client(certificates, Transport::H2);
    let values = (0..5 * 3 * 32 * 32).map(|i| ((i % 97) as f32 / 48.5) - 1.0);
    let images = TensorData::Fp32(values.collect());
    let images = Tensor::new("image", vec![5, 3, 32, 32], images).unwrap();
    let request = tensor::infer_request("cifar10-googlenet", "", [images], ContentsKind::Raw);
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let mut client = GrpcInferenceServiceClient::new(Channel::new(config).unwrap());
        let answer = client.model_infer(request).await.unwrap().into_inner();
        let mut outputs = tensor::take_outputs(answer).unwrap();
        let TensorData::Fp32(scores) = outputs.remove(0).into_data() else {
            panic!("no FP32");
        };
        let metadata = ModelMetadataRequest {
            name: "cifar10-googlenet".to_owned(),
            version: String::new(),
        };
        let metadata = client.model_metadata(metadata).await.unwrap().into_inner();
        (scores, metadata.platform)
    })
}

/// Whether there is a library of ONNX Runtime, which must be there where the peers are required.
fn has_library() -> bool {
    let is_there = std::env::var_os("ORT_DYLIB_PATH").is_some();
    if !is_there {
        println!("SKIPPED: ORT_DYLIB_PATH names no library of ONNX Runtime");
        let is_required = std::env::var_os("OUTPOST_REQUIRE_PEERS").is_some();
        assert!(!is_required, "the peers are required");
    }
    is_there
}

#[test]
fn a_network_on_onnxruntime_gives_the_scores_of_tract() {
    if !has_library() {
        return;
    }
    let certificates = CertificateFolder::valid();
    let tract = CloudService::start_from(&certificates, &configuration(""), |_| {});
    let (expected, platform) = scores(&tract, &certificates);
    assert_eq!(platform, "tract_onnx");
    drop(tract);
    // One network on each runtime.
    let runtime = "[network.cifar10-googlenet.runtime]\nkind = \"onnxruntime\"\n\
                   [network.cifar10-googlenet.batching]\nmax_batch = 4\ninstances = 2\n";
    let both = CloudService::start_from(&certificates, &configuration(runtime), |_| {});
    let (found, platform) = scores(&both, &certificates);
    assert_eq!(platform, "onnxruntime_onnx");
    assert_eq!(found.len(), 50);
    for (found, expected) in found.iter().zip(&expected) {
        assert!((found - expected).abs() < 1e-3, "{found} for {expected}");
    }
}

#[test]
fn a_runtime_that_is_missing_keeps_the_service_from_starting() {
    let certificates = CertificateFolder::valid();
    let check = |runtime: &str, library: Option<&str>| {
        let config = certificates.file("cloud-service.toml");
        fs::write(&config, configuration(runtime)).unwrap();
        let mut command = Command::new(program("cloud-service"));
        command.args(["check-config", "--config"]).arg(config);
        match library {
            Some(library) => command.env("ORT_DYLIB_PATH", library),
            None => command.env_remove("ORT_DYLIB_PATH"),
        };
        let output = command.output().unwrap();
        assert!(!output.status.success(), "{runtime}: {output:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let onnxruntime = "[runtime]\nkind = \"onnxruntime\"\n";
    for (runtime, library, words) in [
        (onnxruntime.to_owned(), None, "ORT_DYLIB_PATH"),
        (
            onnxruntime.to_owned(),
            Some("/no/such/library.so"),
            "/no/such/library.so",
        ),
        (
            format!("{onnxruntime}library = \"cloud-service.toml\"\n"),
            None,
            "cloud-service.toml",
        ),
        (format!("{onnxruntime}device = \"gpu\"\n"), None, "cuda:1"),
        (
            "[runtime]\ndevice = \"cuda\"\n".to_owned(),
            None,
            "runs on the CPU",
        ),
        (
            "[runtime]\nkind = \"triton\"\n".to_owned(),
            None,
            "onnxruntime",
        ),
    ] {
        let said = check(&runtime, library);
        assert!(said.contains(words), "{words}: {said}");
    }
    // A library for the CPU alone, asked for a GPU.
    if std::env::var_os("OUTPOST_GPU").is_none()
        && let Ok(library) = std::env::var("ORT_DYLIB_PATH")
    {
        for device in ["cuda", "tensorrt"] {
            let said = check(
                &format!("{onnxruntime}device = \"{device}\"\n"),
                Some(&library),
            );
            assert!(said.contains("onnxruntime-gpu"), "{said}");
        }
    }
}

#[test]
fn a_device_on_onnxruntime_answers_and_decides_as_on_tract() {
    if !has_library() {
        return;
    }
    // One network that knows when to ask a cloud that is not there; three networks, one of them with exits, by a learned
    // policy that looks at features.
    let exits = [
        "--cascade",
        "models/cascades/cifar10-exits.toml",
        "--policy",
        "models/policies/cifar10-exits.json",
    ];
    for (arguments, images) in [(&[][..], some_photos(20)), (&exits[..], some_cifar(60))] {
        let answers = |runtime| {
            let agent = EdgeAgent::classify().args(arguments);
            let answers = agent.args(["--runtime", runtime]).args(&images).run();
            assert_eq!(answers.code, 0, "{}", answers.log);
            assert!(answers.log.is_empty(), "{}", answers.log);
            answers.records
        };
        let (expected, found) = (answers("tract"), answers("onnxruntime"));
        assert_eq!((expected.len(), found.len()), (images.len(), images.len()));
        for (expected, found) in expected.iter().zip(&found) {
            for field in ["class_id", "network", "exit", "reason"] {
                assert_eq!(found[field], expected[field], "{found} for {expected}");
            }
            let confidence = |record: &Value| record["confidence"].as_f64().unwrap();
            let apart = (confidence(found) - confidence(expected)).abs();
            assert!(apart < 1e-3, "{found} for {expected}");
        }
        // The comparison has something to compare.
        let kinds = |field: &str| {
            let mut kinds: Vec<String> = expected.iter().map(|r| r[field].to_string()).collect();
            kinds.sort();
            kinds.dedup();
            kinds.len()
        };
        assert!(kinds("reason") * kinds("network") * kinds("exit") > 1);
    }
}

#[test]
fn a_device_takes_up_another_runtime_while_it_runs_and_tells_which() {
    if !has_library() {
        return;
    }
    let config =
        |runtime: &str| format!("[api]\naddress = \"127.0.0.1:0\"\n[runtime]\n{runtime}\n");
    let device = Device::start(&config(""));
    let runtime = || state(&device)["runtime"].clone();
    let metric = |runtime: &Value| {
        let (name, version) = (&runtime["name"], &runtime["version"]);
        device.metric(&format!(
            "outpost_edge_runtime_info{{runtime={name},version={version}}}"
        ))
    };
    let tract = runtime();
    assert_eq!(tract["name"], "tract");
    assert_eq!(metric(&tract), Some(1.0));
    reconfigure(&device, &config("kind = \"onnxruntime\""));
    let onnxruntime = until("ONNX Runtime", || {
        let runtime = runtime();
        (runtime["name"] == "onnxruntime").then_some(runtime)
    });
    assert_eq!(metric(&onnxruntime), Some(1.0));
    assert_eq!(metric(&tract), None);
    let image = fs::read(&some_cifar(1)[0]).unwrap();
    let response = device.post("/v1/classify", "image/jpeg", &image);
    assert_eq!(response.status(), 200);
    // A library stays for as long as the process.
    let other = "kind = \"onnxruntime\"\nlibrary = \"other.so\"";
    reconfigure(&device, &config(other));
    let said = refused(&device);
    assert!(said.contains("start the program again"), "{said}");
    assert_eq!(runtime(), onnxruntime);
}

#[test]
fn a_device_without_its_runtime_does_not_start_and_says_what_to_do() {
    let run = |command: &str, arguments: &[&str], library: Option<&str>| {
        let mut agent = Command::new(program("edge-agent"));
        agent.current_dir(repository()).arg(command);
        agent.args(["--runtime", "onnxruntime"]).args(arguments);
        match library {
            Some(library) => agent.env("ORT_DYLIB_PATH", library),
            None => agent.env_remove("ORT_DYLIB_PATH"),
        };
        agent.output().unwrap()
    };
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("libonnxruntime.so");
    fs::write(&text, "no library").unwrap();
    let text = text.to_str().unwrap();
    for (library, says) in [
        (None, "set `runtime.library` or ORT_DYLIB_PATH"),
        (Some("/no/such/library.so"), "/no/such/library.so"),
        (Some(text), text),
        // A library of another kind, which every system with glibc has.
        (Some("libm.so.6"), "1.17 or later"),
    ] {
        let output = run("classify", &["models/samples/photos"], library);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(says), "{says}: {said}");
        assert!(output.stdout.is_empty(), "no image was taken up");
    }
    let output = run("doctor", &["--format", "json"], None);
    assert_eq!(output.status.code(), Some(1));
    let findings = String::from_utf8(output.stdout).unwrap();
    let verdict = |area: &str| {
        let mut findings = findings
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap());
        findings.find(|finding| finding["area"] == area).unwrap()
    };
    let runtime = verdict("runtime");
    assert_eq!(
        (&runtime["subject"], &runtime["verdict"]),
        (&"onnxruntime".into(), &"failed".into())
    );
    assert!(
        runtime["advice"].as_str().unwrap().contains("\"tract\""),
        "{runtime}"
    );
    // What can be looked at without it is.
    let model = verdict("model");
    assert_eq!(model["verdict"], "good");
    assert!(
        model["found"].as_str().unwrap().contains("run on tract"),
        "{model}"
    );
}
