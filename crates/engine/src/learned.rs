//! A learned policy: from a file to a bundle that fits a cascade, and from an operating point to the decisions of one.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
    sync::Arc,
};

use outpost_cascade::{Cascade, Mode};
use outpost_exit_policy::{
    Bundle, BundleError, DecisionFunction, Function, Goal, GoalError, OperatingPoint,
};
use outpost_runtime::{ModelFolder, OpenError};

/// Far above what `lab learn` writes for a cascade of many nodes with wide features.
const MAX_BYTES: u64 = 256 << 20;

/// Whose decisions count, and which.
#[derive(Debug, Clone)]
pub struct Deciding {
    /// The cascade with the functions that decide.
    pub(crate) cascade: Cascade,
    /// By node; 1 where no learned policy says otherwise.
    pub(crate) temperatures: Vec<f32>,
    mode: Mode,
    learned: Option<Chosen>,
}

/// A goal, and the operating point that stands for it.
#[derive(Debug, Clone)]
pub(crate) struct Chosen {
    pub(crate) goal: Goal,
    /// Its name.
    pub(crate) operating_point: String,
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

/// Reads a bundle, and checks that it was learned for `cascade` and the networks of `folder`.
///
/// # Errors
/// A [`PolicyError`] that says what does not fit.
pub(crate) fn load(
    path: &Path,
    cascade: &Cascade,
    folder: &ModelFolder,
) -> Result<Bundle, PolicyError> {
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

/// Whether a function of any operating point looks at pooled features.
pub(crate) fn needs_features(bundle: &Bundle) -> bool {
    let mut functions = bundle
        .operating_points()
        .iter()
        .flat_map(|point| &point.functions);
    functions.any(Function::needs_features)
}

impl Deciding {
    /// The decisions of the cascade's file, or of an operating point of a bundle that fits it; or those of a mode.
    pub(crate) fn new(
        cascade: &Cascade,
        learned: Option<(&Bundle, &Goal, &OperatingPoint)>,
        mode: Mode,
    ) -> Self {
        let mut cascade = cascade.clone();
        let mut temperatures = vec![1.0; cascade.nodes().count()];
        if let Some((bundle, _, point)) = learned {
            let functions = point.functions.iter().cloned();
            cascade =
                cascade.with_policies(functions.map(|f| Arc::new(f) as Arc<dyn DecisionFunction>));
            temperatures = bundle.nodes().iter().map(|node| node.temperature).collect();
        }
        Self {
            cascade: cascade.with_mode(mode),
            temperatures,
            mode,
            learned: learned.map(|(_, goal, point)| Chosen {
                goal: goal.clone(),
                operating_point: point.name.clone(),
            }),
        }
    }

    /// Whose decisions count.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Name of the operating point of the learned policy, where there is one; it decides in [`Mode::Policy`].
    pub fn operating_point(&self) -> Option<&str> {
        self.learned
            .as_ref()
            .map(|chosen| chosen.operating_point.as_str())
    }

    /// The goal that the operating point was chosen by, where there is a learned policy.
    pub fn goal(&self) -> Option<&Goal> {
        self.learned.as_ref().map(|chosen| &chosen.goal)
    }

    pub(crate) fn chosen(&self) -> Option<&Chosen> {
        self.learned.as_ref()
    }
}
