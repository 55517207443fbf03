//! Generic mode: the program is shown what the kernel has merged, and checksums that are not there yet.

use anyhow::{Context as _, Result, ensure};
use switcher_tests::{
    lab::{FAR_INTERFACE, Family, Lab, Offload, Topology},
    node::{LabService, Node, configuration},
    skip_unless_lab,
    traffic::{Datagrams, transfer},
};

use crate::mixed::LIMIT;

/// Enough for the congestion window to open, so that many segments are under way at once.
const BYTES: u64 = 4_000_000;
const NODE_INTERFACES: [&str; 4] = ["c1", "c2", "b", "g"];

fn start<'lab>(lab: &'lab Lab, mode: &str) -> Result<Node<'lab>> {
    let text = configuration(lab, &[LabService::bulk(0)]);
    let text = text.replace("\"native\"", &format!("\"{mode}\""));
    let mut node = Node::configured(lab, &text)?;
    node.start_agent()?;
    let modes = node.status()?["interfaces"].clone();
    let modes = modes.as_array().cloned().unwrap_or_default();
    ensure!(
        modes.len() == 4 && modes.iter().all(|it| it["mode"] == "generic"),
        "{modes:?}"
    );
    Ok(node)
}

/// Bulk data both ways and datagrams, over both families, arrive with their checksums.
fn carries_bulk(lab: &Lab) -> Result<()> {
    for family in Family::ALL {
        let target = LabService::bulk(0).target(lab, family);
        transfer(lab.client(), target, (BYTES, BYTES), LIMIT)
            .with_context(|| format!("{family:?}"))?;
        let mut datagrams = Datagrams::open(lab.client(), target, LIMIT)?;
        for length in [16, 17, 700, 1_400] {
            datagrams.exchange(length)?;
        }
    }
    Ok(())
}

#[test]
fn frames_that_the_node_has_merged_arrive() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let node = start(&lab, "generic")?;
    for interface in NODE_INTERFACES {
        lab.node()
            .set_offload(interface, Offload::GenericReceive, true)?;
        // Else it merges only what it takes from the other end in one go.
        let path = format!("/sys/class/net/{interface}/gro_flush_timeout");
        lab.node()
            .run(|| std::fs::write(&path, "1000000"))
            .with_context(|| format!("writing {path}"))?;
    }
    carries_bulk(&lab)?;
    let merged = node.packets("rewritten_above_mtu")?;
    ensure!(merged > 100, "only {merged} packets were above the MTU");
    Ok(())
}

#[test]
fn frames_whose_senders_have_left_the_work_to_hardware_arrive() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let node = start(&lab, "generic")?;
    for host in [lab.client(), lab.blue(), lab.green()] {
        for offload in [
            Offload::TxChecksum,
            Offload::TcpSegmentation,
            Offload::GenericSegmentation,
        ] {
            host.set_offload(FAR_INTERFACE, offload, true)?;
        }
    }
    carries_bulk(&lab)?;
    let merged = node.packets("rewritten_above_mtu")?;
    ensure!(merged > 100, "only {merged} packets were above the MTU");
    Ok(())
}
