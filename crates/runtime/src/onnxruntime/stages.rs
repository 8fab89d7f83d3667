//! Networks in stages on ONNX Runtime: every stage is a graph with sessions of its own, cut out of the network's as for
//! tract, and the activations go from one to the next as ONNX Runtime's own tensors, without a copy.

use std::{borrow::Cow, mem, sync::Arc};

use ndarray::{Array4, ArrayViewMut3, Axis};
use ort::{
    session::Session,
    value::{DynValue, TensorElementType, TensorRef, ValueType},
};
use prost::Message;
use tract_onnx::pb::{
    GraphProto, ModelProto, TensorShapeProto, TypeProto,
    tensor_proto::DataType,
    tensor_shape_proto::{Dimension, dimension},
    type_proto,
};

use super::{OnnxRuntime, sessions::Sessions};
use crate::{
    cut::{check, cut},
    network::{
        ExitOutput, InferError, LoadError, StageSpec, StagedNetwork, StagedRun, StagedSpec,
        vector_width,
    },
};

/// The oldest version of the format in which a weight need not be an input too: cutting leaves inputs out.
const WEIGHTS_ALONE: i64 = 4;

pub(super) struct OnnxStages {
    input_shape: [usize; 3],
    feature_widths: Vec<Option<usize>>,
    stages: Arc<[Stage]>,
}

struct Stage {
    /// Name of what it takes.
    input: String,
    spec: StageSpec,
    sessions: Sessions,
}

struct OnnxRun {
    stages: Arc<[Stage]>,
    next: usize,
    /// What the next stage takes.
    input: Option<Input>,
}

enum Input {
    /// The first takes the image.
    Image(Array4<f32>),
    /// Another what the one before it left.
    Activations(DynValue),
}

impl OnnxStages {
    /// Cuts the stages out of a model and makes sessions for each.
    pub(super) fn load(
        runtime: &OnnxRuntime,
        onnx: &[u8],
        spec: &StagedSpec,
    ) -> Result<Self, LoadError> {
        let mut proto =
            ModelProto::decode(onnx).map_err(|error| LoadError::NotOnnx(error.into()))?;
        let mut graph = proto.graph.take().unwrap_or_default();
        check(&graph, spec)?;
        proto.ir_version = proto.ir_version.max(WEIGHTS_ALONE);
        let [channels, height, width] = spec.input_shape;
        let mut shape = vec![1, channels, height, width];
        let mut input = spec.input.as_str();
        let mut stages = Vec::new();
        let mut feature_widths = Vec::new();
        for (index, stage) in spec.stages.iter().enumerate() {
            let from = match index + 1 == spec.stages.len() {
                true => Cow::Owned(mem::take(&mut graph)),
                false => Cow::Borrowed(&graph),
            };
            let part = ModelProto {
                graph: Some(part(from, input, &shape, stage)?),
                ..proto.clone()
            };
            let encoded = part.encode_to_vec();
            drop(part);
            let sessions = runtime.sessions(&encoded)?;
            let first = &sessions[0];
            let classes = f32_shape(first, &stage.logits).map(|shape| shape.iter().product());
            if classes != Some(spec.classes) {
                return Err(LoadError::Classes {
                    tensor: stage.logits.clone(),
                    expected: spec.classes,
                    found: classes,
                });
            }
            feature_widths.push(match &stage.features {
                None => None,
                Some(name) => {
                    let width = f32_shape(first, name).and_then(|shape| vector_width(&shape));
                    Some(width.ok_or_else(|| LoadError::Features(name.clone()))?)
                }
            });
            let taken = input.to_owned();
            if let Some(activations) = &stage.activations {
                shape = f32_shape(first, activations)
                    .ok_or_else(|| LoadError::Activations(activations.clone()))?;
                input = activations;
            }
            stages.push(Stage {
                input: taken,
                spec: stage.clone(),
                sessions: Sessions::new(sessions),
            });
        }
        Ok(Self {
            input_shape: spec.input_shape,
            feature_widths,
            stages: stages.into(),
        })
    }
}

impl StagedNetwork for OnnxStages {
    fn feature_widths(&self) -> &[Option<usize>] {
        &self.feature_widths
    }

    fn start(
        &self,
        fill: &mut dyn FnMut(ArrayViewMut3<'_, f32>),
    ) -> Result<Box<dyn StagedRun>, InferError> {
        let [channels, height, width] = self.input_shape;
        let mut image = Array4::zeros((1, channels, height, width));
        fill(image.index_axis_mut(Axis(0), 0));
        Ok(Box::new(OnnxRun {
            stages: self.stages.clone(),
            next: 0,
            input: Some(Input::Image(image)),
        }))
    }
}

impl StagedRun for OnnxRun {
    fn advance(&mut self) -> Result<ExitOutput, InferError> {
        let (Some(stage), Some(input)) = (self.stages.get(self.next), self.input.take()) else {
            return Err(InferError::Finished);
        };
        self.next += 1;
        let ran = stage.sessions.with(|session| stage.run(session, &input));
        let (output, activations) = ran.map_err(|error| InferError::Runtime(error.into()))?;
        self.input = activations.map(Input::Activations);
        Ok(output)
    }
}

impl Stage {
    /// Gives what leaves, and what the next stage takes; nothing for that after the last.
    fn run(
        &self,
        session: &mut Session,
        input: &Input,
    ) -> Result<(ExitOutput, Option<DynValue>), ort::Error> {
        let name = self.input.as_str();
        let mut outputs = match input {
            Input::Image(image) => {
                let values = image.as_slice().expect("in standard layout");
                let tensor = TensorRef::from_array_view((image.shape().to_vec(), values))?;
                session.run(ort::inputs![name => tensor])?
            }
            Input::Activations(activations) => session.run(ort::inputs![name => activations])?,
        };
        let values = |name: &str| {
            let (_, values) = outputs[name].try_extract_tensor::<f32>()?;
            Ok::<_, ort::Error>(values.to_vec())
        };
        let output = ExitOutput {
            scores: values(&self.spec.logits)?,
            features: self.spec.features.as_deref().map(values).transpose()?,
        };
        let activations = self.spec.activations.as_ref();
        Ok((output, activations.and_then(|name| outputs.remove(name))))
    }
}

/// The graph of a stage, whose input has its shape, so that all others follow.
fn part(
    graph: Cow<'_, GraphProto>,
    input: &str,
    shape: &[usize],
    stage: &StageSpec,
) -> Result<GraphProto, LoadError> {
    let mut part = cut(graph, input, &stage.outputs())?;
    let dimensions = shape.iter().map(|&size| Dimension {
        value: Some(dimension::Value::DimValue(size as i64)),
        ..Default::default()
    });
    let tensor = type_proto::Tensor {
        elem_type: DataType::Float as i32,
        shape: Some(TensorShapeProto {
            dim: dimensions.collect(),
        }),
    };
    part.input[0].r#type = Some(TypeProto {
        value: Some(type_proto::Value::TensorType(tensor)),
        ..Default::default()
    });
    Ok(part)
}

/// The shape of an output; `None` where it varies, holds no f32 or is not there.
fn f32_shape(session: &Session, output: &str) -> Option<Vec<usize>> {
    let mut outputs = session.outputs().iter();
    match outputs.find(|outlet| outlet.name() == output)?.dtype() {
        ValueType::Tensor {
            ty: TensorElementType::Float32,
            shape,
            ..
        } => shape
            .iter()
            .map(|&size| usize::try_from(size).ok())
            .collect(),
        _ => None,
    }
}
