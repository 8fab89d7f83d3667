//! Still images in AVIF: one AV1 frame in the boxes of HEIF.
//!
//! The decoder of AV1 is a port of C. Where it finds itself wrong it may end the program, which no caller can keep from:
//! the boxes and the sizes are checked before it is called, one frame is all that it gets, and this file is built where
//! the feature `avif-decoder` asks for it alone.

use std::panic;

use image::{DynamicImage, RgbImage, metadata::Orientation};
use mp4_atom::{
    Any, DecodeMaybe as _, FourCC, Iinf, Iloc, Imir, Iprp, Irot, Ispe, ItemLocation, Meta, Pitm,
};
use re_rav1d::dav1d::{
    Decoder, Picture, PixelLayout, PlanarImageComponent as Component, Settings,
    pixel::{MatrixCoefficients, YUVRange},
};

use super::{DecodeError, ImageLimits, check_pixels, upright};

/// Decodes a still image to upright RGB. Colours are of whole pixels where they were of half; transparency is dropped.
pub(super) fn decode(encoded: &[u8], limits: &ImageLimits) -> Result<RgbImage, DecodeError> {
    panic::catch_unwind(|| {
        let item = Item::find(encoded)?;
        check_pixels(item.width, item.height, limits)?;
        let pixels = pixels(&item, limits)?;
        let mut image = DynamicImage::ImageRgb8(pixels);
        for turn in item.turns {
            image.apply_orientation(turn);
        }
        Ok(upright(image, None))
    })
    .unwrap_or_else(|_| Err(DecodeError::Corrupt("the decoder gave it up".into())))
}

/// Whether a file holds its picture and nothing that it tells beside: no EXIF, XMP, thumbnails or boxes that are not known.
pub(crate) fn is_bare(encoded: &[u8]) -> bool {
    let is_bare = || {
        let mut rest = encoded;
        while !rest.is_empty() {
            match Any::decode_maybe(&mut rest).ok()?? {
                Any::Ftyp(_) | Any::Mdat(_) => {}
                Any::Meta(meta) => {
                    let items = meta.get::<Iinf>()?;
                    let is_picture = |kind: Option<FourCC>| kind == Some(AV01);
                    if !items
                        .item_infos
                        .iter()
                        .all(|item| is_picture(item.item_type))
                    {
                        return None;
                    }
                    let is_known = |box_: &Any| !matches!(box_, Any::Unknown(..));
                    if !meta.items.iter().all(is_known) {
                        return None;
                    }
                }
                _ => return None,
            }
        }
        Some(())
    };
    panic::catch_unwind(is_bare).is_ok_and(|bare| bare.is_some())
}

const AV01: FourCC = FourCC::new(b"av01");

/// The picture of a file.
struct Item {
    data: Vec<u8>,
    width: u32,
    height: u32,
    /// What to do to see it upright, in this order.
    turns: Vec<Orientation>,
}

impl Item {
    fn find(encoded: &[u8]) -> Result<Self, DecodeError> {
        let corrupt = |what: &'static str| DecodeError::Corrupt(what.into());
        let meta = meta(encoded)?.ok_or_else(|| corrupt("it has no description of its items"))?;
        let primary = meta
            .get::<Pitm>()
            .ok_or_else(|| corrupt("it names no picture"))?;
        let id = primary.item_id;
        let infos = meta
            .get::<Iinf>()
            .ok_or_else(|| corrupt("it lists no items"))?;
        let info = infos.item_infos.iter().find(|info| info.item_id == id);
        if info.and_then(|info| info.item_type) != Some(AV01) {
            return Err(DecodeError::Unsupported(
                "its picture is put together of others, or not in AV1".into(),
            ));
        }
        let places = meta
            .get::<Iloc>()
            .ok_or_else(|| corrupt("it does not say where its picture is"))?;
        let place = places
            .item_locations
            .iter()
            .find(|place| place.item_id == id);
        let data = place
            .and_then(|place| data(place, encoded))
            .ok_or_else(|| corrupt("its picture lies outside of the file"))?;
        let properties = meta
            .get::<Iprp>()
            .ok_or_else(|| corrupt("its picture has no properties"))?;
        let of_item = properties
            .ipma
            .iter()
            .flat_map(|list| &list.item_properties);
        let of_item = of_item.filter(|list| list.item_id == id);
        let indices = of_item.flat_map(|list| &list.associations);
        let (mut size, mut turns) = (None, Vec::new());
        for one in indices {
            let index = usize::from(one.property_index).checked_sub(1);
            match index.and_then(|index| properties.ipco.properties.get(index)) {
                Some(Any::Ispe(Ispe { width, height })) => size = Some((*width, *height)),
                Some(Any::Irot(Irot { angle })) => turns.extend(match angle & 3 {
                    1 => Some(Orientation::Rotate270),
                    2 => Some(Orientation::Rotate180),
                    3 => Some(Orientation::Rotate90),
                    _ => None,
                }),
                Some(Any::Imir(Imir { axis })) => turns.push(match axis & 1 {
                    0 => Orientation::FlipVertical,
                    _ => Orientation::FlipHorizontal,
                }),
                // What must be understood and is not; a picture's other properties do not move its pixels.
                Some(Any::Unknown(..) | Any::Clap(_)) if one.essential => {
                    return Err(DecodeError::Unsupported(
                        "it uses a property of pictures that is not known here".into(),
                    ));
                }
                _ => {}
            }
        }
        let (width, height) = size.ok_or_else(|| corrupt("its picture has no size"))?;
        Ok(Self {
            data,
            width,
            height,
            turns,
        })
    }
}

fn meta(encoded: &[u8]) -> Result<Option<Meta>, DecodeError> {
    let mut rest = encoded;
    loop {
        match Any::decode_maybe(&mut rest) {
            Ok(Some(Any::Meta(meta))) => return Ok(Some(meta)),
            Ok(Some(_)) => {}
            Ok(None) => return Ok(None),
            Err(error) => return Err(DecodeError::Corrupt(error.into())),
        }
    }
}

/// The bytes of an item, which lie in one piece or more in the file.
fn data(place: &ItemLocation, encoded: &[u8]) -> Option<Vec<u8>> {
    // Others lie in other boxes or files.
    if place.construction_method != 0 || place.data_reference_index != 0 {
        return None;
    }
    let mut data = Vec::new();
    for extent in &place.extents {
        let start = place.base_offset.checked_add(extent.offset)?;
        let start = usize::try_from(start).ok()?;
        let piece = match usize::try_from(extent.length).ok()? {
            0 => encoded.get(start..)?,
            length => encoded.get(start..start.checked_add(length)?)?,
        };
        // Pieces may overlap, but not make more of the file than it is.
        if data.len() + piece.len() > encoded.len() {
            return None;
        }
        data.extend_from_slice(piece);
    }
    (!data.is_empty()).then_some(data)
}

fn pixels(item: &Item, limits: &ImageLimits) -> Result<RgbImage, DecodeError> {
    if frames(&item.data) != Some(1) {
        return Err(DecodeError::Unsupported(
            "its picture is not one frame".into(),
        ));
    }
    let mut settings = Settings::new();
    settings.set_n_threads(1);
    settings.set_max_frame_delay(1);
    settings.set_apply_grain(false);
    // The frame's own size, which the description need not tell truly.
    settings.set_frame_size_limit(u32::try_from(limits.max_pixels).unwrap_or(u32::MAX));
    let corrupt = |error: re_rav1d::dav1d::Error| DecodeError::Corrupt(error.into());
    let mut decoder = Decoder::with_settings(&settings).map_err(corrupt)?;
    decoder
        .send_data(item.data.clone(), None, None, None)
        .map_err(corrupt)?;
    let picture = decoder.get_picture().map_err(corrupt)?;
    if (picture.width(), picture.height()) != (item.width, item.height) {
        return Err(DecodeError::Corrupt(
            "its picture has another size than it says".into(),
        ));
    }
    rgb(&picture)
}

/// Number of frames in AV1 data; `None` where its units do not hold together. A few bytes of frames that are never shown
/// could keep a decoder busy for hours.
fn frames(data: &[u8]) -> Option<usize> {
    const FRAME_HEADER: u8 = 3;
    const FRAME: u8 = 6;
    let mut frames = 0;
    let mut rest = data;
    while let Some((&header, after)) = rest.split_first() {
        let (has_extension, has_size) = (header & 4 != 0, header & 2 != 0);
        let mut after = after.get(usize::from(has_extension)..)?;
        let size = match has_size {
            true => leb128(&mut after)?,
            false => after.len(),
        };
        if matches!(header >> 3 & 15, FRAME_HEADER | FRAME) {
            frames += 1;
        }
        rest = after.get(size..)?;
    }
    Some(frames)
}

/// A little-endian number of seven bits a byte.
fn leb128(data: &mut &[u8]) -> Option<usize> {
    let mut value = 0;
    for i in 0..5 {
        let (&byte, rest) = data.split_first()?;
        *data = rest;
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return usize::try_from(value).ok();
        }
    }
    None
}

/// The samples of a plane, 0 to 1, and how many pixels share one.
struct Samples {
    plane: re_rav1d::dav1d::Plane,
    stride: usize,
    bits: usize,
    shared: (u32, u32),
}

impl Samples {
    fn new(picture: &Picture, component: Component, shared: (u32, u32)) -> Self {
        Self {
            plane: picture.plane(component),
            stride: picture.stride(component) as usize,
            bits: picture.bit_depth(),
            shared,
        }
    }

    fn at(&self, x: u32, y: u32) -> f32 {
        let (x, y) = ((x / self.shared.0) as usize, (y / self.shared.1) as usize);
        let value = match self.bits {
            8 => u16::from(self.plane[y * self.stride + x]),
            _ => {
                let at = y * self.stride + 2 * x;
                u16::from_ne_bytes([self.plane[at], self.plane[at + 1]])
            }
        };
        f32::from(value) / ((1_u32 << self.bits) - 1) as f32
    }
}

/// Of the luma and the two differences of colour, by the weights of red and blue in the luma (ITU-T H.273).
fn rgb(picture: &Picture) -> Result<RgbImage, DecodeError> {
    let layout = picture.pixel_layout();
    let weights = match picture.matrix_coefficients() {
        _ if layout == PixelLayout::I400 => (0.0, 0.0),
        MatrixCoefficients::Identity => return identity(picture),
        MatrixCoefficients::BT709 => (0.2126, 0.0722),
        MatrixCoefficients::BT2020NonConstantLuminance => (0.2627, 0.0593),
        MatrixCoefficients::ST240M => (0.212, 0.087),
        MatrixCoefficients::BT470M => (0.3, 0.11),
        // What is not told is what still images mostly are.
        MatrixCoefficients::BT470BG
        | MatrixCoefficients::ST170M
        | MatrixCoefficients::Unspecified => (0.299, 0.114),
        _ => {
            return Err(DecodeError::Unsupported(
                "its colours are written in a way that is not known here".into(),
            ));
        }
    };
    let (red, blue): (f32, f32) = weights;
    let green = 1.0 - red - blue;
    let full = (1_u32 << picture.bit_depth()) - 1;
    let step = f64::from(1_u32 << (picture.bit_depth() - 8)) / f64::from(full);
    // Limited range: luma 16 to 235 of 8 bits, differences 16 to 240.
    let (black, luma_scale, difference_scale) = match picture.color_range() {
        YUVRange::Full => (0.0, 1.0, 1.0),
        YUVRange::Limited => (
            (16.0 * step) as f32,
            (1.0 / (219.0 * step)) as f32,
            (1.0 / (224.0 * step)) as f32,
        ),
    };
    let zero = (128.0 * step) as f32;
    let luma = Samples::new(picture, Component::Y, (1, 1));
    let shared = match layout {
        PixelLayout::I420 => (2, 2),
        PixelLayout::I422 => (2, 1),
        PixelLayout::I444 | PixelLayout::I400 => (1, 1),
    };
    let differences = (layout != PixelLayout::I400).then(|| {
        [Component::U, Component::V].map(|component| Samples::new(picture, component, shared))
    });
    let level = |value: f32| (value * 255.0 + 0.5).clamp(0.0, 255.0) as u8;
    Ok(RgbImage::from_fn(
        picture.width(),
        picture.height(),
        |x, y| {
            let luma = (luma.at(x, y) - black) * luma_scale;
            let [b, r] = match &differences {
                None => [0.0; 2],
                Some(planes) => planes
                    .each_ref()
                    .map(|plane| (plane.at(x, y) - zero) * difference_scale),
            };
            let r = 2.0 * (1.0 - red) * r;
            let b = 2.0 * (1.0 - blue) * b;
            let g = (red * r + blue * b) / green;
            image::Rgb([level(luma + r), level(luma - g), level(luma + b)])
        },
    ))
}

/// Green, blue and red as they are.
fn identity(picture: &Picture) -> Result<RgbImage, DecodeError> {
    if picture.pixel_layout() != PixelLayout::I444 || picture.color_range() != YUVRange::Full {
        return Err(DecodeError::Unsupported(
            "its colours are written in a way that is not known here".into(),
        ));
    }
    let planes = [Component::V, Component::Y, Component::U];
    let planes = planes.map(|component| Samples::new(picture, component, (1, 1)));
    Ok(RgbImage::from_fn(
        picture.width(),
        picture.height(),
        |x, y| {
            image::Rgb(
                planes
                    .each_ref()
                    .map(|plane| (plane.at(x, y) * 255.0 + 0.5) as u8),
            )
        },
    ))
}

#[cfg(test)]
#[cfg(feature = "avif-encoder")]
mod tests {
    use image::Rgb;

    use super::*;
    use crate::{Encoder, without_metadata};

    fn encoded(width: u32, height: u32) -> Vec<u8> {
        let image = RgbImage::from_fn(width, height, |x, y| {
            Rgb([(4 * x) as u8, (3 * y) as u8, 120])
        });
        let encoder: Encoder = "avif@90".parse().unwrap();
        encoder.encode(&image).unwrap()
    }

    fn find(encoded: &[u8], name: &[u8]) -> usize {
        encoded.windows(4).position(|four| four == name).unwrap()
    }

    #[test]
    fn colours_come_back_and_sizes_need_not_be_even() {
        let decoded = decode(&encoded(61, 43), &ImageLimits::default()).unwrap();
        assert_eq!(decoded.dimensions(), (61, 43));
        for (x, y) in [(0, 0), (60, 0), (0, 42), (30, 21), (60, 42)] {
            let expected = [(4 * x) as u8, (3 * y) as u8, 120];
            let found = decoded.get_pixel(x, y).0;
            let differences = found.iter().zip(expected).map(|(a, b)| a.abs_diff(b));
            assert!(differences.max() < Some(12), "{found:?} for {expected:?}");
        }
    }

    #[test]
    fn a_picture_that_says_it_is_huge_or_is_larger_than_it_says_is_refused() {
        let limits = ImageLimits::default();
        let good = encoded(64, 48);
        let size = find(&good, b"ispe") + 8;
        let mut bomb = good.clone();
        bomb[size..size + 8].copy_from_slice(&[0, 0, 0xff, 0xff, 0, 0, 0xff, 0xff]);
        let refused = decode(&bomb, &limits);
        assert!(matches!(refused, Err(DecodeError::TooManyPixels { .. })));
        let mut small = good.clone();
        small[size..size + 8].copy_from_slice(&[0, 0, 0, 1, 0, 0, 0, 1]);
        let refused = decode(&small, &limits);
        assert!(matches!(refused, Err(DecodeError::Corrupt(_))));
        let tight = ImageLimits {
            max_pixels: 64,
            ..limits
        };
        assert!(matches!(
            decode(&small, &tight),
            Err(DecodeError::Corrupt(_))
        ));
    }

    #[test]
    fn more_frames_than_one_are_not_decoded() {
        let item = Item::find(&encoded(64, 48)).unwrap();
        assert_eq!(frames(&item.data), Some(1));
        assert_eq!(frames(&[item.data.as_slice(); 2].concat()), Some(2));
        assert_eq!(frames(&[0x32, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]), None);
        assert_eq!(frames(&[0x32, 5, 1]), None);
    }

    #[test]
    fn boxes_that_are_cut_or_broken_are_errors() {
        let good = encoded(32, 32);
        let picture = find(&good, b"mdat");
        for end in 0..picture {
            assert!(
                decode(&good[..end], &ImageLimits::default()).is_err(),
                "{end}"
            );
        }
        for at in 0..picture {
            for value in [0, 1, 0x7f, 0xff] {
                let mut broken = good.clone();
                broken[at] = value;
                let _ = decode(&broken, &ImageLimits::default());
            }
        }
    }

    #[test]
    fn a_bare_picture_is_told_from_one_that_tells_more() {
        let bare = encoded(16, 16);
        assert_eq!(
            without_metadata(&bare.clone().into()),
            Some(bare.clone().into())
        );
        let mut with_exif = bare.clone();
        let kind = find(&bare, b"infe") + 12;
        assert_eq!(&with_exif[kind..kind + 4], b"av01");
        with_exif[kind..kind + 4].copy_from_slice(b"Exif");
        assert_eq!(without_metadata(&with_exif.into()), None);
        let trailing = [bare.as_slice(), b"\0\0\0\x0cuuid1234"].concat();
        assert_eq!(without_metadata(&trailing.into()), None);
    }
}
