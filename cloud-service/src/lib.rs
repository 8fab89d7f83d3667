//! The cloud program: serves the large networks over the Open Inference Protocol.
//!
//! [`Server`] loads the networks of a [`Config`] into a [`Repository`], binds both transports and serves until
//! told to stop.
//! Browsers call by gRPC-Web, and get the `page` that is a device.
//! A request passes `access` (who it is from), [`service`] (the protocol), `input` (tensors and images to one input, on the
//! `workers`), and `batching` (a bounded queue, and the network's own threads), in this order.
//!
//! Invariants: every request is bounded before it is decoded; a full queue is an error that the
//! caller sees; what was accepted is answered before the program ends.

mod access;
mod admission;
mod batching;
mod cascade;
pub mod cli;
mod config;
mod credentials;
mod error;
#[doc(hidden)]
pub mod hostile;
mod input;
mod metrics;
mod model;
mod operations;
mod page;
mod repository;
mod server;
pub mod service;
mod statistics;
mod web;
mod workers;

pub use access::{Access, Caller, ContentError, Identities, IdentitiesError, Permission};
pub use cascade::CascadeError;
pub use config::{
    AccessConfig, Batching, CascadeConfig, ClientCertificates, Config, ConfigError, GrpcWebConfig,
    Limits, Mode, NetworkConfig, PageConfig, RepositoryConfig, Tls, Versions,
};
pub use credentials::CredentialsError;
pub use error::ServiceError;
pub use metrics::Metrics;
pub use operations::Ready;
pub use page::PageError;
pub use repository::{LoadError, Repository, RepositoryError};
pub use server::{Checked, Server, ServerError};
