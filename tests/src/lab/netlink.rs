//! Links, addresses, routes and neighbours, over netlink. Each call acts on the network namespace
//! of the thread that runs it.

use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};

use anyhow::{Context, Result, bail};
use futures_util::{StreamExt, TryStreamExt};
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope,
};
use rtnetlink::packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkMessage, LinkXdp, State,
};
use rtnetlink::packet_route::neighbour::{NeighbourMessage, NeighbourState};
use rtnetlink::packet_route::route::{RouteAttribute, RouteMetric, RouteScope};
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use rtnetlink::{
    Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, MulticastGroup,
    RouteMessageBuilder,
};

use super::wiring::Route;

/// Native mode (`linux/if_link.h`).
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;
/// The number of a route's MTU among its metrics (`linux/rtnetlink.h`).
const RTAX_MTU: u32 = 2;

/// A network interface of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name, such as `c1`.
    pub name: String,
    /// Its index in the host's network namespace.
    pub index: u32,
    /// Its Ethernet address.
    pub mac: [u8; 6],
    /// Its MTU, in bytes.
    pub mtu: u32,
}

/// The addresses of one end of a link, with the length of the prefix that is reached over it.
pub(super) type Addresses<'a> = &'a [(IpAddr, u8)];

/// Opens a connection whose background task ends when the handle is dropped.
fn connect() -> Result<Handle> {
    let (connection, handle, _) = rtnetlink::new_connection().context("opening netlink")?;
    tokio::spawn(connection);
    Ok(handle)
}

/// Looks up one interface.
pub(super) async fn interface(name: &str) -> Result<Interface> {
    let handle = connect()?;
    let mut found = std::pin::pin!(handle.link().get().match_name(name).execute());
    let message = found.try_next().await.context("asking netlink")?;
    describe(message.context("netlink answered nothing")?)
}

fn describe(message: LinkMessage) -> Result<Interface> {
    let (mut name, mut mac, mut mtu) = (None, [0; 6], 0);
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(value) => name = Some(value),
            LinkAttribute::Mtu(value) => mtu = value,
            LinkAttribute::Address(value) => {
                mac = value
                    .try_into()
                    .ok()
                    .context("an address that is not Ethernet's")?;
            }
            _ => {}
        }
    }
    let name = name.context("an interface without a name")?;
    Ok(Interface {
        name,
        index: message.header.index,
        mac,
        mtu,
    })
}

/// Makes a veth pair: `here` in this namespace and `there` directly in the namespace `peer`.
pub(super) async fn add_veth(here: &str, there: &str, peer: impl AsFd, mtu: u32) -> Result<()> {
    let handle = connect()?;
    let other = LinkMessageBuilder::<LinkUnspec>::new()
        .name(there)
        .mtu(mtu)
        .setns_by_fd(peer.as_fd().as_raw_fd())
        .build();
    let pair = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
        .name(here)
        .mtu(mtu)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(other)))
        .build();
    let added = handle.link().add(pair).execute().await;
    added.with_context(|| format!("adding the veth pair {here}, {there}"))
}

/// Attaches an XDP program in native mode.
pub(super) async fn attach_native(name: &str, program: impl AsFd) -> Result<()> {
    set_native(name, program.as_fd().as_raw_fd()).await
}

/// Takes an interface's XDP program off that was attached so, if there is one.
pub(super) async fn detach_native(name: &str) -> Result<()> {
    const NO_PROGRAM: i32 = -1;
    set_native(name, NO_PROGRAM).await
}

async fn set_native(name: &str, program: i32) -> Result<()> {
    let attributes = vec![LinkXdp::Fd(program), LinkXdp::Flags(XDP_FLAGS_DRV_MODE)];
    let request = LinkUnspec::new_with_index(interface(name).await?.index)
        .append_extra_attribute(LinkAttribute::Xdp(attributes))
        .build();
    let set = connect()?.link().set(request).execute().await;
    set.with_context(|| format!("setting the XDP program of interface {name}"))
}

/// Sets an interface up.
pub(super) async fn set_up(name: &str) -> Result<()> {
    let index = interface(name).await?.index;
    let request = LinkUnspec::new_with_index(index).up().build();
    let set = connect()?.link().set(request).execute().await;
    set.with_context(|| format!("setting interface {name} up"))
}

/// Sets an interface down.
pub(super) async fn set_down(name: &str) -> Result<()> {
    let index = interface(name).await?.index;
    let request = LinkUnspec::new_with_index(index).down().build();
    let set = connect()?.link().set(request).execute().await;
    set.with_context(|| format!("setting interface {name} down"))
}

/// Adds addresses, usable at once: without duplicate address detection.
pub(super) async fn add_addresses(name: &str, addresses: Addresses<'_>) -> Result<()> {
    let index = interface(name).await?.index;
    let handle = connect()?;
    for &(address, prefix) in addresses {
        let mut request = handle.address().add(index, address, prefix);
        if address.is_ipv6() {
            let message = request.message_mut();
            message.header.flags |= AddressHeaderFlags::Nodad;
            message
                .attributes
                .push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        let added = request.execute().await;
        added.with_context(|| format!("adding {address}/{prefix} to interface {name}"))?;
    }
    Ok(())
}

/// Adds a route.
pub(super) async fn add_route(route: &Route) -> Result<()> {
    let (to, prefix) = route.to;
    let index = interface(route.interface).await?.index;
    let mut message = RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(to, prefix)?
        .output_interface(index);
    if let Some(gateway) = route.gateway {
        message = message.gateway(gateway)?;
    } else {
        message = message.scope(RouteScope::Link);
    }
    let mut message = message.build();
    if let Some(bytes) = route.mtu {
        // Locked: no path MTU that is found later replaces it.
        let metrics = vec![RouteMetric::Lock(1 << RTAX_MTU), RouteMetric::Mtu(bytes)];
        message.attributes.push(RouteAttribute::Metrics(metrics));
    }
    let added = connect()?.route().add(message).execute().await;
    added.with_context(|| format!("adding {route:?}"))
}

/// Drops all that this namespace sends from now on; what arrives still does.
pub(super) async fn send_nothing() -> Result<()> {
    // After the rule for local addresses, which is the first.
    const PRIORITY: u32 = 1;
    let handle = connect()?;
    let set = |message: &mut RuleMessage| {
        message.header.action = RuleAction::Blackhole;
        message.attributes.push(RuleAttribute::Priority(PRIORITY));
    };
    let mut v4 = handle.rule().add().v4();
    set(v4.message_mut());
    v4.execute().await.context("adding an IPv4 rule")?;
    let mut v6 = handle.rule().add().v6();
    set(v6.message_mut());
    v6.execute().await.context("adding an IPv6 rule")
}

/// Makes a bridge without ports.
pub(super) async fn add_bridge(name: &str) -> Result<()> {
    let added = connect()?.link().add(LinkBridge::new(name).build());
    added
        .execute()
        .await
        .with_context(|| format!("adding the bridge {name}"))
}

/// Makes an interface a port of a bridge, and sets it up.
pub(super) async fn join_bridge(port: &str, bridge: &str) -> Result<()> {
    let bridge_index = interface(bridge).await?.index;
    let request = LinkUnspec::new_with_index(interface(port).await?.index);
    let request = request.controller(bridge_index).up().build();
    let set = connect()?.link().set(request).execute().await;
    set.with_context(|| format!("making {port} a port of the bridge {bridge}"))
}

/// Forgets all neighbours: those that are needed again have to be resolved.
pub(super) async fn forget_neighbours() -> Result<()> {
    let handle = connect()?;
    let known: Vec<_> = handle.neighbours().get().execute().try_collect().await?;
    let resolved = |it: &NeighbourMessage| it.header.state != NeighbourState::Noarp;
    for neighbour in known.into_iter().filter(resolved) {
        let what = format!("forgetting {neighbour:?}");
        handle
            .neighbours()
            .del(neighbour)
            .execute()
            .await
            .context(what)?;
    }
    Ok(())
}

/// Adds permanent neighbours behind `name`, all at `mac`.
pub(super) async fn add_neighbours(
    name: &str,
    mac: [u8; 6],
    addresses: Addresses<'_>,
) -> Result<()> {
    let index = interface(name).await?.index;
    let handle = connect()?;
    for &(address, _) in addresses {
        let request = handle
            .neighbours()
            .add(index, address)
            .link_layer_address(&mac);
        let added = request.replace().execute().await;
        added.with_context(|| format!("adding neighbour {address} to interface {name}"))?;
    }
    Ok(())
}

/// Waits until `name`, which was set up at both ends, carries traffic: the kernel takes notice of
/// a carrier, and joins the multicast groups of IPv6, in the background, up to a second later.
pub(super) async fn ready(name: &str) -> Result<()> {
    let groups = [MulticastGroup::Link, MulticastGroup::Ipv6Ifaddr];
    let (connection, handle, mut events) =
        rtnetlink::new_multicast_connection(&groups).context("opening netlink")?;
    tokio::spawn(connection);
    while !is_ready(&handle, name).await? {
        let event = events.next().await;
        event.with_context(|| format!("netlink closed while waiting for interface {name}"))?;
    }
    Ok(())
}

async fn is_ready(handle: &Handle, name: &str) -> Result<bool> {
    let mut found = std::pin::pin!(handle.link().get().match_name(name).execute());
    let link = found
        .try_next()
        .await
        .context("asking netlink")?
        .context("no such interface")?;
    let addresses = handle
        .address()
        .get()
        .set_link_index_filter(link.header.index)
        .execute();
    let addresses: Vec<AddressMessage> = addresses.try_collect().await.context("asking netlink")?;
    let up = link
        .attributes
        .contains(&LinkAttribute::OperState(State::Up));
    let usable = |it: &AddressMessage| !it.header.flags.contains(AddressHeaderFlags::Tentative);
    let link_local = |it: &AddressMessage| it.header.scope == AddressScope::Link;
    Ok(up && addresses.iter().all(usable) && addresses.iter().any(link_local))
}

/// Waits until the interface `name` is gone from this namespace.
pub(super) async fn gone(name: &str) -> Result<()> {
    let (connection, handle, mut events) =
        rtnetlink::new_multicast_connection(&[MulticastGroup::Link]).context("opening netlink")?;
    tokio::spawn(connection);
    let mut links = std::pin::pin!(handle.link().get().execute());
    let mut present = false;
    while let Some(link) = links.try_next().await.context("listing interfaces")? {
        present |= is_named(&link, name);
    }
    while present {
        let Some((message, _)) = events.next().await else {
            bail!("netlink closed while waiting for the end of interface {name}");
        };
        if let NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(link)) = message.payload {
            present = !is_named(&link, name);
        }
    }
    Ok(())
}

fn is_named(link: &LinkMessage, name: &str) -> bool {
    link.attributes
        .iter()
        .any(|it| matches!(it, LinkAttribute::IfName(is) if is == name))
}
