//! Folders and files that are written, the room that is left, and the addresses that are listened on.

use std::{fs, io, net::TcpListener, path::Path};

use rustix::fs::statvfs;
use uuid::Uuid;

use outpost_engine::error_chain;

use super::{Examination, Finding, report::Subject};
use crate::{
    config::{Config, Delivery, PowerClass, Then},
    power::{Class, Supplies},
};

/// Less room on a disk that is written to is warned of: a day of answers of a busy camera fits.
const LITTLE_ROOM: u64 = 64 << 20;

/// Looks at where the program reads and writes.
pub(super) fn examine(config: &Config, examination: &mut Examination<'_>) {
    for folder in &config.folders {
        let subject = Finding::new("place", format!("folder {}", folder.path.display()));
        let found = match folder.then {
            // Nothing is written to it.
            Then::Keep => fs::read_dir(&folder.path).map(|_| None),
            Then::Move | Then::Delete => writable(&folder.path).map(Some),
        };
        examination.add(judged(
            subject,
            found,
            0,
            "make the folder, and give this user the right to write there",
        ));
    }
    if config.delivery == Delivery::Eventually {
        let path = &config.queue.path;
        let subject = Finding::new("place", format!("queue {}", path.display()));
        let taken = fs::metadata(path).map_or(0, |file| file.len());
        let wanted = config.queue.max_bytes.saturating_sub(taken);
        examination.add(judged(
            subject,
            writable(parent(path)).map(Some),
            wanted,
            "make its folder and give this user the right to write there, or name another `queue.path`; lower `queue.max_bytes` where room is short",
        ));
    }
    if let Some(file) = &config.outputs.file {
        let subject = Finding::new("place", format!("output {}", file.path.display()));
        examination.add(judged(
            subject,
            writable(parent(&file.path)).map(Some),
            file.max_bytes,
            "make its folder and give this user the right to write there, or name another `outputs.file.path`; lower `max_bytes` where room is short",
        ));
    }
    if config.power.class == PowerClass::Auto {
        let path = &config.power.supplies;
        let subject = Finding::new("place", format!("power supplies {}", path.display()));
        let advice = "give `power.class` \"mains\", \"battery\" or \"saver\"";
        examination.add(match Supplies::read(path) {
            Ok(supplies) if supplies.is_empty() => subject.warning(
                "the system tells of none: it is taken to run from the mains",
                advice,
            ),
            Ok(supplies) => {
                let class = supplies.class(Class::Mains, config.power.saver_below);
                let charge = supplies.charge();
                let charge = charge.map(|percent| format!(", {percent} % charged"));
                let charge = charge.unwrap_or_default();
                subject.good(format!("the class is {}{charge}", class.as_str()))
            }
            Err(error) => subject.failed(error_chain(&error), advice),
        });
    }
    let api = config.api.as_ref();
    let page = config.page.as_ref();
    for (field, address) in [
        ("api.address", api.map(|api| api.address)),
        ("page.address", page.map(|page| page.address)),
    ] {
        let Some(address) = address else { continue };
        let subject = Finding::new("place", format!("address {address}"));
        examination.add(match TcpListener::bind(address) {
            Ok(_) => subject.good("free"),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => subject.warning(
                "somebody listens there: well if that is this edge-agent",
                format!("if it is another program, change `{field}`"),
            ),
            Err(error) => subject.failed(
                error.to_string(),
                format!("give `{field}` an address of this machine and a port above 1023"),
            ),
        });
    }
}

/// `wanted` bytes are to have room there.
fn judged(subject: Subject, found: io::Result<Option<u64>>, wanted: u64, advice: &str) -> Finding {
    match found {
        Err(error) => subject.failed(error.to_string(), advice),
        Ok(None) => subject.good("can be read"),
        Ok(Some(free)) => {
            let found = format!("can be written; {:.1} GB free", free as f64 / 1e9);
            match free < wanted.max(LITTLE_ROOM) {
                true => subject.warning(
                    found,
                    format!(
                        "make room for {} MB: {advice}",
                        wanted.max(LITTLE_ROOM) >> 20
                    ),
                ),
                false => subject.good(found),
            }
        }
    }
}

/// Writes a file to a folder and deletes it; gives the bytes that are free for this user.
fn writable(folder: &Path) -> io::Result<u64> {
    let probe = folder.join(format!(".outpost-doctor-{}", Uuid::now_v7()));
    let written = fs::write(&probe, b"outpost");
    let _ = fs::remove_file(&probe);
    written?;
    let disk = statvfs(folder)?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}
