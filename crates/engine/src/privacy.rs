//! What an image may show and still leave this site.

use outpost_runtime::{ClassId, Labels, Probabilities};
use serde::Deserialize;

/// Classes of which no image leaves the device.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Privacy {
    /// Their names, or numbers, as the first network on the device knows them. Default none.
    pub never_offload: Vec<String>,
    /// The least probability, 0 to 1, of one of them that keeps an image. Default 0.1.
    pub at_least: f32,
}

impl Default for Privacy {
    fn default() -> Self {
        Self {
            never_offload: Vec::new(),
            at_least: 0.1,
        }
    }
}

/// Why a [`Privacy`] was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PrivacyError {
    /// No class has that name or number.
    #[error("`privacy.never_offload` names {0:?}, which is no class of the network on the device")]
    NoSuchClass(String),
    /// The bound is no probability.
    #[error("`privacy.at_least` is {0}: give a probability above 0 and up to 1")]
    Bound(f32),
    /// There is no network here that could tell.
    #[error(
        "`privacy.never_offload` needs a cascade that begins on the device: else nothing here knows what an image shows"
    )]
    Blind,
}

/// A [`Privacy`] in the classes of a network.
#[derive(Debug)]
pub(crate) struct PrivateClasses {
    classes: Vec<ClassId>,
    at_least: f32,
}

impl PrivateClasses {
    pub(crate) fn resolve(privacy: &Privacy, labels: &Labels) -> Result<Self, PrivacyError> {
        if !(privacy.at_least > 0.0 && privacy.at_least <= 1.0) {
            return Err(PrivacyError::Bound(privacy.at_least));
        }
        let class = |name: &String| {
            labels
                .find(name)
                .ok_or_else(|| PrivacyError::NoSuchClass(name.clone()))
        };
        let classes = privacy.never_offload.iter().map(class);
        Ok(Self {
            classes: classes.collect::<Result<_, _>>()?,
            at_least: privacy.at_least,
        })
    }

    /// Whether an image of which a network says this stays here.
    pub(crate) fn keep(&self, said: &Probabilities) -> bool {
        let said = said.as_slice();
        let probability = |class: &ClassId| said.get(class.0 as usize);
        self.classes
            .iter()
            .any(|class| probability(class).is_some_and(|&p| p >= self.at_least))
    }
}
