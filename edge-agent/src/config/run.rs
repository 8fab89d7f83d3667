//! What `edge-agent run` alone needs: inputs and outputs.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::outputs::{MqttOutput, WebhookOutput};

/// The HTTP API and the page.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ApiConfig {
    /// Address and port. Default `127.0.0.1:8080`.
    pub address: SocketAddr,
    /// Certificate chain, PEM; with it HTTPS is spoken and nothing else.
    pub certificate: Option<PathBuf>,
    /// Private key of `certificate`, PEM.
    pub key: Option<PathBuf>,
    /// File with the token that callers must show; without it whoever reaches the address may call.
    pub token: Option<PathBuf>,
    /// Names of this machine by which it may be called without a token, beside its addresses, names without a dot and
    /// those that end in `.local`. Default none.
    pub hosts: Vec<String>,
    /// Whether other machines may call without TLS. Default no: without a certificate only this machine may.
    pub plain_http: bool,
    /// Callers that may be here beside `max_in_flight` others, with their images in memory; more are told to come back.
    /// Default 32.
    pub max_waiting: usize,
    /// Bytes of images that all callers may have here; who brings more is told to come back. Default 128 MiB.
    pub max_waiting_bytes: usize,
    /// Seconds that a caller may take over an image's bytes. Default 60.
    pub upload_seconds: u64,
}

/// A folder whose images are answered as they come.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FolderConfig {
    /// The folder.
    pub path: PathBuf,
    /// The input's name in answers and metrics. Default `folder`.
    #[serde(default = "folder_name")]
    pub name: String,
    /// What becomes of an image that has been answered. Default `move`.
    #[serde(default)]
    pub then: Then,
    /// Milliseconds that a file must not have changed before it is believed to be whole, where the system does not
    /// tell that its writer has closed it. Default 1000.
    #[serde(default = "settle_ms")]
    pub settle_ms: u64,
    /// Seconds between looks at all of the folder, for changes that the system did not tell. Default 10.
    #[serde(default = "look_seconds")]
    pub look_seconds: u64,
}

/// What becomes of an image in a folder once it has been answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Then {
    /// Into the subfolder `answered`, or `failed` where it got no answer.
    #[default]
    Move,
    /// Deleted; one without an answer goes to `failed`.
    Delete,
    /// It stays. Only images that come after the start are answered.
    Keep,
}

/// What becomes of an image that was to be sent and found no cloud.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Delivery {
    /// The device's answer holds.
    #[default]
    Now,
    /// The device answers, and the image is kept on disk until the cloud takes it: its answer is a correction.
    Eventually,
}

/// Images that wait on disk for a cloud.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QueueConfig {
    /// The file. Default `queue.redb`.
    pub path: PathBuf,
    /// Most bytes of images in it; beyond that, those make way that the device is most sure of. Default 256 MiB.
    pub max_bytes: u64,
    /// Hours after which what the device said holds. Default 72.
    pub max_age_hours: f64,
}

/// Where answers go.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OutputsConfig {
    /// A JSON object a line in a file.
    pub file: Option<FileOutput>,
    /// A call of a web server an event.
    pub webhook: Option<WebhookOutput>,
    /// A message at an MQTT broker an event.
    pub mqtt: Option<MqttOutput>,
}

/// A file of JSON objects, one a line.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileOutput {
    /// The file.
    pub path: PathBuf,
    /// Bytes at which the file becomes `PATH.1` and a new one begins. Default 16 MiB.
    #[serde(default = "max_bytes")]
    pub max_bytes: u64,
    /// Files before it that are kept. Default 4.
    #[serde(default = "keep")]
    pub keep: usize,
}

fn folder_name() -> String {
    "folder".to_owned()
}

const fn settle_ms() -> u64 {
    1000
}

const fn look_seconds() -> u64 {
    10
}

const fn max_bytes() -> u64 {
    16 << 20
}

const fn keep() -> usize {
    4
}

impl Default for ApiConfig {
    fn default() -> Self {
        Self {
            address: (Ipv4Addr::LOCALHOST, 8080).into(),
            certificate: None,
            key: None,
            token: None,
            hosts: Vec::new(),
            plain_http: false,
            max_waiting: 32,
            max_waiting_bytes: 128 << 20,
            upload_seconds: 60,
        }
    }
}

impl Default for QueueConfig {
    fn default() -> Self {
        Self {
            path: PathBuf::from("queue.redb"),
            max_bytes: 256 << 20,
            max_age_hours: 72.0,
        }
    }
}

impl QueueConfig {
    pub(super) fn resolve(&mut self, folder: &Path) {
        self.path = folder.join(&self.path);
    }
}

impl ApiConfig {
    pub(super) fn resolve(&mut self, folder: &Path) {
        for path in [&mut self.certificate, &mut self.key, &mut self.token] {
            *path = path.take().map(|path| folder.join(path));
        }
    }
}

impl FolderConfig {
    pub(super) fn resolve(&mut self, folder: &Path) {
        self.path = folder.join(&self.path);
    }
}

impl OutputsConfig {
    pub(super) fn resolve(&mut self, folder: &Path) {
        if let Some(file) = &mut self.file {
            file.path = folder.join(&file.path);
        }
        if let Some(webhook) = &mut self.webhook {
            webhook.resolve(folder);
        }
        if let Some(mqtt) = &mut self.mqtt {
            mqtt.resolve(folder);
        }
    }
}
