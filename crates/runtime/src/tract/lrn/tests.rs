use super::*;

/// The definition, in double precision.
fn reference(lrn: &Lrn, shape: &[usize], values: &[f32]) -> Vec<f32> {
    let [_, channels, pixels @ ..] = shape else {
        panic!("{shape:?}")
    };
    let pixels: usize = pixels.iter().product();
    let at = |image: usize, channel: usize, pixel: usize| {
        f64::from(values[(image * channels + channel) * pixels + pixel])
    };
    let mut normalised = Vec::new();
    for index in 0..values.len() {
        let (image, rest) = (index / (channels * pixels), index % (channels * pixels));
        let (channel, pixel) = (rest / pixels, rest % pixels);
        let below = (lrn.size - 1) / 2;
        let above = lrn.size - 1 - below;
        let sum: f64 = (0..*channels)
            .filter(|near| near + below >= channel && *near <= channel + above)
            .map(|near| at(image, near, pixel).powi(2))
            .sum();
        let mean = f64::from(lrn.alpha) / lrn.size as f64 * sum;
        let scale = (f64::from(lrn.bias) + mean).powf(f64::from(lrn.beta));
        normalised.push((at(image, channel, pixel) / scale) as f32);
    }
    normalised
}

fn run(lrn: &Lrn, shape: &[usize], values: &[f32]) -> Vec<f32> {
    let op = LocalResponseNormalisation::try_new(lrn).unwrap();
    let input = Tensor::from_shape(shape, values).unwrap();
    let outputs = op.eval_out_of_plan(tvec!(input.into_tvalue())).unwrap();
    let output = &outputs.unwrap()[0];
    assert_eq!(output.shape(), shape);
    let output = output.try_as_plain_ram().unwrap();
    output.as_slice::<f32>().unwrap().to_vec()
}

#[test]
fn every_size_power_and_shape_is_what_the_definition_says() {
    for size in [1, 2, 3, 4, 5, 11] {
        for (alpha, beta, bias) in [
            (1e-4, 0.75, 1.0),
            (0.5, 0.75, 2.0),
            (2.0, 0.5, 0.1),
            (1.0, 1.3, 1.0),
        ] {
            // One pixel, a run that is not full, one that is and some pixels more; images of two and five dimensions.
            for shape in [
                &[1, 7, 1, 1][..],
                &[2, 5, 3, 7],
                &[1, 6, 17, 16],
                &[3, 4],
                &[1, 3, 2, 2, 2],
            ] {
                let lrn = Lrn {
                    alpha,
                    beta,
                    bias,
                    size,
                };
                let count = shape.iter().product();
                let values: Vec<f32> = (0..count)
                    .map(|i: usize| ((i * 7919) % 101) as f32 / 25.0 - 2.0)
                    .collect();
                let found = run(&lrn, shape, &values);
                for (found, expected) in found.iter().zip(reference(&lrn, shape, &values)) {
                    let apart = (found - expected).abs();
                    assert!(
                        apart <= 1e-5 * expected.abs().max(1e-3),
                        "{lrn:?} {shape:?}: {found} for {expected}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_window_of_no_channels_is_refused() {
    let refused = LocalResponseNormalisation::try_new(&Lrn::default()).unwrap_err();
    assert!(refused.to_string().contains("size"), "{refused}");
}

#[test]
fn what_is_not_a_number_stays_so_and_the_rest_is_untouched() {
    let lrn = Lrn {
        alpha: 1e-4,
        beta: 0.75,
        bias: 1.0,
        size: 3,
    };
    let found = run(
        &lrn,
        &[1, 5, 1, 2],
        &[f32::NAN, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0],
    );
    let is_nan: Vec<bool> = found.iter().map(|value| value.is_nan()).collect();
    // The two channels whose windows reach the first.
    assert_eq!(is_nan[..6], [true, false, true, false, false, false]);
    assert!(found[6..].iter().all(|value| value.is_finite()));
}
