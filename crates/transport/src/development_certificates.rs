//! Certificates for development and for a private network: an authority of one's own, and the
//! certificates of a server and its clients that it signed.
//!
//! The authority's key is thrown away once it has signed, so whoever trusts `ca.pem` trusts these
//! certificates and can be shown no other. A new certificate therefore comes with a new authority,
//! which every side must be given.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};
use time::{Duration, OffsetDateTime};

/// The file name of the authority's certificate, which clients are given.
pub const AUTHORITY_FILE: &str = "ca.pem";
/// The file name of the server's certificate chain.
pub const CHAIN_FILE: &str = "server.pem";
/// The file name of the server's key, which only its owner may read.
pub const KEY_FILE: &str = "server.key";

/// Issues certificates, valid from now for `days`, and writes them into `directory`.
pub fn generate(
    directory: &Path,
    subjects: &Subjects,
    days: u32,
    existing: ExistingFiles,
) -> Result<CertificateFiles, GenerateError> {
    Certificates::issue(subjects, Validity::days(days))?.write(directory, existing)
}

/// Whom certificates are for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subjects {
    /// Names or IP addresses of the server.
    pub hosts: Vec<String>,
    /// Names of clients: letters, digits, `-`, `_` and `.`, as each becomes the name of two files.
    pub clients: Vec<String>,
}

impl Subjects {
    /// A server of one name or IP address, without clients.
    pub fn host(host: impl Into<String>) -> Self {
        Self {
            hosts: vec![host.into()],
            clients: Vec::new(),
        }
    }
}

/// What becomes of files that are there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExistingFiles {
    /// They stay, and writing fails.
    Keep,
    /// They are replaced.
    Replace,
}

/// From when until when a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// The first moment.
    pub not_before: OffsetDateTime,
    /// The last moment.
    pub not_after: OffsetDateTime,
}

impl Validity {
    /// From an hour ago, as clocks differ, until `days` from now.
    pub fn days(days: u32) -> Self {
        let now = OffsetDateTime::now_utc();
        Self {
            not_before: now - Duration::HOUR,
            not_after: now.saturating_add(Duration::days(days.into())),
        }
    }
}

/// An authority's certificate, and the certificates and keys of a server and its clients, as PEM text.
#[derive(Clone)]
pub struct Certificates {
    /// For both sides to trust.
    pub authority_pem: String,
    /// The server's certificate.
    pub chain_pem: String,
    /// The server's private key.
    pub key_pem: String,
    /// The clients' certificates.
    pub clients: Vec<ClientCertificate>,
}

/// A client's certificate and key, as PEM text.
#[derive(Clone)]
pub struct ClientCertificate {
    /// The client's name: common name and DNS name of the certificate.
    pub name: String,
    /// The certificate.
    pub chain_pem: String,
    /// The private key.
    pub key_pem: String,
}

impl Certificates {
    /// Issues certificates under an authority made for them.
    pub fn issue(subjects: &Subjects, validity: Validity) -> Result<Self, GenerateError> {
        if subjects.hosts.is_empty() {
            return Err(GenerateError::NoHost);
        }
        if let Some(client) = subjects.clients.iter().find(|name| !is_client_name(name)) {
            return Err(GenerateError::ClientName(client.clone()));
        }
        let mut authority = CertificateParams::default();
        authority.distinguished_name = name("Outpost development authority");
        authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        authority.not_before = validity.not_before;
        authority.not_after = validity.not_after;
        let authority_key = KeyPair::generate().map_err(GenerateError::Issue)?;
        let authority_certificate = authority
            .self_signed(&authority_key)
            .map_err(GenerateError::Issue)?;
        let issuer = Issuer::new(authority, authority_key);

        let sign = |common_name: &str, hosts: &[String], usage: ExtendedKeyUsagePurpose| {
            let mut subject = CertificateParams::new(hosts).map_err(GenerateError::Host)?;
            subject.distinguished_name = name(common_name);
            subject.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            subject.extended_key_usages = vec![usage];
            subject.use_authority_key_identifier_extension = true;
            subject.not_before = validity.not_before;
            subject.not_after = validity.not_after;
            let key = KeyPair::generate().map_err(GenerateError::Issue)?;
            let certificate = subject
                .signed_by(&key, &issuer)
                .map_err(GenerateError::Issue)?;
            Ok((certificate.pem(), key.serialize_pem()))
        };
        let (chain_pem, key_pem) = sign(
            "Outpost service",
            &subjects.hosts,
            ExtendedKeyUsagePurpose::ServerAuth,
        )?;
        let client = |name: &String| {
            let usage = ExtendedKeyUsagePurpose::ClientAuth;
            let (chain_pem, key_pem) = sign(name, std::slice::from_ref(name), usage)?;
            Ok(ClientCertificate {
                name: name.clone(),
                chain_pem,
                key_pem,
            })
        };
        Ok(Self {
            authority_pem: authority_certificate.pem(),
            chain_pem,
            key_pem,
            clients: subjects
                .clients
                .iter()
                .map(client)
                .collect::<Result<_, _>>()?,
        })
    }

    /// Writes the files into `directory`, which is made if it is missing.
    pub fn write(
        &self,
        directory: &Path,
        existing: ExistingFiles,
    ) -> Result<CertificateFiles, GenerateError> {
        fs::create_dir_all(directory).map_err(|source| GenerateError::Write {
            path: directory.to_owned(),
            source,
        })?;
        let files = CertificateFiles {
            authority: directory.join(AUTHORITY_FILE),
            chain: directory.join(CHAIN_FILE),
            key: directory.join(KEY_FILE),
        };
        let mut contents = vec![
            (files.authority.clone(), &self.authority_pem, 0o644),
            (files.chain.clone(), &self.chain_pem, 0o644),
            (files.key.clone(), &self.key_pem, 0o600),
        ];
        for client in &self.clients {
            let file = |kind| directory.join(format!("{}.{kind}", client.name));
            contents.push((file("pem"), &client.chain_pem, 0o644));
            contents.push((file("key"), &client.key_pem, 0o600));
        }
        // All are looked at before any is written: half a set is of no use.
        for (path, ..) in &contents {
            match (path.exists(), existing) {
                (false, _) => {}
                (true, ExistingFiles::Keep) => {
                    return Err(GenerateError::Exists(path.clone()));
                }
                (true, ExistingFiles::Replace) => {
                    fs::remove_file(path).map_err(|source| GenerateError::Write {
                        path: path.clone(),
                        source,
                    })?;
                }
            }
        }
        for (path, pem, mode) in contents {
            write_new(&path, pem, mode).map_err(|source| GenerateError::Write { path, source })?;
        }
        Ok(files)
    }
}

/// Where the files of a set are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The authority's certificate, for clients.
    pub authority: PathBuf,
    /// The server's certificate chain.
    pub chain: PathBuf,
    /// The server's key.
    pub key: PathBuf,
}

/// Why no certificates were made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GenerateError {
    /// No host was named.
    #[error("a certificate needs a host; name one, such as localhost")]
    NoHost,
    /// A host is neither a name nor an IP address.
    #[error("a host is neither a name nor an IP address; correct it")]
    Host(#[source] rcgen::Error),
    /// A client's name cannot be that of a file.
    #[error(
        "a client cannot be named {0:?}; use letters, digits, `-`, `_` and `.`, and neither ca nor server"
    )]
    ClientName(String),
    /// Signing failed.
    #[error("the certificates could not be signed; check that the validity makes sense")]
    Issue(#[source] rcgen::Error),
    /// A file is there already.
    #[error("{} exists; keep using it, or ask for it to be replaced", .0.display())]
    Exists(PathBuf),
    /// A file could not be written.
    #[error("{} could not be written; choose a directory that can be", path.display())]
    Write {
        /// The file or directory.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

fn is_client_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let is_taken = ["ca", "server"].contains(&name.to_ascii_lowercase().as_str());
    name.bytes().all(fits)
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && !is_taken
}

fn name(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

/// Writes a file that must not exist, never readable to more than `mode` allows.
fn write_new(path: &Path, contents: &str, mode: u32) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
    #[cfg(not(unix))]
    let _ = mode;
    options.open(path)?.write_all(contents.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Identity;

    fn subjects() -> Subjects {
        Subjects {
            hosts: vec!["localhost".into(), "127.0.0.1".into(), "::1".into()],
            clients: vec!["camera-7".into()],
        }
    }

    #[test]
    fn the_files_make_an_identity_and_the_key_is_private() {
        let directory = tempfile::tempdir().unwrap();
        let files = generate(directory.path(), &subjects(), 30, ExistingFiles::Keep).unwrap();
        Identity::load(&files.chain, &files.key).unwrap();
        let client_key = directory.path().join("camera-7.key");
        Identity::load(&directory.path().join("camera-7.pem"), &client_key).unwrap();
        #[cfg(unix)]
        for key in [files.key, client_key] {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = fs::metadata(key).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }

    #[test]
    fn a_client_whose_name_is_no_file_is_refused() {
        for name in ["", "../camera", "a/b", ".hidden", "ca", "SERVER", "a b"] {
            let subjects = Subjects {
                clients: vec![name.into()],
                ..subjects()
            };
            let error = Certificates::issue(&subjects, Validity::days(1));
            assert!(
                matches!(error, Err(GenerateError::ClientName(_))),
                "{name:?}"
            );
        }
    }

    #[test]
    fn existing_files_are_replaced_only_when_asked() {
        let directory = tempfile::tempdir().unwrap();
        let make = |existing| generate(directory.path(), &subjects(), 30, existing);
        let files = make(ExistingFiles::Keep).unwrap();
        let first = fs::read(&files.key).unwrap();
        assert!(matches!(
            make(ExistingFiles::Keep),
            Err(GenerateError::Exists(_))
        ));
        assert_eq!(fs::read(&files.key).unwrap(), first);
        make(ExistingFiles::Replace).unwrap();
        assert_ne!(fs::read(&files.key).unwrap(), first);
    }

    #[test]
    fn errors_name_the_file_at_fault() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name| directory.path().join(name);
        let one = generate(&path("one"), &subjects(), 30, ExistingFiles::Keep).unwrap();
        let two = generate(&path("two"), &subjects(), 30, ExistingFiles::Keep).unwrap();
        for (chain, key, named) in [
            (&path("missing.pem"), &one.key, "missing.pem"),
            (&one.key, &one.key, "holds no certificate"),
            (&one.chain, &one.chain, "holds no private key"),
            (&one.chain, &two.key, "is not the key"),
        ] {
            let error = Identity::load(chain, key).unwrap_err();
            assert!(error.to_string().contains(named), "{error}");
        }
    }
}
