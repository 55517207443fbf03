//! Where the floors send all packets: the layout that both sides know.

/// The one record of the map `TARGET`. As in packets: network byte order, MAC addresses as they lie.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct Target {
    /// IPv4 address.
    pub(crate) v4: u32,
    /// IPv6 address.
    pub(crate) v6: [u32; 4],
    /// Port.
    pub(crate) port_be: u16,
    /// MAC address of the next hop.
    pub(crate) destination: [u16; 3],
    /// MAC address of the way out.
    pub(crate) source: [u16; 3],
    /// Zero.
    pub(crate) reserved: u16,
}
