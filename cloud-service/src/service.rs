//! The Open Inference Protocol, answered from the loaded models.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use outpost_cascade::NodeId;
use outpost_engine::ENTRY_PARAMETER;
use outpost_proto::{
    Datatype, ENCODED_IMAGE_PROPERTY, IMAGE_FORMATS_PROPERTY, Tensor, TensorData,
    WEIGHTS_DIGEST_PROPERTY,
    inference::{
        InferParameter, ModelInferRequest, ModelInferResponse, ModelMetadataRequest,
        ModelMetadataResponse, ModelReadyRequest, ModelReadyResponse, ModelStatisticsRequest,
        ModelStatisticsResponse, RepositoryIndexRequest, RepositoryIndexResponse,
        RepositoryModelLoadRequest, RepositoryModelLoadResponse, RepositoryModelUnloadRequest,
        RepositoryModelUnloadResponse, ServerLiveRequest, ServerLiveResponse,
        ServerMetadataRequest, ServerMetadataResponse, ServerReadyRequest, ServerReadyResponse,
        grpc_inference_service_server::GrpcInferenceService,
        model_metadata_response::TensorMetadata, repository_index_response::ModelIndex,
    },
    parameter, tensor,
};
use outpost_runtime::{DECODED_FORMATS, OpenError};
use outpost_transport::{Deadline, EarlyData, Protocol};
use prost::Message;
use tokio::task::spawn_blocking;
use tonic::{Request, Response, Status, metadata::MetadataValue};
use tracing::{
    Instrument, debug_span,
    field::{self, Empty},
};

use crate::{
    access::{Caller, Permission},
    batching::Batcher,
    cascade::{self, CascadeModel},
    config::Limits,
    error::ServiceError,
    input,
    metrics::Metrics,
    model::Model,
    operations::Ready,
    repository::{Found, LoadError, Repository, RepositoryError},
    statistics::RequestTimes,
    workers::Workers,
};

/// Response header that tells a caller where the time went, in milliseconds, in the syntax of the
/// W3C's Server-Timing.
pub const SERVER_TIMING: &str = "server-timing";

/// Extensions of the protocol that are served, by the names that Triton gives them.
const EXTENSIONS: [&str; 3] = [
    "model_repository",
    "model_repository(unload_dependents)",
    "statistics",
];
/// A parameter of unloading that clients send whether they mean it or not; no network depends on another.
const UNLOAD_DEPENDENTS: &str = "unload_dependents";

/// The protocol's service over a repository of models.
pub struct InferenceService {
    repository: Arc<Repository>,
    decoders: Workers,
    limits: Limits,
    metrics: Metrics,
    ready: Ready,
}

impl InferenceService {
    /// Serves what the repository holds, within `limits`, while it is `ready`.
    pub fn new(
        repository: Arc<Repository>,
        limits: Limits,
        metrics: Metrics,
        ready: Ready,
    ) -> Self {
        Self {
            repository,
            decoders: Workers::new(limits.decoders),
            limits,
            metrics,
            ready,
        }
    }

    async fn infer(
        &self,
        request: ModelInferRequest,
        found: &Found,
        call: &Call,
    ) -> Result<Response<ModelInferResponse>, ServiceError> {
        let model = &found.model;
        let manifest = model.manifest();
        if let Some(asked) = request.outputs.iter().find(|o| o.name != model.output()) {
            return Err(ServiceError::NoSuchOutput {
                asked: asked.name.clone(),
                gives: model.output().to_owned(),
            });
        }
        let (id, name) = (request.id.clone(), request.model_name.clone());
        let entry = entry_parameter(&request)?;
        // FP16 inputs are raw by necessity, and so is their answer.
        let kind = tensor::contents_kind(&request);
        let tensor = input::only_input(manifest, tensor::take_inputs(request)?)?;
        let images = input::image_count(&tensor, &self.limits)?;
        if let Some(caller) = &call.caller {
            caller.take(images)?;
            self.metrics.admitted(caller.name(), images);
        }
        let (output, decided_by, times) = match model {
            Model::Network(batcher) => {
                let (output, times) = self.run(batcher, tensor, images, call).await?;
                (output, None, times)
            }
            Model::Cascade(cascade) => {
                let entry = cascade.entry(entry.as_deref())?;
                let (output, decided_by, times) =
                    self.run_cascade(cascade, entry, tensor, call).await?;
                (output, Some(decided_by), times)
            }
        };
        model.metrics().request(times.queued, times.decoded);
        model.statistics().answered(times);
        let timing = format!(
            "queue;dur={:.3}, decode;dur={:.3}, infer;dur={:.3}, total;dur={:.3}",
            milliseconds(times.queued),
            milliseconds(times.decoded),
            milliseconds(times.computed),
            milliseconds(times.total),
        );
        let version = found.version.to_string();
        let mut message = tensor::infer_response(&name, &version, &id, [output], kind);
        message.parameters.extend(decided_by);
        let mut response = Response::new(message);
        if let Ok(timing) = MetadataValue::try_from(timing) {
            response.metadata_mut().insert(SERVER_TIMING, timing);
        }
        Ok(response)
    }

    /// Decodes, waits for a turn, runs. The time that is neither decoding nor the network's is the
    /// queue's.
    async fn run(
        &self,
        batcher: &Batcher,
        tensor: Tensor,
        images: usize,
        call: &Call,
    ) -> Result<(Tensor, RequestTimes), ServiceError> {
        let &Call {
            received, deadline, ..
        } = call;
        let places = batcher.admit(images)?;
        let model = batcher.model().clone();
        let image_limits = self.limits.image();
        let (images, decoded, waited) = self
            .decode(call, move || {
                input::prepare(&model, tensor, &image_limits, deadline)
            })
            .await?;
        let span = debug_span!("batch", queued_ms = Empty, computed_ms = Empty);
        let scores = batcher.run(images, deadline, places);
        let scores = scores.instrument(span.clone()).await?;
        span.record("queued_ms", milliseconds(scores.queued));
        span.record("computed_ms", milliseconds(scores.computed));
        let shape = scores.rows.shape().to_vec();
        let (rows, _) = scores.rows.into_raw_vec_and_offset();
        let name = batcher.model().manifest().output.tensor.clone();
        let output = Tensor::new(name, shape, TensorData::Fp32(rows))?;
        let times = RequestTimes {
            total: received.elapsed(),
            queued: waited + scores.queued,
            decoded,
            computed: scores.computed,
        };
        Ok((output, times))
    }

    /// Decodes and takes each image through the cascade.
    async fn run_cascade(
        &self,
        cascade: &CascadeModel,
        entry: NodeId,
        tensor: Tensor,
        call: &Call,
    ) -> Result<(Tensor, (String, InferParameter), RequestTimes), ServiceError> {
        let deadline = call.deadline;
        let limits = self.limits.image();
        let images = input::undecoded(tensor, &limits)?;
        let _places = cascade.admit(images.len())?;
        let waited = call.received.elapsed();
        let request = cascade::Request {
            entry,
            deadline,
            limits,
            decoders: &self.decoders,
        };
        let answers = cascade.run(images, request).await?;
        let times = RequestTimes {
            total: call.received.elapsed(),
            queued: waited + answers.queued,
            decoded: answers.decoded,
            computed: answers.computed,
        };
        Ok((
            answers.output(cascade.classes())?,
            answers.decided_by(),
            times,
        ))
    }

    /// Makes something of a request's tensor on a decoder's thread; gives the time that it took, and the time
    /// from the request's arrival until it began.
    async fn decode<T: Send + 'static>(
        &self,
        call: &Call,
        work: impl FnOnce() -> Result<T, ServiceError> + Send + 'static,
    ) -> Result<(T, Duration, Duration), ServiceError> {
        let &Call {
            received, deadline, ..
        } = call;
        self.decoders
            .run(move || {
                input::check_deadline(deadline)?;
                let started = Instant::now();
                let made = work()?;
                Ok((made, started.elapsed(), started.duration_since(received)))
            })
            .instrument(debug_span!("decode"))
            .await
    }

    /// A network that the caller may use. Where there is none, it is told of those that it may.
    fn find(&self, call: &Call, name: &str, version: &str) -> Result<Found, ServiceError> {
        call.check_use(name)?;
        self.repository.find(name, version).map_err(|mut error| {
            if let ServiceError::NoSuchModel { present, .. } = &mut error {
                present.retain(|name| call.may_use(name));
            }
            error
        })
    }

    /// Whether callers may change what is served, by a call with these arguments.
    fn check_change<'a>(
        &self,
        repository: &str,
        parameters: impl IntoIterator<Item = &'a String>,
        known: &[&str],
    ) -> Result<(), ServiceError> {
        self.repository.check_explicit()?;
        Ok(check_repository_call(repository, parameters, known)?)
    }

    /// Runs what reads files or loads networks off the async threads.
    async fn with_repository<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Repository) -> T + Send + 'static,
    ) -> Result<T, ServiceError> {
        let repository = self.repository.clone();
        spawn_blocking(move || work(&repository))
            .await
            .map_err(|_| ServiceError::WorkerLost)
    }
}

/// The node of a cascade that a request asks to begin with.
pub(crate) fn entry_parameter(request: &ModelInferRequest) -> Result<Option<String>, ServiceError> {
    let Some(entry) = request.parameters.get(ENTRY_PARAMETER) else {
        return Ok(None);
    };
    match parameter::text(entry) {
        Some(name) => Ok(Some(name.to_owned())),
        None => Err(ServiceError::EntryType),
    }
}

/// What a call brings beside its message.
struct Call {
    received: Instant,
    deadline: Option<Deadline>,
    /// Who it is from, where the service knows its callers; else anybody, who may do anything.
    caller: Option<Arc<Caller>>,
}

impl Call {
    fn of<T>(request: &Request<T>) -> Self {
        Self {
            received: Instant::now(),
            deadline: request.extensions().get().copied(),
            caller: request.extensions().get().cloned(),
        }
    }

    fn may_use(&self, network: &str) -> bool {
        let caller = self.caller.as_ref();
        caller.is_none_or(|caller| caller.may_use(network))
    }

    /// Whether the caller may anything at all.
    fn check_known(&self) -> Result<(), ServiceError> {
        let permissions = [Permission::Infer, Permission::Manage];
        match &self.caller {
            Some(caller) if !permissions.iter().any(|&one| caller.may(one)) => {
                Err(ServiceError::Forbidden {
                    identity: caller.name().to_owned(),
                    permission: Permission::Infer.as_str(),
                })
            }
            _ => Ok(()),
        }
    }

    /// Whether the caller may ask for more than answers.
    fn check_overview(&self) -> Result<(), ServiceError> {
        match &self.caller {
            Some(caller) if caller.is_page() => Err(ServiceError::BeyondPage),
            _ => Ok(()),
        }
    }

    /// Whether the caller may use the network. It is not told whether there is one that it may not use.
    fn check_use(&self, network: &str) -> Result<(), ServiceError> {
        self.check(Permission::Infer, network)
    }

    /// Whether the caller may load and unload the network.
    fn check_management(&self, network: &str) -> Result<(), ServiceError> {
        self.check(Permission::Manage, network)?;
        if let Some(caller) = &self.caller {
            tracing::info!(identity = caller.name(), network, "manages");
        }
        Ok(())
    }

    fn check(&self, permission: Permission, network: &str) -> Result<(), ServiceError> {
        let Some(caller) = &self.caller else {
            return Ok(());
        };
        let identity = || caller.name().to_owned();
        if !caller.may(permission) {
            return Err(ServiceError::Forbidden {
                identity: identity(),
                permission: permission.as_str(),
            });
        }
        if !caller.may_use(network) {
            return Err(ServiceError::NetworkForbidden {
                identity: identity(),
                network: network.to_owned(),
            });
        }
        Ok(())
    }
}

/// There is one repository, without a name, and loading takes no parameters.
fn check_repository_call<'a>(
    repository: &str,
    parameters: impl IntoIterator<Item = &'a String>,
    known: &[&str],
) -> Result<(), RepositoryError> {
    if !repository.is_empty() {
        return Err(RepositoryError::NoSuchRepository(repository.to_owned()));
    }
    match parameters
        .into_iter()
        .find(|name| !known.contains(&name.as_str()))
    {
        Some(unknown) => Err(RepositoryError::Parameter(unknown.clone())),
        None => Ok(()),
    }
}

#[tonic::async_trait]
impl GrpcInferenceService for InferenceService {
    async fn server_live(
        &self,
        _request: Request<ServerLiveRequest>,
    ) -> Result<Response<ServerLiveResponse>, Status> {
        Ok(Response::new(ServerLiveResponse { live: true }))
    }

    async fn server_ready(
        &self,
        _request: Request<ServerReadyRequest>,
    ) -> Result<Response<ServerReadyResponse>, Status> {
        let ready = self.ready.get();
        Ok(Response::new(ServerReadyResponse { ready }))
    }

    async fn model_ready(
        &self,
        request: Request<ModelReadyRequest>,
    ) -> Result<Response<ModelReadyResponse>, Status> {
        let call = Call::of(&request);
        let ModelReadyRequest { name, version } = request.into_inner();
        self.find(&call, &name, &version)?;
        let ready = self.ready.get();
        Ok(Response::new(ModelReadyResponse { ready }))
    }

    async fn server_metadata(
        &self,
        _request: Request<ServerMetadataRequest>,
    ) -> Result<Response<ServerMetadataResponse>, Status> {
        Ok(Response::new(ServerMetadataResponse {
            name: "outpost-cloud-service".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            extensions: EXTENSIONS.map(str::to_owned).to_vec(),
        }))
    }

    async fn model_metadata(
        &self,
        request: Request<ModelMetadataRequest>,
    ) -> Result<Response<ModelMetadataResponse>, Status> {
        let call = Call::of(&request);
        let ModelMetadataRequest { name, version } = request.into_inner();
        let found = self.find(&call, &name, &version)?;
        let manifest = found.model.manifest();
        let size = i64::from(manifest.input.size);
        let fp32 = |name: &str, shape| TensorMetadata {
            name: name.to_owned(),
            datatype: Datatype::Fp32.as_str().to_owned(),
            shape,
        };
        let tensor = &manifest.input.tensor;
        let (platform, input) = match &found.model {
            Model::Network(_) => (
                self.repository.platform(&name),
                fp32(tensor, vec![-1, 3, size, size]),
            ),
            Model::Cascade(_) => {
                let encoded = TensorMetadata {
                    datatype: Datatype::Bytes.as_str().to_owned(),
                    ..fp32(tensor, vec![-1])
                };
                ("outpost_cascade", encoded)
            }
        };
        let mut properties = HashMap::from([
            (
                ENCODED_IMAGE_PROPERTY.to_owned(),
                Datatype::Bytes.as_str().to_owned(),
            ),
            (IMAGE_FORMATS_PROPERTY.to_owned(), DECODED_FORMATS.join(",")),
        ]);
        // Of a cascade there are several.
        if let Model::Network(_) = &found.model {
            let digest = manifest.sha256.clone();
            properties.insert(WEIGHTS_DIGEST_PROPERTY.to_owned(), digest);
        }
        let all = self.repository.find_all(&name, "")?;
        Ok(Response::new(ModelMetadataResponse {
            name,
            versions: all.iter().map(|found| found.version.to_string()).collect(),
            platform: platform.to_owned(),
            inputs: vec![input],
            outputs: vec![fp32(
                found.model.output(),
                vec![-1, manifest.output.classes as i64],
            )],
            properties,
        }))
    }

    async fn model_infer(
        &self,
        request: Request<ModelInferRequest>,
    ) -> Result<Response<ModelInferResponse>, Status> {
        let call = Call::of(&request);
        let transport = request.extensions().get::<Protocol>().copied();
        let span = debug_span!(
            "infer",
            otel.kind = "server",
            otel.status_code = Empty,
            model = request.get_ref().model_name,
            transport = transport.map(|transport| transport.as_str()),
            identity = call.caller.as_ref().map(|caller| caller.name()),
            error = Empty,
        );
        outpost_telemetry::follow(&span, request.metadata());
        if request.extensions().get::<EarlyData>().is_some() {
            self.metrics.came_early();
        }
        let request = request.into_inner();
        let model = request.model_name.clone();
        let found = self.find(&call, &model, &request.model_version);
        let served = found.is_ok().then_some(&*model);
        let counted = self
            .metrics
            .request(served, transport, call.deadline, request.encoded_len());
        let answered = match found {
            Ok(found) => {
                let answered = self.infer(request, &found, &call);
                let answered = answered.instrument(span.clone()).await;
                if answered.is_err() {
                    found.model.statistics().failed(call.received.elapsed());
                }
                answered
            }
            Err(error) => Err(error),
        };
        match answered {
            Ok(response) => {
                counted.answered(response.get_ref().encoded_len());
                Ok(response)
            }
            Err(error) => {
                tracing::debug!(%model, %error, "refused");
                span.record("otel.status_code", "ERROR");
                span.record("error", field::display(&error));
                counted.failed(&error);
                Err(error.into())
            }
        }
    }

    async fn model_statistics(
        &self,
        request: Request<ModelStatisticsRequest>,
    ) -> Result<Response<ModelStatisticsResponse>, Status> {
        let call = Call::of(&request);
        call.check_overview()?;
        let ModelStatisticsRequest { name, version } = request.into_inner();
        let found = if name.is_empty() {
            call.check_known()?;
            let mut all = self.repository.all(&version);
            all.retain(|(name, _)| call.may_use(name));
            all
        } else {
            self.find(&call, &name, &version)?;
            let found = self.repository.find_all(&name, &version)?;
            found
                .into_iter()
                .map(|found| (name.clone(), found))
                .collect()
        };
        let model_stats = found
            .iter()
            .map(|(name, found)| found.model.statistics().message(name, found.version))
            .collect();
        Ok(Response::new(ModelStatisticsResponse { model_stats }))
    }

    async fn repository_index(
        &self,
        request: Request<RepositoryIndexRequest>,
    ) -> Result<Response<RepositoryIndexResponse>, Status> {
        let call = Call::of(&request);
        let request = request.into_inner();
        call.check_overview()?;
        call.check_known()?;
        check_repository_call(&request.repository_name, [], &[]).map_err(ServiceError::from)?;
        let index = self.with_repository(Repository::index).await?;
        let models = index
            .into_iter()
            .filter(|indexed| call.may_use(&indexed.name))
            .filter(|indexed| indexed.is_ready || !request.ready)
            .map(|indexed| ModelIndex {
                name: indexed.name,
                version: indexed.version.map(|v| v.to_string()).unwrap_or_default(),
                state: if indexed.is_ready {
                    "READY"
                } else {
                    "UNAVAILABLE"
                }
                .to_owned(),
                reason: indexed.reason,
            })
            .collect();
        Ok(Response::new(RepositoryIndexResponse { models }))
    }

    async fn repository_model_load(
        &self,
        request: Request<RepositoryModelLoadRequest>,
    ) -> Result<Response<RepositoryModelLoadResponse>, Status> {
        let call = Call::of(&request);
        let request = request.into_inner();
        call.check_management(&request.model_name)?;
        self.check_change(&request.repository_name, request.parameters.keys(), &[])?;
        let loaded = self
            .with_repository(move |repository| repository.load_network(&request.model_name))
            .await?;
        if let Err(mut error) = loaded {
            if let LoadError::Open(OpenError::NoSuchNetwork { present, .. }) = &mut error {
                present.retain(|name| call.may_use(name));
            }
            return Err(ServiceError::from(RepositoryError::from(error)).into());
        }
        Ok(Response::new(RepositoryModelLoadResponse {}))
    }

    async fn repository_model_unload(
        &self,
        request: Request<RepositoryModelUnloadRequest>,
    ) -> Result<Response<RepositoryModelUnloadResponse>, Status> {
        let call = Call::of(&request);
        let request = request.into_inner();
        call.check_management(&request.model_name)?;
        let known = [UNLOAD_DEPENDENTS];
        self.check_change(&request.repository_name, request.parameters.keys(), &known)?;
        self.with_repository(move |repository| repository.unload_network(&request.model_name))
            .await?;
        Ok(Response::new(RepositoryModelUnloadResponse {}))
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
