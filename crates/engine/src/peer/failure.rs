//! Why a call gave nothing: the one mapping from what a call reports to why the device answers.

use std::{error::Error, time::Duration};

use outpost_cascade::FallbackCause;
use outpost_transport::{CallError, ConnectError, RETRY_PUSHBACK};
use tonic::{Code, Status};

/// Why a call gave nothing, with what a person may read about it.
pub(super) struct Failure {
    pub(super) cause: FallbackCause,
    pub(super) source: Box<dyn Error + Send + Sync>,
    /// How long the server wants no call, where it says so.
    pub(super) pause: Option<Duration>,
    /// Whether it is this endpoint's, so that another may answer.
    pub(super) is_of_the_endpoint: bool,
}

impl Failure {
    pub(super) fn bad_reply(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::new(FallbackCause::BadReply, source)
    }

    pub(super) fn unsendable(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::new(FallbackCause::Unsendable, source)
    }

    pub(super) fn over_budget(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::new(FallbackCause::Budget, source)
    }

    /// Whether it tells something about the peer: a call was made, or tried.
    pub(super) fn is_of_the_peer(&self) -> bool {
        !matches!(
            self.cause,
            FallbackCause::Unsendable | FallbackCause::Budget
        )
    }

    /// Whether a server that took the place of another may be behind it, so that what the other told is to be asked again.
    pub(super) fn may_be_of_a_change(&self) -> bool {
        let is_absent = self.tells_of_absence() && self.cause != FallbackCause::Deadline;
        is_absent
            || matches!(
                self.cause,
                FallbackCause::Rejected | FallbackCause::BadReply
            )
    }

    /// Whether the peer is not there, or cannot serve.
    pub(super) fn tells_of_absence(&self) -> bool {
        matches!(
            self.cause,
            FallbackCause::Deadline
                | FallbackCause::Unreachable
                | FallbackCause::Certificate
                | FallbackCause::ConnectionLost
                | FallbackCause::Unavailable
        )
    }

    pub(super) fn deadline(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
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
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let pause = pause_of(&status);
        Self {
            pause,
            is_of_the_endpoint: is_of_the_endpoint(&status),
            ..Self::new(cause_of(&status), status)
        }
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
/// Not so where the time is over, or the request is at fault.
fn is_of_the_endpoint(status: &Status) -> bool {
    match cause_of(status) {
        FallbackCause::Deadline => false,
        FallbackCause::Rejected => matches!(
            status.code(),
            Code::NotFound
                | Code::PermissionDenied
                | Code::Unauthenticated
                | Code::FailedPrecondition
                | Code::Unimplemented
        ),
        _ => true,
    }
}

/// The one mapping from what a call reports to why the device answers.
fn cause_of(status: &Status) -> FallbackCause {
    match CallError::of(status) {
        Some(CallError::Connect(ConnectError::Tls(_))) => FallbackCause::Certificate,
        Some(CallError::Connect(_)) => FallbackCause::Unreachable,
        Some(CallError::Interrupted { .. } | CallError::Reset { .. }) => {
            FallbackCause::ConnectionLost
        }
        Some(CallError::NotGrpc { .. }) if status.code() == Code::Unavailable => {
            FallbackCause::Unavailable
        }
        Some(CallError::NotGrpc { .. }) => FallbackCause::BadReply,
        Some(CallError::DeadlineExceeded { .. }) => FallbackCause::Deadline,
        Some(_) => FallbackCause::Rejected,
        None => match status.code() {
            Code::DeadlineExceeded | Code::Cancelled => FallbackCause::Deadline,
            Code::Unavailable => FallbackCause::Unavailable,
            Code::ResourceExhausted => FallbackCause::Overloaded,
            Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::Unimplemented => FallbackCause::Rejected,
            Code::Ok | Code::Unknown | Code::Internal | Code::Aborted | Code::DataLoss => {
                FallbackCause::BadReply
            }
        },
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
    use std::time::Duration;

    use tonic::codegen::http::StatusCode;

    use super::*;

    #[test]
    fn every_status_of_a_service_has_its_cause() {
        for (code, cause) in [
            (Code::DeadlineExceeded, FallbackCause::Deadline),
            (Code::Unavailable, FallbackCause::Unavailable),
            (Code::ResourceExhausted, FallbackCause::Overloaded),
            (Code::InvalidArgument, FallbackCause::Rejected),
            (Code::NotFound, FallbackCause::Rejected),
            (Code::Unauthenticated, FallbackCause::Rejected),
            (Code::Internal, FallbackCause::BadReply),
            (Code::Unknown, FallbackCause::BadReply),
        ] {
            assert_eq!(cause_of(&Status::new(code, "")), cause, "{code:?}");
        }
    }

    #[test]
    fn another_endpoint_is_asked_unless_the_request_or_the_time_is_at_fault() {
        for (code, elsewhere) in [
            (Code::Unavailable, true),
            (Code::ResourceExhausted, true),
            (Code::NotFound, true),
            (Code::Unauthenticated, true),
            (Code::Internal, true),
            (Code::InvalidArgument, false),
            (Code::DeadlineExceeded, false),
        ] {
            let failure = Failure::from(Status::new(code, ""));
            assert_eq!(failure.is_of_the_endpoint, elsewhere, "{code:?}");
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
            Failure::from(status).pause
        };
        let busy = Code::ResourceExhausted;
        assert_eq!(pause(busy, "70"), Some(Duration::from_millis(70)));
        for nonsense in ["-1", "", "soon", "1.5", "99999999999999999999999"] {
            assert_eq!(pause(busy, nonsense), None, "{nonsense:?}");
        }
        assert_eq!(pause(Code::Internal, "70"), None);
    }

    #[test]
    fn failures_of_the_transport_are_told_apart() {
        let refused = ConnectError::Refused {
            address: ([127, 0, 0, 1], 1).into(),
        };
        let status = Status::from(CallError::Connect(refused));
        assert_eq!(cause_of(&status), FallbackCause::Unreachable);
        for (status, cause) in [
            (StatusCode::BAD_GATEWAY, FallbackCause::Unavailable),
            (StatusCode::NOT_FOUND, FallbackCause::BadReply),
        ] {
            let status = Status::from(CallError::NotGrpc { status });
            assert_eq!(cause_of(&status), cause, "{status}");
        }
        let after = Duration::from_millis(1);
        let status = Status::from(CallError::DeadlineExceeded { after });
        assert_eq!(cause_of(&status), FallbackCause::Deadline);
    }
}
