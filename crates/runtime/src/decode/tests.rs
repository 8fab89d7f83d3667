use image::{
    ImageEncoder, Luma, LumaA, Rgb, Rgba, codecs::png::PngEncoder, codecs::webp::WebPEncoder,
};

use super::*;

/// Three by two, every pixel another.
fn picture() -> RgbImage {
    RgbImage::from_fn(3, 2, |x, y| Rgb([10 * x as u8, 100 * y as u8, 7]))
}

fn png(image: &DynamicImage) -> Vec<u8> {
    let mut encoded = Vec::new();
    image
        .write_to(&mut Cursor::new(&mut encoded), ImageFormat::Png)
        .unwrap();
    encoded
}

/// A JPEG whose left half is dark and whose right half is bright, with an EXIF orientation.
fn jpeg(orientation: Option<u8>) -> Vec<u8> {
    let (width, height) = (32, 16);
    let pixels: Vec<u8> = (0..width * height)
        .flat_map(|i| [if i % width < width / 2 { 20 } else { 220 }; 3])
        .collect();
    let exif: Vec<u8> = [
        b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".as_slice(),
        &[orientation.unwrap_or(1), 0, 0, 0, 0, 0, 0, 0],
    ]
    .concat();
    let encoder = libjpeg_turbo_rs::Encoder::new(&pixels, width, height, PixelFormat::Rgb);
    match orientation {
        Some(_) => encoder.exif_data(&exif).encode().unwrap(),
        None => encoder.encode().unwrap(),
    }
}

#[test]
fn png_and_webp_keep_their_pixels() {
    let limits = ImageLimits::default();
    let image = picture();
    let encoded = png(&DynamicImage::ImageRgb8(image.clone()));
    assert_eq!(decode(&encoded, &limits).unwrap(), image);
    let mut encoded = Vec::new();
    WebPEncoder::new_lossless(&mut encoded)
        .write_image(image.as_raw(), 3, 2, image::ExtendedColorType::Rgb8)
        .unwrap();
    assert_eq!(decode(&encoded, &limits).unwrap(), image);
}

#[test]
fn grey_is_spread_and_alpha_dropped() {
    let grey = image::GrayImage::from_pixel(2, 1, Luma([9]));
    let grey_alpha = image::GrayAlphaImage::from_pixel(2, 1, LumaA([9, 0]));
    let alpha = image::RgbaImage::from_pixel(2, 1, Rgba([9, 9, 9, 0]));
    let deep = image::ImageBuffer::from_pixel(2, 1, Luma([9_u16 * 257]));
    for image in [
        DynamicImage::ImageLuma8(grey),
        DynamicImage::ImageLumaA8(grey_alpha),
        DynamicImage::ImageRgba8(alpha),
        DynamicImage::ImageLuma16(deep),
    ] {
        let decoded = decode(&png(&image), &ImageLimits::default()).unwrap();
        assert_eq!(
            decoded,
            RgbImage::from_pixel(2, 1, Rgb([9; 3])),
            "{image:?}"
        );
    }
}

#[test]
fn exif_orientation_turns_the_image_upright() {
    let decoded = |orientation| decode(&jpeg(orientation), &ImageLimits::default()).unwrap();
    let bright = |image: &RgbImage, x, y| image.get_pixel(x, y)[0] > 120;
    let plain = decoded(None);
    assert_eq!(plain.dimensions(), (32, 16));
    assert!(!bright(&plain, 2, 2) && bright(&plain, 30, 2));
    let mirrored = decoded(Some(2));
    assert!(bright(&mirrored, 2, 2) && !bright(&mirrored, 30, 2));
    let turned = decoded(Some(6));
    assert_eq!(turned.dimensions(), (16, 32));
    assert!(!bright(&turned, 2, 2) && bright(&turned, 2, 30));
}

#[test]
fn limits_are_checked_on_the_header() {
    let encoded = jpeg(None);
    let limits = ImageLimits {
        max_pixels: 511,
        ..ImageLimits::default()
    };
    let error = decode(&encoded, &limits).unwrap_err();
    assert!(matches!(
        error,
        DecodeError::TooManyPixels {
            width: 32,
            height: 16,
            ..
        }
    ));
    // Pixels of eight bytes count as two of four.
    let wide = png(&DynamicImage::ImageRgba16(image::ImageBuffer::new(4, 4)));
    let with = |max_pixels| ImageLimits {
        max_pixels,
        ..ImageLimits::default()
    };
    let error = decode(&wide, &with(31)).unwrap_err();
    assert!(matches!(error, DecodeError::WidePixels { bytes: 8, .. }));
    assert!(decode(&wide, &with(32)).is_ok());
    let strip = png(&DynamicImage::ImageLuma8(image::ImageBuffer::new(
        1, 65_536,
    )));
    let error = decode(&strip, &ImageLimits::default()).unwrap_err();
    assert!(matches!(
        error,
        DecodeError::LongSide { height: 65_536, .. }
    ));
    let limits = ImageLimits {
        max_bytes: 10,
        ..ImageLimits::default()
    };
    let error = decode(&encoded, &limits).unwrap_err();
    assert!(matches!(error, DecodeError::TooManyBytes { limit: 10, .. }));
}

#[test]
fn broken_images_are_refused() {
    let limits = ImageLimits::default();
    assert!(matches!(decode(b"", &limits), Err(DecodeError::Empty)));
    assert!(matches!(
        decode(b"hello", &limits),
        Err(DecodeError::Format)
    ));
    assert!(matches!(
        decode(b"GIF89a", &limits),
        Err(DecodeError::Format)
    ));
    for whole in [jpeg(None), png(&DynamicImage::ImageRgb8(picture()))] {
        for length in [20, whole.len() / 2, whole.len() * 3 / 4] {
            let error = decode(&whole[..length], &limits);
            assert!(
                matches!(error, Err(DecodeError::Corrupt(_))),
                "{length}: {error:?}"
            );
        }
    }
}

#[test]
fn damaged_bytes_never_panic() {
    let mut png_bytes = Vec::new();
    PngEncoder::new(&mut png_bytes)
        .write_image(picture().as_raw(), 3, 2, image::ExtendedColorType::Rgb8)
        .unwrap();
    for whole in [jpeg(Some(6)), png_bytes] {
        for position in 0..whole.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut damaged = whole.clone();
                damaged[position] ^= flip;
                let _ = decode(&damaged, &ImageLimits::default());
            }
        }
    }
}

/// Files that a fuzzer found, which made the decoder panic: four components, of which the second is sampled at three times
/// the others' fineness; of which the first is at four times; four components of no lines.
#[test]
fn what_the_decoder_does_not_take_is_refused() {
    let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/image");
    let limits = ImageLimits::default();
    let decode = |name| decode(&std::fs::read(corpus.join(name)).unwrap(), &limits);
    for name in ["sampling.jpg", "fine-sampling.jpg", "no-lines.jpg"] {
        let error = decode(name).unwrap_err();
        assert!(
            matches!(error, DecodeError::Unsupported(_)),
            "{name}: {error}"
        );
    }
    decode("cmyk.jpg").unwrap();
}

#[test]
fn webp_that_says_it_is_huge_is_refused_before_it_is_decoded() {
    let image = RgbImage::from_pixel(16, 16, Rgb([9; 3]));
    let mut lossless = Vec::new();
    WebPEncoder::new_lossless(&mut lossless)
        .write_image(image.as_raw(), 16, 16, image::ExtendedColorType::Rgb8)
        .unwrap();
    // 14 bits each of width and height, less one, behind a signature.
    assert_eq!(&lossless[12..16], b"VP8L");
    let side = 16_382_u32;
    lossless[21..25].copy_from_slice(&(side | side << 14).to_le_bytes());
    let encoder: crate::Encoder = "webp@80".parse().unwrap();
    let mut lossy = encoder.encode(&image).unwrap();
    // 14 bits each behind the start code.
    assert_eq!(&lossy[23..26], [0x9d, 0x01, 0x2a]);
    lossy[26..30].copy_from_slice(&[0xff, 0x3f, 0xff, 0x3f]);
    for bomb in [lossless, lossy] {
        let refused = decode(&bomb, &ImageLimits::default());
        assert!(
            matches!(refused, Err(DecodeError::TooManyPixels { .. })),
            "{refused:?}"
        );
    }
}

#[test]
#[cfg(not(feature = "avif-decoder"))]
fn a_build_without_avif_says_what_to_do() {
    let header = b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf";
    let refused = decode(header, &ImageLimits::default()).unwrap_err();
    let source = std::error::Error::source(&refused).unwrap().to_string();
    assert!(source.contains("--features avif"), "{source}");
}
