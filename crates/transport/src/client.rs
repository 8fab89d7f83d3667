//! The client's side: from a URL to answered calls.

mod channel;
mod config;
mod connect;
mod http2;
mod http3;
mod refusal;
mod trust;

pub use channel::Channel;
pub use config::{ClientConfig, ConfigError};
pub use trust::Trust;
