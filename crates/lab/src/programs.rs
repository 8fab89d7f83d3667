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
        }
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
        let mut command = Command::new(&self.path);
        command
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(start)?)
            .stderr(log);
        self.child = Some(command.spawn().map_err(start)?);
        let started = Instant::now();
        while TcpStream::connect(self.address).is_err() {
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

impl Drop for Program {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
