//! What `classify` and `run` have in common: flags over `OUTPOST_*` variables over the configuration file.

use std::path::PathBuf;

use clap::ValueEnum;
use outpost_cascade::Mode;
use outpost_engine::{Encoding, OtherConfig, PeerConfig};
use outpost_exit_policy::Goal;
use outpost_runtime::RuntimeKind;
use outpost_telemetry::LogFormat;
use outpost_transport::{Congestion, Transport};

use crate::config::{Config, ConfigError};

#[derive(clap::Args)]
pub(super) struct Common {
    /// Configuration file (see edge-agent.example.toml).
    #[arg(long, env = "OUTPOST_EDGE_CONFIG")]
    pub(super) config: Option<PathBuf>,
    /// Where hard images go: https://host:port. Given several times, the first that is there (see `choose` in the
    /// configuration); in the variable they are separated by commas.
    #[arg(long, env = "OUTPOST_CLOUD", value_name = "URL", value_delimiter = ',')]
    cloud: Vec<String>,
    /// Certificate authority to trust, PEM.
    #[arg(long, env = "OUTPOST_CA")]
    ca: Option<PathBuf>,
    /// File with the token by which the cloud knows this device.
    #[arg(long, env = "OUTPOST_TOKEN_FILE", value_name = "FILE")]
    token: Option<PathBuf>,
    /// Certificate to show to a cloud that asks for one, PEM.
    #[arg(long, env = "OUTPOST_CLIENT_CERTIFICATE", value_name = "FILE")]
    client_certificate: Option<PathBuf>,
    /// Private key of that certificate, PEM.
    #[arg(long, env = "OUTPOST_CLIENT_KEY", value_name = "FILE")]
    client_key: Option<PathBuf>,
    /// h2, h3 or auto, which prefers HTTP/3.
    #[arg(long, env = "OUTPOST_TRANSPORT")]
    transport: Option<Transport>,
    /// How fast may be sent: cubic, bbr, which goes by bandwidth and round trip instead of losses, or new-reno.
    #[arg(long, env = "OUTPOST_CONGESTION", value_name = "ALGORITHM")]
    congestion: Option<Congestion>,
    /// How images are sent: original, jpeg@QUALITY, webp@QUALITY, avif@QUALITY, or auto, which goes by the link.
    #[arg(long, env = "OUTPOST_ENCODING")]
    encoding: Option<Encoding>,
    /// The cascade file.
    #[arg(long, env = "OUTPOST_CASCADE")]
    cascade: Option<PathBuf>,
    /// A policy bundle of `lab learn`, in place of the cascade's policies.
    #[arg(long, env = "OUTPOST_POLICY", value_name = "FILE.json")]
    policy: Option<PathBuf>,
    /// Which of its operating points: a name, `loss=POINTS`, `time=5ms`, `offload=20%` or `price=POINTS`, those that a
    /// second is worth; else the fastest that is expected to lose at most one point.
    #[arg(long, env = "OUTPOST_OPERATING_POINT", value_name = "GOAL")]
    operating_point: Option<Goal>,
    /// The model folder.
    #[arg(long, env = "OUTPOST_MODELS")]
    models: Option<PathBuf>,
    /// What runs the networks on the device; the library of ONNX Runtime is the one that `runtime.library` in the
    /// configuration or ORT_DYLIB_PATH names.
    #[arg(long, env = "OUTPOST_RUNTIME", value_enum)]
    runtime: Option<RuntimeFlag>,
    /// Milliseconds from taking up an image to its answer.
    #[arg(long, env = "OUTPOST_DEADLINE_MS", value_name = "MS")]
    deadline: Option<u64>,
    /// Whose decisions count.
    #[arg(long, value_enum)]
    mode: Option<ModeFlag>,
    /// Collector of traces that speaks OTLP over gRPC: http://host:4317.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL")]
    otlp_endpoint: Option<String>,
    /// How log lines look.
    #[arg(long, env = "OUTPOST_LOG_FORMAT", value_enum, default_value_t)]
    pub(super) log_format: LogFormat,
}

#[derive(Clone, Copy, ValueEnum)]
enum ModeFlag {
    /// The cascade's policies.
    Policy,
    /// The device alone.
    DeviceOnly,
    /// The cloud has the last word on every image.
    CloudOnly,
}

#[derive(Clone, Copy, ValueEnum)]
enum RuntimeFlag {
    /// Built in.
    Tract,
    /// ONNX Runtime, by its library.
    Onnxruntime,
}

impl Common {
    /// The configuration, with what the flags say.
    ///
    /// # Errors
    /// A [`ConfigError`] that names the file, field or flag at fault.
    pub(super) fn config(&self) -> Result<Config, ConfigError> {
        let mut config = match &self.config {
            Some(path) => Config::load(path)?,
            None => Config::default(),
        };
        if let Some((url, others)) = self.cloud.split_first() {
            let cloud = config.cloud.get_or_insert_with(|| PeerConfig::new(url));
            cloud.url.clone_from(url);
            // Of the file's others, those that are named keep what it says of them.
            let known = std::mem::take(&mut cloud.others);
            cloud.others = others
                .iter()
                .map(|url| {
                    let known = known.iter().find(|other| other.url == *url);
                    known.cloned().unwrap_or_else(|| OtherConfig::new(url))
                })
                .collect();
        }
        let of_cloud = [
            &self.ca,
            &self.token,
            &self.client_certificate,
            &self.client_key,
        ];
        if let Some(cloud) = &mut config.cloud {
            cloud.transport = self.transport.unwrap_or(cloud.transport);
            cloud.congestion = self.congestion.or(cloud.congestion);
            cloud.encoding = self.encoding.unwrap_or(cloud.encoding);
            let fields = [
                &mut cloud.certificate_authority,
                &mut cloud.token,
                &mut cloud.client_certificate,
                &mut cloud.client_key,
            ];
            for (field, argument) in fields.into_iter().zip(of_cloud) {
                if let Some(path) = argument {
                    *field = Some(path.clone());
                }
            }
        } else if of_cloud.iter().any(|path| path.is_some())
            || self.transport.is_some()
            || self.congestion.is_some()
            || self.encoding.is_some()
        {
            return Err(ConfigError::NoCloud);
        }
        if let Some(models) = &self.models {
            config.models.clone_from(models);
        }
        if let Some(cascade) = &self.cascade {
            config.cascade.clone_from(cascade);
        }
        if let Some(policy) = &self.policy {
            config.policy = Some(policy.clone());
        }
        if let Some(goal) = &self.operating_point {
            config.operating_point.clone_from(goal);
            if config.policy.is_none() {
                return Err(ConfigError::NoPolicy);
            }
        }
        if let Some(endpoint) = &self.otlp_endpoint {
            config.traces.endpoint = Some(endpoint.clone());
        }
        config.runtime.kind = match self.runtime {
            None => config.runtime.kind,
            Some(RuntimeFlag::Tract) => RuntimeKind::Tract,
            Some(RuntimeFlag::Onnxruntime) => RuntimeKind::OnnxRuntime,
        };
        config.deadline_ms = self.deadline.unwrap_or(config.deadline_ms);
        config.mode = match self.mode {
            None => config.mode,
            Some(ModeFlag::Policy) => Mode::Policy,
            Some(ModeFlag::DeviceOnly) => Mode::DeviceOnly,
            Some(ModeFlag::CloudOnly) => Mode::CloudOnly,
        };
        Ok(config)
    }
}
