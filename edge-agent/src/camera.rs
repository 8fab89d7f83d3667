//! Cameras on this machine: what a frame is, what is no frame, and why none comes.
//!
//! A device is opened and read by [`v4l2`] alone, in builds for Linux with the feature of that name; all else is the same for
//! whatever gives frames ([`Capture`]).

#![cfg_attr(
    not(all(feature = "v4l2", target_os = "linux")),
    allow(dead_code, reason = "without devices nothing gives frames but tests")
)]

mod motion_jpeg;
#[cfg(all(feature = "v4l2", target_os = "linux"))]
mod v4l2;
mod yuyv;

use std::{fmt, io, path::PathBuf, time::Duration};

use bytes::Bytes;

use crate::config::CameraConfig;
pub(crate) use yuyv::Yuyv;

/// Whether this build can open cameras.
pub(crate) const IS_BUILT: bool = cfg!(all(feature = "v4l2", target_os = "linux"));

/// What is shown the bytes of a frame, or told why they are none.
pub(crate) type Show<'a> = dyn FnMut(Result<&[u8], FrameError>) + 'a;

/// A camera that is open, and gives one frame after the other.
pub(crate) trait Capture {
    /// What its frames are, as it chose.
    fn format(&self) -> Format;

    /// Forgets frames that were taken before now and wait to be read.
    ///
    /// # Errors
    /// A [`CameraError`], after which it gives no more.
    fn forget(&mut self) -> Result<(), CameraError>;

    /// Waits for a frame, for so long at the most, and shows its bytes; false where none came.
    ///
    /// # Errors
    /// A [`CameraError`], after which it gives no more.
    fn next(&mut self, within: Duration, show: &mut Show<'_>) -> Result<bool, CameraError>;
}

/// What the frames of a camera are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Format {
    pub(crate) pixels: Pixels,
    pub(crate) width: u32,
    pub(crate) height: u32,
    /// Bytes from one line of pixels to the next; 0 where lines follow one another.
    pub(crate) stride: u32,
}

/// How pixels are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pixels {
    /// Each frame is a JPEG file, often without Huffman tables.
    Jpeg,
    /// Two pixels in four bytes, without compression.
    Yuyv,
}

/// A frame, whole.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Frame {
    /// An image file.
    Encoded(Bytes),
    /// Pixels as a camera gave them.
    Yuyv(Yuyv),
}

/// Why what a camera gave is no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("it does not begin as an image")]
    NoImage,
    #[error("it was cut short")]
    Cut,
    #[error("the driver says that it is damaged")]
    Damaged,
    #[error(
        "it has more than {0} bytes: choose a smaller `width` and `height`, or raise `images.max_bytes`"
    )]
    TooLarge(usize),
}

/// Why a camera gives no frames.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CameraError {
    #[error("there is no {}: see /dev/v4l/by-id for what is there", .0.display())]
    Missing(PathBuf),
    #[error(
        "this user may not open {}: `usermod --append --groups video USER` lets a user in, and for the service systemd asks for `DeviceAllow`",
        .0.display()
    )]
    Denied(PathBuf),
    #[error("{} is no camera: see /dev/v4l/by-id for what is there", .0.display())]
    NoCamera(PathBuf),
    #[error(
        "{} gives no pictures: a camera may have several devices, of which one does, often the first",
        .0.display()
    )]
    NoPictures(PathBuf),
    #[error(
        "the camera gives {offered} and not {wanted}: choose another `format`, or another camera"
    )]
    NoFormat { offered: Offered, wanted: Wanted },
    #[error("the camera gives frames of {width}×{height} pixels, which is no size")]
    NoSize { width: u32, height: u32 },
    #[error("another program has the camera: end that one")]
    Busy,
    #[error("the camera is gone: it was unplugged, or its driver gave it up")]
    Gone,
    #[error("the camera cannot {doing}")]
    Io {
        doing: &'static str,
        source: io::Error,
    },
    #[error("no frame came within `timeout_ms`")]
    Silent,
    #[error("no whole frame came within `timeout_ms`: {0}")]
    Defective(FrameError),
    #[error("the camera's driver says what cannot be")]
    Crashed,
    #[cfg(not(all(feature = "v4l2", target_os = "linux")))]
    #[error(
        "this build has no cameras: it needs Linux and the feature `v4l2`, which is on by default"
    )]
    NotBuilt,
}

/// Formats that a camera offers, by their four letters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Offered(pub(crate) Vec<[u8; 4]>);

/// Formats that would do, by their four letters, the best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wanted(pub(crate) &'static [([u8; 4], Pixels)]);

/// Opens a camera by its configuration.
///
/// # Errors
/// A [`CameraError`] that says what to do.
pub(crate) fn open(config: &CameraConfig) -> Result<Box<dyn Capture>, CameraError> {
    #[cfg(all(feature = "v4l2", target_os = "linux"))]
    return Ok(Box::new(v4l2::Device::open(config)?));
    #[cfg(not(all(feature = "v4l2", target_os = "linux")))]
    {
        let _ = config;
        Err(CameraError::NotBuilt)
    }
}

impl Frame {
    /// Takes over what a camera gave.
    ///
    /// # Errors
    /// [`FrameError`], where it is no whole frame.
    pub(crate) fn new(format: &Format, bytes: &[u8], max_bytes: usize) -> Result<Self, FrameError> {
        if bytes.len() > max_bytes {
            return Err(FrameError::TooLarge(max_bytes));
        }
        match format.pixels {
            Pixels::Jpeg => motion_jpeg::whole(bytes).map(Self::Encoded),
            Pixels::Yuyv => Yuyv::new(format, bytes).map(Self::Yuyv),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pixels = match self.pixels {
            Pixels::Jpeg => "MJPEG",
            Pixels::Yuyv => "YUYV",
        };
        write!(f, "{pixels}, {}×{}", self.width, self.height)
    }
}

impl fmt::Display for Offered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("no format");
        }
        letters(f, self.0.iter().copied())
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        letters(f, self.0.iter().map(|(letters, _)| *letters))
    }
}

fn letters(f: &mut fmt::Formatter<'_>, formats: impl Iterator<Item = [u8; 4]>) -> fmt::Result {
    for (index, format) in formats.enumerate() {
        let comma = if index > 0 { ", " } else { "" };
        write!(f, "{comma}{}", format.escape_ascii())?;
    }
    Ok(())
}
