//! The files of the page itself: what `scripts/build-web` makes, built in or in a folder.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use outpost_runtime::Digested;

use crate::{PageError, Stored};

/// What the program was built with: names and contents. Empty without the feature `built-in`.
#[cfg(feature = "built-in")]
const BUILT_IN: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/page.rs"));
#[cfg(not(feature = "built-in"))]
const BUILT_IN: &[(&str, &[u8])] = &[];

/// The document that a browser is given for `/`.
const INDEX: &str = "index.html";

/// Far above what the page has, and far below what a folder that was named by mistake may have.
const MAX_FILES: usize = 1000;
const MAX_BYTES: u64 = 64 << 20;

/// The files by their names in a URL, without the first `/`.
#[derive(Debug, Default)]
pub(crate) struct Assets(BTreeMap<String, Stored>);

impl Assets {
    /// Those of a folder, or what the program was built with.
    pub(crate) fn load(folder: Option<&Path>) -> Result<Self, PageError> {
        let Some(folder) = folder else {
            let built_in = BUILT_IN.iter();
            return Ok(Self::new(built_in.map(|&(name, contents)| {
                (name.to_owned(), Bytes::from_static(contents))
            })));
        };
        let mut files = Vec::new();
        let mut left = MAX_BYTES;
        read(folder, "", &mut files, &mut left)
            .map_err(|(path, source)| PageError::Folder { path, source })?;
        let assets = Self::new(files.into_iter());
        match assets.0.contains_key(INDEX) {
            true => Ok(assets),
            false => Err(PageError::NoIndex(folder.to_owned())),
        }
    }

    fn new(files: impl Iterator<Item = (String, Bytes)>) -> Self {
        let stored = |(name, contents): (String, Bytes)| {
            let kind = content_type(&name);
            let stored = Stored {
                file: Digested::new(contents),
                content_type: kind,
            };
            (name, stored)
        };
        Self(files.map(stored).collect())
    }

    /// The file at a path of a URL, which must be one of their names to the letter.
    pub(crate) fn get(&self, path: &str) -> Option<&Stored> {
        let name = path.strip_prefix('/')?;
        self.0.get(if name.is_empty() { INDEX } else { name })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Reads the files below a folder but hidden ones; or says which path is at fault.
fn read(
    folder: &Path,
    within: &str,
    files: &mut Vec<(String, Bytes)>,
    left: &mut u64,
) -> Result<(), (PathBuf, io::Error)> {
    let at = |source| (folder.to_owned(), source);
    for entry in fs::read_dir(folder).map_err(at)? {
        let path = entry.map_err(at)?.path();
        let failed = |source| (path.clone(), source);
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.ok_or_else(|| failed(io::Error::other("its name is no text")))?;
        if name.starts_with('.') {
            continue;
        }
        let name = format!("{within}{name}");
        let metadata = fs::metadata(&path).map_err(failed)?;
        if metadata.is_dir() {
            read(&path, &format!("{name}/"), files, left)?;
            continue;
        }
        let room = left.checked_sub(metadata.len());
        let (Some(room), true) = (room, files.len() < MAX_FILES) else {
            let words = format!("a page has at most {MAX_FILES} files and {MAX_BYTES} bytes");
            return Err(failed(io::Error::other(words)));
        };
        *left = room;
        files.push((name, fs::read(&path).map_err(failed)?.into()));
    }
    Ok(())
}

fn content_type(name: &str) -> &'static str {
    match name.rsplit_once('.').map(|(_, extension)| extension) {
        Some("html") => "text/html; charset=utf-8",
        Some("js" | "mjs") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("json") => "application/json",
        Some("webmanifest") => "application/manifest+json",
        // By any other name a browser does not compile it while it arrives.
        Some("wasm") => "application/wasm",
        Some("svg") => "image/svg+xml",
        Some("png") => "image/png",
        Some("jpg" | "jpeg") => "image/jpeg",
        Some("webp") => "image/webp",
        Some("ico") => "image/x-icon",
        Some("woff2") => "font/woff2",
        Some("txt") => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_served_by_names_and_nothing_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let page = folder.path().join("web");
        fs::create_dir_all(page.join("pkg")).unwrap();
        for name in ["web/index.html", "web/pkg/a.wasm", "web/.hidden", "secret"] {
            fs::write(folder.path().join(name), name).unwrap();
        }
        let assets = Assets::load(Some(&page)).unwrap();
        for path in ["/", "/index.html"] {
            let index = assets.get(path).unwrap();
            assert_eq!(index.file.bytes(), "web/index.html".as_bytes());
            assert_eq!(index.content_type, "text/html; charset=utf-8");
        }
        let module = assets.get("/pkg/a.wasm").unwrap();
        assert_eq!(module.content_type, "application/wasm");
        for path in [
            "",
            "index.html",
            "//",
            "/pkg",
            "/pkg/",
            "/pkg//a.wasm",
            "/../secret",
            "/pkg/../../secret",
            "/.hidden",
            "/%2e%2e/secret",
            "/index.html/",
        ] {
            assert!(assets.get(path).is_none(), "{path}");
        }
    }

    #[test]
    fn a_folder_without_a_page_says_how_to_get_one() {
        let folder = tempfile::tempdir().unwrap();
        let error = Assets::load(Some(folder.path())).unwrap_err();
        assert!(error.to_string().contains("scripts/build-web"), "{error}");
        let missing = folder.path().join("none");
        let error = Assets::load(Some(&missing)).unwrap_err();
        assert!(error.to_string().contains("none"), "{error}");
    }
}
