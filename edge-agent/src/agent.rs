//! Takes images through the cascade: the driver of [`outpost_cascade::Walk`].

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use outpost_cascade::{Action, Answer, Cascade, CascadeError, Mode, NoAnswer, NodeId, Site, Walk};
use outpost_exit_policy::{DecisionFunction, Evidence};
use outpost_runtime::{
    ClassifyError, Features, ImageLimits, Labels, LocalNetworks, ModelFolder, OpenError, Place,
    Probabilities, Progress, TractRuntime,
};
use tokio::{sync::Semaphore, task::spawn_blocking};

use crate::{
    cloud::{Cloud, CloudError, Offload, RemoteNetwork, error_chain},
    config::{Config, ConfigError},
    learned::{LearnedPolicy, PolicyError},
    picture::{Picture, PictureError},
    record::{Answered, Candidate, Record, milliseconds},
};

/// The device program's engine: one cascade, its device networks, its cloud.
pub struct Agent {
    cascade: Cascade,
    local: Arc<LocalNetworks>,
    /// By node; 1 where no learned policy says otherwise.
    temperatures: Vec<f32>,
    /// Where in `local` the nodes on the device are.
    places: HashMap<NodeId, usize>,
    remote: HashMap<NodeId, Arc<RemoteNetwork>>,
    cloud: Option<Cloud>,
    deadline: Duration,
    limits: ImageLimits,
    /// One permit a network that may run on the device at a time.
    device: Semaphore,
}

/// Why the agent did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The configuration does not hold together.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The cascade file is at fault.
    #[error("cannot use the cascade {}", path.display())]
    Cascade {
        /// The file.
        path: PathBuf,
        /// Why.
        source: CascadeError,
    },
    /// The cascade places a network where nothing is configured.
    #[error(
        "the network {network:?} is placed in the {site}, for which no address can be configured yet"
    )]
    Site {
        /// The network.
        network: String,
        /// Its site.
        site: Site,
    },
    /// A network elsewhere has jumps, on which nobody here decides.
    #[error(
        "the network {network:?} is not on the device and has jumps: the site that runs it decides on them, not this cascade"
    )]
    RemoteJumps {
        /// The network.
        network: String,
    },
    /// A network elsewhere is to stop at an exit, which a request cannot ask for.
    #[error(
        "the node {node:?} is not on the device: only whole networks can be asked for elsewhere"
    )]
    RemoteExit {
        /// The node.
        node: String,
    },
    /// A node's policy is to be learned, and none has been given.
    #[error(
        "the policy of the node {node:?} is to be learned: learn one with `lab learn` and give it with --policy"
    )]
    Undecided {
        /// The node.
        node: String,
    },
    /// The learned policy is at fault.
    #[error("cannot use the policy {}", path.display())]
    Policy {
        /// The file.
        path: PathBuf,
        /// Why.
        source: PolicyError,
    },
    /// The device alone was asked for, and the cascade begins elsewhere.
    #[error(
        "device-only needs a cascade that begins on the device; this one begins with {network:?}"
    )]
    NoDeviceNetwork {
        /// The entry.
        network: String,
    },
    /// A network of the cascade could not be opened.
    #[error(transparent)]
    Network(#[from] OpenError),
    /// The cloud's configuration is at fault.
    #[error(transparent)]
    Cloud(#[from] CloudError),
}

/// Why an image has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImageError {
    /// The file cannot be read, is no image or breaks a limit.
    #[error(transparent)]
    Picture(#[from] PictureError),
    /// No network answered.
    #[error(transparent)]
    NoAnswer(#[from] NoAnswer),
    /// A network on the device failed.
    #[error(transparent)]
    Network(#[from] ClassifyError),
    /// A library panicked over the image.
    #[error("the image made a decoder or a network crash; please report it with the image")]
    Crashed,
}

impl Agent {
    /// Loads the cascade and its device networks, and starts to connect to the cloud.
    ///
    /// Must be called in a tokio runtime; loading blocks for some 100 ms.
    ///
    /// # Errors
    /// A [`StartError`] that names the file or field at fault.
    pub fn start(config: &Config) -> Result<Self, StartError> {
        config.check()?;
        let mut cascade = Cascade::load(&config.cascade).map_err(|source| StartError::Cascade {
            path: config.cascade.clone(),
            source,
        })?;
        let folder = ModelFolder::new(&config.models);
        let mut features = Features::Omit;
        let mut temperatures = vec![1.0; cascade.nodes().count()];
        if let Some(path) = &config.policy {
            let learned = LearnedPolicy::load(path, &cascade, &folder, &config.operating_point)
                .map_err(|source| StartError::Policy {
                    path: path.clone(),
                    source,
                })?;
            tracing::info!(operating_point = learned.operating_point, "learned policy");
            if learned.needs_features() {
                features = Features::Give;
            }
            temperatures = learned.temperatures;
            let functions = learned.functions.into_iter();
            cascade =
                cascade.with_policies(functions.map(|f| Box::new(f) as Box<dyn DecisionFunction>));
        }
        let cascade = cascade.with_mode(config.mode);
        if let Some(node) = cascade.undecided() {
            return Err(StartError::Undecided {
                node: node.name().to_owned(),
            });
        }
        let entry = cascade.node(cascade.entry());
        if config.mode == Mode::DeviceOnly && entry.site() != Site::Device {
            return Err(StartError::NoDeviceNetwork {
                network: entry.network().to_owned(),
            });
        }
        let mut remote = HashMap::new();
        for (id, node) in cascade.nodes() {
            match node.site() {
                Site::Device => {}
                Site::Cloud => {
                    if !node.jumps().is_empty() {
                        return Err(StartError::RemoteJumps {
                            network: node.name().to_owned(),
                        });
                    }
                    if node.exit().is_some() {
                        return Err(StartError::RemoteExit {
                            node: node.name().to_owned(),
                        });
                    }
                    let manifest = folder.manifest(node.network())?;
                    let labels = folder.labels(&manifest)?;
                    remote.insert(id, Arc::new(RemoteNetwork::new(manifest, labels)));
                }
                site @ Site::Fog => {
                    return Err(StartError::Site {
                        network: node.network().to_owned(),
                        site,
                    });
                }
            }
        }
        // Connecting takes as long as loading; they go side by side.
        let cloud = config
            .cloud
            .as_ref()
            .map(|cloud| Cloud::new(cloud, config.circuit.into()))
            .transpose()?;
        if let Some(cloud) = &cloud {
            cloud.connect_in_background();
        }
        let here = || cascade.nodes().filter(|(_, n)| n.site() == Site::Device);
        let places: Vec<Place<'_>> = here()
            .map(|(_, node)| Place {
                network: node.network(),
                exit: node.exit(),
            })
            .collect();
        let local = LocalNetworks::open(&folder, &places, features, &TractRuntime)?;
        let places = here().enumerate().map(|(place, (id, _))| (id, place));
        Ok(Self {
            places: places.collect(),
            cascade,
            temperatures,
            local: Arc::new(local),
            remote,
            cloud,
            deadline: Duration::from_millis(config.deadline_ms),
            limits: config.images.into(),
            device: Semaphore::new(config.device_threads),
        })
    }

    /// Answers one image, and never fails: an image without an answer gets its reason.
    pub async fn classify(&self, path: &Path) -> Record {
        let image = path.display().to_string();
        match self.answer(path, &image).await {
            Ok(answered) => Record::Answered(Box::new(answered)),
            Err(error) => Record::Failed {
                image,
                error: error_chain(&error),
            },
        }
    }

    async fn answer(&self, path: &Path, image: &str) -> Result<Answered, ImageError> {
        let mut turn = Some(self.device.acquire().await.expect("never closed"));
        let taken = Instant::now();
        let (owned, limits) = (path.to_owned(), self.limits);
        let picture = blocking(move || Picture::read(&owned, &limits)).await??;
        let mut picture = Some(Arc::new(picture));
        let mut said: HashMap<NodeId, Probabilities> = HashMap::new();
        let mut progress = Progress::default();
        let mut offload: Option<Offload> = None;
        let mut device = Duration::ZERO;
        let (mut walk, mut action) = Walk::start(&self.cascade, Site::Device, self.deadline);
        let answer: Answer = loop {
            action = match action {
                Action::Run(node) => {
                    let (networks, place) = (self.local.clone(), self.places[&node]);
                    let picture = picture.clone().expect("an offload ends the walk");
                    let mut run = std::mem::take(&mut progress);
                    let outcome = blocking(move || {
                        let outcome = networks.run(place, &picture.pixels, &mut run);
                        (outcome, run)
                    })
                    .await;
                    device = taken.elapsed();
                    let outcome = outcome.and_then(|(outcome, run)| {
                        progress = run;
                        Ok(outcome?)
                    });
                    match outcome {
                        Ok(output) => {
                            let evidence = evidence(&output.probabilities)
                                .with_features(output.features.as_deref());
                            let action = walk.said(node, &evidence, device);
                            said.insert(node, output.probabilities);
                            action
                        }
                        Err(error) => {
                            tracing::warn!(image, %error, "device network");
                            walk.failed(node, device)
                        }
                    }
                }
                Action::Offload { node, deadline } => {
                    // The device is free for the next image while this one travels.
                    drop(turn.take());
                    let attempt = match &self.cloud {
                        None => Offload::without_cloud(),
                        Some(cloud) => {
                            let picture = picture.take().expect("an offload ends the walk");
                            let network = &self.remote[&node];
                            cloud.classify(network, picture, taken + deadline).await
                        }
                    };
                    let outcome = offload.insert(attempt).outcome.as_ref();
                    match outcome {
                        Ok(reply) => {
                            let now = taken.elapsed();
                            said.insert(node, reply.probabilities.clone());
                            walk.said(node, &evidence(&reply.probabilities), now)
                        }
                        Err(cause) => walk.offload_failed(*cause),
                    }
                }
                Action::Answer(answer) => break answer,
                Action::NoAnswer(none) => return Err(none.into()),
            };
        };
        let total = taken.elapsed();
        let probabilities = said
            .remove(&answer.node)
            .expect("a node that answers has spoken");
        let probabilities = probabilities.at_temperature(self.temperatures[answer.node.index()]);
        let node = self.cascade.node(answer.node);
        let top5 = Candidate::top5(&probabilities, self.labels(answer.node));
        Ok(Answered {
            image: image.to_owned(),
            class_id: top5[0].class_id,
            label: top5[0].label.clone(),
            confidence: top5[0].confidence,
            top5,
            site: node.site(),
            network: node.network().to_owned(),
            exit: node.exit().map(str::to_owned),
            reason: answer.reason.to_string(),
            device_ms: milliseconds(device),
            link_ms: offload.as_ref().map(|offload| milliseconds(offload.link())),
            cloud_ms: offload
                .as_ref()
                .and_then(|offload| offload.cloud())
                .map(milliseconds),
            total_ms: milliseconds(total),
            bytes_sent: offload.as_ref().map_or(0, |offload| offload.bytes_sent),
            transport: offload.as_ref().and_then(Offload::protocol),
        })
    }

    fn labels(&self, node: NodeId) -> &Labels {
        match self.places.get(&node) {
            Some(&place) => self.local.classifier(place).labels(),
            None => self.remote[&node].labels(),
        }
    }
}

/// What a policy may see of an output that a runtime or a reply has checked.
fn evidence(probabilities: &Probabilities) -> Evidence<'_> {
    Evidence::new(probabilities.as_slice()).expect("manifests have two classes at least")
}

/// Runs `work` off the async threads; a panic in it costs this image, not the program.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ImageError> {
    spawn_blocking(work).await.map_err(|_| ImageError::Crashed)
}
