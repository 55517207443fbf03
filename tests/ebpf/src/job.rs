//! What live frames are made of, and what must arrive: the layouts that both sides know.

/// Bytes of a frame: one cache line.
pub(crate) const FRAME: usize = 64;
/// So many flows share a client address; each has a port of its own.
pub(crate) const PORTS_PER_ADDRESS: u32 = 1 << 15;
/// The first of those ports.
pub(crate) const FIRST_PORT: u16 = 1 << 14;
/// Frames that the sink keeps.
pub(crate) const SAMPLES: u32 = 1_024;

/// The one record of the map `JOB`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct Job {
    /// A frame whose client has address and port 0, its checksums included.
    pub(crate) frame: [u64; FRAME / 8],
    /// The first client address, in host byte order.
    pub(crate) address: u32,
    /// The first flow.
    pub(crate) first: u32,
    /// How many flows the frames go round.
    pub(crate) flows: u32,
    /// Whether the client is the destination; else it is the source.
    pub(crate) is_reverse: u32,
}

/// The one record of the map `EXPECTED`: the server's end of what arrives, as it lies in the packet.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct Expected {
    /// IPv4 address.
    pub(crate) address: u32,
    /// Port.
    pub(crate) port_be: u16,
    /// Whether it is the source; else it is the destination.
    pub(crate) is_reverse: u16,
}

/// What the map `ARRIVED` counts on each processor.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct Arrived {
    /// Frames with the expected end.
    pub(crate) good: u64,
    /// Other TCP and UDP frames.
    pub(crate) other: u64,
}

/// A record of the map `WAYS`: where a node sends what comes in by an interface, if it need not ask.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct WayOut {
    /// Index of the interface that it comes in by.
    pub(crate) comes_in_by: u32,
    /// Index of the interface that it leaves by.
    pub(crate) leaves_by: u32,
    /// MAC address of the next hop, as it lies in the frame.
    pub(crate) destination: [u16; 3],
    /// MAC address of the interface that it leaves by.
    pub(crate) source: [u16; 3],
}
