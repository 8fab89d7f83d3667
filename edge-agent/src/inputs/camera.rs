//! Images of a camera on this machine.
//!
//! The camera has a thread of its own: a driver may take its time over a call. Where no frames come the camera is opened again
//! after pauses that grow, as one that was unplugged may be there again.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    thread,
    time::{Duration, Instant},
};

use outpost_engine::error_chain;
use tokio::{runtime::Handle, sync::oneshot, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{InputError, newest::Newest, outage::Outage};
use crate::{
    camera::{CameraError, Capture, Frame, FrameError},
    config::CameraConfig,
    metrics::Metrics,
    power::Power,
};

/// The longest wait for a frame at a time: how long the program's end may go unnoticed.
const LOOK: Duration = Duration::from_millis(200);
/// How long a thread is waited for at the end; one that is within the driver for longer is left to the end of the process.
const PATIENCE: Duration = Duration::from_secs(2);

/// A camera, and how its frames are taken.
pub(super) struct Camera {
    name: String,
    every: Duration,
    timeout: Duration,
    max_bytes: usize,
    newest: Newest,
    metrics: Metrics,
    power: Power,
    outage: Outage,
}

impl Camera {
    pub(super) fn new(
        config: &CameraConfig,
        max_bytes: usize,
        newest: Newest,
        metrics: Metrics,
        power: Power,
    ) -> Self {
        Self {
            name: config.name.clone(),
            every: Duration::from_millis(config.every_ms),
            timeout: Duration::from_millis(config.timeout_ms),
            max_bytes,
            newest,
            outage: Outage::new(
                &config.name,
                config.device.display().to_string(),
                metrics.clone(),
            ),
            metrics,
            power,
        }
    }

    /// Takes frames of what `open` opens, on a thread of its own, until `ending`. Gives what waits for its end.
    ///
    /// Must be called in a tokio runtime.
    pub(super) fn start<O>(
        self,
        open: O,
        ending: CancellationToken,
    ) -> Result<impl Future<Output = ()> + Send + use<O>, InputError>
    where
        O: FnMut() -> Result<Box<dyn Capture>, CameraError> + Send + 'static,
    {
        let (ended, has_ended) = oneshot::channel::<()>();
        let (runtime, token) = (Handle::current(), ending.clone());
        let watch = move || {
            self.watch(open, &runtime, &token);
            drop(ended);
        };
        let thread = thread::Builder::new().name("camera".to_owned());
        let _detached = thread.spawn(watch).map_err(InputError::Thread)?;
        Ok(async move {
            ending.cancelled().await;
            // Its end is that nobody is left to tell it.
            let _ = timeout(PATIENCE, has_ended).await;
        })
    }

    /// Opens the camera and takes its frames, again and again.
    fn watch(
        mut self,
        mut open: impl FnMut() -> Result<Box<dyn Capture>, CameraError>,
        runtime: &Handle,
        ending: &CancellationToken,
    ) {
        while !ending.is_cancelled() {
            // What a driver says is not believed to be right.
            let visit = AssertUnwindSafe(|| self.visit(&mut open, runtime, ending));
            let visit = catch_unwind(visit).unwrap_or(Err(CameraError::Crashed));
            if let Err(error) = visit {
                pause(self.outage.failed(&error_chain(&error)), runtime, ending);
            }
        }
    }

    /// Takes frames until the camera gives none, or the program ends.
    fn visit(
        &mut self,
        open: &mut impl FnMut() -> Result<Box<dyn Capture>, CameraError>,
        runtime: &Handle,
        ending: &CancellationToken,
    ) -> Result<(), CameraError> {
        let mut capture = open()?;
        tracing::info!(input = self.name, format = %capture.format(), "the camera is open");
        let mut next = Instant::now();
        while !ending.is_cancelled() {
            let Some(frame) = self.frame(&mut *capture, ending)? else {
                break;
            };
            self.outage.came();
            self.newest.put(frame);
            let now = Instant::now();
            next = (next + self.every * self.power.slowdown()).max(now);
            if next > now {
                pause(next - now, runtime, ending);
                capture.forget()?;
            }
        }
        Ok(())
    }

    /// The next whole frame; none where the program ends.
    fn frame(
        &self,
        capture: &mut dyn Capture,
        ending: &CancellationToken,
    ) -> Result<Option<Frame>, CameraError> {
        let format = capture.format();
        let started = Instant::now();
        let mut defect: Option<FrameError> = None;
        while !ending.is_cancelled() {
            let left = self.timeout.saturating_sub(started.elapsed());
            if left.is_zero() {
                return Err(defect.map_or(CameraError::Silent, CameraError::Defective));
            }
            let mut frame = None;
            let mut show = |bytes: Result<&[u8], FrameError>| {
                frame = Some(bytes.and_then(|bytes| Frame::new(&format, bytes, self.max_bytes)));
            };
            capture.next(LOOK.min(left), &mut show)?;
            match frame {
                Some(Ok(frame)) => return Ok(Some(frame)),
                Some(Err(error)) => {
                    self.metrics.input_failed(&self.name);
                    if defect.replace(error).is_none() {
                        tracing::warn!(
                            input = self.name,
                            %error,
                            "what the camera gave is no frame"
                        );
                    }
                }
                None => {}
            }
        }
        Ok(None)
    }
}

/// Waits for so long, or until the program ends.
fn pause(long: Duration, runtime: &Handle, ending: &CancellationToken) {
    let _ended = runtime.block_on(async { timeout(long, ending.cancelled()).await });
}

#[cfg(test)]
mod tests;
