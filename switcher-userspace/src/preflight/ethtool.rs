//! Offloads of an interface that merge packets before a program sees them.

use std::io;

use ethtool::{EthtoolAttr, EthtoolFeatureAttr, EthtoolMessage};
use netlink_packet_generic::GenlMessage;
use netlink_sys::protocols::NETLINK_GENERIC;

use crate::netlink::{Netlink, generic::Family};

/// The features in question, by the kernel's names, which `ethtool -K` takes too.
const MERGING: [&str; 2] = ["rx-lro", "rx-gro-hw"];

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

    /// The offloads of `interface` that merge packets and are on.
    pub(super) fn merging_offloads(&mut self, interface: &str) -> io::Result<Vec<&'static str>> {
        let mut request =
            GenlMessage::from_payload(EthtoolMessage::new_feature_get(Some(interface)));
        request.set_resolved_family_id(self.family.id);
        let answer = self.netlink.get(request)?;
        Ok(MERGING
            .into_iter()
            .filter(|feature| is_active(&answer.payload, feature))
            .collect())
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
