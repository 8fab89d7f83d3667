//! A cascade served as one model: images in, the answer of whichever network the policies choose.
//!
//! The same engine as on the device, begun at the node that the request names. What is further on, at another
//! service, is asked there.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures::future::try_join_all;
use outpost_cascade::{Mode, NodeId, Site};
use outpost_engine::{
    CASCADE_OUTPUT, DECIDED_BY_PARAMETER, Engine, Outcome, PeerError, Plan, PolicyFile, Privacy,
    Route, StartError, Upstream, load_cascade,
};
use outpost_proto::{Tensor, TensorData, inference::InferParameter, parameter};
use outpost_runtime::{ImageLimits, Manifest, ModelFolder, TractRuntime};
use outpost_transport::{Channel, Deadline};

use crate::{
    admission::{Admission, Pace, Places},
    config::{CascadeConfig, Config},
    error::ServiceError,
    input::{Undecoded, check_deadline},
    metrics::{Metrics, ModelMetrics},
    statistics::Statistics,
    workers::Workers,
};

/// Share of the time left that is kept for the way back: an answer of last resort must still arrive in time.
const WAY_BACK: f64 = 0.05;

/// Time of an image whose call has no deadline.
const LONGEST: Duration = Duration::from_secs(3600);

/// A cascade at work.
pub(crate) struct CascadeModel {
    engine: Engine,
    /// Where an image begins whose request does not say.
    entry: NodeId,
    /// Classes of every network.
    classes: usize,
    admission: Admission,
    pace: Mutex<Pace>,
    metrics: Metrics,
    of_model: ModelMetrics,
    statistics: Statistics,
}

/// Why a cascade is not served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CascadeError {
    /// The engine did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The configuration of the next service is at fault.
    #[error("cannot use `cloud`, the next service")]
    Peer(#[from] PeerError),
    /// No network of it is at this site.
    #[error(
        "the cascade {name:?} has no network at the site {site}: set `site`, or serve another cascade"
    )]
    NothingHere {
        /// The cascade.
        name: String,
        /// This site.
        site: Site,
    },
    /// Its networks have different classes.
    #[error("the networks of the cascade {0:?} do not have the same number of classes")]
    Classes(String),
    /// A network has its name, or another cascade.
    #[error("the cascade {0:?} has the name of something else that is served: give it another")]
    NameTaken(String),
}

/// What a cascade said about the images of a request, and when.
pub(crate) struct Answers {
    outcomes: Vec<Outcome>,
    /// From the start of the first network to the last answer.
    pub(crate) computed: Duration,
    /// Decoding, of all images.
    pub(crate) decoded: Duration,
    /// Waiting for a turn.
    pub(crate) queued: Duration,
}

/// What a cascade must know of a request beside its images.
pub(crate) struct Request<'a> {
    /// The node to begin with.
    pub(crate) entry: NodeId,
    pub(crate) deadline: Option<Deadline>,
    pub(crate) limits: ImageLimits,
    pub(crate) decoders: &'a Workers,
}

impl CascadeModel {
    /// Loads the networks that are at this site. Must be called in a tokio runtime, on a blocking thread.
    pub(crate) fn start(
        served: &CascadeConfig,
        config: &Config,
        folder: &ModelFolder,
        metrics: &Metrics,
    ) -> Result<Self, CascadeError> {
        let peer = |peer| Upstream::new(peer, config.circuit.into());
        let peer = config.cloud.as_ref().map(peer).transpose()?;
        let peers: BTreeMap<Site, Arc<Upstream>> = peer
            .map(|peer| (Site::Cloud, Arc::new(peer)))
            .into_iter()
            .collect();
        let here = config.site;
        let cascade = load_cascade(&served.file)?;
        let name = cascade.name().to_owned();
        let batching = config.batching(&name);
        let engine = Engine::start(Plan {
            cascade,
            policy: served.policy.as_deref().map(|path| PolicyFile {
                path,
                goal: &served.operating_point,
            }),
            mode: Mode::Policy,
            here,
            folder,
            runtime: &TractRuntime::default(),
            privacy: &Privacy::default(),
            turns: batching.instances,
            peers,
            connects: true,
        })?;
        let (entry, classes) = whole(&engine)?;
        let of_model = metrics.of_model(&name);
        Ok(Self {
            entry,
            classes,
            admission: Admission::new(batching, of_model.waiting.clone()),
            pace: Mutex::default(),
            of_model,
            metrics: metrics.clone(),
            statistics: Statistics::default(),
            engine,
        })
    }

    /// Calls the endpoints of the next service over other channels from now on.
    pub(crate) fn call_over(&self, next: &[Channel]) {
        for (_, upstream) in self.engine.peers() {
            upstream.replace_channels(next.iter().cloned());
        }
    }

    /// How long the image has been worked on that was begun first; none where there is none.
    pub(crate) fn oldest(&self) -> Option<Duration> {
        self.engine.oldest_turn()
    }

    pub(crate) fn name(&self) -> &str {
        self.engine.cascade().name()
    }

    /// The manifest of the network that an image begins with whose request does not say another.
    pub(crate) fn manifest(&self) -> &Manifest {
        self.engine.manifest(self.entry)
    }

    pub(crate) fn classes(&self) -> usize {
        self.classes
    }

    pub(crate) fn metrics(&self) -> &ModelMetrics {
        &self.of_model
    }

    pub(crate) fn statistics(&self) -> &Statistics {
        &self.statistics
    }

    /// The node that a request asks to begin with: one that is here or further on.
    pub(crate) fn entry(&self, asked: Option<&str>) -> Result<NodeId, ServiceError> {
        let Some(asked) = asked else {
            return Ok(self.entry);
        };
        let cascade = self.engine.cascade();
        let here = self.engine.here();
        cascade
            .find(asked)
            .filter(|&id| cascade.node(id).site() >= here)
            .ok_or_else(|| ServiceError::NoSuchEntry {
                asked: asked.to_owned(),
                present: cascade
                    .nodes()
                    .filter(|(_, node)| node.site() >= here)
                    .map(|(_, node)| node.name().to_owned())
                    .collect(),
            })
    }

    /// Takes places for the images of a request, which it keeps until they are answered.
    pub(crate) fn admit(&self, images: usize) -> Result<Places, ServiceError> {
        let places = self.admission.take(images);
        places.ok_or_else(|| self.admission.full(*self.pace()))
    }

    /// Takes the images through the cascade, side by side where there are turns.
    pub(crate) async fn run(
        &self,
        images: Vec<Undecoded>,
        route: Request<'_>,
    ) -> Result<Answers, ServiceError> {
        let Request {
            entry,
            deadline,
            limits,
            decoders,
        } = route;
        let joined = Instant::now();
        let left = match deadline {
            Some(deadline) => deadline.remaining().mul_f64(1.0 - WAY_BACK),
            None => LONGEST,
        };
        let answers = images.into_iter().map(|image| async move {
            let turn = self.engine.turn().await;
            let queued = joined.elapsed();
            check_deadline(deadline)?;
            let started = Instant::now();
            let picture = decoders
                .run(move || image.decode(&limits, deadline))
                .await?;
            let decoded = started.elapsed();
            let route = Route {
                entry,
                taken: joined,
                deadline: left,
                late: Duration::ZERO,
                is_short: false,
            };
            let outcome = self.engine.classify(turn, picture, route).await?;
            self.count(&outcome, joined.elapsed() - queued);
            Ok::<_, ServiceError>((outcome, queued, decoded))
        });
        let answers = try_join_all(answers).await?;
        let queued = answers.iter().map(|(_, queued, _)| *queued).min();
        let queued = queued.unwrap_or_default();
        let decoded = answers.iter().map(|(_, _, decoded)| *decoded).sum();
        Ok(Answers {
            outcomes: answers.into_iter().map(|(outcome, ..)| outcome).collect(),
            computed: (joined.elapsed() - queued).saturating_sub(decoded),
            decoded,
            queued,
        })
    }

    fn count(&self, outcome: &Outcome, took: Duration) {
        self.metrics.decided(self.engine.cascade(), outcome);
        self.of_model.batch(1, took);
        self.statistics.ran(1, took);
        self.pace().keep(took);
    }

    fn pace(&self) -> MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The first node at the engine's site, and the classes that it and all later ones have.
fn whole(engine: &Engine) -> Result<(NodeId, usize), CascadeError> {
    let (cascade, site) = (engine.cascade(), engine.here());
    let name = || cascade.name().to_owned();
    let entry = cascade.nodes().find(|(_, node)| node.site() == site);
    let Some((entry, _)) = entry else {
        return Err(CascadeError::NothingHere { name: name(), site });
    };
    let classes = |id| engine.manifest(id).output.classes;
    let mut reached = cascade.nodes().filter(|(_, node)| node.site() >= site);
    if reached.any(|(id, _)| classes(id) != classes(entry)) {
        return Err(CascadeError::Classes(name()));
    }
    Ok((entry, classes(entry)))
}

impl Answers {
    /// Probabilities, `[n, classes]`.
    pub(crate) fn output(&self, classes: usize) -> Result<Tensor, ServiceError> {
        let rows = self.outcomes.iter();
        let rows: Vec<f32> = rows
            .flat_map(|outcome| outcome.probabilities.as_slice())
            .copied()
            .collect();
        let shape = vec![self.outcomes.len(), classes];
        Ok(Tensor::new(CASCADE_OUTPUT, shape, TensorData::Fp32(rows))?)
    }

    /// Who answered, as a parameter of the response.
    pub(crate) fn decided_by(&self) -> (String, InferParameter) {
        let names: Vec<String> = self
            .outcomes
            .iter()
            .map(|outcome| outcome.decided_by.to_string())
            .collect();
        let parameter = parameter::from_text(names.join(","));
        (DECIDED_BY_PARAMETER.to_owned(), parameter)
    }
}
