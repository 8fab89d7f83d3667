//! One image's call to the cloud: leave of the circuit, the deadline, one more try, and what is learned of the link.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::Duration,
};

use bytes::Bytes;
use futures::future::{Either, select};
use outpost_cascade::{
    Circuit, CircuitConfig, CircuitState, FallbackCause, Link, LinkEstimate, Observation, Refusal,
};
use outpost_offload::{DecidedBy, Failure, RemoteModel, Reply, tell_circuit};
use outpost_proto::{ContentsKind, Tensor, TensorData, inference::ModelInferRequest};
use outpost_runtime::without_metadata;
use prost::Message as _;
use tonic::Request;

use crate::{Agent, Host, LocalFuture};

/// A gRPC message goes out behind a flag and a length, 5 bytes.
const MESSAGE_PREFIX_BYTES: u64 = 5;
/// How long a sign of life is waited for.
const SIGN_WITHIN: Duration = Duration::from_secs(5);

/// What is known of the cloud.
pub(crate) struct Cloud {
    circuit: RefCell<Circuit>,
    link: RefCell<LinkEstimate>,
}

/// What came of an offload.
pub(crate) struct Offload {
    /// The reply, or why there is none.
    pub(crate) outcome: Result<Reply, FallbackCause>,
    /// Bytes of the requests that went out.
    pub(crate) bytes_sent: u64,
    /// Time that making it ready took.
    pub(crate) encoding: Duration,
    took: Duration,
}

/// A call that goes on after its deadline.
pub(crate) type LateCall = LocalFuture<Offload>;

/// A request about an image that is ready to go out.
struct Asking {
    model: Rc<RemoteModel>,
    request: ModelInferRequest,
    /// Until when a reply can correct the answer.
    until: Duration,
    /// Bytes that went out.
    sent: Rc<Cell<u64>>,
}

impl Default for Cloud {
    fn default() -> Self {
        Self {
            circuit: RefCell::new(Circuit::new(CircuitConfig::default())),
            link: RefCell::default(),
        }
    }
}

impl Cloud {
    /// The state of the circuit, as of the last call.
    pub(crate) fn circuit(&self) -> CircuitState {
        self.circuit.borrow().state()
    }

    /// What an offload costs at `now`; none where there was none for a while.
    pub(crate) fn link(&self, now: Duration) -> Option<Link> {
        self.link.borrow().at(now)
    }
}

impl Offload {
    /// One that was not made.
    pub(crate) fn none(cause: FallbackCause) -> Self {
        Self {
            outcome: Err(cause),
            bytes_sent: 0,
            encoding: Duration::ZERO,
            took: Duration::ZERO,
        }
    }

    /// The time that was neither the peer's nor that of making the image ready.
    pub(crate) fn link(&self) -> Duration {
        let elsewhere = self.at_peer().unwrap_or_default() + self.encoding;
        self.took.saturating_sub(elsewhere)
    }

    /// The time at the peer, where it told it.
    pub(crate) fn at_peer(&self) -> Option<Duration> {
        self.outcome.as_ref().ok()?.at_peer
    }

    /// Of that, the time in its queues, where it told it.
    fn queued(&self) -> Option<Duration> {
        self.outcome.as_ref().ok()?.queued
    }

    /// Who decided, where the peer told it.
    pub(crate) fn decided_by(&self) -> Option<&DecidedBy> {
        self.outcome.as_ref().ok()?.decided_by.as_ref()
    }
}

impl<H: Host> Agent<H> {
    /// Asks about an image that was taken up at `taken`, until its deadline at the latest; gives the call, too, where it goes on
    /// after that.
    pub(crate) async fn offload(
        self: &Rc<Self>,
        model: &Rc<RemoteModel>,
        encoded: &Bytes,
        taken: Duration,
    ) -> (Offload, Option<LateCall>) {
        let started = self.host.now();
        let permit = self.cloud.circuit.borrow_mut().permit(started);
        let permit = match permit {
            Ok(permit) => permit,
            Err(Refusal::Paused) => return (Offload::none(FallbackCause::Overloaded), None),
            Err(Refusal::Open) => {
                self.ask_where_refused(started);
                return (Offload::none(FallbackCause::CircuitOpen), None);
            }
        };
        let sent = Rc::new(Cell::new(0));
        let made = request(model, encoded);
        let encoding = self.host.now().saturating_sub(started);
        let deadline = taken + self.deadline;
        let (outcome, late) = match made {
            Err(failure) => (Err(failure), None),
            Ok(request) => {
                let asking = Asking {
                    model: model.clone(),
                    request,
                    until: deadline + self.late,
                    sent: sent.clone(),
                };
                let call: LocalFuture<_> = Box::pin(self.clone().call(asking));
                match within(&self.host, deadline, call).await {
                    Ok(outcome) => (outcome, None),
                    Err(call) => (
                        Err(Failure::deadline("no reply came by the deadline")),
                        (!self.late.is_zero()).then_some(call),
                    ),
                }
            }
        };
        let now = self.host.now();
        tell_circuit(
            &mut self.cloud.circuit.borrow_mut(),
            &outcome,
            permit,
            false,
            now,
        );
        let tells_the_link = match &outcome {
            Ok(_) => true,
            Err(failure) => failure.tells_the_link(false),
        };
        let offload = Offload {
            outcome: outcome.map_err(|failure| failure.cause),
            bytes_sent: sent.get(),
            encoding,
            took: now.saturating_sub(started),
        };
        if tells_the_link {
            let observation = Observation {
                bytes: offload.bytes_sent,
                image_bytes: Some(encoded.len() as u64),
                encoding,
                link: offload.link(),
                at_peer: offload.at_peer(),
                queued: offload.queued(),
                is_answered: offload.outcome.is_ok(),
            };
            self.cloud.link.borrow_mut().observe(&observation, now);
        }
        let late = late.map(|call| {
            let agent = self.clone();
            let late: LateCall = Box::pin(async move {
                let until = deadline + agent.late;
                let outcome = within(&agent.host, until, call).await;
                let outcome = outcome.unwrap_or_else(|_| Err(Failure::deadline("too late")));
                Offload {
                    outcome: outcome.map_err(|failure| failure.cause),
                    bytes_sent: sent.get(),
                    encoding,
                    took: agent.host.now().saturating_sub(started),
                }
            });
            late
        });
        (offload, late)
    }

    async fn call(self: Rc<Self>, asking: Asking) -> Result<Reply, Failure> {
        let bytes = asking.request.encoded_len() as u64 + MESSAGE_PREFIX_BYTES;
        // Inference may run twice: a server that was busy for a moment costs one more try, not the answer.
        let mut retries = 1;
        loop {
            let mut request = Request::new(asking.request.clone());
            request.set_timeout(asking.until.saturating_sub(self.host.now()));
            // Counted before the call: at the deadline it ends without a word.
            asking.sent.set(asking.sent.get() + bytes);
            let failure = match self.host.infer(request).await {
                Ok(response) => return asking.model.reply(response),
                Err(failure) => failure,
            };
            if failure.cause == FallbackCause::Unreachable {
                asking.sent.set(asking.sent.get() - bytes);
            }
            let now = self.host.now();
            if let Some(pause) = failure.pause {
                self.cloud.circuit.borrow_mut().pause(now, pause);
            }
            match failure.again_after(asking.until.saturating_sub(now)) {
                Some(pause) if retries > 0 => self.host.sleep(pause).await,
                _ => return Err(failure),
            }
            retries -= 1;
        }
    }

    /// Asks the cloud for a sign of life where its circuit keeps an image from it, at the circuit's pace.
    fn ask_where_refused(self: &Rc<Self>, now: Duration) {
        if !self.cloud.circuit.borrow_mut().ask(now) {
            return;
        }
        let agent = self.clone();
        self.host.spawn(Box::pin(async move {
            let question = agent.host.ready();
            let until = agent.host.now() + SIGN_WITHIN;
            let sign = within(&agent.host, until, question).await;
            // Who refuses the question is there.
            let is_there = match sign {
                Ok(Ok(())) => true,
                Ok(Err(failure)) => !failure.tells_of_absence(),
                Err(_) => false,
            };
            if is_there {
                let now = agent.host.now();
                agent.cloud.circuit.borrow_mut().seen(now);
            }
        }));
    }
}

/// The file as it was read, without its metadata, as a request.
fn request(model: &RemoteModel, encoded: &Bytes) -> Result<ModelInferRequest, Failure> {
    let bare = without_metadata(encoded)
        .ok_or_else(|| Failure::unsendable("the image's metadata cannot be taken out"))?;
    let name = &model.manifest().input.tensor;
    let tensor = Tensor::new(name, vec![1], TensorData::Bytes(vec![bare]));
    // Typed contents carry the file's own bytes, without a copy.
    let contents = ContentsKind::Typed;
    Ok(model.request(tensor.map_err(Failure::unsendable)?, contents))
}

/// What comes of a future until a time of the host, or the future where it goes on after that.
async fn within<T>(
    host: &impl Host,
    until: Duration,
    future: LocalFuture<T>,
) -> Result<T, LocalFuture<T>> {
    let left = host.sleep(until.saturating_sub(host.now()));
    match select(future, left).await {
        Either::Left((outcome, _)) => Ok(outcome),
        Either::Right(((), future)) => Err(future),
    }
}
