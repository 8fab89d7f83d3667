use std::path::Path;

use bytes::Bytes;
use half::f16;
use outpost_runtime::{ModelFolder, TractRuntime};

use super::*;

fn model() -> Classifier {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models");
    ModelFolder::new(models)
        .open("squeezenet1.0", &TractRuntime::default())
        .unwrap()
}

fn prepared(shape: &[usize], data: TensorData) -> Result<Array4<f32>, ServiceError> {
    let tensor = Tensor::new("image", shape.to_vec(), data).unwrap();
    prepare(&model(), tensor, &ImageLimits::default(), None)
}

#[test]
fn tensors_go_in_as_they_are() {
    let count = 3 * 227 * 227;
    for data in [
        TensorData::Fp32(vec![7.0; count]),
        TensorData::Fp16(vec![f16::from_f32(7.0); count]),
        TensorData::Uint8(vec![7; count].into()),
    ] {
        let batch = prepared(&[1, 3, 227, 227], data).unwrap();
        assert!(batch.iter().all(|&value| value == 7.0));
    }
}

#[test]
fn pixels_of_any_size_are_preprocessed_one_by_one() {
    let pixels = [vec![200; 4 * 6 * 3], vec![0; 4 * 6 * 3]].concat();
    let batch = prepared(&[2, 4, 6, 3], TensorData::Uint8(pixels.into())).unwrap();
    assert_eq!(batch.shape(), [2, 3, 227, 227]);
    assert_eq!(batch[[0, 0, 9, 9]], 200.0 - 104.0);
    assert_eq!(batch[[1, 2, 9, 9]], -123.0);
}

#[test]
fn what_the_model_does_not_take_is_refused() {
    let none = || TensorData::Uint8(Bytes::new());
    for (shape, data) in [
        (vec![1, 0, 5, 3], none()),
        (vec![1, 5, 0, 3], none()),
        (vec![1, 2], TensorData::Uint8(vec![1, 2].into())),
        (vec![1, 3, 2, 2], TensorData::Fp32(vec![0.0; 12])),
        (vec![1, 1, 1], TensorData::Bytes(vec![Bytes::new()])),
    ] {
        let error = prepared(&shape, data).unwrap_err();
        assert!(
            matches!(error, ServiceError::Shape { .. }),
            "{shape:?}: {error}"
        );
    }
    let error = prepared(&[1], TensorData::Int64(vec![1])).unwrap_err();
    assert!(matches!(error, ServiceError::Datatype { .. }));
    let error = prepared(
        &[1],
        TensorData::Bytes(vec![Bytes::from_static(b"no image")]),
    );
    assert!(matches!(error, Err(ServiceError::Image { index: 0, .. })));
}
