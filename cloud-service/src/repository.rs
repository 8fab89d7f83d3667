//! The networks being served: which versions, and how they change while the service runs.
//!
//! A version is served as soon as it is loaded, and as long as a request holds it: one that is replaced or
//! unloaded still answers what it accepted. A version that does not load leaves the old one serving.

use std::{
    collections::BTreeMap,
    error::Error,
    fs, io,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::Duration,
};

use anyhow::Chain;
use outpost_runtime::{ModelFolder, OpenError, RuntimeError, RuntimeKind};
use outpost_transport::Channel;
use sha2::{Digest, Sha256};

use crate::{
    batching::{Batcher, Instances},
    cascade::{CascadeError, CascadeModel},
    config::{Config, ConfigError, Mode, Versions},
    error::ServiceError,
    metrics::Metrics,
    model::Model,
    server::ServerError,
};

/// The networks of a folder, those that are served and those that are not.
pub struct Repository {
    config: Arc<Config>,
    folder: ModelFolder,
    metrics: Metrics,
    served: RwLock<Served>,
    /// By name. They are there from the start to the end.
    cascades: BTreeMap<String, Arc<CascadeModel>>,
    /// Why networks, or versions of them, that should be served are not, or are still the old ones.
    failures: Mutex<BTreeMap<(String, Option<u64>), Failure>>,
    /// Held by who changes what is served.
    changing: Mutex<()>,
    /// Threads that run networks.
    instances: Instances,
}

/// Versions by the names of their networks; none of a network that is not served.
type Served = BTreeMap<String, BTreeMap<u64, Version>>;

/// A version that is served.
struct Version {
    batcher: Arc<Batcher>,
    /// Its manifest, which holds the digest of its weights.
    manifest: Option<[u8; 32]>,
}

struct Failure {
    reason: String,
    /// The files that did not load: tried again once they change.
    files: Option<[u8; 32]>,
}

/// A version of a model, at work.
pub(crate) struct Found {
    pub(crate) model: Model,
    pub(crate) version: u64,
}

/// A cascade has one version.
const CASCADE_VERSION: u64 = 1;

/// A line of the repository's index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Indexed {
    pub(crate) name: String,
    /// `None` where the network as a whole is at fault.
    pub(crate) version: Option<u64>,
    pub(crate) is_ready: bool,
    /// Why it is not ready, or is not what the folder holds.
    pub(crate) reason: String,
}

/// Why a network does not load.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// Its files are at fault.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Its runtime or device is missing.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// The system has no thread to give for its instances.
    #[error(
        "cannot start the network's instances: lower `instances`, or raise the limit on processes"
    )]
    Threads(#[source] io::Error),
}

/// Why the repository did not change.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RepositoryError {
    /// Callers may not change it.
    #[error(
        "models are not loaded and unloaded by callers here: set `repository.mode = \"explicit\"`"
    )]
    NotExplicit,
    /// There is one repository, without a name.
    #[error("there is no repository {0:?}: leave `repository_name` empty")]
    NoSuchRepository(String),
    /// A parameter that is not understood.
    #[error("the parameter {0:?} is not supported: leave it out")]
    Parameter(String),
    /// The network does not load. A status carries one message, so that it tells the sources too.
    #[error("{}", chain(.0))]
    Load(#[from] LoadError),
}

/// An error with its sources.
fn chain(error: &(dyn Error + 'static)) -> String {
    let causes: Vec<String> = Chain::new(error).map(ToString::to_string).collect();
    causes.join(": ")
}

impl Repository {
    /// Loads the networks of a configuration, or every network whose weights are in the folder where it
    /// names none; none at all where callers load them and it names none. Where the folder is followed,
    /// what does not load is told in the log and the index.
    ///
    /// # Errors
    /// [`ServerError::Model`] for the first that does not load, [`ServerError::Config`] where the
    /// configuration speaks of a network that there is not.
    pub fn load(config: Arc<Config>, metrics: Metrics) -> Result<Self, ServerError> {
        let mode = config.repository.mode;
        let folder = ModelFolder::new(&config.models);
        let present = folder.names().map_err(LoadError::from)?;
        let mut cascades = BTreeMap::new();
        for served in &config.cascades {
            let cascade = CascadeModel::start(served, &config, &folder, &metrics)?;
            let name = cascade.name().to_owned();
            if present.contains(&name) || cascades.contains_key(&name) {
                return Err(CascadeError::NameTaken(name).into());
            }
            cascades.insert(name, Arc::new(cascade));
        }
        if let Some(name) = config
            .network
            .keys()
            .find(|name| !present.contains(name) && !cascades.contains_key(*name))
        {
            if mode == Mode::Fixed {
                return Err(ServerError::Config(ConfigError::NoSuchNetwork {
                    name: name.clone(),
                    present,
                }));
            }
            tracing::warn!(network = %name, "configured, and not in the model folder yet");
        }
        let repository = Self {
            folder,
            metrics,
            served: RwLock::default(),
            cascades,
            failures: Mutex::default(),
            changing: Mutex::default(),
            instances: Instances::default(),
            config,
        };
        let wanted = repository.wanted().map_err(LoadError::from)?;
        let all = repository.config.networks.is_empty() && mode != Mode::Explicit;
        for name in present.iter().filter(|name| all && !wanted.contains(name)) {
            tracing::info!(network = %name, "not served: its weights are not in the folder");
        }
        if mode == Mode::Poll {
            repository.follow_folder();
            return Ok(repository);
        }
        for name in &wanted {
            repository.load_network(name)?;
        }
        Ok(repository)
    }

    /// Unloads all networks and waits until no instance runs: a runtime's library must not be unloaded, as the
    /// end of the program does, while it works.
    pub(crate) async fn end(&self) {
        let unloaded = std::mem::take(&mut *self.write());
        // Outside of the lock.
        drop(unloaded);
        self.instances.running.close();
        self.instances.running.wait().await;
    }

    /// Has the cascades call the next service over another channel from now on.
    pub(crate) fn call_over(&self, next: &[Channel]) {
        for cascade in self.cascades.values() {
            cascade.call_over(next);
        }
    }

    /// How long the oldest batch or image has been worked on; none where nothing is.
    pub(crate) fn oldest(&self) -> Option<Duration> {
        let cascades = self.cascades.values().filter_map(|one| one.oldest());
        cascades.chain(self.instances.batches.oldest()).max()
    }

    /// Names of the networks that should be served, as the folder is now.
    fn wanted(&self) -> Result<Vec<String>, OpenError> {
        if !self.config.networks.is_empty() {
            return Ok(self.config.networks.clone());
        }
        if self.config.repository.mode == Mode::Explicit {
            return Ok(Vec::new());
        }
        let mut wanted = self.folder.names()?;
        wanted.retain(|name| self.read().contains_key(name) || self.has_weights(name));
        Ok(wanted)
    }

    /// Whether the weights of a network are there, or its manifest is at fault, which loading will tell.
    fn has_weights(&self, name: &str) -> bool {
        match self.folder.manifest(name) {
            Ok(manifest) => self.folder.weights_path(&manifest).is_file(),
            Err(_) => true,
        }
    }

    /// Names of the networks that are served, sorted.
    pub fn names(&self) -> Vec<String> {
        self.read().keys().cloned().collect()
    }

    /// What runs a network, as the protocol names it.
    pub(crate) fn platform(&self, network: &str) -> &'static str {
        match self.config.runtime(network).kind {
            RuntimeKind::Tract | RuntimeKind::TractCuda => "tract_onnx",
            // The name that clients of Triton know.
            RuntimeKind::OnnxRuntime => "onnxruntime_onnx",
        }
    }

    /// Names of the cascades that are served, sorted.
    pub fn cascades(&self) -> Vec<String> {
        self.cascades.keys().cloned().collect()
    }

    /// A network by name and version; an empty version is the latest that is served.
    ///
    /// # Errors
    /// [`ServiceError::NoSuchModel`], [`ServiceError::NoSuchVersion`].
    pub(crate) fn find(&self, name: &str, version: &str) -> Result<Found, ServiceError> {
        let mut all = self.find_all(name, version)?;
        Ok(all.pop().expect("a network that is found has a version"))
    }

    /// All versions of a network, the latest last, or the one that is named.
    ///
    /// # Errors
    /// [`ServiceError::NoSuchModel`], [`ServiceError::NoSuchVersion`]; never an empty list.
    pub(crate) fn find_all(&self, name: &str, version: &str) -> Result<Vec<Found>, ServiceError> {
        let no_such_version = |present| ServiceError::NoSuchVersion {
            name: name.to_owned(),
            version: version.to_owned(),
            present,
        };
        if let Some(cascade) = self.cascades.get(name) {
            let found = matching_cascade(cascade, version);
            return match found {
                Some(found) => Ok(vec![found]),
                None => Err(no_such_version(vec![CASCADE_VERSION])),
            };
        }
        let served = self.read();
        let versions = served.get(name).ok_or_else(|| ServiceError::NoSuchModel {
            name: name.to_owned(),
            present: served.keys().chain(self.cascades.keys()).cloned().collect(),
        })?;
        let found: Vec<Found> = matching(versions, version).collect();
        if found.is_empty() {
            return Err(no_such_version(versions.keys().copied().collect()));
        }
        Ok(found)
    }

    /// Every network's versions, or those of the number that is named, at one moment.
    pub(crate) fn all(&self, version: &str) -> Vec<(String, Found)> {
        let served = self.read();
        let of_all = served.iter().flat_map(|(name, versions)| {
            matching(versions, version).map(|found| (name.clone(), found))
        });
        let cascades = self.cascades.iter().filter_map(|(name, cascade)| {
            matching_cascade(cascade, version).map(|found| (name.clone(), found))
        });
        of_all.chain(cascades).collect()
    }

    /// All versions that are served, or that the folder holds. Reads the folder: call it on a blocking
    /// thread.
    pub(crate) fn index(&self) -> Vec<Indexed> {
        let mut index = BTreeMap::new();
        for name in self.folder.names().unwrap_or_default() {
            for version in self.folder.versions(&name).unwrap_or_default() {
                let entry = (false, "not loaded".to_owned());
                index.insert((name.clone(), Some(version)), entry);
            }
        }
        for (name, found) in self.all("") {
            index.insert((name, Some(found.version)), (true, String::new()));
        }
        for (key, failure) in &*self.failures() {
            let entry: &mut (bool, String) = index.entry(key.clone()).or_default();
            entry.1.clone_from(&failure.reason);
        }
        index
            .into_iter()
            .map(|((name, version), (is_ready, reason))| Indexed {
                name,
                version,
                is_ready,
                reason,
            })
            .collect()
    }

    /// Loads a network, or again where it changed: the versions that its policy chooses. Takes the time
    /// of loading: call it on a blocking thread.
    ///
    /// # Errors
    /// [`LoadError`]; what was served before still is.
    pub(crate) fn load_network(&self, name: &str) -> Result<(), LoadError> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let policy = self.config.versions(name);
        let present = self.folder.versions(name)?;
        let chosen = policy.choose(&present);
        if chosen.is_empty() {
            // The folder says best what is missing; where it came just now, it is loaded the next time.
            self.folder.manifest(name)?;
            return Ok(());
        }
        let mut loaded = Ok(());
        for &version in &chosen {
            loaded = loaded.and(self.load_version(name, version));
        }
        self.failures().retain(|(failed, version), _| {
            failed != name || version.is_some_and(|v| chosen.contains(&v))
        });
        if loaded.is_ok() {
            // Only when all of the new serve do the old end; outside of the lock.
            let mut retired = BTreeMap::new();
            if let Some(versions) = self.write().get_mut(name) {
                let (kept, old) = std::mem::take(versions)
                    .into_iter()
                    .partition(|(version, _)| chosen.contains(version));
                (*versions, retired) = (kept, old);
            }
            drop(retired);
        } else if let Versions::Latest(_) = policy
            && !self.read().contains_key(name)
        {
            // After a start nothing older serves yet: the latest that loads does.
            let older = present
                .iter()
                .rev()
                .filter(|version| !chosen.contains(version));
            let _ = older
                .map(|&version| self.load_version(name, version))
                .find(Result::is_ok);
        }
        loaded
    }

    fn load_version(&self, name: &str, version: u64) -> Result<(), LoadError> {
        let path = self.folder.manifest_path(name, version);
        // One that cannot be read is told on opening.
        let manifest = fs::read(&path).ok().map(|text| Sha256::digest(text).into());
        let is_served = self
            .read()
            .get(name)
            .and_then(|versions| versions.get(&version))
            .is_some_and(|served| manifest.is_some() && served.manifest == manifest);
        let key = (name.to_owned(), Some(version));
        if is_served {
            self.failures().remove(&key);
            return Ok(());
        }
        let sessions = self.config.batching(name).instances;
        let runtime = match self.config.runtime(name).open(sessions) {
            Ok(runtime) => runtime,
            Err(error) => {
                let error = LoadError::from(error);
                self.failed((name.to_owned(), Some(version)), chain(&error));
                return Err(error);
            }
        };
        let opened = self.folder.open_version(name, version, &*runtime);
        let started = opened.map_err(LoadError::Open).and_then(|classifier| {
            Batcher::start(
                Arc::new(classifier),
                self.config.batching(name),
                self.metrics.of_model(name),
                &self.instances,
            )
            .map_err(LoadError::Threads)
        });
        let batcher = match started {
            Ok(batcher) => Arc::new(batcher),
            Err(error) => {
                self.failed(key, chain(&error));
                return Err(error);
            }
        };
        tracing::info!(network = %name, version, runtime = runtime.name(), runtime_version = runtime.version(), "loaded");
        self.failures().remove(&key);
        let replaced = self
            .write()
            .entry(name.to_owned())
            .or_default()
            .insert(version, Version { batcher, manifest });
        // Outside of the lock.
        drop(replaced);
        Ok(())
    }

    /// Tells a failure in the index, and in the log where it is a new one.
    fn failed(&self, key: (String, Option<u64>), reason: String) {
        let known = self.failures().get(&key).map(|known| known.reason.clone());
        if known.as_ref() != Some(&reason) {
            tracing::warn!(network = %key.0, version = key.1, "does not load: {reason}");
        }
        let files = key.1.and_then(|version| self.files(&key.0, version));
        self.failures().insert(key, Failure { reason, files });
    }

    /// What tells the files of a version from others: names, sizes and times.
    fn files(&self, name: &str, version: u64) -> Option<[u8; 32]> {
        let path = self.folder.manifest_path(name, version);
        let mut files = Vec::new();
        for entry in fs::read_dir(path.parent()?).ok()? {
            let entry = entry.ok()?;
            let about = entry.metadata().ok()?;
            files.push((entry.file_name(), about.len(), about.modified().ok()));
        }
        files.sort();
        Some(Sha256::digest(format!("{files:?}")).into())
    }

    /// Unloads a network; what it accepted is still answered. One that is not loaded stays so.
    pub(crate) fn unload_network(&self, name: &str) {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let unloaded = self.write().remove(name);
        self.failures().retain(|(failed, _), _| failed != name);
        if unloaded.is_some() {
            tracing::info!(network = %name, "unloaded");
        }
    }

    /// Makes what is served what the folder holds. What does not load is told in the log and the index.
    pub(crate) fn follow_folder(&self) {
        let wanted = match self.wanted() {
            Ok(wanted) => wanted,
            Err(error) => {
                tracing::warn!("the model folder cannot be followed: {}", chain(&error));
                return;
            }
        };
        for name in &wanted {
            if self.failed_as_it_is(name) {
                continue;
            }
            // That of a version is told already.
            if let Err(error) = self.load_network(name)
                && self
                    .folder
                    .versions(name)
                    .is_ok_and(|present| present.is_empty())
            {
                self.failed((name.clone(), None), chain(&error));
            }
        }
        let failed: Vec<String> = self
            .failures()
            .keys()
            .map(|(name, _)| name.clone())
            .collect();
        for name in self.names().into_iter().chain(failed) {
            if !wanted.contains(&name) {
                self.unload_network(&name);
            }
        }
    }

    /// Whether the versions that should be served are those that did not load the last time.
    fn failed_as_it_is(&self, name: &str) -> bool {
        let present = self.folder.versions(name).unwrap_or_default();
        let chosen = self.config.versions(name).choose(&present);
        let failures = self.failures();
        let failed = |&version: &u64| {
            let failure = failures.get(&(name.to_owned(), Some(version)));
            failure.is_some_and(|failure| {
                failure.files.is_some() && failure.files == self.files(name, version)
            })
        };
        !chosen.is_empty() && chosen.iter().all(failed)
    }

    /// Whether callers may load and unload.
    ///
    /// # Errors
    /// [`RepositoryError::NotExplicit`].
    pub(crate) fn check_explicit(&self) -> Result<(), RepositoryError> {
        match self.config.repository.mode {
            Mode::Explicit => Ok(()),
            Mode::Fixed | Mode::Poll => Err(RepositoryError::NotExplicit),
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Served> {
        self.served.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Served> {
        self.served.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn failures(&self) -> MutexGuard<'_, BTreeMap<(String, Option<u64>), Failure>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn matching_cascade(cascade: &Arc<CascadeModel>, wanted: &str) -> Option<Found> {
    let is_wanted = wanted.is_empty() || wanted == CASCADE_VERSION.to_string();
    is_wanted.then(|| Found {
        model: Model::Cascade(cascade.clone()),
        version: CASCADE_VERSION,
    })
}

/// All versions, the latest last, or the one that is named as it is written here.
fn matching<'a>(
    versions: &'a BTreeMap<u64, Version>,
    wanted: &'a str,
) -> impl Iterator<Item = Found> + 'a {
    versions
        .iter()
        .filter(move |(version, _)| wanted.is_empty() || version.to_string() == wanted)
        .map(|(&version, served)| Found {
            model: Model::Network(served.batcher.clone()),
            version,
        })
}

#[cfg(test)]
mod tests;
