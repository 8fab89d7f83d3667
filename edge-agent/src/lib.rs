//! The device program: answers easy images here and sends the hard ones to the cloud.
//!
//! [`Agent`] reads images and takes them through the cascade with [`outpost_engine`], which runs the networks
//! that are on the device, asks its peers for the others and falls back on the device's own answer. [`paths`] finds images,
//! [`Record`] is what is printed about each, [`table`] shows records to a person.
//!
//! Invariants: an image that can be decoded gets exactly one answer, by its deadline or as soon as
//! the device network has spoken, whichever is later; the answer says who gave it and why; networks
//! run off the async threads.

mod agent;
pub mod cli;
mod config;
pub mod paths;
mod record;
pub mod table;

pub use agent::{Agent, StartError};
pub use config::{Config, ConfigError, ImageBounds};
pub use record::{Answered, Candidate, Record};
