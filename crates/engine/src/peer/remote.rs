//! A network at a server of the Open Inference Protocol: what is asked and what is understood.

use std::{
    sync::{Arc, Mutex, OnceLock},
    time::{Duration, Instant},
};

use outpost_cascade::Link;
use outpost_offload::{Failure, RemoteModel};
use outpost_proto::{
    ContentsKind, Datatype, ENCODED_IMAGE_PROPERTY, IMAGE_FORMATS_PROPERTY, Tensor, TensorData,
    inference::{ModelInferRequest, ModelInferResponse, ModelMetadataResponse},
};
use outpost_runtime::{Fit, Labels, Manifest, Preprocessor};
use outpost_transport::Protocol;
use tokio::sync::OnceCell;
use tonic::Response;

use super::{
    lock,
    packing::{Formats, Packing, SentAs},
};
use crate::picture::Picture;

/// A network at a peer, as its manifest here describes it, or the rest of a cascade that begins with it.
pub(crate) struct RemoteNetwork {
    model: RemoteModel,
    labels: Labels,
    preprocessor: Preprocessor,
    packing: Packing,
    /// What each endpoint tells of the network; asked once, and again where it may be another by now.
    told: Vec<Mutex<Arc<Told>>>,
}

/// What an endpoint tells of a network.
#[derive(Default)]
pub(super) struct Told {
    /// What it takes.
    pub(super) input: OnceCell<RemoteInput>,
    /// The version that answered first.
    version: OnceLock<String>,
}

impl Told {
    /// Whether what was told is about the version that answers.
    pub(super) fn is_about(&self, version: &str) -> bool {
        self.version.get_or_init(|| version.to_owned()) == version
    }

    /// Whether the network takes images rather than tensors; none where that is not told yet.
    fn takes_images(&self) -> Option<bool> {
        let input = self.input.get()?;
        Some(matches!(input.kind, InputKind::Image(_)))
    }
}

/// What a server says that a network takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RemoteInput {
    name: String,
    kind: InputKind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum InputKind {
    Image(Formats),
    Tensor(Datatype),
}

/// A request about an image, and how the image became it.
pub(super) struct Asking {
    pub(super) request: ModelInferRequest,
    pub(super) sent_as: SentAs,
    /// Time that it took.
    pub(super) encoding: Duration,
}

/// What the peer said.
pub(crate) struct Reply {
    pub(crate) said: outpost_offload::Reply,
    /// What carried it.
    pub(super) protocol: Option<Protocol>,
}

impl RemoteNetwork {
    /// A network, or the rest of a cascade, that so many endpoints serve.
    pub(crate) fn new(
        model: RemoteModel,
        labels: Labels,
        packing: Packing,
        endpoints: usize,
    ) -> Self {
        Self {
            packing,
            preprocessor: Preprocessor::new(model.manifest().input.clone()),
            model,
            labels,
            told: (0..endpoints).map(|_| Mutex::default()).collect(),
        }
    }

    pub(crate) fn manifest(&self) -> &Manifest {
        self.model.manifest()
    }

    pub(crate) fn labels(&self) -> &Labels {
        &self.labels
    }

    /// Whether it is the rest of a cascade.
    pub(crate) fn is_cascade(&self) -> bool {
        self.model.is_cascade()
    }

    /// Name of the model at the server.
    pub(crate) fn model(&self) -> &str {
        self.model.name()
    }

    /// What an endpoint has told, or is yet to tell.
    pub(super) fn told(&self, endpoint: usize) -> Arc<Told> {
        lock(&self.told[endpoint]).clone()
    }

    /// Has the endpoint asked again, unless that was done since it told this.
    pub(super) fn forget(&self, endpoint: usize, told: &Arc<Told>) {
        let mut present = lock(&self.told[endpoint]);
        if Arc::ptr_eq(&present, told) {
            *present = Arc::default();
        }
    }

    /// What a server's metadata says that the network takes, where it is this one.
    pub(super) fn input_told(
        &self,
        metadata: &ModelMetadataResponse,
    ) -> Result<RemoteInput, Failure> {
        self.model.check(metadata)?;
        RemoteInput::from_metadata(metadata)
    }

    /// An encoded image under the name of the input tensor.
    pub(super) fn image_input(&self) -> RemoteInput {
        self.input_of(InputKind::Image(Formats::default()))
    }

    /// The input tensor as the manifest has it.
    pub(super) fn tensor_input(&self) -> RemoteInput {
        self.input_of(InputKind::Tensor(Datatype::Fp32))
    }

    fn input_of(&self, kind: InputKind) -> RemoteInput {
        RemoteInput {
            name: self.manifest().input.tensor.clone(),
            kind,
        }
    }

    /// Whether files are sent as they were read, to endpoints that all have told that they take them.
    pub(crate) fn sends_files(&self) -> bool {
        let mut told = self.told.iter().map(|told| lock(told).takes_images());
        self.packing.fit().is_none() && told.all(|takes| takes == Some(true))
    }

    /// What is seen of pixels, where that is what is sent; none where an endpoint has told that it takes tensors.
    pub(crate) fn sees(&self) -> Option<&Fit> {
        let mut told = self.told.iter().map(|told| lock(told).takes_images());
        let fit = self.packing.fit()?;
        told.all(|takes| takes != Some(false)).then_some(fit)
    }

    /// Whether what is sent depends on the link.
    pub(super) fn follows_the_link(&self) -> bool {
        self.packing.follows_the_link()
    }

    /// The request that asks about `picture`, to be sent over `link`. Costs CPU time.
    pub(super) fn request(
        &self,
        input: &RemoteInput,
        picture: &Picture,
        link: Option<&Link>,
    ) -> Result<Asking, Failure> {
        let started = Instant::now();
        let (sent_as, shape, data, contents) = match &input.kind {
            InputKind::Image(formats) => {
                let packed = self.packing.pack(picture, link, formats)?;
                match packed.encoded {
                    // Typed contents carry the file's own bytes, without a copy.
                    Some(encoded) => {
                        let data = TensorData::Bytes(vec![encoded]);
                        (packed.sent_as, vec![1], data, ContentsKind::Typed)
                    }
                    None => {
                        let pixels = picture.pixels().map_err(Failure::unsendable)?;
                        let (width, height) = pixels.dimensions();
                        let shape = vec![1, height as usize, width as usize, 3];
                        let data = TensorData::Uint8(pixels.into_owned().into_raw().into());
                        (packed.sent_as, shape, data, ContentsKind::Raw)
                    }
                }
            }
            InputKind::Tensor(datatype) => {
                let pixels = picture.pixels().map_err(Failure::unsendable)?;
                let input = self
                    .preprocessor
                    .tensor(&pixels)
                    .map_err(Failure::unsendable)?;
                let shape = input.shape().to_vec();
                let (values, _) = input.into_raw_vec_and_offset();
                let data = match datatype {
                    Datatype::Fp16 => {
                        TensorData::Fp16(values.into_iter().map(half::f16::from_f32).collect())
                    }
                    _ => TensorData::Fp32(values),
                };
                (SentAs::Tensor, shape, data, ContentsKind::Raw)
            }
        };
        let tensor = Tensor::new(&input.name, shape, data).map_err(Failure::unsendable)?;
        let request = self.model.request(tensor, contents);
        Ok(Asking {
            request,
            sent_as,
            encoding: started.elapsed(),
        })
    }

    /// What a response says about the image.
    pub(super) fn reply(&self, response: Response<ModelInferResponse>) -> Result<Reply, Failure> {
        let protocol = response.extensions().get::<Protocol>().copied();
        Ok(Reply {
            said: self.model.reply(response)?,
            protocol,
        })
    }
}

impl RemoteInput {
    /// What the server's metadata says that the network takes.
    pub(super) fn from_metadata(metadata: &ModelMetadataResponse) -> Result<Self, Failure> {
        let [input] = &metadata.inputs[..] else {
            return Err(Failure::bad_reply(format!(
                "the server's model {:?} has {} inputs where an image classifier has one",
                metadata.name,
                metadata.inputs.len(),
            )));
        };
        let takes_images = metadata.properties.contains_key(ENCODED_IMAGE_PROPERTY);
        let image = || {
            let listed = metadata.properties.get(IMAGE_FORMATS_PROPERTY);
            InputKind::Image(Formats::listed(listed))
        };
        let kind = match input.datatype.parse() {
            Ok(Datatype::Bytes) => image(),
            Ok(Datatype::Fp32 | Datatype::Fp16 | Datatype::Uint8) if takes_images => image(),
            Ok(datatype @ (Datatype::Fp32 | Datatype::Fp16)) => InputKind::Tensor(datatype),
            _ => {
                return Err(Failure::bad_reply(format!(
                    "the server's model {:?} takes {} where an image classifier takes FP32, FP16 or BYTES",
                    metadata.name, input.datatype,
                )));
            }
        };
        Ok(RemoteInput {
            name: input.name.clone(),
            kind,
        })
    }
}

#[cfg(test)]
mod tests {
    use outpost_proto::WEIGHTS_DIGEST_PROPERTY;

    use super::*;
    use crate::peer::packing::PackingConfig;

    fn network() -> RemoteNetwork {
        let models = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models");
        let folder = outpost_runtime::ModelFolder::new(models);
        let manifest = folder.manifest("efficientnet-lite2").unwrap();
        let labels = folder.labels(&manifest).unwrap();
        RemoteNetwork::new(RemoteModel::new(manifest), labels, Packing::original(), 1)
    }

    #[test]
    fn metadata_of_another_network_is_refused_with_what_differs() {
        use outpost_proto::inference::model_metadata_response::TensorMetadata;
        let network = network();
        let tensor = |name: &str, shape: &[i64]| TensorMetadata {
            name: name.into(),
            datatype: "FP32".into(),
            shape: shape.to_vec(),
        };
        let metadata = |digest: Option<&str>, classes: i64| ModelMetadataResponse {
            name: "efficientnet-lite2".into(),
            inputs: vec![tensor("x", &[-1, 3, 260, 260])],
            outputs: vec![tensor("y", &[-1, classes])],
            properties: digest
                .map(|digest| (WEIGHTS_DIGEST_PROPERTY.to_owned(), digest.to_owned()))
                .into_iter()
                .collect(),
            ..Default::default()
        };
        let here = network.manifest().sha256.clone();
        for fitting in [
            metadata(None, 1000),
            metadata(None, -1),
            metadata(Some(&here), 1000),
        ] {
            assert!(network.input_told(&fitting).is_ok());
        }
        let refused = |metadata: &ModelMetadataResponse| match network.input_told(metadata) {
            Ok(_) => panic!("believed"),
            Err(failure) => failure.source.to_string(),
        };
        let there = "0".repeat(64);
        let said = refused(&metadata(Some(&there), 1000));
        assert!(said.contains(&here) && said.contains(&there), "{said}");
        let said = refused(&metadata(None, 10));
        assert!(
            said.contains("10 classes") && said.contains("1000"),
            "{said}"
        );
        let renamed = ModelMetadataResponse {
            name: "resnet50".into(),
            ..metadata(None, 1000)
        };
        assert!(refused(&renamed).contains("resnet50"));
    }

    #[test]
    fn an_endpoint_is_asked_again_once_another_version_answers() {
        let network = network();
        let told = network.told(0);
        assert!(told.is_about("1") && told.is_about("1"));
        assert!(!told.is_about("2"));
        network.forget(0, &told);
        let again = network.told(0);
        assert!(!Arc::ptr_eq(&told, &again));
        // Who still has the old one changes nothing.
        network.forget(0, &told);
        assert!(Arc::ptr_eq(&again, &network.told(0)));
    }

    #[test]
    fn what_is_sent_is_known_once_every_endpoint_has_told_what_it_takes() {
        let of = |packing| {
            let RemoteNetwork { model, labels, .. } = network();
            RemoteNetwork::new(model, labels, packing, 2)
        };
        let tell = |network: &RemoteNetwork, endpoint, input: RemoteInput| {
            network.told(endpoint).input.set(input).unwrap();
        };
        let files = of(Packing::original());
        assert!(!files.sends_files(), "it may be a tensor");
        tell(&files, 0, files.image_input());
        assert!(!files.sends_files());
        tell(&files, 1, files.image_input());
        assert!(files.sends_files());
        assert_eq!(files.sees(), None);

        let config = PackingConfig {
            encoding: "jpeg@80".parse().unwrap(),
            encoders: None,
            max_accuracy_loss: 1.0,
            keep_metadata: false,
        };
        let manifest = network().manifest().clone();
        let encoded = of(Packing::new(&config, &[&manifest]).unwrap());
        assert_eq!(encoded.sees(), Fit::new([&manifest.input]).as_ref());
        tell(&encoded, 0, encoded.image_input());
        assert!(encoded.sees().is_some() && !encoded.sends_files());
        tell(&encoded, 1, encoded.tensor_input());
        assert_eq!(encoded.sees(), None);
        assert!(!encoded.sends_files());
    }

    #[test]
    fn metadata_says_what_a_server_takes() {
        use outpost_proto::inference::model_metadata_response::TensorMetadata;
        let metadata = |datatype: &str, property: bool| ModelMetadataResponse {
            name: "m".into(),
            inputs: vec![TensorMetadata {
                name: "x".into(),
                datatype: datatype.into(),
                shape: vec![-1],
            }],
            properties: property
                .then(|| (ENCODED_IMAGE_PROPERTY.to_owned(), "BYTES".to_owned()))
                .into_iter()
                .collect(),
            ..Default::default()
        };
        for (datatype, property, kind) in [
            ("FP32", true, InputKind::Image(Formats::default())),
            ("BYTES", false, InputKind::Image(Formats::default())),
            ("FP32", false, InputKind::Tensor(Datatype::Fp32)),
            ("FP16", false, InputKind::Tensor(Datatype::Fp16)),
        ] {
            let Ok(input) = RemoteInput::from_metadata(&metadata(datatype, property)) else {
                panic!("{datatype}");
            };
            assert_eq!(
                input,
                RemoteInput {
                    name: "x".into(),
                    kind
                }
            );
        }
        assert!(RemoteInput::from_metadata(&metadata("FP64", false)).is_err());
        assert!(RemoteInput::from_metadata(&ModelMetadataResponse::default()).is_err());
    }
}
