//! Cuts a stage out of a graph: the nodes between one tensor and some others.
//!
//! Done on the ONNX file's own nodes, so that each stage is a graph like any other and is optimised on
//! its own.

use std::{borrow::Cow, collections::HashSet};

use tract_onnx::pb::{GraphProto, TypeProto, ValueInfoProto, tensor_proto::DataType, type_proto};

use crate::network::{LoadError, StagedSpec};

/// The part of `graph` that computes `outputs` from `input`, which may be any of its tensors. Of a graph that is given away,
/// it has the weights themselves; of one that is lent, copies.
///
/// # Errors
/// [`LoadError::NotComputed`] for an output that no node gives, [`LoadError::Cut`] when the outputs
/// also need an input of the graph other than `input`.
pub(crate) fn cut(
    graph: Cow<'_, GraphProto>,
    input: &str,
    outputs: &[&str],
) -> Result<GraphProto, LoadError> {
    let mut wanted: HashSet<&str> = outputs.iter().copied().collect();
    let mut found: HashSet<&str> = HashSet::new();
    let mut kept = vec![false; graph.node.len()];
    // ONNX lists nodes in topological order: backwards, every consumer comes before its producer.
    for (node, kept) in graph.node.iter().zip(&mut kept).rev() {
        let gives = |name: &&String| wanted.contains(name.as_str()) && *name != input;
        if node.output.iter().any(|name| gives(&name)) {
            *kept = true;
            found.extend(node.output.iter().map(String::as_str));
            wanted.extend(node.input.iter().map(String::as_str));
        }
    }
    if let Some(missing) = outputs.iter().find(|name| !found.contains(*name)) {
        return Err(LoadError::NotComputed((*missing).to_owned()));
    }
    let mut others = inputs(&graph).into_iter().filter(|name| *name != input);
    if let Some(also) = others.find(|name| wanted.contains(name)) {
        return Err(LoadError::Cut {
            activations: input.to_owned(),
            also: also.to_owned(),
        });
    }
    let weights: Vec<bool> = (graph.initializer.iter())
        .map(|tensor| wanted.contains(tensor.name.as_str()))
        .collect();
    let (name, node, initializer) = match graph {
        Cow::Borrowed(graph) => (
            graph.name.clone(),
            only(graph.node.iter(), kept).cloned().collect(),
            only(graph.initializer.iter(), weights).cloned().collect(),
        ),
        Cow::Owned(graph) => (
            graph.name,
            only(graph.node.into_iter(), kept).collect(),
            only(graph.initializer.into_iter(), weights).collect(),
        ),
    };
    Ok(GraphProto {
        name,
        node,
        initializer,
        input: vec![declaration(input)],
        output: outputs.iter().map(|name| declaration(name)).collect(),
        ..Default::default()
    })
}

/// Those that are chosen.
fn only<T>(all: impl Iterator<Item = T>, chosen: Vec<bool>) -> impl Iterator<Item = T> {
    let pairs = all.zip(chosen);
    pairs.filter_map(|(one, is_chosen)| is_chosen.then_some(one))
}

/// A tensor of f32; its shape comes later.
fn declaration(name: &str) -> ValueInfoProto {
    let tensor = type_proto::Tensor {
        elem_type: DataType::Float as i32,
        ..Default::default()
    };
    ValueInfoProto {
        name: name.to_owned(),
        r#type: Some(TypeProto {
            value: Some(type_proto::Value::TensorType(tensor)),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// Checks that stages are asked for, and that a graph has the input that the first takes.
///
/// # Errors
/// [`LoadError::NoSuchTensor`] with those that it has.
pub(crate) fn check(graph: &GraphProto, spec: &StagedSpec) -> Result<(), LoadError> {
    if spec.stages.is_empty() {
        return Err(LoadError::Unsupported("no stage is asked for".into()));
    }
    let (present, wanted) = (inputs(graph), spec.input.as_str());
    if present.contains(&wanted) {
        return Ok(());
    }
    Err(LoadError::NoSuchTensor {
        role: "input",
        wanted: wanted.to_owned(),
        present: present.into_iter().map(str::to_owned).collect(),
    })
}

/// The inputs of `graph` that are no weights; older files list both.
fn inputs(graph: &GraphProto) -> Vec<&str> {
    let weights: HashSet<&str> = graph.initializer.iter().map(|t| t.name.as_str()).collect();
    let names = graph.input.iter().map(|info| info.name.as_str());
    names.filter(|name| !weights.contains(name)).collect()
}

#[cfg(test)]
mod tests {
    use tract_onnx::pb::{NodeProto, TensorProto};

    use super::*;

    /// image → a → b → c, with a shortcut from a to c.
    fn graph() -> GraphProto {
        let node = |inputs: &[&str], output: &str| NodeProto {
            op_type: "Add".to_owned(),
            input: inputs.iter().map(ToString::to_string).collect(),
            output: vec![output.to_owned()],
            ..Default::default()
        };
        let info = |name: &str| ValueInfoProto {
            name: name.to_owned(),
            ..Default::default()
        };
        GraphProto {
            node: vec![
                node(&["image"], "a"),
                node(&["a"], "b"),
                node(&["a", "b"], "c"),
            ],
            input: vec![info("image")],
            output: vec![info("c")],
            ..Default::default()
        }
    }

    fn outputs(graph: &GraphProto) -> Vec<&str> {
        graph.node.iter().map(|node| &*node.output[0]).collect()
    }

    #[test]
    fn a_stage_has_the_nodes_between_its_ends_and_no_other() {
        let mut graph = graph();
        graph.node[1].input.push("weights".to_owned());
        graph.initializer = ["other", "weights"]
            .map(|name| TensorProto {
                name: name.to_owned(),
                ..Default::default()
            })
            .into();
        let first = cut(Cow::Borrowed(&graph), "image", &["a"]).unwrap();
        assert_eq!(outputs(&first), ["a"]);
        assert_eq!(first.initializer, []);
        let lent = cut(Cow::Borrowed(&graph), "a", &["c"]).unwrap();
        assert_eq!(outputs(&lent), ["b", "c"]);
        assert_eq!(lent.input[0].name, "a");
        assert_eq!(lent.initializer, graph.initializer[1..]);
        assert_eq!(cut(Cow::Owned(graph), "a", &["c"]).unwrap(), lent);
    }

    #[test]
    fn a_cut_that_a_shortcut_goes_around_is_refused() {
        let refused = cut(Cow::Owned(graph()), "b", &["c"]).unwrap_err();
        assert_eq!(
            refused.to_string(),
            r#"the graph cannot be cut at "b": what follows also needs "image""#
        );
    }

    #[test]
    fn a_tensor_that_no_node_gives_is_refused() {
        assert!(matches!(
            cut(Cow::Owned(graph()), "image", &["d"]),
            Err(LoadError::NotComputed(tensor)) if tensor == "d"
        ));
    }
}
