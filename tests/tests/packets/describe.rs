//! Frames in English, for failures.

use std::fmt::Write as _;

use etherparse::{NetSlice, SlicedPacket, TransportSlice};

/// What differs between two frames; `None` when nothing does.
pub(crate) fn difference(expected: &[u8], found: &[u8]) -> Option<String> {
    if expected == found {
        return None;
    }
    let at = expected.iter().zip(found).position(|(a, b)| a != b);
    let place = match at {
        Some(at) => format!(
            "they differ first at byte {at} ({}): expected {:#04x}, found {:#04x}",
            field(expected, at),
            expected[at],
            found[at]
        ),
        None => format!("expected {} bytes, found {}", expected.len(), found.len()),
    };
    Some(format!(
        "{place}\n  expected {}\n  found    {}",
        frame(expected),
        frame(found)
    ))
}

/// The name of the header that byte `at` lies in.
fn field(frame: &[u8], at: usize) -> &'static str {
    let ip_len = match frame.get(12..15) {
        Some([0x08, 0x00, version]) => usize::from(version & 0x0f) * 4,
        Some([0x86, 0xdd, _]) => 40,
        _ => return "Ethernet or unknown",
    };
    match at {
        0..14 => "Ethernet header",
        _ if at < 14 + ip_len => "IP header",
        _ => "transport header or payload",
    }
}

/// A frame as a line: who to whom, what, and the bytes.
pub(crate) fn frame(bytes: &[u8]) -> String {
    let mut text = match SlicedPacket::from_ethernet(bytes) {
        Ok(packet) => decoded(&packet),
        Err(error) => format!("[does not parse: {error}]"),
    };
    text.push_str("\n          ");
    for chunk in bytes.chunks(2) {
        for byte in chunk {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
        }
        text.push(' ');
    }
    text
}

fn decoded(packet: &SlicedPacket<'_>) -> String {
    let network = match &packet.net {
        Some(NetSlice::Ipv4(ip)) => {
            let header = ip.header();
            let good = header.header_checksum() == header.to_header().calc_header_checksum();
            format!(
                "{} > {} ttl {} header checksum {}",
                header.source_addr(),
                header.destination_addr(),
                header.ttl(),
                if good { "good" } else { "BAD" }
            )
        }
        Some(NetSlice::Ipv6(ip)) => {
            let header = ip.header();
            format!(
                "{} > {} hop limit {}",
                header.source_addr(),
                header.destination_addr(),
                header.hop_limit()
            )
        }
        _ => "not IP".to_owned(),
    };
    let transport = match &packet.transport {
        Some(TransportSlice::Tcp(tcp)) => format!(
            "TCP {} > {}{}{}{}{} seq {} ack {} checksum {:#06x} payload {}",
            tcp.source_port(),
            tcp.destination_port(),
            if tcp.syn() { " SYN" } else { "" },
            if tcp.ack() { " ACK" } else { "" },
            if tcp.fin() { " FIN" } else { "" },
            if tcp.rst() { " RST" } else { "" },
            tcp.sequence_number(),
            tcp.acknowledgment_number(),
            tcp.checksum(),
            tcp.payload().len()
        ),
        Some(TransportSlice::Udp(udp)) => format!(
            "UDP {} > {} length {} checksum {:#06x}",
            udp.source_port(),
            udp.destination_port(),
            udp.length(),
            udp.checksum()
        ),
        _ => "no TCP or UDP".to_owned(),
    };
    format!("{network}, {transport}")
}

/// The source address of an IP packet, behind any VLAN tags.
pub(crate) fn source(bytes: &[u8]) -> Option<std::net::IpAddr> {
    let packet = etherparse::LaxSlicedPacket::from_ethernet(bytes).ok()?;
    match packet.net? {
        etherparse::LaxNetSlice::Ipv4(ip) => Some(ip.header().source_addr().into()),
        etherparse::LaxNetSlice::Ipv6(ip) => Some(ip.header().source_addr().into()),
        etherparse::LaxNetSlice::Arp(_) => None,
    }
}
