//! Which agent answers: one at a time, and another after a reload.

use std::sync::{Arc, PoisonError, RwLock};

use outpost_cascade::{DecideBy, DecideByError, Deciding};

use crate::agent::Agent;

/// The agent that takes images up now. Clones share it; an image keeps the one that took it up.
#[derive(Clone)]
pub(crate) struct InCharge(Arc<RwLock<Arc<Agent>>>);

impl InCharge {
    pub(crate) fn new(agent: Agent) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(agent))))
    }

    /// Who is in charge now.
    pub(crate) fn get(&self) -> Arc<Agent> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Has the agent in charge decide by something else; see [`outpost_engine::Engine::decide_by`].
    pub(crate) fn decide_by(&self, change: &DecideBy) -> Result<Arc<Deciding>, DecideByError> {
        // Within the lock: an agent that is put in charge meanwhile must know of it.
        let agent = self.0.read().unwrap_or_else(PoisonError::into_inner);
        agent.engine().decide_by(change)
    }

    /// Puts another in charge, after `hand_over`, which is given what it is decided by until then.
    pub(crate) fn replace(&self, agent: Agent, hand_over: impl FnOnce(&Agent, &Deciding)) {
        let mut present = self.0.write().unwrap_or_else(PoisonError::into_inner);
        hand_over(&agent, &present.engine().deciding());
        agent.engine().take_over();
        let before = std::mem::replace(&mut *present, Arc::new(agent));
        drop(present);
        // Its networks are freed outside of the lock, where no image has it any more.
        drop(before);
    }
}
