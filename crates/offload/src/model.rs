//! A network at a server of the Open Inference Protocol: what is asked and what is understood.

use std::time::Duration;

use outpost_cascade::{Cascade, Node};
use outpost_proto::{
    ContentsKind, Tensor, TensorData, WEIGHTS_DIGEST_PROPERTY,
    inference::{ModelInferRequest, ModelInferResponse, ModelMetadataResponse},
    parameter, tensor,
};
use outpost_runtime::{Manifest, OutputKind, Probabilities};
use tonic::{Response, metadata::MetadataMap};

use crate::{DECIDED_BY_PARAMETER, DecidedBy, ENTRY_PARAMETER, Failure};

/// A network at a server, as its manifest here describes it, or the rest of a cascade that begins with it.
#[derive(Debug, Clone)]
pub struct RemoteModel {
    manifest: Manifest,
    /// The cascade and the node that it begins with.
    cascade: Option<Rest>,
}

/// The rest of a cascade, which the peer serves as one model.
#[derive(Debug, Clone)]
struct Rest {
    cascade: String,
    entry: String,
}

/// What the peer said.
#[derive(Debug, Clone)]
pub struct Reply {
    /// About the image.
    pub probabilities: Probabilities,
    /// About whose answer it is.
    pub decided_by: Option<DecidedBy>,
    /// About the time it took.
    pub at_peer: Option<Duration>,
    /// Of that, the time in its queues, where it told it.
    pub queued: Option<Duration>,
}

impl RemoteModel {
    /// A network that a server has by the name of its manifest.
    pub fn new(manifest: Manifest) -> Self {
        Self {
            manifest,
            cascade: None,
        }
    }

    /// What a peer is asked for where an image goes on to `node`: its network, or the rest of the cascade where the node decides
    /// there, or the peer passes the image on.
    pub fn of_node(cascade: &Cascade, node: &Node, manifest: Manifest, is_passed_on: bool) -> Self {
        let is_decided_there = !node.jumps().is_empty() || node.exit().is_some();
        let model = Self::new(manifest);
        match is_decided_there || is_passed_on {
            true => model.into_cascade(cascade.name(), node.name()),
            false => model,
        }
    }

    /// The rest of a cascade from the node `entry` on, whose network it is.
    #[must_use]
    pub fn into_cascade(self, cascade: &str, entry: &str) -> Self {
        Self {
            cascade: Some(Rest {
                cascade: cascade.to_owned(),
                entry: entry.to_owned(),
            }),
            ..self
        }
    }

    /// The network's manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Whether it is the rest of a cascade.
    pub fn is_cascade(&self) -> bool {
        self.cascade.is_some()
    }

    /// Name of the model at the server.
    pub fn name(&self) -> &str {
        match &self.cascade {
            Some(rest) => &rest.cascade,
            None => &self.manifest.name,
        }
    }

    /// Whether what a server serves by the name is this network: by its weights, where it tells them, and its classes.
    ///
    /// # Errors
    /// A [`Failure`] that says what differs.
    pub fn check(&self, metadata: &ModelMetadataResponse) -> Result<(), Failure> {
        let manifest = &self.manifest;
        check_name(self.name(), &metadata.name)?;
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

    /// The request that asks about an image, which is in `input`.
    pub fn request(&self, input: Tensor, contents: ContentsKind) -> ModelInferRequest {
        let mut request = tensor::infer_request(self.name(), "", [input], contents);
        if let Some(rest) = &self.cascade {
            let entry = parameter::from_text(&rest.entry);
            request.parameters.insert(ENTRY_PARAMETER.to_owned(), entry);
        }
        request
    }

    /// What a response says about the image.
    ///
    /// # Errors
    /// A [`Failure`] where it makes no sense.
    pub fn reply(&self, response: Response<ModelInferResponse>) -> Result<Reply, Failure> {
        let [at_peer, queued] =
            ["total", "queue"].map(|entry| server_timing(response.metadata(), entry));
        let response = response.into_inner();
        check_name(self.name(), &response.model_name)?;
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
            queued,
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

/// The duration of an entry of a Server-Timing header.
fn server_timing(metadata: &MetadataMap, entry: &str) -> Option<Duration> {
    let header = metadata.get("server-timing")?.to_str().ok()?;
    let milliseconds = header
        .split(',')
        .find_map(|told| told.trim().strip_prefix(entry)?.strip_prefix(";dur="))?;
    Duration::try_from_secs_f64(milliseconds.parse::<f64>().ok()? / 1e3).ok()
}

#[cfg(test)]
mod tests {
    use outpost_proto::ContentsKind;

    use super::*;

    fn network() -> RemoteModel {
        let models = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models");
        let folder = outpost_runtime::ModelFolder::new(models);
        RemoteModel::new(folder.manifest("efficientnet-lite2").unwrap())
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
    fn the_clouds_own_time_is_read_from_server_timing_and_nonsense_is_passed_over() {
        let timing = |header: &'static str, entry| {
            let mut metadata = MetadataMap::new();
            metadata.insert("server-timing", header.parse().unwrap());
            server_timing(&metadata, entry)
        };
        let told = "queue;dur=0.1, total;dur=12.5";
        assert_eq!(timing(told, "total"), Some(Duration::from_micros(12_500)));
        assert_eq!(timing(told, "queue"), Some(Duration::from_micros(100)));
        assert_eq!(timing(told, "infer"), None);
        for nonsense in [
            "",
            "total;dur=",
            "total;dur=-1",
            "total;dur=NaN",
            "total;dur=1e300",
        ] {
            assert_eq!(timing(nonsense, "total"), None, "{nonsense:?}");
        }
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
    fn the_rest_of_a_cascade_is_asked_for_by_its_name_and_says_who_decided() {
        let rest = network().into_cascade("photos", "efficientnet-lite2");
        let image = TensorData::Bytes(vec![b"a file".as_slice().into()]);
        let image = Tensor::new("image", vec![1], image).unwrap();
        let request = rest.request(image, ContentsKind::Typed);
        assert_eq!(request.model_name, "photos");
        let entry = parameter::text(&request.parameters[ENTRY_PARAMETER]);
        assert_eq!(entry, Some("efficientnet-lite2"));
        let mut probabilities = vec![0.0; 1000];
        probabilities[3] = 1.0;
        let outputs = vec![output("probabilities", TensorData::Fp32(probabilities))];
        let mut response = tensor::infer_response("photos", "1", "", outputs, ContentsKind::Raw);
        let decided = parameter::from_text("cloud/efficientnet-lite2");
        response
            .parameters
            .insert(DECIDED_BY_PARAMETER.to_owned(), decided);
        let reply = rest.reply(Response::new(response)).unwrap();
        assert_eq!(reply.probabilities.top1().class_id.0, 3);
        assert_eq!(reply.decided_by.unwrap().site, outpost_cascade::Site::Cloud);
    }
}
