//! Errors that the node sends itself: the frame that etherparse builds, whatever the packet.

use std::net::IpAddr;

use proptest::collection::vec;
use proptest::prelude::*;
use switcher_common::address::{Ipv4, Ipv6};
use switcher_common::packet::own_error::{Layout, OwnError, OwnErrors, write};
use switcher_common::packet::{Network, link, network};

use crate::bytes::ip;
use crate::message::{LINK, Message};
use crate::shape::{config, packets};

/// The error about the packet of `frame`; the frame is resized as the kernel does it.
fn told<A: OwnErrors + Network>(frame: &[u8], error: OwnError) -> Option<Vec<u8>> {
    let ip = ip::<A>(frame, link(frame).ok()?.ip_offset).ok()?;
    let layout = Layout::about(&ip);
    // What the kernel leaves in front is anything.
    let mut resized = vec![0xa5; A::HEADERS];
    resized.extend(&frame[..layout.kept()]);
    write(&mut resized[..], &layout, &ip, error)?;
    Some(resized)
}

/// The MTU that something is too big for; `None`: its time is over.
fn causes() -> impl Strategy<Value = Option<u16>> {
    prop_oneof![Just(None), any::<u16>().prop_map(Some),]
}

/// Up to two VLAN tags, as they lie behind the addresses.
fn tags() -> impl Strategy<Value = Vec<u8>> {
    let tag = (
        prop_oneof![Just([0x81, 0x00]), Just([0x88, 0xa8])],
        any::<[u8; 2]>(),
    );
    vec(tag, 0..=2).prop_map(|tags| {
        tags.into_iter()
            .flat_map(|(a, b)| [a, b].concat())
            .collect()
    })
}

fn tagged(frame: &[u8], tags: &[u8]) -> Vec<u8> {
    [&frame[..12], tags, &frame[12..]].concat()
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn an_own_error_is_the_one_that_etherparse_builds(
        (mut shape, _) in packets(),
        more in vec(any::<u8>(), 0..128),
        tags in tags(),
        too_big_for in causes(),
    ) {
        shape.payload.extend(more);
        shape.tags.clear();
        let frame = shape.frame();
        let packet = &frame[LINK..frame.len() - shape.padding.len()];
        let headers = shape.transport_offset() - LINK + 8;
        let quoted = packet.len().min(128).max(headers) / 4 * 4;
        let is_v4 = shape.src.0.is_ipv4();
        let (kind, code, mtu) = match (too_big_for, is_v4) {
            (None, true) => (11, 0, 0),
            (None, false) => (3, 0, 0),
            (Some(mtu), true) => (3, 4, mtu),
            (Some(mtu), false) => (2, 0, mtu),
        };
        let wanted = Message {
            link: [[2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1]],
            src: shape.dst.0,
            dst: shape.src.0,
            ttl: 64,
            tos: 0,
            id: (0, true),
            ip_options: Vec::new(),
            kind,
            code,
            rest: u32::from(mtu).to_be_bytes(),
            body: packet[..quoted].to_vec(),
            padding: Vec::new(),
        };
        let frame = tagged(&frame, &tags);
        let error = too_big_for.map_or(OwnError::TIME_EXCEEDED, OwnError::too_big);
        let found = match shape.src.0 {
            IpAddr::V4(_) => told::<Ipv4>(&frame, error),
            IpAddr::V6(_) => told::<Ipv6>(&frame, error),
        };
        prop_assert_eq!(found, Some(tagged(&wanted.frame(), &tags)));
    }
}

#[test]
fn an_own_error_quotes_long_extension_headers_with_the_ports_behind_them() {
    let mut frame = [vec![2; 12], vec![0x86, 0xdd, 0x60, 0, 0, 0]].concat();
    let extension = [vec![17, 31], vec![0; 254]].concat();
    let udp = [0, 80, 0, 81, 0, 108, 0, 0];
    frame.extend(364_u16.to_be_bytes());
    frame.extend(
        [
            vec![60, 1],
            vec![7; 32],
            extension,
            udp.to_vec(),
            vec![9; 100],
        ]
        .concat(),
    );
    let mut ip = network::<Ipv6, _>(&frame[..], LINK).expect("a whole header");
    ip.transport_offset = LINK + 40 + 256;
    let layout = Layout::about(&ip);
    assert_eq!(layout.kept(), LINK + 40 + 256 + 8);
    let mut resized = [vec![0; 48], frame[..layout.kept()].to_vec()].concat();
    write(&mut resized[..], &layout, &ip, OwnError::TIME_EXCEEDED).expect("it is all there");
    let wanted = Message {
        link: [[2; 6]; 2],
        src: [7; 16].into(),
        dst: [7; 16].into(),
        ttl: 64,
        tos: 0,
        id: (0, true),
        ip_options: Vec::new(),
        kind: 3,
        code: 0,
        rest: [0; 4],
        body: frame[LINK..layout.kept()].to_vec(),
        padding: Vec::new(),
    };
    assert_eq!(resized, wanted.frame());
}
