use super::*;

/// The definition.
fn reference(geometry: &Geometry, image: &[f32]) -> Vec<f32> {
    let [channels, height, width] = geometry.input;
    let [_, rows, columns] = geometry.output;
    let mut largest = Vec::new();
    for (channel, row, column) in (0..channels)
        .flat_map(|c| (0..rows).flat_map(move |r| (0..columns).map(move |x| (c, r, x))))
    {
        let mut most = PADDING;
        for (y, x) in
            (0..geometry.kernel[0]).flat_map(|y| (0..geometry.kernel[1]).map(move |x| (y, x)))
        {
            let y = row * geometry.strides[0] + y * geometry.dilations[0];
            let x = column * geometry.strides[1] + x * geometry.dilations[1];
            let y = y.checked_sub(geometry.padding[0]).filter(|&y| y < height);
            let x = x.checked_sub(geometry.padding[1]).filter(|&x| x < width);
            if let (Some(y), Some(x)) = (y, x) {
                most = most.max(image[(channel * height + y) * width + x]);
            }
        }
        largest.push(most);
    }
    largest
}

#[test]
fn windows_of_every_kind_give_their_largest_value() {
    // Height and width, kernel, stride, dilation, padding, and what the output is rounded up by.
    for (height, width, kernel, stride, dilation, padding, more) in [
        (12, 40, 3, 2, 1, 0, 0),
        (12, 40, 3, 2, 1, 1, 0),
        (13, 13, 3, 2, 1, 0, 1),
        (9, 11, 2, 2, 1, 0, 1),
        (9, 11, 3, 1, 1, 1, 0),
        (20, 9, 3, 3, 2, 2, 0),
        (7, 7, 7, 1, 1, 0, 0),
        (5, 6, 1, 4, 1, 0, 0),
    ] {
        let reach = (kernel - 1) * dilation + 1;
        let side = |size: usize| (size + 2 * padding - reach) / stride + 1 + more;
        let geometry = Geometry {
            groups: 3,
            input: [3, height, width],
            output: [3, side(height), side(width)],
            kernel: [kernel; 2],
            strides: [stride; 2],
            dilations: [dilation; 2],
            padding: [padding; 2],
        };
        // Two images, all below zero: padding must not win.
        let images: Vec<f32> = (0..2 * 3 * height * width)
            .map(|i| ((i * 7919) % 1009) as f32 / -100.0 - 1.0)
            .collect();
        let op = MaxPooling::new(geometry.clone());
        let input = Tensor::from_shape(&[2, 3, height, width], &images).unwrap();
        for _ in 0..2 {
            let outputs = op.eval_out_of_plan(tvec!(input.clone().into_tvalue()));
            let output = &outputs.unwrap().unwrap()[0];
            let found = output.try_as_plain_ram().unwrap();
            let expected: Vec<f32> = images
                .chunks_exact(3 * height * width)
                .flat_map(|image| reference(&geometry, image))
                .collect();
            assert_eq!(found.as_slice::<f32>().unwrap(), expected, "{geometry:?}");
        }
    }
}

#[test]
fn an_image_of_another_size_is_an_error() {
    let op = MaxPooling::new(Geometry {
        groups: 1,
        input: [1, 4, 4],
        output: [1, 2, 2],
        kernel: [2, 2],
        strides: [2, 2],
        dilations: [1, 1],
        padding: [0, 0],
    });
    let input = Tensor::zero::<f32>(&[1, 1, 4, 5]).unwrap();
    let error = op.eval_out_of_plan(tvec!(input.into_tvalue())).unwrap_err();
    assert!(error.to_string().contains("[1, 4, 4]"), "{error}");
}
