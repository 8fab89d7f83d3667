//! `lab link`: the real programs at the two ends of an emulated path, for every combination of a plan.

pub mod plan;
pub mod profile;
pub mod rows;
