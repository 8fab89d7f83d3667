//! Cameras on this machine: whether each opens, and gives a frame.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};

use outpost_engine::error_chain;
use tokio::task::spawn_blocking;

use super::{Examination, Finding};
use crate::{
    camera::{CameraError, Format, Frame, open},
    config::{CameraConfig, Config},
};

/// Opens each camera and takes a frame.
pub(super) async fn examine(config: &Config, examination: &mut Examination<'_>) {
    for camera in &config.cameras {
        let subject = Finding::new(
            "camera",
            format!("{} {}", camera.name, camera.device.display()),
        );
        examination.look_at(&format!("the camera {}", camera.name));
        let owned = camera.clone();
        let max_bytes = config.images.max_bytes;
        let taken = spawn_blocking(move || {
            let take = AssertUnwindSafe(|| take(&owned, max_bytes));
            catch_unwind(take).unwrap_or(Err(CameraError::Crashed))
        });
        let taken = taken.await.unwrap_or(Err(CameraError::Crashed));
        examination.add(match taken {
            Ok((format, frame)) => {
                let bytes = match frame {
                    Frame::Encoded(image) => format!(" of {} bytes", image.len()),
                    Frame::Yuyv(_) => String::new(),
                };
                subject.good(format!("gives frames: {format}, the first{bytes}"))
            }
            Err(error @ CameraError::Busy) => subject.warning(
                format!("{error}: well if that is this edge-agent"),
                "if it is another program, end that one",
            ),
            Err(error) => subject.failed(
                error_chain(&error),
                "plug it in where it is not, and see `device`, `format`, `width` and `height` of `[[cameras]]`",
            ),
        });
    }
}

/// The first whole frame of a camera; those right after the start may be cut short.
fn take(config: &CameraConfig, max_bytes: usize) -> Result<(Format, Frame), CameraError> {
    let mut capture = open(config)?;
    let format = capture.format();
    let deadline = Instant::now() + Duration::from_millis(config.timeout_ms);
    let mut defect = None;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(defect.map_or(CameraError::Silent, CameraError::Defective));
        }
        let mut frame = None;
        capture.next(left, &mut |bytes| {
            frame = Some(bytes.and_then(|bytes| Frame::new(&format, bytes, max_bytes)));
        })?;
        match frame {
            Some(Ok(frame)) => return Ok((format, frame)),
            Some(Err(error)) => defect = Some(error),
            None => {}
        }
    }
}
