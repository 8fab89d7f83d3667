//! From the paths on a command line to images: files, folders, or `-` for a list on standard input.

use std::{
    ffi::OsStr,
    fs, io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio_stream::wrappers::SplitStream;

/// What the names of images end in, in any case.
pub(crate) const EXTENSIONS: &[&str] = match cfg!(feature = "avif") {
    true => &[".jpg", ".jpeg", ".png", ".webp", ".avif"],
    false => &[".jpg", ".jpeg", ".png", ".webp"],
};

/// The images of `arguments`, in order; a folder gives its images sorted by name.
///
/// A path that does not exist is passed on, so that it gets its line with the reason.
pub fn images(arguments: Vec<PathBuf>) -> BoxStream<'static, PathBuf> {
    stream::iter(arguments)
        .flat_map(|argument| {
            if argument == Path::new("-") {
                SplitStream::new(BufReader::new(tokio::io::stdin()).split(b'\n'))
                    .filter_map(|line| std::future::ready(listed(line)))
                    .boxed()
            } else {
                stream::iter(expand(argument)).boxed()
            }
        })
        .boxed()
}

/// A line of the list; names need not be UTF-8. A list that cannot be read on gives `-` once more,
/// which fails as an image and shows that the run is not complete.
fn listed(line: io::Result<Vec<u8>>) -> Option<PathBuf> {
    match line {
        Ok(line) => {
            let name = line.trim_ascii();
            (!name.is_empty()).then(|| PathBuf::from(OsStr::from_bytes(name)))
        }
        Err(error) => {
            tracing::error!(%error, "the list on standard input cannot be read to its end");
            Some(PathBuf::from("-"))
        }
    }
}

fn expand(path: PathBuf) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(&path) else {
        return vec![path];
    };
    let mut images: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| has_image_extension(path))
        .collect();
    images.sort();
    if images.is_empty() {
        tracing::warn!(
            folder = %path.display(),
            "the folder holds no files that are called as images: {}",
            EXTENSIONS.join(", ")
        );
    }
    images
}

/// Whether a file is called as an image that can be decoded.
pub(crate) fn has_image_extension(path: &Path) -> bool {
    path.extension().is_some_and(|extension| {
        EXTENSIONS
            .iter()
            .any(|known| extension.eq_ignore_ascii_case(&known[1..]))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listed_names_need_not_be_utf8_and_a_broken_list_shows() {
        let name = listed(Ok(b" caf\xe9.jpg\r".to_vec())).unwrap();
        assert_eq!(name.as_os_str().as_bytes(), b"caf\xe9.jpg");
        assert_eq!(listed(Ok(b"  ".to_vec())), None);
        let broken = listed(Err(io::Error::other("pulled out")));
        assert_eq!(broken, Some(PathBuf::from("-")));
    }

    #[test]
    fn images_are_known_by_their_names_in_any_case() {
        let is_image = |name: &str| has_image_extension(Path::new(name));
        assert!(
            ["a.jpg", "b.JPEG", "c.Png", "d.webp"]
                .iter()
                .all(|name| is_image(name))
        );
        assert!(
            !["a.heic", "b.gif", "jpg", ".jpg", "c.jpg.part"]
                .iter()
                .any(|name| is_image(name))
        );
        assert_eq!(is_image("a.avif"), cfg!(feature = "avif"));
    }

    #[tokio::test]
    async fn folders_give_their_images_in_order_and_unknown_paths_are_kept() {
        let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/samples/photos");
        let missing = PathBuf::from("no/such/image.jpg");
        let found: Vec<_> = images(vec![samples, missing.clone()]).collect().await;
        assert_eq!(found.len(), 51);
        assert_eq!(found[50], missing);
        assert!(found[..50].is_sorted());
    }
}
