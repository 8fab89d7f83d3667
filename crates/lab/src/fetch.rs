//! `lab fetch`: brings published weights into the model folder.
//!
//! This file decides per network what there is to do; `download` moves the bytes, `part` keeps and
//! checks them. A file takes its final name only once its size and SHA-256 are the manifest's.

mod download;
mod error;
mod part;
mod progress;

use std::{
    fmt,
    fs::File,
    io::{self, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use indicatif::HumanBytes;
use outpost_runtime::{Manifest, ModelFolder};
use sha2::{Digest, Sha256};
use ureq::Agent;

pub use error::FetchError;
pub use progress::Progress;

use download::Source;
use part::{Part, hash_to_end};

/// A mirror that does not answer by then is taken for unreachable.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// A connection that brings nothing for so long is taken for cut; slow ones are left alone.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// What `lab fetch` is asked.
#[derive(Debug, clap::Args)]
pub struct FetchArgs {
    /// Networks to fetch.
    #[arg(value_name = "NAME", required_unless_present = "all")]
    pub names: Vec<String>,
    /// Fetch every network of the model folder.
    #[arg(long, conflicts_with = "names")]
    pub all: bool,
    /// The model folder.
    #[arg(long, value_name = "DIR", default_value = "models")]
    pub models: PathBuf,
    /// Fetch from this address followed by the file's name, in place of the manifest's address.
    #[arg(long, value_name = "URL-BASE")]
    pub from: Option<String>,
    /// Replace a file that is not the manifest's.
    #[arg(long)]
    pub force: bool,
}

/// What to do about a file that is there and is not the manifest's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WrongFile {
    /// Leave it and say so.
    Keep,
    /// Replace it, once the right one is here.
    Replace,
}

/// How a cut connection is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// Tries in a row without progress after which it ends.
    pub attempts: u32,
    /// Pause before the second try; doubles with each.
    pub first_pause: Duration,
}

impl Default for Retry {
    /// 5 tries, pausing 1, 2, 4 and 8 s: outlasts a change of network, not a person's patience.
    fn default() -> Self {
        Self {
            attempts: 5,
            first_pause: Duration::from_secs(1),
        }
    }
}

/// Fetches weights into a model folder.
#[derive(Debug)]
pub struct Fetcher {
    folder: ModelFolder,
    from: Option<String>,
    wrong_file: WrongFile,
    retry: Retry,
    agent: Agent,
}

/// What came of a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Downloaded, checked and in place.
    Fetched {
        /// Where it is.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// How much of it an earlier run had left.
        resumed_from: u64,
    },
    /// It was there and is the manifest's; nothing was downloaded.
    AlreadyThere {
        /// Where it is.
        path: PathBuf,
    },
    /// The weights come with the repository, and are there.
    InRepository {
        /// Where they are.
        path: PathBuf,
    },
}

impl Fetcher {
    /// Fetches into `folder` from the manifests' own addresses and keeps wrong files.
    pub fn new(folder: ModelFolder) -> Self {
        let config = Agent::config_builder()
            .timeout_resolve(Some(CONNECT_TIMEOUT))
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_recv_response(Some(IDLE_TIMEOUT))
            .timeout_per_read(Some(IDLE_TIMEOUT))
            .http_status_as_error(false)
            .user_agent(concat!("outpost-lab/", env!("CARGO_PKG_VERSION")))
            .build();
        Self {
            folder,
            from: None,
            wrong_file: WrongFile::Keep,
            retry: Retry::default(),
            agent: config.into(),
        }
    }

    /// Fetches from `base` followed by the file's name.
    #[must_use]
    pub fn from_mirror(mut self, base: impl Into<String>) -> Self {
        self.from = Some(base.into());
        self
    }

    /// Chooses what to do about a file that is not the manifest's.
    #[must_use]
    pub fn on_wrong_file(mut self, wrong_file: WrongFile) -> Self {
        self.wrong_file = wrong_file;
        self
    }

    /// Chooses how a cut connection is tried again.
    #[must_use]
    pub fn with_retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// Makes sure that the weights of a network are there and right.
    ///
    /// # Errors
    /// A [`FetchError`]; what was received stays beside the file as `<file>.part` and is gone on from
    /// next time, except where it is known to be wrong.
    pub fn fetch(&self, name: &str, progress: &mut Progress) -> Result<Outcome, FetchError> {
        let manifest = self.folder.manifest(name)?;
        let path = self.folder.weights_path(&manifest);
        let found = sha256_of(&path)?;
        let right = found.as_ref() == Some(&manifest.sha256);
        let Some(published) = &manifest.download else {
            return match found {
                Some(_) if right => Ok(Outcome::InRepository { path }),
                _ => Err(FetchError::NotAsInRepository { path }),
            };
        };
        match found {
            Some(_) if right => return Ok(Outcome::AlreadyThere { path }),
            Some(found) if self.wrong_file == WrongFile::Keep => {
                return Err(FetchError::WrongFile {
                    path,
                    expected: manifest.sha256,
                    found,
                });
            }
            _ => {}
        }
        let address = self.address(published, &path);
        let resumed_from = self.download(&manifest, &path, &address, progress)?;
        Ok(Outcome::Fetched {
            path,
            bytes: manifest.bytes,
            resumed_from,
        })
    }

    fn download(
        &self,
        manifest: &Manifest,
        path: &Path,
        address: &str,
        progress: &mut Progress,
    ) -> Result<u64, FetchError> {
        let mut part = Part::open(path, manifest.bytes)?;
        let resumed_from = part.len();
        progress.start(&manifest.name, part.len(), manifest.bytes);
        let source = Source {
            agent: &self.agent,
            address,
            retry: self.retry,
        };
        let downloaded = download::download(&source, &mut part, progress);
        progress.end();
        match downloaded {
            Ok(()) => part.finish(&manifest.sha256, address)?,
            Err(error) => {
                part.leave()?;
                return Err(error);
            }
        }
        Ok(resumed_from)
    }

    fn address(&self, published: &str, path: &Path) -> String {
        match &self.from {
            None => published.to_owned(),
            Some(base) => {
                let file = path.file_name().unwrap_or_default().to_string_lossy();
                format!("{}/{file}", base.trim_end_matches('/'))
            }
        }
    }
}

/// Runs `lab fetch`, one line to `out` a network.
///
/// # Errors
/// The network's [`FetchError`] when one was asked for; [`FetchError::Some`] when several were, after
/// all of them have been tried.
pub fn run(args: &FetchArgs, out: &mut dyn Write) -> Result<(), FetchError> {
    let folder = ModelFolder::new(&args.models);
    let names = if args.all {
        folder.names()?
    } else {
        args.names.clone()
    };
    let mut fetcher = Fetcher::new(folder);
    if let Some(base) = &args.from {
        fetcher = fetcher.from_mirror(base);
    }
    if args.force {
        fetcher = fetcher.on_wrong_file(WrongFile::Replace);
    }
    let mut failed = 0;
    for name in &names {
        match fetcher.fetch(name, &mut Progress::to_stderr()) {
            Ok(outcome) => writeln!(out, "{name}: {outcome}")?,
            Err(error) if names.len() == 1 => return Err(error),
            Err(error) => {
                failed += 1;
                writeln!(out, "{name}: not fetched: {}", WithCauses(&error))?;
            }
        }
    }
    match failed {
        0 => Ok(()),
        failed => Err(FetchError::Some {
            failed,
            asked: names.len(),
        }),
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fetched {
                path,
                bytes,
                resumed_from,
            } => {
                let (path, bytes) = (path.display(), HumanBytes(*bytes));
                match resumed_from {
                    0 => write!(f, "fetched {bytes}, digest right ({path})"),
                    had => write!(
                        f,
                        "fetched {bytes}, of which {} were there, digest right ({path})",
                        HumanBytes(*had)
                    ),
                }
            }
            Self::AlreadyThere { path } => {
                write!(f, "already there, digest right ({})", path.display())
            }
            Self::InRepository { path } => write!(
                f,
                "nothing to fetch, its weights come with the repository ({})",
                path.display()
            ),
        }
    }
}

/// An error and its causes on one line.
struct WithCauses<'a>(&'a dyn std::error::Error);

impl fmt::Display for WithCauses<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

/// SHA-256 of a file in hexadecimal, or `None` where there is no file.
fn sha256_of(path: &Path) -> Result<Option<String>, FetchError> {
    let at = |source| FetchError::file(path, source);
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(at(error)),
    };
    let mut hasher = Sha256::new();
    hash_to_end(&mut file, &mut hasher).map_err(at)?;
    Ok(Some(hexadecimal(hasher)))
}

fn hexadecimal(hasher: Sha256) -> String {
    let digest = hasher.finalize();
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
