//! An echo server as a process of its own: one process may not have the descriptors for both ends
//! of ten thousand connections. Says `ready` on standard output, and runs until it is killed.

use std::io::Write as _;
use std::net::SocketAddr;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use switcher_common::service::Color;
use switcher_tests::traffic::{EchoServer, Identity};

#[derive(Parser)]
struct Arguments {
    /// The color in its answers
    #[arg(long)]
    color: ColorArgument,
    /// The number of the backend in its answers
    #[arg(long)]
    backend: u32,
    /// Where to serve
    #[arg(required = true)]
    addresses: Vec<SocketAddr>,
}

#[derive(Clone, Copy, ValueEnum)]
enum ColorArgument {
    Blue,
    Green,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let identity = Identity {
        color: match arguments.color {
            ColorArgument::Blue => Color::Blue,
            ColorArgument::Green => Color::Green,
        },
        backend: arguments.backend,
    };
    let _server = EchoServer::start_here(identity, &arguments.addresses).await?;
    writeln!(std::io::stdout(), "ready").context("saying that the server is ready")?;
    std::future::pending().await
}
