//! The way of one image through the cascade: the driver of [`outpost_cascade::Walk`].

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use outpost_cascade::{Action, FallbackCause, NodeId, Reason, Walk};
use outpost_exit_policy::Evidence;
use outpost_offload::DecidedBy;
use outpost_runtime::{ClassifyError, Probabilities, Progress};
use tracing::Instrument;

use super::{Engine, ImageError, Late, Turn, blocking};
use crate::{
    peer::{Offload, Patience},
    picture::{Picture, PictureError, Seen, Then},
    privacy::PrivateClasses,
};

/// Where an image begins, and until when it must have its answer.
#[derive(Debug, Clone, Copy)]
pub struct Route {
    /// The node to begin with.
    pub entry: NodeId,
    /// When the image was taken up, before it waited for its turn or once it had it.
    pub taken: Instant,
    /// Time from then to its answer.
    pub deadline: Duration,
    /// Time after the deadline in which who was asked in vain may still correct the answer; none if zero.
    pub late: Duration,
    /// Whether the deadline is a caller's own and shorter than usual: who misses it is not taken for slow or away.
    pub is_short: bool,
}

/// What came of an image.
pub struct Outcome {
    /// What the network said that answers, at its temperature.
    pub probabilities: Probabilities,
    /// The node that answers, or that stands for the part of the cascade that did.
    pub node: NodeId,
    /// Who answers, by site and node's name: beyond a peer that passed the image on, whom that one named.
    pub decided_by: DecidedBy,
    /// Why it is this one.
    pub reason: Reason,
    /// Waiting for the turn.
    pub waited: Duration,
    /// From then until the last network here had spoken, without shrinking the image for another.
    pub local: Duration,
    /// The offload, where there was one.
    pub offload: Option<Offload>,
    /// The node that the offload was for, or was to be for where the time was over before.
    pub asked: Option<NodeId>,
    /// From taking up the image to the answer.
    pub total: Duration,
    /// What may still correct the answer.
    pub late: Option<Late>,
    /// Whether what was said keeps the image here.
    pub is_private: bool,
}

impl Engine {
    /// Whether what networks here have said keeps the image here; so does it where none has spoken.
    fn is_private(&self, said: &HashMap<NodeId, Probabilities>) -> bool {
        let keeps = |private: &PrivateClasses| said.values().any(|said| private.keep(said));
        let private = self.private.as_ref();
        private.is_some_and(|private| said.is_empty() || keeps(private))
    }

    /// Whether an image stays here by what the networks here say, which are all asked where anything must not leave.
    /// Gives the image back.
    ///
    /// # Errors
    /// [`ImageError`] where it cannot be decoded, or one of them failed.
    pub async fn keeps(&self, mut picture: Picture) -> Result<(bool, Picture), ImageError> {
        if self.private.is_none() {
            return Ok((false, picture));
        }
        let turn = self.turn().await;
        let here = self.cascade.nodes().map(|(id, _)| id);
        let places: Vec<(NodeId, usize)> = here
            .filter_map(|id| Some((id, *self.places.get(&id)?)))
            .collect();
        let networks = self.local.clone();
        let asked = blocking(move || {
            let pixels = picture.lend(Then::Keep).map_err(PictureError::from)?;
            let mut progress = Progress::default();
            let said = places.into_iter().map(|(node, place)| {
                let output = networks.run(place, pixels.clone(), &mut progress)?;
                Ok((node, output.probabilities))
            });
            let said = said.collect::<Result<HashMap<_, _>, ClassifyError>>()?;
            drop(turn);
            Ok::<_, ImageError>((said, picture))
        });
        let (said, picture) = asked.await??;
        Ok((self.is_private(&said), picture))
    }

    /// Takes one image through the cascade.
    ///
    /// # Errors
    /// [`ImageError`] where no network here spoke and none elsewhere answered.
    ///
    /// # Panics
    /// For an entry of another cascade.
    #[tracing::instrument(
        name = "cascade",
        level = "debug",
        skip_all,
        fields(cascade = self.cascade.name(), answered_by, reason)
    )]
    pub async fn classify(
        &self,
        turn: Turn,
        picture: Picture,
        route: Route,
    ) -> Result<Outcome, ImageError> {
        let (taken, waited) = (route.taken, turn.waited_since(route.taken));
        let mut turn = Some(turn);
        let mut said: HashMap<NodeId, Probabilities> = HashMap::new();
        let mut progress = Progress::default();
        let mut offload: Option<Offload> = None;
        let (mut asked, mut late) = (None, None);
        let mut local = Duration::ZERO;
        let deciding = self.deciding();
        let cascade = deciding.cascade(picture.pixels().map_err(PictureError::from)?.as_raw());
        let mut picture = Some(picture);
        let (mut walk, mut action) = Walk::start(cascade, route.entry, self.here, route.deadline);
        let answer = loop {
            action = match action {
                Action::Run(node) => {
                    let (networks, place) = (self.local.clone(), self.places[&node]);
                    let picture = picture.as_mut().expect("an offload ends the walk");
                    let seen_by = self.seen_next(cascade, node);
                    let then = match seen_by {
                        Some(_) => Then::LetGo,
                        None => self.after[&node].then(),
                    };
                    let pixels = picture.lend(then).map_err(PictureError::from)?;
                    let mut run = std::mem::take(&mut progress);
                    // The work holds the turn, not its caller, who may go away while it runs.
                    let held = turn.take();
                    let name = self.cascade.node(node).name();
                    let outcome = blocking(move || {
                        // Before the network: it lets the pixels go once it has its input.
                        let fit = seen_by.as_ref().and_then(|network| network.sees());
                        let seen = fit.map(|fit| Seen::of(&pixels, fit));
                        let outcome = networks.run(place, pixels, &mut run);
                        (outcome, seen, run, held)
                    })
                    .instrument(tracing::debug_span!("network", node = name))
                    .await;
                    let now = taken.elapsed();
                    let outcome = outcome.and_then(|(outcome, seen, run, held)| {
                        progress = run;
                        turn = held;
                        let output = outcome?;
                        // Where the network failed, the image may go elsewhere than it always does.
                        if let Some(seen) = seen {
                            picture.keep(seen);
                        }
                        Ok(output)
                    });
                    local = now.saturating_sub(waited + picture.shrinking());
                    match outcome {
                        Ok(output) => {
                            let evidence = evidence(&output.probabilities)
                                .with_features(output.features.as_deref());
                            let action = walk.said(node, &evidence, now);
                            said.insert(node, output.probabilities);
                            action
                        }
                        Err(error) => {
                            tracing::warn!(node = name, %error, "a network here failed");
                            walk.failed(node, now)
                        }
                    }
                }
                Action::Offload { .. } if self.is_private(&said) => {
                    walk.offload_failed(FallbackCause::Private)
                }
                Action::Offload { node, deadline } => {
                    asked = Some(node);
                    // Nothing here goes on while the image travels.
                    progress = Progress::default();
                    let picture = picture.take().expect("an offload ends the walk");
                    let patience = Patience {
                        deadline: taken + deadline,
                        late: route.late,
                        // Who had to wait here leaves too little to tell how long it takes there.
                        is_short: route.is_short || waited > route.deadline / 2,
                    };
                    let turn = turn.take();
                    let (attempt, call) = self.offload(node, picture, turn, patience).await;
                    late = call.map(|call| Late {
                        call,
                        asked: self.asked(node, &deciding),
                        taken,
                        here: (waited, local),
                    });
                    match offload.insert(attempt).outcome.as_ref() {
                        Ok(reply) => {
                            let now = taken.elapsed();
                            said.insert(node, reply.said.probabilities.clone());
                            walk.said(node, &evidence(&reply.said.probabilities), now)
                        }
                        Err(cause) => walk.offload_failed(*cause),
                    }
                }
                Action::Answer(answer) => break answer,
                Action::NoAnswer(none) => return Err(none.into()),
            };
        };
        let total = taken.elapsed();
        let is_private = self.is_private(&said);
        let is_asked = |node: &NodeId| self.remote[node].peer.is_some();
        let unasked = answer.unasked.filter(is_asked).filter(|_| !is_private);
        let probabilities = said
            .remove(&answer.node)
            .expect("a node that answers has spoken");
        let node = self.cascade.node(answer.node);
        let named = match &offload {
            Some(offload) if answer.reason == Reason::Offloaded => offload.decided_by(),
            _ => None,
        };
        let node = DecidedBy {
            site: node.site(),
            node: node.name().to_owned(),
        };
        let temperature = deciding.temperature(answer.node);
        let (decided_by, temperature) = DecidedBy::of_reply(named, node, temperature);
        tracing::Span::current()
            .record("answered_by", tracing::field::display(&decided_by))
            .record("reason", tracing::field::display(answer.reason));
        Ok(Outcome {
            probabilities: probabilities.at_temperature(temperature),
            node: answer.node,
            decided_by,
            reason: answer.reason,
            waited,
            local,
            offload,
            asked: asked.or(unasked),
            total,
            late,
            is_private,
        })
    }
}

/// What a policy may see of an output that a runtime or a reply has checked.
fn evidence(probabilities: &Probabilities) -> Evidence<'_> {
    Evidence::new(probabilities.as_slice()).expect("manifests have two classes at least")
}
