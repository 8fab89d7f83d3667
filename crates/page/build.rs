//! Makes the page of `target/web` a part of the program, with the feature `built-in`.

use std::{
    env,
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
};

fn main() -> io::Result<()> {
    println!("cargo:rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_BUILT_IN").is_none() {
        return Ok(());
    }
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let folder = here.join("../../target/web");
    println!("cargo:rerun-if-changed={}", folder.display());
    if !folder.join("index.html").is_file() {
        println!(
            "cargo::error=the page is to be a part of the program, and is not in {}: run scripts/build-web first, or build without the \
             feature and name the page's folder in the configuration",
            folder.display()
        );
        return Ok(());
    }
    let mut files = Vec::new();
    list(&folder.canonicalize()?, "", &mut files)?;
    files.sort();
    let mut code = "&[\n".to_owned();
    for (name, path) in files {
        let _ = writeln!(code, "    ({name:?}, include_bytes!({path:?})),");
    }
    code.push_str("]\n");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    fs::write(out.join("page.rs"), code)
}

/// Names of the files below a folder, relative to the first, and their paths.
fn list(folder: &Path, within: &str, files: &mut Vec<(String, String)>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        println!("cargo:rerun-if-changed={}", path.display());
        let (Some(name), Some(text)) = (
            path.file_name().and_then(|name| name.to_str()),
            path.to_str(),
        ) else {
            return Err(io::Error::other(format!("{} is no text", path.display())));
        };
        let name = format!("{within}{name}");
        if path.is_dir() {
            list(&path, &format!("{name}/"), files)?;
        } else {
            files.push((name, text.to_owned()));
        }
    }
    Ok(())
}
