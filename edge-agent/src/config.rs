//! The configuration file of `edge-agent`. Flags and `OUTPOST_*` variables override it.

mod audit;
mod beside;
mod cameras;
mod outputs;
mod page;
mod power;
mod run;
mod urls;

use std::{
    collections::HashSet,
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use outpost_cascade::Mode;
use outpost_engine::{CircuitSettings, PeerConfig, Privacy};
use outpost_exit_policy::Goal;
use outpost_runtime::{ImageLimits, RuntimeConfig, RuntimeKind};
use outpost_telemetry::TracesConfig;
use serde::Deserialize;

pub use audit::AuditConfig;
pub use cameras::{CameraConfig, CameraFormat};
pub use outputs::{MqttOutput, WebhookOutput};
pub use page::PageConfig;
pub use power::{OffloadCost, PowerClass, PowerConfig, Spared};
pub use run::{ApiConfig, Delivery, FileOutput, FolderConfig, OutputsConfig, QueueConfig, Then};
pub use urls::UrlConfig;

/// The most that bounds of outputs may be: a million events, or milliseconds.
const MOST: u64 = 1_000_000;
/// A day.
const MOST_RELOAD_SECONDS: u64 = 86_400;
/// A hundred years.
const MOST_HOURS: f64 = 876_600.0;
/// The name of the input that is the HTTP API.
pub(crate) const API: &str = "api";

/// The configuration. Relative paths are relative to the folder of the file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The model folder. Default `models`.
    pub models: PathBuf,
    /// The cascade file. Default `models/cascades/squeezenet-lite2.toml`.
    pub cascade: PathBuf,
    /// A policy bundle of `lab learn`, in place of the cascade's policies.
    pub policy: Option<PathBuf>,
    /// Which of its operating points: a name, `loss=POINTS` (the fastest that is expected to lose at
    /// most so much against the largest network), `time=5ms` (the most accurate in that mean time), `offload=20%` (the
    /// most accurate that sends at most so many images) or `price=POINTS` (the best where a second is worth so many
    /// points). Default `loss=1`.
    pub operating_point: Goal,
    /// Whether the operating point follows the link in `edge-agent run`: chosen by what an offload costs now, in place
    /// of what it cost where the policy was learned. Default yes.
    pub follow_link: bool,
    /// Whose decisions count: `policy`, `device-only` or `cloud-only`. Default `policy`.
    pub mode: Mode,
    /// Milliseconds from taking up an image to its answer. Default 1000.
    pub deadline_ms: u64,
    /// Milliseconds after the deadline in which an answer of the cloud that came too late still corrects that of the
    /// device, in `edge-agent run`; 0 for never. Default 10000.
    pub correct_within_ms: u64,
    /// What becomes of an image that was to be sent and found no cloud, in `edge-agent run`: `now` for the device's
    /// answer, `eventually` for one of the cloud once it is back. Default `now`.
    pub delivery: Delivery,
    /// Where images wait for that.
    pub queue: QueueConfig,
    /// Images whose networks run on the device at a time. Default 1.
    pub device_threads: usize,
    /// What runs the networks on the device.
    pub runtime: RuntimeConfig,
    /// Images taken up at a time, most of them waiting for the cloud. Default 8.
    pub max_in_flight: usize,
    /// Where hard images go; without it the device answers alone.
    pub cloud: Option<PeerConfig>,
    /// Where images go that a network in the fog is to answer, or to pass on where there is no `cloud`.
    pub fog: Option<PeerConfig>,
    /// When the device stops waiting for a cloud that keeps failing.
    pub circuit: CircuitSettings,
    /// Which answers of the device are compared with the cloud's afterwards.
    pub audit: AuditConfig,
    /// What the device runs from, and how it spares that.
    pub power: PowerConfig,
    /// Of what classes no image leaves the device.
    pub privacy: Privacy,
    /// Bounds on the images taken.
    pub images: ImageBounds,
    /// Where traces go.
    pub traces: TracesConfig,
    /// Seconds between looks at this file and those that it names, in `edge-agent run`: what changed takes effect while the
    /// program runs. Default 60.
    pub reload_seconds: u64,
    /// The HTTP API and the page of `edge-agent run`; neither without it.
    pub api: Option<ApiConfig>,
    /// The page that makes a phone in the same network a device of its own, in `edge-agent run`; none without it.
    pub page: Option<PageConfig>,
    /// Folders that `edge-agent run` watches.
    pub folders: Vec<FolderConfig>,
    /// Images and streams of images that `edge-agent run` fetches.
    pub urls: Vec<UrlConfig>,
    /// Cameras on this machine that `edge-agent run` takes images from.
    pub cameras: Vec<CameraConfig>,
    /// Where the answers of `edge-agent run` go.
    pub outputs: OutputsConfig,
}

/// Bounds on the images taken; checked before an image is decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ImageBounds {
    /// Largest encoded image in bytes. Default 32 MiB.
    pub max_bytes: usize,
    /// Largest width × height. Default 64 million.
    pub max_pixels: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            models: PathBuf::from("models"),
            cascade: PathBuf::from("models/cascades/squeezenet-lite2.toml"),
            policy: None,
            operating_point: Goal::MaxLoss(1.0),
            follow_link: true,
            mode: Mode::Policy,
            deadline_ms: 1000,
            correct_within_ms: 10_000,
            delivery: Delivery::default(),
            queue: QueueConfig::default(),
            device_threads: 1,
            runtime: RuntimeConfig::default(),
            max_in_flight: 8,
            cloud: None,
            fog: None,
            circuit: CircuitSettings::default(),
            audit: AuditConfig::default(),
            power: PowerConfig::default(),
            privacy: Privacy::default(),
            images: ImageBounds::default(),
            traces: TracesConfig::default(),
            reload_seconds: 60,
            api: None,
            page: None,
            folders: Vec::new(),
            urls: Vec::new(),
            cameras: Vec::new(),
            outputs: OutputsConfig::default(),
        }
    }
}

impl Default for ImageBounds {
    fn default() -> Self {
        let limits = ImageLimits::default();
        Self {
            max_bytes: limits.max_bytes,
            max_pixels: limits.max_pixels,
        }
    }
}

impl From<ImageBounds> for ImageLimits {
    fn from(bounds: ImageBounds) -> Self {
        Self {
            max_bytes: bounds.max_bytes,
            max_pixels: bounds.max_pixels,
        }
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
    /// A number beyond reason.
    #[error("`{name}` is above {limit}: lower it")]
    TooLarge {
        /// The field.
        name: &'static str,
        /// The largest value it takes.
        limit: u64,
    },
    /// A number that must not be zero.
    #[error("`{0}` is 0: no image would ever be answered")]
    Zero(&'static str),
    /// One image may have more bytes than all callers.
    #[error(
        "`api.max_waiting_bytes` of {0} is less than `images.max_bytes`, which one image may have: raise it"
    )]
    LittleRoom(usize),
    /// A runtime that runs no cascade.
    #[error(
        "`runtime.kind` is \"tract-cuda\", which does not run networks stage by stage, as a device does: choose \"tract\" or \"onnxruntime\""
    )]
    NoStages,
    /// A certificate without its key, or a key without its certificate.
    #[error("`{0}` is missing: a certificate and its key go together")]
    Incomplete(&'static str),
    /// Other machines could reach the API, and it has no certificate.
    #[error(
        "`api.address` {0} can be reached from other machines and has no TLS: give `api.certificate` and `api.key`, or set `api.plain_http` where the network is trusted"
    )]
    PlainHttp(SocketAddr),
    /// Other machines could reach the page, and it has no certificate.
    #[error(
        "`page.address` {0} can be reached from other machines and has no TLS, without which a browser gives a page neither \
         camera nor storage: give `page.certificate` and `page.key`, or those of `[api]`"
    )]
    PlainPage(SocketAddr),
    /// The page has nobody to ask.
    #[error("`[page]` has nobody to ask: give `[cloud]`, `[fog]` or `page.cloud`")]
    NobodyForThePage,
    /// The page would have to call what browsers do not call.
    #[error(
        "the page cannot ask {0:?}, as browsers let it ask https://HOST or https://HOST:PORT alone, by a name or an address of \
         IPv4: give such an address of the service as `page.cloud`"
    )]
    PageCloud(String),
    /// The page would send what must not leave the device.
    #[error(
        "`[page]` knows no classes that stay on the device: leave out `privacy.never_offload`, or the page"
    )]
    PageIsNotPrivate,
    /// Two inputs of one name.
    #[error(
        "two inputs are called {0:?}: give each of them a `name` of its own, other than \"api\""
    )]
    SameName(String),
    /// Images would wait for nobody.
    #[error("`delivery = \"eventually\"` needs a `[cloud]` or `[fog]` that images wait for")]
    NobodyToWaitFor,
    /// A share or points out of range.
    #[error("`{name}` is {value}: give 0 to {most}")]
    Range {
        /// The field.
        name: &'static str,
        /// What it is.
        value: f64,
        /// The most it may be.
        most: f64,
    },
    /// Every audit would be an alarm.
    #[error("`audit.false_alarm_after` is 0: give the audits between two false alarms, 1 or more")]
    NoPatience,
    /// Answers would be compared with nobody's.
    #[error(
        "`audit.share` is above 0 and there is no `[cloud]` or `[fog]` to ask: configure one, or leave it out"
    )]
    NobodyToAudit,
    /// Energy is bounded that is not known.
    #[error(
        "`power.{0}.joules_per_hour` needs `[power.offload]`: give what an offload takes of this device's battery"
    )]
    NoOffloadCost(&'static str),
    /// An operating point of no policy.
    #[error("`power.{0}.operating_point` needs a `policy`: give one, or leave it out")]
    NoPolicyToSpare(&'static str),
    /// A time that is none.
    #[error("`queue.max_age_hours` is {0}: give hours above 0 and up to {MOST_HOURS}")]
    Age(f64),
    /// Flags about a cloud, and none is given.
    #[error(
        "--ca, --token, --client-certificate, --client-key, --transport, --congestion and --encoding need a cloud: give --cloud URL or a configuration file"
    )]
    NoCloud,
    /// A goal, and no policy that could meet it.
    #[error("--operating-point needs a policy: give --policy FILE.json")]
    NoPolicy,
    /// Nothing would come in.
    #[error(
        "there is no input: give `[api]`, `[[folders]]`, `[[urls]]` or `[[cameras]]` in the configuration, or --api-address; or \
         a `[page]`, which has phones take their own"
    )]
    NoInput,
    /// This build cannot open cameras.
    #[error(
        "`[[cameras]]` needs Linux and a build with the feature `v4l2`, which is on by default: build without `--no-default-features`, or take the camera's images by `[[urls]]`"
    )]
    NoCameras,
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
        config.cascade = folder.join(&config.cascade);
        config.policy = config.policy.map(|policy| folder.join(policy));
        for peer in config.cloud.iter_mut().chain(&mut config.fog) {
            peer.resolve(folder);
        }
        let library = config.runtime.library.take();
        config.runtime.library = library.map(|library| folder.join(library));
        if let Some(api) = &mut config.api {
            api.resolve(folder);
        }
        if let Some(page) = &mut config.page {
            page.resolve(folder);
        }
        for watched in &mut config.folders {
            watched.resolve(folder);
        }
        config.queue.resolve(folder);
        for url in &mut config.urls {
            url.resolve(folder);
        }
        config.power.resolve(folder);
        for camera in &mut config.cameras {
            camera.resolve(folder);
        }
        config.outputs.resolve(folder);
        Ok(config)
    }

    /// Checks what types cannot, once flags are in.
    ///
    /// # Errors
    /// A [`ConfigError`] that names the field.
    pub fn check(&self) -> Result<(), ConfigError> {
        for (name, value) in [
            ("deadline_ms", self.deadline_ms),
            ("device_threads", self.device_threads as u64),
            ("max_in_flight", self.max_in_flight as u64),
            ("runtime.threads", self.runtime.threads as u64),
            (
                "circuit.failures_to_open",
                self.circuit.failures_to_open.into(),
            ),
            ("images.max_bytes", self.images.max_bytes as u64),
            ("images.max_pixels", self.images.max_pixels),
        ] {
            if value == 0 {
                return Err(ConfigError::Zero(name));
            }
        }
        for (name, value, limit) in [
            ("deadline_ms", self.deadline_ms, 24 * 3_600_000),
            ("correct_within_ms", self.correct_within_ms, 24 * 3_600_000),
            ("device_threads", self.device_threads as u64, 1024),
            ("max_in_flight", self.max_in_flight as u64, 65_536),
            ("runtime.threads", self.runtime.threads as u64, 1024),
        ] {
            if value > limit {
                return Err(ConfigError::TooLarge { name, limit });
            }
        }
        if self.runtime.kind == RuntimeKind::TractCuda {
            return Err(ConfigError::NoStages);
        }
        Ok(())
    }

    /// Whether images come from anywhere by themselves.
    pub(crate) fn has_inputs(&self) -> bool {
        self.api.is_some()
            || !self.folders.is_empty()
            || !self.urls.is_empty()
            || !self.cameras.is_empty()
    }

    /// Checks what `edge-agent run` alone needs.
    ///
    /// # Errors
    /// A [`ConfigError`] that names the field.
    pub fn check_run(&self) -> Result<(), ConfigError> {
        if !self.has_inputs() && self.page.is_none() {
            return Err(ConfigError::NoInput);
        }
        match self.reload_seconds {
            0 => return Err(ConfigError::Zero("reload_seconds")),
            seconds if seconds > MOST_RELOAD_SECONDS => {
                return Err(ConfigError::TooLarge {
                    name: "reload_seconds",
                    limit: MOST_RELOAD_SECONDS,
                });
            }
            _ => {}
        }
        if let Some(api) = &self.api {
            if api.max_waiting_bytes < self.images.max_bytes {
                return Err(ConfigError::LittleRoom(api.max_waiting_bytes));
            }
            match (&api.certificate, &api.key) {
                (Some(_), None) => return Err(ConfigError::Incomplete("api.key")),
                (None, Some(_)) => return Err(ConfigError::Incomplete("api.certificate")),
                (Some(_), Some(_)) => {}
                (None, None) if api.plain_http || api.address.ip().is_loopback() => {}
                (None, None) => return Err(ConfigError::PlainHttp(api.address)),
            }
        }
        self.check_page()?;
        let has_cloud = self.cloud.is_some() || self.fog.is_some();
        self.audit.check(has_cloud)?;
        self.power.check(self.policy.is_some())?;
        let mut names = HashSet::from([API]);
        for folder in &self.folders {
            if !names.insert(&folder.name) {
                return Err(ConfigError::SameName(folder.name.clone()));
            }
            if folder.look_seconds == 0 {
                return Err(ConfigError::Zero("folders.look_seconds"));
            }
        }
        if self.delivery == Delivery::Eventually {
            let hours = self.queue.max_age_hours;
            if self.cloud.is_none() && self.fog.is_none() {
                return Err(ConfigError::NobodyToWaitFor);
            }
            if self.queue.max_bytes == 0 {
                return Err(ConfigError::Zero("queue.max_bytes"));
            }
            if !(hours > 0.0 && hours <= MOST_HOURS) {
                return Err(ConfigError::Age(hours));
            }
        }
        for url in &self.urls {
            if !names.insert(&url.name) {
                return Err(ConfigError::SameName(url.name.clone()));
            }
            if url.timeout_ms == 0 {
                return Err(ConfigError::Zero("urls.timeout_ms"));
            }
        }
        for camera in &self.cameras {
            if !names.insert(&camera.name) {
                return Err(ConfigError::SameName(camera.name.clone()));
            }
            camera.check()?;
        }
        if let Some(file) = &self.outputs.file
            && file.max_bytes == 0
        {
            return Err(ConfigError::Zero("outputs.file.max_bytes"));
        }
        let api = self.api.iter();
        let api = api.map(|api| ("api.upload_seconds", api.upload_seconds));
        let webhook = self.outputs.webhook.iter().flat_map(|webhook| {
            [
                ("outputs.webhook.timeout_ms", webhook.timeout_ms),
                ("outputs.webhook.at_a_time", webhook.at_a_time as u64),
                ("outputs.webhook.max_waiting", webhook.max_waiting as u64),
            ]
        });
        let mqtt = self.outputs.mqtt.iter();
        let mqtt = mqtt.map(|mqtt| ("outputs.mqtt.max_waiting", mqtt.max_waiting as u64));
        for (name, value) in api.chain(webhook).chain(mqtt) {
            match value {
                0 => return Err(ConfigError::Zero(name)),
                value if value > MOST => return Err(ConfigError::TooLarge { name, limit: MOST }),
                _ => {}
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
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("edge-agent.example.toml");
        let config = Config::load(&path).unwrap();
        config.check().unwrap();
        assert!(config.cascade.is_file(), "{}", config.cascade.display());
    }

    #[test]
    fn a_zero_is_refused_by_name() {
        let config = Config {
            deadline_ms: 0,
            ..Config::default()
        };
        assert!(
            config
                .check()
                .unwrap_err()
                .to_string()
                .contains("deadline_ms")
        );
    }

    #[test]
    fn callers_have_room_for_one_image_at_least() {
        let check = |toml: &str| toml::from_str::<Config>(toml).unwrap().check_run();
        assert!(check("[api]\n").is_ok());
        let refused = check("[api]\nmax_waiting_bytes = 1000\n").unwrap_err();
        let said = refused.to_string();
        assert!(said.contains("`api.max_waiting_bytes` of 1000"), "{said}");
        assert!(check("[api]\nmax_waiting_bytes = 1000\n[images]\nmax_bytes = 1000\n").is_ok());
    }

    #[test]
    fn a_runtime_that_cannot_run_cascades_is_refused() {
        let refused = |toml: &str| {
            let config: Config = toml::from_str(toml).unwrap();
            config.check().unwrap_err().to_string()
        };
        let said = refused("[runtime]\nkind = \"tract-cuda\"\n");
        assert!(said.contains("stage by stage"), "{said}");
        for threads in ["0", "1025"] {
            let said = refused(&format!("[runtime]\nthreads = {threads}\n"));
            assert!(said.contains("`runtime.threads`"), "{said}");
        }
    }

    #[test]
    fn the_library_of_a_runtime_is_relative_to_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("edge-agent.toml");
        fs::write(
            &path,
            "[runtime]\nkind = \"onnxruntime\"\nlibrary = \"lib/one.so\"\n",
        )
        .unwrap();
        let config = Config::load(&path).unwrap();
        assert_eq!(
            config.runtime.library,
            Some(folder.path().join("lib/one.so"))
        );
    }
}
