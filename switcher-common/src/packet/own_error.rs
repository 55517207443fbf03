//! ICMP and ICMPv6 errors that the node itself sends about a packet that it cannot send on.
//!
//! First the frame gets [`OwnErrors::HEADERS`] bytes in front and loses what is behind the quote, then
//! [`write`] fills it.

use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

use super::{
    Ethernet, Frame, IpPacket, OWN_TTL,
    icmp::{ICMP_LEN, Icmp, IcmpHeader},
};
use crate::{
    address::{Address, Ipv4, Ipv6},
    checksum::Delta,
};

/// Don't fragment (RFC 791). Where it is set and nothing was fragmented, the identification means
/// nothing (RFC 6864).
const DONT_FRAGMENT: u16 = 0x4000;

/// Whether a router may fragment the packet.
#[inline(always)]
pub fn may_be_fragmented<A: Address, F: Frame + ?Sized>(frame: &F, ip: &IpPacket<A>) -> bool {
    A::AF == Ipv4::AF
        && frame
            .header::<Ipv4Hdr>(ip.ip_offset)
            .is_some_and(|header| u16::from_be_bytes(header.frags) & DONT_FRAGMENT == 0)
}

/// What the sender of a packet is told.
///
/// No enum: of a variant without the MTU the compiler would leave it undefined, and the verifier
/// refuses to see such a value moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnError {
    is_too_big: bool,
    mtu: u16,
}

impl OwnError {
    /// Its time to live is over.
    pub const TIME_EXCEEDED: Self = Self {
        is_too_big: false,
        mtu: 0,
    };

    /// It is larger than the next hop takes, which is `mtu` bytes.
    #[inline(always)]
    #[must_use]
    pub const fn too_big(mtu: u16) -> Self {
        Self {
            is_too_big: true,
            mtu,
        }
    }
}

/// What an own error differs in between the families.
pub trait OwnErrors: Icmp {
    /// Bytes of the IP and ICMP headers before the quote.
    const HEADERS: usize;

    /// Writes the IP header at `offset`, of a packet with `payload_len` bytes behind it. Returns the
    /// sum that the ICMP checksum begins with.
    fn write_ip<F: Frame + ?Sized>(
        frame: &mut F,
        offset: usize,
        src: &Self,
        dst: &Self,
        payload_len: u16,
    ) -> Option<Delta>;
}

/// Bytes of a packet that are quoted at most, unless its headers are longer.
const QUOTE: usize = 128 + cfg!(mutant = "fault-quote-length") as usize * WORD;
/// IPv6, the extension headers that the parser steps over, and the ports.
const LONGEST_QUOTE: usize = 40 + 256 + 8;
const WORD: usize = 4;

/// What becomes of the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Bytes of the link-layer header.
    link_len: usize,
    /// Bytes of the packet that are quoted.
    quote_len: usize,
}

impl Layout {
    /// For an error about the packet `ip`: its headers and 8 bytes at least, 128 bytes if it has as many,
    /// in whole words, so that the checksum is one of words.
    #[inline(always)]
    #[must_use]
    pub fn about<A>(ip: &IpPacket<A>) -> Self {
        let headers = ip.transport_offset.saturating_sub(ip.ip_offset) + 8;
        let quote_len = usize::from(ip.ip_len)
            .min(QUOTE)
            .max(headers)
            .min(LONGEST_QUOTE);
        Self {
            link_len: ip.ip_offset,
            quote_len: quote_len / WORD * WORD,
        }
    }

    /// Bytes of the original frame that stay.
    #[inline(always)]
    #[must_use]
    pub const fn kept(&self) -> usize {
        self.link_len + self.quote_len
    }
}

/// Makes the frame, after it has got [`OwnErrors::HEADERS`] bytes in front and lost those behind
/// [`Layout::kept`], the error about `ip`, as `ip` was before. `None` as for a translation: to be dropped.
#[inline(always)]
#[must_use]
pub fn write<A: OwnErrors, F: Frame + ?Sized>(
    frame: &mut F,
    layout: &Layout,
    ip: &IpPacket<A>,
    error: OwnError,
) -> Option<()> {
    move_link_header(frame, A::HEADERS, layout.link_len)?;
    let at = layout.link_len;
    let payload_len = u16::try_from(ICMP_LEN + layout.quote_len).ok()?;
    let mut sum = A::write_ip(frame, at, &ip.dst, &ip.src, payload_len)?;
    let [kind, code] = if error.is_too_big {
        A::TOO_BIG
    } else {
        [A::TIME_EXCEEDED, 0]
    };
    // IPv4 has it in the lower half of a word of which ICMPv6 uses all (RFC 1191, RFC 4443).
    let [high, low] = error.mtu.to_be_bytes();
    let rest = [0, 0, high, low];
    sum = sum
        .added(u16::from_ne_bytes([kind, code]))
        .added_double_word(u32::from_ne_bytes(rest));
    let words = layout.quote_len / WORD;
    for number in 0..LONGEST_QUOTE / WORD {
        if number >= words {
            break;
        }
        let word = frame.header::<[u8; WORD]>(at + A::HEADERS + number * WORD)?;
        sum = sum.added_double_word(u32::from_ne_bytes(*word));
    }
    *frame.header_mut::<IcmpHeader>(at + A::HEADERS - ICMP_LEN)? = IcmpHeader {
        kind,
        code,
        check: sum.checksum().to_ne_bytes(),
        rest,
    };
    Some(())
}

/// Brings the link-layer header from `from` to the front, with its tags, and turned around.
#[inline(always)]
fn move_link_header<F: Frame + ?Sized>(frame: &mut F, from: usize, len: usize) -> Option<()> {
    let old = *frame.header::<Ethernet>(from)?;
    *frame.header_mut::<Ethernet>(0)? = Ethernet {
        destination: old.source,
        source: old.destination,
        ether_type: old.ether_type,
    };
    for tag in [14, 18] {
        if len > tag {
            let old = *frame.header::<[u8; 4]>(from + tag)?;
            *frame.header_mut::<[u8; 4]>(tag)? = old;
        }
    }
    Some(())
}

const IPV4_LEN: u16 = 20;
const _: () = assert!(size_of::<Ipv4Hdr>() == IPV4_LEN as usize);

impl OwnErrors for Ipv4 {
    const HEADERS: usize = size_of::<Ipv4Hdr>() + ICMP_LEN;

    #[inline(always)]
    fn write_ip<F: Frame + ?Sized>(
        frame: &mut F,
        offset: usize,
        src: &Self,
        dst: &Self,
        payload_len: u16,
    ) -> Option<Delta> {
        let mut header = Ipv4Hdr {
            vihl: 0x45,
            tos: 0,
            tot_len: payload_len.wrapping_add(IPV4_LEN).to_be_bytes(),
            id: [0; 2],
            frags: DONT_FRAGMENT.to_be_bytes(),
            ttl: OWN_TTL,
            proto: Self::PROTOCOL,
            check: [0; 2],
            src_addr: src.octets(),
            dst_addr: dst.octets(),
        };
        let sum = Delta::none()
            .added(u16::from_ne_bytes([header.vihl, header.tos]))
            .added(u16::from_ne_bytes(header.tot_len))
            .added(u16::from_ne_bytes(header.frags))
            .added(u16::from_ne_bytes([header.ttl, header.proto]))
            .added_address(src)
            .added_address(dst);
        header.check = sum.checksum().to_ne_bytes();
        *frame.header_mut::<Ipv4Hdr>(offset)? = header;
        Some(Delta::none())
    }
}

impl OwnErrors for Ipv6 {
    const HEADERS: usize = size_of::<Ipv6Hdr>() + ICMP_LEN;

    #[inline(always)]
    fn write_ip<F: Frame + ?Sized>(
        frame: &mut F,
        offset: usize,
        src: &Self,
        dst: &Self,
        payload_len: u16,
    ) -> Option<Delta> {
        *frame.header_mut::<Ipv6Hdr>(offset)? = Ipv6Hdr {
            vcf: [0x60, 0, 0, 0],
            payload_len: payload_len.to_be_bytes(),
            next_hdr: Self::PROTOCOL,
            hop_limit: OWN_TTL,
            src_addr: src.octets(),
            dst_addr: dst.octets(),
        };
        // The pseudo-header (RFC 8200, 8.1).
        Some(
            Delta::none()
                .added_address(src)
                .added_address(dst)
                .added_double_word(u32::from(payload_len).to_be())
                .added_double_word(u32::from(Self::PROTOCOL).to_be()),
        )
    }
}
