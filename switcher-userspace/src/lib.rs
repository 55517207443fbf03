//! Placeholder.

pub mod api;
pub mod cli;
pub mod config;
pub mod datapath;
pub mod duration;
pub mod preflight;
pub mod switching;
