//! Between the program's records and the model's words: the only place that knows both.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use bytemuck::Zeroable as _;
use switcher_common::address::{Address, Ipv4, Ipv6, WideAddress};
use switcher_common::flow::{
    FLAG_ALONE, FLAG_LEFT, FLAG_PREVIEW, FLAG_REFUSED, FLAG_UNPINNED, FlowEntry, FlowKey,
};
use switcher_common::packet::{FragmentKey, FragmentPorts};

use crate::fuzz::model::fragment;
use crate::fuzz::model::types::{Entry, Side, State, Tuple};

fn address<A: Address>(of: SocketAddr) -> A {
    A::narrow(&WideAddress::from_ip(of.ip()))
}

/// An address and port as they lie in a record. IPv6 stays IPv6, also a mapped address.
pub(super) fn endpoint<A: Address>(address: &A, port_be: u16) -> SocketAddr {
    let octets: [u8; 16] = bytemuck::cast(address.wide().0);
    let ip = if A::AF == Ipv4::AF {
        let [.., a, b, c, d] = octets;
        [a, b, c, d].into()
    } else {
        octets.into()
    };
    SocketAddr::new(ip, u16::from_be(port_be))
}

/// A key of the program's.
pub(super) fn key<A: Address>(tuple: &Tuple) -> FlowKey<A> {
    FlowKey {
        src: address(tuple.src),
        dst: address(tuple.dst),
        src_port_be: tuple.src.port().to_be(),
        dst_port_be: tuple.dst.port().to_be(),
        protocol: tuple.protocol,
        reserved: [0; 3],
    }
}

/// A key in the model's words.
pub(super) fn tuple<A: Address>(key: &FlowKey<A>) -> Tuple {
    Tuple {
        src: endpoint(&key.src, key.src_port_be),
        dst: endpoint(&key.dst, key.dst_port_be),
        protocol: key.protocol,
    }
}

const STATES: [(u8, State); 6] = [
    (1, State::Unanswered),
    (2, State::Answered),
    (3, State::Established),
    (4, State::Closing),
    (5, State::Refused),
    (6, State::Cut),
];

/// A record of the program's.
pub(super) fn record<A: Address>(entry: &Entry) -> FlowEntry<A>
where
    FlowEntry<A>: bytemuck::Zeroable,
{
    let state = STATES.iter().find(|(_, state)| *state == entry.state);
    let flag = |set, flag| if set { flag } else { 0 };
    FlowEntry {
        rewrite_addr: address(entry.to),
        rewrite_port_be: entry.to.port().to_be(),
        syn_seq: entry.syn,
        answer_seq: entry.answer,
        next_seq: entry.end,
        acked: entry.acked,
        last_seen: entry.seen,
        created: entry.born,
        backend: entry.backend,
        service: entry.service,
        side: u8::from(entry.side == Side::Backend),
        state: state.expect("all states are there").0,
        color: entry.color,
        flags: flag(entry.preview, FLAG_PREVIEW)
            | flag(entry.unpinned, FLAG_UNPINNED)
            | flag(entry.left, FLAG_LEFT)
            | flag(entry.refused, FLAG_REFUSED)
            | flag(entry.alone, FLAG_ALONE),
        chances: entry.chances,
        left: entry.tried,
        fin_end: entry.fin,
        ..FlowEntry::zeroed()
    }
}

/// A record in the model's words; an error when it is none that the program may write.
pub(super) fn entry<A: Address>(record: &FlowEntry<A>) -> Result<Entry>
where
    FlowEntry<A>: std::fmt::Debug + PartialEq + bytemuck::Zeroable,
{
    let state = STATES.iter().find(|(byte, _)| *byte == record.state);
    let entry = Entry {
        to: endpoint(&record.rewrite_addr, record.rewrite_port_be),
        side: if record.side == 0 {
            Side::Client
        } else {
            Side::Backend
        },
        state: state.map_or(State::Unanswered, |(_, state)| *state),
        syn: record.syn_seq,
        answer: record.answer_seq,
        end: record.next_seq,
        acked: record.acked,
        seen: record.last_seen,
        born: record.created,
        backend: record.backend,
        service: record.service,
        color: record.color,
        preview: record.flags & FLAG_PREVIEW != 0,
        unpinned: record.flags & FLAG_UNPINNED != 0,
        fin: record.fin_end,
        chances: record.chances,
        tried: record.left,
        left: record.flags & FLAG_LEFT != 0,
        refused: record.flags & FLAG_REFUSED != 0,
        alone: record.flags & FLAG_ALONE != 0,
    };
    // What has no word in the model must be as the program writes it; `counted` is the collector's, and a hop
    // changes nothing as long as routes stay as they are.
    let expected = FlowEntry {
        counted: record.counted,
        hop: record.hop,
        ..self::record::<A>(&entry)
    };
    ensure!(
        expected == *record,
        "the record has bytes that no rule gives it: {record:?}"
    );
    Ok(entry)
}

/// A first fragment in the model's words.
pub(super) fn fragment<A: Address>(
    key: &FragmentKey<A>,
    ports: &FragmentPorts,
) -> (fragment::Key, (Tuple, u32)) {
    let (src, dst) = (
        endpoint(&key.src, ports.src_port_be),
        endpoint(&key.dst, ports.dst_port_be),
    );
    let known = fragment::Key {
        src: src.ip(),
        dst: dst.ip(),
        identification: key.identification,
        protocol: key.protocol,
    };
    let protocol = ports.protocol;
    (known, (Tuple { src, dst, protocol }, ports.tick))
}

/// A first fragment as the program keeps it.
pub(super) fn fragment_record<A: Address>(
    key: &fragment::Key,
    (tuple, tick): &(Tuple, u32),
) -> (FragmentKey<A>, FragmentPorts) {
    let record = FragmentKey {
        src: address(tuple.src),
        dst: address(tuple.dst),
        identification: key.identification,
        protocol: key.protocol,
        reserved: [0; 3],
    };
    let ports = FragmentPorts {
        tick: *tick,
        src_port_be: tuple.src.port().to_be(),
        dst_port_be: tuple.dst.port().to_be(),
        protocol: tuple.protocol,
        reserved: [0; 3],
    };
    (record, ports)
}

/// Which family's records a tuple's are.
pub(super) enum Keyed {
    V4(FlowKey<Ipv4>),
    V6(FlowKey<Ipv6>),
}

impl Keyed {
    pub(super) fn of(tuple: &Tuple) -> Self {
        if tuple.dst.is_ipv4() {
            Self::V4(key(tuple))
        } else {
            Self::V6(key(tuple))
        }
    }
}
