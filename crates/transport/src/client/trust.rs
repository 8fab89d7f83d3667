//! Whom a client believes: TLS settings that verify the server and remember why it failed.

use std::sync::{
    Arc, Mutex, MutexGuard,
    atomic::{AtomicU64, Ordering},
};

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

/// The most refusals that are kept until the attempts that met them ask: more than are under way at a time.
const MOST_REFUSALS: usize = 16;

/// The TLS settings of connection attempts.
///
/// Attempts over one protocol share them, and with them a cache of sessions, so that a reconnect need not verify again:
/// rustls resumes a session only with the very verifier that verified it.
#[derive(Clone, Debug)]
pub(super) struct ClientTls {
    pub(super) http2: Arc<ClientConfig>,
    pub(super) http3: Arc<ClientConfig>,
    /// The same, and calls may go out before the handshake is done where a session lets them.
    pub(super) http3_with_early_data: Arc<ClientConfig>,
    http3_verifier: Arc<RecordingVerifier>,
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
        let shown = Shown::default();
        // A QUIC session carries QUIC's settings and is of no use to TCP.
        let [(http2, _), (http3, http3_verifier)] = [Protocol::H2, Protocol::H3].map(|protocol| {
            let verifier = Arc::new(RecordingVerifier {
                inner: verifier.clone(),
                shown: shown.clone(),
                refusals: Mutex::default(),
                verified: AtomicU64::new(0),
            });
            let mut config = template.clone();
            config.alpn_protocols = vec![protocol.alpn()];
            config.resumption = Resumption::in_memory_sessions(8);
            config
                .dangerous()
                .set_certificate_verifier(verifier.clone());
            (config, verifier)
        });
        let mut with_early_data = http3.clone();
        with_early_data.enable_early_data = true;
        Ok(Self {
            http2: Arc::new(http2),
            http3: Arc::new(http3),
            http3_with_early_data: Arc::new(with_early_data),
            http3_verifier,
            shown,
            server_name,
        })
    }

    /// Why a certificate over HTTP/3 was refused, where it was with these words.
    ///
    /// QUIC reports an alert's number and some text, and the caller deserves the cause itself.
    pub(super) fn refusal(&self, words: &str) -> Option<TlsError> {
        let mut refusals = self.http3_verifier.refusals();
        let found = refusals
            .iter()
            .position(|error| error.to_string() == words)?;
        Some(TlsError::new(refusals.swap_remove(found)))
    }

    /// How often a certificate was verified over HTTP/3: by each handshake that resumes no session.
    pub(super) fn verified(&self) -> u64 {
        self.http3_verifier.verified.load(Ordering::Relaxed)
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

/// The usual verifier, with a memory of what it saw and why it refused it.
#[derive(Debug)]
struct RecordingVerifier {
    inner: Arc<WebPkiServerVerifier>,
    shown: Shown,
    refusals: Mutex<Vec<rustls::Error>>,
    verified: AtomicU64,
}

impl RecordingVerifier {
    fn refusals(&self) -> MutexGuard<'_, Vec<rustls::Error>> {
        self.refusals.lock().expect("no holder of the lock panics")
    }

    fn record<T>(&self, result: Result<T, rustls::Error>) -> Result<T, rustls::Error> {
        if let Err(error) = &result {
            let mut refusals = self.refusals();
            // Those that nobody asked about, as their attempts were given up.
            if refusals.len() == MOST_REFUSALS {
                refusals.remove(0);
            }
            refusals.push(error.clone());
        }
        result
    }
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
        self.verified.fetch_add(1, Ordering::Relaxed);
        self.record(self.inner.verify_server_cert(
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
        self.record(result)
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
        self.record(result)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
