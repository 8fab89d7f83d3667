//! An encoded image without what it tells beside its pixels: where and when it was taken, with what, thumbnails, texts.

use bytes::Bytes;
use image::{ImageFormat, metadata::Orientation};
use img_parts::{
    ImageEXIF,
    jpeg::{Jpeg, JpegSegment, markers},
    png::Png,
    riff::RiffContent,
    webp::{CHUNK_ALPH, CHUNK_VP8, CHUNK_VP8L, CHUNK_VP8X, WebP},
};

/// An EXIF block with an orientation alone, up to its value: a TIFF header, one entry, no more.
const EXIF_ORIENTATION: &[u8] = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0";

/// The flag in the header of a WebP that says that there is XMP. Those of other parts are set with them.
const WEBP_XMP: u8 = 0x04;

/// Takes out of a JPEG, PNG or WebP file what its pixels do not need. The orientation stays, as nothing else would know
/// it, and the pixels are the same bytes as before; frames after the first and whatever follows the image go.
///
/// `None` where the file's parts are not understood, for an animation, and for an AVIF file that holds more than a picture.
pub fn without_metadata(encoded: &Bytes) -> Option<Bytes> {
    match image::guess_format(encoded) {
        Ok(ImageFormat::Jpeg) => jpeg(encoded.clone()),
        Ok(ImageFormat::Png) => png(encoded.clone()),
        Ok(ImageFormat::WebP) => webp(encoded.clone()),
        #[cfg(feature = "avif-decoder")]
        Ok(ImageFormat::Avif) => crate::decode::avif::is_bare(encoded).then(|| encoded.clone()),
        _ => None,
    }
}

fn jpeg(encoded: Bytes) -> Option<Bytes> {
    let mut jpeg = Jpeg::from_bytes(encoded.clone()).ok()?;
    let exif = orientation(jpeg.exif());
    let segments = jpeg.segments().iter();
    let kept = segments
        .filter_map(|segment| bare(segment, &encoded))
        .collect();
    *jpeg.segments_mut() = kept;
    jpeg.set_exif(exif);
    Some(jpeg.encoder().bytes())
}

/// What the pixels need of a segment of the JPEG `encoded`.
fn bare(segment: &JpegSegment, encoded: &Bytes) -> Option<JpegSegment> {
    let contents = segment.contents();
    let begins_with = |name: &[u8], bytes| contents.len() >= bytes && contents.starts_with(name);
    match segment.marker() {
        // These two say which colours the components are. Only a thumbnail of no size is kept.
        markers::APP0 if begins_with(b"JFIF\0", 14) => {
            let contents = [&contents[..12], &[0, 0]].concat();
            Some(JpegSegment::new_with_contents(
                markers::APP0,
                contents.into(),
            ))
        }
        markers::APP14 if begins_with(b"Adobe", 12) => {
            let contents = contents.slice(..12);
            Some(JpegSegment::new_with_contents(markers::APP14, contents))
        }
        markers::APP0..=markers::APP15 | markers::COM => None,
        markers::SOS => {
            // The data of the scans are the rest of the file.
            let data = segment.len_with_entropy() - segment.len();
            let scans = scans(&encoded[encoded.len() - data..]);
            Some(JpegSegment::new_with_entropy(
                markers::SOS,
                contents.clone(),
                scans,
            ))
        }
        _ => Some(segment.clone()),
    }
}

/// From the first scan's data to the end of the image, without segments in between that the pixels do not need, and
/// without what follows the image.
fn scans(data: &[u8]) -> Bytes {
    let mut kept = Vec::with_capacity(data.len());
    let mut rest = data;
    while let Some(at) = rest.windows(2).position(|pair| is_marker(pair[0], pair[1])) {
        let marker = rest[at + 1];
        kept.extend_from_slice(&rest[..at]);
        rest = &rest[at..];
        if marker == markers::EOI {
            kept.extend_from_slice(&rest[..2]);
            return kept.into();
        }
        let length = match rest[2..] {
            [high, low, ..] => 2 + usize::from(u16::from_be_bytes([high, low])),
            _ => rest.len(),
        };
        let (segment, after) = rest.split_at(length.clamp(2, rest.len()));
        if !matches!(marker, markers::APP0..=markers::APP15 | markers::COM) {
            kept.extend_from_slice(segment);
        }
        rest = after;
    }
    // Cut off before its end, which decoders take as far as it goes.
    kept.extend_from_slice(rest);
    kept.into()
}

/// Whether two bytes in a scan are a marker with a segment, or the end: not data, filling, or a restart.
fn is_marker(first: u8, second: u8) -> bool {
    first == markers::P
        && !matches!(
            second,
            markers::Z | markers::P | markers::RST0..=markers::RST7
        )
}

fn png(encoded: Bytes) -> Option<Bytes> {
    let mut png = Png::from_bytes(encoded).ok()?;
    let exif = orientation(png.exif());
    // A lower-case letter first: a chunk that decoders may pass over. Only transparency belongs to the pixels.
    let is_needed = |kind: [u8; 4]| kind[0].is_ascii_uppercase() || &kind == b"tRNS";
    png.chunks_mut().retain(|chunk| is_needed(chunk.kind()));
    png.set_exif(exif);
    Some(png.encoder().bytes())
}

fn webp(encoded: Bytes) -> Option<Bytes> {
    let mut webp = WebP::from_bytes(encoded).ok()?;
    let exif = orientation(webp.exif());
    let is_needed = |id| matches!(id, CHUNK_ALPH | CHUNK_VP8 | CHUNK_VP8L | CHUNK_VP8X);
    let is_still = webp
        .chunks()
        .iter()
        .any(|chunk| matches!(chunk.id(), CHUNK_VP8 | CHUNK_VP8L));
    if !is_still {
        return None;
    }
    webp.chunks_mut().retain(|chunk| is_needed(chunk.id()));
    for chunk in webp.chunks_mut() {
        if let (CHUNK_VP8X, RiffContent::Data(data)) = (chunk.id(), chunk.content_mut())
            && let Some((&flags, rest)) = data.split_first()
        {
            *data = [&[flags & !WEBP_XMP], rest].concat().into();
        }
    }
    webp.set_exif(exif);
    Some(webp.encoder().bytes())
}

/// An EXIF block with nothing but the orientation of another, where that one turns the image.
fn orientation(exif: Option<Bytes>) -> Option<Bytes> {
    let orientation = Orientation::from_exif_chunk(&exif?)?;
    let value = orientation.to_exif();
    let block = [EXIF_ORIENTATION, &[value, 0, 0, 0, 0, 0, 0, 0]].concat();
    (orientation != Orientation::NoTransforms).then(|| block.into())
}

#[cfg(test)]
mod tests;
