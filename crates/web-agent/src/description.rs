//! What an agent is made of: `agent.json`, and the files that it names.

use std::{collections::HashMap, path::PathBuf};

use outpost_runtime::{Digested, ModelFolder};
use serde::Deserialize;

/// What an agent is made of.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Description {
    /// The cascade.
    pub cascade: CascadeEntry,
    /// The learned policy, where there is one.
    #[serde(default)]
    pub policy: Option<PolicyEntry>,
    /// Which of its operating points: a name, `loss=POINTS`, `time=5ms`, `offload=20%` or `price=POINTS`; `loss=1` where it is
    /// not said.
    #[serde(default)]
    pub goal: Option<String>,
    /// Milliseconds from taking up an image to its answer.
    #[serde(default = "default_deadline_ms")]
    pub deadline_ms: u64,
    /// Milliseconds after the deadline in which an answer of the cloud that came too late still corrects that of the device; 0
    /// for never.
    #[serde(default = "default_correct_within_ms")]
    pub correct_within_ms: u64,
    /// The files.
    pub files: Vec<FileEntry>,
}

/// A cascade by its name and its file.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct CascadeEntry {
    /// Its name.
    pub name: String,
    /// Its file, from the model folder.
    pub path: PathBuf,
}

/// A learned policy by its file.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct PolicyEntry {
    /// Its file, from the model folder.
    pub path: PathBuf,
}

/// A file, as it is known.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct FileEntry {
    /// Where it is, from the model folder.
    pub path: String,
    /// SHA-256 of its bytes, 64 lower-case hexadecimal digits.
    pub sha256: String,
}

/// Why a description, or a file, was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DescriptionError {
    /// It does not parse.
    #[error(
        "the description of the agent does not parse: reload the page; the service may be of another version"
    )]
    Parse(#[from] serde_json::Error),
    /// A file is not there.
    #[error("the file {0:?} is missing: fetch it again")]
    Missing(String),
    /// A file is another than it is known as.
    #[error(
        "{path:?} is not the file that was announced: its SHA-256 is {found}, {expected} was expected; fetch it again"
    )]
    Digest {
        /// The file.
        path: String,
        /// By the description.
        expected: String,
        /// By the file.
        found: String,
    },
}

const fn default_deadline_ms() -> u64 {
    1000
}

const fn default_correct_within_ms() -> u64 {
    10_000
}

impl Description {
    /// Reads `agent.json`.
    ///
    /// # Errors
    /// [`DescriptionError::Parse`].
    pub fn parse(json: &str) -> Result<Self, DescriptionError> {
        Ok(serde_json::from_str(json)?)
    }

    /// The model folder of the files, each of which is the one that it is known as; what the description does not name is left
    /// out.
    ///
    /// # Errors
    /// [`DescriptionError::Missing`] or [`DescriptionError::Digest`], which name the file.
    pub fn folder(
        &self,
        mut files: HashMap<String, Digested>,
    ) -> Result<ModelFolder, DescriptionError> {
        let checked = self.files.iter().map(|entry| {
            let file = files.remove(&entry.path);
            let file = file.ok_or_else(|| DescriptionError::Missing(entry.path.clone()))?;
            if file.sha256() != entry.sha256 {
                return Err(DescriptionError::Digest {
                    path: entry.path.clone(),
                    expected: entry.sha256.clone(),
                    found: file.sha256().to_owned(),
                });
            }
            Ok((PathBuf::from(&entry.path), file))
        });
        let checked: Vec<_> = checked.collect::<Result<_, _>>()?;
        Ok(ModelFolder::in_memory(checked))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn description(sha256: &str) -> Description {
        Description::parse(&format!(
            r#"{{"cascade": {{"name": "a", "path": "cascades/a.toml"}}, "policy": null, "goal": null,
                "files": [{{"path": "cascades/a.toml", "sha256": "{sha256}", "bytes": 1}}]}}"#
        ))
        .unwrap()
    }

    #[test]
    fn a_file_that_is_another_or_missing_is_refused_by_its_name() {
        let file = Digested::new(&b"x"[..]);
        let right = description(file.sha256());
        let files = |file| [("cascades/a.toml".to_owned(), file)].into();
        assert!(right.folder(files(file)).is_ok());
        let other = Digested::new(&b"y"[..]);
        let other = right.folder(files(other)).unwrap_err();
        assert!(matches!(other, DescriptionError::Digest { .. }), "{other}");
        assert!(other.to_string().contains("cascades/a.toml"), "{other}");
        let missing = right.folder(HashMap::new()).unwrap_err();
        assert!(matches!(missing, DescriptionError::Missing(_)), "{missing}");
    }

    #[test]
    fn what_is_no_description_says_what_to_do() {
        let refused = Description::parse("<html>").unwrap_err();
        assert!(refused.to_string().contains("reload"), "{refused}");
    }
}
