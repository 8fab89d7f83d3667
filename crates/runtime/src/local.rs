//! The networks that run here, and one image's way from exit to exit.
//!
//! A cascade names places: a network, or an early exit of one. Here every place becomes a classifier
//! and the number of its stage, and an image that goes on within one network continues where it
//! stopped.

use std::ops::Deref;

use image::RgbImage;

use crate::{
    classifier::ClassifyError,
    folder::{ModelFolder, OpenError},
    network::{Features, Runtime},
    staged::{Said, StagedClassification, StagedClassifier},
};

/// A place where an answer can leave: a network's early exit, or its end where `exit` is `None`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place<'a> {
    /// Name of the network.
    pub network: &'a str,
    /// Name of the early exit.
    pub exit: Option<&'a str>,
}

/// Networks in stages, opened with the exits in use.
pub struct LocalNetworks {
    classifiers: Vec<StagedClassifier>,
    /// For every place its classifier and the number of its stage.
    stages: Vec<(usize, usize)>,
}

/// How far an image has come in the network that it is in.
#[derive(Default)]
pub struct Progress {
    current: Option<Current>,
}

struct Current {
    classifier: usize,
    /// Number of the next stage to run.
    next: usize,
    classification: StagedClassification,
}

impl LocalNetworks {
    /// Opens every network that `places` names, once.
    ///
    /// # Errors
    /// Any [`OpenError`].
    pub fn open(
        folder: &ModelFolder,
        places: &[Place<'_>],
        features: Features,
        runtime: &dyn Runtime,
    ) -> Result<Self, OpenError> {
        let mut classifiers: Vec<StagedClassifier> = Vec::new();
        let mut stages = Vec::new();
        for place in places {
            let opened = classifiers
                .iter()
                .position(|classifier| classifier.manifest().name == place.network);
            let index = match opened {
                Some(index) => index,
                None => {
                    let exits: Vec<&str> = places
                        .iter()
                        .filter(|other| other.network == place.network)
                        .filter_map(|other| other.exit)
                        .collect();
                    classifiers.push(folder.open_staged(
                        place.network,
                        &exits,
                        features,
                        runtime,
                    )?);
                    classifiers.len() - 1
                }
            };
            let classifier = &classifiers[index];
            let stage = match place.exit {
                None => classifier.feature_widths().len() - 1,
                Some(exit) => {
                    // Only exits that a place names are stages; opening has checked the names.
                    let in_use = |name: &str| {
                        places
                            .iter()
                            .any(|p| p.network == place.network && p.exit == Some(name))
                    };
                    let exits = classifier.manifest().exits.iter();
                    exits
                        .filter(|known| in_use(&known.name))
                        .position(|known| known.name == exit)
                        .expect("open_staged refuses unknown exits")
                }
            };
            stages.push((index, stage));
        }
        Ok(Self {
            classifiers,
            stages,
        })
    }

    /// The classifier of the place with the index `place` among those opened.
    ///
    /// # Panics
    /// For an index that there is not.
    pub fn classifier(&self, place: usize) -> &StagedClassifier {
        &self.classifiers[self.stages[place].0]
    }

    /// Number of the stage that a place is the end of, from 0 in its network, among those opened.
    ///
    /// # Panics
    /// For an index that there is not.
    pub fn stage(&self, place: usize) -> usize {
        self.stages[place].1
    }

    /// Width of the features that a place gives; `None` where it gives none.
    ///
    /// # Panics
    /// For an index that there is not.
    pub fn feature_width(&self, place: usize) -> Option<usize> {
        let (classifier, stage) = self.stages[place];
        self.classifiers[classifier].feature_widths()[stage]
    }

    /// Runs what is missing up to a place and gives what its exit says. Stages that `progress` has
    /// behind it are not run again, unless another network came between or the place lies behind.
    /// One `progress` belongs to one image, which is let go before the network runs.
    ///
    /// # Errors
    /// [`ClassifyError`] when the image cannot be resized or the network fails.
    ///
    /// # Panics
    /// For an index that there is not.
    pub fn run(
        &self,
        place: usize,
        image: impl Deref<Target = RgbImage>,
        progress: &mut Progress,
    ) -> Result<Said, ClassifyError> {
        let (classifier, stage) = self.stages[place];
        let resumed = progress
            .current
            .take()
            .filter(|current| current.classifier == classifier && current.next <= stage);
        let mut current = match resumed {
            Some(current) => current,
            None => Current {
                classifier,
                next: 0,
                classification: self.classifiers[classifier].start(&image)?,
            },
        };
        drop(image);
        let mut said = current.classification.advance()?;
        current.next += 1;
        while current.next <= stage {
            said = current.classification.advance()?;
            current.next += 1;
        }
        progress.current = Some(current);
        Ok(said)
    }
}

#[cfg(test)]
mod tests;
