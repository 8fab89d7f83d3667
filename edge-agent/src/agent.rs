//! Takes images through the cascade: the device's front of [`outpost_engine::Engine`].

use std::{
    collections::{BTreeMap, HashSet},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use outpost_cascade::{FallbackCause, Mode, NoAnswer, NodeId, Reason, Site};
use outpost_engine::{
    Engine, ImageError, Late, Offload, Outcome, PeerConfig, PeerError, Picture, Plan, PolicyFile,
    Route, Turn, Upstream, blocking, load_cascade,
};
use outpost_exit_policy::Goal;
use outpost_offload::{Answered, milliseconds};
use outpost_runtime::{ImageLimits, ModelFolder, RuntimeError};
use uuid::Uuid;

use crate::{
    config::{Config, ConfigError, Delivery},
    queue::Entry,
    record::Record,
};

/// Images that waited and may leave that are remembered; beyond that they are looked at again.
const REMEMBERED: usize = 4096;

/// An image to answer.
#[derive(Debug, Clone)]
pub struct Image {
    /// What it is called in its answer.
    pub name: String,
    /// What is in it.
    pub content: Content,
    /// Time from taking it up to its answer, where less than the configuration gives.
    pub deadline: Option<Duration>,
    /// Its identifier, where it has one already: the same each time that it is taken up.
    pub id: Option<Uuid>,
}

/// Where an image's bytes are.
#[derive(Debug, Clone)]
pub enum Content {
    /// In a file, which is read in the image's turn.
    File(PathBuf),
    /// Here, encoded.
    Encoded(Bytes),
}

/// What may still correct an answer.
pub(crate) struct LateAnswer {
    /// Who gave it, though another may be in charge by now.
    agent: Arc<Agent>,
    image: String,
    late: Late,
}

impl LateAnswer {
    /// Waits for what may correct the answer; none where it does not come.
    pub(crate) async fn correction(self) -> Option<Record> {
        let outcome = self.late.correction().await?;
        Some(self.agent.said(self.image, Ok(outcome)))
    }
}

/// What was said about an image, and what may become of it.
pub(crate) struct Said {
    pub(crate) record: Record,
    /// A call that goes on.
    pub(crate) late: Option<LateAnswer>,
    /// What the cloud was to be asked, and could not be.
    pub(crate) unsent: Option<Unsent>,
    /// What the cloud may be asked about an answer that the device gave by itself.
    pub(crate) audit: Option<Audit>,
}

/// An image that the device answered by itself, and that may leave it.
pub(crate) struct Audit {
    /// Who answered, though another may be in charge by now.
    agent: Arc<Agent>,
    encoded: Bytes,
    /// The node that has the last word.
    node: NodeId,
    /// Share of such answers that the cloud is expected to agree with, by the policy.
    pub(crate) expected: Option<f64>,
}

impl Audit {
    /// Asks the cloud.
    ///
    /// # Errors
    /// Why there is no answer.
    pub(crate) async fn ask(self, image: String) -> Result<Record, FallbackCause> {
        let picture = self.agent.again(self.encoded)?;
        let asked = self
            .agent
            .ask_node(self.node, picture, image, Duration::ZERO);
        asked.await
    }
}

/// An image that the cloud was to be asked about.
pub(crate) struct Unsent {
    pub(crate) encoded: Bytes,
    /// Name of the node that was to be asked.
    pub(crate) node: String,
    /// The probability that what was said is wrong, as it sees itself; 1 where nothing was said.
    pub(crate) value: f32,
}

impl Image {
    /// The image in a file, which is called by its path.
    pub fn file(path: PathBuf) -> Self {
        Self {
            name: path.display().to_string(),
            content: Content::File(path),
            deadline: None,
            id: None,
        }
    }
}

/// Times beside an image's deadline.
#[derive(Debug, Clone, Copy)]
struct Times {
    /// After it, in which the answer may be corrected.
    late: Duration,
    /// Before it, in which who was asked is not waited for.
    reserve: Duration,
}

/// The device program's engine and its bounds.
pub struct Agent {
    engine: Engine,
    deadline: Duration,
    /// Time after the deadline in which an answer may be corrected.
    late: Duration,
    limits: ImageLimits,
    /// Whether anybody may want an image's file once it has its answer: who keeps it for later, or audits.
    keeps_files: bool,
    follows_link: bool,
    /// What the operating point is to meet, as the configuration says it.
    goal: Goal,
    /// Images that waited and may leave, by what networks here say, as far as they were looked at lately.
    may_leave: Mutex<HashSet<Uuid>>,
}

/// Why the agent did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The configuration does not hold together.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The configuration of a peer is at fault.
    #[error("cannot use the {site}")]
    Peer {
        /// The peer's site.
        site: Site,
        /// What is at fault.
        source: PeerError,
    },
    /// What is to run the networks is missing.
    #[error("cannot run networks on the device")]
    Runtime(#[from] RuntimeError),
    /// The cascade, its policy or its networks are at fault.
    #[error(transparent)]
    Engine(#[from] outpost_engine::StartError),
}

impl Agent {
    /// Loads the cascade and its device networks, and starts to connect to the peers.
    ///
    /// Must be called in a tokio runtime; loading blocks for some 100 ms.
    ///
    /// # Errors
    /// A [`StartError`] that names the file or field at fault.
    pub fn start(config: &Config) -> Result<Self, StartError> {
        Self::after(config, None)
    }

    /// The same, to take the place of another: of peers with the same URL what is left of their budgets, their circuits and
    /// what is known of their links lives on.
    pub(crate) fn after(config: &Config, before: Option<&Self>) -> Result<Self, StartError> {
        config.check()?;
        let runtime = config.runtime.open(config.device_threads)?;
        let peer = |(site, peer): (Site, &PeerConfig)| {
            let peer = Upstream::new(peer, config.circuit.into());
            let peer = peer.map_err(|source| StartError::Peer { site, source })?;
            let mut earlier = before.iter().flat_map(|before| before.engine.peers());
            let peer = match earlier.find(|(earlier, _)| *earlier == site) {
                Some((_, earlier)) => peer.after(earlier),
                None => peer,
            };
            Ok((site, Arc::new(peer)))
        };
        let fog = config.fog.iter().map(|peer| (Site::Fog, peer));
        let peers = fog
            .chain(config.cloud.iter().map(|peer| (Site::Cloud, peer)))
            .map(peer)
            .collect::<Result<BTreeMap<_, _>, StartError>>()?;
        let goal = &config.operating_point;
        let engine = Engine::start(Plan {
            cascade: load_cascade(&config.cascade)?,
            policy: config
                .policy
                .as_deref()
                .map(|path| PolicyFile { path, goal }),
            mode: config.mode,
            here: Site::Device,
            folder: &ModelFolder::new(&config.models),
            runtime: &*runtime,
            turns: config.device_threads,
            privacy: &config.privacy,
            peers,
            // What a person chose may hold on: then nobody is connected to before that is known.
            connects: before.is_none_or(|before| before.engine.deciding().mode().offloads()),
        })?;
        let here = engine.runtime();
        tracing::info!(
            runtime = here.name,
            version = here.version,
            "the networks on the device are loaded"
        );
        Ok(Self {
            engine,
            deadline: Duration::from_millis(config.deadline_ms),
            late: Duration::from_millis(config.correct_within_ms),
            limits: config.images.into(),
            keeps_files: config.delivery == Delivery::Eventually || config.audit.share > 0.0,
            follows_link: config.follow_link,
            goal: goal.clone(),
            may_leave: Mutex::default(),
        })
    }

    /// What runs the cascade.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Whether the operating point is to follow the link.
    pub(crate) fn follows_link(&self) -> bool {
        self.follows_link
    }

    /// What the operating point is to meet, as the configuration says it.
    pub(crate) fn goal(&self) -> &Goal {
        &self.goal
    }

    /// Time from taking up an image to its answer.
    pub fn deadline(&self) -> Duration {
        self.deadline
    }

    /// Answers one image of many that are there already, and never fails: an image without an answer gets its reason. It is
    /// taken up once it has its turn.
    pub async fn record(&self, image: Image) -> Record {
        let name = image.name.clone();
        let turn = self.engine.turn().await;
        let taken = (Instant::now(), turn);
        let times = Times {
            late: Duration::ZERO,
            reserve: Duration::ZERO,
        };
        let (outcome, _) = self.classify(image, taken, times).await;
        self.said(name, outcome)
    }

    /// Answers one image, taken up now; says what may still become of it where the cloud was too late or could not be asked.
    /// Of the time until the deadline, `reserve` is kept for what comes before the answer is out; at most three quarters of it.
    pub(crate) async fn answer(self: &Arc<Self>, image: Image, reserve: Duration) -> Said {
        let name = image.name.clone();
        let taken = Instant::now();
        let turn = self.engine.turn().await;
        let times = Times {
            late: self.late,
            reserve,
        };
        let (mut outcome, encoded) = self.classify(image, (taken, turn), times).await;
        let late = outcome
            .as_mut()
            .ok()
            .and_then(|outcome| outcome.late.take());
        let late = late.map(|late| LateAnswer {
            agent: self.clone(),
            image: name.clone(),
            late,
        });
        let cascade = self.engine.cascade();
        let wanted = match &outcome {
            Ok(outcome) => match outcome.reason {
                Reason::Fallback(cause) if cause.may_pass() => outcome.asked,
                _ => None,
            },
            Err(ImageError::NoAnswer(NoAnswer::OffloadFailed(cause))) if cause.may_pass() => {
                Some(cascade.entry())
            }
            Err(_) => None,
        };
        let audit = match (&outcome, &encoded) {
            (Ok(outcome), Some(encoded)) => self.audit_of(outcome, encoded),
            _ => None,
        };
        let record = self.said(name, outcome);
        let unsent = wanted.zip(encoded).map(|(node, encoded)| Unsent {
            encoded,
            node: cascade.node(node).name().to_owned(),
            value: match &record {
                Record::Answered(answered) => 1.0 - answered.confidence,
                Record::Failed { .. } => 1.0,
            },
        });
        Said {
            record,
            late,
            unsent,
            audit,
        }
    }

    /// What the cloud may be asked about an answer, where the device gave it by itself.
    fn audit_of(self: &Arc<Self>, outcome: &Outcome, encoded: &Bytes) -> Option<Audit> {
        let deciding = self.engine.deciding();
        let is_own = outcome.reason == Reason::Confident && outcome.decided_by.site == Site::Device;
        if !is_own || outcome.is_private || deciding.mode() != Mode::Policy {
            return None;
        }
        Some(Audit {
            agent: self.clone(),
            encoded: encoded.clone(),
            node: self.engine.last_word(outcome.node)?,
            expected: deciding
                .chosen()
                .and_then(|chosen| chosen.expected.agreement),
        })
    }

    /// Asks a node elsewhere about an image that was answered before, and has waited for so long.
    async fn ask_node(
        &self,
        node: NodeId,
        picture: Picture,
        image: String,
        waited: Duration,
    ) -> Result<Record, FallbackCause> {
        let patience = self.deadline + self.late;
        let mut outcome = self.engine.ask(node, picture, patience).await?;
        outcome.total += waited;
        Ok(self.said(image, Ok(outcome)))
    }

    /// An image that was answered before.
    fn again(&self, encoded: Bytes) -> Result<Picture, FallbackCause> {
        // The limits may have been changed since.
        match encoded.len() <= self.limits.max_bytes {
            true => Ok(Picture::undecoded(encoded, &self.limits)),
            false => Err(FallbackCause::Unsendable),
        }
    }

    /// An image that waited, where it may leave: networks are asked once, however often it is tried to send it.
    async fn may_leave(&self, id: Uuid, picture: Picture) -> Result<Picture, FallbackCause> {
        let lock = || {
            self.may_leave
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
        };
        if lock().contains(&id) {
            return Ok(picture);
        }
        let (keeps, picture) = match self.engine.keeps(picture).await {
            Ok(asked) => asked,
            Err(ImageError::Picture(_)) => return Err(FallbackCause::Unsendable),
            Err(_) => return Err(FallbackCause::NetworkFailed),
        };
        if keeps {
            return Err(FallbackCause::Private);
        }
        let mut may_leave = lock();
        if may_leave.len() == REMEMBERED {
            may_leave.clear();
        }
        may_leave.insert(id);
        Ok(picture)
    }

    /// Asks the cloud about an image that waited for it.
    ///
    /// # Errors
    /// Why there is no answer.
    pub(crate) async fn ask(&self, entry: &Entry, image: Bytes) -> Result<Record, FallbackCause> {
        // Of another cascade, where it was changed since.
        let node = self.engine.cascade().find(&entry.node);
        let node = node.ok_or(FallbackCause::NoCloud)?;
        // What must not leave may have been changed, too.
        let picture = self.may_leave(entry.id, self.again(image)?).await?;
        let name = match &entry.record {
            Record::Answered(answered) => &answered.image,
            Record::Failed { image, .. } => image,
        };
        let asked = self.ask_node(node, picture, name.clone(), entry.waited);
        asked.await
    }

    /// What came of an image, and its file where it could be decoded and may be wanted.
    #[tracing::instrument(name = "image", level = "debug", skip_all, fields(file = image.name))]
    async fn classify(
        &self,
        image: Image,
        (taken, turn): (Instant, Turn),
        times: Times,
    ) -> (Result<Outcome, ImageError>, Option<Bytes>) {
        let (content, limits) = (image.content, self.limits);
        let picture = blocking(move || match content {
            Content::File(path) => Picture::read(&path, &limits),
            Content::Encoded(bytes) => Ok(Picture::decode(bytes, &limits)?),
        });
        let picture = match picture.await {
            Ok(Ok(picture)) => picture,
            Ok(Err(error)) => return (Err(error.into()), None),
            Err(error) => return (Err(error), None),
        };
        let encoded = picture.encoded().filter(|_| self.keeps_files).cloned();
        let deadline = image.deadline.unwrap_or(self.deadline);
        let is_short = deadline < self.deadline;
        let deadline = deadline.min(self.deadline);
        let reserve = times.reserve.min(deadline * 3 / 4);
        let late = match times.late.is_zero() {
            true => Duration::ZERO,
            false => times.late + reserve,
        };
        let route = Route {
            entry: self.engine.cascade().entry(),
            taken,
            deadline: deadline - reserve,
            late,
            is_short,
        };
        (self.engine.classify(turn, picture, route).await, encoded)
    }

    fn said(&self, image: String, outcome: Result<Outcome, ImageError>) -> Record {
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(error) => return Record::failed(image, &error),
        };
        let labels = self.engine.labels(outcome.node);
        let offload = outcome.offload.as_ref();
        let sent_as = offload.and_then(|offload| offload.sent_as);
        let by = (&outcome.decided_by, outcome.reason);
        Record::Answered(Box::new(Answered {
            wait_ms: milliseconds(outcome.waited),
            device_ms: milliseconds(outcome.local),
            encode_ms: sent_as
                .and(offload)
                .map(|offload| milliseconds(offload.encoding)),
            link_ms: offload.map(|offload| milliseconds(offload.link())),
            cloud_ms: offload.and_then(Offload::at_peer).map(milliseconds),
            total_ms: milliseconds(outcome.total),
            bytes_sent: offload.map_or(0, |offload| offload.bytes_sent),
            encoding: sent_as.map(|sent_as| sent_as.to_string()),
            transport: offload
                .and_then(Offload::protocol)
                .map(|protocol| protocol.to_string()),
            peer: offload.and_then(|offload| offload.endpoint.as_deref().map(str::to_owned)),
            ..Answered::new(image, &outcome.probabilities, labels, by)
        }))
    }
}
