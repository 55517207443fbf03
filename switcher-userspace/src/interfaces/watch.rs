//! The thread that waits for changes of interfaces.

use std::{io, ops::ControlFlow, thread, time::Duration};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{Interfaces, Reader};
use crate::netlink::events::Events;

/// Everything is read again after this time even when no event came.
const SLOW_READ: Timespec = Timespec {
    tv_sec: 30,
    tv_nsec: 0,
};
/// Reading takes at most one part in so many of a processor's time, however many events come.
const REST: u32 = 10;
const LONGEST_REST: Duration = Duration::from_secs(1);

/// Starts a thread that reads the interfaces again at each of `events`, and hands them to `take`. It
/// ends when `take` says so.
pub(crate) fn watch(
    reader: Reader,
    events: Vec<Events>,
    take: impl FnMut(Interfaces) -> ControlFlow<()> + Send + 'static,
) -> io::Result<()> {
    let run = move || {
        if let Err(error) = run(reader, &events, take) {
            tracing::error!(%error, "changes of interfaces are no longer seen; restart the agent");
        }
    };
    thread::Builder::new()
        .name("interfaces".to_owned())
        .spawn(run)
        .map(drop)
}

fn run(
    mut reader: Reader,
    events: &[Events],
    mut take: impl FnMut(Interfaces) -> ControlFlow<()>,
) -> io::Result<()> {
    loop {
        wait(events)?;
        let began = std::time::Instant::now();
        match reader.read() {
            Ok(interfaces) => {
                if take(interfaces).is_break() {
                    return Ok(());
                }
            }
            // A dump that was interrupted by changes; their events are there already.
            Err(error) => tracing::warn!(%error, "interfaces are not read"),
        }
        thread::sleep((began.elapsed() * REST).min(LONGEST_REST));
    }
}

fn wait(events: &[Events]) -> io::Result<()> {
    let mut waiting: Vec<_> = events
        .iter()
        .map(|it| PollFd::new(it, PollFlags::IN))
        .collect();
    match poll(&mut waiting, Some(&SLOW_READ)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    events.iter().try_for_each(Events::drain)
}
