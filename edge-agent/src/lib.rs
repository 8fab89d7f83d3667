//! The device program: answers easy images here and sends the hard ones to the cloud.
//!
//! [`Agent`] reads images and takes them through the cascade with [`outpost_engine`], which runs the networks
//! that are on the device, asks its peers for the others and falls back on the device's own answer. [`Record`] is what
//! is said about each.
//!
//! [`cli`] has two ways to use it. `classify` takes the images that [`paths`] finds and shows their records as a
//! [`table`]. `run` is a [`Program`] that is left running: an HTTP API, watched folders, web servers and cameras bring images to
//! the intake, which bounds how many are taken up; what comes of each is announced to outputs and listeners. Images that found
//! no cloud may wait for it in a queue on disk. Where the configuration or its files change, a new agent takes over. Beside it
//! there may be a page that makes a phone a device of its own.
//!
//! Invariants: an image that can be decoded gets exactly one answer, by its deadline or as soon as
//! the device network has spoken, whichever is later; the answer says who gave it and why; one event about it is the
//! final one; networks run off the async threads.

mod agent;
pub mod allocator;
mod api;
mod audit;
mod camera;
mod certificates;
pub mod cli;
mod config;
pub mod doctor;
mod event;
mod follow;
mod in_charge;
mod inputs;
mod intake;
mod listen;
mod metrics;
mod outputs;
mod page;
pub mod paths;
mod pauses;
mod power;
mod program;
mod queue;
mod record;
mod reload;
mod reloads;
mod resident;
pub mod table;
mod web;

pub use agent::{Agent, Content, Image, StartError};
pub use api::{ApiError, TokenError};
pub use config::{
    ApiConfig, AuditConfig, CameraConfig, CameraFormat, Config, ConfigError, Delivery, FileOutput,
    FolderConfig, ImageBounds, MqttOutput, OffloadCost, OutputsConfig, PageConfig, PowerClass,
    PowerConfig, QueueConfig, Spared, Then, UrlConfig, WebhookOutput,
};
pub use event::Event;
pub use inputs::{FolderError, InputError};
pub use metrics::Metrics;
pub use outpost_offload::{Answered, Candidate, Kind};
pub use outputs::{FileError, MqttError, OutputError};
pub use page::PageServeError;
pub use program::{Program, ProgramError};
pub use queue::QueueError;
pub use record::{FailureCause, Record};
pub use reload::Source;
pub use web::WebError;
