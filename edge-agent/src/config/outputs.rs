//! Outputs over the network.

use std::path::{Path, PathBuf};

use outpost_offload::Kind;
use serde::Deserialize;

/// A web server that is called with every event.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookOutput {
    /// `https://HOST/PATH`, or `http://`. It is never written to a log: only its server is named there.
    pub url: String,
    /// File with the token by which the server knows this device; none by default.
    pub token: Option<PathBuf>,
    /// Certificate authority to trust, PEM; the public ones where it is absent.
    pub certificate_authority: Option<PathBuf>,
    /// Whether the token may go over `http://`. Default no.
    #[serde(default)]
    pub plain_http: bool,
    /// Milliseconds that a call may take. Default 10000.
    #[serde(default = "timeout_ms")]
    pub timeout_ms: u64,
    /// The kinds of events that are sent. Default all.
    #[serde(default = "all_kinds")]
    pub events: Vec<Kind>,
    /// Calls at a time. Default 1: events come in the order in which they were said.
    #[serde(default = "at_a_time")]
    pub at_a_time: usize,
    /// Events that may wait while the server is away; beyond that the inputs wait. Default 1024.
    #[serde(default = "max_waiting")]
    pub max_waiting: usize,
}

/// An MQTT broker that events are published at.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MqttOutput {
    /// The broker's name or address.
    pub host: String,
    /// Its port. Default 8883, or 1883 with `plain`.
    pub port: Option<u16>,
    /// Whether TLS is not spoken. Default no.
    #[serde(default)]
    pub plain: bool,
    /// Certificate authority to trust, PEM; the public ones where it is absent.
    pub certificate_authority: Option<PathBuf>,
    /// The name by which the broker knows this device; none by default.
    pub username: Option<String>,
    /// File with the password of `username`.
    pub password: Option<PathBuf>,
    /// The topic of events.
    pub topic: String,
    /// The topic that says `online` or `offline`, retained. Default `TOPIC/availability`.
    pub availability_topic: Option<String>,
    /// The session's name, which no other client of the broker may have. Default a random one.
    pub client_id: Option<String>,
    /// The kinds of events that are published. Default all.
    #[serde(default = "all_kinds")]
    pub events: Vec<Kind>,
    /// Events that may wait while the broker is away; beyond that the inputs wait. Default 1024.
    #[serde(default = "max_waiting")]
    pub max_waiting: usize,
}

const fn timeout_ms() -> u64 {
    10_000
}

fn all_kinds() -> Vec<Kind> {
    vec![
        Kind::Answer,
        Kind::Correction,
        Kind::Confirmation,
        Kind::Failure,
    ]
}

const fn at_a_time() -> usize {
    1
}

const fn max_waiting() -> usize {
    1024
}

impl WebhookOutput {
    pub(super) fn resolve(&mut self, folder: &Path) {
        for path in [&mut self.token, &mut self.certificate_authority] {
            *path = path.take().map(|path| folder.join(path));
        }
    }
}

impl MqttOutput {
    pub(super) fn resolve(&mut self, folder: &Path) {
        for path in [&mut self.password, &mut self.certificate_authority] {
            *path = path.take().map(|path| folder.join(path));
        }
    }
}
