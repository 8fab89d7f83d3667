//! What changed of the configuration and the files that it names.

use std::{collections::BTreeSet, fs, path::Path};

use outpost_supervision::Digests;
use toml::{Table, Value};

/// The configuration and its files, as they were when they were read.
#[derive(Debug, Clone, Default)]
pub(super) struct Snapshot {
    fields: Table,
    files: Digests,
}

impl Snapshot {
    /// Of a configuration that was just read from the file `path`, where there is one; `files` with those that it names.
    pub(super) fn new(path: Option<&Path>, files: Digests) -> Self {
        let text = path.and_then(|path| fs::read_to_string(path).ok());
        let fields = text.and_then(|text| text.parse().ok());
        Self {
            fields: fields.unwrap_or_default(),
            files,
        }
    }

    /// Fields of the configuration, and files beside its own, that are not as they were `before`.
    pub(super) fn changed_since(&self, before: &Self, path: Option<&Path>) -> Vec<String> {
        let mut changed = Vec::new();
        add_fields("", &before.fields, &self.fields, &mut changed);
        let files = self.files.changed_since(&before.files);
        let files = files.filter(|file| Some(*file) != path);
        changed.extend(files.map(|file| file.display().to_string()));
        changed
    }
}

/// Adds the names of fields with other values, those in tables as `TABLE.FIELD`.
fn add_fields(within: &str, before: &Table, now: &Table, changed: &mut Vec<String>) {
    let names: BTreeSet<&String> = before.keys().chain(now.keys()).collect();
    for name in names {
        let full = format!("{within}{name}");
        match (before.get(name), now.get(name)) {
            (one, other) if one == other => {}
            (Some(Value::Table(before)), Some(Value::Table(now))) => {
                add_fields(&format!("{full}."), before, now, changed);
            }
            _ => changed.push(full),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_and_files_that_are_not_as_they_were_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        let take = || {
            let files = ["edge-agent.toml", "token", "policy.json"].map(file);
            Snapshot::new(Some(&files[0]), Digests::of(&files))
        };
        let write = |name: &str, text: &str| fs::write(file(name), text).unwrap();
        write("token", "1");
        write("policy.json", "{}");
        write(
            "edge-agent.toml",
            "deadline_ms = 1\nmode = \"policy\"\n[cloud]\nurl = \"1\"\ntoken = \"token\"\n[[urls]]\nurl = \"1\"\n",
        );
        let before = take();
        write("token", "2");
        write(
            "edge-agent.toml",
            "deadline_ms = 2\n[cloud]\nurl = \"2\"\ntoken = \"token\"\n[api]\n[[urls]]\nurl = \"2\"\n",
        );
        let token = file("token").display().to_string();
        let path = file("edge-agent.toml");
        assert_eq!(
            take().changed_since(&before, Some(&path)),
            ["api", "cloud.url", "deadline_ms", "mode", "urls", &token]
        );
        assert_eq!(before.changed_since(&before, Some(&path)), [""; 0]);
    }
}
