//! Who a client is, by the certificate that it showed.

use rustls::pki_types::CertificateDer;
use x509_parser::{extensions::GeneralName, parse_x509_certificate};

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
        let mut names = Vec::new();
        if let Ok(Some(alternatives)) = certificate.subject_alternative_name() {
            for name in &alternatives.value.general_names {
                match name {
                    GeneralName::DNSName(name) | GeneralName::URI(name) => {
                        names.push((*name).to_owned());
                    }
                    _ => {}
                }
            }
        }
        for name in certificate.subject().iter_common_name() {
            if let Ok(name) = name.as_str()
                && !names.iter().any(|known| known == name)
            {
                names.push(name.to_owned());
            }
        }
        Some(Self { names })
    }
}
