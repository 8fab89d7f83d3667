use std::{
    fs,
    path::{Path, PathBuf},
};

use ndarray::Array4;
use tempfile::TempDir;

use super::*;
use crate::config::{NetworkConfig, RepositoryConfig, Versions};

const NAME: &str = "cifar10-alexnet";

/// A model folder in which a network has versions.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn version(&self, version: u64) -> PathBuf {
        self.0.path().join(NAME).join(version.to_string())
    }

    /// Puts a version there; the description tells it from others.
    fn put(&self, version: u64, description: &str) {
        let from = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../models")
            .join(NAME);
        let to = self.version(version);
        fs::create_dir_all(&to).unwrap();
        let manifest = fs::read_to_string(from.join("model.toml")).unwrap();
        let mut manifest: toml::Table = manifest.parse().unwrap();
        let file = manifest["file"].as_str().unwrap().to_owned();
        manifest.insert("description".to_owned(), description.into());
        manifest.remove("labels");
        fs::copy(from.join(&file), to.join(&file)).unwrap();
        // Last: a version is there once its manifest is.
        fs::write(to.join("model.toml"), manifest.to_string()).unwrap();
    }

    fn weights(&self, version: u64) -> PathBuf {
        let mut files = fs::read_dir(self.version(version)).unwrap();
        let onnx = |path: &PathBuf| path.extension().is_some_and(|e| e == "onnx");
        files
            .find_map(|file| Some(file.unwrap().path()).filter(onnx))
            .unwrap()
    }

    fn config(&self, mode: Mode, versions: Versions) -> Config {
        let network = NetworkConfig {
            versions,
            ..NetworkConfig::default()
        };
        Config {
            models: self.0.path().to_owned(),
            repository: RepositoryConfig {
                mode,
                ..RepositoryConfig::default()
            },
            network: [(NAME.to_owned(), network)].into(),
            ..Config::default()
        }
    }

    fn load(&self, mode: Mode, versions: Versions) -> Repository {
        let config = Arc::new(self.config(mode, versions));
        Repository::load(config, Metrics::default()).unwrap()
    }
}

fn versions(repository: &Repository) -> Vec<u64> {
    let found = repository.find_all(NAME, "").unwrap();
    found.iter().map(|found| found.version).collect()
}

fn description(found: &Found) -> &str {
    &batcher(found).model().manifest().description
}

async fn answers(found: &Found) -> bool {
    let size = batcher(found).model().manifest().input.size as usize;
    let places = batcher(found).admit(1).unwrap();
    let image = Array4::zeros((1, 3, size, size));
    batcher(found).run(image, None, places).await.is_ok()
}

#[tokio::test]
async fn a_new_version_takes_over_and_the_old_one_ends_what_it_began() {
    let folder = Folder::new();
    folder.put(1, "first");
    let repository = folder.load(Mode::Poll, Versions::default());
    let old = repository.find(NAME, "").unwrap();
    assert_eq!((old.version, description(&old)), (1, "first"));
    folder.put(2, "second");
    repository.follow_folder();
    let new = repository.find(NAME, "").unwrap();
    assert_eq!((new.version, description(&new)), (2, "second"));
    assert_eq!(versions(&repository), [2]);
    assert!(matches!(
        repository.find(NAME, "1"),
        Err(ServiceError::NoSuchVersion { present, .. }) if present == [2]
    ));
    assert!(answers(&old).await);
    assert!(answers(&new).await);
    // Nothing but this request holds the old one.
    let weak = Arc::downgrade(batcher(&old));
    drop(old);
    assert!(weak.upgrade().is_none());
}

#[test]
fn what_did_not_change_is_not_loaded_again_and_what_did_is() {
    let folder = Folder::new();
    folder.put(4, "first");
    let repository = folder.load(Mode::Poll, Versions::default());
    let before = repository.find(NAME, "4").unwrap();
    repository.follow_folder();
    let same = repository.find(NAME, "4").unwrap();
    assert!(Arc::ptr_eq(batcher(&before), batcher(&same)));
    folder.put(4, "corrected");
    repository.follow_folder();
    assert_eq!(
        description(&repository.find(NAME, "4").unwrap()),
        "corrected"
    );
}

#[tokio::test]
async fn a_broken_version_leaves_the_old_one_serving_and_says_why() {
    let folder = Folder::new();
    folder.put(1, "first");
    let repository = folder.load(Mode::Poll, Versions::default());
    folder.put(2, "broken");
    fs::write(folder.weights(2), b"no network").unwrap();
    repository.follow_folder();
    let found = repository.find(NAME, "").unwrap();
    assert_eq!(found.version, 1);
    assert!(answers(&found).await);
    let index = repository.index();
    let states: Vec<_> = index.iter().map(|i| (i.version, i.is_ready)).collect();
    assert_eq!(states, [(Some(1), true), (Some(2), false)]);
    assert!(index[1].reason.contains("SHA-256"), "{}", index[1].reason);
    folder.put(2, "mended");
    repository.follow_folder();
    assert_eq!(description(&repository.find(NAME, "").unwrap()), "mended");
    assert!(
        repository
            .index()
            .iter()
            .all(|i| i.is_ready || i.version == Some(1))
    );
    assert_eq!(repository.index()[1].reason, "");
}

#[test]
fn a_version_without_its_weights_or_with_a_broken_manifest_unloads_nothing() {
    let folder = Folder::new();
    folder.put(1, "first");
    let repository = folder.load(Mode::Poll, Versions::default());
    folder.put(2, "no weights");
    fs::remove_file(folder.weights(2)).unwrap();
    repository.follow_folder();
    assert_eq!(versions(&repository), [1]);
    fs::write(folder.version(2).join("model.toml"), "name = ").unwrap();
    repository.follow_folder();
    assert_eq!(versions(&repository), [1]);
    let index = repository.index();
    assert!(
        index[1].reason.contains("model.toml"),
        "{}",
        index[1].reason
    );
    // What the folder no longer has is not told any more.
    fs::remove_dir_all(folder.version(2)).unwrap();
    repository.follow_folder();
    assert_eq!(repository.index().len(), 1);
}

#[test]
fn after_a_restart_the_latest_that_loads_is_served() {
    let folder = Folder::new();
    folder.put(1, "first");
    folder.put(2, "broken");
    fs::write(folder.weights(2), b"no network").unwrap();
    let repository = folder.load(Mode::Poll, Versions::default());
    assert_eq!(versions(&repository), [1]);
    assert!(repository.index()[1].reason.contains("SHA-256"));
}

#[test]
fn a_network_that_leaves_the_folder_is_unloaded() {
    let folder = Folder::new();
    folder.put(1, "first");
    let repository = folder.load(Mode::Poll, Versions::default());
    fs::remove_dir_all(folder.0.path().join(NAME)).unwrap();
    repository.follow_folder();
    assert!(repository.names().is_empty());
    assert!(matches!(
        repository.find(NAME, ""),
        Err(ServiceError::NoSuchModel { .. })
    ));
}

#[test]
fn callers_load_and_unload_where_they_may() {
    let folder = Folder::new();
    folder.put(1, "first");
    folder.put(2, "second");
    let fixed = folder.load(Mode::Fixed, Versions::default());
    assert!(matches!(
        fixed.check_explicit(),
        Err(RepositoryError::NotExplicit)
    ));
    let repository = folder.load(Mode::Explicit, Versions::Only(vec![1, 2]));
    repository.check_explicit().unwrap();
    assert!(repository.names().is_empty());
    assert_eq!(repository.index()[0].reason, "not loaded");
    repository.load_network(NAME).unwrap();
    assert_eq!(versions(&repository), [1, 2]);
    assert_eq!(repository.find(NAME, "1").unwrap().version, 1);
    repository.unload_network(NAME);
    assert!(repository.names().is_empty());
    for stranger in [
        "no-such-network",
        "../",
        "/",
        "",
        ".",
        &format!("./{NAME}"),
        &format!("{NAME}/"),
    ] {
        let error = repository.load_network(stranger).unwrap_err();
        assert!(
            matches!(error, LoadError::Open(OpenError::NoSuchNetwork { .. })),
            "{stranger:?}: {error}"
        );
    }
    assert_eq!(repository.index().len(), 2);
}

#[test]
fn a_version_that_is_named_and_missing_is_an_error() {
    let folder = Folder::new();
    folder.put(1, "first");
    let repository = folder.load(Mode::Explicit, Versions::Only(vec![1, 7]));
    let error = repository.load_network(NAME).unwrap_err().to_string();
    assert!(error.contains("no version 7"), "{error}");
    // The one that is there serves.
    assert_eq!(versions(&repository), [1]);
}

fn batcher(found: &Found) -> &Arc<Batcher> {
    match &found.model {
        Model::Network(batcher) => batcher,
        Model::Cascade(_) => panic!("a cascade"),
    }
}
