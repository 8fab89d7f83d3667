//! What became of the calls of a soak: which had no answer, when and why, and whether the device's deaths explain it.

use std::{fmt, io, time::Duration};

use serde::Deserialize;
use ureq::{Body, http::Response};

use super::{
    said,
    tally::{Outcome, Said, Verdict},
};

#[cfg(test)]
mod tests;

/// A caller on a busy machine may learn this late that its connection broke.
const NOTICED: Duration = Duration::from_millis(500);
/// What a 503 of the device says where it is backpressure, not a failure or the program's end.
const BACKPRESSURE: &str = "api.max_waiting";
/// What is shown of a reply that makes no sense.
const SHOWN_CHARS: usize = 120;
/// Calls that a verdict lists, a line each.
const LISTED: usize = 3;

/// A call that had no answer; times are from the start of the soak.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Unanswered {
    pub(super) called: Duration,
    pub(super) ended: Duration,
    pub(super) why: Why,
}

/// Why a call had no answer.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Why {
    /// Nobody listened.
    Refused,
    /// The connection broke.
    Cut,
    /// Nothing came in time.
    TimedOut,
    /// Too many waited already: told to come back.
    Backpressure,
    /// Any other status, with what was said.
    Status(u16, String),
    /// A success whose body is no answer.
    NoAnswer(String),
    /// Any other error of the caller.
    Other(String),
}

/// From a kill of the device until it was ready again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Death {
    pub(super) killed: Duration,
    pub(super) ready: Duration,
}

/// What explains that a call had no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Explanation {
    /// Its connection failed or broke as the device was dead.
    Death,
    /// The device says that it may be so.
    Backpressure,
    /// Nothing does.
    Nothing,
}

impl Unanswered {
    /// What explains it, with all deaths of the device.
    pub(super) fn explanation(&self, deaths: &[Death]) -> Explanation {
        let is_of = |death: &Death| {
            self.called <= death.ready
                && (death.killed..=death.ready + NOTICED).contains(&self.ended)
        };
        match self.why {
            Why::Backpressure => Explanation::Backpressure,
            Why::Refused | Why::Cut if deaths.iter().any(is_of) => Explanation::Death,
            _ => Explanation::Nothing,
        }
    }
}

impl fmt::Display for Unanswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let took = self.ended.saturating_sub(self.called);
        write!(
            f,
            "at {:.1} s, after {} ms: {}",
            self.called.as_secs_f64(),
            took.as_millis(),
            self.why
        )
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str("connection refused"),
            Self::Cut => f.write_str("connection cut"),
            Self::TimedOut => f.write_str("timed out"),
            Self::Backpressure => f.write_str("status 503, too many wait"),
            Self::Status(status, said) => write!(f, "status {status}, {said}"),
            Self::NoAnswer(said) => write!(f, "a reply that is no answer, {said}"),
            Self::Other(error) => f.write_str(error),
        }
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Death => "the device was dead",
            Self::Backpressure => "backpressure",
            Self::Nothing => "not explained",
        })
    }
}

impl From<ureq::Error> for Why {
    fn from(error: ureq::Error) -> Self {
        use io::ErrorKind::{
            BrokenPipe, ConnectionAborted, ConnectionRefused, ConnectionReset, NotConnected,
            TimedOut, UnexpectedEof,
        };
        match &error {
            ureq::Error::Timeout(_) => Self::TimedOut,
            ureq::Error::Io(io) => match io.kind() {
                ConnectionRefused => Self::Refused,
                TimedOut => Self::TimedOut,
                BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected | UnexpectedEof => {
                    Self::Cut
                }
                _ => Self::Other(error.to_string()),
            },
            _ => Self::Other(error.to_string()),
        }
    }
}

/// The answer in a reply.
///
/// # Errors
/// Why there is none.
pub(super) fn answer(reply: Result<Response<Body>, ureq::Error>) -> Result<Said, Why> {
    /// What an error of the device says, as RFC 9457 has it.
    #[derive(Deserialize)]
    struct Problem {
        detail: String,
    }

    let mut reply = reply?;
    let text = reply.body_mut().read_to_string()?;
    let status = reply.status();
    let shown = || text.chars().take(SHOWN_CHARS).collect();
    if status.is_success() {
        return said(&text).map_err(|_| Why::NoAnswer(shown()));
    }
    let problem = serde_json::from_str(&text).map(|problem: Problem| problem.detail);
    Err(match problem {
        Ok(detail) if status == 503 && detail.contains(BACKPRESSURE) => Why::Backpressure,
        Ok(detail) => Why::Status(status.as_u16(), detail),
        Err(_) => Why::Status(status.as_u16(), shown()),
    })
}

/// Whether each call had its answer, of which there were `answered`, or the device's deaths explain why not.
pub(super) fn answered(answered: usize, unanswered: &[Unanswered], deaths: &[Death]) -> Verdict {
    let count = |wanted| {
        let is_wanted = |call: &&Unanswered| call.explanation(deaths) == wanted;
        unanswered.iter().filter(is_wanted).count()
    };
    let faults = unanswered
        .iter()
        .filter(|call| call.explanation(deaths) == Explanation::Nothing);
    let all = answered + unanswered.len();
    let (dead, told) = (count(Explanation::Death), count(Explanation::Backpressure));
    let mut found = match (count(Explanation::Nothing), answered) {
        (0, 0) => format!("none of {all} answered"),
        (0, _) => format!("{answered} of {all} answered"),
        (faulty, _) => format!("{faulty} of {all} not"),
    };
    found += &format!("; {dead} in vain as it was dead, {told} told to come back (503)");
    for call in faults.clone().take(LISTED) {
        found += &format!(";\n{call}");
    }
    if faults.clone().count() > LISTED {
        found += ";\n…";
    }
    Verdict {
        promise: "every call is answered while the device lives".to_owned(),
        found,
        outcome: Outcome::of(answered > 0 && faults.count() == 0),
    }
}
