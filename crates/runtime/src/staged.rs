//! A network that runs stage by stage, with what surrounds it: an image in, and at every exit what
//! the network says so far. Nothing after the exit where an image leaves is computed.

use std::sync::Arc;

use image::RgbImage;
use ndarray::ArrayViewMut3;

use crate::{
    classifier::ClassifyError,
    labels::Labels,
    manifest::{Manifest, OutputKind},
    network::{InferError, StagedNetwork, StagedRun},
    preprocess::Preprocessor,
    probabilities::Probabilities,
};

/// A network in stages, its manifest, its pre-processing and its labels.
pub struct StagedClassifier {
    /// The manifest's, for every image on its way.
    name: Arc<str>,
    manifest: Manifest,
    labels: Labels,
    preprocessor: Preprocessor,
    network: Box<dyn StagedNetwork>,
}

/// What a network says at an exit.
#[derive(Debug, Clone, PartialEq)]
pub struct Said {
    /// The probability of every class.
    pub probabilities: Probabilities,
    /// The features that policies may look at, where they were asked for and the exit has some.
    pub features: Option<Vec<f32>>,
}

/// One image on its way through a network's stages.
pub struct StagedClassification {
    network: Arc<str>,
    kind: OutputKind,
    run: Box<dyn StagedRun>,
}

impl StagedClassifier {
    /// Puts the parts together; [`crate::ModelFolder::open_staged`] is the usual way.
    pub fn new(manifest: Manifest, labels: Labels, network: Box<dyn StagedNetwork>) -> Self {
        Self {
            name: manifest.name.as_str().into(),
            preprocessor: Preprocessor::new(manifest.input.clone()),
            manifest,
            labels,
            network,
        }
    }

    /// The manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Names of the classes.
    pub fn labels(&self) -> &Labels {
        &self.labels
    }

    /// Width of the features at each exit in use, the network's end last; `None` where it has none.
    pub fn feature_widths(&self) -> &[Option<usize>] {
        self.network.feature_widths()
    }

    /// Pre-processes an image; its stages follow, one for each [`StagedClassification::advance`].
    ///
    /// # Errors
    /// [`ClassifyError`] when the image cannot be resized, or the network takes another size than the manifest says.
    pub fn start(&self, image: &RgbImage) -> Result<StagedClassification, ClassifyError> {
        let mut filled = Ok(());
        let run = self.network.start(&mut |input| {
            filled = self.fill(image, input);
        })?;
        filled?;
        Ok(StagedClassification {
            network: self.name.clone(),
            kind: self.manifest.output.kind,
            run,
        })
    }

    fn fill(&self, image: &RgbImage, input: ArrayViewMut3<'_, f32>) -> Result<(), ClassifyError> {
        let size = self.manifest.input.size as usize;
        let (expected, found) = (input.dim().into(), [3, size, size]);
        if expected != found {
            let found = [&[1], &found[..]].concat();
            return Err(InferError::Shape { expected, found }.into());
        }
        Ok(self.preprocessor.fill(image, input)?)
    }
}

impl StagedClassification {
    /// Runs the next stage and gives what its exit says.
    ///
    /// # Errors
    /// [`ClassifyError`] when the runtime fails, when the output is no distribution, and after the
    /// last stage.
    pub fn advance(&mut self) -> Result<Said, ClassifyError> {
        let output = self.run.advance()?;
        let probabilities = Probabilities::from_output(output.scores, self.kind);
        Ok(Said {
            probabilities: probabilities.ok_or_else(|| ClassifyError::NoDistribution {
                network: self.network.to_string(),
            })?,
            features: output.features,
        })
    }
}
