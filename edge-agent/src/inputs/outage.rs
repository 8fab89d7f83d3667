//! An input that gives no images: told once, and tried again after pauses that grow.

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
}

impl Outage {
    /// Until now they do.
    pub(super) fn new(input: &str, source: impl Into<String>, metrics: Metrics) -> Self {
        Self {
            input: input.to_owned(),
            source: source.into(),
            metrics,
            pauses: None,
        }
    }

    /// An image came.
    pub(super) fn came(&mut self) {
        if self.pauses.take().is_some() {
            tracing::info!(input = self.input, "images come again");
        }
    }

    /// None came; gives how long to wait.
    pub(super) fn failed(&mut self, error: &str) -> Duration {
        self.metrics.input_failed(&self.input);
        let pauses = self.pauses.get_or_insert_with(|| {
            tracing::warn!(
                input = self.input,
                source = self.source,
                %error,
                "no images come"
            );
            pauses()
        });
        pauses.next().unwrap_or_default()
    }
}
