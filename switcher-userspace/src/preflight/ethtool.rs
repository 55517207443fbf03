//! Offloads of an interface, as far as they stand between the wire and a program.

use std::io;

use ethtool::{EthtoolAttr, EthtoolFeatureAttr, EthtoolMessage};
use netlink_packet_generic::GenlMessage;
use netlink_sys::protocols::NETLINK_GENERIC;

use crate::netlink::{Netlink, generic::Family};

/// Features that merge packets before a program sees them, by the kernel's names, which `ethtool -K`
/// takes too.
pub(super) const MERGING: [&str; 2] = ["rx-lro", "rx-gro-hw"];
/// Takes VLAN tags off before a program sees them.
pub(super) const VLAN_STRIPPING: &str = "rx-vlan-hw-parse";
/// Leaves the checksums of what is sent to hardware.
pub(super) const TX_CHECKSUM: &str = "tx-checksum-ip-generic";

/// Asks the kernel about offloads.
pub(super) struct Ethtool {
    netlink: Netlink,
    family: Family,
}

impl Ethtool {
    pub(super) fn open() -> io::Result<Self> {
        let mut netlink = Netlink::open(NETLINK_GENERIC)?;
        let family = Family::find(&mut netlink, "ethtool")?
            .ok_or_else(|| io::Error::other("the kernel has no netlink family ethtool"))?;
        Ok(Self { netlink, family })
    }

    /// Those of `features` that are on at `interface`.
    pub(super) fn active(
        &mut self,
        interface: &str,
        features: &[&'static str],
    ) -> io::Result<Vec<&'static str>> {
        let mut request =
            GenlMessage::from_payload(EthtoolMessage::new_feature_get(Some(interface)));
        request.set_resolved_family_id(self.family.id);
        let answer = self.netlink.get(request)?;
        let active = |feature: &&&str| is_active(&answer.payload, feature);
        Ok(features.iter().filter(active).copied().collect())
    }
}

fn is_active(message: &EthtoolMessage, feature: &str) -> bool {
    message.nlas.iter().any(|attribute| match attribute {
        EthtoolAttr::Feature(EthtoolFeatureAttr::Active(bits)) => {
            bits.iter().any(|bit| bit.value && bit.name == feature)
        }
        _ => false,
    })
}
