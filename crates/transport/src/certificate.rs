//! What a certificate says, for people: whose it is, and from when until when.

use std::time::{Duration, SystemTime};

use rustls::pki_types::{CertificateDer, pem, pem::PemObject};
use x509_parser::{
    certificate::X509Certificate, extensions::GeneralName, parse_x509_certificate, time::ASN1Time,
};

/// What a certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFacts {
    /// DNS names, addresses and URIs of the subject's alternative names, then its common name.
    pub names: Vec<String>,
    /// The first moment at which it is valid.
    pub valid_from: SystemTime,
    /// The last.
    pub valid_until: SystemTime,
}

impl CertificateFacts {
    /// Of the certificates in a PEM text, in its order; those that are malformed are left out.
    ///
    /// # Errors
    /// What is wrong with the text as PEM.
    pub fn of_pem(text: &[u8]) -> Result<Vec<Self>, pem::Error> {
        let certificates = CertificateDer::pem_slice_iter(text);
        let facts = certificates.map(|der| Ok(Self::of_der(&der?)));
        Ok(facts
            .collect::<Result<Vec<_>, _>>()?
            .into_iter()
            .flatten()
            .collect())
    }

    /// None where it is malformed.
    pub(crate) fn of_der(der: &[u8]) -> Option<Self> {
        let (_, certificate) = parse_x509_certificate(der).ok()?;
        let validity = certificate.validity();
        Some(Self {
            names: names(&certificate, |address| Some(address.to_owned())),
            valid_from: system_time(validity.not_before)?,
            valid_until: system_time(validity.not_after)?,
        })
    }
}

fn system_time(time: ASN1Time) -> Option<SystemTime> {
    let seconds = Duration::from_secs(time.timestamp().unsigned_abs());
    match time.timestamp() < 0 {
        true => SystemTime::UNIX_EPOCH.checked_sub(seconds),
        false => SystemTime::UNIX_EPOCH.checked_add(seconds),
    }
}

/// DNS names and URIs of the subject's alternative names, addresses as far as `address` takes them, then its common name.
pub(crate) fn names(
    certificate: &X509Certificate<'_>,
    address: impl Fn(&str) -> Option<String>,
) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    if let Ok(Some(alternatives)) = certificate.subject_alternative_name() {
        for name in &alternatives.value.general_names {
            match name {
                GeneralName::DNSName(name) | GeneralName::URI(name) => {
                    names.push((*name).to_owned());
                }
                GeneralName::IPAddress(bytes) => {
                    let text = match **bytes {
                        [a, b, c, d] => std::net::Ipv4Addr::new(a, b, c, d).to_string(),
                        ref bytes => match <[u8; 16]>::try_from(bytes) {
                            Ok(bytes) => std::net::Ipv6Addr::from(bytes).to_string(),
                            Err(_) => continue,
                        },
                    };
                    names.extend(address(&text));
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
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::development_certificates::{Certificates, Subjects, Validity};

    #[test]
    fn a_certificate_tells_its_names_and_its_days() {
        let subjects = Subjects {
            hosts: vec![
                "cloud.example".to_owned(),
                "127.0.0.1".to_owned(),
                "::1".to_owned(),
            ],
            clients: Vec::new(),
        };
        let issued = Certificates::issue(&subjects, Validity::days(3)).unwrap();
        let facts = CertificateFacts::of_pem(issued.chain_pem.as_bytes()).unwrap();
        let [facts] = &facts[..] else {
            panic!("{facts:?}");
        };
        assert_eq!(
            facts.names,
            ["cloud.example", "127.0.0.1", "::1", "Outpost service"]
        );
        let left = facts.valid_until.duration_since(SystemTime::now()).unwrap();
        assert!(
            (2.9..3.0).contains(&(left.as_secs_f64() / 86_400.0)),
            "{left:?}"
        );
        assert!(facts.valid_from < SystemTime::now());
        assert_eq!(CertificateFacts::of_pem(b"no certificate").unwrap(), []);
    }
}
