//! Generic mode: the program is shown what the kernel has merged, and checksums that are not there yet.

use anyhow::{Context as _, Result, ensure};
use switcher_tests::{
    lab::{FAR_INTERFACE, Family, Lab, Offload},
    node::{LabService, Node, configuration},
    skip_unless_lab,
    traffic::{Backends, Datagrams, transfer},
};

use crate::mixed::LIMIT;

/// Enough for the congestion window to open, so that many segments are under way at once.
const BYTES: u64 = 4_000_000;

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

/// The largest MTU that native mode takes without multi-buffer packets is 3506.
#[test]
fn where_native_mode_is_not_to_be_had_auto_means_generic_and_large_frames_arrive() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().mtu(9_000).build()?;
    let _backends = Backends::start(&lab)?;
    let node = start(&lab, "auto")?;
    ensure!(
        node.log().contains("native XDP is not to be had"),
        "{}",
        node.log()
    );
    carries_bulk(&lab)?;
    let redirected = node.packets("redirected")?;
    ensure!(redirected > 1_000, "only {redirected} by the program");
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
    for (reason, enough) in [
        ("rewritten_above_mtu", 100),
        ("rewritten_checksum_left", 10),
    ] {
        let packets = node.packets(reason)?;
        ensure!(packets >= enough, "only {packets} packets: {reason}");
    }
    Ok(())
}
