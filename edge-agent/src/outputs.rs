//! Where events go: each output is a task that takes them from a bounded queue, in order.

mod file;
mod mqtt;
mod patience;
mod webhook;

use outpost_offload::Kind;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{
    config::{FileOutput, MqttOutput, OutputsConfig, WebhookOutput},
    event::{Event, WayIn},
    metrics::Metrics,
    web::WebError,
};

pub use file::FileError;
use file::RotatingFile;
use mqtt::Mqtt;
pub use mqtt::MqttError;
use patience::Patience;
use webhook::Webhook;

/// The outputs' names in metrics.
pub(crate) const FILE: &str = "file";
pub(crate) const WEBHOOK: &str = "webhook";
pub(crate) const MQTT: &str = "mqtt";
/// Events that may wait for the file. Whoever has another to announce waits with it.
const WAITING: usize = 64;

/// The outputs, until they have delivered what was announced.
#[derive(Debug)]
pub(crate) struct Outputs {
    tasks: Vec<JoinHandle<()>>,
}

/// Why an output cannot begin.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OutputError {
    /// The file cannot be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The web server cannot be called.
    #[error(transparent)]
    Webhook(#[from] WebError),
    /// The configuration of the MQTT broker is at fault.
    #[error(transparent)]
    Mqtt(#[from] MqttError),
}

impl Outputs {
    /// Opens the outputs; gives the ways in, too. Once `ending`, what cannot be delivered is given up.
    ///
    /// # Errors
    /// [`OutputError`], which names the file or field.
    pub(crate) fn start(
        config: &OutputsConfig,
        metrics: &Metrics,
        ending: &CancellationToken,
    ) -> Result<(Self, Vec<WayIn>), OutputError> {
        // Nothing is delivered where one of them cannot begin.
        let file = config.file.as_ref().map(RotatingFile::open).transpose()?;
        let webhook = config.webhook.as_ref();
        let webhook = webhook.map(|webhook| {
            let max_waiting = webhook.max_waiting;
            Webhook::open(webhook, metrics.clone()).map(|webhook| (webhook, max_waiting))
        });
        let webhook = webhook.transpose()?;
        let mqtt = config.mqtt.as_ref();
        let mqtt = mqtt.map(|mqtt| {
            let max_waiting = mqtt.max_waiting;
            Mqtt::open(mqtt, metrics.clone()).map(|mqtt| (mqtt, max_waiting))
        });
        let mqtt = mqtt.transpose()?;
        let (mut tasks, mut ways_in) = (Vec::new(), Vec::new());
        if let Some(file) = file {
            let (way_in, events) = WayIn::new(FILE, WAITING, metrics);
            let (metrics, ending) = (metrics.clone(), ending.clone());
            tasks.push(tokio::task::spawn_blocking(move || {
                file::write_all(file, events, &metrics, &ending);
            }));
            ways_in.push(way_in);
        }
        if let Some((webhook, max_waiting)) = webhook {
            let (way_in, events) = WayIn::new(WEBHOOK, max_waiting, metrics);
            let patience = Patience::new(ending.clone());
            tasks.push(tokio::spawn(webhook.deliver_all(events, patience)));
            ways_in.push(way_in);
        }
        if let Some((mqtt, max_waiting)) = mqtt {
            let (way_in, events) = WayIn::new(MQTT, max_waiting, metrics);
            let patience = Patience::new(ending.clone());
            tasks.push(tokio::spawn(mqtt.deliver_all(events, patience)));
            ways_in.push(way_in);
        }
        Ok((Self { tasks }, ways_in))
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

/// Whether a file of events that is there can be written. Nothing is.
pub(crate) fn look_at_file(config: &FileOutput) -> Result<(), FileError> {
    RotatingFile::look(config)
}

/// Whether a webhook's address and the files with its credentials can be used. It is not called.
pub(crate) fn look_at_webhook(config: &WebhookOutput) -> Result<(), WebError> {
    Webhook::open(config, Metrics::default()).map(drop)
}

/// Whether a broker's address and the files with its credentials can be used. It is not connected to.
pub(crate) fn look_at_mqtt(config: &MqttOutput) -> Result<(), MqttError> {
    Mqtt::open(config, Metrics::default()).map(drop)
}

/// Whether an output takes an event, by the kinds that it takes; with one that it does not it has done.
fn is_for(kinds: &[Kind], event: &Event) -> bool {
    let is_taken = kinds.contains(&event.kind);
    if !is_taken {
        event.delivered();
    }
    is_taken
}
