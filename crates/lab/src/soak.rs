//! `lab soak`: the device program left running beside a cloud that dies, over a link that comes and goes.
//!
//! The built `edge-agent run` and `cloud-service` are started on loopback, with a relay between them that is the link.
//! Images come by HTTP and to a folder, with `delivery = "eventually"`, and some answers are audited; the programs are killed as by `kill -9`. What is
//! promised is then counted: one final answer for each accepted image, and one for each call while the device lives, in time,
//! with flat memory.

mod calls;
mod page;
mod plan;
mod relay;
mod tally;

use std::{
    fs,
    io::{self, Read, Seek, SeekFrom, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};
use outpost_transport::development_certificates::{
    Certificates, ExistingFiles, GenerateError, Subjects, Validity,
};
use serde::Deserialize;
use tempfile::TempDir;
use ureq::Agent;

use crate::{
    host,
    learn::{LearnPolicyError, load_cascade},
    programs::{Program, ProgramError, beside, free_address, networks_of_the_cloud},
    table::{row, table},
};
use calls::{Death, Unanswered};
use plan::{Happening, Link, Planned, plan};
use relay::Relay;
use tally::{Kind, Outcome, Said, Seen};

/// Between looks at memory and output.
const LOOK: Duration = Duration::from_millis(500);
/// Until all images have their final answer, once all is well again.
const SETTLE: Duration = Duration::from_secs(300);
/// What a caller waits beyond the deadline.
const CALLERS_PATIENCE: Duration = Duration::from_secs(10);
/// Callers keep idle connections for less than the ten seconds of the device: what it closes is no call that is cut.
const IDLE: Duration = Duration::from_secs(5);

/// What `lab soak` is asked.
#[derive(Debug, clap::Args)]
#[command(args_override_self = true)]
pub struct SoakArgs {
    /// Minutes that it takes; ten seconds are 0.167.
    #[arg(long, default_value_t = 30.0)]
    pub minutes: f64,
    /// Images a second: one half by HTTP, the other to a folder.
    #[arg(long, default_value_t = 5.0)]
    pub rate: f64,
    /// Milliseconds from taking up an image to its answer.
    #[arg(long, default_value_t = 500, value_name = "MS")]
    pub deadline: u64,
    /// Says when what happens.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// The cascade, whose networks are on the device and in the cloud.
    #[arg(
        long,
        value_name = "FILE",
        default_value = "models/cascades/squeezenet-lite2.toml"
    )]
    pub cascade: PathBuf,
    /// The folder of the images.
    #[arg(long, value_name = "DIR", default_value = "models/samples/photos")]
    pub images: PathBuf,
    /// The model folder.
    #[arg(long, default_value = "models", env = "OUTPOST_MODELS")]
    pub models: PathBuf,
    /// The device program; by default the one beside this program.
    #[arg(long, value_name = "PROGRAM")]
    pub edge_agent: Option<PathBuf>,
    /// The cloud program; by default the one beside this program.
    #[arg(long, value_name = "PROGRAM")]
    pub cloud_service: Option<PathBuf>,
    /// Where the page goes.
    #[arg(long, value_name = "FILE.html", default_value = "soak.html")]
    pub out: PathBuf,
}

/// Why a soak tells nothing, or nothing good.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SoakError {
    /// A number that makes no soak.
    #[error("{0}")]
    Argument(&'static str),
    /// The cascade is at fault.
    #[error(transparent)]
    Cascade(#[from] LearnPolicyError),
    /// The cascade has networks elsewhere than here.
    #[error(
        "node {0:?} is neither on the device nor a network of the cloud that decides nothing: give another cascade"
    )]
    Sites(String),
    /// The cascade has no use for a cloud.
    #[error("{} has no network in the cloud: give another cascade", .0.display())]
    NoCloud(PathBuf),
    /// There are no images.
    #[error("{} has no JPEG files: name a folder with --images", .0.display())]
    NoImages(PathBuf),
    /// A file cannot be read or written.
    #[error("cannot use {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No certificates.
    #[error("cannot make certificates")]
    Certificates(#[from] GenerateError),
    /// The system gives no address or thread.
    #[error("cannot make the link")]
    Link(#[source] io::Error),
    /// A program does not run as it should.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// A line of the output is none.
    #[error("the output has a line that is none: {line}")]
    Line {
        /// The line.
        line: String,
        /// Why.
        source: serde_json::Error,
    },
    /// The table cannot be printed.
    #[error("cannot print")]
    Print(#[source] io::Error),
    /// Something promised does not hold.
    #[error("{broken} of {all} promises do not hold; logs and answers are in {}", folder.display())]
    Broken {
        /// Promises that do not hold.
        broken: usize,
        /// All promises.
        all: usize,
        /// Where the programs ran.
        folder: PathBuf,
    },
}

/// Runs `lab soak`.
///
/// # Errors
/// A [`SoakError`]; [`SoakError::Broken`] where a promise does not hold.
pub fn run(args: &SoakArgs, out: &mut dyn Write) -> Result<(), SoakError> {
    if !(args.minutes > 0.0 && args.minutes <= 1e5) {
        return Err(SoakError::Argument("--minutes must be above 0"));
    }
    if !(args.rate > 0.0 && args.rate <= 1000.0) {
        return Err(SoakError::Argument(
            "--rate must be above 0, and at most 1000",
        ));
    }
    let length = Duration::from_secs_f64(60.0 * args.minutes);
    let images = images(&args.images)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(SoakError::Link)?;
    let mut stage = Stage::set(args, &runtime)?;
    let soaked = stage.soak(length, &images, args);
    let (seen, happened) = match soaked {
        Ok(soaked) => soaked,
        Err(error) => {
            // Its message names files there.
            stage.folder.disable_cleanup(true);
            return Err(error);
        }
    };
    let verdicts = seen.verdicts(args.deadline);
    let page = page::page(args, &seen, &happened, &verdicts).into_string();
    fs::write(&args.out, page).map_err(file(&args.out))?;
    let mut rows = table(&["promise", "found", ""]);
    for verdict in &verdicts {
        let outcome = match verdict.outcome {
            Outcome::Holds => "holds",
            Outcome::Broken => "BROKEN",
            Outcome::NotJudged => "not judged",
        };
        rows.add_row(row(
            &verdict.promise,
            [verdict.found.clone(), outcome.to_owned()],
        ));
    }
    writeln!(out, "{rows}\n{}", args.out.display()).map_err(SoakError::Print)?;
    let broken = tally::broken(&verdicts);
    if broken > 0 {
        stage.folder.disable_cleanup(true);
        return Err(SoakError::Broken {
            broken,
            all: verdicts.len(),
            folder: stage.folder.path().to_owned(),
        });
    }
    Ok(())
}

fn file(path: &Path) -> impl Fn(io::Error) -> SoakError {
    let path = path.to_owned();
    move |source| SoakError::File {
        path: path.clone(),
        source,
    }
}

/// The images of a folder, in memory.
fn images(folder: &Path) -> Result<Vec<Vec<u8>>, SoakError> {
    let entries = fs::read_dir(folder).map_err(file(folder))?;
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(file(folder))?.path();
        let extension = path.extension().map(|found| found.to_ascii_lowercase());
        if extension.is_some_and(|found| found == "jpg" || found == "jpeg") {
            paths.push(path);
        }
    }
    paths.sort();
    if paths.is_empty() {
        return Err(SoakError::NoImages(folder.to_owned()));
    }
    paths
        .iter()
        .map(|path| fs::read(path).map_err(file(path)))
        .collect()
}

/// The programs and the link between them, in a folder of their own.
struct Stage {
    device: Program,
    cloud: Program,
    relay: Relay,
    api: SocketAddr,
    folder: TempDir,
}

/// What feeds the device, and what it learns.
struct Feed<'a> {
    api: SocketAddr,
    incoming: PathBuf,
    images: &'a [Vec<u8>],
    pause: Duration,
    /// How long a caller waits.
    patience: Duration,
    started: Instant,
    seen: &'a Mutex<Seen>,
    is_over: &'a AtomicBool,
}

#[derive(Deserialize)]
struct State {
    waiting: Option<u64>,
}

impl Stage {
    fn set(args: &SoakArgs, runtime: &tokio::runtime::Runtime) -> Result<Self, SoakError> {
        let cascade = load_cascade(&args.cascade)?;
        let networks = networks_of_the_cloud(&cascade).map_err(SoakError::Sites)?;
        if networks.is_empty() {
            return Err(SoakError::NoCloud(args.cascade.clone()));
        }
        let folder = tempfile::tempdir().map_err(file(&std::env::temp_dir()))?;
        let absolute = |path: &Path| fs::canonicalize(path).map_err(file(path));
        let (models, cascade) = (absolute(&args.models)?, absolute(&args.cascade)?);
        let certificates = Certificates::issue(&Subjects::host("127.0.0.1"), Validity::days(30))?;
        certificates.write(folder.path(), ExistingFiles::Keep)?;
        let incoming = folder.path().join("incoming");
        fs::create_dir(&incoming).map_err(file(&incoming))?;
        let addresses = || Ok((free_address()?, free_address()?));
        let (cloud_address, api) = addresses().map_err(SoakError::Link)?;
        let relay = runtime.block_on(Relay::start(cloud_address));
        let relay = relay.map_err(SoakError::Link)?;
        let write = |name: &str, text: String| {
            let path = folder.path().join(name);
            fs::write(&path, text).map_err(file(&path))?;
            Ok::<String, SoakError>(path.display().to_string())
        };
        let config = write(
            "cloud-service.toml",
            format!(
                "address = \"{cloud_address}\"\nmodels = {models:?}\nnetworks = {networks:?}\n\
                 [tls]\ncertificate = \"server.pem\"\nkey = \"server.key\"\n"
            ),
        )?;
        let program = |given: &Option<PathBuf>, name| given.clone().unwrap_or_else(|| beside(name));
        let cloud = Program::new(
            "cloud-service",
            program(&args.cloud_service, "cloud-service"),
            ["serve", "--config", &config].map(str::to_owned).to_vec(),
            cloud_address,
            folder.path(),
        );
        let config = write(
            "edge-agent.toml",
            format!(
                "models = {models:?}\ncascade = {cascade:?}\ndeadline_ms = {}\ndelivery = \"eventually\"\n\
                 [cloud]\nurl = \"https://{}\"\ncertificate_authority = \"ca.pem\"\n\
                 [api]\naddress = \"{api}\"\n[[folders]]\npath = \"incoming\"\nthen = \"delete\"\n\
                 [audit]\nshare = 0.1\n\
                 [outputs.file]\npath = \"answers.jsonl\"\nmax_bytes = 4_000_000_000\n",
                args.deadline, relay.address
            ),
        )?;
        let device = Program::new(
            "edge-agent",
            program(&args.edge_agent, "edge-agent"),
            ["run", "--config", &config].map(str::to_owned).to_vec(),
            api,
            folder.path(),
        );
        Ok(Self {
            device,
            cloud,
            relay,
            api,
            folder,
        })
    }

    /// Lets it all happen; gives what was seen, and when what happened.
    fn soak(
        &mut self,
        length: Duration,
        images: &[Vec<u8>],
        args: &SoakArgs,
    ) -> Result<(Seen, Vec<Planned>), SoakError> {
        self.cloud.start()?;
        self.device.start()?;
        let seen = Mutex::new(Seen::default());
        seen_of(&seen).device.push(Vec::new());
        seen_of(&seen).cloud.push(Vec::new());
        let is_over = AtomicBool::new(false);
        let started = Instant::now();
        let feed = Feed {
            api: self.api,
            incoming: self.folder.path().join("incoming"),
            images,
            pause: Duration::from_secs_f64(1.0 / args.rate),
            patience: Duration::from_millis(args.deadline) + CALLERS_PATIENCE,
            started,
            seen: &seen,
            is_over: &is_over,
        };
        let happened = thread::scope(|scope| {
            let feeding = scope.spawn(|| feed.run());
            let happened = self.happen(started, length, args.seed, &seen);
            is_over.store(true, Ordering::Relaxed);
            let fed = feeding.join().expect("the feed does not panic");
            happened.and_then(|happened| fed.map(|()| happened))
        })?;
        self.settle(started, &seen)?;
        self.device.end()?;
        self.cloud.end()?;
        let mut seen = seen.into_inner().unwrap_or_else(PoisonError::into_inner);
        self.read_lines(started, &mut seen)?;
        Ok((seen, happened))
    }

    fn happen(
        &mut self,
        started: Instant,
        length: Duration,
        seed: u64,
        seen: &Mutex<Seen>,
    ) -> Result<Vec<Planned>, SoakError> {
        let bar = ProgressBar::new(length.as_secs());
        let style = "{wide_bar:.cyan/dim} {elapsed} of {len} s, {eta} left  {msg}";
        bar.set_style(ProgressStyle::with_template(style).expect("the template is well-formed"));
        let mut to_come = plan(length, seed).into_iter().peekable();
        let mut happened = Vec::new();
        while started.elapsed() < length {
            while let Some((_, happening)) = to_come.next_if(|next| next.0 <= started.elapsed()) {
                happened.push((started.elapsed(), happening));
                bar.set_message(happening.to_string());
                self.bring_about(happening, started, seen)?;
            }
            self.look(started, seen)?;
            bar.set_position(started.elapsed().as_secs());
            let next = to_come.peek().map_or(length, |next| next.0);
            let left = next.saturating_sub(started.elapsed());
            thread::sleep(left.min(LOOK));
        }
        bar.finish_and_clear();
        Ok(happened)
    }

    fn bring_about(
        &mut self,
        happening: Happening,
        started: Instant,
        seen: &Mutex<Seen>,
    ) -> Result<(), SoakError> {
        match happening {
            Happening::Link(link) => {
                self.relay.link.send_replace(link);
            }
            Happening::CloudDies => self.cloud.kill()?,
            Happening::CloudReturns => {
                self.cloud.start()?;
                seen_of(seen).cloud.push(Vec::new());
            }
            Happening::DeviceDies => {
                let killed = started.elapsed();
                self.device.kill()?;
                self.device.start()?;
                let ready = started.elapsed();
                let mut seen = seen_of(seen);
                seen.deaths.push(Death { killed, ready });
                seen.device.push(Vec::new());
            }
        }
        Ok(())
    }

    /// Notes memory and new lines.
    fn look(&self, started: Instant, seen: &Mutex<Seen>) -> Result<(), SoakError> {
        let megabytes = |program: &Program| {
            let memory = host::memory_of(program.id()?)?;
            Some((started.elapsed(), memory.resident_bytes as f64 / 1e6))
        };
        let mut seen = seen_of(seen);
        if let (Some(sample), Some(life)) = (megabytes(&self.device), seen.device.last_mut()) {
            life.push(sample);
        }
        if let (Some(sample), Some(life)) = (megabytes(&self.cloud), seen.cloud.last_mut()) {
            life.push(sample);
        }
        self.read_lines(started, &mut seen)
    }

    /// Reads lines that are whole and new.
    fn read_lines(&self, started: Instant, seen: &mut Seen) -> Result<(), SoakError> {
        let path = self.folder.path().join("answers.jsonl");
        let mut new = Vec::new();
        let mut read = || -> io::Result<usize> {
            let mut answers = fs::File::open(&path)?;
            answers.seek(SeekFrom::Start(seen.read_bytes))?;
            answers.read_to_end(&mut new)
        };
        match read() {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(file(&path)(error)),
        }
        let whole = new
            .iter()
            .rposition(|&byte| byte == b'\n')
            .map_or(0, |end| end + 1);
        for line in String::from_utf8_lossy(&new[..whole]).lines() {
            seen.lines.push((started.elapsed(), said(line)?));
        }
        seen.read_bytes += whole as u64;
        Ok(())
    }

    /// Waits until all images have their final answer, with link and cloud there; no longer than [`SETTLE`].
    fn settle(&mut self, started: Instant, seen: &Mutex<Seen>) -> Result<(), SoakError> {
        self.relay.link.send_replace(Link::Up);
        let bar =
            ProgressBar::new_spinner().with_message("until all images have their final answer");
        bar.enable_steady_tick(LOOK);
        let agent = agent(CALLERS_PATIENCE);
        let began = Instant::now();
        while began.elapsed() < SETTLE {
            self.look(started, seen)?;
            let state = agent.get(format!("http://{}/v1/state", self.api)).call();
            let state = state.and_then(|mut state| state.body_mut().read_to_string());
            let state = state
                .ok()
                .and_then(|state| serde_json::from_str(&state).ok());
            let is_done = state.is_some_and(|state: State| state.waiting == Some(0))
                && seen_of(seen).has_all_finals();
            if is_done {
                break;
            }
            thread::sleep(LOOK);
        }
        bar.finish_and_clear();
        Ok(())
    }
}

impl Feed<'_> {
    /// Brings images until it is over: to the folder and by HTTP in turns.
    fn run(&self) -> Result<(), SoakError> {
        let agent = agent(self.patience);
        let mut number = 0;
        let mut next = Instant::now();
        thread::scope(|scope| {
            while !self.is_over.load(Ordering::Relaxed) {
                let image = &self.images[number % self.images.len()];
                if number % 2 == 0 {
                    let name = format!("file-{number:07}.jpg");
                    self.put(&name, image)?;
                    seen_of(self.seen).accepted.push(name);
                } else {
                    let (agent, name) = (&agent, format!("call-{number:07}"));
                    scope.spawn(move || self.call(agent, name, image));
                }
                number += 1;
                next += self.pause;
                thread::sleep(next.saturating_duration_since(Instant::now()));
            }
            Ok(())
        })
    }

    /// Puts a file into the folder whole, as `mv` does.
    fn put(&self, name: &str, image: &[u8]) -> Result<(), SoakError> {
        let path = self.incoming.join(name);
        let part = path.with_extension("part");
        fs::write(&part, image).map_err(file(&part))?;
        fs::rename(&part, &path).map_err(file(&path))
    }

    fn call(&self, agent: &Agent, name: String, image: &[u8]) {
        let url = format!("http://{}/v1/classify?name={name}", self.api);
        let called = self.started.elapsed();
        let reply = agent
            .post(url)
            .header("content-type", "image/jpeg")
            .send(image);
        let answer = calls::answer(reply);
        let ended = self.started.elapsed();
        let mut seen = seen_of(self.seen);
        match answer {
            Ok(said) => {
                seen.accepted.push(name);
                seen.replies.push(said);
                seen.waits.push((ended - called).as_secs_f64() * 1e3);
            }
            Err(why) => seen.unanswered.push(Unanswered { called, ended, why }),
        }
    }
}

fn agent(patience: Duration) -> Agent {
    Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(patience))
        .max_idle_age(IDLE)
        .build()
        .into()
}

/// What a line or reply says; images are called by their last name.
fn said(line: &str) -> Result<Said, SoakError> {
    let said = serde_json::from_str(line).map_err(|source| SoakError::Line {
        line: line.to_owned(),
        source,
    });
    let mut said: Said = said?;
    if let Some((_, name)) = said.image.rsplit_once('/') {
        said.image = name.to_owned();
    }
    Ok(said)
}

fn seen_of(seen: &Mutex<Seen>) -> std::sync::MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}
