//! G7, G4: a full table, with an agent and without one.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::Value;
use switcher_common::{
    scan::Table,
    service::{Color, Protocol},
};
use switcher_tests::{
    lab::{Family, Lab},
    node::{LabService, service_in},
    skip_unless_lab,
    traffic::{Client, Flood, HttpNew, Load, LongLived, UdpFlows},
};

use crate::{forge::datagram, limited, mixed::LIMIT, pins::Pins};

/// Flows that the established table has room for, per family.
const ROOM: usize = 100;
/// Flows that do not fit any more.
const BEYOND: usize = 60;

fn lasting(lab: &Lab, family: Family, connections: usize) -> Result<Load> {
    let options = LongLived {
        connections,
        interval: Duration::from_millis(100),
        ..LongLived::default()
    };
    let target = LabService::stream(1).target(lab, family);
    let load = Client::new(lab.client()).long_lived(target, options);
    load.wait_until(LIMIT, |stats| stats.fresh.len() == connections)?;
    Ok(load)
}

fn in_flight(status: &Value) -> (u64, u64) {
    let flows = &service_in(status, "stream")["in_flight"];
    let of = |color: Color| flows[color.name()].as_u64().unwrap_or(u64::MAX);
    (of(Color::Blue), of(Color::Green))
}

/// Each connection has more answers.
fn go_on(loads: &[Load]) -> Result<()> {
    for load in loads {
        let before = load.snapshot().connections;
        load.wait_until(LIMIT, |stats| {
            let mut both = stats.connections.iter().zip(&before);
            both.all(|(now, before)| now.answered > before.answered + 1)
        })?;
    }
    Ok(())
}

fn end(loads: [Load; 2]) -> Result<()> {
    for load in loads {
        let stats = load.finish();
        ensure!(stats.is_clean(), "{:?}", stats.samples);
        ensure!(stats.per_color.green == 0, "answers of the new color");
    }
    Ok(())
}

#[test]
fn g7_in_a_full_table_new_connections_work_and_are_established_when_there_is_room() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let node = limited(&lab, &[LabService::stream(1)], u32::try_from(ROOM)?, 1_024)?;
    let old = [
        lasting(&lab, Family::V4, ROOM)?,
        lasting(&lab, Family::V6, ROOM)?,
    ];
    ensure!(
        node.packets("established_table_full")? == 0,
        "full too early"
    );
    let new = [
        lasting(&lab, Family::V4, BEYOND)?,
        lasting(&lab, Family::V6, BEYOND)?,
    ];
    let all = u64::try_from(2 * (ROOM + BEYOND))?;
    node.wait_until("all in flight", |it| in_flight(it) == (all, 0))?;
    let pins = Pins::open(&lab)?;
    let entries = || -> Result<[usize; 2]> {
        Ok([
            pins.all(Table::Established)?.len(),
            pins.all(Table::Unanswered)?.len(),
        ])
    };
    ensure!(
        entries()? == [2 * 2 * ROOM, 2 * 2 * BEYOND],
        "two entries for each flow: {:?}",
        entries()?
    );
    ensure!(
        node.packets("established_table_full")? >= u64::try_from(2 * BEYOND)?,
        "a flow that found no room is not counted"
    );
    node.flip(&["stream"], Color::Green)?;
    go_on(&old)?;
    go_on(&new)?;
    end(old)?;
    // Each of the others moves with its next packet.
    let rest = u64::try_from(2 * BEYOND)?;
    node.wait_until("those that found no room", |it| in_flight(it) == (rest, 0))?;
    go_on(&new)?;
    let held = pins.all(Table::Established)?;
    let lasting = held.values().filter(|pin| !pin.state.is_over()).count();
    ensure!(
        lasting == 2 * 2 * BEYOND,
        "{lasting} entries of live flows in the established table, expected {}",
        2 * 2 * BEYOND
    );
    end(new)
}

/// Datagrams of a flood that is answered.
const ANSWERED: u32 = 4 * 2 * 100;

#[test]
fn g7_a_flood_that_backends_answer_fills_the_table_and_harms_no_connection() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let services = [LabService::stream(1), LabService::datagram(2)];
    let node = limited(&lab, &services, u32::try_from(ROOM)?, 1_024)?;
    let half = ROOM / 2;
    let old = [
        lasting(&lab, Family::V4, half)?,
        lasting(&lab, Family::V6, half)?,
    ];
    let to = Family::ALL.map(|family| services[1].target(&lab, family));
    let links = &lab.topology().links;
    let own = Family::ALL.map(|family| links[1].far_addresses(family)[0]);
    let rate = NonZeroU32::new(4_000).expect("it is not zero");
    let flood = Flood::start(lab.client2(), ANSWERED, rate, move |number| {
        let family = usize::try_from(number % 2)?;
        let port = u16::try_from(2_000 + number / 2)?;
        datagram((own[family], port).into(), to[family], b"question")
    })?;
    flood.wait_for(ANSWERED / 2, LIMIT)?;
    node.flip(&["stream"], Color::Green)?;
    flood.finish()?;
    ensure!(
        node.packets("established_table_full")? > 0,
        "the flood did not fill the table"
    );
    go_on(&old)?;
    // Fresh ones find no room, and work.
    for family in Family::ALL {
        let stats = lasting(&lab, family, half)?.finish();
        let new = stats.fresh.iter().all(|it| it.color == Color::Green);
        ensure!(stats.is_clean() && new, "{family:?}: {:?}", stats.samples);
    }
    end(old)
}

/// As many flows as fit three times, in requests of both families.
const THRICE: usize = 3 * ROOM;

#[test]
fn g4_without_an_agent_connections_that_end_leave_the_table() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let web = LabService::web(0);
    let room = u32::try_from(ROOM)?;
    let mut node = limited(&lab, std::slice::from_ref(&web), room, 1_024)?;
    node.kill_agent()?;
    let loads = Family::ALL.map(|family| {
        let target = web.target(&lab, family);
        Client::new(lab.client()).http_new(target, HttpNew::per_second(300))
    });
    for load in loads {
        load.wait_until(LIMIT, |stats| stats.fresh.len() >= THRICE)?;
        let stats = load.finish();
        ensure!(stats.is_clean(), "{:?}", stats.samples);
    }
    let pins = Pins::open(&lab)?;
    let left = wait_for(|| {
        let left = pins.held()?;
        Ok((left.is_empty(), left))
    })?;
    ensure!(left.is_empty(), "all have ended, these are left: {left:#?}");
    Ok(())
}

#[test]
fn g4_without_an_agent_a_table_full_of_idle_flows_takes_new_ones() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    // Each CPU clears away what it has established itself: all that is idle and all that is new are of one.
    let cpu = rustix::thread::sched_getcpu();
    for host in [lab.client(), lab.blue(), lab.green()] {
        host.stay_on(cpu)?;
    }
    let mut datagrams = LabService::datagram(2);
    datagrams.options += "\n[service.idle]\nudp = \"300ms\"";
    let services = [LabService::stream(1), datagrams];
    let mut node = limited(&lab, &services, u32::try_from(ROOM)?, 1_024)?;
    node.kill_agent()?;
    let pins = Pins::open(&lab)?;
    let loads = Family::ALL.map(|family| {
        let target = services[1].target(&lab, family);
        let flows = UdpFlows {
            datagrams: 2,
            ..UdpFlows::per_second(500)
        };
        Client::new(lab.client()).udp_flows(target, flows)
    });
    for load in loads {
        load.wait_until(LIMIT, |stats| stats.fresh.len() >= THRICE)?;
        let stats = load.finish();
        ensure!(stats.is_clean(), "{:?}", stats.samples);
    }
    let before = pins.held()?;
    ensure!(
        before.len() > 2 * ROOM,
        "{} entries: the datagrams did not fill the table",
        before.len()
    );
    // They are silent from now on; these take their places.
    let half = ROOM / 2;
    let loads = [
        lasting(&lab, Family::V4, half)?,
        lasting(&lab, Family::V6, half)?,
    ];
    let streams = wait_for(|| {
        let all = pins.held()?;
        let of_streams = all.keys().filter(|it| it.protocol == Protocol::Tcp as u8);
        let count = of_streams.count();
        Ok((count == 2 * 2 * half, count))
    })?;
    ensure!(
        streams == 2 * 2 * half,
        "{streams} entries of connections in the established table, expected {}",
        2 * 2 * half
    );
    end(loads)
}

/// Looks until what is looked for is there, or for long enough; what was seen last. Without an agent
/// there is nobody to tell when.
fn wait_for<T>(mut look: impl FnMut() -> Result<(bool, T)>) -> Result<T> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let (done, seen) = look()?;
        if done || Instant::now() > deadline {
            return Ok(seen);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
