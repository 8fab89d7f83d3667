//! Channels against listeners, over real sockets on loopback.

mod calls;
mod connecting;
mod early_data;
mod fixture;
mod hostile;
mod lifetime;
mod outages;
mod relay;
mod security;
mod web;
mod wire;
