//! What a service says about itself and its models, asked without an image: for those who check a device.

use std::time::{Duration, Instant, SystemTime};

use outpost_proto::{
    WEIGHTS_DIGEST_PROPERTY,
    inference::{
        ModelMetadataRequest, ServerLiveRequest,
        grpc_inference_service_client::GrpcInferenceServiceClient,
    },
};
use outpost_transport::Channel;
use tonic::{Request, Status, metadata::MetadataMap};

/// How long a question may take: longer than anybody would wait for an answer to an image.
const PATIENCE: Duration = Duration::from_secs(10);

/// What came of a question.
#[derive(Debug)]
pub struct Answer<T> {
    /// What the service said.
    pub said: Result<T, Status>,
    /// From asking to the answer.
    pub round_trip: Duration,
    /// The service's clock, to the second, where it told it.
    pub date: Option<SystemTime>,
}

/// A model, as a service describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServedModel {
    /// Its versions.
    pub versions: Vec<String>,
    /// SHA-256 of its weights, where the service tells.
    pub sha256: Option<String>,
}

/// Asks whether a service is there.
pub async fn ask_whether_live(channel: &Channel) -> Answer<()> {
    let mut client = GrpcInferenceServiceClient::new(channel.clone());
    let asked = Instant::now();
    let said = client.server_live(request(ServerLiveRequest {})).await;
    answer(asked, said, |_| ())
}

/// Asks what a service says about a model.
pub async fn ask_about_model(channel: &Channel, model: &str) -> Answer<ServedModel> {
    let mut client = GrpcInferenceServiceClient::new(channel.clone());
    let asked = Instant::now();
    let said = client
        .model_metadata(request(ModelMetadataRequest {
            name: model.to_owned(),
            version: String::new(),
        }))
        .await;
    answer(asked, said, |mut metadata| ServedModel {
        versions: metadata.versions,
        sha256: metadata.properties.remove(WEIGHTS_DIGEST_PROPERTY),
    })
}

fn request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(PATIENCE);
    request
}

fn answer<M, T>(
    asked: Instant,
    said: Result<tonic::Response<M>, Status>,
    read: impl FnOnce(M) -> T,
) -> Answer<T> {
    let round_trip = asked.elapsed();
    let date = match &said {
        Ok(response) => date(response.metadata()),
        Err(status) => date(status.metadata()),
    };
    Answer {
        said: said.map(|response| read(response.into_inner())),
        round_trip,
        date,
    }
}

fn date(metadata: &MetadataMap) -> Option<SystemTime> {
    httpdate::parse_http_date(metadata.get("date")?.to_str().ok()?).ok()
}
