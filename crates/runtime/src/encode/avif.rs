//! AVIF, as small as a network can do with it: one AV1 frame by libaom, in the boxes of HEIF.
//!
//! What encoders leave out to please people, networks miss: textures that are smoothed over, and coefficients that are given up
//! because they cost more than they look like. The [`OPTIONS`] take that back.

#![allow(unsafe_code, reason = "libaom is called by its C interface")]

use std::{
    ffi::{CStr, CString, c_int},
    mem::MaybeUninit,
    ptr, slice,
};

use avif_serialize::{Aviffy, constants::MatrixCoefficients};
use image::RgbImage;
use libaom_sys::{
    AOM_CICP_CP_BT_709, AOM_CICP_MC_BT_601, AOM_CICP_TC_SRGB, AOM_CODEC_CX_FRAME_PKT, AOM_CODEC_OK,
    AOM_CR_FULL_RANGE, AOM_ENCODER_ABI_VERSION, AOM_IMG_FMT_I444, AOM_Q, AOM_USAGE_ALL_INTRA,
    AV1E_SET_COLOR_PRIMARIES, AV1E_SET_COLOR_RANGE, AV1E_SET_MATRIX_COEFFICIENTS,
    AV1E_SET_TRANSFER_CHARACTERISTICS, aom_codec_av1_cx, aom_codec_control, aom_codec_ctx,
    aom_codec_destroy, aom_codec_enc_config_default, aom_codec_enc_init_ver, aom_codec_encode,
    aom_codec_err_t, aom_codec_err_to_string, aom_codec_error_detail, aom_codec_get_cx_data,
    aom_codec_set_option, aom_image_t, aom_img_wrap,
};

use super::{Encoded, Failure, Quality};

/// What libaom is told beside the quality. Each was found by what the answers of a network, EfficientNet-Lite2, differ by between
/// a photo and what was made of it, at the same bytes: `docs/decisions/008-encoders.md` has by how much.
const OPTIONS: [(&CStr, &CStr); 11] = [
    // Speed, 0 to 9. Slower ones save bytes by filters that smooth.
    (c"cpu-used", c"6"),
    (c"tune", c"ssim"),
    // Fine structures are quantised coarser than coarse ones, always by the same.
    (c"enable-qm", c"1"),
    (c"qm-min", c"8"),
    (c"qm-max", c"8"),
    // Coefficients are not given up for being small.
    (c"sharpness", c"7"),
    // Blocks with little in them are quantised finer than those with much.
    (c"deltaq-mode", c"2"),
    (c"use-intra-dct-only", c"1"),
    // Nothing is smoothed across the edges of blocks.
    (c"loopfilter-control", c"0"),
    // For what looks as if it came of a screen, at five times the memory; it saves photos nothing.
    (c"enable-palette", c"0"),
    (c"enable-intrabc", c"0"),
];
/// The largest quantiser, at quality 0.
const COARSEST: u32 = 63;
/// Weights of red and blue in the luma (ITU-R BT.601).
const RED: f32 = 0.299;
const BLUE: f32 = 0.114;

/// Encodes an image with colours at their full resolution, on the calling thread.
///
/// # Errors
/// In libaom's words, where it has no memory.
pub(super) fn encode(image: &RgbImage, quality: Quality) -> Encoded {
    let (width, height) = image.dimensions();
    let frame = Frame::new(image);
    let av1 = Encoder::new(width, height, quality)?.encode(&frame)?;
    let boxes = Aviffy::new()
        .set_matrix_coefficients(MatrixCoefficients::Bt601)
        .to_vec(&av1, None, width, height, 8);
    Ok(boxes)
}

/// Luma and the two differences of colour, one plane after the other, a byte a pixel.
struct Frame {
    planes: Vec<u8>,
    width: u32,
    height: u32,
}

impl Frame {
    fn new(image: &RgbImage) -> Self {
        let (width, height) = image.dimensions();
        let size = width as usize * height as usize;
        let mut planes = vec![0; 3 * size];
        let (lumas, differences) = planes.split_at_mut(size);
        let (blues, reds) = differences.split_at_mut(size);
        let level = |value: f32| (value + 0.5).clamp(0.0, 255.0) as u8;
        let of_pixel = lumas.iter_mut().zip(blues.iter_mut().zip(reds));
        for (pixel, (luma, (blue, red))) in image.pixels().zip(of_pixel) {
            let [r, g, b] = pixel.0.map(f32::from);
            let y = RED * r + (1.0 - RED - BLUE) * g + BLUE * b;
            *luma = level(y);
            *blue = level((b - y) / (2.0 * (1.0 - BLUE)) + 128.0);
            *red = level((r - y) / (2.0 * (1.0 - RED)) + 128.0);
        }
        Self {
            planes,
            width,
            height,
        }
    }

    /// The same as libaom has it, which only reads it, and only while this frame lives.
    fn described(&self) -> Result<aom_image_t, Failure> {
        let mut image = MaybeUninit::uninit();
        let pixels = self.planes.as_ptr().cast_mut();
        // SAFETY: with rows aligned to one byte, three planes of this size are what the format has; an encoder does not write.
        let wrapped = unsafe {
            aom_img_wrap(
                image.as_mut_ptr(),
                AOM_IMG_FMT_I444,
                self.width,
                self.height,
                1,
                pixels,
            )
        };
        if wrapped.is_null() {
            return Err("the image has too many pixels".into());
        }
        // SAFETY: it was written, since it was not refused.
        let mut image: aom_image_t = unsafe { image.assume_init() };
        image.range = AOM_CR_FULL_RANGE;
        Ok(image)
    }
}

/// libaom's encoder of one still image.
struct Encoder(aom_codec_ctx);

impl Encoder {
    fn new(width: u32, height: u32, quality: Quality) -> Result<Self, Failure> {
        // SAFETY: takes no argument, and gives what lives as long as the program.
        let codec = unsafe { aom_codec_av1_cx() };
        let mut config = MaybeUninit::uninit();
        // SAFETY: writes the configuration, unless it fails.
        check(unsafe {
            aom_codec_enc_config_default(codec, config.as_mut_ptr(), AOM_USAGE_ALL_INTRA)
        })?;
        // SAFETY: it did not fail.
        let mut config = unsafe { config.assume_init() };
        config.g_w = width;
        config.g_h = height;
        // That of 8 bits and colours at the full resolution.
        config.g_profile = 1;
        // One image, after which nothing comes.
        config.g_limit = 1;
        config.g_lag_in_frames = 0;
        // The image is small, and its thread is one of many.
        config.g_threads = 1;
        config.rc_end_usage = AOM_Q;
        config.rc_max_quantizer = COARSEST;

        // Zeroed, since not all of it is written.
        let mut context = MaybeUninit::zeroed();
        let version = AOM_ENCODER_ABI_VERSION as c_int;
        // SAFETY: reads the configuration, which it copies, and writes the context, unless it fails.
        check(unsafe { aom_codec_enc_init_ver(context.as_mut_ptr(), codec, &config, 0, version) })?;
        // SAFETY: it did not fail, and zeros are what the rest may be. What refers to the context refers to what lies behind it, so that it may be moved.
        let mut encoder = Self(unsafe { context.assume_init() });

        let quantiser = (COARSEST * (100 - u32::from(quality.get())) + 50) / 100;
        let quantiser = CString::new(quantiser.to_string())?;
        encoder.set(c"cq-level", &quantiser)?;
        for (name, value) in OPTIONS {
            encoder.set(name, value)?;
        }
        for (control, value) in [
            (AV1E_SET_COLOR_RANGE, AOM_CR_FULL_RANGE),
            (AV1E_SET_MATRIX_COEFFICIENTS, AOM_CICP_MC_BT_601),
            (AV1E_SET_COLOR_PRIMARIES, AOM_CICP_CP_BT_709),
            (AV1E_SET_TRANSFER_CHARACTERISTICS, AOM_CICP_TC_SRGB),
        ] {
            // SAFETY: each of these takes one integer.
            let result =
                unsafe { aom_codec_control(&mut encoder.0, control as c_int, value as c_int) };
            encoder.check(result)?;
        }
        Ok(encoder)
    }

    fn set(&mut self, name: &CStr, value: &CStr) -> Result<(), Failure> {
        // SAFETY: reads both texts.
        let result = unsafe { aom_codec_set_option(&mut self.0, name.as_ptr(), value.as_ptr()) };
        self.check(result)
    }

    /// The data of the image's one frame.
    fn encode(mut self, frame: &Frame) -> Encoded {
        let image = frame.described()?;
        let mut data = Vec::new();
        // The second call says that nothing follows.
        for image in [ptr::from_ref(&image), ptr::null()] {
            // SAFETY: the frame outlives the call, which copies it.
            let result = unsafe { aom_codec_encode(&mut self.0, image, 0, 1, 0) };
            self.check(result)?;
            let mut position = ptr::null();
            loop {
                // SAFETY: the position is of this encoder, and no other call comes between.
                let packet = unsafe { aom_codec_get_cx_data(&mut self.0, &mut position).as_ref() };
                let Some(packet) = packet else { break };
                if packet.kind == AOM_CODEC_CX_FRAME_PKT {
                    // SAFETY: of this kind, and until the next call, so many bytes lie there.
                    data.extend_from_slice(unsafe {
                        let frame = &packet.data.frame;
                        slice::from_raw_parts(frame.buf.cast::<u8>(), frame.sz)
                    });
                }
            }
        }
        match data.is_empty() {
            false => Ok(data),
            true => Err("no frame came of the image".into()),
        }
    }

    fn check(&self, result: aom_codec_err_t) -> Result<(), Failure> {
        check(result).map_err(|error| {
            // SAFETY: null or a text that lives until the next call.
            let detail = unsafe {
                let detail = aom_codec_error_detail(&self.0);
                (!detail.is_null()).then(|| CStr::from_ptr(detail))
            };
            match detail {
                Some(detail) => format!("{error}: {}", detail.to_string_lossy()).into(),
                None => error,
            }
        })
    }
}

impl Drop for Encoder {
    fn drop(&mut self) {
        // SAFETY: it was made, and is not used after this.
        unsafe { aom_codec_destroy(&mut self.0) };
    }
}

fn check(result: aom_codec_err_t) -> Result<(), Failure> {
    if result == AOM_CODEC_OK {
        return Ok(());
    }
    // SAFETY: a text of every number, which lives as long as the program.
    let text = unsafe { CStr::from_ptr(aom_codec_err_to_string(result)) };
    Err(text.to_string_lossy().into())
}

#[cfg(test)]
mod tests {
    use std::thread;

    use image::Rgb;

    use super::*;

    fn picture(width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| {
            Rgb([(7 * x) as u8, (x * y) as u8, (5 * y) as u8])
        })
    }

    #[test]
    #[cfg(feature = "avif-decoder")]
    fn sizes_of_all_kinds_at_the_ends_of_the_scale_come_back() {
        for (width, height) in [(1, 1), (1, 70), (9, 3), (65, 64), (300, 16)] {
            let image = picture(width, height);
            for (quality, differs_by) in [(1, 48.0), (100, 1.0)] {
                let encoded = encode(&image, Quality::new(quality).unwrap()).unwrap();
                let decoded = crate::decode(&encoded, &crate::ImageLimits::default()).unwrap();
                assert_eq!(decoded.dimensions(), image.dimensions());
                let pairs = decoded.as_raw().iter().zip(image.as_raw());
                let sum: f64 = pairs.map(|(a, b)| f64::from(a.abs_diff(*b))).sum();
                let mean = sum / image.as_raw().len() as f64;
                assert!(mean < differs_by, "{width}×{height}@{quality}: {mean}");
            }
        }
    }

    #[test]
    fn threads_encode_beside_each_other_what_each_encodes_alone() {
        let image = picture(120, 80);
        let quality = Quality::new(60).unwrap();
        let alone = encode(&image, quality).unwrap();
        thread::scope(|scope| {
            let beside = [(); 4].map(|()| scope.spawn(|| encode(&image, quality).unwrap()));
            for one in beside {
                assert_eq!(one.join().unwrap(), alone);
            }
        });
    }

    #[test]
    fn what_libaom_refuses_is_told_in_its_words() {
        let mut encoder = Encoder::new(8, 8, Quality::new(50).unwrap()).unwrap();
        let refused = encoder.set(c"cq-level", c"64").unwrap_err().to_string();
        assert!(refused.contains("cq_level"), "{refused}");
    }
}
