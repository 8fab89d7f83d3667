//! The model manifest, `models/<name>/model.toml`: everything there is to know about a network
//! without opening its graph. This file parses and checks it; [`crate::ModelFolder`] finds it.

use std::{
    fs,
    path::{Component, Path, PathBuf},
};

use serde::Deserialize;

/// A network's manifest.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Name of the network; equals the name of its folder.
    pub name: String,
    /// What it is, in a line.
    pub description: String,
    /// Name of the ONNX file, beside the manifest.
    pub file: PathBuf,
    /// SHA-256 of the file, 64 lower-case hexadecimal digits.
    pub sha256: String,
    /// Size of the file in bytes.
    pub bytes: u64,
    /// SPDX expression of the weights' licence.
    pub licence: String,
    /// Where the weights come from, for people.
    pub sources: Vec<String>,
    /// Address from which one GET fetches the file, where there is one.
    #[serde(default)]
    pub download: Option<String>,
    /// File of class names, relative to the manifest; line N, from 0, names class N.
    #[serde(default)]
    pub labels: Option<PathBuf>,
    /// Multiply-adds an image costs.
    pub multiply_adds: u64,
    /// The input tensor and how an image becomes it.
    pub input: InputSpec,
    /// The output tensor.
    pub output: OutputSpec,
    /// The early exits, in the order in which an image passes them; `[[exit]]` in the file.
    #[serde(default, rename = "exit")]
    pub exits: Vec<ExitSpec>,
    /// The folder that it was read from.
    #[serde(skip)]
    pub folder: PathBuf,
}

/// The input tensor, f32 `[n, 3, size, size]`, and how an image becomes it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputSpec {
    /// Name of the tensor.
    pub tensor: String,
    /// Height and width in pixels.
    pub size: u32,
    /// Order of the three channels.
    pub channel_order: ChannelOrder,
    /// Subtracted from each channel, in `channel_order`, on values 0 to 255.
    pub mean: [f32; 3],
    /// Divides each channel after `mean` is subtracted.
    pub deviation: [f32; 3],
    /// How the image is brought to `size`.
    pub resize: Resize,
}

/// Order of the colour channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChannelOrder {
    /// Red, green, blue.
    Rgb,
    /// Blue, green, red, as Caffe has it.
    Bgr,
}

/// How an image of any size is brought to the network's.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(tag = "method", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Resize {
    /// The whole image to `to` × `to`, then the centre of the network's size.
    Stretch {
        /// Side in pixels.
        to: u32,
        /// Resampling filter.
        filter: Filter,
    },
    /// The short side to `to`, keeping the aspect, then the centre of the network's size.
    ShortSide {
        /// Length of the short side in pixels.
        to: u32,
        /// Resampling filter.
        filter: Filter,
    },
    /// The centre square of side `min(width, height) · fraction`, straight to the network's size.
    CentreSquare {
        /// Share of the short side that is kept, in (0, 1].
        fraction: f64,
        /// Resampling filter.
        filter: Filter,
    },
}

/// A resampling filter, as Pillow defines it: antialiased where the image shrinks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Filter {
    /// Triangle.
    Bilinear,
    /// Catmull-Rom cubic (a = −0.5).
    Bicubic,
}

/// The output tensor, f32 `[n, classes]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutputSpec {
    /// Name of the tensor.
    pub tensor: String,
    /// What its values are.
    pub kind: OutputKind,
    /// Number of classes.
    pub classes: usize,
    /// Name of the tensor `[n, width]` that the last layer sees, where policies may look at it.
    #[serde(default)]
    pub features: Option<String>,
}

/// A place inside the network where an answer can leave: the end of a stage. Its output is of the
/// same kind and has the same classes as the network's.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExitSpec {
    /// Name of the exit.
    pub name: String,
    /// Name of the tensor that the rest of the network continues from; nothing after it may look at
    /// a tensor before it.
    pub activations: String,
    /// Name of the tensor `[n, classes]` that answers.
    pub logits: String,
    /// Name of the tensor `[n, width]` of pooled features, where policies may look at it.
    #[serde(default)]
    pub features: Option<String>,
}

/// What a network's output values are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OutputKind {
    /// Scores before the softmax.
    Logits,
    /// Probabilities, summing to 1.
    Probabilities,
}

/// Why a manifest was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// It cannot be read.
    #[error("cannot read the manifest {}", path.display())]
    Read {
        /// The manifest.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not TOML, lacks a field or has one too many.
    #[error("the manifest {} does not parse", path.display())]
    Parse {
        /// The manifest.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// A field has an impossible value.
    #[error("the manifest {} has an impossible {field}: {expected}", path.display())]
    Field {
        /// The manifest.
        path: PathBuf,
        /// The field.
        field: &'static str,
        /// What it takes.
        expected: &'static str,
    },
}

impl Manifest {
    /// Reads and checks the manifest at `path`.
    ///
    /// # Errors
    /// A [`ManifestError`] that names the file and the field at fault.
    pub fn load(path: &Path) -> Result<Self, ManifestError> {
        let text = fs::read_to_string(path).map_err(|source| ManifestError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(path, &text)
    }

    /// Checks the text of the manifest at `path`.
    ///
    /// # Errors
    /// A [`ManifestError`] that names the file and the field at fault.
    pub(crate) fn parse(path: &Path, text: &str) -> Result<Self, ManifestError> {
        let mut manifest: Self = toml::from_str(text).map_err(|source| ManifestError::Parse {
            path: path.to_owned(),
            source: Box::new(source),
        })?;
        path.parent()
            .unwrap_or(Path::new(""))
            .clone_into(&mut manifest.folder);
        match manifest.impossible_field() {
            Some((field, expected)) => Err(ManifestError::Field {
                path: path.to_owned(),
                field,
                expected,
            }),
            None => Ok(manifest),
        }
    }

    fn impossible_field(&self) -> Option<(&'static str, &'static str)> {
        // Larger than any classifier's input; bounds what one image may allocate.
        const MAX_SIDE: u32 = 4096;
        let side = |pixels: u32| (1..=MAX_SIDE).contains(&pixels);
        let hexadecimal = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
        if self.name.is_empty() || !self.name.bytes().all(is_name_byte) {
            return Some(("name", "letters, digits, '.', '-' and '_'"));
        }
        let mut components = self.file.components();
        let plain = matches!(components.next(), Some(Component::Normal(_)));
        if !plain || components.next().is_some() {
            // `lab fetch` writes to it: it must not lead out of the network's folder.
            return Some(("file", "the name of a file beside the manifest"));
        }
        if self.sha256.len() != 64 || !self.sha256.bytes().all(hexadecimal) {
            return Some(("sha256", "64 lower-case hexadecimal digits"));
        }
        if !side(self.input.size) {
            return Some(("input.size", "1 to 4096 pixels"));
        }
        if self.input.mean.iter().any(|mean| !mean.is_finite()) {
            return Some(("input.mean", "finite numbers"));
        }
        if self.input.deviation.iter().any(|d| !d.is_normal()) {
            return Some(("input.deviation", "finite numbers other than 0"));
        }
        match self.input.resize {
            Resize::Stretch { to, .. } | Resize::ShortSide { to, .. }
                if !side(to) || to < self.input.size =>
            {
                return Some(("input.resize.to", "input.size to 4096 pixels"));
            }
            Resize::CentreSquare { fraction, .. } if !(fraction > 0.0 && fraction <= 1.0) => {
                return Some(("input.resize.fraction", "above 0, at most 1"));
            }
            _ => {}
        }
        if !(2..=1_000_000).contains(&self.output.classes) {
            return Some(("output.classes", "2 to 1000000"));
        }
        for (index, exit) in self.exits.iter().enumerate() {
            let plain = !exit.name.is_empty() && exit.name.bytes().all(is_name_byte);
            let twice = self.exits[..index].iter().any(|e| e.name == exit.name);
            if !plain || twice {
                return Some((
                    "exit.name",
                    "letters, digits, '.', '-' and '_', each name once",
                ));
            }
        }
        None
    }
}

/// Names become folder names and parts of addresses, so that they keep to plain characters.
fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_')
}
