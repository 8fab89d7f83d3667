//! Why a peer's configuration is refused.

use std::{io, path::PathBuf};

use outpost_runtime::Codec;
use outpost_transport::{ConfigError, IdentityError, TokenError};

use super::config;

/// Why a peer's configuration was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PeerError {
    /// The file of the certificate authority cannot be read.
    #[error("cannot read the certificate authority {}", path.display())]
    Authority {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The token cannot be read or is none.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The certificate to show or its key is at fault.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// A certificate without its key, or a key without its certificate.
    #[error("`{0}` is missing: a certificate and its key go together")]
    Incomplete(&'static str),
    /// Images are to be encoded anew, and kept as they are.
    #[error("`encoding` makes images anew, {0}: leave one of the two out")]
    Encoding(&'static str),
    /// This build cannot encode so.
    #[error("`encoding` is {0}, which this build has not: build with `--features avif`")]
    NotBuilt(Codec),
    /// The bound on the loss is no number of points.
    #[error("`max_accuracy_loss` is {0}: give points, 0 to 100")]
    Loss(f64),
    /// The transport refused the configuration.
    #[error(transparent)]
    Channel(#[from] ConfigError),
    /// One of several endpoints is at fault.
    #[error("cannot use its endpoint {url}")]
    Endpoint {
        /// Its URL.
        url: String,
        /// Why.
        source: Box<PeerError>,
    },
    /// Two endpoints are one.
    #[error("the endpoint {0} is there twice: leave one out")]
    SameUrl(String),
    /// Connections would be asked for a sign of life without a pause.
    #[error(
        "`keep_alive_seconds` is 0: give the seconds of silence, 1 or more; where a connection is to cost nothing, set `close_idle_seconds`"
    )]
    KeepAlive,
    /// A time beyond reason.
    #[error("`{field}` is {seconds}: give at most {}, a day", config::MOST_SECONDS)]
    Seconds {
        /// The field.
        field: &'static str,
        /// What it is.
        seconds: u32,
    },
    /// Endpoints would be asked without a pause.
    #[error("`health_every_ms` is 0: give the milliseconds between two questions, 1 or more")]
    HealthEvery,
}
