//! A model that is replaced while it is in use.

use std::{fs, path::Path, time::Duration};

use outpost_proto::{
    ContentsKind, Tensor, TensorData,
    inference::{
        RepositoryModelLoadRequest, RepositoryModelUnloadRequest,
        grpc_inference_service_client::GrpcInferenceServiceClient,
    },
    tensor,
};
use outpost_tests::{CertificateFolder, CloudService, repository};
use outpost_transport::{Channel, Transport};
use tonic::Code;

const NETWORK: &str = "cifar10-alexnet";
const CALLERS: usize = 4;

/// Puts a version into a model folder; its manifest comes last and at once.
fn put(models: &Path, version: u64) {
    let from = repository().join("models").join(NETWORK);
    let to = models.join(NETWORK).join(version.to_string());
    fs::create_dir_all(&to).unwrap();
    let manifest = fs::read_to_string(from.join("model.toml")).unwrap();
    let manifest: String = manifest
        .lines()
        .filter(|line| !line.starts_with("labels"))
        .map(|line| format!("{line}\n"))
        .collect();
    let weights = format!("{NETWORK}.onnx");
    fs::copy(from.join(&weights), to.join(&weights)).unwrap();
    fs::write(to.join("new.toml"), manifest).unwrap();
    fs::rename(to.join("new.toml"), to.join("model.toml")).unwrap();
}

fn replaced_under_load(transport: Transport) {
    let certificates = CertificateFolder::valid();
    let models = tempfile::tempdir().unwrap();
    put(models.path(), 1);
    let cloud = CloudService::start_with(
        &certificates,
        &format!(
            "models = {:?}\n[repository]\nmode = \"poll\"\npoll_seconds = 1",
            models.path()
        ),
    );
    let config = cloud.client(&certificates, transport);
    let image = TensorData::Fp32(vec![0.0; 3 * 32 * 32]);
    let image = Tensor::new("image", vec![1, 3, 32, 32], image).unwrap();
    let request = tensor::infer_request(NETWORK, "", [image], ContentsKind::Raw);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let channel = Channel::new(config).unwrap();
        channel.connect().await.unwrap();
        // The version that each caller has seen last.
        let (seen, mut watch) = tokio::sync::watch::channel([0_u64; CALLERS]);
        let mut callers = tokio::task::JoinSet::new();
        for caller in 0..CALLERS {
            let mut client = GrpcInferenceServiceClient::new(channel.clone());
            let (request, seen) = (request.clone(), seen.clone());
            callers.spawn(async move {
                loop {
                    let answer = client.model_infer(request.clone()).await;
                    let answer = answer.expect("a call was lost").into_inner();
                    let version = answer.model_version.parse().unwrap();
                    seen.send_modify(|seen| {
                        assert!(seen[caller] <= version, "an old version came back");
                        seen[caller] = version;
                    });
                    if version == 3 {
                        break;
                    }
                }
            });
        }
        for version in [1, 2, 3] {
            let all = watch.wait_for(|seen| seen.iter().all(|&seen| seen == version));
            let patience = Duration::from_secs(60);
            let all = tokio::time::timeout(patience, all).await;
            all.expect("the version is not served").unwrap();
            if version < 3 {
                put(models.path(), version + 1);
            }
        }
        callers.join_all().await;
    });
}

#[test]
fn callers_may_not_load_where_the_models_are_fixed() {
    let certificates = CertificateFolder::valid();
    let cloud = CloudService::start(&certificates);
    let config = cloud.client(&certificates, Transport::Auto);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let mut client = GrpcInferenceServiceClient::new(Channel::new(config).unwrap());
        let load = RepositoryModelLoadRequest {
            model_name: NETWORK.to_owned(),
            ..Default::default()
        };
        let refused = client.repository_model_load(load).await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
        let unload = RepositoryModelUnloadRequest {
            model_name: "efficientnet-lite2".to_owned(),
            ..Default::default()
        };
        let refused = client.repository_model_unload(unload).await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    });
}

#[test]
fn a_model_is_replaced_under_load_over_http2_and_no_call_is_lost() {
    replaced_under_load(Transport::H2);
}

#[test]
fn a_model_is_replaced_under_load_over_http3_and_no_call_is_lost() {
    replaced_under_load(Transport::H3);
}
