//! A camera by Video4Linux: the thin layer over the device.
//!
//! A frame is asked for only once it is there, so that a camera that gives none holds nobody up.

use std::{
    io,
    os::unix::fs::FileTypeExt,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use linuxvideo::{
    BufType, CapabilityFlags, Fract,
    format::{PixFormat, PixelFormat},
    stream::ReadStream,
};

use super::{CameraError, Capture, Format, FrameError, Offered, Pixels, Show, Wanted};
use crate::config::{CameraConfig, CameraFormat};

/// `ENODEV`: the device is there no more.
const GONE: i32 = 19;
/// `EBUSY`: another has it.
const BUSY: i32 = 16;
/// `ENOTTY`: it does not know what is asked of it.
const UNKNOWN: i32 = 25;
/// `EINVAL`: it cannot do that.
const INVALID: i32 = 22;

/// The time between looks for a frame: a small part of that between two.
const LOOK: Duration = Duration::from_millis(5);
/// The most frames that wait: as many as Video4Linux has buffers of a device.
const MOST_BUFFERS: usize = 32;

const MJPG: ([u8; 4], Pixels) = (*b"MJPG", Pixels::Jpeg);
const JPEG: ([u8; 4], Pixels) = (*b"JPEG", Pixels::Jpeg);
const YUYV: ([u8; 4], Pixels) = (*b"YUYV", Pixels::Yuyv);

/// An open device that gives frames.
pub(super) struct Device {
    stream: ReadStream,
    format: Format,
}

impl Device {
    /// Opens a camera, has it give what comes nearest to the configuration, and starts it.
    ///
    /// # Errors
    /// A [`CameraError`] that says what to do.
    pub(super) fn open(config: &CameraConfig) -> Result<Self, CameraError> {
        let device = open(&config.device)?;
        let wanted = wanted(config.format);
        let offered: Vec<[u8; 4]> = device
            .formats(BufType::VIDEO_CAPTURE)
            .map(|format| format.map(|format| format.pixel_format().as_fourcc()))
            .collect::<Result<_, _>>()
            .map_err(fault("tell its formats"))?;
        let chosen = wanted
            .0
            .iter()
            .find(|(letters, _)| offered.contains(letters));
        let no_format = |offered| CameraError::NoFormat {
            offered: Offered(offered),
            wanted,
        };
        let Some((letters, pixels)) = chosen else {
            return Err(no_format(offered));
        };
        let asked = PixFormat::new(
            config.width,
            config.height,
            PixelFormat::from_fourcc(*letters),
        );
        let device = device
            .video_capture(asked)
            .map_err(fault("take on a format"))?;
        let given = device.format();
        if given.pixel_format().as_fourcc() != *letters {
            return Err(no_format(vec![given.pixel_format().as_fourcc()]));
        }
        let format = Format {
            pixels: *pixels,
            width: given.width(),
            height: given.height(),
            stride: given.bytes_per_line(),
        };
        if format.width == 0 || format.height == 0 {
            let Format { width, height, .. } = format;
            return Err(CameraError::NoSize { width, height });
        }
        if let Some(rate) = config.frames_per_second {
            match device.set_frame_interval(Fract::new(1, rate.get())) {
                Ok(_) => {}
                // Not every driver has rates.
                Err(error) if matches!(error.raw_os_error(), Some(UNKNOWN | INVALID)) => {
                    tracing::warn!(
                        input = config.name,
                        "the camera does not take `frames_per_second`: it gives as many as it does"
                    );
                }
                Err(error) => return Err(fault("take on a rate")(error)),
            }
        }
        let stream = device.into_stream().map_err(fault("start"))?;
        Ok(Self { stream, format })
    }

    /// Whether a frame is there.
    fn has_frame(&self) -> Result<bool, CameraError> {
        let will_block = self.stream.will_block();
        Ok(!will_block.map_err(fault("give frames"))?)
    }

    fn take(&mut self, show: impl FnOnce(Result<&[u8], FrameError>)) -> Result<(), CameraError> {
        let taken = self.stream.dequeue(|frame| {
            show(match frame.is_error() {
                true => Err(FrameError::Damaged),
                false => Ok(&frame),
            });
            Ok(())
        });
        taken.map_err(fault("give frames"))
    }
}

impl Capture for Device {
    fn format(&self) -> Format {
        self.format
    }

    fn forget(&mut self) -> Result<(), CameraError> {
        for _ in 0..MOST_BUFFERS {
            if !self.has_frame()? {
                break;
            }
            self.take(|_| {})?;
        }
        Ok(())
    }

    fn next(&mut self, within: Duration, show: &mut Show<'_>) -> Result<bool, CameraError> {
        let deadline = Instant::now() + within;
        while !self.has_frame()? {
            if Instant::now() >= deadline {
                return Ok(false);
            }
            thread::sleep(LOOK);
        }
        self.take(show)?;
        Ok(true)
    }
}

fn open(path: &Path) -> Result<linuxvideo::Device, CameraError> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => CameraError::Missing(path.to_owned()),
        io::ErrorKind::PermissionDenied => CameraError::Denied(path.to_owned()),
        _ if error.raw_os_error() == Some(UNKNOWN) => CameraError::NoCamera(path.to_owned()),
        _ => fault("be opened")(error),
    };
    // What is no device is not opened: a pipe would be waited for.
    let kind = path.metadata().map_err(failed)?.file_type();
    if !kind.is_char_device() {
        return Err(CameraError::NoCamera(path.to_owned()));
    }
    let device = linuxvideo::Device::open(path).map_err(failed)?;
    let capabilities = device.capabilities().map_err(failed)?;
    let wanted = CapabilityFlags::VIDEO_CAPTURE | CapabilityFlags::STREAMING;
    match capabilities.device_capabilities().contains(wanted) {
        true => Ok(device),
        false => Err(CameraError::NoPictures(path.to_owned())),
    }
}

fn wanted(format: CameraFormat) -> Wanted {
    Wanted(match format {
        CameraFormat::Auto => &[MJPG, JPEG, YUYV],
        CameraFormat::Mjpeg => &[MJPG, JPEG],
        CameraFormat::Yuyv => &[YUYV],
    })
}

/// What an error of the kernel means.
fn fault(doing: &'static str) -> impl Fn(io::Error) -> CameraError {
    move |source| match source.raw_os_error() {
        Some(GONE) => CameraError::Gone,
        Some(BUSY) => CameraError::Busy,
        _ => CameraError::Io { doing, source },
    }
}
