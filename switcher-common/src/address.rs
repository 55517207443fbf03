//! IP addresses as they lie in a packet, and what differs between the two families.

use bytemuck::{Pod, Zeroable};

/// An address family's numbers where code for both families needs them.
pub trait Address: Pod + Eq {
    /// `AF_INET` or `AF_INET6`, as `bpf_fib_lookup` takes it.
    const AF: u8;
    /// Sum of the 32-bit words in wire order, for checksum deltas.
    fn word_sum(&self) -> u64;
    /// Sum of the complements of the 32-bit words in wire order, for checksum deltas.
    fn complement_sum(&self) -> u64;
    /// The one form in which tables hold addresses of both families: IPv4 as `::ffff:a.b.c.d`.
    fn wide(&self) -> WideAddress;
    /// The address of this family in a wide one; the caller knows the family.
    fn narrow(wide: &WideAddress) -> Self;
    /// 64 bits that depend on all of the address.
    fn digest(&self) -> u64;
    /// Its words of 64 bits, each by an odd factor, all added. Cheaper than [`Self::digest`], for sums that are mixed
    /// afterwards: neighbours have products that differ by the factor alone.
    fn product(&self, factors: [u64; 2]) -> u64;
    /// Whether no host on a network has it: unspecified, loopback, multicast, and IPv4's 240/4
    /// (RFC 6890).
    fn is_martian(&self) -> bool;
}

/// An IPv4 address: one 32-bit word in wire order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
#[repr(transparent)]
pub struct Ipv4(pub u32);

/// An IPv6 address: four 32-bit words in wire order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
#[repr(transparent)]
pub struct Ipv6(pub [u32; 4]);

/// An address of either family: IPv6, or IPv4 mapped into it (RFC 4291, 2.5.5.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
#[repr(transparent)]
pub struct WideAddress(pub [u32; 4]);

/// The word before the IPv4 address in a mapped one, in wire order.
const MAPPED: u32 = 0x0000_ffff_u32.to_be();

impl Ipv4 {
    /// From the bytes of a packet.
    #[inline(always)]
    #[must_use]
    pub const fn from_octets(octets: [u8; 4]) -> Self {
        Self(u32::from_ne_bytes(octets))
    }

    /// As the bytes of a packet.
    #[inline(always)]
    #[must_use]
    pub const fn octets(self) -> [u8; 4] {
        self.0.to_ne_bytes()
    }
}

impl Ipv6 {
    /// From the bytes of a packet.
    #[inline(always)]
    #[must_use]
    pub fn from_octets(octets: [u8; 16]) -> Self {
        Self(bytemuck::cast(octets))
    }

    #[inline(always)]
    const fn halves(&self) -> [u64; 2] {
        let [a, b, c, d] = self.0;
        [((a as u64) << 32) | b as u64, ((c as u64) << 32) | d as u64]
    }

    /// As the bytes of a packet.
    #[inline(always)]
    #[must_use]
    pub fn octets(self) -> [u8; 16] {
        bytemuck::cast(self.0)
    }
}

impl Address for Ipv4 {
    const AF: u8 = 2;

    #[inline(always)]
    fn word_sum(&self) -> u64 {
        u64::from(self.0)
    }

    #[inline(always)]
    fn complement_sum(&self) -> u64 {
        u64::from(!self.0)
    }

    #[inline(always)]
    fn wide(&self) -> WideAddress {
        WideAddress([0, 0, MAPPED, self.0])
    }

    #[inline(always)]
    fn narrow(wide: &WideAddress) -> Self {
        Self(wide.0[3])
    }

    #[inline(always)]
    fn digest(&self) -> u64 {
        u64::from(self.0)
    }

    #[inline(always)]
    fn product(&self, [factor, _]: [u64; 2]) -> u64 {
        u64::from(self.0).wrapping_mul(factor)
    }

    #[inline(always)]
    fn is_martian(&self) -> bool {
        let [first, ..] = self.octets();
        first == 0 || first == 127 || first >= 224
    }
}

impl Address for Ipv6 {
    const AF: u8 = 10;

    #[inline(always)]
    fn word_sum(&self) -> u64 {
        let [a, b, c, d] = self.0;
        u64::from(a) + u64::from(b) + u64::from(c) + u64::from(d)
    }

    #[inline(always)]
    fn complement_sum(&self) -> u64 {
        let [a, b, c, d] = self.0;
        u64::from(!a) + u64::from(!b) + u64::from(!c) + u64::from(!d)
    }

    #[inline(always)]
    fn wide(&self) -> WideAddress {
        WideAddress(self.0)
    }

    #[inline(always)]
    fn narrow(wide: &WideAddress) -> Self {
        Self(wide.0)
    }

    #[inline(always)]
    fn digest(&self) -> u64 {
        let [high, low] = self.halves();
        crate::select::mix(high) ^ low
    }

    #[inline(always)]
    fn product(&self, factors: [u64; 2]) -> u64 {
        let [high, low] = self.halves();
        let high = high.wrapping_mul(factors[0]);
        high.wrapping_add(low.wrapping_mul(factors[1]))
    }

    #[inline(always)]
    fn is_martian(&self) -> bool {
        let [a, b, c, d] = self.0;
        let is_small = a | b | c == 0 && u32::from_be(d) <= 1;
        is_small || self.octets()[0] == 0xff
    }
}

impl WideAddress {
    /// From an address of the standard library.
    #[must_use]
    pub fn from_ip(ip: core::net::IpAddr) -> Self {
        match ip {
            core::net::IpAddr::V4(v4) => Ipv4::from_octets(v4.octets()).wide(),
            core::net::IpAddr::V6(v6) => Ipv6::from_octets(v6.octets()).wide(),
        }
    }

    /// `AF_INET` for a mapped address, else `AF_INET6`.
    #[must_use]
    pub const fn af(&self) -> u8 {
        match self.0 {
            [0, 0, MAPPED, _] => Ipv4::AF,
            _ => Ipv6::AF,
        }
    }

    /// To an address of the standard library; a mapped one becomes IPv4.
    #[must_use]
    pub fn to_ip(self) -> core::net::IpAddr {
        core::net::Ipv6Addr::from(Ipv6(self.0).octets()).to_canonical()
    }
}

#[cfg(test)]
mod tests {
    use core::net::IpAddr;

    use super::*;

    #[test]
    fn wide_addresses_come_back_as_they_went_in() {
        for text in ["192.0.2.1", "2001:db8::7", "::1"] {
            let ip: IpAddr = text.parse().expect("a literal address");
            assert_eq!(WideAddress::from_ip(ip).to_ip(), ip);
        }
    }

    #[test]
    fn a_mapped_address_is_the_ipv4_one_in_wire_order() {
        let wide = WideAddress::from_ip(IpAddr::from([192, 0, 2, 1]));
        assert_eq!(
            Ipv6(wide.0).octets(),
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 1]
        );
    }
}
