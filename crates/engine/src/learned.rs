//! A learned policy: from a file to a bundle that fits a cascade.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use outpost_cascade::Cascade;
use outpost_exit_policy::{Bundle, BundleError, GoalError};
use outpost_runtime::{ModelFolder, OpenError};

/// Far above what `lab learn` writes for a cascade of many nodes with wide features.
const MAX_BYTES: u64 = 256 << 20;

/// Why a policy was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// It cannot be read.
    #[error("it cannot be read")]
    Read(#[from] io::Error),
    /// It is larger than any policy.
    #[error("it has more than {MAX_BYTES} bytes and is no policy bundle")]
    TooLarge,
    /// It is no bundle, or one for another cascade.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// It has no such operating point.
    #[error(transparent)]
    Goal(#[from] GoalError),
    /// A network's manifest is at fault.
    #[error(transparent)]
    Manifest(#[from] OpenError),
}

/// Reads a bundle, and checks that it was learned for `cascade` and the networks of `folder`.
///
/// # Errors
/// A [`PolicyError`] that says what does not fit.
pub fn load(path: &Path, cascade: &Cascade, folder: &ModelFolder) -> Result<Bundle, PolicyError> {
    let mut json = Vec::new();
    File::open(path)?
        .take(MAX_BYTES + 1)
        .read_to_end(&mut json)?;
    if json.len() as u64 > MAX_BYTES {
        return Err(PolicyError::TooLarge);
    }
    let bundle = Bundle::parse(&json)?;
    let digests = folder.digests(cascade.nodes().map(|(_, node)| node.network()))?;
    cascade.check_fits(&bundle, |network| digests[network].clone())?;
    Ok(bundle)
}
