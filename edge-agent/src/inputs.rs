//! Where images come from, beside the API.

mod camera;
mod folder;
mod newest;
mod outage;
mod parts;
mod url;

use std::io;

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    camera::open,
    config::{Config, UrlConfig},
    intake::Intake,
    metrics::Metrics,
    power::Power,
    web::WebError,
};
use camera::Camera;
pub use folder::FolderError;

/// Why an input cannot begin.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InputError {
    /// A folder cannot be watched.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// A web server cannot be called.
    #[error(transparent)]
    Url(#[from] WebError),
    /// The system gives no thread to a camera.
    #[error("there is no thread for a camera: the system has too many")]
    Thread(#[source] io::Error),
}

/// Starts to take what comes to folders, from web servers and from cameras, until `ending`.
///
/// # Errors
/// [`InputError`], which names the folder or field.
pub(crate) fn watch(
    config: &Config,
    intake: &Intake,
    metrics: &Metrics,
    power: &Power,
    ending: &CancellationToken,
    tasks: &TaskTracker,
) -> Result<(), InputError> {
    for folder in &config.folders {
        let max_bytes = config.images.max_bytes;
        let folder = folder::Folder::open(folder, max_bytes, intake.clone(), metrics)?;
        tasks.spawn(folder.watch(ending.clone()));
    }
    for url in &config.urls {
        let (newest, frames) = newest::newest(&url.name, metrics.clone());
        let max_bytes = config.images.max_bytes;
        let camera = url::Camera::new(url, max_bytes, newest, metrics.clone(), power.clone())?;
        tasks.spawn(ending.clone().run_until_cancelled_owned(camera.watch()));
        tasks.spawn(frames.answer(intake.clone(), ending.clone()));
    }
    for camera in &config.cameras {
        let (newest, frames) = newest::newest(&camera.name, metrics.clone());
        let owned = camera.clone();
        let open = move || open(&owned);
        let max_bytes = config.images.max_bytes;
        let camera = Camera::new(camera, max_bytes, newest, metrics.clone(), power.clone());
        tasks.spawn(camera.start(open, ending.clone())?);
        tasks.spawn(frames.answer(intake.clone(), ending.clone()));
    }
    Ok(())
}

/// Whether an address and the files with its credentials can be used. It is not called.
pub(crate) fn look_at_url(config: &UrlConfig) -> Result<(), WebError> {
    url::server(config).map(drop)
}
