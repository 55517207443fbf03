//! The kernel's reads of which a scan is made: that they are short, and that nothing is lost between two of them.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use aya::maps::{Array, Map, MapData};
use switcher_common::cut::{Action, CutOrder};
use switcher_common::service::Color::{Blue, Green};
use switcher_tests::bpf::between_bpf_calls;
use switcher_tests::lab::{Family, Lab};
use switcher_tests::skip_unless_lab;

use crate::collect::{setup, told};
use crate::crowd::{Crowd, now_ticks, pinned};
use crate::rig::Rig;
use crate::setup::Kind;
use crate::talk::Talk;

/// Flows of each crowd: between two reads of a scan that loses what follows a removal some of them are lost.
const EACH: u32 = 170_000;
/// A backend's id that no configuration here has.
const BACKEND: u32 = 100;

/// Orders that the flows of `backend` that have begun until now are cut.
fn cut(rig: &Rig, backend: u32) -> Result<()> {
    let map = Map::Array(pinned(rig, "CUTS")?);
    let mut orders = Array::<MapData, CutOrder>::try_from(map)?;
    let order = CutOrder::new(Action::Reset, now_ticks()?);
    Ok(orders.set(backend, order, 0)?)
}

/// The kernel finds its way back into a bucket by counting the elements before.
#[test]
fn g10_a_scan_misses_no_flow_beside_those_that_it_removes_and_those_that_it_cuts() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::with(&lab, &setup(&lab), |rig| {
        let live = Crowd::new(0, EACH);
        let silent = Crowd {
            service: 2,
            silent_ms: 86_400_000,
            ..Crowd::new(1_000_000, EACH)
        };
        let ordered = Crowd {
            color: Green,
            backend: BACKEND,
            age_ms: 60_000,
            ..Crowd::new(2_000_000, EACH)
        };
        for crowd in [live, silent, ordered] {
            crowd.fill(rig, Family::V4, "ESTABLISHED")?;
        }
        cut(rig, BACKEND)?;
        let mut clients = BTreeSet::new();
        let mut records = 0;
        let scan = rig.scanner.scan(2, true, |flow| {
            records += 1;
            clients.insert(flow.client.to_ip());
        })?;
        told(&format!("in {} reads", scan.reads), &scan)?;
        let each = u64::from(EACH);
        ensure!(scan.in_flight(1).get(Blue) == &each, "{scan:?}");
        ensure!(scan.in_flight(1).get(Green) == &0, "{scan:?}");
        ensure!(scan.cut(1).green.tcp == each, "{scan:?}");
        ensure!(
            records == EACH && clients.len() == records as usize,
            "{records} records of {} clients",
            clients.len()
        );
        // Where hardly anything stays, some are left to the next scan, as if they were not silent yet.
        ensure!(scan.in_flight(2).get(Blue) < &(each / 100), "{scan:?}");
        let again = rig.scanner.scan(2, true, |flow| {
            clients.insert(flow.vip.to_ip());
        })?;
        let expired = scan.expired_flows + again.expired_flows;
        ensure!(expired == each, "{scan:?}, {again:?}");
        ensure!(again.in_flight(1) == scan.in_flight(1), "{again:?}");
        ensure!(again.in_flight(2).get(Blue) == &0, "{again:?}");
        ensure!(clients.len() == records as usize, "nothing is told twice");
        ensure!(rig.flows.entries() as u64 == 4 * each, "{again:?}");
        Ok(())
    })
}

/// A flip waits for them, where the kernel is not preemptible.
#[test]
fn a_scans_reads_are_short_whatever_becomes_of_the_entries() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::with(&lab, &setup(&lab), |rig| {
        for (number, silent_ms) in (0..).zip([-3_600_000, 86_400_000]) {
            let crowd = Crowd {
                silent_ms,
                ..Crowd::new(number * 1_000_000, EACH)
            };
            crowd.fill(rig, Family::V4, "ESTABLISHED")?;
            for remove_expired in [false, true] {
                let scan = rig.scanner.scan(1, remove_expired, |_| {})?;
                told(&format!("in {} reads", scan.reads), &scan)?;
                // 4 096 visits are the most that a read is asked for, and it ends a little later. A removal takes
                // two entries away at one visit.
                let visits = scan.established_entries - scan.expired_flows;
                ensure!(scan.reads >= visits / 5_000, "{scan:?}");
            }
        }
        Ok(())
    })
}

/// How many flows of service 1 a scan finds in flight, and its bpf(2) calls.
fn scanned(rig: &mut Rig) -> Result<(u64, usize)> {
    let scanner = &mut rig.scanner;
    let scan = || Ok(scanner.scan(1, true, |_| {})?);
    let (scan, calls) = between_bpf_calls(scan, |_| Ok(()))?;
    Ok((scan.in_flight(1).blue, calls))
}

#[test]
fn tables_that_were_found_empty_are_walked_through_again_when_something_has_come_in() -> Result<()>
{
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::plain(&lab, |rig| {
        // Loading has counted what is there already.
        let (flows, none) = scanned(rig)?;
        ensure!(flows == 0, "{flows}");
        for (kind, flows) in Kind::ALL.into_iter().zip(1..) {
            Talk::open(rig, kind, 4_000, Blue)?;
            for _ in 0..3 {
                let (found, calls) = scanned(rig)?;
                ensure!(found == flows, "{found} of {flows} flows, {kind:?}");
                ensure!(calls > none, "{calls} calls, {none} for empty tables");
            }
        }
        Ok(())
    })
}
