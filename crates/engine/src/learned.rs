//! A learned policy: from a bundle and a goal to the functions that decide.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use outpost_cascade::Cascade;
use outpost_exit_policy::{Bundle, BundleError, Function, Goal, GoalError};
use outpost_runtime::{ModelFolder, OpenError};

/// Far above what `lab learn` writes for a cascade of many nodes with wide features.
const MAX_BYTES: u64 = 256 << 20;

/// One operating point of a bundle, fitted to a cascade.
pub(crate) struct LearnedPolicy {
    /// Name of the operating point.
    pub(crate) operating_point: String,
    /// One a node.
    pub(crate) functions: Vec<Function>,
    /// One a node; see [`outpost_exit_policy::calibrate`].
    pub(crate) temperatures: Vec<f32>,
}

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

impl LearnedPolicy {
    /// Reads a bundle, checks that it was learned for `cascade` and the networks of `folder`, and
    /// picks the operating point of `goal`.
    ///
    /// # Errors
    /// A [`PolicyError`] that says what does not fit.
    pub(crate) fn load(
        path: &Path,
        cascade: &Cascade,
        folder: &ModelFolder,
        goal: &Goal,
    ) -> Result<Self, PolicyError> {
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
        let point = bundle.choose(goal)?;
        Ok(Self {
            operating_point: point.name.clone(),
            functions: point.functions.clone(),
            temperatures: bundle.nodes().iter().map(|node| node.temperature).collect(),
        })
    }

    /// Whether a function looks at pooled features.
    pub(crate) fn needs_features(&self) -> bool {
        self.functions.iter().any(Function::needs_features)
    }
}
