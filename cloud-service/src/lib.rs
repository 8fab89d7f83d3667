//! The cloud program: serves the large networks over the Open Inference Protocol.
//!
//! [`Server`] loads the networks of a [`Config`] into a [`Repository`], binds both transports and serves until
//! told to stop.
//! A request passes [`service`] (the protocol), `input` (tensors and images to one input, on the
//! `workers`), and `batching` (a bounded queue, and the network's own threads), in this order.
//!
//! Invariants: every request is bounded before it is decoded; a full queue is an error that the
//! caller sees; what was accepted is answered before the program ends.

mod batching;
pub mod cli;
mod config;
mod error;
mod input;
mod metrics;
mod operations;
mod repository;
mod server;
pub mod service;
mod statistics;
mod workers;

pub use config::{
    Batching, Config, ConfigError, Limits, Mode, NetworkConfig, RepositoryConfig, Tls, Versions,
};
pub use error::ServiceError;
pub use metrics::Metrics;
pub use operations::Ready;
pub use repository::{LoadError, Repository, RepositoryError};
pub use server::{Checked, Server, ServerError};
