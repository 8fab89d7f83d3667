//! Widens weights that a file stores as f16 to halve its size.
//!
//! Such a graph holds f16 initialisers, each behind a `Cast` to f32. tract does not fold a cast that
//! makes a constant larger and would convert the weights at every inference, so the casts are folded
//! here, once, before tract sees the graph.

use std::collections::HashMap;

use half::f16;
use tract_onnx::pb::{GraphProto, NodeProto, TensorProto, tensor_proto::DataType};

/// Replaces every f16 initialiser that is cast to f32 by the f32 one, and drops the casts.
pub(super) fn widen_f16_weights(graph: &mut GraphProto) {
    let halves: HashMap<String, TensorProto> = graph
        .initializer
        .iter()
        .filter(|tensor| is_raw_f16(tensor))
        .map(|tensor| (tensor.name.clone(), tensor.clone()))
        .collect();
    let mut widened = Vec::new();
    graph.node.retain(|node| {
        let Some(half) = is_cast_to_f32(node)
            .then(|| halves.get(&node.input[0]))
            .flatten()
        else {
            return true;
        };
        widened.push(widen(half, &node.output[0]));
        false
    });
    let still_used: Vec<&str> = graph
        .node
        .iter()
        .flat_map(|node| &node.input)
        .map(String::as_str)
        .collect();
    graph
        .initializer
        .retain(|tensor| !halves.contains_key(&tensor.name) || still_used.contains(&&*tensor.name));
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
