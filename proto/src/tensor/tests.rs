use proptest::{collection::vec, prelude::*};

use super::*;

fn any_data() -> impl Strategy<Value = TensorData> {
    prop_oneof![
        vec(any::<u8>(), 0..40).prop_map(|v| TensorData::Uint8(v.into())),
        vec(any::<i64>(), 0..40).prop_map(TensorData::Int64),
        vec(-6e4_f32..6e4, 0..40)
            .prop_map(|v| TensorData::Fp16(v.into_iter().map(f16::from_f32).collect())),
        vec(-1e30_f32..1e30, 0..40).prop_map(TensorData::Fp32),
        vec(vec(any::<u8>(), 0..20), 0..5)
            .prop_map(|v| TensorData::Bytes(v.into_iter().map(Bytes::from).collect())),
    ]
}

fn any_kind() -> impl Strategy<Value = ContentsKind> {
    prop_oneof![Just(ContentsKind::Typed), Just(ContentsKind::Raw)]
}

proptest! {
    #[test]
    fn contents_round_trip_typed_and_raw(data in vec(any_data(), 1..4), kind in any_kind()) {
        let tensors: Vec<Tensor> = data
            .into_iter()
            .map(|data| Tensor::new("t", vec![1, data.len()], data).unwrap())
            .collect();
        let request = infer_request("m", "1", tensors.clone(), kind);
        prop_assert_eq!(take_inputs(request).unwrap(), tensors.clone());
        let response = infer_response("m", "1", "1", tensors.clone(), kind);
        prop_assert_eq!(take_outputs(response).unwrap(), tensors);
    }

    #[test]
    fn raw_bytes_from_a_peer_never_panic(raw in vec(any::<u8>(), 0..64), name in 0..5_usize) {
        let datatype = ["UINT8", "INT64", "FP16", "FP32", "BYTES"][name];
        let _ = take_inputs(request_with(datatype, vec![-1, 3], Some(raw.clone().into())));
        let _ = take_inputs(request_with(datatype, vec![raw.len() as i64], Some(raw.into())));
    }
}

fn request_with(datatype: &str, shape: Vec<i64>, raw: Option<Bytes>) -> ModelInferRequest {
    ModelInferRequest {
        inputs: vec![InferInputTensor {
            name: "image".into(),
            datatype: datatype.into(),
            shape,
            ..Default::default()
        }],
        raw_input_contents: raw.into_iter().collect(),
        ..Default::default()
    }
}

#[test]
fn a_shape_that_overflows_is_refused() {
    let error = take_inputs(request_with("FP32", vec![i64::MAX, 4], Some(Bytes::new())));
    assert!(matches!(error, Err(TensorError::Shape { .. })), "{error:?}");
}

#[test]
fn a_negative_dimension_is_refused() {
    let error = take_inputs(request_with("FP32", vec![-1, 3], Some(Bytes::new())));
    assert!(matches!(error, Err(TensorError::Shape { .. })), "{error:?}");
}

#[test]
fn a_shape_that_disagrees_with_its_contents_is_refused() {
    let error = take_inputs(request_with(
        "FP32",
        vec![2],
        Some(Bytes::from(vec![0; 12])),
    ));
    assert_eq!(
        error,
        Err(TensorError::ElementCount {
            tensor: "image".into(),
            expected: 2,
            found: 3
        })
    );
}

#[test]
fn an_unknown_datatype_is_refused_by_name() {
    let error = take_inputs(request_with("FP64", vec![1], None)).unwrap_err();
    assert!(error.to_string().contains("FP64"));
}

#[test]
fn typed_and_raw_contents_do_not_mix() {
    let mut request = request_with("FP32", vec![1], Some(Bytes::from(vec![0; 4])));
    request.inputs[0].contents = Some(InferTensorContents {
        fp32_contents: vec![1.0],
        ..Default::default()
    });
    let error = take_inputs(request);
    assert!(matches!(error, Err(TensorError::MixedContents { .. })));
}

#[test]
fn typed_contents_in_the_wrong_field_are_refused() {
    let mut request = request_with("FP32", vec![1], None);
    request.inputs[0].contents = Some(InferTensorContents {
        int64_contents: vec![1],
        ..Default::default()
    });
    let error = take_inputs(request);
    assert!(matches!(error, Err(TensorError::TypedContents { .. })));
}

#[test]
fn a_byte_string_longer_than_the_message_is_refused() {
    let raw = Bytes::from_static(&[255, 255, 255, 255, 1]);
    let error = take_inputs(request_with("BYTES", vec![1], Some(raw)));
    assert!(matches!(
        error,
        Err(TensorError::RawContents { offset: 0, .. })
    ));
}

#[test]
fn fp16_travels_raw_even_where_typed_contents_were_asked_for() {
    let half = Tensor::new("t", vec![1], TensorData::Fp16(vec![f16::ONE])).unwrap();
    let request = infer_request("m", "", [half], ContentsKind::Typed);
    assert_eq!(request.raw_input_contents[0], [0x00, 0x3c].as_slice());
}
