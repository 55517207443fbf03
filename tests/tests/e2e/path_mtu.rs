//! Path MTU discovery through the node, wherever the path is narrow.

use std::{io, time::Duration};

use anyhow::{Context as _, Result, ensure};
use switcher_tests::{
    lab::{Family, Lab, Role, Topology},
    node::{LabService, Node},
    skip_unless_lab,
    traffic::{Backends, Datagrams, PathMtus, transfer},
};

use crate::mixed::LIMIT;

/// MTU of the narrow place in bytes: more than IPv6's smallest, which is used without a discovery.
const NARROW: u32 = 1_380;
/// MTU of everything else, in bytes.
const WIDE: u32 = 1_500;
/// Bytes in each direction: more than what is sent before the first answer.
const BULK: u64 = 3_000_000;
/// Within which an answer or an error comes on any machine.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// Where the path is narrow, in both directions.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// Between the node and the next router: the node itself finds packets too big.
    NodeEgress,
    /// Beyond the next router.
    BehindRouter,
}

fn is_client(role: Role) -> bool {
    role == Role::Client
}

fn is_backend(role: Role) -> bool {
    !is_client(role)
}

fn discovers(side: fn(Role) -> bool, place: Place) -> Result<()> {
    let mut topology = Topology::routed();
    for router in topology.routers_of(side) {
        match place {
            Place::NodeEgress => router.near_mtu = Some(NARROW),
            Place::BehindRouter => router.path_mtu = Some(NARROW),
        }
    }
    let lab = Lab::builder().topology(topology).build()?;
    let _backends = Backends::start(&lab)?;
    let stream = LabService::bulk(0);
    // At a VIP of its own: what TCP finds out about a path is known to UDP then.
    let probe = LabService {
        name: "probe",
        ..LabService::bulk(1)
    };
    let _node = Node::start(&lab, &[stream.clone(), probe.clone()])?;
    for family in Family::ALL {
        let target = stream.target(&lab, family);
        let found = transfer(lab.client(), target, (BULK, BULK), LIMIT)?;
        let expected = PathMtus {
            client: NARROW,
            backend: NARROW,
        };
        ensure!(found == expected, "{family:?}: {found:?}");
        probes(&lab, &probe, family).with_context(|| format!("{family:?}, probing"))?;
    }
    Ok(())
}

/// UDP that forbids fragments is told the path MTU, and gets through with it.
fn probes(lab: &Lab, service: &LabService, family: Family) -> Result<()> {
    let target = service.target(lab, family);
    let mut flow = Datagrams::open(lab.client(), target, ANSWER_LIMIT)?;
    flow.never_fragment()?;
    ensure!(flow.path_mtu()? == WIDE, "known before");
    let Err(error) = flow.exchange(payload(WIDE, family)) else {
        anyhow::bail!("{WIDE} bytes were answered over a path of {NARROW}");
    };
    let code = error
        .downcast_ref::<io::Error>()
        .and_then(io::Error::raw_os_error);
    ensure!(code == Some(libc::EMSGSIZE), "another error: {error:#}");
    ensure!(flow.path_mtu()? == NARROW, "told {}", flow.path_mtu()?);
    flow.exchange(payload(NARROW, family)).map(drop)
}

/// Bytes of UDP payload of a packet of `mtu` bytes.
const fn payload(mtu: u32, family: Family) -> usize {
    let headers = match family {
        Family::V4 => 20 + 8,
        Family::V6 => 40 + 8,
    };
    mtu as usize - headers
}

#[test]
fn the_nodes_own_way_to_the_clients_may_be_narrow() -> Result<()> {
    skip_unless_lab!(Ok(()));
    discovers(is_client, Place::NodeEgress)
}

#[test]
fn the_nodes_own_way_to_the_backends_may_be_narrow() -> Result<()> {
    skip_unless_lab!(Ok(()));
    discovers(is_backend, Place::NodeEgress)
}

#[test]
fn a_router_at_the_clients_may_have_a_narrow_way() -> Result<()> {
    skip_unless_lab!(Ok(()));
    discovers(is_client, Place::BehindRouter)
}

#[test]
fn a_router_at_the_backends_may_have_a_narrow_way() -> Result<()> {
    skip_unless_lab!(Ok(()));
    discovers(is_backend, Place::BehindRouter)
}
