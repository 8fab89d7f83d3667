//! The networks being served.

use std::{collections::BTreeMap, sync::Arc};

use outpost_runtime::{ModelFolder, OpenError, Runtime};

use crate::{batching::Batcher, config::Config, error::ServiceError};

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
    /// The first [`OpenError`]; a network that is named must load.
    pub fn load(config: &Config, runtime: &dyn Runtime) -> Result<Self, OpenError> {
        let folder = ModelFolder::new(&config.models);
        let mut names = config.networks.clone();
        if names.is_empty() {
            for name in folder.names()? {
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
                let batcher = Batcher::start(Arc::new(classifier), config.batching(&name));
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
