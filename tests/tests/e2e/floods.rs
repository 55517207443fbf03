//! G7 with real stacks: floods of packets from everywhere, beside a thousand connections that carry
//! data over a flip.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    num::NonZeroU32,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use switcher_common::{
    flow::{ACK, SYN},
    scan::Table,
    service::Color,
};
use switcher_tests::{
    lab::{Family, Lab},
    node::{LabService, Node, service_in},
    skip_unless_lab,
    traffic::{Client, Flood, Load, LongLived, RawPacket, link_drops, tcp_retrans_segs},
};

use crate::{
    forge::{Forged, datagram},
    limited,
    pins::Pins,
};

/// Flows that the table of unanswered ones has room for, per family; each takes two slots.
const UNANSWERED: u32 = 1_024;
/// Slots of both families' tables together.
const SLOTS: u32 = 2 * 2 * UNANSWERED;
/// Distinct sources; more than the four times that are wanted, as a link may drop a few.
const SOURCES: u32 = 5 * SLOTS;
const PER_SECOND: NonZeroU32 = NonZeroU32::new(12_000).expect("it is not zero");
/// Connections of each family.
const CONNECTIONS: usize = 500;
/// How long any step may take.
const LIMIT: Duration = Duration::from_secs(20);

/// What the flood's packets are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Each is answered by a SYN-ACK: of those, half meet a stack that knows nothing and resets,
    /// half vanish on the way to nowhere.
    Syn,
    /// In the middle of no stream. Each is answered by a RST.
    Ack,
    /// Too short for any server to answer.
    Datagram,
}

/// Packet `number` of a flood: every other one is of the other family, and every other pair from an
/// address that exists.
fn packet(kind: Kind, number: u32, own: [IpAddr; 2], to: [SocketAddr; 2]) -> Result<RawPacket> {
    let family = usize::try_from(number % 2)?;
    let source = number / 2;
    let (own, to) = (own[family], to[family]);
    let from = if source.is_multiple_of(2) {
        SocketAddr::new(own, u16::try_from(1_024 + source)?)
    } else {
        SocketAddr::new(nowhere(Family::of(own), source), 4_242)
    };
    match kind {
        Kind::Datagram => datagram(from, to, b"?"),
        Kind::Syn | Kind::Ack => Forged {
            flags: if kind == Kind::Syn { SYN } else { ACK },
            seq: number.wrapping_mul(2_654_435_761),
            ack: if kind == Kind::Syn { 0 } else { number },
            payload: b"",
        }
        .between(from, to),
    }
}

/// An address of the networks for benchmarks, which the node has no route to.
pub(crate) fn nowhere(family: Family, number: u32) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::from_bits(Ipv4Addr::new(198, 18, 0, 0).to_bits() + number).into(),
        Family::V6 => {
            let network = Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, 0).to_bits();
            Ipv6Addr::from_bits(network + u128::from(number)).into()
        }
    }
}

/// Connections of both families, established.
fn connections(lab: &Lab, stream: &LabService) -> Result<[Load; 2]> {
    let options = LongLived {
        connections: CONNECTIONS,
        interval: Duration::from_millis(500),
        ..LongLived::default()
    };
    let loads = Family::ALL
        .map(|family| Client::new(lab.client()).long_lived(stream.target(lab, family), options));
    for load in &loads {
        load.wait_until(LIMIT, |stats| stats.fresh.len() == CONNECTIONS)?;
    }
    Ok(loads)
}

/// Waits until every connection was answered after `since`.
fn all_answered_since(loads: &[Load], since: Instant) -> Result<()> {
    loads.iter().try_for_each(|load| {
        load.wait_until(LIMIT, |stats| {
            let mut all = stats.connections.iter();
            all.all(|it| it.last_answer.is_some_and(|at| at > since))
        })
    })
}

/// Flows that the program has recorded so far.
fn recorded(node: &Node<'_>) -> Result<u64> {
    let status = node.status()?;
    let of = |service, color: Color| {
        service_in(&status, service)["traffic"][color.name()]["new_flows"].as_u64()
    };
    let counts = ["stream", "datagram"]
        .into_iter()
        .flat_map(|service| Color::ALL.map(|color| of(service, color)));
    counts.sum::<Option<u64>>().context("no count of new flows")
}

fn survived(kind: Kind) -> Result<()> {
    let lab = Lab::builder().build()?;
    let _backends = switcher_tests::traffic::Backends::start(&lab)?;
    // The backends' answers to the flood end with it: repeated ones would be pinned again, and go on evicting.
    for color in Color::ALL {
        let host = lab.color(color);
        host.set_sysctl("net/ipv4/tcp_synack_retries", "0")?;
    }
    // Nothing leaves the tables by its age while the flood is counted.
    let slow = |mut service: LabService| {
        service.options += "\n[service.idle]\nunanswered = \"60s\"\nclosing = \"60s\"";
        service
    };
    let services = [slow(LabService::stream(1)), slow(LabService::datagram(2))];
    let node = limited(&lab, &services, 2_048, UNANSWERED)?;
    let loads = connections(&lab, &services[0])?;
    let pins = Pins::open(&lab)?;
    let before = pins.held()?;
    ensure!(
        before.len() == 2 * 2 * CONNECTIONS,
        "{} entries of {} connections",
        before.len(),
        2 * CONNECTIONS
    );
    let recorded_before = recorded(&node)?;
    let retransmits = tcp_retrans_segs(lab.client())?;

    let target = &services[usize::from(kind == Kind::Datagram)];
    let to = Family::ALL.map(|family| target.target(&lab, family));
    let links = &lab.topology().links;
    let own = Family::ALL.map(|family| links[1].far_addresses(family)[0]);
    let flood = Flood::start(lab.client2(), SOURCES, PER_SECOND, move |number| {
        packet(kind, number, own, to)
    })?;
    flood.wait_for(SOURCES / 3, LIMIT)?;
    let flip = node.flip(&["stream", "datagram"], Color::Green)?;
    flood.wait_for(SOURCES / 3 * 2, LIMIT)?;
    all_answered_since(&loads, flip.returned)?;
    flood.finish()?;
    all_answered_since(&loads, Instant::now())?;

    let flows = recorded(&node)? - recorded_before;
    let evicted = node.status()?["tables"]["evicted_entries"]
        .as_u64()
        .context("no count of evictions")?;
    let present = u64::try_from(pins.all(Table::Unanswered)?.len())?;
    println!(
        "{kind:?} flood: {flows} flows recorded, {present} of {SLOTS} slots in use afterwards; the \
         client sent {} segments again, the node's links dropped {} packets",
        tcp_retrans_segs(lab.client())? - retransmits,
        link_drops(lab.node())?
    );
    ensure!(
        flows >= u64::from(4 * SLOTS),
        "the flood made only {flows} flows"
    );
    ensure!(
        present <= u64::from(SLOTS),
        "{present} entries in {SLOTS} slots"
    );
    ensure!(
        evicted >= u64::from(4 * SLOTS) && evicted <= 2 * flows,
        "{evicted} evictions told: {flows} flows recorded, {present} entries present"
    );
    pins.still_hold(&before)?;
    for load in loads {
        let stats = load.finish();
        ensure!(stats.is_clean(), "{:?}", stats.samples);
        ensure!(
            stats.per_color.green == 0,
            "{} answers by the new color",
            stats.per_color.green
        );
    }
    // A half-open connection may still be evicted, and its next segment goes to the base color (G9), which is the
    // active one when the drain is over.
    let (reply, code) = node.json(&["wait", "stream", "--until", "drained"])?;
    ensure!(code == 0, "{reply}");
    // The flood's leftovers are in nobody's way.
    for load in connections(&lab, &services[0])? {
        let stats = load.finish();
        let new = stats.fresh.iter().all(|it| it.color == Color::Green);
        ensure!(stats.is_clean() && new, "afterwards: {:?}", stats.samples);
    }
    Ok(())
}

#[test]
fn g7_a_flood_of_syns_touches_no_established_connection_over_a_flip() -> Result<()> {
    skip_unless_lab!(Ok(()));
    survived(Kind::Syn)
}

#[test]
fn g7_a_flood_of_acks_touches_no_established_connection_over_a_flip() -> Result<()> {
    skip_unless_lab!(Ok(()));
    survived(Kind::Ack)
}

#[test]
fn g7_a_flood_of_datagrams_touches_no_established_connection_over_a_flip() -> Result<()> {
    skip_unless_lab!(Ok(()));
    survived(Kind::Datagram)
}
