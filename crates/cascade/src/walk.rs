//! One image's way through a cascade, as a state machine without I/O.
//!
//! The driver asks a [`Walk`] what to do and does it: run a network that is here, offload to one that
//! is not, or hand out the answer. It reports what came of it with the time since the image was
//! taken. The walk keeps the latest local answer, so that an offload that fails or outlasts the
//! deadline costs the better answer, never the answer.

use std::{fmt, time::Duration};

use outpost_exit_policy::Evidence;

use crate::graph::{Cascade, NodeId, Site};

/// What the driver does next.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Action {
    /// Run the network of a node that is here, then report [`Walk::said`] or [`Walk::failed`].
    Run(NodeId),
    /// Send the image to the network of a node that is elsewhere, then report [`Walk::said`] or
    /// [`Walk::offload_failed`]; no later than `deadline`, in time since the image was taken.
    Offload {
        /// The node to reach.
        node: NodeId,
        /// When to give up.
        deadline: Duration,
    },
    /// Hand out the answer: the walk is over.
    Answer(Answer),
    /// Report that the image has no answer: the walk is over.
    NoAnswer(NoAnswer),
}

/// Who answers and why. What they said is with the driver, under the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// The node whose probabilities are the answer.
    pub node: NodeId,
    /// Why it is this one.
    pub reason: Reason,
    /// The node elsewhere that was to be asked, where the time was over before that.
    pub unasked: Option<NodeId>,
}

/// Why a node's word is the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The policy of a node that is here was content with it.
    Confident,
    /// A node elsewhere answered.
    Offloaded,
    /// A node elsewhere should have answered and could not.
    Fallback(FallbackCause),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Confident => f.write_str("confident"),
            Self::Offloaded => f.write_str("offloaded"),
            Self::Fallback(cause) => write!(f, "fallback:{cause}"),
        }
    }
}

/// Why an offload gave no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FallbackCause {
    /// No peer is configured.
    NoCloud,
    /// The circuit is open: the peer failed repeatedly and was not asked.
    CircuitOpen,
    /// The deadline passed.
    Deadline,
    /// No connection could be made.
    Unreachable,
    /// The peer's certificate was refused.
    Certificate,
    /// The connection broke during the call.
    ConnectionLost,
    /// The peer is there and cannot serve now.
    Unavailable,
    /// The peer has too much to do.
    Overloaded,
    /// The peer refused the request: it does not serve the network, or not to this caller.
    Rejected,
    /// The peer's answer makes no sense.
    BadReply,
    /// The peer cannot use the image as it was sent.
    Unusable,
    /// The image cannot be sent: it is larger than a message may be.
    Unsendable,
    /// As much was sent already as may be.
    Budget,
    /// What the image shows is not to leave the device.
    Private,
    /// A further network here failed.
    NetworkFailed,
}

impl FallbackCause {
    /// Whether a peer that gave no answer for this cause may give one to the same request later: the image is not known to be
    /// at fault.
    pub const fn may_pass(self) -> bool {
        match self {
            Self::CircuitOpen
            | Self::Deadline
            | Self::Unreachable
            | Self::Certificate
            | Self::ConnectionLost
            | Self::Unavailable
            | Self::Overloaded
            | Self::Rejected
            | Self::BadReply
            | Self::Budget => true,
            Self::NoCloud
            | Self::Unusable
            | Self::Unsendable
            | Self::Private
            | Self::NetworkFailed => false,
        }
    }

    /// The word that stands after `fallback:` in an answer.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoCloud => "no-cloud",
            Self::CircuitOpen => "circuit-open",
            Self::Deadline => "deadline",
            Self::Unreachable => "unreachable",
            Self::Certificate => "certificate",
            Self::ConnectionLost => "connection-lost",
            Self::Unavailable => "unavailable",
            Self::Overloaded => "overloaded",
            Self::Rejected => "rejected",
            Self::BadReply => "bad-reply",
            Self::Unusable => "unusable",
            Self::Unsendable => "unsendable",
            Self::Budget => "budget",
            Self::Private => "private",
            Self::NetworkFailed => "network-failed",
        }
    }
}

impl fmt::Display for FallbackCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why an image has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoAnswer {
    /// The network that is here failed, and nothing before it spoke.
    #[error("the network failed and no other could be asked")]
    NetworkFailed,
    /// The cascade begins elsewhere, and nobody there answered.
    #[error("no network here could stand in for the cloud ({0})")]
    OffloadFailed(FallbackCause),
}

/// One image's way through a cascade.
#[derive(Debug)]
pub struct Walk<'c> {
    cascade: &'c Cascade,
    here: Site,
    deadline: Duration,
    /// The latest node here that spoke.
    spoken: Option<NodeId>,
}

impl<'c> Walk<'c> {
    /// Starts at `entry` of `cascade`, as seen from the site `here`, for an image that must be
    /// answered within `deadline` of being taken. Gives the first action.
    pub fn start(
        cascade: &'c Cascade,
        entry: NodeId,
        here: Site,
        deadline: Duration,
    ) -> (Self, Action) {
        let walk = Self {
            cascade,
            here,
            deadline,
            spoken: None,
        };
        let action = walk.go_to(entry);
        (walk, action)
    }

    /// Reports what the network of `node` said, at the time `now`.
    pub fn said(&mut self, node: NodeId, evidence: &Evidence<'_>, now: Duration) -> Action {
        if self.cascade.node(node).site() != self.here {
            return answer(node, Reason::Offloaded);
        }
        self.spoken = Some(node);
        match self.cascade.decide(node, evidence) {
            None => answer(node, Reason::Confident),
            Some(next) if now >= self.deadline => Action::Answer(Answer {
                node,
                reason: Reason::Fallback(FallbackCause::Deadline),
                unasked: (self.cascade.node(next).site() != self.here).then_some(next),
            }),
            Some(next) => self.go_to(next),
        }
    }

    /// Reports that the network of a node here failed, at the time `now`: a node elsewhere is asked
    /// where the cascade has one next, else what spoke before it answers.
    pub fn failed(&mut self, node: NodeId, now: Duration) -> Action {
        let elsewhere = |&&jump: &&NodeId| self.cascade.node(jump).site() != self.here;
        match self.cascade.node(node).jumps().iter().find(elsewhere) {
            Some(&jump) if now < self.deadline => self.go_to(jump),
            _ => match self.spoken {
                Some(spoken) => answer(spoken, Reason::Fallback(FallbackCause::NetworkFailed)),
                None => Action::NoAnswer(NoAnswer::NetworkFailed),
            },
        }
    }

    /// Reports that the offload gave no answer.
    pub fn offload_failed(&mut self, cause: FallbackCause) -> Action {
        match self.spoken {
            Some(spoken) => answer(spoken, Reason::Fallback(cause)),
            None => Action::NoAnswer(NoAnswer::OffloadFailed(cause)),
        }
    }

    fn go_to(&self, node: NodeId) -> Action {
        if self.cascade.node(node).site() == self.here {
            Action::Run(node)
        } else {
            Action::Offload {
                node,
                deadline: self.deadline,
            }
        }
    }
}

fn answer(node: NodeId, reason: Reason) -> Action {
    Action::Answer(Answer {
        node,
        reason,
        unasked: None,
    })
}

#[cfg(test)]
mod tests;
