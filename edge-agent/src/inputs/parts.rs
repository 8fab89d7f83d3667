//! The parts of a stream of images, `multipart/x-mixed-replace`, as IP cameras give it. No I/O: bytes go in, images come out.
//!
//! Parsers of forms do not serve here: they hold a part back until the next begins, which is a camera's next image, and
//! bound no part before its boundary is found. A part that gives its length (`Content-Length`) is whole as soon as so
//! many bytes are here; one that does not ends at the next boundary. Cameras disagree on the dashes before a boundary, so
//! that any number is taken.

use bytes::{Buf, Bytes, BytesMut};

/// The most that may stand between images: line ends, a boundary, headers.
const MOST_BETWEEN: usize = 16 << 10;
/// Headers of a part.
const MOST_HEADERS: usize = 32;
/// The longest boundary, by RFC 2046.
const MOST_BOUNDARY_BYTES: usize = 70;

/// Why a stream cannot be read on.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PartsError {
    #[error("the stream's `Content-Type` has no boundary of 1 to 70 characters")]
    NoBoundary,
    #[error("the boundary that the stream's `Content-Type` gives does not come in it")]
    Unbounded,
    #[error("the headers of an image are malformed")]
    Headers,
    #[error(
        "an image has more than {0} bytes: let the camera give smaller ones, or raise `images.max_bytes`"
    )]
    TooLarge(usize),
    #[error("the stream came to its end")]
    End,
}

/// A stream of images.
#[derive(Debug)]
pub(super) struct Parts {
    /// Two dashes and the boundary.
    delimiter: Vec<u8>,
    max_bytes: usize,
    buffer: BytesMut,
    state: State,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// Before a boundary.
    Between,
    /// After its line.
    Headers,
    /// In a part of that many bytes.
    Sized { bytes: usize, is_image: bool },
    /// In a part that ends at the next boundary; so many bytes of it are known not to have one.
    Open { searched: usize, is_image: bool },
}

impl Parts {
    /// Those of a stream with that `Content-Type`; none larger than `max_bytes`.
    pub(super) fn new(content_type: &str, max_bytes: usize) -> Result<Self, PartsError> {
        let boundary = boundary(content_type).ok_or(PartsError::NoBoundary)?;
        Ok(Self {
            delimiter: [b"--", boundary.as_bytes()].concat(),
            max_bytes,
            buffer: BytesMut::new(),
            state: State::Between,
        })
    }

    /// Takes bytes as they came.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next image, where it is whole.
    ///
    /// # Errors
    /// [`PartsError`]; the stream cannot be read on.
    pub(super) fn next(&mut self) -> Result<Option<Bytes>, PartsError> {
        loop {
            match self.state {
                State::Between => {
                    let Some(end) = self.delimiter_line()? else {
                        return Ok(None);
                    };
                    self.buffer.advance(end);
                    self.state = State::Headers;
                }
                State::Headers => {
                    let Some((state, end)) = self.headers()? else {
                        return Ok(None);
                    };
                    self.buffer.advance(end);
                    self.state = state;
                }
                State::Sized { bytes, is_image } => {
                    if self.buffer.len() < bytes {
                        return Ok(None);
                    }
                    let part = self.buffer.split_to(bytes).freeze();
                    self.state = State::Between;
                    if is_image && !part.is_empty() {
                        return Ok(Some(part));
                    }
                }
                State::Open { searched, is_image } => {
                    let found = find(&self.buffer[searched..], &self.delimiter);
                    let end = found.map(|at| searched + at);
                    let begun = self.buffer.len().saturating_sub(self.delimiter.len());
                    if end.unwrap_or(begun) > self.max_bytes + MOST_BETWEEN {
                        return Err(PartsError::TooLarge(self.max_bytes));
                    }
                    let Some(end) = end else {
                        // A delimiter may have begun.
                        let searched = (self.buffer.len() + 1).saturating_sub(self.delimiter.len());
                        self.state = State::Open { searched, is_image };
                        return Ok(None);
                    };
                    let mut part = self.buffer.split_to(end).freeze();
                    part.truncate(without_line_end(&part).len());
                    self.state = State::Between;
                    if part.len() > self.max_bytes {
                        return Err(PartsError::TooLarge(self.max_bytes));
                    }
                    if is_image && !part.is_empty() {
                        return Ok(Some(part));
                    }
                }
            }
        }
    }

    /// Where the line of the next boundary ends.
    fn delimiter_line(&self) -> Result<Option<usize>, PartsError> {
        let found = find(&self.buffer, &self.delimiter);
        let begun = self.buffer.len().saturating_sub(self.delimiter.len());
        if found.unwrap_or(begun) > MOST_BETWEEN {
            return Err(PartsError::Unbounded);
        }
        let Some(found) = found else {
            return Ok(None);
        };
        let begin = found + self.delimiter.len();
        let rest = &self.buffer[begin..];
        if rest.starts_with(b"--") {
            return Err(PartsError::End);
        }
        match rest.iter().position(|&byte| byte == b'\n') {
            end if end.unwrap_or(rest.len()) > MOST_BETWEEN => Err(PartsError::Unbounded),
            Some(end) => Ok(Some(begin + end + 1)),
            None => Ok(None),
        }
    }

    /// What follows a part's headers, and where they end.
    fn headers(&self) -> Result<Option<(State, usize)>, PartsError> {
        let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
        let parsed = httparse::parse_headers(&self.buffer, &mut headers);
        let (end, headers) = match parsed.map_err(|_| PartsError::Headers)? {
            httparse::Status::Complete((end, _)) if end > MOST_BETWEEN => {
                return Err(PartsError::Headers);
            }
            httparse::Status::Complete(headers) => headers,
            httparse::Status::Partial if self.buffer.len() >= MOST_BETWEEN => {
                return Err(PartsError::Headers);
            }
            httparse::Status::Partial => return Ok(None),
        };
        let value = |name: &str| {
            let header = headers
                .iter()
                .find(|header| header.name.eq_ignore_ascii_case(name))?;
            Some(header.value.trim_ascii())
        };
        let is_image = value("content-type").is_none_or(is_image);
        let Some(length) = value("content-length") else {
            let state = State::Open {
                searched: 0,
                is_image,
            };
            return Ok(Some((state, end)));
        };
        let length = str::from_utf8(length).map_err(|_| PartsError::Headers)?;
        let bytes: usize = length.parse().map_err(|_| PartsError::Headers)?;
        if bytes > self.max_bytes {
            return Err(PartsError::TooLarge(self.max_bytes));
        }
        Ok(Some((State::Sized { bytes, is_image }, end)))
    }
}

/// Whether what has that content type can be an image: of which format, its first bytes say.
pub(super) fn is_image(content_type: &[u8]) -> bool {
    let essence = content_type.split(|&byte| byte == b';').next();
    let essence = essence
        .unwrap_or_default()
        .trim_ascii()
        .to_ascii_lowercase();
    essence.starts_with(b"image/") || essence == b"application/octet-stream"
}

/// The boundary that a content type gives, without dashes before it.
fn boundary(content_type: &str) -> Option<&str> {
    let (_, parameters) = content_type.split_once(';')?;
    let boundary = parameters.split(';').find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        let is_boundary = name.trim().eq_ignore_ascii_case("boundary");
        is_boundary.then(|| value.trim().trim_matches('"'))
    })?;
    let boundary = boundary.trim_start_matches('-');
    (1..=MOST_BOUNDARY_BYTES)
        .contains(&boundary.len())
        .then_some(boundary)
}

fn find(bytes: &[u8], sought: &[u8]) -> Option<usize> {
    bytes
        .windows(sought.len())
        .position(|window| window == sought)
}

/// A part without what belongs to the boundary after it: a line end, and further dashes.
fn without_line_end(part: &[u8]) -> &[u8] {
    let dashes = part.iter().rev().take_while(|&&byte| byte == b'-').count();
    let part = &part[..part.len() - dashes];
    let part = part.strip_suffix(b"\n").unwrap_or(part);
    part.strip_suffix(b"\r").unwrap_or(part)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIXED: &str = "multipart/x-mixed-replace; boundary=frame";

    /// All images of a stream that comes in pieces of `size`, and how it ended.
    fn read(content_type: &str, stream: &[u8], size: usize) -> (Vec<Bytes>, Option<PartsError>) {
        let mut images = Vec::new();
        let mut parts = match Parts::new(content_type, 100) {
            Ok(parts) => parts,
            Err(error) => return (images, Some(error)),
        };
        for piece in stream.chunks(size) {
            parts.push(piece);
            loop {
                match parts.next() {
                    Ok(Some(image)) => images.push(image),
                    Ok(None) => break,
                    Err(error) => return (images, Some(error)),
                }
            }
        }
        (images, None)
    }

    #[test]
    fn images_come_whole_however_the_stream_is_cut_and_the_boundary_is_written() {
        let stream =
            b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: 9\r\n\r\n1--frame2\r\n\
            --frame\r\nContent-Type: image/jpeg\r\n\r\n3\r\n4\r\n\
            --frame\r\nContent-Type: text/plain\r\n\r\nmotion\r\n\
            --frame\r\nX-Time: 1\r\ncontent-length: 0\r\n\r\n\r\n\
            ----frame\ncontent-length: 1\n\n5\n--frame--\r\n";
        for content_type in [
            MIXED,
            "multipart/x-mixed-replace;boundary=--frame",
            "multipart/x-mixed-replace; charset=x; Boundary=\"frame\"",
        ] {
            for size in [1, 2, 3, 7, 1000] {
                let (images, end) = read(content_type, stream, size);
                assert_eq!(
                    images,
                    ["1--frame2", "3\r\n4", "5"],
                    "{content_type} {size}"
                );
                assert_eq!(end, Some(PartsError::End));
            }
        }
    }

    #[test]
    fn an_image_with_a_length_does_not_wait_for_the_next() {
        let mut parts = Parts::new(MIXED, 100).unwrap();
        parts.push(b"--frame\r\nContent-Length: 2\r\n\r\nab");
        assert_eq!(parts.next(), Ok(Some(Bytes::from_static(b"ab"))));
    }

    #[test]
    fn what_is_no_stream_of_images_ends_with_the_reason() {
        let long = "x".repeat(MOST_BETWEEN + 300);
        let open = format!("--frame\r\n\r\n{long}");
        let header = format!("--frame\r\nX: {long}");
        let line = format!("--frame{long}");
        for (content_type, stream, ends) in [
            ("multipart/x-mixed-replace", "", PartsError::NoBoundary),
            (
                "multipart/x-mixed-replace; boundary=--",
                "",
                PartsError::NoBoundary,
            ),
            (MIXED, &long, PartsError::Unbounded),
            (MIXED, &line, PartsError::Unbounded),
            (MIXED, &header, PartsError::Headers),
            (MIXED, &open, PartsError::TooLarge(100)),
            (MIXED, "--frame\r\n<html>\r\n\r\n", PartsError::Headers),
            (
                MIXED,
                "--frame\r\nContent-Length: many\r\n\r\n",
                PartsError::Headers,
            ),
            (
                MIXED,
                "--frame\r\nContent-Length: -1\r\n\r\n",
                PartsError::Headers,
            ),
            (
                MIXED,
                "--frame\r\nContent-Length: 101\r\n\r\n",
                PartsError::TooLarge(100),
            ),
            (MIXED, "--frame--", PartsError::End),
        ] {
            for size in [1, 1000, 100_000] {
                let (images, end) = read(content_type, stream.as_bytes(), size);
                assert_eq!(images.len(), 0);
                assert_eq!(
                    end.as_ref(),
                    (!stream.is_empty() || content_type != MIXED).then_some(&ends)
                );
            }
        }
    }

    proptest! {
        #[test]
        fn any_stream_gives_the_same_however_it_is_cut(
            pieces in proptest::collection::vec(prop_oneof![
                Just(b"--frame".to_vec()),
                Just(b"\r\n".to_vec()),
                Just(b"Content-Length: 3\r\n".to_vec()),
                Just(b"Content-Type: image/jpeg\r\n".to_vec()),
                proptest::collection::vec(any::<u8>(), 0..60),
                Just(vec![b'-'; MOST_BETWEEN]),
            ], 0..24),
            size in 1..200_usize,
        ) {
            let stream = pieces.concat();
            let whole = read(MIXED, &stream, stream.len().max(1));
            prop_assert_eq!(read(MIXED, &stream, size), whole);
        }
    }
}
