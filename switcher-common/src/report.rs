//! What the program tells the agent of backends by itself: suspicions, each of which a check looks into.

use bytemuck::{Pod, Zeroable};

use crate::{address::WideAddress, shared};

/// What was seen of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Seen {
    /// It has refused a SYN: a RST that acknowledges it.
    Refused = 1,
    /// A client repeats a SYN that it has not answered.
    Unanswered = 2,
    /// It has reset [`RESET_BURST`] established flows.
    Resets = 3,
}

impl Seen {
    /// The one of a byte of a report; `None`: no program of this version wrote it.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Refused),
            2 => Some(Self::Unanswered),
            3 => Some(Self::Resets),
            _ => None,
        }
    }
}

/// A report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct BackendReport {
    /// When, in nanoseconds of `CLOCK_MONOTONIC`.
    pub time_ns: u64,
    /// The client whose flow it is.
    pub client: WideAddress,
    /// Id of the backend.
    pub backend: u32,
    /// The tick by which the program dates packets, which moves once in a few milliseconds.
    pub tick: u32,
    /// Such a tick, of the backend's newest answer to any SYN; 0: none came.
    pub answered: u32,
    /// Id of the service.
    pub service: u16,
    /// A [`Seen`] as its number.
    pub seen: u8,
    /// `AF_INET` or `AF_INET6`.
    pub af: u8,
}
shared!(BackendReport, 40);

/// Established flows that a backend resets within a window of 134 ms on one CPU, before that is reported.
pub const RESET_BURST: u32 = 8;
/// Reports about one backend in a window on one CPU.
pub const REPORTS_PER_BACKEND: u32 = 32;
/// Reports about all backends in a second on one CPU.
pub const REPORTS_PER_SECOND: u32 = 2_000;
