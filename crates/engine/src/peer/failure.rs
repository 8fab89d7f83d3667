//! Why a call over a channel gave nothing: what only its transport knows, beside what the service reports.

use outpost_cascade::FallbackCause;
use outpost_offload::Failure;
use outpost_transport::{CallError, ConnectError};
use tonic::{Code, Status};

/// Why a call gave nothing.
pub(super) fn failure_of(status: Status) -> Failure {
    match cause_of(&status) {
        Some(cause) => Failure::of_call(cause, status),
        None => Failure::of_status(status),
    }
}

/// Why, where the transport knows.
fn cause_of(status: &Status) -> Option<FallbackCause> {
    Some(match CallError::of(status)? {
        CallError::Connect(ConnectError::Tls(_)) => FallbackCause::Certificate,
        CallError::Connect(_) => FallbackCause::Unreachable,
        CallError::Interrupted { .. } | CallError::Reset { .. } => FallbackCause::ConnectionLost,
        CallError::NotGrpc { .. } if status.code() == Code::Unavailable => {
            FallbackCause::Unavailable
        }
        CallError::NotGrpc { .. } => FallbackCause::BadReply,
        CallError::DeadlineExceeded { .. } => FallbackCause::Deadline,
        _ => FallbackCause::Rejected,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tonic::codegen::http::StatusCode;

    use super::*;

    #[test]
    fn failures_of_the_transport_are_told_apart() {
        let refused = ConnectError::Refused {
            address: ([127, 0, 0, 1], 1).into(),
        };
        let status = Status::from(CallError::Connect(refused));
        assert_eq!(failure_of(status).cause, FallbackCause::Unreachable);
        for (status, cause) in [
            (StatusCode::BAD_GATEWAY, FallbackCause::Unavailable),
            (StatusCode::NOT_FOUND, FallbackCause::BadReply),
        ] {
            let refused = Status::from(CallError::NotGrpc { status });
            assert_eq!(failure_of(refused).cause, cause, "{status}");
        }
        let after = Duration::from_millis(1);
        let status = Status::from(CallError::DeadlineExceeded { after });
        assert_eq!(failure_of(status).cause, FallbackCause::Deadline);
    }
}
