//! Datagrams larger than the MTU, both ways through a VIP.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use switcher_common::service::Color;
use switcher_tests::{
    lab::{Family, Lab, Topology},
    node::{LabService, Node},
    skip_unless_lab,
    traffic::{Backends, Datagrams},
};

/// Within which an answer comes on any machine.
const LIMIT: Duration = Duration::from_secs(2);
/// Bytes of payload: two, three and six fragments, the last one tiny or almost full.
const LENGTHS: [usize; 4] = [1_480, 4_000, 4_430, 8_000];
/// Flows of each family that run while the color changes.
const FLOWS: usize = 3;
/// Datagrams of each length and flow, before and after.
const ROUNDS: usize = 10;

fn start(topology: Topology) -> Result<(Lab, Backends)> {
    let lab = Lab::builder()
        .topology(topology)
        .permanent_neighbours(false)
        .build()?;
    let backends = Backends::start(&lab)?;
    Ok((lab, backends))
}

fn arrive_complete(topology: Topology) -> Result<()> {
    let (lab, _backends) = start(topology)?;
    let service = LabService::bulk(0);
    let node = Node::start(&lab, std::slice::from_ref(&service))?;
    let open = |family| Datagrams::open(lab.client(), service.target(&lab, family), LIMIT);
    for family in Family::ALL {
        lab.node().forget_neighbours()?;
        let mut flow = open(family)?;
        for length in LENGTHS {
            let by = flow.exchange(length)?;
            ensure!(by.color == Color::Blue, "{family:?}: {by}");
        }
    }
    let flipped = AtomicBool::new(false);
    thread::scope(|scope| {
        let flows = Family::ALL.iter().flat_map(|family| [family; FLOWS]);
        let flows: Vec<_> = flows
            .map(|family| {
                let (flow, flipped) = (open(*family), &flipped);
                scope.spawn(move || stays(flow?, flipped))
            })
            .collect();
        node.flip(&["bulk"], Color::Green)?;
        flipped.store(true, Ordering::Release);
        for flow in flows {
            flow.join()
                .map_err(|_| anyhow::anyhow!("a flow panicked"))??;
        }
        anyhow::Ok(())
    })?;
    for family in Family::ALL {
        let by = open(family)?.exchange(4_000)?;
        ensure!(by.color == Color::Green, "{family:?}: {by}");
    }
    Ok(())
}

/// The flow loses nothing and has one backend, until it has gone on for a while after the flip.
fn stays(mut flow: Datagrams, flipped: &AtomicBool) -> Result<()> {
    let backend = flow.exchange(4_000)?;
    let mut rounds = 0;
    while rounds < ROUNDS {
        for length in LENGTHS {
            let by = flow.exchange(length)?;
            ensure!(by == backend, "{by} instead of {backend}");
        }
        if flipped.load(Ordering::Acquire) {
            rounds += 1;
        }
    }
    Ok(())
}

#[test]
fn large_datagrams_arrive_complete_both_ways_and_over_a_flip() -> Result<()> {
    skip_unless_lab!(Ok(()));
    arrive_complete(Topology::two_colors(2)).context("two interfaces")?;
    arrive_complete(Topology::hairpin()).context("hairpin")
}

/// Fragments of IPv4 are cut again by routers with smaller links, and by the node.
#[test]
fn large_datagrams_arrive_over_narrow_links() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let mut topology = Topology::routed();
    for router in topology.routers_of(|_| true) {
        router.near_mtu = Some(1_380);
    }
    let (lab, _backends) = start(topology)?;
    let service = LabService::bulk(0);
    let node = Node::start(&lab, std::slice::from_ref(&service))?;
    // Behind a router that cuts, and from a client whose own link is as wide as its datagrams' fragments.
    for client in [lab.client(), lab.client2()] {
        let mut flow = Datagrams::open(client, service.target(&lab, Family::V4), LIMIT)?;
        for length in LENGTHS {
            flow.exchange(length).context(client.name().to_owned())?;
        }
    }
    let by_the_node = node.packets("rewritten_above_mtu")?;
    ensure!(by_the_node > 0, "nothing was cut by the node");
    Ok(())
}
