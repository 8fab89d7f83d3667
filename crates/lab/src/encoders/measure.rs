//! One image, encoded in every way.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use outpost_runtime::{Classifier, Encoder, Fit, ImageLimits, RgbImage, decode, without_metadata};

use super::EncodersError;

/// What was measured of an image.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Measurement {
    /// As it was read, without its metadata.
    pub(super) original: Form,
    pub(super) resizing: Duration,
    /// In the order of the encoders.
    pub(super) encoded: Vec<(Form, Duration)>,
}

/// An image in a form that can be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Form {
    pub(super) bytes: usize,
    /// Whether the network is right about it.
    pub(super) is_right: bool,
}

pub(super) fn measure(
    classifier: &Classifier,
    fit: &Fit,
    encoders: &[Encoder],
    path: &Path,
    label: u32,
) -> Result<Measurement, EncodersError> {
    let read = fs::read(path).map_err(|source| EncodersError::Read {
        path: path.to_owned(),
        source,
    })?;
    let decoded = |encoded: &[u8], form: &dyn ToString| {
        decode(encoded, &ImageLimits::default()).map_err(|source| EncodersError::Decode {
            path: path.to_owned(),
            form: form.to_string(),
            source,
        })
    };
    let is_right = |image: &RgbImage| match classifier.classify(image) {
        Ok(said) => Ok(said.top1().class_id.0 == label),
        Err(source) => Err(EncodersError::Classify {
            path: path.to_owned(),
            source,
        }),
    };
    let image = decoded(&read, &"original")?;
    let bare = without_metadata(&read.into());
    let bare = bare.ok_or_else(|| EncodersError::Metadata(path.to_owned()))?;
    let original = Form {
        bytes: bare.len(),
        is_right: is_right(&image)?,
    };
    let started = Instant::now();
    let seen = fit.apply(&image);
    let resizing = started.elapsed();
    let encoded = encoders.iter().map(|encoder| {
        let started = Instant::now();
        let encoded = encoder.encode(&seen);
        let encoding = started.elapsed();
        let encoded = encoded.map_err(|source| EncodersError::Encode {
            path: path.to_owned(),
            encoder: *encoder,
            source,
        })?;
        let form = Form {
            bytes: encoded.len(),
            is_right: is_right(&decoded(&encoded, encoder)?)?,
        };
        Ok::<_, EncodersError>((form, encoding))
    });
    Ok(Measurement {
        original,
        resizing,
        encoded: encoded.collect::<Result<_, _>>()?,
    })
}
