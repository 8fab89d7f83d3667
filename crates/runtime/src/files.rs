//! Where the files of a model folder are: on disk, or in memory where there is no disk.

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;

use crate::folder::{hexadecimal, sha256_hex};

/// What is in a file, and its digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digested {
    bytes: Bytes,
    sha256: String,
}

impl Digested {
    /// Computes the digest.
    pub fn new(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        let sha256 = sha256_hex(&bytes);
        Self { bytes, sha256 }
    }

    /// Takes over a digest that was computed elsewhere of the same bytes: where that is faster.
    pub fn with_digest(bytes: impl Into<Bytes>, sha256: [u8; 32]) -> Self {
        Self {
            bytes: bytes.into(),
            sha256: hexadecimal(&sha256),
        }
    }

    /// SHA-256 of the bytes as 64 lower-case hexadecimal digits.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// The bytes.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The bytes alone.
    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }
}

/// The files that there are.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Files {
    /// Those of the file system.
    Disk,
    /// These, by their paths.
    Memory(Arc<BTreeMap<PathBuf, Digested>>),
}

impl Files {
    /// Files in memory, by their paths from the folder.
    pub(crate) fn in_memory(files: impl IntoIterator<Item = (PathBuf, Digested)>) -> Self {
        let files = files.into_iter();
        let files = files.map(|(path, bytes)| (plain(&path), bytes));
        Self::Memory(Arc::new(files.collect()))
    }

    /// What is in a file.
    ///
    /// # Errors
    /// That of the file system; [`io::ErrorKind::NotFound`] in memory.
    pub(crate) fn read(&self, path: &Path) -> io::Result<Bytes> {
        match self {
            Self::Disk => Ok(fs::read(path)?.into()),
            Self::Memory(_) => Ok(self.read_digested(path)?.bytes),
        }
    }

    /// What is in a file, and its digest.
    ///
    /// # Errors
    /// As [`Files::read`].
    pub(crate) fn read_digested(&self, path: &Path) -> io::Result<Digested> {
        match self {
            Self::Disk => Ok(Digested::new(fs::read(path)?)),
            Self::Memory(files) => {
                let file = files.get(&plain(path)).cloned();
                file.ok_or_else(|| io::ErrorKind::NotFound.into())
            }
        }
    }

    /// The text in a file.
    ///
    /// # Errors
    /// As [`Files::read`], and where it is not UTF-8.
    pub(crate) fn read_to_string(&self, path: &Path) -> io::Result<String> {
        String::from_utf8(self.read(path)?.into())
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    pub(crate) fn is_file(&self, path: &Path) -> bool {
        match self {
            Self::Disk => path.is_file(),
            Self::Memory(files) => files.contains_key(&plain(path)),
        }
    }

    pub(crate) fn is_dir(&self, path: &Path) -> bool {
        match self {
            Self::Disk => path.is_dir(),
            Self::Memory(files) => {
                let path = plain(path);
                files
                    .keys()
                    .any(|file| file != &path && file.starts_with(&path))
            }
        }
    }

    /// Names of what is in a folder.
    ///
    /// # Errors
    /// That of the file system; none in memory.
    pub(crate) fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        match self {
            Self::Disk => fs::read_dir(folder)?
                .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
                .collect(),
            Self::Memory(files) => {
                let folder = plain(folder);
                let inside = files
                    .keys()
                    .filter_map(|file| file.strip_prefix(&folder).ok());
                let name =
                    |file: &Path| file.iter().next().map(|n| n.to_string_lossy().into_owned());
                let mut names: Vec<String> = inside.filter_map(name).collect();
                // Sorted by their paths: those of one folder follow each other.
                names.dedup();
                Ok(names)
            }
        }
    }
}

impl fmt::Debug for Files {
    /// Without what is in them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disk => f.write_str("Disk"),
            Self::Memory(files) => f.debug_set().entries(files.keys()).finish(),
        }
    }
}

/// A path without steps that lead nowhere; one that leads out of the folder leads to its top.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => plain.push(name),
            Component::ParentDir => {
                plain.pop();
            }
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_in_memory_are_found_and_listed_as_those_on_disk() {
        let texts = [("a/model.toml", "x"), ("a/b/c", "y"), ("labels.txt", "z")];
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("a/b")).unwrap();
        for (path, text) in texts {
            fs::write(folder.path().join(path), text).unwrap();
        }
        let memory = texts.map(|(path, text)| (PathBuf::from(path), Digested::new(text)));
        let memory = Files::in_memory(memory);
        for path in [
            "",
            "a",
            "a/b",
            "a/model.toml",
            "a/../labels.txt",
            "b",
            "a/b/c/d",
        ] {
            let on_disk = folder.path().join(path);
            let path = Path::new(path);
            assert_eq!(memory.is_file(path), on_disk.is_file(), "{path:?}");
            assert_eq!(memory.is_dir(path), on_disk.is_dir(), "{path:?}");
            let read = |files: &Files, path: &Path| {
                let text = files.read_to_string(path).ok()?;
                let file = files.read_digested(path).unwrap();
                assert_eq!(file.bytes, text.as_bytes());
                Some((text, file.sha256))
            };
            assert_eq!(
                read(&memory, path),
                read(&Files::Disk, &on_disk),
                "{path:?}"
            );
            if on_disk.is_dir() {
                let mut there = Files::Disk.list(&on_disk).unwrap();
                there.sort();
                assert_eq!(memory.list(path).unwrap(), there, "{path:?}");
            }
        }
    }
}
