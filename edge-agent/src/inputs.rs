//! Where images come from, beside the API.

mod folder;

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{config::FolderConfig, intake::Intake};
pub use folder::FolderError;

/// Starts to watch folders, until `ending`.
///
/// # Errors
/// [`FolderError`], which names the folder.
pub(crate) fn watch(
    folders: &[FolderConfig],
    intake: &Intake,
    ending: &CancellationToken,
    tasks: &TaskTracker,
) -> Result<(), FolderError> {
    for config in folders {
        let folder = folder::Folder::open(config, intake.clone())?;
        tasks.spawn(folder.watch(ending.clone()));
    }
    Ok(())
}
