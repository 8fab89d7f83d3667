//! Whom a client believes: TLS settings that verify the server and remember why it failed.

use std::sync::{Arc, Mutex};

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        Resumption, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};

use super::ConfigError;
use crate::{CertificateFacts, Identity, Protocol, error::TlsError};

/// The authorities whose signature on a server's certificate is believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// The authorities in this PEM text, and no other.
    Authority(Vec<u8>),
    /// The public authorities of the Mozilla programme, compiled in.
    PublicAuthorities,
}

impl Trust {
    /// What believes them for other protocols than this crate's, such as HTTP/1.1 to web servers or MQTT: over TLS 1.3 or
    /// 1.2, without a certificate of one's own.
    ///
    /// # Errors
    /// A [`ConfigError`] where the authorities' PEM text holds no certificate or a malformed one.
    pub fn web_client_config(&self) -> Result<ClientConfig, ConfigError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider has what these versions need")
            .with_root_certificates(self.roots()?);
        Ok(config.with_no_client_auth())
    }

    fn roots(&self) -> Result<RootCertStore, ConfigError> {
        let mut roots = RootCertStore::empty();
        match self {
            Self::Authority(pem) => {
                for certificate in CertificateDer::pem_slice_iter(pem) {
                    let certificate = certificate.map_err(ConfigError::AuthorityPem)?;
                    roots.add(certificate).map_err(ConfigError::Authority)?;
                }
                if roots.is_empty() {
                    return Err(ConfigError::NoAuthority);
                }
            }
            Self::PublicAuthorities => roots.extend(webpki_roots::TLS_SERVER_ROOTS.to_vec()),
        }
        Ok(roots)
    }
}

/// Makes the TLS settings of each connection attempt.
///
/// Attempts over one protocol share a cache of sessions, so that a reconnect need not verify again.
#[derive(Clone, Debug)]
pub(super) struct ClientTls {
    verifier: Arc<WebPkiServerVerifier>,
    template: ClientConfig,
    /// Sessions to resume; a QUIC session carries QUIC's settings and is of no use to TCP.
    http2_sessions: Resumption,
    http3_sessions: Resumption,
    /// The server's own certificate, as it was shown last.
    shown: Shown,
    /// The name that the certificate must carry.
    pub(super) server_name: ServerName<'static>,
}

impl ClientTls {
    pub(super) fn new(
        trust: &Trust,
        identity: Option<&Identity>,
        server_name: &str,
    ) -> Result<Self, ConfigError> {
        let roots = trust.roots()?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots.clone()), provider.clone())
                .build()
                .expect("the root store is not empty and no revocation lists are given");
        let template = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(rustls::DEFAULT_VERSIONS)
            .expect("ring offers suites of TLS 1.2 and of TLS 1.3")
            .with_root_certificates(roots);
        let template = match identity {
            Some(identity) => template.with_client_cert_resolver(identity.resolver()),
            None => template.with_no_client_auth(),
        };
        let server_name = ServerName::try_from(server_name.to_owned())
            .map_err(|_| ConfigError::ServerName(server_name.to_owned()))?;
        Ok(Self {
            verifier,
            template,
            http2_sessions: Resumption::in_memory_sessions(8),
            http3_sessions: Resumption::in_memory_sessions(8),
            shown: Shown::default(),
            server_name,
        })
    }

    /// The settings for one attempt, and where its verdict will be.
    pub(super) fn attempt(&self, protocol: Protocol) -> (ClientConfig, Verdict) {
        let verdict = Verdict::default();
        let mut config = self.template.clone();
        config.alpn_protocols = vec![protocol.alpn()];
        config.resumption = match protocol {
            Protocol::H2 => self.http2_sessions.clone(),
            Protocol::H3 => self.http3_sessions.clone(),
        };
        config
            .dangerous()
            .set_certificate_verifier(Arc::new(RecordingVerifier {
                inner: self.verifier.clone(),
                verdict: verdict.clone(),
                shown: self.shown.clone(),
            }));
        (config, verdict)
    }

    /// What the certificate says that the server showed last, whether it was believed or not.
    pub(super) fn shown(&self) -> Option<CertificateFacts> {
        let shown = self.shown.0.lock().expect("no holder of the lock panics");
        CertificateFacts::of_der(shown.as_ref()?)
    }
}

/// The certificate that a server showed.
#[derive(Clone, Debug, Default)]
struct Shown(Arc<Mutex<Option<CertificateDer<'static>>>>);

/// Why an attempt's certificate was refused, once it was.
#[derive(Clone, Debug, Default)]
pub(super) struct Verdict(Arc<Mutex<Option<rustls::Error>>>);

impl Verdict {
    pub(super) fn take(&self) -> Option<TlsError> {
        let mut slot = self.0.lock().expect("no holder of the lock panics");
        slot.take().map(TlsError::new)
    }

    fn record<T>(&self, result: Result<T, rustls::Error>) -> Result<T, rustls::Error> {
        if let Err(error) = &result {
            *self.0.lock().expect("no holder of the lock panics") = Some(error.clone());
        }
        result
    }
}

/// The usual verifier, with a memory: QUIC reports a refused certificate as an alert number and
/// some text, and the caller deserves the cause itself.
#[derive(Debug)]
struct RecordingVerifier {
    inner: Arc<WebPkiServerVerifier>,
    verdict: Verdict,
    shown: Shown,
}

impl ServerCertVerifier for RecordingVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        *self.shown.0.lock().expect("no holder of the lock panics") =
            Some(end_entity.clone().into_owned());
        self.verdict.record(self.inner.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        ))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let result = self
            .inner
            .verify_tls12_signature(message, certificate, signature);
        self.verdict.record(result)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let result = self
            .inner
            .verify_tls13_signature(message, certificate, signature);
        self.verdict.record(result)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
