//! Ctrl-C and SIGTERM: end orderly, and leave no directory behind.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{LazyLock, Once};
use std::thread;

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::directory;

static TOKEN: LazyLock<CancellationToken> = LazyLock::new(CancellationToken::new);
static WANTED: AtomicBool = AtomicBool::new(false);

/// A token that the first SIGINT or SIGTERM cancels, for a caller that then ends orderly.
///
/// The second signal ends the process at once. Where nobody asked for the token, the first does.
/// Namespaces, mounts and children need no help: the kernel removes them with the process.
pub fn on_signal() -> Result<CancellationToken> {
    WANTED.store(true, Ordering::SeqCst);
    watch()?;
    Ok(TOKEN.clone())
}

/// Starts the one thread of this process that waits for the signals.
pub(super) fn watch() -> Result<()> {
    static STARTED: Once = Once::new();
    let mut outcome = Ok(());
    STARTED.call_once(|| outcome = start());
    outcome
}

fn start() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("making a runtime for signals")?;
    let (mut interrupt, mut terminate) = {
        let _inside = runtime.enter();
        let interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
        (
            interrupt,
            signal(SignalKind::terminate()).context("listening for SIGTERM")?,
        )
    };
    let wait = async move {
        loop {
            let number = tokio::select! {
                _ = interrupt.recv() => libc::SIGINT,
                _ = terminate.recv() => libc::SIGTERM,
            };
            if !WANTED.load(Ordering::SeqCst) || TOKEN.is_cancelled() {
                directory::remove_all();
                std::process::exit(128 + number);
            }
            TOKEN.cancel();
        }
    };
    thread::Builder::new()
        .name("lab-signals".to_owned())
        .spawn(move || runtime.block_on(wait))
        .context("starting the thread for signals")?;
    Ok(())
}
