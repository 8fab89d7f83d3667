//! Where events go: each output is a task that takes them from a bounded queue, in order.

mod file;

use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{config::OutputsConfig, event::WayIn, metrics::Metrics};

pub use file::FileError;
use file::RotatingFile;

/// Events that may wait for an output. Whoever has another to announce waits with it.
const WAITING: usize = 64;

/// The outputs, until they have delivered what was announced.
#[derive(Debug)]
pub(crate) struct Outputs {
    tasks: Vec<JoinHandle<()>>,
}

impl Outputs {
    /// Opens the outputs; gives the ways in, too. Once `ending`, what cannot be delivered is given up.
    ///
    /// # Errors
    /// [`FileError`], which names the file.
    pub(crate) fn start(
        config: &OutputsConfig,
        metrics: &Metrics,
        ending: &CancellationToken,
    ) -> Result<(Self, Vec<WayIn>), FileError> {
        let (mut tasks, mut senders) = (Vec::new(), Vec::new());
        if let Some(file) = &config.file {
            let (sender, events) = mpsc::channel(WAITING);
            let file = RotatingFile::open(file)?;
            let (metrics, ending) = (metrics.clone(), ending.clone());
            tasks.push(tokio::task::spawn_blocking(move || {
                file::write_all(file, events, &metrics, &ending);
            }));
            senders.push(sender);
        }
        Ok((Self { tasks }, senders))
    }

    /// Waits until all that was announced is delivered; the ways in must be gone.
    pub(crate) async fn end(self) {
        for task in self.tasks {
            if let Err(error) = task.await {
                tracing::error!(%error, "an output ended before its time");
            }
        }
    }
}
