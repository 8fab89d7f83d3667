//! The Open Inference Protocol, answered from the loaded models.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use outpost_proto::{
    Datatype, ENCODED_IMAGE_PROPERTY, Tensor, TensorData,
    inference::{
        ModelInferRequest, ModelInferResponse, ModelMetadataRequest, ModelMetadataResponse,
        ModelReadyRequest, ModelReadyResponse, ServerLiveRequest, ServerLiveResponse,
        ServerMetadataRequest, ServerMetadataResponse, ServerReadyRequest, ServerReadyResponse,
        grpc_inference_service_server::GrpcInferenceService,
        model_metadata_response::TensorMetadata,
    },
    tensor,
};
use outpost_transport::{Deadline, Protocol};
use prost::Message;
use tonic::{Request, Response, Status, metadata::MetadataValue};

use crate::{
    batching::Batcher,
    config::Limits,
    error::ServiceError,
    input,
    metrics::Metrics,
    models::{Models, VERSION},
    operations::Ready,
    workers::Workers,
};

/// Response header that tells a caller where the time went, in milliseconds, in the syntax of the
/// W3C's Server-Timing.
pub const SERVER_TIMING: &str = "server-timing";

/// The protocol's service over a set of models.
pub struct InferenceService {
    models: Models,
    decoders: Workers,
    limits: Limits,
    metrics: Metrics,
    ready: Ready,
}

/// What inference gave, and how long its parts took.
struct Inferred {
    output: Tensor,
    queued: Duration,
    decoded: Duration,
    computed: Duration,
}

impl InferenceService {
    /// Serves `models`, within `limits`, while it is `ready`.
    pub fn new(models: Models, limits: Limits, metrics: Metrics, ready: Ready) -> Self {
        Self {
            models,
            decoders: Workers::new(limits.decoders),
            limits,
            metrics,
            ready,
        }
    }

    async fn infer(
        &self,
        request: ModelInferRequest,
        deadline: Option<Deadline>,
    ) -> Result<Response<ModelInferResponse>, ServiceError> {
        let received = Instant::now();
        let batcher = self
            .models
            .find(&request.model_name, &request.model_version)?
            .clone();
        let manifest = batcher.model().manifest();
        let output_name = &manifest.output.tensor;
        if let Some(asked) = request.outputs.iter().find(|o| o.name != *output_name) {
            return Err(ServiceError::NoSuchOutput {
                asked: asked.name.clone(),
                gives: output_name.clone(),
            });
        }
        let id = request.id.clone();
        // FP16 inputs are raw by necessity, and so is their answer.
        let kind = tensor::contents_kind(&request);
        let tensor = input::only_input(manifest, tensor::take_inputs(request)?)?;
        input::check_batch_size(&tensor, &self.limits)?;
        let inferred = self.run(&batcher, tensor, received, deadline).await?;
        let timing = format!(
            "queue;dur={:.3}, decode;dur={:.3}, infer;dur={:.3}, total;dur={:.3}",
            milliseconds(inferred.queued),
            milliseconds(inferred.decoded),
            milliseconds(inferred.computed),
            milliseconds(received.elapsed()),
        );
        let mut response = Response::new(tensor::infer_response(
            &manifest.name,
            VERSION,
            &id,
            [inferred.output],
            kind,
        ));
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
        received: Instant,
        deadline: Option<Deadline>,
    ) -> Result<Inferred, ServiceError> {
        let images = tensor.shape().first().copied().unwrap_or(1);
        let places = batcher.admit(images)?;
        let model = batcher.model().clone();
        let image_limits = self.limits.image();
        let (images, decoded, waited) = self
            .decoders
            .run(move || {
                input::check_deadline(deadline)?;
                let started = Instant::now();
                let images = input::prepare(&model, tensor, &image_limits, deadline)?;
                Ok((images, started.elapsed(), started.duration_since(received)))
            })
            .await?;
        let scores = batcher.run(images, deadline, places).await?;
        let shape = scores.rows.shape().to_vec();
        let (rows, _) = scores.rows.into_raw_vec_and_offset();
        let queued = waited + scores.queued;
        batcher.metrics().request(queued, decoded);
        let name = batcher.model().manifest().output.tensor.clone();
        Ok(Inferred {
            output: Tensor::new(name, shape, TensorData::Fp32(rows))?,
            queued,
            decoded,
            computed: scores.computed,
        })
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
        let ModelReadyRequest { name, version } = request.into_inner();
        self.models.find(&name, &version)?;
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
            extensions: Vec::new(),
        }))
    }

    async fn model_metadata(
        &self,
        request: Request<ModelMetadataRequest>,
    ) -> Result<Response<ModelMetadataResponse>, Status> {
        let ModelMetadataRequest { name, version } = request.into_inner();
        let manifest = self.models.find(&name, &version)?.model().manifest();
        let size = i64::from(manifest.input.size);
        let fp32 = |name: &str, shape| TensorMetadata {
            name: name.to_owned(),
            datatype: Datatype::Fp32.as_str().to_owned(),
            shape,
        };
        Ok(Response::new(ModelMetadataResponse {
            name,
            versions: vec![VERSION.to_owned()],
            platform: "tract_onnx".to_owned(),
            inputs: vec![fp32(&manifest.input.tensor, vec![-1, 3, size, size])],
            outputs: vec![fp32(
                &manifest.output.tensor,
                vec![-1, manifest.output.classes as i64],
            )],
            properties: HashMap::from([(
                ENCODED_IMAGE_PROPERTY.to_owned(),
                Datatype::Bytes.as_str().to_owned(),
            )]),
        }))
    }

    async fn model_infer(
        &self,
        request: Request<ModelInferRequest>,
    ) -> Result<Response<ModelInferResponse>, Status> {
        let deadline = request.extensions().get::<Deadline>().copied();
        let transport = request.extensions().get::<Protocol>().copied();
        let request = request.into_inner();
        let model = request.model_name.clone();
        let served = self.models.find(&model, "").is_ok().then_some(&*model);
        let counted = self
            .metrics
            .request(served, transport, deadline, request.encoded_len());
        match self.infer(request, deadline).await {
            Ok(response) => {
                counted.answered(response.get_ref().encoded_len());
                Ok(response)
            }
            Err(error) => {
                tracing::debug!(%model, %error, "refused");
                counted.failed(&error);
                Err(error.into())
            }
        }
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
