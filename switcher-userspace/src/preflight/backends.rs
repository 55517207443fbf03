//! The way to the backends, and the way back.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{
    Report,
    forwarding::set_all,
    list,
    network::{Network, Route},
    report::Problem,
    shell_word,
    sysctl::{Sysctl, of_interface, set_command},
};
use crate::config::{Config, ListenerConfig};

/// Addresses that are looked up: enough to notice a mistake, few enough to start at once.
const MAX_LOOKED_UP: usize = 256;

/// An address that backends have.
struct Target {
    address: IpAddr,
    /// `service/listener` of the first one.
    user: String,
    /// Replies from here get an IPv4 address of this node as their source.
    is_behind_local_v4_vip: bool,
    route: Route,
}

impl Target {
    fn title(&self) -> String {
        format!("{} ({})", self.address, self.user)
    }
}

pub(super) fn check(config: &Config, network: &mut Network, sysctl: &Sysctl, report: &mut Report) {
    let local_vips = local_v4_vips(config, network, report);
    let targets = look_up(config, &local_vips, network, report);
    report.settle("backend_local", local(&targets));
    report.settle("backend_route", unreachable(&targets));
    report.settle("backend_device", strange_devices(config, &targets, network));
    check_neighbours(&targets, network, report);
    report.settle(
        "send_redirects",
        misled_backends(config, &targets, network, sysctl),
    );
    if local_vips.is_empty() {
        return;
    }
    report.settle(
        "accept_local",
        rejected_replies(config, &targets, network, sysctl),
    );
}

fn listeners(config: &Config) -> impl Iterator<Item = (String, &ListenerConfig)> {
    config.services.iter().flat_map(|service| {
        let title = |listener: &ListenerConfig| format!("{}/{}", service.name, listener.name);
        service
            .listeners
            .iter()
            .map(move |listener| (title(listener), listener))
    })
}

fn local_v4_vips(config: &Config, network: &mut Network, report: &mut Report) -> BTreeSet<IpAddr> {
    let vips: BTreeSet<IpAddr> = listeners(config)
        .map(|(_, listener)| listener.vip)
        .filter(IpAddr::is_ipv4)
        .collect();
    if vips.len() > MAX_LOOKED_UP {
        report.skip(
            "vip_limit",
            format!("looked up {MAX_LOOKED_UP} of {} IPv4 VIPs", vips.len()),
        );
    }
    let is_local = |vip: &IpAddr| network.route_to(*vip) == Route::Local;
    vips.into_iter()
        .take(MAX_LOOKED_UP)
        .filter(is_local)
        .collect()
}

/// Every address once, with its route, in the order of the file.
fn look_up(
    config: &Config,
    local_vips: &BTreeSet<IpAddr>,
    network: &mut Network,
    report: &mut Report,
) -> Vec<Target> {
    let mut targets: Vec<Target> = Vec::new();
    let mut positions = BTreeMap::new();
    for (user, listener) in listeners(config) {
        let is_behind_local_v4_vip = local_vips.contains(&listener.vip);
        for backend in listener.blue.iter().chain(&listener.green) {
            let next = positions.len();
            let position = *positions.entry(backend.address).or_insert(next);
            if let Some(target) = targets.get_mut(position) {
                target.is_behind_local_v4_vip |= is_behind_local_v4_vip;
            } else if position < MAX_LOOKED_UP {
                targets.push(Target {
                    address: backend.address,
                    user: user.clone(),
                    is_behind_local_v4_vip,
                    route: network.route_to(backend.address),
                });
            }
        }
    }
    report.settle("backend_limit", too_many(positions.len()));
    targets
}

fn too_many(addresses: usize) -> Vec<Problem> {
    if addresses <= MAX_LOOKED_UP {
        return Vec::new();
    }
    let what = format!(
        "checked {MAX_LOOKED_UP} of {addresses} backend addresses; the others may have no route, or one that leads elsewhere"
    );
    vec![Problem::warning(
        what,
        "ip route get <address>  # for each of the others that is in doubt",
    )]
}

fn local(targets: &[Target]) -> Vec<Problem> {
    let local: Vec<_> = targets
        .iter()
        .filter(|target| target.route == Route::Local)
        .map(Target::title)
        .collect();
    if local.is_empty() {
        return Vec::new();
    }
    let what = format!(
        "addresses of this node are named as backends: {}; that is not supported yet, since packets to them never leave by an interface",
        list(&local)
    );
    vec![Problem::fatal(
        what,
        "name the addresses of servers on other nodes as backends",
    )]
}

fn unreachable(targets: &[Target]) -> Vec<Problem> {
    let mut by_reason: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for target in targets {
        if let Route::Nowhere(reason) = &target.route {
            by_reason.entry(reason).or_default().push(target.title());
        }
    }
    let problem = |(reason, titles): (&str, Vec<String>)| {
        let what = format!(
            "no route to backend {}: {reason}; packets to them are dropped",
            list(&titles)
        );
        Problem::warning(what, "ip route add <address> via <router> dev <interface>")
    };
    by_reason.into_iter().map(problem).collect()
}

fn strange_devices(config: &Config, targets: &[Target], network: &Network) -> Vec<Problem> {
    let mut by_device: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for target in targets {
        let Some(device) = device_of(target, network) else {
            continue;
        };
        if !config.agent.interfaces.contains(&device) {
            by_device.entry(device).or_default().push(target.title());
        }
    }
    let problem = |(device, titles): (String, Vec<String>)| {
        let what = format!(
            "the route to backend {} leads over interface {device}, which is not in [agent] interfaces; replies would come back there untranslated, and clients would reject them",
            list(&titles)
        );
        let mend = format!(
            "add {device:?} to interfaces in [agent], or route these backends over one of {}",
            list(&config.agent.interfaces)
        );
        Problem::warning(what, mend)
    };
    by_device.into_iter().map(problem).collect()
}

fn device_of(target: &Target, network: &Network) -> Option<String> {
    match target.route {
        Route::Out { link, .. } => network.link(link).map(|link| link.name.clone()),
        _ => None,
    }
}

fn check_neighbours(targets: &[Target], network: &mut Network, report: &mut Report) {
    match network.silent_neighbours() {
        Ok(silent) => report.settle(
            "backend_neighbour",
            silent_next_hops(targets, &silent, network),
        ),
        Err(error) => report.skip(
            "backend_neighbour",
            format!("asking for the neighbours: {error}"),
        ),
    }
}

/// A neighbour that is not known yet is normal; one that was asked and did not answer is not.
fn silent_next_hops(
    targets: &[Target],
    silent: &BTreeMap<(u32, IpAddr), &'static str>,
    network: &Network,
) -> Vec<Problem> {
    let mut by_next_hop: BTreeMap<(u32, IpAddr), Vec<String>> = BTreeMap::new();
    for target in targets {
        if let Route::Out { link, next_hop } = target.route {
            by_next_hop
                .entry((link, next_hop))
                .or_default()
                .push(target.title());
        }
    }
    let problem = |((link, next_hop), titles): ((u32, IpAddr), Vec<String>)| {
        let state = silent.get(&(link, next_hop))?;
        let device = network.link(link).map_or("?", |link| &link.name);
        let what = format!(
            "neighbour {next_hop} on interface {device} is {state}: it does not answer; until it does, packets to backend {} go through the stack, which drops them",
            list(&titles)
        );
        let mend = format!(
            "ip neigh show {next_hop} dev {}  # then check that the server is up and on that link",
            shell_word(device)
        );
        Some(Problem::warning(what, mend))
    };
    by_next_hop.into_iter().filter_map(problem).collect()
}

/// The stack takes packets from its own addresses for forged unless `accept_local` is set.
fn rejected_replies(
    config: &Config,
    targets: &[Target],
    network: &Network,
    sysctl: &Sysctl,
) -> Vec<Problem> {
    if sysctl.number("net/ipv4/conf/all/accept_local") == Some(1) {
        return Vec::new();
    }
    let behind = targets
        .iter()
        .filter(|target| target.is_behind_local_v4_vip);
    let devices: BTreeSet<String> = behind
        .filter_map(|target| device_of(target, network))
        .collect();
    let rejects =
        |device: &String| sysctl.number(&of_interface("ipv4", device, "accept_local")) == Some(0);
    let devices: Vec<String> = devices
        .into_iter()
        .filter(|device| config.agent.interfaces.contains(device))
        .filter(rejects)
        .collect();
    if devices.is_empty() {
        return Vec::new();
    }
    let what = format!(
        "accept_local is 0 at {}, where replies from backends of a VIP of this node come in: a rewritten reply that is passed to the stack is dropped as martian, the client's neighbour entry is never resolved, and clients hang",
        list(&devices)
    );
    vec![Problem::warning(
        what,
        set_all(&devices, "ipv4", "accept_local", 1),
    )]
}

/// That clients and backends are behind the same interface is certain only where there is one.
fn misled_backends(
    config: &Config,
    targets: &[Target],
    network: &Network,
    sysctl: &Sysctl,
) -> Vec<Problem> {
    let [name] = &config.agent.interfaces[..] else {
        return Vec::new();
    };
    let is_behind =
        |it: &Target| it.address.is_ipv4() && device_of(it, network).as_ref() == Some(name);
    // The kernel sends them if one of the two is set.
    let keys = ["all", name].map(|name| of_interface("ipv4", name, "send_redirects"));
    let are_sent = keys.iter().any(|key| sysctl.number(key) == Some(1));
    if !are_sent || !targets.iter().any(is_behind) {
        return Vec::new();
    }
    let what = format!(
        "send_redirects is on at {name}, the only interface: when a client and a backend talk directly, the node shows them the way that leaves it out, and what the backend answers to this client's connections to a VIP goes that way too, untranslated, for minutes"
    );
    vec![Problem::warning(what, set_command(&keys, 0))]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_addresses_than_are_looked_up_are_owned_up_to() {
        assert!(too_many(MAX_LOOKED_UP).is_empty());
        let mut report = Report::default();
        report.settle("backend_limit", too_many(1_000));
        assert!(
            report.findings[0]
                .what
                .starts_with("checked 256 of 1000 backend addresses")
        );
        assert!(!report.is_fatal());
    }
}
