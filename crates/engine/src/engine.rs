//! An engine: a cascade, what runs the networks of it that are here, who is asked for the others, and by what it decides.
//! [`classify`] takes an image through it.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

use outpost_cascade::{
    Cascade, DecideBy, DecideByError, Deciding, Follower, Mode, NodeId, Site, needs_features,
};
use outpost_exit_policy::{Bundle, Goal};
use outpost_offload::RemoteModel;
use outpost_runtime::{Features, Labels, LocalNetworks, Manifest, ModelFolder, Place, Runtime};
use outpost_supervision::{Piece, Underway};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::spawn_blocking,
};

use crate::{
    learned,
    peer::{Packing, RemoteNetwork, Upstream},
    privacy::{Privacy, PrivacyError, PrivateClasses},
};
use elsewhere::{After, Remote, reached_from};

mod classify;
mod elsewhere;
mod error;

pub use classify::{Outcome, Route};
pub use elsewhere::Late;
pub use error::{ImageError, StartError};

/// What an engine is made of.
pub struct Plan<'a> {
    /// The cascade, as its file has it.
    pub cascade: Cascade,
    /// A policy bundle of `lab learn`, in place of the cascade's policies.
    pub policy: Option<PolicyFile<'a>>,
    /// Whose decisions count.
    pub mode: Mode,
    /// The site that the engine is at.
    pub here: Site,
    /// The model folder.
    pub folder: &'a ModelFolder,
    /// What runs the networks that are here.
    pub runtime: &'a dyn Runtime,
    /// Images whose networks run here at a time.
    pub turns: usize,
    /// Of what classes no image leaves this site.
    pub privacy: &'a Privacy,
    /// Who is asked for what is elsewhere. Where a site has nobody, the nearest site before it that has
    /// somebody passes images on.
    pub peers: BTreeMap<Site, Arc<Upstream>>,
    /// Whether they are connected to at once, where the mode asks them, or only once this engine takes over.
    pub connects: bool,
}

/// What runs the networks that are here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunsHere {
    /// Name of the runtime.
    pub name: &'static str,
    /// Its version.
    pub version: String,
}

/// A policy bundle, and which of its operating points.
#[derive(Debug, Clone, Copy)]
pub struct PolicyFile<'a> {
    /// The file.
    pub path: &'a Path,
    /// Which operating point.
    pub goal: &'a Goal,
}

/// One cascade, the networks of it that are here, and the peers for the others.
pub struct Engine {
    /// As its file has it.
    cascade: Cascade,
    policy: Option<Bundle>,
    /// An image is decided about by what is here when it is taken up.
    deciding: RwLock<Arc<Deciding>>,
    /// What keeps an image here; none where nothing does.
    private: Option<PrivateClasses>,
    here: Site,
    local: Arc<LocalNetworks>,
    /// Where in `local` the nodes that are here are.
    places: HashMap<NodeId, usize>,
    /// Who may want an image's pixels once such a node has seen them.
    after: HashMap<NodeId, After>,
    remote: HashMap<NodeId, Remote>,
    peers: BTreeMap<Site, Arc<Upstream>>,
    /// One permit an image whose networks may run here at a time.
    turns: Arc<Semaphore>,
    /// The turns that were given.
    underway: Underway,
    runtime: RunsHere,
}

/// The right to run networks here. It ends when the image travels or is answered.
#[derive(Debug)]
pub struct Turn {
    given: Instant,
    _permit: OwnedSemaphorePermit,
    _piece: Piece,
}

impl Turn {
    /// How long an image waited for it that was taken up then; nothing where it was taken up afterwards.
    pub(crate) fn waited_since(&self, taken: Instant) -> Duration {
        self.given.saturating_duration_since(taken)
    }
}

/// What a peer is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked<'a> {
    /// The site of the peer.
    pub peer: Site,
    /// Name of the model there.
    pub model: &'a str,
    /// SHA-256 of its weights by the manifest here; `None` for the rest of a cascade.
    pub sha256: Option<&'a str>,
}

/// Reads and checks the cascade file of a [`Plan`].
///
/// # Errors
/// [`StartError::Cascade`], which names the file.
pub fn load_cascade(path: &Path) -> Result<Cascade, StartError> {
    Cascade::load(path).map_err(|source| StartError::Cascade {
        path: path.to_owned(),
        source,
    })
}

impl Engine {
    /// Loads the cascade and the networks of it that are here, and starts to connect to the peers.
    ///
    /// Must be called in a tokio runtime; loading blocks for some 100 ms.
    ///
    /// # Errors
    /// A [`StartError`] that names the file at fault.
    pub fn start(plan: Plan<'_>) -> Result<Self, StartError> {
        let folder = plan.folder;
        let cascade = plan.cascade;
        let mut policy = None;
        let mut features = Features::Omit;
        let deciding = match plan.policy {
            None => Deciding::new(&cascade, None, plan.mode),
            Some(PolicyFile { path, goal }) => {
                let failed = |source| StartError::Policy {
                    path: path.to_owned(),
                    source,
                };
                let bundle = learned::load(path, &cascade, folder).map_err(failed)?;
                let choice = bundle.choose(goal).map_err(|e| failed(e.into()))?;
                tracing::info!(operating_point = %choice, "learned policy");
                if needs_features(&bundle) {
                    features = Features::Give;
                }
                let deciding = Deciding::new(&cascade, Some((&bundle, goal, choice)), plan.mode);
                policy = Some(bundle);
                deciding
            }
        };
        if let Some(node) = deciding.undecided(plan.here) {
            return Err(StartError::Undecided {
                node: node.name().to_owned(),
            });
        }
        if !plan.mode.offloads() {
            check_device_only(&cascade)?;
        }
        let remote: HashMap<NodeId, Remote> = cascade
            .nodes()
            .filter(|(_, node)| node.site() > plan.here)
            .map(|(id, node)| {
                let peer = plan.peers.range(plan.here..=node.site()).next_back();
                let peer = peer.map(|(&site, _)| site);
                let manifest = folder.manifest(node.network())?;
                let labels = folder.labels(&manifest)?;
                let is_passed_on = peer.is_some_and(|site| site != node.site());
                let model = RemoteModel::of_node(&cascade, node, manifest, is_passed_on);
                let packing = match peer {
                    None => Packing::original(),
                    Some(site) => {
                        let further = match model.is_cascade() {
                            true => reached_from(&cascade, id)
                                .into_iter()
                                .map(|node| folder.manifest(cascade.node(node).network()))
                                .collect::<Result<_, _>>()?,
                            false => Vec::new(),
                        };
                        let seen_by: Vec<&Manifest> =
                            further.iter().chain([model.manifest()]).collect();
                        let packing = plan.peers[&site].packing(&seen_by);
                        packing.map_err(|source| StartError::Encoders { site, source })?
                    }
                };
                let endpoints = peer.map_or(0, |site| plan.peers[&site].count());
                let network = Arc::new(RemoteNetwork::new(model, labels, packing, endpoints));
                Ok((id, Remote { network, peer }))
            })
            .collect::<Result<_, StartError>>()?;
        for Remote { network, peer } in remote.values() {
            if let Some(site) = peer {
                plan.peers[site].serves(network);
            }
        }
        // Connecting takes as long as loading; they go side by side.
        for peer in plan.peers.values() {
            peer.set_asked(plan.connects && plan.mode.offloads());
        }
        let here = || cascade.nodes().filter(|(_, node)| node.site() == plan.here);
        let places: Vec<Place<'_>> = here()
            .map(|(_, node)| Place {
                network: node.network(),
                exit: node.exit(),
            })
            .collect();
        let local = LocalNetworks::open(folder, &places, features, plan.runtime)?;
        let places: HashMap<NodeId, usize> = here()
            .enumerate()
            .map(|(place, (id, _))| (id, place))
            .collect();
        let after = places
            .keys()
            .map(|&node| (node, After::of(node, &cascade, &places, &remote)))
            .collect();
        let private = match places.get(&cascade.entry()) {
            _ if plan.privacy.never_offload.is_empty() => None,
            None => return Err(PrivacyError::Blind.into()),
            Some(&entry) => {
                let labels = local.classifier(entry).labels();
                Some(PrivateClasses::resolve(plan.privacy, labels)?)
            }
        };
        Ok(Self {
            places,
            after,
            cascade,
            policy,
            private,
            deciding: RwLock::new(Arc::new(deciding)),
            here: plan.here,
            local: Arc::new(local),
            remote,
            peers: plan.peers,
            turns: Arc::new(Semaphore::new(plan.turns)),
            underway: Underway::default(),
            runtime: RunsHere {
                name: plan.runtime.name(),
                version: plan.runtime.version().to_owned(),
            },
        })
    }

    /// The cascade, as its file has it.
    pub fn cascade(&self) -> &Cascade {
        &self.cascade
    }

    /// The learned policy, where there is one.
    pub fn policy(&self) -> Option<&Bundle> {
        self.policy.as_ref()
    }

    /// Whose decisions count for images that are taken up now.
    pub fn deciding(&self) -> Arc<Deciding> {
        let deciding = self.deciding.read();
        deciding.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Decides about the images to come by another operating point of the learned policy, or in another mode; gives
    /// what holds then. All of the change is made or none. Images that have been taken up are decided as they were begun.
    ///
    /// # Errors
    /// [`DecideByError`], where there is no such operating point, or the mode is not for this cascade.
    pub fn decide_by(&self, change: &DecideBy) -> Result<Arc<Deciding>, DecideByError> {
        let mut deciding = self
            .deciding
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let changed = deciding.changed(&self.cascade, self.policy.as_ref(), change)?;
        for peer in self.peers.values() {
            peer.set_asked(changed.mode().offloads());
        }
        *deciding = Arc::new(changed);
        Ok(deciding.clone())
    }

    /// Looks at what offloads cost now, and decides about the images to come by the operating point that meets the
    /// goal best at that price, once it has been better by enough for long. Gives what holds then, where it changed.
    ///
    /// A goal that is a name is kept to. While no link is known, it is taken for the one that the policy was learned for.
    pub fn follow(&self, follower: &mut Follower, now: Duration) -> Option<Arc<Deciding>> {
        let deciding = self.deciding();
        // The nearest is who is asked first.
        let link = self.peers.values().next()?.link();
        let (file, policy) = (&self.cascade, self.policy.as_ref()?);
        let followed = deciding.followed(file, policy, link.as_ref(), (follower, now))?;
        let mut holds = self
            .deciding
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        // Somebody may have moved it meanwhile.
        if !Arc::ptr_eq(&holds, &deciding) {
            return None;
        }
        *holds = Arc::new(followed);
        Some(holds.clone())
    }

    /// What runs the networks that are here.
    pub fn runtime(&self) -> &RunsHere {
        &self.runtime
    }

    /// The site that the engine is at.
    pub fn here(&self) -> Site {
        self.here
    }

    /// Those who are asked for what is elsewhere, the nearest first.
    pub fn peers(&self) -> impl Iterator<Item = (Site, &Upstream)> {
        self.peers.iter().map(|(&site, peer)| (site, &**peer))
    }

    /// What the peers are asked for, each model once.
    pub fn asked_of_peers(&self) -> Vec<Asked<'_>> {
        let mut asked: Vec<Asked<'_>> = Vec::new();
        for (id, _) in self.cascade.nodes() {
            let Some(Remote { network, peer }) = self.remote.get(&id) else {
                continue;
            };
            let Some(peer) = *peer else { continue };
            let sha256 = (!network.is_cascade()).then(|| network.manifest().sha256.as_str());
            let one = Asked {
                peer,
                model: network.model(),
                sha256,
            };
            if !asked.contains(&one) {
                asked.push(one);
            }
        }
        asked
    }

    /// The labels of what a node says.
    ///
    /// # Panics
    /// For a node of another cascade.
    pub fn labels(&self, node: NodeId) -> &Labels {
        match self.places.get(&node) {
            Some(&place) => self.local.classifier(place).labels(),
            None => self.remote[&node].network.labels(),
        }
    }

    /// The manifest of a node's network.
    ///
    /// # Panics
    /// For a node of another cascade.
    pub fn manifest(&self, node: NodeId) -> &Manifest {
        match self.places.get(&node) {
            Some(&place) => self.local.classifier(place).manifest(),
            None => self.remote[&node].network.manifest(),
        }
    }

    /// Waits for the right to run networks here.
    pub async fn turn(&self) -> Turn {
        let permit = self.turns.clone().acquire_owned().await;
        Turn {
            given: Instant::now(),
            _permit: permit.expect("never closed"),
            _piece: self.underway.begin(),
        }
    }

    /// How long the oldest turn has lasted; none where no image is worked on here.
    pub fn oldest_turn(&self) -> Option<Duration> {
        self.underway.oldest()
    }

    /// Takes the place of an engine whose peers the own ones came after: see [`Peer::after`].
    pub fn take_over(&self) {
        let is_asked = self.deciding().mode().offloads();
        for peer in self.peers.values() {
            peer.take_over();
            peer.set_asked(is_asked);
        }
    }
}

fn check_device_only(cascade: &Cascade) -> Result<(), StartError> {
    let entry = cascade.node(cascade.entry());
    if entry.site() == Site::Device {
        return Ok(());
    }
    Err(StartError::NoDeviceNetwork {
        network: entry.network().to_owned(),
    })
}

/// Runs `work` off the async threads; a panic in it costs this image, not the program.
///
/// # Errors
/// [`ImageError::Crashed`] where it panicked.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ImageError> {
    spawn_blocking(work).await.map_err(|_| ImageError::Crashed)
}
