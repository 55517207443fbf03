//! Pings of VIPs.

use anyhow::{Result, ensure};
use switcher_tests::{
    lab::{Family, Lab, Topology},
    skip_unless_lab,
    traffic::{Backends, ping},
};

use crate::mixed::LIMIT;

fn lab(vips_on_lo: bool) -> Result<(Lab, Backends)> {
    let topology = Topology {
        vips_on_lo,
        ..Topology::two_colors(2)
    };
    let lab = Lab::builder().topology(topology).build()?;
    let backends = Backends::start(&lab)?;
    Ok((lab, backends))
}

#[test]
fn vips_answer_pings_whether_or_not_they_are_addresses_of_the_node() -> Result<()> {
    skip_unless_lab!(Ok(()));
    for vips_on_lo in [true, false] {
        let (lab, _backends) = lab(vips_on_lo)?;
        let node = crate::start(&lab)?;
        for family in Family::ALL {
            for client in [lab.client(), lab.client2()] {
                for payload in [0, 56, 1_400] {
                    ping(client, lab.vip(family, 0), payload, LIMIT)?;
                }
            }
        }
        ensure!(node.packets("echo_answered")? == 12, "by the program");
    }
    Ok(())
}
