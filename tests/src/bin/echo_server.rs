//! An echo server as a process of its own: one process may not have the descriptors for both ends
//! of ten thousand connections, and a test may want to kill or stop a server. Says `ready` on standard output, and runs until it is killed.

use std::io::Write as _;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use switcher_common::service::Color;
use switcher_tests::traffic::{EchoServer, HttpServer, Identity, Slow};

#[derive(Parser)]
struct Arguments {
    /// The color in its answers
    #[arg(long)]
    color: ColorArgument,
    /// The number of the backend in its answers
    #[arg(long)]
    backend: u32,
    /// Where to serve HTTP beside
    #[arg(long)]
    http: Vec<SocketAddr>,
    /// Each so many-th HTTP connection is answered late
    #[arg(long, requires = "slow_ms")]
    slow_every: Option<NonZeroU64>,
    /// So late, in milliseconds
    #[arg(long, requires = "slow_every")]
    slow_ms: Option<u64>,
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
    let slow = arguments.slow_every.zip(arguments.slow_ms);
    let slow = slow.map(|(every, ms)| Slow {
        every: every.get(),
        by: Duration::from_millis(ms),
    });
    let _http = HttpServer::start_here(identity, &arguments.http, slow).await?;
    writeln!(std::io::stdout(), "ready").context("saying that the server is ready")?;
    std::future::pending().await
}
