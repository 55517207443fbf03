//! Lists of flows out of large tables: all of them, each once, and no more work than the limit asks for.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::time::Instant;

use anyhow::{Result, bail, ensure};
use switcher_common::flow::{FlowState, Side};
use switcher_common::scan::Table;
use switcher_common::service::Color;
use switcher_tests::bpf::between_bpf_calls;
use switcher_tests::lab::{Family, Lab};
use switcher_tests::skip_unless_lab;
use switcher_userspace::datapath::{FlowLister, ListedFlow};

use crate::crowd::Crowd;
use crate::packet::Packet;
use crate::rig::{Rig, first};
use crate::setup::{Kind, Setup};

fn collect(lister: &FlowLister, color: Option<Color>, most: usize) -> Result<Vec<ListedFlow>> {
    let mut flows = Vec::new();
    lister.list(1, color, |flow| {
        flows.push(flow);
        if flows.len() == most {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    })?;
    Ok(flows)
}

#[test]
fn every_flow_of_a_large_table_is_listed_once_and_a_short_list_takes_few_calls() -> Result<()> {
    const FLOWS: u32 = 50_000;
    const OTHERS: u32 = 5_000;
    /// A batch holds a thousand entries, half of them of replies; each flow of a list costs a few look-ups.
    const MOST_CALLS: usize = 100;
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    let mut setup = Setup::plain(&lab);
    setup.limits.flows = 131_072;
    Rig::with(&lab, &setup, |rig| {
        let lister = rig.path.flow_lister()?;
        ensure!(collect(&lister, None, 1)?.is_empty(), "an empty table");
        for family in Family::ALL {
            Crowd::new(0, FLOWS).fill(rig, family, "ESTABLISHED")?;
            let green = Crowd {
                color: Color::Green,
                ..Crowd::new(FLOWS, OTHERS)
            };
            green.fill(rig, family, "ESTABLISHED")?;
            let other = Crowd {
                service: 2,
                ..Crowd::new(FLOWS + OTHERS, OTHERS)
            };
            other.fill(rig, family, "ESTABLISHED")?;
        }
        let began = Instant::now();
        let all = collect(&lister, None, usize::MAX)?;
        writeln!(
            std::io::stdout().lock(),
            "list: {} flows of {} took {:?}",
            all.len(),
            2 * (FLOWS + 2 * OTHERS),
            began.elapsed()
        )?;
        let clients: BTreeSet<SocketAddr> = all.iter().map(|flow| flow.client).collect();
        let expected = 2 * (FLOWS + OTHERS) as usize;
        ensure!(
            (all.len(), clients.len()) == (expected, expected),
            "{} flows of {} clients, expected {expected}",
            all.len(),
            clients.len()
        );
        let green = collect(&lister, Some(Color::Green), usize::MAX)?;
        ensure!(
            green.len() == 2 * OTHERS as usize
                && green.iter().all(|it| it.found.color == Color::Green),
            "{} flows of green",
            green.len()
        );
        let (few, calls) = between_bpf_calls(|| collect(&lister, None, 10), |_| Ok(()))?;
        ensure!(
            few.len() == 10 && calls <= MOST_CALLS,
            "{} flows by {calls} bpf(2) calls, at most {MOST_CALLS} wanted",
            few.len()
        );
        Ok(())
    })
}

#[test]
fn a_flow_is_listed_by_the_direction_that_is_left_of_it() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        let lister = rig.path.flow_lister()?;
        let whole = Some(Table::Unanswered);
        for kind in Kind::ALL {
            let packet = first(kind, rig.client(kind.family, 4_000), rig.vip(kind));
            rig.run(&packet.bytes()?)?;
            rig.flows.complete(&packet)?;
            listed(rig, &lister, kind, &packet, (Side::Forward, whole))?;
            rig.flows.lose_reply(&packet)?;
            listed(rig, &lister, kind, &packet, (Side::Forward, None))?;
            rig.flows.forget(&packet)?;
            let other = first(kind, rig.client(kind.family, 4_001), rig.vip(kind));
            rig.run(&other.bytes()?)?;
            rig.flows.complete(&other)?;
            rig.flows.forget(&other)?;
            listed(rig, &lister, kind, &other, (Side::Reverse, None))?;
        }
        Ok(())
    })
}

/// The flow of `packet` is in the list once, by its `side`, with its other entry in the table `other`.
fn listed(
    rig: &Rig,
    lister: &FlowLister,
    kind: Kind,
    packet: &Packet,
    (side, other): (Side, Option<Table>),
) -> Result<()> {
    let flows = collect(lister, None, usize::MAX)?;
    let is_it = |it: &&ListedFlow| (it.client, it.protocol) == (packet.from, packet.protocol);
    let found: Vec<&ListedFlow> = flows.iter().filter(is_it).collect();
    let [flow] = found.as_slice() else {
        bail!("{kind:?}: {found:?} of {flows:?}");
    };
    ensure!(
        flow.vip == packet.to
            && flow.found.backend == rig.backend(kind, Color::Blue)
            && flow.found.state == FlowState::Unanswered
            && flow.found.table == Table::Unanswered
            && (flow.found.side, flow.found.other_table) == (side, other),
        "{kind:?}: {flow:?}, expected {side:?} and {other:?}"
    );
    Ok(())
}
