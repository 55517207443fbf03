//! Random packets: their shape, and the frame that etherparse makes of it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{
    EtherType, Ethernet2Header, IpNumber, Ipv4Header, Ipv4Options, Ipv6Header, TcpHeader, UdpHeader,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::RngSeed;

/// Fast enough to run with every build; `PROPTEST_CASES` and `PROPTEST_RNG_SEED` change it.
pub(crate) fn config() -> ProptestConfig {
    let default = ProptestConfig::default();
    let fixed = match default.rng_seed {
        RngSeed::Random => RngSeed::Fixed(0x5eed),
        fixed @ RngSeed::Fixed(_) => fixed,
    };
    ProptestConfig {
        cases: if std::env::var_os("PROPTEST_CASES").is_some() {
            default.cases
        } else {
            1_000
        },
        rng_seed: fixed,
        // Found cases become tests of their own.
        failure_persistence: None,
        ..default
    }
}

/// A TCP segment or UDP datagram.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub(crate) src: (IpAddr, u16),
    pub(crate) dst: (IpAddr, u16),
    /// Flags, sequence and acknowledgement number; `None` is UDP.
    pub(crate) tcp: Option<(u8, u32, u32)>,
    /// UDP over IPv4 may have none.
    pub(crate) checksum: bool,
    pub(crate) ttl: u8,
    pub(crate) tos: u8,
    /// VLAN tags: ethertype and control information.
    pub(crate) tags: Vec<[u16; 2]>,
    /// IPv4 only; whole words.
    pub(crate) ip_options: Vec<u8>,
    /// IPv6 only: the number of each extension header, and its bytes without the next one's number.
    pub(crate) extensions: Vec<(u8, Vec<u8>)>,
    /// TCP only; whole words.
    pub(crate) tcp_options: Vec<u8>,
    pub(crate) payload: Vec<u8>,
    pub(crate) padding: Vec<u8>,
}

/// Addresses of which some are near the ends of what a checksum's carries see.
fn ipv4() -> impl Strategy<Value = IpAddr> {
    prop_oneof![any::<u32>(), Just(0), Just(u32::MAX), Just(0xffff_0000)]
        .prop_map(|bits| Ipv4Addr::from_bits(bits).into())
}

fn ipv6() -> impl Strategy<Value = IpAddr> {
    prop_oneof![any::<u128>(), Just(0), Just(u128::MAX), Just(0xffff)]
        .prop_map(|bits| Ipv6Addr::from_bits(bits).into())
}

/// Two addresses of one family: as they are, and a third that one of them is translated to.
pub(crate) fn addresses() -> impl Strategy<Value = [IpAddr; 3]> {
    prop_oneof![[ipv4(), ipv4(), ipv4()], [ipv6(), ipv6(), ipv6()]]
}

/// Any word-aligned options.
pub(crate) fn options() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<[u8; 4]>(), 0..=10).prop_map(|words| words.concat())
}

/// At most two, as the rules say.
fn tags() -> impl Strategy<Value = Vec<[u16; 2]>> {
    let tag = (prop_oneof![Just(0x8100), Just(0x88a8)], any::<u16>());
    vec(
        tag.prop_map(|(ether_type, control)| [ether_type, control]),
        0..=2,
    )
}

/// Up to six headers within the limits, as they may follow each other.
fn extensions() -> impl Strategy<Value = Vec<(u8, Vec<u8>)>> {
    let options = vec(any::<[u8; 8]>(), 1..=4).prop_map(|units| {
        let mut bytes = units.concat();
        bytes[0] = u8::try_from(units.len() - 1).expect("a few units");
        bytes.pop();
        bytes
    });
    let numbers = prop_oneof![Just(60), Just(60), Just(43)];
    let headers = vec((numbers, options.clone()), 0..=4);
    let hop_by_hop = option::weighted(0.3, options);
    // Of a datagram that is whole all the same (RFC 6946).
    let atomic = option::weighted(0.3, (any::<Index>(), any::<[u8; 5]>()));
    (headers, hop_by_hop, atomic).prop_map(|(mut headers, hop_by_hop, atomic)| {
        for (number, bytes) in &mut headers {
            if *number == 43 {
                // No segments left.
                bytes[2] = 0;
            }
        }
        if let Some((at, [reserved, id @ ..])) = atomic {
            let bytes = [&[reserved, 0, 0][..], &id].concat();
            headers.insert(at.index(headers.len() + 1), (44, bytes));
        }
        headers.splice(0..0, hop_by_hop.map(|bytes| (0, bytes)));
        headers
    })
}

prop_compose! {
    /// Any packet between two addresses, and an endpoint of their family to translate to.
    pub(crate) fn packets()(
        [src, dst, new] in addresses(),
        ports in any::<[u16; 3]>(),
        tcp in option::of(any::<(u8, u32, u32)>()),
        checksum in prop::bool::weighted(0.8),
        (ttl, tos) in (2..=255_u8, any::<u8>()),
        (ip_options, tcp_options) in (options(), options()),
        (tags, extensions) in (tags(), option::weighted(0.5, extensions())),
        payload in vec(any::<u8>(), 0..64),
        padding in vec(any::<u8>(), 0..8),
    ) -> (Shape, (IpAddr, u16)) {
        let shape = Shape {
            src: (src, ports[0]),
            dst: (dst, ports[1]),
            tcp,
            checksum: checksum || src.is_ipv6() || tcp.is_some(),
            ttl,
            tos,
            tags,
            ip_options,
            extensions: extensions.unwrap_or_default(),
            tcp_options,
            payload,
            padding,
        };
        (shape, (new, ports[2]))
    }
}

/// As [`packets`], without VLAN tags and extension headers.
pub(crate) fn plain_packets() -> impl Strategy<Value = (Shape, (IpAddr, u16))> {
    packets().prop_map(|(shape, new)| {
        let plain = Shape {
            tags: Vec::new(),
            extensions: Vec::new(),
            ..shape
        };
        (plain, new)
    })
}

/// The bytes of extension headers, of which the last one names `last`.
pub(crate) fn chain(headers: &[(u8, Vec<u8>)], last: u8) -> Vec<u8> {
    let next = headers.iter().skip(1).map(|(number, _)| *number);
    let with_next = headers.iter().zip(next.chain([last]));
    with_next
        .flat_map(|((_, bytes), next)| [&[next][..], bytes].concat())
        .collect()
}

impl Shape {
    /// Where the IP header begins in the frame.
    pub(crate) fn ip_offset(&self) -> usize {
        Ethernet2Header::LEN + 4 * self.tags.len()
    }

    /// Where the transport header begins in the frame.
    pub(crate) fn transport_offset(&self) -> usize {
        let header = match self.dst.0 {
            IpAddr::V4(_) => 20 + self.ip_options.len(),
            IpAddr::V6(_) => 40 + chain(&self.extensions, 0).len(),
        };
        self.ip_offset() + header
    }

    /// The frame.
    pub(crate) fn frame(&self) -> Vec<u8> {
        let (ether_type, packet) = match (self.src.0, self.dst.0) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => (EtherType::IPV4, self.ipv4(src, dst)),
            (IpAddr::V6(src), IpAddr::V6(dst)) => (EtherType::IPV6, self.ipv6(src, dst)),
            _ => panic!("the strategy makes both of one family"),
        };
        let link = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        let tags = self.tags.iter().flatten().copied();
        let types = tags.chain([ether_type.0]).flat_map(u16::to_be_bytes);
        let types: Vec<u8> = types.collect();
        [&link[..], &types, &packet, &self.padding].concat()
    }

    fn ip_number(&self) -> IpNumber {
        if self.tcp.is_some() {
            IpNumber::TCP
        } else {
            IpNumber::UDP
        }
    }

    fn ipv4(&self, src: Ipv4Addr, dst: Ipv4Addr) -> Vec<u8> {
        let (src, dst) = (src.octets(), dst.octets());
        let mut header =
            Ipv4Header::new(0, self.ttl, self.ip_number(), src, dst).expect("a short packet");
        header.dscp = (self.tos >> 2).try_into().expect("six bits");
        header.ecn = (self.tos & 3).try_into().expect("two bits");
        header.options = Ipv4Options::try_from(&self.ip_options[..]).expect("up to ten words");
        let transport = match self.tcp_header() {
            Some(mut tcp) => {
                let checksum = tcp.calc_checksum_ipv4(&header, &self.payload);
                tcp.checksum = checksum.expect("a short payload");
                tcp.to_bytes().to_vec()
            }
            None if self.checksum => {
                UdpHeader::with_ipv4_checksum(self.src.1, self.dst.1, &header, &self.payload)
                    .expect("a short payload")
                    .to_bytes()
                    .to_vec()
            }
            None => UdpHeader::without_ipv4_checksum(self.src.1, self.dst.1, self.payload.len())
                .expect("a short payload")
                .to_bytes()
                .to_vec(),
        };
        header
            .set_payload_len(transport.len() + self.payload.len())
            .expect("a short packet");
        header.header_checksum = header.calc_header_checksum();
        [&header.to_bytes()[..], &transport, &self.payload].concat()
    }

    fn ipv6(&self, src: Ipv6Addr, dst: Ipv6Addr) -> Vec<u8> {
        let mut header = Ipv6Header {
            traffic_class: self.tos,
            next_header: self.ip_number(),
            hop_limit: self.ttl,
            source: src.octets(),
            destination: dst.octets(),
            ..Ipv6Header::default()
        };
        let transport = match self.tcp_header() {
            Some(mut tcp) => {
                let checksum = tcp.calc_checksum_ipv6(&header, &self.payload);
                tcp.checksum = checksum.expect("a short payload");
                tcp.to_bytes().to_vec()
            }
            None => UdpHeader::with_ipv6_checksum(self.src.1, self.dst.1, &header, &self.payload)
                .expect("a short payload")
                .to_bytes()
                .to_vec(),
        };
        header
            .set_payload_length(
                chain(&self.extensions, 0).len() + transport.len() + self.payload.len(),
            )
            .expect("a short packet");
        let extensions = chain(&self.extensions, header.next_header.0);
        if let Some((first, _)) = self.extensions.first() {
            header.next_header = IpNumber(*first);
        }
        [
            &header.to_bytes()[..],
            &extensions,
            &transport,
            &self.payload,
        ]
        .concat()
    }

    fn tcp_header(&self) -> Option<TcpHeader> {
        let (flags, seq, ack) = self.tcp?;
        let bit = |number: u8| flags >> number & 1 != 0;
        let mut header = TcpHeader {
            fin: bit(0),
            syn: bit(1),
            rst: bit(2),
            psh: bit(3),
            ack: bit(4),
            urg: bit(5),
            ece: bit(6),
            cwr: bit(7),
            acknowledgment_number: ack,
            ..TcpHeader::new(self.src.1, self.dst.1, seq, 0x1234)
        };
        header
            .set_options_raw(&self.tcp_options)
            .expect("up to ten words");
        Some(header)
    }
}
