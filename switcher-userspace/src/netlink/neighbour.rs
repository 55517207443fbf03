//! The node's neighbours: which link address is behind an IP address.

use std::{io, net::IpAddr};

use netlink_packet_route::{
    RouteNetlinkMessage,
    neighbour::{
        NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
    },
};

use super::Netlink;

/// What the kernel says of a neighbour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Neighbour {
    /// Index of the interface that it is behind.
    pub(crate) interface: u32,
    pub(crate) address: IpAddr,
    /// `None`: nothing is sent to it, because it is being looked for, not found, or forgotten.
    pub(crate) link_address: Option<Vec<u8>>,
}

/// All neighbours of the namespace that `netlink`, of the protocol `NETLINK_ROUTE`, belongs to.
pub(crate) fn all(netlink: &mut Netlink) -> io::Result<Vec<Neighbour>> {
    let request = RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default());
    let answers = netlink.dump(request)?;
    let of_answer = |answer| match answer {
        RouteNetlinkMessage::NewNeighbour(message) => known(&message),
        _ => None,
    };
    Ok(answers.into_iter().filter_map(of_answer).collect())
}

/// One that is there; `None`: it is none of IP, but of a bridge, or one that the node only answers for (proxy ARP
/// and NDP), and of which nothing is known.
pub(crate) fn known(message: &NeighbourMessage) -> Option<Neighbour> {
    let link_address = is_valid(message.header.state).then(|| {
        let of_link = message.attributes.iter().find_map(|it| match it {
            NeighbourAttribute::LinkLayerAddress(address) => Some(address.clone()),
            _ => None,
        });
        of_link.unwrap_or_default()
    });
    with_link_address(message, link_address)
}

/// One that the kernel has forgotten.
pub(crate) fn forgotten(message: &NeighbourMessage) -> Option<Neighbour> {
    with_link_address(message, None)
}

fn with_link_address(
    message: &NeighbourMessage,
    link_address: Option<Vec<u8>>,
) -> Option<Neighbour> {
    if message.header.flags.contains(NeighbourFlags::Proxy) {
        return None;
    }
    let address = message.attributes.iter().find_map(|it| match it {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => {
            Some(IpAddr::V4(*address))
        }
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => {
            Some(IpAddr::V6(*address))
        }
        _ => None,
    })?;
    Some(Neighbour {
        interface: message.header.ifindex,
        address,
        link_address,
    })
}

/// `NUD_VALID` of the kernel's `net/neighbour.h`: packets are sent to its link address.
const fn is_valid(state: NeighbourState) -> bool {
    matches!(
        state,
        NeighbourState::Permanent
            | NeighbourState::Noarp
            | NeighbourState::Reachable
            | NeighbourState::Probe
            | NeighbourState::Stale
            | NeighbourState::Delay
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(flags: NeighbourFlags) -> NeighbourMessage {
        let mut message = NeighbourMessage::default();
        message.header.ifindex = 2;
        message.header.state = NeighbourState::Reachable;
        message.header.flags = flags;
        message.attributes = vec![
            NeighbourAttribute::Destination(NeighbourAddress::Inet([10, 0, 0, 1].into())),
            NeighbourAttribute::LinkLayerAddress(vec![2, 0, 0, 0, 0, 1]),
        ];
        message
    }

    #[test]
    fn whom_the_node_answers_for_is_no_neighbour() {
        let real = message(NeighbourFlags::Router);
        let expected = Neighbour {
            interface: 2,
            address: [10, 0, 0, 1].into(),
            link_address: Some(vec![2, 0, 0, 0, 0, 1]),
        };
        assert_eq!(known(&real), Some(expected.clone()));
        let gone = Neighbour {
            link_address: None,
            ..expected
        };
        assert_eq!(forgotten(&real), Some(gone));
        let proxy = message(NeighbourFlags::Proxy);
        assert_eq!(known(&proxy), None);
        assert_eq!(forgotten(&proxy), None);
    }
}
