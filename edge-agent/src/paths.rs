//! From the paths on a command line to images: files, folders, or `-` for a list on standard input.

use std::{
    fs,
    path::{Path, PathBuf},
};

use futures::{
    StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio_stream::wrappers::LinesStream;

/// The images of `arguments`, in order; a folder gives its images sorted by name.
///
/// A path that does not exist is passed on, so that it gets its line with the reason.
pub fn images(arguments: Vec<PathBuf>) -> BoxStream<'static, PathBuf> {
    stream::iter(arguments)
        .flat_map(|argument| {
            if argument == Path::new("-") {
                LinesStream::new(BufReader::new(tokio::io::stdin()).lines())
                    .inspect_err(|error| tracing::warn!(%error, "standard input ended early"))
                    .take_while(|line| std::future::ready(line.is_ok()))
                    .filter_map(|line| std::future::ready(line.ok()))
                    .filter(|line| std::future::ready(!line.trim().is_empty()))
                    .map(|line| PathBuf::from(line.trim()))
                    .boxed()
            } else {
                stream::iter(expand(argument)).boxed()
            }
        })
        .boxed()
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
        tracing::warn!(folder = %path.display(), "the folder holds no JPEG, PNG or WebP files");
    }
    images
}

fn has_image_extension(path: &Path) -> bool {
    path.extension().is_some_and(|extension| {
        ["jpg", "jpeg", "png", "webp"]
            .iter()
            .any(|known| extension.eq_ignore_ascii_case(known))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
