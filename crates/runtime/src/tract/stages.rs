//! Networks in stages on tract: every stage is a plan of its own, and the activations go from one to
//! the next as tract's own tensors, without a copy.

use std::sync::Arc;

use ndarray::Array4;
use tract_onnx::pb::{GraphProto, ModelProto};
use tract_onnx::prelude::{
    Datum, DatumType, Framework, InferenceFact, InferenceModelExt, IntoRunnable, IntoTensor,
    TValue, TVec, TractError, TractResult, TypedRunnableModel, tvec,
};

use super::{cut::cut, not_onnx, unsupported};
use crate::network::{
    ExitOutput, InferError, LoadError, StageSpec, StagedNetwork, StagedRun, StagedSpec,
};

pub(super) struct TractStages {
    input_shape: [usize; 3],
    feature_widths: Vec<Option<usize>>,
    plans: Arc<[Plan]>,
}

/// One stage. Outputs: the scores, the features where there are any, the activations unless last.
struct Plan {
    plan: Arc<TypedRunnableModel>,
    features: bool,
}

struct TractRun {
    plans: Arc<[Plan]>,
    next: usize,
    /// What the next stage takes.
    activations: Option<TValue>,
}

impl TractStages {
    /// Cuts and compiles the stages of the model `proto`, whose graph is `graph`.
    pub(super) fn load(
        proto: &ModelProto,
        graph: &GraphProto,
        spec: &StagedSpec,
    ) -> Result<Self, LoadError> {
        let [channels, height, width] = spec.input_shape;
        let mut shape: TVec<usize> = tvec!(1, channels, height, width);
        let mut input = spec.input.as_str();
        let mut plans = Vec::new();
        let mut feature_widths = Vec::new();
        for stage in &spec.stages {
            let part = ModelProto {
                graph: Some(cut(graph, input, &outputs(stage))?),
                ..proto.clone()
            };
            let plan = compile(&part, &shape)?;
            check_scores(&plan, &stage.logits, spec.classes)?;
            feature_widths.push(match &stage.features {
                None => None,
                Some(name) => Some(width_of(&plan, name)?),
            });
            if let Some(activations) = &stage.activations {
                let last = plan.model().outputs.len() - 1;
                shape = f32_shape(&plan, last)
                    .ok_or_else(|| LoadError::Activations(activations.clone()))?;
                input = activations;
            }
            plans.push(Plan {
                plan,
                features: stage.features.is_some(),
            });
        }
        Ok(Self {
            input_shape: spec.input_shape,
            feature_widths,
            plans: plans.into(),
        })
    }
}

impl StagedNetwork for TractStages {
    fn feature_widths(&self) -> &[Option<usize>] {
        &self.feature_widths
    }

    fn start(&self, image: Array4<f32>) -> Result<Box<dyn StagedRun>, InferError> {
        if image.shape()[0] != 1 || image.shape()[1..] != self.input_shape {
            return Err(InferError::Shape {
                expected: self.input_shape,
                found: image.shape().to_vec(),
            });
        }
        Ok(Box::new(TractRun {
            plans: self.plans.clone(),
            next: 0,
            activations: Some(image.into_tensor().into()),
        }))
    }
}

impl StagedRun for TractRun {
    fn advance(&mut self) -> Result<ExitOutput, InferError> {
        let (Some(stage), Some(input)) = (self.plans.get(self.next), self.activations.take())
        else {
            return Err(InferError::Finished);
        };
        let last = self.next + 1 == self.plans.len();
        self.next += 1;
        let outputs = stage.plan.run(tvec!(input)).map_err(failed)?;
        let mut outputs = outputs.into_iter();
        let mut next = || outputs.next().expect("a plan gives every output it has");
        let scores = values(&next()).map_err(failed)?;
        let features = match stage.features {
            true => Some(values(&next()).map_err(failed)?),
            false => None,
        };
        self.activations = (!last).then(next);
        Ok(ExitOutput { scores, features })
    }
}

fn outputs(stage: &StageSpec) -> Vec<&str> {
    let names = [
        Some(&stage.logits),
        stage.features.as_ref(),
        stage.activations.as_ref(),
    ];
    names.into_iter().flatten().map(String::as_str).collect()
}

fn compile(part: &ModelProto, shape: &[usize]) -> Result<Arc<TypedRunnableModel>, LoadError> {
    let mut model = tract_onnx::onnx()
        .model_for_proto_model(part)
        .map_err(not_onnx)?;
    model
        .set_input_fact(0, InferenceFact::dt_shape(DatumType::F32, shape))
        .map_err(unsupported)?;
    model
        .into_optimized()
        .and_then(IntoRunnable::into_runnable)
        .map_err(unsupported)
}

/// The first output is one value a class.
fn check_scores(plan: &TypedRunnableModel, tensor: &str, expected: usize) -> Result<(), LoadError> {
    let found = f32_shape(plan, 0).map(|shape| shape.iter().product());
    if found == Some(expected) {
        return Ok(());
    }
    Err(LoadError::Classes {
        tensor: tensor.to_owned(),
        expected,
        found,
    })
}

/// The width of the second output, a vector: one dimension, whatever else has the size 1.
fn width_of(plan: &TypedRunnableModel, features: &str) -> Result<usize, LoadError> {
    let shape = f32_shape(plan, 1).unwrap_or_default();
    let dimensions = shape.iter().filter(|&&size| size != 1).count();
    if shape.is_empty() || dimensions > 1 {
        return Err(LoadError::Features(features.to_owned()));
    }
    Ok(shape.iter().product())
}

/// The shape of an output; `None` where it varies or holds no f32.
fn f32_shape(plan: &TypedRunnableModel, output: usize) -> Option<TVec<usize>> {
    let fact = plan.model().output_fact(output).ok()?;
    let shape = fact.shape.as_concrete()?;
    (fact.datum_type == f32::datum_type()).then(|| shape.into())
}

fn values(tensor: &TValue) -> TractResult<Vec<f32>> {
    Ok(tensor.try_as_plain_ram()?.as_slice::<f32>()?.to_vec())
}

fn failed(error: TractError) -> InferError {
    InferError::Runtime(error.into())
}
