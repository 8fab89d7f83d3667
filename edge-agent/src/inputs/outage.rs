//! An input that gives no images: each cause is told once, and it is tried again after pauses that grow.

use std::time::Duration;

use backon::ExponentialBackoff;

use crate::{metrics::Metrics, pauses::pauses};

/// Whether images of an input come.
pub(super) struct Outage {
    input: String,
    /// Where it takes them from.
    source: String,
    metrics: Metrics,
    /// The pauses between attempts while nothing comes.
    pauses: Option<ExponentialBackoff>,
    /// The cause that was told last.
    told: Option<String>,
}

impl Outage {
    /// Until now they do.
    pub(super) fn new(input: &str, source: impl Into<String>, metrics: Metrics) -> Self {
        Self {
            input: input.to_owned(),
            source: source.into(),
            metrics,
            pauses: None,
            told: None,
        }
    }

    /// An image came.
    pub(super) fn came(&mut self) {
        self.told = None;
        if self.pauses.take().is_some() {
            tracing::info!(input = self.input, "images come again");
        }
    }

    /// None came; gives how long to wait.
    pub(super) fn failed(&mut self, error: &str) -> Duration {
        self.metrics.input_failed(&self.input);
        // Another cause is another thing to mend.
        if self.told.as_deref() != Some(error) {
            tracing::warn!(
                input = self.input,
                source = self.source,
                %error,
                "no images come"
            );
            self.told = Some(error.to_owned());
        }
        let pauses = self.pauses.get_or_insert_with(pauses);
        pauses.next().unwrap_or_default()
    }
}
