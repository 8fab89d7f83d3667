//! Who a client is, by the certificate that it showed.

use rustls::pki_types::CertificateDer;
use x509_parser::parse_x509_certificate;

use crate::certificate::names;

/// The names in the certificate that a client showed and that its authority vouches for: in the extensions of
/// every request of a connection with one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerCertificate {
    names: Vec<String>,
}

impl PeerCertificate {
    /// DNS names and URIs of the subject's alternative names, then its common name.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Reads the first certificate of a chain that was verified.
    pub(super) fn from_chain(chain: Option<&[CertificateDer<'_>]>) -> Option<Self> {
        let (_, certificate) = parse_x509_certificate(chain?.first()?).ok()?;
        Some(Self {
            // An address is nobody's name.
            names: names(&certificate, |_| None),
        })
    }
}
