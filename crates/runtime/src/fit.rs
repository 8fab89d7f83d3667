//! Images as networks elsewhere see them: cut and shrunk here, so that no pixel is sent that nobody looks at.

use std::{borrow::Cow, ops::RangeInclusive};

use image::{Rgb, RgbImage, imageops::replace};

use crate::{
    manifest::{Filter, InputSpec, Resize},
    preprocess::seen,
    resample::{Resampling, SourceBox},
};

/// Sides of the blocks that encoders look at, in pixels.
const BLOCK: u32 = 8;

/// What of an image the networks that may be asked about it see.
///
/// Where they see the same, an image is brought to the size at which their pre-processing has nothing left to resample:
/// the tensor that they make of it is the same. What they cut away is filled with the mean of the nearest of what they keep,
/// which costs next to nothing once encoded. Where they do not see the same, the image is kept whole and shrunk to the
/// largest of their sizes.
#[derive(Debug, Clone, PartialEq)]
pub struct Fit(Kind);

#[derive(Debug, Clone, PartialEq)]
enum Kind {
    Seen {
        spec: InputSpec,
        /// The sides of the image, and from its edge to what is seen.
        side: u32,
        margin: u32,
    },
    Whole {
        short_side: u32,
    },
}

impl Fit {
    /// For the networks with these inputs, one of which at least sees the image; none without networks.
    pub fn new<'a>(inputs: impl IntoIterator<Item = &'a InputSpec>) -> Option<Self> {
        let inputs: Vec<&InputSpec> = inputs.into_iter().collect();
        let first = *inputs.first()?;
        let sees_the_same =
            |input: &&InputSpec| (input.size, input.resize) == (first.size, first.resize);
        let side = |input: &&InputSpec| outer_side(input);
        Some(Self(if inputs.iter().all(sees_the_same) {
            let side = outer_side(first);
            Kind::Seen {
                spec: first.clone(),
                side,
                margin: (side - first.size) / 2,
            }
        } else {
            let short_side = inputs.iter().map(side).max()?;
            Kind::Whole { short_side }
        }))
    }

    /// The image as it is to be sent; itself where it has no more pixels than that. Costs CPU time.
    pub fn apply<'a>(&self, image: &'a RgbImage) -> Cow<'a, RgbImage> {
        let (width, height) = image.dimensions();
        match &self.0 {
            Kind::Seen { spec, side, margin } => {
                let area = u64::from(width) * u64::from(height);
                if area <= u64::from(*side).pow(2) {
                    return Cow::Borrowed(image);
                }
                Cow::Owned(framed(image, spec, *side, *margin))
            }
            Kind::Whole { short_side } => {
                let short = width.min(height);
                if short <= *short_side {
                    return Cow::Borrowed(image);
                }
                let scaled = |side: u32| {
                    (u64::from(side) * u64::from(*short_side) / u64::from(short)) as u32
                };
                let whole = SourceBox {
                    left: 0.0,
                    top: 0.0,
                    width: width.into(),
                    height: height.into(),
                };
                let size = (scaled(width), scaled(height));
                Cow::Owned(Resampling::whole(whole, size, Filter::Bicubic).image(image))
            }
        }
    }
}

/// The sides of a square image of which a network's pre-processing cuts its input without resampling; to within half
/// a pixel where the share that it keeps is not that of any square.
fn outer_side(input: &InputSpec) -> u32 {
    match input.resize {
        Resize::Stretch { to, .. } | Resize::ShortSide { to, .. } => to,
        Resize::CentreSquare { fraction, .. } => {
            // The margins on both sides are equal, or the crop would begin between pixels.
            let margin = (f64::from(input.size) / fraction - f64::from(input.size)) / 2.0;
            input.size + 2 * margin.round() as u32
        }
    }
}

/// What a network sees of `image`, in a frame of its nearest pixels: each block of the frame has one colour, the mean of
/// those nearest to it.
fn framed(image: &RgbImage, spec: &InputSpec, side: u32, margin: u32) -> RgbImage {
    let seen = seen(spec, image).image(image);
    let mut framed = RgbImage::new(side, side);
    replace(&mut framed, &seen, margin.into(), margin.into());
    let is_seen = |at: u32| (margin..margin + spec.size).contains(&at);
    let nearest = |at: u32| at.saturating_sub(margin).min(spec.size - 1);
    let blocks = || (0..side).step_by(BLOCK as usize);
    for (top, left) in blocks().flat_map(|top| blocks().map(move |left| (top, left))) {
        let (bottom, right) = ((top + BLOCK).min(side) - 1, (left + BLOCK).min(side) - 1);
        if [left, right, top, bottom].into_iter().all(is_seen) {
            continue;
        }
        let (xs, ys) = (
            nearest(left)..=nearest(right),
            nearest(top)..=nearest(bottom),
        );
        let colour = mean(&seen, xs, ys);
        for (x, y) in (top..=bottom).flat_map(|y| (left..=right).map(move |x| (x, y))) {
            if !(is_seen(x) && is_seen(y)) {
                framed.put_pixel(x, y, colour);
            }
        }
    }
    framed
}

/// The mean colour of a part of an image.
fn mean(image: &RgbImage, xs: RangeInclusive<u32>, ys: RangeInclusive<u32>) -> Rgb<u8> {
    let (mut sum, mut count) = ([0; 3], 0);
    for (x, y) in ys.flat_map(|y| xs.clone().map(move |x| (x, y))) {
        for (sum, value) in sum.iter_mut().zip(image.get_pixel(x, y).0) {
            *sum += u32::from(value);
        }
        count += 1;
    }
    Rgb(sum.map(|sum| (sum / count) as u8))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{ChannelOrder, ModelFolder, Preprocessor};

    /// No pixel like its neighbours: whatever is resampled shows.
    fn noise(width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| {
            let hash = (x ^ y.rotate_left(16)).wrapping_mul(0x9e37_79b9);
            Rgb([(hash >> 24) as u8, (hash >> 16) as u8, (hash >> 8) as u8])
        })
    }

    fn spec(size: u32, resize: Resize) -> InputSpec {
        InputSpec {
            tensor: "image".into(),
            size,
            channel_order: ChannelOrder::Rgb,
            mean: [0.0; 3],
            deviation: [1.0; 3],
            resize,
        }
    }

    #[test]
    fn every_network_here_makes_the_same_tensor_of_what_is_sent() {
        let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models");
        let folder = ModelFolder::new(models);
        let mut fitted = 0;
        for name in folder.names().unwrap() {
            let input = folder.manifest(&name).unwrap().input;
            let fit = Fit::new([&input]).unwrap();
            let preprocessor = Preprocessor::new(input);
            for (width, height) in [(401, 333), (333, 400), (1023, 517), (300, 299)] {
                let image = noise(width, height);
                let sent = fit.apply(&image);
                fitted += usize::from(matches!(sent, Cow::Owned(_)));
                let expected = preprocessor.tensor(&image).unwrap();
                let found = preprocessor.tensor(&sent).unwrap();
                assert_eq!(found, expected, "{name} of {width}×{height}");
            }
        }
        assert!(fitted > 20, "{fitted}");
    }

    #[test]
    fn margins_hold_nothing_of_what_is_not_seen() {
        let filter = Filter::Bilinear;
        let input = spec(4, Resize::ShortSide { to: 6, filter });
        let mut image = RgbImage::from_pixel(6, 8, Rgb([255; 3]));
        for (x, y) in (1..5).flat_map(|x| (2..6).map(move |y| (x, y))) {
            image.put_pixel(x, y, Rgb([7; 3]));
        }
        let sent = Fit::new([&input]).unwrap().apply(&image).into_owned();
        assert_eq!(sent, RgbImage::from_pixel(6, 6, Rgb([7; 3])));
    }

    #[test]
    fn networks_that_see_different_things_get_the_whole_at_the_largest_of_their_sizes() {
        let filter = Filter::Bicubic;
        let stretch = spec(32, Resize::Stretch { to: 32, filter });
        let fraction = 0.875;
        let centre = spec(56, Resize::CentreSquare { fraction, filter });
        let fit = Fit::new([&stretch, &centre]).unwrap();
        let sent = fit.apply(&noise(300, 128)).into_owned();
        assert_eq!(sent.dimensions(), (150, 64));
        // Two that differ in their normalisation alone see the same.
        let other = InputSpec {
            mean: [9.0; 3],
            ..centre.clone()
        };
        let fit = Fit::new([&other, &centre]).unwrap();
        assert_eq!(fit.apply(&noise(300, 128)).dimensions(), (64, 64));
        assert_eq!(Fit::new([]), None);
    }

    #[test]
    fn images_that_are_smaller_stay_as_they_are() {
        let filter = Filter::Bicubic;
        let input = spec(56, Resize::ShortSide { to: 64, filter });
        let fit = Fit::new([&input]).unwrap();
        for (width, height) in [(1, 1), (64, 64), (30, 90)] {
            let image = noise(width, height);
            assert!(matches!(fit.apply(&image), Cow::Borrowed(_)));
        }
        assert_eq!(fit.apply(&noise(1, 5000)).dimensions(), (64, 64));
    }
}
