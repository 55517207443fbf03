//! Who is connected to whom, under which names and addresses. Data only.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use switcher_common::service::Color;

/// IP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The version of `address`.
    #[must_use]
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// The name of every link's end on the far side of the node.
pub const FAR_INTERFACE: &str = "eth0";

/// What a host is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Connects to VIPs.
    Client,
    /// Serves one color.
    Backends(Color),
}

/// One veth pair between the node and another host.
///
/// Its networks are `10.<number>.0.0/24` and `fd00:<number>::/64`; the node is number 1 in both.
#[derive(Clone, Debug)]
pub struct Link {
    /// The host at the far end, where the interface is called [`FAR_INTERFACE`].
    pub host: &'static str,
    /// What that host is there for.
    pub role: Role,
    /// The name of the node's interface.
    pub node_interface: &'static str,
    /// The number of the link's networks.
    pub number: u8,
    /// The last part of each address of the far host, in both networks.
    pub far: Vec<u8>,
}

impl Link {
    /// Length of the link's prefixes, in bits.
    const fn prefix(family: Family) -> u8 {
        match family {
            Family::V4 => 24,
            Family::V6 => 64,
        }
    }

    fn address(&self, family: Family, last: u8) -> IpAddr {
        match family {
            Family::V4 => Ipv4Addr::new(10, self.number, 0, last).into(),
            Family::V6 => {
                let (number, last) = (u16::from(self.number), u16::from(last));
                Ipv6Addr::new(0xfd00, number, 0, 0, 0, 0, 0, last).into()
            }
        }
    }

    /// The node's address on this link.
    #[must_use]
    pub fn node_address(&self, family: Family) -> IpAddr {
        self.address(family, 1)
    }

    /// The far host's addresses on this link.
    #[must_use]
    pub fn far_addresses(&self, family: Family) -> Vec<IpAddr> {
        self.far
            .iter()
            .map(|&last| self.address(family, last))
            .collect()
    }

    /// The node's addresses with their prefixes.
    pub(super) fn node_prefixes(&self) -> Vec<(IpAddr, u8)> {
        Family::ALL
            .map(|it| (self.node_address(it), Self::prefix(it)))
            .to_vec()
    }

    /// The far host's addresses with their prefixes.
    pub(super) fn far_prefixes(&self) -> Vec<(IpAddr, u8)> {
        let of = |family| {
            let addresses = self.far_addresses(family).into_iter();
            addresses.map(move |address| (address, Self::prefix(family)))
        };
        Family::ALL.into_iter().flat_map(of).collect()
    }
}

/// A node with its links and VIPs.
#[derive(Clone, Debug)]
pub struct Topology {
    /// The links of the node.
    pub links: Vec<Link>,
    /// How many VIPs of each family the node has on `lo`, at most 250.
    pub vip_count: u8,
    /// MTU of all links, in bytes.
    pub mtu: u32,
}

impl Topology {
    /// Two clients and one host for each color with `backends_per_color` addresses per family.
    #[must_use]
    pub fn two_colors(backends_per_color: u8) -> Self {
        let client = |host, node_interface, number| Link {
            host,
            role: Role::Client,
            node_interface,
            number,
            far: vec![2],
        };
        let color = |color: Color, node_interface, number| Link {
            host: color.name(),
            role: Role::Backends(color),
            node_interface,
            number,
            far: (11..=10 + backends_per_color).collect(),
        };
        let links = vec![
            client("client", "c1", 1),
            client("client2", "c2", 2),
            color(Color::Blue, "b", 3),
            color(Color::Green, "g", 4),
        ];
        Self {
            links,
            vip_count: 3,
            mtu: 1500,
        }
    }

    /// VIP number `index`, counted from 0: an address of the documentation networks.
    ///
    /// # Panics
    /// Where there are fewer.
    #[must_use]
    pub fn vip(&self, family: Family, index: u8) -> IpAddr {
        assert!(
            index < self.vip_count,
            "VIP {index} of {}: ask for more",
            self.vip_count
        );
        match family {
            Family::V4 => Ipv4Addr::new(192, 0, 2, index + 1).into(),
            Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(index) + 1).into(),
        }
    }

    /// All VIPs, as addresses of a single host.
    pub(super) fn vip_prefixes(&self) -> Vec<(IpAddr, u8)> {
        let of = |family| (0..self.vip_count).map(move |index| self.vip(family, index));
        let v4 = of(Family::V4).map(|address| (address, 32));
        v4.chain(of(Family::V6).map(|address| (address, 128)))
            .collect()
    }
}
