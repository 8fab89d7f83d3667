//! What the device in the browser is made of: `agent.json`, and the files that it names.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, btree_map::Entry},
    fs, io,
    path::{Component, Path, PathBuf},
};

use outpost_cascade::{Cascade, Site};
use outpost_engine::{StartError, load_cascade, load_policy};
use outpost_runtime::{Digested, Manifest, ModelFolder};
use outpost_transport::Origin;
use serde::Serialize;

use crate::{PageError, Source, Stored};

/// Name of the encoder profile beside a manifest, where there is one.
const ENCODERS: &str = "encoders.json";

/// The device's files, read once.
#[derive(Debug)]
pub(crate) struct Agent {
    /// `agent.json`.
    pub(crate) description: Stored,
    /// The files by their digests.
    files: HashMap<String, Stored>,
    /// Name of the cascade.
    pub(crate) cascade: String,
    /// Bytes of all files.
    pub(crate) bytes: u64,
    /// Models that the device asks the service for.
    pub(crate) asks_for: BTreeSet<String>,
    /// Models that it may ask for: these, and what else of its cascade is elsewhere.
    pub(crate) may_ask_for: BTreeSet<String>,
}

#[derive(Serialize)]
struct Description<'a> {
    cascade: CascadeEntry<'a>,
    policy: Option<PolicyEntry>,
    goal: Option<String>,
    deadline_ms: u64,
    correct_within_ms: u64,
    /// Absent where it is the origin that the page came from.
    #[serde(skip_serializing_if = "Option::is_none")]
    cloud: Option<&'a str>,
    files: Vec<FileEntry>,
}

#[derive(Serialize)]
struct CascadeEntry<'a> {
    name: &'a str,
    path: String,
}

#[derive(Serialize)]
struct PolicyEntry {
    path: String,
}

#[derive(Serialize)]
struct FileEntry {
    path: String,
    sha256: String,
    bytes: usize,
}

impl Agent {
    /// Reads the files of a page's device out of the model folder, and checks that they fit each other.
    pub(crate) fn load(source: &Source, folder: &ModelFolder) -> Result<Self, PageError> {
        let cascade = load_cascade(&source.cascade)?;
        if cascade.node(cascade.entry()).site() != Site::Device {
            return Err(PageError::NotADevice(cascade.name().to_owned()));
        }
        check_policy(source, &cascade, folder)?;
        let mut files = Files::new(folder);
        let cascade_path = files.add_beside(&source.cascade, "cascades")?;
        let policy_path = match &source.policy {
            Some(path) => Some(files.add_beside(path, "policies")?),
            None => None,
        };
        let mut on_device: BTreeMap<&str, bool> = BTreeMap::new();
        let (mut asks_for, mut may_ask_for) = (BTreeSet::new(), BTreeSet::new());
        for (_, node) in cascade.nodes() {
            let is_here = node.site() == Site::Device;
            *on_device.entry(node.network()).or_default() |= is_here;
            if is_here {
                continue;
            }
            // As the engine has it: what goes on there is asked for as the rest of the cascade.
            let is_decided_there = !node.jumps().is_empty() || node.exit().is_some();
            let model = match is_decided_there {
                true => cascade.name(),
                false => node.network(),
            };
            asks_for.insert(model.to_owned());
            may_ask_for.extend([cascade.name(), node.network()].map(str::to_owned));
        }
        for (network, is_here) in on_device {
            let manifest = folder.manifest(network).map_err(StartError::from)?;
            files.add_network(&manifest, is_here)?;
        }
        let description = Description {
            cascade: CascadeEntry {
                name: cascade.name(),
                path: cascade_path,
            },
            goal: policy_path
                .is_some()
                .then(|| source.operating_point.to_string()),
            policy: policy_path.map(|path| PolicyEntry { path }),
            deadline_ms: source.deadline_ms,
            correct_within_ms: source.correct_within_ms,
            cloud: source.cloud.as_ref().map(Origin::as_str),
            files: files.entries(),
        };
        let json = serde_json::to_vec(&description).expect("texts and numbers are JSON");
        Ok(Self {
            description: Stored {
                file: Digested::new(json),
                content_type: "application/json",
            },
            bytes: files
                .by_path
                .values()
                .map(|file| file.bytes().len() as u64)
                .sum(),
            files: files
                .by_path
                .into_values()
                .map(|file| {
                    let sha256 = file.sha256().to_owned();
                    let content_type = "application/octet-stream";
                    (sha256, Stored { file, content_type })
                })
                .collect(),
            cascade: cascade.name().to_owned(),
            asks_for,
            may_ask_for,
        })
    }

    /// The file with a digest.
    pub(crate) fn file(&self, sha256: &str) -> Option<&Stored> {
        self.files.get(sha256)
    }

    /// How many files there are.
    pub(crate) fn count(&self) -> usize {
        self.files.len()
    }
}

/// Whether every node has a policy, and a learned one fits the cascade and has the operating point.
fn check_policy(
    source: &Source,
    cascade: &Cascade,
    folder: &ModelFolder,
) -> Result<(), StartError> {
    let Some(path) = &source.policy else {
        return match cascade.undecided(Site::Device) {
            Some(node) => Err(StartError::Undecided {
                node: node.name().to_owned(),
            }),
            None => Ok(()),
        };
    };
    let failed = |source| StartError::Policy {
        path: path.clone(),
        source,
    };
    let bundle = load_policy(path, cascade, folder).map_err(failed)?;
    match bundle.choose(&source.operating_point) {
        Ok(_) => Ok(()),
        Err(error) => Err(failed(error.into())),
    }
}

/// Files on their way into the list, by the paths that the browser's copy of the model folder has.
struct Files<'a> {
    folder: &'a ModelFolder,
    by_path: BTreeMap<String, Digested>,
}

impl<'a> Files<'a> {
    fn new(folder: &'a ModelFolder) -> Self {
        Self {
            folder,
            by_path: BTreeMap::new(),
        }
    }

    /// A network's manifest, labels and encoder profile, and its weights where it runs on the device.
    fn add_network(&mut self, manifest: &Manifest, with_weights: bool) -> Result<(), PageError> {
        // Every class has its name.
        self.folder.labels(manifest).map_err(StartError::from)?;
        let beside = |name: &Path| manifest.folder.join(name);
        self.add(&beside("model.toml".as_ref()))?;
        if let Some(labels) = &manifest.labels {
            self.add(&beside(labels))?;
        }
        let encoders = beside(ENCODERS.as_ref());
        if encoders.is_file() {
            self.add(&encoders)?;
        }
        if with_weights {
            let weights = self.folder.weights(manifest).map_err(StartError::from)?;
            let path = self.folder.weights_path(manifest);
            let name = self.name(&path)?;
            self.by_path.insert(name, weights);
        }
        Ok(())
    }

    /// A file that may lie outside of the model folder; it is then told as one of a folder of this name.
    fn add_beside(&mut self, path: &Path, folder: &str) -> Result<String, PageError> {
        let name = self.name(path).or_else(|error| {
            let last = path.file_name().and_then(|name| name.to_str());
            last.map(|last| format!("{folder}/{last}")).ok_or(error)
        })?;
        self.by_path.insert(name.clone(), read(path)?);
        Ok(name)
    }

    fn add(&mut self, path: &Path) -> Result<(), PageError> {
        if let Entry::Vacant(entry) = self.by_path.entry(self.name(path)?) {
            entry.insert(read(path)?);
        }
        Ok(())
    }

    /// A path within the model folder, with `/` between its parts.
    fn name(&self, path: &Path) -> Result<String, PageError> {
        let outside = || PageError::Outside {
            path: path.to_owned(),
            folder: self.folder.path().to_owned(),
        };
        let (path, folder) = (without_dots(path), without_dots(self.folder.path()));
        let within = path.strip_prefix(folder).map_err(|_| outside())?;
        let parts: Option<Vec<&str>> = within.iter().map(|part| part.to_str()).collect();
        Ok(parts.ok_or_else(outside)?.join("/"))
    }

    fn entries(&self) -> Vec<FileEntry> {
        let files = self.by_path.iter();
        files
            .map(|(path, file)| FileEntry {
                path: path.clone(),
                sha256: file.sha256().to_owned(),
                bytes: file.bytes().len(),
            })
            .collect()
    }
}

fn read(path: &Path) -> Result<Digested, PageError> {
    let contents = fs::read(path);
    contents
        .map(Digested::new)
        .map_err(|source: io::Error| PageError::Read {
            path: path.to_owned(),
            source,
        })
}

/// The path without `.` and `..`, which need no look at the disk: manifests name labels as `../labels.txt`.
fn without_dots(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir
                if matches!(plain.components().next_back(), Some(Component::Normal(_))) =>
            {
                plain.pop();
            }
            part => plain.push(part),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lose_their_dots_and_never_their_root() {
        for (path, plain) in [
            ("models/a/../labels.txt", "models/labels.txt"),
            ("./models/./a", "models/a"),
            ("../models/a/../../labels.txt", "../labels.txt"),
            ("../../a", "../../a"),
            ("/models/../../a", "/../a"),
        ] {
            assert_eq!(without_dots(path.as_ref()), Path::new(plain), "{path}");
        }
    }
}
