//! What `edge-agent run` keeps in memory while it answers: `cargo bench --workspace --bench memory -- --images FOLDER`.
//!
//! The built program answers the photos of a folder, posted to its API by several callers, with one network on the device
//! and no cloud; or, with `--sent-as ENCODING`, it sends every one of them to a service on this machine, once the network
//! has seen it. `/proc/PID/status` is read ten times a second. Files are the program itself and its libraries, of which the
//! system drops from memory whatever is not in use once it needs the room. Page faults are how often it had to give pages, of
//! memory or of files. The goal is one and a half times the weights, as the numbers that are multiplied, and 30 MB.

use std::{
    error::Error,
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use clap::Parser;
use tempfile::TempDir;

/// Networks with their weights in megabytes, four bytes a number.
const NETWORKS: [(&str, f64); 2] = [("squeezenet1.0", 5.0), ("efficientnet-lite0", 18.6)];
/// The network that the service has.
const ASKED: &str = "efficientnet-lite2";
/// Time without an image after which memory is read once more: freed pages are given back by then, whatever the allocator.
const REST: Duration = Duration::from_secs(12);
const LOOK_EVERY: Duration = Duration::from_millis(100);

#[derive(Parser)]
struct Arguments {
    /// A folder of JPEG photos; by default the samples, which are small.
    #[arg(long)]
    images: Option<PathBuf>,
    /// Has the service answer every photo, encoded so, with EfficientNet-Lite2; may be repeated.
    #[arg(long, value_name = "ENCODING")]
    sent_as: Vec<String>,
    /// Has a policy look at what the network here says of every photo before it is sent, where else it is known beforehand that
    /// all are.
    #[arg(long, requires = "sent_as")]
    by_policy: bool,
    /// Seconds of work.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Callers, each of which has an image answered at a time.
    #[arg(long, default_value_t = 4)]
    callers: usize,
    /// The program to measure, in place of the one that was built.
    #[arg(long, default_value = env!("CARGO_BIN_EXE_edge-agent"))]
    program: PathBuf,
    /// The service; by default that beside the program that was built.
    #[arg(long)]
    cloud_service: Option<PathBuf>,
    /// Further lines for its configuration.
    #[arg(long, default_value = "")]
    config: String,
    /// As cargo passes it.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Megabytes of a process, by the system's count.
#[derive(Clone, Copy)]
struct Memory {
    resident: f64,
    /// Pages of files among it: of the program itself and its libraries.
    files: f64,
}

/// What came of the work.
struct Work {
    answered: usize,
    /// The least first.
    memory: Vec<Memory>,
    /// Page faults.
    faults: u64,
}

/// A program at work; killed with this.
struct Program {
    process: Child,
    /// Host and port, as it says them.
    address: String,
}

/// The device's.
struct Device {
    program: Program,
    _folder: TempDir,
}

/// A service that answers what devices send.
struct Service {
    program: Program,
    folder: TempDir,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models");
    let folder = arguments.images.clone();
    let photos = photos(&folder.unwrap_or_else(|| models.join("samples/photos")))?;
    let bytes = photos.iter().map(Vec::len).sum::<usize>() / photos.len();
    println!(
        "{} photos of {:.0} KB on average, {} callers, {} s; MB, in brackets those of files\n",
        photos.len(),
        bytes as f64 / 1e3,
        arguments.callers,
        arguments.seconds
    );
    println!(
        "| network | while it is loaded, most | loaded | at work, median | at work, most | {} s later | most ever | goal | page faults an image | images/s |",
        REST.as_secs()
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    let service = match arguments.sent_as.is_empty() {
        true => None,
        false => Some(Service::start(&arguments, &models)?),
    };
    let by = match arguments.by_policy {
        true => ", by a policy",
        false => "",
    };
    let sending = arguments.sent_as.iter().map(Some);
    let alone = service.is_none().then_some(None);
    let rows = sending
        .chain(alone)
        .flat_map(|sent_as| NETWORKS.map(|network| (network, sent_as)));
    for ((network, weights), sent_as) in rows {
        let offload = service.as_ref().zip(sent_as.map(String::as_str));
        let device = Device::start(&arguments, &models, network, offload)?;
        let row = match sent_as {
            None => network.to_owned(),
            Some(encoding) => format!("{network}, sent as {encoding}{by}"),
        };
        thread::sleep(Duration::from_secs(1));
        let (loading, loaded) = (device.status("VmHWM:")?, device.memory()?);
        let work = device.work(&arguments, &photos)?;
        thread::sleep(REST);
        let rested = device.memory()?;
        println!(
            "| {row} | {loading:.1} | {} | {} | {} | {} | {:.1} | {:.1} | {:.0} | {:.1} |",
            words(loaded),
            words(work.memory[work.memory.len() / 2]),
            words(work.memory[work.memory.len() - 1]),
            words(rested),
            device.status("VmHWM:")?,
            weights * 1.5 + 30.0,
            work.faults as f64 / work.answered as f64,
            work.answered as f64 / arguments.seconds as f64,
        );
    }
    Ok(())
}

impl Device {
    /// With one network, which answers all; or has the service answer all, with an encoding.
    fn start(
        arguments: &Arguments,
        models: &Path,
        network: &str,
        offload: Option<(&Service, &str)>,
    ) -> Result<Self, Box<dyn Error>> {
        let folder = tempfile::tempdir()?;
        let cascade = folder.path().join("cascade.toml");
        let mut nodes = format!(
            "name = \"measured\"\ndescription = \"what is measured\"\nentry = {network:?}\n\
             [[node]]\nnetwork = {network:?}\nsite = \"device\"\n"
        );
        let mut cloud = String::new();
        if let Some((service, encoding)) = offload {
            let policy = match arguments.by_policy {
                true => "kind = \"threshold\", measure = \"max-probability\", at_least = 1.0",
                false => "kind = \"go-on\"",
            };
            nodes += &format!(
                "jumps = [{ASKED:?}]\npolicy = {{ {policy} }}\n\
                 [[node]]\nnetwork = {ASKED:?}\nsite = \"cloud\"\n"
            );
            cloud = format!(
                "[cloud]\nurl = \"https://{}\"\ncertificate_authority = {:?}\nencoding = {encoding:?}\n",
                service.program.address,
                service.folder.path().join("ca.pem"),
            );
        }
        fs::write(&cascade, nodes)?;
        let config = folder.path().join("edge-agent.toml");
        let text = format!(
            "models = {models:?}\ncascade = {cascade:?}\ndeadline_ms = 60_000\n{}\n{cloud}\
             [api]\naddress = \"127.0.0.1:0\"\n",
            arguments.config
        );
        fs::write(&config, text)?;
        let mut command = Command::new(&arguments.program);
        let program = Program::start(command.arg("run").arg("--config").arg(config))?;
        Ok(Self {
            program,
            _folder: folder,
        })
    }

    /// Has images answered.
    fn work(&self, arguments: &Arguments, photos: &Arc<[Vec<u8>]>) -> Result<Work, Box<dyn Error>> {
        let faults = self.faults()?;
        let until = Instant::now() + Duration::from_secs(arguments.seconds);
        let callers: Vec<_> = (0..arguments.callers)
            .map(|caller| {
                let (address, photos) = (self.program.address.clone(), photos.clone());
                // Callers are at different photos.
                let first = caller * photos.len() / arguments.callers;
                thread::spawn(move || {
                    let mut answered = 0;
                    for photo in photos.iter().cycle().skip(first) {
                        if Instant::now() >= until {
                            break;
                        }
                        post(&address, photo)?;
                        answered += 1;
                    }
                    Ok::<usize, io::Error>(answered)
                })
            })
            .collect();
        let mut memory = Vec::new();
        while Instant::now() < until {
            thread::sleep(LOOK_EVERY);
            memory.push(self.memory()?);
        }
        let mut answered = 0;
        for caller in callers {
            answered += caller.join().map_err(|_| "a caller panicked")??;
        }
        memory.sort_by(|a, b| a.resident.total_cmp(&b.resident));
        Ok(Work {
            answered,
            memory,
            faults: self.faults()? - faults,
        })
    }

    fn memory(&self) -> Result<Memory, Box<dyn Error>> {
        Ok(Memory {
            resident: self.status("VmRSS:")?,
            files: self.status("RssFile:")?,
        })
    }

    /// Page faults until now.
    fn faults(&self) -> Result<u64, Box<dyn Error>> {
        let text = fs::read_to_string(format!("/proc/{}/stat", self.program.process.id()))?;
        // The name, which may have spaces, is in brackets; the eighth after it is their number.
        let after_name = text.rsplit(')').next().unwrap_or_default();
        let faults = after_name.split_whitespace().nth(7);
        Ok(faults.ok_or("no such field")?.parse()?)
    }

    /// A line of the process's status, in megabytes.
    fn status(&self, line: &str) -> Result<f64, Box<dyn Error>> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.program.process.id()))?;
        let mut lines = text.lines();
        let value = lines
            .find_map(|l| l.strip_prefix(line))
            .ok_or("no such line")?;
        megabytes(value)
    }
}

impl Service {
    fn start(arguments: &Arguments, models: &Path) -> Result<Self, Box<dyn Error>> {
        let beside = || Path::new(env!("CARGO_BIN_EXE_edge-agent")).with_file_name("cloud-service");
        let path = arguments.cloud_service.clone().unwrap_or_else(beside);
        if !path.exists() {
            let help = "build it, `cargo build --release --workspace`, or give --cloud-service";
            return Err(format!("there is no {}: {help}", path.display()).into());
        }
        let folder = tempfile::tempdir()?;
        let certificates = Command::new(&path)
            .args(["development-certificates", "--out"])
            .arg(folder.path())
            .stdout(Stdio::null())
            .status()?;
        if !certificates.success() {
            return Err("the service made no certificates".into());
        }
        let mut command = Command::new(&path);
        command
            .args(["serve", "--address", "127.0.0.1:0", "--network", ASKED])
            .arg("--models")
            .arg(models)
            .arg("--certificate")
            .arg(folder.path().join("server.pem"))
            .arg("--key")
            .arg(folder.path().join("server.key"));
        let program = Program::start(&mut command)?;
        Ok(Self { program, folder })
    }
}

impl Program {
    /// Starts a program, and waits for the address that it says first.
    fn start(command: &mut Command) -> Result<Self, Box<dyn Error>> {
        let mut process = command.stdout(Stdio::piped()).spawn()?;
        let stdout = process.stdout.take().ok_or("it has no output")?;
        let mut program = Self {
            process,
            address: String::new(),
        };
        let mut said = String::new();
        BufReader::new(stdout).read_line(&mut said)?;
        let address = said.trim().rsplit_once("://");
        program.address = address.ok_or("it did not start")?.1.to_owned();
        Ok(program)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// As the system writes it, in units of 1024 bytes.
fn megabytes(text: &str) -> Result<f64, Box<dyn Error>> {
    let kilobytes: f64 = text.trim().trim_end_matches(" kB").parse()?;
    Ok(kilobytes * 1024.0 / 1e6)
}

/// Has a photo answered, by whom it is to be, over a connection of its own.
fn post(address: &str, photo: &[u8]) -> io::Result<()> {
    let mut connection = TcpStream::connect(address)?;
    let length = photo.len();
    let head = format!(
        "POST /v1/classify HTTP/1.1\r\nHost: {address}\r\nContent-Type: image/jpeg\r\n\
         Content-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    connection.write_all(head.as_bytes())?;
    connection.write_all(photo)?;
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    match answer.starts_with("HTTP/1.1 200 ") && !answer.contains("\"fallback:") {
        true => Ok(()),
        false => Err(io::Error::other(answer)),
    }
}

fn words(memory: Memory) -> String {
    format!("{:.1} ({:.1})", memory.resident, memory.files)
}

fn photos(folder: &Path) -> Result<Arc<[Vec<u8>]>, Box<dyn Error>> {
    let mut photos = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let extension = path.extension().unwrap_or_default().to_ascii_lowercase();
        if extension == "jpg" || extension == "jpeg" {
            photos.push(fs::read(path)?);
        }
    }
    if photos.is_empty() {
        return Err(format!("there is no photo in {}: give --images", folder.display()).into());
    }
    Ok(photos.into())
}
