//! The agent, its API, and the CLI of the switcher.
//!
//! [`datapath`] alone knows aya, [`api`] alone the wire format; [`switching`] decides and does no
//! I/O; [`agent`] brings them together.

pub mod agent;
pub mod api;
pub mod cli;
pub mod config;
pub mod datapath;
pub mod duration;
pub mod failover;
mod hops;
pub mod interfaces;
mod issuers;
mod netlink;
pub mod preflight;
pub mod switching;
