//! Frames of YUYV: two pixels in four bytes, with a brightness each and colours for both.

use bytes::Bytes;
use outpost_runtime::{Codec, EncodeError, Encoder, Quality, RgbImage};

use super::{Format, FrameError};

/// How good the JPEG is that a frame becomes: the colours are at half the resolution as they come, and cameras that compress
/// by themselves do no better.
const QUALITY: u8 = 95;
/// Bytes of two pixels.
const PAIR: usize = 4;

/// A frame whose bytes are as many as its size says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Yuyv {
    width: u32,
    height: u32,
    stride: usize,
    bytes: Bytes,
}

impl Yuyv {
    /// Takes a frame over.
    ///
    /// # Errors
    /// [`FrameError::Cut`] where bytes are missing, and [`FrameError::NoImage`] where it has no pixels.
    pub(super) fn new(format: &Format, bytes: &[u8]) -> Result<Self, FrameError> {
        let Format { width, height, .. } = *format;
        if width == 0 || height == 0 {
            return Err(FrameError::NoImage);
        }
        let line = width.div_ceil(2) as usize * PAIR;
        let stride = line.max(format.stride as usize);
        // The last line may end with its last pixel.
        let length = stride
            .checked_mul(height as usize - 1)
            .and_then(|before| before.checked_add(line))
            .ok_or(FrameError::Cut)?;
        let bytes = bytes.get(..length).ok_or(FrameError::Cut)?;
        Ok(Self {
            width,
            height,
            stride,
            bytes: Bytes::copy_from_slice(bytes),
        })
    }

    /// A JPEG file of it; costs CPU time.
    ///
    /// # Errors
    /// [`EncodeError`], where it is larger than the format takes.
    pub(crate) fn to_jpeg(&self) -> Result<Bytes, EncodeError> {
        let encoder = Encoder {
            codec: Codec::Jpeg,
            quality: Quality::new(QUALITY).expect("it is within 1 to 100"),
        };
        Ok(encoder.encode(&self.to_rgb())?.into())
    }

    fn to_rgb(&self) -> RgbImage {
        let width = self.width as usize;
        let mut pixels = Vec::with_capacity(3 * width * self.height as usize);
        for line in self.bytes.chunks(self.stride) {
            let pairs = line.chunks_exact(PAIR).take(width.div_ceil(2));
            let two = pairs.flat_map(|pair| {
                let (u, v) = (pair[1], pair[3]);
                [rgb(pair[0], u, v), rgb(pair[2], u, v)]
            });
            pixels.extend(two.take(width).flatten());
        }
        RgbImage::from_raw(self.width, self.height, pixels)
            .expect("each line has as many pixels as the frame is wide")
    }
}

/// From a brightness of 16 to 235 and colours of 16 to 240 around 128 to red, green and blue, as ITU-R BT.601 has it: what
/// Video4Linux says of this format unless the camera says otherwise. In steps of a 256th.
fn rgb(y: u8, u: u8, v: u8) -> [u8; 3] {
    let y = 298 * (i32::from(y) - 16);
    let [u, v] = [u, v].map(|colour| i32::from(colour) - 128);
    [409 * v, -100 * u - 208 * v, 516 * u]
        .map(|colour| ((y + colour + 128) >> 8).clamp(0, 255) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::camera::Pixels;

    fn format(width: u32, height: u32, stride: u32) -> Format {
        Format {
            pixels: Pixels::Yuyv,
            width,
            height,
            stride,
        }
    }

    #[test]
    fn the_colours_of_the_standard_come_out_within_a_level() {
        // The bars of ITU-R BT.601 at full amplitude.
        for (yuv, expected) in [
            ([235, 128, 128], [255, 255, 255]),
            ([16, 128, 128], [0, 0, 0]),
            ([126, 128, 128], [128, 128, 128]),
            ([81, 90, 240], [255, 0, 0]),
            ([145, 54, 34], [0, 255, 0]),
            ([41, 240, 110], [0, 0, 255]),
            ([210, 16, 146], [255, 255, 0]),
            ([170, 166, 16], [0, 255, 255]),
            ([106, 202, 222], [255, 0, 255]),
            // Beyond the range.
            ([255, 128, 128], [255, 255, 255]),
            ([0, 128, 128], [0, 0, 0]),
        ] {
            let [y, u, v] = yuv;
            let found = rgb(y, u, v);
            let is_near = |(a, b): (u8, u8)| a.abs_diff(b) <= 1;
            assert!(
                found.into_iter().zip(expected).all(is_near),
                "{yuv:?}: {found:?}"
            );
        }
    }

    #[test]
    fn two_pixels_share_their_colours_and_what_lines_are_filled_up_with_is_left_out() {
        // Three pixels a line, in two pairs and four bytes more; the last line ends with its last pair.
        let line = [235, 128, 16, 128, 81, 90, 0, 240];
        let bytes = [&line[..], &[9; 4], &line].concat();
        let frame = Yuyv::new(&format(3, 2, 12), &bytes).unwrap();
        let image = frame.to_rgb();
        assert_eq!(image.dimensions(), (3, 2));
        for y in 0..2 {
            let row = [0, 1, 2].map(|x| image.get_pixel(x, y).0);
            assert_eq!(row, [[255, 255, 255], [0, 0, 0], rgb(81, 90, 240)]);
        }
        let decoded = outpost_runtime::decode(&frame.to_jpeg().unwrap(), &Default::default());
        assert_eq!(decoded.unwrap().dimensions(), (3, 2));
    }

    #[test]
    fn one_that_was_cut_short_is_none() {
        let bytes = [128; 2 * 640 * 480];
        let format = format(640, 480, 0);
        assert!(Yuyv::new(&format, &bytes).is_ok());
        // Drivers hand on whole pages.
        assert!(Yuyv::new(&format, &[&bytes[..], &[0; 100]].concat()).is_ok());
        let cut = Yuyv::new(&format, &bytes[1..]);
        assert_eq!(cut, Err(FrameError::Cut));
    }

    #[test]
    fn sizes_that_cannot_be_are_refused() {
        for (width, height, stride) in [(0, 480, 0), (640, 0, 0), (u32::MAX, u32::MAX, u32::MAX)] {
            assert!(Yuyv::new(&format(width, height, stride), &[0; 64]).is_err());
        }
    }
}
