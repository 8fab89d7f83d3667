//! The TLS of a listener: who the server is, whose clients it takes, and how that changes while it runs.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use quinn::crypto::rustls::QuicServerConfig;
use rustls::{
    RootCertStore, ServerConfig, SupportedProtocolVersion,
    pki_types::{
        CertificateDer, CertificateRevocationListDer,
        pem::{self, PemObject},
    },
    server::{
        NoServerSessionStorage, ServerSessionMemoryCache, VerifierBuilderError,
        WebPkiClientVerifier, danger::ClientCertVerifier,
    },
    version::{TLS12, TLS13},
};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use super::listener::Limits;
use crate::{Identity, Protocol, settings};

/// Sessions that are kept for each connection there may be: rustls gives a client two.
const SESSIONS_OF_A_CONNECTION: usize = 2;
/// The most that are kept, whatever connections there may be: some 200 bytes each, and one that is taken is searched for.
const MOST_SESSIONS: usize = 1 << 16;

/// The oldest version of TLS that a listener speaks over TCP; QUIC always speaks 1.3.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
pub enum TlsVersion {
    /// TLS 1.2, for clients that know no newer one.
    #[serde(rename = "1.2")]
    V1_2,
    /// TLS 1.3.
    #[default]
    #[serde(rename = "1.3")]
    V1_3,
}

static FROM_1_2: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];
static FROM_1_3: [&SupportedProtocolVersion; 1] = [&TLS13];

impl TlsVersion {
    fn and_newer(self) -> &'static [&'static SupportedProtocolVersion] {
        match self {
            Self::V1_2 => &FROM_1_2,
            Self::V1_3 => &FROM_1_3,
        }
    }
}

/// Whether clients show certificates.
#[derive(Clone, Debug)]
pub enum ClientAuthentication {
    /// They are not asked.
    None,
    /// Those that have one show it, and one that is not of the authority ends the connection.
    Optional(ClientAuthority),
    /// Who has none of the authority gets no connection.
    Required(ClientAuthority),
}

/// What a listener's TLS connections are made of.
#[derive(Clone, Debug)]
pub struct ServerTls {
    /// The server's certificate and key.
    pub identity: Identity,
    /// Whether clients show certificates. Default: they are not asked.
    pub clients: ClientAuthentication,
    /// The oldest version of TLS. Default: 1.3.
    pub minimum_version: TlsVersion,
}

impl From<Identity> for ServerTls {
    fn from(identity: Identity) -> Self {
        Self {
            identity,
            clients: ClientAuthentication::None,
            minimum_version: TlsVersion::default(),
        }
    }
}

impl ServerTls {
    /// The settings of the connections that speak one of `protocols`, the best first.
    fn config(&self, protocols: &[Protocol]) -> ServerConfig {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let versions = match protocols {
            [Protocol::H3] => TlsVersion::V1_3.and_newer(),
            _ => self.minimum_version.and_newer(),
        };
        let builder = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .expect("ring offers suites of TLS 1.2 and of TLS 1.3");
        let builder = match &self.clients {
            ClientAuthentication::None => builder.with_no_client_auth(),
            ClientAuthentication::Optional(authority) => {
                builder.with_client_cert_verifier(authority.optional.clone())
            }
            ClientAuthentication::Required(authority) => {
                builder.with_client_cert_verifier(authority.required.clone())
            }
        };
        let mut config = builder.with_cert_resolver(self.identity.resolver());
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.alpn()).collect();
        if !matches!(self.clients, ClientAuthentication::None) {
            // A resumed session would bring the certificate of before, and nobody would see that it has ended.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        }
        config
    }

    /// The settings of QUIC's connections.
    fn http3(&self, limits: Limits) -> Http3Secured {
        let mut config = self.config(&[Protocol::H3]);
        // Who clients are is known once the handshake is done.
        let takes_early_data =
            !limits.early_data.is_empty() && matches!(self.clients, ClientAuthentication::None);
        if takes_early_data {
            // QUIC bounds early data by its windows and knows no other number (RFC 9001, section 4.6.1).
            config.max_early_data_size = u32::MAX;
            // Sessions are kept here and each is taken once, so that a copy of early data finds none.
            let sessions = limits
                .max_connections
                .saturating_mul(SESSIONS_OF_A_CONNECTION);
            config.session_storage = ServerSessionMemoryCache::new(sessions.min(MOST_SESSIONS));
        }
        let crypto = QuicServerConfig::try_from(config)
            .expect("ring offers the suite of TLS 1.3 that QUIC starts with");
        let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
        let transport = settings::transport_config(
            limits.idle_timeout,
            None,
            limits.max_concurrent_calls,
            limits.congestion,
        );
        config.transport_config(Arc::new(transport));
        Http3Secured {
            config: Arc::new(config),
            takes_early_data,
        }
    }
}

/// The authority whose signature makes a certificate that of a client.
#[derive(Clone)]
pub struct ClientAuthority {
    required: Arc<dyn ClientCertVerifier>,
    optional: Arc<dyn ClientCertVerifier>,
}

impl ClientAuthority {
    /// Reads the authorities' certificates, and the lists of what they revoked where there are any, from
    /// PEM files. A list must cover every authority on the way to a certificate.
    ///
    /// # Errors
    /// [`ClientAuthorityError`], which names the file at fault.
    pub fn load(
        authorities: &Path,
        revocations: Option<&Path>,
    ) -> Result<Self, ClientAuthorityError> {
        let read = |path: &Path| {
            fs::read(path).map_err(|source| ClientAuthorityError::Read {
                path: path.to_owned(),
                source,
            })
        };
        let lists = revocations.map(read).transpose()?;
        Self::from_pem(&read(authorities)?, lists.as_deref()).map_err(|error| error.at(authorities))
    }

    /// Takes the same as PEM text.
    ///
    /// # Errors
    /// As [`ClientAuthority::load`].
    pub fn from_pem(
        authorities: &[u8],
        revocations: Option<&[u8]>,
    ) -> Result<Self, ClientAuthorityError> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(authorities) {
            let certificate = certificate.map_err(ClientAuthorityError::Pem)?;
            roots
                .add(certificate)
                .map_err(ClientAuthorityError::Certificate)?;
        }
        if roots.is_empty() {
            return Err(ClientAuthorityError::NoCertificate {
                origin: "the text given".to_owned(),
            });
        }
        let lists: Vec<_> = match revocations {
            Some(text) => CertificateRevocationListDer::pem_slice_iter(text)
                .collect::<Result<_, _>>()
                .map_err(ClientAuthorityError::RevocationsPem)?,
            None => Vec::new(),
        };
        if revocations.is_some() && lists.is_empty() {
            return Err(ClientAuthorityError::NoRevocations);
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).with_crls(lists);
        let optional = builder.clone().allow_unauthenticated();
        Ok(Self {
            required: builder.build().map_err(ClientAuthorityError::Verifier)?,
            optional: optional.build().map_err(ClientAuthorityError::Verifier)?,
        })
    }
}

impl fmt::Debug for ClientAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientAuthority").finish_non_exhaustive()
    }
}

/// Changes the TLS of a listener that serves.
///
/// New connections, and resumed ones, have the new settings. Those that there are keep theirs until they end.
#[derive(Clone)]
pub struct TlsHandle {
    secured: watch::Sender<Secured>,
    limits: Limits,
}

/// What new connections are secured with.
#[derive(Clone)]
pub(super) struct Secured {
    pub(super) tcp: TlsAcceptor,
    pub(super) http3: Http3Secured,
}

/// What new connections over HTTP/3 are secured with.
#[derive(Clone)]
pub(super) struct Http3Secured {
    pub(super) config: Arc<quinn::ServerConfig>,
    /// Whether calls are taken before a handshake is done.
    pub(super) takes_early_data: bool,
}

impl Secured {
    fn new(tls: &ServerTls, limits: Limits) -> Self {
        let over_tcp: &[Protocol] = match limits.with_http1 {
            true => &[Protocol::H2, Protocol::H1],
            false => &[Protocol::H2],
        };
        Self {
            tcp: TlsAcceptor::from(Arc::new(tls.config(over_tcp))),
            http3: tls.http3(limits),
        }
    }
}

impl TlsHandle {
    pub(super) fn new(tls: &ServerTls, limits: Limits) -> Self {
        Self {
            secured: watch::Sender::new(Secured::new(tls, limits)),
            limits,
        }
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Secured> {
        self.secured.subscribe()
    }

    /// From now on, new connections are made with `tls`.
    pub fn replace(&self, tls: &ServerTls) {
        self.secured.send_replace(Secured::new(tls, self.limits));
    }
}

impl fmt::Debug for TlsHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsHandle").finish_non_exhaustive()
    }
}

/// Why a [`ClientAuthority`] could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientAuthorityError {
    /// A file could not be read.
    #[error("{} could not be read; give the path of a PEM file", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The certificates are not well-formed PEM.
    #[error("the authority of the clients is malformed PEM; give its certificate anew")]
    Pem(#[source] pem::Error),
    /// A certificate is malformed.
    #[error("the authority of the clients has a malformed certificate; give it anew")]
    Certificate(#[source] rustls::Error),
    /// There is no certificate.
    #[error("{origin} holds no certificate of an authority; give the file ca.pem or the like")]
    NoCertificate {
        /// The file, where it came from one.
        origin: String,
    },
    /// The lists of revoked certificates are not well-formed PEM.
    #[error("the list of revoked certificates is malformed PEM; give it anew")]
    RevocationsPem(#[source] pem::Error),
    /// There is no list of revoked certificates.
    #[error("the file of revoked certificates holds no list; give one, or leave the field out")]
    NoRevocations,
    /// A list of revoked certificates is malformed.
    #[error("the list of revoked certificates cannot be used; issue it anew")]
    Verifier(#[source] VerifierBuilderError),
}

impl ClientAuthorityError {
    fn at(self, path: &Path) -> Self {
        match self {
            Self::NoCertificate { .. } => Self::NoCertificate {
                origin: path.display().to_string(),
            },
            other => other,
        }
    }
}
