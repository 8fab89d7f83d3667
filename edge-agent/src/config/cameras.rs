//! Inputs that are cameras on this machine.

use std::{
    num::NonZeroU32,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::{ConfigError, MOST};
use crate::camera;

/// The most pixels of a side: beyond what a frame may have as a JPEG file.
const MOST_PIXELS: u32 = 16_384;

/// A camera on this machine, by Video4Linux. Needs the feature `v4l2`, on Linux.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CameraConfig {
    /// The device, `/dev/video0`, or a name in `/dev/v4l/by-id`, which stays the same wherever it is plugged in.
    pub device: PathBuf,
    /// The input's name in answers and metrics. Default `camera`.
    #[serde(default = "name")]
    pub name: String,
    /// Pixels of a line; the camera takes the size that is nearest to it. Default 640.
    #[serde(default = "width")]
    pub width: u32,
    /// Lines. Default 480.
    #[serde(default = "height")]
    pub height: u32,
    /// Frames a second that the camera is to give; by default as many as it does.
    pub frames_per_second: Option<NonZeroU32>,
    /// How the camera gives them: `mjpeg`, `yuyv`, or `auto`, the first of them that it has. Default `auto`.
    #[serde(default)]
    pub format: CameraFormat,
    /// Milliseconds from one image to the next; 0 for all that come. Default 1000.
    #[serde(default = "every_ms")]
    pub every_ms: u64,
    /// Milliseconds that a frame may take to come; then the camera is opened again. Default 10000.
    #[serde(default = "timeout_ms")]
    pub timeout_ms: u64,
}

/// How a camera gives frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CameraFormat {
    /// The first of the others that the camera has.
    #[default]
    Auto,
    /// Compressed by the camera, which are answered and sent as they come.
    Mjpeg,
    /// Two pixels in four bytes; made a JPEG here.
    Yuyv,
}

fn name() -> String {
    "camera".to_owned()
}

const fn width() -> u32 {
    640
}

const fn height() -> u32 {
    480
}

const fn every_ms() -> u64 {
    1000
}

const fn timeout_ms() -> u64 {
    10_000
}

impl CameraConfig {
    pub(super) fn resolve(&mut self, folder: &Path) {
        self.device = folder.join(&self.device);
    }

    /// Checks what types cannot.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if !camera::IS_BUILT {
            return Err(ConfigError::NoCameras);
        }
        for (name, value, most) in [
            (
                "cameras.width",
                u64::from(self.width),
                u64::from(MOST_PIXELS),
            ),
            (
                "cameras.height",
                u64::from(self.height),
                u64::from(MOST_PIXELS),
            ),
            ("cameras.timeout_ms", self.timeout_ms, MOST),
        ] {
            match value {
                0 => return Err(ConfigError::Zero(name)),
                value if value > most => return Err(ConfigError::TooLarge { name, limit: most }),
                _ => {}
            }
        }
        Ok(())
    }
}
