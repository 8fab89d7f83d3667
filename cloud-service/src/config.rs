//! The configuration file of `cloud-service serve`. Flags and `OUTPOST_*` variables override it.

use std::{
    collections::BTreeMap,
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
    /// Address and port of metrics, health and the status page, plain HTTP for the inside of a network.
    /// Default none.
    pub operations_address: Option<SocketAddr>,
    /// The model folder. Default `models`.
    pub models: PathBuf,
    /// Networks to serve; where the list is empty all whose weights are in the folder, or none where callers
    /// load them.
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
    /// How the models that are served change while the service runs.
    pub repository: RepositoryConfig,
    /// How requests queue and run together, for every network without a word of its own.
    pub batching: Batching,
    /// What is different for a network, by its name.
    pub network: BTreeMap<String, NetworkConfig>,
}

/// What is different for a network.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NetworkConfig {
    /// Its own batching, in place of the service's; what it leaves out has the defaults.
    pub batching: Option<Batching>,
    /// Which of its versions are served. Default the latest.
    pub versions: Versions,
}

/// How the models that are served change.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RepositoryConfig {
    /// Who changes them. Default `fixed`.
    pub mode: Mode,
    /// Seconds between two looks at the folder in the mode `poll`. Default 15.
    pub poll_seconds: u64,
}

/// Who changes the models that are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Nobody: they are loaded at the start.
    #[default]
    Fixed,
    /// Who writes to the model folder.
    Poll,
    /// Callers, by `RepositoryModelLoad` and `RepositoryModelUnload`. Anyone who can call may.
    Explicit,
}

/// Which versions of a network are served.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Versions {
    /// So many of the latest.
    Latest(usize),
    /// All that the folder has.
    All,
    /// These.
    Only(Vec<u64>),
}

impl Default for Versions {
    fn default() -> Self {
        Self::Latest(1)
    }
}

impl Versions {
    /// Those of `present`, sorted, that are served. A version that is named and missing is kept: it is an
    /// error that it is not there.
    pub(crate) fn choose(&self, present: &[u64]) -> Vec<u64> {
        match self {
            Self::Latest(count) => present[present.len().saturating_sub(*count)..].to_vec(),
            Self::All => present.to_vec(),
            Self::Only(versions) => versions.clone(),
        }
    }
}

impl Default for RepositoryConfig {
    fn default() -> Self {
        Self {
            mode: Mode::default(),
            poll_seconds: 15,
        }
    }
}

/// How requests for a network queue and run together.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Batching {
    /// Most images that run together; a request of more runs alone. Default 1: tract runs a batch image
    /// by image, so that it saves nothing there.
    pub max_batch: usize,
    /// Longest that a request waits for others while the network is free, in milliseconds. Default 0:
    /// only what has queued behind a busy network runs together.
    pub max_delay_ms: f64,
    /// Batch sizes that run at once, before the delay is over, where waiting requests make one exactly;
    /// `max_batch` is always one. Default none.
    pub preferred: Vec<usize>,
    /// Images that may wait; more are refused with `RESOURCE_EXHAUSTED` and the time after which to
    /// come back. Each is kept as the network's input. Default 256.
    pub max_queue: usize,
    /// Batches that run at a time, each on a thread of its own. Default: the machine's cores.
    pub instances: usize,
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
    /// Requests whose images are decoded at a time. Default: the machine's cores.
    pub decoders: usize,
    /// Seconds that accepted requests get to finish at shutdown. Default 10.
    pub drain_timeout_seconds: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            address: SocketAddr::from(([127, 0, 0, 1], 8443)),
            operations_address: None,
            models: PathBuf::from("models"),
            networks: Vec::new(),
            tls: None,
            plaintext: false,
            http3: true,
            limits: Limits::default(),
            repository: RepositoryConfig::default(),
            batching: Batching::default(),
            network: BTreeMap::new(),
        }
    }
}

impl Default for Batching {
    fn default() -> Self {
        Self {
            max_batch: 1,
            max_delay_ms: 0.0,
            preferred: Vec::new(),
            max_queue: 256,
            instances: cores(),
        }
    }
}

impl Batching {
    /// Longest that a request waits for others, of a configuration that was checked.
    pub(crate) fn max_delay(&self) -> Duration {
        Duration::from_secs_f64(self.max_delay_ms / 1e3)
    }

    /// Checks every number; `table` is the name of the table.
    fn check(&self, table: &str) -> Result<(), ConfigError> {
        let name = |field: &str| format!("{table}.{field}");
        for (field, value, limit) in [
            ("max_batch", self.max_batch, 1024),
            ("max_queue", self.max_queue, 1_000_000),
            ("instances", self.instances, 1024),
        ] {
            check_number(&name(field), value, limit)?;
        }
        if !(0.0..=10_000.0).contains(&self.max_delay_ms) {
            return Err(ConfigError::Delay(name("max_delay_ms")));
        }
        let fits = |size: &usize| (1..=self.max_batch).contains(size);
        if !self.preferred.iter().all(fits) {
            return Err(ConfigError::Preferred(name("preferred")));
        }
        Ok(())
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn check_number(name: &str, value: usize, limit: usize) -> Result<(), ConfigError> {
    if value == 0 {
        return Err(ConfigError::Zero(name.to_owned()));
    }
    if value > limit {
        return Err(ConfigError::TooLarge {
            name: name.to_owned(),
            limit,
        });
    }
    Ok(())
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_message_bytes: 16 << 20,
            max_image_bytes: 8 << 20,
            max_image_pixels: 50_000_000,
            max_batch: 64,
            decoders: cores(),
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
    #[error("`{name}` is above {limit}: lower it")]
    TooLarge {
        /// The field.
        name: String,
        /// The largest value it takes.
        limit: usize,
    },
    /// A limit of zero.
    #[error("`{0}` is 0: nothing would ever be served")]
    Zero(String),
    /// A delay that is none.
    #[error("`{0}` is no delay: give 0 to 10000 milliseconds")]
    Delay(String),
    /// Preferred sizes that are no sizes of batches.
    #[error("`{0}` must hold sizes from 1 to `max_batch`")]
    Preferred(String),
    /// Words about a network that there is not.
    #[error("`network.{name}` is of no network in the model folder; there are {present:?}")]
    NoSuchNetwork {
        /// The name.
        name: String,
        /// The names there are.
        present: Vec<String>,
    },
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

    /// The batching of a network.
    pub fn batching(&self, network: &str) -> &Batching {
        let own = self.network.get(network);
        own.and_then(|network| network.batching.as_ref())
            .unwrap_or(&self.batching)
    }

    /// Which versions of a network are served.
    pub(crate) fn versions(&self, network: &str) -> Versions {
        let own = self.network.get(network);
        own.map(|network| network.versions.clone())
            .unwrap_or_default()
    }

    /// Checks what holds between fields, once flags are in.
    ///
    /// # Errors
    /// The [`ConfigError`] of the first field that does not hold, by its name.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.tls.is_none() && !self.plaintext {
            return Err(ConfigError::NoTls);
        }
        let limits = &self.limits;
        for (name, value, limit) in [
            ("max_message_bytes", limits.max_message_bytes, usize::MAX),
            ("max_image_bytes", limits.max_image_bytes, usize::MAX),
            (
                "max_image_pixels",
                limits.max_image_pixels as usize,
                usize::MAX,
            ),
            ("max_batch", limits.max_batch, usize::MAX),
            ("decoders", limits.decoders, 1024),
        ] {
            check_number(&format!("limits.{name}"), value, limit)?;
        }
        // A day: more is a service that does not poll.
        let poll_seconds = usize::try_from(self.repository.poll_seconds).unwrap_or(usize::MAX);
        check_number("repository.poll_seconds", poll_seconds, 86_400)?;
        self.batching.check("batching")?;
        for (name, network) in &self.network {
            let none = match &network.versions {
                Versions::Latest(count) => *count == 0,
                Versions::All => false,
                Versions::Only(versions) => versions.is_empty(),
            };
            if none {
                return Err(ConfigError::Zero(format!("network.{name}.versions")));
            }
            if let Some(batching) = &network.batching {
                batching.check(&format!("network.{name}.batching"))?;
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
        config.limits.decoders = 0;
        let error = config.check().unwrap_err();
        assert!(error.to_string().contains("limits.decoders"));
    }

    #[test]
    fn batching_is_the_services_unless_a_network_has_its_own() {
        let text = "
            plaintext = true
            [batching]
            max_batch = 4
            [network.resnet50.batching]
            max_batch = 16
            preferred = [4, 8]
        ";
        let config: Config = toml::from_str(text).unwrap();
        config.check().unwrap();
        assert_eq!(config.batching("squeezenet1.0").max_batch, 4);
        assert_eq!(config.batching("resnet50").preferred, [4, 8]);
    }

    #[test]
    fn versions_are_chosen_from_those_that_there_are() {
        let versions = |words: &str| {
            let text = format!("plaintext = true\n[network.a]\nversions = {words}");
            let config: Config = toml::from_str(&text).unwrap();
            config.check().map(|()| config.versions("a"))
        };
        let present = [2, 5, 9];
        for (words, chosen) in [
            ("{ latest = 1 }", vec![9]),
            ("{ latest = 2 }", vec![5, 9]),
            ("{ latest = 7 }", vec![2, 5, 9]),
            ("\"all\"", vec![2, 5, 9]),
            ("{ only = [5, 7] }", vec![5, 7]),
        ] {
            assert_eq!(versions(words).unwrap().choose(&present), chosen, "{words}");
        }
        assert_eq!(Versions::default().choose(&present), [9]);
        for words in ["{ latest = 0 }", "{ only = [] }"] {
            let error = versions(words).unwrap_err().to_string();
            assert!(error.contains("network.a.versions"), "{error}");
        }
    }

    #[test]
    fn batching_that_makes_no_sense_is_refused_by_name() {
        for (words, field) in [
            ("max_batch = 0", "batching.max_batch"),
            ("max_delay_ms = -1", "batching.max_delay_ms"),
            ("max_delay_ms = nan", "batching.max_delay_ms"),
            ("max_batch = 4\npreferred = [8]", "batching.preferred"),
            ("max_batch = 4\npreferred = [0]", "batching.preferred"),
            ("instances = 0", "batching.instances"),
            ("max_queue = 1000001", "batching.max_queue"),
        ] {
            for table in ["batching", "network.resnet50.batching"] {
                let text = format!("plaintext = true\n[{table}]\n{words}");
                let config: Config = toml::from_str(&text).unwrap();
                let error = config.check().unwrap_err().to_string();
                assert!(error.contains(field), "{words}: {error}");
            }
        }
    }
}
