//! Frames that were lost after the program's verdict, as the kernel's tracepoints tell.

/// What became of such frames; the index of their counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum SendError {
    /// The kernel refused a redirect: the interface is gone or down, takes no redirected frames, or
    /// the frame is too large for it.
    RedirectRefused = 0,
    /// The outgoing interface's driver had no room for a redirected frame, or lost what it needs to
    /// take it.
    RedirectDropped = 1,
    /// The same of a frame that was to leave where it came in.
    TransmitDropped = 2,
}

/// How many counters there are.
pub const SEND_ERRORS: u32 = 3;

impl SendError {
    /// All of them, by number.
    pub const ALL: [Self; SEND_ERRORS as usize] = [
        Self::RedirectRefused,
        Self::RedirectDropped,
        Self::TransmitDropped,
    ];
}
