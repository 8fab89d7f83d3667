//! `lab trace`: what every node of a cascade says about every labelled image, as a Parquet file.
//!
//! This file reads the arguments and goes through the images; `collect` runs the networks, `table`
//! is the trace in memory, `file` reads and writes it.
//!
//! An image is traced on one thread, every network from its first stage to its end, so that the times
//! are those of a device that does nothing else. Finished rows go to `<out>.parts/` every
//! [`ROWS_PER_PART`] images; a run that is stopped goes on after the last part.

mod collect;
mod file;
mod table;

use std::{
    fs, io,
    io::Write,
    num::NonZeroUsize,
    path::{Path, PathBuf},
};

use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};
use outpost_cascade::{Cascade, CascadeError};
use outpost_runtime::{DecodeError, Features, ModelFolder, OpenError};

pub use file::TraceError;
pub use table::{NodeSpec, NodeTrace, Rows, Trace, TraceSpec};

use crate::summarise::{Labels, ReadError};
use collect::Collector;

/// Images a part: a stop loses that many at most, and a row group of the trace holds them.
const ROWS_PER_PART: usize = 1000;

/// What `lab trace` is asked.
#[derive(Debug, clap::Args)]
pub struct TraceArgs {
    /// The cascade file: all its nodes are traced, whatever its policies say.
    #[arg(long, value_name = "FILE")]
    pub cascade: PathBuf,
    /// The folder of the images.
    #[arg(long, value_name = "DIR")]
    pub images: PathBuf,
    /// True classes: a CSV file with the columns `file`, a name in that folder, and `label`. All its
    /// images are traced, in the order of their names.
    #[arg(long, value_name = "FILE.csv")]
    pub labels: PathBuf,
    /// Where the trace goes.
    #[arg(long, value_name = "FILE.parquet")]
    pub out: PathBuf,
    /// The model folder.
    #[arg(long, default_value = "models", env = "OUTPOST_MODELS")]
    pub models: PathBuf,
    /// Keep the pooled features that policies may look at: 4 bytes an element, example and node.
    #[arg(long)]
    pub features: bool,
    /// Probabilities to keep of every node, the largest first.
    #[arg(long, value_name = "COUNT", default_value_t = 10, value_parser = clap::value_parser!(u16).range(5..))]
    pub top: u16,
    /// Trace only the first images.
    #[arg(long, value_name = "COUNT")]
    pub limit: Option<NonZeroUsize>,
}

/// Why there is no trace.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CollectError {
    /// The cascade file is at fault.
    #[error("cannot use the cascade {}", path.display())]
    Cascade {
        /// The file.
        path: PathBuf,
        /// Why.
        source: CascadeError,
    },
    /// The labels are at fault.
    #[error(transparent)]
    Labels(#[from] ReadError),
    /// The labels name no image.
    #[error("{} labels no image", .0.display())]
    Empty(PathBuf),
    /// A label that is no class of the networks.
    #[error("the label {label} of {file:?} is no class of {network:?}, which has {classes}")]
    Label {
        /// The image.
        file: String,
        /// Its label.
        label: u32,
        /// A network of the cascade.
        network: String,
        /// Its classes.
        classes: usize,
    },
    /// An image that the labels name cannot be read.
    #[error("cannot read the image {}: take it out of the labels or restore it", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// An image cannot be decoded.
    #[error("cannot decode the image {}: take it out of the labels or restore it", path.display())]
    Decode {
        /// The file.
        path: PathBuf,
        /// Why.
        source: DecodeError,
    },
    /// A network failed.
    #[error("the node {node:?} failed on {}", path.display())]
    Classify {
        /// The node.
        node: String,
        /// The image.
        path: PathBuf,
        /// Why.
        source: outpost_runtime::ClassifyError,
    },
    /// A network cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The parts of an earlier run are of another trace.
    #[error(
        "{} holds the parts of another trace (cascade, weights, labels, flags or processor differ): remove it \
         or give another --out",
        .0.display()
    )]
    OtherParts(PathBuf),
    /// The trace cannot be written, or a part not be read again.
    #[error(transparent)]
    Trace(#[from] TraceError),
    /// A file or folder cannot be made or removed.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Nothing can be printed.
    #[error("cannot print")]
    Print(#[from] io::Error),
}

/// Runs `lab trace`.
///
/// # Errors
/// A [`CollectError`] that names the file at fault.
pub fn run(args: &TraceArgs, out: &mut dyn Write) -> Result<(), CollectError> {
    let cascade = Cascade::load(&args.cascade).map_err(|source| CollectError::Cascade {
        path: args.cascade.clone(),
        source,
    })?;
    let labels = Labels::load(&args.labels)?;
    let images = labels.by_name(args.limit);
    if images.is_empty() {
        return Err(CollectError::Empty(args.labels.clone()));
    }
    let features = if args.features {
        Features::Give
    } else {
        Features::Omit
    };
    let models = ModelFolder::new(&args.models);
    let mut collector = Collector::open(&cascade, &models, features, args.top.into(), &images)?;

    let parts = with_suffix(&args.out, ".parts");
    fs::create_dir_all(&parts).map_err(|source| CollectError::Write {
        path: parts.clone(),
        source,
    })?;
    let progress = progress(images.len() as u64);
    let mut part_files = Vec::new();
    for (number, chunk) in images.chunks(ROWS_PER_PART).enumerate() {
        let path = parts.join(format!("{number:05}.parquet"));
        part_files.push(path.clone());
        if path.is_file() {
            let part = Trace::load(&path)?;
            if part.spec != *collector.spec() || part.rows.files.len() != chunk.len() {
                return Err(CollectError::OtherParts(parts));
            }
            progress.inc(chunk.len() as u64);
            progress.reset_eta();
            continue;
        }
        let mut rows = collector.empty_rows();
        for (file, label) in chunk {
            collector.trace(&args.images.join(file), file, *label, &mut rows)?;
            progress.inc(1);
        }
        file::write(&path, collector.spec(), [Ok(rows)])?;
    }
    file::write(
        &args.out,
        collector.spec(),
        part_files.iter().map(|path| Ok(Trace::load(path)?.rows)),
    )?;
    fs::remove_dir_all(&parts).map_err(|source| CollectError::Write {
        path: parts.clone(),
        source,
    })?;
    progress.finish_and_clear();
    let bytes = fs::metadata(&args.out).map_or(0, |file| file.len());
    writeln!(
        out,
        "{} images, {} nodes, {} ({} an image): {}",
        images.len(),
        collector.spec().nodes.len(),
        HumanBytes(bytes),
        HumanBytes(bytes / images.len() as u64),
        args.out.display()
    )?;
    Ok(())
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// A bar for work on `total` images.
pub(crate) fn progress(total: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
    bar.with_style(
        ProgressStyle::with_template(
            "{wide_bar:.cyan/dim} {pos} of {len} images  {per_sec}  {eta} left",
        )
        .expect("the template is well-formed"),
    )
}
