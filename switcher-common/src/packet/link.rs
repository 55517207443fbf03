//! The link layer: Ethernet, with up to two VLAN tags.

use super::{Ethernet, Frame, field::Field as _};
use crate::reason::Reason;

/// What a frame's link-layer header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Where the network header begins in the frame.
    pub ip_offset: usize,
    /// What it is.
    pub family: Family,
}

/// The VLAN tags of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tags {
    /// How many.
    pub count: usize,
    /// VLAN id of the first one; 0 without one.
    pub vlan_id: u16,
}

impl Tags {
    /// Whether the frame belongs to no VLAN. A single tag of VLAN 0 says its priority only (IEEE
    /// 802.1Q, 6.9.1).
    #[inline(always)]
    #[must_use]
    pub const fn are_none(self) -> bool {
        self.count == 0 || (self.count == 1 && self.vlan_id == 0)
    }
}

/// IP version as the ethertype says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
/// IEEE 802.1Q and 802.1ad.
const ETHERTYPES_VLAN: [u16; 2] = [0x8100, 0x88a8];
/// Tags that are stepped over.
const MAX_TAGS: usize = 2;
/// Bytes of a tag: its control information, and the ethertype of what follows.
const TAG_LEN: usize = 4;
/// VLAN id in the tag's control information.
const VLAN_ID: u16 = 0x0fff;

/// Reads the link-layer header. The error is the reason to pass the frame untouched.
#[inline(always)]
pub fn link<F: Frame + ?Sized>(frame: &F) -> Result<Link, Reason> {
    let ethernet = frame.header::<Ethernet>(0).ok_or(Reason::NotIp)?;
    if ethernet.destination[0] & 1 != 0 {
        return Err(Reason::LinkMulticast);
    }
    let mut ether_type = u16::from_be(ethernet.ether_type.get());
    let (mut ip_offset, mut tags) = (size_of::<Ethernet>(), 0);
    while tags < MAX_TAGS && ETHERTYPES_VLAN.contains(&ether_type) {
        let tag = frame
            .header::<[u8; TAG_LEN]>(ip_offset)
            .ok_or(Reason::NotIp)?;
        ether_type = u16::from_be_bytes([tag[2], tag[3]]);
        ip_offset += TAG_LEN;
        tags += 1;
    }
    let family = match ether_type {
        ETHERTYPE_IPV4 => Family::V4,
        ETHERTYPE_IPV6 => Family::V6,
        _ => return Err(Reason::NotIp),
    };
    Ok(Link { ip_offset, family })
}

/// Reads the tags of a frame whose network header begins at `ip_offset`, as [`link`] said.
#[inline(always)]
pub fn tags<F: Frame + ?Sized>(frame: &F, ip_offset: usize) -> Tags {
    let count = ip_offset.saturating_sub(size_of::<Ethernet>()) / TAG_LEN;
    let first = if count == 0 {
        None
    } else {
        frame.header::<[u8; 2]>(size_of::<Ethernet>())
    };
    Tags {
        count,
        vlan_id: first.map_or(0, |tag| u16::from_be_bytes(*tag) & VLAN_ID),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An IPv4 frame with the tags of these VLANs, each with a priority.
    fn frame(vlan_ids: &[u16]) -> [u8; 24] {
        let mut frame = [2; 24];
        let mut at = 12;
        for id in vlan_ids {
            frame[at..at + 2].copy_from_slice(&[0x81, 0]);
            frame[at + 2..at + 4].copy_from_slice(&(0x6000 | id).to_be_bytes());
            at += TAG_LEN;
        }
        frame[at..at + 3].copy_from_slice(&[8, 0, 0x45]);
        frame
    }

    #[test]
    fn tags_are_those_that_were_stepped_over() {
        for (ids, count, vlan_id, are_none) in [
            (&[][..], 0, 0, true),
            (&[0], 1, 0, true),
            (&[7], 1, 7, false),
            (&[0xfff], 1, 0xfff, false),
            (&[0, 7], 2, 0, false),
            (&[7, 8], 2, 7, false),
        ] {
            let frame = frame(ids);
            let link = link(&frame[..]).expect("an IPv4 frame");
            assert_eq!(frame[link.ip_offset], 0x45, "{ids:?}");
            let tags = tags(&frame[..], link.ip_offset);
            assert_eq!(tags, Tags { count, vlan_id }, "{ids:?}");
            assert_eq!(tags.are_none(), are_none, "{ids:?}");
        }
    }
}
