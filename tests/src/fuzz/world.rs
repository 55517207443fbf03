//! What the data path is configured with: services that meet every rule, on the lab's addresses.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use anyhow::Result;
use switcher_userspace::config::{Config, Limits};

use super::model::types::{TCP, UDP};

/// Number of VIPs of each family.
pub const VIPS: u8 = 4;
/// Services of every variant.
pub const SERVICES: usize = 4;
/// Variants of the configuration that an episode may go over to.
pub const VARIANTS: usize = 3;
/// The one in which nobody is any more where a listener was removed; in variant 1 its flows still leave.
pub const GONE: usize = 2;

/// A world: the sizes of its tables. All else is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum World {
    /// Room for every flow.
    Roomy,
    /// The established table is full at once.
    Cramped,
}

impl World {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Roomy, Self::Cramped];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Roomy => "roomy",
            Self::Cramped => "cramped",
        }
    }

    /// Flows that the established table of a family has room for.
    #[must_use]
    pub const fn flows(self) -> u32 {
        match self {
            Self::Roomy => 8_192,
            Self::Cramped => 4,
        }
    }
}

/// IP version of an address of the lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ip {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// One listener, to be written into a configuration.
#[derive(Clone, Debug)]
pub struct Listener {
    /// Service, counted from 0.
    pub service: usize,
    /// Where clients connect to.
    pub vip: SocketAddr,
    /// [`TCP`] or [`UDP`].
    pub protocol: u8,
    /// Selects the standby.
    pub preview: bool,
    /// Backends of blue and green, with their weights.
    pub backends: [Vec<(SocketAddr, u16)>; 2],
}

/// Address `last` of network `number`: `10.<number>.0.<last>`, `fd00:<number>::<last>`.
#[must_use]
pub fn at(ip: Ip, number: u8, last: u8) -> IpAddr {
    match ip {
        Ip::V4 => Ipv4Addr::new(10, number, 0, last).into(),
        Ip::V6 => {
            let (number, last) = (u16::from(number), u16::from(last));
            Ipv6Addr::new(0xfd00, number, 0, 0, 0, 0, 0, last).into()
        }
    }
}

/// VIP number `index`, as the lab has it.
#[must_use]
pub fn vip(ip: Ip, index: u8) -> IpAddr {
    match ip {
        Ip::V4 => Ipv4Addr::new(192, 0, 2, index + 1).into(),
        Ip::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(index) + 1).into(),
    }
}

/// Networks of the lab: two clients, blue, green.
pub const CLIENT: u8 = 1;
/// See [`CLIENT`].
pub const CLIENT2: u8 = 2;
/// See [`CLIENT`].
pub const BLUE: u8 = 3;
/// See [`CLIENT`].
pub const GREEN: u8 = 4;
/// Behind the first client.
pub const BEHIND: u8 = 200;
/// Behind the first client, by its link-local address (IPv6).
pub const BEHIND_LINK_LOCAL: u8 = 201;
/// Routes that say no.
pub const BLACKHOLE: u8 = 210;
/// See [`BLACKHOLE`].
pub const UNREACHABLE: u8 = 211;
/// See [`BLACKHOLE`].
pub const PROHIBIT: u8 = 212;
/// Behind a blue backend, with a small MTU.
pub const NARROW: u8 = 220;

/// Port of the listeners with backends there.
pub const NARROW_PORT: u16 = 1004;

/// MTU of the route to [`NARROW`] in bytes.
#[must_use]
pub const fn narrow_mtu(ip: Ip) -> u32 {
    match ip {
        Ip::V4 => 600,
        Ip::V6 => 1_280,
    }
}

/// All listeners of a variant of the configuration.
#[must_use]
pub fn listeners(variant: usize) -> Vec<Listener> {
    let mut all = Vec::new();
    for ip in [Ip::V4, Ip::V6] {
        for protocol in [TCP, UDP] {
            all.extend(of_kind(ip, protocol, variant));
        }
    }
    all
}

fn of_kind(ip: Ip, protocol: u8, variant: usize) -> Vec<Listener> {
    let to = |number, last, port| SocketAddr::new(at(ip, number, last), port);
    let listener = |service, vip_index, port, backends| Listener {
        service,
        vip: SocketAddr::new(vip(ip, vip_index), port),
        protocol,
        preview: false,
        backends,
    };
    let weight = if variant == 0 { 3 } else { 1 };
    let mut web = [
        vec![(to(BLUE, 11, 8080), 1), (to(BLUE, 12, 8080), weight)],
        vec![(to(GREEN, 11, 8080), 1), (to(GREEN, 12, 8080), 1)],
    ];
    if variant != 0 {
        // A removed backend, whose flows run on.
        web[0].pop();
    }
    let own = [
        vec![(to(BLUE, 11, 9443), 1)],
        vec![
            (to(GREEN, 11, 9443), 1),
            (to(GREEN, 12, 9443), 1),
            (to(BLUE, 12, 9443), 1),
        ],
    ];
    let odd = |service, port, blue: &[SocketAddr], green: &[SocketAddr]| {
        let weighted = |list: &[SocketAddr]| list.iter().map(|it| (*it, 1)).collect();
        listener(service, 3, port, [weighted(blue), weighted(green)])
    };
    let mut all = vec![
        listener(0, 0, 80, web.clone()),
        // Another VIP over the same endpoints.
        listener(1, 1, 80, web),
        listener(2, 2, 443, own.clone()),
        Listener {
            preview: true,
            ..listener(2, 2, 444, own)
        },
        odd(3, 1001, &[to(BLUE, 99, 7000)], &[to(BLUE, 1, 7000)]),
        odd(
            3,
            1002,
            &[to(BLACKHOLE, 5, 7000)],
            &[to(PROHIBIT, 5, 7000), to(UNREACHABLE, 5, 7000)],
        ),
        odd(
            3,
            1003,
            &[to(CLIENT, 2, 7000)],
            &[to(CLIENT, 2, 7000), to(BLUE, 11, 7000)],
        ),
        odd(3, NARROW_PORT, &[to(NARROW, 5, 7000)], &[]),
    ];
    if variant != 0 {
        // A removed listener, whose flows run on too.
        all.retain(|it| it.vip.port() != 443);
    }
    all
}

/// The configuration as the agent reads it.
pub fn config(world: World, variant: usize, pin_dir: &Path) -> Result<Config> {
    let mut text = format!(
        "[agent]\ninterfaces = [\"c1\"]\npin_dir = \"{}\"\n",
        pin_dir.display()
    );
    let all = listeners(variant);
    for service in 0..SERVICES {
        write!(
            text,
            "[[service]]\nname = \"service{service}\"\n\
             [service.idle]\nunanswered = \"1s\"\nestablished = \"5s\"\nclosing = \"1s\"\nudp = \"2s\"\n"
        )?;
        let ours = all.iter().filter(|it| it.service == service);
        for (number, listener) in (1..).zip(ours) {
            write_listener(&mut text, number, listener)?;
        }
    }
    let mut config = Config::parse(Path::new("made by the fuzzer"), &text)?;
    config.agent.interfaces = super::step::INTERFACES.map(str::to_owned).to_vec();
    config.agent.limits = Limits {
        flows: world.flows(),
        unanswered: 32_768,
        services: 8,
        listeners: 128,
        backends: 256,
        maglev_slots: 262_144,
        ..Limits::default()
    };
    Ok(config)
}

fn write_listener(text: &mut String, number: usize, listener: &Listener) -> Result<()> {
    let protocol = if listener.protocol == TCP {
        "tcp"
    } else {
        "udp"
    };
    write!(
        text,
        "[[service.listener]]\nname = \"listener{number}\"\nvip = \"{}\"\nport = {}\n\
         protocol = \"{protocol}\"\npreview = {}\n",
        listener.vip.ip(),
        listener.vip.port(),
        listener.preview
    )?;
    for (color, backends) in ["blue", "green"].into_iter().zip(&listener.backends) {
        write!(text, "{color} = [")?;
        for (endpoint, weight) in backends {
            let (address, port) = (endpoint.ip(), endpoint.port());
            write!(
                text,
                "{{ address = \"{address}\", port = {port}, weight = {weight} }},"
            )?;
        }
        writeln!(text, "]")?;
    }
    Ok(())
}
