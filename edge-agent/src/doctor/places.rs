//! Folders and files that are written, the room that is left, and the addresses that are listened on.

use std::{fs, io, net::TcpListener, path::Path};

use rustix::fs::statvfs;
use uuid::Uuid;

use outpost_engine::error_chain;

use super::{Examination, Finding, Verdict, report::Subject};
use crate::{
    config::{Config, Delivery, FileOutput, PowerClass, QueueConfig, Then},
    outputs,
    power::{Class, Supplies},
    queue::{Present, Queue},
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
        examination.add(queue(&config.queue));
    }
    if let Some(file) = &config.outputs.file {
        examination.add(output(file));
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

fn queue(config: &QueueConfig) -> Finding {
    let path = &config.path;
    let subject = Finding::new("place", format!("queue {}", path.display()));
    let present = match Queue::look(config) {
        Ok(present) => present,
        Err(error) => return subject.failed(error_chain(&*error.source), error.advice),
    };
    let taken = fs::metadata(path).map_or(0, |file| file.len());
    let mut finding = judged(
        subject,
        writable(parent(path)).map(Some),
        config.max_bytes.saturating_sub(taken),
        "make its folder and give this user the right to write there, or name another `queue.path`; lower `queue.max_bytes` where room is short",
    );
    if finding.verdict == Verdict::Failed {
        return finding;
    }
    let holds = match present {
        Present::Nothing => return finding,
        Present::Whole(images) => format!("; {images} images wait"),
        Present::InUse => "; in use by an edge-agent that runs".to_owned(),
        Present::Unclosed => "; not closed when its program ended: `run` repairs it, or sets it aside where it cannot".to_owned(),
        Present::Damaged(error) => {
            let advice = "`run` sets it aside and begins a new one, without the images in it: copy it first where they matter, and look after the disk";
            let subject = Finding::new("place", finding.subject);
            return subject.warning(format!("damaged: {}", error_chain(&error)), advice);
        }
    };
    finding.found += &holds;
    finding
}

fn output(config: &FileOutput) -> Finding {
    let subject = Finding::new("place", format!("output {}", config.path.display()));
    if let Err(error) = outputs::look_at_file(config) {
        return subject.failed(
            error.source.to_string(),
            "make it a file that this user may read and write, or name another `outputs.file.path`",
        );
    }
    judged(
        subject,
        writable(parent(&config.path)).map(Some),
        config.max_bytes,
        "make its folder and give this user the right to write there, or name another `outputs.file.path`; lower `max_bytes` where room is short",
    )
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

pub(super) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}
