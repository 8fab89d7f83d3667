//! The server's side: from a pair of sockets to served calls.

mod calls;
mod http3;
mod idle;
mod listener;
mod peer;
mod places;
mod preface;
mod tcp;
mod tls;
mod web;

pub use listener::{BindError, Listener, ListenerConfig, ServeError};
pub use peer::PeerCertificate;
pub use tls::{
    ClientAuthentication, ClientAuthority, ClientAuthorityError, ServerTls, TlsHandle, TlsVersion,
};
pub use web::{AltSvc, MalformedOrigin, Origin, WebConfig};
