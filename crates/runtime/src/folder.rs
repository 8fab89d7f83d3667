//! The model folder: one sub-folder a network, each with a `model.toml`, or with a sub-folder a version
//! (`1`, `2`, …) that has one.

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::{
    classifier::Classifier,
    files::{Digested, Files},
    labels::Labels,
    manifest::{Manifest, ManifestError},
    network::{Features, GraphSpec, LoadError, Runtime, StagedSpec},
    staged::StagedClassifier,
};

/// Name of the file of a manifest.
const MANIFEST: &str = "model.toml";

/// A folder of networks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelFolder {
    path: PathBuf,
    files: Files,
}

/// Why a network could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The folder cannot be listed.
    #[error("cannot list the folder {}", path.display())]
    List {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No such network.
    #[error("there is no network {name:?} in {}; there are {present:?}", path.display())]
    NoSuchNetwork {
        /// The name asked for.
        name: String,
        /// The folder.
        path: PathBuf,
        /// The names it has.
        present: Vec<String>,
    },
    /// No such version.
    #[error("the network {name:?} has no version {version}; it has {present:?}")]
    NoSuchVersion {
        /// The network.
        name: String,
        /// The version asked for.
        version: u64,
        /// The versions it has.
        present: Vec<u64>,
    },
    /// The manifest is at fault.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The manifest stands in a folder of another name.
    #[error("the manifest in the folder {folder:?} names the network {name:?}: make them equal")]
    Name {
        /// Name of the folder.
        folder: String,
        /// Name in the manifest.
        name: String,
    },
    /// The weights are not there.
    #[error("the weights of {name:?} are missing ({}): {hint}", path.display())]
    NoWeights {
        /// Name of the network.
        name: String,
        /// Where they were looked for.
        path: PathBuf,
        /// What to do.
        hint: String,
    },
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The weights are not those of the manifest.
    #[error(
        "{} is not the file of the manifest: its SHA-256 is {found}, the manifest says {expected}; fetch it again or correct the manifest",
        path.display()
    )]
    Digest {
        /// The file.
        path: PathBuf,
        /// By the manifest.
        expected: String,
        /// By the file.
        found: String,
    },
    /// There are fewer labels than classes.
    #[error("{} has {found} labels where the network has {expected} classes", path.display())]
    Labels {
        /// The file of labels.
        path: PathBuf,
        /// Classes by the manifest.
        expected: usize,
        /// Lines in the file.
        found: usize,
    },
    /// The network has no exit of that name.
    #[error("the network {name:?} has no exit {exit:?}; it has {known:?}")]
    NoSuchExit {
        /// The network.
        name: String,
        /// The exit that was asked for.
        exit: String,
        /// Those that its manifest declares.
        known: Vec<String>,
    },
    /// The runtime refused the graph.
    #[error("cannot load the network {name:?}")]
    Load {
        /// Name of the network.
        name: String,
        /// Why.
        source: LoadError,
    },
}

impl ModelFolder {
    /// Names a folder, without reading it.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            files: Files::Disk,
        }
    }

    /// A folder of files in memory, by their paths from it: where there is no disk.
    pub fn in_memory(files: impl IntoIterator<Item = (PathBuf, Digested)>) -> Self {
        Self {
            path: PathBuf::new(),
            files: Files::in_memory(files),
        }
    }

    /// What is in a file of the folder.
    ///
    /// # Errors
    /// [`OpenError::Read`].
    pub fn read_file(&self, path: &Path) -> Result<Bytes, OpenError> {
        let path = self.path.join(path);
        self.files
            .read(&path)
            .map_err(|source| OpenError::Read { path, source })
    }

    /// The folder's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names of the networks, sorted.
    ///
    /// # Errors
    /// [`OpenError::List`] when the folder cannot be read.
    pub fn names(&self) -> Result<Vec<String>, OpenError> {
        let mut names = Vec::new();
        for name in self.list(&self.path)? {
            // What cannot be read is no network.
            if self
                .versions(&name)
                .is_ok_and(|versions| !versions.is_empty())
            {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// Versions of a network, the latest last; 1 alone where its folder has a manifest of its own. Empty
    /// where there is no such network.
    ///
    /// # Errors
    /// [`OpenError::List`] when the network's folder cannot be read.
    pub fn versions(&self, name: &str) -> Result<Vec<u64>, OpenError> {
        // A name may come from a peer: it leads nowhere but into this folder.
        let is_one_name = Path::new(name).file_name().is_some_and(|last| last == name);
        let folder = self.path.join(name);
        if !is_one_name || !self.files.is_dir(&folder) {
            return Ok(Vec::new());
        }
        if self.has_manifest(&folder) {
            return Ok(vec![1]);
        }
        let mut versions: Vec<u64> = self
            .list(&folder)?
            .iter()
            // Only as they are written back: `01` is none.
            .filter_map(|entry| entry.parse().ok().filter(|v: &u64| v.to_string() == *entry))
            .filter(|version| self.has_manifest(&folder.join(version.to_string())))
            .collect();
        versions.sort_unstable();
        Ok(versions)
    }

    /// The file of the manifest of a version.
    pub fn manifest_path(&self, name: &str, version: u64) -> PathBuf {
        let folder = self.path.join(name);
        if self.has_manifest(&folder) {
            folder.join(MANIFEST)
        } else {
            folder.join(version.to_string()).join(MANIFEST)
        }
    }

    /// The manifest of a network's latest version.
    ///
    /// # Errors
    /// [`OpenError::NoSuchNetwork`] with the names there are, [`OpenError::Manifest`],
    /// [`OpenError::Name`].
    pub fn manifest(&self, name: &str) -> Result<Manifest, OpenError> {
        self.manifest_of(name, None)
    }

    /// The manifest of a version, or of the latest.
    fn manifest_of(&self, name: &str, version: Option<u64>) -> Result<Manifest, OpenError> {
        let present = self.versions(name)?;
        let Some(&latest) = present.last() else {
            return Err(OpenError::NoSuchNetwork {
                name: name.to_owned(),
                path: self.path.clone(),
                present: self.names()?,
            });
        };
        let version = version.unwrap_or(latest);
        if !present.contains(&version) {
            return Err(OpenError::NoSuchVersion {
                name: name.to_owned(),
                version,
                present,
            });
        }
        let path = self.manifest_path(name, version);
        let text = self.files.read_to_string(&path);
        let text = text.map_err(|source| ManifestError::Read {
            path: path.clone(),
            source,
        })?;
        let manifest = Manifest::parse(&path, &text)?;
        if manifest.name != name {
            return Err(OpenError::Name {
                folder: name.to_owned(),
                name: manifest.name,
            });
        }
        Ok(manifest)
    }

    /// SHA-256 of the weights of networks, by their names, as their manifests have it.
    ///
    /// # Errors
    /// As [`ModelFolder::manifest`].
    pub fn digests<'a>(
        &self,
        names: impl IntoIterator<Item = &'a str>,
    ) -> Result<HashMap<String, String>, OpenError> {
        let digest = |name: &'a str| Ok((name.to_owned(), self.manifest(name)?.sha256));
        names.into_iter().map(digest).collect()
    }

    /// Where the weights of a network are, or will be once fetched.
    pub fn weights_path(&self, manifest: &Manifest) -> PathBuf {
        manifest.folder.join(&manifest.file)
    }

    /// Names of a network's classes; empty where its manifest names no file.
    ///
    /// # Errors
    /// [`OpenError::Read`], or [`OpenError::Labels`] when a class has no name.
    pub fn labels(&self, manifest: &Manifest) -> Result<Labels, OpenError> {
        let Some(file) = &manifest.labels else {
            return Ok(Labels::default());
        };
        let path = manifest.folder.join(file);
        let text = self.files.read_to_string(&path);
        let text = text.map_err(|source| OpenError::Read {
            path: path.clone(),
            source,
        })?;
        let labels = Labels::parse(&text);
        if labels.len() < manifest.output.classes {
            return Err(OpenError::Labels {
                path,
                expected: manifest.output.classes,
                found: labels.len(),
            });
        }
        Ok(labels)
    }

    /// Reads a network's weights, checks their digest and loads them.
    ///
    /// # Errors
    /// Any [`OpenError`]; each names the file at fault and what to do.
    pub fn open(&self, name: &str, runtime: &dyn Runtime) -> Result<Classifier, OpenError> {
        self.open_as(name, None, runtime)
    }

    /// Like [`ModelFolder::open`], for a version that need not be the latest.
    ///
    /// # Errors
    /// Any [`OpenError`]; [`OpenError::NoSuchVersion`] with the versions there are.
    pub fn open_version(
        &self,
        name: &str,
        version: u64,
        runtime: &dyn Runtime,
    ) -> Result<Classifier, OpenError> {
        self.open_as(name, Some(version), runtime)
    }

    fn open_as(
        &self,
        name: &str,
        version: Option<u64>,
        runtime: &dyn Runtime,
    ) -> Result<Classifier, OpenError> {
        let (manifest, labels, weights) = self.read(name, version)?;
        let network = runtime
            .load(weights, &GraphSpec::from(&manifest))
            .map_err(|source| OpenError::Load {
                name: name.to_owned(),
                source,
            })?;
        Ok(Classifier::new(manifest, labels, network))
    }

    /// Like [`ModelFolder::open`], for a network that runs stage by stage. `exits` names the early
    /// exits where it may stop, in any order; its end is always one.
    ///
    /// # Errors
    /// Any [`OpenError`]; [`OpenError::NoSuchExit`] for a name that the manifest lacks.
    pub fn open_staged(
        &self,
        name: &str,
        exits: &[&str],
        features: Features,
        runtime: &dyn Runtime,
    ) -> Result<StagedClassifier, OpenError> {
        let (manifest, labels, weights) = self.read(name, None)?;
        if let Some(unknown) = exits
            .iter()
            .find(|exit| manifest.exits.iter().all(|known| known.name != **exit))
        {
            return Err(OpenError::NoSuchExit {
                name: name.to_owned(),
                exit: (*unknown).to_owned(),
                known: manifest
                    .exits
                    .iter()
                    .map(|exit| exit.name.clone())
                    .collect(),
            });
        }
        let network = runtime
            .load_stages(weights, &StagedSpec::new(&manifest, exits, features))
            .map_err(|source| OpenError::Load {
                name: name.to_owned(),
                source,
            })?;
        Ok(StagedClassifier::new(manifest, labels, network))
    }

    fn read(
        &self,
        name: &str,
        version: Option<u64>,
    ) -> Result<(Manifest, Labels, Bytes), OpenError> {
        let manifest = self.manifest_of(name, version)?;
        let labels = self.labels(&manifest)?;
        let weights = self.weights(&manifest)?.into_bytes();
        Ok((manifest, labels, weights))
    }

    /// Reads a network's weights and checks their digest.
    ///
    /// # Errors
    /// [`OpenError::NoWeights`], [`OpenError::Read`], or [`OpenError::Digest`] where they are not the manifest's.
    pub fn weights(&self, manifest: &Manifest) -> Result<Digested, OpenError> {
        let path = self.weights_path(manifest);
        let weights = self.read_weights(manifest, &path)?;
        if weights.sha256() != manifest.sha256 {
            return Err(OpenError::Digest {
                path,
                expected: manifest.sha256.clone(),
                found: weights.sha256().to_owned(),
            });
        }
        Ok(weights)
    }

    fn has_manifest(&self, folder: &Path) -> bool {
        self.files.is_file(&folder.join(MANIFEST))
    }

    /// Names of what is in a folder.
    fn list(&self, folder: &Path) -> Result<Vec<String>, OpenError> {
        let names = self.files.list(folder);
        names.map_err(|source| OpenError::List {
            path: folder.to_owned(),
            source,
        })
    }

    fn read_weights(&self, manifest: &Manifest, path: &Path) -> Result<Digested, OpenError> {
        let read = self.files.read_digested(path);
        read.map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => OpenError::NoWeights {
                name: manifest.name.clone(),
                path: path.to_owned(),
                hint: match &manifest.download {
                    Some(_) => format!("run `lab fetch {}`", manifest.name),
                    None => "restore the file from the repository".to_owned(),
                },
            },
            _ => OpenError::Read {
                path: path.to_owned(),
                source,
            },
        })
    }
}

/// SHA-256 of `bytes` as 64 lower-case hexadecimal digits.
pub fn sha256_hex(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

/// Two lower-case hexadecimal digits a byte.
pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
