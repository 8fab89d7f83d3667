//! Moves bytes from a server to the unfinished file, going on where a cut connection left off.

use std::{io, io::Read, thread};

use indicatif::HumanBytes;
use ureq::{Agent, Body, http::Response};

use super::{Retry, error::FetchError, part::Part, progress::Progress};

/// Bytes read at a time.
const BUFFER_BYTES: usize = 1 << 16;
/// What a try must add to the most there has been for the count of tries to begin anew; bounds the
/// tries that a server can ask for by the size of the file.
const PROGRESS_BYTES: u64 = 1 << 20;

/// Where the bytes come from.
pub(super) struct Source<'a> {
    pub(super) agent: &'a Agent,
    pub(super) address: &'a str,
    pub(super) retry: Retry,
}

/// Why a try ended before the file did.
struct Failure {
    error: FetchError,
    again: Again,
}

/// When another try is worth its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Again {
    Yes,
    /// The server is not there. It may come back if it was there before.
    IfItWasThere,
    Never,
}

/// Fills `part` to its limit.
pub(super) fn download(
    source: &Source<'_>,
    part: &mut Part,
    progress: &mut Progress,
) -> Result<(), FetchError> {
    let mut failures = 0;
    let mut most = part.len();
    let mut was_there = false;
    while part.len() < part.limit() {
        let Err(failure) = attempt(source, part, progress) else {
            return Ok(());
        };
        if part.len() >= most + PROGRESS_BYTES {
            most = part.len();
            failures = 0;
        }
        failures += 1;
        was_there |= failure.again == Again::Yes;
        let again = match failure.again {
            Again::Yes => true,
            Again::IfItWasThere => was_there,
            Again::Never => false,
        };
        if !again || failures >= source.retry.attempts {
            return Err(failure.error);
        }
        let pause = source.retry.first_pause * (1 << (failures - 1).min(10));
        progress.note(&format!(
            "interrupted at {}, trying again in {pause:?}",
            HumanBytes(part.len())
        ));
        thread::sleep(pause);
    }
    Ok(())
}

/// One request, from where `part` ends.
fn attempt(source: &Source<'_>, part: &mut Part, progress: &mut Progress) -> Result<(), Failure> {
    let offset = part.len();
    let mut request = source.agent.get(source.address);
    if offset > 0 {
        request = request.header("Range", format!("bytes={offset}-"));
    }
    let response = request
        .call()
        .map_err(|error| source.request_failed(part, error))?;
    match response.status().as_u16() {
        206 if offset > 0 && range_start(&response) == Some(offset) => {}
        // The server does not do ranges, or not this one: all of it, or from the start.
        200 => part.restart()?,
        206 | 416 if offset > 0 => {
            part.restart()?;
            return Err(source.status(part, response.status().as_u16(), Again::Yes));
        }
        status => {
            let again = match status {
                408 | 429 | 500..=599 => Again::Yes,
                _ => Again::Never,
            };
            return Err(source.status(part, status, again));
        }
    }
    progress.at(part.len());
    receive(source, response.into_body(), part, progress)
}

/// Reads a body into `part`, to its end.
fn receive(
    source: &Source<'_>,
    body: Body,
    part: &mut Part,
    progress: &mut Progress,
) -> Result<(), Failure> {
    if let Some(length) = body.content_length() {
        let offered = part.len().saturating_add(length);
        if offered != part.limit() {
            return Err(Failure::last(FetchError::OtherSize {
                address: source.address.to_owned(),
                expected: part.limit(),
                offered,
            }));
        }
    }
    let mut body = body.into_reader();
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let count = match body.read(&mut buffer) {
            Ok(0) if part.len() == part.limit() => return Ok(()),
            Ok(0) => {
                let early = io::Error::from(io::ErrorKind::UnexpectedEof);
                return Err(source.cut(part, early.into()));
            }
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(source.cut(part, error.into())),
        };
        if part.append(&buffer[..count])?.is_err() {
            part.restart()?;
            return Err(Failure::last(FetchError::TooLong {
                address: source.address.to_owned(),
                expected: part.limit(),
            }));
        }
        progress.at(part.len());
    }
}

impl Source<'_> {
    fn request_failed(&self, part: &Part, error: ureq::Error) -> Failure {
        let kind = match &error {
            ureq::Error::Io(error) => Some(error.kind()),
            _ => None,
        };
        let again = match (&error, kind) {
            (
                _,
                Some(
                    io::ErrorKind::ConnectionReset
                    | io::ErrorKind::ConnectionAborted
                    | io::ErrorKind::BrokenPipe
                    | io::ErrorKind::UnexpectedEof,
                ),
            ) => return self.cut(part, error),
            (ureq::Error::Io(_) | ureq::Error::Timeout(_) | ureq::Error::HostNotFound, _) => {
                Again::IfItWasThere
            }
            _ => Again::Never,
        };
        Failure {
            error: FetchError::Unreachable {
                address: self.address.to_owned(),
                path: part.target().to_owned(),
                source: Box::new(error),
            },
            again,
        }
    }

    fn cut(&self, part: &Part, error: ureq::Error) -> Failure {
        Failure {
            error: FetchError::Cut {
                address: self.address.to_owned(),
                received: part.len(),
                expected: part.limit(),
                source: Box::new(error),
            },
            again: Again::Yes,
        }
    }

    fn status(&self, part: &Part, status: u16, again: Again) -> Failure {
        Failure {
            error: FetchError::Status {
                address: self.address.to_owned(),
                status,
                path: part.target().to_owned(),
            },
            again,
        }
    }
}

impl Failure {
    fn last(error: FetchError) -> Self {
        Self {
            error,
            again: Again::Never,
        }
    }
}

impl From<FetchError> for Failure {
    fn from(error: FetchError) -> Self {
        Self::last(error)
    }
}

/// Where the body of a partial answer begins in the file: `Content-Range: bytes 500-999/1000`.
fn range_start(response: &Response<Body>) -> Option<u64> {
    let range = response.headers().get("Content-Range")?.to_str().ok()?;
    range
        .strip_prefix("bytes ")?
        .split_once('-')?
        .0
        .parse()
        .ok()
}
