//! Why weights could not be fetched.

use std::{
    io,
    path::{Path, PathBuf},
};

use outpost_runtime::OpenError;

/// Why weights could not be fetched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// The model folder or the manifest is at fault.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The weights come with the repository and are gone or changed.
    #[error(
        "{} comes with the repository and is missing or changed here: restore it, as with `git checkout`",
        path.display()
    )]
    NotAsInRepository {
        /// Where it should be.
        path: PathBuf,
    },
    /// A file is there and is not the manifest's.
    #[error(
        "{} is there and is not the file of the manifest (SHA-256 {found}, the manifest says {expected}): keep it elsewhere, or replace it with --force",
        path.display()
    )]
    WrongFile {
        /// The file.
        path: PathBuf,
        /// By the manifest.
        expected: String,
        /// By the file.
        found: String,
    },
    /// The server cannot be reached.
    #[error("cannot reach {address} (the file can also be put at {} by hand)", path.display())]
    Unreachable {
        /// Where the file was asked for.
        address: String,
        /// Where the file goes.
        path: PathBuf,
        /// Why.
        source: Box<ureq::Error>,
    },
    /// The connection was cut and the retries brought nothing.
    #[error(
        "the connection to {address} was cut at {received} of {expected} bytes, and again at every retry: run the command again to go on from there"
    )]
    Cut {
        /// Where the file was asked for.
        address: String,
        /// Bytes kept.
        received: u64,
        /// Bytes by the manifest.
        expected: u64,
        /// The last cause.
        source: Box<ureq::Error>,
    },
    /// The server answered with another status.
    #[error(
        "{address} answered HTTP {status}: correct the manifest's `download`, or put the file at {} by hand",
        path.display()
    )]
    Status {
        /// Where the file was asked for.
        address: String,
        /// The HTTP status.
        status: u16,
        /// Where the file goes.
        path: PathBuf,
    },
    /// The server states another size than the manifest.
    #[error(
        "{address} offers {offered} bytes where the manifest says {expected}: it is another file; correct the manifest or the address"
    )]
    OtherSize {
        /// Where the file was asked for.
        address: String,
        /// By the manifest.
        expected: u64,
        /// By the server.
        offered: u64,
    },
    /// The server went on after the manifest's size.
    #[error(
        "{address} sent more than the manifest's {expected} bytes: it is another file; correct the manifest or the address"
    )]
    TooLong {
        /// Where the file was asked for.
        address: String,
        /// By the manifest.
        expected: u64,
    },
    /// The whole file is here and is another one; it was deleted.
    #[error(
        "what {address} sent is not the file of the manifest and was deleted: its SHA-256 is {found}, the manifest says {expected}; run the command again, and if it stays so, correct the manifest or the address"
    )]
    Digest {
        /// Where the file was asked for.
        address: String,
        /// By the manifest.
        expected: String,
        /// By what was sent.
        found: String,
    },
    /// Another process is fetching the same file.
    #[error("{} is being written by another process: wait for it to end", path.display())]
    Busy {
        /// The unfinished file.
        path: PathBuf,
    },
    /// A file cannot be read or written.
    #[error("cannot read or write {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Some of several networks were not fetched; each has been reported.
    #[error("{failed} of {asked} networks were not fetched")]
    Some {
        /// How many were not.
        failed: usize,
        /// How many were asked for.
        asked: usize,
    },
    /// The result cannot be printed.
    #[error("cannot print the result")]
    Print(#[from] io::Error),
}

impl FetchError {
    pub(super) fn file(path: &Path, source: io::Error) -> Self {
        Self::File {
            path: path.to_owned(),
            source,
        }
    }
}
