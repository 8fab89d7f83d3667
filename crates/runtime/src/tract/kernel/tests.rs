use rayon::ThreadPoolBuilder;

use super::*;
use crate::tract::pooling::MaxPooling;

const OPEN: Clamp = Clamp {
    low: f32::NEG_INFINITY,
    high: f32::INFINITY,
};

/// Square images and kernels; `[groups, input channels, size, output channels, kernel, stride, dilation, padding]`.
fn square(of: [usize; 8]) -> Geometry {
    let [
        groups,
        inputs,
        size,
        outputs,
        kernel,
        stride,
        dilation,
        padding,
    ] = of;
    let reach = (kernel - 1) * dilation + 1;
    let output = (size + 2 * padding - reach) / stride + 1;
    Geometry {
        groups,
        input: [inputs, size, size],
        output: [outputs, output, output],
        kernel: [kernel; 2],
        strides: [stride; 2],
        dilations: [dilation; 2],
        padding: [padding; 2],
    }
}

/// Numbers from -1 to 1 without a pattern that a wrong index would keep.
fn numbers(count: usize, seed: usize) -> Vec<f32> {
    let hash = |i: usize| ((i * 2_654_435_761 + seed * 40_503) >> 7) % 2001;
    (0..count).map(|i| hash(i) as f32 / 1000.0 - 1.0).collect()
}

/// The definition.
fn reference(geometry: &Geometry, image: &[f32], weights: &[f32], bias: &[f32]) -> Vec<f32> {
    let [_, height, width] = geometry.input;
    let [outputs, rows, columns] = geometry.output;
    let [kernel_height, kernel_width] = geometry.kernel;
    let inputs = geometry.group_inputs();
    let mut sums = Vec::new();
    for output in 0..outputs {
        let group = output / geometry.group_outputs();
        for (row, column) in (0..rows).flat_map(|row| (0..columns).map(move |c| (row, c))) {
            let mut sum = f64::from(bias[output]);
            for input in 0..inputs {
                for y in 0..kernel_height {
                    for x in 0..kernel_width {
                        let weight = weights
                            [((output * inputs + input) * kernel_height + y) * kernel_width + x];
                        let at = |index: usize, axis: usize, offset: usize| {
                            (index * geometry.strides[axis] + offset * geometry.dilations[axis])
                                .checked_sub(geometry.padding[axis])
                        };
                        let (Some(y), Some(x)) = (at(row, 0, y), at(column, 1, x)) else {
                            continue;
                        };
                        if y < height && x < width {
                            let value = image[((group * inputs + input) * height + y) * width + x];
                            sum += f64::from(value) * f64::from(weight);
                        }
                    }
                }
            }
            sums.push(sum as f32);
        }
    }
    sums
}

/// `None` where the CPU cannot, and for no other reason.
fn kernel(geometry: &Geometry, weights: &[f32], bias: &[f32], clamp: Clamp) -> Option<Kernel> {
    let kernel = Kernel::new(geometry.clone(), weights, bias.to_vec(), clamp);
    let can = vectors::find().is_some();
    assert_eq!(kernel.is_some(), can, "{geometry:?}");
    kernel
}

fn check(geometry: Geometry) {
    let image = numbers(geometry.input.iter().product(), 1);
    let weights =
        geometry.output[0] * geometry.group_inputs() * geometry.kernel.iter().product::<usize>();
    let weights = numbers(weights, 2);
    let bias = numbers(geometry.output[0], 3);
    let expected = reference(&geometry, &image, &weights, &bias);
    let mut residual = Some(numbers(expected.len(), 4));
    let bounds = Clamp {
        low: 0.0,
        high: 1.5,
    };
    for clamp in [OPEN, bounds] {
        let Some(kernel) = kernel(&geometry, &weights, &bias, clamp) else {
            return;
        };
        // What a thread keeps must not show.
        for _ in 0..2 {
            let added = residual.as_deref().filter(|_| !geometry.is_depthwise());
            let mut found = vec![f32::NAN; expected.len()];
            kernel.run(&image, added, &mut found);
            for (index, (found, expected)) in found.iter().zip(&expected).enumerate() {
                let expected = (expected + added.map_or(0.0, |added| added[index]))
                    .clamp(clamp.low, clamp.high);
                let apart = (found - expected).abs();
                assert!(apart < 1e-3, "{geometry:?} {index}: {found} for {expected}");
            }
            for threads in [2, 3, 7] {
                let mut shared = vec![f32::NAN; expected.len()];
                let pool = ThreadPoolBuilder::new().num_threads(threads);
                let pool = pool.build().unwrap();
                let behind = added.map_or(Behind::Nothing, Behind::Residual);
                kernel.run_on(Some(&pool), &image, behind, &mut shared);
                assert_eq!(shared, found, "{geometry:?} on {threads} threads");
            }
        }
        residual = None;
    }
}

#[test]
fn every_kind_of_convolution_is_what_its_definition_says() {
    for of in [
        // Pointwise: whole tiles, a last one that is not full, channels that do not fill a tile.
        [1, 16, 8, 12, 1, 1, 1, 0],
        [1, 5, 13, 7, 1, 1, 1, 0],
        [1, 3, 4, 1, 1, 1, 1, 0],
        // Kernels, strides, dilations, padding; rows shorter than a tile and longer.
        [1, 4, 9, 6, 3, 1, 1, 1],
        [1, 3, 40, 8, 3, 1, 1, 0],
        [1, 3, 21, 5, 7, 2, 1, 3],
        [1, 2, 28, 3, 11, 4, 1, 2],
        [1, 2, 19, 4, 3, 1, 2, 2],
        [1, 2, 19, 4, 3, 2, 3, 1],
        [1, 3, 9, 4, 1, 2, 1, 0],
        [1, 2, 4, 3, 3, 1, 1, 5],
        // Groups, down to one channel each, with strides that leave columns out.
        [2, 6, 9, 8, 5, 1, 1, 2],
        [3, 9, 11, 15, 3, 2, 1, 1],
        [4, 4, 9, 8, 3, 1, 1, 1],
        [5, 5, 9, 5, 3, 1, 1, 1],
        [6, 6, 14, 6, 5, 2, 1, 2],
        [2, 2, 40, 2, 3, 2, 2, 3],
        // Groups of several tiles of channels, and more weights than are multiplied in one go.
        [2, 16, 9, 28, 7, 1, 1, 3],
    ] {
        check(square(of));
    }
}

/// Weights and bias that no other geometry has.
fn made(geometry: &Geometry) -> Option<Kernel> {
    let weights =
        geometry.output[0] * geometry.group_inputs() * geometry.kernel.iter().product::<usize>();
    let bias = numbers(geometry.output[0], 6);
    kernel(geometry, &numbers(weights, 5), &bias, OPEN)
}

#[test]
fn what_follows_gives_what_it_gives_of_the_whole_output() {
    // Convolutions whose output takes several bands; windows with and without padding and rows that bands share.
    for (of, window) in [
        ([1, 2, 131, 61, 3, 2, 1, 1], [3, 2, 1]),
        ([1, 3, 90, 50, 1, 1, 1, 0], [3, 1, 1]),
        ([1, 2, 100, 40, 3, 1, 1, 0], [5, 2, 2]),
        ([1, 1, 80, 90, 1, 1, 1, 0], [1, 3, 0]),
    ] {
        let geometry = square(of);
        let (channels, size) = (geometry.output[0], geometry.output[1]);
        let [side, stride, padding] = window;
        let windows = square([channels, channels, size, channels, side, stride, 1, padding]);
        let (Some(first), Some(depthwise)) = (made(&geometry), made(&windows)) else {
            return;
        };
        let image = numbers(geometry.input.iter().product(), 1);
        let mut between = vec![f32::NAN; geometry.output.iter().product()];
        first.run(&image, None, &mut between);
        let mut expected = [0, 1].map(|_| vec![f32::NAN; windows.output.iter().product()]);
        depthwise.run(&between, None, &mut expected[0]);
        let largest = MaxPooling::new(windows.clone());
        largest.run(&between, &mut expected[1], windows.pixels());
        let thens = [Then::depthwise(&depthwise), Then::largest(windows.clone())];
        for (then, expected) in thens.iter().zip(expected) {
            let then = then.as_ref().expect("there are several bands");
            let mut found = vec![f32::NAN; expected.len()];
            first.run_then(&image, then, &mut found);
            assert_eq!(found, expected, "{geometry:?}");
            for threads in [2, 3, 7] {
                let pool = ThreadPoolBuilder::new().num_threads(threads);
                let pool = pool.build().unwrap();
                found.fill(f32::NAN);
                first.run_on(Some(&pool), &image, Behind::Then(then), &mut found);
                assert_eq!(found, expected, "{geometry:?} on {threads} threads");
            }
        }
    }
}

#[test]
fn bands_are_made_where_something_is_won_by_them() {
    let bands = |channels, size, stride, padding| {
        let windows = square([channels, channels, size, channels, 3, stride, 1, padding]);
        Then::largest(windows).is_some()
    };
    assert!(bands(50, 90, 2, 1));
    // One band holds it all.
    assert!(!bands(10, 90, 2, 1));
    // Too few rows to a band for those that two share, and enough where none are shared; bands of padding alone.
    assert!(!bands(700, 60, 1, 1));
    assert!(bands(700, 60, 3, 0));
    assert!(!bands(5000, 60, 3, 9));
}

#[test]
fn height_and_width_are_not_mixed_up() {
    check(Geometry {
        groups: 1,
        input: [3, 7, 18],
        output: [4, 3, 9],
        kernel: [3, 5],
        strides: [2, 2],
        dilations: [1, 1],
        padding: [0, 2],
    });
    check(Geometry {
        groups: 2,
        input: [2, 18, 7],
        output: [2, 17, 4],
        kernel: [2, 3],
        strides: [1, 2],
        dilations: [1, 1],
        padding: [0, 1],
    });
}

#[test]
fn what_is_not_a_number_stays_so() {
    for of in [[1, 2, 4, 3, 1, 1, 1, 0], [2, 2, 4, 2, 3, 1, 1, 1]] {
        let geometry = square(of);
        let weights = geometry.output[0]
            * geometry.group_inputs()
            * geometry.kernel.iter().product::<usize>();
        let (weights, bias) = (vec![1.0; weights], vec![0.0; geometry.output[0]]);
        let image = vec![f32::NAN; geometry.input.iter().product()];
        let mut found = vec![0.0; geometry.output.iter().product()];
        let clamp = Clamp {
            low: 0.0,
            high: 6.0,
        };
        if let Some(kernel) = kernel(&geometry, &weights, &bias, clamp) {
            kernel.run(&image, None, &mut found);
            assert!(found.iter().all(|value| value.is_nan()));
        }
    }
}

#[test]
fn an_output_smaller_than_a_tile_is_left_to_others() {
    let geometry = square([1, 2, 3, 4, 1, 1, 1, 0]);
    assert!(Kernel::new(geometry, &[1.0; 8], vec![0.0; 4], OPEN).is_none());
}
