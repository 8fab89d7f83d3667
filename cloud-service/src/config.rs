//! The configuration file of `cloud-service serve`. Flags and `OUTPOST_*` variables override it.

use std::{
    collections::BTreeMap,
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use outpost_cascade::Site;
use outpost_engine::{CircuitSettings, PeerConfig};
use outpost_exit_policy::Goal;
use outpost_runtime::{ImageLimits, RuntimeConfig};
use outpost_telemetry::{TracesConfig, TracesError};
use outpost_transport::{Congestion, ListenerConfig, TlsVersion, UnavailableCongestion, WebConfig};
use serde::Deserialize;

pub use page::{GrpcWebConfig, PageConfig};

mod page;

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
    /// Take calls that change nothing over HTTP/3 before a handshake is done. Default `false`; needs `http3`, and clients that
    /// are not asked for certificates.
    pub early_data: bool,
    /// Which algorithm says how fast may be sent: `cubic`, `bbr` or `new-reno`. Default: `cubic` over HTTP/3, what the system
    /// has over HTTP/2.
    pub congestion: Option<Congestion>,
    /// Who may call; everybody, where it is absent.
    pub access: Option<AccessConfig>,
    /// Seconds between two looks at the files of certificates, keys, authorities and identities, and of the credentials for
    /// the next service; SIGHUP has them read at once. Default 60.
    pub credentials_seconds: u64,
    /// Whether browsers may call, and whose pages. Default: not, unless there is a page.
    pub grpc_web: Option<GrpcWebConfig>,
    /// The page that is a device, where it is served.
    pub page: Option<PageConfig>,
    /// Bounds on what a peer may ask.
    pub limits: Limits,
    /// The site that this service is at in cascades. Default `cloud`.
    pub site: Site,
    /// Cascades to serve as one model each, from the nodes at this site on.
    #[serde(rename = "cascade")]
    pub cascades: Vec<CascadeConfig>,
    /// The next service, for networks of cascades that are further on than this site.
    pub cloud: Option<PeerConfig>,
    /// When this service stops waiting for a next one that keeps failing.
    pub circuit: CircuitSettings,
    /// How the models that are served change while the service runs.
    pub repository: RepositoryConfig,
    /// What runs the networks, for every one without a word of its own. Cascades run on tract.
    pub runtime: RuntimeConfig,
    /// How requests queue and run together, for every network without a word of its own.
    pub batching: Batching,
    /// What is different for a network, by its name.
    pub network: BTreeMap<String, NetworkConfig>,
    /// Where traces go.
    pub traces: TracesConfig,
}

/// A cascade that is served as one model, by the name in its file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CascadeConfig {
    /// The cascade file, the same as the device's.
    pub file: PathBuf,
    /// A policy bundle of `lab learn`, the same as the device's, in place of the cascade's policies.
    #[serde(default)]
    pub policy: Option<PathBuf>,
    /// Which of its operating points, as the edge-agent has it. Default `loss=1`.
    #[serde(default = "one_point")]
    pub operating_point: Goal,
}

fn one_point() -> Goal {
    Goal::MaxLoss(1.0)
}

/// What is different for a network.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NetworkConfig {
    /// What runs it, in place of the service's; what it leaves out has the defaults.
    pub runtime: Option<RuntimeConfig>,
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
    /// Callers, by `RepositoryModelLoad` and `RepositoryModelUnload`; with `access`, those that may `manage`.
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

/// Where the server's certificate and key are, and whose certificates it takes.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// Certificate chain, PEM, the server's own first.
    pub certificate: PathBuf,
    /// Private key, PEM.
    pub key: PathBuf,
    /// Certificates of the authorities of clients, PEM. Default none: clients are not asked for certificates.
    #[serde(default)]
    pub client_authority: Option<PathBuf>,
    /// Lists of the certificates that these authorities revoked, PEM. Default none.
    #[serde(default)]
    pub client_revocations: Option<PathBuf>,
    /// Whether a client must show a certificate. Default `required`, where there is an authority.
    #[serde(default)]
    pub client_certificates: ClientCertificates,
    /// The oldest version of TLS over TCP, `1.2` or `1.3`. Default `1.3`; QUIC always has it.
    #[serde(default)]
    pub minimum_version: TlsVersion,
}

impl Tls {
    /// A certificate and its key, and the defaults.
    pub fn new(certificate: PathBuf, key: PathBuf) -> Self {
        Self {
            certificate,
            key,
            client_authority: None,
            client_revocations: None,
            client_certificates: ClientCertificates::default(),
            minimum_version: TlsVersion::default(),
        }
    }
}

/// Whether a client must show a certificate, where there is an authority for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientCertificates {
    /// It gets no connection without.
    #[default]
    Required,
    /// It may come without, and be known by a token.
    Optional,
}

/// Who may call.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessConfig {
    /// The file of identities.
    pub identities: PathBuf,
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
    /// Connections at a time, over both transports. Default 1024.
    pub max_connections: usize,
    /// Of these, connections of one address (of one network of 64 bits, for IPv6). Default 256.
    pub max_connections_per_peer: usize,
    /// Calls that one connection may have in flight, over HTTP/3 32 of them at most. Default 128.
    pub max_concurrent_calls: usize,
    /// Bytes of headers that a call may have. Default 16 KiB.
    pub max_header_bytes: usize,
    /// Seconds that a call may take from its headers to the end of its answer, whatever it allows itself.
    /// Default 120.
    pub max_call_seconds: u64,
    /// Seconds that a peer may be silent, though asked, before its connection is given up. Default 30.
    pub idle_timeout_seconds: u64,
    /// Seconds that a connection is kept without a call. Default 3600.
    pub max_idle_seconds: u64,
    /// Requests whose images are decoded at a time. Default: the machine's cores.
    pub decoders: usize,
    /// Seconds at shutdown for which the service says that it is not ready and still takes requests, so that proxies
    /// see it first. Default 0.
    pub drain_delay_seconds: u64,
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
            early_data: false,
            congestion: None,
            access: None,
            credentials_seconds: 60,
            grpc_web: None,
            page: None,
            limits: Limits::default(),
            site: Site::Cloud,
            cascades: Vec::new(),
            cloud: None,
            circuit: CircuitSettings::default(),
            repository: RepositoryConfig::default(),
            runtime: RuntimeConfig::default(),
            batching: Batching::default(),
            traces: TracesConfig::default(),
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

/// Seconds of a day.
const DAY: usize = 86_400;

/// A number to compare with a limit.
fn number(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
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
            max_connections: 1024,
            max_connections_per_peer: 256,
            max_concurrent_calls: 128,
            max_header_bytes: 16 << 10,
            max_call_seconds: 120,
            idle_timeout_seconds: 30,
            max_idle_seconds: 3600,
            decoders: cores(),
            drain_delay_seconds: 0,
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

    /// Bounds a listener.
    pub(crate) fn apply_to(&self, listener: &mut ListenerConfig) {
        // The check has bounded both.
        let bounded = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
        listener.max_connections = self.max_connections;
        listener.max_connections_per_peer = self.max_connections_per_peer;
        listener.max_concurrent_calls = bounded(self.max_concurrent_calls);
        listener.max_header_bytes = bounded(self.max_header_bytes);
        listener.max_call = Duration::from_secs(self.max_call_seconds);
        listener.idle_timeout = Duration::from_secs(self.idle_timeout_seconds);
        listener.max_idle = Duration::from_secs(self.max_idle_seconds);
        listener.drain_timeout = Duration::from_secs(self.drain_timeout_seconds);
    }
}

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Where traces go is at fault.
    #[error(transparent)]
    Traces(#[from] TracesError),
    /// The system's TCP has no such congestion control.
    #[error(transparent)]
    Congestion(#[from] UnavailableCongestion),
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
    /// Callers are to be known, and their tokens would be read on the way.
    #[error(
        "`access` needs `tls`: without it tokens travel in the clear and no certificate is asked for"
    )]
    AccessInTheClear,
    /// A page without TLS.
    #[error(
        "`page` needs `tls`: browsers give a page camera and storage over TLS alone, and its tokens would travel in the clear"
    )]
    PageInTheClear,
    /// A next service where there is none further on.
    #[error("`cloud` names a next service, and this one is the cloud: set `site = \"fog\"`")]
    NothingBeyond,
    /// Revocations without an authority.
    #[error("`tls.client_revocations` needs `tls.client_authority`, whose lists they are")]
    RevocationsAlone,
    /// Calls before the handshake, where there is no handshake for it.
    #[error("`early_data` takes calls before a handshake, {0}; or leave it `false`")]
    EarlyData(&'static str),
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
        let resolve = |path: &mut PathBuf| *path = folder.join(&*path);
        resolve(&mut config.models);
        if let Some(tls) = &mut config.tls {
            resolve(&mut tls.certificate);
            resolve(&mut tls.key);
            tls.client_authority.iter_mut().for_each(resolve);
            tls.client_revocations.iter_mut().for_each(resolve);
        }
        if let Some(access) = &mut config.access {
            resolve(&mut access.identities);
        }
        if let Some(page) = &mut config.page {
            page.resolve(resolve);
        }
        for cascade in &mut config.cascades {
            resolve(&mut cascade.file);
            cascade.policy.iter_mut().for_each(resolve);
        }
        if let Some(cloud) = &mut config.cloud {
            cloud.resolve(folder);
        }
        config.runtime.library.iter_mut().for_each(resolve);
        for network in config.network.values_mut() {
            let library = network.runtime.as_mut().map(|runtime| &mut runtime.library);
            library.into_iter().flatten().for_each(resolve);
        }
        Ok(config)
    }

    /// What the listener does for browsers; None where they are not served.
    pub(crate) fn web(&self) -> Option<WebConfig> {
        let of_page = self.page.is_some().then(GrpcWebConfig::default);
        let web = self.grpc_web.clone().or(of_page);
        web.map(|web| web.listener())
    }

    /// The batching of a network.
    pub fn batching(&self, network: &str) -> &Batching {
        let own = self.network.get(network);
        own.and_then(|network| network.batching.as_ref())
            .unwrap_or(&self.batching)
    }

    /// What runs a network.
    pub fn runtime(&self, network: &str) -> &RuntimeConfig {
        let own = self.network.get(network);
        own.and_then(|network| network.runtime.as_ref())
            .unwrap_or(&self.runtime)
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
        self.traces.check()?;
        if let Some(congestion) = self.congestion {
            congestion.check()?;
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
            ("max_connections", limits.max_connections, 1_000_000),
            (
                "max_connections_per_peer",
                limits.max_connections_per_peer,
                1_000_000,
            ),
            ("max_concurrent_calls", limits.max_concurrent_calls, 65_536),
            ("max_header_bytes", limits.max_header_bytes, 1 << 20),
            ("max_call_seconds", number(limits.max_call_seconds), DAY),
            (
                "idle_timeout_seconds",
                number(limits.idle_timeout_seconds),
                DAY,
            ),
            (
                "max_idle_seconds",
                number(limits.max_idle_seconds),
                30 * DAY,
            ),
            (
                "drain_delay_seconds",
                number(limits.drain_delay_seconds).max(1),
                DAY,
            ),
            (
                "drain_timeout_seconds",
                number(limits.drain_timeout_seconds).max(1),
                DAY,
            ),
            ("decoders", limits.decoders, 1024),
        ] {
            check_number(&format!("limits.{name}"), value, limit)?;
        }
        for (name, value) in [
            ("repository.poll_seconds", self.repository.poll_seconds),
            ("credentials_seconds", self.credentials_seconds),
        ] {
            check_number(name, number(value), DAY)?;
        }
        if let Some(tls) = &self.tls
            && tls.client_authority.is_none()
            && tls.client_revocations.is_some()
        {
            return Err(ConfigError::RevocationsAlone);
        }
        if self.early_data {
            let asks_clients = |tls: &Tls| tls.client_authority.is_some();
            let reason = match &self.tls {
                Some(tls) if asks_clients(tls) => {
                    "which resumes no sessions of clients with certificates: remove `tls.client_authority`"
                }
                Some(_) if self.http3 => "",
                _ => "which is HTTP/3's: set `tls` and `http3 = true`",
            };
            if !reason.is_empty() {
                return Err(ConfigError::EarlyData(reason));
            }
        }
        if self.site == Site::Cloud && self.cloud.is_some() {
            return Err(ConfigError::NothingBeyond);
        }
        if self.tls.is_none() && self.access.is_some() {
            return Err(ConfigError::AccessInTheClear);
        }
        if let Some(page) = &self.page {
            if self.tls.is_none() {
                return Err(ConfigError::PageInTheClear);
            }
            page.check()?;
        }
        self.batching.check("batching")?;
        check_number("runtime.threads", self.runtime.threads, 1024)?;
        for (name, network) in &self.network {
            let none = match &network.versions {
                Versions::Latest(count) => *count == 0,
                Versions::All => false,
                Versions::Only(versions) => versions.is_empty(),
            };
            if none {
                return Err(ConfigError::Zero(format!("network.{name}.versions")));
            }
            if let Some(runtime) = &network.runtime {
                check_number(
                    &format!("network.{name}.runtime.threads"),
                    runtime.threads,
                    1024,
                )?;
            }
            if let Some(batching) = &network.batching {
                batching.check(&format!("network.{name}.batching"))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
