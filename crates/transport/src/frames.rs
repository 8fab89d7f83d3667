//! Watches the frames of an HTTP/3 stream go by, and stops what the layer above would choke on.
//!
//! The `h3` crate gathers every frame but DATA whole before it looks at it, however long the peer
//! says that it is, and asserts that no stream ends within a DATA frame. Both are the peer's choice,
//! so both are refused here, before its bytes get that far.

use h3::error::Code;

/// Follows the frame boundaries of one receive stream.
#[derive(Debug)]
pub(crate) struct FrameWatch {
    max_frame_bytes: u64,
    state: State,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// Before the type of a unidirectional stream.
    StreamType(VarInt),
    /// Before or within the type of a frame.
    FrameType(VarInt),
    /// Within the length of a frame of this type.
    FrameLength(u64, VarInt),
    /// This many bytes of a frame's content are still to come.
    Content(u64),
    /// A stream that does not carry frames.
    NoFrames,
}

const DATA_FRAME: u64 = 0;
const CONTROL_STREAM: u64 = 0;

impl FrameWatch {
    /// For a stream of requests and responses, whose frames other than DATA may hold
    /// `max_frame_bytes`.
    pub(crate) fn request(max_frame_bytes: u64) -> Self {
        Self {
            max_frame_bytes,
            state: State::FrameType(VarInt::default()),
        }
    }

    /// For a unidirectional stream.
    pub(crate) fn unidirectional(max_frame_bytes: u64) -> Self {
        Self {
            max_frame_bytes,
            state: State::StreamType(VarInt::default()),
        }
    }

    /// Follows `bytes`; an error is the code to give the stream up with.
    pub(crate) fn follow(&mut self, mut bytes: &[u8]) -> Result<(), Code> {
        while let [first, rest @ ..] = bytes {
            self.state = match self.state {
                State::NoFrames => return Ok(()),
                State::Content(remaining) => {
                    let skipped = usize::try_from(remaining)
                        .unwrap_or(usize::MAX)
                        .min(bytes.len());
                    bytes = &bytes[skipped..];
                    match remaining - skipped as u64 {
                        0 => State::FrameType(VarInt::default()),
                        remaining => State::Content(remaining),
                    }
                }
                State::StreamType(mut varint) => {
                    bytes = rest;
                    match varint.push(*first) {
                        None => State::StreamType(varint),
                        Some(CONTROL_STREAM) => State::FrameType(VarInt::default()),
                        Some(_) => State::NoFrames,
                    }
                }
                State::FrameType(mut varint) => {
                    bytes = rest;
                    match varint.push(*first) {
                        None => State::FrameType(varint),
                        Some(frame_type) => State::FrameLength(frame_type, VarInt::default()),
                    }
                }
                State::FrameLength(frame_type, mut varint) => {
                    bytes = rest;
                    match varint.push(*first) {
                        None => State::FrameLength(frame_type, varint),
                        Some(0) => State::FrameType(VarInt::default()),
                        Some(length)
                            if frame_type != DATA_FRAME && length > self.max_frame_bytes =>
                        {
                            return Err(Code::H3_EXCESSIVE_LOAD);
                        }
                        Some(length) => State::Content(length),
                    }
                }
            };
        }
        Ok(())
    }

    /// Accepts the end of the stream, unless it comes within a frame.
    pub(crate) fn end(&self) -> Result<(), Code> {
        match self.state {
            State::FrameType(varint) if varint.is_empty() => Ok(()),
            State::NoFrames | State::StreamType(_) => Ok(()),
            _ => Err(Code::H3_FRAME_ERROR),
        }
    }
}

/// A QUIC variable-length integer, byte by byte (RFC 9000, section 16).
#[derive(Clone, Copy, Debug, Default)]
struct VarInt {
    value: u64,
    /// Bytes still to come, once the first byte has told.
    remaining: Option<u8>,
}

impl VarInt {
    fn is_empty(self) -> bool {
        self.remaining.is_none()
    }

    /// Adds a byte; the value once it is complete.
    fn push(&mut self, byte: u8) -> Option<u64> {
        let remaining = match self.remaining {
            None => {
                self.value = u64::from(byte & 0x3f);
                (1 << (byte >> 6)) - 1
            }
            Some(remaining) => {
                self.value = self.value << 8 | u64::from(byte);
                remaining - 1
            }
        };
        self.remaining = Some(remaining);
        (remaining == 0).then_some(self.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADERS: u8 = 1;

    /// Follows the bytes one by one and all at once: chunk boundaries must not matter.
    fn follow(bytes: &[u8], watch: fn(u64) -> FrameWatch) -> Result<(), Code> {
        let mut whole = watch(100);
        let at_once = whole.follow(bytes).and_then(|()| whole.end());
        let mut split = watch(100);
        let one_by_one = bytes
            .chunks(1)
            .try_for_each(|byte| split.follow(byte))
            .and_then(|()| split.end());
        assert_eq!(at_once, one_by_one);
        at_once
    }

    #[test]
    fn whole_frames_pass() {
        let request = [
            &[HEADERS, 2, 7, 7, 0, 0x40, 70][..],
            &[9; 70],
            &[HEADERS, 0],
        ]
        .concat();
        assert_eq!(follow(&request, FrameWatch::request), Ok(()));
    }

    #[test]
    fn a_data_frame_may_be_long_and_others_may_not() {
        let mut watch = FrameWatch::request(100);
        assert_eq!(watch.follow(&[0, 0x80, 1, 0, 0]), Ok(()));
        let mut watch = FrameWatch::request(100);
        assert_eq!(
            watch.follow(&[HEADERS, 0x40, 101]),
            Err(Code::H3_EXCESSIVE_LOAD)
        );
    }

    #[test]
    fn a_stream_that_ends_within_a_frame_is_an_error() {
        for bytes in [&[HEADERS][..], &[0x40], &[0, 5, 1, 2], &[0, 0x40]] {
            assert_eq!(
                follow(bytes, FrameWatch::request),
                Err(Code::H3_FRAME_ERROR)
            );
        }
    }

    #[test]
    fn only_the_control_stream_is_followed_among_unidirectional_ones() {
        let settings = [0, 4, 1, 6];
        assert_eq!(follow(&settings, FrameWatch::unidirectional), Ok(()));
        let qpack_encoder = [2, 4, 0x7f, 0xff, 0xff];
        assert_eq!(follow(&qpack_encoder, FrameWatch::unidirectional), Ok(()));
        let endless_settings = [0, 4, 0x80, 1, 0, 0];
        let mut watch = FrameWatch::unidirectional(100);
        assert_eq!(
            watch.follow(&endless_settings),
            Err(Code::H3_EXCESSIVE_LOAD)
        );
    }
}
