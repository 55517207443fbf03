//! Counting flows and forgetting them.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;
use switcher_tests::{
    lab::{Family, Lab},
    node::{LabService, Node, service_in},
    skip_unless_lab,
    traffic::{Client, Load, LongLived, UdpLongLived},
};

use crate::mixed::LIMIT;

/// One message, then silence.
const SILENCE: Duration = Duration::from_hours(1);

fn lasting(lab: &Lab, family: Family, connections: usize, interval: Duration) -> Result<Load> {
    let options = LongLived {
        connections,
        interval,
        ..LongLived::default()
    };
    let target = LabService::stream(1).target(lab, family);
    let load = Client::new(lab.client()).long_lived(target, options);
    load.wait_until(LIMIT, |stats| stats.fresh.len() == connections)?;
    Ok(load)
}

fn in_flight(status: &Value, service: &str) -> (u64, u64) {
    let flows = &service_in(status, service)["in_flight"];
    let of = |color: &str| flows[color].as_u64().unwrap_or(u64::MAX);
    (of("blue"), of("green"))
}

#[test]
fn in_flight_is_the_number_of_open_connections() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let node = Node::start(&lab, &[LabService::stream(1)])?;
    let every = Duration::from_millis(100);
    let v4 = lasting(&lab, Family::V4, 50, every)?;
    let v6 = lasting(&lab, Family::V6, 50, every)?;
    let status = node.wait_until("all 100", |it| in_flight(it, "stream") == (100, 0))?;
    ensure!(
        status["tables"]["established_entries"] == 200,
        "two entries each: {status}"
    );
    ensure!(v4.finish().is_clean(), "IPv4");
    node.wait_until("those of IPv6", |it| in_flight(it, "stream") == (50, 0))?;
    ensure!(v6.finish().is_clean(), "IPv6");
    node.wait_until("none", |it| in_flight(it, "stream") == (0, 0))?;
    Ok(())
}

#[test]
fn silent_flows_are_forgotten_and_leave_the_tables_empty() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let short = |service: LabService| {
        LabService {
        options: "[service.idle]\nunanswered = \"1s\"\nestablished = \"2s\"\nclosing = \"1s\"\nudp = \"2s\""
            .to_owned(),
        ..service
    }
    };
    let services = [short(LabService::stream(1)), short(LabService::datagram(2))];
    let node = Node::start(&lab, &services)?;
    let mut loads = Vec::new();
    for family in Family::ALL {
        // In both states that end by a timeout: established and closing.
        ensure!(
            lasting(&lab, family, 10, SILENCE)?.finish().is_clean(),
            "{family:?}"
        );
        let target = LabService::datagram(2).target(&lab, family);
        let options = UdpLongLived {
            interval: SILENCE,
            ..UdpLongLived::default()
        };
        let datagrams = Client::new(lab.client()).udp_long_lived(target, options);
        datagrams.wait_until(LIMIT, |stats| stats.fresh.len() == 10)?;
        loads.push(datagrams);
        loads.push(lasting(&lab, family, 10, SILENCE)?);
    }
    let both = |status: &Value| (in_flight(status, "stream"), in_flight(status, "datagram"));
    node.wait_until("all in flight", |it| both(it) == ((20, 0), (20, 0)))?;
    let status = node.wait_until("none in flight", |it| both(it) == ((0, 0), (0, 0)))?;
    // The connections are still open: it was their silence.
    ensure!(
        loads.iter().all(|load| load.snapshot().is_clean()),
        "{status}"
    );
    node.wait_until("empty tables", |status| {
        let tables = &status["tables"];
        tables["established_entries"] == 0 && tables["unanswered_entries"] == 0
    })?;
    Ok(())
}
