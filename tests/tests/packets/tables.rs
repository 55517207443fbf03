//! G7: the tables are bounded, and neither a flood nor a full table harms what is established.

use anyhow::{Result, ensure};
use switcher_common::flow::FlowState;
use switcher_common::reason::Reason;
use switcher_common::scan::Table;
use switcher_common::service::{Color, Protocol};
use switcher_tests::lab::Lab;
use switcher_tests::skip_unless_lab;

use crate::packet::{ACK, PSH, Packet};
use crate::rig::{Rig, first};
use crate::setup::{Kind, Setup};
use crate::talk::Talk;

/// Ends the handshake of a flow that the established table has no room for.
fn open_when_full(rig: &mut Rig, kind: Kind, port: u16) -> Result<Talk> {
    let mut talk = Talk::begin(rig, kind, port, Color::Blue)?;
    let full = [Reason::EstablishedFull];
    match kind.protocol {
        Protocol::Udp => {
            let answer = talk.answer();
            talk.reply(rig, "an answer for a full table", &answer, &full)?;
        }
        Protocol::Tcp => {
            let (answer, ack) = (talk.answer(), talk.acknowledgement());
            talk.reply(rig, "the SYN-ACK", &answer, &[])?;
            talk.send(rig, "an ACK for a full table", &ack, &full)?;
        }
    }
    Ok(talk)
}

#[test]
fn g7_when_the_established_table_is_full_a_flow_works_and_is_counted() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    let mut setup = Setup::plain(&lab);
    // One for each protocol, in each family's table.
    setup.limits.flows = 2;
    Rig::with(&lab, &setup, |rig| {
        let mut first = Vec::new();
        for kind in Kind::ALL {
            first.push(Talk::open(rig, kind, 4000, Color::Blue)?);
        }
        for kind in Kind::ALL {
            let talk = open_when_full(rig, kind, 4001)?;
            let flow = talk.flow(rig)?;
            assert_eq!(flow.table, Table::Unanswered, "{kind:?}: no room");
            assert_eq!(flow.state, FlowState::Established, "{kind:?}");
            rig.flip(Color::Green)?;
            let request = talk.of_client(PSH | ACK).payload(b"more?");
            let run = rig.run(&request.bytes()?)?;
            let sent = request.sent_to(talk.backend, rig.link("blue")?);
            assert_eq!(run.frame, sent.bytes()?, "{kind:?}: data of the client");
            let answer = talk.of_backend(PSH | ACK).payload(b"more.");
            let run = rig.run(&answer.bytes()?)?;
            let returned = answer.sent_from(talk.vip, rig.link("client")?);
            assert_eq!(
                run.frame,
                returned.bytes()?,
                "{kind:?}: data of the backend"
            );
            rig.flip(Color::Blue)?;
        }
        for talk in &mut first {
            talk.goes_on(rig, "in a full table")?;
        }
        rig.expect_flows("two of each kind", 8)
    })
}

const UNANSWERED: u32 = 512;
const FLOOD: u32 = 6_000;

#[test]
fn g7_a_flood_evicts_no_established_flow_and_its_tables_stay_bounded() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    let mut setup = Setup::plain(&lab);
    setup.limits.unanswered = UNANSWERED;
    Rig::with(&lab, &setup, |rig| {
        let mut talks = Vec::new();
        for kind in Kind::ALL {
            for port in 4000..4020 {
                talks.push(Talk::open(rig, kind, port, Color::Blue)?);
            }
        }
        let established = rig.flows.entries();
        let recorded = |rig: &Rig| -> Result<u64> {
            let counters = rig.path.counters()?;
            Ok(counters.traffic(1, Color::Blue)?.new_flows)
        };
        let before = recorded(rig)?;
        for kind in Kind::ALL {
            for number in 0..FLOOD {
                let port = u16::try_from(5_000 + number)?;
                let (client, vip) = (rig.client(kind.family, port), rig.vip(kind));
                // SYNs, datagrams, and ACKs of no flow.
                let packet = match (kind.protocol, number % 2) {
                    (Protocol::Tcp, 1) => Packet::tcp(client, vip, ACK, number, number),
                    _ => first(kind, client, vip),
                };
                rig.run(&packet.bytes()?)?;
            }
        }
        let flood = rig.flows.entries() - established;
        // Room for two entries of each flow, in a table for each family.
        let most = usize::try_from(2 * 2 * UNANSWERED)?;
        ensure!(
            flood <= most,
            "{flood} entries of the flood, at most {most} wanted"
        );
        ensure!(flood >= most / 4, "only {flood} entries: was it a flood?");
        let evicted = rig.scanner.scan(1, false, |_| {})?.evicted_entries;
        // Not all of the flood: on a fast machine the cap of inserts drops some.
        let flows = recorded(rig)? - before;
        // Nobody has answered: each flow has taken one place.
        let wanted = flows - u64::try_from(flood)?;
        ensure!(
            evicted == wanted,
            "{evicted} evictions counted, {wanted} wanted"
        );
        for talk in &mut talks {
            talk.goes_on(rig, "after the flood")?;
        }
        for kind in Kind::ALL {
            Talk::open(rig, kind, 4100, Color::Blue)?.goes_on(rig, "begun after the flood")?;
        }
        Ok(())
    })
}

#[test]
fn g7_a_new_flow_is_whole_in_a_table_whose_flows_were_all_just_used() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    let mut setup = Setup::plain(&lab);
    setup.limits.unanswered = UNANSWERED;
    Rig::with(&lab, &setup, |rig| {
        for kind in Kind::ALL {
            for port in 5_000..5_000 + u16::try_from(2 * UNANSWERED)? {
                Talk::begin(rig, kind, port, Color::Blue)?;
            }
        }
        for round in 0..8 {
            // A scan looks at every entry, which makes none of them the least recently used one.
            rig.scanner.scan(1, true, |_| {})?;
            for kind in Kind::ALL {
                for port in 0..50 {
                    let talk = Talk::begin(rig, kind, 4_000 + 100 * round + port, Color::Blue)?;
                    talk.flow(rig)?;
                }
            }
        }
        Ok(())
    })
}
