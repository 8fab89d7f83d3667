//! Who looks: to root all is open, while the service may run as another user.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::{Examination, Finding, places::parent};
use crate::config::{Config, Delivery};

const ROOT: u32 = 0;

/// Warns where root looks at what another user is to use.
pub(super) fn examine(config: &Config, examination: &mut Examination<'_>) {
    // The folder of this process belongs to its user.
    if owner(Path::new("/proc/self")) != Some(ROOT) {
        return;
    }
    let of_another = |place: &PathBuf| owner(place).is_some_and(|owner| owner != ROOT);
    let found = if let Some(place) = places(config).into_iter().find(of_another) {
        format!("{} belongs to another user", place.display())
    } else if let Some(file) = files(config).into_iter().find(|file| is_for_root(file)) {
        format!("only root may read {}", file.display())
    } else {
        return;
    };
    examination.add(Finding::new("device", "user").warning(
        format!("this is root, to whom all is open: {found}"),
        "run it as the user that the service runs as; with the package: `sudo setpriv --reuid=outpost --regid=outpost --groups=video edge-agent doctor …`",
    ));
}

/// What is written to, and the folders of it.
fn places(config: &Config) -> Vec<PathBuf> {
    let mut places: Vec<PathBuf> = Vec::new();
    places.extend(config.folders.iter().map(|folder| folder.path.clone()));
    let queue = (config.delivery == Delivery::Eventually).then_some(&config.queue.path);
    let output = config.outputs.file.as_ref().map(|file| &file.path);
    for file in queue.into_iter().chain(output) {
        places.extend([parent(file).to_owned(), file.clone()]);
    }
    places
}

/// What is read, credentials with it.
fn files(config: &Config) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for url in &config.urls {
        let of_url = [&url.token, &url.password, &url.certificate_authority];
        files.extend(of_url.into_iter().flatten().cloned());
    }
    if let Some(webhook) = &config.outputs.webhook {
        let of_webhook = [&webhook.token, &webhook.certificate_authority];
        files.extend(of_webhook.into_iter().flatten().cloned());
    }
    if let Some(mqtt) = &config.outputs.mqtt {
        let of_mqtt = [&mqtt.password, &mqtt.certificate_authority];
        files.extend(of_mqtt.into_iter().flatten().cloned());
    }
    files.extend(config.files());
    files
}

fn owner(path: &Path) -> Option<u32> {
    Some(fs::metadata(path).ok()?.uid())
}

/// Whether only root may read a file, by its own rights or those of a folder above it.
fn is_for_root(file: &Path) -> bool {
    let Ok(file) = file.canonicalize() else {
        return false;
    };
    let is_closed = |path: &Path, right: u32| {
        let Ok(found) = fs::metadata(path) else {
            return false;
        };
        let of_group = if found.gid() == ROOT { 0 } else { right << 3 };
        found.uid() == ROOT && found.mode() & (right | of_group) == 0
    };
    let (read, enter) = (0o4, 0o1);
    is_closed(&file, read)
        || file
            .ancestors()
            .skip(1)
            .any(|folder| is_closed(folder, enter))
}
