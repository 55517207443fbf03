//! Listeners and backends: addresses, ports, weights, and what two of them must not share.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
};

use switcher_common::service::{Color, Protocol};

use super::{Findings, Place};
use crate::config::{BackendConfig, Config, ListenerConfig, MAX_WEIGHT, ServiceConfig};

pub(super) fn check(config: &Config, findings: &mut Findings<'_>) {
    let listeners = || {
        config
            .services
            .iter()
            .flat_map(|service| &service.listeners)
    };
    let vips: BTreeSet<IpAddr> = listeners().map(|listener| listener.vip).collect();
    let mut owners = BTreeMap::new();
    for (index, service) in config.services.iter().enumerate() {
        let service_place = Place::service(index, &service.name);
        for (index, listener) in service.listeners.iter().enumerate() {
            let place = service_place.listener(index, &listener.name);
            check_vip(listener, &place, findings);
            check_owner(listener, &place, &mut owners, findings);
            check_colors(service, listener, &place, findings);
            for color in Color::ALL {
                check_backends(listener, color, &vips, &place, findings);
            }
        }
    }
}

fn check_vip(listener: &ListenerConfig, place: &Place, findings: &mut Findings<'_>) {
    if let Some(wrong) = wrong_address(listener.vip) {
        let what = format!("vip {} {wrong}", listener.vip);
        findings.add(&place.key("vip"), what);
    }
    if listener.port == 0 {
        findings.add(&place.key("port"), "port is 0; expected 1 to 65535");
    }
}

/// Why clients or the node could not reach `address`.
fn wrong_address(address: IpAddr) -> Option<&'static str> {
    if address.is_unspecified() {
        return Some("is the unspecified address; expected an address that can be routed to");
    }
    if address.is_multicast() {
        return Some("is a multicast address; expected a unicast address");
    }
    if address.is_loopback() {
        return Some(
            "is a loopback address, which never leaves a node; expected an address that can be routed to",
        );
    }
    match address {
        IpAddr::V4(Ipv4Addr::BROADCAST) => {
            Some("is the broadcast address; expected a unicast address")
        }
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            Some("is an IPv4 address in IPv6 form; expected the IPv4 address itself")
        }
        IpAddr::V6(v6) if v6.is_unicast_link_local() => Some(
            "is a link-local address, which routers do not forward; expected a global or unique local address",
        ),
        _ => None,
    }
}

/// A packet must find one listener, whatever the service.
fn check_owner(
    listener: &ListenerConfig,
    place: &Place,
    owners: &mut BTreeMap<(IpAddr, u16, Protocol), Place>,
    findings: &mut Findings<'_>,
) {
    let endpoint = (listener.vip, listener.port, listener.protocol);
    if let Some(owner) = owners.get(&endpoint) {
        let what = format!(
            "vip {}, port {} and protocol {} are those of {} too; expected one listener for them",
            listener.vip,
            listener.port,
            protocol_name(listener.protocol),
            owner.subject
        );
        findings.add(place, what);
    } else {
        owners.insert(endpoint, place.clone());
    }
}

fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    }
}

/// The standby may still be empty. A preview listener serves the standby, so that it needs any color.
fn check_colors(
    service: &ServiceConfig,
    listener: &ListenerConfig,
    place: &Place,
    findings: &mut Findings<'_>,
) {
    let active = service.initial_active;
    if !listener.backends(active).is_empty() {
        return;
    }
    if listener.preview {
        if listener.backends(active.other()).is_empty() {
            findings.add(place, "neither color has a backend; expected at least one");
        }
        return;
    }
    let color = active.name();
    let what = format!("{color} has no backend but is initial_active; expected at least one");
    findings.add(&place.key(color), what);
}

fn check_backends(
    listener: &ListenerConfig,
    color: Color,
    vips: &BTreeSet<IpAddr>,
    place: &Place,
    findings: &mut Findings<'_>,
) {
    let mut seen = BTreeSet::new();
    for (index, backend) in listener.backends(color).iter().enumerate() {
        let place = Place {
            subject: format!(
                "{}, {} backend {}",
                place.subject,
                color.name(),
                endpoint(backend)
            ),
            ..place.key(color.name()).index(index)
        };
        check_backend_address(listener, backend, vips, &place, findings);
        if backend.port == 0 {
            findings.add(&place.key("port"), "port is 0; expected 1 to 65535");
        }
        findings.expect_count(
            &place,
            "weight",
            u64::from(backend.weight),
            u64::from(MAX_WEIGHT),
        );
        if !seen.insert((backend.address, backend.port)) {
            let what = format!(
                "it is listed twice for {}; expected once, with a larger weight",
                color.name()
            );
            findings.add(&place, what);
        }
    }
}

fn endpoint(backend: &BackendConfig) -> std::net::SocketAddr {
    (backend.address, backend.port).into()
}

fn check_backend_address(
    listener: &ListenerConfig,
    backend: &BackendConfig,
    vips: &BTreeSet<IpAddr>,
    place: &Place,
    findings: &mut Findings<'_>,
) {
    let place = place.key("address");
    if let Some(wrong) = wrong_address(backend.address) {
        let what = format!("address {wrong}");
        findings.add(&place, what);
    } else if backend.address.is_ipv4() != listener.vip.is_ipv4() {
        let what = format!(
            "the address is {}, the vip {} is {}; expected one family for both",
            family(backend.address),
            listener.vip,
            family(listener.vip)
        );
        findings.add(&place, what);
    }
    if vips.contains(&backend.address) {
        let what = "the address is the vip of a listener, so that packets would come back here; expected a server's own address";
        findings.add(&place, what);
    }
}

fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}
