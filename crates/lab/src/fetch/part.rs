//! The unfinished file: what has been received, its digest so far, and how it gets its final name.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

use super::{error::FetchError, hexadecimal};

/// Bytes hashed at a time.
const BUFFER_BYTES: usize = 1 << 16;

/// `<file>.part`, locked while it is open; never holds more than `limit` bytes.
pub(super) struct Part {
    path: PathBuf,
    target: PathBuf,
    file: File,
    hasher: Sha256,
    len: u64,
    limit: u64,
}

/// More bytes than the manifest states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OverLimit;

impl Part {
    /// Opens or makes the unfinished file of `target` and hashes what it has.
    ///
    /// An unfinished file of more than `limit` bytes is another file's, and is emptied.
    pub(super) fn open(target: &Path, limit: u64) -> Result<Self, FetchError> {
        let mut name = target.as_os_str().to_owned();
        name.push(".part");
        let path = PathBuf::from(name);
        let at = |source| FetchError::file(&path, source);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(at)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(FetchError::Busy { path }),
            // A file system without locks: two fetches at once would end in a wrong digest.
            Err(TryLockError::Error(_)) => {}
        }
        let mut part = Self {
            len: file.metadata().map_err(at)?.len(),
            target: target.to_owned(),
            hasher: Sha256::new(),
            path,
            file,
            limit,
        };
        if part.len > limit {
            part.restart()?;
        } else {
            part.len = hash_to_end(&mut part.file, &mut part.hasher)
                .map_err(|source| FetchError::file(&part.path, source))?;
        }
        Ok(part)
    }

    /// Bytes received so far.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Bytes of the whole file, by the manifest.
    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    /// Where the file will be.
    pub(super) fn target(&self) -> &Path {
        &self.target
    }

    /// Throws away what there is.
    pub(super) fn restart(&mut self) -> Result<(), FetchError> {
        self.hasher = Sha256::new();
        self.len = 0;
        self.file
            .set_len(0)
            .and_then(|()| self.file.seek(SeekFrom::Start(0)))
            .map(|_| ())
            .map_err(|source| FetchError::file(&self.path, source))
    }

    /// Adds bytes at the end, none of them if they would pass the limit.
    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<Result<(), OverLimit>, FetchError> {
        let len = self.len + bytes.len() as u64;
        if len > self.limit {
            return Ok(Err(OverLimit));
        }
        self.file
            .write_all(bytes)
            .map_err(|source| FetchError::file(&self.path, source))?;
        self.hasher.update(bytes);
        self.len = len;
        Ok(Ok(()))
    }

    /// Gives the file its final name if its digest is `expected`, and deletes it if not.
    pub(super) fn finish(self, expected: &str, address: &str) -> Result<(), FetchError> {
        let found = hexadecimal(self.hasher);
        if found != expected {
            fs::remove_file(&self.path).map_err(|source| FetchError::file(&self.path, source))?;
            return Err(FetchError::Digest {
                address: address.to_owned(),
                expected: expected.to_owned(),
                found,
            });
        }
        self.file
            .sync_all()
            .and_then(|()| fs::rename(&self.path, &self.target))
            .map_err(|source| FetchError::file(&self.path, source))
    }

    /// Leaves what there is for the next run; an empty file is removed.
    pub(super) fn leave(self) -> Result<(), FetchError> {
        if self.len > 0 {
            return Ok(());
        }
        fs::remove_file(&self.path).map_err(|source| FetchError::file(&self.path, source))
    }
}

/// Adds what `file` has, from where it stands to its end, to `hasher`; gives the number of bytes.
pub(super) fn hash_to_end(file: &mut File, hasher: &mut Sha256) -> io::Result<u64> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut len = 0;
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(len),
            Ok(count) => {
                hasher.update(&buffer[..count]);
                len += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
