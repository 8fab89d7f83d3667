//! Brings images to the device program by HTTP, as its callers do, and notes what they see.

use std::{
    collections::HashMap,
    fs,
    io::{self, Write},
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use fastrand::Rng;
use serde::{Deserialize, Serialize};
use ureq::Agent;

use super::super::plan::Arrivals;

/// What a caller waits beyond the deadline.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is to be brought, and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(in crate::link) struct Feed {
    /// The device program's API.
    pub(in crate::link) api: SocketAddr,
    /// Images before those that count.
    pub(in crate::link) warm_up: Vec<PathBuf>,
    /// Images, in order.
    pub(in crate::link) images: Vec<PathBuf>,
    /// How they come.
    pub(in crate::link) arrivals: Arrivals,
    /// Callers, or most images under way.
    pub(in crate::link) concurrency: u32,
    /// Seconds after which no more are brought.
    pub(in crate::link) seconds: f64,
    /// What times are drawn from.
    pub(in crate::link) seed: u64,
    /// Whether images begin again once all were brought, until the seconds are over.
    pub(in crate::link) again: bool,
    pub(in crate::link) deadline_ms: u64,
}

/// A line of output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(in crate::link) enum Line {
    /// The first image that counts is brought next.
    Began,
    /// An image and what came of it.
    Fed(Box<Fed>),
    /// All is over; what the device program's metrics say.
    Ended(String),
}

/// An image and what its caller saw.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(in crate::link) struct Fed {
    pub(in crate::link) number: u32,
    pub(in crate::link) image: PathBuf,
    /// Since the first image that counts.
    pub(in crate::link) started_ms: f64,
    pub(in crate::link) latency_ms: f64,
    /// The answer, as it came.
    pub(in crate::link) answer: Option<serde_json::Value>,
    /// What went wrong in its place.
    pub(in crate::link) error: Option<String>,
}

/// An image that is due, since the first.
#[derive(Debug, Clone, Copy)]
struct Due {
    number: u32,
    at: Duration,
}

struct Caller<'a> {
    feed: &'a Feed,
    agent: Agent,
    images: HashMap<PathBuf, Arc<[u8]>>,
    began: Instant,
    say: mpsc::Sender<Line>,
}

/// Brings all images; prints what came of them.
pub(super) fn feed(feed: &Feed, out: &mut dyn Write) -> io::Result<()> {
    let mut images = HashMap::new();
    for path in feed.warm_up.iter().chain(&feed.images) {
        if !images.contains_key(path) {
            let image = fs::read(path).map_err(|error| named(&error, path))?;
            images.insert(path.clone(), image.into());
        }
    }
    let (say, said) = mpsc::channel();
    let caller = Caller {
        feed,
        agent: agent(feed),
        images,
        began: Instant::now(),
        say,
    };
    thread::scope(|scope| {
        scope.spawn(move || caller.run());
        for line in said {
            writeln!(out, "{}", serde_json::to_string(&line)?)?;
            out.flush()?;
        }
        Ok(())
    })
}

fn named(error: &io::Error, path: &std::path::Path) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

fn agent(feed: &Feed) -> Agent {
    Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(Duration::from_millis(feed.deadline_ms) + PATIENCE))
        .max_idle_connections_per_host(feed.concurrency as usize)
        .build()
        .into()
}

impl Caller<'_> {
    /// Brings all images and says what came of them.
    fn run(mut self) {
        for path in &self.feed.warm_up {
            let _ = self.call(path);
        }
        self.say(Line::Began);
        self.began = Instant::now();
        match self.feed.arrivals {
            Arrivals::Closed => self.closed(),
            Arrivals::Periodic(rate) => {
                let pause = Duration::from_secs_f64(1.0 / rate);
                self.open(std::iter::repeat(pause));
            }
            Arrivals::Poisson(rate) => {
                let mut rng = Rng::with_seed(self.feed.seed);
                self.open(std::iter::repeat_with(move || {
                    Duration::from_secs_f64(-(1.0 - rng.f64()).ln() / rate)
                }));
            }
        }
        let metrics = format!("http://{}/metrics", self.feed.api);
        let metrics = self.agent.get(metrics).call();
        let metrics = metrics.and_then(|mut reply| reply.body_mut().read_to_string());
        self.say(Line::Ended(metrics.unwrap_or_default()));
    }

    fn say(&self, line: Line) {
        // Nobody hears it where the output is closed; then the program ends anyway.
        let _ = self.say.send(line);
    }

    /// Each of several callers brings the next image once it has the answer to its last.
    fn closed(&self) {
        let next = AtomicU32::new(0);
        thread::scope(|scope| {
            for _ in 0..self.feed.concurrency {
                scope.spawn(|| {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        let at = self.began.elapsed();
                        if self.image(number).is_none() || at >= self.until() {
                            break;
                        }
                        self.bring(Due { number, at });
                    }
                });
            }
        });
    }

    /// Images come at their times; those that find no caller wait, and the wait counts.
    fn open(&self, mut pauses: impl Iterator<Item = Duration>) {
        let (bring, due) = mpsc::channel::<Due>();
        let due = Mutex::new(due);
        thread::scope(|scope| {
            for _ in 0..self.feed.concurrency {
                scope.spawn(|| {
                    while let Ok(Ok(next)) = due.lock().map(|due| due.recv()) {
                        self.bring(next);
                    }
                });
            }
            let (mut at, mut number) = (Duration::ZERO, 0);
            while at < self.until() && self.image(number).is_some() {
                thread::sleep(at.saturating_sub(self.began.elapsed()));
                if bring.send(Due { number, at }).is_err() {
                    break;
                }
                number += 1;
                at += pauses.next().unwrap_or(Duration::MAX);
            }
            drop(bring);
        });
    }

    fn until(&self) -> Duration {
        Duration::from_secs_f64(self.feed.seconds)
    }

    fn image(&self, number: u32) -> Option<&PathBuf> {
        let images = &self.feed.images;
        match self.feed.again {
            true => images.get(number as usize % images.len()),
            false => images.get(number as usize),
        }
    }

    fn bring(&self, due: Due) {
        let Some(image) = self.image(due.number) else {
            return;
        };
        let answer = self.call(image);
        let latency = self.began.elapsed().saturating_sub(due.at);
        let (answer, error) = match answer {
            Ok(answer) => (Some(answer), None),
            Err(error) => (None, Some(error)),
        };
        self.say(Line::Fed(Box::new(Fed {
            number: due.number,
            image: image.clone(),
            started_ms: due.at.as_secs_f64() * 1e3,
            latency_ms: latency.as_secs_f64() * 1e3,
            answer,
            error,
        })));
    }

    /// The answer to an image, or what went wrong in its place.
    fn call(&self, image: &PathBuf) -> Result<serde_json::Value, String> {
        let reply = self
            .agent
            .post(format!("http://{}/v1/classify", self.feed.api))
            .header("content-type", "image/jpeg")
            .send(&self.images[image][..]);
        let mut reply = reply.map_err(|error| error.to_string())?;
        let status = reply.status();
        let text = reply.body_mut().read_to_string();
        let text = text.map_err(|error| error.to_string())?;
        match status.is_success() {
            true => serde_json::from_str(&text).map_err(|error| error.to_string()),
            false => Err(format!("{status}: {text}")),
        }
    }
}
