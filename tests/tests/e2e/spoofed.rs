//! G2, G7: replies in a backend's name that come from the clients' side of the node. They establish
//! no flow, end none and move none.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use switcher_common::{
    flow::{ACK, FlowState, RST, SYN, Side},
    scan::Table,
    service::Color,
};
use switcher_tests::{
    lab::{Family, Lab},
    node::{LabService, Node},
    skip_unless_lab,
    traffic::{Conversation, ECHO_PORT, RawSender},
};

use crate::{
    floods::nowhere,
    forge::{Forged, datagram},
    mixed::LIMIT,
    pins::{Pin, Pins, Tuple},
};

const PORT: u16 = 20_000;

/// An attacker on the second client: it may send in everybody's name.
struct Attacker(RawSender);

impl Attacker {
    fn on(lab: &Lab) -> Result<Self> {
        RawSender::open(lab.client2()).map(Self)
    }

    fn send(&self, forged: &Forged, from: SocketAddr, to: SocketAddr) -> Result<()> {
        self.0.send(&forged.between(from, to)?)
    }
}

fn of(pins: &Pins, tuple: Tuple) -> Result<Pin> {
    pins.of(tuple)?
        .with_context(|| format!("no flow of {tuple:?}"))
}

#[test]
fn g7_a_spoofed_answer_establishes_no_udp_flow() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let service = LabService::datagram(2);
    let node = Node::start(&lab, std::slice::from_ref(&service))?;
    let (attacker, pins) = (Attacker::on(&lab)?, Pins::open(&lab)?);
    for family in Family::ALL {
        let (own, vip) = (
            SocketAddr::new(nowhere(family, 1), PORT),
            service.target(&lab, family),
        );
        // Too short for the backend to answer.
        attacker.0.send(&datagram(own, vip, b"?")?)?;
        let asked = of(&pins, Tuple::udp(own, vip))?;
        let before = node.packets("reply_unverified")?;
        attacker
            .0
            .send(&datagram(asked.rewritten, own, b"an answer")?)?;
        let pin = of(&pins, Tuple::udp(own, vip))?;
        ensure!(
            (pin.table, pin.state) == (Table::Unanswered, FlowState::Unanswered),
            "{family:?}: {pin:?}"
        );
        ensure!(node.packets("reply_unverified")? > before, "{family:?}");
    }
    Ok(())
}

#[test]
fn g7_a_spoofed_segment_establishes_no_tcp_flow() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let service = LabService::stream(1);
    let node = Node::start(&lab, std::slice::from_ref(&service))?;
    let (attacker, pins) = (Attacker::on(&lab)?, Pins::open(&lab)?);
    for family in Family::ALL {
        let vip = service.target(&lab, family);
        // In the middle of no stream: the backend resets it.
        let stray = SocketAddr::new(nowhere(family, 1), PORT);
        let middle = Forged {
            flags: ACK,
            seq: 1,
            ack: 1,
            payload: b"middle",
        };
        attacker.send(&middle, stray, vip)?;
        let backend = of(&pins, Tuple::tcp(stray, vip))?.rewritten;
        attacker.send(&middle, backend, stray)?;
        // A whole handshake: whoever begins it knows the number that its answer needs.
        let begun = SocketAddr::new(nowhere(family, 2), PORT);
        let syn = Forged {
            flags: SYN,
            seq: 99,
            ..Forged::default()
        };
        attacker.send(&syn, begun, vip)?;
        let backend = of(&pins, Tuple::tcp(begun, vip))?.rewritten;
        let answer = Forged {
            flags: SYN | ACK,
            seq: 499,
            ack: 100,
            payload: b"",
        };
        attacker.send(&answer, backend, begun)?;
        let last = Forged {
            flags: ACK,
            seq: 100,
            ack: 500,
            payload: b"",
        };
        attacker.send(&last, begun, vip)?;
    }
    // The backends have reset what they do not know.
    node.wait_until("nothing in flight", |status| {
        let flows = &status["services"][0]["in_flight"];
        flows["blue"] == 0 && pins.held().is_ok_and(|held| held.is_empty())
    })?;
    Ok(())
}

/// Silent connections of each family on blue, and what is known of each: its client's port and the
/// backend that serves it, but no numbers.
fn silent(lab: &Lab, service: &LabService) -> Result<Vec<(Conversation, SocketAddr, SocketAddr)>> {
    let mut all = Vec::new();
    for family in Family::ALL {
        let vip = service.target(lab, family);
        let address: IpAddr = lab.topology().links[0].far_addresses(family)[0];
        for port in PORT..PORT + 8 {
            let mut conversation = Conversation::open(lab.client(), port, vip, LIMIT)?;
            conversation.ask()?;
            all.push((conversation, SocketAddr::new(address, port), vip));
        }
    }
    Ok(all)
}

#[test]
fn g2_spoofed_packets_of_both_ends_end_and_move_no_silent_connection() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let service = LabService::stream(1);
    let node = Node::start(&lab, std::slice::from_ref(&service))?;
    let connections = silent(&lab, &service)?;
    let (attacker, pins) = (Attacker::on(&lab)?, Pins::open(&lab)?);
    let before = pins.held()?;
    ensure!(before.len() == 2 * connections.len(), "{before:#?}");
    for round in ["before the flip", "after it"] {
        for (_, client, vip) in &connections {
            for color in Color::ALL {
                for address in lab.backends(color, Family::of(vip.ip())) {
                    let backend = SocketAddr::new(address, ECHO_PORT);
                    spoof_both(&attacker, *client, *vip, backend)?;
                }
            }
        }
        pins.still_hold(&before).context(round)?;
        if round == "before the flip" {
            node.flip(&["stream"], Color::Green)?;
        }
    }
    for (mut conversation, ..) in connections {
        let by = conversation.ask()?;
        ensure!(by.color == Color::Blue, "moved to {by}");
        conversation.close()?;
    }
    Ok(())
}

/// Numbers that one end says, so that they fit when the other end says them, too.
fn spoof_both(
    attacker: &Attacker,
    client: SocketAddr,
    vip: SocketAddr,
    backend: SocketAddr,
) -> Result<()> {
    const NUMBER: u32 = 0x1234_5678;
    let of = |flags, seq, ack| Forged {
        flags,
        seq,
        ack,
        payload: b"",
    };
    // What one end acknowledges, the other end may reset at.
    attacker.send(&of(ACK, 1, NUMBER), client, vip)?;
    attacker.send(&of(RST, NUMBER, 0), backend, client)?;
    attacker.send(&of(ACK, 1, NUMBER), backend, client)?;
    attacker.send(&of(RST, NUMBER, 0), client, vip)?;
    // A connection begun anew on the same ports, and its answer.
    attacker.send(&of(SYN, NUMBER, 0), client, vip)?;
    attacker.send(&of(SYN | ACK, 7, NUMBER.wrapping_add(1)), backend, client)?;
    attacker.send(&of(ACK, NUMBER.wrapping_add(1), 8), client, vip)
}

#[test]
fn a_spoofed_reply_of_no_flow_is_dropped_and_begins_none() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let services = [LabService::stream(1), LabService::datagram(2)];
    let node = Node::start(&lab, &services)?;
    let (attacker, pins) = (Attacker::on(&lab)?, Pins::open(&lab)?);
    let before = node.packets("unexpected_reply")?;
    for family in Family::ALL {
        let address: IpAddr = lab.topology().links[0].far_addresses(family)[0];
        let client = SocketAddr::new(address, PORT);
        let backend = SocketAddr::new(lab.backends(Color::Blue, family)[0], ECHO_PORT);
        for flags in [ACK, SYN | ACK, RST, RST | ACK] {
            let reply = Forged {
                flags,
                seq: 1,
                ack: 1,
                payload: b"",
            };
            attacker.send(&reply, backend, client)?;
        }
        attacker.0.send(&datagram(backend, client, b"an answer")?)?;
    }
    let dropped = node.packets("unexpected_reply")? - before;
    ensure!(dropped == 10, "{dropped} of 10 dropped");
    for table in [Table::Established, Table::Unanswered] {
        let all = pins.all(table)?;
        let replies = all.values().filter(|pin| pin.side == Side::Reverse);
        ensure!(replies.count() == 0, "{table:?}: {all:#?}");
    }
    Ok(())
}

/// Gives the node one more address.
fn add_address(lab: &Lab, address: IpAddr) -> Result<()> {
    let index = lab.node().interface("b")?.index;
    let bits = if address.is_ipv4() { 32 } else { 128 };
    let added = lab.node().block_on(async move {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        tokio::spawn(connection);
        let request = handle.address().add(index, address, bits);
        request.execute().await.map_err(anyhow::Error::from)
    });
    added.with_context(|| format!("giving the node {address}"))
}

#[test]
fn packets_in_the_nodes_own_name_begin_no_flow_whose_replies_would_meet_its_own_connections()
-> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let service = LabService::datagram(2);
    let node = Node::start(&lab, std::slice::from_ref(&service))?;
    let (attacker, pins) = (Attacker::on(&lab)?, Pins::open(&lab)?);
    for family in Family::ALL {
        let vip = service.target(&lab, family);
        let link = lab.topology().links.iter().find(|it| it.host == "blue");
        let link = link.context("no link to blue")?;
        let own = SocketAddr::new(link.node_address(family), PORT);
        attacker.0.send(&datagram(own, vip, b"?")?)?;
        ensure!(
            pins.of(Tuple::udp(own, vip))?.is_none(),
            "{family:?}: a flow"
        );
        // An address that the node gets while the agent runs.
        let late = SocketAddr::new(nowhere(family, 7), PORT);
        add_address(&lab, late.ip())?;
        let before = node.packets("martian_source")?;
        node.wait_until("the new address is known", |_| {
            let sent = datagram(late, vip, b"?").and_then(|it| attacker.0.send(&it));
            sent.is_ok() && node.packets("martian_source").is_ok_and(|now| now > before)
        })?;
    }
    Ok(())
}
