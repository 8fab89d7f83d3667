//! Frames of Motion JPEG: made into JPEG files that every decoder takes.
//!
//! Cameras leave the Huffman tables out, as those of the standard are meant (`MJPG` of the USB video class, and AVI before
//! it), and fill up what the driver hands on with whatever was there.

use bytes::Bytes;

use super::FrameError;

const START: [u8; 2] = [0xff, 0xd8];
const END: [u8; 2] = [0xff, 0xd9];
const HUFFMAN_TABLES: u8 = 0xc4;
const START_OF_SCAN: u8 = 0xda;

/// The file in a frame, with Huffman tables, and without what follows its end.
pub(super) fn whole(frame: &[u8]) -> Result<Bytes, FrameError> {
    let (scan, has_tables) = scan(frame)?;
    // In a scan a byte of ones is followed by zero, or by a marker.
    let end = frame[scan..].windows(2).rposition(|two| two == END);
    let end = scan + end.ok_or(FrameError::Cut)? + END.len();
    if has_tables {
        return Ok(Bytes::copy_from_slice(&frame[..end]));
    }
    let tables = standard_tables();
    Ok([&frame[..scan], &tables, &frame[scan..end]].concat().into())
}

/// Where the pixels begin, and whether there are Huffman tables before that.
fn scan(frame: &[u8]) -> Result<(usize, bool), FrameError> {
    if !frame.starts_with(&START) {
        return Err(FrameError::NoImage);
    }
    let (mut at, mut has_tables) = (START.len(), false);
    loop {
        let rest = frame.get(at..).ok_or(FrameError::Cut)?;
        let (marker, length) = match *rest {
            // Markers may be preceded by any number of bytes of ones.
            [0xff, 0xff, ..] => {
                at += 1;
                continue;
            }
            [0xff, START_OF_SCAN, ..] => return Ok((at, has_tables)),
            // The end, before any pixels.
            [0xff, 0xd9, ..] => return Err(FrameError::NoImage),
            [0xff, marker, high, low, ..] => (marker, usize::from(u16::from_be_bytes([high, low]))),
            [0xff, ..] | [] => return Err(FrameError::Cut),
            _ => return Err(FrameError::NoImage),
        };
        if length < 2 {
            return Err(FrameError::NoImage);
        }
        has_tables |= marker == HUFFMAN_TABLES;
        at += 2 + length;
    }
}

/// A segment with the tables K.3 to K.6 of ITU-T T.81, in the places where cameras mean them to be.
fn standard_tables() -> Vec<u8> {
    let tables: [(u8, &[u8; 16], &[u8]); 4] = [
        (0x00, &DC_LUMINANCE_BITS, &DC_VALUES),
        (0x10, &AC_LUMINANCE_BITS, &AC_LUMINANCE_VALUES),
        (0x01, &DC_CHROMINANCE_BITS, &DC_VALUES),
        (0x11, &AC_CHROMINANCE_BITS, &AC_CHROMINANCE_VALUES),
    ];
    let length: usize = tables.iter().map(|(.., values)| 17 + values.len()).sum();
    let length = u16::try_from(2 + length).expect("the tables are of this size");
    let mut segment = vec![0xff, HUFFMAN_TABLES];
    segment.extend(length.to_be_bytes());
    for (place, bits, values) in tables {
        segment.push(place);
        segment.extend(bits);
        segment.extend(values);
    }
    segment
}

/// Codes of each length, from 1 to 16 bits, and what they stand for.
const DC_LUMINANCE_BITS: [u8; 16] = [0, 1, 5, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0];
const DC_CHROMINANCE_BITS: [u8; 16] = [0, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0];
const DC_VALUES: [u8; 12] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11];
const AC_LUMINANCE_BITS: [u8; 16] = [0, 2, 1, 3, 3, 2, 4, 3, 5, 5, 4, 4, 0, 0, 1, 0x7d];
const AC_CHROMINANCE_BITS: [u8; 16] = [0, 2, 1, 2, 4, 4, 3, 4, 7, 5, 4, 4, 0, 1, 2, 0x77];
const AC_LUMINANCE_VALUES: [u8; 162] = [
    0x01, 0x02, 0x03, 0x00, 0x04, 0x11, 0x05, 0x12, 0x21, 0x31, 0x41, 0x06, 0x13, 0x51, 0x61, 0x07,
    0x22, 0x71, 0x14, 0x32, 0x81, 0x91, 0xa1, 0x08, 0x23, 0x42, 0xb1, 0xc1, 0x15, 0x52, 0xd1, 0xf0,
    0x24, 0x33, 0x62, 0x72, 0x82, 0x09, 0x0a, 0x16, 0x17, 0x18, 0x19, 0x1a, 0x25, 0x26, 0x27, 0x28,
    0x29, 0x2a, 0x34, 0x35, 0x36, 0x37, 0x38, 0x39, 0x3a, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48, 0x49,
    0x4a, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58, 0x59, 0x5a, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69,
    0x6a, 0x73, 0x74, 0x75, 0x76, 0x77, 0x78, 0x79, 0x7a, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89,
    0x8a, 0x92, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99, 0x9a, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7,
    0xa8, 0xa9, 0xaa, 0xb2, 0xb3, 0xb4, 0xb5, 0xb6, 0xb7, 0xb8, 0xb9, 0xba, 0xc2, 0xc3, 0xc4, 0xc5,
    0xc6, 0xc7, 0xc8, 0xc9, 0xca, 0xd2, 0xd3, 0xd4, 0xd5, 0xd6, 0xd7, 0xd8, 0xd9, 0xda, 0xe1, 0xe2,
    0xe3, 0xe4, 0xe5, 0xe6, 0xe7, 0xe8, 0xe9, 0xea, 0xf1, 0xf2, 0xf3, 0xf4, 0xf5, 0xf6, 0xf7, 0xf8,
    0xf9, 0xfa,
];
const AC_CHROMINANCE_VALUES: [u8; 162] = [
    0x00, 0x01, 0x02, 0x03, 0x11, 0x04, 0x05, 0x21, 0x31, 0x06, 0x12, 0x41, 0x51, 0x07, 0x61, 0x71,
    0x13, 0x22, 0x32, 0x81, 0x08, 0x14, 0x42, 0x91, 0xa1, 0xb1, 0xc1, 0x09, 0x23, 0x33, 0x52, 0xf0,
    0x15, 0x62, 0x72, 0xd1, 0x0a, 0x16, 0x24, 0x34, 0xe1, 0x25, 0xf1, 0x17, 0x18, 0x19, 0x1a, 0x26,
    0x27, 0x28, 0x29, 0x2a, 0x35, 0x36, 0x37, 0x38, 0x39, 0x3a, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48,
    0x49, 0x4a, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58, 0x59, 0x5a, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68,
    0x69, 0x6a, 0x73, 0x74, 0x75, 0x76, 0x77, 0x78, 0x79, 0x7a, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87,
    0x88, 0x89, 0x8a, 0x92, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99, 0x9a, 0xa2, 0xa3, 0xa4, 0xa5,
    0xa6, 0xa7, 0xa8, 0xa9, 0xaa, 0xb2, 0xb3, 0xb4, 0xb5, 0xb6, 0xb7, 0xb8, 0xb9, 0xba, 0xc2, 0xc3,
    0xc4, 0xc5, 0xc6, 0xc7, 0xc8, 0xc9, 0xca, 0xd2, 0xd3, 0xd4, 0xd5, 0xd6, 0xd7, 0xd8, 0xd9, 0xda,
    0xe2, 0xe3, 0xe4, 0xe5, 0xe6, 0xe7, 0xe8, 0xe9, 0xea, 0xf2, 0xf3, 0xf4, 0xf5, 0xf6, 0xf7, 0xf8,
    0xf9, 0xfa,
];

#[cfg(test)]
mod tests {
    use outpost_runtime::{ImageLimits, decode};

    use super::*;

    const SAMPLE: &[u8] = include_bytes!("../../../models/samples/cifar10/test-airplane-0011.jpg");

    /// The sample as a camera would give it: without tables, and filled up.
    fn of_a_camera() -> Vec<u8> {
        let mut frame = START.to_vec();
        let mut at = 2;
        while SAMPLE[at + 1] != START_OF_SCAN {
            let length = usize::from(u16::from_be_bytes([SAMPLE[at + 2], SAMPLE[at + 3]]));
            let segment = &SAMPLE[at..at + 2 + length];
            if segment[1] != HUFFMAN_TABLES {
                frame.extend(segment);
            }
            at += segment.len();
        }
        frame.extend(&SAMPLE[at..]);
        frame.extend([0; 100]);
        frame
    }

    #[test]
    fn a_frame_without_tables_has_the_pixels_that_it_has_with_them() {
        let frame = of_a_camera();
        assert!(frame.len() < SAMPLE.len());
        let limits = ImageLimits::default();
        let file = whole(&frame).unwrap();
        assert_eq!(
            decode(&file, &limits).unwrap(),
            decode(SAMPLE, &limits).unwrap()
        );
        // Any decoder takes it: the tables are there.
        assert_eq!(scan(&file), Ok((scan(&frame).unwrap().0 + 420, true)));
        assert!(file.ends_with(&END));
    }

    #[test]
    fn a_frame_with_tables_stays_as_it_is_up_to_its_end() {
        let filled = [SAMPLE, &[7; 9]].concat();
        assert_eq!(whole(&filled).unwrap(), SAMPLE);
    }

    #[test]
    fn a_frame_that_was_cut_short_anywhere_is_none() {
        let frame = of_a_camera();
        let end = frame.len() - 100;
        for length in 0..end {
            let expected = match length {
                0 | 1 => FrameError::NoImage,
                _ => FrameError::Cut,
            };
            assert_eq!(whole(&frame[..length]), Err(expected), "{length}");
        }
        assert!(whole(&frame[..end]).is_ok());
    }

    #[test]
    fn what_is_no_image_is_told_from_one() {
        for bytes in [
            &b"GIF89a"[..],
            &[0; 64],
            &[0xff; 64],
            // It ends before it begins, has a segment of no length, and has no marker where one has to be.
            &[0xff, 0xd8, 0xff, 0xd9],
            &[0xff, 0xd8, 0xff, 0xe0, 0, 1, 0, 0],
            &[0xff, 0xd8, 0xff, 0xe0, 0, 2, 1, 2],
        ] {
            assert_eq!(whole(bytes), Err(FrameError::NoImage), "{bytes:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn nothing_makes_it_panic(start in proptest::bool::ANY, mut bytes: Vec<u8>) {
            if start {
                bytes.splice(0..0, START);
            }
            let _ = whole(&bytes);
        }
    }
}
