//! The networks being served.

use std::{collections::BTreeMap, sync::Arc};

use outpost_runtime::{ModelFolder, Runtime};

use crate::{
    batching::Batcher,
    config::{Config, ConfigError},
    error::ServiceError,
    metrics::Metrics,
    server::ServerError,
};

/// The one version of every model: the folder has no versions yet.
pub(crate) const VERSION: &str = "1";

/// Loaded networks by name, each behind its queue.
#[derive(Clone, Default)]
pub struct Models(BTreeMap<String, Arc<Batcher>>);

impl Models {
    /// Loads the networks of a configuration, or every network whose weights are in the folder where it
    /// names none, and starts their instances.
    ///
    /// # Errors
    /// [`ServerError::Model`] for the first that does not load, [`ServerError::Config`] where the
    /// configuration speaks of a network that there is not, [`ServerError::Threads`].
    pub fn load(
        config: &Config,
        runtime: &dyn Runtime,
        metrics: &Metrics,
    ) -> Result<Self, ServerError> {
        let folder = ModelFolder::new(&config.models);
        let present = folder.names()?;
        if let Some(name) = config.network.keys().find(|name| !present.contains(name)) {
            return Err(ServerError::Config(ConfigError::NoSuchNetwork {
                name: name.clone(),
                present,
            }));
        }
        let mut names = config.networks.clone();
        if names.is_empty() {
            for name in present {
                if folder.weights_path(&folder.manifest(&name)?).is_file() {
                    names.push(name);
                } else {
                    tracing::info!(network = %name, "not served: its weights are not in the folder");
                }
            }
        }
        names
            .into_iter()
            .map(|name| {
                let classifier = folder.open(&name, runtime)?;
                tracing::info!(network = %name, runtime = runtime.name(), "loaded");
                let batcher = Batcher::start(
                    Arc::new(classifier),
                    config.batching(&name),
                    metrics.of_model(&name),
                )
                .map_err(ServerError::Threads)?;
                Ok((name, Arc::new(batcher)))
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Names of the networks, sorted.
    pub fn names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    /// A network by name and version; an empty version leaves the choice to the server.
    ///
    /// # Errors
    /// [`ServiceError::NoSuchModel`], [`ServiceError::NoSuchVersion`].
    pub(crate) fn find(&self, name: &str, version: &str) -> Result<&Arc<Batcher>, ServiceError> {
        let model = self.0.get(name).ok_or_else(|| ServiceError::NoSuchModel {
            name: name.to_owned(),
            present: self.names(),
        })?;
        if version.is_empty() || version == VERSION {
            Ok(model)
        } else {
            Err(ServiceError::NoSuchVersion {
                name: name.to_owned(),
                version: version.to_owned(),
            })
        }
    }
}
