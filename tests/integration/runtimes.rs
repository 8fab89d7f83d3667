//! Runtimes chosen by configuration: the same answers, and clear words where one is missing.

use std::{fs, process::Command};

use outpost_proto::{
    ContentsKind, Tensor, TensorData,
    inference::{ModelMetadataRequest, grpc_inference_service_client::GrpcInferenceServiceClient},
    tensor,
};
use outpost_tests::{CertificateFolder, CloudService, program, repository};
use outpost_transport::{Channel, Transport};

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

#[test]
fn a_network_on_onnxruntime_gives_the_scores_of_tract() {
    if std::env::var_os("ORT_DYLIB_PATH").is_none() {
        println!("SKIPPED: ORT_DYLIB_PATH names no library of ONNX Runtime");
        let is_required = std::env::var_os("OUTPOST_REQUIRE_PEERS").is_some();
        assert!(!is_required, "the peers are required");
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
