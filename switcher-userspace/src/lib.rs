//! Placeholder.

pub mod api;
pub mod config;
pub mod duration;
