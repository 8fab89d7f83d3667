//! Integration tests: the real programs over real sockets, on loopback.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod arm;
mod audits;
mod browsers;
mod cameras;
mod cloud;
mod clouds;
mod doctor;
mod early_data;
mod encoding;
mod experiment;
mod fleet;
mod input;
mod learned;
mod link;
mod mqtt;
mod operations;
mod outage;
mod overload;
mod page;
mod peers;
mod power;
mod privacy;
mod queue;
mod reload;
mod replicas;
mod run;
mod runtimes;
mod security;
mod soak;
mod split;
mod stages;
mod traces;
mod v4l2;
mod web;
mod webhook;
