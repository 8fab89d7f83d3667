//! A peer at another site: any server of the Open Inference Protocol, behind a circuit breaker.

use std::{
    collections::HashSet,
    io,
    path::PathBuf,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures::future::BoxFuture;
use outpost_cascade::{
    Circuit, CircuitConfig, CircuitState, FallbackCause, Link, LinkEstimate, Observation, Permit,
    Refusal,
};
use outpost_proto::inference::{
    ModelMetadataRequest, grpc_inference_service_client::GrpcInferenceServiceClient,
};
use outpost_runtime::{Codec, Manifest};
use outpost_transport::{
    BearerToken, CallError, Channel, ClientConfig, ConfigError, Identity, IdentityError, Protocol,
    TokenError, Trust,
};
use prost::Message;
use tokio::{
    task::spawn_blocking,
    time::{sleep, timeout_at},
};
use tonic::{Request, Status};
use tracing::Span;

use crate::picture::Picture;
use failure::Failure;
use packing::PackingConfig;
use remote::{Asking, RemoteInput, Reply};

mod budgets;
mod config;
mod failure;
mod packing;
mod remote;

use budgets::Budgets;
pub use config::{BudgetConfig, CircuitSettings, Payload, PeerConfig};
pub use failure::error_chain;
pub(crate) use packing::Packing;
pub use packing::{EncodersError, Encoding, SentAs, UnknownEncoding};
pub use remote::DecidedBy;
pub(crate) use remote::RemoteNetwork;

/// A gRPC message goes out behind a flag and a length, 5 bytes.
const MESSAGE_PREFIX_BYTES: u64 = 5;

/// A peer: a channel, and what keeps an engine from waiting for it in vain.
pub struct Peer {
    channel: Channel,
    payload: Payload,
    packing: PackingConfig,
    budgets: Mutex<Budgets>,
    circuit: Mutex<Circuit>,
    link: Mutex<LinkEstimate>,
    /// Origin of the times of the circuit and of the link.
    origin: Instant,
    /// Causes that a person has been told of.
    reported: Mutex<HashSet<FallbackCause>>,
}

/// What came of an offload.
pub struct Offload {
    /// The reply, or why there is none.
    pub(crate) outcome: Result<Reply, FallbackCause>,
    /// Bytes of the requests that went out.
    pub bytes_sent: u64,
    /// As what the image went out; `None` where it did not.
    pub sent_as: Option<SentAs>,
    /// Time that making it ready took.
    pub encoding: Duration,
    took: Duration,
}

/// What has been sent of an image so far.
#[derive(Debug, Default)]
struct Sent {
    bytes: AtomicU64,
    made: OnceLock<(SentAs, Duration)>,
}

/// Until when a reply is waited for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// Until when it can be the answer.
    pub(crate) deadline: Instant,
    /// Time from then on in which it can correct the answer; none if zero.
    pub(crate) late: Duration,
    /// Whether the deadline is shorter than usual, so that to miss it says nothing about the peer.
    pub(crate) is_short: bool,
}

/// A call that goes on after its deadline.
pub(crate) struct LateCall {
    call: BoxFuture<'static, Result<Reply, Failure>>,
    started: Instant,
    sent: Arc<Sent>,
}

impl LateCall {
    /// The offload, with the reply that came late.
    pub(crate) async fn reply(self) -> Offload {
        let outcome = self.call.await.map_err(|failure| failure.cause);
        Offload::of(outcome, &self.sent, self.started.elapsed())
    }
}

/// Why a peer's configuration was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PeerError {
    /// The file of the certificate authority cannot be read.
    #[error("cannot read the certificate authority {}", path.display())]
    Authority {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The token cannot be read or is none.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The certificate to show or its key is at fault.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// A certificate without its key, or a key without its certificate.
    #[error("`{0}` is missing: a certificate and its key go together")]
    Incomplete(&'static str),
    /// Images are to be encoded anew, and kept as they are.
    #[error("`encoding` makes images anew, {0}: leave one of the two out")]
    Encoding(&'static str),
    /// This build cannot encode so.
    #[error("`encoding` is {0}, which this build has not: build with `--features avif`")]
    NotBuilt(Codec),
    /// The bound on the loss is no number of points.
    #[error("`max_accuracy_loss` is {0}: give points, 0 to 100")]
    Loss(f64),
    /// The transport refused the configuration.
    #[error(transparent)]
    Channel(#[from] ConfigError),
}

impl Offload {
    /// What comes of an offload where nobody is configured to take it.
    pub(crate) fn without_peer() -> Self {
        Self {
            outcome: Err(FallbackCause::NoCloud),
            bytes_sent: 0,
            sent_as: None,
            encoding: Duration::ZERO,
            took: Duration::ZERO,
        }
    }

    fn of(outcome: Result<Reply, FallbackCause>, sent: &Sent, took: Duration) -> Self {
        let bytes_sent = sent.bytes.load(Ordering::Relaxed);
        let made = sent.made.get();
        Self {
            outcome,
            bytes_sent,
            sent_as: made.filter(|_| bytes_sent > 0).map(|made| made.0),
            encoding: made.map_or(Duration::ZERO, |made| made.1),
            took,
        }
    }

    /// The time that was neither the peer's nor that of making the image ready.
    pub fn link(&self) -> Duration {
        let elsewhere = self.at_peer().unwrap_or_default() + self.encoding;
        self.took.saturating_sub(elsewhere)
    }

    /// The time at the peer, where it told it.
    pub fn at_peer(&self) -> Option<Duration> {
        self.outcome.as_ref().ok()?.at_peer
    }

    /// Who decided, where the peer told it.
    pub(crate) fn decided_by(&self) -> Option<&DecidedBy> {
        self.outcome.as_ref().ok()?.decided_by.as_ref()
    }

    /// What carried the reply.
    pub fn protocol(&self) -> Option<Protocol> {
        self.outcome.as_ref().ok()?.protocol
    }
}

impl Peer {
    /// A peer that connects when it is first needed.
    ///
    /// # Errors
    /// [`PeerError`], which names the file or the field at fault.
    pub fn new(config: &PeerConfig, circuit: CircuitConfig) -> Result<Self, PeerError> {
        check_encoding(config)?;
        let mut client = ClientConfig::new(&config.url);
        client.transport = config.transport;
        client.server_name.clone_from(&config.server_name);
        if let Some(path) = &config.certificate_authority {
            let pem = std::fs::read(path).map_err(|source| PeerError::Authority {
                path: path.clone(),
                source,
            })?;
            client.trust = Trust::Authority(pem);
        }
        client.token = config.token.as_deref().map(BearerToken::load).transpose()?;
        client.identity = match (&config.client_certificate, &config.client_key) {
            (Some(certificate), Some(key)) => Some(Identity::load(certificate, key)?),
            (None, None) => None,
            (Some(_), None) => return Err(PeerError::Incomplete("client_key")),
            (None, Some(_)) => return Err(PeerError::Incomplete("client_certificate")),
        };
        Ok(Self {
            channel: Channel::new(client)?,
            payload: config.payload,
            packing: PackingConfig {
                encoding: config.encoding,
                encoders: config.encoders.clone(),
                max_accuracy_loss: config.max_accuracy_loss,
                keep_metadata: config.keep_metadata,
            },
            budgets: Mutex::new(Budgets::new(&config.budget)),
            circuit: Mutex::new(Circuit::new(circuit)),
            link: Mutex::default(),
            origin: Instant::now(),
            reported: Mutex::default(),
        })
    }

    /// Whether the peer is asked at all, as of the last call.
    pub fn circuit(&self) -> CircuitState {
        lock(&self.circuit).state()
    }

    /// What an offload costs now; none where there was none for a while.
    pub fn link(&self) -> Option<Link> {
        lock(&self.link).at(self.origin.elapsed())
    }

    /// How images are made ready for the networks at this peer that may see them.
    pub(crate) fn packing(&self, seen_by: &[&Manifest]) -> Result<Packing, EncodersError> {
        Packing::new(&self.packing, seen_by)
    }

    /// Connects while networks still load; a failure shows at the first offload.
    pub(crate) fn connect_in_background(&self) {
        let channel = self.channel.clone();
        tokio::spawn(async move { channel.connect().await });
    }

    /// Asks about an image, until the deadline at the latest; gives the call, too, where it goes on after that.
    #[tracing::instrument(
        name = "offload",
        level = "debug",
        skip_all,
        fields(
            otel.kind = "client",
            model = network.model(),
            bytes_sent,
            encoding,
            transport,
            otel.status_code
        )
    )]
    pub(crate) async fn classify(
        self: &Arc<Self>,
        network: &Arc<RemoteNetwork>,
        picture: Arc<Picture>,
        patience: Patience,
    ) -> (Offload, Option<LateCall>) {
        let started = Instant::now();
        let permit = lock(&self.circuit).permit(self.origin.elapsed());
        let permit = match permit {
            Ok(permit) => permit,
            Err(refusal) => {
                let offload = Offload {
                    outcome: Err(match refusal {
                        Refusal::Open => FallbackCause::CircuitOpen,
                        Refusal::Paused => FallbackCause::Overloaded,
                    }),
                    took: started.elapsed(),
                    ..Offload::without_peer()
                };
                return (offload, None);
            }
        };
        let sent = Arc::new(Sent::default());
        let image_bytes = picture.encoded.as_ref().map(|read| read.len() as u64);
        let mut call: BoxFuture<'static, _> = {
            let (peer, network, sent) = (self.clone(), network.clone(), sent.clone());
            let until = patience.deadline + patience.late;
            Box::pin(async move {
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
                (!patience.late.is_zero()).then(|| LateCall {
                    call,
                    started,
                    sent: sent.clone(),
                }),
            ),
        };
        self.note(&outcome, permit, patience.is_short);
        let is_answered = outcome.is_ok();
        // A reply, or a deadline that was waited for in vain, says what an offload costs. Other failures are over soon and
        // say nothing about that: the circuit is what keeps from them.
        let tells_the_link = match &outcome {
            Ok(_) => true,
            Err(failure) => failure.cause == FallbackCause::Deadline && !patience.is_short,
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
        let outcome = outcome.map_err(|failure| self.report(&failure));
        let offload = Offload::of(outcome, &sent, started.elapsed());
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
                is_answered,
            };
            lock(&self.link).observe(&observation, self.origin.elapsed());
        }
        (offload, late)
    }

    /// Tells the circuit what came of a call.
    fn note(&self, outcome: &Result<Reply, Failure>, permit: Permit, is_short: bool) {
        let mut circuit = lock(&self.circuit);
        let now = self.origin.elapsed();
        match outcome {
            Ok(_) => circuit.succeeded(permit),
            // A peer that refuses a request, or wants a pause, is there.
            Err(failure) if failure.cause == FallbackCause::Rejected || failure.pause.is_some() => {
                circuit.succeeded(permit);
            }
            Err(failure) if !failure.is_of_the_peer() => circuit.abandoned(permit, now),
            Err(failure) if failure.cause == FallbackCause::Deadline && is_short => {
                circuit.abandoned(permit, now);
            }
            Err(_) => circuit.failed(permit, now),
        }
    }

    /// Tells a person of each cause once; the answers carry the cause every time.
    fn report(&self, failure: &Failure) -> FallbackCause {
        let chain = error_chain(&*failure.source);
        if lock(&self.reported).insert(failure.cause) {
            tracing::warn!(cause = %failure.cause, "no answer from the peer: {chain}");
        } else {
            tracing::debug!(cause = %failure.cause, "no answer from the peer: {chain}");
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
        // Bytes count from here: what comes before is the handshake's.
        let connected = self.channel.connect().await;
        connected.map_err(|error| Failure::from(Status::from(CallError::Connect(error))))?;
        let input = network
            .input
            .get_or_try_init(|| self.ask_for_input(network, deadline))
            .await?
            .clone();
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
        let limit = self.channel.max_message_bytes();
        if message_bytes > limit {
            return Err(Failure::unsendable(format!(
                "the request has {message_bytes} bytes, over the limit of {limit}: send a smaller image"
            )));
        }
        let request_bytes = message_bytes as u64 + MESSAGE_PREFIX_BYTES;
        // Inference may run twice: a connection that died since the last call, here or behind a proxy, or a
        // server that was busy for a moment, costs one more try, not the answer.
        let mut retries = 1;
        let response = loop {
            let mut client = self.client();
            let now = self.origin.elapsed();
            let is_within = lock(&self.budgets).take(request_bytes, now);
            is_within.map_err(Failure::over_budget)?;
            // Counted before the call: at the deadline it ends without a word.
            sent.bytes.fetch_add(request_bytes, Ordering::Relaxed);
            let called = client
                .model_infer(with_deadline(request.clone(), deadline))
                .await;
            let status = match called {
                Ok(response) => break response,
                Err(status) => status,
            };
            if let Some(CallError::Connect(_)) = CallError::of(&status) {
                sent.bytes.fetch_sub(request_bytes, Ordering::Relaxed);
            }
            let failure = Failure::from(status);
            if let Some(pause) = failure.pause {
                lock(&self.circuit).pause(self.origin.elapsed(), pause);
            }
            if retries == 0 {
                return Err(failure);
            }
            retries -= 1;
            let left = deadline.saturating_duration_since(Instant::now());
            match (failure.cause, failure.pause) {
                (_, Some(pause)) if pause < left => sleep(pause).await,
                (FallbackCause::ConnectionLost | FallbackCause::Unavailable, None) => {}
                _ => return Err(failure),
            }
        };
        network.reply(response)
    }

    /// Asks the server what the network takes, unless the configuration says it.
    async fn ask_for_input(
        &self,
        network: &RemoteNetwork,
        deadline: Instant,
    ) -> Result<RemoteInput, Failure> {
        // A cascade takes images, by a name that it says.
        let payload = if network.is_cascade() {
            Payload::Auto
        } else {
            self.payload
        };
        match payload {
            Payload::Image => return Ok(network.image_input()),
            Payload::Tensor => return Ok(network.tensor_input()),
            Payload::Auto => {}
        }
        let request = ModelMetadataRequest {
            name: network.model().to_owned(),
            version: String::new(),
        };
        let metadata = self
            .client()
            .model_metadata(with_deadline(request, deadline))
            .await?
            .into_inner();
        RemoteInput::from_metadata(&metadata)
    }

    fn client(&self) -> GrpcInferenceServiceClient<Channel> {
        let limit = self.channel.max_message_bytes();
        GrpcInferenceServiceClient::new(self.channel.clone())
            .max_decoding_message_size(limit)
            .max_encoding_message_size(limit)
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
    outpost_telemetry::inject(request.metadata_mut());
    request
}

/// The states behind these locks are whole after every statement.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
