//! The cloud program: serves the large networks over the Open Inference Protocol.
//!
//! [`Server`] loads the networks of a [`Config`], binds both transports and serves until told to stop.
//! A request passes [`service`] (the protocol), `batch` (tensors and images to one input), and
//! `workers` (bounded queue, inference off the async threads), in this order.
//!
//! Invariants: every request is bounded before it is decoded; a full queue is an error that the
//! caller sees; what was accepted is answered before the program ends.

mod batch;
pub mod cli;
mod config;
mod error;
mod models;
mod server;
pub mod service;
mod workers;

pub use config::{Config, ConfigError, Limits, Tls};
pub use error::ServiceError;
pub use models::Models;
pub use server::{Server, ServerError};
pub use workers::Workers;
