//! The cloud there, dying, draining; both transports.

use std::{
    collections::HashSet,
    io::{BufRead, BufReader, Read, Write},
    path::PathBuf,
    process::Stdio,
};

use bytes::Bytes;
use outpost_proto::{
    ContentsKind, Tensor, TensorData,
    inference::{ServerReadyRequest, grpc_inference_service_client::GrpcInferenceServiceClient},
    tensor,
};
use outpost_tests::{
    CertificateFolder, CloudService, EdgeAgent, edge_config, repository, some_photos,
};
use outpost_transport::{Channel, Protocol, Transport};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

fn offloads_every_image_over(transport: &str, expected: &str) {
    let certificates = CertificateFolder::valid();
    let cloud = CloudService::start(&certificates);
    let photos = some_photos(5);
    let answers = EdgeAgent::classify()
        .cloud(&cloud.url(), &certificates)
        .args(["--mode", "cloud-only", "--transport", transport])
        .args(&photos)
        .run();
    assert_eq!(answers.code, 0, "{}", answers.log);
    assert_eq!(answers.records.len(), photos.len());
    for (record, photo) in answers.records.iter().zip(&photos) {
        assert_eq!(record["image"], photo.to_str().unwrap());
        assert_eq!(record["reason"], "offloaded", "{record}");
        assert_eq!(record["site"], "cloud");
        assert_eq!(record["network"], "efficientnet-lite2");
        assert_eq!(record["transport"], expected);
        let sent = record["bytes_sent"].as_u64().unwrap();
        let size = photo.metadata().unwrap().len();
        assert!((size..size + 200).contains(&sent), "{sent} of {size}");
        let [device, link, cloud, total] =
            ["device_ms", "link_ms", "cloud_ms", "total_ms"].map(|f| record[f].as_f64().unwrap());
        assert!(
            cloud > 0.0 && device + link + cloud <= total + 1.0,
            "{record}"
        );
    }
}

#[test]
fn images_are_offloaded_over_http2() {
    offloads_every_image_over("h2", "h2");
}

#[test]
fn images_are_offloaded_over_http3() {
    offloads_every_image_over("h3", "h3");
}

#[test]
fn auto_prefers_http3() {
    offloads_every_image_over("auto", "h3");
}

#[test]
fn easy_images_stay_on_the_device_and_hard_ones_go_to_the_cloud() {
    let certificates = CertificateFolder::valid();
    let cloud = CloudService::start(&certificates);
    let answers = EdgeAgent::classify()
        .cloud(&cloud.url(), &certificates)
        .args(some_photos(20))
        .run();
    let reasons: HashSet<&str> = answers
        .records
        .iter()
        .map(|record| record["reason"].as_str().unwrap())
        .collect();
    assert_eq!(reasons, HashSet::from(["confident", "offloaded"]));
    for record in &answers.records {
        let confident = record["reason"] == "confident";
        assert_eq!(record["site"] == "device", confident);
        if confident {
            assert!(record["confidence"].as_f64().unwrap() >= 0.8);
            assert_eq!(record["bytes_sent"], 0);
        }
    }
}

#[test]
fn every_image_is_answered_when_the_cloud_is_killed_mid_run() {
    let certificates = CertificateFolder::valid();
    let mut cloud = CloudService::start(&certificates);
    let photos = some_photos(30);
    let mut agent = EdgeAgent::classify()
        .cloud(&cloud.url(), &certificates)
        .args(["--mode", "cloud-only", "-"])
        .into_command()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(agent.stdout.take().unwrap()).lines();
    let mut stdin = Some(agent.stdin.take().unwrap());
    let mut list = |photos: &[PathBuf]| {
        for photo in photos {
            writeln!(stdin.as_mut().unwrap(), "{}", photo.display()).unwrap();
        }
        if photos.len() == 10 {
            stdin = None;
        }
    };
    list(&photos[..20]);
    let mut records: Vec<serde_json::Value> = Vec::new();
    for line in lines {
        records.push(serde_json::from_str(&line.unwrap()).unwrap());
        if records.len() == 3 {
            cloud.kill();
            list(&photos[20..]);
        }
    }
    let mut log = String::new();
    agent
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut log)
        .unwrap();
    assert!(agent.wait().unwrap().success(), "{log}");
    let images: Vec<&str> = records
        .iter()
        .map(|r| r["image"].as_str().unwrap())
        .collect();
    let expected: Vec<&str> = photos.iter().map(|p| p.to_str().unwrap()).collect();
    assert_eq!(images, expected, "one answer each, in order");
    let last = &records[29];
    assert_eq!(last["site"], "device");
    let reason = last["reason"].as_str().unwrap();
    assert!(reason.starts_with("fallback:"), "{reason}");
    assert_eq!(records[0]["reason"], "offloaded");
}

#[test]
fn the_circuit_opens_over_a_dead_cloud_and_closes_when_it_is_back() {
    let certificates = CertificateFolder::valid();
    let mut cloud = CloudService::start(&certificates);
    let address = cloud.address();
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("edge-agent.toml");
    let text = edge_config("[circuit]\nfailures_to_open = 1\nopen_for_ms = 3000");
    std::fs::write(&config, text).unwrap();
    let mut agent = EdgeAgent::classify()
        .cloud(&cloud.url(), &certificates)
        .args(["--config".as_ref(), config.as_os_str()])
        .args(["--mode", "cloud-only", "-"])
        .into_command()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = agent.stdin.take().unwrap();
    let mut lines = BufReader::new(agent.stdout.take().unwrap()).lines();
    let photo = some_photos(1).remove(0);
    let mut reason = || -> String {
        writeln!(stdin, "{}", photo.display()).unwrap();
        let line = lines.next().unwrap().unwrap();
        let record: serde_json::Value = serde_json::from_str(&line).unwrap();
        record["reason"].as_str().unwrap().to_owned()
    };
    assert_eq!(reason(), "offloaded");
    cloud.kill();
    let first = reason();
    assert!(
        first.starts_with("fallback:") && first != "fallback:circuit-open",
        "{first}"
    );
    assert_eq!(reason(), "fallback:circuit-open");
    let _cloud = CloudService::start_at(address, &certificates, "");
    // Images are refused until the circuit lets one try, and one after the other is offloaded then.
    let tries = (0..500).position(|_| reason() == "offloaded");
    assert!(tries.is_some(), "the circuit did not close");
    assert_eq!(reason(), "offloaded");
    drop(stdin);
    assert!(agent.wait().unwrap().success());
}

#[test]
fn health_and_reflection_are_served_over_both_transports() {
    let certificates = CertificateFolder::valid();
    let cloud = CloudService::start(&certificates);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for transport in [Transport::H2, Transport::H3] {
        let config = cloud.client(&certificates, transport);
        runtime.block_on(async {
            let channel = Channel::new(config).unwrap();
            for service in ["", "inference.GRPCInferenceService"] {
                let request = HealthCheckRequest {
                    service: service.to_owned(),
                };
                let health = HealthClient::new(channel.clone()).check(request).await;
                let status = health.unwrap().into_inner().status();
                assert_eq!(status, ServingStatus::Serving, "{service:?}");
            }
            let request = ServerReflectionRequest {
                host: String::new(),
                message_request: Some(MessageRequest::ListServices(String::new())),
            };
            let mut replies = ServerReflectionClient::new(channel)
                .server_reflection_info(tokio_stream::once(request))
                .await
                .unwrap()
                .into_inner();
            let reply = replies.message().await.unwrap().unwrap();
            let Some(MessageResponse::ListServicesResponse(list)) = reply.message_response else {
                panic!("{reply:?}");
            };
            let names: Vec<&str> = list.service.iter().map(|s| s.name.as_str()).collect();
            assert!(
                names.contains(&"inference.GRPCInferenceService"),
                "{names:?}"
            );
            assert!(names.contains(&"grpc.health.v1.Health"), "{names:?}");
        });
    }
}

/// Sends many requests, asks the server to end, and counts: what was accepted is answered, the rest
/// is refused, and the program ends well.
fn drains(transport: Transport) {
    let certificates = CertificateFolder::valid();
    let cloud = CloudService::start(&certificates);
    let config = cloud.client(&certificates, transport);
    let image = Bytes::from(std::fs::read(&some_photos(1)[0]).unwrap());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let answered = runtime.block_on(async {
        let channel = Channel::new(config).unwrap();
        let protocol = channel.connect().await.unwrap();
        let expected = match transport {
            Transport::H3 => Protocol::H3,
            _ => Protocol::H2,
        };
        assert_eq!(protocol, expected);
        let infer = |image: Bytes| {
            let mut client = GrpcInferenceServiceClient::new(channel.clone());
            async move {
                let image = Tensor::new("image", vec![1], TensorData::Bytes(vec![image])).unwrap();
                let request =
                    tensor::infer_request("efficientnet-lite2", "", [image], ContentsKind::Typed);
                client.model_infer(request).await
            }
        };
        infer(image.clone()).await.unwrap();
        let calls: Vec<_> = (0..12)
            .map(|_| tokio::spawn(infer(image.clone())))
            .collect();
        // An answer to one means that the others, sent before it ended, are accepted.
        let mut calls = calls.into_iter();
        calls.next().unwrap().await.unwrap().unwrap();
        cloud.terminate();
        let mut answered = 1;
        for call in calls {
            call.await.unwrap().expect("an accepted call was lost");
            answered += 1;
        }
        answered
    });
    assert_eq!(answered, 12);
    let (ended_well, log) = cloud.wait();
    assert!(ended_well, "{log}");
}

#[test]
fn accepted_calls_are_answered_at_shutdown_over_http2() {
    drains(Transport::H2);
}

#[test]
fn accepted_calls_are_answered_at_shutdown_over_http3() {
    drains(Transport::H3);
}

/// A proxy that asks for readiness sends its calls elsewhere before the port closes.
#[test]
fn a_service_that_is_told_to_end_says_so_while_it_still_takes_requests() {
    let certificates = CertificateFolder::valid();
    let models = repository().join("models");
    let text = format!(
        "address = \"127.0.0.1:0\"\nmodels = {models:?}\nnetworks = [\"cifar10-alexnet\"]\n\
         [limits]\ndrain_delay_seconds = 3\ndrain_timeout_seconds = 1\n\
         [tls]\ncertificate = \"server.pem\"\nkey = \"server.key\"\n"
    );
    let cloud = CloudService::start_from(&certificates, &text, |_| {});
    let config = cloud.client(&certificates, Transport::H2);
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let mut client = GrpcInferenceServiceClient::new(Channel::new(config).unwrap());
        let ready = || ServerReadyRequest::default();
        assert!(
            client
                .server_ready(ready())
                .await
                .unwrap()
                .into_inner()
                .ready
        );
        cloud.terminate();
        while client
            .server_ready(ready())
            .await
            .unwrap()
            .into_inner()
            .ready
        {
            tokio::task::yield_now().await;
        }
        let image = TensorData::Fp32(vec![0.0; 3 * 32 * 32]);
        let image = Tensor::new("image", vec![1, 3, 32, 32], image).unwrap();
        let request = tensor::infer_request("cifar10-alexnet", "", [image], ContentsKind::Raw);
        client.model_infer(request).await.unwrap();
    });
    let (ended_well, log) = cloud.wait();
    assert!(ended_well, "{log}");
}
