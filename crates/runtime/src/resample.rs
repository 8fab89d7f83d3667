//! Resampling as Pillow does it, value for value.
//!
//! A separable convolution whose support grows with the scale when an image shrinks. Weights are
//! computed in double precision, normalised and rounded to fixed point with 22 fractional bits; the
//! horizontal pass comes first and its result is rounded to 8 bits. Crates that resample faster round
//! otherwise or swap the passes, and one level of difference in a seventh of the values changes the
//! top-1 class of one photo in thirty: the networks' published accuracies are Pillow's.

use image::RgbImage;

use crate::manifest::Filter;

/// Fractional bits of a weight: 32 less 8 for the value and 2 for overshoot.
const PRECISION_BITS: u32 = 32 - 8 - 2;

/// The part of an image that is resampled, in pixels from the top left; may begin between pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct SourceBox {
    pub(crate) left: f64,
    pub(crate) top: f64,
    pub(crate) width: f64,
    pub(crate) height: f64,
}

/// For each output pixel along an axis: the first input pixel and the weights from there.
struct Taps {
    first: Vec<usize>,
    weights: Vec<i32>,
    /// Weights an output pixel has room for; those past its last input pixel are 0.
    room: usize,
    /// Input pixels that any output pixel looks at.
    used: std::ops::Range<usize>,
}

/// Resamples `source` of `image` to `width` × `height`.
pub(crate) fn resample(
    image: &RgbImage,
    source: SourceBox,
    (width, height): (u32, u32),
    filter: Filter,
) -> RgbImage {
    let columns = Taps::new(image.width(), source.left, source.width, width, filter);
    let rows = Taps::new(image.height(), source.top, source.height, height, filter);
    let input_row = image.width() as usize * 3;
    let output_row = width as usize * 3;
    let mut between = vec![0; rows.used.len() * output_row];
    let input_rows = image.as_raw().chunks_exact(input_row).skip(rows.used.start);
    for (input, output) in input_rows.zip(between.chunks_exact_mut(output_row)) {
        horizontal(input, output, &columns);
    }
    let mut output = vec![0; height as usize * output_row];
    let mut sums = vec![0; output_row];
    for (y, output) in output.chunks_exact_mut(output_row).enumerate() {
        sums.fill(1 << (PRECISION_BITS - 1));
        let start = (rows.first[y] - rows.used.start) * output_row;
        let input_rows = between[start..].chunks_exact(output_row);
        for (input, &weight) in input_rows.zip(rows.weights_of(y)) {
            for (sum, &value) in sums.iter_mut().zip(input) {
                *sum += i32::from(value) * weight;
            }
        }
        for (output, &sum) in output.iter_mut().zip(&sums) {
            *output = to_u8(sum);
        }
    }
    RgbImage::from_raw(width, height, output).expect("three bytes a pixel")
}

fn horizontal(input: &[u8], output: &mut [u8], columns: &Taps) {
    for (x, output) in output.chunks_exact_mut(3).enumerate() {
        let mut sums = [1 << (PRECISION_BITS - 1); 3];
        let pixels = input[columns.first[x] * 3..].chunks_exact(3);
        for (pixel, &weight) in pixels.zip(columns.weights_of(x)) {
            for (sum, &value) in sums.iter_mut().zip(pixel) {
                *sum += i32::from(value) * weight;
            }
        }
        for (output, sum) in output.iter_mut().zip(sums) {
            *output = to_u8(sum);
        }
    }
}

fn to_u8(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}

impl Taps {
    fn new(input: u32, offset: f64, extent: f64, output: u32, filter: Filter) -> Self {
        // Pillow holds the edges of the box in single precision.
        let begin = offset as f32;
        let extent = f64::from((offset + extent) as f32 - begin);
        let begin = f64::from(begin);
        let scale = extent / f64::from(output);
        let filter_scale = scale.max(1.0);
        let support = filter.support() * filter_scale;
        let room = support.ceil() as usize * 2 + 1;
        let mut taps = Self {
            first: Vec::with_capacity(output as usize),
            weights: Vec::with_capacity(output as usize * room),
            room,
            used: input as usize..0,
        };
        let mut exact = Vec::with_capacity(room);
        for pixel in 0..output {
            let centre = begin + (f64::from(pixel) + 0.5) * scale;
            // `as` rounds towards zero and turns negatives to 0.
            let first = (centre - support + 0.5) as usize;
            let end = ((centre + support + 0.5) as usize).min(input as usize);
            exact.clear();
            exact.extend(
                (first..end).map(|tap| filter.weight((tap as f64 - centre + 0.5) / filter_scale)),
            );
            let total: f64 = exact.iter().sum();
            taps.first.push(first);
            taps.weights
                .extend(exact.iter().map(|weight| fixed_point(weight / total)));
            taps.weights.resize(taps.first.len() * room, 0);
            taps.used.start = taps.used.start.min(first);
            taps.used.end = taps.used.end.max(end);
        }
        taps
    }

    fn weights_of(&self, pixel: usize) -> &[i32] {
        &self.weights[pixel * self.room..(pixel + 1) * self.room]
    }
}

fn fixed_point(weight: f64) -> i32 {
    // `round` rounds halves away from zero.
    (weight * f64::from(1 << PRECISION_BITS)).round() as i32
}

impl Filter {
    /// Half the width of the filter, in output pixels.
    fn support(self) -> f64 {
        match self {
            Self::Bilinear => 1.0,
            Self::Bicubic => 2.0,
        }
    }

    /// The filter at the distance `x` from the centre, in output pixels.
    fn weight(self, x: f64) -> f64 {
        let x = x.abs();
        match self {
            Self::Bilinear => (1.0 - x).max(0.0),
            // Keys' cubic convolution with a = -0.5.
            Self::Bicubic if x < 1.0 => (1.5 * x - 2.5) * x * x + 1.0,
            Self::Bicubic if x < 2.0 => ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0,
            Self::Bicubic => 0.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;

    fn whole(image: &RgbImage) -> SourceBox {
        SourceBox {
            left: 0.0,
            top: 0.0,
            width: image.width().into(),
            height: image.height().into(),
        }
    }

    fn ramp(values: &[u8]) -> RgbImage {
        RgbImage::from_fn(values.len() as u32, 1, |x, _| Rgb([values[x as usize]; 3]))
    }

    fn first_channel(image: &RgbImage) -> Vec<u8> {
        image.pixels().map(|pixel| pixel[0]).collect()
    }

    #[test]
    fn its_own_size_leaves_an_image_as_it_is() {
        let image = ramp(&[3, 250, 0, 17]);
        for filter in [Filter::Bilinear, Filter::Bicubic] {
            assert_eq!(resample(&image, whole(&image), (4, 1), filter), image);
        }
    }

    /// Values that Pillow 13 gives for the same rows.
    #[test]
    fn shrinking_and_growing_give_pillows_values() {
        let image = ramp(&[0, 255, 10, 200, 90, 30, 255]);
        let of =
            |width, filter| first_channel(&resample(&image, whole(&image), (width, 1), filter));
        assert_eq!(of(3, Filter::Bilinear), PILLOW_BILINEAR_3);
        assert_eq!(of(3, Filter::Bicubic), PILLOW_BICUBIC_3);
        assert_eq!(of(11, Filter::Bicubic), PILLOW_BICUBIC_11);
        let part = SourceBox {
            left: 1.3,
            width: 4.4,
            ..whole(&image)
        };
        let part = resample(&image, part, (4, 1), Filter::Bicubic);
        assert_eq!(first_channel(&part), PILLOW_BICUBIC_PART);
    }
    const PILLOW_BILINEAR_3: [u8; 3] = [111, 123, 123];
    const PILLOW_BICUBIC_3: [u8; 3] = [111, 116, 129];
    const PILLOW_BICUBIC_11: [u8; 11] = [0, 119, 250, 59, 60, 200, 139, 62, 25, 158, 255];
    const PILLOW_BICUBIC_PART: [u8; 4] = [177, 85, 155, 30];
}
