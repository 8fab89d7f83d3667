//! The server's side: from a pair of sockets to served calls.

mod calls;
mod http2;
mod http3;
mod identity;
mod listener;

pub use identity::{IdentityError, ServerIdentity};
pub use listener::{BindError, Listener, ListenerConfig, ServeError};
