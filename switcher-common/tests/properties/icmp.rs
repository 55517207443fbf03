//! ICMP: a translated error is the one that a host would send about the packet as it knows it, an
//! echo request becomes its answer, and no quote makes the reader go astray.

use std::net::IpAddr;

use bytemuck::Zeroable as _;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use switcher_common::address::{Ipv4, Ipv6, WideAddress};
use switcher_common::flow::{FlowEntry, Side};
use switcher_common::packet::icmp::{self, Icmp};
use switcher_common::packet::{Hop, IpPacket, Network, link, network};

use crate::message::{LINK, Message};
use crate::shape::{Shape, addresses, config, options, plain_packets};

type End = (IpAddr, u16);

/// What the other end of an error's flow is called on either side of the node.
fn translate<A: Icmp + Network>(frame: &mut [u8], side: Side, new: End) -> Option<()> {
    let ip = parsed::<A>(frame);
    let quote = icmp::quote(frame, &ip)?;
    let entry = FlowEntry {
        rewrite_addr: A::narrow(&WideAddress::from_ip(new.0)),
        rewrite_port_be: new.1.to_be(),
        side: side as u8,
        ..FlowEntry::zeroed()
    };
    icmp::translate_error(frame, &ip, &quote, &entry, Hop::Program)
}

fn parsed<A: Network>(frame: &[u8]) -> IpPacket<A> {
    let link = link(frame).expect("an Ethernet frame of IP");
    network(frame, link.ip_offset).expect("a whole IP header")
}

fn translate_any(frame: &mut [u8], side: Side, new: End) -> Option<()> {
    match new.0 {
        IpAddr::V4(_) => translate::<Ipv4>(frame, side, new),
        IpAddr::V6(_) => translate::<Ipv6>(frame, side, new),
    }
}

/// An error about a packet, of which it quotes the first `quoted` bytes.
#[derive(Clone, Debug)]
struct Error {
    outer: Message,
    about: Shape,
    quoted: usize,
}

impl Error {
    fn frame(&self) -> Vec<u8> {
        let packet = self.packet();
        let mut message = self.outer.clone();
        // To whom the packet was from.
        message.dst = self.about.src.0;
        message.body = packet[..self.quoted].to_vec();
        message.frame()
    }

    /// The packet that it is about.
    fn packet(&self) -> Vec<u8> {
        self.about.frame()[LINK..].to_vec()
    }

    /// What it must become. A checksum of which one byte is quoted stays as it is.
    fn translated(&self, side: Side, new: End) -> Self {
        let mut it = self.clone();
        it.outer.ttl -= 1;
        match side {
            Side::Forward => it.about.src = new,
            Side::Reverse => (it.about.dst, it.outer.src) = (new, new.0),
        }
        it
    }

    /// Bytes of the quote up to the transport header.
    fn headers(&self) -> usize {
        self.about.transport_offset() - LINK
    }
}

prop_compose! {
    fn messages()(
        [src, dst, _] in addresses(),
        link in any::<[[u8; 5]; 2]>(),
        (ttl, tos) in (2..=255_u8, any::<u8>()),
        id in any::<(u16, bool)>(),
        ip_options in options(),
        (code, rest) in any::<(u8, [u8; 4])>(),
        body in vec(any::<u8>(), 0..64),
        padding in vec(any::<u8>(), 0..8),
    ) -> Message {
        let unicast = |[a, b, c, d, e]: [u8; 5]| [2, a, b, c, d, e];
        Message { link: link.map(unicast), src, dst, ttl, tos, id, ip_options, kind: 0, code, rest, body, padding }
    }
}

/// Any error about a packet of TCP or UDP, and what an end of it is called on the other side.
fn errors() -> impl Strategy<Value = (Error, End)> {
    let all = (
        messages(),
        plain_packets(),
        addresses(),
        any::<Index>(),
        any::<Index>(),
    );
    all.prop_map(|(mut outer, (mut about, new), router, kind, cut)| {
        about.padding = Vec::new();
        let kinds: &[u8] = if about.src.0.is_ipv4() {
            &[3, 11, 12]
        } else {
            &[1, 2, 3, 4]
        };
        outer.kind = kinds[kind.index(kinds.len())];
        let of_family = router
            .into_iter()
            .find(|it| it.is_ipv4() == about.src.0.is_ipv4());
        // From a router, or from the packet's destination itself.
        outer.src = of_family.unwrap_or(about.dst.0);
        let mut error = Error {
            outer,
            about,
            quoted: 0,
        };
        let least = error.headers() + 8;
        error.quoted = least + cut.index(error.packet().len() + 1 - least);
        if error.about.tcp.is_some() && error.quoted == error.headers() + 17 {
            error.quoted -= 1;
        }
        (error, new)
    })
}

fn sides() -> impl Strategy<Value = Side> {
    prop_oneof![Just(Side::Forward), Just(Side::Reverse)]
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_translated_error_is_the_one_that_etherparse_builds(
        (error, new) in errors(),
        side in sides(),
    ) {
        let mut frame = error.frame();
        prop_assert!(translate_any(&mut frame, side, new).is_some());
        prop_assert_eq!(frame, error.translated(side, new).frame());
    }

    #[test]
    fn translating_an_error_back_restores_every_byte_but_the_hops(
        (mut error, new) in errors(),
        side in sides(),
    ) {
        // Outside, a backend's router is hidden by the VIP: only an error of the end itself comes back.
        error.outer.src = error.about.dst.0;
        error.outer.ttl = error.outer.ttl.max(3);
        let mut frame = error.frame();
        let old = match side {
            Side::Forward => error.about.src,
            Side::Reverse => error.about.dst,
        };
        prop_assert!(translate_any(&mut frame, side, new).is_some());
        prop_assert!(translate_any(&mut frame, side, old).is_some());
        let mut wanted = error;
        wanted.outer.ttl -= 2;
        prop_assert_eq!(frame, wanted.frame());
    }

    #[test]
    fn a_wrong_checksum_of_an_error_stays_wrong_by_as_much(
        (error, new) in errors(),
        side in sides(),
        damage in 1..u16::MAX,
    ) {
        let at = LINK + match error.about.src.0 {
            IpAddr::V4(_) => 20 + error.outer.ip_options.len(),
            IpAddr::V6(_) => 40,
        } + 2;
        let add = |frame: &mut [u8]| {
            let sum = u32::from(u16::from_be_bytes([frame[at], frame[at + 1]])) + u32::from(damage);
            // Ones' complement, in which zero and all ones are one number.
            let sum = u16::try_from(sum % 0xffff).expect("less than 0xffff");
            frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        };
        let mut frame = error.frame();
        add(&mut frame);
        prop_assert!(translate_any(&mut frame, side, new).is_some());
        let mut wanted = error.translated(side, new).frame();
        add(&mut wanted);
        prop_assert_eq!(frame, wanted);
    }

    #[test]
    fn a_quote_without_ports_or_of_another_sender_is_none(
        (error, new) in errors(),
        side in sides(),
        cut in any::<Index>(),
        protocol in any::<u8>(),
        other in addresses(),
    ) {
        let mut short = error.clone();
        short.quoted = cut.index(error.headers() + 8);
        // What follows the packet is not of the quote.
        short.outer.padding = vec![0x45; 64];
        prop_assert!(translate_any(&mut short.frame(), side, new).is_none());

        let mut frame = error.frame();
        let quote = frame.len() - error.outer.padding.len() - error.quoted;
        let (version, number) = match error.about.src.0 {
            IpAddr::V4(_) => (0x45, quote + 9),
            IpAddr::V6(_) => (0x60, quote + 6),
        };
        prop_assert_eq!(frame[quote] & 0xf0, version & 0xf0);
        if ![6, 17].contains(&protocol) {
            let was = std::mem::replace(&mut frame[number], protocol);
            prop_assert!(translate_any(&mut frame, side, new).is_none());
            frame[number] = was;
        }
        let was = std::mem::replace(&mut frame[quote], version ^ 0x20);
        prop_assert!(translate_any(&mut frame, side, new).is_none(), "of the other family");
        frame[quote] = was;
        if error.about.src.0.is_ipv4() {
            frame[quote + 7] = 1;
            prop_assert!(translate_any(&mut frame, side, new).is_none(), "a later fragment");
            frame[quote + 7] = 0;
            frame[quote + 6] = 0x20;
            let first = translate_any(&mut frame.clone(), side, new);
            prop_assert!(first.is_some(), "a first fragment has its ports");
            frame[quote] = 0x44;
            prop_assert!(translate_any(&mut frame, side, new).is_none(), "a header of four words");
        }

        let mut misdirected = error.clone();
        let of_family = other.into_iter().find(|it| it.is_ipv4() == error.about.src.0.is_ipv4());
        if let Some(to) = of_family.filter(|it| *it != error.about.src.0) {
            misdirected.outer.dst = to;
            misdirected.outer.body = error.packet();
            let mut frame = misdirected.outer.frame();
            prop_assert!(translate_any(&mut frame, side, new).is_none(), "to another host");
        }
    }

    #[test]
    fn no_bytes_behind_an_icmp_header_make_the_reader_panic_or_write_outside(
        mut outer in messages(),
        body in vec(any::<u8>(), 0..160),
        begins_well in any::<bool>(),
        new in addresses(),
        cut in any::<Index>(),
    ) {
        outer.kind = 3;
        outer.body = body;
        if let (true, Some(first)) = (begins_well, outer.body.first_mut()) {
            let version = if outer.src.is_ipv4() { 0x40 } else { 0x60 };
            *first = version | (*first & 0x0f);
        }
        // To whoever it quotes as the sender, so that most quotes are read.
        outer.dst = match (outer.dst, outer.body.get(12..16), outer.body.get(8..24)) {
            (IpAddr::V4(_), Some(src), _) => <[u8; 4]>::try_from(src).expect("four").into(),
            (IpAddr::V6(_), _, Some(src)) => <[u8; 16]>::try_from(src).expect("sixteen").into(),
            (dst, ..) => dst,
        };
        let whole = outer.frame();
        let least = LINK + if outer.src.is_ipv4() { 20 } else { 40 };
        let mut frame = whole[..least + cut.index(whole.len() + 1 - least)].to_vec();
        if let Some(end) = new.into_iter().find(|it| it.is_ipv4() == outer.src.is_ipv4()) {
            // Its length may say more than there is: nothing is believed that is not in the frame.
            let _ = translate_any(&mut frame, Side::Forward, (end, 7));
        }
    }

    #[test]
    fn an_answered_echo_request_is_the_reply_that_etherparse_builds(mut request in messages()) {
        let (ask, answer) = if request.src.is_ipv4() { (8, 0) } else { (128, 129) };
        request.kind = ask;
        let mut frame = request.frame();
        let done = match request.src {
            IpAddr::V4(_) => icmp::answer_echo(&mut frame[..], &parsed::<Ipv4>(&request.frame())),
            IpAddr::V6(_) => icmp::answer_echo(&mut frame[..], &parsed::<Ipv6>(&request.frame())),
        };
        prop_assert!(done.is_some());
        let [destination, source] = request.link;
        let reply = Message {
            link: [source, destination],
            src: request.dst,
            dst: request.src,
            ttl: 64,
            kind: answer,
            ..request
        };
        prop_assert_eq!(frame, reply.frame());
    }

    #[test]
    fn a_message_is_read_when_its_header_is_within_the_packet(
        mut outer in messages(),
        len in 0..16_u16,
    ) {
        outer.kind = 3;
        outer.body = vec![0; 8];
        outer.ip_options = Vec::new();
        let mut frame = outer.frame();
        let kind = if outer.src.is_ipv4() {
            frame[16..18].copy_from_slice(&(20 + len).to_be_bytes());
            icmp::message(&frame[..], &parsed::<Ipv4>(&frame)).map(|it| it.kind)
        } else {
            frame[18..20].copy_from_slice(&len.to_be_bytes());
            icmp::message(&frame[..], &parsed::<Ipv6>(&frame)).map(|it| it.kind)
        };
        prop_assert_eq!(kind, (len >= 8).then_some(3));
    }
}

#[test]
fn the_types_that_quote_a_packet_are_those_of_the_rules() {
    let of = |is_error: fn(u8) -> bool| {
        (0..=255)
            .filter(|kind| is_error(*kind))
            .collect::<Vec<u8>>()
    };
    assert_eq!(of(Ipv4::is_error), [3, 11, 12]);
    assert_eq!(of(Ipv6::is_error), [1, 2, 3, 4]);
}

#[test]
fn a_tcp_checksum_that_is_half_quoted_is_left_alone() {
    let end = |last, port| (IpAddr::from([192, 0, 2, last]), port);
    let about = Shape {
        src: end(1, 80),
        dst: end(2, 4000),
        tcp: Some((0x10, 1, 2)),
        checksum: true,
        ttl: 64,
        tos: 0,
        tags: Vec::new(),
        extensions: Vec::new(),
        ip_options: Vec::new(),
        tcp_options: Vec::new(),
        payload: Vec::new(),
        padding: Vec::new(),
    };
    let outer = Message {
        link: [[2; 6], [4; 6]],
        src: end(9, 0).0,
        dst: end(1, 0).0,
        ttl: 64,
        tos: 0,
        id: (0, false),
        ip_options: Vec::new(),
        kind: 3,
        code: 1,
        rest: [0; 4],
        body: Vec::new(),
        padding: Vec::new(),
    };
    let error = Error {
        outer,
        about,
        quoted: 20 + 17,
    };
    let new = end(7, 8080);
    let mut frame = error.frame();
    assert!(translate_any(&mut frame, Side::Forward, new).is_some());
    let translated = error.translated(Side::Forward, new);
    let mut wanted = translated.outer.clone();
    wanted.dst = new.0;
    wanted.body = translated.packet()[..error.quoted].to_vec();
    wanted.body[20 + 16] = error.packet()[20 + 16];
    assert_eq!(frame, wanted.frame());
}
