//! The device program: answers easy images here and sends the hard ones to the cloud.
//!
//! [`Agent`] takes one image through the cascade: it runs the networks that are on the device, asks
//! the `cloud` for the others and falls back on the device's own answer. [`paths`] finds images,
//! [`Record`] is what is printed about each, [`table`] shows records to a person.
//!
//! Invariants: an image that can be decoded gets exactly one answer, by its deadline or as soon as
//! the device network has spoken, whichever is later; the answer says who gave it and why; networks
//! run off the async threads.

mod agent;
pub mod cli;
mod cloud;
mod config;
mod learned;
pub mod paths;
mod picture;
mod record;
pub mod table;

pub use agent::{Agent, StartError};
pub use config::{
    CircuitSettings, Cloud as CloudConfig, Config, ConfigError, ImageBounds, Payload,
};
pub use learned::PolicyError;
pub use record::{Answered, Candidate, Record};
