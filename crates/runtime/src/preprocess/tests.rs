use image::Rgb;

use super::*;

fn spec(size: u32, resize: Resize) -> InputSpec {
    InputSpec {
        tensor: "image".into(),
        size,
        channel_order: ChannelOrder::Bgr,
        mean: [1.0, 2.0, 3.0],
        deviation: [2.0, 1.0, 0.5],
        resize,
    }
}

const STRETCH: Resize = Resize::Stretch {
    to: 4,
    filter: Filter::Bilinear,
};

#[test]
fn channels_are_reordered_and_normalised_in_the_networks_order() {
    let image = RgbImage::from_pixel(9, 5, Rgb([10, 20, 30]));
    let tensor = Preprocessor::new(spec(2, STRETCH)).tensor(&image).unwrap();
    assert_eq!(tensor.shape(), [1, 3, 2, 2]);
    let channel = |c| tensor[[0, c, 1, 1]];
    assert_eq!((channel(0), channel(1), channel(2)), (14.5, 18.0, 14.0));
}

#[test]
fn every_method_gives_the_networks_size_for_every_aspect() {
    let filter = Filter::Bicubic;
    for resize in [
        STRETCH,
        Resize::ShortSide { to: 4, filter },
        Resize::CentreSquare {
            fraction: 0.875,
            filter,
        },
    ] {
        for (width, height) in [(1, 1), (1, 5000), (5000, 1), (3, 2), (640, 481)] {
            let image = RgbImage::new(width, height);
            let tensor = Preprocessor::new(spec(3, resize)).tensor(&image);
            assert_eq!(
                tensor.unwrap().shape(),
                [1, 3, 3, 3],
                "{resize:?} {width}×{height}"
            );
        }
    }
}

#[test]
fn the_crop_is_the_centre() {
    // Columns 0 to 9 hold their own number; short side 2 → 2 is no resampling.
    let image = RgbImage::from_fn(10, 2, |x, _| Rgb([x as u8; 3]));
    let resize = Resize::ShortSide {
        to: 2,
        filter: Filter::Bilinear,
    };
    let mut spec = spec(2, resize);
    spec.mean = [0.0; 3];
    spec.deviation = [1.0; 3];
    let tensor = Preprocessor::new(spec).tensor(&image).unwrap();
    assert_eq!((tensor[[0, 0, 0, 0]], tensor[[0, 0, 0, 1]]), (4.0, 5.0));
}

#[test]
fn an_image_without_pixels_is_refused() {
    let error = Preprocessor::new(spec(2, STRETCH)).tensor(&RgbImage::new(0, 7));
    assert!(matches!(error, Err(PreprocessError::NoPixels { .. })));
}
