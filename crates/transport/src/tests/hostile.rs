//! A client that speaks QUIC well and HTTP/3 badly.

use std::sync::Arc;

use h3::error::Code;
use quinn::{Endpoint, VarInt, crypto::rustls::QuicClientConfig};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};

use super::fixture::{Cloud, LOOPBACK, certificates, infer};
use crate::Transport;

/// The type of a frame of headers, and of one of data.
const HEADERS: u8 = 1;
const DATA: u8 = 0;

async fn connect(cloud: &Cloud, authority_pem: &str) -> quinn::Connection {
    let mut roots = RootCertStore::empty();
    let authority = CertificateDer::from_pem_slice(authority_pem.as_bytes()).unwrap();
    roots.add(authority).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(rustls::DEFAULT_VERSIONS)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"h3".to_vec()];
    let crypto = QuicClientConfig::try_from(tls).unwrap();
    let config = quinn::ClientConfig::new(Arc::new(crypto));
    let endpoint = Endpoint::client(LOOPBACK).unwrap();
    let connecting = endpoint.connect_with(config, cloud.address, "127.0.0.1");
    connecting.unwrap().await.unwrap()
}

/// `POST https://x/` with nothing but static table entries and one literal (RFC 9204).
fn post_headers() -> Vec<u8> {
    let block = [0, 0, 0xd4, 0xd7, 0xc1, 0x50, 1, b'x'];
    [&[HEADERS, block.len() as u8][..], &block].concat()
}

#[tokio::test]
async fn a_hostile_stream_is_stopped_and_others_go_on() {
    let certificates = certificates();
    let authority_pem = certificates.authority_pem.clone();
    let cloud = Cloud::start_with(certificates, LOOPBACK, |_| {}).await;
    let hostile = connect(&cloud, &authority_pem).await;

    // Headers of 1 GiB, of which the server would have to keep all that arrive.
    let (mut send, _receive) = hostile.open_bi().await.unwrap();
    send.write_all(&[HEADERS, 0xc0, 0, 0, 0, 0x40, 0, 0, 0])
        .await
        .unwrap();
    let expected = VarInt::from_u64(Code::H3_EXCESSIVE_LOAD.value()).unwrap();
    assert_eq!(send.stopped().await.unwrap(), Some(expected));

    // Data that ends within its frame.
    let (mut send, mut receive) = hostile.open_bi().await.unwrap();
    send.write_all(&post_headers()).await.unwrap();
    send.write_all(&[DATA, 100, 1, 2, 3]).await.unwrap();
    send.finish().unwrap();
    // An answer or a reset, but an end.
    let _ = receive.read_to_end(1 << 20).await;

    // Headers that never end.
    let (mut send, mut receive) = hostile.open_bi().await.unwrap();
    send.write_all(&post_headers()[..4]).await.unwrap();
    send.finish().unwrap();
    let _ = receive.read_to_end(1 << 20).await;

    // The same connection still serves, and so do others.
    let (mut send, mut receive) = hostile.open_bi().await.unwrap();
    send.write_all(&post_headers()).await.unwrap();
    send.finish().unwrap();
    let answer = receive.read_to_end(1 << 20).await.unwrap();
    assert_eq!(answer.first(), Some(&HEADERS));
    infer(&cloud.channel(Transport::H3), "echo").await.unwrap();
}
