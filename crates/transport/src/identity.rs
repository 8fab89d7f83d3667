//! Who one side of a connection is: its certificate and key.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use quinn::EndpointConfig;
use quinn_proto::HashedConnectionIdGenerator;
use rustls::{
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
    sign::{CertifiedKey, SingleCertAndKey},
};

use crate::CertificateFacts;

/// A certificate chain, and the key that proves it is one's own.
#[derive(Clone)]
pub struct Identity {
    certified_key: Arc<CertifiedKey>,
    reset_key: ring::hmac::Key,
}

impl Identity {
    /// Reads the chain (one's own certificate first) and its key from PEM files.
    pub fn load(chain: &Path, key: &Path) -> Result<Self, IdentityError> {
        let origin = |path: &Path| path.display().to_string();
        let read = |path: &Path| {
            fs::read(path).map_err(|source| IdentityError::Read {
                path: path.to_owned(),
                source,
            })
        };
        Self::parse(&read(chain)?, &read(key)?, origin(chain), origin(key))
    }

    /// Takes the chain (one's own certificate first) and its key as PEM text.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, IdentityError> {
        Self::parse(chain, key, "the chain given".into(), "the key given".into())
    }

    fn parse(
        chain: &[u8],
        key: &[u8],
        chain_origin: String,
        key_origin: String,
    ) -> Result<Self, IdentityError> {
        let certificates: Vec<_> = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<_, _>>()
            .map_err(|source| IdentityError::Pem {
                origin: chain_origin.clone(),
                source,
            })?;
        if certificates.is_empty() {
            return Err(IdentityError::NoCertificate {
                origin: chain_origin,
            });
        }
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|source| match source {
            pem::Error::NoItemsFound => IdentityError::NoKey {
                origin: key_origin.clone(),
            },
            source => IdentityError::Pem {
                origin: key_origin.clone(),
                source,
            },
        })?;
        let reset_key = reset_key(&key);
        let provider = rustls::crypto::ring::default_provider();
        let certified_key = CertifiedKey::from_der(certificates, key, &provider).map_err(
            |source| match source {
                rustls::Error::InconsistentKeys(_) => IdentityError::Mismatch {
                    chain: chain_origin.clone(),
                    key: key_origin.clone(),
                },
                source => IdentityError::Malformed {
                    chain: chain_origin.clone(),
                    key: key_origin.clone(),
                    source,
                },
            },
        )?;
        Ok(Self {
            certified_key: Arc::new(certified_key),
            reset_key,
        })
    }

    /// What the first certificate says; None where it does not say so in a way that is understood.
    pub fn facts(&self) -> Option<CertificateFacts> {
        CertificateFacts::of_der(self.certified_key.cert.first()?)
    }

    /// What serves web browsers with this certificate: HTTP/2 and HTTP/1.1, over TLS 1.3 or 1.2.
    pub fn web_server_config(&self) -> Arc<rustls::ServerConfig> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider has what these versions need")
            .with_no_client_auth()
            .with_cert_resolver(self.resolver());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Arc::new(config)
    }

    /// Shows the certificate to every peer.
    pub(crate) fn resolver(&self) -> Arc<SingleCertAndKey> {
        Arc::new(SingleCertAndKey::from(self.certified_key.clone()))
    }

    /// The settings of a QUIC endpoint whose successor after a restart can tell clients that their
    /// connections are gone.
    ///
    /// The connection ids and the keys that resets are signed with derive from the private key, so
    /// that they are the same after a restart: a client then believes the reset and reconnects at
    /// once, where it would otherwise wait for its idle timeout.
    pub(crate) fn quic_endpoint_config(&self) -> EndpointConfig {
        let mut config = EndpointConfig::new(Arc::new(self.reset_key.clone()));
        let mut id_key = [0; 8];
        let signature = ring::hmac::sign(&self.reset_key, b"outpost QUIC connection ids");
        id_key.copy_from_slice(&signature.as_ref()[..8]);
        let id_key = u64::from_be_bytes(id_key);
        config.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(id_key)));
        config
    }
}

/// The key of QUIC's stateless resets: as secret as the private key and as lasting.
fn reset_key(key: &PrivateKeyDer<'_>) -> ring::hmac::Key {
    let algorithm = ring::hmac::HMAC_SHA256;
    let secret = ring::hmac::Key::new(algorithm, key.secret_der());
    let derived = ring::hmac::sign(&secret, b"outpost QUIC stateless reset");
    ring::hmac::Key::new(algorithm, derived.as_ref())
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never the key.
        f.debug_struct("Identity")
            .field("certificates", &self.certified_key.cert.len())
            .finish_non_exhaustive()
    }
}

/// Why a [`Identity`] could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// A file could not be read.
    #[error("{} could not be read; give the path of a PEM file", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A text is not well-formed PEM.
    #[error("{origin} is malformed PEM; issue it anew")]
    Pem {
        /// The file, where it came from one.
        origin: String,
        /// What the parser said.
        source: pem::Error,
    },
    /// The chain holds no certificate.
    #[error("{origin} holds no certificate; give the file server.pem or the like")]
    NoCertificate {
        /// The chain's file, where it came from one.
        origin: String,
    },
    /// The key file holds no private key.
    #[error("{origin} holds no private key; give the file server.key or the like")]
    NoKey {
        /// The key's file, where it came from one.
        origin: String,
    },
    /// The key is not that of the chain's first certificate.
    #[error(
        "{key} is not the key of the first certificate in {chain}; give two that belong together"
    )]
    Mismatch {
        /// The chain's file, where it came from one.
        chain: String,
        /// The key's file, where it came from one.
        key: String,
    },
    /// The certificate or the key cannot be used.
    #[error(
        "{chain} and {key} cannot be used; issue them anew, with a key of ECDSA, RSA or Ed25519"
    )]
    Malformed {
        /// The chain's file, where it came from one.
        chain: String,
        /// The key's file, where it came from one.
        key: String,
        /// What rustls said.
        source: rustls::Error,
    },
}
