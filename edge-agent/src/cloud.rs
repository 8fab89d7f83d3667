//! The networks in the cloud: any server of the Open Inference Protocol, behind a circuit breaker.

use std::{
    collections::HashSet,
    error::Error,
    io,
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use outpost_cascade::{Circuit, CircuitConfig, FallbackCause};
use outpost_proto::{
    ContentsKind, Datatype, ENCODED_IMAGE_PROPERTY, Tensor, TensorData,
    inference::{
        ModelInferRequest, ModelInferResponse, ModelMetadataRequest,
        grpc_inference_service_client::GrpcInferenceServiceClient,
    },
    tensor,
};
use outpost_runtime::{Labels, Manifest, Preprocessor, Probabilities};
use outpost_transport::{
    CallError, Channel, ClientConfig, ConfigError, ConnectError, Protocol, Trust,
};
use prost::Message;
use tokio::{sync::OnceCell, time::timeout_at};
use tonic::{Code, Request, Response, Status, metadata::MetadataMap};

use crate::{
    agent::Picture,
    config::{self, Payload},
};

/// A gRPC message goes out behind a flag and a length, 5 bytes.
const MESSAGE_PREFIX_BYTES: u64 = 5;

/// The cloud: a channel, and what keeps the device from waiting for it in vain.
pub(crate) struct Cloud {
    channel: Channel,
    payload: Payload,
    circuit: Mutex<Circuit>,
    /// Origin of the circuit's times.
    origin: Instant,
    /// Causes that a person has been told of.
    reported: Mutex<HashSet<FallbackCause>>,
}

/// A network in the cloud, as its manifest here describes it.
pub(crate) struct RemoteNetwork {
    manifest: Manifest,
    labels: Labels,
    preprocessor: Preprocessor,
    /// What the server says that the network takes; asked once.
    input: OnceCell<RemoteInput>,
}

/// What a server says that a network takes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct RemoteInput {
    name: String,
    kind: InputKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum InputKind {
    Image,
    Tensor(Datatype),
}

/// What came of an offload.
pub(crate) struct Offload {
    /// The reply, or why there is none.
    pub(crate) outcome: Result<Reply, FallbackCause>,
    /// Bytes of the requests that went out.
    pub(crate) bytes_sent: u64,
    took: Duration,
}

/// What the cloud said.
pub(crate) struct Reply {
    /// About the image.
    pub(crate) probabilities: Probabilities,
    /// About the time it took.
    cloud: Option<Duration>,
    protocol: Option<Protocol>,
}

/// Why the cloud's configuration was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CloudError {
    /// The file of the certificate authority cannot be read.
    #[error("cannot read the certificate authority {}", path.display())]
    Authority {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The transport refused the configuration.
    #[error(transparent)]
    Channel(#[from] ConfigError),
}

/// Why a call gave nothing, with what a person may read about it.
struct Failure {
    cause: FallbackCause,
    source: Box<dyn Error + Send + Sync>,
}

impl RemoteNetwork {
    pub(crate) fn new(manifest: Manifest, labels: Labels) -> Self {
        Self {
            preprocessor: Preprocessor::new(manifest.input.clone()),
            manifest,
            labels,
            input: OnceCell::new(),
        }
    }

    pub(crate) fn labels(&self) -> &Labels {
        &self.labels
    }
}

impl Offload {
    /// What comes of an offload where no cloud is configured.
    pub(crate) fn without_cloud() -> Self {
        Self {
            outcome: Err(FallbackCause::NoCloud),
            bytes_sent: 0,
            took: Duration::ZERO,
        }
    }

    /// The time that was not the cloud's.
    pub(crate) fn link(&self) -> Duration {
        self.took.saturating_sub(self.cloud().unwrap_or_default())
    }

    /// The time in the cloud, where the cloud told it.
    pub(crate) fn cloud(&self) -> Option<Duration> {
        self.outcome.as_ref().ok()?.cloud
    }

    /// What carried the reply.
    pub(crate) fn protocol(&self) -> Option<Protocol> {
        self.outcome.as_ref().ok()?.protocol
    }
}

impl Cloud {
    pub(crate) fn new(config: &config::Cloud, circuit: CircuitConfig) -> Result<Self, CloudError> {
        let mut client = ClientConfig::new(&config.url);
        client.transport = config.transport;
        client.server_name.clone_from(&config.server_name);
        if let Some(path) = &config.certificate_authority {
            let pem = std::fs::read(path).map_err(|source| CloudError::Authority {
                path: path.clone(),
                source,
            })?;
            client.trust = Trust::Authority(pem);
        }
        Ok(Self {
            channel: Channel::new(client)?,
            payload: config.payload,
            circuit: Mutex::new(Circuit::new(circuit)),
            origin: Instant::now(),
            reported: Mutex::default(),
        })
    }

    /// Connects while the device still loads its networks; a failure shows at the first offload.
    pub(crate) fn connect_in_background(&self) {
        let channel = self.channel.clone();
        tokio::spawn(async move { channel.connect().await });
    }

    /// Asks the cloud about an image, until `deadline` at the latest.
    pub(crate) async fn classify(
        &self,
        network: &RemoteNetwork,
        picture: &Picture,
        deadline: Instant,
    ) -> Offload {
        let started = Instant::now();
        let mut bytes_sent = 0;
        let permit = lock(&self.circuit).permit(self.origin.elapsed());
        let Some(permit) = permit else {
            return Offload {
                outcome: Err(FallbackCause::CircuitOpen),
                bytes_sent,
                took: started.elapsed(),
            };
        };
        let calls = self.call(network, picture, deadline, &mut bytes_sent);
        let outcome = match timeout_at(deadline.into(), calls).await {
            Ok(outcome) => outcome,
            Err(elapsed) => Err(Failure {
                cause: FallbackCause::Deadline,
                source: elapsed.into(),
            }),
        };
        {
            let mut circuit = lock(&self.circuit);
            match &outcome {
                // A peer that refuses a request is there.
                Ok(_) => circuit.succeeded(permit),
                Err(failure) if failure.cause == FallbackCause::Rejected => {
                    circuit.succeeded(permit);
                }
                Err(_) => circuit.failed(permit, self.origin.elapsed()),
            }
        }
        Offload {
            outcome: outcome.map_err(|failure| self.report(&failure)),
            bytes_sent,
            took: started.elapsed(),
        }
    }

    /// Tells a person of each cause once; the answers carry the cause every time.
    fn report(&self, failure: &Failure) -> FallbackCause {
        let chain = error_chain(&*failure.source);
        if lock(&self.reported).insert(failure.cause) {
            tracing::warn!(cause = %failure.cause, "no answer from the cloud: {chain}");
        } else {
            tracing::debug!(cause = %failure.cause, "no answer from the cloud: {chain}");
        }
        failure.cause
    }

    async fn call(
        &self,
        network: &RemoteNetwork,
        picture: &Picture,
        deadline: Instant,
        bytes_sent: &mut u64,
    ) -> Result<Reply, Failure> {
        let input = network
            .input
            .get_or_try_init(|| self.ask_for_input(network, deadline))
            .await?;
        let request = request(network, input, picture)?;
        let request_bytes = request.encoded_len() as u64 + MESSAGE_PREFIX_BYTES;
        // Inference may run twice: a connection that died since the last call costs one more try,
        // not the answer.
        let mut retries = 1;
        let response = loop {
            let mut client = self.client();
            let sent = client
                .model_infer(with_deadline(request.clone(), deadline))
                .await;
            let status = match sent {
                Ok(response) => {
                    *bytes_sent += request_bytes;
                    break response;
                }
                Err(status) => status,
            };
            if !matches!(CallError::of(&status), Some(CallError::Connect(_))) {
                *bytes_sent += request_bytes;
            }
            let failure = Failure::from(status);
            if failure.cause != FallbackCause::ConnectionLost || retries == 0 {
                return Err(failure);
            }
            retries -= 1;
        };
        reply(network, response)
    }

    /// Asks the server what the network takes, unless the configuration says it.
    async fn ask_for_input(
        &self,
        network: &RemoteNetwork,
        deadline: Instant,
    ) -> Result<RemoteInput, Failure> {
        let named = |kind| RemoteInput {
            name: network.manifest.input.tensor.clone(),
            kind,
        };
        match self.payload {
            Payload::Image => return Ok(named(InputKind::Image)),
            Payload::Tensor => return Ok(named(InputKind::Tensor(Datatype::Fp32))),
            Payload::Auto => {}
        }
        let request = ModelMetadataRequest {
            name: network.manifest.name.clone(),
            version: String::new(),
        };
        let metadata = self
            .client()
            .model_metadata(with_deadline(request, deadline))
            .await?
            .into_inner();
        let [input] = &metadata.inputs[..] else {
            return Err(Failure::bad_reply(format!(
                "the server's model {:?} has {} inputs where an image classifier has one",
                network.manifest.name,
                metadata.inputs.len(),
            )));
        };
        let takes_images = metadata.properties.contains_key(ENCODED_IMAGE_PROPERTY);
        let kind = match input.datatype.parse() {
            Ok(Datatype::Bytes) => InputKind::Image,
            Ok(Datatype::Fp32 | Datatype::Fp16 | Datatype::Uint8) if takes_images => {
                InputKind::Image
            }
            Ok(datatype @ (Datatype::Fp32 | Datatype::Fp16)) => InputKind::Tensor(datatype),
            _ => {
                return Err(Failure::bad_reply(format!(
                    "the server's model {:?} takes {} where an image classifier takes FP32, FP16 or BYTES",
                    network.manifest.name, input.datatype,
                )));
            }
        };
        Ok(RemoteInput {
            name: input.name.clone(),
            kind,
        })
    }

    fn client(&self) -> GrpcInferenceServiceClient<Channel> {
        let limit = self.channel.max_message_bytes();
        GrpcInferenceServiceClient::new(self.channel.clone())
            .max_decoding_message_size(limit)
            .max_encoding_message_size(limit)
    }
}

fn request(
    network: &RemoteNetwork,
    input: &RemoteInput,
    picture: &Picture,
) -> Result<ModelInferRequest, Failure> {
    let (shape, data, contents) = match input.kind {
        // Typed contents carry the file's own bytes, without a copy.
        InputKind::Image => (
            vec![1],
            TensorData::Bytes(vec![picture.encoded.clone()]),
            ContentsKind::Typed,
        ),
        InputKind::Tensor(datatype) => {
            let input = network
                .preprocessor
                .tensor(&picture.pixels)
                .map_err(Failure::rejected)?;
            let shape = input.shape().to_vec();
            let (values, _) = input.into_raw_vec_and_offset();
            let data = match datatype {
                Datatype::Fp16 => {
                    TensorData::Fp16(values.into_iter().map(half::f16::from_f32).collect())
                }
                _ => TensorData::Fp32(values),
            };
            (shape, data, ContentsKind::Raw)
        }
    };
    let tensor = Tensor::new(&input.name, shape, data).map_err(Failure::rejected)?;
    Ok(tensor::infer_request(
        &network.manifest.name,
        "",
        [tensor],
        contents,
    ))
}

fn with_deadline<T>(message: T, deadline: Instant) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(deadline.saturating_duration_since(Instant::now()));
    request
}

fn reply(
    network: &RemoteNetwork,
    response: Response<ModelInferResponse>,
) -> Result<Reply, Failure> {
    let cloud = total_of_server_timing(response.metadata());
    let protocol = response.extensions().get::<Protocol>().copied();
    let outputs = tensor::take_outputs(response.into_inner()).map_err(Failure::bad_reply)?;
    let spec = &network.manifest.output;
    let count = outputs.len();
    // Servers that rename a lone output are understood all the same.
    let output = outputs
        .into_iter()
        .find(|output| output.name() == spec.tensor || count == 1)
        .ok_or_else(|| {
            Failure::bad_reply(format!("the reply has no output named {:?}", spec.tensor))
        })?;
    let row = match output.into_data() {
        TensorData::Fp32(values) => values,
        TensorData::Fp16(values) => values.iter().map(|value| value.to_f32()).collect(),
        data => {
            let datatype = data.datatype();
            return Err(Failure::bad_reply(format!("the output is {datatype}")));
        }
    };
    if row.len() != spec.classes {
        return Err(Failure::bad_reply(format!(
            "the output has {} values where {} classes are known",
            row.len(),
            spec.classes,
        )));
    }
    let probabilities = Probabilities::from_output(row, spec.kind)
        .ok_or_else(|| Failure::bad_reply("the output is no distribution over classes"))?;
    Ok(Reply {
        probabilities,
        cloud,
        protocol,
    })
}

/// The duration of the entry `total` of a Server-Timing header.
fn total_of_server_timing(metadata: &MetadataMap) -> Option<Duration> {
    let header = metadata.get("server-timing")?.to_str().ok()?;
    let total = header
        .split(',')
        .find_map(|entry| entry.trim().strip_prefix("total;dur="))?;
    Duration::try_from_secs_f64(total.parse::<f64>().ok()? / 1e3).ok()
}

impl Failure {
    fn bad_reply(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self {
            cause: FallbackCause::BadReply,
            source: source.into(),
        }
    }

    fn rejected(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self {
            cause: FallbackCause::Rejected,
            source: source.into(),
        }
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self {
            cause: cause_of(&status),
            source: status.into(),
        }
    }
}

/// The one mapping from what a call reports to why the device answers.
fn cause_of(status: &Status) -> FallbackCause {
    match CallError::of(status) {
        Some(CallError::Connect(ConnectError::Tls(_))) => FallbackCause::Certificate,
        Some(CallError::Connect(_)) => FallbackCause::Unreachable,
        Some(CallError::Interrupted { .. } | CallError::Reset { .. }) => {
            FallbackCause::ConnectionLost
        }
        Some(CallError::DeadlineExceeded { .. }) => FallbackCause::Deadline,
        Some(_) => FallbackCause::Rejected,
        None => match status.code() {
            Code::DeadlineExceeded | Code::Cancelled => FallbackCause::Deadline,
            Code::Unavailable => FallbackCause::Unavailable,
            Code::ResourceExhausted => FallbackCause::Overloaded,
            Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::Unimplemented => FallbackCause::Rejected,
            Code::Ok | Code::Unknown | Code::Internal | Code::Aborted | Code::DataLoss => {
                FallbackCause::BadReply
            }
        },
    }
}

/// An error with its sources, for a person; a source that repeats what stands before it is left out.
fn error_chain(error: &dyn Error) -> String {
    let mut chain = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let text = error.to_string();
        if !chain.contains(&text) {
            chain = format!("{chain}: {text}");
        }
        source = error.source();
    }
    chain
}

/// The states behind these locks are whole after every statement.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_of_a_service_has_its_cause() {
        for (code, cause) in [
            (Code::DeadlineExceeded, FallbackCause::Deadline),
            (Code::Unavailable, FallbackCause::Unavailable),
            (Code::ResourceExhausted, FallbackCause::Overloaded),
            (Code::InvalidArgument, FallbackCause::Rejected),
            (Code::NotFound, FallbackCause::Rejected),
            (Code::Unauthenticated, FallbackCause::Rejected),
            (Code::Internal, FallbackCause::BadReply),
            (Code::Unknown, FallbackCause::BadReply),
        ] {
            assert_eq!(cause_of(&Status::new(code, "")), cause, "{code:?}");
        }
    }

    #[test]
    fn failures_of_the_transport_are_told_apart() {
        let refused = ConnectError::Refused {
            address: ([127, 0, 0, 1], 1).into(),
        };
        let status = Status::from(CallError::Connect(refused));
        assert_eq!(cause_of(&status), FallbackCause::Unreachable);
        let after = Duration::from_millis(1);
        let status = Status::from(CallError::DeadlineExceeded { after });
        assert_eq!(cause_of(&status), FallbackCause::Deadline);
    }

    #[test]
    fn the_clouds_own_time_is_read_from_server_timing_and_nonsense_is_passed_over() {
        let total = |header: &'static str| {
            let mut metadata = MetadataMap::new();
            metadata.insert("server-timing", header.parse().unwrap());
            total_of_server_timing(&metadata)
        };
        let expected = Duration::from_micros(12_500);
        assert_eq!(total("queue;dur=0.1, total;dur=12.5"), Some(expected));
        for nonsense in [
            "",
            "total;dur=",
            "total;dur=-1",
            "total;dur=NaN",
            "total;dur=1e300",
        ] {
            assert_eq!(total(nonsense), None, "{nonsense:?}");
        }
    }
}
