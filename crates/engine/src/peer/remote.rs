//! A network at a server of the Open Inference Protocol: what is asked and what is understood.

use std::{
    fmt,
    str::FromStr,
    sync::{Arc, Mutex, OnceLock},
    time::{Duration, Instant},
};

use outpost_cascade::{Link, Site};
use outpost_proto::{
    ContentsKind, Datatype, ENCODED_IMAGE_PROPERTY, IMAGE_FORMATS_PROPERTY, Tensor, TensorData,
    WEIGHTS_DIGEST_PROPERTY,
    inference::{ModelInferRequest, ModelInferResponse, ModelMetadataResponse},
    parameter, tensor,
};
use outpost_runtime::{Labels, Manifest, OutputKind, Preprocessor, Probabilities};
use outpost_transport::Protocol;
use tokio::sync::OnceCell;
use tonic::{Response, metadata::MetadataMap};

use super::{
    failure::Failure,
    lock,
    packing::{Formats, Packing, SentAs},
};
use crate::{DECIDED_BY_PARAMETER, ENTRY_PARAMETER, picture::Picture};

/// A network at a peer, as its manifest here describes it, or the rest of a cascade that begins with it.
pub(crate) struct RemoteNetwork {
    manifest: Manifest,
    /// The cascade and the node that it begins with.
    cascade: Option<Rest>,
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
}

/// The rest of a cascade, which the peer serves as one model.
struct Rest {
    cascade: String,
    entry: String,
}

/// Whose answer it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecidedBy {
    /// The site.
    pub site: Site,
    /// The node of the cascade.
    pub node: String,
}

impl FromStr for DecidedBy {
    type Err = ();

    /// Reads `SITE/NODE`.
    fn from_str(text: &str) -> Result<Self, ()> {
        let (site, node) = text.split_once('/').ok_or(())?;
        let sites = [Site::Device, Site::Fog, Site::Cloud];
        let site = sites.into_iter().find(|known| known.to_string() == site);
        Ok(Self {
            site: site.ok_or(())?,
            node: node.to_owned(),
        })
    }
}

impl fmt::Display for DecidedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.site, self.node)
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
    /// About the image.
    pub(crate) probabilities: Probabilities,
    /// About whose answer it is.
    pub(super) decided_by: Option<DecidedBy>,
    /// About the time it took.
    pub(super) at_peer: Option<Duration>,
    pub(super) protocol: Option<Protocol>,
}

impl RemoteNetwork {
    /// A network that so many endpoints serve.
    pub(crate) fn new(
        manifest: Manifest,
        labels: Labels,
        packing: Packing,
        endpoints: usize,
    ) -> Self {
        Self {
            packing,
            preprocessor: Preprocessor::new(manifest.input.clone()),
            manifest,
            cascade: None,
            labels,
            told: (0..endpoints).map(|_| Mutex::default()).collect(),
        }
    }

    /// The rest of a cascade from the node `entry` on, whose network it is.
    pub(crate) fn into_cascade(self, cascade: &str, entry: &str) -> Self {
        Self {
            cascade: Some(Rest {
                cascade: cascade.to_owned(),
                entry: entry.to_owned(),
            }),
            ..self
        }
    }

    pub(crate) fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    pub(crate) fn labels(&self) -> &Labels {
        &self.labels
    }

    /// Whether it is the rest of a cascade.
    pub(crate) fn is_cascade(&self) -> bool {
        self.cascade.is_some()
    }

    /// Name of the model at the server.
    pub(crate) fn model(&self) -> &str {
        match &self.cascade {
            Some(rest) => &rest.cascade,
            None => &self.manifest.name,
        }
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
        self.check_network(metadata)?;
        RemoteInput::from_metadata(metadata)
    }

    /// Whether what a server serves by the name is this network: by its weights, where it tells them, and its classes.
    fn check_network(&self, metadata: &ModelMetadataResponse) -> Result<(), Failure> {
        let manifest = &self.manifest;
        check_name(self.model(), &metadata.name)?;
        if self.is_cascade() {
            return Ok(());
        }
        let there = metadata.properties.get(WEIGHTS_DIGEST_PROPERTY);
        if let Some(there) = there.filter(|there| **there != manifest.sha256) {
            return Err(Failure::bad_reply(format!(
                "the server serves another network as {:?}: the SHA-256 of its weights is {there:?}, by the manifest in {} it is \
                 {:?}; serve the same weights there, or take those of the server here",
                manifest.name,
                manifest.folder.display(),
                manifest.sha256,
            )));
        }
        let spec = &manifest.output;
        let count = metadata.outputs.len();
        let output = metadata
            .outputs
            .iter()
            .find(|output| output.name == spec.tensor || count == 1);
        let classes = output.and_then(|output| output.shape.last());
        match classes {
            Some(&classes) if classes > 0 && classes != spec.classes as i64 => {
                Err(Failure::bad_reply(format!(
                    "the server serves another network as {:?}: it tells {classes} classes apart, by the manifest in {} they are {}; \
                     serve the same network there, or take that of the server here",
                    manifest.name,
                    manifest.folder.display(),
                    spec.classes,
                )))
            }
            _ => Ok(()),
        }
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
            name: self.manifest.input.tensor.clone(),
            kind,
        }
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
                        let (width, height) = picture.pixels.dimensions();
                        let shape = vec![1, height as usize, width as usize, 3];
                        let pixels = picture.pixels.as_raw().clone();
                        let data = TensorData::Uint8(pixels.into());
                        (packed.sent_as, shape, data, ContentsKind::Raw)
                    }
                }
            }
            InputKind::Tensor(datatype) => {
                let input = self
                    .preprocessor
                    .tensor(&picture.pixels)
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
        let mut request = tensor::infer_request(self.model(), "", [tensor], contents);
        if let Some(rest) = &self.cascade {
            let entry = parameter::from_text(&rest.entry);
            request.parameters.insert(ENTRY_PARAMETER.to_owned(), entry);
        }
        Ok(Asking {
            request,
            sent_as,
            encoding: started.elapsed(),
        })
    }

    /// What a response says about the image.
    pub(super) fn reply(&self, response: Response<ModelInferResponse>) -> Result<Reply, Failure> {
        let at_peer = total_of_server_timing(response.metadata());
        let protocol = response.extensions().get::<Protocol>().copied();
        let response = response.into_inner();
        check_name(self.model(), &response.model_name)?;
        let decided_by = self.cascade.as_ref().and_then(|_| decided_by(&response));
        let outputs = tensor::take_outputs(response).map_err(Failure::bad_reply)?;
        let spec = &self.manifest.output;
        // A cascade's networks may give either; as one model they give probabilities.
        let kind = match &self.cascade {
            Some(_) => OutputKind::Probabilities,
            None => spec.kind,
        };
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
        let probabilities = Probabilities::from_output(row, kind)
            .ok_or_else(|| Failure::bad_reply("the output is no distribution over classes"))?;
        Ok(Reply {
            probabilities,
            decided_by,
            at_peer,
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

/// Whether a server speaks of the model that it was asked for; one that gives no name is believed.
fn check_name(asked: &str, named: &str) -> Result<(), Failure> {
    if named.is_empty() || named == asked {
        return Ok(());
    }
    Err(Failure::bad_reply(format!(
        "the server was asked for the model {asked:?} and answered for {named:?}: have it serve what it is asked for"
    )))
}

/// Whose answer a cascade's is, where the peer says so.
fn decided_by(response: &ModelInferResponse) -> Option<DecidedBy> {
    let named = response.parameters.get(DECIDED_BY_PARAMETER)?;
    parameter::text(named)?.parse().ok()
}

/// The duration of the entry `total` of a Server-Timing header.
fn total_of_server_timing(metadata: &MetadataMap) -> Option<Duration> {
    let header = metadata.get("server-timing")?.to_str().ok()?;
    let total = header
        .split(',')
        .find_map(|entry| entry.trim().strip_prefix("total;dur="))?;
    Duration::try_from_secs_f64(total.parse::<f64>().ok()? / 1e3).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

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

    fn network() -> RemoteNetwork {
        let models = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models");
        let folder = outpost_runtime::ModelFolder::new(models);
        let manifest = folder.manifest("efficientnet-lite2").unwrap();
        let labels = folder.labels(&manifest).unwrap();
        RemoteNetwork::new(manifest, labels, Packing::original(), 1)
    }

    fn reply_with(outputs: Vec<Tensor>) -> Result<Reply, Failure> {
        reply_for("efficientnet-lite2", outputs)
    }

    fn reply_for(model: &str, outputs: Vec<Tensor>) -> Result<Reply, Failure> {
        let response = tensor::infer_response(model, "1", "", outputs, ContentsKind::Raw);
        network().reply(Response::new(response))
    }

    fn output(name: &str, data: TensorData) -> Tensor {
        Tensor::new(name, vec![1, data.len()], data).unwrap()
    }

    #[test]
    fn a_lone_output_is_understood_by_any_name_and_precision() {
        let mut logits = vec![0.0; 1000];
        logits[7] = 9.0;
        let halves = logits.iter().map(|&value| half::f16::from_f32(value));
        let halves = TensorData::Fp16(halves.collect());
        for data in [TensorData::Fp32(logits.clone()), halves] {
            let Ok(reply) = reply_with(vec![output("renamed", data)]) else {
                panic!("refused");
            };
            assert_eq!(reply.probabilities.top1().class_id.0, 7);
            assert_eq!(reply.at_peer, None);
        }
    }

    #[test]
    fn replies_that_make_no_sense_are_bad_replies() {
        let fp32 = |count| TensorData::Fp32(vec![0.0; count]);
        let mut not_a_number = vec![0.0; 1000];
        not_a_number[3] = f32::NAN;
        for outputs in [
            vec![],
            vec![output("a", fp32(1000)), output("b", fp32(1000))],
            vec![output("logits", fp32(999))],
            vec![output("logits", TensorData::Int64(vec![0; 1000]))],
            vec![output("logits", TensorData::Fp32(not_a_number))],
        ] {
            let Err(failure) = reply_with(outputs) else {
                panic!("understood");
            };
            assert_eq!(failure.cause, outpost_cascade::FallbackCause::BadReply);
        }
    }

    #[test]
    fn a_reply_for_another_model_is_refused_and_both_are_named() {
        let outputs = || vec![output("logits", TensorData::Fp32(vec![0.0; 1000]))];
        assert!(reply_for("", outputs()).is_ok());
        let Err(failure) = reply_for("resnet50", outputs()) else {
            panic!("believed");
        };
        assert_eq!(failure.cause, outpost_cascade::FallbackCause::BadReply);
        let said = failure.source.to_string();
        for model in ["efficientnet-lite2", "resnet50"] {
            assert!(said.contains(model), "{said}");
        }
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
