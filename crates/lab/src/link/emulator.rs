//! Emulated paths between two network namespaces of this machine: one interface, two ways to have it.
//!
//! The device's end and the cloud's are network namespaces of their own, each held by a small process; programs are started in
//! them by `nsenter`. What lies between does to packets what a [`Condition`] says.

mod netem;
mod rattan;

use std::{
    fs, io,
    net::Ipv4Addr,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use super::{profile::Condition, rows::Wire};
use netem::Netem;
use rattan::Rattan;

/// Until the ends of a path are there.
const OPEN: Duration = Duration::from_secs(20);
/// Until they are gone.
const CLOSE: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(10);
/// The device's addresses: that of an emulator, and another.
const ADDRESSES: [&str; 2] = ["10.1.1.1/32", "10.1.1.77/32"];
/// Ethernet's header, which interfaces count and the network layer does not.
const ETHERNET: u64 = 14;

/// Which emulator is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// The kernel's where it has one, else rattan.
    Auto,
    /// `tc netem`, a part of the kernel.
    Netem,
    /// The program `rattan`.
    Rattan,
}

/// Why there is no path.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EmulatorError {
    /// Not root.
    #[error("an emulated path needs root: run it as root, or with sudo")]
    NotRoot,
    /// No network namespaces.
    #[error(
        "this system gives no network namespaces ({0}): run it on Linux, outside of a container without CAP_SYS_ADMIN"
    )]
    NoNamespaces(String),
    /// The kernel has no netem.
    #[error(
        "this kernel has no `tc netem` ({0}): load sch_netem, or use rattan with --emulator rattan"
    )]
    NoNetem(String),
    /// There is no rattan, or another.
    #[error(
        "there is no rattan {version} with its control over HTTP ({problem}): scripts/experiment-all installs it, or `cargo install rattan --version {version} --locked --features http`"
    )]
    NoRattan {
        /// The version that is wanted.
        version: &'static str,
        /// What was found.
        problem: String,
    },
    /// A command of the system failed.
    #[error("`{command}` failed: {problem}")]
    Command {
        /// The command.
        command: String,
        /// What it said.
        problem: String,
    },
    /// The ends of the path do not come up, or do not say what they are.
    #[error("the emulated path does not come up: {0}")]
    Path(String),
    /// A file of the system cannot be used.
    #[error("cannot use {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Makes paths.
#[derive(Debug)]
pub(super) enum Emulator {
    Netem(netem::Netem),
    Rattan(rattan::Rattan),
}

impl Emulator {
    /// The emulator asked for, where this system has it.
    ///
    /// # Errors
    /// An [`EmulatorError`] that says what is missing.
    pub(super) fn find(kind: Kind, rattan: Option<&Path>) -> Result<Self, EmulatorError> {
        let is_root = fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0);
        if !is_root {
            return Err(EmulatorError::NotRoot);
        }
        run("unshare", &["--net", "true"])
            .map_err(|error| EmulatorError::NoNamespaces(error.to_string()))?;
        match kind {
            Kind::Netem => Netem::find().map(Self::Netem),
            Kind::Rattan => Rattan::find(rattan).map(Self::Rattan),
            Kind::Auto => match Netem::find() {
                Ok(netem) => Ok(Self::Netem(netem)),
                Err(_) => Rattan::find(rattan).map(Self::Rattan),
            },
        }
    }

    /// Its name and version.
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Netem(netem) => netem.name(),
            Self::Rattan(rattan) => rattan.name(),
        }
    }

    /// A path in this condition. What it needs on disk is kept in `folder`.
    ///
    /// # Errors
    /// Where it does not come up.
    pub(super) fn open(
        &self,
        condition: Condition,
        folder: &Path,
    ) -> Result<EmulatedPath, EmulatorError> {
        let (middle, device, cloud, address) = match self {
            Self::Netem(netem) => netem.open(condition, folder)?,
            Self::Rattan(rattan) => rattan.open(condition, folder)?,
        };
        // What the kernel says of itself over IPv6 is no part of an experiment.
        for end in [&device, &cloud] {
            let quiet = "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6";
            end.run(
                "sh",
                &["-c", &format!("test ! -e /proc/sys/net/ipv6 || {quiet}")],
            )?;
        }
        Ok(EmulatedPath {
            middle,
            device,
            cloud,
            address,
            condition,
        })
    }
}

/// What lies between the ends.
#[derive(Debug)]
enum Middle {
    Netem(netem::Between),
    Rattan(rattan::Between),
}

/// A path that is there until it is dropped.
#[derive(Debug)]
pub(super) struct EmulatedPath {
    middle: Middle,
    device: Holder,
    cloud: Holder,
    address: Ipv4Addr,
    condition: Condition,
}

impl EmulatedPath {
    /// The cloud's address.
    pub(super) const fn cloud_address(&self) -> Ipv4Addr {
        self.address
    }

    /// What starts a program at the device's end: words before its own.
    pub(super) fn at_device(&self) -> Vec<String> {
        self.device.enter()
    }

    /// The same at the cloud's end.
    pub(super) fn at_cloud(&self) -> Vec<String> {
        self.cloud.enter()
    }

    /// What it does to packets now.
    pub(super) const fn condition(&self) -> Condition {
        self.condition
    }

    /// From now on it does this to packets.
    ///
    /// # Errors
    /// Where the emulator does not take it.
    pub(super) fn set(&mut self, condition: Condition) -> Result<(), EmulatorError> {
        match &self.middle {
            Middle::Netem(between) => between.set(condition, &self.device, &self.cloud)?,
            Middle::Rattan(between) => between.set(self.condition, condition)?,
        }
        self.condition = condition;
        Ok(())
    }

    /// Gives the device another address and takes away the one it had.
    ///
    /// # Errors
    /// Where the system does not take it.
    pub(super) fn change_address(&self) -> Result<(), EmulatorError> {
        let (interface, had) = self.device.address()?;
        let other = ADDRESSES.into_iter().find(|other| *other != had);
        let other = other.expect("the two differ");
        self.device
            .run("ip", &["address", "add", other, "dev", &interface])?;
        self.device
            .run("ip", &["address", "delete", &had, "dev", &interface])
    }

    /// Bytes of the network layer that have passed the device's interface since it is there.
    ///
    /// # Errors
    /// Where the system does not say.
    pub(super) fn wire(&self) -> Result<Wire, EmulatorError> {
        let path = PathBuf::from(format!("/proc/{}/net/dev", self.device.process));
        let text =
            fs::read_to_string(&path).map_err(|source| EmulatorError::File { path, source })?;
        counted(&text)
            .ok_or_else(|| EmulatorError::Path("its interface has no counters".to_owned()))
    }
}

impl Drop for EmulatedPath {
    fn drop(&mut self) {
        self.device.release();
        self.cloud.release();
        match &mut self.middle {
            Middle::Netem(between) => between.close(),
            Middle::Rattan(between) => between.close(),
        }
    }
}

/// Bytes of the network layer on the interfaces other than loopback, of `/proc/net/dev`.
fn counted(dev: &str) -> Option<Wire> {
    let mut found = None;
    for line in dev.lines() {
        let Some((name, counters)) = line.split_once(':') else {
            continue;
        };
        if name.trim() == "lo" {
            continue;
        }
        let counters: Vec<u64> = counters
            .split_whitespace()
            .map_while(|word| word.parse().ok())
            .collect();
        let [
            received,
            packets_received,
            ..,
            sent,
            packets_sent,
            _,
            _,
            _,
            _,
            _,
            _,
        ] = counters[..]
        else {
            return None;
        };
        let wire: &mut Wire = found.get_or_insert_default();
        wire.sent += sent.saturating_sub(ETHERNET * packets_sent);
        wire.received += received.saturating_sub(ETHERNET * packets_received);
    }
    found
}

/// A process that keeps a network namespace, and ends once this program is gone.
#[derive(Debug)]
struct Holder {
    process: u32,
}

impl Holder {
    /// What such a process runs: it writes its identifier to `file` and waits.
    fn script(file: &Path) -> [String; 3] {
        let script = format!(
            "echo $$ > '{0}.part' && mv '{0}.part' '{0}'; while kill -0 {1}; do sleep 1; done",
            file.display(),
            std::process::id()
        );
        ["sh".to_owned(), "-c".to_owned(), script]
    }

    /// The one that writes its identifier to `file`.
    fn await_in(file: &Path, is_lost: impl Fn() -> Option<String>) -> Result<Self, EmulatorError> {
        let began = Instant::now();
        loop {
            let process = fs::read_to_string(file).ok();
            if let Some(process) = process.and_then(|text| text.trim().parse().ok()) {
                return Ok(Self { process });
            }
            if let Some(problem) = is_lost() {
                return Err(EmulatorError::Path(problem));
            }
            if began.elapsed() > OPEN {
                return Err(EmulatorError::Path("nothing holds its ends".to_owned()));
            }
            thread::sleep(LOOK);
        }
    }

    fn enter(&self) -> Vec<String> {
        let namespace = format!("--net=/proc/{}/ns/net", self.process);
        // What runs there ends with this program, whatever ends that.
        let bound = ["--", "setpriv", "--pdeathsig", "TERM", "--"].map(str::to_owned);
        let mut words = vec!["nsenter".to_owned(), namespace];
        words.extend(bound);
        words
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Result<(), EmulatorError> {
        self.output(program, arguments).map(|_| ())
    }

    fn output(&self, program: &str, arguments: &[&str]) -> Result<String, EmulatorError> {
        let enter = self.enter();
        let words: Vec<&str> = enter[1..].iter().map(String::as_str).collect();
        run(&enter[0], &[&words[..], &[program], arguments].concat())
    }

    /// Its interface, and the address of that with its prefix.
    fn address(&self) -> Result<(String, String), EmulatorError> {
        let listed = self.output("ip", &["-oneline", "-family", "inet", "address", "show"])?;
        let of_line = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [_, interface, "inet", address, ..] = words[..] else {
                return None;
            };
            (interface != "lo").then(|| (interface.to_owned(), address.to_owned()))
        };
        let found = listed.lines().find_map(of_line);
        found.ok_or_else(|| EmulatorError::Path("the device's end has no address".to_owned()))
    }

    fn release(&self) {
        let _ = run("kill", &["-TERM", &self.process.to_string()]);
    }
}

/// Runs a command of the system; gives what it printed.
fn run(program: &str, arguments: &[&str]) -> Result<String, EmulatorError> {
    let failed = |problem: String| EmulatorError::Command {
        command: format!("{program} {}", arguments.join(" ")),
        problem,
    };
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(failed(if said.is_empty() {
        output.status.to_string()
    } else {
        said
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_those_of_the_network_layer() {
        let dev = "Inter-|   Receive                            |  Transmit\n \
                   face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs\n    \
                   lo:  500   5 0 0 0 0 0 0  500 5 0 0 0 0 0 0\n\
                   vL1-L: 1140 10 0 0 0 0 0 0 2280 20 0 0 0 0 0 0\n";
        assert_eq!(
            counted(dev),
            Some(Wire {
                sent: 2000,
                received: 1000,
            })
        );
        assert_eq!(counted("lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0"), None);
        assert_eq!(counted("eth0: 1 1"), None);
    }

    #[test]
    fn a_command_that_fails_says_which_and_why() {
        let error = run("sh", &["-c", "echo no such thing >&2; exit 3"]).unwrap_err();
        assert!(error.to_string().contains("no such thing"), "{error}");
        let error = run("no-such-program", &["x"]).unwrap_err().to_string();
        assert!(error.starts_with("`no-such-program x` failed"), "{error}");
    }
}
