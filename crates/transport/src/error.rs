//! Why a connection could not be made and why a call failed, and the gRPC status of each.
//!
//! Every failure that this crate reports through a generated client is a [`tonic::Status`] with a
//! [`CallError`] among its sources; [`CallError::of`] finds it again.

use std::{error::Error, io, net::SocketAddr, sync::Arc, time::Duration};

use http::StatusCode;
use rustls::{AlertDescription, CertificateError};
use tonic::{Code, Status};

use crate::Protocol;

/// A cause from a library below, kept for whoever reads the whole chain.
pub(crate) type Cause = Arc<dyn Error + Send + Sync>;

/// Why no connection could be made.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The host answered that nothing listens at the address.
    #[error("{address} refused the connection; start the service there, or correct the address")]
    Refused {
        /// Where nothing listens.
        address: SocketAddr,
    },
    /// Nothing usable came back in time.
    #[error(
        "{host} did not answer within {after:?}; check the network and firewalls, \
         or allow a longer connect timeout"
    )]
    Timeout {
        /// The host and port that were tried.
        host: String,
        /// The whole time allowed for connecting.
        after: Duration,
    },
    /// The TLS handshake failed: trying again will not help.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The host's name has no address.
    #[error("the name {host} could not be resolved; correct it, or check the name server")]
    UnknownHost {
        /// The name that was looked up.
        host: String,
        /// What the resolver said.
        source: Arc<io::Error>,
    },
    /// The network has no path to the address, or this machine may not use it.
    #[error("{address} cannot be reached; check this machine's network")]
    Unreachable {
        /// The address that was tried.
        address: SocketAddr,
        /// What the operating system said.
        source: Arc<io::Error>,
    },
    /// The peer hung up before the connection was usable.
    #[error(
        "{address} closed the connection during the {protocol} handshake; \
         check that a gRPC service listens there and offers {protocol}"
    )]
    Closed {
        /// The address that was tried.
        address: SocketAddr,
        /// The protocol that was tried.
        protocol: Protocol,
        /// What the protocol's implementation said.
        source: Cause,
    },
}

impl ConnectError {
    /// A short word for answers and metrics: `refused`, `timeout`, `tls`, `unknown-host`,
    /// `unreachable` or `closed`.
    pub fn cause(&self) -> &'static str {
        match self {
            Self::Refused { .. } => "refused",
            Self::Timeout { .. } => "timeout",
            Self::Tls(_) => "tls",
            Self::UnknownHost { .. } => "unknown-host",
            Self::Unreachable { .. } => "unreachable",
            Self::Closed { .. } => "closed",
        }
    }

    /// Sorts an I/O error met while connecting to `address`.
    pub(crate) fn from_io(address: SocketAddr, protocol: Protocol, error: io::Error) -> Self {
        use io::ErrorKind as Kind;
        match error.kind() {
            Kind::ConnectionRefused => Self::Refused { address },
            Kind::HostUnreachable
            | Kind::NetworkUnreachable
            | Kind::NetworkDown
            | Kind::AddrNotAvailable
            | Kind::PermissionDenied
            | Kind::Unsupported => Self::Unreachable {
                address,
                source: Arc::new(error),
            },
            _ => Self::Closed {
                address,
                protocol,
                source: Arc::new(error),
            },
        }
    }

    /// How much the failure tells where several addresses failed: the highest is reported.
    pub(crate) fn weight(&self) -> u8 {
        match self {
            Self::Tls(_) => 5,
            Self::Closed { .. } => 4,
            Self::Timeout { .. } => 3,
            Self::Refused { .. } => 2,
            Self::Unreachable { .. } | Self::UnknownHost { .. } => 1,
        }
    }
}

/// Why one side's identity was not accepted, or the handshake failed.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{advice}")]
pub struct TlsError {
    advice: &'static str,
    #[source]
    source: rustls::Error,
}

impl TlsError {
    /// Explains a handshake error of rustls.
    pub(crate) fn new(source: rustls::Error) -> Self {
        use CertificateError as C;
        let advice = match &source {
            rustls::Error::InvalidCertificate(error) => match error {
                // Another authority of the same name is an unknown authority too.
                C::UnknownIssuer | C::BadSignature => {
                    "the server's certificate was not accepted: unknown authority; \
                     trust the authority that signed it, or correct the address"
                }
                C::Expired | C::ExpiredContext { .. } => {
                    "the server's certificate was not accepted: expired; \
                     renew it, or correct this machine's clock"
                }
                C::NotValidYet | C::NotValidYetContext { .. } => {
                    "the server's certificate was not accepted: not valid yet; \
                     correct this machine's clock"
                }
                C::NotValidForName | C::NotValidForNameContext { .. } => {
                    "the server's certificate was not accepted: wrong name; \
                     call the server by a name in its certificate, or set the server name to one"
                }
                C::Revoked => "the server's certificate was not accepted: revoked; renew it",
                _ => {
                    "the server's certificate was not accepted: \
                     malformed or not meant for a server; issue it anew"
                }
            },
            rustls::Error::AlertReceived(AlertDescription::CertificateRequired) => {
                "the server asks for a certificate of this client; set its certificate and key"
            }
            rustls::Error::AlertReceived(alert) if is_about_certificate(*alert) => {
                "the server did not accept this client's certificate; \
                 renew it, or have its authority added at the server"
            }
            _ => "the TLS handshake failed; check that both sides offer TLS 1.3, or 1.2",
        };
        Self { advice, source }
    }

    /// What the server said about this client's certificate with an alert, if it did.
    ///
    /// In TLS 1.3 a client is through with its handshake before the server has seen the certificate, so that
    /// the alert comes when the connection is in use.
    pub(crate) fn of_alert(alert: AlertDescription) -> Option<Self> {
        is_about_certificate(alert).then(|| Self::new(rustls::Error::AlertReceived(alert)))
    }

    /// What rustls said.
    pub fn rustls_error(&self) -> &rustls::Error {
        &self.source
    }
}

fn is_about_certificate(alert: AlertDescription) -> bool {
    use AlertDescription as A;
    matches!(
        alert,
        A::CertificateRequired
            | A::NoCertificate
            | A::BadCertificate
            | A::UnsupportedCertificate
            | A::CertificateRevoked
            | A::CertificateExpired
            | A::CertificateUnknown
            | A::UnknownCA
            | A::AccessDenied
            | A::DecryptError
    )
}

/// Why a call failed, where the failure is the transport's and not the service's answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// There was no connection and none could be made; the request was not sent, or as early data alone, which the service
    /// may have seen.
    #[error("{0}")]
    Connect(#[source] ConnectError),
    /// The connection died under the call; the service may have seen the request.
    #[error("the {protocol} connection was lost during the call; retry if the call may run twice")]
    Interrupted {
        /// The connection's protocol.
        protocol: Protocol,
        /// What the protocol's implementation said.
        source: Cause,
    },
    /// The server gave up on this call alone; the connection lives on.
    #[error("the server reset the call; see its log")]
    Reset {
        /// The gRPC code that stands for the protocol's error code.
        code: Code,
        /// What the protocol's implementation said.
        source: Cause,
    },
    /// Something before the server answered in its place, and not as gRPC does: the server may have seen the
    /// request.
    #[error(
        "the answer is not a gRPC server's but HTTP {status}; see the log of the proxy before it"
    )]
    NotGrpc {
        /// What it answered.
        status: StatusCode,
    },
    /// The call's deadline passed on this side.
    #[error("no complete answer within {after:?}; allow more time or answer without it")]
    DeadlineExceeded {
        /// The time that the call was given.
        after: Duration,
    },
    /// The request's headers are larger than the server takes.
    #[error("the server does not take headers this large; send less metadata")]
    HeadersTooLarge {
        /// What the protocol's implementation said.
        source: Cause,
    },
}

impl CallError {
    /// The transport's failure behind `status`, if there is one.
    ///
    /// A status that the service itself answered has none.
    pub fn of(status: &Status) -> Option<&Self> {
        let mut source = status.source();
        while let Some(error) = source {
            if let Some(call_error) = error.downcast_ref() {
                return Some(call_error);
            }
            source = error.source();
        }
        None
    }

    /// Whether the server, or a proxy before it, refused the call before any of it was taken up: by `REFUSED_STREAM` of HTTP/2
    /// or `H3_REQUEST_REJECTED`. It may be made again, then, where it may not run twice.
    pub fn is_refused(&self) -> bool {
        matches!(
            self,
            Self::Reset {
                code: Code::Unavailable,
                ..
            }
        )
    }

    /// A short word for answers and metrics: that of [`ConnectError::cause`], or `interrupted`,
    /// `reset`, `not-grpc`, `deadline` or `headers`.
    pub fn cause(&self) -> &'static str {
        match self {
            Self::Connect(error) => error.cause(),
            Self::Interrupted { .. } => "interrupted",
            Self::Reset { .. } => "reset",
            Self::NotGrpc { .. } => "not-grpc",
            Self::DeadlineExceeded { .. } => "deadline",
            Self::HeadersTooLarge { .. } => "headers",
        }
    }

    fn code(&self) -> Code {
        match self {
            Self::Connect(_) | Self::Interrupted { .. } => Code::Unavailable,
            Self::Reset { code, .. } => *code,
            // As the gRPC specification maps them.
            Self::NotGrpc { status } => match status.as_u16() {
                400 => Code::Internal,
                401 => Code::Unauthenticated,
                403 => Code::PermissionDenied,
                404 => Code::Unimplemented,
                429 | 502 | 503 | 504 => Code::Unavailable,
                _ => Code::Unknown,
            },
            Self::DeadlineExceeded { .. } => Code::DeadlineExceeded,
            Self::HeadersTooLarge { .. } => Code::ResourceExhausted,
        }
    }
}

impl From<CallError> for Status {
    /// The one mapping from the transport's failures to gRPC statuses.
    fn from(error: CallError) -> Self {
        let mut status = Self::new(error.code(), error.to_string());
        status.set_source(Arc::new(error));
        status
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cause() -> Cause {
        Arc::new(io::Error::other("cause"))
    }

    #[test]
    fn every_failure_has_its_status_and_is_found_in_it() {
        let refused = ConnectError::Refused {
            address: ([127, 0, 0, 1], 1).into(),
        };
        let interrupted = CallError::Interrupted {
            protocol: Protocol::H3,
            source: cause(),
        };
        let reset = CallError::Reset {
            code: Code::Cancelled,
            source: cause(),
        };
        let rejected = CallError::Reset {
            code: Code::Unavailable,
            source: cause(),
        };
        assert!(rejected.is_refused() && !reset.is_refused() && !interrupted.is_refused());
        let deadline = CallError::DeadlineExceeded {
            after: Duration::from_millis(1),
        };
        let headers = CallError::HeadersTooLarge { source: cause() };
        let not_grpc = CallError::NotGrpc {
            status: StatusCode::BAD_GATEWAY,
        };
        for (error, code, word) in [
            (CallError::Connect(refused), Code::Unavailable, "refused"),
            (interrupted, Code::Unavailable, "interrupted"),
            (reset, Code::Cancelled, "reset"),
            (not_grpc, Code::Unavailable, "not-grpc"),
            (deadline, Code::DeadlineExceeded, "deadline"),
            (headers, Code::ResourceExhausted, "headers"),
        ] {
            let status = Status::from(error);
            assert_eq!(status.code(), code);
            assert_eq!(CallError::of(&status).unwrap().cause(), word);
        }
        assert!(CallError::of(&Status::internal("the service's own")).is_none());
    }

    #[test]
    fn certificate_failures_say_which_and_keep_their_cause() {
        for (certificate_error, word) in [
            (CertificateError::UnknownIssuer, "unknown authority"),
            (CertificateError::Expired, "expired"),
            (CertificateError::NotValidForName, "wrong name"),
        ] {
            let error = TlsError::new(certificate_error.clone().into());
            assert!(error.to_string().contains(word), "{error}");
            let source = error.source().and_then(|e| e.downcast_ref());
            assert_eq!(
                source,
                Some(&rustls::Error::InvalidCertificate(certificate_error))
            );
        }
    }
}
