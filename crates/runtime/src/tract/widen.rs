//! Widens weights that a file stores as f16 to halve its size.
//!
//! Such a graph holds f16 initialisers, each behind a `Cast` to f32. tract does not fold a cast that
//! makes a constant larger and would convert the weights at every inference, so the casts are folded
//! here, once, before tract sees the graph.

use std::collections::{HashMap, HashSet};

use half::f16;
use tract_onnx::pb::{GraphProto, NodeProto, TensorProto, tensor_proto::DataType};

/// Replaces every f16 initialiser that is cast to f32 by the f32 one, and drops the casts.
pub(super) fn widen_f16_weights(graph: &mut GraphProto) {
    let halves: HashMap<&str, &TensorProto> = graph
        .initializer
        .iter()
        .filter(|tensor| is_raw_f16(tensor))
        .map(|tensor| (tensor.name.as_str(), tensor))
        .collect();
    let mut widened = Vec::new();
    graph.node.retain(|node| {
        let Some(half) = is_cast_to_f32(node)
            .then(|| halves.get(node.input[0].as_str()))
            .flatten()
        else {
            return true;
        };
        widened.push(widen(half, &node.output[0]));
        false
    });
    let still_used: HashSet<&str> = (graph.node.iter())
        .flat_map(|node| &node.input)
        .map(String::as_str)
        .collect();
    graph
        .initializer
        .retain(|tensor| !is_raw_f16(tensor) || still_used.contains(tensor.name.as_str()));
    graph.initializer.extend(widened);
}

fn is_raw_f16(tensor: &TensorProto) -> bool {
    tensor.data_type == DataType::Float16 as i32 && !tensor.raw_data.is_empty()
}

fn is_cast_to_f32(node: &NodeProto) -> bool {
    node.op_type == "Cast"
        && node.input.len() == 1
        && node.output.len() == 1
        && node
            .attribute
            .iter()
            .any(|attribute| attribute.name == "to" && attribute.i == DataType::Float as i64)
}

fn widen(half: &TensorProto, name: &str) -> TensorProto {
    let (elements, _) = half.raw_data.as_chunks::<2>();
    let wide: Vec<u8> = elements
        .iter()
        .flat_map(|&bytes| f16::from_le_bytes(bytes).to_f32().to_le_bytes())
        .collect();
    TensorProto {
        name: name.to_owned(),
        data_type: DataType::Float as i32,
        dims: half.dims.clone(),
        raw_data: wide,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use tract_onnx::pb::{AttributeProto, attribute_proto::AttributeType};

    use super::*;

    fn half(name: &str, values: &[f32]) -> TensorProto {
        let raw = values
            .iter()
            .flat_map(|&value| f16::from_f32(value).to_le_bytes());
        TensorProto {
            name: name.to_owned(),
            data_type: DataType::Float16 as i32,
            dims: vec![values.len() as i64],
            raw_data: raw.collect(),
            ..Default::default()
        }
    }

    fn node(op_type: &str, input: &str, output: &str) -> NodeProto {
        NodeProto {
            op_type: op_type.to_owned(),
            input: vec![input.to_owned()],
            output: vec![output.to_owned()],
            attribute: vec![AttributeProto {
                name: "to".to_owned(),
                r#type: AttributeType::Int as i32,
                i: DataType::Float as i64,
                ..Default::default()
            }],
            ..Default::default()
        }
    }

    #[test]
    fn casts_of_stored_halves_are_folded_and_nothing_else() {
        let mut graph = GraphProto {
            initializer: vec![half("a", &[0.5, -2.0]), half("b", &[1.0])],
            node: vec![
                node("Cast", "a", "a32"),
                node("Cast", "b", "b32"),
                node("Cast", "computed", "c32"),
                node("Identity", "b", "d"),
            ],
            ..Default::default()
        };
        widen_f16_weights(&mut graph);
        let outputs: Vec<&str> = graph.node.iter().map(|node| &*node.output[0]).collect();
        assert_eq!(outputs, ["c32", "d"]);
        let names: Vec<&str> = graph
            .initializer
            .iter()
            .map(|tensor| &*tensor.name)
            .collect();
        assert_eq!(names, ["b", "a32", "b32"], "`b` is still used as it is");
        let wide = &graph.initializer[1];
        assert_eq!(wide.data_type, DataType::Float as i32);
        assert_eq!(
            &wide.raw_data[..],
            [0.5_f32.to_le_bytes(), (-2.0_f32).to_le_bytes()].concat()
        );
    }
}
