//! What an engine asks others for: nodes elsewhere, and what an image is for them.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use outpost_cascade::{Cascade, CircuitState, Deciding, FallbackCause, NodeId, Reason, Site};
use outpost_offload::DecidedBy;
use outpost_runtime::DecodeError;
use tokio::{
    task::{JoinHandle, spawn_blocking},
    time::timeout_at,
};

use super::{Engine, Outcome, Turn};
use crate::{
    peer::{LateCall, Offload, Patience, RemoteNetwork, Upstream},
    picture::{Picture, Then},
};

/// A node elsewhere, and who is asked for it.
pub(super) struct Remote {
    pub(super) network: Arc<RemoteNetwork>,
    pub(super) peer: Option<Site>,
}

/// Who may come after a node.
pub(super) struct After {
    /// Whether a node here does.
    pub(super) is_here: bool,
    /// Those elsewhere that somebody is asked for.
    asked: Vec<Arc<RemoteNetwork>>,
}

/// A call that was too late for the answer, and goes on.
pub struct Late {
    pub(super) call: LateCall,
    pub(super) asked: AskedNode,
    pub(super) taken: Instant,
    /// Waiting, and the time here, as of the [`Outcome`].
    pub(super) here: (Duration, Duration),
}

/// A node elsewhere that is asked outside of a walk.
pub(super) struct AskedNode {
    id: NodeId,
    node: DecidedBy,
    temperature: f32,
}

impl Engine {
    /// The node that has the last word on what a node says, where it is elsewhere and somebody is asked for it.
    ///
    /// # Panics
    /// For a node of another cascade.
    pub fn last_word(&self, node: NodeId) -> Option<NodeId> {
        let mut last = node;
        while let Some(&next) = self.cascade.node(last).jumps().last() {
            last = next;
        }
        let is_asked = |remote: &Remote| remote.peer.is_some();
        self.remote.get(&last).is_some_and(is_asked).then_some(last)
    }

    /// Asks a node elsewhere about an image outside of a walk, for at most `patience`: one that could not be asked when
    /// it was to be. Where its pixels are to be encoded anew, it waits for its turn to be made ready first.
    ///
    /// # Errors
    /// Why there is no answer: [`FallbackCause::NoCloud`] where nobody takes images for that node.
    pub async fn ask(
        &self,
        node: NodeId,
        picture: Picture,
        patience: Duration,
    ) -> Result<Outcome, FallbackCause> {
        if !self.remote.contains_key(&node) {
            return Err(FallbackCause::NoCloud);
        }
        let taken = Instant::now();
        let turn = match self.seen_by(node) {
            Some(_) => Some(self.turn().await),
            None => None,
        };
        let waited = turn
            .as_ref()
            .map_or(Duration::ZERO, |turn| turn.waited_since(taken));
        let patience = Patience {
            deadline: Instant::now() + patience,
            late: Duration::ZERO,
            is_short: false,
        };
        let (offload, _) = self.offload(node, picture, turn, patience).await;
        let asked = self.asked(node, &self.deciding());
        asked.outcome(offload, taken, (waited, Duration::ZERO))
    }

    /// Asks a node elsewhere about an image, whose turn ends once it is ready to travel: the next one has its place then. What
    /// travels has no pixels with it that are not sent, as far as is known what is.
    pub(super) async fn offload(
        &self,
        node: NodeId,
        mut picture: Picture,
        turn: Option<Turn>,
        patience: Patience,
    ) -> (Offload, Option<LateCall>) {
        let Remote { network, peer } = &self.remote[&node];
        let Some(peer) = peer.and_then(|site| self.peers.get(&site)) else {
            return (Offload::without_peer(), None);
        };
        if network.sends_files() {
            picture.let_go();
        }
        let started = Instant::now();
        if let Some(seen_by) = self.seen_by(node).filter(|_| !picture.is_shrunk()).cloned() {
            let mut shrinking = spawn_blocking(move || {
                // The work holds the turn, also where nobody waits for it any more.
                let _turn = turn;
                if let Some(fit) = seen_by.sees() {
                    picture.shrink(fit)?;
                }
                Ok::<_, DecodeError>(picture)
            });
            let shrunk = timeout_at(patience.deadline.into(), &mut shrinking).await;
            let Ok(shrunk) = shrunk else {
                let late = (!patience.late.is_zero()).then(|| {
                    let (peer, network) = (peer.clone(), network.clone());
                    LateCall::of(offload_once_shrunk(shrinking, peer, network, patience))
                });
                return (Offload::not_ready(started.elapsed()), late);
            };
            match shrunk {
                Ok(Ok(shrunk)) => picture = shrunk,
                Ok(Err(_)) | Err(_) => {
                    return (Offload::without_call(FallbackCause::Unsendable), None);
                }
            }
        } else {
            drop(turn);
        }
        peer.classify(network, Arc::new(picture), patience).await
    }

    /// The network elsewhere that sees a part of an image's pixels, which alone are sent; none where nobody is called.
    fn seen_by(&self, node: NodeId) -> Option<&Arc<RemoteNetwork>> {
        let Remote { network, peer } = self.remote.get(&node)?;
        let peer = self.peers.get(&(*peer)?)?;
        let is_called = peer.circuit() != CircuitState::Open;
        (is_called && network.sees().is_some()).then_some(network)
    }

    /// The same, of the network that every image goes on to from a node here, and after which there is none here.
    pub(super) fn seen_next(&self, cascade: &Cascade, node: NodeId) -> Option<Arc<RemoteNetwork>> {
        let next = cascade.node(node).always_goes_to()?;
        let network = self.seen_by(next)?;
        (!self.after[&node].is_here).then(|| network.clone())
    }

    pub(super) fn asked(&self, id: NodeId, deciding: &Deciding) -> AskedNode {
        let node = self.cascade.node(id);
        AskedNode {
            id,
            node: DecidedBy {
                site: node.site(),
                node: node.name().to_owned(),
            },
            temperature: deciding.temperature(id),
        }
    }
}

impl After {
    pub(super) fn of(
        node: NodeId,
        cascade: &Cascade,
        here: &HashMap<NodeId, usize>,
        remote: &HashMap<NodeId, Remote>,
    ) -> Self {
        let reached = reached_from(cascade, node);
        let asked = reached.iter().filter_map(|next| remote.get(next));
        Self {
            is_here: reached.iter().any(|next| here.contains_key(next)),
            asked: asked
                .filter(|remote| remote.peer.is_some())
                .map(|remote| remote.network.clone())
                .collect(),
        }
    }

    /// What becomes of an image's pixels.
    pub(super) fn then(&self) -> Then {
        match self.is_here || !self.asked.iter().all(|network| network.sends_files()) {
            true => Then::Keep,
            false => Then::LetGo,
        }
    }
}

impl AskedNode {
    /// What came of it.
    fn outcome(
        self,
        offload: Offload,
        taken: Instant,
        (waited, local): (Duration, Duration),
    ) -> Result<Outcome, FallbackCause> {
        let said = match &offload.outcome {
            Ok(reply) => reply.said.probabilities.clone(),
            Err(cause) => return Err(*cause),
        };
        let (decided_by, temperature) =
            DecidedBy::of_reply(offload.decided_by(), self.node, self.temperature);
        Ok(Outcome {
            probabilities: said.at_temperature(temperature),
            node: self.id,
            decided_by,
            reason: Reason::Offloaded,
            waited,
            local,
            total: taken.elapsed(),
            offload: Some(offload),
            asked: Some(self.id),
            late: None,
            is_private: false,
        })
    }
}

impl Late {
    /// Waits for the reply; none where it does not come in time.
    pub async fn correction(self) -> Option<Outcome> {
        let offload = self.call.reply().await;
        self.asked.outcome(offload, self.taken, self.here).ok()
    }
}

/// Asks about an image that was not ready by the deadline, once it is, in the time in which a reply can correct the answer.
async fn offload_once_shrunk(
    shrinking: JoinHandle<Result<Picture, DecodeError>>,
    peer: Arc<Upstream>,
    network: Arc<RemoteNetwork>,
    patience: Patience,
) -> Offload {
    let patience = Patience {
        deadline: patience.deadline + patience.late,
        late: Duration::ZERO,
        // What is left of the time says nothing about the peer.
        is_short: true,
    };
    match timeout_at(patience.deadline.into(), shrinking).await {
        Ok(Ok(Ok(picture))) => {
            let asked = peer.classify(&network, Arc::new(picture), patience);
            asked.await.0
        }
        Ok(Ok(Err(_)) | Err(_)) => Offload::without_call(FallbackCause::Unsendable),
        Err(_) => Offload::without_call(FallbackCause::Deadline),
    }
}

/// The nodes that an image may reach from a node on.
pub(super) fn reached_from(cascade: &Cascade, from: NodeId) -> Vec<NodeId> {
    let mut reached: Vec<NodeId> = cascade.node(from).jumps().to_vec();
    let mut next = 0;
    while let Some(&node) = reached.get(next) {
        for &jump in cascade.node(node).jumps() {
            if !reached.contains(&jump) {
                reached.push(jump);
            }
        }
        next += 1;
    }
    reached
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, path::Path, sync::mpsc};

    use outpost_cascade::{CircuitConfig, Mode};
    use outpost_runtime::{ModelFolder, RgbImage, TractRuntime};
    use tokio::{runtime, time::timeout};

    use super::*;
    use crate::{PeerConfig, Plan, Privacy};

    /// One that sends images to nobody, encoded anew.
    fn engine() -> Engine {
        let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models");
        let config = PeerConfig {
            encoding: "jpeg@80".parse().unwrap(),
            ..PeerConfig::new("http://127.0.0.1:1")
        };
        let peer = Upstream::new(&config, CircuitConfig::default()).unwrap();
        Engine::start(Plan {
            cascade: Cascade::load(&models.join("cascades/cifar10-alexnet-resnet.toml")).unwrap(),
            policy: None,
            mode: Mode::CloudOnly,
            here: Site::Device,
            folder: &ModelFolder::new(models),
            runtime: &TractRuntime::default(),
            turns: 1,
            privacy: &Privacy::default(),
            peers: BTreeMap::from([(Site::Cloud, Arc::new(peer))]),
            connects: false,
        })
        .unwrap()
    }

    #[test]
    fn an_answer_does_not_wait_for_an_image_that_is_not_ready_by_the_deadline() {
        let mut runtime = runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().max_blocking_threads(1).build();
        runtime.unwrap().block_on(async {
            let engine = engine();
            let remote = engine.remote.iter().find(|(_, one)| one.peer.is_some());
            let node = *remote.unwrap().0;
            // The one thread for such work is taken.
            let (release, taken) = mpsc::channel::<()>();
            let _taken = spawn_blocking(move || taken.recv());
            let until_the_deadline = Duration::from_millis(50);
            let patience = Patience {
                deadline: Instant::now() + until_the_deadline,
                late: Duration::from_secs(60),
                is_short: false,
            };
            let picture = Picture::new(None, RgbImage::new(64, 64));
            let turn = Some(engine.turn().await);
            let asked = engine.offload(node, picture, turn, patience);
            let asked = timeout(Duration::from_secs(20), asked).await;
            let (offload, late) = asked.expect("by the deadline");
            assert_eq!(offload.outcome.err(), Some(FallbackCause::Deadline));
            assert!(offload.encoding >= until_the_deadline / 2);
            assert!(engine.oldest_turn().is_some(), "the work holds it");
            // It is asked about later, in vain here.
            drop(release);
            let offload = late.expect("it goes on").reply().await;
            assert_eq!(offload.outcome.err(), Some(FallbackCause::Unreachable));
            assert!(engine.oldest_turn().is_none());
        });
    }
}
