//! Policy bundles on disk, for the commands that read one.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use outpost_exit_policy::{Bundle, BundleError};

/// Why a policy bundle was not read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BundleFileError {
    /// The file cannot be read.
    #[error("cannot read the policy {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is no bundle, or one for another cascade.
    #[error("cannot use the policy {}", path.display())]
    Bundle {
        /// The file.
        path: PathBuf,
        /// Why.
        source: BundleError,
    },
}

/// Reads and checks a policy bundle.
pub(crate) fn read_bundle(path: &Path) -> Result<Bundle, BundleFileError> {
    let json = fs::read(path).map_err(|source| BundleFileError::Read {
        path: path.to_owned(),
        source,
    })?;
    Bundle::parse(&json).map_err(|source| BundleFileError::Bundle {
        path: path.to_owned(),
        source,
    })
}
