//! Stopping a thread before each of its bpf(2) calls, so that a test can look at what packets see
//! between any two of them.

use std::sync::mpsc;
use std::thread;

use anyhow::{Context, Result, anyhow};

use crate::steps::notify::{Filter, let_go, next_call};

/// Runs `work` on a thread of its own, and `between` whenever that is about to make a bpf(2) call,
/// with the number of calls that it has made. Returns the result of `work` and the number of calls.
///
/// After an error of `between` the work runs on to its end undisturbed.
pub fn between_bpf_calls<T: Send>(
    work: impl FnOnce() -> Result<T> + Send,
    mut between: impl FnMut(usize) -> Result<()>,
) -> Result<(T, usize)> {
    let mut filter = Filter::of([libc::SYS_bpf])?;
    thread::scope(|scope| {
        let (sender, receiver) = mpsc::sync_channel(1);
        let worker = scope.spawn(move || {
            let listener =
                (filter.install()).context("asking to be stopped before bpf(2) calls")?;
            // The receiver waits below.
            let _ = sender.send(listener);
            work()
        });
        let mut calls = 0;
        let mut seen = Ok(());
        if let Ok(listener) = receiver.recv() {
            while let Some(call) = next_call(&listener)? {
                if seen.is_ok() {
                    seen = between(calls);
                }
                let_go(&listener, call.id)?;
                calls += 1;
            }
        }
        let result = worker
            .join()
            .unwrap_or_else(|_| Err(anyhow!("the watched thread panicked, see above")));
        seen?;
        Ok((result?, calls))
    })
}
