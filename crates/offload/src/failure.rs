//! Why a call gave nothing: the one mapping from what a service reports to why the device answers.

use std::{error::Error, time::Duration};

use outpost_cascade::{Circuit, FallbackCause, Permit};
use tonic::{Code, Status};

/// Trailer of gRPC's retries in which a busy server says when to come back.
const RETRY_PUSHBACK: &str = "grpc-retry-pushback-ms";

/// Why a call gave nothing, with what a person may read about it.
#[derive(Debug)]
pub struct Failure {
    /// Why the device answers.
    pub cause: FallbackCause,
    /// For a person.
    pub source: Box<dyn Error + Send + Sync>,
    /// How long the server wants no call, where it says so.
    pub pause: Option<Duration>,
    /// Whether it is this endpoint's, so that another may answer.
    pub is_of_the_endpoint: bool,
}

impl Failure {
    /// What a service, or the call to it, reported.
    pub fn of_status(status: Status) -> Self {
        Self::of_call(cause_of(&status), status)
    }

    /// The same, where the caller knows of the cause.
    pub fn of_call(cause: FallbackCause, status: Status) -> Self {
        Self {
            pause: pause_of(&status),
            is_of_the_endpoint: is_of_the_endpoint(cause),
            ..Self::new(cause, status)
        }
    }

    /// A reply that makes no sense.
    pub fn bad_reply(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::new(FallbackCause::BadReply, source)
    }

    /// An image that cannot be sent.
    pub fn unsendable(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::new(FallbackCause::Unsendable, source)
    }

    /// As much was sent already as may be.
    pub fn over_budget(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::new(FallbackCause::Budget, source)
    }

    /// The deadline passed.
    pub fn deadline(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::new(FallbackCause::Deadline, source)
    }

    fn new(cause: FallbackCause, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self {
            cause,
            source: source.into(),
            pause: None,
            is_of_the_endpoint: cause == FallbackCause::BadReply,
        }
    }

    /// Whether it tells something about the peer: a call was made, or tried.
    pub fn is_of_the_peer(&self) -> bool {
        !matches!(
            self.cause,
            FallbackCause::Unsendable | FallbackCause::Budget
        )
    }

    /// Whether a server that took the place of another may be behind it, so that what the other told is to be asked again.
    pub fn may_be_of_a_change(&self) -> bool {
        let is_absent = self.tells_of_absence() && self.cause != FallbackCause::Deadline;
        is_absent || self.is_refusal() || self.cause == FallbackCause::BadReply
    }

    /// Whether the peer is there and refused the request.
    fn is_refusal(&self) -> bool {
        matches!(
            self.cause,
            FallbackCause::Rejected | FallbackCause::Unusable
        )
    }

    /// Whether the peer is not there, or cannot serve.
    pub fn tells_of_absence(&self) -> bool {
        matches!(
            self.cause,
            FallbackCause::Deadline
                | FallbackCause::Unreachable
                | FallbackCause::Certificate
                | FallbackCause::ConnectionLost
                | FallbackCause::Unavailable
        )
    }

    /// After which pause the call may be made once more, where so much time is left: one that broke, one for which there was no
    /// server, or the one that a busy server asks for.
    pub fn again_after(&self, left: Duration) -> Option<Duration> {
        match (self.cause, self.pause) {
            (_, Some(pause)) => (pause < left).then_some(pause),
            (FallbackCause::ConnectionLost | FallbackCause::Unavailable, None) => {
                Some(Duration::ZERO)
            }
            _ => None,
        }
    }

    /// Whether the time that it took says what an offload costs: a deadline that was waited for in vain does. Other failures
    /// are over soon and say nothing about that: the circuit is what keeps from them. Who misses a short deadline is not
    /// taken for slow.
    pub fn tells_the_link(&self, is_short: bool) -> bool {
        self.cause == FallbackCause::Deadline && !is_short
    }
}

/// Tells the circuit what came of a call that ended at `now`; `is_short` where its deadline was shorter than usual, so that to
/// miss it says nothing about the peer.
pub fn tell_circuit<T>(
    circuit: &mut Circuit,
    outcome: &Result<T, Failure>,
    permit: Permit,
    is_short: bool,
    now: Duration,
) {
    match outcome {
        Ok(_) => circuit.succeeded(permit),
        // A peer that refuses a request, or wants a pause, is there.
        Err(failure) if failure.is_refusal() || failure.pause.is_some() => {
            circuit.succeeded(permit);
        }
        Err(failure) if !failure.is_of_the_peer() => circuit.abandoned(permit, now),
        Err(failure) if failure.cause == FallbackCause::Deadline && is_short => {
            circuit.abandoned(permit, now);
        }
        Err(_) => circuit.failed(permit, now),
    }
}

/// What a busy server says about the next call. A negative number means "never", as gRPC has it; no call
/// is repeated then, and the circuit decides about the next.
fn pause_of(status: &Status) -> Option<Duration> {
    if status.code() != Code::ResourceExhausted {
        return None;
    }
    let milliseconds = status.metadata().get(RETRY_PUSHBACK)?.to_str().ok()?;
    Some(Duration::from_millis(milliseconds.parse().ok()?))
}

/// Whether what went wrong is this endpoint's: another may be there, have less to do, serve the network or know the caller.
/// Not so where the time is over, or the image is at fault.
fn is_of_the_endpoint(cause: FallbackCause) -> bool {
    !matches!(cause, FallbackCause::Deadline | FallbackCause::Unusable)
}

/// Why the device answers, by what a service reports.
fn cause_of(status: &Status) -> FallbackCause {
    match status.code() {
        Code::DeadlineExceeded | Code::Cancelled => FallbackCause::Deadline,
        Code::Unavailable => FallbackCause::Unavailable,
        Code::ResourceExhausted => FallbackCause::Overloaded,
        Code::NotFound
        | Code::PermissionDenied
        | Code::Unauthenticated
        | Code::FailedPrecondition
        | Code::Unimplemented => FallbackCause::Rejected,
        Code::InvalidArgument | Code::AlreadyExists | Code::OutOfRange => FallbackCause::Unusable,
        Code::Ok | Code::Unknown | Code::Internal | Code::Aborted | Code::DataLoss => {
            FallbackCause::BadReply
        }
    }
}

/// An error with its sources, for a person; a source that repeats what stands before it is left out.
pub fn error_chain(error: &dyn Error) -> String {
    let mut chain = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let text = error.to_string();
        if !chain.contains(&text) {
            chain = format!("{chain}: {text}");
        }
        source = error.source();
    }
    chain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_of_a_service_has_its_cause() {
        for (code, cause) in [
            (Code::DeadlineExceeded, FallbackCause::Deadline),
            (Code::Unavailable, FallbackCause::Unavailable),
            (Code::ResourceExhausted, FallbackCause::Overloaded),
            (Code::InvalidArgument, FallbackCause::Unusable),
            (Code::NotFound, FallbackCause::Rejected),
            (Code::Unauthenticated, FallbackCause::Rejected),
            (Code::Internal, FallbackCause::BadReply),
            (Code::Unknown, FallbackCause::BadReply),
        ] {
            assert_eq!(cause_of(&Status::new(code, "")), cause, "{code:?}");
        }
    }

    #[test]
    fn another_endpoint_is_asked_unless_the_image_or_the_time_is_at_fault() {
        for (code, elsewhere) in [
            (Code::Unavailable, true),
            (Code::ResourceExhausted, true),
            (Code::NotFound, true),
            (Code::Unauthenticated, true),
            (Code::Internal, true),
            (Code::InvalidArgument, false),
            (Code::DeadlineExceeded, false),
        ] {
            let failure = Failure::of_status(Status::new(code, ""));
            assert_eq!(failure.is_of_the_endpoint, elsewhere, "{code:?}");
            // What is mended at an endpoint, or has time, is waited for.
            let is_waited_for = elsewhere || code == Code::DeadlineExceeded;
            assert_eq!(failure.cause.may_pass(), is_waited_for, "{code:?}");
        }
        assert!(Failure::bad_reply("nonsense").is_of_the_endpoint);
        assert!(!Failure::unsendable("too large").is_of_the_endpoint);
        assert!(!Failure::over_budget("used up").is_of_the_endpoint);
    }

    #[test]
    fn a_busy_server_says_when_to_come_back_and_nonsense_is_passed_over() {
        let pause = |code, value: &'static str| {
            let mut status = Status::new(code, "busy");
            status
                .metadata_mut()
                .insert(RETRY_PUSHBACK, value.parse().unwrap());
            Failure::of_status(status).pause
        };
        let busy = Code::ResourceExhausted;
        assert_eq!(pause(busy, "70"), Some(Duration::from_millis(70)));
        for nonsense in ["-1", "", "soon", "1.5", "99999999999999999999999"] {
            assert_eq!(pause(busy, nonsense), None, "{nonsense:?}");
        }
        assert_eq!(pause(Code::Internal, "70"), None);
    }
}
