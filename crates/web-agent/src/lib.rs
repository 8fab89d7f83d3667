//! The device program in a browser: networks, policies and offloads as WebAssembly.
//!
//! - [`Agent`] takes one image after the other through a cascade, by the crates that `edge-agent` is made of: decoding,
//!   pre-processing and networks are `outpost-runtime`'s, what decides and the states of an offload `outpost-cascade`'s and
//!   `outpost-exit-policy`'s, what is asked and told `outpost-offload`'s. It is the driver between them, for a place without
//!   threads, files and sockets of its own.
//! - [`Host`] is that place: a clock, timers, and a way to the cloud. On `wasm32` it is the browser; tests have their own.
//! - [`Description`] says what an agent is made of, and by which digests its files are known.
//!
//! For `wasm32` the crate exports the class `Agent` to JavaScript; `docs/browser.md` says how a page uses it, and
//! `scripts/build-web` makes it.
//!
//! Invariants, as of `edge-agent`: an image that can be decoded gets exactly one answer, by its deadline or as soon as a network
//! here has spoken, whichever is later; the answer says who gave it and why; a reply that comes later corrects it. No file is
//! used before its digest is found to be the one that it is known by.

#[cfg(target_arch = "wasm32")]
mod browser;
mod description;
mod driver;
mod event;
mod host;
mod offload;
mod state;

pub use description::{Description, DescriptionError};
pub use driver::{Agent, ClassifyError, Correction, Said, StartError};
pub use event::Event;
pub use host::{Host, LocalFuture};
pub use state::{Peer, State};
