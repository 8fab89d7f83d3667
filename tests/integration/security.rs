//! Callers that the service knows, and certificates that change under load.

use std::{
    fs,
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use outpost_proto::{
    ContentsKind, Tensor, TensorData,
    inference::{
        ModelInferRequest, ModelMetadataRequest, RepositoryIndexRequest,
        RepositoryModelLoadRequest, ServerMetadataRequest,
        grpc_inference_service_client::GrpcInferenceServiceClient,
    },
    tensor,
};
use outpost_tests::{
    CertificateFolder, CloudService, EdgeAgent, edge_config, program, repository, some_photos,
};
use outpost_transport::{BearerToken, CallError, Channel, ClientConfig, RETRY_PUSHBACK, Transport};
use tonic::Code;

const NETWORK: &str = "cifar10-alexnet";
const OTHER: &str = "cifar10-resnet";
const BOTH: [Transport; 2] = [Transport::H2, Transport::H3];

/// What a configuration begins with.
fn configuration(networks: &[&str]) -> String {
    let models = repository().join("models");
    format!("address = \"127.0.0.1:0\"\nmodels = {models:?}\nnetworks = {networks:?}\n")
}

const TLS: &str = "[tls]\ncertificate = \"server.pem\"\nkey = \"server.key\"\n";

/// Has the program issue a token, and gives the entry for the identities; the token lies in a file of the name.
pub(crate) fn issue(certificates: &CertificateFolder, name: &str) -> String {
    let output = Command::new(program("cloud-service"))
        .args(["new-token", "--name", name, "--out"])
        .arg(certificates.file(name))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn client(config: ClientConfig) -> GrpcInferenceServiceClient<Channel> {
    GrpcInferenceServiceClient::new(Channel::new(config).unwrap())
}

fn request(network: &str, images: usize) -> ModelInferRequest {
    let pixels = TensorData::Fp32(vec![0.0; images * 3 * 32 * 32]);
    let image = Tensor::new("image", vec![images, 3, 32, 32], pixels).unwrap();
    tensor::infer_request(network, "", [image], ContentsKind::Raw)
}

fn with_token(config: ClientConfig, file: &Path) -> ClientConfig {
    ClientConfig {
        token: Some(BearerToken::load(file).unwrap()),
        ..config
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Runtime::new().unwrap().block_on(future)
}

#[test]
fn each_caller_may_what_its_identity_says() {
    let certificates = CertificateFolder::valid();
    let limited = issue(&certificates, "limited");
    let operator = issue(&certificates, "operator");
    fs::write(
        certificates.file("identities.toml"),
        format!(
            "{limited}networks = [\"{NETWORK}\"]\nimages_per_second = 1\nburst = 4\n\n\
             {operator}may = [\"manage\"]\n"
        ),
    )
    .unwrap();
    let text = configuration(&[NETWORK, OTHER])
        + "[repository]\nmode = \"explicit\"\n[access]\nidentities = \"identities.toml\"\n"
        + TLS;
    let cloud = CloudService::start_from(&certificates, &text, |_| {});
    block_on(async {
        let config = |transport| cloud.client(&certificates, transport);
        for transport in BOTH {
            let stranger = client(config(transport))
                .model_infer(request(NETWORK, 1))
                .await;
            let stranger = stranger.unwrap_err();
            assert_eq!(stranger.code(), Code::Unauthenticated, "{stranger}");
            assert!(stranger.message().contains("authorization"), "{stranger}");
        }
        let config = config(Transport::H2);
        let mut limited = client(with_token(config.clone(), &certificates.file("limited")));
        let mut operator = client(with_token(config, &certificates.file("operator")));

        // The networks that it may use, and no word of others.
        let forbidden = limited.model_infer(request(OTHER, 1)).await.unwrap_err();
        assert_eq!(forbidden.code(), Code::PermissionDenied, "{forbidden}");
        let metadata = ModelMetadataRequest {
            name: OTHER.to_owned(),
            ..Default::default()
        };
        let forbidden = limited.model_metadata(metadata).await.unwrap_err();
        assert_eq!(forbidden.code(), Code::PermissionDenied, "{forbidden}");
        let index = limited
            .repository_index(RepositoryIndexRequest::default())
            .await;
        let index = index.unwrap().into_inner().models;
        assert!(
            !index.is_empty() && index.iter().all(|model| model.name == NETWORK),
            "{index:?}"
        );

        // So many images, and then word of when to come back.
        limited.model_infer(request(NETWORK, 4)).await.unwrap();
        let limit = limited.model_infer(request(NETWORK, 4)).await.unwrap_err();
        assert_eq!(limit.code(), Code::ResourceExhausted, "{limit}");
        assert!(limit.metadata().contains_key(RETRY_PUSHBACK), "{limit:?}");

        // Loading is for those who may.
        let load = RepositoryModelLoadRequest {
            model_name: NETWORK.to_owned(),
            ..Default::default()
        };
        let forbidden = limited
            .repository_model_load(load.clone())
            .await
            .unwrap_err();
        assert_eq!(forbidden.code(), Code::PermissionDenied, "{forbidden}");
        operator.repository_model_load(load).await.unwrap();
        let forbidden = operator.model_infer(request(NETWORK, 1)).await.unwrap_err();
        assert_eq!(forbidden.code(), Code::PermissionDenied, "{forbidden}");
    });
}

#[test]
fn identities_change_without_a_restart_and_a_broken_file_changes_nothing() {
    let certificates = CertificateFolder::valid();
    let identities = certificates.file("identities.toml");
    let first = issue(&certificates, "first");
    let second = issue(&certificates, "second");
    fs::write(&identities, &first).unwrap();
    let text = configuration(&[NETWORK])
        + "credentials_seconds = 3600\n[access]\nidentities = \"identities.toml\"\n"
        // Clients that vanish without a word are waited for.
        + "[limits]\ndrain_timeout_seconds = 1\n"
        + TLS;
    let cloud = CloudService::start_from(&certificates, &text, |_| {});
    block_on(async {
        let config = cloud.client(&certificates, Transport::Auto);
        let mut old = client(with_token(config.clone(), &certificates.file("first")));
        let mut new = client(with_token(config, &certificates.file("second")));
        let ask = || ServerMetadataRequest::default();
        old.server_metadata(ask()).await.unwrap();
        new.server_metadata(ask()).await.unwrap_err();
        fs::write(&identities, "nonsense").unwrap();
        cloud.hang_up();
        tokio::time::sleep(Duration::from_millis(200)).await;
        old.server_metadata(ask()).await.unwrap();
        fs::write(&identities, &second).unwrap();
        cloud.hang_up();
        let taken_up = async {
            while new.server_metadata(ask()).await.is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let patience = Duration::from_secs(20);
        tokio::time::timeout(patience, taken_up).await.unwrap();
        let gone = old.server_metadata(ask()).await.unwrap_err();
        assert_eq!(gone.code(), Code::Unauthenticated, "{gone}");
    });
    cloud.terminate();
    let (ended_well, log) = cloud.wait();
    assert!(
        ended_well && log.contains("the old ones stay in use"),
        "{log}"
    );
}

#[test]
fn a_device_is_known_by_its_certificate_or_its_token_and_neither_is_in_a_log() {
    let certificates = CertificateFolder::valid();
    let entry = issue(&certificates, "by-token");
    fs::write(
        certificates.file("identities.toml"),
        format!(
            "{entry}\n[[identity]]\nname = \"by-certificate\"\ncertificates = [\"camera-7\"]\n"
        ),
    )
    .unwrap();
    let text = configuration(&["efficientnet-lite2"])
        + "[access]\nidentities = \"identities.toml\"\n"
        + TLS
        + "client_authority = \"ca.pem\"\nclient_certificates = \"optional\"\n";
    let log = certificates.file("log");
    let cloud = CloudService::start_from(&certificates, &text, |command| {
        // More than a pipe holds.
        let file = fs::File::create(&log).unwrap();
        command.env("RUST_LOG", "trace").stderr(file);
    });
    let token = fs::read_to_string(certificates.file("by-token")).unwrap();
    let config = |extra: &str| {
        let config = certificates.file("edge-agent.toml");
        let cloud = format!(
            "[cloud]\nurl = {:?}\ncertificate_authority = \"ca.pem\"\n{extra}",
            cloud.url()
        );
        fs::write(&config, edge_config(&cloud)).unwrap();
        config
    };
    let certificate = "client_certificate = \"camera-7.pem\"\nclient_key = \"camera-7.key\"\n";
    for (extra, site) in [
        ("token = \"by-token\"\n", "cloud"),
        (certificate, "cloud"),
        ("", "device"),
    ] {
        let mut agent = EdgeAgent::classify()
            .args(["--mode", "cloud-only", "--config"])
            .args([config(extra)])
            .args(some_photos(1))
            .into_command();
        agent.env("RUST_LOG", "trace");
        let answers = outpost_tests::answers(agent.output().unwrap());
        assert_eq!(answers.records[0]["site"], site, "{}", answers.log);
        assert!(!answers.log.contains(token.trim()), "{}", answers.log);
        if site == "device" {
            assert_eq!(answers.records[0]["reason"], "fallback:rejected");
            assert!(
                answers.log.contains("authorization: Bearer"),
                "{}",
                answers.log
            );
        }
    }
    cloud.terminate();
    cloud.wait();
    let log = fs::read_to_string(log).unwrap();
    assert!(log.contains("TRACE"), "{log}");
    assert!(!log.contains(token.trim()));
}

/// Certificate and authority are replaced while calls run, over both transports; those with the new authority's
/// trust get in, those connected go on, and no call is lost.
#[test]
fn certificates_are_rotated_under_load_and_no_call_is_lost() {
    let certificates = CertificateFolder::valid();
    let text = configuration(&[NETWORK]) + "credentials_seconds = 3600\n" + TLS;
    let cloud = CloudService::start_from(&certificates, &text, |_| {});
    block_on(async {
        let stop = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(AtomicUsize::new(0));
        let mut callers = tokio::task::JoinSet::new();
        for transport in BOTH {
            let config = cloud.client(&certificates, transport);
            for _ in 0..2 {
                let channel = Channel::new(config.clone()).unwrap();
                channel.connect().await.unwrap();
                let mut client = GrpcInferenceServiceClient::new(channel);
                let (stop, answered) = (stop.clone(), answered.clone());
                callers.spawn(async move {
                    while !stop.load(Ordering::Relaxed) {
                        client
                            .model_infer(request(NETWORK, 1))
                            .await
                            .expect("a call was lost");
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        }
        for _ in 0..3 {
            let before = cloud.client(&certificates, Transport::H2).trust;
            certificates.renew();
            cloud.hang_up();
            for transport in BOTH {
                let config = cloud.client(&certificates, transport);
                let taken_up = async {
                    let ask = ServerMetadataRequest::default();
                    while client(config.clone()).server_metadata(ask).await.is_err() {
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                };
                let patience = Duration::from_secs(20);
                tokio::time::timeout(patience, taken_up).await.unwrap();
                let config = ClientConfig {
                    trust: before.clone(),
                    ..config
                };
                let ask = ServerMetadataRequest::default();
                let refused = client(config).server_metadata(ask).await.unwrap_err();
                assert_eq!(CallError::of(&refused).unwrap().cause(), "tls");
            }
            let seen = answered.load(Ordering::Relaxed);
            while answered.load(Ordering::Relaxed) < seen + 20 && !callers.is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        stop.store(true, Ordering::Relaxed);
        callers.join_all().await;
    });
}

#[test]
fn a_service_that_cannot_know_its_callers_does_not_start() {
    let certificates = CertificateFolder::valid();
    let identities = certificates.file("identities.toml");
    let check = |text: String| {
        let config = certificates.file("cloud-service.toml");
        fs::write(&config, text).unwrap();
        let output = Command::new(program("cloud-service"))
            .args(["check-config", "--config"])
            .arg(config)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (
            output.status.success(),
            said + &String::from_utf8_lossy(&output.stdout),
        )
    };
    let access = "[access]\nidentities = \"identities.toml\"\n";
    let network = || configuration(&[NETWORK]);
    let by_certificate = "[[identity]]\nname = \"a\"\ncertificates = [\"camera-7\"]\n";
    for (content, rest, words) in [
        (None, access.to_owned() + TLS, "identities.toml"),
        (
            Some("[[identity]]\nname = \"a\"\n"),
            access.to_owned() + TLS,
            "neither `token_sha256`",
        ),
        (
            Some(by_certificate),
            access.to_owned() + TLS,
            "tls.client_authority",
        ),
        (
            Some(by_certificate),
            "plaintext = true\n".to_owned() + access,
            "needs `tls`",
        ),
        (
            None,
            TLS.to_owned() + "client_revocations = \"ca.pem\"\n",
            "client_authority",
        ),
        (
            None,
            TLS.to_owned() + "client_authority = \"server.key\"\n",
            "no certificate",
        ),
    ] {
        let _ = fs::remove_file(&identities);
        if let Some(content) = content {
            fs::write(&identities, content).unwrap();
        }
        let (holds, said) = check(network() + &rest);
        assert!(!holds && said.contains(words), "{words}: {said}");
    }
    fs::write(&identities, by_certificate).unwrap();
    let (holds, said) = check(network() + access + TLS + "client_authority = \"ca.pem\"\n");
    assert!(holds && said.contains("1 identities may call"), "{said}");
    assert!(said.contains("clients must show certificates"), "{said}");
}

#[test]
fn a_device_without_a_certificate_is_told_that_it_needs_one() {
    let certificates = CertificateFolder::valid();
    let text = configuration(&["efficientnet-lite2"]) + TLS + "client_authority = \"ca.pem\"\n";
    let cloud = CloudService::start_from(&certificates, &text, |_| {});
    for transport in ["h2", "h3"] {
        let answers = EdgeAgent::classify()
            .cloud(&cloud.url(), &certificates)
            .args(["--mode", "cloud-only", "--transport", transport])
            .args(some_photos(1))
            .run();
        assert_eq!(
            answers.records[0]["reason"], "fallback:certificate",
            "{}",
            answers.log
        );
        assert!(
            answers.log.contains("set its certificate and key"),
            "{}",
            answers.log
        );
    }
    let with = EdgeAgent::classify()
        .cloud(&cloud.url(), &certificates)
        .args(["--mode", "cloud-only", "--client-certificate"])
        .args([certificates.file("camera-7.pem")])
        .args(["--client-key"])
        .args([certificates.file("camera-7.key")])
        .args(some_photos(1))
        .run();
    assert_eq!(with.records[0]["site"], "cloud", "{}", with.log);
}
