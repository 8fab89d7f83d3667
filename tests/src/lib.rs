//! What the integration tests share: the built programs, started and ended as a user would.
//!
//! Everything listens on loopback, on ports that the system chooses, and ends with the test.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod process;
mod web;

use std::{
    env,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use outpost_transport::{
    ClientConfig, Transport, Trust,
    development_certificates::{Certificates, ExistingFiles, Subjects, Validity},
};
use prost::Message;
use serde_json::Value;
use tempfile::TempDir;

pub use process::Process;
pub use web::{WebServer, free_address};

/// The repository's root.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

/// The built program `name`, beside the test's own binary.
///
/// # Panics
/// Where it is not built.
pub fn program(name: &str) -> PathBuf {
    let test = env::current_exe().unwrap();
    let path = test.parent().unwrap().parent().unwrap().join(name);
    assert!(
        path.is_file(),
        "{} is not built: run scripts/test, or `cargo build --release` first",
        path.display()
    );
    path
}

/// The folder of sample photos.
pub fn photos() -> PathBuf {
    repository().join("models/samples/photos")
}

/// The first `count` sample photos by name.
pub fn some_photos(count: usize) -> Vec<PathBuf> {
    some_images(&photos(), count)
}

/// The first `count` CIFAR-10 sample images by name.
pub fn some_cifar(count: usize) -> Vec<PathBuf> {
    some_images(&repository().join("models/samples/cifar10"), count)
}

fn some_images(folder: &Path, count: usize) -> Vec<PathBuf> {
    let mut images: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "jpg"))
        .collect();
    images.sort();
    images.truncate(count);
    images
}

/// Certificates in a folder that goes with the test.
pub struct CertificateFolder {
    folder: TempDir,
}

impl CertificateFolder {
    /// Valid ones for loopback.
    pub fn valid() -> Self {
        Self::with_validity(Validity::days(1))
    }

    /// Ones that are valid from and until the given times.
    pub fn with_validity(validity: Validity) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let certificates = Self { folder };
        certificates.issue(validity);
        certificates
    }

    /// Replaces them, authority and all, by new ones that are valid.
    pub fn renew(&self) {
        self.issue(Validity::days(1));
    }

    fn issue(&self, validity: Validity) {
        let subjects = Subjects {
            hosts: vec!["localhost".to_owned(), "127.0.0.1".to_owned()],
            clients: vec!["camera-7".to_owned()],
        };
        Certificates::issue(&subjects, validity)
            .unwrap()
            .write(self.folder.path(), ExistingFiles::Replace)
            .unwrap();
    }

    /// A file in the folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The authority's certificate.
    pub fn authority(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// The server's chain.
    pub fn chain(&self) -> PathBuf {
        self.folder.path().join("server.pem")
    }

    /// The server's key.
    pub fn key(&self) -> PathBuf {
        self.folder.path().join("server.key")
    }
}

/// A running `cloud-service`, killed when dropped.
pub struct CloudService {
    process: Process,
    address: SocketAddr,
}

impl CloudService {
    /// Starts one on loopback that serves EfficientNet-Lite2, and waits until it serves.
    pub fn start(certificates: &CertificateFolder) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), certificates, "")
    }

    /// Starts one at `address` with further lines in its configuration file.
    ///
    /// # Panics
    /// When it ends instead of serving.
    pub fn start_at(address: SocketAddr, certificates: &CertificateFolder, extra: &str) -> Self {
        let models = repository().join("models");
        let networks = format!("models = {models:?}\nnetworks = [\"efficientnet-lite2\"]\n{extra}");
        Self::start_as(address, certificates, &networks)
    }

    /// Starts one on loopback with a configuration of its own, which says what it serves.
    pub fn start_with(certificates: &CertificateFolder, config: &str) -> Self {
        Self::start_as("127.0.0.1:0".parse().unwrap(), certificates, config)
    }

    fn start_as(address: SocketAddr, certificates: &CertificateFolder, text: &str) -> Self {
        let tls = format!(
            "[tls]\ncertificate = {chain:?}\nkey = {key:?}\n",
            chain = certificates.chain(),
            key = certificates.key(),
        );
        let text = format!("address = \"{address}\"\n{text}\n{tls}");
        Self::start_from(certificates, &text, |_| {})
    }

    /// Starts one with a whole configuration, whose relative paths are relative to the folder of the
    /// certificates, as a command that `adjust` may change.
    pub fn start_from(
        certificates: &CertificateFolder,
        text: &str,
        adjust: impl FnOnce(&mut Command),
    ) -> Self {
        let config = certificates.file("cloud-service.toml");
        std::fs::write(&config, text).unwrap();
        let mut command = Command::new(program("cloud-service"));
        command.args(["serve", "--config"]).arg(&config);
        let mut process = Process::start_as(&mut command, adjust);
        Self {
            address: process.address().parse().unwrap(),
            process,
        }
    }

    /// Where it serves.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its address for clients.
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// What a client needs to reach it over a transport.
    pub fn client(&self, certificates: &CertificateFolder, transport: Transport) -> ClientConfig {
        ClientConfig {
            transport,
            trust: Trust::Authority(std::fs::read(certificates.authority()).unwrap()),
            ..ClientConfig::new(self.url())
        }
    }

    /// Reads where metrics and health are; the configuration must give `operations_address`.
    pub fn with_operations(mut self) -> (Self, SocketAddr) {
        let address = self.process.address().parse().unwrap();
        (self, address)
    }

    /// Kills it at once.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Asks it to end, as an operator would, without waiting.
    pub fn terminate(&self) {
        self.process.terminate();
    }

    /// Has it do nothing at all, until [`Self::thaw`]: it is silent, and its connections stay.
    pub fn freeze(&self) {
        self.process.freeze();
    }

    /// Has it go on.
    pub fn thaw(&self) {
        self.process.thaw();
    }

    /// Has it read its certificates and identities again.
    pub fn hang_up(&self) {
        self.process.hang_up();
    }

    /// Waits for its end; gives whether it ended well and what it logged.
    pub fn wait(self) -> (bool, String) {
        self.process.wait()
    }
}

/// A configuration of `edge-agent` with the repository's models and SqueezeNet → Lite2, and further lines.
pub fn edge_config(extra: &str) -> String {
    let models = repository().join("models");
    let cascade = models.join("cascades/squeezenet-lite2.toml");
    format!("models = {models:?}\ncascade = {cascade:?}\n{extra}\n")
}

/// A message as gRPC sends it: behind a flag, which says that it is not compressed, and its length.
///
/// # Panics
/// For 4 GiB and more.
pub fn grpc_message(message: &impl Message) -> Vec<u8> {
    let message = message.encode_to_vec();
    let mut framed = vec![0];
    framed.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    framed.extend(message);
    framed
}

/// An `edge-agent classify` in the making.
pub struct EdgeAgent(Command);

/// What an `edge-agent` printed.
pub struct Answers {
    /// One object an image.
    pub records: Vec<Value>,
    /// What it logged.
    pub log: String,
    /// Its exit code.
    pub code: i32,
}

impl EdgeAgent {
    /// With JSON lines and the repository's models; a generous deadline, as test machines are slow.
    pub fn classify() -> Self {
        Self::classify_by(Command::new(program("edge-agent")))
    }

    /// The same by another program, or by one in an emulator.
    pub fn classify_by(mut command: Command) -> Self {
        command.current_dir(repository()).args([
            "classify",
            "--format",
            "json",
            "--deadline",
            "20000",
        ]);
        Self(command)
    }

    /// Adds arguments.
    pub fn args<S: AsRef<std::ffi::OsStr>>(
        mut self,
        arguments: impl IntoIterator<Item = S>,
    ) -> Self {
        self.0.args(arguments);
        self
    }

    /// Points it to a cloud and an authority.
    pub fn cloud(self, url: &str, certificates: &CertificateFolder) -> Self {
        self.args(["--cloud", url])
            .args(["--ca".as_ref(), certificates.authority().as_os_str()])
    }

    /// The command, to run it in other ways.
    pub fn into_command(self) -> Command {
        self.0
    }

    /// Runs it to its end.
    ///
    /// # Panics
    /// When a line is not JSON.
    pub fn run(mut self) -> Answers {
        answers(self.0.output().unwrap())
    }
}

/// Reads what an `edge-agent` printed.
///
/// # Panics
/// When a line is not JSON.
pub fn answers(output: Output) -> Answers {
    let stdout = String::from_utf8(output.stdout).unwrap();
    Answers {
        records: stdout
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect(),
        log: String::from_utf8_lossy(&output.stderr).into_owned(),
        code: output.status.code().unwrap(),
    }
}
