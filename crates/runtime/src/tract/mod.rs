//! The tract runtime: pure Rust, on the CPU, one thread a call or several that share it.

#[cfg(any(target_arch = "x86_64", target_arch = "wasm32"))]
mod convolution;
#[cfg(feature = "cuda")]
mod device;
mod head;
#[cfg(any(target_arch = "x86_64", target_arch = "wasm32"))]
mod kernel;
mod lrn;
mod planes;
mod pooling;
mod rewrite;
mod session;
mod stages;
mod sums;
mod threads;
mod widen;

use bytes::{Buf, Bytes};
#[cfg(feature = "cuda")]
pub use device::{CudaError, TractCudaRuntime};
use ndarray::{Array2, ArrayView3, ArrayView4, ArrayViewMut1, Axis};
use prost::Message;
use rewrite::rewrite;
use session::{Plan, Session};
use stages::TractStages;
pub use threads::{Threads, ThreadsError};
use tract_onnx::pb::ModelProto;
use tract_onnx::prelude::{
    Datum, DatumType, Framework, InferenceFact, InferenceModel, InferenceModelExt, OutletId, TVec,
    TractError, TractResult, tvec,
};
use tract_onnx::tract_hir::infer::Factoid;

use crate::{
    cut,
    network::{GraphSpec, InferError, LoadError, Network, Runtime, StagedNetwork, StagedSpec},
    spare::Spare,
};

/// As in `Cargo.lock`: the crate does not tell.
const VERSION: &str = "0.23.9";

/// Loads graphs into tract. By default each call is computed by the thread that makes it.
#[derive(Debug, Clone, Default)]
pub struct TractRuntime {
    threads: Threads,
}

/// What a graph declares about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GraphSummary {
    /// Its inputs.
    pub inputs: Vec<TensorSummary>,
    /// Its outputs.
    pub outputs: Vec<TensorSummary>,
}

/// A tensor that a graph declares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSummary {
    /// Its name.
    pub name: String,
    /// Its dimensions, `None` where any size goes.
    pub shape: Vec<Option<usize>>,
}

struct TractNetwork {
    spec: GraphSpec,
    threads: Threads,
    /// For a batch of one: tract unrolls and packs for fixed shapes, and on one CPU thread a larger
    /// batch is no faster than its images one by one.
    plan: Plan,
    sessions: Spare<Session>,
}

impl TractRuntime {
    /// One whose networks share the work of an image among these threads.
    pub fn with_threads(threads: Threads) -> Self {
        Self { threads }
    }

    /// Reads what a graph declares, without making it ready to run.
    ///
    /// # Errors
    /// [`LoadError::NotOnnx`] when it does not parse.
    pub fn summarise(&self, onnx: &[u8]) -> Result<GraphSummary, LoadError> {
        let model = parse(onnx)?;
        let summary = |outlets: &[OutletId]| {
            outlets
                .iter()
                .map(|&outlet| TensorSummary {
                    name: tensor_name(&model, outlet),
                    shape: model
                        .outlet_fact(outlet)
                        .map(declared_shape)
                        .unwrap_or_default(),
                })
                .collect()
        };
        Ok(GraphSummary {
            inputs: summary(&model.inputs),
            outputs: summary(&model.outputs),
        })
    }
}

impl Runtime for TractRuntime {
    fn name(&self) -> &'static str {
        "tract"
    }

    fn version(&self) -> &str {
        VERSION
    }

    fn load(&self, onnx: Bytes, spec: &GraphSpec) -> Result<Box<dyn Network>, LoadError> {
        let model = select(onnx, spec)?;
        let plan = compile(model, spec).map_err(unsupported)?;
        let output = plan.model().output_fact(0).map_err(unsupported)?;
        let found = output
            .shape
            .as_concrete()
            .filter(|_| output.datum_type == f32::datum_type())
            .map(|shape| shape.iter().product());
        spec.check_classes(found)?;
        Ok(Box::new(TractNetwork {
            spec: spec.clone(),
            threads: self.threads.clone(),
            plan,
            sessions: Spare::new(),
        }))
    }

    fn load_stages(
        &self,
        onnx: Bytes,
        spec: &StagedSpec,
    ) -> Result<Box<dyn StagedNetwork>, LoadError> {
        let mut proto = parse_proto(onnx)?;
        let graph = proto.graph.take().unwrap_or_default();
        cut::check(&graph, spec)?;
        let threads = self.threads.clone();
        Ok(Box::new(TractStages::load(proto, graph, spec, threads)?))
    }
}

impl Network for TractNetwork {
    fn spec(&self) -> &GraphSpec {
        &self.spec
    }

    fn infer(&self, batch: ArrayView4<'_, f32>) -> Result<Array2<f32>, InferError> {
        self.spec.check_batch(batch.shape())?;
        let mut scores = Array2::zeros((batch.len_of(Axis(0)), self.spec.classes));
        for (image, row) in batch.outer_iter().zip(scores.rows_mut()) {
            self.run(image, row)
                .map_err(|error| InferError::Runtime(error.into()))?;
        }
        Ok(scores)
    }
}

impl TractNetwork {
    fn run(
        &self,
        image: ArrayView3<'_, f32>,
        mut scores: ArrayViewMut1<'_, f32>,
    ) -> TractResult<()> {
        let [channels, height, width] = self.spec.input_shape;
        let outputs = self.sessions.lend(|session| {
            let shape = [1, channels, height, width];
            let input = session.input(&self.plan, &shape, |input| {
                input
                    .iter_mut()
                    .zip(image)
                    .for_each(|(to, from)| *to = *from);
            })?;
            self.threads.run(|| session.run(0, &self.plan, input))
        })?;
        let said = outputs[0].try_as_plain_ram()?.as_slice::<f32>()?;
        for (score, value) in scores.iter_mut().zip(said) {
            *score = *value;
        }
        Ok(())
    }
}

/// The graph from the input to the output that `spec` names.
fn select(onnx: Bytes, spec: &GraphSpec) -> Result<InferenceModel, LoadError> {
    let mut model = parse(onnx)?;
    let input = find(&model, "input", &model.inputs, &spec.input)?;
    let output = find(&model, "output", &model.outputs, &spec.output)?;
    model
        .set_input_outlets(&[input])
        .and_then(|()| model.select_output_outlets(&[output]))
        .map_err(unsupported)?;
    Ok(model)
}

fn parse(onnx: impl Buf) -> Result<InferenceModel, LoadError> {
    let proto = parse_proto(onnx)?;
    tract_onnx::onnx()
        .model_for_proto_model(&proto)
        .map_err(not_onnx)
}

/// The file's own structure, its weights widened.
fn parse_proto(onnx: impl Buf) -> Result<ModelProto, LoadError> {
    let mut proto = ModelProto::decode(onnx).map_err(|error| LoadError::NotOnnx(error.into()))?;
    if let Some(graph) = &mut proto.graph {
        widen::widen_f16_weights(graph);
    }
    Ok(proto)
}

fn compile(mut model: InferenceModel, spec: &GraphSpec) -> TractResult<Plan> {
    let [channels, height, width] = spec.input_shape;
    let shape: TVec<usize> = tvec!(1, channels, height, width);
    model.set_input_fact(0, InferenceFact::dt_shape(DatumType::F32, shape))?;
    optimise(model)
}

/// The plan of a graph whose inputs have their shapes.
fn optimise(model: InferenceModel) -> TractResult<Plan> {
    Plan::new(rewrite(model.into_typed()?)?.into_optimized()?)
}

fn find(
    model: &InferenceModel,
    role: &'static str,
    outlets: &[OutletId],
    wanted: &str,
) -> Result<OutletId, LoadError> {
    let name = |&outlet: &OutletId| tensor_name(model, outlet);
    outlets
        .iter()
        .copied()
        .find(|outlet| name(outlet) == wanted)
        .ok_or_else(|| LoadError::NoSuchTensor {
            role,
            wanted: wanted.to_owned(),
            present: outlets.iter().map(name).collect(),
        })
}

/// Inputs are nodes named after their tensor; outputs are labelled with it.
fn tensor_name(model: &InferenceModel, outlet: OutletId) -> String {
    model
        .outlet_label(outlet)
        .unwrap_or(&model.node(outlet.node).name)
        .to_owned()
}

fn declared_shape(fact: &InferenceFact) -> Vec<Option<usize>> {
    fact.shape
        .dims()
        .map(|dimension| usize::try_from(dimension.concretize()?.to_i64().ok()?).ok())
        .collect()
}

fn unsupported(error: TractError) -> LoadError {
    LoadError::Unsupported(error.into())
}

fn not_onnx(error: TractError) -> LoadError {
    LoadError::NotOnnx(error.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_the_one_that_is_built_in() {
        let lock = include_str!("../../../../Cargo.lock");
        let entry = format!("name = \"tract-onnx\"\nversion = \"{VERSION}\"\n");
        assert!(lock.contains(&entry), "{VERSION} is not in Cargo.lock");
    }
}
