//! A learned policy: from a file to a bundle that fits a cascade, and from an operating point to the decisions of one.

use std::{
    fmt,
    fs::File,
    io::{self, Read},
    path::Path,
    sync::Arc,
};

use outpost_cascade::{Cascade, Mode, Node, Site};
use outpost_exit_policy::{
    Bundle, BundleError, Choice, DecisionFunction, Expected, Function, Goal, GoalError,
    OperatingPoint, lot,
};
use outpost_runtime::{ModelFolder, OpenError};

use crate::picture::Picture;

/// Far above what `lab learn` writes for a cascade of many nodes with wide features.
const MAX_BYTES: u64 = 256 << 20;

/// Whose decisions count, and which.
#[derive(Debug, Clone)]
pub struct Deciding {
    /// The cascade with the functions that decide.
    cascade: Cascade,
    /// The same with those that decide about a share of the images.
    other: Option<(Cascade, f64)>,
    /// By node; 1 where no learned policy says otherwise.
    pub(crate) temperatures: Vec<f32>,
    mode: Mode,
    learned: Option<Chosen>,
}

/// A goal, and what meets it.
#[derive(Debug, Clone)]
pub struct Chosen {
    /// The goal.
    pub goal: Goal,
    /// Name of the operating point.
    pub operating_point: String,
    /// Name of another, and the share of images, 0 to 1, that it decides about; see [`outpost_exit_policy::Choice`].
    pub other: Option<(String, f64)>,
    /// What is expected of them.
    pub expected: Expected,
    /// Both in words.
    words: String,
}

impl fmt::Display for Chosen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words)
    }
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

/// Whether a function of any operating point looks at pooled features.
pub(crate) fn needs_features(bundle: &Bundle) -> bool {
    let mut functions = bundle
        .operating_points()
        .iter()
        .flat_map(|point| &point.functions);
    functions.any(Function::needs_features)
}

impl Deciding {
    /// The decisions of the cascade's file, or of what was chosen from a bundle that fits it; or those of a mode.
    pub(crate) fn new(
        cascade: &Cascade,
        learned: Option<(&Bundle, &Goal, Choice<'_>)>,
        mode: Mode,
    ) -> Self {
        let file = cascade.clone();
        let Some((bundle, goal, choice)) = learned else {
            return Self {
                temperatures: vec![1.0; file.nodes().count()],
                cascade: file.with_mode(mode),
                other: None,
                mode,
                learned: None,
            };
        };
        let decided_by = |point: &OperatingPoint| {
            let functions = point.functions.iter().cloned();
            let functions = functions.map(|f| Arc::new(f) as Arc<dyn DecisionFunction>);
            file.clone().with_policies(functions).with_mode(mode)
        };
        Self {
            cascade: decided_by(choice.point),
            other: choice
                .other
                .map(|(point, share)| (decided_by(point), share)),
            temperatures: bundle.nodes().iter().map(|node| node.temperature).collect(),
            mode,
            learned: Some(Chosen {
                goal: goal.clone(),
                operating_point: choice.point.name.clone(),
                other: choice
                    .other
                    .map(|(point, share)| (point.name.clone(), share)),
                expected: choice.expected(),
                words: choice.to_string(),
            }),
        }
    }

    /// The cascade with the functions that decide about an image.
    pub(crate) fn cascade(&self, picture: &Picture) -> &Cascade {
        match &self.other {
            Some((other, share)) if lot(picture.pixels.as_raw()) < *share => other,
            _ => &self.cascade,
        }
    }

    /// The first node at a site whose policy is missing.
    pub(crate) fn undecided(&self, site: Site) -> Option<&Node> {
        self.cascade.undecided(site)
    }

    /// Whose decisions count.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// What was chosen of the learned policy, where there is one; it decides in [`Mode::Policy`].
    pub fn chosen(&self) -> Option<&Chosen> {
        self.learned.as_ref()
    }
}
