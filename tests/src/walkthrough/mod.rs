//! Documents that are executed: files and commands are taken out of a page for operators, and what the
//! commands say is compared with what the page shows.
//!
//! A fenced block `console` has commands, each after `$ `, with their output below. A block whose language
//! is followed by a name is the file of that name. Others are only shown.

mod document;
mod machines;
mod shell;
mod transcript;

pub use document::{Command, Document, File, Section};
pub use machines::Machines;
pub use shell::Shell;
