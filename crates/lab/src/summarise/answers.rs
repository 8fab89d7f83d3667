//! Reads what the edge-agent answered and what is true.

use std::{
    collections::HashMap,
    fs::{self, File},
    io,
    num::NonZeroUsize,
    path::{Path, PathBuf},
};

use outpost_runtime::ClassId;
use serde::Deserialize;

/// Why a file of answers or labels was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// It cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line is not an answer.
    #[error("{}, line {line}: not an answer of the edge-agent", path.display())]
    Answer {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        source: AnswerError,
    },
    /// The labels are not CSV.
    #[error("{}, line {line}: not a line of CSV", path.display())]
    Csv {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// What is wrong with it.
        source: Box<csv::Error>,
    },
    /// The labels lack a column.
    #[error("{}, line 1: there is no column {column:?}; there are {present:?}", path.display())]
    NoColumn {
        /// The file.
        path: PathBuf,
        /// The column.
        column: &'static str,
        /// Those it has.
        present: Vec<String>,
    },
    /// A label is not a class.
    #[error("{}, line {line}: the label {found:?} is not a class id, a whole number from 0", path.display())]
    Label {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// What there is.
        found: String,
    },
    /// Two lines label the same file differently.
    #[error("{}, line {line}: {file:?} has two labels, {first} and {second}", path.display())]
    TwoLabels {
        /// The labels' file.
        path: PathBuf,
        /// The second line, from 1.
        line: u64,
        /// The image's file.
        file: String,
        /// By the earlier line.
        first: ClassId,
        /// By this line.
        second: ClassId,
    },
}

/// Why a line is not an answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AnswerError {
    /// It is not JSON, or a field has another type.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// It has neither an error nor all that an answer has.
    #[error("neither `error` nor all of `class_id`, `site` and `reason` are there")]
    Incomplete,
    /// A time is negative.
    #[error("`total_ms` is {0}, below 0")]
    Time(f64),
}

/// One line of the edge-agent: an image and what came of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The image's file name, without its folders.
    pub file: String,
    /// The answer; `None` for an image that could not be read.
    pub given: Option<Given>,
}

/// An answer to an image.
#[derive(Debug, Clone, PartialEq)]
pub struct Given {
    /// The class.
    pub class_id: ClassId,
    /// Who answered.
    pub site: Site,
    /// Whether the device answered in place of a cloud that did not.
    pub is_fallback: bool,
    /// Time from the image to the answer.
    pub total_ms: Option<f64>,
    /// Bytes that went over the link.
    pub bytes_sent: u64,
}

/// Who answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Site {
    /// The device.
    Device,
    /// The cloud.
    Cloud,
}

/// The true class of each file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Labels(HashMap<String, ClassId>);

/// A line as it stands; fields that no figure needs are passed over.
#[derive(Debug, Deserialize)]
struct Line {
    image: String,
    error: Option<String>,
    class_id: Option<u32>,
    site: Option<Site>,
    reason: Option<String>,
    total_ms: Option<f64>,
    bytes_sent: Option<u64>,
}

/// Reads a file of answers; blank lines are passed over.
///
/// # Errors
/// [`ReadError::Read`], or [`ReadError::Answer`] with the line at fault.
pub(super) fn load(path: &Path) -> Result<Vec<Answer>, ReadError> {
    let text = fs::read_to_string(path).map_err(|source| ReadError::Read {
        path: path.to_owned(),
        source,
    })?;
    text.lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(index, line)| {
            Answer::parse(line).map_err(|source| ReadError::Answer {
                path: path.to_owned(),
                line: index + 1,
                source,
            })
        })
        .collect()
}

impl Answer {
    /// Parses one line of the edge-agent.
    ///
    /// # Errors
    /// An [`AnswerError`].
    pub fn parse(line: &str) -> Result<Self, AnswerError> {
        let line: Line = serde_json::from_str(line)?;
        let file = file_name(&line.image);
        let given = match (line.error, line.class_id, line.site, line.reason) {
            (Some(_), ..) => None,
            (None, Some(class_id), Some(site), Some(reason)) => Some(Given {
                class_id: ClassId(class_id),
                site,
                is_fallback: reason.starts_with("fallback:"),
                total_ms: line.total_ms,
                bytes_sent: line.bytes_sent.unwrap_or(0),
            }),
            _ => return Err(AnswerError::Incomplete),
        };
        match line.total_ms {
            Some(total_ms) if total_ms < 0.0 => Err(AnswerError::Time(total_ms)),
            _ => Ok(Self { file, given }),
        }
    }
}

impl Labels {
    /// Reads a CSV file with the columns `file` and `label`.
    ///
    /// # Errors
    /// A [`ReadError`] with the line at fault.
    pub fn load(path: &Path) -> Result<Self, ReadError> {
        let bytes = File::open(path).map_err(|source| ReadError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::read(bytes, path)
    }

    /// The true class of a file.
    pub fn get(&self, file: &str) -> Option<ClassId> {
        self.0.get(file).copied()
    }

    /// All files with their classes, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, ClassId)> {
        self.0.iter().map(|(file, class)| (file.as_str(), *class))
    }

    /// The first `limit` files by name, all without a limit, with their classes.
    pub(crate) fn by_name(&self, limit: Option<NonZeroUsize>) -> Vec<(String, u32)> {
        let images = self.iter().map(|(file, class)| (file.to_owned(), class.0));
        let mut images: Vec<(String, u32)> = images.collect();
        images.sort();
        images.truncate(limit.map_or(usize::MAX, NonZeroUsize::get));
        images
    }

    pub(super) fn read(csv: impl io::Read, path: &Path) -> Result<Self, ReadError> {
        let path = || path.to_owned();
        let broken = |source: csv::Error| ReadError::Csv {
            path: path(),
            line: source.position().map_or(1, csv::Position::line),
            source: Box::new(source),
        };
        let mut reader = csv::ReaderBuilder::new()
            .trim(csv::Trim::All)
            .from_reader(csv);
        let header = reader.headers().map_err(broken)?.clone();
        let column = |name: &'static str| {
            header
                .iter()
                .position(|column| column == name)
                .ok_or_else(|| ReadError::NoColumn {
                    path: path(),
                    column: name,
                    present: header.iter().map(str::to_owned).collect(),
                })
        };
        let (file_column, label_column) = (column("file")?, column("label")?);
        let mut labels = HashMap::new();
        for record in reader.records() {
            let record = record.map_err(broken)?;
            let line = record.position().map_or(1, csv::Position::line);
            let field = |column| record.get(column).unwrap_or_default();
            let second =
                field(label_column)
                    .parse()
                    .map(ClassId)
                    .map_err(|_| ReadError::Label {
                        path: path(),
                        line,
                        found: field(label_column).to_owned(),
                    })?;
            let file = file_name(field(file_column));
            match labels.insert(file.clone(), second) {
                Some(first) if first != second => {
                    return Err(ReadError::TwoLabels {
                        path: path(),
                        line,
                        file,
                        first,
                        second,
                    });
                }
                _ => {}
            }
        }
        Ok(Self(labels))
    }
}

/// The last part of a path of any system: answers may come from another machine.
fn file_name(path: &str) -> String {
    let name = path.rsplit(['/', '\\']).next();
    name.unwrap_or(path).to_owned()
}
