//! What drivers can do for XDP: the generic netlink family `netdev`, from Linux 6.3 on
//! (`Documentation/netlink/specs/netdev.yaml`).

use std::{collections::BTreeMap, io};

use netlink_packet_core::{
    DecodeError, Emitable, ErrorContext as _, NlasIterator, ParseableParametrized, parse_u32,
    parse_u64,
};
use netlink_packet_generic::{GenlFamily, GenlHeader, GenlMessage};
use netlink_sys::protocols::NETLINK_GENERIC;

use super::{Netlink, events::Events, generic::Family};

const NETDEV_CMD_DEV_GET: u8 = 1;
const NETDEV_A_DEV_IFINDEX: u16 = 1;
const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;
/// The driver takes redirected frames.
const NETDEV_XDP_ACT_NDO_XMIT: u64 = 1 << 2;
/// The multicast group that tells of changes.
const GROUP: &str = "mgmt";

/// Asks the kernel what drivers can do.
pub(crate) struct Netdev {
    netlink: Netlink,
    family: Family,
}

impl Netdev {
    /// `None`: the kernel does not tell; it is older than 6.3.
    pub(crate) fn open() -> io::Result<Option<Self>> {
        let mut netlink = Netlink::open(NETLINK_GENERIC)?;
        let family = Family::find(&mut netlink, Device::family_name())?;
        Ok(family.map(|family| Self { netlink, family }))
    }

    /// Word of changes.
    pub(crate) fn subscribe(&self) -> io::Result<Events> {
        let missing = || io::Error::other(format!("the family netdev has no group {GROUP}"));
        let group = self.family.group(GROUP).ok_or_else(missing)?;
        Events::subscribe(NETLINK_GENERIC, &[group])
    }

    /// Whether each interface takes redirected frames, by index.
    pub(crate) fn takes_redirects(&mut self) -> io::Result<BTreeMap<u32, bool>> {
        let mut request = GenlMessage::from_payload(Device::default());
        request.set_resolved_family_id(self.family.id);
        let devices = self.netlink.dump(request)?;
        Ok(devices
            .into_iter()
            .map(|GenlMessage { payload, .. }| {
                let takes = payload.xdp_features & NETDEV_XDP_ACT_NDO_XMIT != 0;
                (payload.ifindex, takes)
            })
            .collect())
    }
}

/// A device as the family describes it; as a request it asks for all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Device {
    ifindex: u32,
    xdp_features: u64,
}

impl GenlFamily for Device {
    fn family_name() -> &'static str {
        "netdev"
    }

    fn command(&self) -> u8 {
        NETDEV_CMD_DEV_GET
    }

    fn version(&self) -> u8 {
        1
    }
}

impl Emitable for Device {
    fn buffer_len(&self) -> usize {
        0
    }

    fn emit(&self, _buffer: &mut [u8]) {}
}

impl ParseableParametrized<[u8], GenlHeader> for Device {
    fn parse_with_param(attributes: &[u8], _header: GenlHeader) -> Result<Self, DecodeError> {
        const WHAT: &str = "an attribute of a netdev device";
        let mut device = Self::default();
        for attribute in NlasIterator::new(attributes) {
            let attribute = attribute.context(WHAT)?;
            match attribute.kind() {
                NETDEV_A_DEV_IFINDEX => {
                    device.ifindex = parse_u32(attribute.value()).context(WHAT)?;
                }
                NETDEV_A_DEV_XDP_FEATURES => {
                    device.xdp_features = parse_u64(attribute.value()).context(WHAT)?;
                }
                _ => {}
            }
        }
        Ok(device)
    }
}
