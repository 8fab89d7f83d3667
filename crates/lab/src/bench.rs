//! `lab bench`: measures a network on this machine.
//!
//! This file decides what is measured and in which order; `subject` loads the network, `measure`
//! times it, `host` knows the machine, `report` shows the figures.

mod measure;
mod report;
mod subject;

use std::{
    io::{self, Write},
    num::NonZeroUsize,
    path::PathBuf,
    time::{Duration, Instant},
};

use clap::ValueEnum;
use libjpeg_turbo_rs::{JpegError, PixelFormat, Subsampling};
use ndarray::{Array4, ArrayView4};
use outpost_runtime::{
    DecodeError, ImageLimits, InferError, LoadError, OpenError, PreprocessError, Preprocessor,
    Runtime, Threads, ThreadsError, TractRuntime, decode,
};

pub use report::BenchReport;

use crate::host::{cpu_model, memory};
use measure::{Plan, Steady, milliseconds};
use subject::Subject;

/// Size of the synthetic photo, that of many cameras and of the field's examples.
const PHOTO_PIXELS: (usize, usize) = (640, 480);
/// JPEG quality of the synthetic photo, a camera's usual.
const PHOTO_QUALITY: u8 = 85;

/// What `lab bench` is asked.
#[derive(Debug, clap::Args)]
pub struct BenchArgs {
    /// A network of the model folder, or an ONNX file.
    #[arg(value_name = "NETWORK|FILE.onnx")]
    pub subject: String,
    /// The model folder.
    #[arg(long, value_name = "DIR", default_value = "models")]
    pub models: PathBuf,
    /// How the figures are printed.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
    /// Images a thread.
    #[arg(long, value_name = "N", default_value = "50")]
    pub runs: NonZeroUsize,
    /// Ends earlier, after this many seconds; every thread finishes at least one image.
    #[arg(long, value_name = "S", value_parser = seconds)]
    pub seconds: Option<Duration>,
    /// Threads that run images at the same time.
    #[arg(long, value_name = "N", default_value = "1")]
    pub threads: NonZeroUsize,
    /// Threads that share the work of these images.
    #[arg(long, value_name = "N", default_value = "1")]
    pub image_threads: NonZeroUsize,
    /// Height and width of the input in pixels, for a FILE.onnx that leaves them free.
    #[arg(long, value_name = "PX")]
    pub size: Option<NonZeroUsize>,
    /// Values an image in the output, for a FILE.onnx that does not declare them.
    #[arg(long, value_name = "N")]
    pub classes: Option<NonZeroUsize>,
}

/// How figures are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// For programs; every name ends in its unit.
    Json,
}

/// Why a network was not measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchError {
    /// The network of the model folder cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The system gives no threads.
    #[error(transparent)]
    Threads(#[from] ThreadsError),
    /// The ONNX file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The ONNX file cannot be loaded.
    #[error("cannot load {}", path.display())]
    Load {
        /// The file.
        path: PathBuf,
        /// Why.
        source: LoadError,
    },
    /// The ONNX file does not take one image tensor.
    #[error(
        "{} does not take one tensor of 4 dimensions, [n, channels, height, width]; its inputs are {found}",
        path.display()
    )]
    NotAnImage {
        /// The file.
        path: PathBuf,
        /// Its inputs with their shapes.
        found: String,
    },
    /// The ONNX file leaves the image's size free.
    #[error("{} takes images of any size: choose one with --size PX", path.display())]
    FreeSize {
        /// The file.
        path: PathBuf,
    },
    /// The ONNX file does not declare the shape of its output.
    #[error(
        "{} does not declare the shape of its output {output:?}: state its values an image with --classes N",
        path.display()
    )]
    FreeOutput {
        /// The file.
        path: PathBuf,
        /// The output.
        output: String,
    },
    /// The ONNX file has no output.
    #[error("{} has no output", path.display())]
    NoOutput {
        /// The file.
        path: PathBuf,
    },
    /// An inference failed.
    #[error(transparent)]
    Infer(#[from] InferError),
    /// The synthetic photo cannot be encoded.
    #[error("cannot encode the synthetic photo")]
    Encode(#[from] JpegError),
    /// The synthetic photo cannot be decoded.
    #[error("cannot decode the synthetic photo")]
    Decode(#[from] DecodeError),
    /// The synthetic photo cannot be pre-processed.
    #[error("cannot pre-process the synthetic photo")]
    Preprocess(#[from] PreprocessError),
    /// The figures cannot be printed.
    #[error("cannot print the figures")]
    Print(#[from] io::Error),
}

/// Median times from an encoded photo to the network's input.
struct Preparation {
    decode_ms: f64,
    preprocess_ms: f64,
    tensor: Array4<f32>,
}

/// Runs `lab bench` and prints the figures to `out`.
///
/// # Errors
/// A [`BenchError`]; nothing is printed then.
pub fn run(args: &BenchArgs, out: &mut dyn Write) -> Result<(), BenchError> {
    let threads = Threads::try_new(args.image_threads.get())?;
    let report = measure(args, &TractRuntime::with_threads(threads))?;
    match args.format {
        Format::Table => writeln!(out, "{report}")?,
        Format::Json => {
            serde_json::to_writer_pretty(&mut *out, &report).map_err(io::Error::from)?;
            writeln!(out)?;
        }
    }
    Ok(())
}

/// Measures a network on `runtime`.
///
/// # Errors
/// A [`BenchError`].
pub fn measure(args: &BenchArgs, runtime: &TractRuntime) -> Result<BenchReport, BenchError> {
    let before = memory();
    let subject = Subject::load(args, runtime)?;
    let after = memory();

    let preparation = subject
        .preprocessor
        .as_ref()
        .map(|preprocessor| prepare(preprocessor, args.runs))
        .transpose()?;
    let synthetic;
    let tensor = match &preparation {
        Some(preparation) => preparation.tensor.view(),
        None => {
            synthetic = ramp(subject.network.spec().input_shape);
            synthetic.view()
        }
    };
    let first = Instant::now();
    subject.network.infer(tensor)?;
    let first_inference_ms = milliseconds(first.elapsed());
    let steady = steady(args, &subject, tensor)?;
    let latency = steady.latency();
    let work = subject.multiply_adds;
    Ok(BenchReport {
        name: subject.name,
        description: subject.description,
        runtime: runtime.name(),
        cpu_model: cpu_model(),
        cpu_threads: std::thread::available_parallelism().ok().map(usize::from),
        input_shape: subject.network.spec().input_shape,
        file_bytes: subject.file_bytes,
        threads: args.threads.get(),
        image_threads: args.image_threads.get(),
        images: steady.images(),
        load_ms: milliseconds(subject.load_time),
        first_inference_ms,
        latency_median_ms: latency.median_ms,
        latency_p5_ms: latency.p5_ms,
        latency_p95_ms: latency.p95_ms,
        throughput_images_per_sec: steady.images_per_sec(),
        decode_median_ms: preparation.as_ref().map(|p| p.decode_ms),
        preprocess_median_ms: preparation.as_ref().map(|p| p.preprocess_ms),
        multiply_adds_per_image: work,
        giga_multiply_adds_per_sec: work.map(|work| work as f64 * steady.images_per_sec() / 1e9),
        resident_before_load_bytes: before.map(|memory| memory.resident_bytes),
        resident_after_load_bytes: after.map(|memory| memory.resident_bytes),
        resident_peak_bytes: memory().map(|memory| memory.peak_bytes),
    })
}

fn steady(
    args: &BenchArgs,
    subject: &Subject,
    tensor: ArrayView4<'_, f32>,
) -> Result<Steady, BenchError> {
    let plan = Plan {
        threads: args.threads,
        runs_per_thread: args.runs,
        limit: args.seconds,
    };
    Ok(measure::steady(&plan, || {
        subject.network.infer(tensor).map(drop)
    })?)
}

/// Decodes and pre-processes a synthetic photo, `runs` times.
fn prepare(preprocessor: &Preprocessor, runs: NonZeroUsize) -> Result<Preparation, BenchError> {
    let photo = synthetic_photo()?;
    let image = decode(&photo, &ImageLimits::default())?;
    let tensor = preprocessor.tensor(&image)?;
    let plan = Plan {
        threads: NonZeroUsize::MIN,
        runs_per_thread: runs,
        limit: None,
    };
    let decoding = measure::steady(&plan, || decode(&photo, &ImageLimits::default()).map(drop))?;
    let preprocessing = measure::steady(&plan, || preprocessor.tensor(&image).map(drop))?;
    Ok(Preparation {
        decode_ms: decoding.latency().median_ms,
        preprocess_ms: preprocessing.latency().median_ms,
        tensor,
    })
}

/// A JPEG of broad shapes with some texture, so that it takes as long to decode as a photo.
fn synthetic_photo() -> Result<Vec<u8>, JpegError> {
    let (width, height) = PHOTO_PIXELS;
    let mut pixels = Vec::with_capacity(width * height * 3);
    for (y, x) in (0..height).flat_map(|y| (0..width).map(move |x| (y, x))) {
        let wave = ((x as f32 / 37.0).sin() + (y as f32 / 23.0).cos()) * 50.0;
        // Knuth's multiplicative hash as noise.
        let noise = (((x + y * width) as u32).wrapping_mul(2_654_435_761) >> 28) as f32;
        let bases = [128.0, 90.0 + x as f32 / 10.0, 70.0 + y as f32 / 8.0];
        pixels.extend(bases.map(|base| (base + wave + noise).clamp(0.0, 255.0) as u8));
    }
    libjpeg_turbo_rs::compress(
        &pixels,
        width,
        height,
        PixelFormat::Rgb,
        PHOTO_QUALITY,
        Subsampling::S420,
    )
}

/// An input for a network whose conventions are unknown: values from 0 to 1.
fn ramp([channels, height, width]: [usize; 3]) -> Array4<f32> {
    Array4::from_shape_fn((1, channels, height, width), |(_, _, y, x)| {
        (x + y) as f32 / (width + height) as f32
    })
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text
        .parse()
        .map_err(|_| "not a number of seconds".to_owned())?;
    match Duration::try_from_secs_f64(seconds) {
        Ok(limit) if !limit.is_zero() => Ok(limit),
        _ => Err("not a number of seconds above 0".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_synthetic_photo_is_a_jpeg_of_a_photos_size() {
        let photo = synthetic_photo().unwrap();
        let image = decode(&photo, &ImageLimits::default()).unwrap();
        assert_eq!(image.dimensions(), (640, 480));
        // 1 to 4 bits a pixel.
        assert!((38_400..153_600).contains(&photo.len()), "{}", photo.len());
    }

    #[test]
    fn seconds_are_above_zero() {
        assert_eq!(seconds("1.5"), Ok(Duration::from_millis(1500)));
        for wrong in ["0", "-1", "NaN", "inf", "1e99", "ten"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
