//! The stage of a run: a path, the cloud at its far end, and a device at its near end that is fed and watched.

mod device;

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant, SystemTime},
};

use outpost_transport::development_certificates::{
    Certificates, ExistingFiles, Subjects, Validity,
};

use super::{
    LinkError,
    emulator::{EmulatedPath, Emulator},
    end::{Aim, Feed, Line, Probed},
    file,
    images::Images,
    plan::{Arrivals, CascadePlan, Run},
    profile::{Condition, Event, Profile},
    rows::{Found, Record, Row, Wire},
};
use crate::{
    host,
    learn::load_cascade,
    programs::{Program, free_address, networks_of_the_cloud},
};
use device::Device;

/// How far a path may be from its profile: of its round trip, and milliseconds beside that; of its rates.
const ROUND_TRIP_SHARE: f64 = 0.05;
const ROUND_TRIP_MS: f64 = 1.0;
const RATE_SHARE: f64 = 0.10;
/// How often a path is looked at before a run on it is void.
const LOOKS: usize = 4;
/// Until a feed ends that should have, beyond its deadline.
const PATIENCE: Duration = Duration::from_secs(60);

/// The programs that are run.
#[derive(Debug, Clone)]
pub(super) struct Programs {
    pub(super) edge_agent: PathBuf,
    pub(super) cloud_service: PathBuf,
    /// This one, which runs at the ends, too.
    pub(super) lab: PathBuf,
    pub(super) models: PathBuf,
}

/// A path with a cloud at its end, for the runs that share them.
pub(super) struct Stage<'a> {
    // In this order they end: first what runs at the ends of the path.
    cloud: Program,
    echo: Echo,
    path: EmulatedPath,
    cloud_address: SocketAddr,
    profile: &'a Profile,
    cascade: &'a CascadePlan,
    cascade_file: PathBuf,
    images: Images,
    base: PathBuf,
    programs: &'a Programs,
    folder: PathBuf,
}

/// What answers probes at the cloud's end.
struct Echo {
    child: Child,
    address: SocketAddr,
}

impl Drop for Echo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl<'a> Stage<'a> {
    /// Makes the path and starts the cloud. Paths of the plan are relative to `base`; what the programs need and say is in
    /// `folder`.
    pub(super) fn set(
        emulator: &Emulator,
        profile: &'a Profile,
        cascade: &'a CascadePlan,
        base: &Path,
        programs: &'a Programs,
        folder: &Path,
    ) -> Result<Self, LinkError> {
        let cascade_file = base.join(&cascade.file);
        let cascade_file = fs::canonicalize(&cascade_file).map_err(file(&cascade_file))?;
        let graph = load_cascade(&cascade_file)?;
        let networks = networks_of_the_cloud(&graph).map_err(LinkError::Sites)?;
        if networks.is_empty() {
            return Err(LinkError::NoCloud(graph.name().to_owned()));
        }
        let images = Images::load(&base.join(&cascade.images), &base.join(&cascade.labels))?;
        let path = emulator.open(profile.condition, folder)?;
        let port = free_address().map_err(file(Path::new("loopback")))?.port();
        let cloud_address = SocketAddr::from((path.cloud_address(), port));
        let host = path.cloud_address().to_string();
        let certificates = Certificates::issue(&Subjects::host(&host), Validity::days(2))?;
        certificates.write(folder, ExistingFiles::Keep)?;
        let config = folder.join("cloud-service.toml");
        let text = format!(
            "address = \"0.0.0.0:{port}\"\nmodels = {:?}\nnetworks = {networks:?}\n\
             [tls]\ncertificate = \"server.pem\"\nkey = \"server.key\"\n",
            programs.models
        );
        fs::write(&config, text).map_err(file(&config))?;
        let arguments = ["serve", "--config", &config.display().to_string()].map(str::to_owned);
        let mut cloud = Program::new(
            "cloud-service",
            programs.cloud_service.clone(),
            arguments.to_vec(),
            cloud_address,
            folder,
        )
        .within(path.at_cloud());
        cloud.start()?;
        let echo = Echo::start(&path, programs)?;
        Ok(Self {
            path,
            cloud,
            echo,
            cloud_address,
            profile,
            cascade,
            cascade_file,
            images,
            base: base.to_owned(),
            programs,
            folder: folder.to_owned(),
        })
    }

    /// Ends the cloud well, and takes the path away.
    pub(super) fn end(mut self) -> Result<(), LinkError> {
        Ok(self.cloud.end()?)
    }

    /// Looks at the path until it is as its profile says, four times at the most.
    pub(super) fn check(&self) -> Result<Found, LinkError> {
        let condition = self.path.condition();
        let mut found = self.look(condition)?;
        for _ in 1..LOOKS {
            if found.holds {
                break;
            }
            found = self.look(condition)?;
        }
        Ok(found)
    }

    fn look(&self, condition: Condition) -> Result<Found, LinkError> {
        let bits = |mbps: Option<f64>| mbps.map(|mbps| mbps * 1e6);
        let aim = Aim {
            round_trip: condition.one_way() * 2,
            uplink: bits(condition.uplink_mbps),
            downlink: bits(condition.downlink_mbps),
        };
        let mut words = self.path.at_device();
        words.push(self.programs.lab.display().to_string());
        words.extend(["link-end", "probe"].map(str::to_owned));
        words.push(self.echo.address.to_string());
        words.push(format!("--round-trip-ms={}", condition.round_trip_ms));
        words.extend(aim.uplink.map(|rate| format!("--uplink={rate}")));
        words.extend(aim.downlink.map(|rate| format!("--downlink={rate}")));
        let output = Command::new(&words[0])
            .args(&words[1..])
            .stdin(Stdio::null())
            .output()
            .map_err(file(Path::new(&words[0])))?;
        let said = String::from_utf8_lossy(&output.stdout);
        let probed: Probed = serde_json::from_str(&said).map_err(|_| {
            let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            LinkError::Probe(why)
        })?;
        Ok(judged(probed, aim, condition.loss))
    }

    /// Runs a run on the path, which was found to be `found`.
    pub(super) fn run(
        &mut self,
        run: &Run,
        found: Found,
        images: u32,
        warm_up: u32,
    ) -> Result<(Record, Vec<Row>), LinkError> {
        let wire_before = self.path.wire()?;
        let mut device = Device::start(self, run)?;
        let order = self.images.order(run.seed, images);
        let warm: Vec<_> = order
            .iter()
            .rev()
            .cycle()
            .take(warm_up as usize)
            .cloned()
            .collect();
        let feed = Feed {
            api: device.api(),
            warm_up: warm,
            images: order,
            arrivals: run.arrivals,
            concurrency: run.concurrency,
            seconds: run.seconds,
            seed: u64::from(run.seed),
            again: run.arrivals != Arrivals::Closed && !self.profile.changes.is_empty(),
            deadline_ms: self.cascade.deadline_ms,
        };
        let began = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0.0, |since| since.as_secs_f64());
        let watched = self.watch(&feed, &device)?;
        // What the path counts includes what the program sent before it was asked for its own count.
        let wire_after = self.path.wire()?;
        let last_classes = device.end()?;
        self.restore()?;
        let rows: Vec<Row> = watched
            .fed
            .iter()
            .map(|fed| self.images.row(run, fed, &last_classes))
            .collect::<Result<_, _>>()?;
        let unanswered = rows.iter().filter(|row| row.class.is_none()).count() as u32;
        let record = Record {
            run: run.clone(),
            began,
            seconds: watched.seconds,
            path: found,
            changes: watched.changes,
            agent_bytes: device::wire_bytes(&watched.metrics),
            path_bytes: Wire {
                sent: wire_after.sent - wire_before.sent,
                received: wire_after.received - wire_before.received,
            },
            device_cpu_seconds: watched.cpu_seconds,
            joules: watched.joules,
            unanswered,
        };
        Ok((record, rows))
    }

    /// The path as at first, for the next run.
    fn restore(&mut self) -> Result<(), LinkError> {
        if self.profile.changes.is_empty() {
            return Ok(());
        }
        self.path.set(self.profile.condition)?;
        if self.has_new_address() {
            self.path.change_address()?;
        }
        Ok(())
    }

    fn has_new_address(&self) -> bool {
        let is_new = |event: Event| matches!(event, Event::NewAddress(_));
        self.profile
            .changes
            .iter()
            .any(|change| is_new(change.what))
    }

    /// Feeds the device and changes the path at its times, until all is answered.
    fn watch(&mut self, feed: &Feed, device: &Device) -> Result<Watched, LinkError> {
        let mut words = self.path.at_device();
        words.push(self.programs.lab.display().to_string());
        words.extend(["link-end", "feed"].map(str::to_owned));
        let log = self.folder.join("feed.log");
        let mut child = Command::new(&words[0])
            .args(&words[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(&log).map_err(file(&log))?)
            .spawn()
            .map_err(file(Path::new(&words[0])))?;
        let lost = || LinkError::Feed(log.clone());
        let mut stdin = child.stdin.take().ok_or_else(lost)?;
        let text = serde_json::to_vec(feed).map_err(|_| lost())?;
        stdin.write_all(&text).map_err(file(&log))?;
        drop(stdin);
        let stdout = child.stdout.take().ok_or_else(lost)?;
        let (hear, heard) = mpsc::channel();
        let reading = thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let Ok(line) = serde_json::from_str::<Line>(&line) else {
                    continue;
                };
                if hear.send(line).is_err() {
                    break;
                }
            }
        });
        let watched = self.follow(feed, device, &heard);
        if !matches!(watched, Ok(Some(_))) {
            let _ = child.kill();
        }
        let _ = child.wait();
        let _ = reading.join();
        watched?.ok_or_else(lost)
    }

    /// `None` where the feed ended before all was said.
    fn follow(
        &mut self,
        feed: &Feed,
        device: &Device,
        heard: &mpsc::Receiver<Line>,
    ) -> Result<Option<Watched>, LinkError> {
        let profile = self.profile;
        let mut changes = profile.changes.iter().peekable();
        let mut watched = Watched::default();
        let patience = Duration::from_secs_f64(feed.seconds)
            + Duration::from_millis(feed.deadline_ms) * (feed.warm_up.len() as u32 + 1)
            + PATIENCE;
        let (mut began, mut at_first) = (None::<Instant>, device.usage());
        let started = Instant::now();
        loop {
            if started.elapsed() > patience {
                return Ok(None);
            }
            if let Some(began) = began {
                while let Some(change) =
                    changes.next_if(|next| next.at <= began.elapsed().as_secs_f64())
                {
                    self.change(change.what)?;
                    let at = began.elapsed().as_secs_f64() * 1e3;
                    watched.changes.push((at, change.what.to_string()));
                }
            }
            let until_next = match (began, changes.peek()) {
                (Some(began), Some(next)) => Duration::from_secs_f64(next.at)
                    .saturating_sub(began.elapsed())
                    .min(Duration::from_millis(500)),
                _ => Duration::from_millis(500),
            };
            match heard.recv_timeout(until_next) {
                Ok(Line::Began) => {
                    began = Some(Instant::now());
                    at_first = device.usage();
                }
                Ok(Line::Fed(fed)) => watched.fed.push(*fed),
                Ok(Line::Ended(metrics)) => {
                    watched.metrics = metrics;
                    watched.seconds = began.map_or(0.0, |began| began.elapsed().as_secs_f64());
                    let at_last = device.usage();
                    watched.cpu_seconds = at_last.cpu_seconds - at_first.cpu_seconds;
                    watched.joules = host::joules_between(at_first.energy, at_last.energy);
                    watched.fed.sort_by_key(|fed| fed.number);
                    return Ok(Some(watched));
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => return Ok(None),
            }
        }
    }

    fn change(&mut self, event: Event) -> Result<(), LinkError> {
        match self.profile.after(self.path.condition(), event) {
            Some(condition) => self.path.set(condition)?,
            None => self.path.change_address()?,
        }
        Ok(())
    }
}

/// What was seen of a run.
#[derive(Debug, Default)]
struct Watched {
    fed: Vec<super::end::Fed>,
    changes: Vec<(f64, String)>,
    metrics: String,
    seconds: f64,
    cpu_seconds: f64,
    joules: Option<f64>,
}

impl Echo {
    fn start(path: &EmulatedPath, programs: &Programs) -> Result<Self, LinkError> {
        let port = free_address().map_err(file(Path::new("loopback")))?.port();
        let address = SocketAddr::from((path.cloud_address(), port));
        let words = path.at_cloud();
        let child = Command::new(&words[0])
            .args(&words[1..])
            .arg(&programs.lab)
            .args(["link-end", "echo", &format!("0.0.0.0:{port}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(file(Path::new(&words[0])))?;
        Ok(Self { child, address })
    }
}

/// Whether what was probed is what was aimed at.
fn judged(probed: Probed, aim: Aim, loss: f64) -> Found {
    let wanted = aim.round_trip.as_secs_f64() * 1e3;
    let round_trip =
        (probed.round_trip_ms - wanted).abs() <= ROUND_TRIP_SHARE * wanted + ROUND_TRIP_MS;
    // Netem loses packets on their way into the queue, others on their way out of it: either may be so far from the rate.
    let is_near = |found: Option<f64>, wanted: Option<f64>| match (found, wanted) {
        (_, None) => true,
        (None, Some(_)) => false,
        (Some(found), Some(wanted)) => {
            found >= wanted * (1.0 - RATE_SHARE - loss) && found <= wanted * (1.0 + RATE_SHARE)
        }
    };
    Found {
        round_trip_ms: probed.round_trip_ms,
        uplink_bps: probed.uplink,
        downlink_bps: probed.downlink,
        holds: round_trip
            && is_near(probed.uplink, aim.uplink)
            && is_near(probed.downlink, aim.downlink),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_is_too_slow_too_far_or_too_fast_does_not_hold() {
        let aim = Aim {
            round_trip: Duration::from_millis(100),
            uplink: Some(1e6),
            downlink: None,
        };
        let found = |round_trip_ms, uplink| {
            let probed = Probed {
                round_trip_ms,
                uplink,
                downlink: None,
            };
            judged(probed, aim, 0.0).holds
        };
        assert!(found(100.7, Some(0.95e6)));
        assert!(found(105.9, Some(1.09e6)));
        assert!(!found(106.1, Some(1e6)));
        assert!(!found(93.9, Some(1e6)));
        assert!(!found(100.0, Some(0.89e6)));
        assert!(!found(100.0, Some(1.11e6)));
        assert!(!found(100.0, None));
    }
}
