//! Who may connect, how a listener knows them, and what changes while it serves.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::Code;

use super::fixture::{BOTH, Cloud, LOOPBACK, certificates, infer, subjects};
use crate::{
    BearerToken, CallError, Channel, ClientAuthentication, ClientAuthority, ClientConfig, Identity,
    ListenerConfig, ServerTls, TlsVersion, Transport, Trust,
    development_certificates::{Certificates, ClientCertificate, Validity},
};

fn client_identity(client: &ClientCertificate) -> Identity {
    Identity::from_pem(client.chain_pem.as_bytes(), client.key_pem.as_bytes()).unwrap()
}

fn authority(certificates: &Certificates) -> ClientAuthority {
    ClientAuthority::from_pem(certificates.authority_pem.as_bytes(), None).unwrap()
}

fn server_tls(certificates: &Certificates) -> ServerTls {
    let (chain, key) = (&certificates.chain_pem, &certificates.key_pem);
    Identity::from_pem(chain.as_bytes(), key.as_bytes())
        .unwrap()
        .into()
}

fn set_clients(config: &mut ListenerConfig, clients: ClientAuthentication) {
    config.tls.as_mut().unwrap().clients = clients;
}

#[tokio::test]
async fn a_client_is_known_by_the_names_in_its_certificate() {
    let certificates = certificates();
    let required = ClientAuthentication::Required(authority(&certificates));
    let client = certificates.clients[0].clone();
    let cloud = Cloud::start_with(certificates, LOOPBACK, |config| {
        set_clients(config, required);
    })
    .await;
    for transport in BOTH {
        let config = ClientConfig {
            identity: Some(client_identity(&client)),
            ..cloud.config(transport)
        };
        let response = infer(&Channel::new(config).unwrap(), "names").await;
        assert_eq!(response.unwrap().into_inner().id, "camera-7");
    }
}

#[tokio::test]
async fn a_client_without_a_certificate_or_of_another_authority_is_told_so() {
    let certificates = certificates();
    let required = ClientAuthentication::Required(authority(&certificates));
    let cloud = Cloud::start_with(certificates, LOOPBACK, |config| {
        set_clients(config, required);
    })
    .await;
    let stranger = super::fixture::certificates().clients[0].clone();
    for identity in [None, Some(client_identity(&stranger))] {
        for transport in BOTH {
            let config = ClientConfig {
                identity: identity.clone(),
                ..cloud.config(transport)
            };
            let status = infer(&Channel::new(config).unwrap(), "echo")
                .await
                .unwrap_err();
            assert_eq!(status.code(), Code::Unavailable, "{status:?}");
            let cause = CallError::of(&status).unwrap().cause();
            assert_eq!(cause, "tls", "{transport}: {status:?}");
            assert!(status.message().contains("certificate"), "{status:?}");
        }
    }
}

#[tokio::test]
async fn where_certificates_are_optional_a_client_may_come_without() {
    let certificates = certificates();
    let optional = ClientAuthentication::Optional(authority(&certificates));
    let cloud = Cloud::start_with(certificates, LOOPBACK, |config| {
        set_clients(config, optional);
    })
    .await;
    for transport in BOTH {
        infer(&cloud.channel(transport), "echo").await.unwrap();
    }
}

#[tokio::test]
async fn a_token_goes_out_with_every_call() {
    let cloud = Cloud::start().await;
    for transport in BOTH {
        let config = ClientConfig {
            token: Some(BearerToken::new("c2VjcmV0").unwrap()),
            ..cloud.config(transport)
        };
        let response = infer(&Channel::new(config).unwrap(), "token").await;
        assert_eq!(response.unwrap().into_inner().id, "Bearer c2VjcmV0");
    }
}

/// Both transports, before and after: a connection that there is goes on, and a new one has the new settings.
#[tokio::test]
async fn certificates_change_while_the_listener_serves() {
    let old = certificates();
    let new = Certificates::issue(&subjects(), Validity::days(1)).unwrap();
    let cloud = Cloud::start_with(old, LOOPBACK, |_| {}).await;
    for transport in BOTH {
        let before = cloud.channel(transport);
        infer(&before, "echo").await.unwrap();
        cloud.tls.as_ref().unwrap().replace(&server_tls(&new));
        infer(&before, "echo").await.unwrap();
        let old_trust = cloud.channel(transport);
        let status = infer(&old_trust, "echo").await.unwrap_err();
        assert_eq!(CallError::of(&status).unwrap().cause(), "tls");
        let config = ClientConfig {
            trust: Trust::Authority(new.authority_pem.clone().into()),
            ..cloud.config(transport)
        };
        infer(&Channel::new(config).unwrap(), "echo").await.unwrap();
        let original = cloud.original_tls();
        cloud.tls.as_ref().unwrap().replace(&original);
        infer(&cloud.channel(transport), "echo").await.unwrap();
    }
}

#[tokio::test]
async fn a_peer_gets_no_more_connections_than_its_share() {
    let cloud = Cloud::start_with(certificates(), LOOPBACK, |config| {
        config.max_connections_per_peer = 2;
    })
    .await;
    let [first, second, third] = [Transport::H2, Transport::H3, Transport::H2].map(|transport| {
        Channel::new(ClientConfig {
            connect_timeout: Duration::from_secs(2),
            ..cloud.config(transport)
        })
        .unwrap()
    });
    infer(&first, "echo").await.unwrap();
    infer(&second, "echo").await.unwrap();
    infer(&third, "echo").await.unwrap_err();
    drop(first);
    // The place is free once the server has seen the connection end.
    let retried = async {
        while infer(&third, "echo").await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(super::fixture::PATIENCE, retried)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_connection_on_which_nothing_is_asked_ends_and_the_next_call_makes_another() {
    let cloud = Cloud::start_with(certificates(), LOOPBACK, |config| {
        config.max_idle = Duration::from_millis(50);
    })
    .await;
    for transport in BOTH {
        let channel = cloud.channel(transport);
        infer(&channel, "echo").await.unwrap();
        let ended = async {
            while channel.protocol().is_some() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(super::fixture::PATIENCE, ended)
            .await
            .unwrap();
        infer(&channel, "echo").await.unwrap();
    }
}

/// A client that sends its request one byte at a time, without a deadline.
#[tokio::test]
async fn a_request_that_trickles_in_is_cut_off() {
    let cloud = Cloud::start_with(certificates(), LOOPBACK, |config| {
        config.tls = None;
        config.http3 = false;
        config.max_call = Duration::from_millis(200);
    })
    .await;
    let tcp = tokio::net::TcpStream::connect(cloud.address).await.unwrap();
    let (mut sender, connection) = h2::client::handshake(tcp).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::post("http://cloud/inference.GRPCInferenceService/ModelInfer")
        .header("content-type", "application/grpc")
        .body(())
        .unwrap();
    let (response, mut body) = sender.send_request(request, false).unwrap();
    // The prefix of a message of 100 bytes, of which one comes.
    body.send_data(vec![0, 0, 0, 0, 100, 1].into(), false)
        .unwrap();
    let response = tokio::time::timeout(super::fixture::PATIENCE, response);
    let response = response.await.unwrap().unwrap();
    assert_eq!(response.headers()["grpc-status"], "4");
}

#[tokio::test]
async fn tls_1_2_is_refused_unless_allowed() {
    for (minimum_version, is_taken) in [(TlsVersion::V1_3, false), (TlsVersion::V1_2, true)] {
        let certificates = certificates();
        let authority = certificates.authority_pem.clone();
        let cloud = Cloud::start_with(certificates, LOOPBACK, |config| {
            config.tls.as_mut().unwrap().minimum_version = minimum_version;
        })
        .await;
        let mut roots = rustls::RootCertStore::empty();
        let authority = rustls::pki_types::pem::PemObject::from_pem_slice(authority.as_bytes());
        roots.add(authority.unwrap()).unwrap();
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS12])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let tcp = tokio::net::TcpStream::connect(cloud.address).await.unwrap();
        let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
        let name = "localhost".try_into().unwrap();
        let secured = connector.connect(name, tcp).await;
        assert_eq!(secured.is_ok(), is_taken, "{minimum_version:?}");
        if let Ok(mut stream) = secured {
            stream
                .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
                .await
                .unwrap();
            stream.read_u8().await.unwrap();
        }
    }
}
