//! The API over a real socket, with an agent that only pretends.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod apply;
mod cli;
mod command;
mod explain;
mod failover;
mod fake;
mod flows;
mod history;
mod hostile;
mod http;
mod openapi;
mod preview;
mod routes;
mod socket;
mod trace;
mod verbs;
mod waiting;
