//! The link layer: Ethernet, with up to two VLAN tags.

use super::{Ethernet, Frame};
use crate::reason::Reason;

/// What a frame's link-layer header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Where the network header begins in the frame.
    pub ip_offset: usize,
    /// What it is.
    pub family: Family,
    /// Number of VLAN tags.
    pub tags: u8,
    /// VLAN id of the first tag; 0 without one.
    pub vlan_id: u16,
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
const MAX_TAGS: u8 = 2;
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
    let mut ether_type = u16::from_be_bytes(ethernet.ether_type);
    let (mut ip_offset, mut tags, mut vlan_id) = (size_of::<Ethernet>(), 0, 0);
    while tags < MAX_TAGS && ETHERTYPES_VLAN.contains(&ether_type) {
        let tag = frame
            .header::<[u8; TAG_LEN]>(ip_offset)
            .ok_or(Reason::NotIp)?;
        if tags == 0 {
            vlan_id = u16::from_be_bytes([tag[0], tag[1]]) & VLAN_ID;
        }
        ether_type = u16::from_be_bytes([tag[2], tag[3]]);
        ip_offset += TAG_LEN;
        tags += 1;
    }
    let family = match ether_type {
        ETHERTYPE_IPV4 => Family::V4,
        ETHERTYPE_IPV6 => Family::V6,
        _ => return Err(Reason::NotIp),
    };
    Ok(Link {
        ip_offset,
        family,
        tags,
        vlan_id,
    })
}
