//! The configuration file of `cloud-service serve`. Flags and `OUTPOST_*` variables override it.

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use outpost_runtime::ImageLimits;
use serde::Deserialize;

/// The configuration. Relative paths are relative to the folder of the file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Address and port of both transports (TCP and UDP). Default `127.0.0.1:8443`.
    pub address: SocketAddr,
    /// The model folder. Default `models`.
    pub models: PathBuf,
    /// Networks to serve; all whose weights are in the folder where the list is empty.
    pub networks: Vec<String>,
    /// Certificate and key; without them the service speaks plain HTTP/2 and must be told so by
    /// `plaintext`.
    pub tls: Option<Tls>,
    /// Serve plain HTTP/2 without TLS, behind a proxy that adds it. Default `false`.
    pub plaintext: bool,
    /// Serve HTTP/3 beside HTTP/2. Default `true`; needs `tls`.
    pub http3: bool,
    /// Bounds on what a peer may ask.
    pub limits: Limits,
}

/// Where the server's certificate and key are.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// Certificate chain, PEM, the server's own first.
    pub certificate: PathBuf,
    /// Private key, PEM.
    pub key: PathBuf,
}

/// Bounds on what a peer may ask.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Largest request or response in bytes. Default 16 MiB.
    pub max_message_bytes: usize,
    /// Largest encoded image in bytes. Default 8 MiB.
    pub max_image_bytes: usize,
    /// Largest image in pixels, checked before it is decoded. Default 50 million.
    pub max_image_pixels: u64,
    /// Most images in one request. Default 64.
    pub max_batch: usize,
    /// Inferences at a time. Default: the machine's cores.
    pub workers: usize,
    /// Requests that may wait for a worker; more are refused with `RESOURCE_EXHAUSTED`. Default 256.
    pub max_queue: usize,
    /// Seconds that accepted requests get to finish at shutdown. Default 10.
    pub drain_timeout_seconds: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            address: SocketAddr::from(([127, 0, 0, 1], 8443)),
            models: PathBuf::from("models"),
            networks: Vec::new(),
            tls: None,
            plaintext: false,
            http3: true,
            limits: Limits::default(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_message_bytes: 16 << 20,
            max_image_bytes: 8 << 20,
            max_image_pixels: 50_000_000,
            max_batch: 64,
            workers: std::thread::available_parallelism().map_or(1, usize::from),
            max_queue: 256,
            drain_timeout_seconds: 10,
        }
    }
}

impl Limits {
    /// The bounds on one image.
    pub fn image(&self) -> ImageLimits {
        ImageLimits {
            max_bytes: self.max_image_bytes,
            max_pixels: self.max_image_pixels,
        }
    }

    /// Time that accepted requests get to finish at shutdown.
    pub fn drain_timeout(&self) -> Duration {
        Duration::from_secs(self.drain_timeout_seconds)
    }
}

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not TOML, or has an unknown field or a value of the wrong type.
    #[error("the configuration {} does not parse", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// Neither TLS nor leave to go without.
    #[error(
        "the service has no certificate: set `tls` (`cloud-service development-certificates` makes one), \
         or `plaintext = true` behind a proxy that adds TLS"
    )]
    NoTls,
    /// A number beyond reason.
    #[error("`limits.{name}` is above {limit}: lower it")]
    TooLarge {
        /// The field.
        name: &'static str,
        /// The largest value it takes.
        limit: usize,
    },
    /// A limit of zero.
    #[error("`limits.{0}` is 0: nothing would ever be served")]
    Zero(&'static str),
}

impl Config {
    /// Reads a configuration and resolves its relative paths.
    ///
    /// # Errors
    /// [`ConfigError::Read`] and [`ConfigError::Parse`], which name the file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        let mut config: Self = toml::from_str(&text).map_err(|source| ConfigError::Parse {
            path: path.to_owned(),
            source: Box::new(source),
        })?;
        let folder = path.parent().unwrap_or(Path::new(""));
        config.models = folder.join(&config.models);
        if let Some(tls) = &mut config.tls {
            tls.certificate = folder.join(&tls.certificate);
            tls.key = folder.join(&tls.key);
        }
        Ok(config)
    }

    /// Checks what holds between fields, once flags are in.
    ///
    /// # Errors
    /// [`ConfigError::NoTls`], [`ConfigError::Zero`].
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.tls.is_none() && !self.plaintext {
            return Err(ConfigError::NoTls);
        }
        for (name, value) in [
            ("max_message_bytes", self.limits.max_message_bytes),
            ("max_image_bytes", self.limits.max_image_bytes),
            ("max_image_pixels", self.limits.max_image_pixels as usize),
            ("max_batch", self.limits.max_batch),
            ("workers", self.limits.workers),
        ] {
            if value == 0 {
                return Err(ConfigError::Zero(name));
            }
        }
        for (name, value, limit) in [
            ("workers", self.limits.workers, 1024),
            ("max_queue", self.limits.max_queue, 1_000_000),
        ] {
            if value > limit {
                return Err(ConfigError::TooLarge { name, limit });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_file_parses_and_passes_the_check() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("cloud-service.example.toml");
        Config::load(&path).unwrap().check().unwrap();
    }

    #[test]
    fn going_without_tls_must_be_asked_for() {
        let mut config = Config::default();
        assert!(matches!(config.check(), Err(ConfigError::NoTls)));
        config.plaintext = true;
        config.check().unwrap();
    }

    #[test]
    fn a_limit_of_zero_is_refused_by_name() {
        let mut config = Config {
            plaintext: true,
            ..Config::default()
        };
        config.limits.workers = 0;
        let error = config.check().unwrap_err();
        assert!(error.to_string().contains("limits.workers"));
    }
}
