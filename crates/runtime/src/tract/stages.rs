//! Networks in stages on tract: every stage is a plan of its own, and the activations go from one to
//! the next as tract's own tensors, without a copy.

use std::{borrow::Cow, mem, sync::Arc};

use ndarray::ArrayViewMut3;
use tract_onnx::pb::{GraphProto, ModelProto};
use tract_onnx::prelude::{
    Datum, DatumType, Framework, InferenceFact, TValue, TVec, TractError, TractResult, tvec,
};

use super::{
    head::Head,
    not_onnx, optimise,
    session::{Plan, Session},
    threads::Threads,
    unsupported,
};
use crate::{
    cut::cut,
    network::{
        ExitOutput, Features, InferError, LoadError, StagedNetwork, StagedRun, StagedSpec,
        vector_width,
    },
    spare::Spare,
};

pub(super) struct TractStages {
    input_shape: [usize; 3],
    feature_widths: Vec<Option<usize>>,
    stages: Arc<Stages>,
}

/// What runs share.
struct Stages {
    stages: Vec<Stage>,
    threads: Threads,
    /// As many as ever ran at a time.
    sessions: Spare<Session>,
}

struct Stage {
    plan: Plan,
    exit: Exit,
    features: Features,
}

/// Who computes what leaves at the end of a stage.
enum Exit {
    /// The plan, which gives the scores, the features where there are any, and the activations unless
    /// it is the last.
    Plan,
    /// A head, from the activations, which are all that the plan gives.
    Head(Head),
}

struct TractRun {
    stages: Arc<Stages>,
    next: usize,
    /// What the next stage takes.
    activations: Option<TValue>,
    /// The one that has the input, until the first stage has read it.
    session: Option<Session>,
}

impl TractStages {
    /// Cuts and compiles the stages of the model `proto`, whose graph is `graph`.
    pub(super) fn load(
        proto: ModelProto,
        mut graph: GraphProto,
        spec: &StagedSpec,
        threads: Threads,
    ) -> Result<Self, LoadError> {
        let [channels, height, width] = spec.input_shape;
        let mut shape: TVec<usize> = tvec!(1, channels, height, width);
        let mut input = spec.input.as_str();
        let mut stages = Vec::new();
        let mut feature_widths = Vec::new();
        for (index, stage) in spec.stages.iter().enumerate() {
            let head = Head::find(&graph, stage);
            let outputs = match &head {
                Some(_) => stage.activations.iter().map(String::as_str).collect(),
                None => stage.outputs(),
            };
            // Whatever is copied of the weights on the way is memory that a device must have.
            let from = match index + 1 == spec.stages.len() {
                true => Cow::Owned(mem::take(&mut graph)),
                false => Cow::Borrowed(&graph),
            };
            let part = ModelProto {
                graph: Some(cut(from, input, &outputs)?),
                ..proto.clone()
            };
            let plan = compile(part, &shape)?;
            if let Some(activations) = &stage.activations {
                shape = f32_shape(&plan, outputs.len() - 1)
                    .ok_or_else(|| LoadError::Activations(activations.clone()))?;
                input = activations;
            }
            let (classes, width) = match &head {
                Some(head) => {
                    head.check(&shape).map_err(unsupported)?;
                    (Some(head.classes()), Some(head.width()))
                }
                None => (
                    f32_shape(&plan, 0).map(|shape| shape.iter().product()),
                    f32_shape(&plan, 1).and_then(|shape| vector_width(&shape)),
                ),
            };
            if classes != Some(spec.classes) {
                return Err(LoadError::Classes {
                    tensor: stage.logits.clone(),
                    expected: spec.classes,
                    found: classes,
                });
            }
            let features = match &stage.features {
                None => Features::Omit,
                Some(_) => Features::Give,
            };
            feature_widths.push(match &stage.features {
                None => None,
                Some(name) => Some(width.ok_or_else(|| LoadError::Features(name.clone()))?),
            });
            stages.push(Stage {
                plan,
                exit: head.map_or(Exit::Plan, Exit::Head),
                features,
            });
        }
        Ok(Self {
            input_shape: spec.input_shape,
            feature_widths,
            stages: Arc::new(Stages {
                stages,
                threads,
                sessions: Spare::new(),
            }),
        })
    }
}

impl StagedNetwork for TractStages {
    fn feature_widths(&self) -> &[Option<usize>] {
        &self.feature_widths
    }

    fn start(
        &self,
        fill: &mut dyn FnMut(ArrayViewMut3<'_, f32>),
    ) -> Result<Box<dyn StagedRun>, InferError> {
        let [channels, height, width] = self.input_shape;
        let mut session = self.stages.sessions.take();
        let first = &self.stages.stages[0].plan;
        let input = session.input(first, &[1, channels, height, width], |input| {
            let input = ArrayViewMut3::from_shape(self.input_shape, input);
            fill(input.expect("as many values as the shape has"));
        });
        Ok(Box::new(TractRun {
            stages: self.stages.clone(),
            next: 0,
            activations: Some(input.map_err(failed)?),
            session: Some(session),
        }))
    }
}

impl StagedRun for TractRun {
    fn advance(&mut self) -> Result<ExitOutput, InferError> {
        let Stages {
            stages,
            threads,
            sessions,
        } = &*self.stages;
        let (Some(stage), Some(input)) = (stages.get(self.next), self.activations.take()) else {
            return Err(InferError::Finished);
        };
        let mut session = self.session.take().unwrap_or_else(|| sessions.take());
        let ran = threads.run(|| stage.run(&mut session, self.next, input));
        sessions.give_back(session);
        let (output, activations) = ran.map_err(failed)?;
        self.next += 1;
        self.activations = activations;
        Ok(output)
    }
}

impl Stage {
    /// Gives what leaves, and what the next stage takes; nothing for that after the last.
    fn run(
        &self,
        session: &mut Session,
        number: usize,
        input: TValue,
    ) -> TractResult<(ExitOutput, Option<TValue>)> {
        let mut outputs = session.run(number, &self.plan, input)?.into_iter();
        let mut next = || outputs.next().expect("a plan gives every output it has");
        Ok(match &self.exit {
            Exit::Plan => {
                let scores = values(&next())?.to_vec();
                let features = match self.features {
                    Features::Omit => None,
                    Features::Give => Some(values(&next())?.to_vec()),
                };
                (ExitOutput { scores, features }, outputs.next())
            }
            Exit::Head(head) => {
                let activations = next();
                let output = head.run(values(&activations)?, self.features);
                (output, Some(activations))
            }
        })
    }
}

fn compile(part: ModelProto, shape: &[usize]) -> Result<Plan, LoadError> {
    let mut model = tract_onnx::onnx()
        .model_for_proto_model(&part)
        .map_err(not_onnx)?;
    drop(part);
    model
        .set_input_fact(0, InferenceFact::dt_shape(DatumType::F32, shape))
        .map_err(unsupported)?;
    optimise(model).map_err(unsupported)
}

/// The shape of an output; `None` where it varies, holds no f32 or is not there.
fn f32_shape(plan: &Plan, output: usize) -> Option<TVec<usize>> {
    let outlet = plan.model().outputs.get(output)?;
    let fact = plan.model().outlet_fact(*outlet).ok()?;
    let shape = fact.shape.as_concrete()?;
    (fact.datum_type == f32::datum_type()).then(|| shape.into())
}

fn values(tensor: &TValue) -> TractResult<&[f32]> {
    tensor.try_as_plain_ram()?.as_slice::<f32>()
}

fn failed(error: TractError) -> InferError {
    InferError::Runtime(error.into())
}
