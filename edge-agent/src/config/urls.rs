//! Inputs that are fetched from web servers.

use std::path::{Path, PathBuf};

use serde::Deserialize;

/// The address of an image that is fetched again and again, or of a stream of images (MJPEG).
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UrlConfig {
    /// `https://HOST/PATH`, or `http://`. It is never written to a log: only its server is named there.
    pub url: String,
    /// The input's name in answers and metrics. Default `url`.
    #[serde(default = "name")]
    pub name: String,
    /// Milliseconds from one image to the next. Default 1000 for an image; for a stream 0, as they come.
    pub every_ms: Option<u64>,
    /// File with a token to show; none by default.
    pub token: Option<PathBuf>,
    /// The name by which the server knows this device; none by default.
    pub username: Option<String>,
    /// File with the password of `username`.
    pub password: Option<PathBuf>,
    /// Certificate authority to trust, PEM; the public ones where it is absent.
    pub certificate_authority: Option<PathBuf>,
    /// Whether the token or password may go over `http://`. Default no.
    #[serde(default)]
    pub plain_http: bool,
    /// Milliseconds that an image, or the next one of a stream, may take to come. Default 10000.
    #[serde(default = "timeout_ms")]
    pub timeout_ms: u64,
}

fn name() -> String {
    "url".to_owned()
}

const fn timeout_ms() -> u64 {
    10_000
}

impl UrlConfig {
    pub(super) fn resolve(&mut self, folder: &Path) {
        for path in [
            &mut self.token,
            &mut self.password,
            &mut self.certificate_authority,
        ] {
            *path = path.take().map(|path| folder.join(path));
        }
    }
}
