//! What must hold of the packet logic for any bytes.

use std::net::IpAddr;

use etherparse::checksum::u64_16bit_word;
use switcher_common::address::{Address, Ipv4, Ipv6, WideAddress};
use switcher_common::flow::{FlowEntry, FlowKey, Side};
use switcher_common::packet::icmp::{answer_echo, message, quote, translate_error};
use switcher_common::packet::own_error::{Layout, OwnError, OwnErrors, write};
use switcher_common::packet::{
    Family, Hop, IpPacket, Network, Part, answer_with_reset, complete, link, network, ports, tags,
    translate, transport,
};
use switcher_common::reason::Reason;

/// What the bytes were.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Kind {
    /// No IP packet.
    Other,
    /// An IP packet that the parser refuses, or of another protocol.
    Refused,
    /// A later fragment.
    Later,
    /// An ICMP message.
    Message,
    /// An ICMP error that quotes a packet.
    Error,
    /// A TCP segment or UDP datagram.
    Datagram,
}

/// Runs all of the packet logic on a frame. A panic of it, or an error, is a defect.
pub(super) fn check(frame: &[u8]) -> Result<Kind, String> {
    let Ok(link) = link(frame) else {
        return Ok(Kind::Other);
    };
    let _ = tags(frame, link.ip_offset);
    match link.family {
        Family::V4 => packet::<Ipv4>(frame, link.ip_offset),
        Family::V6 => packet::<Ipv6>(frame, link.ip_offset),
    }
}

/// Where packets are translated to.
fn other_end<A: Address>() -> A {
    let v4 = IpAddr::from([203, 0, 113, 77]);
    let v6 = IpAddr::from([0x2001, 0xdb8, 0x77, 0, 0xffff, 0, 0x1234, 1]);
    let ip = if A::AF == Ipv4::AF { v4 } else { v6 };
    A::narrow(&WideAddress::from_ip(ip))
}

fn packet<A: Network + OwnErrors>(frame: &[u8], ip_offset: usize) -> Result<Kind, String>
where
    FlowEntry<A>: Default,
{
    let Some(mut ip) = network::<A, _>(frame, ip_offset) else {
        return Ok(Kind::Other);
    };
    if ip.has_extensions() && A::extensions(frame, &mut ip).is_err() {
        return Ok(Kind::Refused);
    }
    if complete(frame, &ip).is_err() {
        return Ok(Kind::Refused);
    }
    if ip.part == Part::Later {
        let _ = (ip.why_no_ports(), ip.fragment_key());
        there_and_back(frame, &ip, &FlowKey::zeroed_of(&ip))?;
        return Ok(Kind::Later);
    }
    match transport(frame, &ip) {
        Ok(read) => {
            let tuple = ip.tuple(&read);
            there_and_back(frame, &ip, &tuple)?;
            sums_are_kept(frame, &ip, &tuple)?;
            reset(frame, &ip, &read.segment)?;
            own_errors(frame, &ip)?;
            Ok(Kind::Datagram)
        }
        Err(Reason::OtherProtocol) if ip.protocol == A::PROTOCOL => icmp(frame, &ip),
        Err(_) => {
            let _ = ports(frame, &ip);
            Ok(Kind::Refused)
        }
    }
}

/// A key with nothing but a packet's addresses.
trait OfPacket<A> {
    fn zeroed_of(ip: &IpPacket<A>) -> Self;
}

impl<A: Address> OfPacket<A> for FlowKey<A> {
    fn zeroed_of(ip: &IpPacket<A>) -> Self {
        Self {
            src: ip.src,
            dst: ip.dst,
            src_port_be: 0,
            dst_port_be: 0,
            protocol: ip.protocol,
            reserved: [0; 3],
        }
    }
}

fn renamed<A: Address>(tuple: &FlowKey<A>, side: Side) -> FlowKey<A> {
    let mut to = *tuple;
    let port_be = 7_777_u16.to_be();
    match side {
        Side::Forward => (to.dst, to.dst_port_be) = (other_end(), port_be),
        Side::Reverse => (to.src, to.src_port_be) = (other_end(), port_be),
    }
    to
}

const SIDES: [Side; 2] = [Side::Forward, Side::Reverse];

/// Rewriting back restores every byte, but that a checksum of all ones may come back as its other
/// form, zero.
fn there_and_back<A: Network>(
    original: &[u8],
    ip: &IpPacket<A>,
    tuple: &FlowKey<A>,
) -> Result<(), String> {
    for side in SIDES {
        let to = renamed(tuple, side);
        let mut frame = original.to_vec();
        let there = translate(&mut frame[..], ip, side, tuple, &to, Hop::Stack);
        let back = translate(&mut frame[..], ip, side, &to, tuple, Hop::Stack);
        if there.is_none() || back.is_none() {
            return Err(format!("{side:?}: a header is gone after it was parsed"));
        }
        let differing = original.chunks(2).zip(frame.chunks(2));
        let is_same = |(a, b): (&[u8], &[u8])| a == b || is_zero(a) && is_zero(b);
        if !differing.into_iter().all(is_same) {
            return Err(format!("{side:?}: not restored"));
        }
    }
    Ok(())
}

/// Zero in either of its forms.
fn is_zero(word: &[u8]) -> bool {
    word == [0, 0] || word == [0xff, 0xff]
}

/// Sum of addresses and transport part by etherparse; 0xffff, or 0, when a checksum in it is good.
fn full_sum<A: Network>(frame: &[u8], ip: &IpPacket<A>) -> u16 {
    let addresses = if A::AF == Ipv4::AF { 12..20 } else { 8..40 };
    let addresses = &frame[ip.ip_offset + addresses.start..ip.ip_offset + addresses.end];
    let body = &frame[ip.transport_offset..ip.end()];
    let sum = u64_16bit_word::add_slice(0, addresses);
    let sum = u64_16bit_word::add_slice(sum, body);
    // The library folds to a checksum in wire order.
    u64_16bit_word::ones_complement(sum)
}

/// Incremental updates keep what a full sum says, right or wrong.
fn sums_are_kept<A: Network>(
    original: &[u8],
    ip: &IpPacket<A>,
    tuple: &FlowKey<A>,
) -> Result<(), String> {
    const UDP: u8 = 17;
    let check_at = ip.transport_offset + 6;
    let has_none = ip.protocol == UDP && original.get(check_at..check_at + 2) == Some(&[0, 0]);
    for side in SIDES {
        let mut frame = original.to_vec();
        let to = renamed(tuple, side);
        if translate(&mut frame[..], ip, side, tuple, &to, Hop::Program).is_none() {
            return Err(format!("{side:?}: a header is gone after it was parsed"));
        }
        if has_none {
            if frame[check_at..check_at + 2] != [0, 0] {
                return Err(format!("{side:?}: a checksum of none became one"));
            }
        } else if modulo(full_sum(original, ip)) != modulo(full_sum(&frame, ip)) {
            return Err(format!(
                "{side:?}: the transport checksum does not fit any more"
            ));
        }
        if A::AF == Ipv4::AF {
            let header = ip.ip_offset..ip.transport_offset;
            let sum = |bytes: &[u8]| {
                modulo(u64_16bit_word::ones_complement(u64_16bit_word::add_slice(
                    0,
                    &bytes[header.clone()],
                )))
            };
            if sum(original) != sum(&frame) {
                return Err(format!(
                    "{side:?}: the header checksum does not fit any more"
                ));
            }
        }
    }
    Ok(())
}

/// All ones are zero too.
const fn modulo(sum: u16) -> u16 {
    if sum == 0xffff { 0 } else { sum }
}

fn reset<A: Network>(
    frame: &[u8],
    ip: &IpPacket<A>,
    segment: &switcher_common::flow::Segment,
) -> Result<(), String> {
    const TCP: u8 = 6;
    if ip.protocol != TCP {
        return Ok(());
    }
    [false, true]
        .into_iter()
        .try_for_each(|is_unfinished| reset_to(frame, ip, segment, is_unfinished))
}

fn reset_to<A: Network>(
    frame: &[u8],
    ip: &IpPacket<A>,
    segment: &switcher_common::flow::Segment,
    is_unfinished: bool,
) -> Result<(), String> {
    let mut frame = frame.to_vec();
    let len = answer_with_reset(&mut frame[..], ip, segment, is_unfinished);
    let len = len.ok_or("no RST for a segment that was parsed")?;
    if len > frame.len() {
        return Err(format!(
            "a RST of {len} bytes in a frame of {}",
            frame.len()
        ));
    }
    frame.truncate(len);
    let is_good = etherparse::SlicedPacket::from_ethernet(&frame).is_ok();
    // The library knows other VLAN tags and other limits of extension headers; only plain ones count.
    let is_plain = ip.ip_offset == 14 && ip.fragment_offset == 0;
    if is_plain && !is_good {
        return Err("the RST does not parse".to_owned());
    }
    Ok(())
}

fn own_errors<A: Network + OwnErrors>(original: &[u8], ip: &IpPacket<A>) -> Result<(), String> {
    for error in [OwnError::TIME_EXCEEDED, OwnError::too_big(1_280)] {
        let layout = Layout::about(ip);
        if layout.kept() > original.len() {
            return Err(format!(
                "a quote of {} bytes, of {}",
                layout.kept(),
                original.len()
            ));
        }
        let mut frame = vec![0; A::HEADERS];
        frame.extend(&original[..layout.kept()]);
        write(&mut frame[..], &layout, ip, error).ok_or("no error about a parsed packet")?;
        let about = network::<A, _>(&frame[..], ip.ip_offset).ok_or("no IP header")?;
        let sum = if A::AF == Ipv4::AF {
            let body = &frame[about.transport_offset..about.end()];
            u64_16bit_word::ones_complement(u64_16bit_word::add_slice(0, body))
        } else {
            let len = u64::try_from(about.end() - about.transport_offset).unwrap_or(u64::MAX);
            let pseudo = [len.to_be_bytes(), u64::from(A::PROTOCOL).to_be_bytes()].concat();
            let addresses = &frame[ip.ip_offset + 8..about.end()];
            let sum = u64_16bit_word::add_slice(0, &pseudo);
            u64_16bit_word::ones_complement(u64_16bit_word::add_slice(sum, addresses))
        };
        if modulo(sum) != 0 {
            return Err("the checksum of an error of our own is wrong".to_owned());
        }
    }
    Ok(())
}

fn icmp<A: Network + OwnErrors>(original: &[u8], ip: &IpPacket<A>) -> Result<Kind, String>
where
    FlowEntry<A>: Default,
{
    let Some(header) = message(original, ip) else {
        return Ok(Kind::Message);
    };
    if header.kind == A::ECHO_REQUEST {
        let mut frame = original.to_vec();
        answer_echo(&mut frame[..], ip).ok_or("no answer to an echo request")?;
        if frame.len() != original.len() {
            return Err("an echo's answer has another length".to_owned());
        }
    }
    if !A::is_error(header.kind) {
        return Ok(Kind::Message);
    }
    let Some(quote) = quote(original, ip) else {
        return Ok(Kind::Message);
    };
    for side in [0, 1] {
        let entry = FlowEntry {
            rewrite_addr: other_end::<A>(),
            rewrite_port_be: 7_777_u16.to_be(),
            side,
            ..FlowEntry::default()
        };
        let mut frame = original.to_vec();
        translate_error(&mut frame[..], ip, &quote, &entry, Hop::Stack)
            .ok_or("no translation of a quote that was read")?;
        let before = message_sum::<A>(original, ip);
        if before != message_sum::<A>(&frame, ip) {
            return Err("the checksum of a translated error does not fit any more".to_owned());
        }
    }
    Ok(Kind::Error)
}

fn message_sum<A: Network>(frame: &[u8], ip: &IpPacket<A>) -> u16 {
    if A::AF == Ipv4::AF {
        let body = &frame[ip.transport_offset..ip.end()];
        return modulo(u64_16bit_word::ones_complement(u64_16bit_word::add_slice(
            0, body,
        )));
    }
    modulo(full_sum(frame, ip))
}
