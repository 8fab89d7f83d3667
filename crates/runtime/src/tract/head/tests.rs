use tract_onnx::pb::attribute_proto::AttributeType;

use super::*;

fn weight(name: &str, dims: &[i64], values: &[f32]) -> TensorProto {
    TensorProto {
        name: name.to_owned(),
        data_type: DataType::Float as i32,
        dims: dims.to_vec(),
        raw_data: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        ..Default::default()
    }
}

fn integers(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        r#type: AttributeType::Ints as i32,
        i: values[0],
        ints: values.to_vec(),
        ..Default::default()
    }
}

fn node(op_type: &str, input: &[&str], output: &str, attribute: Vec<AttributeProto>) -> NodeProto {
    NodeProto {
        op_type: op_type.to_owned(),
        input: input.iter().map(ToString::to_string).collect(),
        output: vec![output.to_owned()],
        attribute,
        ..Default::default()
    }
}

/// Two classes on two channels.
fn graph() -> GraphProto {
    GraphProto {
        node: vec![
            node(
                "ReduceMean",
                &["x"],
                "mean",
                vec![integers("axes", &[2, 3]), integers("keepdims", &[0])],
            ),
            node(
                "Gemm",
                &["mean", "w", "b"],
                "said",
                vec![integers("transB", &[1])],
            ),
        ],
        initializer: vec![
            weight("w", &[2, 2], &[1.0, 2.0, -1.0, 0.5]),
            weight("b", &[2], &[10.0, 20.0]),
        ],
        ..Default::default()
    }
}

fn stage() -> StageSpec {
    StageSpec {
        logits: "said".to_owned(),
        features: Some("mean".to_owned()),
        activations: Some("x".to_owned()),
    }
}

#[test]
fn a_linear_layer_on_the_average_is_computed_by_hand() {
    let head = Head::find(&graph(), &stage()).unwrap();
    assert_eq!((head.width(), head.classes()), (2, 2));
    head.check(&[1, 2, 3, 3]).unwrap();
    // The averages are 3 and -2; nine pixels are more than one vector of eight.
    let mut channels = vec![3.0_f32; 9];
    channels[0] = 12.0;
    channels[8] = -6.0;
    channels.extend([-2.0; 9]);
    let output = head.run(&channels, Features::Give);
    assert_eq!(output.scores, [9.0, 16.0]);
    assert_eq!(output.features.unwrap(), [3.0, -2.0]);
    assert_eq!(head.run(&channels, Features::Omit).features, None);
}

#[test]
fn activations_of_another_shape_are_refused() {
    let head = Head::find(&graph(), &stage()).unwrap();
    for shape in [&[1, 3, 4, 4][..], &[1, 2, 0, 4], &[2, 2, 4, 4], &[1, 2]] {
        assert!(head.check(shape).is_err(), "{shape:?}");
    }
}

#[test]
fn any_other_exit_is_left_to_tract() {
    type Change = fn(&mut GraphProto, &mut StageSpec);
    let found = |change: Change| {
        let (mut graph, mut stage) = (graph(), stage());
        change(&mut graph, &mut stage);
        Head::find(&graph, &stage).is_some()
    };
    assert!(found(|_, stage| stage.features = None));
    let others: [Change; 13] = [
        |_, stage| stage.activations = None,
        |_, stage| stage.activations = Some("y".to_owned()),
        |_, stage| stage.features = Some("x".to_owned()),
        |_, stage| stage.logits = "mean".to_owned(),
        |graph, _| graph.node[0].op_type = "ReduceMax".to_owned(),
        |graph, _| graph.node[0].attribute[0].ints = vec![2],
        |graph, _| graph.node[0].attribute[1].i = 1,
        |graph, _| graph.node[1].attribute[0].i = 0,
        |graph, _| graph.node[1].attribute.push(integers("transA", &[1])),
        |graph, _| graph.node[1].input.truncate(2),
        |graph, _| graph.initializer[0].dims = vec![1, 4],
        |graph, _| graph.initializer[0].data_type = DataType::Double as i32,
        |graph, _| graph.initializer.truncate(1),
    ];
    for (index, other) in others.into_iter().enumerate() {
        assert!(!found(other), "case {index}");
    }
}
