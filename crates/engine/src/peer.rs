//! A peer at another site: any server of the Open Inference Protocol, behind a circuit breaker. [`upstream`] chooses between
//! several that serve the same.

use std::{
    collections::HashSet,
    convert::Infallible,
    future::pending,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::Instant,
};

use futures::future::BoxFuture;
use outpost_cascade::{
    Circuit, CircuitConfig, CircuitState, FallbackCause, Link, LinkEstimate, Observation, Permit,
    Refusal,
};
use outpost_offload::{Failure, error_chain, tell_circuit};
use outpost_proto::inference::{
    ModelMetadataRequest, grpc_inference_service_client::GrpcInferenceServiceClient,
};
use outpost_transport::{CallError, Channel, Idempotent, WireMeter};
use prost::Message;
use tokio::{
    sync::Notify,
    task::spawn_blocking,
    time::{sleep, timeout_at},
};
use tonic::{Request, Status};
use tracing::Span;

use crate::picture::Picture;
use failure::failure_of;
use packing::PackingConfig;
use remote::{Asking, RemoteInput, Reply, Told};

mod budgets;
mod config;
mod error;
mod failure;
mod offload;
mod packing;
mod questions;
mod remote;
mod upstream;

pub use budgets::{BudgetLeft, EnergyUse, Thrift, ThriftAccount};
use budgets::{Budgets, Demand};
pub use config::{BudgetConfig, CircuitSettings, OtherConfig, Payload, PeerConfig};
pub use error::PeerError;
pub use offload::Offload;
pub(crate) use offload::{LateCall, Patience};
use offload::{Sent, Waiting};
pub(crate) use packing::Packing;
pub use packing::{EncodersError, Encoding, SentAs, UnknownEncoding};
pub(crate) use remote::RemoteNetwork;
pub use upstream::{EndpointStatus, Upstream};

/// A gRPC message goes out behind a flag and a length, 5 bytes.
const MESSAGE_PREFIX_BYTES: u64 = 5;
/// A call that was refused before it was taken up is made again so often: a proxy that loses a server may refuse more than one.
const REFUSALS: usize = 3;
/// A server that says something else each time is not told of each time.
const MOST_REPORTED: usize = 64;

/// A peer: a channel, and what keeps an engine from waiting for it in vain.
struct Peer {
    /// Its URL.
    name: Arc<str>,
    place: Place,
    channel: Mutex<Channel>,
    /// What counts the packets of the channel, and of those that take its place.
    wire: WireMeter,
    payload: Payload,
    packing: PackingConfig,
    budgets: Arc<Mutex<Budgets>>,
    circuit: Arc<Mutex<Circuit>>,
    link: Arc<Mutex<LinkEstimate>>,
    /// Held by each call that is under way.
    calls: Arc<()>,
    /// Origin of the times of the circuit and of the link.
    origin: Instant,
    /// What a person has been told of: causes, and what was wrong with replies.
    reported: Mutex<HashSet<(FallbackCause, Option<String>)>>,
    /// Told when it is back, to those who ask for it.
    back: Notify,
}

/// Over what a sign of life is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Over {
    /// The connection that there is.
    Present,
    /// A new one, which takes its place: the present one may be dead, and its retransmissions minutes apart.
    New,
}

/// Where a peer stands among those that serve the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    index: usize,
    /// Whether there is no other.
    is_alone: bool,
}

impl Peer {
    /// A peer that connects when it is first needed; `origin` is that of the times of its budgets.
    ///
    /// # Errors
    /// [`PeerError`], which names the file or the field at fault.
    fn new(
        config: &PeerConfig,
        circuit: CircuitConfig,
        budgets: Arc<Mutex<Budgets>>,
        (place, origin): (Place, Instant),
    ) -> Result<Self, PeerError> {
        let channel = config.channel()?;
        let name: Arc<str> = config.url.as_str().into();
        lock(&budgets).count(name.clone(), channel.wire());
        Ok(Self {
            name,
            place,
            wire: channel.wire(),
            channel: Mutex::new(channel),
            payload: config.payload,
            packing: PackingConfig {
                encoding: config.encoding,
                encoders: config.encoders.clone(),
                max_accuracy_loss: config.max_accuracy_loss,
                keep_metadata: config.keep_metadata,
            },
            budgets,
            circuit: Arc::new(Mutex::new(Circuit::new(circuit))),
            link: Arc::default(),
            calls: Arc::new(()),
            origin,
            reported: Mutex::default(),
            back: Notify::new(),
        })
    }

    /// Makes calls over another channel from now on, as one with new credentials; those under way end over the old one.
    fn replace_channel(&self, channel: Channel) {
        channel.count_with(self.wire.clone());
        *lock(&self.channel) = channel;
        // What failed for the old credentials is news with the new ones.
        lock(&self.reported).clear();
    }

    fn channel(&self) -> Channel {
        lock(&self.channel).clone()
    }

    /// Whether the peer is asked at all, as of the last call.
    fn circuit(&self) -> CircuitState {
        lock(&self.circuit).state()
    }

    /// What an offload costs now; none where there was none for a while.
    fn link(&self) -> Option<Link> {
        lock(&self.link).at(self.origin.elapsed())
    }

    /// How many calls wait for their replies, or for their bytes to go out.
    fn calls_under_way(&self) -> usize {
        Arc::strong_count(&self.calls) - 1
    }

    async fn connected(&self, over: Over) -> Result<(), Failure> {
        let channel = self.channel();
        let connected = match over {
            Over::Present => channel.connect().await,
            Over::New => channel.renew().await,
        };
        connected.map_err(|error| failure_of(Status::from(CallError::Connect(error))))?;
        Ok(())
    }

    /// Asks about an image, until the deadline at the latest; gives the call, too, where it goes on after that.
    #[tracing::instrument(
        name = "offload",
        level = "debug",
        skip_all,
        fields(
            otel.kind = "client",
            server.address = &*self.name,
            model = network.model(),
            bytes_sent,
            encoding,
            transport,
            otel.status_code
        )
    )]
    async fn classify(
        self: &Arc<Self>,
        network: &Arc<RemoteNetwork>,
        picture: Arc<Picture>,
        patience: Patience,
        sent: &Arc<Sent>,
    ) -> (Offload, Option<Waiting>) {
        let started = Instant::now();
        let permit = lock(&self.circuit).permit(self.origin.elapsed());
        let mut leave = match permit {
            Ok(permit) => Leave {
                peer: self,
                permit: Some(permit),
            },
            Err(refusal) => {
                let cause = match refusal {
                    Refusal::Open => FallbackCause::CircuitOpen,
                    Refusal::Paused => FallbackCause::Overloaded,
                };
                let offload = Offload {
                    is_of_the_endpoint: true,
                    ..Offload::of(Err(cause), sent, started.elapsed())
                };
                return (offload, None);
            }
        };
        let image_bytes = picture.encoded().map(|read| read.len() as u64);
        let mut call: BoxFuture<'static, _> = {
            let (peer, network, sent) = (self.clone(), network.clone(), sent.clone());
            let until = patience.deadline + patience.late;
            let under_way = self.calls.clone();
            Box::pin(async move {
                let _under_way = under_way;
                let call = peer.call(&network, picture, until, &sent);
                timeout_at(until.into(), call)
                    .await
                    .unwrap_or_else(|elapsed| Err(Failure::deadline(elapsed)))
            })
        };
        let (outcome, late) = match timeout_at(patience.deadline.into(), &mut call).await {
            Ok(outcome) => (outcome, None),
            Err(elapsed) => (
                Err(Failure::deadline(elapsed)),
                (!patience.late.is_zero()).then(|| Waiting {
                    call,
                    started,
                    sent: sent.clone(),
                    endpoint: None,
                }),
            ),
        };
        if let Some(permit) = leave.permit.take() {
            self.note(&outcome, permit, patience.is_short);
        }
        let is_answered = outcome.is_ok();
        let tells_the_link = match &outcome {
            Ok(_) => true,
            Err(failure) => failure.tells_the_link(patience.is_short),
        };
        let span = Span::current();
        match &outcome {
            Ok(reply) => {
                if let Some(protocol) = reply.protocol {
                    span.record("transport", protocol.as_str());
                }
            }
            Err(_) => {
                span.record("otel.status_code", "ERROR");
            }
        }
        let is_of_the_endpoint = matches!(&outcome, Err(failure) if failure.is_of_the_endpoint);
        let outcome = outcome.map_err(|failure| self.report(&failure));
        let offload = Offload {
            is_of_the_endpoint,
            ..Offload::of(outcome, sent, started.elapsed())
        };
        span.record("bytes_sent", offload.bytes_sent);
        if let Some(sent_as) = &offload.sent_as {
            span.record("encoding", tracing::field::display(sent_as));
        }
        if tells_the_link {
            let observation = Observation {
                bytes: offload.bytes_sent,
                image_bytes,
                encoding: offload.encoding,
                link: offload.link(),
                at_peer: offload.at_peer(),
                queued: offload.queued(),
                is_answered,
            };
            let now = self.origin.elapsed();
            lock(&self.link).observe_after(offload.before, &observation, now);
        }
        (offload, late)
    }

    /// Tells the circuit what came of a call.
    fn note(&self, outcome: &Result<Reply, Failure>, permit: Permit, is_short: bool) {
        let now = self.origin.elapsed();
        tell_circuit(&mut lock(&self.circuit), outcome, permit, is_short, now);
    }

    /// Tells a person of each cause once, and of each thing that is wrong with replies; the answers carry the cause every
    /// time.
    fn report(&self, failure: &Failure) -> FallbackCause {
        let chain = error_chain(&*failure.source);
        let is_new = {
            let mut reported = lock(&self.reported);
            let is_told_whole =
                failure.cause == FallbackCause::BadReply && reported.len() < MOST_REPORTED;
            reported.insert((failure.cause, is_told_whole.then(|| chain.clone())))
        };
        if is_new {
            tracing::warn!(peer = &*self.name, cause = %failure.cause, "no answer from the peer: {chain}");
        } else {
            tracing::debug!(peer = &*self.name, cause = %failure.cause, "no answer from the peer: {chain}");
        }
        failure.cause
    }

    async fn call(
        &self,
        network: &Arc<RemoteNetwork>,
        picture: Arc<Picture>,
        deadline: Instant,
        sent: &Sent,
    ) -> Result<Reply, Failure> {
        let told = network.told(self.place.index);
        let reply = self.call_as_told(network, &told, (picture, sent), deadline);
        let reply = reply.await;
        if let Err(failure) = &reply
            && failure.may_be_of_a_change()
        {
            network.forget(self.place.index, &told);
        }
        reply
    }

    async fn call_as_told(
        &self,
        network: &Arc<RemoteNetwork>,
        told: &Arc<Told>,
        (picture, sent): (Arc<Picture>, &Sent),
        deadline: Instant,
    ) -> Result<Reply, Failure> {
        // Nobody is connected to for an image that may not be sent.
        let least = Demand::least(self.channel().protocol().is_some());
        let is_within = lock(&self.budgets).check(least, self.origin.elapsed());
        is_within.map_err(Failure::over_budget)?;
        // Bytes of requests count from here: what comes before is the handshake's. Inference may run twice, so that an image need
        // not wait for a handshake where the peer takes it before.
        let reached = self.channel().reach().await;
        reached.map_err(|error| failure_of(Status::from(CallError::Connect(error))))?;
        let input = told
            .input
            .get_or_try_init(|| self.ask_for_input(network, deadline));
        let input = input.await?.clone();
        let rest = self.send(network, (told, input), (picture, sent), deadline);
        tokio::select! {
            biased;
            reply = rest => reply,
            never = self.learn_round_trip(network, deadline) => match never {},
        }
    }

    /// Asks whether the server is ready where what is sent depends on the round trip, and that is not known or was long ago.
    /// Does not end, so that it goes with the call that it is made beside.
    async fn learn_round_trip(&self, network: &RemoteNetwork, deadline: Instant) -> Infallible {
        let now = self.origin.elapsed();
        let is_wanted = network.follows_the_link()
            && self.calls_under_way() <= 1
            && lock(&self.link).wants_round_trip(now);
        if is_wanted && let Ok(round_trip) = self.ask_whether_ready(deadline).await {
            lock(&self.link).answered_in(round_trip, self.origin.elapsed());
        }
        pending().await
    }

    /// Sends the image as what the peer has told that it takes.
    async fn send(
        &self,
        network: &Arc<RemoteNetwork>,
        (told, input): (&Arc<Told>, RemoteInput),
        (picture, sent): (Arc<Picture>, &Sent),
        deadline: Instant,
    ) -> Result<Reply, Failure> {
        let Asking {
            request,
            sent_as,
            encoding,
        } = {
            let (network, link) = (network.clone(), self.link());
            // Encoding and making a tensor take milliseconds. The picture ends here: its pixels need not stay in
            // memory while its answer travels.
            spawn_blocking(move || network.request(&input, &picture, link.as_ref()))
                .await
                .map_err(Failure::unsendable)??
        };
        let _ = sent.made.set((sent_as, encoding));
        let message_bytes = request.encoded_len();
        let limit = self.channel().max_message_bytes();
        if message_bytes > limit {
            return Err(Failure::unsendable(format!(
                "the request has {message_bytes} bytes, over the limit of {limit}: send a smaller image"
            )));
        }
        let request_bytes = message_bytes as u64 + MESSAGE_PREFIX_BYTES;
        // Inference may run twice: a connection that died since the last call, here or behind a proxy, or a
        // server that was busy for a moment, costs one more try, not the answer.
        let (mut retries, mut refusals) = (1, REFUSALS);
        let response = loop {
            let mut client = self.client();
            let spending =
                self.spend(Demand::of(request_bytes, network.manifest().output.classes))?;
            // Counted before the call: at the deadline it ends without a word.
            sent.goes_out(request_bytes);
            let called = client
                .model_infer(with_deadline(request.clone(), deadline))
                .await;
            drop(spending);
            let status = match called {
                Ok(response) => break response,
                Err(status) => status,
            };
            if let Some(CallError::Connect(_)) = CallError::of(&status) {
                sent.bytes.fetch_sub(request_bytes, Ordering::Relaxed);
            }
            let is_refused = CallError::of(&status).is_some_and(CallError::is_refused);
            let failure = failure_of(status);
            if let Some(pause) = failure.pause {
                lock(&self.circuit).pause(self.origin.elapsed(), pause);
            }
            // What was not taken up was no try.
            let tries = if is_refused {
                &mut refusals
            } else {
                &mut retries
            };
            if *tries == 0 {
                return Err(failure);
            }
            *tries -= 1;
            let left = deadline.saturating_duration_since(Instant::now());
            let is_lost = failure.cause == FallbackCause::ConnectionLost;
            if !self.place.is_alone && (!is_lost || failure.pause.is_some()) {
                // Another endpoint may have time now.
                return Err(failure);
            }
            match failure.again_after(left) {
                Some(pause) => sleep(pause).await,
                None => return Err(failure),
            }
        };
        if !told.is_about(&response.get_ref().model_version) {
            // It was replaced: is what it is now the network that was asked for?
            network.forget(self.place.index, told);
            let again = network.told(self.place.index);
            let input = again
                .input
                .get_or_try_init(|| self.ask_for_input(network, deadline));
            input.await?;
        }
        network.reply(response)
    }

    /// Takes an offload from the budgets, until it is over.
    fn spend(&self, demand: Demand) -> Result<Spending<'_>, Failure> {
        let began = lock(&self.budgets).begin(demand, self.origin.elapsed());
        began.map_err(Failure::over_budget)?;
        Ok(Spending { peer: self, demand })
    }

    /// What is sent for a network. A cascade takes images, by a name that it says.
    fn payload_for(&self, network: &RemoteNetwork) -> Payload {
        match network.is_cascade() {
            true => Payload::Auto,
            false => self.payload,
        }
    }

    /// Asks the server what the network takes, unless the configuration says it.
    async fn ask_for_input(
        &self,
        network: &RemoteNetwork,
        deadline: Instant,
    ) -> Result<RemoteInput, Failure> {
        match self.payload_for(network) {
            Payload::Image => return Ok(network.image_input()),
            Payload::Tensor => return Ok(network.tensor_input()),
            Payload::Auto => {}
        }
        let request = ModelMetadataRequest {
            name: network.model().to_owned(),
            version: String::new(),
        };
        let asked = Instant::now();
        let waits = self.calls_under_way() > 1;
        let metadata = self
            .client()
            .model_metadata(with_deadline(request, deadline))
            .await
            .map_err(failure_of)?
            .into_inner();
        if !waits {
            lock(&self.link).answered_in(asked.elapsed(), self.origin.elapsed());
        }
        network.input_told(&metadata)
    }

    fn client(&self) -> GrpcInferenceServiceClient<Channel> {
        let channel = self.channel();
        let limit = channel.max_message_bytes();
        GrpcInferenceServiceClient::new(channel)
            .max_decoding_message_size(limit)
            .max_encoding_message_size(limit)
    }
}

/// Leave to make a call. Given back where its end is not waited for: nothing was learned then.
struct Leave<'a> {
    peer: &'a Peer,
    permit: Option<Permit>,
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        if let Some(permit) = self.permit.take() {
            lock(&self.peer.circuit).abandoned(permit, self.peer.origin.elapsed());
        }
    }
}

/// An offload that is under way, by what it may take of the budgets.
struct Spending<'a> {
    peer: &'a Peer,
    demand: Demand,
}

impl Drop for Spending<'_> {
    fn drop(&mut self) {
        lock(&self.peer.budgets).end(self.demand, self.peer.origin.elapsed());
    }
}

/// Whether an encoding goes with the rest of a configuration, and with this build.
fn check_encoding(config: &PeerConfig) -> Result<(), PeerError> {
    if !(0.0..=100.0).contains(&config.max_accuracy_loss) {
        return Err(PeerError::Loss(config.max_accuracy_loss));
    }
    match config.encoding {
        Encoding::Original => Ok(()),
        _ if config.keep_metadata => Err(PeerError::Encoding(
            "without what `keep_metadata` is to keep",
        )),
        _ if config.payload == Payload::Tensor => {
            Err(PeerError::Encoding("and `payload = \"tensor\"` sends none"))
        }
        Encoding::With(encoder) if !encoder.codec.is_built() => {
            Err(PeerError::NotBuilt(encoder.codec))
        }
        Encoding::With(_) | Encoding::Auto => Ok(()),
    }
}

fn with_deadline<T>(message: T, deadline: Instant) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(deadline.saturating_duration_since(Instant::now()));
    // Nothing that is asked here changes anything at the peer.
    request.extensions_mut().insert(Idempotent);
    outpost_telemetry::inject(request.metadata_mut());
    request
}

/// The states behind these locks are whole after every statement.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
