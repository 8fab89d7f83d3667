//! The programs that are started as a user would: killed and looked at from outside.

use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    ops::RangeInclusive,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use outpost_cascade::{Cascade, Site};

/// Until a program listens, on a busy machine.
const START: Duration = Duration::from_secs(60);
/// Until a program has ended that was asked to.
const END: Duration = Duration::from_secs(60);
/// Between looks.
const LOOK: Duration = Duration::from_millis(20);

/// How a program is started, each time the same, and where it then listens.
#[derive(Debug)]
pub(crate) struct Program {
    name: &'static str,
    path: PathBuf,
    arguments: Vec<String>,
    address: SocketAddr,
    log: PathBuf,
    child: Option<Child>,
    /// Words before its own, that start it elsewhere on this machine; empty for here.
    within: Vec<String>,
}

/// Why a program does not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProgramError {
    /// It cannot be started.
    #[error("cannot start {}: build it with `cargo build --release --workspace`, or name another", path.display())]
    Start {
        /// The program.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It ended, or does not listen.
    #[error("{name} {what}: {} says why", log.display())]
    Lost {
        /// The program.
        name: &'static str,
        /// What it did.
        what: &'static str,
        /// Where it logs.
        log: PathBuf,
    },
    /// The system tells nothing of it.
    #[error("cannot see how {name} does")]
    Wait {
        /// The program.
        name: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// The program `name` beside this one.
pub(crate) fn beside(name: &str) -> PathBuf {
    let here = std::env::current_exe().unwrap_or_default();
    here.with_file_name(name)
}

/// The networks that a cloud serves for a cascade whose device decides alone.
///
/// # Errors
/// The name of a node that is elsewhere, or decides in the cloud.
pub(crate) fn networks_of_the_cloud(cascade: &Cascade) -> Result<Vec<String>, String> {
    let mut networks = Vec::new();
    for (_, node) in cascade.nodes() {
        match node.site() {
            Site::Device => {}
            Site::Cloud if node.jumps().is_empty() => networks.push(node.network().to_owned()),
            _ => return Err(node.name().to_owned()),
        }
    }
    Ok(networks)
}

/// Ports that systems do not give to whoever asks for any: a program that is away for a while finds its own again.
const PORTS: RangeInclusive<u16> = 20_000..=32_000;

/// An address that nobody listens on, for both TCP and UDP.
///
/// # Errors
/// Where the system gives none.
pub(crate) fn free_address() -> io::Result<SocketAddr> {
    let mut last = None;
    for _ in 0..64 {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, fastrand::u16(PORTS)));
        match TcpListener::bind(address).and_then(|_| UdpSocket::bind(address)) {
            Ok(_) => return Ok(address),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| io::ErrorKind::AddrInUse.into()))
}

impl Program {
    pub(crate) fn new(
        name: &'static str,
        path: PathBuf,
        arguments: Vec<String>,
        address: SocketAddr,
        folder: &Path,
    ) -> Self {
        Self {
            name,
            path,
            arguments,
            address,
            log: folder.join(format!("{name}.log")),
            child: None,
            within: Vec::new(),
        }
    }

    /// The same program in another network namespace, by words before its own.
    pub(crate) fn within(mut self, within: Vec<String>) -> Self {
        self.within = within;
        self
    }

    /// Starts it and waits until it listens.
    ///
    /// # Errors
    /// Where it cannot be started, or ends.
    pub(crate) fn start(&mut self) -> Result<(), ProgramError> {
        let start = |source| ProgramError::Start {
            path: self.path.clone(),
            source,
        };
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(&self.log);
        let log = log.map_err(start)?;
        let program = self.path.display().to_string();
        let mut words = self.within.iter().chain([&program]).chain(&self.arguments);
        let mut command = Command::new(words.next().expect("the program is among them"));
        command
            .args(words)
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(start)?)
            .stderr(log);
        self.child = Some(command.spawn().map_err(start)?);
        let started = Instant::now();
        while !self.listens() {
            if self.has_ended()? {
                return Err(self.lost("has ended"));
            }
            if started.elapsed() > START {
                return Err(self.lost("does not listen"));
            }
            thread::sleep(LOOK);
        }
        Ok(())
    }

    /// Kills it at once, as by `kill -9`.
    ///
    /// # Errors
    /// Where it had ended by itself before.
    pub(crate) fn kill(&mut self) -> Result<(), ProgramError> {
        if self.has_ended()? {
            return Err(self.lost("has ended by itself"));
        }
        if let Some(mut child) = self.child.take() {
            let killed = child.kill().and_then(|()| child.wait());
            killed.map_err(|source| self.wait(source))?;
        }
        Ok(())
    }

    /// Asks it to end, and waits for that.
    ///
    /// # Errors
    /// Where it does not end, or not well.
    pub(crate) fn end(&mut self) -> Result<(), ProgramError> {
        let Some(child) = &self.child else {
            return Ok(());
        };
        let process = child.id().to_string();
        let asked = Command::new("kill").args(["-TERM", &process]).status();
        asked.map_err(|source| self.wait(source))?;
        let asked = Instant::now();
        while !self.has_ended()? {
            if asked.elapsed() > END {
                return Err(self.lost("does not end"));
            }
            thread::sleep(LOOK);
        }
        match self.child.take().map(|mut child| child.wait()) {
            Some(Ok(status)) if !status.success() => Err(self.lost("did not end well")),
            Some(Err(source)) => Err(self.wait(source)),
            _ => Ok(()),
        }
    }

    /// Its identifier, while it runs.
    pub(crate) fn id(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    fn listens(&self) -> bool {
        match &self.child {
            Some(child) if !self.within.is_empty() => listens_in(child.id(), self.address.port()),
            _ => TcpStream::connect(self.address).is_ok(),
        }
    }

    fn has_ended(&mut self) -> Result<bool, ProgramError> {
        let Some(child) = &mut self.child else {
            return Ok(true);
        };
        match child.try_wait() {
            Ok(status) => Ok(status.is_some()),
            Err(source) => Err(self.wait(source)),
        }
    }

    fn lost(&self, what: &'static str) -> ProgramError {
        ProgramError::Lost {
            name: self.name,
            what,
            log: self.log.clone(),
        }
    }

    fn wait(&self, source: io::Error) -> ProgramError {
        ProgramError::Wait {
            name: self.name,
            source,
        }
    }
}

/// Whether somebody listens on a TCP port in the network namespace of a process.
fn listens_in(process: u32, port: u16) -> bool {
    ["tcp", "tcp6"].into_iter().any(|family| {
        let listed = fs::read_to_string(format!("/proc/{process}/net/{family}"));
        listed.is_ok_and(|listed| is_listed(&listed, port))
    })
}

/// Whether a port is among those listened on, by `/proc/net/tcp`.
fn is_listed(listed: &str, port: u16) -> bool {
    /// The state of sockets that listen.
    const LISTEN: &str = "0A";
    listed.lines().any(|line| {
        let mut words = line.split_whitespace().skip(1);
        let (local, _, state) = (words.next(), words.next(), words.next());
        let found = local.and_then(|local| local.rsplit_once(':'));
        let found = found.and_then(|(_, port)| u16::from_str_radix(port, 16).ok());
        state == Some(LISTEN) && found == Some(port)
    })
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_that_are_listened_on_are_found() {
        let listed = "  sl  local_address rem_address   st tx_queue rx_queue\n   \
                      0: 0100007F:20FB 00000000:0000 0A 00000000:00000000\n   \
                      1: 0100007F:1F90 0100007F:C350 01 00000000:00000000\n";
        assert!(is_listed(listed, 8443));
        assert!(!is_listed(listed, 8080), "a connection is no listener");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(
            listens_in(std::process::id(), port),
            cfg!(target_os = "linux")
        );
    }
}
