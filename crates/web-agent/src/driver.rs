//! The driver of [`outpost_cascade::Walk`] on one thread.

use std::{cell::RefCell, collections::HashMap, rc::Rc, time::Duration};

use bytes::Bytes;
use outpost_cascade::{
    Action, Cascade, CascadeError, DecideBy, DecideByError, Deciding, FallbackCause, Follower,
    Mode, NoAnswer, NodeId, Reason, Site, Walk, needs_features,
};
use outpost_exit_policy::{Bundle, BundleError, Evidence, Goal, GoalError};
use outpost_offload::{
    Answered, DecidedBy, RemoteModel, milliseconds,
    state::{Node, Policy, Runtime},
};
use outpost_runtime::{
    ClassifyError as NetworkError, DecodeError, Digested, Features, ImageLimits, Labels,
    LocalNetworks, ModelFolder, OpenError, Place, Probabilities, Progress, Runtime as _, Threads,
    TractRuntime, decode,
};

use crate::{
    Description, DescriptionError, Host, LocalFuture, Peer, State,
    offload::{Cloud, Offload},
};

/// A cascade, the networks of it that are here, and the cloud for the others.
pub struct Agent<H> {
    pub(crate) host: H,
    pub(crate) cloud: Cloud,
    /// As its file has it.
    cascade: Cascade,
    policy: Option<Bundle>,
    deciding: RefCell<Rc<Deciding>>,
    follower: RefCell<Follower>,
    local: LocalNetworks,
    /// Where in `local` the nodes that are here are.
    places: HashMap<NodeId, usize>,
    remote: HashMap<NodeId, Remote>,
    pub(crate) deadline: Duration,
    /// Time after the deadline in which an answer may be corrected.
    pub(crate) late: Duration,
    limits: ImageLimits,
}

/// A node elsewhere.
struct Remote {
    model: Rc<RemoteModel>,
    labels: Labels,
    /// Whether the cloud has it, or who is behind.
    is_served: bool,
}

/// What is said about an image.
pub struct Said {
    /// The answer.
    pub answered: Answered,
    /// What may still correct it.
    pub correction: Option<Correction>,
}

/// Waits for the reply that corrects an answer; none where it does not come in time.
pub type Correction = LocalFuture<Option<Answered>>;

/// Why an agent did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A file is missing or is another.
    #[error(transparent)]
    Description(#[from] DescriptionError),
    /// A network, or another file, is at fault.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The cascade file is no text.
    #[error("the cascade {0:?} is not UTF-8")]
    NotText(String),
    /// The cascade file is at fault.
    #[error("cannot use the cascade {name:?}")]
    Cascade {
        /// Its name.
        name: String,
        /// Why.
        source: CascadeError,
    },
    /// The policy is at fault, or was learned for another cascade.
    #[error("cannot use the policy")]
    Policy(#[from] BundleError),
    /// There is no such operating point.
    #[error("cannot use the goal of the policy")]
    Goal(#[from] GoalError),
    /// A node's policy is to be learned, and none has been given.
    #[error(
        "the policy of the node {0:?} is to be learned: give the service that has the page a policy for its cascade"
    )]
    Undecided(String),
}

/// Why an image has no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClassifyError {
    /// It is no image, or breaks a limit.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// No network answered.
    #[error(transparent)]
    NoAnswer(#[from] NoAnswer),
    /// A network here failed, and nothing else could answer.
    #[error(transparent)]
    Network(#[from] NetworkError),
}

/// What came of an image, before it is told.
struct Outcome {
    said: Probabilities,
    node: NodeId,
    reason: Reason,
    /// From taking it up until the last network here had spoken.
    local: Duration,
    offload: Option<Offload>,
}

impl<H: Host> Agent<H> {
    /// Checks the files of a description by their digests, and loads the cascade and the networks of it that are on the device.
    ///
    /// # Errors
    /// A [`StartError`] that names the file at fault.
    pub fn start(
        description: &Description,
        files: HashMap<String, Digested>,
        host: H,
    ) -> Result<Self, StartError> {
        let folder = description.folder(files)?;
        let path = &description.cascade.path;
        let text = folder.read_file(path)?;
        let text = str::from_utf8(&text);
        let text = text.map_err(|_| StartError::NotText(path.display().to_string()))?;
        let cascade = Cascade::parse(text).map_err(|source| StartError::Cascade {
            name: description.cascade.name.clone(),
            source,
        })?;
        let policy = match &description.policy {
            None => None,
            Some(policy) => {
                let bundle = Bundle::parse(&folder.read_file(&policy.path)?)?;
                let digests = folder.digests(cascade.nodes().map(|(_, node)| node.network()))?;
                cascade.check_fits(&bundle, |network| digests[network].clone())?;
                Some(bundle)
            }
        };
        let goal = match &description.goal {
            None => Goal::MaxLoss(1.0),
            Some(words) => words.parse()?,
        };
        let learned = match &policy {
            None => None,
            Some(bundle) => Some((bundle, &goal, bundle.choose(&goal)?)),
        };
        let deciding = Deciding::new(&cascade, learned, Mode::Policy);
        if let Some(node) = deciding.undecided(Site::Device) {
            return Err(StartError::Undecided(node.name().to_owned()));
        }
        let features = match policy.as_ref().is_some_and(needs_features) {
            true => Features::Give,
            false => Features::Omit,
        };
        let (local, places) = open_local(&cascade, &folder, features, host.threads())?;
        Ok(Self {
            remote: open_remote(&cascade, &folder)?,
            cloud: Cloud::default(),
            deciding: RefCell::new(Rc::new(deciding)),
            follower: RefCell::default(),
            deadline: Duration::from_millis(description.deadline_ms),
            late: Duration::from_millis(description.correct_within_ms),
            limits: ImageLimits::default(),
            host,
            cascade,
            policy,
            local,
            places,
        })
    }

    /// Decides about the images to come by another operating point, or in another mode. All of the change is made or none.
    ///
    /// # Errors
    /// [`DecideByError`], where there is no such operating point, or the mode is not for this cascade.
    pub fn decide_by(&self, change: &DecideBy) -> Result<(), DecideByError> {
        let changed = self
            .deciding()
            .changed(&self.cascade, self.policy.as_ref(), change)?;
        self.deciding.replace(Rc::new(changed));
        Ok(())
    }

    /// What images are decided by, and how the cloud is reached.
    pub fn state(&self) -> State {
        let (deciding, runtime) = (self.deciding(), TractRuntime::default());
        State {
            version: env!("CARGO_PKG_VERSION"),
            cascade: self.cascade.name().to_owned(),
            runtime: Runtime {
                name: runtime.name(),
                version: runtime.version().to_owned(),
            },
            nodes: Node::all(&self.cascade),
            mode: deciding.mode(),
            deadline_ms: self.deadline.as_millis() as u64,
            policy: self
                .policy
                .as_ref()
                .and_then(|bundle| Policy::of(bundle, &deciding)),
            peers: vec![Peer {
                site: Site::Cloud,
                circuit: self.cloud.circuit(),
                link: self.cloud.link(self.host.now()).map(Into::into),
            }],
        }
    }

    /// Takes an image, encoded as its file is, through the cascade.
    ///
    /// # Errors
    /// [`ClassifyError`] for what is no image, and where no network here spoke and the cloud did not answer.
    pub async fn classify(
        self: Rc<Self>,
        name: String,
        encoded: Bytes,
    ) -> Result<Said, ClassifyError> {
        let taken = self.host.now();
        let since = |agent: &Self| agent.host.now().saturating_sub(taken);
        self.follow(taken);
        let image = decode(&encoded, &self.limits)?;
        let deciding = self.deciding();
        let cascade = deciding.cascade(image.as_raw());
        let entry = cascade.entry();
        let (mut walk, mut action) = Walk::start(cascade, entry, Site::Device, self.deadline);
        let mut said: HashMap<NodeId, Probabilities> = HashMap::new();
        let mut progress = Progress::default();
        let (mut offload, mut late) = (None, None);
        let mut local = Duration::ZERO;
        let mut failed = None;
        let answer = loop {
            action = match action {
                Action::Run(node) => {
                    let ran = self.local.run(self.places[&node], &image, &mut progress);
                    local = since(&self);
                    match ran {
                        Ok(output) => {
                            let evidence = evidence(&output.probabilities)
                                .with_features(output.features.as_deref());
                            let action = walk.said(node, &evidence, local);
                            said.insert(node, output.probabilities);
                            action
                        }
                        Err(error) => {
                            failed = Some(error);
                            walk.failed(node, local)
                        }
                    }
                }
                Action::Offload { node, .. } => {
                    let remote = &self.remote[&node];
                    let attempt = match remote.is_served {
                        false => Offload::none(FallbackCause::NoCloud),
                        true => {
                            let (attempt, call) =
                                self.offload(&remote.model, &encoded, taken).await;
                            late = call.map(|call| (node, call));
                            attempt
                        }
                    };
                    match &offload.insert(attempt).outcome {
                        Ok(reply) => {
                            said.insert(node, reply.probabilities.clone());
                            walk.said(node, &evidence(&reply.probabilities), since(&self))
                        }
                        Err(cause) => walk.offload_failed(*cause),
                    }
                }
                Action::Answer(answer) => break answer,
                Action::NoAnswer(NoAnswer::NetworkFailed) if failed.is_some() => {
                    return Err(failed.expect("it is there").into());
                }
                Action::NoAnswer(none) => return Err(none.into()),
            };
        };
        let outcome = Outcome {
            said: said
                .remove(&answer.node)
                .expect("a node that answers has spoken"),
            node: answer.node,
            reason: answer.reason,
            local,
            offload,
        };
        let correction = late.map(|(node, call)| {
            let (agent, deciding, name) = (self.clone(), deciding.clone(), name.clone());
            let correction: Correction = Box::pin(async move {
                let offload = call.await;
                let outcome = Outcome {
                    said: offload.outcome.as_ref().ok()?.probabilities.clone(),
                    node,
                    reason: Reason::Offloaded,
                    local,
                    offload: Some(offload),
                };
                let total = agent.host.now().saturating_sub(taken);
                Some(agent.told(name, outcome, total, &deciding))
            });
            correction
        });
        let total = since(&self);
        Ok(Said {
            answered: self.told(name, outcome, total, &deciding),
            correction,
        })
    }

    fn deciding(&self) -> Rc<Deciding> {
        self.deciding.borrow().clone()
    }

    /// Has the operating point follow what offloads cost at `now`.
    fn follow(&self, now: Duration) {
        let Some(policy) = &self.policy else {
            return;
        };
        let link = self.cloud.link(now);
        let mut follower = self.follower.borrow_mut();
        let look = (&mut *follower, now);
        let followed = self
            .deciding()
            .followed(&self.cascade, policy, link.as_ref(), look);
        if let Some(followed) = followed {
            self.deciding.replace(Rc::new(followed));
        }
    }

    fn told(
        &self,
        name: String,
        outcome: Outcome,
        total: Duration,
        deciding: &Deciding,
    ) -> Answered {
        let node = self.cascade.node(outcome.node);
        let offload = outcome.offload.as_ref();
        let named = match outcome.reason {
            Reason::Offloaded => offload.and_then(Offload::decided_by),
            _ => None,
        };
        let asked = DecidedBy {
            site: node.site(),
            node: node.name().to_owned(),
        };
        let temperature = deciding.temperature(outcome.node);
        let (decided_by, temperature) = DecidedBy::of_reply(named, asked, temperature);
        let labels = match self.places.get(&outcome.node) {
            Some(&place) => self.local.classifier(place).labels(),
            None => &self.remote[&outcome.node].labels,
        };
        let said = outcome.said.at_temperature(temperature);
        let sent = offload.filter(|offload| offload.bytes_sent > 0);
        Answered {
            device_ms: milliseconds(outcome.local),
            encode_ms: sent.map(|offload| milliseconds(offload.encoding)),
            link_ms: offload.map(|offload| milliseconds(offload.link())),
            cloud_ms: offload.and_then(Offload::at_peer).map(milliseconds),
            total_ms: milliseconds(total),
            bytes_sent: offload.map_or(0, |offload| offload.bytes_sent),
            encoding: sent.map(|_| "original".to_owned()),
            ..Answered::new(name, &said, labels, (&decided_by, outcome.reason))
        }
    }
}

/// Opens the networks on the device; where in them the nodes are.
fn open_local(
    cascade: &Cascade,
    folder: &ModelFolder,
    features: Features,
    threads: Threads,
) -> Result<(LocalNetworks, HashMap<NodeId, usize>), OpenError> {
    let here = || {
        cascade
            .nodes()
            .filter(|(_, node)| node.site() == Site::Device)
    };
    let places: Vec<Place<'_>> = here()
        .map(|(_, node)| Place {
            network: node.network(),
            exit: node.exit(),
        })
        .collect();
    let runtime = TractRuntime::with_threads(threads);
    let local = LocalNetworks::open(folder, &places, features, &runtime)?;
    let places = here().enumerate().map(|(place, (id, _))| (id, place));
    Ok((local, places.collect()))
}

/// What the cloud is asked for, by the node that an image goes on to.
fn open_remote(
    cascade: &Cascade,
    folder: &ModelFolder,
) -> Result<HashMap<NodeId, Remote>, OpenError> {
    let elsewhere = cascade
        .nodes()
        .filter(|(_, node)| node.site() != Site::Device);
    elsewhere
        .map(|(id, node)| {
            let manifest = folder.manifest(node.network())?;
            let labels = folder.labels(&manifest)?;
            let model = RemoteModel::of_node(cascade, node, manifest, false);
            let remote = Remote {
                model: Rc::new(model),
                labels,
                // Nobody in the fog is asked: the page's service is the cloud.
                is_served: node.site() == Site::Cloud,
            };
            Ok((id, remote))
        })
        .collect()
}

/// What a policy may see of an output that a runtime or a reply has checked.
fn evidence(probabilities: &Probabilities) -> Evidence<'_> {
    Evidence::new(probabilities.as_slice()).expect("manifests have two classes at least")
}

#[cfg(test)]
mod tests;
