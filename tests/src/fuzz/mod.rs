//! The differential test: sequences of frames through the loaded program and through a plain model
//! ([`model`]) made from `docs/PACKETS.md`. Any difference in verdict, reason, bytes, flow entries or
//! counters is a defect of one of the three.

pub mod drive;
pub mod generate;
pub mod host;
mod judge;
pub mod lab;
pub mod model;
pub mod run;
pub mod shrink;
pub mod step;
pub mod world;
