//! A cascade over two and three machines: the same answers as on one.

use std::{fs, path::PathBuf};

use outpost_proto::{
    ContentsKind, Tensor, TensorData,
    inference::{
        InferParameter, ModelInferRequest, ModelMetadataRequest,
        grpc_inference_service_client::GrpcInferenceServiceClient,
        infer_parameter::ParameterChoice,
    },
    tensor,
};
use outpost_tests::{Answers, CertificateFolder, CloudService, EdgeAgent, repository, some_cifar};
use outpost_transport::{Channel, Transport};
use serde_json::Value;
use tonic::Code;

use crate::{run::until, security::issue};

/// AlexNet on the device, the others at the sites GOOGLENET and RESNET; from the AlexNet on to either.
const CASCADE: &str = r#"
name = "split"
description = "three networks at up to three sites"
entry = "cifar10-alexnet"

[[node]]
network = "cifar10-alexnet"
site = "device"
jumps = ["cifar10-googlenet@inception3", "cifar10-resnet"]
policy = { kind = "threshold", measure = "max-probability", at_least = 0.9, to = "cifar10-googlenet@inception3" }

[[node]]
network = "cifar10-googlenet"
exit = "inception3"
site = "GOOGLENET"
jumps = ["cifar10-googlenet"]
policy = { kind = "threshold", measure = "max-probability", at_least = 0.8 }

[[node]]
network = "cifar10-googlenet"
site = "GOOGLENET"
jumps = ["cifar10-resnet"]
policy = { kind = "threshold", measure = "max-probability", at_least = 0.8 }

[[node]]
network = "cifar10-resnet"
site = "RESNET"
"#;

/// The cascade's file in the folder of the certificates.
fn cascade(certificates: &CertificateFolder, googlenet: &str, resnet: &str) -> PathBuf {
    let text = CASCADE
        .replace("GOOGLENET", googlenet)
        .replace("RESNET", resnet);
    let file = certificates.file("split.toml");
    fs::write(&file, text).unwrap();
    file
}

fn classify(cascade: &PathBuf, peers: &str, certificates: &CertificateFolder) -> Answers {
    let config = certificates.file("edge-agent.toml");
    let models = repository().join("models");
    let text = format!("models = {models:?}\ncascade = {cascade:?}\n{peers}");
    fs::write(&config, text).unwrap();
    EdgeAgent::classify()
        .args(["--config".as_ref(), config.as_os_str()])
        .args(some_cifar(60))
        .run()
}

/// A service at a site, with further lines before its tables.
fn service(certificates: &CertificateFolder, site: &str, more: &str) -> CloudService {
    let models = repository().join("models");
    let text = format!(
        "address = \"127.0.0.1:0\"\nmodels = {models:?}\nsite = \"{site}\"\n\
         networks = [\"cifar10-resnet\"]\n\
         [[cascade]]\nfile = \"split.toml\"\n{more}\n\
         [tls]\ncertificate = \"server.pem\"\nkey = \"server.key\"\n"
    );
    CloudService::start_from(certificates, &text, |_| {})
}

fn peer(table: &str, cloud: &CloudService) -> String {
    let url = cloud.url();
    format!("[{table}]\nurl = \"{url}\"\ncertificate_authority = \"ca.pem\"\n")
}

/// What an answer is, and whose.
fn essence(record: &Value) -> (String, String, String, f64) {
    let text = |field: &str| record[field].as_str().unwrap_or_default().to_owned();
    let confidence = record["confidence"].as_f64().unwrap();
    (
        text("image"),
        text("label"),
        format!("{}@{}", text("network"), text("exit")),
        (confidence * 1e4).round(),
    )
}

fn same_answers(one: &Answers, other: &Answers) {
    let essences = |answers: &Answers| answers.records.iter().map(essence).collect::<Vec<_>>();
    assert_eq!(essences(one), essences(other), "{}", other.log);
}

fn sites(answers: &Answers) -> Vec<&str> {
    let mut sites: Vec<_> = answers
        .records
        .iter()
        .map(|record| record["site"].as_str().unwrap())
        .collect();
    sites.sort_unstable();
    sites.dedup();
    sites
}

#[test]
fn a_cascade_gives_the_same_answers_on_one_machine_on_two_and_on_three() {
    let certificates = CertificateFolder::valid();
    let alone = classify(
        &cascade(&certificates, "device", "device"),
        "",
        &certificates,
    );
    assert_eq!((alone.code, alone.records.len()), (0, 60), "{}", alone.log);
    let networks: std::collections::BTreeSet<_> = alone
        .records
        .iter()
        .map(|record| essence(record).2)
        .collect();
    assert_eq!(networks.len(), 4, "{networks:?}");

    // The cloud decides between the GoogLeNet and the ResNet, and says who answered.
    let file = cascade(&certificates, "cloud", "cloud");
    let cloud = service(&certificates, "cloud", "");
    let on_two = classify(&file, &peer("cloud", &cloud), &certificates);
    same_answers(&alone, &on_two);
    assert_eq!(sites(&on_two), ["cloud", "device"]);

    // What the fog cannot answer it asks the cloud.
    drop(cloud);
    let file = cascade(&certificates, "fog", "cloud");
    let cloud = service(&certificates, "cloud", "");
    let fog = service(&certificates, "fog", &peer("cloud", &cloud));
    let on_three = classify(&file, &peer("fog", &fog), &certificates);
    same_answers(&alone, &on_three);
    assert_eq!(sites(&on_three), ["cloud", "device", "fog"]);

    // Without the cloud the fog answers in its place.
    drop(cloud);
    let without = classify(&file, &peer("fog", &fog), &certificates);
    assert_eq!(without.records.len(), 60);
    assert_eq!(sites(&without), ["device", "fog"]);
    for (record, before) in without.records.iter().zip(&on_three.records) {
        let is_stand_in = before["site"] == "cloud";
        let expected = if is_stand_in {
            "fog"
        } else {
            before["site"].as_str().unwrap()
        };
        assert_eq!(record["site"], expected, "{record}");
        assert!(record["reason"] != "fallback:rejected", "{record}");
    }
}

#[test]
fn a_fog_takes_up_a_new_token_for_the_cloud() {
    let certificates = CertificateFolder::valid();
    let file = cascade(&certificates, "fog", "cloud");
    let entry = issue(&certificates, "good");
    fs::write(certificates.file("identities.toml"), entry).unwrap();
    let access = "[access]\nidentities = \"identities.toml\"\n";
    let cloud = service(&certificates, "cloud", access);
    let token = certificates.file("token");
    fs::write(&token, "not-the-right-one").unwrap();
    let to_cloud = peer("cloud", &cloud) + "token = \"token\"\n";
    let fog = service(&certificates, "fog", &to_cloud);
    let ask = || classify(&file, &peer("fog", &fog), &certificates);
    assert_eq!(sites(&ask()), ["device", "fog"]);
    fs::copy(certificates.file("good"), &token).unwrap();
    fog.hang_up();
    until("an answer of the cloud", || {
        (sites(&ask()) == ["cloud", "device", "fog"]).then_some(())
    });
}

/// The device reaches a network in the cloud through the fog, which has no network of the cascade before it.
#[test]
fn a_site_in_between_passes_images_on() {
    let certificates = CertificateFolder::valid();
    let text = CASCADE
        .replace("GOOGLENET", "fog")
        .replace("RESNET", "cloud")
        .replace(
            ", to = \"cifar10-googlenet@inception3\" }",
            ", to = \"cifar10-resnet\" }",
        );
    let file = certificates.file("split.toml");
    fs::write(&file, text).unwrap();
    let cloud = service(&certificates, "cloud", "");
    let fog = service(&certificates, "fog", &peer("cloud", &cloud));
    let answers = classify(&file, &peer("fog", &fog), &certificates);
    assert_eq!(sites(&answers), ["cloud", "device"], "{}", answers.log);
}

#[test]
fn a_cascade_takes_images_and_says_what_else_it_wants() {
    let certificates = CertificateFolder::valid();
    cascade(&certificates, "cloud", "cloud");
    let cloud = service(&certificates, "cloud", "");
    let config = cloud.client(&certificates, Transport::Auto);
    let tensor =
        |shape: &[usize], data: TensorData| Tensor::new("image", shape.to_vec(), data).unwrap();
    let request = |tensor: Tensor, entry: Option<ParameterChoice>| {
        let mut request: ModelInferRequest =
            tensor::infer_request("split", "", [tensor], ContentsKind::Typed);
        if entry.is_some() {
            let parameter = InferParameter {
                parameter_choice: entry,
            };
            request
                .parameters
                .insert("outpost_entry".to_owned(), parameter);
        }
        request
    };
    let encoded = || {
        let files = some_cifar(2)
            .into_iter()
            .map(|path| fs::read(path).unwrap().into());
        tensor(&[2], TensorData::Bytes(files.collect()))
    };
    let node = |name: &str| Some(ParameterChoice::StringParam(name.to_owned()));
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let mut client = GrpcInferenceServiceClient::new(Channel::new(config).unwrap());
        let metadata = ModelMetadataRequest {
            name: "split".to_owned(),
            version: String::new(),
        };
        let metadata = client.model_metadata(metadata).await.unwrap().into_inner();
        assert_eq!(metadata.inputs[0].datatype, "BYTES");
        assert_eq!(metadata.outputs[0].name, "probabilities");

        let answer = client
            .model_infer(request(encoded(), node("cifar10-resnet")))
            .await;
        let answer = answer.unwrap().into_inner();
        assert_eq!(answer.outputs[0].shape, [2, 10]);
        let decided_by = &answer.parameters["outpost_decided_by"].parameter_choice;
        let both = "cloud/cifar10-resnet,cloud/cifar10-resnet".to_owned();
        assert_eq!(decided_by, &Some(ParameterChoice::StringParam(both)));
        let pixels = tensor(&[1, 8, 9, 3], TensorData::Uint8(vec![7; 8 * 9 * 3].into()));
        client.model_infer(request(pixels, None)).await.unwrap();

        let input = tensor(&[1, 3, 32, 32], TensorData::Fp32(vec![0.0; 3 * 32 * 32]));
        use Code::{InvalidArgument, NotFound};
        let no_text = Some(ParameterChoice::Int64Param(1));
        let no_image = tensor(&[1], TensorData::Bytes(vec!["no image".into()]));
        let elsewhere = node("cifar10-alexnet");
        for (request, code, words) in [
            (
                request(input, None),
                InvalidArgument,
                "a cascade takes images",
            ),
            (request(encoded(), elsewhere), NotFound, "outpost_entry"),
            (
                request(encoded(), node("no-such")),
                NotFound,
                "cifar10-googlenet@inception3",
            ),
            (
                request(encoded(), no_text),
                InvalidArgument,
                "outpost_entry",
            ),
            (request(no_image, None), InvalidArgument, "image"),
        ] {
            let status = client.model_infer(request).await.unwrap_err();
            assert_eq!(status.code(), code, "{status}");
            assert!(status.message().contains(words), "{words}: {status}");
        }
    });
}

#[test]
fn what_cannot_be_served_as_a_cascade_is_refused_at_the_start() {
    let certificates = CertificateFolder::valid();
    let file = cascade(&certificates, "cloud", "cloud");
    let check = |more: &str| {
        let config = certificates.file("cloud-service.toml");
        let models = repository().join("models");
        let text = format!(
            "plaintext = true\nmodels = {models:?}\nnetworks = [\"cifar10-resnet\"]\n{more}"
        );
        fs::write(&config, text).unwrap();
        let output = std::process::Command::new(outpost_tests::program("cloud-service"))
            .args(["check-config", "--config"])
            .arg(config)
            .output()
            .unwrap();
        assert!(!output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let served = "[[cascade]]\nfile = \"split.toml\"\n";
    let learned = fs::read_to_string(&file).unwrap().replace(
        "{ kind = \"threshold\", measure = \"max-probability\", at_least = 0.8 }",
        "{ kind = \"learned\" }",
    );
    for (text, more, words) in [
        (
            None,
            format!("site = \"fog\"\n{served}"),
            "no network at the site fog",
        ),
        (
            None,
            format!("{served}{served}"),
            "has the name of something else",
        ),
        (
            None,
            "[[cascade]]\nfile = \"missing.toml\"\n".to_owned(),
            "missing.toml",
        ),
        (Some(learned), served.to_owned(), "is to be learned"),
        (
            None,
            format!("{served}[cloud]\nurl = \"https://x\"\n"),
            "site = \"fog\"",
        ),
        (
            Some(
                fs::read_to_string(&file)
                    .unwrap()
                    .replace("\"split\"", "\"cifar10-resnet\""),
            ),
            served.to_owned(),
            "has the name of something else",
        ),
    ] {
        cascade(&certificates, "cloud", "cloud");
        if let Some(text) = text {
            fs::write(&file, text).unwrap();
        }
        let said = check(&more);
        assert!(said.contains(words), "{words}: {said}");
    }
}
