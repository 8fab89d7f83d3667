use std::{fs, path::Path};

use img_parts::{jpeg::Jpeg, png::PngChunk, riff::RiffChunk};

use super::*;
use crate::{ImageLimits, decode};

/// What must not leave the device.
const SECRET: &[u8] = b"52.520008 N 13.404954 E, taken by Ada";

fn exif(orientation: u8) -> Bytes {
    [
        EXIF_ORIENTATION,
        &[orientation, 0, 0, 0, 0, 0, 0, 0],
        SECRET,
    ]
    .concat()
    .into()
}

fn says(bytes: &[u8]) -> bool {
    bytes.windows(SECRET.len()).any(|window| window == SECRET)
}

/// Takes the metadata out, and checks that the secret is gone and the pixels are the same.
fn taken_out(encoded: &Bytes) -> Bytes {
    assert!(says(encoded));
    let bare = without_metadata(encoded).unwrap();
    assert!(!says(&bare));
    let limits = ImageLimits::default();
    assert_eq!(
        decode(&bare, &limits).unwrap(),
        decode(encoded, &limits).unwrap()
    );
    bare
}

fn sample(name: &str) -> Bytes {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/image");
    fs::read(folder.join(name)).unwrap().into()
}

fn photo() -> Bytes {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/samples/photos");
    let mut photos = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let photo = photos.find(|path| path.extension().is_some_and(|extension| extension == "jpg"));
    fs::read(photo.unwrap()).unwrap().into()
}

#[test]
fn of_a_jpeg_stay_its_pixels_and_its_orientation() {
    for turned in [1, 6, 8] {
        let mut jpeg = Jpeg::from_bytes(photo()).unwrap();
        jpeg.set_exif(Some(exif(turned)));
        for marker in [markers::COM, markers::APP2, markers::APP13] {
            let secret = JpegSegment::new_with_contents(marker, SECRET.into());
            jpeg.segments_mut().insert(1, secret);
        }
        // A second image after the first, as phones write them.
        let encoded = [&jpeg.encoder().bytes()[..], &photo(), SECRET]
            .concat()
            .into();
        let bare = taken_out(&encoded);
        assert!(
            bare.len() <= photo().len() + 40,
            "{} of {}",
            bare.len(),
            photo().len()
        );
        let kept = Jpeg::from_bytes(bare).unwrap().exif();
        assert_eq!(kept.is_some(), turned != 1);
    }
}

#[test]
fn segments_between_the_scans_of_a_progressive_jpeg_go() {
    let pixels: Vec<u8> = (0..64 * 64 * 3).map(|i| (i * 7 % 251) as u8).collect();
    let encoder =
        libjpeg_turbo_rs::Encoder::new(&pixels, 64, 64, libjpeg_turbo_rs::PixelFormat::Rgb);
    let encoded = encoder.progressive(true).encode().unwrap();
    // Before the second scan.
    let is_scan = |pair: &[u8]| pair == [markers::P, markers::SOS];
    let second = encoded
        .windows(2)
        .enumerate()
        .filter(|(_, pair)| is_scan(pair))
        .nth(1)
        .unwrap()
        .0;
    let length = (SECRET.len() as u16 + 2).to_be_bytes();
    let segment = [&[markers::P, markers::COM][..], &length, SECRET].concat();
    let with = [&encoded[..second], &segment, &encoded[second..]]
        .concat()
        .into();
    taken_out(&with);
}

#[test]
fn of_a_png_and_a_webp_stay_their_pixels_and_their_orientation() {
    let mut png = Png::from_bytes(sample("palette.png")).unwrap();
    png.set_exif(Some(exif(6)));
    let text = PngChunk::new(*b"tEXt", SECRET.into());
    png.chunks_mut().insert(1, text);
    taken_out(&png.encoder().bytes());
    let image = image::RgbImage::from_fn(20, 10, |x, y| image::Rgb([x as u8, y as u8, 7]));
    let mut encoded = std::io::Cursor::new(Vec::new());
    image.write_to(&mut encoded, ImageFormat::WebP).unwrap();
    let mut webp = WebP::from_bytes(encoded.into_inner().into()).unwrap();
    webp.set_exif(Some(exif(6)));
    let xmp = RiffChunk::new(*b"XMP ", RiffContent::Data(SECRET.into()));
    webp.chunks_mut().push(xmp);
    for chunk in webp.chunks_mut() {
        if let (CHUNK_VP8X, RiffContent::Data(data)) = (chunk.id(), chunk.content_mut()) {
            *data = [&[data[0] | WEBP_XMP], &data[1..]].concat().into();
        }
    }
    taken_out(&webp.encoder().bytes());
}

#[test]
fn every_image_of_the_corpus_that_can_be_decoded_keeps_its_pixels() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/image");
    let limits = ImageLimits::default();
    let mut decoded = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let encoded = Bytes::from(fs::read(entry.unwrap().path()).unwrap());
        let bare = without_metadata(&encoded);
        if let (Ok(pixels), Some(bare)) = (decode(&encoded, &limits), bare) {
            assert_eq!(decode(&bare, &limits).unwrap(), pixels);
            decoded += 1;
        }
    }
    assert!(decoded >= 5, "{decoded}");
    assert_eq!(without_metadata(&Bytes::from_static(b"no image")), None);
}
