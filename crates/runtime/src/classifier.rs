//! A network with what surrounds it: an image in, probabilities out.

use image::RgbImage;
use ndarray::ArrayView4;

use crate::{
    labels::Labels,
    manifest::Manifest,
    network::{InferError, Network},
    preprocess::{PreprocessError, Preprocessor},
    probabilities::Probabilities,
};

/// A loaded network, its manifest, its pre-processing and its labels.
pub struct Classifier {
    manifest: Manifest,
    labels: Labels,
    preprocessor: Preprocessor,
    network: Box<dyn Network>,
}

/// Why an image got no answer from a network.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClassifyError {
    /// The image could not become a tensor.
    #[error(transparent)]
    Preprocess(#[from] PreprocessError),
    /// The network failed.
    #[error(transparent)]
    Infer(#[from] InferError),
    /// The network's output is no distribution over classes.
    #[error("the network {network:?} gave NaN, infinity or a probability outside 0 to 1")]
    NoDistribution {
        /// The network.
        network: String,
    },
}

impl Classifier {
    /// Puts the parts together; [`crate::ModelFolder::open`] is the usual way.
    pub fn new(manifest: Manifest, labels: Labels, network: Box<dyn Network>) -> Self {
        Self {
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

    /// The pre-processing.
    pub fn preprocessor(&self) -> &Preprocessor {
        &self.preprocessor
    }

    /// The network itself, for tensors that are made elsewhere.
    pub fn network(&self) -> &dyn Network {
        &*self.network
    }

    /// Classifies one image.
    ///
    /// # Errors
    /// [`ClassifyError`] when the image cannot be resized or the network fails.
    pub fn classify(&self, image: &RgbImage) -> Result<Probabilities, ClassifyError> {
        self.classify_tensor(self.preprocessor.tensor(image)?.view())
    }

    /// Classifies the first image of a batch that is already pre-processed.
    ///
    /// # Errors
    /// [`ClassifyError`] when the shape does not fit or the network fails.
    pub fn classify_tensor(
        &self,
        tensor: ArrayView4<'_, f32>,
    ) -> Result<Probabilities, ClassifyError> {
        let scores = self.network.infer(tensor)?;
        let (row, _) = scores.into_raw_vec_and_offset();
        let row = row.into_iter().take(self.manifest.output.classes).collect();
        Probabilities::from_output(row, self.manifest.output.kind).ok_or_else(|| {
            ClassifyError::NoDistribution {
                network: self.manifest.name.clone(),
            }
        })
    }
}
