//! Tracing from the agent's side: which packets the program tells of, and what it has told.

use std::{
    io,
    os::fd::{AsRawFd, RawFd},
};

use aya::maps::{Array, MapData, PerCpuArray, RingBuf};
use bytemuck::Zeroable as _;
use switcher_common::trace::{TRACE_READERS, TraceControl, TraceEvent, TraceFilter};
use tokio::io::unix::AsyncFd;

use super::{
    clock,
    error::{Attempt as _, DataPathError},
    pins::PinDir,
};

/// How long the program goes on telling when nobody renews: an agent that was killed.
const UNRENEWED_NS: u64 = 10_000_000_000;

/// The only reader of the program's ring of events.
pub struct Tracer {
    control: Array<MapData, TraceControl>,
    events: RingBuf<MapData>,
    lost: PerCpuArray<MapData, u64>,
    lost_before: u64,
}

impl Tracer {
    /// Turns tracing off, which an agent that was killed may have left on, and forgets what was told
    /// until then.
    pub(super) fn open(pins: &PinDir) -> Result<Self, DataPathError> {
        let mut tracer = Self {
            control: pins.open("TRACE")?,
            events: pins.open("TRACE_EVENTS")?,
            lost: pins.open("TRACE_LOST")?,
            lost_before: 0,
        };
        tracer.trace(&[])?;
        tracer.take(usize::MAX, |_| {});
        tracer.newly_lost()?;
        Ok(tracer)
    }

    /// Makes the program tell what one of `filters` matches, at most [`TRACE_READERS`] of them, for
    /// 10 s from now on; without filters, nothing.
    pub fn trace(&mut self, filters: &[TraceFilter]) -> Result<(), DataPathError> {
        let mut control = TraceControl::zeroed();
        for (slot, filter) in control.filters.iter_mut().zip(filters) {
            *slot = *filter;
        }
        if !filters.is_empty() {
            control.until_ns = clock::monotonic_ns() + UNRENEWED_NS;
        }
        self.control
            .set(0, control, 0)
            .attempt("writing what is traced")
    }

    /// Takes at most `most` events out of the ring, oldest first; how many there were.
    pub fn take(&mut self, most: usize, mut each: impl FnMut(&TraceEvent)) -> usize {
        let mut taken = 0;
        while taken < most {
            let Some(item) = self.events.next() else {
                break;
            };
            taken += 1;
            // Of another size only if the ring was another version's.
            if let Ok(event) = bytemuck::try_pod_read_unaligned(&item) {
                each(&event);
            }
        }
        taken
    }

    /// How many events have found the ring full since the last call.
    pub fn newly_lost(&mut self) -> Result<u64, DataPathError> {
        let per_cpu = self
            .lost
            .get(&0, 0)
            .attempt("reading how many traced packets were lost")?;
        let lost: u64 = per_cpu.iter().sum();
        let newly = lost.saturating_sub(self.lost_before);
        self.lost_before = lost;
        Ok(newly)
    }

    /// Most filters at once.
    #[must_use]
    pub const fn capacity() -> usize {
        TRACE_READERS
    }

    /// The same on an event loop, which must be the caller's.
    pub fn live(self) -> io::Result<LiveTracer> {
        // SAFETY: the tracer owns its ring's descriptor, which stays open and the same until the
        // tracer is dropped, together with the registration.
        let events = unsafe { AsyncFd::register(self) }.map_err(io::Error::from)?;
        Ok(LiveTracer { events })
    }
}

/// A [`Tracer`] on an event loop.
pub struct LiveTracer {
    events: AsyncFd<Tracer>,
}

impl LiveTracer {
    /// The tracer.
    pub fn get_mut(&mut self) -> &mut Tracer {
        self.events.get_mut()
    }

    /// Waits for events, then takes at most `most` of them. Dropping the future loses nothing.
    pub async fn take(&mut self, most: usize, each: impl FnMut(&TraceEvent)) -> io::Result<()> {
        let mut ready = self.events.readable_mut().await?;
        if ready.get_inner_mut().take(most, each) < most {
            ready.clear_ready();
        }
        Ok(())
    }
}

impl AsRawFd for Tracer {
    /// Readable when there are events.
    fn as_raw_fd(&self) -> RawFd {
        self.events.as_raw_fd()
    }
}
