//! How a peer is reached, as configuration files have it.

use std::{
    num::NonZeroU32,
    path::{Path, PathBuf},
    time::Duration,
};

use outpost_cascade::CircuitConfig;
use outpost_transport::Transport;
use serde::Deserialize;

use super::packing::Encoding;

/// Where a peer is, and how it is asked.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerConfig {
    /// `https://host:port`; `http://` speaks plain HTTP/2, for servers behind a trusted link.
    pub url: String,
    /// `h2`, `h3` or `auto`, which prefers HTTP/3. Default `auto`.
    #[serde(default)]
    pub transport: Transport,
    /// Certificate authority to trust, PEM; the public ones where it is absent.
    #[serde(default)]
    pub certificate_authority: Option<PathBuf>,
    /// File with the token by which the peer knows its caller; over TLS only.
    #[serde(default)]
    pub token: Option<PathBuf>,
    /// Certificate chain to show to a server that asks for one, PEM; needs `client_key`.
    #[serde(default)]
    pub client_certificate: Option<PathBuf>,
    /// Private key of `client_certificate`, PEM.
    #[serde(default)]
    pub client_key: Option<PathBuf>,
    /// Name in the server's certificate, where it is not the host of `url`.
    #[serde(default)]
    pub server_name: Option<String>,
    /// What is sent. Default `auto`.
    #[serde(default)]
    pub payload: Payload,
    /// Whether encoded images are sent with all that they tell: place, time, camera, thumbnails. Default no: their
    /// pixels and their orientation alone.
    #[serde(default)]
    pub keep_metadata: bool,
    /// How encoded images are sent: `original`, as they were read; `jpeg@QUALITY`, `webp@QUALITY` or `avif@QUALITY`, shrunk
    /// to what the network sees; or `auto`, with the encoder that has the image there first. Default `original`.
    #[serde(default)]
    pub encoding: Encoding,
    /// What encoders cost and lose, a file of `lab encoders`, for `auto`. Default `encoders.json` in the network's folder.
    #[serde(default)]
    pub encoders: Option<PathBuf>,
    /// Points of top-1 accuracy that an encoder may lose for `auto` to choose it. Default 1.
    #[serde(default = "max_accuracy_loss")]
    pub max_accuracy_loss: f64,
    /// How much may be sent; no bounds by default.
    #[serde(default)]
    pub budget: BudgetConfig,
}

const fn max_accuracy_loss() -> f64 {
    1.0
}

/// How much may be sent to a peer. What is not used up is kept, up to the whole of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BudgetConfig {
    /// Offloads an hour.
    pub offloads_per_hour: Option<NonZeroU32>,
    /// Bytes of requests a day.
    pub bytes_per_day: Option<NonZeroU32>,
}

/// What is sent to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Payload {
    /// The encoded image where the server says that it takes one, else the network's input tensor.
    #[default]
    Auto,
    /// The encoded image.
    Image,
    /// The network's input tensor, made here.
    Tensor,
}

/// When an engine stops waiting for a peer that keeps failing.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CircuitSettings {
    /// Failures in a row that open the circuit. Default 3.
    pub failures_to_open: u32,
    /// Milliseconds until the first probe. Default 2000.
    pub open_for_ms: u64,
    /// Ceiling in milliseconds of that time, which doubles with every failed probe. Default 60000.
    pub open_for_at_most_ms: u64,
}

impl PeerConfig {
    /// The peer at `url`, and the defaults.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            transport: Transport::default(),
            certificate_authority: None,
            token: None,
            client_certificate: None,
            client_key: None,
            server_name: None,
            payload: Payload::default(),
            keep_metadata: false,
            encoding: Encoding::default(),
            encoders: None,
            max_accuracy_loss: max_accuracy_loss(),
            budget: BudgetConfig::default(),
        }
    }

    /// Makes relative paths relative to `folder`.
    pub fn resolve(&mut self, folder: &Path) {
        for path in [
            &mut self.certificate_authority,
            &mut self.token,
            &mut self.client_certificate,
            &mut self.client_key,
            &mut self.encoders,
        ] {
            *path = path.take().map(|path| folder.join(path));
        }
    }
}

impl Default for CircuitSettings {
    fn default() -> Self {
        let circuit = CircuitConfig::default();
        Self {
            failures_to_open: circuit.failures_to_open,
            open_for_ms: circuit.open_for.as_millis() as u64,
            open_for_at_most_ms: circuit.open_for_at_most.as_millis() as u64,
        }
    }
}

impl From<CircuitSettings> for CircuitConfig {
    fn from(settings: CircuitSettings) -> Self {
        Self {
            failures_to_open: settings.failures_to_open,
            open_for: Duration::from_millis(settings.open_for_ms),
            open_for_at_most: Duration::from_millis(settings.open_for_at_most_ms),
        }
    }
}
