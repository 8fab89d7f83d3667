//! What browsers may do, and the page that is served to them.

use std::{num::NonZeroU16, path::PathBuf};

use outpost_exit_policy::Goal;
use outpost_transport::{AltSvc, Origin, WebConfig};
use serde::Deserialize;

use super::{ConfigError, DAY, check_number, number, one_point};

/// Milliseconds of an hour.
const HOUR_MS: usize = 3_600_000;

/// Calls of browsers, by gRPC-Web.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GrpcWebConfig {
    /// Origins whose pages may call, `https://host` or `https://host:port`, beside the service's own page. Default none.
    pub origins: Vec<Origin>,
    /// Whether answers say that HTTP/3 is spoken (`Alt-Svc`), so that browsers change to it. Default `true`.
    pub advertise_http3: bool,
    /// The port at which browsers reach HTTP/3. Default that of `address`.
    pub http3_port: Option<NonZeroU16>,
}

impl Default for GrpcWebConfig {
    fn default() -> Self {
        Self {
            origins: Vec::new(),
            advertise_http3: true,
            http3_port: None,
        }
    }
}

impl GrpcWebConfig {
    /// What the listener does for browsers.
    pub(crate) fn listener(&self) -> WebConfig {
        let port = self.http3_port.map(NonZeroU16::get);
        WebConfig {
            origins: self.origins.clone(),
            alt_svc: match self.advertise_http3 {
                true => port.map_or(AltSvc::OwnPort, AltSvc::Port),
                false => AltSvc::Silent,
            },
        }
    }
}

/// The page that is a device.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PageConfig {
    /// The cascade file; its networks at the site `device` run in the browser, and are in the model folder.
    pub cascade: PathBuf,
    /// A policy bundle of `lab learn`, in place of the cascade's policies.
    #[serde(default)]
    pub policy: Option<PathBuf>,
    /// Which of its operating points the page begins with. Default `loss=1`.
    #[serde(default = "one_point")]
    pub operating_point: Goal,
    /// Milliseconds from an image to its answer. Default 2000.
    #[serde(default = "deadline")]
    pub deadline_ms: u64,
    /// Milliseconds after the deadline in which a late answer of the service still corrects the device's; 0 lets none.
    /// Default 10000.
    #[serde(default = "correct_within")]
    pub correct_within_ms: u64,
    /// The folder that `scripts/build-web` makes. Default: what the program was built with.
    #[serde(default)]
    pub folder: Option<PathBuf>,
    /// Seconds that a token of the page is good for. Default 600.
    #[serde(default = "token_seconds")]
    pub token_seconds: u64,
    /// Tokens that are good at a time. Default 1000.
    #[serde(default = "tokens_at_once")]
    pub tokens_at_once: usize,
    /// Tokens that are issued in a minute. Default 60.
    #[serde(default = "tokens_per_minute")]
    pub tokens_per_minute: u32,
    /// Images in a minute that come with one token. Default 600.
    #[serde(default = "images_per_minute")]
    pub images_per_minute: u32,
}

fn deadline() -> u64 {
    2000
}

fn correct_within() -> u64 {
    10_000
}

fn token_seconds() -> u64 {
    600
}

fn tokens_at_once() -> usize {
    1000
}

fn tokens_per_minute() -> u32 {
    60
}

fn images_per_minute() -> u32 {
    600
}

impl PageConfig {
    /// Makes paths absolute by `resolve`.
    pub(super) fn resolve(&mut self, resolve: impl Fn(&mut PathBuf)) {
        resolve(&mut self.cascade);
        self.policy.iter_mut().for_each(&resolve);
        self.folder.iter_mut().for_each(&resolve);
    }

    /// Checks every number.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        for (name, value, limit) in [
            ("deadline_ms", number(self.deadline_ms), HOUR_MS),
            (
                "correct_within_ms",
                number(self.correct_within_ms).max(1),
                HOUR_MS,
            ),
            ("token_seconds", number(self.token_seconds), DAY),
            ("tokens_at_once", self.tokens_at_once, 1_000_000),
            (
                "tokens_per_minute",
                self.tokens_per_minute as usize,
                1_000_000,
            ),
            (
                "images_per_minute",
                self.images_per_minute as usize,
                1_000_000,
            ),
        ] {
            check_number(&format!("page.{name}"), value, limit)?;
        }
        Ok(())
    }
}
