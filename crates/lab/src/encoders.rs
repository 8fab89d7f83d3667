//! `lab encoders`: what encoders make of images before they are sent: bytes, accuracy and time.
//!
//! This file reads the arguments and goes through the images; `measure` encodes one image in every way and asks the
//! network, `report` shows the figures.
//!
//! An image is shrunk to what the network sees, encoded, decoded and classified, as a device and its cloud would do
//! together. What is lost is lost against the image as it was read, image by image.

mod measure;
mod report;

use std::{
    fs, io,
    io::Write,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use outpost_cascade::EncoderProfile;
use outpost_runtime::{
    ClassifyError, Codec, DecodeError, EncodeError, Encoder, Fit, ModelFolder, OpenError,
    TractRuntime,
};

use crate::{
    host::cpu_model,
    summarise::{Labels, ReadError},
    trace::progress,
};
use measure::{Measurement, measure};

/// Qualities of each format that are measured where the arguments name none.
const QUALITIES: [(Codec, &[u8]); 3] = [
    (Codec::Jpeg, &[95, 85, 80, 75, 70]),
    (Codec::WebP, &[90, 80, 70, 60, 45]),
    (Codec::Avif, &[65, 60, 57, 54, 50]),
];

/// What `lab encoders` is asked.
#[derive(Debug, clap::Args)]
pub struct EncodersArgs {
    /// The network that sees the images.
    #[arg(long, value_name = "NAME")]
    pub network: String,
    /// The folder of the images.
    #[arg(long, value_name = "DIR")]
    pub images: PathBuf,
    /// True classes: a CSV file with the columns `file`, a name in that folder, and `label`.
    #[arg(long, value_name = "FILE.csv")]
    pub labels: PathBuf,
    /// The encoders, `jpeg@95` and the like; else several qualities of every format that this build has.
    #[arg(long, value_name = "ENCODER,…", value_delimiter = ',')]
    pub encoders: Vec<Encoder>,
    /// Where a profile goes that a device reads (`encoders` in its configuration).
    #[arg(long, value_name = "FILE.json")]
    pub out: Option<PathBuf>,
    /// Where the figures go as CSV.
    #[arg(long, value_name = "FILE.csv")]
    pub csv: Option<PathBuf>,
    /// The model folder.
    #[arg(long, default_value = "models", env = "OUTPOST_MODELS")]
    pub models: PathBuf,
    /// Images at a time. More than the machine's idle cores make the times longer.
    #[arg(long, value_name = "N", default_value = "1")]
    pub threads: NonZeroUsize,
    /// Measure only the first images.
    #[arg(long, value_name = "COUNT")]
    pub limit: Option<NonZeroUsize>,
}

/// Why encoders were not measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EncodersError {
    /// The network cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The labels are at fault.
    #[error(transparent)]
    Labels(#[from] ReadError),
    /// The labels name no image.
    #[error("{} labels no image", .0.display())]
    Empty(PathBuf),
    /// This build has not an encoder that was asked for.
    #[error("this build has no {0}: build with `--features avif`")]
    NotBuilt(Codec),
    /// An image that the labels name cannot be read.
    #[error("cannot read the image {}: take it out of the labels or restore it", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// An image cannot be decoded, or not once it has been encoded anew.
    #[error("cannot decode the image {} as {form}", path.display())]
    Decode {
        /// The file.
        path: PathBuf,
        /// `original` or the encoder.
        form: String,
        /// Why.
        source: DecodeError,
    },
    /// An image cannot be sent as it is.
    #[error("cannot take the metadata out of {}: take it out of the labels", .0.display())]
    Metadata(PathBuf),
    /// An image cannot be encoded.
    #[error("cannot encode the image {} as {encoder}", path.display())]
    Encode {
        /// The file.
        path: PathBuf,
        /// The encoder.
        encoder: Encoder,
        /// Why.
        source: EncodeError,
    },
    /// The network failed.
    #[error("the network failed on {}", path.display())]
    Classify {
        /// The file.
        path: PathBuf,
        /// Why.
        source: ClassifyError,
    },
    /// A file cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The figures cannot be printed.
    #[error("cannot print")]
    Print(#[from] io::Error),
}

/// Runs `lab encoders`: prints a table to `out`, and writes a profile and a CSV file where asked to.
///
/// # Errors
/// An [`EncodersError`] that names the file at fault.
pub fn run(args: &EncodersArgs, out: &mut dyn Write) -> Result<(), EncodersError> {
    let profile = profile(args)?;
    writeln!(out, "{}", report::table(&profile))?;
    let write = |path: &Path, text: String| {
        fs::write(path, text).map_err(|source| EncodersError::Write {
            path: path.to_owned(),
            source,
        })
    };
    if let Some(path) = &args.csv {
        write(path, report::csv(&profile))?;
    }
    if let Some(path) = &args.out {
        let text = serde_json::to_string_pretty(&profile).map_err(io::Error::from)?;
        write(path, text + "\n")?;
    }
    Ok(())
}

/// Measures encoders.
///
/// # Errors
/// An [`EncodersError`] that names the file at fault.
pub fn profile(args: &EncodersArgs) -> Result<EncoderProfile<Encoder>, EncodersError> {
    let encoders = encoders(args)?;
    let labels = Labels::load(&args.labels)?;
    let images = labels.by_name(args.limit);
    if images.is_empty() {
        return Err(EncodersError::Empty(args.labels.clone()));
    }
    let classifier =
        ModelFolder::new(&args.models).open(&args.network, &TractRuntime::default())?;
    let fit = Fit::new([&classifier.manifest().input]).expect("one network sees the images");

    let progress = progress(images.len() as u64);
    let next = AtomicUsize::new(0);
    let measured: Mutex<Result<Vec<(usize, Measurement)>, EncodersError>> =
        Mutex::new(Ok(Vec::new()));
    let keep = |result| {
        let mut measured = measured.lock().unwrap_or_else(PoisonError::into_inner);
        match (result, &mut *measured) {
            (Ok(one), Ok(all)) => all.push(one),
            // The first failure is told.
            (Err(error), all @ Ok(_)) => *all = Err(error),
            (_, Err(_)) => {}
        }
        measured.is_ok()
    };
    thread::scope(|scope| {
        for _ in 0..args.threads.get() {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some((file, label)) = images.get(number) else {
                        break;
                    };
                    let path = args.images.join(file);
                    let one = measure(&classifier, &fit, &encoders, &path, *label);
                    if !keep(one.map(|one| (number, one))) {
                        break;
                    }
                    progress.inc(1);
                }
            });
        }
    });
    progress.finish_and_clear();
    let mut measured = measured
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner)?;
    measured.sort_by_key(|(number, _)| *number);
    let measured: Vec<Measurement> = measured.into_iter().map(|(_, one)| one).collect();
    let manifest = classifier.manifest();
    Ok(EncoderProfile::new(
        manifest.name.clone(),
        manifest.sha256.clone(),
        measured.len(),
        cpu_model().unwrap_or_default(),
        report::original(&measured),
        report::encoders(&encoders, &measured),
    ))
}

fn encoders(args: &EncodersArgs) -> Result<Vec<Encoder>, EncodersError> {
    if args.encoders.is_empty() {
        let built = QUALITIES.iter().filter(|(codec, _)| codec.is_built());
        let names = built.flat_map(|(codec, qualities)| {
            qualities
                .iter()
                .map(move |quality| format!("{codec}@{quality}"))
        });
        let parsed = names.map(|name| name.parse().expect("the list names encoders"));
        return Ok(parsed.collect());
    }
    match args
        .encoders
        .iter()
        .find(|encoder| !encoder.codec.is_built())
    {
        Some(encoder) => Err(EncodersError::NotBuilt(encoder.codec)),
        None => Ok(args.encoders.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(labels: &Path, encoders: &[&str]) -> EncodersArgs {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        EncodersArgs {
            network: "cifar10-alexnet".into(),
            images: root.join("models/samples/cifar10"),
            labels: labels.to_owned(),
            encoders: encoders.iter().map(|name| name.parse().unwrap()).collect(),
            out: None,
            csv: None,
            models: root.join("models"),
            threads: NonZeroUsize::new(2).unwrap(),
            limit: NonZeroUsize::new(12),
        }
    }

    fn labels() -> PathBuf {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        root.join("models/samples/cifar10/labels.csv")
    }

    #[test]
    fn a_profile_says_what_each_encoder_costs_and_can_be_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut args = args(&labels(), &["jpeg@90", "webp@90", "webp@1"]);
        args.out = Some(folder.path().join("profile.json"));
        args.csv = Some(folder.path().join("figures.csv"));
        let mut table = Vec::new();
        run(&args, &mut table).unwrap();
        let table = String::from_utf8(table).unwrap();
        assert!(
            table.contains("original") && table.contains("webp@90"),
            "{table}"
        );

        let text = fs::read(args.out.unwrap()).unwrap();
        let profile: EncoderProfile<Encoder> = serde_json::from_slice(&text).unwrap();
        assert_eq!((profile.images, profile.encoders.len()), (12, 3));
        let [jpeg, webp, poor] = &profile.encoders[..] else {
            panic!("{profile:?}");
        };
        assert!(
            poor.bytes < webp.bytes && webp.bytes < jpeg.bytes,
            "{profile:?}"
        );
        assert!(jpeg.lost_points.abs() < 20.0 && jpeg.encode_ms > 0.0);
        for one in &profile.encoders {
            let difference = 100.0 * (profile.original.top1 - one.top1);
            assert!((one.lost_points - difference).abs() < 1e-9, "{one:?}");
            assert!(one.lost_points_low <= one.lost_points, "{one:?}");
            assert!(one.lost_points <= one.lost_points_high, "{one:?}");
        }
        let csv = fs::read_to_string(args.csv.unwrap()).unwrap();
        assert_eq!(csv.lines().count(), 1 + 1 + 3, "{csv}");
    }

    #[test]
    fn an_image_that_is_not_there_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let labels = folder.path().join("labels.csv");
        fs::write(&labels, "file,label\nnowhere.jpg,3\n").unwrap();
        let refused = profile(&args(&labels, &["jpeg@90"])).unwrap_err();
        assert!(refused.to_string().contains("nowhere.jpg"), "{refused}");
        fs::write(&labels, "file,label\n").unwrap();
        let refused = profile(&args(&labels, &["jpeg@90"])).unwrap_err();
        assert!(matches!(refused, EncodersError::Empty(_)), "{refused}");
    }
}
