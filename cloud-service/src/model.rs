//! What answers requests under one name and version: a network, or a cascade.

use std::sync::Arc;

use outpost_engine::CASCADE_OUTPUT;
use outpost_runtime::Manifest;

use crate::{
    batching::Batcher, cascade::CascadeModel, metrics::ModelMetrics, statistics::Statistics,
};

/// A model at work. Clones share it.
#[derive(Clone)]
pub(crate) enum Model {
    /// A network with its queue.
    Network(Arc<Batcher>),
    /// A cascade, from this site on.
    Cascade(Arc<CascadeModel>),
}

impl Model {
    /// The manifest of the network that sees an image first.
    pub(crate) fn manifest(&self) -> &Manifest {
        match self {
            Self::Network(batcher) => batcher.model().manifest(),
            Self::Cascade(cascade) => cascade.manifest(),
        }
    }

    /// Name of the output tensor.
    pub(crate) fn output(&self) -> &str {
        match self {
            Self::Network(batcher) => &batcher.model().manifest().output.tensor,
            Self::Cascade(_) => CASCADE_OUTPUT,
        }
    }

    pub(crate) fn metrics(&self) -> &ModelMetrics {
        match self {
            Self::Network(batcher) => batcher.metrics(),
            Self::Cascade(cascade) => cascade.metrics(),
        }
    }

    pub(crate) fn statistics(&self) -> &Statistics {
        match self {
            Self::Network(batcher) => batcher.statistics(),
            Self::Cascade(cascade) => cascade.statistics(),
        }
    }
}
