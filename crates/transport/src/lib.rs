//! gRPC channels and listeners over HTTP/2 with TLS and over HTTP/3.
//!
//! A [`Channel`] reaches one service over whichever protocol works and serves as the transport of
//! any client that tonic generates. A [`Listener`] serves the same routes over both protocols on one
//! port, and to browsers where it has a [`WebConfig`]. What is said over them is no concern of this crate.
//!
//! ```no_run
//! use outpost_transport::{Channel, ClientConfig, Trust};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let channel = Channel::new(ClientConfig {
//!     trust: Trust::Authority(std::fs::read("certificates/ca.pem")?),
//!     ..ClientConfig::new("https://cloud.example:8001")
//! })?;
//! let protocol = channel.connect().await?;
//! println!("connected over {protocol}");
//! # Ok(())
//! # }
//! ```
//!
//! It holds that
//! - a connection is made again by the first call after it died, and a call whose request was not
//!   sent moves to the new connection by itself;
//! - where nothing listens, connecting fails at once, over UDP too;
//! - what is sent before a handshake is done is a call that may run twice, and nothing says that there is a connection
//!   before the service has answered;
//! - every failure of the transport is a [`tonic::Status`] with a [`CallError`] behind it;
//! - a call ends by its `grpc-timeout` at both sides;
//! - a listener that shuts down answers the calls that it has accepted;
//! - no input of a peer makes either side panic or hold more than its limits.

mod certificate;
mod client;
mod congestion;
mod deadline;
pub mod development_certificates;
mod early_data;
mod error;
mod frames;
#[doc(hidden)]
pub mod hostile;
mod http3_body;
mod identity;
mod protocol;
mod quic;
mod server;
mod settings;
#[cfg(test)]
mod tests;
mod wire;

pub use certificate::CertificateFacts;
pub use client::{BearerToken, Channel, ClientConfig, ConfigError, TokenError, Trust};
pub use congestion::{Congestion, UnavailableCongestion, UnknownCongestion};
pub use deadline::Deadline;
pub use early_data::{EarlyData, Idempotent};
pub use error::{CallError, ConnectError, TlsError};
pub use identity::{Identity, IdentityError};
pub use protocol::{Protocol, Transport, UnknownTransport};
pub use server::{
    AltSvc, BindError, ClientAuthentication, ClientAuthority, ClientAuthorityError, Listener,
    ListenerConfig, MalformedOrigin, Origin, PeerCertificate, ServeError, ServerTls, TlsHandle,
    TlsVersion, WebConfig,
};
pub use wire::{Handshakes, WireBytes, WireMeter};

/// The largest message that channels accept unless told otherwise, and a good limit for services:
/// 16 MiB hold a batch of twenty 260×260 images as FP32 pixels.
pub const DEFAULT_MAX_MESSAGE_BYTES: usize = 16 << 20;

/// Trailer in which a busy server says after how many milliseconds a call may be tried again, as gRPC's retry
/// design names it.
pub const RETRY_PUSHBACK: &str = "grpc-retry-pushback-ms";
