//! The client's side: from a URL to answered calls.

mod alert;
mod channel;
mod config;
mod connect;
mod early;
mod http2;
mod http3;
mod local_address;
mod refusal;
mod token;
mod trust;

pub use channel::Channel;
pub use config::{ClientConfig, ConfigError};
pub use token::{BearerToken, TokenError};
pub use trust::Trust;
